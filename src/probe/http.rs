//! One HTTP/1.1 request; only the status of the answer counts.

use crate::dial::ask_http;
use crate::model::{Address, CheckError, HttpCheck};
use crate::sys::Stream;
use crate::wire::http_request;

use super::Failure;

/// Sends `check`'s request to the server behind `stream`, which listens at `address`.
pub(super) async fn ask(address: &Address, check: &HttpCheck, stream: Stream) -> Result<(), Failure> {
    let request = http_request(address, check, None)
        .map_err(|error| Failure::check(CheckError::Malformed, format!("the request cannot be sent: {error}")))?;
    let what = format!("{} {}", check.method, HttpCheck::shown_path(&check.path));
    let answered = ask_http(stream, request, async |response| response.status().as_u16()).await;
    let status = answered.map_err(|error| {
        let class = if error.is_parse() { CheckError::Malformed } else { CheckError::ClosedEarly };
        Failure::check(class, format!("{what}: {error}"))
    })?;
    if check.expect.iter().any(|range| range.contains(status)) {
        return Ok(());
    }
    Err(Failure::check(CheckError::UnexpectedStatus, format!("{what}: answered {status}")))
}
