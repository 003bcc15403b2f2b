use anyhow::Result;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Sends connections to several ports in turn.
#[derive(Debug)]
pub struct Splitter {
    port: u16,
    task: JoinHandle<()>,
}

impl Splitter {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    pub async fn start(ports: Vec<u16>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            let mut turns = ports.iter().cycle();
            while let (Ok((mut client, _)), Some(port)) = (listener.accept().await, turns.next()) {
                let port = *port;
                tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
                        // Either side may end it as it likes.
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Ok(Self { port, task })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Splitter {
    fn drop(&mut self) {
        self.task.abort();
    }
}
