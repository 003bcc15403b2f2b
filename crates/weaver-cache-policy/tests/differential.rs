//!
//! `http-cache-semantics` reads directives in lower case and on one line only, and takes no age from
//! Date, so that is what it is asked about; it counts heuristics in whole seconds.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use http_cache_semantics::{CacheOptions, CachePolicy};
use proptest::prelude::*;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weaver_cache_policy::{
    Millis, Policy, date,
    reuse::{self, Decision, Wishes},
    store::{self, Answered, Asked},
};

/// 2027-01-15, a whole second.
const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Whether the response may be stored, and is fresh some seconds later, by us.
fn ours(headers: &[(&'static str, String)], later: u64) -> Option<bool> {
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let none: [(&str, &str); 0] = [];
    let now = Millis(NOW * 1000);
    let lifetime = store::assess(
        &Policy::standard(),
        &Asked {
            headers: &none[..],
            authenticated: false,
            partitioned: false,
        },
        &Answered {
            status: 200,
            headers: &headers[..],
            requested_at: now,
            received_at: now,
        },
    )
    .ok()?;
    let decision = reuse::decide(&lifetime, &Wishes::none(), now.plus_secs(later));
    Some(decision == Decision::Fresh)
}

/// The same by http-cache-semantics.
fn theirs(headers: &[(&'static str, String)], later: u64) -> Option<bool> {
    let request = http::Request::get("http://h/").body(()).unwrap();
    let mut response = http::Response::builder().status(200);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    let options = CacheOptions {
        shared: true,
        cache_heuristic: 0.1,
        ignore_cargo_cult: false,
        ..CacheOptions::default()
    };
    let response = response.body(()).unwrap();
    let policy = CachePolicy::new_options(&request, &response, at(NOW), options);
    policy
        .is_storable()
        .then(|| !policy.is_stale(at(NOW + later)))
}

fn directive() -> impl Strategy<Value = String> {
    prop_oneof![
        (0_u64..200).prop_map(|n| format!("max-age={n}")),
        (0_u64..200).prop_map(|n| format!("s-maxage={n}")),
        Just("public".to_owned()),
        Just("no-cache".to_owned()),
        Just("must-revalidate".to_owned()),
        Just("no-transform".to_owned()),
        prop_oneof![Just("private".to_owned()), Just("no-store".to_owned())],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn freshness_is_what_http_cache_semantics_takes_it_for(
        directives in proptest::collection::btree_map(0_u8..7, directive(), 0..4),
        age in proptest::option::of(0_u64..100),
        expires in proptest::option::of(0_u64..200),
        modified in proptest::option::of((0_u64..200).prop_map(|tens| tens * 10)),
        later in 0_u64..250,
    ) {
        let mut seen: Vec<&str> = Vec::new();
        let mut list: Vec<&str> = Vec::new();
        for directive in directives.values() {
            let name = directive.split('=').next().unwrap_or("");
            if !seen.contains(&name) {
                seen.push(name);
                list.push(directive);
            }
        }
        let date = |seconds: u64| date::format(Millis(seconds * 1000));
        let mut headers = vec![("date", date(NOW))];
        if !list.is_empty() {
            headers.push(("cache-control", list.join(", ")));
        }
        headers.extend(age.map(|age| ("age", age.to_string())));
        headers.extend(expires.map(|after| ("expires", date(NOW + after))));
        headers.extend(modified.map(|before| ("last-modified", date(NOW - before))));
        // What cannot be reused without asking is stored by us only for its validator.
        let (us, them) = (ours(&headers, later), theirs(&headers, later));
        prop_assert_eq!(us.unwrap_or(false), them.unwrap_or(false), "{:?} after {}", headers, later);
        if them.is_none() {
            prop_assert_eq!(us, None, "{:?}", headers);
        }
    }

    #[test]
    fn dates_are_what_httpdate_takes_them_for(seconds in 0_u64..253_402_300_799) {
        let text = httpdate::fmt_http_date(at(seconds));
        prop_assert_eq!(date::format(Millis(seconds * 1000)), text.clone());
        prop_assert_eq!(date::parse(text.as_bytes(), Millis(NOW * 1000)), Some(Millis(seconds * 1000)));
    }

    /// Of what httpdate reads we read nothing differently, in any of the three formats. Two-digit
    /// years are left out: RFC 9110 §5.6.7 makes them depend on now, httpdate does not.
    #[test]
    fn no_date_is_read_differently(
        text in "(Mon|Tue|Sun), [0-3][0-9] (Jan|Feb|Jun|Dec) [12][0-9]{3} [0-2][0-9]:[0-5][0-9]:[0-6][0-9] GMT|(Mon|Tue|Sun) (Jan|Feb|Jun|Dec) [ 0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-6][0-9] [12][0-9]{3}",
    ) {
        let us = date::parse(text.as_bytes(), Millis(NOW * 1000));
        if let (Some(us), Ok(them)) = (us, httpdate::parse_http_date(&text)) {
            prop_assert_eq!(Some(us.0 / 1000), them.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs()));
        }
    }
}
