use super::*;
use std::future::Future;
use std::task::Waker;

fn poll(reader: &mut Reader) -> Poll<Option<Result<Bytes, Broken>>> {
    Pin::new(reader).poll_next(&mut Context::from_waker(Waker::noop()))
}

fn read(reader: &mut Reader) -> Bytes {
    match poll(reader) {
        Poll::Ready(Some(Ok(chunk))) => chunk,
        other => panic!("no chunk: {other:?}"),
    }
}

#[test]
fn a_reader_that_comes_late_begins_at_the_beginning() {
    let lead = Lead::solo();
    lead.flight.push(Bytes::from_static(b"one"));
    let mut reader = lead.flight.reader(None).unwrap();
    assert_eq!(read(&mut reader), "one");
    assert!(poll(&mut reader).is_pending());
    lead.flight.push(Bytes::from_static(b"two"));
    assert_eq!(read(&mut reader), "two");
    lead.flight.end(Ok(()));
    assert!(matches!(poll(&mut reader), Poll::Ready(None)));
    assert_eq!(lead.flight.whole(), "onetwo");
}

#[test]
fn a_leader_that_goes_leaves_a_broken_body_and_not_a_clean_end() {
    let flights = Flights::new();
    let Joined::Leads(lead) = flights.join(b"k", Position::default()) else {
        panic!("first leads")
    };
    let Joined::Follows(flight) = flights.join(b"k", Position::default()) else {
        panic!("second follows")
    };
    lead.flight.push(Bytes::from_static(b"half"));
    let mut reader = flight.reader(None).unwrap();
    drop(lead);
    assert!(flight.has_landed());
    assert_eq!(read(&mut reader), "half");
    assert!(matches!(poll(&mut reader), Poll::Ready(Some(Err(Broken)))));
    assert!(matches!(
        flights.join(b"k", Position::default()),
        Joined::Leads(_)
    ));
}

#[test]
fn a_window_keeps_only_what_its_slowest_reader_needs() {
    let lead = Lead::solo();
    let chunk = Bytes::from(vec![0; 512 << 10]);
    let (mut fast, slow) = (
        lead.flight.reader(None).unwrap(),
        lead.flight.reader(None).unwrap(),
    );
    lead.flight.stop_keeping();
    lead.flight.push(chunk.clone());
    lead.flight.push(chunk.clone());
    read(&mut fast);
    let mut room = Box::pin(lead.flight.room());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(room.as_mut().poll(&mut cx).is_pending());
    drop(slow);
    assert_eq!(room.as_mut().poll(&mut cx), Poll::Ready(true));
    assert!(lead.flight.reader(None).is_none(), "the beginning is gone");
    drop(fast);
    assert_eq!(
        Box::pin(lead.flight.room()).as_mut().poll(&mut cx),
        Poll::Ready(false)
    );
}

#[test]
fn a_stalled_reader_is_cut_off_with_an_error() {
    let lead = Lead::solo();
    let mut stalled = lead.flight.reader(None).unwrap();
    lead.flight.stop_keeping();
    lead.flight.push(Bytes::from_static(b"x"));
    lead.flight.cut_off_stalled();
    assert!(matches!(poll(&mut stalled), Poll::Ready(Some(Err(Broken)))));
}

#[test]
fn a_budget_is_given_back() {
    let budget = Budget::new(10);
    let mut one = budget.reserve();
    assert!(one.grow(6));
    let mut two = budget.reserve();
    assert!(!two.grow(6));
    drop(one);
    assert!(two.grow(6));
}
