//! Asks a slow model twice. `cargo run -p weaver-model-cache --example ask`

use std::time::{Duration, Instant};
use weaver_model_cache::{Answer, Call, ModelCache, ModelCacheConfig, Usage};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cache = ModelCache::embedded(ModelCacheConfig::default())?;
    let call = Call::new("What is a heddle?", "sample").parameter("temperature", 0);
    for _ in 0..2 {
        let began = Instant::now();
        let fetch = async || {
            tokio::time::sleep(Duration::from_millis(800)).await;
            let usage = Usage {
                prompt: 5,
                completion: 9,
            };
            Ok::<_, std::convert::Infallible>(Answer::text("A part of a loom.").usage(usage))
        };
        let fetched = cache.get_or_fetch(&call, fetch).await?;
        let text = String::from_utf8_lossy(&fetched.answer.body).into_owned();
        println!("{:?} in {:?}: {text}", fetched.source, began.elapsed());
    }
    println!("{:#?}", cache.stats());
    Ok(())
}
