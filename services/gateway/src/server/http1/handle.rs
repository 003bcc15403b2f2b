//! What a handler may have of the connection that its request came on: interim responses, and
//! whether the client is still there.

use super::limits::{MAX_INTERIM, MAX_INTERIM_BYTES};
use actix_web::HttpMessage;
use bytes::BytesMut;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Waker},
};
use tokio::sync::Notify;

/// What is known of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientState {
    Connected,
    /// It sends nothing any more. It may still read: a half-closed connection looks like this, and
    /// a client that has left does too.
    HalfClosed,
    /// The connection is over.
    Gone,
}

/// The part of a connection that outlives its requests' handlers.
#[derive(Debug)]
pub(super) struct Shared {
    /// The number of the request that may send interim responses; 0 is none.
    open: Cell<u64>,
    interim: RefCell<BytesMut>,
    heads: Cell<usize>,
    client: Cell<ClientState>,
    changed: Notify,
    driver: RefCell<Option<Waker>>,
}

/// The request extension through which [`Interim`] and [`ClientGone`] are had: one for both, as each
/// costs every request an allocation.
pub(super) struct RequestConnection {
    pub(super) shared: Rc<Shared>,
    pub(super) number: u64,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            open: Cell::new(0),
            interim: RefCell::default(),
            heads: Cell::new(0),
            client: Cell::new(ClientState::Connected),
            changed: Notify::new(),
            driver: RefCell::default(),
        }
    }

    /// Lets a request send interim responses, or, with 0, none any more.
    pub(super) fn open(&self, number: u64) {
        self.open.set(number);
        if self.heads.replace(0) > 0 {
            *self.interim.borrow_mut() = BytesMut::new();
        }
    }

    /// Moves the interim responses that wait to where they are written.
    pub(super) fn take_interim(&self, out: &mut BytesMut) {
        if self.heads.replace(0) > 0 {
            let mut interim = self.interim.borrow_mut();
            out.extend_from_slice(&interim);
            *interim = BytesMut::new();
        }
    }

    pub(super) fn has_interim(&self) -> bool {
        self.heads.get() > 0
    }

    pub(super) fn register(&self, cx: &Context<'_>) {
        let mut driver = self.driver.borrow_mut();
        match &*driver {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => *driver = Some(cx.waker().clone()),
        }
    }

    pub(super) fn set_client(&self, state: ClientState) {
        if self.client.replace(state) != state {
            self.changed.notify_waiters();
        }
    }
}

/// Sends interim responses (1xx) to the client of a request, before its final one.
#[derive(Clone)]
pub(crate) struct Interim {
    shared: Rc<Shared>,
    number: u64,
}

impl Interim {
    /// Of a request that came over HTTP/1.1.
    pub(crate) fn of(req: &impl HttpMessage) -> Option<Self> {
        let extensions = req.extensions();
        let connection = extensions.get::<RequestConnection>()?;
        Some(Self {
            shared: Rc::clone(&connection.shared),
            number: connection.number,
        })
    }

    /// Sends a head, with its blank line. It is left out where too many wait for a client that reads
    /// slowly, where the final response has begun, and in HTTP/1.0: a client can do without each of
    /// them (RFC 9110 §15.2).
    pub(crate) fn send(&self, head: &[u8]) {
        let shared = &self.shared;
        let mut interim = shared.interim.borrow_mut();
        let fits = shared.heads.get() < MAX_INTERIM
            && interim.len() + head.len() <= MAX_INTERIM_BYTES
            && shared.open.get() == self.number;
        if head.is_empty() || !fits {
            return;
        }
        interim.extend_from_slice(head);
        shared.heads.set(shared.heads.get() + 1);
        if let Some(driver) = shared.driver.borrow_mut().take() {
            driver.wake();
        }
    }
}

/// Tells whether the client of a request is still there.
///
/// The connection itself drops the handler's future when the client is gone. This is for what runs
/// beside it, and for handlers that take a half-closed connection for a left one.
#[derive(Clone)]
pub(crate) struct ClientGone(Rc<Shared>);

impl ClientGone {
    pub(crate) fn of(req: &impl HttpMessage) -> Option<Self> {
        let extensions = req.extensions();
        let connection = extensions.get::<RequestConnection>()?;
        Some(Self(Rc::clone(&connection.shared)))
    }

    pub(crate) fn state(&self) -> ClientState {
        self.0.client.get()
    }

    /// Waits until the client sends nothing any more, or is gone.
    pub(crate) async fn left(&self) -> ClientState {
        loop {
            let changed = self.0.changed.notified();
            if self.state() != ClientState::Connected {
                return self.state();
            }
            changed.await;
        }
    }

    /// Waits until the connection is over.
    pub(crate) async fn gone(&self) {
        loop {
            let changed = self.0.changed.notified();
            if self.state() == ClientState::Gone {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
#[path = "handle/tests.rs"]
mod tests;
