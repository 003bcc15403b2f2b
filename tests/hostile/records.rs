//! What lies in Redis was written by a node of this cache, or is not served: changed, moved, cut or made
//! up by who can write there.

use crate::support::{client, eventually, ok, text_of};
use anyhow::{Context as _, Result};
use tokio::io::AsyncWriteExt as _;
use weaver_tests::{Gateway, Origin, Redis};

const SECRET: &str = "the same on all nodes";
/// Version and code.
const HEADER: usize = 17;

/// A node that has nothing in memory, so that each request looks into Redis.
async fn node(redis: &Redis, origin: &Origin, cache: &str) -> Result<Gateway> {
    let config = format!(
        "{}[cache]\nmemory = 0\nearly_refresh = 0\n{cache}\n{}",
        redis.section(),
        origin.route("")
    );
    let gateway = Gateway::start(&config).await?;
    gateway.ready_for_redis().await?;
    Ok(gateway)
}

fn secret() -> String {
    format!("identity_secret = \"{SECRET}\"")
}

async fn ask(gateway: &Gateway, path: &str) -> Result<String> {
    let asking = client().get(gateway.url(path)).header("host", "h");
    text_of(asking.send().await?).await
}

fn is_hit(answer: &str) -> bool {
    answer.contains("cache-status: weaver; hit")
}

/// What a response is made of in Redis, once it is there: names and bytes. Nothing is written any more
/// when its lease has ended.
async fn records(redis: &Redis) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    eventually("a response is in redis", async || {
        let keys = redis.cli(&["--raw", "KEYS", "http_cache:*"]);
        let keys = keys.unwrap_or_default();
        if keys.contains("lease") {
            return false;
        }
        found = keys
            .lines()
            .filter(|name| name.len() >= "http_cache:".len() + 64 && !name.contains('{'))
            .filter_map(|name| Some((name.to_owned(), redis.get(name).ok()??)))
            .collect();
        !found.is_empty()
    })
    .await;
    Ok(found)
}

fn restore(redis: &Redis, records: &[(String, Vec<u8>)]) -> Result<()> {
    for (name, bytes) in records {
        redis.set(name, bytes)?;
    }
    Ok(())
}

/// Responses in each form in which they lie in Redis.
const FORMS: [(&str, &str, usize, &str, &str); 5] = [
    ("in one piece", "", 300, "", "/a?x=1"),
    (
        "compressed",
        "redis_compress = \"1KiB\"",
        8000,
        "",
        "/a?x=1",
    ),
    ("in parts", "redis_part = \"4KiB\"", 10_000, "", "/a?x=1"),
    ("of a variant", "", 300, "vary: foo\r\n", "/a?x=1"),
    (
        "of many queries",
        "",
        300,
        "no-vary-search: params\r\n",
        "/a?x=2",
    ),
];

#[tokio::test]
async fn no_byte_of_a_record_can_be_changed() -> Result<()> {
    for (form, cache, size, fields, path) in FORMS {
        for secret in [secret(), String::new()] {
            let context = format!("{form}, {secret}");
            let redis = Redis::start().await?;
            let body = "0123456789".repeat(size / 10);
            let fields = format!("cache-control: max-age=600\r\n{fields}");
            let origin = Origin::constant(ok(&body, &fields)).await?;
            let gateway = node(&redis, &origin, &format!("{cache}\n{secret}")).await?;
            ask(&gateway, "/a?x=1").await?;
            let written = records(&redis).await?;
            assert!(is_hit(&ask(&gateway, path).await?), "{context}");
            for (name, bytes) in &written {
                for at in [0, 1, 16, 17, bytes.len() / 2, bytes.len() - 1] {
                    let context = format!("{context}: byte {at} of {name}");
                    restore(&redis, &written)?;
                    let mut changed = bytes.clone();
                    changed[at] ^= 1;
                    redis.set(name, &changed)?;
                    // In the midst of parts it may break off, but is never another.
                    if let Ok(answer) = ask(&gateway, path).await {
                        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{context}");
                    }
                    records(&redis).await?;
                    assert!(redis.get(name)?.as_ref() != Some(&changed), "{context}");
                }
            }
            let said = gateway.process().output();
            assert!(said.contains("records in redis are refused"), "{said}");
            assert!(!said.contains("0123456789"), "{said}");
        }
    }
    Ok(())
}

/// A body of which no part is like another.
fn numbered(path: &str) -> String {
    (0..2000).map(|at| format!("{path}{at:06}")).collect()
}

