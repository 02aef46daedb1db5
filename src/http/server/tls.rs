//! TLS on the listener: certificate and key come from files, and are reloaded while running.
//!
//! Without TLS the server speaks plain HTTP, for use behind a proxy that terminates TLS. It speaks
//! HTTP/1.1 only, with and without TLS. A reloaded certificate applies to new connections.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::TlsAcceptor;

/// The certificate in use.
#[derive(Debug)]
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// `TLS_CERT` cannot be read, or is not a PEM file of certificates.
    #[error("TLS_CERT {}: {error}", .path.display())]
    Cert {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: pem::Error,
    },
    /// `TLS_CERT` holds no certificate.
    #[error("TLS_CERT {}: the file has no certificate", .path.display())]
    NoCert {
        /// The file.
        path: PathBuf,
    },
    /// `TLS_KEY` cannot be read, or holds no private key. Its content is never shown.
    #[error("TLS_KEY {}: {error}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: pem::Error,
    },
    /// They do not fit together, or are of a kind that rustls does not take.
    #[error("TLS_CERT and TLS_KEY cannot be used together: {0}")]
    Pair(#[from] rustls::Error),
}

impl Tls {
    /// Reads both files. Blocks.
    ///
    /// # Errors
    /// Names the setting and the file that is wrong.
    pub fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(config(cert, key)?));
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), current })
    }

    /// Reads both files again. When that fails, the certificate stays as it was. Blocks.
    ///
    /// # Errors
    /// As at first.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = Arc::new(config(&self.cert, &self.key)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// The acceptor of the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&current))
    }
}

fn config(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let bad_cert = |error| TlsError::Cert { path: cert.to_owned(), error };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<_, _>>)
        .map_err(bad_cert)?;
    if certificates.is_empty() {
        return Err(TlsError::NoCert { path: cert.to_owned() });
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| TlsError::Key { path: key.to_owned(), error })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, private)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use rcgen::generate_simple_self_signed;

    use super::*;

    /// A directory with a certificate and its key.
    fn files() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        write(&cert, &key);
        (dir, cert, key)
    }

    fn write(cert: &Path, key: &Path) {
        let made = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(cert, made.cert.pem()).unwrap();
        std::fs::write(key, made.signing_key.serialize_pem()).unwrap();
    }

    fn current(tls: &Tls) -> Arc<ServerConfig> {
        Arc::clone(&tls.current.read().unwrap())
    }

    #[test]
    fn bad_file_is_named_and_a_bad_reload_changes_nothing() {
        let (_dir, cert, key) = files();
        let tls = Tls::read(&cert, &key).unwrap();
        let first = current(&tls);
        let bad = |tls: &Tls, setting: &str, path: &Path| {
            let error = tls.reload().unwrap_err().to_string();
            assert!(error.starts_with(setting), "{error}");
            assert!(error.contains(&path.display().to_string()), "{error}");
            assert!(!error.contains("s3cr3t"), "{error}");
            assert!(Arc::ptr_eq(&current(tls), &first), "{error}");
        };
        std::fs::write(&cert, "nonsense").unwrap();
        bad(&tls, "TLS_CERT", &cert);
        std::fs::remove_file(&cert).unwrap();
        bad(&tls, "TLS_CERT", &cert);
        write(&cert, &key);
        std::fs::write(&key, "-----BEGIN PRIVATE KEY-----\ns3cr3t!\n-----END PRIVATE KEY-----\n")
            .unwrap();
        bad(&tls, "TLS_KEY", &key);
        // A key of another certificate.
        let other = dir_key();
        std::fs::write(&key, other).unwrap();
        let error = tls.reload().unwrap_err();
        assert!(matches!(error, TlsError::Pair(_)), "{error}");
        assert!(Arc::ptr_eq(&current(&tls), &first));

        write(&cert, &key);
        tls.reload().unwrap();
        assert!(!Arc::ptr_eq(&current(&tls), &first));
    }

    fn dir_key() -> String {
        let made = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        made.signing_key.serialize_pem()
    }
}
