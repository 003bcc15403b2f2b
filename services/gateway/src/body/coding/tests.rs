use super::{super::Bodies, *};
use actix_web::http::header::HeaderValue;
use flate2::{Compression, write};
use proptest::prelude::*;
use std::io::Write as _;

const MOST_BYTES: usize = 1 << 20;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = write::GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = write::ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Of `[{"a":1}]` and of a megabyte and more of zeros, by the reference's encoder.
const BROTLI_TEXT: &[u8] = include_bytes!("text.br");
const BROTLI_BOMB: &[u8] = include_bytes!("bomb.br");

fn codings(lines: &[&str]) -> Result<Codings, BodyError> {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(CONTENT_ENCODING, HeaderValue::from_str(line).unwrap());
    }
    Codings::of(&headers)
}

fn decode(coding: &str, encoded: &[u8]) -> Result<Vec<u8>, BodyError> {
    let mut held = Bodies::new(1 << 30, 1).hold(encoded.len() as u64).unwrap();
    let encoded = Bytes::copy_from_slice(encoded);
    let decoded = codings(&[coding])?.decode(encoded, MOST_BYTES, &mut held);
    decoded.map(|bytes| bytes.to_vec())
}

#[test]
fn codings_are_those_of_all_lines_in_their_order() {
    let read = codings(&["gzip, BR", "x-gzip"]).unwrap();
    assert_eq!(read.0, [Coding::Gzip, Coding::Brotli, Coding::Gzip]);
    assert!(codings(&["identity", ""]).unwrap().is_empty());
    assert!(codings(&[]).unwrap().is_empty());
    for unknown in [
        "compress",
        "gzip, snappy",
        "gzip;q=1",
        "gzip,gzip,gzip,gzip",
    ] {
        assert_eq!(
            codings(&[unknown]),
            Err(BodyError::UnknownCoding),
            "{unknown}"
        );
    }
}

#[test]
fn a_body_in_any_coding_is_what_was_encoded() {
    let text = br#"[{"a":1}]"#;
    let zstd = zstd::bulk::compress(text, 1).unwrap();
    for (coding, encoded) in [
        ("gzip", gzip(text)),
        ("deflate", deflate(text)),
        ("br", BROTLI_TEXT.to_vec()),
        ("zstd", zstd.clone()),
        ("deflate, gzip", gzip(&deflate(text))),
        (
            "br, zstd, gzip",
            gzip(&zstd::bulk::compress(BROTLI_TEXT, 1).unwrap()),
        ),
    ] {
        assert_eq!(
            decode(coding, &encoded).as_deref(),
            Ok(&text[..]),
            "{coding}"
        );
        assert_eq!(decode(coding, b"").as_deref(), Ok(&b""[..]), "{coding}");
    }
    // Two members are one body (RFC 1952 §2.2), and so are two frames (RFC 8878 §3).
    let members = [gzip(b"[{\"a\""), gzip(b":1}]")].concat();
    assert_eq!(decode("gzip", &members).as_deref(), Ok(&text[..]));
    let frames =
        [b"[{\"a\"".as_slice(), b":1}]"].map(|half| zstd::bulk::compress(half, 1).unwrap());
    assert_eq!(decode("zstd", &frames.concat()).as_deref(), Ok(&text[..]));
}

#[test]
fn a_body_that_is_cut_or_goes_on_behind_its_end_is_malformed() {
    let text = br#"[{"a":1}]"#;
    for (coding, encoded) in [
        ("gzip", gzip(text)),
        ("deflate", deflate(text)),
        ("br", BROTLI_TEXT.to_vec()),
        ("zstd", zstd::bulk::compress(text, 1).unwrap()),
    ] {
        let malformed = Err(BodyError::Malformed(coding));
        for cut in 1..encoded.len() {
            assert_eq!(
                decode(coding, &encoded[..cut]),
                malformed,
                "{coding} cut at {cut}"
            );
        }
        let more = [&encoded, &b"[]"[..]].concat();
        assert_eq!(decode(coding, &more), malformed, "{coding}");
        assert_eq!(decode(coding, text), malformed, "{coding}");
    }
}

#[test]
fn a_bomb_stops_at_the_limit() {
    let zeros = vec![0; 100 * MOST_BYTES];
    let zstd = zstd::bulk::compress(&zeros, 1).unwrap();
    for (coding, bomb) in [
        ("gzip", gzip(&zeros)),
        ("deflate", deflate(&zeros)),
        ("br", BROTLI_BOMB.to_vec()),
        ("zstd", zstd.clone()),
        ("zstd, zstd", zstd::bulk::compress(&zstd, 1).unwrap()),
    ] {
        assert!(bomb.len() < MOST_BYTES, "{coding}");
        assert_eq!(
            decode(coding, &bomb),
            Err(BodyError::TooLarge(MOST_BYTES)),
            "{coding}"
        );
    }
    let full = vec![0; MOST_BYTES];
    assert_eq!(decode("gzip", &gzip(&full)), Ok(full));
}

#[test]
fn memory_is_taken_from_the_budget_before_it_is_used() {
    let encoded = Bytes::from(gzip(&vec![0; 500_000]));
    let bodies = Bodies::new(400_000, 1);
    let mut held = bodies.hold(encoded.len() as u64).unwrap();
    let refused = codings(&["gzip"])
        .unwrap()
        .decode(encoded, MOST_BYTES, &mut held);
    assert_eq!(refused, Err(BodyError::TooDear(400_000)));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for coding in ["gzip", "deflate", "br", "zstd", "br, gzip"] {
            let _ = decode(coding, &bytes);
        }
    }

    #[test]
    fn no_change_of_a_byte_panics(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let text = br#"[{"a":1}]"#;
        for (coding, mut encoded) in [
            ("gzip", gzip(text)),
            ("deflate", deflate(text)),
            ("br", BROTLI_TEXT.to_vec()),
            ("zstd", zstd::bulk::compress(text, 1).unwrap()),
        ] {
            let at = at.index(encoded.len());
            encoded[at] = to;
            let _ = decode(coding, &encoded);
        }
    }
}
