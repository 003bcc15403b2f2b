//! Content-Encoding of requests (RFC 9110 §8.4.1, RFC 7694).
//!
//! What is decoded is never longer than a limit, whatever the encoded form claims, and memory is taken
//! from the budget before it is used. What stands behind the end of an encoded body is a fault: another
//! reader may take it for more of it.

use super::{BodyError, Held};
use actix_web::http::header::{CONTENT_ENCODING, HeaderMap};
use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status, bufread::MultiGzDecoder};
use std::io::Read;

/// As Accept-Encoding tells it.
pub(super) const ACCEPTED: &str = "gzip, deflate, br, zstd";
/// Codings of one body. Nobody means more.
pub(super) const MOST: usize = 3;
/// The window of zstd as a coding of HTTP: 8 MiB (RFC 9659 §3).
const ZSTD_WINDOW_LOG: u32 = 23;
/// Bytes that are decoded at a time.
const PIECE: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    /// `None` for no coding; an error for one that is not known.
    fn named(name: &[u8]) -> Result<Option<Self>, BodyError> {
        match &*name.to_ascii_lowercase() {
            b"" | b"identity" => Ok(None),
            b"gzip" | b"x-gzip" => Ok(Some(Self::Gzip)),
            b"deflate" => Ok(Some(Self::Deflate)),
            b"br" => Ok(Some(Self::Brotli)),
            b"zstd" => Ok(Some(Self::Zstd)),
            _ => Err(BodyError::UnknownCoding),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    fn decode(self, from: &[u8], into: &mut Decoded<'_>) -> Result<(), BodyError> {
        let malformed = || BodyError::Malformed(self.as_str());
        match self {
            Self::Gzip => read_all(MultiGzDecoder::new(from), into, malformed),
            Self::Deflate => inflate(from, into, malformed),
            Self::Brotli => brotli(from, into, malformed),
            Self::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(from).map_err(|_| malformed())?;
                let limited = decoder.window_log_max(ZSTD_WINDOW_LOG);
                limited.map_err(|_| malformed())?;
                read_all(decoder, into, malformed)
            }
        }
    }
}

/// The codings of a body, in the order in which they were applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Codings(Vec<Coding>);

impl Codings {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, BodyError> {
        let mut codings = Vec::new();
        for line in headers.get_all(CONTENT_ENCODING) {
            for name in line.as_bytes().split(|byte| *byte == b',') {
                codings.extend(Coding::named(name.trim_ascii())?);
                if codings.len() > MOST {
                    return Err(BodyError::UnknownCoding);
                }
            }
        }
        Ok(Self(codings))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The body without its codings. `held` is the share of what is held of it: first the encoded, then
    /// the decoded form.
    pub(super) fn decode(
        &self,
        encoded: Bytes,
        most: usize,
        held: &mut Held,
    ) -> Result<Bytes, BodyError> {
        let mut bytes = encoded;
        for coding in self.0.iter().rev() {
            // No body has no form.
            if bytes.is_empty() {
                break;
            }
            let before = bytes.len() as u64;
            let mut decoded = Decoded {
                bytes: Vec::new(),
                most,
                held,
            };
            coding.decode(&bytes, &mut decoded)?;
            bytes = decoded.bytes.into();
            held.give_back(before);
        }
        Ok(bytes)
    }
}

/// What has been decoded, up to a limit.
struct Decoded<'a> {
    bytes: Vec<u8>,
    most: usize,
    held: &'a mut Held,
}

impl Decoded<'_> {
    fn push(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        let needed = self.bytes.len() + piece.len();
        if needed > self.most {
            return Err(BodyError::TooLarge(self.most));
        }
        let room = self.bytes.capacity();
        if needed > room {
            let wanted = (2 * room).max(needed).min(self.most);
            self.held.take((wanted - room) as u64)?;
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

fn read_all(
    mut decoder: impl Read,
    into: &mut Decoded<'_>,
    malformed: impl Fn() -> BodyError,
) -> Result<(), BodyError> {
    let mut piece = vec![0; PIECE];
    loop {
        match decoder.read(&mut piece).map_err(|_| malformed())? {
            0 => return Ok(()),
            count => into.push(&piece[..count])?,
        }
    }
}

/// A reader would take a stream without its end for a whole one.
fn inflate(
    mut from: &[u8],
    into: &mut Decoded<'_>,
    malformed: impl Fn() -> BodyError,
) -> Result<(), BodyError> {
    let (mut decoder, mut piece) = (Decompress::new(true), vec![0; PIECE]);
    loop {
        let before = (decoder.total_in(), decoder.total_out());
        let status = decoder.decompress(from, &mut piece, FlushDecompress::None);
        let status = status.map_err(|_| malformed())?;
        let read = (decoder.total_in() - before.0) as usize;
        let made = (decoder.total_out() - before.1) as usize;
        from = from.get(read..).unwrap_or_default();
        into.push(piece.get(..made).unwrap_or_default())?;
        match status {
            Status::StreamEnd if from.is_empty() => return Ok(()),
            Status::Ok | Status::BufError if read > 0 || made > 0 => {}
            _ => return Err(malformed()),
        }
    }
}

fn brotli(
    from: &[u8],
    into: &mut Decoded<'_>,
    malformed: impl Fn() -> BodyError,
) -> Result<(), BodyError> {
    let new = StandardAlloc::default;
    let mut state = BrotliState::new(new(), new(), new());
    let (mut left, mut at, mut total) = (from.len(), 0, 0);
    let mut piece = vec![0; PIECE];
    loop {
        let (mut room, mut made) = (piece.len(), 0);
        let result = BrotliDecompressStream(
            &mut left, &mut at, from, &mut room, &mut made, &mut piece, &mut total, &mut state,
        );
        into.push(piece.get(..made).unwrap_or_default())?;
        match result {
            BrotliResult::ResultSuccess if left == 0 => return Ok(()),
            BrotliResult::NeedsMoreOutput => {}
            _ => return Err(malformed()),
        }
    }
}

#[cfg(test)]
mod tests;
