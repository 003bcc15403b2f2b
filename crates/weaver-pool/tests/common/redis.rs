//! A redis-server.

use super::free_port;
use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::sleep};
use weaver_pool::RedisPoolConfig;

pub(crate) struct Redis {
    child: Option<Child>,
    pub(crate) port: u16,
    arguments: Vec<String>,
    /// What it writes must not be found by the next one.
    directory: TempDir,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with arguments besides those that all have.
    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        let mut redis = Self {
            child: None,
            port: free_port(),
            directory: tempfile::tempdir().unwrap(),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
        };
        redis.up().await;
        redis
    }

    pub(crate) async fn up(&mut self) {
        let port = self.port.to_string();
        let common = ["--port", &port, "--bind", "127.0.0.1", "--save", ""];
        let child = Command::new("redis-server")
            .args(common)
            .args(["--dir", self.directory.path().to_str().unwrap()])
            .args(["--enable-debug-command", "yes"])
            .args(&self.arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed; tests/setup does it");
        self.child = Some(child);
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs a command of redis-cli; it may fail.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        cli(self.port, arguments)
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        let sent = Command::new("kill").args([name, &id]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn config(&self) -> RedisPoolConfig {
        config(self.port)
    }
}

/// Short deadlines, as tests want them.
pub(crate) fn config(port: u16) -> RedisPoolConfig {
    RedisPoolConfig {
        host: "127.0.0.1".to_owned(),
        port,
        socket_timeout: Duration::from_millis(500),
        socket_connect_timeout: Duration::from_millis(500),
        acquire_timeout: Duration::from_millis(200),
        ..RedisPoolConfig::default()
    }
}

pub(crate) fn cli(port: u16, arguments: &[&str]) -> String {
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string()])
        .args(arguments)
        .stderr(Stdio::null())
        .output()
        .expect("redis-cli is installed; tests/setup does it");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl Drop for Redis {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.signal("-CONT");
        }
        self.kill();
    }
}
