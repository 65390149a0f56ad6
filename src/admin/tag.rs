//! Entity tags, by which what a caller knows already is not sent again.

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

/// `json` as it was under the table `generation`, unless the caller has it. Answers are the same if what is `telling` of
/// them is.
pub(super) fn answer(asked: &HeaderMap, generation: Generation, telling: &str, json: String) -> Response {
    let tag = format!("W/\"g{}-{:016x}\"", generation.0, hash(telling.as_bytes()));
    if is_known(asked, &tag) {
        return (StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response();
    }
    ([(ETAG, tag)], answer::written(json)).into_response()
}
