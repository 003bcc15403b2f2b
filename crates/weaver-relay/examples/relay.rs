//! One writes, two read, one of them late. `cargo run -p weaver-relay --example relay`

use std::time::Duration;
use weaver_relay::{Reader, Relay};

async fn read(name: &str, mut reader: Reader) {
    while let Some(chunk) = reader.next().await {
        println!("{name}: {chunk:?}");
    }
    println!("{name}: the end");
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let relay = Relay::new();
    let Some(early) = relay.reader() else { return };
    let write = async {
        for word in ["one", "two", "three"] {
            relay.push(word.into());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        relay.end(Ok(()));
    };
    let late = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        if let Some(late) = relay.reader() {
            read("late ", late).await;
        }
    };
    tokio::join!(write, read("early", early), late);
}
