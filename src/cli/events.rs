//! `events`: what happened, and what happens.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;

use clap::Args;
use ratatui::crossterm::terminal;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::model::{WallTime, parse_duration};
use crate::sys::{Clock, on_end};

use super::client::Client;
use super::exit::CliError;
use super::follow::{AGAIN_MAX, AGAIN_MIN, Lost, Stream};
use super::table::{laid_out, padded, widths};
use super::views::{items, text};
use super::{ClientArgs, connect, encoded, names, print, warn};

/// Events that are shown unless the caller says otherwise.
const LIMIT: usize = 100;
/// The same before those that are followed.
const LIMIT_BEFORE: usize = 10;

/// The columns, and how wide they are while nobody knows what comes.
const COLUMNS: [(&str, usize); 6] =
    [("TIME", 24), ("KIND", 19), ("WHERE", 14), ("STATUS", 9), ("ACTOR", 10), ("WHAT", 40)];
/// A terminal that is narrower than this, in columns, breaks the lines itself.
const WIDTH_MIN: usize = 60;
/// A terminal that does not say how wide it is.
const WIDTH_USUAL: usize = 100;

/// Which events.
#[derive(Debug, Args)]
pub struct EventArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Go on with what happens from now on, until interrupted
    #[arg(long)]
    follow: bool,
    /// Only those of this pool
    #[arg(long, value_name = "POOL", add = names::pool())]
    pool: Option<String>,
    /// Only those of backends of this name
    #[arg(long, value_name = "BACKEND", add = names::backend())]
    backend: Option<String>,
    /// Only those of this kind, such as pool.failover or pool.*; may be given more than once
    #[arg(long, value_name = "KIND", value_delimiter = ',', add = names::kind())]
    kind: Vec<String>,
    /// Only those since then: a time (2026-11-21T10:00:00Z) or an age (10m)
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<WallTime>,
    /// Only those until then
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "follow")]
    until: Option<WallTime>,
    /// No more than this many, the newest; up to 1000 [default: 100, or 10 before those that are followed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: Option<u16>,
}

/// A time, or how long ago one was.
fn time(text: &str) -> Result<WallTime, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let clock = Clock::start();
    let age = parse_duration(text)
        .map_err(|_| "write a time such as 2026-11-21T10:00:00Z, or an age such as 10m or 2h".to_owned())?;
    Ok(clock.wall(clock.now()).before(age))
}

/// How lines are laid out: whole where a program or a file takes them, and no wider than the terminal where people read.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// The terminal's, in columns.
    width: Option<usize>,
}

impl Look {
    fn of_stdout() -> Self {
        // One that says 0 does not know.
        let known = || terminal::size().ok().map(|(columns, _)| usize::from(columns)).filter(|width| *width > 0);
        let width = || known().map_or(WIDTH_USUAL, |width| width.max(WIDTH_MIN));
        Self { width: io::stdout().is_terminal().then(width) }
    }

    /// An event's cells.
    fn row(self, event: &Value) -> Vec<String> {
        let time = text(event, "time");
        let time = match self.width {
            // To the millisecond: 2026-11-21T10:00:00.123Z; for people, who know the year, 11-21 10:00:00.123.
            None => time.get(..23).map_or(time.clone(), |start| format!("{start}Z")),
            Some(_) => time.get(5..23).map_or(time.clone(), |part| part.replace('T', " ")),
        };
        let place = match (event["pool"].as_str(), event["backend"].as_str()) {
            (Some(pool), Some(backend)) => format!("{pool}/{backend}"),
            (Some(name), None) | (None, Some(name)) => name.to_owned(),
            (None, None) => "-".to_owned(),
        };
        let cells = [time, text(event, "kind"), place, text(event, "status"), text(event, "actor"), what(event)];
        cells.into_iter().map(|cell| cell.replace(char::is_control, " ")).collect()
    }

