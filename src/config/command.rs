//! The command line of a check: a list of texts with places to fill in, `{host}` and the like.

use toml::de::DeValue;

use crate::model::{Address, Argument, Secret};

use super::key::Key;
use super::keys;
use super::read::Reader;
use super::value::{Given, Value};
use super::view::View;
use super::wording::{nearest, quote};

/// The most words of a command line, the program included.
pub(super) const WORDS_MAX: usize = 64;
/// The longest of them, in bytes.
pub(super) const WORD_MAX: usize = 4096;
/// What can be filled in, as it is written.
const HOLES: &[&str] = &["host", "port", "address", "pool", "backend"];

/// What is filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hole {
    Host,
    Port,
    Address,
    Pool,
    Backend,
}

/// A part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Hole(Hole),
}

/// One word of a command line, with places to fill in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Template {
    pieces: Vec<Piece>,
    /// Whether it was looked up elsewhere, and so may be a secret.
    is_hidden: bool,
}

/// For whom a command line is filled in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    /// The pool.
    pub(super) pool: &'a str,
    /// The backend.
    pub(super) backend: &'a str,
    /// Its address.
    pub(super) address: &'a Address,
}

impl Subject<'_> {
    fn value(&self, hole: Hole) -> String {
        match hole {
            Hole::Host => self.address.command_host(),
            Hole::Port => self.address.port().map(|port| port.to_string()).unwrap_or_default(),
            Hole::Address => self.address.to_string(),
            Hole::Pool => self.pool.to_owned(),
            Hole::Backend => self.backend.to_owned(),
        }
    }
}

impl Template {
    /// Whether the port is filled in here, which not every address has.
    pub(super) fn wants_port(&self) -> bool {
        self.pieces.contains(&Piece::Hole(Hole::Port))
    }

    /// Whether where the backend is is filled in here.
    pub(super) fn wants_address(&self) -> bool {
        let of_address = |piece: &Piece| matches!(piece, Piece::Hole(Hole::Host | Hole::Port | Hole::Address));
        self.pieces.iter().any(of_address)
    }

    /// The word for `subject`.
    pub(super) fn fill(&self, subject: &Subject<'_>) -> Argument {
        let text: String = self
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Hole(hole) => subject.value(*hole),
            })
            .collect();
        if self.is_hidden { Argument::Hidden(Secret::new(&text)) } else { Argument::Shown(text) }
    }

    /// Whether it is the path of a program, wherever one stands.
    fn is_absolute(&self) -> bool {
        matches!(self.pieces.first(), Some(Piece::Text(text)) if text.starts_with('/'))
    }
}

impl Value for Template {
    fn blank() -> Self {
        Self::default()
    }

    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
        let text = given.text(key)?;
        if text.len() > WORD_MAX {
            return Err(given.but(key, &format!("is too long; {WORD_MAX} bytes is the most")));
        }
        if text.contains('\0') {
            return Err(given.but(key, "has a NUL in it, which no argument can have"));
        }
        let pieces = pieces(text).map_err(|wrong| given.but(key, &wrong.message(given.origin.is_some())))?;
        Ok(Self { pieces, is_hidden: given.origin.is_some() })
    }
}

/// What is wrong with a word.
enum Wrong<'a> {
    /// A brace without its other half.
    Brace(char),
    /// A name that nothing is filled in for.
    Unknown(&'a str),
}

impl Wrong<'_> {
    /// In words; what came from elsewhere is not repeated.
    fn message(&self, is_hidden: bool) -> String {
        match self {
            Self::Brace(brace) => format!("has a single `{brace}`; write {brace}{brace} for the character itself"),
            Self::Unknown(name) => {
                let named = if is_hidden { "a name in braces".to_owned() } else { quote(&format!("{{{name}}}")) };
                match nearest(name, HOLES.iter().copied()) {
                    Some(guess) => format!("has {named}, which is unknown; did you mean {{{guess}}}?"),
                    None => {
                        let known: Vec<String> = HOLES.iter().map(|hole| format!("{{{hole}}}")).collect();
                        let known = known.join(", ");
                        format!("has {named}, which is unknown; known are {known}; write {{{{ for the brace itself")
                    }
                }
            }
        }
    }
}

/// The parts of `text`.
fn pieces(text: &str) -> Result<Vec<Piece>, Wrong<'_>> {
    let piece = |bit| match bit {
        Bit::Text(text) => Ok(Piece::Text(text)),
        Bit::Hole("host") => Ok(Piece::Hole(Hole::Host)),
        Bit::Hole("port") => Ok(Piece::Hole(Hole::Port)),
        Bit::Hole("address") => Ok(Piece::Hole(Hole::Address)),
        Bit::Hole("pool") => Ok(Piece::Hole(Hole::Pool)),
        Bit::Hole("backend") => Ok(Piece::Hole(Hole::Backend)),
        Bit::Hole(name) => Err(Wrong::Unknown(name)),
    };
    bits(text).map_err(Wrong::Brace)?.into_iter().map(piece).collect()
}

/// A part of a text in which braces are places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bit<'a> {
    /// Text, in which doubled braces are single ones.
    Text(String),
    /// What stands between braces.
    Hole(&'a str),
}

