use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time::sleep};

/// A child process that ends with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; what it prints goes to a file in `directory`.
    ///
    /// # Errors
    ///
    /// If it cannot be started; the message says what to install.
    pub fn start(program: &str, arguments: &[&str], directory: &Path) -> Result<Self> {
        Self::start_with(program, arguments, directory, &[])
    }

    /// [`start`](Self::start) with environment variables besides the test's own.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_with(
        program: &str,
        arguments: &[&str],
        directory: &Path,
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let name = Path::new(program)
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("child");
        let log = directory.join(format!("{name}.log"));
        let out = std::fs::File::create(&log)?;
        let child = Command::new(program)
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {program}; tests/setup installs it"))?;
        Ok(Self { child, log })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `STOP`.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.id().to_string()])
            .stderr(Stdio::null())
            .status()?;
        if !status.success() {
            bail!("process {} takes no signal {name}", self.id());
        }
        Ok(())
    }

    /// Waits for its end, at most `within`; gives its exit code.
    ///
    /// # Errors
    ///
    /// If it has not ended by then.
    pub async fn wait(&mut self, within: Duration) -> Result<Option<i32>> {
        let until = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            if Instant::now() > until {
                bail!("process {} has not ended within {within:?}", self.id());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// What it has printed.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The memory it has resident, in bytes (Linux).
    #[must_use]
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()));
        let line = status.unwrap_or_default();
        let kib = line
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process cannot be killed until it goes on in some kernels' accounting.
        let _ = self.signal("CONT");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A new empty directory below the system's temporary one, unique to this process and call.
///
/// # Panics
///
/// If it cannot be made.
#[must_use]
pub fn scratch(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("weaver-{name}-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a scratch directory");
    path
}

/// Waits until somebody listens on a port.
///
/// # Errors
///
/// If nobody does within ten seconds.
pub async fn wait_for_port(port: u16) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if Instant::now() > until {
            bail!("nobody listens on port {port}");
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
