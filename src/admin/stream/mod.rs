//! The live stream of events: Server-Sent Events, which every browser and `curl` understand.
//!
//! Each event has its number as `id`, so that whoever comes back with the last one that it saw, as `Last-Event-ID` or
//! `after`, goes on where it was. Nobody is waited for: a subscriber that is more than a bounded number of events behind
//! is told so and dropped.

mod hub;
mod subscription;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};

use crate::model::quote;

use super::Admin;
use super::access::{Identity, Peer, Standing};
use super::events::{self, Wanted as Asked};
use super::lease::Lease;
use super::problem::{Problem, Refused};
use super::query::Pairs;

use hub::NoPlace;
pub(super) use hub::Place;
pub use hub::Streams;
use subscription::{Subscription, Text, Wanted};

pub(super) fn routes() -> Router<Admin> {
    Router::new().route("/api/v1/events/stream", get(follow))
}

/// `GET /events/stream`: from `Last-Event-ID` or `after` on, or all since `since`, or without any of them what happens
/// from now on.
async fn follow(
    State(admin): State<Admin>,
    caller: Identity,
    Extension(peer): Extension<Peer>,
    Extension(lease): Extension<Lease>,
    headers: HeaderMap,
    pairs: Pairs,
) -> Result<Response, Refused> {
    // A page is as long as is asked for; a stream has no length.
    let asked = Asked::read(pairs, Some("limit"))?;
    let filter = asked.filter(&caller);
    events::check(&admin, &caller, &filter, None).await?;
    let seen = last_seen(&headers)?;
    // A browser that comes back asks for the same page again, and knows better by then.
    let had = seen.or(asked.after);
    let wanted = Wanted { is_resumed: had.is_some(), filter };
    let after = had.or(wanted.filter.since.map(|_| 0));
    let place_of = caller.place(&peer);
    let standing = Standing::new(&admin.access, peer, &headers, caller);
    let place = match admin.streams.place(&place_of) {
        Ok(place) => place,
        Err(NoPlace::Full) => return Err(Problem::TooManySubscribers.into()),
        Err(NoPlace::FullOfCaller) => return Err(Problem::TooManyStreams.into()),
    };
    let subscription =
        Subscription::new(admin.streams.clone(), wanted, after, lease.stream(place)).for_as_long_as(standing);
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Whatever else the caller wants, it wants on another connection: this one has no deadline.
        (CONNECTION, HeaderValue::from_static("close")),
    ];
    Ok((headers, Body::new(Text::new(subscription))).into_response())
}

/// The number in `Last-Event-ID`, if there is one.
fn last_seen(headers: &HeaderMap) -> Result<Option<u64>, Refused> {
    let Some(id) = headers.get("last-event-id").filter(|id| !id.is_empty()) else { return Ok(None) };
    let number = id.to_str().ok().and_then(|id| id.trim().parse().ok());
    let wrong = || {
        let id = String::from_utf8_lossy(id.as_bytes());
        let detail = format!("`Last-Event-ID`: {} is no number of an event; write the last `id` that came", quote(&id));
        Refused::because(Problem::BadEventQuery, detail)
    };
    number.map(Some).ok_or_else(wrong)
}
