//! Floor 8: `changeover demo`. The real daemon on loopback, in front of servers that are processes of
//! their own (two echo servers and, where its programs are found, a PostgreSQL primary with two
//! standbys), which are killed and restored by turns while clients come and go.
//!
//! Nothing here is part of the daemon, and it knows of it only what anybody may: the configuration
//! file, the addresses, the transitions. Whatever is started here is ended here.

pub mod backend;
mod cluster;
mod echo;
mod load;
mod play;
mod ports;
mod postgres;
mod process;
mod proxy;
mod report;
mod scratch;
mod script;
mod tally;

use std::sync::mpsc::Receiver;
use std::time::Duration;

use report::Report;
use scratch::Scratch;

/// What `changeover demo` can be asked.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// End by itself after this time, e.g. 20s or 2m; else at Ctrl-C
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    time: Option<Duration>,
    /// Without PostgreSQL, even where its programs are found
    #[arg(long)]
    no_postgres: bool,
}

impl DemoArgs {
    /// What they ask for.
    #[must_use]
    pub fn options(&self) -> DemoOptions {
        DemoOptions { duration: self.time, postgres: !self.no_postgres }
    }
}

/// What the demo shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemoOptions {
    /// For how long clients come; nothing is until told to stop.
    pub duration: Option<Duration>,
    /// Whether PostgreSQL takes part, where it can.
    pub postgres: bool,
}

/// Runs the demo on standard output until its time is up or `stop` receives something.
/// Whether no client failed.
///
/// # Errors
///
/// If the echo servers or the daemon cannot be started or restored, or nothing can be written.
/// Whatever was started has ended by then.
pub fn run(options: DemoOptions, stop: &Receiver<()>) -> anyhow::Result<bool> {
    let mut report = Report::stdout();
    let scratch = Scratch::create()?;
    let played = play::play(options, stop, &scratch, &mut report);
    drop(scratch);
    let count = played?;
    report.summary(count)?;
    Ok(count.failed == 0)
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    parsed
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "a duration has a number and a unit, such as 20s or 2m".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::{DemoArgs, DemoOptions};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DemoArgs,
    }

    fn options(line: &[&str]) -> Option<DemoOptions> {
        Line::try_parse_from([&["demo"], line].concat()).ok().map(|line| line.args.options())
    }

    #[test]
    fn the_time_is_written_as_people_do() {
        assert_eq!(options(&[]), Some(DemoOptions { duration: None, postgres: true }));
        let short = DemoOptions { duration: Some(Duration::from_secs(20)), postgres: false };
        assert_eq!(options(&["--for", "20s", "--no-postgres"]), Some(short));
        let long = DemoOptions { duration: Some(Duration::from_secs(90)), postgres: true };
        assert_eq!(options(&["--for", "1m 30s"]), Some(long));
        for bad in ["20", "0s", "-5s", "soon", ""] {
            assert_eq!(options(&[&format!("--for={bad}")]), None, "{bad}");
        }
    }
}
