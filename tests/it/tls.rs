//! Private certificates and proxies: a server whose certificate nobody knows, a name that only a proxy can reach.

use crate::world::World;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, pki_types::PrivateKeyDer};

/// A name that no resolver knows.
pub const NAME: &str = "forge.tidegate.invalid";

/// An authority that nobody knows.
pub fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The sandbox behind TLS, with a certificate of a private authority. Its port, and the authority in PEM.
pub fn tls_in_front_of(world: &World) -> (u16, String) {
    tls_before(world, &world.sandbox.address)
}

/// The same for any address.
pub fn tls_before(world: &World, inner: &str) -> (u16, String) {
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let names = vec![NAME.to_owned(), "localhost".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
    (relay(world, inner, config), authority.pem())
}

/// A port behind which an address answers whoever this server side of TLS lets in.
pub fn relay(world: &World, inner: &str, config: ServerConfig) -> u16 {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, port) = world.runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    });
    let inner = inner.to_owned();
    world.runtime().spawn(async move {
        while let Ok((outer, _)) = listener.accept().await {
            let (acceptor, inner) = (acceptor.clone(), inner.clone());
            tokio::spawn(async move {
                let Ok(mut outer) = acceptor.accept(outer).await else { return };
                let Ok(mut inner) = tokio::net::TcpStream::connect(inner).await else { return };
                let _closed = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    port
}

/// A proxy that knows one place only, whatever it is asked for, and writes down what that was.
fn proxy_to(port: u16) -> (u16, Arc<Mutex<Vec<String>>>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let own = listener.local_addr().unwrap().port();
    let (asked, refused) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    let (seen, not_connect) = (asked.clone(), refused.clone());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (seen, not_connect) = (seen.clone(), not_connect.clone());
            std::thread::spawn(move || serve(client, port, &seen, &not_connect));
        }
    });
    (own, asked, refused)
}

fn serve(client: TcpStream, port: u16, seen: &Mutex<Vec<String>>, not_connect: &AtomicUsize) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut line = String::new();
    let _first = reader.read_line(&mut line);
    let Some(place) = line.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) else {
        not_connect.fetch_add(1, Ordering::SeqCst);
        return;
    };
    seen.lock().unwrap().push(place.to_owned());
    while reader.read_line(&mut line).is_ok_and(|_| !line.ends_with("\r\n\r\n")) {}
    let mut client = client;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
    let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let back = std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    let mut server = server;
    let _sent = std::io::copy(&mut client, &mut server);
    let _ended = server.shutdown(std::net::Shutdown::Write);
    let _received = back.join();
}

/// A job whose GitHub and AWS have a certificate that nobody signed whom the system knows; the authority's file.
fn private() -> (World, String) {
    let mut world = World::new();
    let (port, authority) = tls_in_front_of(&world);
    world.write("ca.pem", &authority);
    world
        .var("GITHUB_API_URL", format!("https://localhost:{port}/github"))
        .var("AWS_ENDPOINT_URL", format!("https://localhost:{port}/aws"));
    let path = world.path("ca.pem").display().to_string();
    (world, path)
}

#[test]
fn a_private_authority_is_trusted_where_it_is_named() {
    for bundle in ["SSL_CERT_FILE", "AWS_CA_BUNDLE", "CI_SERVER_TLS_CA_FILE"] {
        let (mut world, path) = private();
        let ran = world.pushed().var(bundle, path).run(&["run"]);
        ran.must(0, "deploy.done");
        assert!(ran.count("/github/repos") > 3 && ran.count("/aws") > 3, "{bundle}: {:#?}", ran.log);
    }
}

#[test]
fn an_authority_that_nobody_named_is_not_trusted() {
    let (mut world, _path) = private();
    let ran = world.pushed().run(&["run"]);
    assert!(ran.code != 0 && ran.err.to_lowercase().contains("certificate"), "{}", ran.err);
    assert_eq!(ran.log, [] as [&str; 0], "nothing reached the server");
}

#[test]
fn a_bundle_that_holds_nothing_is_told_by_name() {
    let mut world = World::new();
    world.write("ca.pem", "not a certificate\n");
    let path = world.path("ca.pem").display().to_string();
    let ran = world.pushed().var("AWS_CA_BUNDLE", path).run(&["run"]);
    ran.must(2, "input.invalid");
    assert!(ran.err.contains("(AWS_CA_BUNDLE) cannot be used: there is no certificate in it"), "{}", ran.err);
    let ran = world.var("AWS_CA_BUNDLE", "/nowhere.pem").run(&["run"]);
    ran.must(2, "input.invalid");
}

/// The name cannot be resolved here: whatever does not take the proxy fails.
#[test]
fn everything_goes_through_the_proxy() {
    let mut world = World::new();
    let (port, authority) = tls_in_front_of(&world);
    let (proxy, asked, plain) = proxy_to(port);
    world.write("ca.pem", &authority);
    let path = world.path("ca.pem").display().to_string();
    world.configure("aws: {region: us-west-2}", "aws: {region: us-west-2, role: \"arn:aws:iam::123456789012:role/ci\"}");
    world.commit("role");
    world.var("SSL_CERT_FILE", path).var("NO_PROXY", "127.0.0.1").without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY");
    world.var("GITHUB_API_URL", format!("https://{NAME}/github")).var("AWS_ENDPOINT_URL", format!("https://{NAME}/aws"));
    world.var("ACTIONS_ID_TOKEN_REQUEST_URL", format!("https://{NAME}/oidc?v=1")).var("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "runner");
    let ran = world.pushed().run(&["run"]);
    assert!(ran.code != 0, "without the proxy there is no way: {}", ran.err);
    let ran = world.var("HTTPS_PROXY", format!("http://127.0.0.1:{proxy}")).run(&["run"]);
    ran.must(0, "deploy.done");
    let asked = asked.lock().unwrap().clone();
    assert!(asked.len() >= 3 && asked.iter().all(|place| place == &format!("{NAME}:443")), "{asked:?}");
    assert_eq!(plain.load(Ordering::SeqCst), 0);
    assert!(ran.count("GET /oidc") >= 1 && ran.count("AssumeRoleWithWebIdentity") >= 1 && ran.count("/github") > 3);
}
