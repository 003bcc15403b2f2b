use super::*;
use proptest::prelude::*;
use std::future::Future;

fn poll(reader: &mut Reader) -> Poll<Option<Result<Bytes, Broken>>> {
    reader.poll_chunk(&mut Context::from_waker(Waker::noop()))
}

fn read(reader: &mut Reader) -> Bytes {
    match poll(reader) {
        Poll::Ready(Some(Ok(chunk))) => chunk,
        other => panic!("no chunk: {other:?}"),
    }
}

#[test]
fn a_reader_that_comes_late_begins_at_the_beginning() {
    let relay = Relay::new();
    relay.push(Bytes::from_static(b"one"));
    let mut reader = relay.reader().unwrap();
    assert_eq!(read(&mut reader), "one");
    assert!(poll(&mut reader).is_pending());
    relay.push(Bytes::from_static(b"two"));
    assert_eq!(read(&mut reader), "two");
    relay.end(Ok(()));
    relay.end(Err(Broken));
    assert!(matches!(poll(&mut reader), Poll::Ready(None)));
    assert_eq!(relay.whole(), "onetwo");
}

#[test]
fn a_broken_body_has_no_clean_end() {
    let relay = Relay::new();
    let mut reader = relay.reader().unwrap();
    relay.push(Bytes::from_static(b"half"));
    relay.end(Err(Broken));
    assert_eq!(read(&mut reader), "half");
    assert!(matches!(poll(&mut reader), Poll::Ready(Some(Err(Broken)))));
}

#[test]
fn a_window_keeps_only_what_its_slowest_reader_needs() {
    let relay = Relay::new();
    let chunk = Bytes::from(vec![0; 512 << 10]);
    let (mut fast, slow) = (relay.reader().unwrap(), relay.reader().unwrap());
    relay.stop_keeping();
    relay.push(chunk.clone());
    relay.push(chunk);
    read(&mut fast);
    let mut room = Box::pin(relay.room());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(room.as_mut().poll(&mut cx).is_pending());
    drop(slow);
    assert_eq!(room.as_mut().poll(&mut cx), Poll::Ready(true));
    assert!(relay.reader().is_none(), "the beginning is gone");
    drop(fast);
    let nobody = Box::pin(relay.room()).as_mut().poll(&mut cx);
    assert_eq!(nobody, Poll::Ready(false));
}

#[test]
fn a_stalled_reader_is_cut_off_with_an_error() {
    let relay = Relay::new();
    let mut stalled = relay.reader().unwrap();
    relay.stop_keeping();
    relay.push(Bytes::from_static(b"x"));
    relay.cut_off_stalled();
    assert!(matches!(poll(&mut stalled), Poll::Ready(Some(Err(Broken)))));
}

proptest! {
    /// Whatever the order of pushes, reads and the turn to a window, every reader gets every byte in
    /// order.
    #[test]
    fn every_reader_gets_everything(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..20),
        reads in prop::collection::vec(0..3_usize, 0..60),
        window_at in 0..30_usize,
    ) {
        let relay = Relay::new();
        let mut readers: Vec<_> = (0..3).map(|_| relay.reader().unwrap()).collect();
        let mut got = vec![Vec::new(); 3];
        for (at, chunk) in chunks.iter().enumerate() {
            if at == window_at {
                relay.stop_keeping();
            }
            relay.push(chunk.clone().into());
            if let Some(&who) = reads.get(at)
                && let Poll::Ready(Some(Ok(read))) = poll(&mut readers[who])
            {
                got[who].extend_from_slice(&read);
            }
        }
        relay.end(Ok(()));
        for (who, reader) in readers.iter_mut().enumerate() {
            while let Poll::Ready(Some(Ok(read))) = poll(reader) {
                got[who].extend_from_slice(&read);
            }
            prop_assert_eq!(&got[who], &chunks.concat());
        }
    }
}
