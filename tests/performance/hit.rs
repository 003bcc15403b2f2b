//! A 1 KB hit, 64 connections, the server on one core and wrk on the other; peers take turns, and
//! the medians are printed.

use crate::{Effort, median};
use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::{Context, Result};
use std::process::{Command, Output};
use weaver_tests::{Gateway, Nginx, Process, free_port, scratch, wait_for_port};

pub(crate) const SERVER_CORE: usize = 0;
pub(crate) const CLIENT_CORE: usize = 1;
const CONNECTIONS: &str = "64";

/// One turn of wrk: requests a second.
pub(crate) fn wrk(port: u16, path: &str, effort: Effort) -> Result<f64> {
    let seconds = effort.turn.as_secs().max(1).to_string();
    let output = Command::new("taskset")
        .args([
            "-c",
            &CLIENT_CORE.to_string(),
            "wrk",
            "-t1",
            "-c",
            CONNECTIONS,
            "-d",
            &seconds,
        ])
        .arg(format!("http://127.0.0.1:{port}{path}"))
        .output()
        .context("cannot start wrk; tests/setup installs it")?;
    requests_per_second(&output).with_context(|| format!("port {port}"))
}

/// What wrk found, if all was answered well.
pub(crate) fn requests_per_second(output: &Output) -> Result<f64> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = text
        .lines()
        .find(|line| line.contains("Non-2xx") || line.contains("Socket errors"));
    anyhow::ensure!(errors.is_none(), "{text}");
    let rate = text
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"));
    Ok(rate.with_context(|| text.clone())?.trim().parse()?)
}

fn haproxy(upstream: u16) -> Result<(Process, u16)> {
    let (port, directory) = (free_port(), scratch("haproxy"));
    let file = directory.join("haproxy.cfg");
    let text = format!(
        "global\n nbthread 1\n maxconn 5000\ndefaults\n mode http\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
         cache c\n total-max-size 64\n max-object-size 200000\n max-age 3600\n\
         frontend f\n bind 127.0.0.1:{port}\n http-request cache-use c\n http-response cache-store c\n default_backend b\n\
         backend b\n server s 127.0.0.1:{upstream}\n"
    );
    std::fs::write(&file, text)?;
    let arguments = [
        "-c",
        &SERVER_CORE.to_string(),
        "haproxy",
        "-f",
        &file.display().to_string(),
    ];
    Ok((Process::start("taskset", &arguments, &directory)?, port))
}

/// A handler that answers a constant: what the framework can do at most. It runs as this program
/// itself, started once more.
async fn bare() -> Result<(Process, u16)> {
    let (port, directory) = (free_port(), scratch("bare"));
    let own = std::env::current_exe()?.display().to_string();
    let arguments = [
        "-c",
        &SERVER_CORE.to_string(),
        &own,
        "bare",
        &port.to_string(),
    ];
    Ok((Process::start("taskset", &arguments, &directory)?, port))
}

/// Serves the constant until killed.
pub(crate) async fn serve_bare(port: u16) -> Result<()> {
    let body = web::Bytes::from(vec![b'x'; 1024]);
    HttpServer::new(move || {
        let body = body.clone();
        App::new().route(
            "/object",
            web::get().to(move || {
                let body = body.clone();
                async move { HttpResponse::Ok().content_type("text/plain").body(body) }
            }),
        )
    })
    .workers(1)
    .bind(("127.0.0.1", port))?
    .run()
    .await?;
    Ok(())
}

pub(crate) async fn run(effort: Effort) -> Result<()> {
    let origin = Nginx::start_with(
        "",
        "location / { add_header Cache-Control max-age=3600; }",
        None,
    )
    .await?;
    std::fs::write(origin.root().join("object"), vec![b'x'; 1024])?;
    let upstream = origin.port();
    let gateway = Gateway::start_with(
        &format!("[[routes]]\npath = \"/\"\nupstreams = [\"http://127.0.0.1:{upstream}\"]\n"),
        "workers = 1",
        &[],
        Some(SERVER_CORE),
    )
    .await?;
    let nginx = Nginx::start_with(
        "proxy_cache_path {dir}/cache keys_zone=c:10m;",
        &format!("location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_cache c; proxy_cache_valid 1h; }}"),
        Some(SERVER_CORE),
    )
    .await?;
    let (_haproxy, haproxy) = haproxy(upstream)?;
    let (_bare, bare) = bare().await?;
    let peers = [
        ("weaver", gateway.port()),
        ("haproxy cache", haproxy),
        ("nginx cache", nginx.port()),
        ("bare actix", bare),
    ];
    for (_, port) in peers {
        wait_for_port(port).await?;
        reqwest::get(format!("http://127.0.0.1:{port}/object"))
            .await?
            .bytes()
            .await?;
    }
    let mut figures: Vec<Vec<f64>> = vec![Vec::new(); peers.len()];
    for _ in 0..effort.turns {
        for ((_, port), figures) in peers.iter().zip(&mut figures) {
            figures.push(wrk(*port, "/object", effort)?);
        }
    }
    let medians: Vec<f64> = figures.into_iter().map(median).collect();
    println!(
        "1 KB hit, {CONNECTIONS} connections, one core each, median of {} turns",
        effort.turns
    );
    for ((name, _), rate) in peers.iter().zip(&medians) {
        println!(
            "  {name:<14} {rate:>9.0} requests/s   weaver is {:.2} of it",
            medians[0] / rate
        );
    }
    Ok(())
}
