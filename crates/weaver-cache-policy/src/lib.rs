//! What HTTP allows a shared cache to do, as pure functions.
//!
//! This crate decides; it neither stores nor sends. It does no I/O, reads no clock and knows no web
//! framework: header fields come in as a borrowed [`Headers`] view and every instant is an argument
//! ([`Millis`], milliseconds since the Unix epoch). A decision can therefore be replayed in a test,
//! and two nodes with the same input decide the same.
//!
//! The work is split at the moment of storing. [`store::assess`] runs once for each response that
//! arrives, parses what has to be parsed, and returns a [`Lifetime`]: a few numbers and flags that
//! travel with the stored response. A later hit ([`reuse::decide`]) compares those numbers with the
//! clock and with the request's own directives, and parses nothing of the response again.
//!
//! | module | decides | follows |
//! |---|---|---|
//! | [`store`] | may this response be stored, and for how long is it fresh | RFC 9111 §3, §4.2; RFC 9213 §2 |
//! | [`reuse`] | may this stored response answer this request now | RFC 9111 §4, §5.2.1; RFC 5861; RFC 8246 |
//! | [`vary`] | which stored variant a request selects | RFC 9111 §4.1 |
//! | [`coding`] | which content coding a request accepts | RFC 9110 §12.5.3 |
//! | [`conditional`] | does a precondition hold for the stored response | RFC 9110 §13 |
//! | [`validation`] | the conditional request to send, and what a 304 changes | RFC 9111 §3.2, §4.3 |
//! | [`range`] | which bytes a Range request gets | RFC 9110 §14 |
//! | [`invalidation`] | what an unsafe request invalidates | RFC 9111 §4.4 |
//! | [`url`] | the one form of equivalent URLs | RFC 3986 §6.2.2, §6.2.3 |
//! | [`path`] | what a path means to those who read it | RFC 3986 §5.2.4, §6.2.2 |
//! | [`status`] | the Cache-Status field | RFC 9211 |
//! | [`directives`] | Cache-Control and targeted fields | RFC 9111 §5.2; RFC 9213 |
//! | [`date`] | HTTP dates | RFC 9110 §5.6.7 |
//!
//! # Security of a shared cache
//!
//! A response to an authenticated request is stored only where the response permits it in so many
//! words (RFC 9111 §3.5), or in the partition of the one user it was made for. `private`, `no-store`
//! and `Vary: *` are refused outright. What selects a variant is compared in full or by a 256-bit
//! hash, never by a checksum.
//!
//! # Example
//!
//! ```
//! use weaver_cache_policy::{Millis, Policy, reuse, store};
//!
//! let request: [(&str, &[u8]); 0] = [];
//! let response: [(&str, &[u8]); 1] = [("cache-control", b"max-age=60")];
//! let policy = Policy::standard();
//! let now = Millis(1_700_000_000_000);
//! let lifetime = store::assess(
//!     &policy,
//!     &store::Asked { headers: &request[..], authenticated: false, partitioned: false },
//!     &store::Answered { status: 200, headers: &response[..], requested_at: now, received_at: now },
//! )
//! .unwrap();
//! let wishes = reuse::Wishes::none();
//! assert_eq!(reuse::decide(&lifetime, &wishes, now.plus_secs(59)), reuse::Decision::Fresh);
//! assert_eq!(reuse::decide(&lifetime, &wishes, now.plus_secs(60)), reuse::Decision::Revalidate);
//! ```

pub mod coding;
pub mod conditional;
pub mod date;
pub mod directives;
mod headers;
pub mod invalidation;
mod lifetime;
mod outcome;
pub mod path;
mod policy;
pub mod range;
pub mod reuse;
pub mod search;
pub mod status;
pub mod store;
mod time;
pub mod url;
pub mod validation;
pub mod vary;

pub use headers::Headers;
pub use lifetime::{Flags, Lifetime};
pub use outcome::{Bypass, Outcome};
pub use policy::{Mode, Policy};
pub use time::Millis;
