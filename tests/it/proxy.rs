//! A proxy that breaks what passes through it, by rule: an answer or a request that breaks off after so many bytes, or comes late.
//!
//! It sits before the sandbox, or before any real part. Statuses by rule are the sandbox's own (`Fault`).

use crate::world::World;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of a request that a rule is about.
#[derive(Clone, Copy, Debug)]
pub enum Break {
    /// The outside has done its work; so many bytes of its answer come, then the connection is gone.
    Answer(usize),
    /// The outside sees nothing: so many bytes of the request's body are taken, then the connection is gone.
    Request(usize),
    /// The answer comes so much later.
    Late(Duration),
}

/// What is broken, how often, and how.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Text that "METHOD path" contains.
    pub on: &'static str,
    pub times: usize,
    pub how: Break,
}

type Rules = Arc<Mutex<Vec<Rule>>>;

/// A running proxy. It lives as long as the test program.
pub struct Proxy {
    /// host:port.
    pub address: String,
    rules: Rules,
}

impl Proxy {
    /// A proxy before a host and port.
    pub fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (address, upstream) = (listener.local_addr().unwrap().to_string(), upstream.to_owned());
        let rules = Rules::default();
        let shared = rules.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (upstream, rules) = (upstream.clone(), shared.clone());
                // A connection that ends badly is what this is for.
                std::thread::spawn(move || drop(pass(client, &upstream, &rules)));
            }
        });
        Self { address, rules }
    }

    /// A proxy between a world's runs and its sandbox.
    pub fn before(world: &mut World) -> Self {
        let proxy = Self::start(&world.sandbox.address);
        for name in ["GITHUB_API_URL", "AWS_ENDPOINT_URL", "TIDEGATE_REGISTRY_ENDPOINTS", "DOCKER_HOST"] {
            let there = world.get(name).replace(&world.sandbox.address, &proxy.address);
            world.var(name, there);
        }
        let kubeconfig = std::fs::read_to_string(world.path(".kubeconfig")).unwrap();
        std::fs::write(world.path(".kubeconfig"), kubeconfig.replace(&world.sandbox.address, &proxy.address)).unwrap();
        proxy
    }

    /// From now on.
    pub fn rule(&self, on: &'static str, times: usize, how: Break) {
        self.rules.lock().unwrap().push(Rule { on, times, how });
    }

    /// Nothing is broken any more.
    pub fn heal(&self) {
        self.rules.lock().unwrap().clear();
    }

    /// Rules that have not come true.
    pub fn left(&self) -> Vec<Rule> {
        self.rules.lock().unwrap().iter().filter(|rule| rule.times > 0).copied().collect()
    }
}

fn pass(mut client: TcpStream, upstream: &str, rules: &Rules) -> std::io::Result<()> {
    let (head, mut body) = head(&mut client)?;
    let line = head.lines().next().unwrap_or_default().to_owned();
    let broken = taken(rules, &line);
    let length = length(&head);
    while length.is_none_or(|length| body.len() < length) && !(length.is_none() && body.ends_with(b"0\r\n\r\n")) {
        if let Some(Break::Request(bytes)) = broken
            && body.len() >= bytes
        {
            return Ok(());
        }
        if more(&mut client, &mut body)? == 0 {
            break;
        }
    }
    if let Some(Break::Request(_)) = broken {
        return Ok(());
    }
    let mut server = TcpStream::connect(upstream)?;
    if head.to_lowercase().contains("\r\nupgrade:") {
        return tunnel(client, server, &head, &body);
    }
    server.write_all(alone(&head).as_bytes())?;
    server.write_all(&body)?;
    let mut piece = [0_u8; 16 * 1024];
    let mut passed = 0;
    loop {
        let read = server.read(&mut piece)?;
        if let (0, Some(Break::Late(length))) = (passed, broken) {
            #[allow(clippy::disallowed_methods)] // a slow outside
            std::thread::sleep(length);
        }
        let room = match broken {
            Some(Break::Answer(bytes)) => bytes.saturating_sub(passed),
            Some(Break::Request(_) | Break::Late(_)) | None => usize::MAX,
        };
        client.write_all(&piece[..read.min(room)])?;
        passed += read;
        if read == 0 || read > room {
            return Ok(());
        }
    }
}

/// A connection that becomes something else: both ways, as it is.
fn tunnel(mut client: TcpStream, mut server: TcpStream, head: &str, body: &[u8]) -> std::io::Result<()> {
    server.write_all(head.as_bytes())?;
    server.write_all(body)?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ended = std::io::copy(&mut from, &mut to);
        to.shutdown(std::net::Shutdown::Write)
    });
    std::io::copy(&mut server, &mut client).map(drop)
}

fn taken(rules: &Rules, line: &str) -> Option<Break> {
    let mut rules = rules.lock().unwrap();
    let rule = rules.iter_mut().find(|rule| rule.times > 0 && line.contains(rule.on))?;
    rule.times -= 1;
    Some(rule.how)
}

fn more(from: &mut TcpStream, into: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut piece = [0_u8; 16 * 1024];
    let read = from.read(&mut piece)?;
    into.extend_from_slice(&piece[..read]);
    Ok(read)
}

/// The head of a request, and what has come of its body.
fn head(client: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), body));
        }
        if more(client, &mut bytes)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// How long a body is; unknown where it comes in chunks.
fn length(head: &str) -> Option<usize> {
    let lower = head.to_lowercase();
    let chunked = lower.contains("transfer-encoding: chunked");
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    if chunked { None } else { Some(length.unwrap_or(0)) }
}

/// The head of a request that is the only one of its connection: the end of the answer is the end of the stream.
fn alone(head: &str) -> String {
    let kept = head.trim_end().lines().filter(|line| !line.to_lowercase().starts_with("connection:"));
    format!("{}\r\nConnection: close\r\n\r\n", kept.collect::<Vec<_>>().join("\r\n"))
}
