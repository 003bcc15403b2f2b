//! The response cache around an Actix application of its own, without the gateway.
//!
//! `cargo run -p weaver-cache --example alone`, then twice `curl -i http://127.0.0.1:8080/report`.
//! With `REDIS_HOST` set, entries are shared with every other process that uses the same Redis.

use actix_web::{App, HttpResponse, HttpServer, web};
use std::time::Duration;
use weaver_cache::{CacheConfig, CachePattern, CacheStore, Pattern, ResponseCache};
use weaver_metrics::{CacheMetrics, Registry};
use weaver_pool::{RedisPool, RedisPoolConfig};

async fn report() -> HttpResponse {
    tokio::time::sleep(Duration::from_millis(200)).await;
    HttpResponse::Ok().body("a report that took 200 ms\n")
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let metrics = CacheMetrics::new(&mut Registry::default());
    let store = match std::env::var("REDIS_HOST") {
        Ok(host) => {
            let config = RedisPoolConfig {
                host,
                ..RedisPoolConfig::default()
            };
            CacheStore::with_redis(metrics, RedisPool::connect_in_background(config)?)
        }
        Err(_) => CacheStore::memory(metrics),
    };
    let config = CacheConfig {
        cache_patterns: vec![CachePattern::new(Pattern::parse("/report")?, 60)],
        ..CacheConfig::default()
    };
    let cache = ResponseCache::new(config, store);
    let handle = cache.handle();
    println!("listening on http://127.0.0.1:8080; try /report twice, then /stats");
    HttpServer::new(move || {
        let handle = handle.clone();
        App::new()
            .wrap(cache.clone())
            .route("/report", web::get().to(report))
            .route(
                "/stats",
                web::get().to(move || {
                    let stats = handle.stats();
                    async move { web::Json(stats) }
                }),
            )
    })
    .bind("127.0.0.1:8080")?
    .run()
    .await?;
    Ok(())
}
