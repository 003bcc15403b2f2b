//! Trailers of a response: a slot in its extensions, filled when its body ends.

use std::{cell::RefCell, rc::Rc};

/// Where a body's producer leaves the trailers, and the connection finds them when the body has
/// ended.
#[derive(Clone, Default)]
pub(crate) struct TrailerSlot(Rc<RefCell<Vec<u8>>>);

impl TrailerSlot {
    /// The fields, each with its line end; nothing where there are none.
    pub(super) fn take(&self) -> Vec<u8> {
        self.0.take()
    }

    /// Keeps the fields that may stand in a trailer section (RFC 9110 §6.5.1): none that frames,
    /// routes, authenticates or steers the message.
    pub(crate) fn put(&self, trailers: &http::HeaderMap) {
        let mut fields = Vec::new();
        for (name, value) in trailers {
            let forbidden = matches!(
                name.as_str(),
                "transfer-encoding"
                    | "content-length"
                    | "host"
                    | "connection"
                    | "trailer"
                    | "upgrade"
                    | "te"
                    | "keep-alive"
                    | "authorization"
                    | "set-cookie"
                    | "content-encoding"
                    | "content-type"
                    | "content-range"
                    | "cache-control"
                    | "age"
                    | "expires"
                    | "date"
                    | "location"
                    | "vary"
                    | "warning"
                    | "proxy-authenticate"
                    | "www-authenticate"
            );
            if !forbidden {
                fields.extend_from_slice(name.as_str().as_bytes());
                fields.extend_from_slice(b": ");
                fields.extend_from_slice(value.as_bytes());
                fields.extend_from_slice(b"\r\n");
            }
        }
        *self.0.borrow_mut() = fields;
    }
}
