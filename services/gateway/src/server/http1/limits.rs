//! What a connection may take: time and memory, each by its name.

use std::time::Duration;

/// The longest method, in bytes.
pub(crate) const MAX_METHOD: usize = 32;
/// Fields of a head, whatever their size: each costs hundreds of bytes where it is kept.
pub(crate) const MAX_FIELDS: usize = 1024;
/// So many fields are in the usual head, and not counted in `max_buffers`.
pub(crate) const USUAL_FIELDS: usize = 64;
/// What each further one counts there, in bytes: measured with thousands of empty ones.
pub(crate) const FIELD_COST: usize = 512;
/// Chunk extensions of one body, in sum.
pub(crate) const MAX_EXTENSIONS: usize = 4 << 10;
/// What is read of a request's body after the response, so that the connection can go on.
pub(crate) const MAX_DRAIN: u64 = 64 << 10;
/// Pieces of a request's body that wait for the handler, in bytes.
pub(crate) const MAX_BODY_AHEAD: usize = 32 << 10;
/// The same in number: each costs more than its bytes.
pub(crate) const MAX_PIECES: usize = 64;
/// Pipelined bytes that are read while a handler runs: enough to notice that the client has left.
pub(crate) const MAX_READ_AHEAD: usize = 8 << 10;
/// From this much on, output is written before more is made.
pub(crate) const MAX_OUTPUT: usize = 32 << 10;
/// Bodies, and pieces of them, up to this size are copied behind what stands before them.
pub(crate) const MAX_COPIED: usize = 8 << 10;
/// Interim responses that wait to be written: how many, and their bytes.
pub(crate) const MAX_INTERIM: usize = 16;
pub(crate) const MAX_INTERIM_BYTES: usize = 16 << 10;
/// How long a closed connection is read on, so that the client sees the response before a reset.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
/// What is read of it meanwhile.
pub(crate) const MAX_LINGER: usize = 1 << 20;

/// What the configuration says (`[server]`); a time of zero is no limit, except for `keep_alive`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_head: usize,
    /// For each head: from its first byte, or, for a connection's first, from accepting.
    pub(crate) request_timeout: Option<Duration>,
    /// Between requests; `None` closes after each response.
    pub(crate) keep_alive: Option<Duration>,
    /// While a request's body is waited for and does not move.
    pub(crate) body_timeout: Option<Duration>,
    /// While a client reads nothing of what is to be written.
    pub(crate) write_timeout: Option<Duration>,
}
