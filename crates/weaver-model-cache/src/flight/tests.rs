use super::*;

const KEY: Key = Key([1; 32]);

fn lead<H: Clone>(flights: &Flights<H>) -> Lead<H> {
    match flights.join(KEY) {
        Joined::Leads(lead) => lead,
        Joined::Follows(_) => panic!("somebody leads already"),
    }
}

fn follow<H: Clone>(flights: &Flights<H>) -> Follower<H> {
    match flights.join(KEY) {
        Joined::Leads(_) => panic!("nobody leads"),
        Joined::Follows(follower) => follower,
    }
}

async fn read<H>(mut body: Shared<H>) -> Result<Vec<u8>, Broken> {
    let mut all = Vec::new();
    while let Some(chunk) = body.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

#[tokio::test]
async fn followers_get_all_of_it_as_it_comes() {
    let flights = Flights::new(100, 1000);
    let mut lead = lead(&flights);
    let early = follow(&flights);
    lead.land("head");
    lead.push("one ".into()).await;
    let Landed::Shared(head, body) = follow(&flights).landed().await else {
        panic!("not shared")
    };
    assert_eq!(head, "head");
    lead.push("two".into()).await;
    assert_eq!(lead.whole().unwrap(), "one two");
    lead.finish();
    let Landed::Shared(_, other) = early.landed().await else {
        panic!("not shared")
    };
    assert_eq!(read(body).await.unwrap(), b"one two");
    assert_eq!(read(other).await.unwrap(), b"one two");
    assert_eq!(flights.inner.filling.load(Ordering::Relaxed), 0);
    assert!(matches!(flights.join(KEY), Joined::Leads(_)));
}

#[tokio::test]
async fn a_leader_that_goes_hands_over_or_leaves_a_broken_answer() {
    let flights = Flights::new(100, 1000);
    let gone = lead::<()>(&flights);
    let follower = follow(&flights);
    drop(gone);
    assert!(matches!(follower.landed().await, Landed::Abandoned));
    let mut half = lead(&flights);
    half.land(());
    half.push("half".into()).await;
    let Landed::Shared((), body) = follow(&flights).landed().await else {
        panic!("not shared")
    };
    drop(half);
    assert!(read(body).await.is_err());
    let mut own = lead(&flights);
    let follower = follow(&flights);
    own.alone();
    assert!(matches!(follower.landed().await, Landed::Alone));
}

#[tokio::test]
async fn what_outgrows_its_limits_is_for_those_who_read_it_already() {
    for (max_answer, max_filling) in [(5, 1000), (100, 5)] {
        let flights = Flights::new(max_answer, max_filling);
        let mut lead = lead(&flights);
        lead.land(());
        let Landed::Shared((), body) = follow(&flights).landed().await else {
            panic!("not shared")
        };
        let reading = tokio::spawn(read(body));
        assert!(lead.push("four".into()).await);
        assert!(lead.push(" more".into()).await);
        assert!(lead.whole().is_none());
        assert!(matches!(flights.join(KEY), Joined::Leads(_)));
        lead.finish();
        assert_eq!(reading.await.unwrap().unwrap(), b"four more");
        let mut unread = flights.alone();
        assert!(unread.push("four".into()).await);
        assert!(!unread.push("more".into()).await, "nobody reads it");
    }
}