    /// All lines, where nothing comes after them.
    fn table(self, events: &[Value]) -> String {
        let rows: Vec<Vec<String>> = events.iter().map(|event| self.row(event)).collect();
        let lines = laid_out(&COLUMNS.map(|(name, _)| name), &rows, self.width.unwrap_or(usize::MAX));
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// A line with columns of fixed widths: what comes next is not known.
    fn line(self, cells: &[String]) -> String {
        let usual = COLUMNS.map(|(_, width)| " ".repeat(width)).to_vec();
        let widths = widths(&COLUMNS.map(|(name, _)| name), &[usual], self.width.unwrap_or(usize::MAX));
        format!("{}\n", padded(cells, &widths, self.width.is_some()))
    }
}

/// Shows what happened, and with `--follow` what happens.
pub(super) fn show(args: &EventArgs) -> Result<(), CliError> {
    let client = connect(&args.client)?;
    let query = query(args);
    let limit = args.limit.map_or(if args.follow { LIMIT_BEFORE } else { LIMIT }, usize::from);
    let page = client.get_ok(&format!("/api/v1/events?limit={limit}{query}"))?;
    let events = items(&page["events"]);
    if page["partial"] == true {
        warn("changeover: older events are on a disk that does not answer");
    }
    if events.is_empty() && !args.follow {
        warn("changeover: the history has no such events");
    }
    let look = Look::of_stdout();
    if !args.follow {
        let lines = || events.iter().map(|event| format!("{event}\n")).collect::<String>();
        return print(&if args.client.json { lines() } else { look.table(events) });
    }
    let mut follower = Follower {
        client,
        path: format!("/api/v1/events/stream?{}", query.trim_start_matches('&')),
        last: page["next"].as_u64().unwrap_or(0),
        look: (!args.client.json).then_some(look),
    };
    let header = look.line(&COLUMNS.map(|(name, _)| name.to_owned()));
    let before: String = events.iter().map(|event| follower.line(event)).collect();
    match say(&if args.client.json { before } else { format!("{header}{before}") })? {
        ControlFlow::Continue(()) => follower.run(),
        ControlFlow::Break(()) => Ok(()),
    }
}

/// What of `args` is asked of the daemon, each with `&` before it.
fn query(args: &EventArgs) -> String {
    let kinds = Some(args.kind.join(",")).filter(|kinds| !kinds.is_empty());
    let (since, until) = (args.since.map(|time| time.to_string()), args.until.map(|time| time.to_string()));
    let asked =
        [("pool", &args.pool), ("backend", &args.backend), ("kind", &kinds), ("since", &since), ("until", &until)];
    let given = asked.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
    given.map(|(key, value)| format!("&{key}={}", encoded(value))).collect()
}

/// What an event says, in a few words: its own message, if it has one.
pub(super) fn what(event: &Value) -> String {
    let said = |key: &str| event[key].as_str().map(str::to_owned);
    let detail = |key: &str| event["detail"][key].as_str().map(str::to_owned);
    // How long a failover took stands in no message.
    let took = event["duration_ms"].as_f64().filter(|_| event["status"] == "completed");
    let took = took.map(|millis| format!("{millis:.1} ms"));
    let words: Vec<String> = match detail("message") {
        Some(message) => vec![Some(message), took],
        None => {
            let moved = match (said("from"), said("to")) {
                (Some(from), Some(to)) => Some(format!("{from} → {to}")),
                (Some(from), None) => Some(format!("{from} →")),
                (None, to) => to.map(|to| format!("→ {to}")),
            };
            let done = detail("action").map(|action| match detail("result") {
                Some(result) => format!("{action}: {result}"),
                None => action,
            });
            let webhook = detail("webhook").map(|name| format!("webhook {name}"));
            let listed = |key: &str| {
                let list = event["detail"][key].as_array().filter(|list| !list.is_empty())?;
                Some(list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; "))
            };
            let version = detail("version").map(|version| format!("version {version}"));
            vec![
                done,
                webhook,
                moved,
                said("reason"),
                detail("error"),
                version,
                listed("changes"),
                listed("notes"),
                took,
            ]
        }
    }
    .into_iter()
    .flatten()
    .collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

/// Writes to standard output; says to stop if nobody reads on.
pub(super) fn say(text: &str) -> Result<ControlFlow<()>, CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(CliError::Internal(format!("standard output cannot be written: {error}"))),
    }
}

/// Follows the live stream, and comes back to it when it is lost.
struct Follower {
    client: Client,
    path: String,
    /// The last event that was seen, or after which to begin.
    last: u64,
    /// How lines look; none is JSON.
    look: Option<Look>,
}

/// Why a stream came to its end.
enum End {
    /// Nobody reads on.
    Unread,
    /// The daemon ended it, or has gone: in words.
    Lost(String),
}

impl Follower {
    fn run(&mut self) -> Result<(), CliError> {
        let (interrupt, interrupted) = watch::channel(false);
        let internal = |error: io::Error| CliError::Internal(error.to_string());
        on_end(move || interrupt.send(true).is_ok()).map_err(internal)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;
        runtime.block_on(async {
            let mut interrupted = interrupted;
            // Cancel-safety: the end is the end; what was printed was printed whole.
            tokio::select! {
                biased;
                _ = interrupted.wait_for(|&now| now) => Ok(()),
                done = self.follow() => done,
            }
        })
    }

