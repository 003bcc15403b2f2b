//! Names to addresses. For agents only to those at which agents may be.
//!
//! It is asked at each connection, so that a name cannot pass while it is looked at and lead
//! somewhere else when it is used (DNS rebinding).

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

/// The system's resolver, with a policy for what it finds.
#[derive(Clone)]
pub(crate) struct Resolver {
    system: GaiResolver,
    policy: Option<Arc<AddressPolicy>>,
}

impl Resolver {
    /// One for a destination: only agents choose their own addresses.
    pub(super) fn of(to: &Destination, policy: &Arc<AddressPolicy>) -> Self {
        Self {
            system: GaiResolver::new(),
            policy: matches!(to, Destination::Agent(_)).then(|| Arc::clone(policy)),
        }
    }

    pub(super) fn unlimited() -> Self {
        Self {
            system: GaiResolver::new(),
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
        let found = self.system.call(name.clone());
        Box::pin(async move {
            let found: Vec<SocketAddr> = found.await?.collect();
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
