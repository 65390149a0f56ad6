//! What a backend answers to what it is sent, compared byte by byte with what was expected.

use crate::model::{CheckError, ExpectCheck};
use crate::sys::Stream;
use crate::wire::printable;

use super::Failure;

/// Of an answer that was not expected so many bytes are shown.
const SHOWN_MAX: usize = 40;
/// Bytes that are read at once.
const READ: usize = 512;

/// Sends what `check` says over `stream`, and reads until the answer is as expected or is not.
pub(super) async fn ask(check: &ExpectCheck, stream: Stream) -> Result<(), Failure> {
    let ExpectCheck { send, answer } = check;
    if !send.is_empty() {
        // One that speaks without listening may have ended already, and what it says counts all the same.
        drop(stream.send_all(send.as_bytes()).await);
    }
    let mut heard = Vec::new();
    let mut part = [0; READ];
    loop {
        let length = stream.receive(&mut part).await.map_err(|error| closed(&heard, &error.to_string()))?;
        if length == 0 {
            return Err(closed(&heard, "it ended"));
        }
        heard.extend_from_slice(part.get(..length).unwrap_or_default());
        let (wanted, common) = (answer.as_bytes(), answer.len().min(heard.len()));
        if wanted.get(..common) != heard.get(..common) {
            return Err(unexpected(&heard, send));
        }
        if common == wanted.len() {
            // In order, not by a reset, which many servers log.
            drop(stream.end_writing());
            return Ok(());
        }
    }
}

/// What is sent may be a key, and an echo of it is one too.
fn unexpected(heard: &[u8], send: &str) -> Failure {
    let shown = heard.get(..SHOWN_MAX).unwrap_or(heard);
    let is_echo = send.as_bytes().windows(shown.len()).any(|part| part == shown);
    let said = if is_echo { "what it was sent".to_owned() } else { format!("`{}`", printable(heard, SHOWN_MAX)) };
    Failure::check(CheckError::UnexpectedAnswer, format!("it answered with {said}, which is not what is expected"))
}

fn closed(heard: &[u8], why: &str) -> Failure {
    let after = if heard.is_empty() { String::new() } else { format!(", of which {} bytes had come", heard.len()) };
    Failure::check(CheckError::ClosedEarly, format!("the connection, before the end of its answer{after}: {why}"))
}
