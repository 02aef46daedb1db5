//! TLS for receivers: a certificate authority, its certificates, and a listener that presents one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::serve::Listener;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Whoever signs certificates here.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// A certificate and its key.
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    pem: (String, String),
}

impl Authority {
    /// One that nobody trusts yet.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, directory: crate::support::temporary::directory() }
    }

    /// A file with its certificate, there as long as this is.
    pub(crate) fn file(&self) -> PathBuf {
        let file = self.directory.path().join("ca.pem");
        std::fs::write(&file, self.issuer.pem()).unwrap();
        file
    }

    /// Its certificate.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// A certificate for this name, or address.
    pub(crate) fn identity(&self, name: &str) -> Identity {
        self.sign(&params(name))
    }

    /// A certificate whose time is over.
    pub(crate) fn expired(&self, name: &str) -> Identity {
        let mut params = params(name);
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity::new(&certificate, &key)
    }
}

impl Identity {
    /// A certificate that only itself vouches for.
    pub(crate) fn self_signed(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self::new(&params(name).self_signed(&key).unwrap(), &key)
    }

    fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        let pem = (certificate.pem(), key.serialize_pem());
        let certificate = certificate.der().clone();
        Self { certificate, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(), pem }
    }

    /// Writes the certificate and its key where a server reads them.
    pub(crate) fn write(&self, certificate: &Path, key: &Path) {
        std::fs::write(certificate, &self.pem.0).unwrap();
        std::fs::write(key, &self.pem.1).unwrap();
    }
}

fn params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

/// Accepts connections that get through the handshake.
pub(crate) struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl TlsListener {
    /// Shows this certificate and offers these protocols, `h2` or `http/1.1`.
    pub(crate) fn new(tcp: TcpListener, identity: Identity, protocols: &[&str]) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.certificate], identity.key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { tcp, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.tcp).await;
            // One that turns away at the sight of the certificate is no connection.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
