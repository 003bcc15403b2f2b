use super::*;
use proptest::prelude::*;

fn entry(key: &[u8], body: Vec<u8>, value: Vec<u8>, variant: bool) -> Entry {
    Entry {
        key: key.into(),
        head: Arc::new(Head {
            status: StatusCode::OK,
            fields: vec![
                (
                    HeaderName::from_static("a"),
                    HeaderValue::from_bytes(&value).unwrap(),
                ),
                (
                    HeaderName::from_static("a"),
                    HeaderValue::from_static("again"),
                ),
            ],
            lifetime: Lifetime {
                fresh_for: 7,
                flags: Flags(3),
                ..Lifetime::default()
            },
            position: Position {
                time: 1,
                sequence: 2,
            },
            variant: variant.then(|| Variant {
                names: ["x".to_owned()].into_iter().collect(),
                digest: [1; 32],
                beside_language: [2; 32],
                language: Some("de".to_owned()),
            }),
        }),
        body: body.into(),
        fill_micros: 25_000,
        checked: Checked::default(),
    }
}

/// What stands behind the seal.
fn written(record: &Record) -> Vec<u8> {
    encode(record).split_off(crate::seal::HEADER)
}

fn assert_same(one: &Entry, other: &Entry) {
    assert_eq!(one.key, other.key);
    assert_eq!(one.head.status, other.head.status);
    assert_eq!(one.head.fields, other.head.fields);
    assert_eq!(one.head.lifetime, other.head.lifetime);
    assert_eq!(one.head.position, other.head.position);
    assert_eq!(one.head.variant, other.head.variant);
    assert_eq!(one.body, other.body);
    assert_eq!(one.fill_micros, other.fill_micros);
}

#[test]
fn an_entry_of_another_key_is_not_read() {
    let bytes = written(&Record::Entry(Arc::new(entry(
        b"mine",
        vec![1],
        vec![b'v'],
        false,
    ))));
    assert!(decode(&bytes, b"mine").is_some());
    assert!(decode(&bytes, b"yours").is_none());
}

fn whole_key(path: &str) -> key::KeyBytes {
    let url = weaver_cache_policy::url::Url::parse(&format!("http://h{path}?r")).unwrap();
    let target = key::RequestUrl::of_url(&url);
    let mut rule = crate::Rule::new("r", weaver_cache_policy::Policy::standard());
    rule.vary_on = vec![header::ACCEPT, header::AUTHORIZATION];
    let mut headers = header::HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("r"));
    let secret = crate::identity::Secret::new(Some([b'r'; 32]));
    key::build(&target, &rule, &headers, None, &secret).key
}

fn of(key: &[u8], status: u16, field: Option<(&'static str, &'static str)>) -> Vec<u8> {
    let mut made = entry(key, vec![1], vec![b'v'], false);
    let head = Arc::get_mut(&mut made.head).unwrap();
    head.status = StatusCode::from_u16(status).unwrap();
    head.fields.extend(field.map(|(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    }));
    written(&Record::Entry(Arc::new(made)))
}

#[test]
fn a_head_of_more_parts_than_any_node_writes_is_not_read() {
    let made = |length, each| {
        let entry = Arc::new(entry(b"key", vec![], vec![b'v'], false));
        let id = [0; 16];
        let parts = Parts { id, length, each };
        written(&Record::Remote(Arc::new(Remote { entry, parts })))
    };
    let is_read = |length, each| decode(&made(length, each), b"key").is_some();
    assert!(is_read(MAX_PARTS, 1) && is_read(u64::MAX, u64::MAX));
    assert!(!is_read(MAX_PARTS + 1, 1) && !is_read(u64::MAX, 1));
    assert!(!is_read(0, 1) && !is_read(1, 0));
}

#[test]
fn no_status_is_read_that_a_stored_response_cannot_have() {
    for status in [100, 101, 103, 199, 206, 304, 600, 999] {
        assert!(
            decode(&of(b"key", status, None), b"key").is_none(),
            "{status}"
        );
    }
    for status in [200, 204, 301, 404, 503, 599] {
        assert!(
            decode(&of(b"key", status, None), b"key").is_some(),
            "{status}"
        );
    }
}

