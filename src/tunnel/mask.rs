//! The secrets of a plan are in no line that is shown.

use crate::model::{HIDDEN, Secret};
use crate::wire::LINE_CUT;

/// The shortest secret that is looked for: of a shorter one there is something in every line.
const SECRET_MIN: usize = 3;

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
        let is_cut = line.ends_with(LINE_CUT);
        let line = self
            .0
            .iter()
            .fold(line, |line, secret| if line.contains(&**secret) { line.replace(&**secret, HIDDEN) } else { line });
        if is_cut { self.without_a_beginning(line) } else { line }
    }

    fn without_a_beginning(&self, line: String) -> String {
        // Before the mark there may be what is left of a character that was cut in two.
        let text = line.trim_end_matches([LINE_CUT, char::REPLACEMENT_CHARACTER]);
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
    use super::Mask;
    use crate::model::Secret;
    use crate::wire::{LINE_MAX, Lines};

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
            let mut shown = Vec::new();
            Lines::default().feed(format!("{line}\n").as_bytes(), |line| shown.push(mask.apply(line)));
            assert_eq!(shown.len(), 1);
            assert!(!shown[0].contains("s3c"), "{kept} bytes of it were kept: {}", shown[0]);
            assert!(shown[0].ends_with('…'));
        }
        assert_eq!(mask.apply("the s3cr".to_owned()), "the s3cr", "a short line is whole");
    }

    #[test]
    fn of_a_secret_that_something_was_left_out_in_nothing_is_left() {
        let secret = "s3cret/of/many/characters";
        let mask = Mask::of([Secret::new(secret)].iter());
        for (begun, skipped) in (0..=secret.len()).flat_map(|begun| (begun..=secret.len()).map(move |end| (begun, end)))
        {
            let (mut lines, mut shown) = (Lines::default(), Vec::new());
            lines.feed(&secret.as_bytes()[..begun], |line| shown.push(mask.apply(line)));
            lines.skip(|line| shown.push(mask.apply(line)));
            lines.feed(format!("{}\nnext\n", &secret[skipped..]).as_bytes(), |line| shown.push(mask.apply(line)));
            let told = shown.join(" ");
            assert!(
                ["s3c", "ret", "of", "many", "ers"].iter().all(|part| !told.contains(part)),
                "{begun} {skipped}: {told}"
            );
            assert_eq!(shown.last().map(String::as_str), Some("next"));
        }
    }
}
