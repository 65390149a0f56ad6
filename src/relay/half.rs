//! One direction of a session.

use std::io;
use std::task::{Context, Poll, ready};

use crate::model::Direction;
use crate::sys::{Gated, Pipe, Stream};

use super::buffer::Filled;
use super::loans::{LentPipe, Loans};
use super::pulse::Pulse;

/// Steps of reading and writing before a busy direction lets others run.
const STEPS_BEFORE_YIELD: usize = 16;

/// The same in bytes written: a step of a stream moves more than one of a buffer.
const BYTES_BEFORE_YIELD: usize = 256 * 1024;

/// Which end of a direction no longer works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// The side it reads from.
    Source,
    /// The side it writes to.
    Sink,
}

/// Where a direction writes to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sink<'a> {
    Backend(&'a Stream),
    /// Which a fence may have silenced, at any time.
    Client(&'a Gated),
}

impl Sink<'_> {
    fn poll_send(self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Backend(stream) => stream.poll_send(cx, bytes),
            Self::Client(stream) => stream.poll_send(cx, bytes),
        }
    }

    fn poll_drain(self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        match self {
            Self::Backend(stream) => pipe.poll_drain(cx, stream),
            Self::Client(stream) => stream.poll_drain(cx, pipe),
        }
    }
}

/// From where to where a direction goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) source: &'a Stream,
    pub(super) sink: Sink<'a>,
    pub(super) direction: Direction,
}

/// What a direction is doing. A byte that has left the source is in one buffer or in one pipe.
#[derive(Debug)]
enum State {
    /// Waiting for bytes; holds nothing.
    Reading,
    /// Holds bytes that the sink has not taken yet.
    Writing(Filled),
    /// The same, in a pipe.
    Draining(LentPipe),
    /// Nothing more will come.
    Ended,
}

/// How a direction moves bytes.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Through a buffer. So many bytes came in large reads since the last small one.
    Copy { streamed: u32 },
    /// Through a pipe. So many moves since the last one that was not small.
    Splice { small: u8 },
    /// Through a buffer, always: the source cannot be spliced.
    CopyOnly,
}

impl Manner {
    const COPY: Self = Self::Copy { streamed: 0 };
}

/// One direction.
#[derive(Debug)]
pub(super) struct Half {
    state: State,
    manner: Manner,
}

impl Half {
    /// A direction that begins with `first` to be written, if there is something already.
    pub(super) fn new(first: Option<Filled>) -> Self {
        Self { state: first.map_or(State::Reading, State::Writing), manner: Manner::COPY }
    }

    pub(super) const fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Whether it holds nothing and waits for bytes.
    pub(super) const fn is_at_rest(&self) -> bool {
        matches!(self.state, State::Reading)
    }

    /// Its sink is gone: what it holds can go nowhere.
    pub(super) fn give_up(&mut self) {
        self.state = State::Ended;
    }

