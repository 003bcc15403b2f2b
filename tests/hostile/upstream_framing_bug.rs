//! The fault of actix-http's codec for which the gateway has connections of its own. When one of
//! these fails, the fault is mended there, and docs/reliability.md can say so.

use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::Result;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// A server without anything of ours, whose handler answers a moment later.
async fn bare() -> Result<(u16, actix_web::dev::ServerHandle)> {
    let server = HttpServer::new(|| {
        App::new().default_service(web::to(|| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            HttpResponse::Ok().body("body")
        }))
    })
    .workers(1)
    .disable_signals()
    .bind(("127.0.0.1", 0))?;
    let port = server.addrs()[0].port();
    let server = server.run();
    let handle = server.handle();
    tokio::spawn(server);
    Ok((port, handle))
}

async fn answer(port: u16, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    let _ = timeout(Duration::from_secs(2), stream.read_to_end(&mut bytes)).await;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn actix_http_frames_a_pipelined_response_by_the_request_it_read_last() -> Result<()> {
    let (port, handle) = bare().await?;
    let get = "GET / HTTP/1.1\r\nhost: h\r\n\r\n";
    let head = "HEAD / HTTP/1.1\r\nhost: h\r\n\r\n";
    let text = answer(port, &format!("{get}{head}")).await?;
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
    assert_eq!(text.matches("content-length: 4").count(), 2, "{text}");
    assert!(!text.contains("\r\n\r\nbody"), "mended: {text}");
    let text = answer(port, &format!("{head}{get}")).await?;
    assert!(text.matches("body").count() != 1, "mended: {text}");
    let old = "GET / HTTP/1.0\r\n\r\n";
    let text = answer(port, &format!("{get}{old}")).await?;
    assert!(text.starts_with("HTTP/1.0 200 OK"), "mended: {text}");
    handle.stop(false).await;
    Ok(())
}
