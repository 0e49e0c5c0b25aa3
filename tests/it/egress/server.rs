//! Servers that guests ask: an honest one that tells what it was asked, and those that mean no good.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub version: String,
    pub headers: Vec<(String, String)>,
    pub body: usize,
}

impl Seen {
    /// All values of a header.
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// What a server saw.
#[derive(Default)]
pub struct Log {
    pub connections: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
}

/// A server on a free port of 127.0.0.1 that ends with its value.
pub struct Server {
    pub address: SocketAddr,
    log: Arc<Log>,
    serving: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    /// An honest one, without TLS.
    pub async fn start() -> Server {
        Self::with(None).await
    }

    /// An honest one with TLS, which speaks HTTP/2 to who wants it.
    pub async fn tls(certificate: &Path, key: &Path) -> Server {
        sandclock::tls::provide();
        let certificates = CertificateDer::pem_file_iter(certificate).unwrap().collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::with(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn with(tls: Option<TlsAcceptor>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, log) = (listener.local_addr().unwrap(), Arc::<Log>::default());
        let of_server = Arc::clone(&log);
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                of_server.connections.fetch_add(1, Ordering::SeqCst);
                let (log, tls) = (Arc::clone(&of_server), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, log, false).await,
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                            serve(stream, log, is_h2).await;
                        }
                    }
                });
            }
        });
        Server { address, log, serving }
    }

    /// One that gives every connection the same bytes as soon as it has read a request's head, then `more` again and again, and then nothing.
    pub async fn raw(first: Vec<u8>, more: Vec<u8>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, log) = (listener.local_addr().unwrap(), Arc::<Log>::default());
        let of_server = Arc::clone(&log);
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                of_server.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(badly(stream, first.clone(), more.clone()));
            }
        });
        Server { address, log, serving }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.log.seen.lock().unwrap().clone()
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.log.connections.load(Ordering::SeqCst)
    }
}

async fn badly(mut stream: TcpStream, first: Vec<u8>, more: Vec<u8>) {
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => head.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    if stream.write_all(&first).await.is_err() {
        return;
    }
    while !more.is_empty() {
        if stream.write_all(&more).await.is_err() {
            return;
        }
    }
    // Until the other side goes.
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, log: Arc<Log>, is_h2: bool) {
    let service = service_fn(move |request| answer(request, Arc::clone(&log)));
    let io = TokioIo::new(stream);
    // Who goes away in the middle is nothing to tell of.
    if is_h2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
}

/// `/echo` tells the request's headers, `/status/N` has that status and the headers too, `/last` tells every `authorization` that was ever
/// sent, `/encoded` the same in base64 and JSON, `/to/URL` redirects; everything else is "hello".
async fn answer(request: Request<Incoming>, log: Arc<Log>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let headers: Vec<(String, String)> =
        parts.headers.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect();
    let body = body.collect().await.map_or(0, |body| body.to_bytes().len());
    let path = parts.uri.path().to_owned();
    let whole = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let seen = Seen { method: parts.method.to_string(), path: whole, version: format!("{:?}", parts.version), headers, body };
    let told: String = seen.headers.iter().map(|(name, value)| format!("{name}: {value}; ")).collect();
    log.seen.lock().unwrap().push(seen);
    let mut response = Response::builder();
    let mut text = "hello".to_owned();
    if path == "/echo" {
        response = response.header("x-echo", told.as_str());
        text = told;
    } else if let Some(status) = path.strip_prefix("/status/") {
        response = response.status(status.parse::<u16>().unwrap()).header("retry-after", "0");
        text = told;
    } else if path == "/last" {
        let seen = log.seen.lock().unwrap();
        text = seen.iter().flat_map(|seen| seen.header("authorization")).collect::<Vec<_>>().join("\n");
    } else if path == "/encoded" {
        let seen = log.seen.lock().unwrap();
        let all = seen.iter().flat_map(|seen| seen.header("authorization"));
        text = all.map(|value| format!("{} {:?}\n", BASE64_STANDARD.encode(value), value)).collect();
    } else if let Some(to) = path.strip_prefix("/to/") {
        response = response.status(302).header("location", to);
    }
    Ok(response.body(Full::new(Bytes::from(text))).unwrap())
}
