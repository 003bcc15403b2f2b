//! Names of upstreams to addresses, with how long an answer holds.

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// How long an answer is awaited, all name servers together.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long an answer of the system's resolver holds, which tells no time to live.
const UNKNOWN_TTL: Duration = Duration::from_secs(30);
/// Addresses of one name that are used.
const MAX_ADDRESSES: usize = 64;

/// What a name has been resolved to.
#[derive(Debug)]
pub(super) struct Resolved {
    /// In order, each once.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) until: Instant,
}

/// The resolver of `server.dns`, or else the system's.
#[derive(Clone)]
pub(crate) struct Names {
    /// `None` where there is no configuration of the system's that could be read.
    dns: Option<TokioResolver>,
    /// Whether name servers are configured, so that the system has no say.
    is_own: bool,
}

impl Names {
    pub(crate) fn new(servers: &[SocketAddr]) -> Self {
        let is_own = !servers.is_empty();
        let builder = if is_own {
            let config = ResolverConfig::from_parts(None, Vec::new(), name_servers(servers));
            let runtime = TokioRuntimeProvider::default();
            Ok(TokioResolver::builder_with_config(config, runtime))
        } else {
            TokioResolver::builder_tokio()
        };
        let built = builder.and_then(|mut builder| {
            let options = builder.options_mut();
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            // It is asked when an answer has run out.
            options.cache_size = 0;
            builder.build()
        });
        let dns = built
            .map_err(|error| tracing::warn!(%error, "no name server is known"))
            .ok();
        Self { dns, is_own }
    }

    /// Whether the system's resolver is to be used for connections by name.
    pub(super) fn is_system(&self) -> bool {
        !self.is_own
    }

    /// All addresses of a name, by its A and AAAA records.
    pub(super) async fn look_up(&self, name: &str) -> io::Result<Resolved> {
        let looked_up = timeout(DEADLINE, async {
            let by_dns = match &self.dns {
                Some(dns) => dns.lookup_ip(name).await.map_err(io::Error::other),
                None => Err(io::ErrorKind::Unsupported.into()),
            };
            match by_dns {
                Ok(found) => Ok((found.iter().collect(), found.valid_until())),
                Err(error) if self.is_own => Err(error),
                // It may know names that no name server has (nsswitch.conf).
                Err(_) => {
                    let found = tokio::net::lookup_host((name, 0)).await?;
                    let addresses: Vec<IpAddr> = found.map(|found| found.ip()).collect();
                    Ok((addresses, Instant::now() + UNKNOWN_TTL))
                }
            }
        });
        let (mut addresses, until): (Vec<IpAddr>, Instant) = looked_up.await??;
        addresses.sort();
        addresses.dedup();
        addresses.truncate(MAX_ADDRESSES);
        if addresses.is_empty() {
            return Err(io::Error::other("the name has no address"));
        }
        Ok(Resolved { addresses, until })
    }
}

fn name_servers(servers: &[SocketAddr]) -> Vec<NameServerConfig> {
    let server = |address: &SocketAddr| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        let at_port = |mut connection: ConnectionConfig| {
            connection.port = address.port();
            connection
        };
        server.connections = server.connections.into_iter().map(at_port).collect();
        server
    };
    servers.iter().map(server).collect()
}
