use std::fmt;

/// A server by host and port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// What a connection is made to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// The node of a cluster; otherwise the configuration says where to go.
    pub(crate) server: Option<Server>,
    /// It is a replica, and is to answer reads itself.
    pub(crate) replica: bool,
}

impl Target {
    /// A primary of a cluster, or any of its nodes.
    pub(crate) fn node(server: Server) -> Self {
        Self {
            server: Some(server),
            replica: false,
        }
    }
}

impl Server {
    /// From `host:port` as it stands in a redirection; an empty host is that of who answered.
    pub(crate) fn parse(text: &str, answered: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_matches(['[', ']']);
        Some(Self {
            host: if host.is_empty() { answered } else { host }.to_owned(),
            port: port.parse().ok().filter(|port| *port != 0)?,
        })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_name_servers_in_several_ways() {
        let parse = |text| Server::parse(text, "me").map(|server| server.to_string());
        assert_eq!(parse("10.0.0.1:6379").as_deref(), Some("10.0.0.1:6379"));
        assert_eq!(parse(":7000").as_deref(), Some("me:7000"));
        assert_eq!(parse("fe80::1:7000").as_deref(), Some("[fe80::1]:7000"));
        assert_eq!(parse("[::1]:7000").as_deref(), Some("[::1]:7000"));
        for wrong in ["", "host", "host:", "host:0", "host:99999"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
