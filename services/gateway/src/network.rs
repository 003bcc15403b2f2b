//! Networks of addresses (RFC 4632, RFC 4291 §2.3): whose word counts, and where agents may listen.

use std::{fmt, net::IpAddr, str::FromStr};

/// A network, or one address. IPv4 addresses in IPv6 are those of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    pub(crate) const fn new(address: IpAddr, bits: u8) -> Self {
        Self { address, bits }
    }

    /// Whether it is no more than one address.
    pub(crate) fn is_single(self) -> bool {
        self.bits == most(self.address)
    }

    pub(crate) fn contains(self, address: IpAddr) -> bool {
        match (self.address.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) if self.address.is_ipv4() => {
                let shift = 32 - u32::from(self.bits.min(32));
                u32::from(address).checked_shr(shift) == u32::from(network).checked_shr(shift)
            }
            (IpAddr::V4(network), IpAddr::V4(address)) => self.is_single() && network == address,
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits.min(128));
                u128::from(address).checked_shr(shift) == u128::from(network).checked_shr(shift)
            }
            _ => false,
        }
    }
}

fn most(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// A text that is neither an address nor a network.
#[derive(Debug)]
pub struct NotANetwork(String);

impl fmt::Display for NotANetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = &self.0;
        write!(
            f,
            "{text:?} is neither an address nor a network such as 10.0.0.0/8"
        )
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let bad = || NotANetwork(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let bits = match bits {
            Some(bits) => bits
                .parse()
                .ok()
                .filter(|bits| *bits <= most(address))
                .ok_or_else(bad)?,
            None => most(address),
        };
        Ok(Self { address, bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses() {
        let within = |address: &str, network: &str| {
            let network: Network = network.parse().unwrap();
            network.contains(address.parse().unwrap())
        };
        assert!(within("10.1.2.3", "10.0.0.0/8"));
        assert!(!within("11.1.2.3", "10.0.0.0/8"));
        assert!(within("192.168.0.1", "0.0.0.0/0"));
        assert!(within("::ffff:10.1.2.3", "10.0.0.0/8"));
        assert!(within("10.1.2.3", "::ffff:10.1.2.3"));
        assert!(!within("10.1.2.3", "::/0"));
        assert!(within("2001:db8::1", "2001:db8::/32"));
        assert!(!within("2001:db9::1", "2001:db8::/32"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in [
            "",
            "10",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "::/129",
            "a/8",
            "10.0.0.0/",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
