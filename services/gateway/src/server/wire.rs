//! The connection's I/O type.
//!
//! Actix writes final responses only: no interim ones (1xx), and no trailers behind a chunked body.
//! Both can be added where the bytes go out, if one knows where in the stream of bytes one is. A
//! [`WireStream`] is a TCP stream that knows it; a [`Wire`] is a request's access to its own.
//!
//! *Interim responses* may be written while a handler runs, because Actix answers requests in order:
//! whatever it has written before belongs to earlier responses, and if all of that is out
//! ([`Shared::clean`]) the stream stands between two messages.
//!
//! *Trailers* replace the end of the last chunk. [`Wire::poll_ready_for_trailers`] holds the body's
//! end back until everything before it is written, so that the next write begins with exactly
//! `0\r\n\r\n`.

use bytes::{Buf, BytesMut};
use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

struct Shared {
    tcp: RefCell<TcpStream>,
    /// Whether the last write took all that Actix had.
    clean: Cell<bool>,
    /// How often that was so.
    writes: Cell<u64>,
    /// Bytes of our own that go out before any more of Actix's.
    own: RefCell<BytesMut>,
    trailers: RefCell<Option<Vec<u8>>>,
    waiter: RefCell<Option<Waker>>,
}

/// A TCP stream that others can speak on, between messages.
pub(crate) struct WireStream(Rc<Shared>);

/// A request's access to the stream that it came on.
#[derive(Clone)]
pub(crate) struct Wire(Rc<Shared>);

impl WireStream {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self(Rc::new(Shared {
            tcp: RefCell::new(tcp),
            clean: Cell::new(true),
            writes: Cell::new(0),
            own: RefCell::default(),
            trailers: RefCell::default(),
            waiter: RefCell::default(),
        }))
    }

    pub(crate) fn wire(&self) -> Wire {
        Wire(Rc::clone(&self.0))
    }
}

impl Wire {
    /// Sends the head of an interim response, if the stream stands between messages; otherwise it
    /// is left out, which is allowed for all of them (RFC 9110 §15.2).
    pub(crate) fn send_interim(&self, head: &[u8]) {
        if !self.0.clean.get() {
            return;
        }
        let mut own = self.0.own.borrow_mut();
        let sent = if own.is_empty() {
            self.0.tcp.borrow().try_write(head).unwrap_or(0)
        } else {
            0
        };
        own.extend_from_slice(&head[sent..]);
    }

    /// How many complete writes there were.
    pub(crate) fn writes(&self) -> u64 {
        self.0.writes.get()
    }

    /// Ready once there was a complete write after the `seen`-th.
    pub(crate) fn poll_ready_for_trailers(&self, seen: u64, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.clean.get() && self.0.writes.get() > seen {
            return Poll::Ready(());
        }
        *self.0.waiter.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Puts trailer fields, each with its line end, behind the last chunk, which is to come next.
    pub(crate) fn put_trailers(&self, fields: Vec<u8>) {
        *self.0.trailers.borrow_mut() = Some(fields);
    }
}

impl Shared {
    fn poll_own(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut own = self.own.borrow_mut();
        while !own.is_empty() {
            let mut tcp = self.tcp.borrow_mut();
            match Pin::new(&mut *tcp).poll_write(cx, &own) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => own.advance(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&self, all: bool) {
        self.clean.set(all);
        if all {
            self.writes.set(self.writes.get() + 1);
            if let Some(waiter) = self.waiter.borrow_mut().take() {
                waiter.wake();
            }
        }
    }
}

impl AsyncRead for WireStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.tcp.borrow_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for WireStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let shared = &self.0;
        if !shared.own.borrow().is_empty() {
            std::task::ready!(shared.poll_own(cx))?;
        }
        if shared.trailers.borrow().is_some()
            && buf.starts_with(LAST_CHUNK)
            && let Some(fields) = shared.trailers.borrow_mut().take()
        {
            let mut own = shared.own.borrow_mut();
            own.extend_from_slice(b"0\r\n");
            own.extend_from_slice(&fields);
            own.extend_from_slice(b"\r\n");
            drop(own);
            shared.wrote(buf.len() == LAST_CHUNK.len());
            // What does not go out now goes out with the flush that follows every write.
            if let Poll::Ready(Err(error)) = shared.poll_own(cx) {
                return Poll::Ready(Err(error));
            }
            return Poll::Ready(Ok(LAST_CHUNK.len()));
        }
        let outcome = Pin::new(&mut *shared.tcp.borrow_mut()).poll_write(cx, buf);
        match &outcome {
            Poll::Ready(Ok(count)) => shared.wrote(*count == buf.len()),
            _ => shared.wrote(false),
        }
        outcome
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.0.own.borrow().is_empty() {
            std::task::ready!(self.0.poll_own(cx))?;
        }
        Pin::new(&mut *self.0.tcp.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.0.own.borrow().is_empty() {
            std::task::ready!(self.0.poll_own(cx))?;
        }
        Pin::new(&mut *self.0.tcp.borrow_mut()).poll_shutdown(cx)
    }
}
