//! The body of a request that changes something: a JSON object of bounded size and depth whose every field is known.
//! What is wrong with it is collected, so that the caller is told all of it at once.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use serde_json::{Map, Value};

use crate::model::{FIGURES_MAX, is_unprintable, meant, parse_duration, quote, spoken};

use super::problem::{Fault, Problem, Refused};

/// The longest body that is taken, in bytes.
const BODY_MAX: usize = 64 * 1024;
/// The longest that is read, so that whoever sends a bit too much is told so: of a connection that is closed with bytes unread
/// the other side may see nothing but a reset.
pub(super) const READ_MAX: usize = 1024 * 1024;
/// The longest text that a field takes, in bytes.
const TEXT_MAX: usize = 512;
/// The longest name of a figure, in bytes.
const FIGURE_NAME_MAX: usize = 64;

/// A body as axum has read it, or why it has not.
pub(super) type Body = Result<Bytes, BytesRejection>;

/// The body, if it is not too long.
pub(super) fn bounded(body: Body) -> Result<Bytes, Problem> {
    // Nothing but its length can be wrong with a body whose connection goes on.
    body.ok().filter(|body| body.len() <= BODY_MAX).ok_or(Problem::BodyTooLarge)
}

/// A body is no JSON, as `error` says.
pub(super) fn not_json(error: &serde_json::Error) -> Refused {
    Refused::because(Problem::BadBody, format!("the body is no JSON: {error}"))
}

/// The fields of a body that have not been taken yet, and what was found wrong so far. A field that is null is left out.
#[derive(Debug)]
pub(super) struct Fields {
    left: Map<String, Value>,
    faults: Vec<Fault>,
}

impl Fields {
    /// Reads `body`, whose fields can be those in `known` only. None at all is an object without fields.
    pub(super) fn read(body: Body, known: &[&str]) -> Result<Self, Refused> {
        let body = bounded(body)?;
        let (mut fields, mut faults) = (Map::new(), Vec::new());
        if !body.trim_ascii().is_empty() {
            fields = match serde_json::from_slice(&body) {
                Ok(Value::Object(fields)) => fields,
                Ok(_) => {
                    let detail = "the body is JSON, but no object; write {\"field\": value, …}".to_owned();
                    return Err(Refused::because(Problem::BadBody, detail));
                }
                Err(error) => return Err(not_json(&error)),
            };
        }
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            faults.push(Fault::unknown(name, known));
        }
        fields.retain(|_, value| !value.is_null());
        Ok(Self { left: fields, faults })
    }

    /// Reads a body that must say nothing.
    pub(super) fn none(body: Body) -> Result<(), Refused> {
        Self::read(body, &[])?.finish()
    }

    /// All was taken: whatever was wrong is told.
    pub(super) fn finish(self) -> Result<(), Refused> {
        if self.faults.is_empty() { Ok(()) } else { Err(Refused::of(Problem::InvalidBody, self.faults)) }
    }

    /// Something is wrong with the field `name`.
    pub(super) fn wrong(&mut self, name: &str, message: String) {
        self.faults.push(Fault::new(name, message));
    }

    /// The field `name` is not there and must be.
    pub(super) fn missing(&mut self, name: &str, example: &str) {
        let is_told = self.faults.iter().any(|fault| fault.field == name);
        if !is_told {
            self.wrong(name, format!("`{name}` is missing; write {example}"));
        }
    }

    fn string(&mut self, name: &str, example: &str) -> Option<String> {
        match self.left.remove(name)? {
            Value::String(text) => Some(text),
            other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                let given = quote(&other.to_string());
                self.wrong(name, format!("`{name}`: {given} is no text; write {example}"));
                None
            }
        }
    }

    /// A line of text.
    pub(super) fn text(&mut self, name: &str, example: &str) -> Option<String> {
        let text = self.string(name, example)?;
        if text.len() > TEXT_MAX {
            let length = text.len();
            self.wrong(name, format!("`{name}` has {length} bytes; {TEXT_MAX} is the most"));
        } else if let Some(c) = text.chars().find(|&c| is_unprintable(c)) {
            self.wrong(
                name,
                format!("`{name}` has the character {} in it; write one line of text", c.escape_default()),
            );
        } else if text.trim().is_empty() {
            self.wrong(name, format!("`{name}` is empty; write {example}"));
        } else {
            return Some(text);
        }
        None
    }

    /// A duration with its unit.
    pub(super) fn duration(&mut self, name: &str, min: Duration, max: Duration) -> Option<Duration> {
        let text = self.string(name, &format!("\"{name}\": \"30s\""))?;
        let right = format!("from {} to {} is right", spoken(min), spoken(max));
        let wrong = match parse_duration(&text) {
            Ok(time) if time < min => format!("is too short; {right}"),
            Ok(time) if time > max => format!("is too long; {right}"),
            Ok(time) => return Some(time),
            Err(why) => why,
        };
        self.wrong(name, format!("`{name}`: {} {wrong}", quote(&text)));
        None
    }

    /// One of `words`, as `known` reads it.
    pub(super) fn word<T>(&mut self, name: &str, words: &[&str], known: fn(&str) -> Option<T>) -> Option<T> {
        let all = words.join(", ");
        let text = self.string(name, &format!("one of {all}"))?;
        let word = known(&text);
        if word.is_none() {
            let guess = meant(&text, words.iter().copied());
            self.wrong(name, format!("`{name}`: {} is none of {all}{guess}", quote(&text)));
        }
        word
    }

    /// Numbers by name.
    pub(super) fn figures(&mut self, name: &str) -> Vec<(String, f64)> {
        let table = match self.left.remove(name) {
            None => return Vec::new(),
            Some(Value::Object(table)) => table,
            Some(other) => {
                let given = quote(&other.to_string());
                let wanted = "write numbers by name, such as {\"cpu_percent\": 97.5}";
                self.wrong(name, format!("`{name}`: {given} is no object; {wanted}"));
                return Vec::new();
            }
        };
        if table.len() > FIGURES_MAX {
            self.wrong(name, format!("`{name}` has {} figures; {FIGURES_MAX} is the most", table.len()));
            return Vec::new();
        }
        let mut figures = Vec::new();
        for (figure, value) in table {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            let field = format!("{name}.{figure}");
            if figure.is_empty() || figure.len() > FIGURE_NAME_MAX || !figure.bytes().all(plain) {
                let rule = format!("a figure's name has 1 to {FIGURE_NAME_MAX} of a-z, 0-9 and _");
                self.wrong(&field, format!("`{name}`: {} is no name; {rule}", quote(&figure)));
            } else if let Some(number) = value.as_f64().filter(|number| number.is_finite()) {
                figures.push((figure, number));
            } else {
                let given = quote(&value.to_string());
                self.wrong(&field, format!("`{name}.{figure}`: {given} is no number; write one, such as 97.5"));
            }
        }
        figures
    }
}
