//! Fuzz tests of what is private here: keys, records and purges. `make fuzz` runs them for minutes.

use crate::{
    Position, Purge, QueryRule, Rule, codec,
    identity::Secret,
    journal::{PurgeLog, Verdict},
    key::{self, RequestUrl},
};
use actix_web::{
    http::{
        Uri,
        header::{self, HeaderMap, HeaderValue},
    },
    test::TestRequest,
};
use weaver_cache_policy::{Millis, Policy, url::Url};
use weaver_fuzz::changed;

const TARGETS: [&[u8]; 5] = [
    b"/~a/b?c=d&e=%66",
    b"/%7Ea//b;x=y?%69d=1;utm=2&&id",
    b"/a%2fb/%C3%A9?q=100%&q=[1]",
    b"/",
    b"/x?http://h/y",
];

/// However a request's target is written, a purge by that URL reaches its entry, and so does one by the
/// entry's own URL.
#[test]
fn fuzz_a_purge_by_its_url_reaches_what_a_request_stored() {
    bolero::check!().for_each(|input: &[u8]| {
        let target = changed(&TARGETS, input);
        let Ok(target) = std::str::from_utf8(&target) else {
            return;
        };
        let Ok(uri) = target.parse::<Uri>() else {
            return;
        };
        // Paths with dots are refused before they come here.
        let judged = weaver_cache_policy::path::judge(uri.path());
        if uri.authority().is_some() || judged.is_ok_and(|judged| judged.has_dots) {
            return;
        }
        let text = format!("http://h.test{target}");
        let Ok(purge) = Purge::url(&text) else { return };
        let req = TestRequest::default().uri(target);
        let req = req
            .insert_header((header::HOST, "H.test:80"))
            .to_srv_request();
        let kinds = [
            QueryRule::Keep,
            QueryRule::Ignore,
            QueryRule::Only(vec!["id".to_owned()]),
            QueryRule::Except(vec!["utm".to_owned()]),
        ];
        for query in kinds {
            let rule = Rule::new("r", Policy::standard()).query(query);
            let secret = Secret::new(Some([7; 32]));
            let key = key::build(&RequestUrl::of(&req), &rule, req.headers(), None, &secret).key;
            let own = key::public_url(&key);
            let reaches = |purge: Purge| {
                let log = PurgeLog::new();
                log.apply(
                    Position {
                        time: 5,
                        sequence: 0,
                    },
                    purge,
                    false,
                );
                log.judge_fetch(&key, Position::default()) != Verdict::Alive
            };
            assert!(reaches(purge.clone()), "{target:?} {:?}", rule.query);
            let own = own.and_then(|url| Purge::url(&url).ok());
            assert!(own.is_some_and(reaches), "{target:?} {:?}", rule.query);
        }
    });
}

/// Two requests share a key only if what the rule lets through of them is equivalent.
#[test]
fn fuzz_what_has_one_key_goes_up_as_one() {
    bolero::check!().for_each(|input: &[u8]| {
        let (one, other) = input.split_at(input.len() / 2);
        let read = |input: &[u8]| {
            let target = String::from_utf8(changed(&TARGETS, input)).ok()?;
            let uri: Uri = target.parse().ok()?;
            uri.authority().is_none().then_some(uri)
        };
        let (Some(one), Some(other)) = (read(one), read(other)) else {
            return;
        };
        let rule = Rule::new("r", Policy::standard()).query(QueryRule::Only(vec!["id".to_owned()]));
        let key = |uri: &Uri| {
            let req = TestRequest::default()
                .uri(&uri.to_string())
                .to_srv_request();
            let secret = Secret::new(Some([7; 32]));
            key::build(&RequestUrl::of(&req), &rule, req.headers(), None, &secret).key
        };
        if key(&one) == key(&other) {
            let sent = |uri: &Uri| {
                let query = rule.query_as_keyed(uri.query()).unwrap_or_default();
                Url::parse(&format!("http://h{}?{query}", uri.path())).map(|url| url.to_string())
            };
            assert_eq!(sent(&one), sent(&other));
        }
    });
}

/// Whatever lies in Redis: it is read as a whole record of the wanted key, or not at all.
#[test]
fn fuzz_records_are_read_whole_or_not_at_all() {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static("h"));
    let req = TestRequest::default().uri("/a?b").to_srv_request();
    let rule = Rule::new("r", Policy::standard());
    let secret = Secret::new(Some([7; 32]));
    let key = key::build(&RequestUrl::of(&req), &rule, &headers, None, &secret).key;
    let records = codec::tests::samples(&key);
    let seeds: Vec<&[u8]> = records.iter().map(|record| &record[..]).collect();
    bolero::check!().for_each(|input: &[u8]| {
        let bytes = changed(&seeds, input);
        if let Some(record) = codec::decode(&bytes, &key) {
            assert_eq!(record.key(), &key[..]);
            assert!(codec::decode(&bytes, b"another").is_none());
        }
    });
}

/// What other programs write into the journal.
#[test]
fn fuzz_names_of_purges_are_bounded() {
    const SEEDS: [&[u8]; 4] = [
        b"http://h.test/a?b",
        b"https://H:443/%7Ea/../b#c",
        b"/a/b?",
        b"http://[::1]:80",
    ];
    bolero::check!().for_each(|input: &[u8]| {
        let text = changed(&SEEDS, input);
        let Ok(text) = std::str::from_utf8(&text) else {
            return;
        };
        for purge in [Purge::url(text), Purge::prefix(text)]
            .into_iter()
            .flatten()
        {
            assert_eq!(purge.clone().normal().as_ref(), Ok(&purge), "{text:?}");
            let log = PurgeLog::new();
            log.apply_local(purge, false, Millis(1));
        }
    });
}
