//! A client that takes a connection's bytes apart as strictly as a careful one would.

use anyhow::{Context, Result, bail, ensure};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// One response.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// In lower case, one line each.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: String,
}

impl Response {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let start = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(&start))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or("(not text)")
    }
}

/// Takes the responses to requests of these methods out of what came; nothing may be left.
pub(crate) fn responses(bytes: &[u8], methods: &[&str]) -> Result<Vec<Response>> {
    let (mut rest, mut found) = (bytes, Vec::new());
    for method in methods {
        let (response, left) = response(rest, method).with_context(|| {
            format!(
                "response {} of {methods:?} in {:?}",
                found.len(),
                String::from_utf8_lossy(bytes)
            )
        })?;
        found.push(response);
        rest = left;
    }
    ensure!(
        rest.is_empty(),
        "{:?} is left of {:?}",
        String::from_utf8_lossy(rest),
        String::from_utf8_lossy(bytes)
    );
    Ok(found)
}

/// Takes as many responses to GETs as there are out of what came.
pub(crate) fn responses_until_end(bytes: &[u8]) -> Vec<Response> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while let Ok((response, left)) = response(rest, "GET") {
        found.push(response);
        rest = left;
    }
    found
}

fn response<'a>(bytes: &'a [u8], method: &str) -> Result<(Response, &'a [u8])> {
    let (head, rest) = split(bytes, b"\r\n\r\n").context("no end of the head")?;
    let head = String::from_utf8(head.to_vec())?.to_lowercase();
    ensure!(head.starts_with("http/1."), "no status line: {head:?}");
    let status: u16 = head[9..12].parse()?;
    let mut response = Response {
        status,
        head,
        body: Vec::new(),
        trailers: String::new(),
    };
    let length = response.field("content-length").map(str::to_owned);
    let chunked = response.field("transfer-encoding").map(str::to_owned);
    ensure!(length.is_none() || chunked.is_none(), "length and coding");
    if method == "HEAD" || matches!(status, 100..=199 | 204 | 304) {
        return Ok((response, rest));
    }
    let rest = match (length, chunked) {
        (Some(length), _) => {
            let length: usize = length.parse()?;
            ensure!(rest.len() >= length, "the body is cut short");
            response.body = rest[..length].to_vec();
            &rest[length..]
        }
        (None, Some(_)) => chunks(rest, &mut response)?,
        (None, None) => {
            response.body = rest.to_vec();
            &[]
        }
    };
    Ok((response, rest))
}

fn chunks<'a>(mut rest: &'a [u8], response: &mut Response) -> Result<&'a [u8]> {
    loop {
        let (size, after) = split(rest, b"\r\n").context("no chunk size")?;
        let size = usize::from_str_radix(std::str::from_utf8(size)?, 16)?;
        if size == 0 {
            let mut trailers = after;
            loop {
                let (line, after) = split(trailers, b"\r\n").context("no end of the trailers")?;
                if line.is_empty() {
                    return Ok(after);
                }
                response.trailers.push_str(std::str::from_utf8(line)?);
                response.trailers.push('\n');
                trailers = after;
            }
        }
        ensure!(after.len() >= size + 2, "a chunk is cut short");
        response.body.extend_from_slice(&after[..size]);
        ensure!(&after[size..size + 2] == b"\r\n", "a chunk without its end");
        rest = &after[size + 2..];
    }
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let position = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..position], &bytes[position + at.len()..]))
}

/// Sends bytes, and reads until the connection ends.
pub(crate) async fn send(port: u16, bytes: impl AsRef<[u8]>) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(bytes.as_ref()).await?;
    read_all(&mut stream).await
}

/// Reads until the connection ends, in order or by a reset.
pub(crate) async fn read_all(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut bytes)).await {
        Ok(_) => Ok(bytes),
        Err(_) => bail!("no end after {:?}", String::from_utf8_lossy(&bytes)),
    }
}

/// Reads until `end` has come.
pub(crate) async fn read_until(stream: &mut TcpStream, end: &str) -> Result<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        match timeout(PATIENCE, stream.read_u8()).await {
            Ok(Ok(byte)) => bytes.push(byte),
            _ => bail!("no {end:?} in {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
