//! The server's HTTP side: which request is whose, who sent it, and what every answer has in common.

// An answer that comes early is an answer: it is moved once, and a box would be one more thing to open.
#![allow(clippy::result_large_err)]

mod api;
mod enac;
pub mod hooks;
pub mod listen;
mod look;
mod page;
mod screen;
mod session;

use super::apps::{Announced, App};
use super::config::{Dialect, Network, Role};
use super::guard::{Allowed, Held, Knew};
use super::server::Server;
use crate::error::Error;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, LOCATION, RETRY_AFTER, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The longest body, in bytes.
const BODY: usize = 1024 * 1024;
/// How long a client may take for its body.
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// What proxies say of the client that they speak for.
const FORWARDING: [&str; 3] = ["x-forwarded-for", "forwarded", "x-real-ip"];
/// The document that describes the API.
const OPENAPI: &str = include_str!("openapi.json");

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whether it speaks TLS with us.
    pub tls: bool,
}

/// A request, before its body is read.
pub struct Asked {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    /// Whose it is: the client's address, seen through proxies that are believed.
    source: IpAddr,
    /// Whether nobody is known to stand between: a proxy of this machine that nobody named makes everybody look local.
    direct: bool,
    /// Whether the client speaks HTTPS.
    secure: bool,
    body: Option<Incoming>,
    /// What this request holds of the room for bodies.
    held: Held,
}

/// Why a body was not read.
enum Unread {
    TooLong,
    TooMuch,
    Broken,
}

/// An answer, or one that says why there is none.
type Answered = std::result::Result<Response<Body>, Response<Body>>;

/// Answers a request.
pub async fn answer(server: &Arc<Server>, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    let (head, body) = request.into_parts();
    let config = server.config();
    let source = source(&config.serve.proxies, &head.headers, peer.address.ip());
    let chunked = head.headers.contains_key(TRANSFER_ENCODING);
    let asked = Asked {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        direct: is_direct(&config.serve.proxies, &head.headers, peer.address.ip(), source),
        secure: peer.tls || config.serve.public_url.as_deref().is_some_and(|url| url.starts_with("https://")),
        headers: head.headers,
        source,
        body: Some(body),
        held: server.guard.held(bucket(source)),
    };
    let (route, answered) = match server.guard.request(bucket(source), config.serve.limits.requests) {
        Allowed::After(pause) => ("flood", Err(too_many("too many requests", pause))),
        Allowed::Yes => dispatch(server, asked).await,
    };
    let mut response = answered.unwrap_or_else(|refused| refused);
    server.metrics.answered(route, response.status().as_u16());
    let headers = response.headers_mut();
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if chunked {
        // The next head after a chunked body is not looked at, so there is none.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn dispatch(server: &Arc<Server>, asked: Asked) -> (&'static str, Answered) {
    let path = asked.path.clone();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match parts.as_slice() {
        [""] => (
            "/",
            only(&asked, &[Method::GET])
                .map(|()| json_answer(StatusCode::OK, &json!({"app": "tidegate", "version": env!("CARGO_PKG_VERSION")}))),
        ),
        ["health" | "healthz", ..] if parts.len() < 3 => ("/health/", health(server, &asked).await),
        ["metrics"] => ("/metrics", metrics(server, &asked).await),
        ["openapi.json"] => ("/openapi.json", only(&asked, &[Method::GET]).map(|()| text_answer("application/json", OPENAPI.into()))),
        ["api", "v1", rest @ ..] => api::answer(server, asked, rest).await,
        ["autodock", "v1", ..] => ("/autodock/v1/", hooks::docker_hub(server, asked, parts.get(2..).unwrap_or_default()).await),
        ["hooks", name] => ("/hooks/NAME", hooks::named(server, asked, name).await),
        ["ui", rest @ ..] => ("/ui", page::answer(server, asked, rest).await),
        [name, ..] if parts.len() <= 2 && enac::ROUTES.contains(name) && server.config().serve.enac != Dialect::Off => {
            let name = enac::ROUTES.iter().copied().find(|known| known == name).unwrap_or_default();
            (name, enac::answer(server, asked, name, parts.len() == 2).await)
        }
        _other => ("other", Err(json_answer(StatusCode::NOT_FOUND, &json!({"detail": "Not Found"})))),
    }
}

async fn health(server: &Server, asked: &Asked) -> Answered {
    only(asked, &[Method::GET, Method::HEAD])?;
    // A document that is not there is an answer as well: the store can be read.
    match server.store.get("health").await {
        Ok(_) => Ok(json_answer(StatusCode::OK, &json!({"status": "ok"}))),
        Err(_) => Err(json_answer(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "error", "error": "the store cannot be used"}))),
    }
}

