//! Where agents may listen: `agents.allow`.
//!
//! Whoever registers an agent chooses where the gateway sends requests. Without a limit that is a way
//! to everything that the gateway can reach (server-side request forgery), the metadata service of a
//! cloud above all. An address is checked when an agent registers, again when its record is read,
//! since others may write to Redis, and names once more at each connection: what a name resolves to
//! may change in between.

use crate::{
    config::{AgentAllow, routes_origin},
    network::Network,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses and names at which agents are allowed.
#[derive(Debug)]
pub(crate) struct AddressPolicy {
    networks: Vec<Network>,
    hosts: Vec<String>,
}

/// What no network lets in: each has to be listed by itself, as one address.
const NEVER: [Network; 9] = [
    // "This host", to which Linux connects as to loopback.
    Network::new(IpAddr::V4(Ipv4Addr::new(0, 0, 0, 0)), 8),
    // Link-local, the metadata services of most clouds among them.
    Network::new(IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    Network::new(IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    // The metadata services of Alibaba Cloud and, by IPv6, of AWS.
    Network::new(IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), 32),
    Network::new(
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
        128,
    ),
    // Multicast, what is reserved, and broadcast.
    Network::new(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 3),
    Network::new(IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
    Network::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 128),
    // Oracle Cloud's.
    Network::new(IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)), 32),
];

/// Names of metadata services, which resolve in their clouds only.
const METADATA: [&str; 6] = [
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "metadata.azure.internal",
    "instance-data",
    "instance-data.ec2.internal",
];

impl AddressPolicy {
    pub(crate) fn new(allow: &AgentAllow) -> Self {
        Self {
            networks: allow.networks.clone(),
            hosts: allow.hosts.clone(),
        }
    }

    /// The base of an agent's URL, if it may be there.
    pub(crate) fn base(&self, url: &str) -> Result<String, String> {
        if url.contains('#') {
            return Err(format!("{url:?} has a fragment, which is never sent"));
        }
        let base = routes_origin(url).map_err(|fault| format!("{fault}; see agents.allow"))?;
        let uri: http::Uri = base.parse().map_err(|_| format!("{url:?} is no URL"))?;
        let host = uri.host().unwrap_or_default();
        let refused = |what: &str| format!("the host {host:?} {what}; see agents.allow");
        let address = match host.strip_prefix('[') {
            Some(rest) => {
                let address = rest.strip_suffix(']').and_then(|text| text.parse().ok());
                Some(address.ok_or_else(|| refused("is not an IPv6 address"))?)
            }
            None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        };
        match address {
            Some(address) if self.allows(address) => Ok(base),
            Some(_) => Err(refused("is an address at which no agent may be")),
            None if is_number(host) => Err(refused("is not an address of four decimal numbers")),
            None if self.forbids_name(host) => Err(refused("is a name that no agent may have")),
            None => Ok(base),
        }
    }

    /// Whether an agent may be at all of these addresses, to which a name resolves: one that is
    /// forbidden may be the one that is connected to.
    pub(crate) fn allows_resolved(&self, name: &str, addresses: &[IpAddr]) -> bool {
        let is_listed = self.is_listed(name);
        !self.forbids_name(name)
            && addresses.iter().all(|address| {
                let address = embedded(*address);
                self.allows(address) || (is_listed && !is_never(address))
            })
    }

    fn allows(&self, address: IpAddr) -> bool {
        let address = embedded(address);
        let is_in = |network: &Network| network.contains(address);
        let by_itself = |network: &Network| network.is_single() && is_in(network);
        self.networks.iter().any(by_itself)
            || (!is_never(address) && self.networks.iter().any(is_in))
    }

    fn forbids_name(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        METADATA.contains(&name.as_str()) && !self.hosts.contains(&name)
    }

    fn is_listed(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        self.hosts.iter().any(|host| match host.strip_prefix("*.") {
            Some(domain) => name
                .strip_suffix(domain)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            None => *host == name,
        })
    }
}

