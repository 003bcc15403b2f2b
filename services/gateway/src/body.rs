//! Request bodies that the gateway reads itself: calls of models, questions, orders of operators.
//!
//! ```text
//! pieces -> whole, up to a limit -> decoded (Content-Encoding), up to the same -> parsed -> what it says
//!           \______________________________________________________________________________/
//!                          all of it taken from one budget of the process ([`Bodies`])
//! ```
//!
//! A body that is large or encoded is worked on apart from the workers, which go on with other requests,
//! and by as many threads as there are workers at most. A body that cannot have its share of the budget
//! is refused: 503 if it could have had it alone, else 413.

mod budget;
mod coding;
mod error;
mod size;

pub(crate) use budget::{Bodies, Held};
pub(crate) use error::BodyError;

use actix_web::{error::PayloadError, http::header::HeaderMap};
use bytes::{Bytes, BytesMut};
use coding::Codings;
use futures_util::{Stream, StreamExt as _};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// Between two pieces of a body, and for all of it but what its length allows beyond.
const PATIENCE: Duration = Duration::from_secs(30);
/// A body that comes slower in the long run is given up: what it holds of the budget is missed by others.
const LEAST_BYTES_PER_SECOND: u64 = 64 << 10;
/// A body of less is worked on by the worker itself: that is quicker than to hand it over.
const AT_ONCE: usize = 256 << 10;

/// A body that has come whole, as it was sent.
pub(crate) struct Received {
    encoded: Bytes,
    codings: Codings,
    /// Bytes that it may have, decoded.
    most: usize,
    held: Held,
}

/// Reads a whole body of `most` bytes at most.
pub(crate) async fn receive(
    bodies: &Arc<Bodies>,
    headers: &HeaderMap,
    payload: impl Stream<Item = Result<Bytes, PayloadError>>,
    most: usize,
) -> Result<Received, BodyError> {
    let codings = Codings::of(headers)?;
    let mut payload = std::pin::pin!(payload);
    let mut held = bodies.hold(0)?;
    let (mut whole, began) = (BytesMut::new(), Instant::now());
    loop {
        let given = PATIENCE + Duration::from_secs(whole.len() as u64 / LEAST_BYTES_PER_SECOND);
        let left = given.saturating_sub(began.elapsed()).min(PATIENCE);
        let piece = timeout(left, payload.next()).await;
        let Some(piece) = piece.map_err(|_| BodyError::Slow)? else {
            break;
        };
        let piece = piece.map_err(|_| BodyError::Broken)?;
        if whole.len() + piece.len() > most {
            return Err(BodyError::TooLarge(most));
        }
        held.take(piece.len() as u64)?;
        whole.extend_from_slice(&piece);
    }
    Ok(Received {
        encoded: whole.freeze(),
        codings,
        most,
        held,
    })
}

impl Received {
    /// The body as it was sent, under its Content-Encoding.
    pub(crate) fn encoded(&self) -> Bytes {
        self.encoded.clone()
    }

    /// Decodes the body, and makes something of it. What is made of it may keep the decoded body for as
    /// long as it keeps its share of the budget.
    pub(crate) async fn parse<T: Send + 'static>(
        self,
        make: impl FnOnce(Bytes) -> T + Send + 'static,
    ) -> Result<(T, Held), BodyError> {
        let bodies = self.held.bodies();
        let is_small = self.codings.is_empty() && self.encoded.len() < AT_ONCE;
        let work = move || {
            let Self {
                encoded,
                codings,
                most,
                mut held,
            } = self;
            let decoded = codings.decode(encoded, most, &mut held)?;
            // Given back once it is made: nothing of what was parsed outlives it but what was made.
            let parsed = held.bodies().hold(size::parsed(&decoded))?;
            let made = make(decoded);
            drop(parsed);
            Ok((made, held))
        };
        if is_small {
            work()
        } else {
            bodies.run(work).await?
        }
    }
}
