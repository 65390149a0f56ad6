//! A session of PostgreSQL from its server's first byte until it is open: moved like any other, and shown to a
//! [`StartupTap`] meanwhile. After that the relay takes over, and knows nothing of it.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use crate::model::{CancelKey, Direction, SessionEnd};
use crate::sys::{Gated, Stream};
use crate::wire::postgres::{StartupTap, Tapped};

use super::buffer::Filled;
use super::loans::Loans;
use super::opening::{Start, poll_receive};
use super::pulse::Pulse;
use super::tell;

/// After so many reads and writes others on the thread have their turn.
const STEPS_BEFORE_YIELD: u32 = 16;

/// What came of listening.
#[derive(Debug)]
pub enum Heard {
    /// There is nothing more to hear: relay on from here. This is the session's key, if it was told.
    On(Start, Option<CancelKey>),
    /// It is over. Both sides have been told.
    Ended(SessionEnd),
}

/// Moves bytes from `start` on, and shows them to `tap`, until that has heard enough, one side ends, or `pulse` says stop.
pub async fn listen(
    client: &Gated,
    backend: &Stream,
    start: Start,
    tap: StartupTap,
    pulse: &Pulse,
    loans: &Loans,
) -> Heard {
    let Start { up, down, ended } = start;
    let mut listening = Listening { client, backend, tap, pulse, loans, up, down };
    let heard = poll_fn(|cx| listening.poll(cx)).await;
    match heard {
        Over::Heard(key) => Heard::On(Start { up: listening.up, down: listening.down, ended }, key),
        Over::Ended(end) => {
            tell(end, client, backend, pulse).await;
            Heard::Ended(end)
        }
    }
}

/// Why to listen no more.
enum Over {
    Heard(Option<CancelKey>),
    Ended(SessionEnd),
}

struct Listening<'a> {
    client: &'a Gated,
    backend: &'a Stream,
    tap: StartupTap,
    pulse: &'a Pulse,
    loans: &'a Loans,
    up: Option<Filled>,
    down: Option<Filled>,
}