fn is_never(address: IpAddr) -> bool {
    NEVER.iter().any(|network| network.contains(address))
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible, 6to4 or NAT64.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => v4(high, low),
        // `::` and `::1` are themselves.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// Whether resolvers take a host for an address that is written in another way, such as `0x7f.1` or
/// `2130706433` (WHATWG URL, "ends in a number").
fn is_number(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => last.is_empty() || last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};
    use proptest::prelude::*;

    fn policy(allow: &str) -> AddressPolicy {
        let config = Config::parse("f", allow, &Environment::default()).unwrap();
        AddressPolicy::new(&config.agent_allow)
    }

    #[test]
    fn agents_are_in_private_networks_unless_more_is_allowed() {
        let private = policy("");
        for good in [
            "http://10.0.0.7:9000",
            "http://172.31.0.1",
            "https://192.168.1.1:1/",
            "http://127.0.0.1:80",
            "http://[::1]:80",
            "http://[fd12::1]:80",
            "http://[::ffff:10.0.0.1]:80",
            "http://agent.example",
            "http://localhost:1",
        ] {
            assert!(private.base(good).is_ok(), "{good}");
        }
        for bad in [
            "http://169.254.169.254",
            "http://[fe80::1]",
            "http://[::ffff:169.254.169.254]",
            "http://[::a9fe:a9fe]",
            "http://[64:ff9b::a9fe:a9fe]",
            "http://[2002:a9fe:a9fe::1]",
            "http://[fd00:ec2::254]",
            "http://100.100.100.200",
            "http://8.8.8.8",
            "http://172.32.0.1",
            "http://[2001:db8::1]",
            "http://0.0.0.0:80",
            "http://[::]:80",
            "http://224.0.0.1",
            "http://255.255.255.255",
            "http://0x7f.1",
            "http://2130706433",
            "http://0177.0.0.1",
            "http://127.1",
            "http://127.0.0.1.",
            "http://0x7f000001",
            "http://metadata.google.internal",
            "http://METADATA.google.internal.",
            "http://u@10.0.0.1",
            "http://10.0.0.1/path",
            "http://10.0.0.1#@evil",
            "http://10.0.0.1?q",
            "ftp://10.0.0.1",
            "10.0.0.1:80",
            "http://",
        ] {
            assert!(private.base(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wide_network_leaves_metadata_services_out_and_a_single_address_is_meant() {
        let wide = policy("[agents]\nallow = [\"0.0.0.0/0\", \"::/0\"]");
        assert!(wide.base("http://8.8.8.8").is_ok());
        for bad in [
            "http://169.254.169.254",
            "http://[fd00:ec2::254]",
            "http://0.0.0.0",
            "http://[::ffff:169.254.169.254]",
        ] {
            assert!(wide.base(bad).is_err(), "{bad}");
        }
        let single = policy("[agents]\nallow = [\"169.254.7.7\"]");
        assert!(single.base("http://169.254.7.7").is_ok());
        assert!(single.base("http://169.254.7.8").is_err());
        assert!(single.base("http://10.0.0.1").is_err());
    }

    #[test]
    fn a_name_is_judged_by_all_that_it_resolves_to() {
        let policy = policy("[agents]\nallow = [\"10.0.0.0/8\", \"*.agents.test\"]");
        let judge = |name: &str, addresses: &[&str]| {
            let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            policy.allows_resolved(name, &addresses)
        };
        assert!(judge("a", &["10.0.0.1", "10.0.0.2"]));
        assert!(!judge("a", &["10.0.0.1", "8.8.8.8"]));
        assert!(!judge("a", &["::ffff:169.254.169.254"]));
        assert!(judge("one.agents.test", &["8.8.8.8"]));
        assert!(!judge("one.agents.test", &["169.254.169.254"]));
        assert!(!judge("agents.test", &["8.8.8.8"]));
        assert!(!judge("xagents.test", &["8.8.8.8"]));
    }

    proptest! {
        #[test]
        fn no_url_panics_and_none_leads_to_a_metadata_service(text in "http://[0-9a-fx.:\\[\\]]{0,30}") {
            if policy("").base(&text).is_ok() {
                prop_assert!(!text.contains("169.254."));
            }
        }
    }
}
