//! The log: configured here and nowhere else.

use std::io::IsTerminal;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;

use crate::model::{LogFormat, LogLevel, LogPlan};

/// Begins to log to standard error as `plan` says. Only the first call in a process counts.
pub fn init(plan: LogPlan) {
    let level = match plan.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let terminal = std::io::stderr().is_terminal();
    let builder = fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    let started = match plan.format {
        LogFormat::Auto if !terminal => builder.json().flatten_event(true).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Auto | LogFormat::Text => builder.with_ansi(terminal).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "the log goes where it went before");
    }
}
