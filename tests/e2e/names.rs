//! Upstreams that are configured by a name.

use crate::{client, eventually, ok};
use anyhow::Result;
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};
use weaver_tests::{Gateway, NameServer, free_port};

/// What listens on one address of the name; it answers with the Host that it was sent.
struct Replica {
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Replica {
    async fn start(address: IpAddr, port: u16) -> Result<Self> {
        let listener = TcpListener::bind((address, port)).await?;
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while let Ok(byte) = stream.read_u8().await {
                        head.push(byte);
                        if !head.ends_with(b"\r\n\r\n") {
                            continue;
                        }
                        count.fetch_add(1, Ordering::SeqCst);
                        let text = String::from_utf8_lossy(&head).to_lowercase();
                        let host = text.lines().find_map(|line| line.strip_prefix("host: "));
                        let answer = ok(host.unwrap_or(""), "");
                        head.clear();
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Ok(Self { requests, task })
    }

    fn take(&self) -> usize {
        self.requests.swap(0, Ordering::SeqCst)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn ask(gateway: &Gateway, times: usize) -> Result<()> {
    for _ in 0..times {
        let answer = client()
            .get(gateway.url("/"))
            .header("host", "outer.test")
            .send()
            .await?;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await?, "outer.test");
    }
    Ok(())
}

#[tokio::test]
async fn all_addresses_of_a_name_share_the_requests_and_are_resolved_anew() -> Result<()> {
    let [one, two, three, deaf]: [IpAddr; 4] = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "::1"]
        .map(|text| text.parse().expect("an address"));
    let port = free_port();
    let replicas = [
        Replica::start(one, port).await?,
        Replica::start(two, port).await?,
        Replica::start(three, port).await?,
    ];
    // Nobody listens on the address of its AAAA record.
    let names = NameServer::start(&[one, two, deaf]).await?;
    let server = format!("dns = [\"{}\"]", names.address());
    let route = format!(
        "[[routes]]\npath = \"/\"\ncache = \"off\"\nretries = 0\nupstreams = [\"http://replicas.test:{port}\"]\n"
    );
    let gateway = Gateway::start_with(&route, &server, &[], None).await?;
    eventually("both addresses are known", async || {
        ask(&gateway, 4).await.is_ok()
            && replicas.iter().map(Replica::take).collect::<Vec<_>>() == [2, 2, 0]
    })
    .await;
    ask(&gateway, 20).await?;
    assert_eq!((replicas[0].take(), replicas[1].take()), (10, 10));

    names.set(&[two, three]);
    eventually("the new address is known", async || {
        ask(&gateway, 4).await.is_ok()
            && replicas.iter().map(Replica::take).collect::<Vec<_>>() == [0, 2, 2]
    })
    .await;

    // A name that cannot be resolved any more keeps what it had.
    names.set(&[]);
    eventually("the failure is told", async || {
        let output = gateway.process().output();
        output.contains("an upstream's name cannot be resolved")
    })
    .await;
    ask(&gateway, 4).await?;
    assert_eq!(replicas.iter().map(Replica::take).sum::<usize>(), 4);
    Ok(())
}
