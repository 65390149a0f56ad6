//! `changeover replay`: a recording is decided again, compared with what was decided then, and shown.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::failover::recording::{Decision, Header, Line, Replay, Turn};
use crate::model::{MonoTime, PoolName, meant, quote};

use super::exit::CliError;
use super::print;
use super::retelling::{self, Names};

/// The longest line that is read, in bytes: a plan of 500,000 backends, some hundred times what fits in one daemon.
const LINE_MAX: u64 = 256 << 20;

/// Which recording, and what of it.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The recording, as `changeover run --record FILE` made it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Show only what was decided in this pool; everything is replayed all the same
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Go no further than this: a time (2026-11-21T03:04:05Z), or so long after the start (1h 30m)
    #[arg(long, value_name = "TIME", value_parser = until)]
    until: Option<Until>,
    /// Print a line of JSON for each turn that decided something, and one at the end, for scripts
    #[arg(long)]
    json: bool,
}

/// Where to stop.
#[derive(Debug, Clone, Copy)]
enum Until {
    Time(Timestamp),
    Elapsed(SignedDuration),
}

fn until(text: &str) -> Result<Until, String> {
    if let Ok(time) = text.parse() {
        return Ok(Until::Time(time));
    }
    let elapsed = text.parse::<SignedDuration>().ok().filter(|elapsed| !elapsed.is_negative());
    elapsed.map(Until::Elapsed).ok_or_else(|| {
        format!("`{text}` is neither a time such as 2026-11-21T03:04:05Z nor a time since the start such as 1h 30m")
    })
}

/// What it came to.
#[derive(Debug, Default)]
struct Count {
    events: u64,
    decisions: u64,
}

/// Why the turns came to an end.
enum End {
    /// The recording says why.
    Told(String),
    /// It stops without a word, at the end of a line.
    Untold,
    /// It stops within a line.
    CutOff,
    /// What comes is later than was asked for.
    Until,
}

/// A file that is read by lines.
struct Lines<'a> {
    path: &'a Path,
    file: BufReader<File>,
    number: u64,
    line: Vec<u8>,
}

/// Decides the recording again and shows it.
///
/// # Errors
///
/// [`CliError::Differs`] if anything is decided otherwise than recorded, [`CliError::Config`] if the file is no recording, and
/// [`CliError::NoSuchName`] if the pool that is asked for is not in it.
pub fn replay(args: &ReplayArgs) -> Result<(), CliError> {
    let mut lines = Lines::open(&args.file)?;
    if !lines.next()? {
        return Err(lines.wrong("this is no recording: its first line is not whole"));
    }
    let header = Header::read(&lines.line).map_err(|why| lines.wrong(&why))?;
    let started = header.started.parse::<Timestamp>();
    let started = started.map_err(|_| lines.wrong(&format!("`{}` is no time", header.started)))?;
    let mut session = Session { args, started, replay: Replay::new(header.seed), count: Count::default() };
    if !args.json {
        print(&format!("recorded by changeover {} from {started:.3} on\n", header.changeover))?;
    }
    let end = loop {
        if !lines.next()? {
            break if lines.line.is_empty() { End::Untold } else { End::CutOff };
        }
        match Line::read(&lines.line).map_err(|why| lines.wrong(&format!("{why}{}", hint(&header))))? {
            Line::End(why) => break End::Told(why),
            Line::Turn(turn) if session.is_beyond(turn.at) => break End::Until,
            Line::Turn(turn) => session.turn(&lines, &header, *turn)?,
        }
    };
    session.close(&end)
}

/// Another version may have decided by other rules.
fn hint(header: &Header) -> String {
    let ours = env!("CARGO_PKG_VERSION");
    match header.changeover.as_str() {
        theirs if theirs == ours => String::new(),
        theirs => format!("; it was recorded by changeover {theirs}, and this is {ours}: replay it with that version"),
    }
}

struct Session<'a> {
    args: &'a ReplayArgs,
    started: Timestamp,
    replay: Replay,
    count: Count,
}

