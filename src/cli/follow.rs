//! A live stream of events, as `events --follow` shows it and `top` is woken by it: the pieces in which it comes made into
//! what is told, and why it ended. Nothing is printed here.

use std::time::Duration;

use hyper::body::Bytes;
use serde_json::Value;
use tokio::time::timeout;

use super::client::{Client, Pieces};
use super::exit::CliError;

/// A daemon that says nothing for so long has gone: it says every 15 seconds that it lives.
const SILENT_MAX: Duration = Duration::from_secs(45);
/// From one try to reach a daemon that has gone to the next, at first.
pub(super) const AGAIN_MIN: Duration = Duration::from_millis(250);
/// The same after many.
pub(super) const AGAIN_MAX: Duration = Duration::from_secs(5);
/// The longest line of a stream that is kept, in bytes: an event has 32 KiB at most.
const LINE_MAX: usize = 1 << 20;

/// A stream that is open.
pub(super) struct Stream {
    pieces: Pieces,
    lines: Lines,
}

/// Why a stream has come to its end, in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost(pub(super) String);

impl Stream {
    /// What `GET path` tells after the event `last`, or from now on if there is none.
    pub(super) async fn open(client: &Client, path: &str, last: Option<u64>) -> Result<Self, CliError> {
        Ok(Self { pieces: client.open(path, last).await?, lines: Lines::default() })
    }

    /// What is told next, all that has come together; nothing new while the daemon only says that it lives.
    pub(super) async fn next(&mut self) -> Result<Vec<Told>, Lost> {
        match timeout(SILENT_MAX, self.pieces.next()).await {
            Ok(Some(piece)) => Ok(self.lines.take(&piece)),
            Ok(None) => Err(Lost("it has ended".to_owned())),
            Err(_) => Err(Lost(format!("silent for {SILENT_MAX:?}"))),
        }
    }
}

/// One event of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) id: Option<u64>,
    pub(super) event: String,
    pub(super) data: String,
}

impl Told {
    /// Why the daemon says what it says of the stream itself.
    pub(super) fn reason(&self) -> String {
        let data: Value = serde_json::from_str(&self.data).unwrap_or_default();
        data["reason"].as_str().unwrap_or("the daemon does not say why").replace(char::is_control, " ")
    }
}

/// Makes events of the pieces in which a stream comes.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
    told: Told,
}

impl Lines {
    /// The events that are whole with `piece`.
    fn take(&mut self, piece: &Bytes) -> Vec<Told> {
        self.rest.extend_from_slice(piece);
        let mut whole = Vec::new();
        let mut start = 0;
        while let Some(length) = self.rest.get(start..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n')) {
            let line = String::from_utf8_lossy(self.rest.get(start..start + length).unwrap_or_default()).into_owned();
            start += length + 1;
            whole.extend(self.line(line.trim_end_matches('\r')));
        }
        self.rest.drain(..start);
        // No line of ours is that long.
        if self.rest.len() > LINE_MAX {
            self.rest.clear();
        }
        whole
    }

    fn line(&mut self, line: &str) -> Option<Told> {
        if line.is_empty() {
            let told = std::mem::take(&mut self.told);
            return (!told.data.is_empty()).then_some(told);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.told.id = value.parse().ok(),
            "event" => value.clone_into(&mut self.told.event),
            "data" => self.told.data.push_str(value),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use hyper::body::Bytes;

    use super::{Lines, Told};

    const STREAM: &str = ": changeover events\nretry: 1000\n\nid: 7\nevent: pool.down\ndata: {\"ü\":1}\n\n: alive\n\n\
                          id: 8\nevent: dropped\ndata: {}\n\n";

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let told = |id, event: &str, data: &str| Told { id: Some(id), event: event.to_owned(), data: data.to_owned() };
        let wanted = [told(7, "pool.down", "{\"ü\":1}"), told(8, "dropped", "{}")];
        for length in 1..STREAM.len() {
            let mut lines = Lines::default();
            let pieces = STREAM.as_bytes().chunks(length);
            let got: Vec<Told> = pieces.flat_map(|piece| lines.take(&Bytes::copy_from_slice(piece))).collect();
            assert_eq!(got, wanted, "in pieces of {length}");
        }
    }
}
