//! One run of a program: exit code 0 is good news.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::model::{Address, CheckError, CommandCheck, DialError, ProbeError, spoken};
use crate::sys::{Program, RunError, Running};
use crate::wire::printable;

use super::Failure;

/// The most of a program's output that is kept for the log and the API, in bytes.
const OUTPUT_MAX: usize = 512;

/// Waits for a program's turn, but not longer than `limit`.
pub(super) async fn turn(turns: &Arc<Semaphore>, limit: Duration) -> Result<OwnedSemaphorePermit, String> {
    match timeout(limit, Arc::clone(turns).acquire_owned()).await {
        Ok(Ok(turn)) => Ok(turn),
        Ok(Err(closed)) => Err(closed.to_string()),
        Err(_) => Err(format!("as many check commands as may be were running for {}", spoken(limit))),
    }
}

/// Runs the program of `check` for the backend at `address`, and kills it at `deadline`.
pub(super) async fn ask(
    address: &Address,
    check: &CommandCheck,
    turn: OwnedSemaphorePermit,
    deadline: Instant,
    limit: Duration,
) -> Result<(), Failure> {
    let name = check.argv.first().map_or("", |path| path.expose());
    let name = printable(name.as_bytes(), OUTPUT_MAX);
    let mut running = Running::start(program(address, check), turn).map_err(|error| failed(&name, &error))?;
    let Ok(ended) = timeout_at(deadline, running.end()).await else {
        let detail = format!("{name}: not finished within {}, killed", spoken(limit));
        return Err(Failure::check(CheckError::AnswerTimedOut, detail));
    };
    let ended = ended.map_err(|error| failed(&name, &error))?;
    if ended.status.success() {
        return Ok(());
    }
    let status = ended.status;
    let said = printable(first_line(&ended.output), OUTPUT_MAX);
    let detail = if said.is_empty() { format!("{name}: {status}") } else { format!("{name}: {status}: {said}") };
    Err(Failure::check(CheckError::CommandFailed, detail))
}

fn program(address: &Address, check: &CommandCheck) -> Program {
    let port = address.port().map(|port| port.to_string()).unwrap_or_default();
    Program {
        argv: check.argv.iter().map(|word| word.expose().to_owned()).collect(),
        variables: vec![
            ("CHANGEOVER_POOL", check.pool.to_string()),
            ("CHANGEOVER_BACKEND", check.backend.to_string()),
            ("CHANGEOVER_HOST", address.command_host()),
            ("CHANGEOVER_PORT", port),
            ("CHANGEOVER_ADDRESS", address.to_string()),
        ],
        kept: OUTPUT_MAX,
    }
}

/// A program that cannot be started will not start by itself: that must show, so it is a failed check. Being short of
/// descriptors or processes is our own fault, and says nothing of the backend.
fn failed(name: &str, error: &RunError) -> Failure {
    let class = match error {
        RunError::NotStarted(_) => ProbeError::Check(CheckError::CommandFailed),
        RunError::Local(_) => ProbeError::Dial(DialError::Local),
    };
    Failure { error: class, detail: format!("{name}: {error}") }
}

/// The first line that says something.
fn first_line(output: &[u8]) -> &[u8] {
    let lines = output.split(|byte| matches!(byte, b'\r' | b'\n'));
    lines.map(<[u8]>::trim_ascii).find(|line| !line.is_empty()).unwrap_or_default()
}