#[tokio::test]
async fn a_record_is_served_under_its_own_name_alone() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::start(|head, mut stream| async move {
        let path = head.split(' ').nth(1)?.to_owned();
        let answer = ok(&numbered(&path), "cache-control: max-age=600\r\n");
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await?;
    let cache = format!("redis_part = \"4KiB\"\n{}", secret());
    let gateway = node(&redis, &origin, &cache).await?;
    ask(&gateway, "/a").await?;
    let of_a = records(&redis).await?;
    ask(&gateway, "/b").await?;
    let both = records(&redis).await?;
    let of_b: Vec<_> = both.iter().filter(|one| !of_a.contains(one)).collect();
    assert_eq!(of_a.len(), of_b.len());
    // Each record of one in the place of each record of the other, and of its own others.
    for (name, bytes) in &of_a {
        for (_, other) in of_b.iter().copied().chain(&of_a) {
            if other == bytes {
                continue;
            }
            restore(&redis, &of_a)?;
            redis.set(name, other)?;
            if let Ok(answer) = ask(&gateway, "/a").await {
                assert!(answer.ends_with(&numbered("/a")), "{name}");
            }
            records(&redis).await?;
        }
    }
    Ok(())
}

/// The code of a record, as a node that knows the secret computes it.
fn sealed(name: &str, rest: &[u8]) -> Vec<u8> {
    let identity = blake3::derive_key("weaver 2026 cache identity", SECRET.as_bytes());
    let key = blake3::derive_key("weaver-cache 2026 record authentication 3", &identity);
    let own = blake3::keyed_hash(&key, name.as_bytes());
    let code = blake3::keyed_hash(own.as_bytes(), rest);
    let mut record = vec![3];
    record.extend_from_slice(&code.as_bytes()[..16]);
    record.extend_from_slice(rest);
    record
}

/// Where an entry has its status, and the number of its fields.
fn places(rest: &[u8]) -> Result<(usize, usize)> {
    let length = rest.get(1..5).context("a length")?;
    let status = 5 + u32::from_le_bytes(length.try_into()?) as usize;
    // Status, lifetime, position, time of filling, no variant.
    Ok((status, status + 2 + 6 * 8 + 1 + 2 * 8 + 8 + 1))
}

/// Who knows the secret too can have no head served that is none of a stored response.
#[tokio::test]
async fn neither_a_status_that_is_not_final_nor_a_field_that_frames_comes_from_a_record()
-> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok("body", "cache-control: max-age=600\r\n")).await?;
    let gateway = node(&redis, &origin, &secret()).await?;
    ask(&gateway, "/a").await?;
    let written = records(&redis).await?;
    let (name, record) = written.first().context("a record")?;
    let rest = &record[HEADER..];
    assert_eq!(&sealed(name, rest), record, "the test seals as a node does");
    let (status, count) = places(rest)?;
    let with_field = |field: &str, value: &str| {
        let mut made = rest.to_vec();
        made[count] += 1;
        let mut bytes = u16::try_from(field.len())?.to_le_bytes().to_vec();
        bytes.extend_from_slice(field.as_bytes());
        bytes.extend_from_slice(&u32::try_from(value.len())?.to_le_bytes());
        bytes.extend_from_slice(value.as_bytes());
        made.splice(count + 2..count + 2, bytes);
        anyhow::Ok(made)
    };
    let with_status = |number: u16| {
        let mut made = rest.to_vec();
        made[status..status + 2].copy_from_slice(&number.to_le_bytes());
        made
    };
    // What may be there is served: the crafting is right.
    redis.set(name, &sealed(name, &with_field("x-crafted", "yes")?))?;
    let answer = ask(&gateway, "/a").await?;
    assert!(
        is_hit(&answer) && answer.contains("x-crafted: yes"),
        "{answer}"
    );
    redis.set(name, &sealed(name, &with_status(404)))?;
    assert!(ask(&gateway, "/a").await?.starts_with("404"));

    let mut crafted = Vec::new();
    for number in [100, 101, 103, 199, 206, 304, 600, 999] {
        crafted.push((number.to_string(), with_status(number)));
    }
    for (field, value) in [
        ("connection", "x-a"),
        ("content-length", "1"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "trailers"),
        ("trailer", "x-a"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("proxy-authenticate", "Basic"),
    ] {
        crafted.push((field.to_owned(), with_field(field, value)?));
    }
    for (what, rest) in crafted {
        let before = origin.requests();
        let made = sealed(name, &rest);
        redis.set(name, &made)?;
        let answer = ask(&gateway, "/a").await?;
        assert!(
            answer.starts_with("200") && !is_hit(&answer),
            "{what}: {answer}"
        );
        assert!(answer.ends_with("\r\n\r\nbody"), "{what}: {answer}");
        assert_eq!(origin.requests(), before + 1, "{what}");
        records(&redis).await?;
        assert!(redis.get(name)? != Some(made), "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn nodes_with_different_secrets_share_nothing() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok("body", "cache-control: max-age=600\r\n")).await?;
    let one = node(&redis, &origin, &secret()).await?;
    let same = node(&redis, &origin, &secret()).await?;
    let other = node(&redis, &origin, "identity_secret = \"of another cache\"").await?;
    ask(&one, "/a").await?;
    records(&redis).await?;
    assert!(is_hit(&ask(&same, "/a").await?));
    assert!(!is_hit(&ask(&other, "/a").await?));
    Ok(())
}