impl Listening<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        if let Some(end) = self.pulse.told_to_stop(cx) {
            return Poll::Ready(Over::Ended(end));
        }
        for direction in [Direction::BackendToClient, Direction::ClientToBackend] {
            let mut steps = 0;
            while let Poll::Ready(moved) = self.step(cx, direction) {
                if let Some(over) = moved {
                    return Poll::Ready(over);
                }
                steps += 1;
                if steps == STEPS_BEFORE_YIELD {
                    cx.waker().wake_by_ref();
                    break;
                }
            }
        }
        Poll::Pending
    }

    /// One write, or one read if there is nothing to be written. What fails is left to the relay wherever that meets it again.
    fn step(&mut self, cx: &mut Context<'_>, direction: Direction) -> Poll<Option<Over>> {
        let (held, source) = match direction {
            Direction::ClientToBackend => (&mut self.up, &**self.client),
            Direction::BackendToClient => (&mut self.down, self.backend),
        };
        if let Some(filled) = held {
            let sent = match direction {
                _ if filled.bytes().is_empty() => Ok(0),
                Direction::ClientToBackend => ready!(self.backend.poll_send(cx, filled.bytes())),
                Direction::BackendToClient => ready!(self.client.poll_send(cx, filled.bytes())),
            };
            let Ok(sent) = sent else { return Poll::Ready(Some(Over::Heard(None))) };
            self.pulse.moved(direction, sent);
            filled.start += sent;
            if filled.bytes().is_empty()
                && let Some(filled) = held.take()
            {
                self.loans.buffers.give_back(filled.buffer);
            }
            return Poll::Ready(None);
        }
        let filled = match ready!(poll_receive(cx, source, &self.loans.buffers)) {
            Ok(Some(filled)) => filled,
            Ok(None) => return Poll::Ready(Some(Over::Heard(None))),
            Err(_) if direction == Direction::ClientToBackend => {
                return Poll::Ready(Some(Over::Ended(SessionEnd::ClientReset)));
            }
            Err(_) => return Poll::Ready(Some(Over::Ended(SessionEnd::BackendReset))),
        };
        let tapped = match direction {
            Direction::ClientToBackend => self.tap.client(filled.bytes()),
            Direction::BackendToClient => self.tap.server(filled.bytes()),
        };
        *held = Some(filled);
        Poll::Ready(match tapped {
            Tapped::GoOn => None,
            Tapped::Over(key) => Some(Over::Heard(key)),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::LocalSet;

    use super::{Heard, listen};
    use crate::model::{CancelKey, SessionEnd};
    use crate::relay::tests::pair;
    use crate::relay::{Loans, Pulse, RelayEnd, Start, relay};
    use crate::sys::{Gated, in_time, tally};
    use crate::wire::postgres::StartupTap;

    const STARTUP: &[u8] = b"\0\0\0\x10\0\x03\0\0user\0a\0\0";
    const KEY: &[u8] = b"\0\0\0\x07abcd";
    const OPENING: &[u8] = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x07abcdZ\0\0\0\x05I";

    /// Once the key is known, a session costs what any other does.
    #[tokio::test(flavor = "current_thread")]
    async fn a_message_after_the_login_costs_one_receive_and_one_send() {
        const MESSAGES: usize = 100;
        let ((client, mut person), (backend, mut server)) = (pair().await, pair().await);
        let (local, client) = (LocalSet::new(), Gated::new(client));
        let session = local.spawn_local(async move {
            let (pulse, loans) = (Pulse::new(0, 0), Loans::new(65_536));
            let heard = listen(&client, &backend, Start::default(), StartupTap::default(), &pulse, &loans).await;
            let Heard::On(start, key) = heard else { panic!("{heard:?}") };
            (key, relay(&client, &backend, start, &pulse, &loans).await, pulse.total())
        });
        let spoken = local.run_until(in_time(async {
            let mut message = [7; 200];
            // In pieces, all of which arrive.
            for piece in STARTUP.chunks(5) {
                person.write_all(piece).await.unwrap();
                server.read_exact(&mut message[..piece.len()]).await.unwrap();
                assert_eq!(message[..piece.len()], *piece);
            }
            for piece in OPENING.chunks(3) {
                server.write_all(piece).await.unwrap();
                person.read_exact(&mut message[..piece.len()]).await.unwrap();
                assert_eq!(message[..piece.len()], *piece);
            }
            tally::take();
            for _ in 0..MESSAGES {
                person.write_all(&message).await.unwrap();
                server.read_exact(&mut message).await.unwrap();
                server.write_all(&message).await.unwrap();
                person.read_exact(&mut message).await.unwrap();
            }
            let counted = tally::take();
            for mut end in [person, server] {
                end.shutdown().await.unwrap();
            }
            counted
        }));
        assert_eq!(spoken.await, [4 * MESSAGES, 0], "calls, and calls in vain");
        let (key, end, moved) = local.run_until(in_time(session)).await.unwrap();
        assert_eq!((key, end), (CancelKey::parse(KEY), RelayEnd::Over(SessionEnd::Completed)));
        let said = |login: &[u8]| (login.len() + 200 * MESSAGES) as u64;
        assert_eq!(moved, [said(STARTUP), said(OPENING)]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_login_that_is_cut_short_ends_as_a_session_does() {
        let ((client, mut person), (backend, server)) = (pair().await, pair().await);
        let (client, pulse, loans) = (Gated::new(client), Pulse::new(0, 0), Loans::new(65_536));
        person.write_all(STARTUP).await.unwrap();
        let heard = listen(&client, &backend, Start::default(), StartupTap::default(), &pulse, &loans);
        let spoken = async {
            let (mut server, mut begun) = (server, [0; 16]);
            server.read_exact(&mut begun).await.unwrap();
            server.write_all(&OPENING[..12]).await.unwrap();
            server.shutdown().await.unwrap();
            server
        };
        let (heard, mut server) = in_time(async { tokio::join!(heard, spoken) }).await;
        let Heard::On(start, None) = heard else { panic!("{heard:?}") };
        person.shutdown().await.unwrap();
        let end = in_time(relay(&client, &backend, start, &pulse, &loans)).await;
        assert_eq!(end, RelayEnd::Over(SessionEnd::Completed));
        drop((client, backend));
        let mut heard = Vec::new();
        in_time(person.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard, OPENING[..12]);
        assert_eq!(in_time(server.read(&mut [0; 8])).await.unwrap(), 0);
    }
}
