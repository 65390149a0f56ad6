//! The query of a request: pairs whose every key is known. What is wrong with it is collected, as in a body, so that the caller
//! is told all of it at once.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;

use crate::model::{WallTime, quote};

use super::problem::{Fault, Problem, Refused};

/// What a time looks like.
const TIME: &str = "2026-11-21T10:00:00Z";

/// The pairs of a query as they came.
#[derive(Debug)]
pub(super) struct Pairs(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Pairs {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // Any query is made of pairs: bytes that are no text become a character that no value may have.
        Ok(Self(Query::try_from_uri(&parts.uri).map_or_else(|_| Vec::new(), |Query(pairs)| pairs)))
    }
}

/// The values that have not been taken yet, and what was found wrong so far.
#[derive(Debug)]
pub(super) struct Asked {
    problem: Problem,
    left: Vec<(String, String)>,
    faults: Vec<Fault>,
}

impl Asked {
    /// Reads `pairs`, whose keys can be those in `known` only, each once. What is wrong with them is `problem`.
    pub(super) fn read(Pairs(pairs): Pairs, problem: Problem, known: &[&str]) -> Self {
        let mut asked = Self { problem, left: Vec::new(), faults: Vec::new() };
        for (key, value) in pairs {
            if !known.contains(&key.as_str()) {
                asked.faults.push(Fault::unknown(&key, known));
            } else if asked.left.iter().any(|(other, _)| *other == key) {
                asked.wrong(&key, format!("`{key}`: {} is its second value; write it once", quote(&value)));
            } else {
                asked.left.push((key, value));
            }
        }
        asked
    }

    /// Something is wrong with the value of `key`.
    pub(super) fn wrong(&mut self, key: &str, message: String) {
        self.faults.push(Fault::new(key, message));
    }

    /// All was taken: whatever was wrong is told.
    pub(super) fn finish(self) -> Result<(), Refused> {
        if self.faults.is_empty() { Ok(()) } else { Err(Refused::of(self.problem, self.faults)) }
    }

    /// The value of `key`.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        let at = self.left.iter().position(|(given, _)| given == key)?;
        Some(self.left.swap_remove(at).1)
    }

    /// What `read` makes of the value of `key`; if it makes nothing of it, the value is not `wanted`.
    pub(super) fn value<T>(&mut self, key: &str, wanted: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(key)?;
        let value = read(&text);
        if value.is_none() {
            self.wrong(key, format!("`{key}`: {} is no {wanted}", quote(&text)));
        }
        value
    }

    /// The number of an event or a session.
    pub(super) fn number(&mut self, key: &str) -> Option<u64> {
        self.value(key, "number; write one from 0 on, such as 812", |text| text.parse().ok())
    }

    /// How many there may be at most.
    pub(super) fn limit(&mut self, key: &str, max: usize) -> Option<usize> {
        let wanted = format!("number from 1 to {max}");
        self.value(key, &wanted, |text| text.parse().ok().filter(|limit| (1..=max).contains(limit)))
    }

    /// A moment of the calendar.
    pub(super) fn time(&mut self, key: &str) -> Option<WallTime> {
        let text = self.text(key)?;
        let time = text.parse().ok();
        if time.is_none() {
            // As a form has it, a plus is a space.
            let plus = if text.contains(' ') { "; in a query a plus is written %2B" } else { "" };
            self.wrong(key, format!("`{key}`: {} is no time; write one such as {TIME}{plus}", quote(&text)));
        }
        time
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::FromRequestParts;
    use axum::http::Request;

    use super::{Asked, Pairs};
    use crate::admin::problem::Problem;

    async fn asked(query: &str, known: &[&str]) -> Asked {
        let (mut parts, ()) = Request::builder().uri(format!("/x?{query}")).body(()).expect("a request").into_parts();
        let Ok(pairs) = Pairs::from_request_parts(&mut parts, &()).await;
        Asked::read(pairs, Problem::BadQuery, known)
    }

    #[tokio::test]
    async fn whatever_a_query_has_in_it_it_is_read_or_named() {
        for (query, wanted) in [
            ("", &[][..]),
            ("&&", &[]),
            ("limit=7&pool=a%20b", &[]),
            ("limti=7", &["`limti` is unknown; did you mean `limit`?"]),
            ("colour=red", &["`colour` is unknown; known are limit, pool, since"]),
            (
                "limit=0&since=10m",
                &[
                    "`limit`: `0` is no number from 1 to 10",
                    "`since`: `10m` is no time; write one such as 2026-11-21T10:00:00Z",
                ],
            ),
            ("limit", &["`limit`: `` is no number from 1 to 10"]),
            ("limit=%FF", &["`limit`: `\u{fffd}` is no number from 1 to 10"]),
            ("limit=1&limit=2", &["`limit`: `2` is its second value; write it once"]),
            ("since=2026-11-21T10:00:00%2B01:00", &[]),
            (
                "since=2026-11-21T10:00:00+01:00",
                &[
                    "`since`: `2026-11-21T10:00:00 01:00` is no time; write one such as 2026-11-21T10:00:00Z; in a query a plus is \
                 written %2B",
                ],
            ),
            ("%00=1", &["`\\u{0}` is unknown; known are limit, pool, since"]),
        ] {
            let mut asked = asked(query, &["limit", "pool", "since"]).await;
            let _taken = (asked.limit("limit", 10), asked.text("pool"), asked.time("since"));
            let said: Vec<&str> = asked.faults.iter().map(|fault| fault.message.as_str()).collect();
            assert_eq!(said, wanted, "{query}");
            assert_eq!(asked.finish().is_err(), !wanted.is_empty(), "{query}");
        }
    }
}