async fn metrics(server: &Server, asked: &Asked) -> Answered {
    only(asked, &[Method::GET])?;
    may_monitor(server, asked)?;
    let text = server.metrics.text(server).await.map_err(|error| unavailable(server, &error))?;
    Ok(text_answer("text/plain; version=0.0.4; charset=utf-8", text.into()))
}

/// Who asks: the address of the connection, or what proxies that are believed say, read from the end.
fn source(proxies: &[Network], headers: &HeaderMap, peer: IpAddr) -> IpAddr {
    let mut source = peer.to_canonical();
    if !is_proxy(proxies, source) {
        return source;
    }
    let said = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
    for part in said.split(',').rev().map(str::trim) {
        let Ok(address) = part.parse::<IpAddr>() else { break };
        source = address.to_canonical();
        if !is_proxy(proxies, source) {
            break;
        }
    }
    source
}

/// An IPv6 client has a whole network of addresses: it counts as one.
fn bucket(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
    }
}

fn is_proxy(proxies: &[Network], address: IpAddr) -> bool {
    proxies.iter().any(|network| network.0.contains(&address.to_canonical()))
}

/// Whether an address says who asks: no proxy stands between that nobody named, or that says nothing usable, and no browser
/// asks for another site.
fn is_direct(proxies: &[Network], headers: &HeaderMap, peer: IpAddr, source: IpAddr) -> bool {
    // `none` is a person who typed the address.
    if headers.contains_key("origin") || headers.get("sec-fetch-site").is_some_and(|site| site != "none") {
        return false;
    }
    match is_proxy(proxies, peer) {
        // One that claims to be this machine is not.
        true => !is_proxy(proxies, source) && !source.is_loopback(),
        false => !FORWARDING.iter().any(|name| headers.contains_key(*name)),
    }
}

/// Whether a request comes from these networks, or from this machine.
fn is_in(networks: &[Network], asked: &Asked) -> bool {
    asked.direct && (asked.source.is_loopback() || networks.iter().any(|network| network.0.contains(&asked.source)))
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.get_all(name).iter();
        let first = all.next()?;
        // A header that stands there twice says nothing: nobody knows which one a proxy has looked at.
        all.next().is_none().then_some(first)?.to_str().ok()
    }

    /// A value of the query.
    fn query(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.query.as_bytes()).find(|(key, _value)| key == name).map(|(_key, value)| value.into_owned())
    }

    /// What stands after `Bearer`.
    fn bearer(&self) -> Option<String> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    }

    /// The whole body, within its limits; nothing the second time.
    async fn read(&mut self) -> std::result::Result<Bytes, Response<Body>> {
        if self.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(closing(problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a body that is packed is not read; send it as it is")));
        }
        let too_long = || closing(problem(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body is longer than {BODY} bytes")));
        let said = self.headers.get("content-length").and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if said.is_some_and(|length| length > BODY as u64) {
            return Err(too_long());
        }
        let Some(body) = self.body.take() else { return Ok(Bytes::new()) };
        match tokio::time::timeout(BODY_LIMIT, self.collect(body)).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(Unread::TooLong)) => Err(too_long()),
            Ok(Err(Unread::Broken)) => Err(closing(problem(StatusCode::BAD_REQUEST, "the body ended too early"))),
            Ok(Err(Unread::TooMuch)) => Err(closing(too_many("too many bodies are on their way", Duration::from_secs(5)))),
            Err(_elapsed) => Err(closing(problem(StatusCode::REQUEST_TIMEOUT, "the body took longer than 30s"))),
        }
    }

    /// The pieces of a body, each accounted for before it is kept.
    async fn collect(&mut self, mut body: Incoming) -> std::result::Result<Bytes, Unread> {
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(piece) = frame.map_err(|_broken| Unread::Broken)?.into_data() else { continue };
            if whole.len() + piece.len() > BODY {
                return Err(Unread::TooLong);
            }
            if !self.held.take(piece.len()) {
                return Err(Unread::TooMuch);
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.into())
    }
}

