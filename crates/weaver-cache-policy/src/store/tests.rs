use super::*;
use proptest::prelude::*;

const NOW: Millis = Millis(1_700_000_000_000);
type Lines<'a> = Vec<(&'a str, String)>;

fn at(seconds: i64) -> String {
    date::format(Millis(NOW.0.saturating_add_signed(seconds * 1000)))
}

struct Case<'a> {
    status: u16,
    request: Lines<'a>,
    response: Lines<'a>,
    authenticated: bool,
    partitioned: bool,
    policy: Policy,
}

impl<'a> Case<'a> {
    fn new(response: &[(&'a str, &str)]) -> Self {
        Self {
            status: 200,
            request: Vec::new(),
            response: response
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned()))
                .collect(),
            authenticated: false,
            partitioned: false,
            policy: Policy::standard(),
        }
    }

    fn assess(&self) -> Result<Lifetime, Bypass> {
        assess(
            &self.policy,
            &Asked {
                headers: &self.request,
                authenticated: self.authenticated,
                partitioned: self.partitioned,
            },
            &Answered {
                status: self.status,
                headers: &self.response,
                requested_at: NOW,
                received_at: NOW,
            },
        )
    }

    fn seconds(&self) -> u64 {
        self.assess().expect("storable").fresh_for / 1000
    }
}

#[test]
fn s_maxage_stands_over_max_age_and_both_over_expires() {
    assert_eq!(
        Case::new(&[("cache-control", "max-age=1, s-maxage=60")]).seconds(),
        60
    );
    assert_eq!(
        Case::new(&[("cache-control", "max-age=60"), ("expires", &at(-10))]).seconds(),
        60
    );
    assert_eq!(
        Case::new(&[("date", &at(0)), ("expires", &at(30))]).seconds(),
        30
    );
}

#[test]
fn an_invalid_expires_is_in_the_past() {
    assert_eq!(
        Case::new(&[("expires", "0")]).assess(),
        Err(Bypass::NoFreshness)
    );
    assert_eq!(
        Case::new(&[("expires", "0"), ("etag", "\"a\"")]).seconds(),
        0
    );
}

#[test]
fn a_heuristic_lifetime_needs_a_status_that_allows_it() {
    let aged = [("last-modified", at(-1000)), ("date", at(0))];
    let aged: Vec<(&str, &str)> = aged.iter().map(|(n, v)| (*n, v.as_str())).collect();
    for (status, seconds) in [
        (200, Some(100)),
        (404, Some(100)),
        (201, None),
        (403, None),
        (503, None),
    ] {
        let case = Case {
            status,
            ..Case::new(&aged)
        };
        let stored = case.assess().ok().map(|lifetime| lifetime.fresh_for / 1000);
        assert_eq!(stored, seconds, "{status}");
    }
}

#[test]
fn age_counts_from_the_older_of_date_and_age() {
    let age = |response: &[(&str, &str)]| Case::new(response).assess().unwrap().initial_age / 1000;
    assert_eq!(age(&[("cache-control", "max-age=60"), ("age", "20")]), 20);
    assert_eq!(
        age(&[
            ("cache-control", "max-age=60"),
            ("date", &at(-30)),
            ("age", "20")
        ]),
        30
    );
    assert_eq!(
        age(&[("cache-control", "max-age=60"), ("age", "20, 50")]),
        20
    );
    assert_eq!(age(&[("cache-control", "max-age=60"), ("age", "abc")]), 0);
    assert_eq!(
        age(&[
            ("cache-control", "max-age=60"),
            ("age", "18446744073709551615")
        ]),
        2_147_483_648
    );
}

#[test]
fn what_must_not_be_stored_is_refused_for_its_reason() {
    let refused = |value: &str| Case::new(&[("cache-control", value)]).assess().unwrap_err();
    assert_eq!(refused("max-age=60, No-Store"), Bypass::NoStore);
    assert_eq!(refused("max-age=60, private"), Bypass::Private);
    assert_eq!(
        Case::new(&[
            ("cache-control", "max-age=60"),
            ("vary", "Foo"),
            ("vary", ", *")
        ])
        .assess(),
        Err(Bypass::VaryStar)
    );
    let mut case = Case::new(&[("cache-control", "max-age=60")]);
    case.request = vec![("cache-control", "no-store".to_owned())];
    assert_eq!(case.assess(), Err(Bypass::RequestNoStore));
}

#[test]
fn an_authenticated_response_is_shared_only_by_permission() {
    for (value, stored) in [
        ("max-age=60", false),
        ("max-age=60, public", true),
        ("s-maxage=60", true),
        ("max-age=60, must-revalidate", true),
    ] {
        let case = Case {
            authenticated: true,
            ..Case::new(&[("cache-control", value)])
        };
        assert_eq!(case.assess().is_ok(), stored, "{value}");
    }
    let own = Case {
        authenticated: true,
        partitioned: true,
        ..Case::new(&[("cache-control", "private, max-age=60")])
    };
    assert!(own.assess().is_ok());
}

