//! `[upstream_tls]`, and the `tls` of a route or of models: whom to trust, and who we are.

use super::Section;
use hyper_rustls::ConfigBuilderExt as _;
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

/// How upstreams are spoken to by TLS.
#[derive(Clone)]
pub struct UpstreamTls {
    client: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl UpstreamTls {
    /// Certificates to trust and to show.
    #[must_use]
    pub fn client(&self) -> &Arc<ClientConfig> {
        &self.client
    }

    /// The name that an upstream's certificate must carry, if it is not that of its URL.
    #[must_use]
    pub fn server_name(&self) -> Option<&ServerName<'static>> {
        self.server_name.as_ref()
    }
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

/// `[upstream_tls]`
pub(super) struct Shared {
    files: Files,
    tls: UpstreamTls,
}

impl Shared {
    pub(super) fn ca(&self) -> Option<&Path> {
        self.files.ca.as_deref()
    }

    pub(super) fn tls(&self) -> UpstreamTls {
        self.tls.clone()
    }
}

#[derive(Clone, Debug, Default)]
struct Files {
    ca: Option<PathBuf>,
    /// Certificate chain and key.
    identity: Option<(PathBuf, PathBuf)>,
}

/// Which key of a section is wrong, and how.
type Fault = (&'static str, String);

pub(super) fn shared(mut section: Section<'_>) -> Shared {
    let files = files(&mut section);
    let tls = UpstreamTls {
        client: client(&files).unwrap_or_else(|(key, what)| {
            section.fault(key, &what);
            Arc::clone(&PLATFORM)
        }),
        server_name: None,
    };
    section.finish();
    Shared { files, tls }
}

/// The `tls` of a route or of models: what it does not say is that of `[upstream_tls]`.
pub(super) fn of(section: &mut Section<'_>, shared: &Shared) -> UpstreamTls {
    if !section.has("tls") {
        return shared.tls();
    }
    let mut section = section.section("tls");
    let own = files(&mut section);
    let server_name = section.parsed("server_name", |text| {
        ServerName::try_from(text.to_owned())
            .map_err(|_| format!("{text:?} is neither a name nor an address"))
    });
    let client = if own.ca.is_none() && own.identity.is_none() {
        Arc::clone(&shared.tls.client)
    } else {
        let files = Files {
            ca: own.ca.or_else(|| shared.files.ca.clone()),
            identity: own.identity.or_else(|| shared.files.identity.clone()),
        };
        client(&files).unwrap_or_else(|(key, what)| {
            section.fault(key, &what);
            Arc::clone(&PLATFORM)
        })
    };
    section.finish();
    UpstreamTls {
        client,
        server_name,
    }
}

fn files(section: &mut Section<'_>) -> Files {
    let ca = section.text("ca").map(PathBuf::from);
    let (cert, key) = (section.text("cert"), section.text("key"));
    if cert.is_some() != key.is_some() {
        let (given, missing) = if cert.is_some() {
            ("cert", "key")
        } else {
            ("key", "cert")
        };
        section.fault(given, &format!("needs `{missing}` beside it"));
    }
    let identity = cert.zip(key);
    Files {
        ca,
        identity: identity.map(|(cert, key)| (cert.into(), key.into())),
    }
}

/// Where nothing is configured. Reading the platform's certificates takes a while.
static PLATFORM: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let trusted = match roots(None) {
        Ok(Some(roots)) => builder().with_root_certificates(roots),
        // An image without certificates still has those of the build.
        _ => builder().with_webpki_roots(),
    };
    Arc::new(trusted.with_no_client_auth())
});

fn client(files: &Files) -> Result<Arc<ClientConfig>, Fault> {
    if files.ca.is_none() && files.identity.is_none() {
        return Ok(Arc::clone(&PLATFORM));
    }
    client_with(files)
}

fn builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    // This provider has all of the default versions.
    builder
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|_| ClientConfig::builder())
}

fn client_with(files: &Files) -> Result<Arc<ClientConfig>, Fault> {
    let builder = match roots(files.ca.as_deref())? {
        Some(roots) => builder().with_root_certificates(roots),
        None => builder().with_webpki_roots(),
    };
    let config = match &files.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert).map_err(|what| ("cert", what))?;
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| ("key", format!("{}: {error}", key.display())))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| ("cert", format!("{}: {error}", cert.display())))?
        }
    };
    Ok(Arc::new(config))
}

/// The authorities of a file, or else the platform's; `None` where it has none.
fn roots(ca: Option<&Path>) -> Result<Option<RootCertStore>, Fault> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        for certificate in certificates(path).map_err(|what| ("ca", what))? {
            roots
                .add(certificate)
                .map_err(|error| ("ca", format!("{}: {error}", path.display())))?;
        }
        return Ok(Some(roots));
    }
    // One that cannot be read is no reason to trust none of the others.
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    Ok((added > 0).then_some(roots))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(&error))?;
    if certificates.is_empty() {
        return Err(unreadable(&"no certificate in it"));
    }
    Ok(certificates)
}
