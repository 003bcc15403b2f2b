//! Several servers: a Redis Cluster, and a primary with its replica and Sentinels.

use super::{Redis, cli, config_for_faults, free_port};
use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::time::sleep;
use weaver_pool::{RedisPoolConfig, Topology};

/// Six nodes: three primaries, each with a replica.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Redis>,
    /// Those that clients connect to.
    ports: Vec<u16>,
    _directory: TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::make(None).await
    }

    /// One whose nodes speak TLS to clients and to each other; `config` then gives those ports.
    pub(crate) async fn start_with_tls(ca: &str, certificate: &str, key: &str) -> Self {
        Self::make(Some([ca, certificate, key])).await
    }

    async fn make(tls: Option<[&str; 3]>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut nodes = Vec::new();
        let mut ports = Vec::new();
        for at in 0..6 {
            let file = directory.path().join(format!("{at}.conf"));
            let bus = free_port().to_string();
            let port = free_port();
            let tls_port = port.to_string();
            let mut arguments = vec![
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "500",
                "--cluster-require-full-coverage",
                "no",
                "--cluster-port",
                &bus,
                "--cluster-config-file",
                file.to_str().unwrap(),
            ];
            if let Some([ca, certificate, key]) = tls {
                arguments.extend(["--tls-cluster", "yes", "--tls-auth-clients", "no"]);
                arguments.extend(["--tls-replication", "yes", "--tls-port", &tls_port]);
                arguments.extend(["--tls-ca-cert-file", ca, "--tls-cert-file", certificate]);
                arguments.extend(["--tls-key-file", key]);
            }
            let node = Redis::start_with(&arguments).await;
            ports.push(if tls.is_some() { port } else { node.port });
            nodes.push(node);
        }
        let addresses: Vec<String> = ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let tls_arguments = tls.map(|[ca, ..]| ["--tls", "--cacert", ca]);
        let made = Command::new("redis-cli")
            .args(tls_arguments.iter().flatten())
            .args(["--cluster", "create"])
            .args(&addresses)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        let cluster = Self {
            nodes,
            ports,
            _directory: directory,
        };
        cluster.whole().await;
        cluster
    }

    /// Waits until every node that is up says that all is well.
    pub(crate) async fn whole(&self) {
        let since = Instant::now();
        for node in self.nodes.iter().filter(|node| node.is_up()) {
            loop {
                let info = node.cli(&["CLUSTER", "INFO"]);
                let replication = node.cli(&["INFO", "replication"]);
                // A replica that has not been in step with its primary never takes over.
                let in_step = replication.contains("role:master")
                    || replication.contains("master_link_status:up");
                if info.contains("cluster_state:ok")
                    && info.contains("cluster_known_nodes:6")
                    && in_step
                {
                    break;
                }
                assert!(since.elapsed() < Duration::from_secs(30), "{info}");
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// The primary that has a key, by its place among the nodes.
    pub(crate) fn owner(&self, key: &str) -> usize {
        let asked = self.nodes.iter().find(|node| node.is_up()).unwrap();
        let slot = asked
            .cli(&["CLUSTER", "KEYSLOT", key])
            .parse::<u32>()
            .unwrap();
        for line in asked.cli(&["CLUSTER", "NODES"]).lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let has = fields[8.min(fields.len())..].iter().any(|range| {
                let (from, to) = range.split_once('-').unwrap_or((range, range));
                matches!((from.parse::<u32>(), to.parse::<u32>()), (Ok(from), Ok(to)) if (from..=to).contains(&slot))
            });
            if has && fields[2].contains("master") && !fields[2].contains("fail") {
                let port = fields[1].split([':', '@']).nth(1).unwrap();
                let is = |node: &Redis| node.port.to_string() == port;
                return self.nodes.iter().position(is).unwrap();
            }
        }
        panic!("nobody has {key}");
    }

    pub(crate) fn config(&self) -> RedisPoolConfig {
        RedisPoolConfig {
            topology: Topology::Cluster {
                nodes: self
                    .ports
                    .iter()
                    .map(|port| ("127.0.0.1".to_owned(), *port))
                    .collect(),
                replicas: false,
            },
            socket_connect_timeout: Duration::from_secs(2),
            ..config_for_faults(0)
        }
    }
}

/// A primary, a replica, and three Sentinels that watch them under the name `main`.
pub(crate) struct Watched {
    pub(crate) servers: [Redis; 2],
    sentinels: Vec<(Child, u16)>,
    _directory: TempDir,
}

impl Watched {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let primary = Redis::start().await;
        let of = format!("127.0.0.1 {}", primary.port);
        let replica = Redis::start_with(&["--replicaof", &of]).await;
        let mut sentinels = Vec::new();
        for at in 0..3 {
            let port = free_port();
            let file = directory.path().join(format!("{at}.conf"));
            let text = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds main 300\n\
                 sentinel failover-timeout main 2000\n",
                primary.port
            );
            std::fs::write(&file, text).unwrap();
            let child = Command::new("redis-server")
                .arg(&file)
                .arg("--sentinel")
                .stdout(Stdio::null())
                .spawn()
                .expect("redis-server is installed; tests/setup does it");
            sentinels.push((child, port));
        }
        let watched = Self {
            servers: [primary, replica],
            sentinels,
            _directory: directory,
        };
        watched.ready().await;
        watched
    }

    /// Waits until every Sentinel knows the replica and the other Sentinels.
    pub(crate) async fn ready(&self) {
        let since = Instant::now();
        for (_, port) in &self.sentinels {
            loop {
                let info = cli(*port, &["INFO", "sentinel"]);
                if info.contains("status=ok") && info.contains("slaves=1,sentinels=3") {
                    break;
                }
                assert!(since.elapsed() < Duration::from_secs(30), "{info}");
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    pub(crate) fn sentinel(&self) -> u16 {
        self.sentinels[0].1
    }

    /// The port of the primary, as a Sentinel has it.
    pub(crate) fn primary(&self) -> u16 {
        let answer = cli(
            self.sentinel(),
            &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"],
        );
        answer.lines().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn config(&self) -> RedisPoolConfig {
        RedisPoolConfig {
            topology: Topology::Sentinel {
                nodes: self
                    .sentinels
                    .iter()
                    .map(|(_, port)| ("127.0.0.1".to_owned(), *port))
                    .collect(),
                service: "main".to_owned(),
                username: None,
                password: None,
            },
            socket_connect_timeout: Duration::from_secs(2),
            ..config_for_faults(0)
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        for (child, _) in &mut self.sentinels {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
