use super::*;
use crate::server::http1::framing::BodyLength;
use proptest::prelude::*;

const MAX: usize = 32 << 10;

fn read(text: &[u8]) -> Result<Option<Head>, Refusal> {
    HeadParser::default().next(&mut BytesMut::from(text), MAX)
}

fn status(text: &str) -> u16 {
    match read(text.as_bytes()) {
        Ok(Some(_)) => 200,
        Ok(None) => 0,
        Err(refusal) => refusal.status.as_u16(),
    }
}

fn facts(text: &str) -> Facts {
    read(text.as_bytes()).unwrap().unwrap().facts
}

#[test]
fn a_plain_head_is_taken_and_what_follows_stays() {
    let mut buf =
        BytesMut::from("\r\nGET /a?b=c HTTP/1.1\r\nHost: h\r\nx-Y:  z \r\nempty:\r\n\r\nrest");
    let head = HeadParser::default().next(&mut buf, MAX).unwrap().unwrap();
    assert_eq!(&buf[..], b"rest");
    let request = head.request.head();
    assert_eq!(request.method, Method::GET);
    assert_eq!(request.uri.path_and_query().unwrap().as_str(), "/a?b=c");
    assert_eq!(request.version, Version::HTTP_11);
    assert_eq!(request.headers.get("x-y").unwrap(), "z");
    assert_eq!(request.headers.get("empty").unwrap(), "");
    assert_eq!(head.facts.body, BodyLength::None);
    assert!(head.facts.keep_alive && !head.facts.upgrade && !head.facts.is_head);
}

#[test]
fn what_two_readers_may_read_differently_is_refused() {
    let bad = [
        "GET / HTTP/1.1\nhost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: h\n\r\n",
        "GET / HTTP/1.1\r\nhost: h\r\n\n",
        "GET / HTTP/1.1\r\na: b\nhost: h\r\n\r\n",
        "\nGET / HTTP/1.1\r\nhost: h\r\n\r\n",
        "\rGET / HTTP/1.1\r\nhost: h\r\n\r\n",
        "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nhost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: h\r\na: b\rc\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: h\r\na: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: h\r\n a: b\r\n\r\n",
        "GET / HTTP/1.1\r\n host: h\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : h\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: h\r\n: x\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: h\r\nx\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: h\r\nx: \0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: h\r\nx: \x7f\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: h\r\nx\u{e9}: 1\r\n\r\n",
        "GET  / HTTP/1.1\r\nhost: h\r\n\r\n",
        "GET /  HTTP/1.1\r\nhost: h\r\n\r\n",
        "GET / HTTP/1.1 \r\nhost: h\r\n\r\n",
        " GET / HTTP/1.1\r\nhost: h\r\n\r\n",
        "GET /a b HTTP/1.1\r\nhost: h\r\n\r\n",
        "GET\t/\tHTTP/1.1\r\nhost: h\r\n\r\n",
        "GET /\r\n\r\n",
        "GET /#f HTTP/1.1\r\nhost: h\r\n\r\n",
        "GET a HTTP/1.1\r\nhost: h\r\n\r\n",
        "GET * HTTP/1.1\r\nhost: h\r\n\r\n",
        "GET /\u{e9} HTTP/1.1\r\nhost: h\r\n\r\n",
        "GET h:80 HTTP/1.1\r\nhost: h\r\n\r\n",
        "G@T / HTTP/1.1\r\nhost: h\r\n\r\n",
        "GET / HTTX/1.1\r\nhost: h\r\n\r\n",
        "GET / http/1.1\r\nhost: h\r\n\r\n",
        "GET / HTTP/11\r\nhost: h\r\n\r\n",
    ];
    for text in bad {
        assert_eq!(status(text), 400, "{text:?}");
    }
}

#[test]
fn each_length_that_could_be_read_in_two_ways_is_refused() {
    let cases = [
        ("content-length: 5", 200),
        ("content-length: 005", 200),
        ("content-length: 18446744073709551615", 200),
        ("content-length: 18446744073709551616", 400),
        ("content-length: +5", 400),
        ("content-length: -5", 400),
        ("content-length: 0x5", 400),
        ("content-length: 5 5", 400),
        ("content-length: 5, 5", 400),
        ("content-length: 5,", 400),
        ("content-length:", 400),
        ("content-length: 5\r\ncontent-length: 5", 400),
        ("content-length: 5\r\ncontent-length: 6", 400),
        ("content-length: 5\r\ntransfer-encoding: chunked", 400),
        ("transfer-encoding: chunked\r\ncontent-length: 5", 400),
        ("transfer-encoding: chunked", 200),
        ("transfer-encoding: Chunked ", 200),
        (
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            400,
        ),
        ("transfer-encoding: chunked, chunked", 400),
        ("transfer-encoding: chunked, identity", 400),
        ("transfer-encoding: , chunked", 400),
        ("transfer-encoding:", 400),
        ("transfer-encoding: gzip, chunked", 501),
        ("transfer-encoding: gzip", 501),
        ("transfer-encoding: identity", 501),
        ("transfer-encoding: xchunked", 501),
        ("transfer-encoding: \"chunked\"", 501),
        ("transfer-encoding: chunked;a=b", 501),
        ("expect: 100-continue", 200),
        ("expect: 200-ok", 417),
    ];
    for (fields, expected) in cases {
        let text = format!("POST / HTTP/1.1\r\nhost: h\r\n{fields}\r\n\r\n");
        assert_eq!(status(&text), expected, "{fields:?}");
    }
    let old = |fields: &str| status(&format!("POST / HTTP/1.0\r\n{fields}\r\n\r\n"));
    assert_eq!(old("transfer-encoding: chunked\r\n"), 400);
    assert_eq!(old(""), 400);
    assert_eq!(old("content-length: 5\r\n"), 200);
    assert_eq!(old("content-length: 5\r\nexpect: x\r\n"), 200);
}

