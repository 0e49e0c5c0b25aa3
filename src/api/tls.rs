//! TLS of the listener: a certificate and a key out of two PEM files, read again when they change.
//!
//! Invariant: connections prove themselves with a certificate and the key that belongs to it; files that are half replaced or bad leave
//! those in force that were read before, and the log says why.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::TlsFiles;

/// Why a listener cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    /// A file is not what it should be.
    #[error("`{path}` cannot be used for TLS: {why}; {mend}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is the matter.
        why: String,
        /// What to do.
        mend: &'static str,
    },
    /// The key is another certificate's, or of a kind that is not served.
    #[error("the key `{key}` does not fit the certificate `{certificates}`: {why}; give the pair that belongs together")]
    Pair {
        /// The certificate.
        certificates: PathBuf,
        /// The key.
        key: PathBuf,
        /// What the library says.
        why: String,
    },
}

/// How two files were when they were looked at.
type Stamps = [Option<(SystemTime, u64)>; 2];

/// What listeners with TLS share.
pub struct ListenerTls {
    files: TlsFiles,
    seen: Mutex<Stamps>,
    pair: Arc<Pair>,
    acceptor: TlsAcceptor,
}

/// The certificate and key in force.
#[derive(Debug)]
struct Pair(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Pair {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ListenerTls {
    /// Reads the files. Blocks on the file system.
    ///
    /// # Errors
    /// They are not there, not PEM, or do not belong together.
    pub fn open(files: TlsFiles) -> Result<Self, TlsFault> {
        crate::tls::provide();
        let seen = stamps(&files);
        let pair = Arc::new(Pair(ArcSwap::from_pointee(read(&files)?)));
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::<Pair>::clone(&pair));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(ListenerTls { files, seen: Mutex::new(seen), pair, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Shakes hands with a caller, with the files as they are now.
    ///
    /// # Errors
    /// The caller speaks no TLS or does not want this certificate.
    pub(super) async fn accept<T>(self: &Arc<Self>, stream: T) -> std::io::Result<TlsStream<T>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let tls = Arc::clone(self);
        // A look that was given up leaves the pair as it is.
        let _ = tokio::task::spawn_blocking(move || tls.refresh()).await;
        self.acceptor.accept(stream).await
    }

    /// Reads the files again where they have changed.
    fn refresh(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.files);
        if *seen == now {
            return;
        }
        *seen = now;
        match read(&self.files) {
            Ok(pair) => {
                self.pair.0.store(Arc::new(pair));
                tracing::info!(certificates = %self.files.certificates.display(), "the listener's certificate was read again");
            }
            Err(error) => tracing::warn!(%error, "the listener keeps the certificate that it has"),
        }
    }
}

fn stamps(files: &TlsFiles) -> Stamps {
    [&files.certificates, &files.key].map(|path| {
        let about = std::fs::metadata(path).ok()?;
        Some((about.modified().ok()?, about.len()))
    })
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsFault> {
    let bad = |path: &Path, why: String, mend| TlsFault::File { path: path.to_owned(), why, mend };
    let certificates = CertificateDer::pem_file_iter(&files.certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| bad(&files.certificates, error.to_string(), "name a PEM file that the daemon may read"))?;
    if certificates.is_empty() {
        return Err(bad(&files.certificates, "it holds no certificate".to_owned(), "name a PEM file with the certificate first"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| bad(&files.key, error.to_string(), "name a PEM file with a private key that the daemon may read"))?;
    CertifiedKey::from_der(certificates, key, &rustls::crypto::ring::default_provider()).map_err(|error| TlsFault::Pair {
        certificates: files.certificates.clone(),
        key: files.key.clone(),
        why: error.to_string(),
    })
}