/// Refuses other methods.
fn only(asked: &Asked, methods: &[Method]) -> std::result::Result<(), Response<Body>> {
    if methods.contains(&asked.method) {
        return Ok(());
    }
    let mut refused = match asked.path.starts_with("/api/") {
        true => problem(StatusCode::METHOD_NOT_ALLOWED, "this address knows other methods"),
        false => json_answer(StatusCode::METHOD_NOT_ALLOWED, &json!({"detail": "Method Not Allowed"})),
    };
    let allowed = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    refused.headers_mut().insert("allow", HeaderValue::from_str(&allowed).unwrap_or(HeaderValue::from_static("GET")));
    Err(closing(refused))
}

fn may_monitor(server: &Server, asked: &Asked) -> std::result::Result<(), Response<Body>> {
    let role = only_machine(server, asked)?;
    let may = is_in(&server.config().serve.networks.monitoring, asked)
        || matches!(role, Some((_, Role::Monitor | Role::Viewer | Role::Operator)));
    if may { Ok(()) } else { Err(json_answer(StatusCode::FORBIDDEN, &json!({"detail": "Access denied"}))) }
}

/// The machine whose token was sent, where nothing else than a token counts: a wrong one is a guess.
fn only_machine(server: &Server, asked: &Asked) -> std::result::Result<Option<(String, Role)>, Response<Body>> {
    let found = machine(server, asked)?;
    if found.is_none() && asked.bearer().is_some() {
        wrong(server, asked, "");
    }
    Ok(found)
}

/// The machine whose token was sent.
fn machine(server: &Server, asked: &Asked) -> std::result::Result<Option<(String, Role)>, Response<Body>> {
    let Some(token) = asked.bearer() else { return Ok(None) };
    may_try(server, asked, "")?;
    Ok(server.apps.machine(&token))
}

fn may_try(server: &Server, asked: &Asked, app: &str) -> std::result::Result<(), Response<Body>> {
    match server.guard.may_try(bucket(asked.source), app, server.limits().wrong_secrets) {
        Allowed::Yes => Ok(()),
        Allowed::After(pause) => {
            refusal(server, asked, "too many wrong secrets came from there");
            Err(too_many("too many wrong secrets came from this address; the right one is not looked at before", pause))
        }
    }
}

fn wrong(server: &Server, asked: &Asked, app: &str) {
    server.metrics.refused.fetch_add(1, Ordering::Relaxed);
    refusal(server, asked, if app.is_empty() { "a wrong token, password or signature" } else { "an unknown app or a wrong secret" });
    server.guard.tried(bucket(asked.source), app, server.limits().wrong_secrets, Knew::Nothing);
}

/// A line about a request that was refused: who, where, why.
fn refusal(server: &Server, asked: &Asked, why: &str) {
    if server.guard.may_say(bucket(asked.source)) {
        server.say(&format!("refused {} {} from {}: {why}", asked.method, hooks::shown(&asked.path), asked.source));
    }
}

/// The app with this id and secret, or nothing; guesses are counted.
async fn authenticated(server: &Server, asked: &Asked, id: &str, secret: &str) -> std::result::Result<Option<App>, Response<Body>> {
    may_try(server, asked, id)?;
    let app = server.apps.authenticated(&server.store, id, secret).await.map_err(|error| unavailable(server, &error))?;
    match &app {
        Some(_) => server.guard.tried(bucket(asked.source), id, server.limits().wrong_secrets, Knew::It),
        None => wrong(server, asked, id),
    }
    Ok(app)
}

/// Replaces the list of announced apps, for networks and machines that may.
async fn replace_apps(server: &Server, asked: &mut Asked) -> std::result::Result<std::result::Result<(), String>, Response<Body>> {
    let role = only_machine(server, asked)?;
    let by = match &role {
        Some((name, Role::Announcer | Role::Operator)) => name.clone(),
        Some((_, Role::Viewer | Role::Monitor)) | None if is_in(&server.config().serve.networks.announce, asked) => {
            asked.source.to_string()
        }
        Some((_, Role::Viewer | Role::Monitor)) | None => {
            return Err(closing(json_answer(StatusCode::FORBIDDEN, &json!({"detail": "Access denied"}))));
        }
    };
    let body = asked.read().await?;
    let list: Vec<Announced> = match serde_json::from_slice(&body) {
        Ok(list) => list,
        // serde's message may quote a value, and a value may be a secret.
        Err(error) => return Ok(Err(format!("the list of apps is not usable (line {}, column {})", error.line(), error.column()))),
    };
    let replaced = server.apps.replace(&server.store, &list, &by).await.map_err(|error| unavailable(server, &error))?;
    if replaced.is_ok() {
        server.say(&format!("{} apps were announced by {by}", list.len()));
        server.wake.notify_one();
    }
    Ok(replaced)
}

