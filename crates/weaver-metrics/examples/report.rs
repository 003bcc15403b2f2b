//! Counts a few requests, and prints both renderings.
//!
//! `cargo run -p weaver-metrics --example report`

use weaver_metrics::{CacheMetrics, Registry, Tier, encode};

fn main() -> Result<(), serde_json::Error> {
    let mut registry = Registry::default();
    let metrics = CacheMetrics::new(&mut registry);
    let route = metrics.route("/catalog");
    route.count(Tier::None, "miss");
    for _ in 0..9 {
        route.count(Tier::Memory, "hit");
        route.saved(0.025);
    }
    println!("{}", serde_json::to_string_pretty(&metrics.report())?);
    println!("{}", encode(&registry));
    Ok(())
}
