//! Connections to one address of a name.
//!
//! hyper keeps connections by the authority of a URL, and TLS takes the server's name from it. The
//! address therefore stands before the name, as in `http://10.0.0.1@name:80`, where nobody else writes
//! anything: the configuration refuses user information. It is never sent.

use super::resolver::Resolver;
use http::{Uri, uri::Authority};
use hyper_util::client::legacy::connect::HttpConnector;
use std::{
    net::{IpAddr, SocketAddr},
    task::{Context, Poll},
};
use tower_service::Service;

type Http = HttpConnector<Resolver>;

/// Connects to the address in a URL, or, where it has none, to its name.
#[derive(Clone)]
pub(crate) struct Connector(pub(super) Http);

impl Service<Uri> for Connector {
    type Response = <Http as Service<Uri>>::Response;
    type Error = <Http as Service<Uri>>::Error;
    type Future = <Http as Service<Uri>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Uri>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let uri = addressed(&uri).unwrap_or(uri);
        self.0.call(uri)
    }
}

/// A base with an address for its name.
pub(super) fn put(base: &str, address: IpAddr) -> String {
    let (scheme, rest) = base.split_once("://").unwrap_or(("http", base));
    let address = address.to_string().replace(':', "-");
    format!("{scheme}://{address}@{rest}")
}

fn addressed(uri: &Uri) -> Option<Uri> {
    let (address, _) = uri.authority()?.as_str().split_once('@')?;
    let address: IpAddr = address.replace('-', ":").parse().ok()?;
    let default = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    let socket = SocketAddr::new(address, uri.port_u16().unwrap_or(default));
    let mut parts = uri.clone().into_parts();
    parts.authority = Some(Authority::try_from(socket.to_string()).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_out_as_it_was_put_in() {
        for (base, address, expected) in [
            ("http://name/x", "10.0.0.1", "http://10.0.0.1:80/x"),
            ("https://name", "fd00::1", "https://[fd00::1]:443/"),
            (
                "http://name:81",
                "1:2:3:4:5:6:7:8",
                "http://[1:2:3:4:5:6:7:8]:81/",
            ),
            (
                "http://name:81",
                "::ffff:1.2.3.4",
                "http://[::ffff:1.2.3.4]:81/",
            ),
        ] {
            let uri: Uri = put(base, address.parse().unwrap()).parse().unwrap();
            assert_eq!(uri.host(), Some("name"));
            assert_eq!(addressed(&uri).unwrap().to_string(), expected);
        }
        assert!(addressed(&Uri::from_static("http://name:80")).is_none());
    }
}
