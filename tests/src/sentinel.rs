use crate::{Process, Redis, free_port, scratch};
use anyhow::{Context as _, Result};
use std::time::{Duration, Instant};

/// A primary with a replica, and three Sentinels that watch them.
#[derive(Debug)]
pub struct RedisSentinel {
    servers: Vec<Redis>,
    sentinels: Vec<(Process, u16)>,
}

impl RedisSentinel {
    /// Starts them and waits until all know each other.
    ///
    /// # Errors
    ///
    /// If redis-server is not installed, or they do not find each other.
    pub async fn start() -> Result<Self> {
        let primary = Redis::start().await?;
        let of = vec![
            "--replicaof".to_owned(),
            format!("127.0.0.1 {}", primary.port()),
        ];
        let replica = Redis::start_with(of).await?;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            let (port, directory) = (free_port(), scratch("sentinel"));
            let file = directory.join("sentinel.conf");
            let text = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds main 300\n\
                 sentinel failover-timeout main 2000\n",
                primary.port()
            );
            std::fs::write(&file, text)?;
            let file = file.to_string_lossy();
            let process = Process::start("redis-server", &[&file, "--sentinel"], &directory)?;
            sentinels.push((process, port));
        }
        let this = Self {
            servers: vec![primary, replica],
            sentinels,
        };
        let since = Instant::now();
        for (_, port) in &this.sentinels {
            loop {
                let info = cli(*port, &["INFO", "sentinel"])?;
                if info.contains("status=ok") && info.contains("slaves=1,sentinels=3") {
                    break;
                }
                anyhow::ensure!(since.elapsed().as_secs() < 30, "no sentinels: {info}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(this)
    }

    /// The server that was the primary first.
    pub fn primary(&mut self) -> &mut Redis {
        &mut self.servers[0]
    }

    /// The server that was the replica first.
    #[must_use]
    pub fn replica(&self) -> &Redis {
        &self.servers[1]
    }

    /// Waits until the Sentinels have made the replica the primary.
    ///
    /// # Errors
    ///
    /// If they do not within half a minute.
    pub async fn failed_over(&self) -> Result<()> {
        let since = Instant::now();
        let (_, sentinel) = self.sentinels.first().context("three were started")?;
        let wanted = self.replica().port().to_string();
        loop {
            let answer = cli(*sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"])?;
            let role = self.replica().cli(&["ROLE"])?;
            if answer.lines().nth(1) == Some(&wanted) && role.starts_with("master") {
                return Ok(());
            }
            anyhow::ensure!(since.elapsed().as_secs() < 30, "no failover: {answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The gateway's section for it.
    #[must_use]
    pub fn section(&self) -> String {
        let nodes = self.sentinels.iter();
        let nodes: Vec<_> = nodes
            .map(|(_, port)| format!("\"127.0.0.1:{port}\""))
            .collect();
        format!(
            "[redis]\nmode = \"sentinel\"\nnodes = [{}]\nsentinel_service = \"main\"\n\
             socket_timeout = \"500ms\"\nsocket_connect_timeout = \"500ms\"\n\
             health_check_interval = \"100ms\"\n",
            nodes.join(", ")
        )
    }
}

fn cli(port: u16, arguments: &[&str]) -> Result<String> {
    let output = std::process::Command::new("redis-cli")
        .args(["-p", &port.to_string()])
        .args(arguments)
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
