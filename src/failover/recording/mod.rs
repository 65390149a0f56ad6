//! Recordings: what the core was told and what it decided, a line of JSON each, and the same life once more.
//!
//! The core is a pure function of its seed, the events and their times. So a recording of those is enough to decide everything
//! again, and what was decided stands beside it to be compared with. Nothing here reads or writes a file.
//!
//! A recording begins with a [`Header`], goes on with a [`Turn`] a line, and ends with a line that says why it ends, unless the
//! daemon was killed. No secret is in it: see [`Scribe`].

mod decision;
mod mask;
mod replay;

use serde::{Deserialize, Serialize};

use super::event::{Command, Event};
use crate::model::MonoTime;

use decision::Decisions;
pub use decision::{Decision, Share, TargetShare};
use mask::Masks;
pub use replay::Replay;

/// The number of the format: another one cannot be read.
pub const FORMAT: u32 = 1;

/// A recording's first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    #[serde(rename = "recording")]
    pub format: u32,
    /// The version that decided.
    pub changeover: String,
    /// The controller's.
    pub seed: u64,
    /// When time was zero, as RFC 3339.
    pub started: String,
}

/// One turn: what the core was told, and what it made of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// When.
    pub at: MonoTime,
    /// What it was told.
    pub event: Event,
    /// What it had done, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<Decision>,
}

/// A line after the first.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// A turn.
    Turn(Box<Turn>),
    /// The end, and why.
    End(String),
}

/// How the last line is written.
#[derive(Debug, Serialize, Deserialize)]
struct End {
    ended: String,
}

/// Tells a last line from a turn.
const END: &[u8] = b"{\"ended\":";

/// Writes the lines of a recording.
///
/// Each secret in a plan is replaced by a number, the same one wherever the same secret stands, and so is whatever else is
/// likely to hold one: the arguments of a check's command, all that a tunnel's programs are given, what is sent to an agent, and the query of a check's path. Which of
/// them are equal is all that is decided by.
#[derive(Debug, Default)]
pub struct Scribe {
    decisions: Decisions,
    masks: Masks,
}

impl Header {
    /// The first line, with its end.
    ///
    /// # Errors
    ///
    /// None that is known: JSON can hold all of it.
    pub fn line(&self) -> Result<String, serde_json::Error> {
        line(self)
    }

    /// Reads the first line.
    ///
    /// # Errors
    ///
    /// Says in words what is wrong with it.
    pub fn read(line: &[u8]) -> Result<Self, String> {
        let header: Self = serde_json::from_slice(line)
            .map_err(|error| format!("this is not the first line of a recording: {}", in_line(&error)))?;
        if header.format != FORMAT {
            let Self { format, changeover, .. } = header;
            return Err(format!(
                "a recording of format {format}, made by changeover {changeover}; this version reads format {FORMAT}"
            ));
        }
        Ok(header)
    }
}

impl Line {
    /// Reads a line.
    ///
    /// # Errors
    ///
    /// Says in words what is wrong with it.
    pub fn read(line: &[u8]) -> Result<Self, String> {
        if line.starts_with(END) {
            let End { ended } = serde_json::from_slice(line).map_err(|error| in_line(&error))?;
            return Ok(Self::End(ended));
        }
        serde_json::from_slice(line).map(Self::Turn).map_err(|error| in_line(&error))
    }

    /// The last line, with its end.
    ///
    /// # Errors
    ///
    /// None that is known: JSON can hold all of it.
    pub fn end(why: &str) -> Result<String, serde_json::Error> {
        line(&End { ended: why.to_owned() })
    }
}

impl Scribe {
    /// The line, with its end, of the next turn.
    ///
    /// # Errors
    ///
    /// If the plan holds a secret where none was known to be: then nothing of it is written.
    pub fn line(&mut self, at: MonoTime, event: &Event, commands: &[Command]) -> Result<String, serde_json::Error> {
        line(&self.turn(at, event, commands))
    }

    /// The next turn, as it is written.
    pub fn turn(&mut self, at: MonoTime, event: &Event, commands: &[Command]) -> Turn {
        Turn { at, event: self.masks.event(event), commands: self.decisions.of(commands) }
    }
}

fn line(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    Ok(line)
}

/// An error without the line, which is always the first: the column alone says where.
fn in_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    format!("{what} (column {})", error.column())
}

#[cfg(test)]
mod tests;
