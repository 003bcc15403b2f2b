//! User and password that may change while the pool runs.

use fred::{
    error::{Error, ErrorKind},
    types::config::{CredentialProvider, Server},
};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How often open connections show the current password to the server.
const REFRESH: Duration = Duration::from_secs(30);
/// What a password file may hold at most, in bytes.
const LONGEST: u64 = 4096;

/// A source of user and password that is asked for each new connection, and every half minute for
/// those that are open, so that a rotated password needs no restart.
#[derive(Clone)]
pub struct Credentials(Arc<dyn CredentialProvider>);

impl Credentials {
    /// The password is what stands in a file, without spaces and ends of lines around it; Kubernetes replaces the file
    /// of a mounted Secret when the Secret changes.
    #[must_use]
    pub fn file(username: Option<String>, path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(PasswordFile {
            username,
            path: path.into(),
        }))
    }

    /// A source of one's own, such as a cloud's short-lived tokens.
    #[must_use]
    pub fn from_provider(provider: Arc<dyn CredentialProvider>) -> Self {
        Self(provider)
    }

    pub(crate) fn provider(&self) -> Arc<dyn CredentialProvider> {
        Arc::clone(&self.0)
    }
}

/// Two are equal if they are the same source.
impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(***)")
    }
}

struct PasswordFile {
    username: Option<String>,
    path: PathBuf,
}

impl fmt::Debug for PasswordFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl CredentialProvider for PasswordFile {
    async fn fetch(
        &self,
        _server: Option<&Server>,
    ) -> Result<(Option<String>, Option<String>), Error> {
        let path = self.path.clone();
        let password = tokio::task::spawn_blocking(move || read(&path))
            .await
            .map_err(|_| Error::new(ErrorKind::Auth, "the password file was not read"))??;
        Ok((self.username.clone(), Some(password)))
    }

    fn refresh_interval(&self) -> Option<Duration> {
        Some(REFRESH)
    }
}

fn read(path: &Path) -> Result<String, Error> {
    let wrong = |what: &str| {
        Error::new(
            ErrorKind::Auth,
            format!("password file {}: {what}", path.display()),
        )
    };
    let size = std::fs::metadata(path).map_err(|error| wrong(&error.to_string()))?;
    if size.len() > LONGEST {
        return Err(wrong("longer than 4096 bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error.to_string()))?;
    // An editor or a Kubernetes Secret puts them there; nobody means them.
    Ok(text.trim_matches([' ', '\t', '\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_has_no_space_around_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, " se cret \r\n").unwrap();
        assert_eq!(read(&path).unwrap(), "se cret");
        std::fs::write(&path, vec![b'x'; 5000]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("4096"));
        let error = read(&directory.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
    }
}