#[test]
fn versions_methods_and_targets_that_are_not_ours_are_told() {
    assert_eq!(status("GET / HTTP/1.2\r\nhost: h\r\n\r\n"), 505);
    assert_eq!(status("GET / HTTP/0.9\r\nhost: h\r\n\r\n"), 505);
    assert_eq!(status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
    assert_eq!(status("OPTIONS * HTTP/1.1\r\nhost: h\r\n\r\n"), 200);
    assert_eq!(status("GET http://h/x HTTP/1.1\r\nhost: h\r\n\r\n"), 200);
    assert_eq!(status("CONNECT h:80 HTTP/1.1\r\nhost: h\r\n\r\n"), 501);
    let method = |length: usize| format!("{} / HTTP/1.1\r\nhost: h\r\n\r\n", "M".repeat(length));
    assert_eq!(status(&method(MAX_METHOD)), 200);
    assert_eq!(status(&method(MAX_METHOD + 1)), 501);
    assert_eq!(status(&"M".repeat(60_000)), 501);
    assert_eq!(status(&"\u{1}".repeat(60)), 400);
}

#[test]
fn max_head_counts_from_the_request_line_to_the_blank_line() {
    let head = |size: usize| {
        let frame = "GET / HTTP/1.1\r\nhost: h\r\nx: \r\n\r\n".len();
        format!(
            "GET / HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n",
            "x".repeat(size - frame)
        )
    };
    assert_eq!(status(&head(MAX)), 200);
    assert_eq!(status(&head(MAX + 1)), 431);
    assert_eq!(
        status(&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(MAX))),
        414
    );
    assert_eq!(status(&format!("GET /{}", "x".repeat(MAX))), 414);
    assert_eq!(
        status(&format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(MAX))),
        431
    );
    for (count, expected) in [(1023, 200), (1024, 431)] {
        let many: String = (0..count).map(|n| format!("x{n}: 1\r\n")).collect();
        let head = format!("GET / HTTP/1.1\r\nhost: h\r\n{many}\r\n");
        assert_eq!(status(&head), expected);
    }
}

#[test]
fn options_of_connection_are_read_wherever_they_stand() {
    let with = |fields: &str| facts(&format!("GET / HTTP/1.1\r\nhost: h\r\n{fields}\r\n\r\n"));
    assert!(!with("connection: a, Close").keep_alive);
    assert!(!with("connection: keep-alive\r\nconnection: close").keep_alive);
    assert!(with("connection: x, UPGRADE\r\nupgrade: websocket").upgrade);
    assert!(!with("upgrade: websocket").upgrade);
    assert!(!with("connection: upgrade").upgrade);
    let old = |fields: &str| facts(&format!("GET / HTTP/1.0\r\n{fields}\r\n\r\n"));
    assert!(!old("x: y").keep_alive);
    assert!(old("connection: Keep-Alive").keep_alive);
    assert!(!old("connection: upgrade\r\nupgrade: websocket").upgrade);
}

proptest! {
    /// A head is the same head, or the same refusal, however it is cut into reads.
    #[test]
    fn cuts_do_not_change_what_is_read(
        lines in prop::collection::vec("[a-zA-Z:, \t;=0-9\r\n-]{0,30}", 0..6),
        start in "(GET|POST|HEAD) /[a-z?=%]{0,8} HTTP/1\\.[0-2]",
        cuts in prop::collection::vec(1_usize..20, 1..40),
    ) {
        let text = format!("{start}\r\n{}\r\n\r\nrest", lines.join("\r\n"));
        let mut whole = BytesMut::from(text.as_str());
        let at_once = HeadParser::default().next(&mut whole, MAX);
        let mut parser = HeadParser::default();
        let (mut buf, mut sent) = (BytesMut::new(), 0);
        let mut cuts = cuts.iter().cycle();
        let in_pieces = loop {
            let to = (sent + cuts.next().unwrap()).min(text.len());
            buf.extend_from_slice(&text.as_bytes()[sent..to]);
            sent = to;
            match parser.next(&mut buf, MAX) {
                Ok(None) if sent < text.len() => {}
                found => break found,
            }
        };
        match (at_once, in_pieces) {
            (Ok(Some(one)), Ok(Some(two))) => {
                prop_assert_eq!(one.facts, two.facts);
                prop_assert_eq!(one.request.uri(), two.request.uri());
                let fields = |head: &Head| -> Vec<(String, Vec<u8>)> {
                    let mut fields: Vec<_> = head.request.head().headers.iter()
                        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
                        .collect();
                    fields.sort();
                    fields
                };
                prop_assert_eq!(fields(&one), fields(&two));
            }
            (Ok(None), Ok(None)) => {}
            // Of several faults the one that is seen first is told.
            (Err(_), Err(_)) => {}
            (one, two) => prop_assert!(false, "{:?} {:?}", one.is_ok(), two.is_ok()),
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
        let mut text = b"GET / HTTP/1.1\r\n".to_vec();
        text.extend_from_slice(&bytes);
        let _ = read(&text);
    }
}
