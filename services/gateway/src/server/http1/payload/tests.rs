use super::*;
use crate::server::http1::limits::MAX_PIECES;
use futures_util::{FutureExt as _, StreamExt as _};

/// What the reader has at once: text, "end", "failed", or "wait".
fn next(payload: &mut BoxedPayloadStream) -> String {
    match payload.next().now_or_never() {
        None => "wait".into(),
        Some(None) => "end".into(),
        Some(Some(Err(_))) => "failed".into(),
        Some(Some(Ok(piece))) => String::from_utf8_lossy(&piece).into_owned(),
    }
}

#[test]
fn a_body_comes_in_order_and_ends_or_fails() {
    let (feed, mut payload) = channel(None);
    assert!(!feed.is_polled());
    assert_eq!(next(&mut payload), "wait");
    assert!(feed.is_polled());
    feed.push("a".into());
    feed.push("b".into());
    feed.end();
    let found: Vec<_> = (0..4).map(|_| next(&mut payload)).collect();
    assert_eq!(found, ["a", "b", "end", "end"]);
    let (feed, mut payload) = channel(None);
    feed.push("a".into());
    drop(feed);
    let found: Vec<_> = (0..3).map(|_| next(&mut payload)).collect();
    assert_eq!(found, ["a", "failed", "end"]);
}

#[test]
fn what_asks_to_upgrade_without_a_body_waits_for_the_answer() {
    let (feed, mut payload) = channel(Some(false));
    feed.end();
    assert_eq!(next(&mut payload), "wait");
    feed.switch();
    feed.push("raw".into());
    assert_eq!(next(&mut payload), "raw");
    assert_eq!(next(&mut payload), "wait");
    feed.end();
    assert_eq!(next(&mut payload), "end");
    let (feed, mut payload) = channel(Some(false));
    feed.end();
    feed.refuse_switch();
    assert_eq!(next(&mut payload), "end");
}

#[test]
fn what_asks_to_upgrade_with_a_body_has_the_body_first() {
    let (feed, mut payload) = channel(Some(true));
    feed.push("body".into());
    feed.end();
    let found: Vec<_> = (0..3).map(|_| next(&mut payload)).collect();
    assert_eq!(found, ["body", "end", "wait"]);
    feed.switch();
    feed.push("raw".into());
    assert_eq!(next(&mut payload), "raw");
}

#[test]
fn what_waits_is_bounded_in_bytes_and_in_number() {
    let (feed, mut payload) = channel(None);
    for _ in 0..MAX_PIECES {
        assert!(feed.has_room());
        feed.push("x".into());
    }
    assert!(!feed.has_room());
    next(&mut payload);
    assert!(feed.has_room());
    feed.push(vec![0; MAX_BODY_AHEAD].into());
    assert!(!feed.has_room());
    drop(payload);
    assert!(feed.is_dropped() && !feed.has_room() && feed.waiting() == 0);
}
