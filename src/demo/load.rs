//! The clients: what they do, over and over, and how it is counted.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::model::MonoTime;
use crate::sys::Clock;

use super::cluster::Client;
use super::report::{News, Pool, Voice};
use super::tally::Tally;

/// Echo clients at once.
pub(super) const ECHO_CLIENTS: usize = 4;
/// From one connection of an echo client to its next, about.
const ECHO_PAUSE: Duration = Duration::from_millis(20);
/// From one query to the next.
const QUERY_PAUSE: Duration = Duration::from_millis(200);
/// How long a client waits for anything; longer than the daemon holds one.
const PATIENCE: Duration = Duration::from_secs(15);
/// The largest payload, in bytes.
const PAYLOAD_MAX: usize = 4096;
/// The longest line with a server's name, in bytes.
const NAME_MAX: u64 = 64;

/// How an attempt failed.
#[derive(Debug)]
enum Mishap {
    /// The server never said anything.
    Unanswered(anyhow::Error),
    /// It did, or nobody can tell.
    CutOff(anyhow::Error),
}

/// What all clients share.
#[derive(Debug)]
pub(super) struct Load<'a> {
    /// The clock of the demo.
    pub(super) clock: Clock,
    /// Whether they shall come no more.
    pub(super) over: &'a AtomicBool,
    /// Where they are counted.
    pub(super) tally: &'a Tally,
}

impl Load<'_> {
    /// An echo client, until it is over.
    pub(super) fn echo(&self, address: SocketAddr, news: &Sender<News>) {
        while !self.over.load(Ordering::SeqCst) {
            self.visit(Pool::Echo, news, || echo_once(address, self.clock));
            thread::park_timeout(ECHO_PAUSE);
        }
    }

    /// A client of PostgreSQL, until it is over.
    pub(super) fn query(&self, address: SocketAddr, client: &Client, news: &Sender<News>) {
        while !self.over.load(Ordering::SeqCst) {
            // psql does not tell how far it came.
            self.visit(Pool::Postgres, news, || self.query_once(address, client).map_err(Mishap::CutOff));
            thread::park_timeout(QUERY_PAUSE);
        }
    }

    fn query_once(&self, address: SocketAddr, client: &Client) -> anyhow::Result<(String, MonoTime)> {
        let name = match client.ask(address, "select pg_is_in_recovery()", PATIENCE)?.as_str() {
            "t" => "standby",
            "f" => "primary",
            other => bail!("psql says `{other}`"),
        };
        Ok((name.to_owned(), self.clock.now()))
    }

    /// One client, from its first connection to what it came for. `attempt` tells who served, and when it had that.
    ///
    /// A client that is in conversation with a server while that is killed is cut off: no proxy can save
    /// half a conversation, so it comes again, and its wait goes on. Any other mishap is a failure.
    fn visit(&self, pool: Pool, news: &Sender<News>, mut attempt: impl FnMut() -> Result<(String, MonoTime), Mishap>) {
        let start = self.clock.now();
        loop {
            let kills = self.tally.kills();
            match attempt() {
                Ok((name, at)) => return self.tally.serve(&name, at.since(start)),
                Err(Mishap::CutOff(_)) if self.tally.killed_since(kills) => self.tally.cut(),
                Err(Mishap::CutOff(error) | Mishap::Unanswered(error)) => {
                    let at = self.clock.now();
                    if self.tally.fail(at.since(start)) {
                        let text = format!("the first client that failed: {error:#}");
                        // Nobody listens any more only when the demo is over.
                        news.send(News { at, voice: Voice::Client, pool, text }).ok();
                    }
                    return;
                }
            }
        }
    }
}

/// Who served, and when the echo was complete.
fn echo_once(address: SocketAddr, clock: Clock) -> Result<(String, MonoTime), Mishap> {
    let (reader, name) = meet(address).context("no name").map_err(Mishap::Unanswered)?;
    let at = talk(reader, clock).context("no echo").map_err(Mishap::CutOff)?;
    Ok((name, at))
}

/// A connection to a server that has said its name.
fn meet(address: SocketAddr) -> io::Result<(BufReader<TcpStream>, String)> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut name = String::new();
    reader.by_ref().take(NAME_MAX).read_line(&mut name)?;
    if name.pop() != Some('\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the server said its name"));
    }
    Ok((reader, name))
}

/// Has something echoed, and leaves. When the echo was complete.
fn talk(mut reader: BufReader<TcpStream>, clock: Clock) -> io::Result<MonoTime> {
    let payload: Vec<u8> = (0..fastrand::usize(1..=PAYLOAD_MAX)).map(|_| fastrand::u8(..)).collect();
    reader.get_mut().write_all(&payload)?;
    let mut answer = vec![0; payload.len()];
    reader.read_exact(&mut answer)?;
    let at = clock.now();
    if answer != payload {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "other bytes came back than were sent"));
    }
    reader.get_ref().shutdown(Shutdown::Write)?;
    match reader.read(&mut answer)? {
        0 => Ok(at),
        count => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{count} bytes too many came back"))),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;
    use std::time::Duration;

    use anyhow::anyhow;

    use super::{Load, Mishap, echo_once};
    use crate::demo::report::Pool;
    use crate::demo::tally::Tally;
    use crate::sys::Clock;

    #[test]
    fn a_client_that_is_cut_off_by_a_kill_comes_again_and_has_not_failed() {
        let (tally, over, (news, heard)) = (Tally::default(), AtomicBool::new(false), mpsc::channel());
        let load = Load { clock: Clock::start(), over: &over, tally: &tally };
        let mut attempts = 0;
        load.visit(Pool::Echo, &news, || {
            attempts += 1;
            if attempts == 1 {
                tally.kill(|| Err(Mishap::CutOff(anyhow!("cut"))))
            } else {
                Ok(("beta".to_owned(), load.clock.now()))
            }
        });
        let count = tally.count();
        assert_eq!((count.served, count.failed, count.cut), (1, 0, 1));
        load.visit(Pool::Echo, &news, || Err(Mishap::CutOff(anyhow!("refused"))));
        load.visit(Pool::Echo, &news, || tally.kill(|| Err(Mishap::Unanswered(anyhow!("never heard a byte")))));
        assert_eq!(tally.count().failed, 2);
        assert_eq!(heard.try_recv().unwrap().text, "the first client that failed: refused");
        assert!(heard.try_recv().is_err());
    }

    #[test]
    fn a_connection_that_is_closed_at_once_is_no_echo() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || drop(listener.accept()));
        assert!(matches!(echo_once(address, Clock::start()), Err(Mishap::Unanswered(_))));
        assert!(Duration::ZERO < super::PATIENCE);
    }
}
