//! Says how a shared cache would treat a response with the Cache-Control given as argument.
//!
//! `cargo run -p weaver-cache-policy --example freshness -- 'max-age=60, stale-while-revalidate=30'`

use weaver_cache_policy::{Millis, Policy, reuse, store};

fn main() {
    let value = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "max-age=60".to_owned());
    let request: [(&str, &[u8]); 0] = [];
    let response = [("cache-control", value.as_bytes()), ("etag", b"\"v1\"")];
    let now = Millis(1_800_000_000_000);
    let asked = store::Asked {
        headers: &request[..],
        authenticated: false,
        partitioned: false,
    };
    let answered = store::Answered {
        status: 200,
        headers: &response[..],
        requested_at: now,
        received_at: now,
    };
    match store::assess(&Policy::standard(), &asked, &answered) {
        Err(reason) => println!("not stored: {reason}"),
        Ok(lifetime) => {
            for seconds in [0, 10, 60, 75, 90, 3600] {
                let decision =
                    reuse::decide(&lifetime, &reuse::Wishes::none(), now.plus_secs(seconds));
                println!("after {seconds:>4} s: {decision:?}");
            }
        }
    }
}
