use std::{fmt, path::PathBuf};

/// Which servers there are, and how to reach the first of them.
#[derive(Clone, PartialEq, Eq)]
pub enum Topology {
    /// One server, at the config's `host` and `port`.
    Standalone,
    /// One server, over a socket in the file system.
    Unix {
        /// The socket's path.
        path: PathBuf,
    },
    /// A primary that Sentinels watch. After a failover connections go to the new primary.
    Sentinel {
        /// The Sentinels, host and port.
        nodes: Vec<(String, u16)>,
        /// The name under which they watch it.
        service: String,
        /// The ACL user of the Sentinels themselves, if they ask for one.
        username: Option<String>,
        /// Their password.
        password: Option<String>,
    },
    /// A Redis Cluster. MOVED and ASK are followed.
    Cluster {
        /// Some of its nodes, host and port; the others are discovered.
        nodes: Vec<(String, u16)>,
        /// Whether to connect to replicas as well, when they are first asked, so that
        /// `client.replicas()` reads from one. What a replica answers may be old.
        replicas: bool,
    },
}

/// The password is left out.
impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standalone => f.write_str("Standalone"),
            Self::Unix { path } => f.debug_struct("Unix").field("path", path).finish(),
            Self::Sentinel { nodes, service, .. } => f
                .debug_struct("Sentinel")
                .field("nodes", nodes)
                .field("service", service)
                .finish_non_exhaustive(),
            Self::Cluster { nodes, replicas } => f
                .debug_struct("Cluster")
                .field("nodes", nodes)
                .field("replicas", replicas)
                .finish(),
        }
    }
}

/// The version of the Redis serialization protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2, which every server speaks.
    #[default]
    Resp2,
    /// RESP3, from Redis 6 on.
    Resp3,
}