#[test]
fn must_understand_stands_over_no_store_where_the_status_is_known() {
    let case = |status| Case {
        status,
        ..Case::new(&[("cache-control", "must-understand, no-store, max-age=9")])
    };
    assert!(case(200).assess().is_ok());
    assert_eq!(case(599).assess(), Err(Bypass::Status));
}

#[test]
fn a_cookie_needs_explicit_freshness_beside_it() {
    assert!(
        Case::new(&[("cache-control", "max-age=60"), ("set-cookie", "a=b")])
            .assess()
            .is_ok()
    );
    let guessed = [
        ("last-modified", at(-1000)),
        ("set-cookie", "a=b".to_owned()),
    ];
    let guessed: Vec<(&str, &str)> = guessed.iter().map(|(n, v)| (*n, v.as_str())).collect();
    assert_eq!(Case::new(&guessed).assess(), Err(Bypass::SetCookie));
}

#[test]
fn a_pattern_gives_freshness_and_never_keeps_what_is_not_its_to_keep() {
    let pattern = |response: &[(&'static str, &str)], overrides| Case {
        policy: Policy::pattern(60, overrides),
        ..Case::new(response)
    };
    assert_eq!(pattern(&[], false).seconds(), 60);
    assert_eq!(
        pattern(&[("cache-control", "max-age=5")], false).seconds(),
        5
    );
    assert_eq!(
        pattern(&[("cache-control", "max-age=5, no-cache")], true).seconds(),
        60
    );
    for overrides in [false, true] {
        assert_eq!(
            pattern(&[("set-cookie", "a=b")], overrides).assess(),
            Err(Bypass::SetCookie)
        );
        assert_eq!(
            pattern(&[("cache-control", "no-store")], overrides).assess(),
            Err(Bypass::NoStore)
        );
        assert_eq!(
            pattern(&[("cache-control", "private")], overrides).assess(),
            Err(Bypass::Private)
        );
        let failed = Case {
            status: 404,
            ..pattern(&[], overrides)
        };
        assert_eq!(failed.assess(), Err(Bypass::Status));
    }
}

#[test]
fn a_target_is_obeyed_in_place_of_cache_control_and_expires() {
    assert_eq!(
        Case::new(&[
            ("cdn-cache-control", "max-age=60"),
            ("cache-control", "no-store")
        ])
        .seconds(),
        60
    );
    assert_eq!(
        Case::new(&[
            ("cdn-cache-control", "no-store"),
            ("cache-control", "max-age=60")
        ])
        .assess(),
        Err(Bypass::NoStore)
    );
}

fn directive() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("no-store".to_owned()),
        Just("private".to_owned()),
        Just("public".to_owned()),
        Just("no-cache".to_owned()),
        Just("must-revalidate".to_owned()),
        (0_u64..5000).prop_map(|n| format!("max-age={n}")),
        (0_u64..5000).prop_map(|n| format!("s-maxage={n}")),
        "[a-z]{1,8}(=\"[a-z, ]{0,8}\")?",
    ]
}

proptest! {
    /// Nothing stored that must not be, whatever stands around the directive.
    #[test]
    fn no_store_private_and_authorization_hold_in_any_company(
        mut directives in proptest::collection::vec(directive(), 0..6),
        status in 100_u16..700,
        authenticated in any::<bool>(),
        lines in any::<bool>(),
    ) {
        let has = |name: &str| directives.iter().any(|d| d == name || d.starts_with(&format!("{name}=")));
        let forbidden = has("no-store") || has("private")
            || !(200..600).contains(&status) || status == 304
            || (authenticated && !has("public") && !has("s-maxage") && !has("must-revalidate"));
        if !lines {
            directives = vec![directives.join(" , ")];
        }
        let case = Case {
            status,
            authenticated,
            response: directives.into_iter().map(|d| ("cache-control", d)).collect(),
            ..Case::new(&[])
        };
        if let Ok(lifetime) = case.assess() {
            prop_assert!(!forbidden, "stored {:?}", lifetime);
        }
    }

    #[test]
    fn no_header_bytes_panic(
        fields in proptest::collection::vec(
            (prop_oneof![Just("cache-control"), Just("age"), Just("date"), Just("expires"), Just("vary"), Just("last-modified"), Just("cdn-cache-control")],
             proptest::collection::vec(any::<u8>(), 0..40)),
            0..8,
        ),
        status in any::<u16>(),
        now in any::<u64>(),
    ) {
        let request: [(&str, &[u8]); 0] = [];
        let result = assess(
            &Policy::standard(),
            &Asked { headers: &request[..], authenticated: false, partitioned: false },
            &Answered { status, headers: &fields, requested_at: NOW, received_at: Millis(now) },
        );
        if let Ok(lifetime) = result {
            let _ = (lifetime.age(Millis(u64::MAX)), lifetime.ttl(Millis(0)), lifetime.useful_until(u64::MAX));
        }
    }
}
