//! A program for each connection, whose standard input and output are the connection.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::model::{DialError, Filling, ProgramPlan};
use crate::sys::{self, FILE_PATH, Heard, Launch, RunError, Spawner, Stream, graded_error};
use crate::wire::Lines;

/// The most programs that are connections at once, in the whole process. Each takes three descriptors beside the client's two.
pub const PROGRAMS_MAX: usize = 512;

/// Stands where lines are left out.
const FLOOD: &str = "… and more than can be told";

/// Who hears each line that programs say to standard error, as it may be printed. It may hold whatever they were given.
pub type Said = Arc<dyn Fn(&str) + Send + Sync>;

/// What is started for each connection of a way.
pub struct Programs {
    /// By whom.
    pub spawner: Spawner,
    /// What.
    pub program: Arc<ProgramPlan>,
    /// By what its descendants are found ([`Launch::mark`]).
    pub mark: String,
    /// How long a program may take to end once its connection is closed; then it is killed.
    pub stop_grace: Duration,
    /// Who hears what they say to standard error: secrets are theirs to hide. Called in the thread of the connection, and so
    /// it must not wait for anything.
    pub said: Said,
}

impl fmt::Debug for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Programs")
            .field("mark", &self.mark)
            .field("stop_grace", &self.stop_grace)
            .finish_non_exhaustive()
    }
}

impl Programs {
    /// Starts one more, if there is a place for it among `places`.
    pub(super) async fn start(&self, places: &Arc<Semaphore>) -> io::Result<Stream> {
        let place = Arc::clone(places).try_acquire_owned().map_err(|_| {
            let detail = format!("{PROGRAMS_MAX} programs of tunnels are connections already, which is the most");
            graded_error(DialError::Local, detail)
        })?;
        let child = self.spawner.spawn(launch(&self.program, 0, true, self.mark.clone())).await.map_err(graded)?;
        Stream::of_program(child, self.stop_grace, by_line(Arc::clone(&self.said)), place).map_err(graded)
    }
}

/// What one program says, line by line.
fn by_line(said: Said) -> sys::Said {
    let mut lines = Lines::default();
    Box::new(move |heard| {
        let each = |line: String| said(&line);
        match heard {
            Heard::Bytes(bytes) => lines.feed(bytes, each),
            Heard::Flood => {
                lines.skip(each);
                said(FLOOD);
            }
            Heard::End => lines.end(each),
        }
    })
}

/// What is started by `plan`, with the `port` on 127.0.0.1 filled in. See [`Launch`] for the rest.
#[must_use]
pub fn launch(plan: &ProgramPlan, port: u16, connects: bool, mark: String) -> Launch {
    let filling = Filling { port, file: FILE_PATH };
    Launch {
        argv: plan.argv.iter().map(|word| word.expose(filling)).collect(),
        env: plan.env.iter().map(|(name, value)| (name.to_string(), value.expose(filling))).collect(),
        file: plan.file.as_ref().map(|text| text.expose(filling).into_bytes()),
        connects,
        mark,
    }
}

fn graded(error: RunError) -> io::Error {
    let grade = match &error {
        RunError::NotStarted(_) => DialError::TunnelDown,
        RunError::Local(_) => DialError::Local,
    };
    graded_error(grade, format!("its tunnel's program: {error}"))
}
