//! What clients and origins write, changed in ways that nobody foresaw: nothing of it panics, and what
//! is promised of it holds. `make fuzz` runs these for minutes.

use weaver_cache_policy::{
    Millis, Policy,
    directives::{RequestDirectives, ResponseDirectives},
    path, range, reuse,
    search::Variance,
    store::{self, Answered, Asked},
    url::{self, Url},
    vary,
};
use weaver_fuzz::changed;

#[test]
fn fuzz_urls_have_one_normal_form() {
    const SEEDS: [&[u8]; 4] = [
        b"http://example.com/~a/b?c=d",
        b"HTTPS://Example.com:443/%7Ea/../b?c=%64#e",
        b"http://[2001:db8::1]:8080/",
        "http://b\u{fc}cher.example/\u{e9}".as_bytes(),
    ];
    bolero::check!().for_each(|input: &[u8]| {
        let text = changed(&SEEDS, input);
        let Ok(text) = std::str::from_utf8(&text) else {
            return;
        };
        if let Ok(url) = Url::parse(text) {
            assert_eq!(Url::parse(&url.to_string()).as_ref(), Ok(&url));
            assert!(url.target.starts_with('/') && url.target.is_ascii());
            assert!(!url.authority.contains(['/', '@', ' ', '?', '#']));
        }
        let _ = (url::prefix(text), url::host(text));
    });
}

/// However a path is written: if it is taken, its strict reading has nothing left to resolve.
#[test]
fn fuzz_paths_are_resolved_or_told_to_be_ambiguous() {
    const SEEDS: [&[u8]; 5] = [
        b"/static/../account",
        b"/static/%2e%2e%2faccount",
        b"//a/%61;x=y/b",
        b"/a%2fb%5c..%252e",
        b"/.well-known/a.b..c",
    ];
    bolero::check!().for_each(|input: &[u8]| {
        let text = changed(&SEEDS, input);
        let Ok(text) = std::str::from_utf8(&text) else {
            return;
        };
        let Ok(judged) = path::judge(text) else {
            return;
        };
        let mut segments = judged.path.split('/').skip(1).peekable();
        while let Some(segment) = segments.next() {
            assert!(!matches!(segment, "." | ".."), "{text:?}: {judged:?}");
            assert!(!segment.is_empty() || segments.peek().is_none(), "{text:?}");
        }
        if !judged.has_dots {
            // Nobody who decodes as often as they like finds one either.
            let mut plain = text.to_owned();
            for _ in 0..4 {
                let bytes = plain.replace('+', "%2B");
                let pairs = format!("x={}", bytes.replace('&', "%26"));
                let decoded = form_urlencoded::parse(pairs.as_bytes()).next();
                plain = decoded.map_or_else(String::new, |(_, value)| value.into_owned());
            }
            let dots = |segment: &str| matches!(segment, "." | "..");
            assert!(!plain.split(['/', '\\']).any(dots), "{text:?}: {plain:?}");
        }
    });
}

/// Structured fields and the lists of HTTP, as responses and requests have them.
#[test]
fn fuzz_fields_never_panic_and_a_forbidden_response_is_never_stored() {
    const SEEDS: [&[u8]; 7] = [
        b"max-age=60, s-maxage=\"5\", private=\"set-cookie\", no-cache",
        b"public; max-age=60, must-understand, no-store",
        b"key-order, params=(\"a\" \"b\"), except=(\"c\")",
        b"bytes=0-4, 7-, -5",
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Accept-Encoding, accept-language;q=0.5, *",
        b"W/\"a\", \"b\", *",
    ];
    bolero::check!().for_each(|input: &[u8]| {
        let value = changed(&SEEDS, input);
        let names = [
            "cache-control",
            "cdn-cache-control",
            "no-vary-search",
            "vary",
            "range",
            "date",
            "expires",
            "age",
            "etag",
            "last-modified",
            "if-none-match",
        ];
        let fields: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, &value[..])).collect();
        let targets = ["cdn-cache-control".to_owned()];
        let says = ResponseDirectives::of(&fields[..], &targets);
        let _ = (
            RequestDirectives::of(&fields[..]),
            Variance::of(&fields[..]),
            range::parse(&fields[..]),
            vary::names(&fields[..]),
        );
        let now = Millis(1_700_000_000_000);
        let policy = Policy::standard();
        let none: [(&str, &[u8]); 0] = [];
        let assessed = store::assess(
            &policy,
            &Asked {
                headers: &none[..],
                authenticated: true,
                partitioned: false,
            },
            &Answered {
                status: 200,
                headers: &fields[..],
                requested_at: now,
                received_at: now,
            },
        );
        if says.no_store && !says.must_understand {
            assert!(assessed.is_err());
        }
        if let Ok(lifetime) = assessed {
            let _ = reuse::decide(&lifetime, &reuse::Wishes::of(&fields[..], &policy), now);
        }
    });
}