impl Session<'_> {
    fn is_beyond(&self, at: MonoTime) -> bool {
        match self.args.until {
            None => false,
            Some(Until::Time(time)) => self.time(at).is_some_and(|at| at > time),
            Some(Until::Elapsed(elapsed)) => {
                SignedDuration::try_from(at.since(MonoTime::ZERO)).is_ok_and(|at| at > elapsed)
            }
        }
    }

    /// `at` on the calendar.
    fn time(&self, at: MonoTime) -> Option<Timestamp> {
        self.started.checked_add(at.since(MonoTime::ZERO)).ok()
    }

    /// Replays a turn, shows it, and holds it against the recording.
    fn turn(&mut self, lines: &Lines<'_>, header: &Header, turn: Turn) -> Result<(), CliError> {
        let Turn { at, event, commands } = turn;
        // Whose answer it is must be asked before the turn: it may be the end of them.
        let evidence = retelling::event(&event, &self.replay);
        let json = self.args.json.then(|| json!(event));
        let decided = catch_unwind(AssertUnwindSafe(|| self.replay.turn(at, event))).map_err(|_| {
            CliError::Internal(
                lines.at("to decide this again panics: a fault of changeover's, or the line was changed"),
            )
        })?;
        self.count.events += 1;
        let same = decided == commands;
        let is_news = decided.iter().any(retelling::is_news);
        self.count.decisions += u64::from(is_news);
        // A turn may decide for several pools: where it differs, all of it is of interest.
        let wanted = if same { self.wanted(&decided) } else { decided.clone() };
        if !same || (is_news && !wanted.is_empty()) {
            let recorded = if same { &wanted } else { &commands };
            let shown = match json {
                Some(event) => self.as_json(at, event, &wanted, recorded),
                None => self.as_text(at, &evidence, &wanted),
            };
            print(&shown)?;
        }
        if same {
            return Ok(());
        }
        if !self.args.json {
            print(&difference(&commands, &decided, &self.replay))?;
        }
        Err(CliError::Differs(lines.at(&format!("this was decided otherwise than recorded{}", hint(header)))))
    }

    /// What is decided for the pool that was asked for.
    fn wanted(&self, decided: &[Decision]) -> Vec<Decision> {
        let Some(pool) = &self.args.pool else { return decided.to_vec() };
        let pool = PoolName::from(pool.as_str());
        let concern = |decision: &&Decision| retelling::concerns(decision, &pool, &self.replay);
        let mut wanted: Vec<Decision> = decided.iter().filter(concern).cloned().collect();
        for decision in &mut wanted {
            if let Decision::Publish { pools, .. } = decision {
                pools.retain(|name, _| *name == pool);
            }
        }
        wanted
    }

    fn stamp(&self, at: MonoTime) -> String {
        self.time(at).map_or_else(|| format!("{at:?}"), |time| format!("{time:.6}"))
    }

    fn as_text(&self, at: MonoTime, evidence: &str, decided: &[Decision]) -> String {
        let mut text = format!("\n{}  {evidence}\n", self.stamp(at));
        for decision in decided.iter().filter(|decision| retelling::is_news(decision)) {
            text.push_str(&format!("    {}\n", retelling::decision(decision, &self.replay)));
        }
        text
    }

    fn as_json(&self, at: MonoTime, event: Value, decided: &[Decision], recorded: &[Decision]) -> String {
        let mut line = json!({
            "at": at, "time": self.stamp(at), "event": event, "commands": decided, "as_recorded": decided == recorded,
        });
        if decided != recorded {
            line["recorded"] = json!(recorded);
        }
        format!("{line}\n")
    }

    /// A pool that is in none of the plans that were replayed was not meant. Where there was no plan, nothing is known.
    fn check_pool(&self) -> Result<(), CliError> {
        let known = self.replay.pools();
        let Some(pool) = self.args.pool.as_deref() else { return Ok(()) };
        if known.is_empty() || known.contains(&PoolName::from(pool)) {
            return Ok(());
        }
        let until = if self.args.until.is_some() { " until then" } else { "" };
        let guess = meant(pool, known.iter().map(PoolName::as_str));
        let file = self.args.file.display();
        Err(CliError::NoSuchName(format!("{file} has no pool {}{until}{guess}", quote(pool))))
    }

    /// Says what it came to.
    fn close(&self, end: &End) -> Result<(), CliError> {
        self.check_pool()?;
        let Count { events, decisions } = self.count;
        let why = match end {
            End::Told(why) => format!("the recording ends here: {why}"),
            End::Untold => "the recording has no end: the daemon was killed, or it still runs".to_owned(),
            End::CutOff => "the recording is cut off in the middle of a line, which was left out".to_owned(),
            End::Until => "what comes later was left out".to_owned(),
        };
        if self.args.json {
            let sum = json!({ "events": events, "decisions": decisions, "as_recorded": true, "end": why });
            return print(&format!("{sum}\n"));
        }
        print(&format!("\n{why}\n{events} events, {decisions} decisions, all as recorded\n"))
    }
}

/// What is recorded and what is decided now, from where they part.
fn difference(recorded: &[Decision], decided: &[Decision], names: &dyn Names) -> String {
    let same = recorded.iter().zip(decided).take_while(|(a, b)| a == b).count();
    let side = |title: &str, decisions: &[Decision]| {
        let rest = decisions.get(same..).unwrap_or_default();
        let lines: String = rest.iter().map(|of| format!("    {}\n", retelling::decision(of, names))).collect();
        format!("  {title}:\n{}", if lines.is_empty() { "    nothing\n".to_owned() } else { lines })
    };
    format!("\nhere they part\n{}{}", side("recorded", recorded), side("decided now", decided))
}

impl<'a> Lines<'a> {
    fn open(path: &'a Path) -> Result<Self, CliError> {
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        Ok(Self { path, file: BufReader::new(file), number: 0, line: Vec::new() })
    }

    /// Reads the next line. `false` if there is no whole one; then what there is of it is in `line`.
    fn next(&mut self) -> Result<bool, CliError> {
        self.line.clear();
        self.number += 1;
        let mut limited = (&mut self.file).take(LINE_MAX);
        let length = limited.read_until(b'\n', &mut self.line).map_err(|error| unreadable(self.path, &error))?;
        if self.line.ends_with(b"\n") {
            return Ok(true);
        }
        if u64::try_from(length).is_ok_and(|length| length == LINE_MAX) {
            return Err(self.wrong(&format!("this line has more than {LINE_MAX} bytes")));
        }
        Ok(false)
    }

    /// `what`, with its place before it.
    fn at(&self, what: &str) -> String {
        format!("{}:{}: {what}", self.path.display(), self.number)
    }

    fn wrong(&self, what: &str) -> CliError {
        CliError::Config(self.at(what))
    }
}

fn unreadable(path: &Path, error: &io::Error) -> CliError {
    CliError::Config(format!("{}: cannot be read: {error}", path.display()))
}
