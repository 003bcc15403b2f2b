use anyhow::Result;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// What came over a connection until its end.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Everything, as it came.
    pub bytes: Vec<u8>,
    /// Whether the connection ended with a reset instead of an orderly close.
    pub reset: bool,
}

impl Exchange {
    /// As text, where that matters.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The status line's code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.text()
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0)
    }

    /// What stands behind the head.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        let at = self
            .bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n");
        at.map_or(&[], |at| &self.bytes[at + 4..])
    }

    /// Whether a chunked body has its end.
    #[must_use]
    pub fn has_last_chunk(&self) -> bool {
        self.body().windows(5).any(|window| window == b"0\r\n\r\n")
    }
}

/// Sends bytes to a local port and reads until the end, for at most ten seconds.
///
/// # Errors
///
/// If nobody listens, or the end does not come.
pub async fn exchange(port: u16, request: &str) -> Result<Exchange> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    exchange_on(&mut stream, request).await
}

/// [`exchange`] on a connection that is there.
///
/// # Errors
///
/// As [`exchange`].
pub async fn exchange_on(stream: &mut TcpStream, request: &str) -> Result<Exchange> {
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    let end = timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await?;
    Ok(Exchange {
        bytes,
        reset: end.is_err(),
    })
}
