//! Tunnels: how a backend is reached that cannot be dialled as it is, and what is told of the programs that lead there.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Address, BackendName, HIDDEN, HttpCheck, MonoTime, PoolName, Secret};

labelled! {
    /// What a tunnel gives to those who want through it.
    Attach {
        /// Its program opens a port on loopback, which the daemon chooses.
        Listen = "listen",
        /// One program for each connection, whose standard input and output are the connection.
        Stdio = "stdio",
        /// A SOCKS5 proxy to dial through: of its program, at a port on loopback that the daemon chooses, or of somebody else.
        Socks5 = "socks5",
        /// The same with HTTP's `CONNECT`.
        HttpConnect = "http-connect",
        /// Nothing local: the backend is dialled at its address, which may have to be looked up.
        Address = "address",
    }
}

labelled! {
    /// How a tunnel fares.
    TunnelState {
        /// An operator does not want it.
        Disconnected = "disconnected",
        /// It has not led anywhere yet.
        Connecting = "connecting",
        /// A check has come through it.
        Connected = "connected",
        /// It led somewhere, and is being set up anew.
        Reconnecting = "reconnecting",
        /// It cannot be set up as things are: its program cannot be started, or has said that it never will work, or many tries
        /// came to nothing.
        Failed = "failed",
    }
}

/// How a backend is reached that is behind a tunnel: by whoever dials it, clients' sessions and probes alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Via {
    /// The backend's pool.
    pub pool: PoolName,
    /// The backend; with its pool it is what the way is known by.
    pub backend: BackendName,
    /// How it is attached to.
    pub attach: Attach,
    /// Where a proxy is asked to connect to.
    pub target: Address,
}

/// `[pools.P.backends.B.tunnel]`, with what its provider gives filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelPlan {
    /// Which backend of which pool it leads to, and how.
    pub via: Arc<Via>,
    /// The provider's name.
    pub provider: Arc<str>,
    /// What is run; none if somebody else sees to that.
    pub program: Option<Arc<ProgramPlan>>,
    /// Where the proxy is that somebody else runs.
    pub proxy: Option<Address>,
    /// How the backend's address is found, if it has to be.
    pub lookup: Option<LookupPlan>,
    /// What its program says once the way is open; none if that is seen by its port, or is so from the start.
    pub ready: Option<Arc<str>>,
    /// The longest that it may take from the start until the way is open and a check has come through.
    pub ready_timeout: Duration,
    /// Of these, one in a line of its program's output says that it will never work as it is set up.
    pub fatal: Vec<Arc<str>>,
    /// So many failed checks in a row have it started anew; 0 is never.
    pub restart_after: u32,
    /// The longest wait before the second try; it doubles with each.
    pub retry_initial: Duration,
    /// The longest wait there is.
    pub retry_max: Duration,
    /// Tries count from the start again once checks have come through for so long.
    pub retry_reset: Duration,
    /// How long its program may take to end once it was asked to.
    pub stop_grace: Duration,
}

impl TunnelPlan {
    /// Whether what runs for `other` is what would run for this one: they differ at most in when it is started anew.
    #[must_use]
    pub fn runs_as(&self, other: &Self) -> bool {
        let Self { ready_timeout, restart_after, retry_initial, retry_max, retry_reset, .. } = *other;
        let plan = Self { ready_timeout, restart_after, retry_initial, retry_max, retry_reset, ..self.clone() };
        plan == *other
    }
}

/// How a backend's address is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupPlan {
    /// Who is asked.
    pub source: LookupSource,
    /// From one time to the next.
    pub interval: Duration,
    /// The longest that one may take.
    pub timeout: Duration,
}

/// Who is asked for an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LookupSource {
    /// A program: the first line of its output.
    Command(Arc<ProgramPlan>),
    /// An HTTP server: a text in the JSON that it answers.
    Http {
        /// Where it listens.
        address: Address,
        /// What is asked.
        request: HttpCheck,
        /// Where the text stands, a JSON pointer (RFC 6901).
        pointer: Arc<str>,
    },
}

/// A program to run, without a shell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProgramPlan {
    /// Its path, or a name that is looked for in `PATH`, and its arguments. Never empty.
    pub argv: Vec<Text>,
    /// What is added to its environment.
    pub env: Vec<(Arc<str>, Text)>,
    /// What stands in the file that [`Part::File`] is the path of.
    pub file: Option<Text>,
}

