//! What programs write, as lines for people: without colours, without secrets, and not too long.

use crate::model::{HIDDEN, Secret};
use crate::wire::printable;

/// The longest line that is kept, in bytes; the rest of it is left out.
pub(super) const LINE_MAX: usize = 1 << 10;
/// The shortest secret that is looked for: of a shorter one there is something in every line.
const SECRET_MIN: usize = 3;
/// What a line ends with that was cut: the mark for that, and before it what is left of a character that was cut in two.
const CUT: [char; 2] = ['…', char::REPLACEMENT_CHARACTER];

/// Where in an escape sequence of a terminal the bytes are.
#[derive(Debug, Clone, Copy, Default)]
enum Escape {
    #[default]
    None,
    /// After `ESC`.
    Begun,
    /// In one that ends with a letter, such as a colour.
    Control,
    /// In one that ends with `BEL` or `ESC \`, such as a title.
    Text,
}

/// Takes bytes as they come and gives lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    is_cut: bool,
    escape: Escape,
}

impl Lines {
    /// Takes `bytes`, and gives each line that ends in them. Empty ones are left out.
    pub(super) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(String)) {
        for &byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                self.escape = Escape::None;
                self.end(&mut each);
            } else if self.is_text(byte) {
                if self.line.len() < LINE_MAX {
                    self.line.push(byte);
                } else {
                    self.is_cut = true;
                }
            }
        }
    }

    /// Gives the line that was begun.
    pub(super) fn end(&mut self, mut each: impl FnMut(String)) {
        let text = printable(self.line.trim_ascii(), LINE_MAX);
        if !text.is_empty() {
            each(if self.is_cut { text + "…" } else { text });
        }
        self.line.clear();
        self.is_cut = false;
    }

    /// Whether `byte` is for people to read, and no part of a sequence for a terminal.
    fn is_text(&mut self, byte: u8) -> bool {
        let (is_text, escape) = match (self.escape, byte) {
            (Escape::None, 0x1b) | (Escape::Text, 0x1b) => (false, Escape::Begun),
            (Escape::None, b'\t') => (true, Escape::None),
            (Escape::None, _) => (!byte.is_ascii_control(), Escape::None),
            (Escape::Begun, b'[') => (false, Escape::Control),
            (Escape::Begun, b']' | b'P' | b'_' | b'^' | b'X') => (false, Escape::Text),
            (Escape::Begun, 0x20..=0x2f) => (false, Escape::Begun),
            (Escape::Begun, _) | (Escape::Control, 0x40..=0x7e) | (Escape::Text, 0x07) => (false, Escape::None),
            (Escape::Control, _) => (false, Escape::Control),
            (Escape::Text, _) => (false, Escape::Text),
        };
        self.escape = escape;
        is_text
    }
}

/// Takes the secrets of a plan out of lines.
#[derive(Debug, Default)]
pub(super) struct Mask(Vec<Box<str>>);

impl Mask {
    /// One that knows these: as they are, and as URLs and JSON have them. Of one with many lines each.
    pub(super) fn of<'a>(secrets: impl Iterator<Item = &'a Secret>) -> Self {
        let lines = secrets.flat_map(|secret| secret.expose().split(['\n', '\r'])).map(str::trim);
        let mut sought: Vec<Box<str>> = Vec::new();
        for text in lines.filter(|text| text.len() >= SECRET_MIN) {
            let json = serde_json::Value::from(text).to_string();
            let json = json.trim_start_matches('"').strip_suffix('"').unwrap_or_default().to_owned();
            let url = escaped(text);
            let forms = [text.to_owned(), json, url.to_lowercase(), url.replace("%20", "+"), url];
            sought.extend(forms.map(String::into_boxed_str));
        }
        // A secret that is part of another must not leave the rest of it.
        sought.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        sought.dedup();
        Self(sought.into_iter().filter(|text| text.len() >= SECRET_MIN).collect())
    }

    /// `line` without them, and without the beginning of one that a line which was cut ends with.
    pub(super) fn apply(&self, line: String) -> String {
        let is_cut = line.len() >= LINE_MAX || line.ends_with(CUT);
        let line = self
            .0
            .iter()
            .fold(line, |line, secret| if line.contains(&**secret) { line.replace(&**secret, HIDDEN) } else { line });
        if is_cut { self.without_a_beginning(line) } else { line }
    }

    fn without_a_beginning(&self, line: String) -> String {
        let text = line.trim_end_matches(CUT);
        let begun = |secret: &str| {
            let lengths = (SECRET_MIN..secret.len().min(text.len() + 1)).rev();
            lengths.into_iter().find(|&length| secret.get(..length).is_some_and(|part| text.ends_with(part)))
        };
        match self.0.iter().filter_map(|secret| begun(secret)).max() {
            Some(length) => {
                let shown = text.get(..text.len() - length).unwrap_or_default();
                format!("{shown}{HIDDEN}{}", line.get(text.len()..).unwrap_or_default())
            }
            None => line,
        }
    }
}

