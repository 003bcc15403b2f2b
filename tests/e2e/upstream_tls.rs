//! Upstreams by TLS: private authorities, client certificates, and the name that is asked for.

use crate::{client, eventually};
use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::path::{Path, PathBuf};
use weaver_tests::{Gateway, NameServer, Nginx, free_port, scratch};

/// An authority, and the directory that everything it makes is in.
struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Result<Self> {
        let directory = scratch("authority");
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        std::fs::write(directory.join("ca.crt"), params.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(params, key);
        Ok(Self { directory, issuer })
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Writes `name.crt` and `name.key`, for these host names.
    fn issue(&self, name: &str, hosts: &[&str]) -> Result<()> {
        let key = KeyPair::generate()?;
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer)?;
        std::fs::write(self.path(&format!("{name}.crt")), certificate.pem())?;
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem())?;
        Ok(())
    }
}

/// A server that asks for a client certificate, and says whose it was and which name was asked for.
async fn server(authority: &Authority, port: u16) -> Result<Nginx> {
    let (ca, cert, key) = (
        authority.path("ca.crt"),
        authority.path("server.crt"),
        authority.path("server.key"),
    );
    let directives = format!(
        "listen 127.0.0.1:{port} ssl; ssl_certificate {cert}; ssl_certificate_key {key};\n\
         ssl_client_certificate {ca}; ssl_verify_client optional;\n\
         location / {{ return 200 \"$ssl_client_s_dn $ssl_server_name $http_host $request_uri\"; }}"
    );
    Nginx::start(&directives).await
}

async fn text(gateway: &Gateway) -> Result<(u16, String)> {
    let answer = client()
        .get(gateway.url("/"))
        .header("host", "outer")
        .send()
        .await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

#[tokio::test]
async fn an_upstream_of_a_private_authority_is_trusted_and_shown_a_certificate() -> Result<()> {
    let authority = Authority::new()?;
    authority.issue("server", &["inner.test"])?;
    authority.issue("gateway", &[])?;
    authority.issue("other", &[])?;
    let port = free_port();
    let _server = server(&authority, port).await?;
    let names = NameServer::start(&["127.0.0.1".parse().context("an address")?]).await?;
    let dns = format!("dns = [\"{}\"]", names.address());
    let (ca, cert, key) = (
        authority.path("ca.crt"),
        authority.path("gateway.crt"),
        authority.path("gateway.key"),
    );
    let shared = format!("[upstream_tls]\nca = \"{ca}\"\ncert = \"{cert}\"\nkey = \"{key}\"\n");
    let route = |host: &str, keys: &str| {
        format!(
            "[[routes]]\npath = \"/\"\ncache = \"off\"\nupstreams = [\"https://{host}:{port}\"]\n{keys}\n"
        )
    };
    let own = format!(
        "tls = {{ cert = \"{}\", key = \"{}\" }}",
        authority.path("other.crt"),
        authority.path("other.key")
    );
    let named = "tls = { server_name = \"inner.test\" }";
    for (config, expected) in [
        (
            shared.clone() + &route("inner.test", ""),
            "CN=gateway inner.test outer /",
        ),
        (
            shared.clone() + &route("inner.test", &own),
            "CN=other inner.test outer /",
        ),
        (
            shared.clone() + &route("127.0.0.1", named),
            "CN=gateway inner.test outer /",
        ),
    ] {
        let gateway = Gateway::start_with(&config, &dns, &[], None).await?;
        assert_eq!(
            text(&gateway).await?,
            (200, expected.to_owned()),
            "{config}"
        );
        // The same once the name's address is known and stands before it.
        if config.contains("https://inner.test") {
            eventually("the address is known", async || {
                gateway.process().output().contains("has these addresses")
            })
            .await;
            assert_eq!(text(&gateway).await?, (200, expected.to_owned()));
        }
    }
    for config in [
        // Another name than the certificate's, and an authority that nobody knows.
        shared.clone() + &route("127.0.0.1", ""),
        route("inner.test", ""),
    ] {
        let gateway = Gateway::start_with(&config, &dns, &[], None).await?;
        assert_eq!(text(&gateway).await?.0, 502, "{config}");
    }
    Ok(())
}

#[tokio::test]
async fn files_of_tls_that_cannot_be_used_are_faults_with_their_key() -> Result<()> {
    let authority = Authority::new()?;
    authority.issue("gateway", &[])?;
    authority.issue("other", &[])?;
    let empty = authority.path("empty.crt");
    std::fs::write(&empty, "")?;
    let (cert, key) = (authority.path("gateway.crt"), authority.path("other.key"));
    let route = "[[routes]]\npath = \"/\"\nupstreams = [\"https://h\"]\n";
    for (config, fault) in [
        (
            "[upstream_tls]\nca = \"/none.crt\"\n".to_owned(),
            "upstream_tls.ca: /none.crt",
        ),
        (
            format!("[upstream_tls]\nca = \"{empty}\"\n"),
            "no certificate in it",
        ),
        (
            format!("[upstream_tls]\ncert = \"{cert}\"\n"),
            "upstream_tls.cert: needs `key`",
        ),
        (
            format!("{route}tls = {{ cert = \"{cert}\", key = \"{key}\" }}\n"),
            "routes[0].tls.cert: ",
        ),
        (
            format!("{route}tls = {{ server_name = \"a b\" }}\n"),
            "routes[0].tls.server_name: ",
        ),
    ] {
        let file = scratch("check").join("weaver.toml");
        std::fs::write(&file, &config)?;
        let said = check(&file).await?;
        assert!(said.contains(fault), "{config}: {said}");
    }
    Ok(())
}

async fn check(file: &Path) -> Result<String> {
    let mut command = tokio::process::Command::new(Gateway::program()?);
    let output = command
        .arg("check")
        .arg("--config")
        .arg(file)
        .output()
        .await?;
    Ok(String::from_utf8([output.stdout, output.stderr].concat())?)
}
