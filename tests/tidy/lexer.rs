//! Rust source to tokens and comments, each with its line. It knows just enough of the language
//! that a word in a string, a character or a comment is never taken for code.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A keyword or name; a raw one keeps its `r#`, so that it never equals a keyword.
    Word,
    /// A string literal of any kind.
    Text,
    /// `::`, or one character of punctuation.
    Mark,
    /// A lifetime, a number or a character.
    Other,
}

/// One token.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    pub(crate) line: usize,
    pub(crate) last_line: usize,
}

impl Token {
    /// Whether this is the code `text`, and not a string that happens to read so.
    pub(crate) fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Word | Kind::Mark) && self.text == text
    }
}

/// A run of comments with no code between them and no line left out.
#[derive(Debug, Clone)]
pub(crate) struct Comment {
    pub(crate) text: String,
    pub(crate) line: usize,
    pub(crate) last_line: usize,
    /// How many tokens stand before it.
    pub(crate) at: usize,
}

/// The tokens and the comments of `text`.
pub(crate) fn lex(text: &str) -> (Vec<Token>, Vec<Comment>) {
    let mut lexer = Lexer { chars: text.chars().collect(), at: 0, line: 1, tokens: Vec::new(), comments: Vec::new() };
    while let Some(c) = lexer.peek(0) {
        lexer.step(c);
    }
    (lexer.tokens, lexer.comments)
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
    tokens: Vec<Token>,
    comments: Vec<Comment>,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn bump(&mut self) {
        if self.peek(0) == Some('\n') {
            self.line += 1;
        }
        self.at += 1;
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.bump();
        }
    }

    fn skip_while(&mut self, keep: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(&keep) {
            self.bump();
        }
    }

    fn since(&self, start: usize) -> String {
        self.chars.iter().take(self.at).skip(start).collect()
    }

    fn push(&mut self, kind: Kind, start: usize, line: usize) {
        let text = self.since(start);
        self.tokens.push(Token { kind, text, line, last_line: self.line });
    }

    fn step(&mut self, c: char) {
        let (start, line) = (self.at, self.line);
        match c {
            c if c.is_whitespace() => self.bump(),
            '/' if self.peek(1) == Some('/') => {
                self.skip_while(|c| c != '\n');
                self.comment(start, line);
            }
            '/' if self.peek(1) == Some('*') => {
                self.block_comment();
                self.comment(start, line);
            }
            '"' => {
                self.string();
                self.push(Kind::Text, start, line);
            }
            '\'' => self.quote(),
            c if c.is_ascii_digit() => {
                self.skip_while(is_name);
                if self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()) {
                    self.bump();
                    self.skip_while(is_name);
                }
                self.push(Kind::Other, start, line);
            }
            c if is_name(c) => self.word(),
            ':' if self.peek(1) == Some(':') => {
                self.skip(2);
                self.push(Kind::Mark, start, line);
            }
            _ => {
                self.bump();
                self.push(Kind::Mark, start, line);
            }
        }
    }

    fn comment(&mut self, start: usize, line: usize) {
        let (text, last_line, at) = (self.since(start), self.line, self.tokens.len());
        if let Some(block) = self.comments.last_mut()
            && block.at == at
            && block.last_line + 1 == line
        {
            block.text.push('\n');
            block.text.push_str(&text);
            block.last_line = last_line;
            return;
        }
        self.comments.push(Comment { text, line, last_line, at });
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        while self.peek(0).is_some() {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.skip(2);
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.skip(2);
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.bump(),
            }
        }
    }

    /// From an opening quote to behind the closing one.
    fn string(&mut self) {
        self.bump();
        while let Some(c) = self.peek(0) {
            self.skip(if c == '\\' { 2 } else { 1 });
            if c == '"' {
                return;
            }
        }
    }

    /// From the hashes behind the `r` to behind the closing ones.
    fn raw_string(&mut self, hashes: usize) {
        self.skip(hashes + 1);
        while self.peek(0).is_some() {
            let closes = self.peek(0) == Some('"') && (1..=hashes).all(|i| self.peek(i) == Some('#'));
            self.skip(if closes { hashes + 1 } else { 1 });
            if closes {
                return;
            }
        }
    }

    /// A character, or a lifetime or label.
    fn quote(&mut self) {
        let (start, line) = (self.at, self.line);
        self.bump();
        if self.peek(0) == Some('\\') {
            self.skip(2);
            self.skip_while(|c| c != '\'');
            self.bump();
        } else if self.peek(1) == Some('\'') {
            self.skip(2);
        } else {
            self.skip_while(is_name);
        }
        self.push(Kind::Other, start, line);
    }

    fn word(&mut self) {
        let (start, line) = (self.at, self.line);
        self.skip_while(is_name);
        let word = self.since(start);
        let hashes = self.chars.iter().skip(self.at).take_while(|c| **c == '#').count();
        match (word.as_str(), self.peek(0), self.peek(hashes)) {
            ("b" | "c", Some('"'), _) => self.string(),
            ("r" | "br" | "cr", _, Some('"')) => self.raw_string(hashes),
            ("b", Some('\''), _) => return self.quote(),
            ("r", Some('#'), _) => {
                self.bump();
                self.skip_while(is_name);
                return self.push(Kind::Word, start, line);
            }
            _ => return self.push(Kind::Word, start, line),
        }
        self.push(Kind::Text, start, line);
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
