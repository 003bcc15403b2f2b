use crate::{Process, free_port, scratch, wait_for_port};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A gateway, the program itself.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    port: u16,
    admin: u16,
    directory: PathBuf,
}

impl Gateway {
    /// The program: `GATEWAY_UNDER_TEST`, or the one beside the test's own in the target directory.
    ///
    /// # Errors
    ///
    /// If it has not been built.
    pub fn program() -> Result<PathBuf> {
        if let Some(given) = std::env::var_os("GATEWAY_UNDER_TEST") {
            return Ok(given.into());
        }
        let own = std::env::current_exe()?;
        own.ancestors()
            .map(|directory| directory.join("weaver-gateway"))
            .find(|candidate| candidate.is_file())
            .context("weaver-gateway has not been built: cargo build -p weaver-gateway")
    }

    /// Starts one with a configuration, to which its ports are added; `{port}`s of others are the
    /// caller's to write.
    ///
    /// # Errors
    ///
    /// If it does not come up; the message has what it printed.
    pub async fn start(config: &str) -> Result<Self> {
        Self::start_with(config, "", &[], None).await
    }

    /// [`start`](Self::start) with more keys for `[server]`, environment variables, and pinned to a
    /// core.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn start_with(
        config: &str,
        server: &str,
        variables: &[(&str, &str)],
        core: Option<usize>,
    ) -> Result<Self> {
        Self::launch(free_port(), config, server, variables, core).await
    }

    /// [`start`](Self::start) on a port that others know already.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn start_on(port: u16, config: &str) -> Result<Self> {
        Self::launch(port, config, "", &[], None).await
    }

    async fn launch(
        port: u16,
        config: &str,
        server: &str,
        variables: &[(&str, &str)],
        core: Option<usize>,
    ) -> Result<Self> {
        let (admin, directory) = (free_port(), scratch("gateway"));
        let workers = if server.contains("workers") {
            ""
        } else {
            "workers = 2"
        };
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\nadmin_listen = \"127.0.0.1:{admin}\"\n{workers}\n{server}\n{config}"
        );
        let file = directory.join("weaver.toml");
        std::fs::write(&file, text)?;
        let program = Self::program()?.display().to_string();
        let file = file.display().to_string();
        let process = match core {
            Some(core) => {
                let core = core.to_string();
                let arguments = ["-c", &core, &program, "serve", "--config", &file];
                Process::start_with("taskset", &arguments, &directory, variables)?
            }
            None => Process::start_with(
                &program,
                &["serve", "--config", &file],
                &directory,
                variables,
            )?,
        };
        let gateway = Self {
            process,
            port,
            admin,
            directory,
        };
        wait_for_port(port)
            .await
            .with_context(|| gateway.process.output())?;
        wait_for_port(admin)
            .await
            .with_context(|| gateway.process.output())?;
        Ok(gateway)
    }

    /// The public port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The admin port.
    #[must_use]
    pub fn admin(&self) -> u16 {
        self.admin
    }

    /// The URL of a path on the public port.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The URL of a path on the admin port.
    #[must_use]
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin)
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its process, to wait for.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Where its configuration lies.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits until Redis is connected and the purge journal read, after which the Redis tier is open.
    ///
    /// # Errors
    ///
    /// If that has not happened within ten seconds.
    pub async fn ready_for_redis(&self) -> Result<()> {
        let client = reqwest::Client::new();
        for _ in 0..500 {
            let answer = client.get(self.admin_url("/metrics")).send().await;
            if let Ok(answer) = answer
                && answer
                    .text()
                    .await?
                    .lines()
                    .any(|line| line == "weaver_http_cache_redis_open 1")
            {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        anyhow::bail!("redis is not in use: {}", self.process.output())
    }

    /// The JSON report of `/metrics`, made anew: the cached one is asked past.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub async fn report(&self) -> Result<Value> {
        // Another Authorization is another entry of the pattern.
        let fresh = format!("Bearer {}", std::time::Instant::now().elapsed().as_nanos());
        let unique = format!("{fresh}-{:?}", std::time::SystemTime::now());
        let client = reqwest::Client::new();
        let answer = client
            .get(self.url("/metrics"))
            .header("authorization", unique)
            .send()
            .await?;
        Ok(answer.json().await?)
    }
}
