//! A program whose standard input and output are a connection: a [`Stream`] like any other, but for its ends.
//!
//! A socket that is closed tells the same whether its program has done its work or was killed halfway. So the end of what comes
//! from a program is none before it is known how that ended: with code 0 it is an end in order, and else a reset. In the same way
//! a connection that is cut takes its program with it, and what that had still to pass on; one that is closed in order leaves it
//! some time for that.
//!
//! A task beside the connection looks after the program, in the runtime in which it was started: it drains what the program says
//! to standard error, waits for its end, and kills it when its time is up. With the runtime it ends, and the program with it.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::{Child, RunError, Stream};

/// How long a program may take from the end of its output to its own.
const END_MAX: Duration = Duration::from_secs(5);
/// Standard error is read in pieces of so many bytes.
const READ: usize = 4096;
/// So many bytes of it may be left when a program has ended: as many as a pipe holds.
const LEFT_MAX: usize = 64 << 10;

/// So many bytes of what a program says are told at once, and so many more in a millisecond. What goes beyond that is read and
/// forgotten: telling costs a hundred times as much, and other connections of the thread wait meanwhile.
const TOLD_MAX: usize = 1 << 20;
const TOLD_PER_MILLISECOND: usize = 64;
/// Once there was more, nothing is told until there is room for so much again: rather some of it whole than all in pieces.
const TOLD_AGAIN: usize = TOLD_MAX / 4;

/// What there is to hear of a program, each in its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard<'a> {
    /// It has said this to standard error: a piece as it was read, which may hold whatever the program was given.
    Bytes(&'a [u8]),
    /// It says more than can be told: something is left out here.
    Flood,
    /// It will say nothing more.
    End,
}