    async fn follow(&mut self) -> Result<(), CliError> {
        let mut pause = AGAIN_MIN;
        let mut is_lost = false;
        loop {
            let why = match Stream::open(&self.client, &self.path, Some(self.last)).await {
                Ok(stream) => {
                    if is_lost {
                        warn(&format!("changeover: connected again, going on after event {}", self.last));
                    }
                    (is_lost, pause) = (true, AGAIN_MIN);
                    match self.read(stream).await? {
                        End::Unread => return Ok(()),
                        End::Lost(why) => why,
                    }
                }
                // It may be starting or stopping, or be gone for a moment: only what it says no to for good is the end.
                Err(error) if is_lost && error.is_passing() => error.to_string(),
                Err(error) => return Err(error),
            };
            if pause == AGAIN_MIN {
                warn(&format!("changeover: the connection is lost ({why}); trying again"));
            }
            sleep(pause).await;
            pause = (pause * 2).min(AGAIN_MAX);
        }
    }

    async fn read(&mut self, mut stream: Stream) -> Result<End, CliError> {
        loop {
            let told = match stream.next().await {
                Ok(told) => told,
                Err(Lost(why)) => return Ok(End::Lost(why)),
            };
            let mut out = String::new();
            let mut end = None;
            for told in told {
                self.last = told.id.unwrap_or(self.last);
                match told.event.as_str() {
                    "dropped" => end = Some(End::Lost("too slow to take what happens".to_owned())),
                    "end" => end = Some(End::Lost("the daemon ended it".to_owned())),
                    "gap" => warn(&format!("changeover: some events are missing: {}", told.reason())),
                    _ => out.push_str(&self.line(&serde_json::from_str(&told.data).unwrap_or_default())),
                }
            }
            if let ControlFlow::Break(()) = say(&out)? {
                return Ok(End::Unread);
            }
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    fn line(&self, event: &Value) -> String {
        self.look.map_or_else(|| format!("{event}\n"), |look| look.line(&look.row(event)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::{Look, time, what};

    #[test]
    fn a_time_is_one_or_an_age() {
        assert_eq!(time("2026-11-21T10:00:00Z").unwrap(), "2026-11-21T10:00:00Z".parse().unwrap());
        let (ago, now) = (time("10m").unwrap(), time("0s").unwrap());
        let apart = now.as_micros() - ago.as_micros();
        assert!((600_000_000..630_000_000).contains(&apart), "{apart}");
        for bad in ["yesterday", "10", ""] {
            assert!(time(bad).unwrap_err().contains("10m"), "{bad}");
        }
    }

    #[test]
    fn a_line_is_cut_on_a_terminal_alone_and_says_what_matters() {
        let long = "x".repeat(200);
        let mut event = json!({"time": "2026-11-21T10:00:00.123456Z", "kind": "pool.failover", "pool": "orders",
            "backend": "pg2", "from": "pg1", "to": "pg2", "reason": "dead", "status": "completed",
            "duration_ms": 38.24, "actor": "changeover", "detail": {"message": "failover from pg1 to pg2 (dead): completed"}});
        let (piped, shown) = (Look { width: None }, Look { width: Some(100) });
        let said = "failover from pg1 to pg2 (dead): completed, 38.2 ms";
        let cells = ["2026-11-21T10:00:00.123Z", "pool.failover", "orders/pg2", "completed", "changeover", said];
        assert_eq!(piped.row(&event), cells);
        assert_eq!(shown.row(&event)[0], "11-21 10:00:00.123");
        event["detail"]["message"] = json!(format!("{long}\n\u{1b}[31m"));
        event["pool"] = json!(long);
        for lines in [shown.line(&shown.row(&event)), shown.table(&[event.clone()])] {
            assert!(lines.lines().all(|line| line.chars().count() <= 100), "{lines}");
            assert!(lines.contains('…') && !lines.contains('\u{1b}'), "{lines}");
        }
        for lines in [piped.line(&piped.row(&event)), piped.table(&[event.clone()])] {
            assert!(!lines.contains('…') && lines.matches(&long).count() == 2, "{lines}");
            assert!(!lines.contains('\u{1b}'), "{lines}");
        }
        event["detail"] = json!({});
        assert_eq!(what(&event), "pg1 → pg2, dead, 38.2 ms", "without a message");
        let audit = json!({"kind": "admin.action", "status": "failed", "actor": "uid:0",
            "detail": {"action": "backend.register", "result": "conflict"}});
        assert_eq!(piped.row(&audit)[3..], ["failed", "uid:0", "backend.register: conflict"]);
        let failed =
            json!({"kind": "webhook.failed", "reason": "no answer", "detail": {"webhook": "pager", "event": 7}});
        assert_eq!(what(&failed), "webhook pager, no answer");
        assert_eq!(what(&json!({})), "-");
    }
}
