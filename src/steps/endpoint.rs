//! Where a Docker engine listens, and a stream to it.

use crate::error::{Error, Reason, Result};
use crate::vars::Vars;
use bollard::{API_DEFAULT_VERSION, Docker};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

const CONNECT_LIMIT: u64 = 120;
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// A stream to the engine.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// Where the engine listens.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// A socket.
    Unix(PathBuf),
    /// host:port without encryption.
    Tcp(String),
    /// host:port with certificates from a folder.
    Tls(String, PathBuf),
}

impl Endpoint {
    /// The engine that `DOCKER_HOST` names, or the usual socket.
    pub fn of(vars: &Vars) -> Result<Self> {
        let Some(host) = vars.get("TIDEGATE_DOCKER_HOST").or_else(|| vars.get("DOCKER_HOST")) else {
            return Ok(Self::Unix(DEFAULT_SOCKET.into()));
        };
        if let Some(path) = host.strip_prefix("unix://") {
            return Ok(Self::Unix(path.into()));
        }
        let address = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://")).or_else(|| host.strip_prefix("https://"));
        let address = address.ok_or_else(|| {
            Error::new(Reason::InputInvalid, format!("DOCKER_HOST={host} is not understood"))
                .hint("use unix:///path or tcp://host:port; for ssh:// forward the socket first (ssh -L)")
        })?;
        let address = address.trim_end_matches('/').to_owned();
        if vars.get("DOCKER_TLS_VERIFY").is_none() && !host.starts_with("https://") {
            return Ok(Self::Tcp(address));
        }
        let home = || vars.get("HOME").map(|home| PathBuf::from(home).join(".docker"));
        let certificates = vars.get("DOCKER_CERT_PATH").map(PathBuf::from).or_else(home).unwrap_or_default();
        Ok(Self::Tls(address, certificates))
    }

    /// A client for builds and pushes.
    pub fn connect(&self) -> std::result::Result<Docker, bollard::errors::Error> {
        match self {
            Self::Unix(path) => Docker::connect_with_unix(&path.to_string_lossy(), CONNECT_LIMIT, API_DEFAULT_VERSION),
            Self::Tcp(address) => Docker::connect_with_http(&format!("tcp://{address}"), CONNECT_LIMIT, API_DEFAULT_VERSION),
            Self::Tls(address, folder) => Docker::connect_with_ssl(
                &format!("tcp://{address}"),
                &folder.join("key.pem"),
                &folder.join("cert.pem"),
                &folder.join("ca.pem"),
                CONNECT_LIMIT,
                API_DEFAULT_VERSION,
            ),
        }
    }

    /// A raw stream for a session.
    pub async fn dial(&self) -> io::Result<Box<dyn Wire>> {
        Ok(match self {
            Self::Unix(path) => Box::new(tokio::net::UnixStream::connect(path).await?),
            Self::Tcp(address) => Box::new(tokio::net::TcpStream::connect(address.as_str()).await?),
            Self::Tls(address, folder) => {
                let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _port)| host).to_owned();
                let name = rustls::pki_types::ServerName::try_from(host).map_err(io::Error::other)?;
                let connector = tokio_rustls::TlsConnector::from(Arc::new(tls(folder)?));
                Box::new(connector.connect(name, tokio::net::TcpStream::connect(address.as_str()).await?).await?)
            }
        })
    }
}

fn tls(folder: &std::path::Path) -> io::Result<rustls::ClientConfig> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(folder.join("ca.pem")).map_err(io::Error::other)? {
        roots.add(authority.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    let own = CertificateDer::pem_file_iter(folder.join("cert.pem")).map_err(io::Error::other)?;
    let own = own.collect::<std::result::Result<Vec<_>, _>>().map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).map_err(io::Error::other)?;
    rustls::ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(own, key).map_err(io::Error::other)
}
