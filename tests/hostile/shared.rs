//! One user's response in another's hands: who waits for a fetch gets only what the response, once its
//! head has come, lets them have.

use crate::support::{Gate, client, eventually, nodes, ok, text_of};
use anyhow::Result;
use futures_util::future::try_join_all;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt as _,
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use weaver_tests::{Gateway, Origin, Redis};

const PATIENCE: Duration = Duration::from_secs(10);
/// Nothing tells that a request waits for another's fetch: it is given this long to come to that.
const UNTIL_IT_WAITS: Duration = Duration::from_millis(300);

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Who asks, by what the tests' clients say.
fn who(head: &str) -> String {
    header(head, "x-who").unwrap_or("nobody").to_owned()
}

/// An origin that answers each user with fields of their own, in which WHO stands for the name, and
/// keeps Alice waiting until the gate opens. What it has not sent before it validates.
async fn personal(first: &str, later: &str, gate: &Gate) -> Result<(Origin, Arc<AtomicUsize>)> {
    let (first, later, gate) = (first.to_owned(), later.to_owned(), gate.clone());
    let bobs = Arc::new(AtomicUsize::new(0));
    let asked_by_bob = Arc::clone(&bobs);
    let origin = Origin::start(move |head, mut stream| {
        let (first, later, gate) = (first.clone(), later.clone(), gate.clone());
        let bobs = Arc::clone(&asked_by_bob);
        async move {
            let who = who(&head);
            match who.as_str() {
                "alice" => gate.pass().await?,
                "bob" => {
                    bobs.fetch_add(1, Ordering::SeqCst);
                }
                _ => {}
            }
            let answer = if header(&head, "if-none-match").is_some() {
                let fields = later.replace("WHO", &who);
                format!("HTTP/1.1 304 Not Modified\r\netag: \"v1\"\r\n{fields}\r\n")
            } else {
                let fields = if who == "nobody" { &first } else { &later };
                let fields = format!("etag: \"v1\"\r\n{}", fields.replace("WHO", &who));
                ok("body", &fields)
            };
            stream.write_all(answer.as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await?;
    Ok((origin, bobs))
}

/// Everything of a response as text, its body last.
async fn ask(gateway: &Gateway, who: &str, more: &[(&str, &str)]) -> Result<String> {
    let mut asking = client().get(gateway.url("/a")).header("x-who", who);
    for (name, value) in more {
        asking = asking.header(*name, *value);
    }
    text_of(asking.header("host", "h").send().await?).await
}

fn asking(
    gateway: &Gateway,
    who: &'static str,
    more: &'static [(&'static str, &'static str)],
) -> JoinHandle<Result<String>> {
    let url = gateway.url("/a");
    tokio::spawn(async move {
        let mut asking = client().get(url).header("x-who", who).header("host", "h");
        for (name, value) in more {
            asking = asking.header(*name, *value);
        }
        text_of(asking.send().await?).await
    })
}

/// What a response may say: its fields, and whether those who wait may share it, without what is
/// Alice's own.
const SAYINGS: [(&str, bool); 10] = [
    ("cache-control: private\r\nx-user: WHO\r\n", false),
    (
        "cache-control: private, max-age=60\r\nx-user: WHO\r\n",
        false,
    ),
    ("cache-control: no-store\r\nx-user: WHO\r\n", false),
    (
        "cache-control: max-age=60\r\nvary: *\r\nx-user: WHO\r\n",
        false,
    ),
    ("cache-control: no-cache\r\nx-user: WHO\r\n", false),
    (
        "cache-control: public, max-age=60, no-cache\r\nx-user: WHO\r\n",
        false,
    ),
    (
        "cdn-cache-control: private\r\ncache-control: max-age=60\r\nx-user: WHO\r\n",
        false,
    ),
    (
        "cache-control: max-age=60, private=\"x-user\"\r\nx-user: WHO\r\n",
        true,
    ),
    (
        "cache-control: max-age=60, no-cache=\"x-user\"\r\nx-user: WHO\r\n",
        true,
    ),
    (
        "cache-control: max-age=60, private=\"Set-Cookie\"\r\nset-cookie: s=WHO\r\n",
        true,
    ),
];

/// What only a response with a body says so.
const OF_A_200: [(&str, bool); 2] = [
    ("set-cookie: s=WHO\r\n", false),
    ("cache-control: max-age=0\r\nset-cookie: s=WHO\r\n", false),
];

/// And what only one that confirms a stored one does: the cookies are the first one's, the content is
/// for all.
const OF_A_304: [(&str, bool); 3] = [
    ("set-cookie: s=WHO\r\n", true),
    ("cache-control: max-age=60\r\nset-cookie: s=WHO\r\n", true),
    (
        "cache-control: max-age=60\r\nvary: x-who\r\nx-user: WHO\r\n",
        false,
    ),
];

#[tokio::test]
async fn who_waits_for_a_validation_gets_nothing_that_is_the_first_ones_own() -> Result<()> {
    for (fields, is_shared) in SAYINGS.into_iter().chain(OF_A_304) {
        let gate = Gate::default();
        let (origin, bobs) = personal("cache-control: max-age=0\r\n", fields, &gate).await?;
        let gateway = Gateway::start(&origin.route("")).await?;
        ask(&gateway, "nobody", &[]).await?;
        let alice = asking(&gateway, "alice", &[]);
        gate.reached().await?;
        let bob = asking(&gateway, "bob", &[]);
        sleep(UNTIL_IT_WAITS).await;
        gate.open();
        let (alice, bob) = timeout(PATIENCE, async { (alice.await, bob.await) }).await?;
        let (alice, bob) = (alice??, bob??);
        assert!(alice.contains("alice"), "{fields}: {alice}");
        assert!(!bob.contains("alice"), "{fields}: {bob}");
        assert!(bob.ends_with("body"), "{fields}: {bob}");
        let expected = usize::from(!is_shared);
        assert_eq!(bobs.load(Ordering::SeqCst), expected, "{fields}: {bob}");
        let later = ask(&gateway, "carol", &[]).await?;
        assert!(
            !later.contains("alice") && !later.contains("bob"),
            "{fields}: {later}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn who_waits_for_a_first_fetch_gets_nothing_that_is_the_first_ones_own() -> Result<()> {
    for (fields, is_shared) in SAYINGS.into_iter().chain(OF_A_200) {
        let gate = Gate::default();
        let (origin, bobs) = personal("", fields, &gate).await?;
        let gateway = Gateway::start(&origin.route("")).await?;
        let alice = asking(&gateway, "alice", &[]);
        gate.reached().await?;
        let bob = asking(&gateway, "bob", &[]);
        sleep(UNTIL_IT_WAITS).await;
        gate.open();
        let (alice, bob) = timeout(PATIENCE, async { (alice.await, bob.await) }).await?;
        let (alice, bob) = (alice??, bob??);
        assert!(alice.contains("alice"), "{fields}: {alice}");
        assert!(!bob.contains("alice"), "{fields}: {bob}");
        let expected = usize::from(!is_shared);
        assert_eq!(bobs.load(Ordering::SeqCst), expected, "{fields}: {bob}");
        let later = ask(&gateway, "carol", &[]).await?;
        assert!(!later.contains("alice"), "{fields}: {later}");
    }
    Ok(())
}

/// The same from node to node, by the lease.
#[tokio::test]
async fn nor_does_who_waits_in_another_node() -> Result<()> {
    let redis = Redis::start().await?;
    for (fields, is_shared) in SAYINGS {
        redis.cli(&["FLUSHALL"])?;
        let gate = Gate::default();
        let (origin, bobs) = personal("cache-control: max-age=0\r\n", fields, &gate).await?;
        let config = format!("{}{}", redis.section(), origin.route(""));
        let nodes = nodes(2, &config).await?;
        ask(&nodes[0], "nobody", &[]).await?;
        let alice = asking(&nodes[0], "alice", &[]);
        gate.reached().await?;
        let bob = asking(&nodes[1], "bob", &[]);
        sleep(UNTIL_IT_WAITS).await;
        gate.open();
        let (alice, bob) = timeout(PATIENCE, async { (alice.await, bob.await) }).await?;
        let (alice, bob) = (alice??, bob??);
        assert!(alice.contains("alice"), "{fields}: {alice}");
        assert!(!bob.contains("alice"), "{fields}: {bob}");
        let expected = usize::from(!is_shared);
        assert_eq!(bobs.load(Ordering::SeqCst), expected, "{fields}: {bob}");
        for node in &nodes {
            let later = ask(node, "carol", &[]).await?;
            assert!(!later.contains("alice"), "{fields}: {later}");
        }
    }
    Ok(())
}

/// Once it is known that there is nothing to share, those who waited do not wait for one another.
#[tokio::test]
async fn those_who_waited_in_vain_fetch_at_once_and_not_one_after_the_other() -> Result<()> {
    const MANY: usize = 10;
    let gate = Gate::default();
    let (leader, all) = (gate.clone(), watch::Sender::new(0_usize));
    let arrived = all.clone();
    let origin = Origin::start(move |head, mut stream| {
        let (leader, arrived) = (leader.clone(), arrived.clone());
        async move {
            if who(&head) == "alice" {
                leader.pass().await?;
            } else {
                // Nobody is answered before all are here.
                arrived.send_modify(|count| *count += 1);
                let mut count = arrived.subscribe();
                count.wait_for(|count| *count == MANY).await.ok()?;
            }
            let answer = ok("x", "cache-control: private\r\n");
            stream.write_all(answer.as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let alice = asking(&gateway, "alice", &[]);
    gate.reached().await?;
    let others: Vec<_> = (0..MANY).map(|_| asking(&gateway, "bob", &[])).collect();
    sleep(UNTIL_IT_WAITS).await;
    gate.open();
    alice.await??;
    for other in timeout(PATIENCE, try_join_all(others)).await?? {
        other?;
    }
    Ok(())
}

/// None of these may be answered with a fetch that began before they came, so they need not wait.
#[tokio::test]
async fn a_request_that_insists_or_cannot_be_led_does_not_wait() -> Result<()> {
    let cases: [&'static [(&str, &str)]; 6] = [
        &[("cache-control", "no-cache"), ("authorization", "Bearer b")],
        &[("cache-control", "no-store")],
        &[("pragma", "no-cache")],
        &[("range", "bytes=0-1")],
        &[("if-match", "\"v1\"")],
        // One without credentials does not wait for one with them, whose response may be hers alone.
        &[],
    ];
    for more in cases {
        let gate = Gate::default();
        let fields = "cache-control: max-age=60\r\nx-user: WHO\r\n";
        let (origin, bobs) = personal("", fields, &gate).await?;
        let gateway = Gateway::start(&origin.route("")).await?;
        let alice = asking(&gateway, "alice", &[("authorization", "Bearer alice")]);
        gate.reached().await?;
        let bob = timeout(PATIENCE, asking(&gateway, "bob", more)).await???;
        assert!(bob.contains("x-user: bob"), "{more:?}: {bob}");
        assert_eq!(bobs.load(Ordering::SeqCst), 1, "{more:?}");
        gate.open();
        let alice = alice.await??;
        assert!(alice.contains("x-user: alice"), "{more:?}: {alice}");
        assert!(alice.contains("detail=authenticated"), "{more:?}: {alice}");
        let carol = ask(&gateway, "carol", &[]).await?;
        assert!(!carol.contains("alice"), "{more:?}: {carol}");
    }
    Ok(())
}

/// A follower with credentials may have what a request without them brings: it is for all.
#[tokio::test]
async fn with_credentials_one_waits_for_what_is_for_all() -> Result<()> {
    let gate = Gate::default();
    let (origin, bobs) =
        personal("", "cache-control: max-age=60\r\nx-user: WHO\r\n", &gate).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let alice = asking(&gateway, "alice", &[]);
    gate.reached().await?;
    let bob = asking(
        &gateway,
        "bob",
        &[("authorization", "Bearer b"), ("cookie", "s=b")],
    );
    sleep(UNTIL_IT_WAITS).await;
    gate.open();
    alice.await??;
    let bob = bob.await??;
    assert!(
        bob.contains("x-user: alice") && bob.contains("collapsed"),
        "{bob}"
    );
    assert_eq!(bobs.load(Ordering::SeqCst), 0);
    Ok(())
}

/// What stands in for an error by the first one's directives is judged again by the others' own.
#[tokio::test]
async fn what_replaces_an_error_for_one_does_so_for_another_only_by_his_own_directives()
-> Result<()> {
    let gate = Gate::default();
    let (leader, bobs) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let asked_by_bob = Arc::clone(&bobs);
    let origin = Origin::start(move |head, mut stream| {
        let (leader, bobs) = (leader.clone(), Arc::clone(&asked_by_bob));
        async move {
            let answer = match who(&head).as_str() {
                "nobody" => ok("old", "cache-control: max-age=0\r\netag: \"v\"\r\n"),
                other => {
                    if other == "alice" {
                        leader.pass().await?;
                    } else {
                        bobs.fetch_add(1, Ordering::SeqCst);
                    }
                    "HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\nfail".to_owned()
                }
            };
            stream.write_all(answer.as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    ask(&gateway, "nobody", &[]).await?;
    let alice = asking(
        &gateway,
        "alice",
        &[("cache-control", "stale-if-error=600")],
    );
    gate.reached().await?;
    let bob = asking(&gateway, "bob", &[("cache-control", "stale-if-error=0")]);
    sleep(UNTIL_IT_WAITS).await;
    gate.open();
    assert!(alice.await??.ends_with("old"));
    assert!(bob.await??.ends_with("fail"));
    assert_eq!(bobs.load(Ordering::SeqCst), 1);
    Ok(())
}

/// What a request with credentials finds out holds for such requests alone.
#[tokio::test]
async fn one_request_with_credentials_keeps_nobody_from_waiting_for_another() -> Result<()> {
    let redis = Redis::start().await?;
    let credentials: [&'static [(&str, &str)]; 2] = [
        &[("authorization", "Bearer alice")],
        &[("cookie", "s=alice")],
    ];
    for more in credentials {
        redis.cli(&["FLUSHALL"])?;
        let origin = Origin::start(|head, mut stream| async move {
            let fields = match who(&head).as_str() {
                "alice" if header(&head, "cookie").is_some() => "cache-control: private\r\n",
                _ => "cache-control: max-age=60\r\n",
            };
            // Long enough for all to come while it goes on.
            sleep(Duration::from_millis(500)).await;
            stream.write_all(ok("x", fields).as_bytes()).await.ok()?;
            Some(stream)
        })
        .await?;
        let config = format!("{}{}", redis.section(), origin.route(""));
        let nodes = nodes(2, &config).await?;
        asking(&nodes[0], "alice", more).await??;
        assert_eq!(origin.requests(), 1);
        let others: Vec<_> = (0..20)
            .map(|at| asking(&nodes[at % 2], "bob", &[]))
            .collect();
        for other in timeout(PATIENCE, try_join_all(others)).await?? {
            other?;
        }
        assert_eq!(origin.requests(), 2, "{more:?}");
    }
    Ok(())
}

#[tokio::test]
async fn those_with_credentials_share_what_says_that_it_may_be_shared() -> Result<()> {
    let gate = Gate::default();
    let (origin, bobs) = personal("", "cache-control: public, max-age=60\r\n", &gate).await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let alice = asking(&gateway, "alice", &[("authorization", "Bearer alice")]);
    gate.reached().await?;
    let others: Vec<_> = (0..10)
        .map(|_| asking(&gateway, "bob", &[("authorization", "Bearer bob")]))
        .collect();
    sleep(UNTIL_IT_WAITS).await;
    gate.open();
    alice.await??;
    for other in timeout(PATIENCE, try_join_all(others)).await?? {
        other?;
    }
    assert_eq!(bobs.load(Ordering::SeqCst), 0);
    Ok(())
}

/// A fetch that takes longer than `collapse_timeout` is begun anew by one, and not by all.
#[tokio::test]
async fn one_takes_over_a_fetch_that_takes_too_long_and_the_others_wait_for_that_one() -> Result<()>
{
    let redis = Redis::start().await?;
    for count in [1, 2] {
        redis.cli(&["FLUSHALL"])?;
        let gate = Gate::default();
        let fields = "cache-control: max-age=60\r\nx-user: WHO\r\n";
        let (origin, bobs) = personal("", fields, &gate).await?;
        let config = format!(
            "{}[cache]\ncollapse_timeout = \"1s\"\n{}",
            redis.section(),
            origin.route("")
        );
        let nodes = nodes(count, &config).await?;
        let alice = asking(&nodes[0], "alice", &[]);
        gate.reached().await?;
        let others: Vec<_> = (0..20)
            .map(|at| asking(&nodes[at % count], "bob", &[]))
            .collect();
        for other in timeout(PATIENCE, try_join_all(others)).await?? {
            assert!(other?.contains("x-user: bob"));
        }
        let fetched = bobs.load(Ordering::SeqCst);
        // In each node the one that waits for the lease, and one of those who wait for it, may both
        // lose patience before the first of them is answered.
        let most = if count == 1 { 1 } else { 4 };
        assert!(
            (1..=most).contains(&fetched),
            "{fetched} fetches, {count} nodes"
        );
        gate.open();
        assert!(alice.await??.contains("x-user: alice"));
        eventually("what came last is served", async || {
            ask(&nodes[0], "carol", &[])
                .await
                .is_ok_and(|said| said.contains("hit"))
        })
        .await;
    }
    Ok(())
}
