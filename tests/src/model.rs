use crate::{Gateway, Process, free_port, scratch, wait_for_port};
use anyhow::Result;
use std::time::Duration;

/// A sample server of language models, a process of its own.
#[derive(Debug)]
pub struct SampleModel {
    process: Process,
    port: u16,
}

impl SampleModel {
    /// Starts one whose answers take that long.
    ///
    /// # Errors
    ///
    /// If the program has not been built or does not come up.
    pub async fn start(delay: Duration) -> Result<Self> {
        let port = free_port();
        let (listen, delay) = (
            format!("127.0.0.1:{port}"),
            format!("{}ms", delay.as_millis()),
        );
        let arguments = ["sample-model", "--listen", &listen, "--delay", &delay];
        let program = Gateway::program()?.display().to_string();
        let process = Process::start(&program, &arguments, &scratch("model"))?;
        wait_for_port(port).await?;
        Ok(Self { process, port })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// A `[[models]]` for its models, with more keys.
    #[must_use]
    pub fn route(&self, keys: &str) -> String {
        format!(
            "[[models]]\nname = \"sample\"\nmodels = [\"sample-*\"]\n\
             upstreams = [\"http://127.0.0.1:{}\"]\n{keys}\n",
            self.port
        )
    }

    /// How often it was called.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub async fn calls(&self) -> Result<u64> {
        let url = format!("http://127.0.0.1:{}/calls", self.port);
        Ok(reqwest::get(url).await?.text().await?.parse()?)
    }
}