/// A store that cannot be used: nothing is promised that is not kept.
fn unavailable(server: &Server, error: &Error) -> Response<Body> {
    server.say(&format!("a request could not be answered: {}", error.sentence));
    let mut answer = problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "the store cannot be used, so nothing is promised; try again later, with the same Idempotency-Key",
    );
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    answer
}

fn too_many(why: &str, pause: Duration) -> Response<Body> {
    let mut answer = problem(StatusCode::TOO_MANY_REQUESTS, &format!("{why}; try again later"));
    if let Ok(seconds) = HeaderValue::from_str(&pause.as_secs().max(1).to_string()) {
        answer.headers_mut().insert(RETRY_AFTER, seconds);
    }
    answer
}

/// What went wrong, as <https://www.rfc-editor.org/rfc/rfc9457> has it.
fn problem(status: StatusCode, detail: &str) -> Response<Body> {
    let title = status.canonical_reason().unwrap_or("Error");
    let mut answer = json_answer(status, &json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail}));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    answer
}

fn json_answer(status: StatusCode, body: &Value) -> Response<Body> {
    let mut answer = Response::new(Body::from(body.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn text_answer(kind: &'static str, text: Bytes) -> Response<Body> {
    let mut answer = Response::new(Body::from(text));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn redirect(status: StatusCode, to: &str) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    if let Ok(to) = HeaderValue::from_str(to) {
        answer.headers_mut().insert(LOCATION, to);
    }
    answer
}

fn with_header(mut answer: Response<Body>, name: &'static str, value: &str) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(HeaderName::from_static(name), value);
    }
    answer
}

/// The connection ends with this answer: what the client still sends is not read.
fn closing(mut answer: Response<Body>) -> Response<Body> {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proxies_that_are_believed_say_who_asks() {
        let proxies = [Network("10.0.0.0/8".parse().unwrap())];
        let headers = |said: &[&str]| {
            let mut headers = HeaderMap::new();
            said.iter().for_each(|said| _ = headers.append("x-forwarded-for", HeaderValue::from_str(said).unwrap()));
            headers
        };
        let from = |said: &[&str], peer: &str| source(&proxies, &headers(said), peer.parse().unwrap()).to_string();
        assert_eq!(from(&["127.0.0.1"], "203.0.113.9"), "203.0.113.9", "a stranger says what it likes");
        assert_eq!(from(&["127.0.0.1, 203.0.113.9"], "10.0.0.1"), "203.0.113.9", "the last one that is no proxy");
        assert_eq!(from(&["127.0.0.1", "203.0.113.9, 10.0.0.2"], "10.0.0.1"), "203.0.113.9");
        assert_eq!(from(&["nonsense"], "10.0.0.1"), "10.0.0.1");
        assert_eq!(from(&[], "::ffff:10.0.0.1"), "10.0.0.1");
        let direct = |names: &[(&'static str, &'static str)], peer: &str, source: &str| {
            let headers = names.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
            is_direct(&proxies, &headers, peer.parse().unwrap(), source.parse().unwrap())
        };
        assert!(direct(&[], "127.0.0.1", "127.0.0.1") && direct(&[("sec-fetch-site", "none")], "127.0.0.1", "127.0.0.1"));
        assert!(direct(&[("x-forwarded-for", "203.0.113.9")], "10.0.0.1", "203.0.113.9"), "a proxy that is believed says who");
        assert!(!direct(&[("x-forwarded-for", "203.0.113.9")], "127.0.0.1", "127.0.0.1"), "one that nobody named");
        assert!(!direct(&[("x-forwarded-for", "127.0.0.1")], "10.0.0.1", "127.0.0.1"), "nobody comes from this machine by a proxy");
        assert!(!direct(&[], "10.0.0.1", "10.0.0.1"), "a proxy that says nothing");
        assert!(!direct(&[("origin", "https://evil.example")], "127.0.0.1", "127.0.0.1"), "a page of another site");
    }
}
