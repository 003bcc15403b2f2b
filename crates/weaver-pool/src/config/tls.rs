//! TLS to Redis, by rustls.

use std::path::PathBuf;

/// Which certificates to trust and to show. Files are in PEM and are read when a connection is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// The authorities to trust, instead of the platform's.
    pub ca: Option<PathBuf>,
    /// The client's certificate, the chain behind it, and its key, where the server asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must carry, if it is not the host's. Only for a
    /// standalone server.
    pub server_name: Option<String>,
}

#[cfg(feature = "tls")]
mod connect {
    use super::TlsConfig;
    use crate::PoolError;
    use fred::types::config::TlsConnector;
    use rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    };
    use std::{fmt::Display, path::Path, sync::Arc};

    impl TlsConfig {
        pub(crate) fn connector(&self) -> Result<TlsConnector, PoolError> {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|error| PoolError::Config(format!("tls: {error}")))?
                .with_root_certificates(self.roots()?);
            let client = match &self.identity {
                None => builder.with_no_client_auth(),
                Some((certificate, key)) => {
                    let chain = certificates(certificate)?;
                    let private = PrivateKeyDer::from_pem_file(key)
                        .map_err(|error| unreadable(key, &error))?;
                    builder
                        .with_client_auth_cert(chain, private)
                        .map_err(|error| unreadable(certificate, &error))?
                }
            };
            Ok(client.into())
        }

        fn roots(&self) -> Result<RootCertStore, PoolError> {
            let mut roots = RootCertStore::empty();
            match &self.ca {
                Some(path) => {
                    for certificate in certificates(path)? {
                        roots
                            .add(certificate)
                            .map_err(|error| unreadable(path, &error))?;
                    }
                }
                None => {
                    // One certificate of the platform's that cannot be read is no reason to trust
                    // none of the others.
                    let found = rustls_native_certs::load_native_certs();
                    let (added, _) = roots.add_parsable_certificates(found.certs);
                    if added == 0 {
                        return Err(PoolError::Config(
                            "tls: the platform has no certificates; give ca".to_owned(),
                        ));
                    }
                }
            }
            Ok(roots)
        }
    }

    fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PoolError> {
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unreadable(path, &error))?;
        if certificates.is_empty() {
            return Err(unreadable(path, &"no certificate in it"));
        }
        Ok(certificates)
    }

    fn unreadable(path: &Path, error: &impl Display) -> PoolError {
        PoolError::Config(format!("tls: {}: {error}", path.display()))
    }
}