/// `text` as a part of a URL, all but letters, digits and four marks escaped.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::{LINE_MAX, Lines, Mask};
    use crate::model::Secret;
    use proptest::prelude::*;

    fn lines(parts: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut all) = (Lines::default(), Vec::new());
        parts.iter().for_each(|part| lines.feed(part, |line| all.push(line)));
        lines.end(|line| all.push(line));
        all
    }

    #[test]
    fn a_line_ends_with_either_mark_and_colours_are_left_out() {
        assert_eq!(lines(&[b"one\ntw", b"o\r\n\n 10%\r 20%\rrest"]), ["one", "two", "10%", "20%", "rest"]);
        assert_eq!(lines(&[b"\x1b[1;31mred\x1b", b"[0m \x1b]0;title\x07x\x1b(B\x08y\n"]), ["red xy"]);
        assert_eq!(lines(&[b"\x1b]0;never ended\nnext"]), ["next"]);
    }

    #[test]
    fn a_long_line_is_cut() {
        let line = "x".repeat(LINE_MAX + 1);
        let cut = lines(&[line.as_bytes(), b"\nshort"]);
        assert_eq!(cut, [format!("{}…", "x".repeat(LINE_MAX)), "short".to_owned()]);
    }

    #[test]
    fn no_secret_is_left_in_a_line_however_it_is_escaped() {
        let secrets =
            [Secret::new("p\"ss w/rd"), Secret::new("p\"ss"), Secret::new("-- KEY\nabcdef\n"), Secret::new("a")];
        let mask = Mask::of(secrets.iter());
        for (line, masked) in [
            ("a p\"ss w/rd b", "a [not shown] b"),
            (r#"{"x":"p\"ss w/rd"}"#, r#"{"x":"[not shown]"}"#),
            ("?k=p%22ss%20w%2Frd", "?k=[not shown]"),
            ("?k=p%22ss%20w%2frd", "?k=[not shown]"),
            ("?k=p%22ss+w%2Frd", "?k=[not shown]"),
            ("p\"ssport", "[not shown]port"),
            ("got abcdef", "got [not shown]"),
        ] {
            assert_eq!(mask.apply(line.to_owned()), masked);
        }
    }

    #[test]
    fn of_a_secret_that_a_long_line_was_cut_in_nothing_is_left() {
        let secret = "s3cr\u{e9}t/of/many/characters";
        let mask = Mask::of([Secret::new(secret)].iter());
        for kept in 0..=secret.len() + 1 {
            let line = format!("{}{secret} and more", "x".repeat(LINE_MAX - kept));
            for given in lines(&[line.as_bytes(), b"\n"]) {
                let shown = mask.apply(given);
                assert!(!shown.contains("s3c"), "{kept} bytes of it were kept: {shown}");
                assert!(shown.ends_with('…'));
            }
            // As it comes from programs that are one for each connection: without a mark.
            let cut = String::from_utf8_lossy(&line.as_bytes()[..LINE_MAX]).into_owned();
            assert!(!mask.apply(cut).contains("s3c"), "{kept} bytes of it were kept");
        }
        assert_eq!(mask.apply("the s3cr".to_owned()), "the s3cr", "a short line is whole");
    }

    proptest! {
        #[test]
        fn any_bytes_give_the_same_lines_however_they_are_split(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            at in 0..300_usize,
        ) {
            let (first, second) = bytes.split_at(at.min(bytes.len()));
            let whole = lines(&[&bytes]);
            prop_assert_eq!(&lines(&[first, second]), &whole);
            prop_assert!(whole.iter().all(|line| !line.chars().any(char::is_control)));
        }
    }
}
