//! HTTP/1 on the public port: our own connections, in place of actix-http's.
//!
//! A [`Connection`] reads a head, gives the request to the application, writes the response, and
//! only then looks at what comes next. So a response is always framed by the request that it
//! answers; actix-http's codec frames it by the one that it read last (docs/reliability.md).
//!
//! | file | concern |
//! |---|---|
//! | `head`, `target`, `framing` | a request's head: strict, bounded by bytes |
//! | `body` | a request's body: length, chunks, trailers |
//! | `encode` | a response's head and chunks |
//! | `payload` | a request's body on its way to the handler |
//! | `handle`, `trailers` | what handlers may do with the connection |
//! | `output`, `buffers`, `timer`, `date` | what the connection works with |
//! | `connection` | the order in which all of it happens |
//!
//! The files of the first three rows know no I/O.

mod body;
mod buffers;
mod connection;
mod date;
mod encode;
mod framing;
#[cfg(test)]
mod fuzz;
mod handle;
mod head;
mod limits;
mod output;
mod payload;
mod refusal;
mod target;
mod timer;
mod trailers;

pub(crate) use buffers::Budget;
pub(crate) use connection::Connection;
pub(crate) use handle::{ClientGone, ClientState, Interim};
pub(crate) use limits::Limits;
pub(crate) use trailers::TrailerSlot;

use actix_web::{HttpResponse, http::StatusCode};
use std::sync::Arc;
use tokio::sync::watch;

/// Makes the response to a request that no handler sees.
pub(crate) type Refuse = Box<dyn Fn(StatusCode, &str) -> HttpResponse>;

/// What the connections of one worker share.
pub(crate) struct Worker<S> {
    service: S,
    limits: Limits,
    refuse: Refuse,
    budget: Arc<Budget>,
    draining: watch::Receiver<bool>,
    buffers: buffers::Pool,
    date: date::DateCache,
}

impl<S> Worker<S> {
    pub(crate) fn new(
        service: S,
        limits: Limits,
        refuse: Refuse,
        budget: Arc<Budget>,
        draining: watch::Receiver<bool>,
    ) -> Self {
        Self {
            service,
            limits,
            refuse,
            budget,
            draining,
            buffers: buffers::Pool::default(),
            date: date::DateCache::default(),
        }
    }

    fn is_draining(&self) -> bool {
        // It changes once; a sender that is gone went with the server.
        !matches!(self.draining.has_changed(), Ok(false))
    }
}