#[test]
fn a_part_is_read_where_parts_are_and_nowhere_else() {
    let whole = whole_key("/r");
    let part = crate::partial::key(&whole);
    let variant = key::of_variant(&part, &[b'r'; 16], &[b'r'; 32]);
    for (key, is_part) in [(&whole, false), (&part, true), (&variant, true)] {
        assert_eq!(decode(&of(key, 206, None), key).is_some(), is_part);
    }
    let of_whole = key::of_variant(&whole, &[b'r'; 16], &[b'r'; 32]);
    assert!(decode(&of(&of_whole, 206, None), &of_whole).is_none());
}

#[test]
fn no_field_is_read_that_frames() {
    for name in validation::HOP_BY_HOP.into_iter().chain(["content-length"]) {
        let bytes = of(b"key", 200, Some((name, "1")));
        assert!(decode(&bytes, b"key").is_none(), "{name}");
    }
    assert!(decode(&of(b"key", 200, Some(("proxy-status", "p"))), b"key").is_some());
}

proptest! {
    #[test]
    fn what_is_written_reads_back(
        key in proptest::collection::vec(any::<u8>(), 0..50),
        body in proptest::collection::vec(any::<u8>(), 0..300),
        value in proptest::collection::vec(0x21_u8..0x7f, 0..50),
        variant in any::<bool>(),
    ) {
        let stored = entry(&key, body, value, variant);
        let bytes = written(&Record::Entry(Arc::new(entry(&key, stored.body.to_vec(), stored.head.fields[0].1.as_bytes().to_vec(), variant))));
        match decode(&bytes, &key) {
            Some(Record::Entry(read)) => assert_same(&stored, &read),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    /// A value that was cut, lengthened or changed is refused or read as something whole, and
    /// never panics.
    #[test]
    fn damage_never_panics_and_a_cut_is_always_seen(at in 0_usize..400, with in any::<u8>(), cut in 0_usize..400) {
        let bytes = written(&Record::Entry(Arc::new(entry(b"key", vec![7; 100], vec![b'v'; 20], true))));
        let mut damaged = bytes.clone();
        if let Some(byte) = damaged.get_mut(at) {
            *byte = with;
        }
        let _ = decode(&damaged, b"key");
        if cut < bytes.len() {
            prop_assert!(decode(&bytes[..cut], b"key").is_none());
        }
    }

    #[test]
    fn what_is_in_parts_reads_back(id in any::<[u8; 16]>(), count in 1..MAX_PARTS, each in 1_u64..1 << 40) {
        let parts = Parts { id, length: count * each, each };
        let entry = Arc::new(entry(b"key", vec![], vec![b'v'], true));
        let bytes = written(&Record::Remote(Arc::new(Remote { entry: Arc::clone(&entry), parts })));
        match decode(&bytes, b"key") {
            Some(Record::Remote(read)) => {
                assert_same(&entry, &read.entry);
                prop_assert_eq!(read.parts, parts);
            }
            other => prop_assert!(false, "{other:?}"),
        }
        for cut in 0..bytes.len() {
            prop_assert!(decode(&bytes[..cut], b"key").is_none());
        }
    }

    #[test]
    fn parts_make_up_the_whole(length in 1_u64..100_000, each in 1_u64..5000) {
        let parts = Parts { id: [0; 16], length, each };
        let mut end = 0;
        for at in 0..parts.count() {
            let range = parts.range(at);
            prop_assert_eq!(range.start, end);
            prop_assert!(!range.is_empty() && range.len() as u64 <= each);
            end = range.end;
        }
        prop_assert_eq!(end as u64, length);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes, b"");
    }
}

/// Records of each kind under a key, as they stand behind the seal: what fuzz tests begin with.
pub(crate) fn samples(key: &[u8]) -> Vec<Vec<u8>> {
    let small = entry(key, vec![7; 9], vec![b'v'; 5], true);
    let index = Index {
        nonce: [1; 16],
        variants: small.head.variant.iter().cloned().collect(),
    };
    let remote = Remote {
        entry: Arc::new(entry(key, Vec::new(), vec![b'v'], false)),
        parts: Parts {
            id: [2; 16],
            length: 10,
            each: 4,
        },
    };
    let records = [
        Record::Entry(Arc::new(small)),
        Record::Index(key.into(), Arc::new(index)),
        Record::Remote(Arc::new(remote)),
    ];
    records.iter().map(written).collect()
}
