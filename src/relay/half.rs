//! One direction of a session.

use std::io;
use std::task::{Context, Poll, ready};

use crate::model::Direction;
use crate::sys::Stream;

use super::buffer::{BufferPool, Filled};
use super::pulse::Pulse;

/// Rounds of read and write before a busy direction lets others run.
const ROUNDS_BEFORE_YIELD: usize = 16;

/// Which end of a direction no longer works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// The side it reads from.
    Source,
    /// The side it writes to.
    Sink,
}

/// What a direction is doing.
#[derive(Debug)]
enum State {
    /// Waiting for bytes; holds nothing.
    Reading,
    /// Holds bytes that the sink has not taken yet.
    Writing(Filled),
    /// Nothing more will come.
    Ended,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Half<'a> {
    source: &'a Stream,
    sink: &'a Stream,
    direction: Direction,
    state: State,
}

impl<'a> Half<'a> {
    /// A direction that begins with `first` to be written, if there is something already.
    pub(super) fn new(source: &'a Stream, sink: &'a Stream, direction: Direction, first: Option<Filled>) -> Self {
        Self { source, sink, direction, state: first.map_or(State::Reading, State::Writing) }
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

    /// Moves what can be moved now. Ready once the direction has ended, in order or not. Once the source
    /// is known to have broken (`source_broke`), its end is no end in order.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        pulse: &Pulse,
        buffers: &BufferPool,
        source_broke: bool,
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..ROUNDS_BEFORE_YIELD {
            match &mut self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Reading => ready!(self.read(cx, buffers, source_broke))?,
                State::Writing(filled) if filled.start == filled.end => self.finish_write(buffers),
                State::Writing(filled) => {
                    let Ok(written) = ready!(self.sink.poll_send(cx, filled.bytes())) else {
                        self.state = State::Ended;
                        return Poll::Ready(Err(Broken::Sink));
                    };
                    pulse.moved(self.direction, written);
                    filled.start += written;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Waits for bytes, then borrows a buffer and receives into it once.
    fn read(&mut self, cx: &mut Context<'_>, buffers: &BufferPool, broke: bool) -> Poll<Result<(), Broken>> {
        loop {
            if ready!(self.source.poll_readable(cx)).is_err() {
                return self.source_broke();
            }
            let mut buffer = buffers.borrow();
            match self.source.try_recv(&mut buffer) {
                Ok(0) => {
                    buffers.give_back(buffer);
                    // The kernel told of the reset already, to a write, and now reports a plain end.
                    return if broke { self.source_broke() } else { self.source_ended() };
                }
                Ok(end) => {
                    self.state = State::Writing(Filled { buffer, start: 0, end });
                    return Poll::Ready(Ok(()));
                }
                Err(error) => {
                    buffers.give_back(buffer);
                    if error.kind() != io::ErrorKind::WouldBlock && error.kind() != io::ErrorKind::Interrupted {
                        return self.source_broke();
                    }
                }
            }
        }
    }

    fn finish_write(&mut self, buffers: &BufferPool) {
        if let State::Writing(filled) = std::mem::replace(&mut self.state, State::Reading) {
            buffers.give_back(filled.buffer);
        }
    }

    /// The source will send no more, and all it sent is written: pass that on.
    fn source_ended(&mut self) -> Poll<Result<(), Broken>> {
        self.state = State::Ended;
        let told = self.sink.end_writing();
        Poll::Ready(told.map_err(|_| Broken::Sink))
    }

    fn source_broke(&mut self) -> Poll<Result<(), Broken>> {
        self.state = State::Ended;
        Poll::Ready(Err(Broken::Source))
    }
}
