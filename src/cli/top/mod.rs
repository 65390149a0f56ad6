//! `changeover top`: a full-screen live view of the daemon, with keys for the orders that cannot wait. What is shown and what a key
//! means is in `screen`, without a terminal; how it looks in `draw`; what is asked of the daemon in `feed`, on a thread of its own, so
//! that a daemon that does not answer stops no key.

mod draw;
mod feed;
mod rows;
mod screen;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal};
use std::sync::mpsc;
use std::time::Duration;

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};

use crate::model::Address;
use crate::sys::{Clock, on_signals};

use super::exit::CliError;
use super::{Reach, colour, connect_by};

use feed::Feed;
use screen::{Next, Screen};

/// The longest that news of the daemon or a signal waits to be shown.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How to find the daemon.
#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    reach: Reach,
}

/// Shows the daemon until `q` is pressed.
///
/// # Errors
///
/// If there is no terminal, or how to find the daemon makes no sense; a daemon that is not there is shown.
pub(super) fn top(args: &TopArgs) -> Result<(), CliError> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(CliError::Terminal);
    }
    // Orders go over a Unix socket, if the file has one.
    let client = connect_by(&args.reach, |address| matches!(address, Address::Unix(_)))?;
    let broken = |error: io::Error| CliError::Internal(format!("the terminal cannot be used: {error}"));
    let clock = Clock::start();
    let mut screen = Screen::new(client.address(), !colour::is_unwanted());
    let feed = Feed::start(client, clock).map_err(broken)?;
    let (stop, stopped) = mpsc::channel();
    on_signals(move |_| stop.send(()).is_ok()).map_err(broken)?;
    // Leaves the terminal as it was also if there is a panic.
    let mut terminal = ratatui::try_init().map_err(broken)?;
    let ran = run(&mut terminal, &mut screen, &feed, &stopped);
    let restored = ratatui::try_restore();
    ran.and(restored).map_err(broken)
}

fn run(
    terminal: &mut DefaultTerminal,
    screen: &mut Screen,
    feed: &Feed,
    stopped: &mpsc::Receiver<()>,
) -> io::Result<()> {
    loop {
        while let Some(news) = feed.news() {
            screen.take(news);
        }
        terminal.draw(|frame| draw::screen(frame, screen))?;
        if stopped.try_recv().is_ok() {
            return Ok(());
        }
        if !event::poll(LOOK_EVERY)? {
            continue;
        }
        if let Event::Key(key) = event::read()? {
            match screen.key(key) {
                Next::Nothing => {}
                Next::Ask(question) => feed.ask(question),
                Next::Quit => return Ok(()),
            }
        }
    }
}
