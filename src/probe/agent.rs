//! One line of an agent; what it means is `wire`'s.

use crate::model::{Advice, CheckError};
use crate::sys::Stream;
use crate::wire::{AGENT_LINE_MAX, AgentAnswer, NotAnAnswer, agent_line, parse_agent_answer};

use super::Failure;

/// Sends `send` over `stream`, and reads one line.
pub(super) async fn ask(send: &str, stream: Stream) -> Result<Advice, Failure> {
    if !send.is_empty() {
        // One that speaks without listening may have ended already, and its line counts all the same.
        drop(stream.send_all(send.as_bytes()).await);
    }
    let line = read_line(stream).await?;
    match parse_agent_answer(&line) {
        Ok(AgentAnswer::Up(advice)) => Ok(advice),
        Ok(AgentAnswer::Down(said)) => Err(Failure::check(CheckError::AgentDown, format!("the agent said: {said}"))),
        Err(wrong @ (NotAnAnswer::Empty | NotAnAnswer::Word(_))) => {
            Err(Failure::check(CheckError::Malformed, format!("the agent's answer: {wrong}")))
        }
    }
}

/// One line: up to its end, or to that of the connection.
async fn read_line(stream: Stream) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while bytes.len() <= AGENT_LINE_MAX {
        let mut part = [0; AGENT_LINE_MAX];
        // What came before a reset may have lost its end, so it is no answer.
        let length = stream.receive(&mut part).await.map_err(|error| closed(&error.to_string()))?;
        bytes.extend_from_slice(part.get(..length).unwrap_or_default());
        match agent_line(&bytes) {
            Some(line) if line.len() <= AGENT_LINE_MAX => return Ok(line.to_vec()),
            None if length == 0 && bytes.is_empty() => return Err(closed("it ended")),
            None if length == 0 => return Ok(bytes),
            Some(_) | None => {}
        }
    }
    let detail = format!("the agent's answer: the line is longer than {AGENT_LINE_MAX} bytes");
    Err(Failure::check(CheckError::Malformed, detail))
}

fn closed(why: &str) -> Failure {
    Failure::check(CheckError::ClosedEarly, format!("the agent's connection, before its answer: {why}"))
}
