//! Connects to the Redis at `REDIS_HOST` (localhost by default), writes, reads, prints statistics.
//!
//! `cargo run -p weaver-pool --example ping`

use fred::interfaces::KeysInterface as _;
use weaver_pool::{PoolError, RedisPool, RedisPoolConfig};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), PoolError> {
    let host = std::env::var("REDIS_HOST").unwrap_or_else(|_| "localhost".to_owned());
    let pool = RedisPool::connect(RedisPoolConfig {
        host,
        ..RedisPoolConfig::default()
    })
    .await?;
    println!("PING took {:?}", pool.health_check().await?);
    let value: Option<String> = pool
        .execute(|client| async move {
            client
                .set::<(), _, _>("weaver:example", "hello", None, None, false)
                .await?;
            client.get("weaver:example").await
        })
        .await?;
    println!("{value:?}\n{:#?}", pool.stats());
    pool.close().await;
    Ok(())
}
