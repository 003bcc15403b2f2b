//! A body that one task writes and many read while it comes in.
//!
//! In come chunks, out go the same chunks to every reader, on any thread; nobody copies. Chunks are
//! kept while all may still be wanted, so that a reader that comes late begins at the beginning. Once
//! [told to stop](Relay::stop_keeping) the relay becomes a window: chunks go as soon as every reader
//! has them, and the writer waits for the slowest ([`Relay::room`]), so that memory is bounded by
//! [`WINDOW`] and one chunk.
//!
//! A relay ends whole, or broken: readers of a broken one get an error, never a clean end.
//!
//! # Example
//!
//! ```
//! use weaver_relay::Relay;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let relay = Relay::new();
//! relay.push("one".into());
//! let mut late = relay.reader().expect("nothing is gone yet");
//! relay.end(Ok(()));
//! assert_eq!(late.next().await, Some(Ok("one".into())));
//! assert_eq!(late.next().await, None);
//! # }
//! ```

use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

/// Bytes that a window holds for its slowest reader.
pub const WINDOW: u64 = 1 << 20;

/// The body broke off before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the response broke off before its end")]
pub struct Broken;

/// The writer's side; a handle, clones share the body.
#[derive(Clone, Debug, Default)]
pub struct Relay {
    body: Arc<Mutex<Body>>,
}

#[derive(Debug, Default)]
struct Body {
    chunks: VecDeque<Bytes>,
    /// The number of the first chunk that is kept.
    first: usize,
    held: u64,
    windowed: bool,
    end: Option<Result<(), Broken>>,
    readers: HashMap<u64, ReaderState>,
    next_reader: u64,
    writer: Option<Waker>,
}

#[derive(Debug)]
struct ReaderState {
    next: usize,
    waker: Option<Waker>,
}

impl Body {
    fn wake_readers(&mut self) {
        for reader in self.readers.values_mut() {
            if let Some(waker) = reader.waker.take() {
                waker.wake();
            }
        }
    }

    /// Drops what every reader has, in a window.
    fn trim(&mut self) {
        if !self.windowed {
            return;
        }
        let slowest = self
            .readers
            .values()
            .map(|reader| reader.next)
            .min()
            .unwrap_or(usize::MAX);
        while self.first < slowest {
            let Some(chunk) = self.chunks.pop_front() else {
                break;
            };
            self.held -= chunk.len() as u64;
            self.first += 1;
        }
        if self.held < WINDOW
            && let Some(writer) = self.writer.take()
        {
            writer.wake();
        }
    }
}

impl Relay {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A reader from the beginning; `None` if the beginning is gone.
    #[must_use]
    pub fn reader(&self) -> Option<Reader> {
        let mut body = self.body.lock();
        if body.windowed && body.first > 0 {
            return None;
        }
        let id = body.next_reader;
        body.next_reader += 1;
        let state = ReaderState {
            next: 0,
            waker: None,
        };
        body.readers.insert(id, state);
        drop(body);
        Some(Reader {
            body: Arc::clone(&self.body),
            id,
        })
    }

    /// The next chunk.
    pub fn push(&self, chunk: Bytes) {
        let mut body = self.body.lock();
        body.held += chunk.len() as u64;
        body.chunks.push_back(chunk);
        body.trim();
        body.wake_readers();
    }

    /// Turns it into a window.
    pub fn stop_keeping(&self) {
        let mut body = self.body.lock();
        body.windowed = true;
        body.trim();
    }

    /// Waits until a window has room; `false` once nobody reads any more.
    pub async fn room(&self) -> bool {
        poll_fn(|cx| {
            let mut body = self.body.lock();
            if body.readers.is_empty() {
                return Poll::Ready(false);
            }
            if body.held < WINDOW {
                return Poll::Ready(true);
            }
            body.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Cuts off the readers that keep a full window from moving.
    pub fn cut_off_stalled(&self) {
        let mut body = self.body.lock();
        let first = body.first;
        let stalled = body.readers.values_mut();
        for reader in stalled.filter(|reader| reader.next == first) {
            // A number past every chunk: the reader finds that its place is gone.
            reader.next = usize::MAX;
            if let Some(waker) = reader.waker.take() {
                waker.wake();
            }
        }
        body.trim();
    }

    /// Ends it; only the first end counts.
    pub fn end(&self, how: Result<(), Broken>) {
        let mut body = self.body.lock();
        body.end.get_or_insert(how);
        body.wake_readers();
    }

    /// The bytes that are kept.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.body.lock().held
    }

    /// All that is kept in one piece, with no more bytes behind it than it has.
    #[must_use]
    pub fn whole(&self) -> Bytes {
        let body = self.body.lock();
        let mut whole = Vec::with_capacity(usize::try_from(body.held).unwrap_or(0));
        for chunk in &body.chunks {
            whole.extend_from_slice(chunk);
        }
        whole.into()
    }
}

/// One reader's place. Dropping it lets go of what only it still needed.
#[derive(Debug)]
pub struct Reader {
    body: Arc<Mutex<Body>>,
    id: u64,
}

impl Reader {
    /// Waits for the next chunk; `None` is the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// Looks for the next chunk.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let mut guard = self.body.lock();
        let body = &mut *guard;
        let (first, end) = (body.first, body.end);
        let Some(reader) = body.readers.get_mut(&self.id) else {
            return Poll::Ready(Some(Err(Broken)));
        };
        let Some(at) = reader
            .next
            .checked_sub(first)
            .filter(|_| reader.next != usize::MAX)
        else {
            return Poll::Ready(Some(Err(Broken)));
        };
        if let Some(chunk) = body.chunks.get(at) {
            reader.next += 1;
            let chunk = chunk.clone();
            body.trim();
            return Poll::Ready(Some(Ok(chunk)));
        }
        match end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(broken)) => Poll::Ready(Some(Err(broken))),
            None => {
                reader.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, Broken>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_chunk(cx)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut body = self.body.lock();
        body.readers.remove(&self.id);
        body.trim();
        if body.readers.is_empty()
            && let Some(writer) = body.writer.take()
        {
            writer.wake();
        }
    }
}

#[cfg(test)]
mod tests;