/// The parts of `text`; or a brace without its other half.
pub(super) fn bits(text: &str) -> Result<Vec<Bit<'_>>, char> {
    let mut bits = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        plain.push_str(before);
        if let Some(after) = from.strip_prefix("{{") {
            plain.push('{');
            rest = after;
        } else if let Some(after) = from.strip_prefix("}}") {
            plain.push('}');
            rest = after;
        } else if let Some(after) = from.strip_prefix('{') {
            let (name, after) = after.split_once('}').ok_or('{')?;
            if !plain.is_empty() {
                bits.push(Bit::Text(std::mem::take(&mut plain)));
            }
            bits.push(Bit::Hole(name));
            rest = after;
        } else {
            return Err('}');
        }
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        bits.push(Bit::Text(plain));
    }
    Ok(bits)
}

/// The command line that `view` gives; empty if there is something wrong with it, which is then said.
pub(super) fn line(reader: &mut Reader<'_>, view: &View<'_>) -> Option<Vec<Template>> {
    let key = &keys::COMMAND;
    let node = view.node(key)?;
    let DeValue::Array(list) = node.get_ref() else {
        // A program alone is no list either: where its arguments begin would be a guess.
        if let Some(given) = reader.scalar(node, key) {
            reader.faults.wrong(node.span(), given.mismatch(key));
        }
        return Some(Vec::new());
    };
    if list.is_empty() || list.len() > WORDS_MAX {
        let example = key.literal();
        let message = format!("`command` has {} words; write from 1 to {WORDS_MAX}, such as {example}", list.len());
        reader.faults.wrong(node.span(), message);
        return Some(Vec::new());
    }
    let words: Vec<Template> = list.iter().filter_map(|item| reader.convert(item, key)).collect();
    if words.len() < list.len() {
        return Some(Vec::new());
    }
    if let (Some(program), Some(item)) = (words.first(), list.iter().next())
        && !program.is_absolute()
    {
        let named = match item.get_ref().as_str() {
            Some(text) => quote(text),
            None => "the first word (not shown)".to_owned(),
        };
        let message =
            format!("`command`: {named} is no absolute path; the program is not searched for, write where it is");
        reader.faults.wrong(item.span(), message);
        return Some(Vec::new());
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::{Argument, Subject, Template, Value, pieces};
    use crate::config::keys;
    use crate::config::value::{Given, Raw};
    use proptest::prelude::*;
    use std::borrow::Cow;

    fn filled(text: &str, address: &str) -> String {
        let template = Template::read(&Given::literal(text), &keys::COMMAND).unwrap();
        let address = address.parse().unwrap();
        template.fill(&Subject { pool: "orders", backend: "pg1", address: &address }).expose().to_owned()
    }

    #[test]
    fn what_is_filled_in_is_that_of_the_backend() {
        for (text, address, wanted) in [
            ("{host} {port}", "10.0.0.1:5432", "10.0.0.1 5432"),
            ("{host}:{port}", "db-1.internal:5432", "db-1.internal:5432"),
            ("{host}/{port}", "[2001:db8::1]:5432", "2001:db8::1/5432"),
            ("-h{host}", "unix:/run/pg", "-h/run/pg"),
            ("{address}", "unix:/run/pg", "unix:/run/pg"),
            ("{address}", "[::1]:1", "[::1]:1"),
            ("{pool}/{backend}", "a:1", "orders/pg1"),
            ("{{host}} }}{{ {{{host}}}", "a:1", "{host} }{ {a}"),
            ("", "a:1", ""),
            ("$(reboot) `x`; 'é'", "a:1", "$(reboot) `x`; 'é'"),
        ] {
            assert_eq!(filled(text, address), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_place_to_fill_in_is_told() {
        let error = |text: &str| Template::read(&Given::literal(text), &keys::COMMAND).unwrap_err();
        assert!(
            error("{hots}").ends_with("has `{hots}`, which is unknown; did you mean {host}?"),
            "{}",
            error("{hots}")
        );
        assert!(error("{user}").contains("known are {host}, {port}, {address}, {pool}, {backend}; write {{ for"));
        assert!(error("{}").contains("has `{}`, which is unknown"));
        assert!(error("a{").contains("has a single `{`; write {{"));
        assert!(error("a}b").contains("has a single `}`; write }}"));
        assert!(error("{host").contains("has a single `{`"));
        assert!(error(&"x".repeat(4097)).contains("4096 bytes is the most"));
        assert!(error("a\0b").contains("NUL"));
    }

    #[test]
    fn a_word_from_elsewhere_is_not_shown() {
        let from = |text| Given { raw: Raw::Text(Cow::Borrowed(text)), origin: Some("the file `/f`".to_owned()) };
        let error = Template::read(&from("{hunter2}"), &keys::COMMAND).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
        let template = Template::read(&from("hunter2{port}"), &keys::COMMAND).unwrap();
        let address = "a:1".parse().unwrap();
        let word = template.fill(&Subject { pool: "p", backend: "b", address: &address });
        assert_eq!(word.expose(), "hunter21");
        assert!(matches!(word, Argument::Hidden(_)) && !format!("{word:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn any_text_with_its_braces_doubled_is_itself(text in "[a-z{}é ]{0,20}") {
            let doubled = text.replace('{', "{{").replace('}', "}}");
            prop_assert_eq!(filled(&doubled, "a:1"), text);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[a-z{}]{0,20}|(\\{(host|port|é)\\}|\\{|\\}){0,6}") {
            drop(pieces(&text).map_err(|wrong| wrong.message(false)));
        }
    }
}
