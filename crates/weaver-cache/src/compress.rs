//! Large values in Redis, compressed with zstd (RFC 8878).
//!
//! ```text
//! version u8 · code 16 (see [`crate::seal`]) · kind u8 (packed) · what was behind the code, compressed
//! ```
//!
//! What does not become a tenth smaller is left as it is. Reading never makes more of a value than
//! the largest record may be, whatever the value claims.

use crate::{
    codec::KIND_PACKED,
    seal::{HEADER, Seal},
};
use bytes::Bytes;
use std::io::Read as _;
use tokio::task::spawn_blocking;

/// zstd's fastest of its regular levels: the network saved is worth no more.
const LEVEL: i32 = 1;
/// Below this, work is done on the spot rather than on a thread for it.
const AT_ONCE: usize = 64 << 10;

/// Compresses a record, not sealed yet, of at least `least` bytes; 0 is none.
pub(crate) async fn pack(record: Vec<u8>, least: u64) -> Vec<u8> {
    if least == 0 || (record.len() as u64) < least {
        return record;
    }
    if record.len() <= AT_ONCE {
        return packed(record);
    }
    // The thread ends with what it was given, unless the runtime ends first.
    spawn_blocking(move || packed(record))
        .await
        .unwrap_or_default()
}

fn packed(record: Vec<u8>) -> Vec<u8> {
    let Some(rest) = record.get(HEADER..) else {
        return record;
    };
    match zstd::bulk::compress(rest, LEVEL) {
        Ok(compressed) if compressed.len() < rest.len() / 10 * 9 => {
            let mut out = Seal::room(compressed.len() + 1);
            out.push(KIND_PACKED);
            out.extend_from_slice(&compressed);
            out
        }
        _ => record,
    }
}

/// What was behind the code before [`pack`]; `None` if it cannot be had, or is longer than `most`.
pub(crate) async fn unpack(rest: Bytes, most: u64) -> Option<Bytes> {
    if !rest.starts_with(&[KIND_PACKED]) {
        return Some(rest);
    }
    if rest.len() <= AT_ONCE / 8 {
        return unpacked(&rest[1..], most);
    }
    spawn_blocking(move || unpacked(&rest[1..], most))
        .await
        .ok()?
}

fn unpacked(compressed: &[u8], most: u64) -> Option<Bytes> {
    let decoder = zstd::stream::read::Decoder::with_buffer(compressed).ok()?;
    let mut whole = Vec::new();
    decoder
        .take(most.saturating_add(1))
        .read_to_end(&mut whole)
        .ok()?;
    (whole.len() as u64 <= most).then(|| whole.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn behind(record: Vec<u8>) -> Bytes {
        Bytes::from(record).slice(HEADER..)
    }

    #[tokio::test]
    async fn what_is_packed_comes_out_whole() {
        for size in [10, 5_000, 300_000] {
            let mut record = Seal::room(size);
            record.extend_from_slice("abcdefgh".repeat(size / 8).as_bytes());
            let packed = pack(record.clone(), 1000).await;
            assert_eq!(packed.len() < record.len(), size > 1000);
            let (packed, whole) = (behind(packed), behind(record));
            assert_eq!(unpack(packed, 1 << 20).await, Some(whole));
        }
        let off = vec![b'a'; 5000];
        assert_eq!(pack(off.clone(), 0).await, off);
    }

    #[tokio::test]
    async fn what_is_too_long_or_broken_is_nothing() {
        let bomb = behind(pack(vec![0; 10 << 20], 1).await);
        assert!(bomb.len() < 10_000);
        assert_eq!(unpack(bomb.clone(), 1 << 20).await, None);
        assert_eq!(unpack(bomb.slice(..bomb.len() / 2), 20 << 20).await, None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpacked(&bytes, 1 << 16);
        }
    }
}
