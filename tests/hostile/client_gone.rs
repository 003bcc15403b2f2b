//! Clients that leave.

use crate::wire::PATIENCE;
use anyhow::Result;
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};
use weaver_tests::{Gateway, Origin};

#[tokio::test]
async fn a_reset_ends_the_handler_and_its_upstream_call() -> Result<()> {
    let (asked, left) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell_asked, tell_left) = (Arc::clone(&asked), Arc::clone(&left));
    let origin = Origin::start(move |_, mut stream| {
        let (asked, left) = (Arc::clone(&tell_asked), Arc::clone(&tell_left));
        async move {
            asked.notify_one();
            // It never answers, and waits until the gateway hangs up.
            let mut sink = [0; 16];
            while stream.read(&mut sink).await.is_ok_and(|count| count > 0) {}
            left.notify_one();
            None
        }
    })
    .await?;
    let gateway = Gateway::start(&origin.route("cache = \"off\"")).await?;
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        .await?;
    timeout(PATIENCE, asked.notified()).await?;
    stream.set_zero_linger()?;
    drop(stream);
    timeout(Duration::from_secs(5), left.notified()).await?;
    Ok(())
}
