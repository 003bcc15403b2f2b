//! Names to addresses. For agents only to those at which agents may be.
//!
//! It is asked at each connection, so that a name cannot pass while it is looked at and lead
//! somewhere else when it is used (DNS rebinding).

use super::names::Names;
use crate::{agents::AddressPolicy, config::Destination};
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec,
};
use tower_service::Service;

/// The system's resolver or that of `server.dns`, with a policy for what it finds.
#[derive(Clone)]
pub(crate) struct Resolver {
    system: GaiResolver,
    own: Option<Names>,
    policy: Option<Arc<AddressPolicy>>,
}

impl Resolver {
    /// One for a destination: only agents choose their own addresses.
    pub(super) fn of(to: &Destination, policy: &Arc<AddressPolicy>, names: &Names) -> Self {
        Self {
            policy: matches!(to, Destination::Agent(_)).then(|| Arc::clone(policy)),
            ..Self::unlimited(names)
        }
    }

    pub(super) fn unlimited(names: &Names) -> Self {
        Self {
            system: GaiResolver::new(),
            own: (!names.is_system()).then(|| names.clone()),
            policy: None,
        }
    }
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.system.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let policy = self.policy.clone();
        let own = self.own.clone();
        let found = own.is_none().then(|| self.system.call(name.clone()));
        Box::pin(async move {
            let found: Vec<SocketAddr> = match (own, found) {
                (Some(own), _) => {
                    let found = own.look_up(name.as_str()).await?.addresses;
                    // The connector puts the port in.
                    let address = |ip| SocketAddr::new(ip, 0);
                    found.into_iter().map(address).collect()
                }
                (None, Some(found)) => found.await?.collect(),
                (None, None) => Vec::new(),
            };
            if let Some(policy) = policy {
                let addresses: Vec<_> = found.iter().map(SocketAddr::ip).collect();
                if !policy.allows_resolved(name.as_str(), &addresses) {
                    let what =
                        "the name of an agent resolves to addresses that agents.allow forbids";
                    tracing::warn!(host = name.as_str(), ?addresses, "{what}");
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
                }
            }
            Ok(found.into_iter())
        })
    }
}
