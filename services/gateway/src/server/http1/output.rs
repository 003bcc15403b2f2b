//! What is to be written: small things copied together, and at most one large piece behind them.

use super::{
    encode,
    limits::{MAX_COPIED, MAX_OUTPUT},
};
use bytes::{Buf as _, Bytes, BytesMut};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{io::AsyncWrite as _, net::TcpStream};

/// Output that waits for the socket. `buf` goes first, then the piece, then what ends its chunk.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) buf: BytesMut,
    piece: Bytes,
    end: &'static [u8],
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.buf.is_empty() && !self.has_piece()
    }

    fn has_piece(&self) -> bool {
        !self.piece.is_empty() || !self.end.is_empty()
    }

    /// Whether more may be made before this is written.
    pub(super) fn has_room(&self) -> bool {
        !self.has_piece() && self.buf.len() < MAX_OUTPUT
    }

    /// Adds bytes of a body. Only where there is room.
    pub(super) fn push(&mut self, piece: Bytes, chunked: bool) {
        if chunked {
            encode::chunk_start(&mut self.buf, piece.len());
        }
        let end: &'static [u8] = if chunked { encode::CHUNK_END } else { b"" };
        if piece.len() <= MAX_COPIED {
            self.buf.extend_from_slice(&piece);
            self.buf.extend_from_slice(end);
        } else {
            self.piece = piece;
            self.end = end;
        }
    }

    /// Writes all. Ready once nothing is left; `progress` tells whether anything was taken.
    pub(super) fn poll_write(
        &mut self,
        tcp: &mut TcpStream,
        cx: &mut Context<'_>,
        progress: &mut bool,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let tcp = Pin::new(&mut *tcp);
            let written = if self.has_piece() {
                let slices = [
                    IoSlice::new(&self.buf),
                    IoSlice::new(&self.piece),
                    IoSlice::new(self.end),
                ];
                ready!(tcp.poll_write_vectored(cx, &slices))?
            } else {
                ready!(tcp.poll_write(cx, &self.buf))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *progress = true;
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, written: usize) {
        if written == self.buf.len() {
            self.buf.clear();
            return;
        }
        let of_buf = written.min(self.buf.len());
        self.buf.advance(of_buf);
        let of_piece = (written - of_buf).min(self.piece.len());
        self.piece.advance(of_piece);
        if self.piece.is_empty() {
            // A piece that is written is let go of, and with it the memory that it is part of.
            self.piece = Bytes::new();
        }
        self.end = &self.end[written - of_buf - of_piece..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_left_in_their_order_wherever_a_write_stops() {
        let whole = {
            let mut bytes = b"head".to_vec();
            bytes.extend_from_slice(b"2710\r\n");
            bytes.extend_from_slice(&[b'x'; 10_000]);
            bytes.extend_from_slice(b"\r\n");
            bytes
        };
        for stop in [1, 4, 10, 11, 9_000, 10_009, 10_010, 10_011, 10_012] {
            let mut output = Output::default();
            output.buf.extend_from_slice(b"head");
            output.push(Bytes::from(vec![b'x'; 10_000]), true);
            assert!(!output.has_room());
            output.advance(stop);
            let left = [&output.buf[..], &output.piece[..], output.end].concat();
            assert_eq!(left, &whole[stop..], "{stop}");
            assert_eq!(output.is_empty(), stop == whole.len());
        }
    }
}
