use super::*;
use proptest::prelude::*;

const MAX: usize = 1024;

/// Decodes all; gives the body and what stands behind it.
fn decode(length: BodyLength, bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Option<BodyFault>> {
    decode_cut(length, bytes, bytes.len().max(1))
}

fn decode_cut(
    length: BodyLength,
    bytes: &[u8],
    cut: usize,
) -> Result<(Vec<u8>, Vec<u8>), Option<BodyFault>> {
    let mut decoder = BodyDecoder::new(length, MAX);
    let (mut buf, mut body) = (BytesMut::new(), Vec::new());
    let mut cuts = bytes.chunks(cut);
    loop {
        match decoder.step(&mut buf).map_err(Some)? {
            Step::Piece(piece) => body.extend_from_slice(&piece),
            Step::End => {
                buf.extend(cuts.flatten());
                return Ok((body, buf.to_vec()));
            }
            Step::More => buf.extend_from_slice(cuts.next().ok_or(None)?),
        }
    }
}

#[test]
fn lengths_and_chunks_give_the_body_and_leave_what_follows() {
    let cases: [(BodyLength, &str, &str, &str); 7] = [
        (BodyLength::None, "GET", "", "GET"),
        (BodyLength::Length(3), "abcGET", "abc", "GET"),
        (BodyLength::Length(0), "GET", "", "GET"),
        (BodyLength::Chunked, "0\r\n\r\nGET", "", "GET"),
        (
            BodyLength::Chunked,
            "3\r\nabc\r\n00a\r\n0123456789\r\n000\r\n\r\nGET",
            "abc0123456789",
            "GET",
        ),
        (
            BodyLength::Chunked,
            "3;x=\"y;z\" ; q\r\nabc\r\n0;e\r\n\r\nGET",
            "abc",
            "GET",
        ),
        (
            BodyLength::Chunked,
            "3\r\nabc\r\n0\r\na: b\r\nc: d\r\n\r\nGET",
            "abc",
            "GET",
        ),
    ];
    for (length, bytes, body, rest) in cases {
        for cut in [1, 2, 3, 7, bytes.len()] {
            let found = decode_cut(length, bytes.as_bytes(), cut);
            assert_eq!(found, Ok((body.into(), rest.into())), "{bytes:?} by {cut}");
        }
    }
}

#[test]
fn chunks_that_readers_read_differently_are_refused() {
    let cases = [
        ("\r\n", BodyFault::ChunkSize),
        ("+3\r\nabc\r\n0\r\n\r\n", BodyFault::ChunkSize),
        ("-3\r\nabc\r\n0\r\n\r\n", BodyFault::ChunkSize),
        ("0x3\r\nabc\r\n0\r\n\r\n", BodyFault::ChunkSize),
        (" 3\r\nabc\r\n0\r\n\r\n", BodyFault::ChunkSize),
        ("3 \r\nabc\r\n0\r\n\r\n", BodyFault::ChunkSize),
        ("3_0\r\nabc\r\n0\r\n\r\n", BodyFault::ChunkSize),
        ("3\nabc\r\n0\r\n\r\n", BodyFault::ChunkSize),
        ("3\rabc\r\n0\r\n\r\n", BodyFault::ChunkSize),
        ("g\r\n", BodyFault::ChunkSize),
        ("fffffffffffffffff\r\n", BodyFault::ChunkSize),
        ("10000000000000003\r\nabc\r\n", BodyFault::ChunkSize),
        ("3;x\nabc\r\n0\r\n\r\n", BodyFault::Extensions),
        ("3;\0\r\nabc\r\n0\r\n\r\n", BodyFault::Extensions),
        ("3\r\nabcd\r\n0\r\n\r\n", BodyFault::ChunkEnd),
        ("3\r\nabc\n0\r\n\r\n", BodyFault::ChunkEnd),
        ("3\r\nabc0\r\n\r\n", BodyFault::ChunkEnd),
        ("0\r\nGET / HTTP/1.1\r\n\r\n", BodyFault::Trailers),
        ("0\r\na : b\r\n\r\n", BodyFault::Trailers),
        ("0\r\na: b\nc: d\r\n\r\n", BodyFault::Trailers),
        ("0\r\n\nGET", BodyFault::Trailers),
        ("0\r\na: b\r\n c\r\n\r\n", BodyFault::Trailers),
    ];
    for (bytes, fault) in cases {
        for cut in [1, 5, bytes.len()] {
            let found = decode_cut(BodyLength::Chunked, bytes.as_bytes(), cut);
            assert_eq!(found, Err(Some(fault)), "{bytes:?} by {cut}");
        }
    }
    let extension = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(MAX_EXTENSIONS + 1));
    assert_eq!(
        decode(BodyLength::Chunked, extension.as_bytes()),
        Err(Some(BodyFault::Extensions))
    );
    let one = format!("1;{}\r\na\r\n", "x".repeat(500));
    assert_eq!(
        decode(BodyLength::Chunked, one.repeat(9).as_bytes()),
        Err(Some(BodyFault::Extensions)),
        "in sum"
    );
    let trailers = format!("0\r\na: {}\r\n\r\n", "x".repeat(MAX));
    assert_eq!(
        decode(BodyLength::Chunked, trailers.as_bytes()),
        Err(Some(BodyFault::TrailersTooLarge))
    );
}

proptest! {
    #[test]
    fn what_is_chunked_is_found_again(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
        cut in 1_usize..50,
    ) {
        let mut bytes = BytesMut::new();
        for piece in &pieces {
            crate::server::http1::encode::chunk_start(&mut bytes, piece.len());
            bytes.extend_from_slice(piece);
            bytes.extend_from_slice(crate::server::http1::encode::CHUNK_END);
        }
        crate::server::http1::encode::last_chunk(&mut bytes, b"x: y\r\n");
        bytes.extend_from_slice(b"next");
        let found = decode_cut(BodyLength::Chunked, &bytes, cut);
        prop_assert_eq!(found, Ok((pieces.concat(), b"next".to_vec())));
    }

    /// However it is cut, it is the same body or the same fault.
    #[test]
    fn cuts_do_not_change_a_body(bytes in "[0-9a-f;\r\nx: ]{0,60}", cut in 1_usize..9) {
        let whole = decode(BodyLength::Chunked, bytes.as_bytes());
        prop_assert_eq!(decode_cut(BodyLength::Chunked, bytes.as_bytes(), cut), whole);
    }
}
