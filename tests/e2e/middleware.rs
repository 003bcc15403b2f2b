//! The cache's crate by itself, where a program can do what the gateway leaves to chance.

use actix_web::{App, HttpResponse, http::StatusCode, test, web};
use anyhow::Result;
use std::sync::Arc;
use weaver_cache::{CacheConfig, CacheStore, Purge, ResponseCache, Rule, policy::Policy};
use weaver_metrics::{CacheMetrics, Registry};
use weaver_pool::RedisPool;
use weaver_tests::Redis;

async fn cache(redis: &Redis) -> Result<ResponseCache> {
    let pool = RedisPool::connect(redis.pool_config()).await?;
    let store = CacheStore::with_redis(CacheMetrics::new(&mut Registry::default()), pool);
    let rule = Arc::new(Rule::new("all", Policy::standard()));
    let config = CacheConfig::default();
    Ok(ResponseCache::with_rules(config, store, move |_| {
        Some(Arc::clone(&rule))
    }))
}

fn url(target: &str) -> Purge {
    Purge::Url {
        host: None,
        target: target.to_owned(),
    }
}

/// What a node itself writes into the journal may be the first that it knows of it: what others wrote
/// before holds for it all the same.
#[actix_web::test]
async fn a_node_that_purges_before_it_has_read_anything_reads_everything() -> Result<()> {
    let redis = Redis::start().await?;
    let handler = || async {
        HttpResponse::Ok()
            .insert_header(("cache-control", "max-age=600"))
            .body("x")
    };
    let ask = |target: &str| {
        test::TestRequest::get()
            .uri(target)
            .insert_header(("host", "h"))
            .insert_header(("cache-control", "only-if-cached"))
            .to_request()
    };
    let first = cache(&redis).await?;
    let app = App::new()
        .wrap(first.clone())
        .default_service(web::to(handler));
    let app = test::init_service(app).await;
    crate::eventually("both are in redis", async || {
        for target in ["/kept", "/purged"] {
            let fill = test::TestRequest::get().uri(target);
            let fill = fill.insert_header(("host", "h")).to_request();
            test::call_service(&app, fill).await;
        }
        let keys = redis.cli(&["KEYS", "http_cache:*"]).unwrap_or_default();
        let entries = keys.lines().filter(|name| name.len() == 11 + 64);
        entries.count() == 2
    })
    .await;
    first.handle().purge(url("/purged"), false).await?;

    // Its pool is connected; the task that follows the journal has yet to begin.
    let second = cache(&redis).await?;
    second.handle().purge(url("/another"), false).await?;
    let app = App::new()
        .wrap(second.clone())
        .default_service(web::to(handler));
    let app = test::init_service(app).await;
    crate::eventually("redis is in use", async || {
        test::call_service(&app, ask("/kept")).await.status() == StatusCode::OK
    })
    .await;
    let purged = test::call_service(&app, ask("/purged")).await;
    assert_eq!(purged.status(), StatusCode::GATEWAY_TIMEOUT);
    Ok(())
}
