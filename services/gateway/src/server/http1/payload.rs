//! A request's body between the connection, which reads it, and the handler, which may do so in a
//! task of its own.

use super::limits::{MAX_BODY_AHEAD, MAX_PIECES};
use actix_http::{BoxedPayloadStream, error::PayloadError};
use bytes::Bytes;
use futures_util::Stream;
use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// What comes when the pieces that are there are taken.
enum Next {
    /// More of the body.
    More,
    Failed(Option<PayloadError>),
    End,
    /// The body is over, and whether the connection switches protocols is not known.
    Undecided {
        /// Whether the reader is still to be told that the body is over.
        announce: bool,
    },
}

struct Channel {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    next: Next,
    /// Whether the request asked for another protocol, and what it had of a body.
    upgrade: Option<bool>,
    polled: bool,
    dropped: bool,
    reader: Option<Waker>,
    driver: Option<Waker>,
}

impl Channel {
    fn has_room(&self) -> bool {
        self.bytes < MAX_BODY_AHEAD && self.pieces.len() < MAX_PIECES
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}

/// The connection's end.
pub(super) struct Feed(Rc<RefCell<Channel>>);

/// The handler's end. Of a request that asked for another protocol it gives the body first, if
/// there is one, and its end; and when the connection has switched, everything that comes after.
struct RequestPayload(Rc<RefCell<Channel>>);

/// A body that is to come. `upgrade` is set for a request that asks for another protocol, to
/// whether it has a body of its own.
pub(super) fn channel(upgrade: Option<bool>) -> (Feed, BoxedPayloadStream) {
    let channel = Rc::new(RefCell::new(Channel {
        pieces: VecDeque::new(),
        bytes: 0,
        next: Next::More,
        upgrade,
        polled: false,
        dropped: false,
        reader: None,
        driver: None,
    }));
    let payload = RequestPayload(Rc::clone(&channel));
    (Feed(channel), Box::pin(payload))
}

impl Feed {
    /// Whether more may be read for it.
    pub(super) fn has_room(&self) -> bool {
        let channel = self.0.borrow();
        !channel.dropped && channel.has_room()
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.0.borrow().dropped
    }

    /// Whether anybody has asked for the body.
    pub(super) fn is_polled(&self) -> bool {
        self.0.borrow().polled
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.0.borrow().bytes
    }

    pub(super) fn push(&self, piece: Bytes) {
        let mut channel = self.0.borrow_mut();
        channel.bytes += piece.len();
        channel.pieces.push_back(piece);
        channel.wake_reader();
    }

    /// The body is complete.
    pub(super) fn end(&self) {
        let mut channel = self.0.borrow_mut();
        channel.next = match channel.upgrade {
            Some(announce) => Next::Undecided { announce },
            None => Next::End,
        };
        channel.wake_reader();
    }

    /// The body is over and not complete; or, after a switch, the client has ended.
    pub(super) fn fail(&self, error: Option<io::Error>) {
        let mut channel = self.0.borrow_mut();
        if matches!(channel.next, Next::More) {
            let error = error.map_or(PayloadError::Incomplete(None), PayloadError::Io);
            channel.next = Next::Failed(Some(error));
            channel.wake_reader();
        }
    }

    /// The response is no switch of protocols.
    pub(super) fn refuse_switch(&self) {
        let mut channel = self.0.borrow_mut();
        channel.upgrade = None;
        if matches!(channel.next, Next::Undecided { .. }) {
            channel.next = Next::End;
            channel.wake_reader();
        }
    }

    /// What comes from now on is the other protocol's.
    pub(super) fn switch(&self) {
        let mut channel = self.0.borrow_mut();
        channel.upgrade = None;
        channel.next = Next::More;
        channel.wake_reader();
    }

    /// Wakes the connection when the reader asks, takes or leaves.
    pub(super) fn register(&self, cx: &Context<'_>) {
        let mut channel = self.0.borrow_mut();
        match &channel.driver {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => channel.driver = Some(cx.waker().clone()),
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.refuse_switch();
        self.fail(None);
    }
}

impl Stream for RequestPayload {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut channel = self.0.borrow_mut();
        let asked_first = !std::mem::replace(&mut channel.polled, true);
        let was_full = !channel.has_room();
        if let Some(piece) = channel.pieces.pop_front() {
            channel.bytes -= piece.len();
            if asked_first || was_full {
                channel.wake_driver();
            }
            return Poll::Ready(Some(Ok(piece)));
        }
        match &mut channel.next {
            Next::End => return Poll::Ready(None),
            Next::Failed(error) => return Poll::Ready(error.take().map(Err)),
            Next::Undecided { announce } if *announce => {
                *announce = false;
                return Poll::Ready(None);
            }
            Next::Undecided { .. } | Next::More => {}
        }
        channel.reader = Some(cx.waker().clone());
        if asked_first {
            channel.wake_driver();
        }
        Poll::Pending
    }
}

impl Drop for RequestPayload {
    fn drop(&mut self) {
        let mut channel = self.0.borrow_mut();
        channel.dropped = true;
        channel.pieces.clear();
        channel.bytes = 0;
        channel.wake_driver();
    }
}

#[cfg(test)]
#[path = "payload/tests.rs"]
mod tests;
