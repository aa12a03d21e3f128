//! Accepts connections: a bounded number, each with ten seconds for its head, over TLS where the file says so.

use super::screen::{HEAD, Screen};
use super::{Peer, answer};
use crate::error::{Error, Reason, Result};
use crate::serve::config::Tls;
use crate::serve::server::Server;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// How long a client may take for the head of a request, and for its part of the TLS handshake.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long open requests may take when the server stops: those that wait for news are answered at once.
const GOODBYE: Duration = Duration::from_secs(3);

/// The certificate in use; another one may take its place.
#[derive(Clone, Default)]
pub struct Certificate(Arc<RwLock<Option<Arc<rustls::ServerConfig>>>>);

impl Certificate {
    /// Reads the files. Those in use stay when they do not fit.
    pub fn read(&self, tls: &Tls, folder: &Path) -> Result<()> {
        let config = read(tls, folder)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(config));
        Ok(())
    }

    fn acceptor(&self) -> Option<TlsAcceptor> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone().map(TlsAcceptor::from)
    }
}

fn read(tls: &Tls, folder: &Path) -> Result<rustls::ServerConfig> {
    let (certificate, key) = (folder.join(&tls.certificate), folder.join(&tls.key));
    let unusable = |path: &Path, why: String| {
        Error::new(Reason::ConfigInvalid, format!("{} cannot be used for TLS: {why}", path.display()))
            .hint("`tls:` names a certificate (with those of its issuers) and its private key, both in PEM form")
    };
    let chain = CertificateDer::pem_file_iter(&certificate).map_err(|error| unusable(&certificate, error.to_string()))?;
    let chain: std::result::Result<Vec<_>, _> = chain.collect();
    let chain = chain.map_err(|error| unusable(&certificate, error.to_string()))?;
    let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| unusable(&key, error.to_string()))?;
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| unusable(&certificate, error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Binds the address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        Error::new(Reason::InputInvalid, format!("cannot listen on {address}: {error}"))
            .hint("is another server running there? `listen:` names the address; ports below 1024 need a privilege")
    })
}

/// Serves until the server stops; open requests are answered first.
pub async fn serve(server: Arc<Server>, listener: TcpListener, certificate: Certificate) {
    let places = Arc::new(Semaphore::new(server.limits().connections));
    let shares = Shares::default();
    let open = tokio_util::task::TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = server.world.cancel.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(_out_of_files) => {
                server.world.clock.sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Too many: this one is closed, and its client tries again. No source alone takes all places, but for proxies.
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let Some(share) = Share::of(&shares, &server, peer.ip()) else { continue };
        let _without = stream.set_nodelay(true);
        let (server, acceptor) = (server.clone(), certificate.acceptor());
        open.spawn(async move {
            server.metrics.connections.fetch_add(1, Ordering::Relaxed);
            connection(&server, stream, peer, acceptor).await;
            server.metrics.connections.fetch_sub(1, Ordering::Relaxed);
            drop((place, share));
        });
    }
    drop(listener);
    open.close();
    let _cut = tokio::time::timeout(GOODBYE, open.wait()).await;
}

/// How many connections each source has.
type Shares = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// A connection of a source, for as long as it is open.
struct Share(Shares, IpAddr);

impl Share {
    fn of(shares: &Shares, server: &Server, source: IpAddr) -> Option<Self> {
        let config = server.config();
        let mut counts = shares.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        if *count >= config.serve.limits.connections / 2 && !super::is_proxy(&config.serve.proxies, source) {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Self(shares.clone(), source))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

async fn connection(server: &Arc<Server>, stream: TcpStream, peer: SocketAddr, acceptor: Option<TlsAcceptor>) {
    let Some(acceptor) = acceptor else { return requests(server, stream, Peer { address: peer, tls: false }).await };
    if let Ok(Ok(stream)) = tokio::time::timeout(HEAD_LIMIT, acceptor.accept(stream)).await {
        requests(server, stream, Peer { address: peer, tls: true }).await;
    }
}

async fn requests<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(server: &Arc<Server>, stream: T, peer: Peer) {
    let service = service_fn(|request| async move { Ok::<_, Infallible>(answer(server, request, peer).await) });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(HEAD).keep_alive(true);
    let connection = builder.serve_connection(TokioIo::new(Screen::new(stream)), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = server.world.cancel.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ended = connection.await;
}
