//! `weaver-gateway demo`: a sample upstream, agent-like and slow on purpose, behind the gateway, and
//! `weaver-gateway sample-model`: its language model alone.

mod model;
mod page;

use crate::{
    config::{Config, Environment},
    server, telemetry,
};
use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    http::{StatusCode, header},
    web,
};
use anyhow::Context;
use bytes::Bytes;
use futures_util::stream;
use model::Sample;
use serde_json::{Value, json};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::sleep;

/// What an answer of the sample upstream takes.
const THINKING: Duration = Duration::from_millis(25);
/// What an answer of the sample model takes.
const MODEL_THINKING: Duration = Duration::from_millis(800);
/// Between two events of `/stream`.
const BEAT: Duration = Duration::from_millis(200);

static ANSWERS: AtomicU64 = AtomicU64::new(0);

pub(crate) async fn run(listen: SocketAddr, admin_listen: SocketAddr) -> anyhow::Result<()> {
    let model = Sample::new(MODEL_THINKING);
    let upstream = HttpServer::new(move || {
        let model = model.clone();
        App::new()
            .configure(sample)
            .configure(|config| model.configure(config))
    })
    .workers(1)
    .disable_signals()
    .bind((Ipv4Addr::LOCALHOST, 0))
    .context("the sample upstream cannot listen")?;
    let upstream_address = upstream.addrs()[0];
    let upstream = upstream.run();
    let upstream_handle = upstream.handle();
    let upstream_task = tokio::spawn(upstream);

    let text = format!(
        r#"
        [server]
        listen = "{listen}"
        admin_listen = "{admin_listen}"
        shutdown_grace = "5s"
        [telemetry]
        log_format = "pretty"
        [ask]
        model = "sample-model"
        [[models]]
        name = "sample"
        upstreams = ["http://{upstream_address}"]
        [model_cache.prices]
        "sample-*" = {{ input = 1.0, output = 2.0 }}
        [[routes]]
        path = "/"
        name = "sample"
        upstreams = ["http://{upstream_address}"]
        [[routes]]
        path = "/profile"
        name = "sample-profile"
        upstreams = ["http://{upstream_address}"]
        per_user = true
        "#
    );
    let config = Config::parse("demo", &text, &Environment::default())?;
    let guard = telemetry::install(&config.telemetry)?;
    let mut signals = server::Signals::new()?;
    let running = server::start(config).await.map_err(explain_taken)?;
    print(running.public(), running.admin());
    signals.stop().await;
    running.stop().await;
    upstream_handle.stop(false).await;
    let _ = upstream_task.await;
    guard.shutdown();
    Ok(())
}

/// Says what to do where another program has the port.
fn explain_taken(error: anyhow::Error) -> anyhow::Error {
    let taken = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
    };
    if error.chain().any(taken) {
        error.context(
            "another program has the port; choose others with --listen 127.0.0.1:9000 --admin-listen \
             127.0.0.1:9001 (make run ARGS=\"--listen 127.0.0.1:9000 --admin-listen 127.0.0.1:9001\")",
        )
    } else {
        error
    }
}

/// Serves the sample model alone, until SIGTERM or SIGINT.
pub(crate) async fn serve_model(listen: SocketAddr, delay: Duration) -> anyhow::Result<()> {
    let model = Sample::new(delay);
    let server = HttpServer::new(move || {
        let model = model.clone();
        App::new().configure(|config| model.configure(config))
    });
    let server = server
        .workers(1)
        .shutdown_timeout(1)
        .bind(listen)
        .with_context(|| format!("cannot listen on {listen}"))?;
    println!("a sample model answers on http://{listen}/v1");
    server.run().await?;
    Ok(())
}

fn print(public: SocketAddr, admin: SocketAddr) {
    println!(
        "\nWeaver serves a sample upstream on http://{public} (admin on http://{admin}).\n\
         Open http://{public}/ in a browser, or try, in another terminal:\n\n  \
         curl -i http://{public}/catalog                 # a miss: 25 ms; Cache-Status says fwd=uri-miss\n  \
         curl -i http://{public}/catalog                 # a hit: well under 1 ms\n  \
         curl -i http://{public}/whoami                  # who you are, kept for 30 s for each user\n  \
         curl -i -H 'Authorization: Bearer ann' http://{public}/profile   # kept for Ann alone\n  \
         curl -N http://{public}/stream                  # events pass through as they come\n  \
         curl -i http://{public}/error/503               # an error on request, not kept\n  \
         curl -s -d '{{\"query\":\"what is a cache?\"}}' http://{public}/ask          # a model's answer: 800 ms\n  \
         curl -s -d '{{\"query\":\"what is a cache?\"}}' http://{public}/ask          # and from the cache\n  \
         curl -sN http://{public}/v1/chat/completions -d '{{\"model\":\"sample-model\",\"temperature\":0,\"stream\":true,\n    \
         \"messages\":[{{\"role\":\"user\",\"content\":\"define a loom\"}}]}}'   # streamed; the second time at once\n  \
         curl -s http://{public}/metrics                 # hits, misses, latency saved\n  \
         curl -s 'http://{admin}/entry?url=http://{public}/catalog'   # what is stored, and until when\n  \
         curl -s --json '{{\"url\":\"/catalog\"}}' http://{admin}/purge   # gone; ask again for a miss\n\n\
         Ctrl-C ends it.\n"
    );
}

fn sample(config: &mut web::ServiceConfig) {
    config
        .route("/", web::get().to(page::index))
        .route("/catalog", web::get().to(catalog))
        .route("/catalog/{item}", web::get().to(item))
        .route("/profile", web::get().to(profile))
        .route("/stream", web::get().to(events))
        .route("/error/{status}", web::to(error))
        .route("/health", web::get().to(|| async { "ok" }));
}

async fn think() -> u64 {
    sleep(THINKING).await;
    ANSWERS.fetch_add(1, Ordering::Relaxed) + 1
}

fn cacheable(body: Value) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "max-age=60"))
        .insert_header(("surrogate-key", "catalog"))
        .json(body)
}

async fn catalog() -> HttpResponse {
    let answer = think().await;
    cacheable(json!({ "answer": answer, "items": ["shuttle", "loom", "heddle", "reed"] }))
}

async fn item(item: web::Path<String>) -> HttpResponse {
    let answer = think().await;
    cacheable(json!({ "answer": answer, "item": item.into_inner() }))
}

async fn profile(req: HttpRequest) -> HttpResponse {
    let answer = think().await;
    let user = req
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .unwrap_or("nobody");
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "private, max-age=30"))
        .json(json!({ "answer": answer, "user": user }))
}

async fn events() -> HttpResponse {
    let beats = stream::unfold(0, |beat| async move {
        if beat == 5 {
            return None;
        }
        sleep(BEAT).await;
        let event = Bytes::from(format!("data: beat {beat}\n\n"));
        Some((Ok::<_, std::convert::Infallible>(event), beat + 1))
    });
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/event-stream"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .streaming(beats)
}

async fn error(status: web::Path<u16>) -> HttpResponse {
    let answer = think().await;
    let status = StatusCode::from_u16(*status)
        .ok()
        .filter(|status| status.as_u16() >= 200);
    HttpResponse::build(status.unwrap_or(StatusCode::BAD_REQUEST)).json(json!({ "answer": answer }))
}
