use anyhow::Result;
use parking_lot::Mutex;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::{net::UdpSocket, task::JoinHandle};

/// A name server that has the same addresses for every name.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    records: Arc<Mutex<Vec<IpAddr>>>,
    task: JoinHandle<()>,
}

impl NameServer {
    /// Starts one; its answers hold for a second.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    pub async fn start(addresses: &[IpAddr]) -> Result<Self> {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).await?;
        let address = socket.local_addr()?;
        let records = Arc::new(Mutex::new(addresses.to_vec()));
        let current = Arc::clone(&records);
        let task = tokio::spawn(async move {
            let mut query = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut query).await {
                let records = current.lock().clone();
                let answer = query
                    .get(..length)
                    .and_then(|query| answer(query, &records));
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, client).await;
                }
            }
        });
        Ok(Self {
            address,
            records,
            task,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gives it other addresses.
    pub fn set(&self, addresses: &[IpAddr]) {
        *self.records.lock() = addresses.to_vec();
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The records of the kind that is asked for (RFC 1035 §4).
fn answer(query: &[u8], addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let name = query.get(12..)?.iter().position(|byte| *byte == 0)?;
    let question = query.get(12..12 + name + 5)?;
    let is_aaaa = match question.get(name + 1..name + 3)? {
        [0, 1] => false,
        [0, 28] => true,
        _ => return None,
    };
    let found: Vec<Vec<u8>> = addresses
        .iter()
        .filter(|address| address.is_ipv6() == is_aaaa)
        .map(|address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        })
        .collect();
    let count = u8::try_from(found.len()).ok()?;
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend(question);
    for data in found {
        let (kind, length) = (if is_aaaa { 28 } else { 1 }, u8::try_from(data.len()).ok()?);
        // The name is that of the question; class IN; one second.
        answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 1, 0, length]);
        answer.extend(data);
    }
    Some(answer)
}
