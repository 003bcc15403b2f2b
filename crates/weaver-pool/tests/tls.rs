//! TLS, with certificates of the test's own and a redis-server that asks for them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use common::{Cluster, Redis};
use fred::interfaces::{ClientLike, KeysInterface};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use weaver_pool::{PoolError, RedisPool, RedisPoolConfig, TlsConfig};

/// An authority, and the directory that everything it makes is in.
struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.crt"), certificate.pem()).unwrap();
        Self {
            directory,
            issuer: Issuer::new(params, key),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A certificate and its key for those names, which ends in that year.
    fn issue(&self, name: &str, names: &[SanType], year: i32) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names.to_vec();
        // Not the authority's own name, or it looks like one.
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let paths = (
            self.path(&format!("{name}.crt")),
            self.path(&format!("{name}.key")),
        );
        std::fs::write(&paths.0, certificate.pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }
}

const LATER: i32 = 2100;

fn local() -> Vec<SanType> {
    vec![
        SanType::IpAddress([127, 0, 0, 1].into()),
        SanType::DnsName("redis.internal".try_into().unwrap()),
    ]
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A server that speaks TLS on a second port.
async fn serve(
    authority: &Authority,
    identity: &(PathBuf, PathBuf),
    asks_clients: bool,
) -> (Redis, u16) {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let ca = authority.path("ca.crt");
    let redis = Redis::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        text(&identity.0),
        "--tls-key-file",
        text(&identity.1),
        "--tls-ca-cert-file",
        text(&ca),
        "--tls-auth-clients",
        if asks_clients { "yes" } else { "no" },
    ])
    .await;
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (redis, port)
}

fn config(port: u16, tls: TlsConfig) -> RedisPoolConfig {
    RedisPoolConfig {
        tls: Some(tls),
        socket_connect_timeout: Duration::from_secs(1),
        ..common::config(port)
    }
}

async fn works(config: RedisPoolConfig) -> Result<(), PoolError> {
    let pool = RedisPool::connect(config).await?;
    let set = |client: fred::clients::Client| async move {
        client.set::<(), _, _>("k", "v", None, None, false).await?;
        client.get::<String, _>("k").await
    };
    assert_eq!(pool.execute(set).await?, "v");
    pool.close().await;
    Ok(())
}

/// It is refused in time, and the reason is in the message.
async fn refused(config: RedisPoolConfig, reason: &str) {
    let since = Instant::now();
    let message = works(config).await.unwrap_err().to_string();
    assert!(since.elapsed() < Duration::from_secs(3));
    assert!(
        message.to_lowercase().contains(&reason.to_lowercase()),
        "{message:?} does not say {reason:?}"
    );
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_and_no_other() {
    let authority = Authority::new();
    let identity = authority.issue("server", &local(), LATER);
    let (_redis, port) = serve(&authority, &identity, false).await;
    let ours = TlsConfig {
        ca: Some(authority.path("ca.crt")),
        ..TlsConfig::default()
    };
    works(config(port, ours.clone())).await.unwrap();
    let other = Authority::new();
    let theirs = TlsConfig {
        ca: Some(other.path("ca.crt")),
        ..TlsConfig::default()
    };
    refused(config(port, theirs), "certificate").await;
    // The platform's authorities do not know it either.
    refused(config(port, TlsConfig::default()), "certificate").await;
    // The name may be another than that of the host, if one says so.
    let named = |name: &str| TlsConfig {
        server_name: Some(name.to_owned()),
        ..ours.clone()
    };
    works(config(port, named("redis.internal"))).await.unwrap();
    refused(config(port, named("elsewhere.internal")), "name").await;
}

#[tokio::test]
async fn a_wrong_name_and_an_expired_certificate_are_refused() {
    let authority = Authority::new();
    let ours = TlsConfig {
        ca: Some(authority.path("ca.crt")),
        ..TlsConfig::default()
    };
    let elsewhere = [SanType::DnsName("elsewhere".try_into().unwrap())];
    let identity = authority.issue("elsewhere", &elsewhere, LATER);
    let (_redis, port) = serve(&authority, &identity, false).await;
    refused(config(port, ours.clone()), "name").await;
    let identity = authority.issue("expired", &local(), 2021);
    let (_redis, port) = serve(&authority, &identity, false).await;
    refused(config(port, ours), "expired").await;
}

#[tokio::test]
async fn a_client_shows_its_certificate_where_it_is_asked() {
    let authority = Authority::new();
    let identity = authority.issue("server", &local(), LATER);
    let (_redis, port) = serve(&authority, &identity, true).await;
    let without = TlsConfig {
        ca: Some(authority.path("ca.crt")),
        ..TlsConfig::default()
    };
    refused(config(port, without.clone()), "").await;
    let with = TlsConfig {
        identity: Some(authority.issue("client", &[], LATER)),
        ..without.clone()
    };
    works(config(port, with)).await.unwrap();
    let expired = TlsConfig {
        identity: Some(authority.issue("old", &[], 2021)),
        ..without
    };
    refused(config(port, expired), "").await;
}

#[tokio::test]
async fn files_that_cannot_be_read_are_named() {
    let authority = Authority::new();
    let wrong = |tls: TlsConfig| match RedisPool::connect_in_background(config(1, tls)) {
        Err(PoolError::Config(message)) => message,
        other => panic!("{other:?}"),
    };
    let missing = TlsConfig {
        ca: Some(authority.path("none.crt")),
        ..TlsConfig::default()
    };
    assert!(wrong(missing).contains("none.crt"));
    std::fs::write(authority.path("empty.crt"), "nothing").unwrap();
    let empty = TlsConfig {
        ca: Some(authority.path("empty.crt")),
        ..TlsConfig::default()
    };
    assert!(wrong(empty).contains("no certificate"));
    let (certificate, _) = authority.issue("client", &[], LATER);
    let (_, other_key) = authority.issue("other", &[], LATER);
    let mixed = TlsConfig {
        ca: Some(authority.path("ca.crt")),
        identity: Some((certificate, other_key)),
        server_name: None,
    };
    assert!(wrong(mixed).contains("client.crt"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_may_speak_tls() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("server", &local(), LATER);
    let ca = authority.path("ca.crt");
    let cluster = Cluster::start_with_tls(text(&ca), text(&certificate), text(&key)).await;
    let pool = RedisPool::connect(RedisPoolConfig {
        tls: Some(TlsConfig {
            ca: Some(ca.clone()),
            ..TlsConfig::default()
        }),
        ..cluster.config()
    })
    .await
    .unwrap();
    for at in 0..30 {
        let key = format!("key:{at}");
        let to = key.clone();
        let set = |client: fred::clients::Client| async move {
            client.set::<(), _, _>(to, "v", None, None, false).await
        };
        pool.command("SET")
            .key(key.as_bytes())
            .run(set)
            .await
            .unwrap();
    }
    assert_eq!(pool.stats().nodes.len(), 3);
    let ping = |client: fred::clients::Client| async move { client.ping::<String>(None).await };
    assert_eq!(pool.execute(ping).await.unwrap(), "PONG");
    pool.close().await;
}
