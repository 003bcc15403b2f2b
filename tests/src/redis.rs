use crate::{Process, free_port, scratch, wait_for_port};
use anyhow::Result;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    time::Duration,
};
use weaver_pool::{RedisPoolConfig, Topology};

/// A redis-server of its own, without persistence.
#[derive(Debug)]
pub struct Redis {
    process: Option<Process>,
    port: u16,
    directory: PathBuf,
    arguments: Vec<String>,
}

impl Redis {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// If redis-server is not installed or does not come up.
    pub async fn start() -> Result<Self> {
        Self::start_with(Vec::new()).await
    }

    pub(crate) async fn start_with(arguments: Vec<String>) -> Result<Self> {
        let mut redis = Self {
            arguments,
            process: None,
            port: free_port(),
            directory: scratch("redis"),
        };
        redis.up().await?;
        Ok(redis)
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id, unless it was killed.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The gateway's section for it, without more keys.
    #[must_use]
    pub fn section(&self) -> String {
        format!("[redis]\nmode = \"standalone\"\nport = {}\n", self.port)
    }

    /// What a pool for it is configured with; it is waited for longer than a busy machine takes.
    #[must_use]
    pub fn pool_config(&self) -> RedisPoolConfig {
        RedisPoolConfig {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            socket_connect_timeout: Duration::from_secs(20),
            ..RedisPoolConfig::default()
        }
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again, empty, on the same port.
    ///
    /// # Errors
    ///
    /// If it does not come up.
    pub async fn up(&mut self) -> Result<()> {
        self.up_with(&[]).await
    }

    /// [`up`](Self::up) with more arguments.
    ///
    /// # Errors
    ///
    /// As [`up`](Self::up).
    pub async fn up_with(&mut self, more: &[&str]) -> Result<()> {
        let port = self.port.to_string();
        let directory = self.directory.to_string_lossy();
        let mut arguments = vec![
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--dir",
            &directory,
            "--save",
            "",
            "--appendonly",
            "no",
            "--enable-debug-command",
            "yes",
        ];
        arguments.extend(self.arguments.iter().map(String::as_str));
        arguments.extend(more);
        self.process = Some(Process::start("redis-server", &arguments, &self.directory)?);
        wait_for_port(self.port).await
    }

    /// Freezes it (SIGSTOP).
    ///
    /// # Errors
    ///
    /// If it is not running.
    pub fn freeze(&self) -> Result<()> {
        self.process
            .as_ref()
            .map_or(Ok(()), |process| process.signal("STOP"))
    }

    /// Lets it go on.
    ///
    /// # Errors
    ///
    /// If it is not running.
    pub fn thaw(&self) -> Result<()> {
        self.process
            .as_ref()
            .map_or(Ok(()), |process| process.signal("CONT"))
    }

    /// What redis-cli prints for a command.
    ///
    /// # Errors
    ///
    /// If redis-cli is not installed.
    pub fn cli(&self, arguments: &[&str]) -> Result<String> {
        let output = std::process::Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// How many records of responses it has, of any variant: what else a cache keeps in Redis, its
    /// licenses above all, comes before them.
    ///
    /// # Errors
    ///
    /// If redis-cli is not installed.
    pub fn records(&self) -> Result<usize> {
        let keys = self.cli(&["--raw", "KEYS", "http_cache:*"])?;
        let is_record = |key: &&str| key.len() == "http_cache:".len() + 64;
        Ok(keys.lines().filter(is_record).count())
    }
}

impl Redis {
    /// The bytes of a string, if there is one.
    ///
    /// # Errors
    ///
    /// If Redis does not answer.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.command(&[b"GET", key.as_bytes()])
    }

    /// Writes a string of any bytes, for ten minutes.
    ///
    /// # Errors
    ///
    /// If Redis does not answer.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        self.command(&[b"SET", key.as_bytes(), value, b"PX", b"600000"])?;
        Ok(())
    }

    /// Sends a command whose answer is a string, simple or in bulk.
    fn command(&self, words: &[&[u8]]) -> Result<Option<Vec<u8>>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        stream.write_all(&request)?;
        let mut answer = BufReader::new(stream);
        let mut line = String::new();
        answer.read_line(&mut line)?;
        match line.trim_end().split_at_checked(1) {
            Some(("$", "-1")) => Ok(None),
            Some(("$", length)) => {
                let mut value = vec![0; length.parse()?];
                answer.read_exact(&mut value)?;
                Ok(Some(value))
            }
            Some(("+", said)) => Ok(Some(said.as_bytes().to_vec())),
            _ => anyhow::bail!("redis answered {line:?}"),
        }
    }
}

/// A Redis Cluster of three primaries without replicas.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts one and waits until it is whole.
    ///
    /// # Errors
    ///
    /// If redis-server is not installed or the nodes do not find each other.
    pub async fn start() -> Result<Self> {
        let mut nodes = Vec::new();
        for (first, last) in [(0, 5460), (5461, 10_922), (10_923, 16_383)] {
            let bus = free_port();
            let arguments = format!(
                "--cluster-enabled yes --cluster-port {bus} --cluster-node-timeout 1000 \
                 --cluster-require-full-coverage no"
            );
            let arguments = arguments.split_whitespace().map(str::to_owned).collect();
            let node = Redis::start_with(arguments).await?;
            let (first, last) = (first.to_string(), last.to_string());
            node.cli(&["CLUSTER", "ADDSLOTSRANGE", &first, &last])?;
            nodes.push((node, bus.to_string()));
        }
        for (met, bus) in &nodes[1..] {
            let port = met.port.to_string();
            nodes[0]
                .0
                .cli(&["CLUSTER", "MEET", "127.0.0.1", &port, bus])?;
        }
        let nodes: Vec<Redis> = nodes.into_iter().map(|(node, _)| node).collect();
        for node in &nodes {
            let since = std::time::Instant::now();
            loop {
                let info = node.cli(&["CLUSTER", "INFO"])?;
                if info.contains("cluster_slots_ok:16384") && info.contains("cluster_state:ok") {
                    break;
                }
                anyhow::ensure!(since.elapsed().as_secs() < 30, "no cluster: {info}");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
        Ok(Self { nodes })
    }

    /// Its nodes.
    pub fn nodes(&mut self) -> &mut [Redis] {
        &mut self.nodes
    }

    /// What a pool for it is configured with.
    #[must_use]
    pub fn pool_config(&self) -> RedisPoolConfig {
        let nodes = self.nodes.iter();
        let nodes = nodes.map(|node| ("127.0.0.1".to_owned(), node.port));
        RedisPoolConfig {
            topology: Topology::Cluster {
                nodes: nodes.collect(),
                replicas: false,
            },
            socket_connect_timeout: Duration::from_secs(20),
            ..RedisPoolConfig::default()
        }
    }

    /// The gateway's section for it.
    #[must_use]
    pub fn section(&self) -> String {
        let nodes = self
            .nodes
            .iter()
            .map(|node| format!("\"127.0.0.1:{}\"", node.port));
        let nodes = nodes.collect::<Vec<_>>().join(", ");
        format!(
            "[redis]\nmode = \"cluster\"\nnodes = [{nodes}]\nsocket_timeout = \"500ms\"\n\
             socket_connect_timeout = \"500ms\"\nhealth_check_interval = \"100ms\"\n"
        )
    }
}
