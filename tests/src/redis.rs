use crate::{Process, free_port, scratch, wait_for_port};
use anyhow::Result;
use std::path::PathBuf;

/// A redis-server of its own, without persistence.
#[derive(Debug)]
pub struct Redis {
    process: Option<Process>,
    port: u16,
    directory: PathBuf,
}

impl Redis {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// If redis-server is not installed or does not come up.
    pub async fn start() -> Result<Self> {
        let mut redis = Self {
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
        let port = self.port.to_string();
        let arguments = [
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--enable-debug-command",
            "yes",
        ];
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
}
