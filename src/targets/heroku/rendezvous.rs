//! The line to an attached dyno: a TLS connection that begins with a secret, then carries what the program says.

use crate::tools::http::{self, chain};
use crate::world::World;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// What the server says before the program does.
const BANNER: &[u8] = b"rendezvous\r\n";
/// The longest line, in bytes: a longer one is heard in parts.
const LINE_LIMIT: usize = 64 * 1024;

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Hears every line until the other side ends. Errors are sentences.
pub async fn listen(world: &World, url: &str, encrypted: bool, mut hear: impl FnMut(&str)) -> Result<(), String> {
    let rest = url.strip_prefix("rendezvous://").ok_or("Heroku gives no address to attach to")?;
    let (place, secret) = rest.split_once('/').ok_or("Heroku gives an address without its secret")?;
    let mut wire = tokio::time::timeout(CONNECT_LIMIT, connect(world, place, encrypted))
        .await
        .map_err(|_elapsed| format!("{place} cannot be reached within {CONNECT_LIMIT:?}"))??;
    let failed = |error: std::io::Error| format!("the line to {place} broke: {error}");
    wire.write_all(format!("{secret}\r\n").as_bytes()).await.map_err(failed)?;
    let (mut rest, mut is_first, mut piece) = (Vec::new(), true, vec![0; 16 * 1024]);
    loop {
        let count = match wire.read(&mut piece).await {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break, // ended without a TLS good-bye
            Err(error) => return Err(failed(error)),
        };
        rest.extend(piece.iter().take(count));
        if is_first && BANNER.starts_with(rest.get(..BANNER.len().min(rest.len())).unwrap_or_default()) {
            if rest.len() < BANNER.len() {
                continue;
            }
            rest.drain(..BANNER.len());
        }
        is_first = false;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n').or((rest.len() > LINE_LIMIT).then_some(LINE_LIMIT)) {
            let line: Vec<u8> = rest.drain(..=end).collect();
            hear(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
        }
    }
    hear(&String::from_utf8_lossy(&rest));
    Ok(())
}

async fn connect(world: &World, place: &str, encrypted: bool) -> Result<Box<dyn Wire>, String> {
    let host = place.rsplit_once(':').map_or(place, |(host, _port)| host).to_owned();
    let tcp = TcpStream::connect(place).await.map_err(|error| format!("{place} cannot be reached: {error}"))?;
    if !encrypted {
        return Ok(Box::new(tcp));
    }
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls(world)?));
    let wire = connector.connect(name, tcp).await.map_err(|error| format!("{place} cannot be trusted: {}", chain(&error)))?;
    Ok(Box::new(wire))
}

/// The system's certificates and those of the variables, as for everything else.
fn tls(world: &World) -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut extra = Vec::new();
    for bundle in http::bundles(&world.vars).map_err(|error| error.sentence)? {
        extra.extend(CertificateDer::pem_slice_iter(&bundle.pem).flatten().map(CertificateDer::into_owned));
    }
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider.clone()).map_err(|error| error.to_string())?;
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}
