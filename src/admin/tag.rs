//! Entity tags, by which what a caller knows already is not sent again.

use axum::body::Bytes;
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::model::Generation;

use super::answer;

/// FNV-1a over `bytes`, which tells two versions of an answer apart and need not do more.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

/// Whether the caller says that it knows what has the tag `tag`; weak and strong ones are the same here, as they are for
/// reads (RFC 9110, 13.1.2).
pub(super) fn is_known(asked: &HeaderMap, tag: &str) -> bool {
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let is = |known: &str| known.split(',').any(|one| bare(one) == bare(tag) || one.trim() == "*");
    asked.get_all(IF_NONE_MATCH).iter().any(|known| known.to_str().is_ok_and(is))
}

/// An answer and its tag. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Tagged {
    tag: String,
    text: Bytes,
}

impl Tagged {
    /// `json` as it was under the table `generation`.
    pub(super) fn new(generation: Generation, json: String) -> Self {
        Self { tag: tag(generation, &json), text: answer::ended(json) }
    }

    /// The same, which is no other answer as long as what is `telling` of it is no other.
    pub(super) fn by(generation: Generation, telling: &str, json: String) -> Self {
        Self { tag: tag(generation, telling), text: answer::ended(json) }
    }

    /// What a caller gets that has `asked` for it: nothing, if it has it.
    pub(super) fn answer(self, asked: &HeaderMap) -> Response {
        if is_known(asked, &self.tag) {
            return (StatusCode::NOT_MODIFIED, [(ETAG, self.tag)]).into_response();
        }
        ([(ETAG, self.tag)], answer::whole(self.text)).into_response()
    }
}

fn tag(generation: Generation, telling: &str) -> String {
    format!("W/\"g{}-{:016x}\"", generation.0, hash(telling.as_bytes()))
}
