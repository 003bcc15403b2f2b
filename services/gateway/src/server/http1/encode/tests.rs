use super::*;
use actix_web::http::header::{HeaderName, HeaderValue};
use proptest::prelude::*;

const GET: Context = Context {
    is_head: false,
    is_http_10: false,
    keep_alive: true,
};

fn write(
    status: u16,
    fields: &[(&'static str, &'static str)],
    size: BodySize,
    context: Context,
) -> (String, Encoded) {
    let mut response = ResponseHead::new(StatusCode::from_u16(status).unwrap());
    for (name, value) in fields {
        response.headers.append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    let mut out = BytesMut::new();
    let encoded = head(&mut out, &response, size, context, "now");
    (String::from_utf8(out.to_vec()).unwrap(), encoded)
}

#[test]
fn a_response_is_framed_by_its_own_request() {
    let none = [];
    let (text, encoded) = write(200, &none, BodySize::Sized(12), GET);
    assert_eq!(
        text,
        "HTTP/1.1 200 OK\r\ncontent-length: 12\r\ndate: now\r\n\r\n"
    );
    assert_eq!(encoded.framing, Framing::Length(12));
    let (text, encoded) = write(200, &none, BodySize::Stream, GET);
    assert!(text.contains("transfer-encoding: chunked\r\n"));
    assert_eq!(encoded.framing, Framing::Chunked);
    let head_request = Context {
        is_head: true,
        ..GET
    };
    let (text, encoded) = write(200, &none, BodySize::Sized(12), head_request);
    assert!(text.contains("content-length: 12\r\n"));
    assert_eq!(encoded.framing, Framing::None);
    assert_eq!(
        write(200, &none, BodySize::Stream, head_request).1.framing,
        Framing::None
    );
    let old = Context {
        is_http_10: true,
        ..GET
    };
    let (text, encoded) = write(200, &none, BodySize::Stream, old);
    assert!(
        !text.contains("chunked") && text.contains("connection: close\r\n"),
        "{text}"
    );
    assert_eq!(
        (encoded.framing, encoded.keep_alive),
        (Framing::UntilClose, false)
    );
    let (text, _) = write(200, &none, BodySize::Sized(1), old);
    assert!(text.contains("connection: keep-alive\r\n"));
}

#[test]
fn what_a_handler_says_of_framing_is_replaced() {
    let fields = [
        ("connection", "x"),
        ("transfer-encoding", "gzip"),
        ("content-length", "99"),
        ("x", "y"),
    ];
    let (text, _) = write(200, &fields, BodySize::Sized(3), GET);
    assert_eq!(
        text,
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nx: y\r\ndate: now\r\n\r\n"
    );
    for status in [204, 304] {
        let (text, encoded) = write(status, &[], BodySize::Sized(3), GET);
        assert_eq!(encoded.framing, Framing::None);
        assert!(
            !text.contains("content-length") && !text.contains("chunked"),
            "{text}"
        );
    }
    assert!(
        write(304, &fields, BodySize::None, GET)
            .0
            .contains("content-length: 99\r\n")
    );
    assert!(
        write(205, &[], BodySize::None, GET)
            .0
            .contains("content-length: 0\r\n")
    );
    let own_date = [("date", "then")];
    assert_eq!(
        write(404, &own_date, BodySize::None, GET).0,
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\ndate: then\r\n\r\n"
    );
}

#[test]
fn a_switch_of_protocols_has_no_length() {
    let fields = [("upgrade", "websocket"), ("content-length", "0")];
    let (text, encoded) = write(101, &fields, BodySize::Stream, GET);
    assert_eq!(encoded.framing, Framing::Raw);
    assert_eq!(
        text,
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\ndate: now\r\n\r\n"
    );
}

proptest! {
    #[test]
    fn numbers_are_written_as_the_standard_library_does(number in any::<u64>()) {
        let mut out = BytesMut::new();
        decimal(&mut out, number);
        prop_assert_eq!(out.to_vec(), number.to_string().into_bytes());
        let mut out = BytesMut::new();
        chunk_start(&mut out, number as usize);
        prop_assert_eq!(out.to_vec(), format!("{number:x}\r\n").into_bytes());
    }
}