/// A text with places that are filled in when the program is started.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Text(pub Vec<Part>);

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// For all to read.
    Shown(Arc<str>),
    /// Looked up in the environment or in a file, and so perhaps a secret.
    Hidden(Secret),
    /// The port on 127.0.0.1 that the daemon has chosen.
    LocalPort,
    /// The path of the program's file.
    File,
}

/// What is filled into a [`Text`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Filling<'a> {
    /// The port on 127.0.0.1.
    pub port: u16,
    /// The path of the file.
    pub file: &'a str,
}

impl Text {
    /// The text itself, for the one place that starts the program.
    #[must_use]
    pub fn expose(&self, filling: Filling<'_>) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Shown(shown) => text.push_str(shown),
                Part::Hidden(secret) => text.push_str(secret.expose()),
                Part::LocalPort => text.push_str(&filling.port.to_string()),
                Part::File => text.push_str(filling.file),
            }
        }
        text
    }

    /// What may be a secret of it.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.0.iter().filter_map(|part| match part {
            Part::Hidden(secret) => Some(secret),
            Part::Shown(_) | Part::LocalPort | Part::File => None,
        })
    }

    /// Whether the port is filled in somewhere.
    #[must_use]
    pub fn wants_port(&self) -> bool {
        self.0.contains(&Part::LocalPort)
    }
}

impl fmt::Display for Text {
    /// For all to read: what was looked up is not shown, and what is filled in later stands in braces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Shown(shown) => f.write_str(shown),
            Part::Hidden(_) => f.write_str(HIDDEN),
            Part::LocalPort => f.write_str("{local_port}"),
            Part::File => f.write_str("{file}"),
        })
    }
}

impl ProgramPlan {
    /// All that may be a secret of it.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let texts = self.argv.iter().chain(self.env.iter().map(|(_, text)| text)).chain(&self.file);
        texts.flat_map(Text::secrets)
    }
}

/// What is told of one run of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunnelNews {
    /// Its program was started, with this process number.
    Started {
        /// That.
        pid: u32,
    },
    /// The way is open: it can be dialled. Whether anything answers there is for checks to say.
    Open,
    /// Its program has said that it will never work as it is set up.
    Fatal {
        /// In these words.
        line: String,
    },
    /// Its program has ended by itself, and nothing leads anywhere any more; what it has left is still to be cleared away.
    Lost {
        /// The last that it said, if it said anything.
        detail: String,
    },
    /// Nothing of the run is left: no process and no port.
    Ended {
        /// How.
        how: RunEnd,
        /// The evidence in words: the exit code and the last that was said.
        detail: String,
    },
}

labelled! {
    /// How a run of a tunnel ended.
    RunEnd {
        /// It was to be stopped.
        Stopped = "stopped",
        /// Its program ended by itself, with whatever code.
        Exited = "exited",
        /// Its program could not be started.
        NotStarted = "not_started",
        /// Its port belonged to somebody else.
        PortTaken = "port_taken",
        /// We are short of something ourselves.
        Local = "local",
    }
}

labelled! {
    /// Why a tunnel fares as it does.
    TunnelCause {
        /// It was started because there is a plan for it.
        Planned = "planned",
        /// Checks come through it.
        Verified = "verified",
        /// Its program ended by itself.
        Exited = "exited",
        /// Its program could not be started.
        NotStarted = "not_started",
        /// Its port belonged to somebody else.
        PortTaken = "port_taken",
        /// We were short of something ourselves.
        Local = "local",
        /// Its program has said that it will never work as it is set up.
        Fatal = "fatal",
        /// No check came through it within `ready_timeout`.
        NotReady = "not_ready",
        /// Checks failed that had come through it.
        ChecksFailed = "checks_failed",
        /// What it leads to does not answer, behind none of those that lead there.
        TargetDown = "target_down",
        /// An operator said so.
        Ordered = "ordered",
        /// Its plan is another.
        Replaced = "replaced",
    }
}

/// A tunnel as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct TunnelStatus {
    /// How it fares.
    pub state: TunnelState,
    /// Since when.
    pub since: MonoTime,
    /// The provider's name.
    pub provider: Arc<str>,
    /// What it gives.
    pub attach: Attach,
    /// The process number of its program, while that runs.
    pub pid: Option<u32>,
    /// How often it was started after the first time.
    pub restarts: u64,
    /// Since when checks come through it.
    pub up_since: Option<MonoTime>,
    /// When it is tried again, if it waits for that.
    pub next_retry: Option<MonoTime>,
    /// Why it is not connected, in words.
    pub reason: Option<String>,
}