/// Who hears one program.
pub type Said = Box<dyn FnMut(Heard<'_>) + Send>;

/// The connection with a program.
#[derive(Debug)]
pub struct Attached {
    stream: UnixStream,
    hold: Hold,
}

/// What keeps a program: dropped, it has it come to its end.
#[derive(Debug)]
pub(super) struct Hold(Arc<Life>);

#[derive(Debug)]
struct Life {
    state: Mutex<State>,
    /// There is something new for the task that looks after the program.
    ordered: Notify,
    /// Nothing more will come from the program.
    at_end: AtomicBool,
    /// Its connection's close is no end in order.
    resets: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Its process group, until it has been waited for.
    group: Option<Pid>,
    /// Whether it has ended as it should; none while that is not known.
    end: Option<bool>,
    /// Since its output has ended, that of its own is waited for.
    awaited: bool,
    /// Its connection is closed.
    closed: bool,
    /// Who waits for its end.
    reader: Option<Waker>,
}

impl Stream {
    /// The connection with `child`, which has one. It may take `grace` for its end once the connection is closed; `place` is
    /// given back when nothing is left of it. In a runtime with time.
    ///
    /// # Errors
    ///
    /// If there is no connection, or the runtime cannot watch it. The program is killed then.
    pub fn of_program(
        mut child: Child,
        grace: Duration,
        said: Said,
        place: impl Send + 'static,
    ) -> Result<Self, RunError> {
        let missing = || RunError::Local(io::Error::other("it was started without a connection"));
        let connection: StdUnixStream = child.connection.take().ok_or_else(missing)?;
        let stream = UnixStream::from_std(connection).map_err(RunError::Local)?;
        let output = child.output.take().map(pipe::Receiver::from_owned_fd).transpose().map_err(RunError::Local)?;
        let group = i32::try_from(child.pid()).ok().and_then(Pid::from_raw);
        let state = Mutex::new(State { group, ..State::default() });
        let life = Arc::new(Life { state, ordered: Notify::new(), at_end: false.into(), resets: false.into() });
        let flood = Flood { room: TOLD_MAX, reckoned: Instant::now(), is_one: false };
        let attendance = Attendance { life: Arc::clone(&life), grace, said, output, flood };
        tokio::spawn(async move {
            attendance.attend(child).await;
            drop(place);
        });
        Ok(Self::Program(Box::new(Attached { stream, hold: Hold(life) })))
    }

    /// What was received, or what its end means.
    pub(super) fn judged(&self, received: io::Result<usize>) -> io::Result<usize> {
        match (self, received) {
            (Self::Program(program), Ok(0)) => program.hold().end(),
            (Self::Tcp(_) | Self::Unix(_) | Self::Program(_), received) => received,
        }
    }
}

impl Attached {
    pub(super) const fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(super) const fn hold(&self) -> &Hold {
        &self.hold
    }

    pub(super) fn into_parts(self) -> (UnixStream, Hold) {
        (self.stream, self.hold)
    }

    pub(super) const fn from_parts(stream: UnixStream, hold: Hold) -> Self {
        Self { stream, hold }
    }

    /// As [`Stream::poll_readable`].
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.hold.0.at_end.load(Ordering::Relaxed) {
            return self.stream.poll_read_ready(cx);
        }
        let mut state = self.hold.0.state();
        match state.end {
            Some(_) => Poll::Ready(Ok(())),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Hold {
    /// What it means that nothing more comes from the program: its end, once it is known to be in order.
    ///
    /// # Errors
    ///
    /// `WouldBlock` until it is known, and `ConnectionReset` if it is not in order.
    pub(super) fn end(&self) -> io::Result<usize> {
        self.0.at_end.store(true, Ordering::Relaxed);
        let mut state = self.0.state();
        match state.end {
            Some(true) => Ok(0),
            Some(false) => Err(io::ErrorKind::ConnectionReset.into()),
            None => {
                if !std::mem::replace(&mut state.awaited, true) {
                    self.0.ordered.notify_one();
                }
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }

    /// Kills the program now, from any thread.
    pub(super) fn kill(&self) {
        self.0.kill();
    }

    /// Has the coming close kill the program.
    pub(super) fn reset_on_close(&self) {
        self.0.resets.store(true, Ordering::Relaxed);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.0.resets.load(Ordering::Relaxed) {
            self.0.kill();
        }
        self.0.state().closed = true;
        self.0.ordered.notify_one();
    }
}

impl Life {
    /// A panic while the lock was held cannot have left the state half changed: every change is one step.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills what is left of the program's group. It has not ended in order, whatever its code will be.
    fn kill(&self) {
        let mut state = self.state();
        if let Some(group) = state.group {
            // Until it is waited for, no other group has its number. The only other answer is that all of it is gone.
            let _gone = kill_process_group(group, Signal::KILL);
        }
        state.tell(false);
    }
}

impl State {
    /// Tells how the program ended; of two words the first counts.
    fn tell(&mut self, in_order: bool) {
        self.end.get_or_insert(in_order);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// What the task has that looks after a program.
struct Attendance {
    life: Arc<Life>,
    grace: Duration,
    said: Said,
    output: Option<pipe::Receiver>,
    flood: Flood,
}

/// How much more may be told of what a program says.
struct Flood {
    room: usize,
    reckoned: Instant,
    is_one: bool,
}

impl Drop for Attendance {
    /// Before the program is dropped, and waited for by somebody else: its number is then another's.
    fn drop(&mut self) {
        let mut state = self.life.state();
        state.group = None;
        state.tell(false);
    }
}

impl Attendance {
    async fn attend(self, child: Child) {
        // In this order, so that the program is dropped last: see above.
        let mut child = child;
        let mut attendance = self;
        attendance.until_it_has_ended(&child).await;
        // What it has left behind would pile up, connection after connection.
        if let Some(group) = attendance.life.state().group.take() {
            let _gone = kill_process_group(group, Signal::KILL);
        }
        let status = child.ended().await;
        attendance.hear_the_rest();
        attendance.life.state().tell(status.is_ok_and(|status| status.success()));
    }

    async fn until_it_has_ended(&mut self, child: &Child) {
        let mut due: Option<Instant> = None;
        let mut part = vec![0; READ];
        loop {
            let life = &self.life;
            let output = self.output.as_mut();
            let heard = async {
                match output {
                    Some(output) => hear(output, &mut part).await,
                    None => std::future::pending().await,
                }
            };
            let time_is_up = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            // Cancel-safety: all but the reading only wait, and that takes nothing before it returns.
            tokio::select! {
                biased;
                // An error is that it cannot be waited for: then it is killed.
                _ended = child.exited() => return,
                () = life.ordered.notified() => {
                    let state = life.state();
                    let now = Instant::now();
                    let until = [(state.awaited, END_MAX), (state.closed, self.grace)];
                    let until = until.into_iter().filter(|(is_so, _)| *is_so).map(|(_, time)| now + time).min();
                    drop(state);
                    due = [due, until].into_iter().flatten().min();
                }
                () = time_is_up => {
                    life.kill();
                    due = None;
                }
                length = heard => {
                    if length == 0 {
                        self.output = None;
                    }
                    self.tell(part.get(..length).unwrap_or_default());
                    // Whoever says much is not to hold up the other connections of the thread.
                    yield_now().await;
                }
            }
        }
    }

    /// Tells `bytes`, if they are no flood.
    fn tell(&mut self, bytes: &[u8]) {
        let now = Instant::now();
        let Flood { room, reckoned, is_one } = &mut self.flood;
        let time = now.saturating_duration_since(*reckoned).as_millis();
        if time > 0 {
            let more = usize::try_from(time).unwrap_or(usize::MAX).saturating_mul(TOLD_PER_MILLISECOND);
            (*room, *reckoned) = (room.saturating_add(more).min(TOLD_MAX), now);
        }
        let was_one = std::mem::replace(is_one, *room < if *is_one { TOLD_AGAIN } else { bytes.len() });
        if !*is_one {
            *room -= bytes.len();
            (self.said)(Heard::Bytes(bytes));
        } else if !was_one {
            (self.said)(Heard::Flood);
        }
    }

    /// What is left in the pipe.
    fn hear_the_rest(&mut self) {
        let (mut part, mut read) = (vec![0; READ], 0);
        while let Some(output) = self.output.as_mut().filter(|_| read < LEFT_MAX) {
            match output.try_read(&mut part) {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    read += length;
                    (self.said)(Heard::Bytes(part.get(..length).unwrap_or_default()));
                }
            }
        }
        if read >= LEFT_MAX {
            (self.said)(Heard::Flood);
        }
        (self.said)(Heard::End);
    }
}

/// Reads once; nothing is the end.
async fn hear(output: &mut pipe::Receiver, part: &mut [u8]) -> usize {
    loop {
        if output.readable().await.is_err() {
            return 0;
        }
        match output.try_read(part) {
            Ok(length) => return length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return 0,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::sys::{Launch, RestWatch, Spawner, in_time, process};

    async fn program(script: &str, grace: Duration) -> (Stream, u32) {
        program_of(&Spawner::start().unwrap(), script, grace).await
    }

    async fn program_of(spawner: &Spawner, script: &str, grace: Duration) -> (Stream, u32) {
        program_with(spawner, script, grace, Box::new(|_| {})).await
    }

    async fn program_with(spawner: &Spawner, script: &str, grace: Duration, said: Said) -> (Stream, u32) {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        let launch = Launch { argv, env: Vec::new(), file: None, connects: true, mark: "m".to_owned() };
        let child = spawner.spawn(launch).await.unwrap();
        let pid = child.pid();
        (Stream::of_program(child, grace, said, ()).unwrap(), pid)
    }

    async fn until_gone(pid: u32) {
        in_time(async {
            while process(pid).is_some() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// The next bytes, as text.
    async fn heard(stream: &Stream) -> io::Result<String> {
        let mut part = [0; 64];
        let length = in_time(stream.receive(&mut part)).await?;
        Ok(String::from_utf8_lossy(&part[..length]).into_owned())
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn one_at_rest_wakes_with_its_bytes_and_its_program() {
        let (stream, pid) = program("read line; echo $line; cat", LONG).await;
        let (resting, watch) = (stream.rest().unwrap(), RestWatch::new().unwrap());
        watch.add(&resting, 7).unwrap();
        rustix::net::send(&resting, b"hello\n", rustix::net::SendFlags::empty()).unwrap();
        let mut keys = Vec::new();
        in_time(watch.news(&mut keys)).await.unwrap();
        assert_eq!(keys, [7]);
        let stream = resting.wake().unwrap();
        assert_eq!(heard(&stream).await.unwrap(), "hello\n");
        stream.send_all(b"again").await.unwrap();
        stream.end_writing().unwrap();
        assert_eq!(heard(&stream).await.unwrap(), "again");
        assert_eq!(heard(&stream).await.unwrap(), "", "an end in order");
        until_gone(pid).await;
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_takes_its_program_with_it_awake_or_at_rest() {
        let (stream, pid) = program("exec sleep 1000", LONG).await;
        stream.abort();
        assert_eq!(heard(&stream).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        until_gone(pid).await;
        let (stream, pid) = program("exec sleep 1000", LONG).await;
        let resting = stream.rest().unwrap();
        resting.abort();
        until_gone(pid).await;
        let (stream, pid) = program("exec sleep 1000", LONG).await;
        stream.reset_on_close();
        drop(stream.rest().unwrap());
        until_gone(pid).await;
        let (stream, pid) = program("exec sleep 1000", Duration::from_millis(20)).await;
        drop(stream.rest().unwrap());
        until_gone(pid).await;
    }

    #[tokio::test]
    async fn whoever_waits_for_the_end_is_woken_when_it_is_known() {
        for (script, in_order) in [("exec >&- <&-; sleep 0.1", true), ("exec >&- <&-; sleep 0.1; exit 1", false)] {
            let (stream, _) = program(script, LONG).await;
            let mut part = [0; 1];
            // Its output has ended, and it has not.
            in_time(poll_fn(|cx| stream.poll_readable(cx))).await.unwrap();
            while stream.try_recv(&mut part).is_err()
                && !matches!(&stream, Stream::Program(program) if program.hold.0.at_end.load(Ordering::Relaxed))
            {
                in_time(poll_fn(|cx| stream.poll_readable(cx))).await.unwrap();
            }
            assert_eq!(heard(&stream).await.is_ok(), in_order, "{script}");
        }
    }

    #[tokio::test]
    async fn what_it_has_left_behind_is_killed_with_it() {
        // Who has started them is who waits for what is left of them.
        let spawner = Spawner::start().unwrap();
        let (stream, pid) = program_of(&spawner, "sleep 1000 & echo $!; exit 0", LONG).await;
        let left: u32 = heard(&stream).await.unwrap().trim().parse().unwrap();
        assert_eq!(heard(&stream).await.unwrap(), "", "its end is in order all the same");
        until_gone(pid).await;
        until_gone(left).await;
    }

    #[tokio::test]
    async fn what_it_says_is_heard_as_it_came_and_its_end_is_the_last_of_it() {
        #[derive(Debug, Default, PartialEq)]
        struct All {
            bytes: Vec<u8>,
            ends: u32,
        }
        let all = Arc::new(Mutex::new(All::default()));
        let kept = Arc::clone(&all);
        let said: Said = Box::new(move |heard| {
            let mut all = kept.lock().unwrap();
            assert_eq!(all.ends, 0, "{heard:?}");
            match heard {
                Heard::Bytes(bytes) => all.bytes.extend_from_slice(bytes),
                Heard::Flood => panic!("it says little"),
                Heard::End => all.ends += 1,
            }
        });
        let script = r"printf 'one\n\033[1mtwo' >&2; exec >&- <&-; sleep 0.01; printf ' three' >&2";
        let (stream, _) = program_with(&Spawner::start().unwrap(), script, LONG, said).await;
        assert_eq!(heard(&stream).await.unwrap(), "");
        assert_eq!(*all.lock().unwrap(), All { bytes: b"one\n\x1b[1mtwo three".to_vec(), ends: 1 });
    }

    #[test]
    fn with_its_runtime_the_program_ends() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (stream, pid) = runtime.block_on(program("exec sleep 1000", LONG));
        drop(runtime);
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(until_gone(pid));
        // Its number may be another's by now.
        stream.abort();
    }
}
