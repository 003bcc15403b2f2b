//! The body of a request: framed bytes in, pieces out (RFC 9112 §6 and §7).
//!
//! Trailers are read, bounded and judged like the fields of a head, and then dropped. Handlers that
//! want them can be given them here.

use super::{framing::BodyLength, limits::MAX_EXTENSIONS};
use bytes::{Buf as _, Bytes, BytesMut};
use std::fmt;

/// More digits would not fit 64 bits.
const MAX_SIZE_DIGITS: u8 = 16;

/// What one step found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Piece(Bytes),
    End,
    /// There is nothing to take before more has come.
    More,
}

/// Why a body cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFault {
    ChunkSize,
    ChunkEnd,
    Extensions,
    Trailers,
    TrailersTooLarge,
    CutShort,
}

impl BodyFault {
    pub(crate) fn detail(self) -> &'static str {
        match self {
            Self::ChunkSize => "the size of a chunk is not valid",
            Self::ChunkEnd => "a chunk does not end with CR LF",
            Self::Extensions => "the chunk extensions are not valid or too long",
            Self::Trailers => "the trailers are not valid",
            Self::TrailersTooLarge => "the trailers are larger than max_head",
            Self::CutShort => "the body ended before it was complete",
        }
    }
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl std::error::Error for BodyFault {}

/// Takes a body apart.
#[derive(Debug)]
pub(crate) struct BodyDecoder {
    state: State,
    extensions: usize,
    /// Bytes of trailers in which no end was found.
    searched: usize,
    max_trailers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    Size { size: u64, digits: u8 },
    Extension { size: u64 },
    SizeEnd { size: u64 },
    Data(u64),
    DataEnd,
    Trailers,
    End,
}

impl BodyDecoder {
    pub(crate) fn new(length: BodyLength, max_trailers: usize) -> Self {
        Self {
            state: match length {
                BodyLength::None => State::End,
                BodyLength::Length(length) => State::Length(length),
                BodyLength::Chunked => State::Size { size: 0, digits: 0 },
            },
            extensions: 0,
            searched: 0,
            max_trailers,
        }
    }

    /// Whether everything was taken. A body of a known length ends without a further step.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.state, State::End | State::Length(0))
    }

    /// Bytes that are still to come, where that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(remaining) => Some(remaining),
            State::End => Some(0),
            _ => None,
        }
    }

    pub(crate) fn step(&mut self, buf: &mut BytesMut) -> Result<Step, BodyFault> {
        loop {
            match self.state {
                State::End | State::Length(0) => return Ok(Step::End),
                State::Length(remaining) => {
                    let Some((piece, left)) = take(buf, remaining) else {
                        return Ok(Step::More);
                    };
                    self.state = State::Length(left);
                    return Ok(Step::Piece(piece));
                }
                State::Data(remaining) => {
                    let Some((piece, left)) = take(buf, remaining) else {
                        return Ok(Step::More);
                    };
                    self.state = if left == 0 {
                        State::DataEnd
                    } else {
                        State::Data(left)
                    };
                    return Ok(Step::Piece(piece));
                }
                State::DataEnd => match (buf.first(), buf.get(1)) {
                    (Some(b'\r'), Some(b'\n')) => {
                        buf.advance(2);
                        self.state = State::Size { size: 0, digits: 0 };
                    }
                    (None, _) | (Some(b'\r'), None) => return Ok(Step::More),
                    _ => return Err(BodyFault::ChunkEnd),
                },
                State::Trailers => {
                    if !self.trailers(buf)? {
                        return Ok(Step::More);
                    }
                    self.state = State::End;
                }
                State::Size { .. } | State::Extension { .. } | State::SizeEnd { .. } => {
                    let Some(byte) = buf.first().copied() else {
                        return Ok(Step::More);
                    };
                    buf.advance(1);
                    self.state = self.size_line(byte)?;
                }
            }
        }
    }

    fn size_line(&mut self, byte: u8) -> Result<State, BodyFault> {
        match self.state {
            State::Size { size, digits } => match (byte, char::from(byte).to_digit(16)) {
                (_, Some(digit)) if digits < MAX_SIZE_DIGITS => Ok(State::Size {
                    size: size << 4 | u64::from(digit),
                    digits: digits + 1,
                }),
                (b'\r', _) if digits > 0 => Ok(State::SizeEnd { size }),
                (b';', _) if digits > 0 => Ok(State::Extension { size }),
                _ => Err(BodyFault::ChunkSize),
            },
            State::Extension { size } => {
                self.extensions += 1;
                if self.extensions > MAX_EXTENSIONS {
                    return Err(BodyFault::Extensions);
                }
                match byte {
                    b'\r' => Ok(State::SizeEnd { size }),
                    b'\t' | b' '..=b'~' | 0x80.. => Ok(State::Extension { size }),
                    _ => Err(BodyFault::Extensions),
                }
            }
            State::SizeEnd { size } if byte == b'\n' => Ok(if size == 0 {
                State::Trailers
            } else {
                State::Data(size)
            }),
            _ => Err(BodyFault::ChunkSize),
        }
    }

    /// Whether the trailers, mostly none, have come whole; then they are taken out.
    fn trailers(&mut self, buf: &mut BytesMut) -> Result<bool, BodyFault> {
        if buf.starts_with(b"\r\n") {
            buf.advance(2);
            return Ok(true);
        }
        let from = self.searched.saturating_sub(3);
        let end = buf[from..].windows(4).position(|four| four == b"\r\n\r\n");
        let length = end.map_or(buf.len(), |at| from + at + 4);
        if length > self.max_trailers {
            return Err(BodyFault::TrailersTooLarge);
        }
        let Some(_) = end else {
            // A bare LF would be waited behind for ever.
            let mut lines = (self.searched..buf.len()).filter(|at| buf[*at] == b'\n');
            if lines.any(|at| at == 0 || buf[at - 1] != b'\r') {
                return Err(BodyFault::Trailers);
            }
            self.searched = buf.len();
            return Ok(false);
        };
        check_fields(&buf[..length])?;
        buf.advance(length);
        Ok(true)
    }
}

fn check_fields(section: &[u8]) -> Result<(), BodyFault> {
    let lines = section.iter().filter(|byte| **byte == b'\n').count();
    let crlf = section.windows(2).filter(|two| two == b"\r\n").count();
    let mut fields = vec![httparse::EMPTY_HEADER; lines];
    match httparse::parse_headers(section, &mut fields) {
        Ok(httparse::Status::Complete((length, _))) if length == section.len() && lines == crlf => {
            Ok(())
        }
        _ => Err(BodyFault::Trailers),
    }
}

/// Takes what is there of the next `remaining` bytes, and tells how many are left.
fn take(buf: &mut BytesMut, remaining: u64) -> Option<(Bytes, u64)> {
    if buf.is_empty() {
        return None;
    }
    let length = usize::try_from(remaining)
        .unwrap_or(usize::MAX)
        .min(buf.len());
    Some((buf.split_to(length).freeze(), remaining - length as u64))
}

#[cfg(test)]
#[path = "body/tests.rs"]
mod tests;
