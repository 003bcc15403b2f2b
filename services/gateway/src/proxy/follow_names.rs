//! Upstreams that are configured by a name: each of its addresses is an upstream of its own, for as
//! long as the name has it.
//!
//! A name is resolved anew when its answer runs out. One that cannot be resolved keeps the addresses
//! that it had, and one that never could goes to the system's resolver at each connection. A new
//! address that accepts no connection is left out while others of its name are used: of a name with
//! A and AAAA records often only one kind can be reached.

use super::{
    names::Names,
    upstreams::{Endpoint, Upstreams},
};
use crate::{config::Destination, state::State};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

/// However short a time to live is, a name is not resolved more often than this.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// However long it is, it is resolved as often: an address that was left out may have come back.
const MAX_REFRESH: Duration = Duration::from_secs(30);
/// After a failure.
const RETRY: Duration = Duration::from_secs(2);
/// How long a new address may take to accept a connection.
const PROBE: Duration = Duration::from_secs(2);

/// A name and a port.
type Host = (String, u16);
type Table = Mutex<HashMap<Host, Vec<IpAddr>>>;

/// Keeps the upstreams of all routes and models up to date, for ever; ends at once where none has a
/// name.
pub(crate) async fn follow(state: &State) {
    let routes = state.routes.all().iter();
    let routes = routes.map(|route| (&route.config.to, &route.upstreams));
    let models = state.models.all().iter();
    let models = models.map(|route| (&route.config.to, &route.upstreams));
    let configured: Vec<(&[String], &Upstreams)> = routes
        .chain(models)
        .filter_map(|(to, upstreams)| match to {
            Destination::Upstreams(bases) => Some((bases.as_slice(), upstreams)),
            Destination::Agent(_) => None,
        })
        .collect();
    let bases = configured.iter().flat_map(|(bases, _)| *bases);
    let hosts: BTreeMap<Host, ()> = bases.filter_map(|base| Some((host(base)?, ()))).collect();
    let table = Table::default();
    let publish = || {
        let table = table.lock();
        for (bases, upstreams) in &configured {
            let endpoints = bases.iter().flat_map(|base| endpoints(base, &table));
            let endpoints: Vec<_> = endpoints.map(|endpoint| (endpoint, false)).collect();
            upstreams.replace(&endpoints);
        }
    };
    let follow = hosts
        .keys()
        .map(|host| follow_one(&state.names, host, &table, &publish));
    futures_util::future::join_all(follow).await;
}

async fn follow_one(names: &Names, host: &Host, table: &Table, publish: &impl Fn()) {
    let (name, port) = host;
    let mut is_failing = false;
    loop {
        let pause = match names.look_up(name).await {
            Ok(found) => {
                is_failing = false;
                let known = table.lock().get(host).cloned().unwrap_or_default();
                let addresses = usable(&found.addresses, &known, *port).await;
                if addresses != known {
                    tracing::info!(name, ?addresses, "an upstream's name has these addresses");
                    table.lock().insert(host.clone(), addresses);
                    publish();
                }
                let holds = found.until.saturating_duration_since(Instant::now());
                holds.clamp(MIN_REFRESH, MAX_REFRESH)
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    let what =
                        "an upstream's name cannot be resolved; what it had before is used on";
                    tracing::warn!(name, %error, "{what}");
                }
                RETRY
            }
        };
        sleep(pause).await;
    }
}

/// Of what was found, what is in use and what accepts a connection; all of it if there is neither.
async fn usable(found: &[IpAddr], known: &[IpAddr], port: u16) -> Vec<IpAddr> {
    let accepted = found.iter().map(|address| async move {
        known.contains(address) || found.len() == 1 || {
            let connecting = TcpStream::connect(SocketAddr::new(*address, port));
            matches!(timeout(PROBE, connecting).await, Ok(Ok(_)))
        }
    });
    let accepted = futures_util::future::join_all(accepted).await;
    let usable = found.iter().zip(accepted).filter(|(_, accepted)| *accepted);
    let usable: Vec<IpAddr> = usable.map(|(address, _)| *address).collect();
    if usable.is_empty() {
        found.to_vec()
    } else {
        usable
    }
}

/// The name and port of a base; `None` for an address.
fn host(base: &str) -> Option<Host> {
    let uri: http::Uri = base.parse().ok()?;
    let name = uri.host()?;
    if name.starts_with('[') || name.parse::<IpAddr>().is_ok() {
        return None;
    }
    let default = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    Some((name.to_ascii_lowercase(), uri.port_u16().unwrap_or(default)))
}

fn endpoints(base: &str, table: &HashMap<Host, Vec<IpAddr>>) -> Vec<Endpoint> {
    let found = host(base).and_then(|host| table.get(&host));
    match found {
        Some(addresses) => addresses
            .iter()
            .map(|address| Endpoint::at(base, *address))
            .collect(),
        None => vec![Endpoint::of(base)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_port_and_an_address_is_none() {
        assert_eq!(host("http://A.test/x"), Some(("a.test".to_owned(), 80)));
        assert_eq!(host("https://a.test"), Some(("a.test".to_owned(), 443)));
        assert_eq!(
            host("http://a.test:8080"),
            Some(("a.test".to_owned(), 8080))
        );
        assert_eq!(host("http://10.0.0.1:80"), None);
        assert_eq!(host("http://[::1]:80"), None);
    }

    #[tokio::test]
    async fn an_address_that_accepts_nothing_is_left_out_unless_there_is_no_other() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let [here, deaf]: [IpAddr; 2] =
            ["127.0.0.1", "127.0.0.9"].map(|text| text.parse().unwrap());
        assert_eq!(usable(&[here, deaf], &[], port).await, [here]);
        assert_eq!(usable(&[here, deaf], &[deaf], port).await, [here, deaf]);
        drop(listener);
        assert_eq!(usable(&[here, deaf], &[], port).await, [here, deaf]);
    }
}
