//! JSON as it is answered: whoever reads it on a terminal has the prompt on a line of its own.

use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::problem::Problem;

/// The type of every answer in JSON that is no error.
const JSON: &str = "application/json";

/// An answer in JSON.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_string(&self.0) {
            Ok(text) => written(text),
            Err(error) => {
                tracing::error!(%error, "an answer could not be written");
                Problem::Internal.into_response()
            }
        }
    }
}

/// The JSON `text` as an answer.
pub(super) fn written(text: String) -> Response {
    whole(ended(text))
}

/// The JSON `text` as an answer of the type `kind`, with a newline at its end.
pub(super) fn of_type(kind: &'static str, text: String) -> Response {
    ([(CONTENT_TYPE, kind)], ended(text)).into_response()
}

/// The JSON `text` with a newline at its end.
pub(super) fn ended(mut text: String) -> Bytes {
    text.push('\n');
    text.into()
}

/// What was [`ended`], as an answer.
pub(super) fn whole(text: Bytes) -> Response {
    ([(CONTENT_TYPE, JSON)], text).into_response()
}
