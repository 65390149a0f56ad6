//! What a program says, line by line.

/// The most of a line that is kept, in bytes.
const LINE_MAX: usize = 1024;

/// The beginning of a line whose end has not come.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
}

impl Lines {
    /// Takes `bytes`, and tells `said` of each line that has its end now.
    pub(super) fn take(&mut self, bytes: &[u8], said: &dyn Fn(&str)) {
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let (text, ends) = match piece.split_last() {
                Some((b'\n' | b'\r', text)) => (text, true),
                Some(_) | None => (piece, false),
            };
            let room = LINE_MAX.saturating_sub(self.line.len()).min(text.len());
            self.line.extend_from_slice(text.get(..room).unwrap_or_default());
            if ends {
                self.end(said);
            }
        }
    }

    /// Nothing more will come. An empty line is none.
    pub(super) fn end(&mut self, said: &dyn Fn(&str)) {
        if !self.line.is_empty() {
            said(&String::from_utf8_lossy(&self.line));
            self.line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE_MAX, Lines};
    use std::cell::RefCell;

    #[test]
    fn lines_are_the_same_however_they_come_and_long_ones_are_cut() {
        let text = [b"one\r\n\ntwo\xff\n".as_slice(), &[b'x'; 3 * LINE_MAX], b"\nlast"].concat();
        for piece in [1, 7, text.len()] {
            let (told, mut lines) = (RefCell::new(Vec::new()), Lines::default());
            let said = |line: &str| told.borrow_mut().push(line.to_owned());
            text.chunks(piece).for_each(|piece| lines.take(piece, &said));
            lines.end(&said);
            lines.end(&said);
            assert_eq!(told.take(), ["one", "two\u{fffd}", &"x".repeat(LINE_MAX), "last"]);
        }
    }
}
