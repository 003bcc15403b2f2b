use super::*;
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
fn a_leader_that_goes_leaves_a_broken_body_and_not_a_clean_end() {
    let flights = Flights::new();
    let Joined::Leads(lead) = flights.join(b"k", Position::default()) else {
        panic!("first leads")
    };
    let Joined::Follows(flight) = flights.join(b"k", Position::default()) else {
        panic!("second follows")
    };
    lead.flight.body().push(Bytes::from_static(b"half"));
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
fn a_budget_is_given_back() {
    let budget = Budget::new(10);
    let mut one = budget.reserve();
    assert!(one.grow(6));
    let mut two = budget.reserve();
    assert!(!two.grow(6));
    drop(one);
    assert!(two.grow(6));
}
