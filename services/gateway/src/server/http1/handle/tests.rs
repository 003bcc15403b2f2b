use super::*;
use actix_http::Request;

fn request(shared: &Rc<Shared>, number: u64) -> Request {
    let request = Request::new();
    request.extensions_mut().insert(RequestConnection {
        shared: Rc::clone(shared),
        number,
    });
    request
}

fn sent(shared: &Shared) -> usize {
    let mut out = BytesMut::new();
    shared.take_interim(&mut out);
    out.len()
}

#[test]
fn interim_responses_are_bounded_and_only_the_open_requests() {
    let shared = Rc::new(Shared::new());
    let interim = Interim::of(&request(&shared, 1)).unwrap();
    interim.send(b"early");
    assert_eq!(sent(&shared), 0, "before it is open");
    shared.open(1);
    for _ in 0..2 * MAX_INTERIM {
        interim.send(b"head");
    }
    assert_eq!(sent(&shared), 4 * MAX_INTERIM);
    interim.send(&[b'x'; MAX_INTERIM_BYTES]);
    interim.send(b"one more");
    assert_eq!(sent(&shared), MAX_INTERIM_BYTES);
    interim.send(b"late");
    shared.open(2);
    assert_eq!(sent(&shared), 0, "what waited for the request before");
    interim.send(b"later");
    assert_eq!(sent(&shared), 0, "of the request before");
}

#[tokio::test]
async fn a_handler_learns_that_the_client_has_left() {
    let shared = Rc::new(Shared::new());
    let client = ClientGone::of(&request(&shared, 1)).unwrap();
    assert_eq!(client.state(), ClientState::Connected);
    let (left, ()) = tokio::join!(client.left(), async {
        shared.set_client(ClientState::HalfClosed);
    });
    assert_eq!(left, ClientState::HalfClosed);
    tokio::join!(client.gone(), async {
        shared.set_client(ClientState::Gone);
    });
    assert_eq!(client.left().await, ClientState::Gone);
}
