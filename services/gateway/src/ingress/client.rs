//! Where a request comes from, as far as the proxies before us are trusted.

use actix_web::{
    dev::ServiceRequest,
    http::header::{HeaderMap, HeaderName},
};
use std::net::IpAddr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A request's origin.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// The client's address: the peer's, or what a trusted peer says.
    pub(crate) address: Option<IpAddr>,
    /// The peer's address.
    pub(crate) peer: Option<IpAddr>,
    /// Whether the peer's forwarding headers count.
    pub(crate) trusted: bool,
    /// Whether the client came over TLS to a trusted proxy.
    pub(crate) https: bool,
}

impl Client {
    pub(super) fn of(req: &ServiceRequest, trusted: &[(IpAddr, u8)]) -> Self {
        let peer = req.peer_addr().map(|peer| peer.ip());
        let is_trusted = |address: IpAddr| {
            trusted
                .iter()
                .any(|(network, bits)| within(address, *network, *bits))
        };
        if trusted.is_empty() || !peer.is_some_and(is_trusted) {
            return Self {
                address: peer,
                peer,
                trusted: false,
                https: false,
            };
        }
        let headers = req.headers();
        // The last address that no trusted proxy has is the client's: whoever stands before it may
        // have written what they liked.
        let forwarded = chain(headers).into_iter().rev();
        let mut address = peer;
        for hop in forwarded {
            address = Some(hop);
            if !is_trusted(hop) {
                break;
            }
        }
        let https = headers
            .get(X_FORWARDED_PROTO)
            .is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
        Self {
            address,
            peer,
            trusted: true,
            https,
        }
    }
}

/// The addresses of X-Forwarded-For; the readable ones, in order.
fn chain(headers: &HeaderMap) -> Vec<IpAddr> {
    headers
        .get_all(X_FORWARDED_FOR)
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|hop| {
            let hop = hop.trim().trim_matches('"');
            let bare = hop
                .strip_prefix('[')
                .and_then(|rest| rest.split(']').next())
                .unwrap_or(hop);
            bare.parse()
                .or_else(|_| bare.split(':').next().unwrap_or("").parse())
                .ok()
        })
        .collect()
}

fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address.to_canonical(), network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let shift = 32 - u32::from(bits.min(32));
            u32::from(address).checked_shr(shift) == u32::from(network).checked_shr(shift)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let shift = 128 - u32::from(bits.min(128));
            u128::from(address).checked_shr(shift) == u128::from(network).checked_shr(shift)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses() {
        let within = |address: &str, network: &str, bits| {
            within(address.parse().unwrap(), network.parse().unwrap(), bits)
        };
        assert!(within("10.1.2.3", "10.0.0.0", 8));
        assert!(!within("11.1.2.3", "10.0.0.0", 8));
        assert!(within("192.168.0.1", "0.0.0.0", 0));
        assert!(within("::ffff:10.1.2.3", "10.0.0.0", 8));
        assert!(within("2001:db8::1", "2001:db8::", 32));
        assert!(!within("2001:db9::1", "2001:db8::", 32));
    }
}
