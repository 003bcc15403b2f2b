//! Fuzz tests of what a connection reads: heads, lengths, chunks, one request behind another.

use super::{
    body::{BodyDecoder, Step},
    head::HeadParser,
};
use bytes::BytesMut;
use weaver_fuzz::changed;

const MAX: usize = 4096;
const SEEDS: [&[u8]; 6] = [
    b"GET /a?b HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\nHEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhelloGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\nX: y\r\n\r\n\
      GET /y HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    b"\r\nGET http://h/a HTTP/1.1\r\nHost: h\r\nConnection: close, te\r\nTE: trailers\r\n\r\n",
];

/// What a connection makes of bytes that come in pieces of this size: each request with its body, and
/// how it ended.
fn read(bytes: &[u8], piece: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut pieces = bytes.chunks(piece.max(1));
    let mut buf = BytesMut::new();
    'requests: loop {
        let mut parser = HeadParser::default();
        let head = loop {
            match parser.next(&mut buf, MAX) {
                Ok(Some(head)) => break head,
                Ok(None) => match pieces.next() {
                    Some(piece) => buf.extend_from_slice(piece),
                    None => return found,
                },
                Err(refusal) => {
                    found.push(format!("{}", refusal.status.as_u16()));
                    return found;
                }
            }
        };
        let line = head.request.head();
        let mut request = format!("{} {} ", line.method, line.uri);
        let mut body = BodyDecoder::new(head.facts.body, MAX);
        loop {
            match body.step(&mut buf) {
                Ok(Step::Piece(piece)) => request.push_str(&String::from_utf8_lossy(&piece)),
                Ok(Step::End) => break,
                Ok(Step::More) => match pieces.next() {
                    Some(piece) => buf.extend_from_slice(piece),
                    None => break 'requests,
                },
                Err(fault) => {
                    found.push(format!("{request}{fault}"));
                    return found;
                }
            }
        }
        found.push(request);
    }
    found
}

/// However the bytes come, they are the same requests: nobody can hide one in the gaps.
#[test]
fn fuzz_the_same_bytes_are_the_same_requests() {
    bolero::check!().for_each(|input: &[u8]| {
        let bytes = changed(&SEEDS, input);
        let whole = read(&bytes, bytes.len());
        for piece in [1, 3, 7] {
            let cut = read(&bytes, piece);
            // Of what is refused it may be seen earlier or later, in what comes by pieces, that it is.
            let is_refused = |found: &[String]| found.last().is_some_and(|last| last.len() == 3);
            if is_refused(&whole) || is_refused(&cut) {
                let taken = |found: &[String]| found.iter().filter(|one| one.len() > 3).count();
                let count = taken(&whole).min(taken(&cut));
                assert_eq!(whole[..count], cut[..count], "{bytes:?} by {piece}");
            } else {
                assert_eq!(whole, cut, "{bytes:?} by {piece}");
            }
        }
    });
}

/// What is taken for one head has no second reading of where it ends, and one framing.
#[test]
fn fuzz_a_head_that_is_taken_has_one_framing() {
    bolero::check!().for_each(|input: &[u8]| {
        let bytes = changed(&SEEDS, input);
        let mut buf = BytesMut::from(&bytes[..]);
        let Ok(Some(head)) = HeadParser::default().next(&mut buf, MAX) else {
            return;
        };
        let text = bytes.len() - buf.len();
        let text = &bytes[..text];
        assert!(text.ends_with(b"\r\n\r\n"), "{bytes:?}");
        let lines = text.split(|byte| *byte == b'\n');
        let mut lines = lines.filter(|line| !line.is_empty());
        assert!(lines.all(|line| line.ends_with(b"\r")), "{bytes:?}");
        let headers = &head.request.head().headers;
        let framings = headers.get_all("content-length").count()
            + headers.get_all("transfer-encoding").count();
        assert!(framings <= 1, "{bytes:?}");
        assert!(!text.contains(&0) && text.len() <= MAX + 16, "{bytes:?}");
    });
}
