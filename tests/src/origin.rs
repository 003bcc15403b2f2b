use anyhow::Result;
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What an origin does with one request: it is given the head, as text, and the connection.
pub type Script = Arc<dyn Fn(String, TcpStream) -> Reply + Send + Sync>;

/// The connection again, to be kept open, or nothing.
pub type Reply = Pin<Box<dyn Future<Output = Option<TcpStream>> + Send>>;

/// An upstream that does what a test says, byte by byte, and counts its requests.
pub struct Origin {
    port: u16,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Origin {
    /// Starts one that runs a script for each request.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    pub async fn start<F, Fut>(script: F) -> Result<Self>
    where
        F: Fn(String, TcpStream) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<TcpStream>> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        let script = Arc::new(script);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, counter) = (Arc::clone(&script), Arc::clone(&counter));
                tokio::spawn(async move {
                    let mut stream = Some(stream);
                    while let Some(mut open) = stream.take() {
                        let Some(head) = read_head(&mut open).await else {
                            return;
                        };
                        counter.fetch_add(1, Ordering::SeqCst);
                        stream = script(head, open).await;
                    }
                });
            }
        });
        Ok(Self {
            port,
            requests,
            task,
        })
    }

    /// One that gives every request the same bytes and keeps the connection.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    pub async fn constant(response: impl Into<Vec<u8>>) -> Result<Self> {
        let response = Arc::new(response.into());
        Self::start(move |_, mut stream| {
            let response = Arc::clone(&response);
            async move {
                stream.write_all(&response).await.ok()?;
                Some(stream)
            }
        })
        .await
    }

    /// One that gives every request the same bytes and closes the connection.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    pub async fn closing(response: impl Into<Vec<u8>>) -> Result<Self> {
        let response = Arc::new(response.into());
        Self::start(move |_, mut stream| {
            let response = Arc::clone(&response);
            async move {
                stream.write_all(&response).await.ok()?;
                stream.shutdown().await.ok()?;
                None
            }
        })
        .await
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A `[[routes]]` for everything to it, with more keys.
    #[must_use]
    pub fn route(&self, keys: &str) -> String {
        format!(
            "[[routes]]\npath = \"/\"\nname = \"origin\"\nupstreams = [\"http://127.0.0.1:{}\"]\n{keys}\n",
            self.port
        )
    }

    /// Requests so far.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads up to the end of a head; the bodies of the tests' requests are the scripts' to read.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}
