//! What programs write, as lines for people: without what is meant for a terminal, such as colours, and not too long.

use super::printable;

/// The longest line that is kept, in bytes; the rest of it is left out.
pub const LINE_MAX: usize = 1 << 10;
/// What a line ends with that was cut.
pub const LINE_CUT: char = '…';

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
pub struct Lines {
    line: Vec<u8>,
    is_cut: bool,
    /// Whether the beginning of the line is not known.
    is_lost: bool,
    escape: Escape,
}

impl Lines {
    /// Takes `bytes`, and gives each line that ends in them. Empty ones are left out.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(String)) {
        for &byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                self.end(&mut each);
            } else if !self.is_lost && self.is_text(byte) {
                if self.line.len() < LINE_MAX {
                    self.line.push(byte);
                } else {
                    self.is_cut = true;
                }
            }
        }
    }

    /// Gives the line that was begun.
    pub fn end(&mut self, mut each: impl FnMut(String)) {
        let mut text = printable(self.line.trim_ascii(), LINE_MAX);
        if !text.is_empty() {
            text.extend(self.is_cut.then_some(LINE_CUT));
            each(text);
        }
        self.line.clear();
        (self.is_cut, self.is_lost, self.escape) = (false, false, Escape::None);
    }

    /// Something is left out here. Gives the line that was begun, as one that was cut; of the line that goes on after it nobody
    /// can tell what it is the rest of, and nothing of that is given.
    pub fn skip(&mut self, each: impl FnMut(String)) {
        self.is_cut = true;
        self.end(each);
        self.is_lost = true;
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

#[cfg(test)]
mod tests {
    use super::{LINE_MAX, Lines};
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
    fn where_something_is_left_out_nothing_is_joined() {
        let (mut lines, mut all) = (Lines::default(), Vec::new());
        lines.feed(b"one\ntwo\x1b]0;title", |line| all.push(line));
        lines.skip(|line| all.push(line));
        lines.feed(b"7mrest of", |line| all.push(line));
        lines.feed(b" another\nthree\n", |line| all.push(line));
        lines.skip(|line| all.push(line));
        lines.feed(b"rest", |line| all.push(line));
        lines.end(|line| all.push(line));
        lines.feed(b"four", |line| all.push(line));
        lines.end(|line| all.push(line));
        assert_eq!(all, ["one", "two…", "three", "four"]);
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
