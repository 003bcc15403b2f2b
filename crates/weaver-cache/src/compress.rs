//! Large values in Redis, compressed with zstd (RFC 8878).
//!
//! ```text
//! version u8 · kind u8 (packed) · the compressed record, whole
//! ```
//!
//! What does not become a tenth smaller is left as it is. Reading never makes more of a value than
//! the largest record may be, whatever the value claims.

use crate::codec::{KIND_PACKED, VERSION};
use bytes::Bytes;
use std::io::Read as _;
use tokio::task::spawn_blocking;

/// zstd's fastest of its regular levels: the network saved is worth no more.
const LEVEL: i32 = 1;
/// Below this, work is done on the spot rather than on a thread for it.
const AT_ONCE: usize = 64 << 10;

/// Compresses a value of at least `least` bytes; 0 is none.
pub(crate) async fn pack(value: Bytes, least: u64) -> Bytes {
    if least == 0 || (value.len() as u64) < least {
        return value;
    }
    if value.len() <= AT_ONCE {
        return packed(&value).unwrap_or(value);
    }
    let whole = value.clone();
    let packed = spawn_blocking(move || packed(&whole)).await;
    packed.ok().flatten().unwrap_or(value)
}

fn packed(value: &[u8]) -> Option<Bytes> {
    let compressed = zstd::bulk::compress(value, LEVEL).ok()?;
    if compressed.len() + 2 > value.len() / 10 * 9 {
        return None;
    }
    let mut out = Vec::with_capacity(compressed.len() + 2);
    out.extend_from_slice(&[VERSION, KIND_PACKED]);
    out.extend_from_slice(&compressed);
    Some(out.into())
}

/// The value as it was before [`pack`]; `None` if it cannot be had, or is longer than `most`.
pub(crate) async fn unpack(value: Bytes, most: u64) -> Option<Bytes> {
    if !value.starts_with(&[VERSION, KIND_PACKED]) {
        return Some(value);
    }
    if value.len() <= AT_ONCE / 8 {
        return unpacked(&value[2..], most);
    }
    spawn_blocking(move || unpacked(&value[2..], most))
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

    #[tokio::test]
    async fn what_is_packed_comes_out_whole() {
        for size in [10, 5_000, 300_000] {
            let value = Bytes::from("abcdefgh".repeat(size / 8));
            let packed = pack(value.clone(), 1000).await;
            assert_eq!(packed.len() < value.len(), size > 1000);
            assert_eq!(unpack(packed, 1 << 20).await, Some(value));
        }
        let off = Bytes::from(vec![b'a'; 5000]);
        assert_eq!(pack(off.clone(), 0).await, off);
    }

    #[tokio::test]
    async fn what_is_too_long_or_broken_is_nothing() {
        let bomb = pack(Bytes::from(vec![0; 10 << 20]), 1).await;
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
