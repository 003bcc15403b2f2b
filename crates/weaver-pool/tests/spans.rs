//! What a call says of itself in traces. Alone in its process, for whether anybody listens to a span
//! is remembered for the whole of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use common::Redis;
use fred::{clients::Client, interfaces::KeysInterface};
use parking_lot::Mutex;
use std::{collections::BTreeMap, fmt, sync::Arc};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span,
};
use weaver_pool::{PoolError, RedisPool, RedisPoolConfig};

async fn get(pool: &RedisPool, key: &'static str) -> Result<Option<String>, PoolError> {
    let get = |client: Client| async move { client.get(key).await };
    pool.command("GET").key(key.as_bytes()).once(get).await
}

/// What a span said of itself.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<BTreeMap<String, String>>>>);

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}").trim_matches('"').to_owned();
        self.0.insert(field.name().to_owned(), text);
    }
}

impl Subscriber for Seen {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("weaver_pool")
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let mut fields = BTreeMap::new();
        attributes.record(&mut Fields(&mut fields));
        let mut seen = self.0.lock();
        seen.push(fields);
        span::Id::from_u64(seen.len() as u64)
    }

    fn record(&self, span: &span::Id, values: &span::Record<'_>) {
        let at = usize::try_from(span.into_u64()).unwrap() - 1;
        values.record(&mut Fields(&mut self.0.lock()[at]));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// OpenTelemetry's semantic conventions for Redis; neither keys nor values are in it.
#[tokio::test]
async fn a_call_is_a_span_by_the_conventions() {
    let redis = Redis::start().await;
    let pool = RedisPool::connect(RedisPoolConfig {
        db: 3,
        ..redis.config()
    })
    .await
    .unwrap();
    redis.cli(&["-n", "3", "RPUSH", "list", "x"]);
    let seen = Seen::default();
    let _guard = tracing::subscriber::set_default(seen.clone());
    get(&pool, "secret-key").await.unwrap();
    get(&pool, "list").await.unwrap_err();
    drop(_guard);
    let spans = seen.0.lock().clone();
    assert_eq!(spans.len(), 2, "{spans:?}");
    let field = |at: usize, name: &str| spans[at].get(name).map(String::as_str);
    for (name, value) in [
        ("otel.name", "GET"),
        ("otel.kind", "client"),
        ("db.system.name", "redis"),
        ("db.operation.name", "GET"),
        ("db.namespace", "3"),
        ("server.address", "127.0.0.1"),
        ("server.port", &redis.port.to_string()),
    ] {
        assert_eq!(field(0, name), Some(value), "{name} in {spans:?}");
    }
    assert_eq!(field(0, "error.type"), None);
    assert_eq!(field(1, "error.type"), Some("command"));
    assert_eq!(field(1, "db.response.status_code"), Some("WRONGTYPE"));
    assert!(!format!("{spans:?}").contains("secret-key"));
    pool.close().await;
}