    /// Moves what can be moved now. Ready once the direction has ended, in order or not; of its end in order the
    /// sink has not been told. Once the source is known to have broken (`source_broke`), its end is no end in order.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        way: Way<'_>,
        pulse: &Pulse,
        loans: &Loans,
        source_broke: bool,
    ) -> Poll<Result<(), Broken>> {
        let (mut steps, mut moved) = (0, 0);
        while steps < STEPS_BEFORE_YIELD && moved < BYTES_BEFORE_YIELD {
            steps += 1;
            let written = match &mut self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Reading => {
                    ready!(self.read(cx, way, loans, source_broke))?;
                    continue;
                }
                State::Writing(filled) if filled.bytes().is_empty() => Ok(0),
                State::Writing(filled) => ready!(way.sink.poll_send(cx, filled.bytes())),
                State::Draining(lent) => ready!(way.sink.poll_drain(cx, &mut lent.pipe)),
            };
            let Ok(written) = written else {
                self.state = State::Ended;
                return Poll::Ready(Err(Broken::Sink));
            };
            pulse.moved(way.direction, written);
            moved += written;
            self.wrote(written, loans);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Waits for bytes, then takes them from the source once.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        way: Way<'_>,
        loans: &Loans,
        source_broke: bool,
    ) -> Poll<Result<(), Broken>> {
        loop {
            if ready!(way.source.poll_readable(cx)).is_err() {
                return self.source_broke();
            }
            if matches!(self.manner, Manner::Splice { .. })
                && let Some(filled) = self.fill(way.source, loans)
            {
                return if filled.is_ok() { Poll::Ready(Ok(())) } else { self.source_broke() };
            }
            let mut buffer = loans.buffers.borrow();
            match way.source.try_recv(&mut buffer) {
                Ok(0) => {
                    loans.buffers.give_back(buffer);
                    // The kernel told of the reset already, to a write, and now reports a plain end.
                    return if source_broke { self.source_broke() } else { self.source_ended() };
                }
                Ok(end) => {
                    self.note_read(end, buffer.len(), loans);
                    self.state = State::Writing(Filled { buffer, start: 0, end });
                    return Poll::Ready(Ok(()));
                }
                Err(error) => {
                    loans.buffers.give_back(buffer);
                    if error.kind() != io::ErrorKind::WouldBlock && error.kind() != io::ErrorKind::Interrupted {
                        return self.source_broke();
                    }
                }
            }
        }
    }

    /// Fills a pipe from the source. None if it is a case for a buffer: there is no pipe, or nothing came, and
    /// only a read can tell whether the source is empty or at its end.
    fn fill(&mut self, source: &Stream, loans: &Loans) -> Option<io::Result<()>> {
        let Some(mut lent) = loans.borrow_pipe() else {
            self.manner = Manner::COPY;
            return None;
        };
        match lent.pipe.fill(source, loans.splicing.pipe_size) {
            Ok(moved) if moved > 0 => {
                self.note_moved(moved, loans);
                self.state = State::Draining(lent);
                return Some(Ok(()));
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.manner = Manner::CopyOnly,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock && error.kind() != io::ErrorKind::Interrupted => {
                // A socket tells of its end once: a read would not hear of it again.
                return Some(Err(error));
            }
            Ok(_) | Err(_) => {}
        }
        loans.give_back_pipe(lent);
        None
    }

    /// A read of `length` bytes into a buffer of `most`: three large ones in a row and it is a stream.
    fn note_read(&mut self, length: usize, most: usize, loans: &Loans) {
        match &mut self.manner {
            Manner::Copy { streamed } if length >= loans.splicing.large_read.min(most) => {
                *streamed = streamed.saturating_add(u32::try_from(length).unwrap_or(u32::MAX));
                if usize::try_from(*streamed).is_ok_and(|streamed| streamed >= loans.splicing.stream) {
                    self.manner = Manner::Splice { small: 0 };
                }
            }
            Manner::Copy { streamed } => *streamed = 0,
            Manner::Splice { .. } => self.note_moved(length, loans),
            Manner::CopyOnly => {}
        }
    }

    /// A move of `length` bytes while it is a stream.
    fn note_moved(&mut self, length: usize, loans: &Loans) {
        let Manner::Splice { small } = &mut self.manner else { return };
        *small = if length < loans.splicing.small_move { *small + 1 } else { 0 };
        if *small >= loans.splicing.small_moves {
            self.manner = Manner::COPY;
        }
    }

    /// The sink took `length` bytes: gives back what held them once it holds no more.
    fn wrote(&mut self, length: usize, loans: &Loans) {
        if let State::Writing(filled) = &mut self.state {
            filled.start += length;
        }
        let done = match &self.state {
            State::Writing(filled) => filled.bytes().is_empty(),
            State::Draining(lent) => lent.pipe.is_empty(),
            State::Reading | State::Ended => false,
        };
        if done {
            match std::mem::replace(&mut self.state, State::Reading) {
                State::Writing(filled) => loans.buffers.give_back(filled.buffer),
                State::Draining(lent) => loans.give_back_pipe(lent),
                State::Reading | State::Ended => {}
            }
        }
    }

    /// The source will send no more, and all it sent is written: the sink is to be told.
    fn source_ended(&mut self) -> Poll<Result<(), Broken>> {
        self.state = State::Ended;
        Poll::Ready(Ok(()))
    }

    fn source_broke(&mut self) -> Poll<Result<(), Broken>> {
        self.state = State::Ended;
        Poll::Ready(Err(Broken::Source))
    }
}
