use crate::{Process, free_port, scratch, wait_for_port};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// An nginx of its own.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    port: u16,
    directory: PathBuf,
}

impl Nginx {
    /// Starts one with these directives in its `server` block; `{dir}` in them is its directory,
    /// which is also its root.
    ///
    /// # Errors
    ///
    /// If nginx is not installed or does not come up.
    pub async fn start(server: &str) -> Result<Self> {
        Self::start_with("", server, None).await
    }

    /// [`start`](Self::start) with directives for the `http` block, and pinned to a core.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn start_with(http: &str, server: &str, core: Option<usize>) -> Result<Self> {
        let (port, directory) = (free_port(), scratch("nginx"));
        let dir = directory.display().to_string();
        let (http, server) = (http.replace("{dir}", &dir), server.replace("{dir}", &dir));
        let text = format!(
            "daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;\n\
             fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
             keepalive_requests 10000000; {http}\n\
             server {{ listen 127.0.0.1:{port} backlog=4096; root {dir}; {server} }} }}\n"
        );
        std::fs::write(directory.join("nginx.conf"), text)?;
        std::fs::set_permissions(
            &directory,
            std::os::unix::fs::PermissionsExt::from_mode(0o777),
        )?;
        let conf = format!("{dir}/nginx.conf");
        let process = match core {
            Some(core) => Process::start(
                "taskset",
                &["-c", &core.to_string(), "nginx", "-p", &dir, "-c", &conf],
                &directory,
            )?,
            None => Process::start("nginx", &["-p", &dir, "-c", &conf], &directory)?,
        };
        wait_for_port(port).await?;
        Ok(Self {
            process,
            port,
            directory,
        })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory whose files it serves.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.directory
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}
