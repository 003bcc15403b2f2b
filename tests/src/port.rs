use std::{
    net::TcpListener,
    ops::Range,
    sync::atomic::{AtomicU16, Ordering},
};

/// Below what systems give to outgoing connections and to port 0 (Linux from 32768, IANA from
/// 49152): between choosing a port here and listening on it, nobody is given it by chance.
const RANGE: Range<u16> = 12_000..32_000;
/// Processes that run beside each other begin this far apart.
const STRIDE: u16 = 389;

/// A port that nobody listens on, and that no other caller in this process was given.
///
/// # Panics
///
/// If all are taken.
#[must_use]
pub fn free_port() -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let size = RANGE.end - RANGE.start;
    let first = (std::process::id() % u32::from(size)) * u32::from(STRIDE);
    for _ in 0..size {
        let step = u32::from(GIVEN.fetch_add(1, Ordering::Relaxed));
        let place = u16::try_from((first + step) % u32::from(size)).unwrap_or(0);
        let port = RANGE.start + place;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {} to {}", RANGE.start, RANGE.end);
}
