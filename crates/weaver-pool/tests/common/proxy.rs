//! A way to a server that breaks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::sleep,
};

/// A proxy that passes bytes on as fast, and for as long, as it is told.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    terms: Arc<Terms>,
    cuts: watch::Sender<()>,
}

struct Terms {
    /// Before each piece, in microseconds.
    delay: AtomicU64,
    /// The largest piece, in bytes.
    piece: AtomicUsize,
}

impl Proxy {
    pub(crate) async fn start(to: u16) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        let terms = Arc::new(Terms {
            delay: AtomicU64::new(0),
            piece: AtomicUsize::new(usize::MAX),
        });
        let cuts = watch::Sender::new(());
        let (shared, events) = (Arc::clone(&terms), cuts.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (terms, mut cut) = (Arc::clone(&shared), events.subscribe());
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else {
                        return;
                    };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        _ = cut.changed() => {}
                        () = pump(from_client, to_server, &terms) => {}
                        () = pump(from_server, to_client, &terms) => {}
                    }
                });
            }
        });
        Self { port, terms, cuts }
    }

    /// Ends every connection.
    pub(crate) fn cut(&self) {
        self.cuts.send_replace(());
    }

    /// For that long, waits before each piece of at most so many bytes.
    pub(crate) async fn during(&self, delay: Duration, piece: usize, length: Duration) {
        let micros = u64::try_from(delay.as_micros()).unwrap();
        self.terms.piece.store(piece, Ordering::Relaxed);
        self.terms.delay.store(micros, Ordering::Relaxed);
        sleep(length).await;
        self.terms.delay.store(0, Ordering::Relaxed);
        self.terms.piece.store(usize::MAX, Ordering::Relaxed);
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, terms: &Terms) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let most = terms.piece.load(Ordering::Relaxed).min(buffer.len());
        let Ok(count @ 1..) = from.read(&mut buffer[..most]).await else {
            return;
        };
        let delay = terms.delay.load(Ordering::Relaxed);
        if delay > 0 {
            sleep(Duration::from_micros(delay)).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
