//! A manager's engine, by its API: <https://docs.docker.com/reference/api/engine/version/v1.41/>.
//!
//! Specifications are kept as the JSON they are: a type of ours would drop what a newer engine knows.

use crate::config::Swarm;
use crate::error::{Error, Reason, Result};
use crate::steps::endpoint::Endpoint;
use crate::targets::{Site, secret};
use crate::tools::http::chain;
use crate::tools::process::Background;
use crate::tools::secret::Secret;
use crate::world::World;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

const ANSWER_LIMIT: usize = 64 * 1024 * 1024;
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// How long SSH may take to reach the host and log in.
const TUNNEL_LIMIT: Duration = Duration::from_secs(45);
const REMOTE_SOCKET: &str = "/var/run/docker.sock";

/// An engine that can be asked.
pub struct Manager {
    endpoint: Endpoint,
    /// Where it is, for people.
    pub place: String,
    /// Keys and sockets, for as long as it is asked.
    _folder: Option<tempfile::TempDir>,
    _tunnel: Option<Background>,
}

/// An answer.
pub struct Answer {
    pub status: u16,
    pub body: bytes::Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn words(&self) -> String {
        let json = self.json();
        let message = json.get("message").and_then(Value::as_str).map(str::to_owned);
        message.unwrap_or_else(|| crate::targets::proof::beginning(&String::from_utf8_lossy(&self.body)))
    }
}

impl Manager {
    /// The engine that the configuration names, or the one at hand.
    pub async fn open(site: &Site<'_>, values: &crate::config::template::Values, swarm: &Swarm) -> Result<Self> {
        let Some(host) = &swarm.host else {
            let endpoint = Endpoint::of(&site.world.vars)?;
            return Ok(Self { endpoint, place: "the engine at hand".into(), _folder: None, _tunnel: None });
        };
        let host = site.fill(values, host)?;
        if let Some(address) = site.world.detour.as_ref().and_then(|sandbox| sandbox.strip_prefix("http://")) {
            let endpoint = Endpoint::Tcp(address.to_owned());
            return Ok(Self { endpoint, place: host, _folder: None, _tunnel: None });
        }
        if let Some(path) = host.strip_prefix("unix://") {
            return Ok(Self { endpoint: Endpoint::Unix(path.into()), place: host, _folder: None, _tunnel: None });
        }
        if let Some(login) = host.strip_prefix("ssh://") {
            return Self::through_ssh(site.world, swarm, login, &host).await;
        }
        let address = host.strip_prefix("tcp://").unwrap_or(&host).trim_end_matches('/').to_owned();
        match &swarm.tls {
            None if crate::config::is_loopback(&host) => {
                Ok(Self { endpoint: Endpoint::Tcp(address), place: host, _folder: None, _tunnel: None })
            }
            None => Err(Error::new(Reason::InputInvalid, format!("{host} would be reached without TLS")).hint("add `tls:`, or use ssh://")),
            Some(tls) => {
                let folder = tempfile::tempdir().map_err(|error| Error::new(Reason::Internal, error.to_string()))?;
                for (name, source) in [("ca.pem", &tls.ca), ("cert.pem", &tls.cert), ("key.pem", &tls.key)] {
                    keep(folder.path(), name, &secret(site.world, &source.env, name)?)?;
                }
                let endpoint = Endpoint::Tls(address, folder.path().to_owned());
                Ok(Self { endpoint, place: host, _folder: Some(folder), _tunnel: None })
            }
        }
    }

    /// A socket here that leads to the one there. The host needs no docker CLI for it.
    async fn through_ssh(world: &World, swarm: &Swarm, login: &str, host: &str) -> Result<Self> {
        let (login, socket) = login.split_once('/').map_or((login, REMOTE_SOCKET.to_owned()), |(login, path)| (login, format!("/{path}")));
        let (login, port) = login.rsplit_once(':').map_or((login, "22"), |(login, port)| (login, port));
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@');
        if login.is_empty() || login.starts_with('-') || !login.chars().all(fine) || port.parse::<u16>().is_err() {
            return Err(Error::new(Reason::InputInvalid, format!("{host} cannot be reached by SSH")).hint("write it as ssh://user@host:22"));
        }
        let folder = tempfile::tempdir().map_err(|error| Error::new(Reason::Internal, error.to_string()))?;
        let here = folder.path().join("engine.sock");
        let mut argv: Vec<String> = ["ssh", "-N", "-T", "-p", port].map(str::to_owned).to_vec();
        argv.extend(["-L".to_owned(), format!("{}:{socket}", here.display())]);
        let mut options = vec!["BatchMode=yes", "ExitOnForwardFailure=yes", "ServerAliveInterval=15", "ConnectTimeout=20"];
        options.extend(["StrictHostKeyChecking=yes", "ForwardAgent=no", "StreamLocalBindUnlink=yes"]);
        let mut options: Vec<String> = options.into_iter().map(str::to_owned).collect();
        if let Some(ssh) = &swarm.ssh {
            let mut key = secret(world, &ssh.key.env, "the SSH key")?.expose().trim().to_owned();
            key.push('\n'); // OpenSSH wants the last line ended
            keep(folder.path(), "key", &Secret::new(key))?;
            keep(folder.path(), "known_hosts", &secret(world, &ssh.known_hosts.env, "the host's keys")?)?;
            options.push(format!("UserKnownHostsFile={}", folder.path().join("known_hosts").display()));
            options.push("IdentitiesOnly=yes".into());
            argv.extend(["-F".to_owned(), "none".to_owned(), "-i".to_owned(), folder.path().join("key").display().to_string()]);
        }
        argv.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
        argv.extend(["--".to_owned(), login.to_owned()]);
        let mut tunnel = Background::start(&argv).map_err(|error| {
            Error::new(Reason::ToolMissing, format!("ssh:// needs the program ssh: {error}")).hint("install openssh-client")
        })?;
        let endpoint = Endpoint::Unix(here);
        let up = async {
            loop {
                if endpoint.dial().await.is_ok() {
                    return Ok(());
                }
                if let Some(words) = tunnel.ended().await {
                    return Err(refused_by_ssh(host, &words));
                }
                world.clock.sleep(Duration::from_millis(50)).await;
            }
        };
        let late = |_elapsed| Err(Error::new(Reason::TargetFailed, format!("{host} was not reached within {}s", TUNNEL_LIMIT.as_secs())));
        tokio::time::timeout(TUNNEL_LIMIT, up).await.unwrap_or_else(late)?;
        Ok(Self { endpoint, place: host.to_owned(), _folder: Some(folder), _tunnel: Some(tunnel) })
    }

    /// Asks once.
    pub async fn call(&self, method: &str, path: &str, login: Option<&str>, body: Option<&Value>) -> Result<Answer> {
        let asked = tokio::time::timeout(REQUEST_LIMIT, self.once(method, path, login, body)).await;
        let asked = asked.unwrap_or_else(|_elapsed| Err(("nothing came within 60s".into(), true)));
        asked.map_err(|(why, arrived)| {
            let sentence = format!("the engine at {} did not answer {method} {path}: {why}", self.place);
            let error = Error::new(Reason::TargetFailed, sentence);
            Error { lost: arrived, ..error }.hint("is `host:` right, and may this job reach it?")
        })
    }

    /// The answer, or why there is none and whether the request may have arrived.
    async fn once(
        &self,
        method: &str,
        path: &str,
        login: Option<&str>,
        body: Option<&Value>,
    ) -> std::result::Result<Answer, (String, bool)> {
        let before = |why: String| (why, false);
        let after = |why: String| (why, true);
        let stream = self.endpoint.dial().await.map_err(|error| before(error.to_string()))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| before(chain(&error)))?;
        let driven = tokio::spawn(connection);
        let mut request = http::Request::builder().method(method).uri(path).header("host", "docker");
        if let Some(login) = login {
            request = request.header("x-registry-auth", login);
        }
        let text = body.map(Value::to_string).unwrap_or_default();
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::new(bytes::Bytes::from(text))).map_err(|error| before(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|error| after(chain(&error)))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await.map_err(|error| after(error.to_string()))?;
        driven.abort();
        Ok(Answer { status, body: body.to_bytes() })
    }

    /// Asks for JSON that must be there.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let answer = self.call("GET", path, None, None).await?;
        Ok(self.judge(answer, &format!("GET {path}"))?.json())
    }

    /// A success, or what is wrong in words.
    pub fn judge(&self, answer: Answer, what: &str) -> Result<Answer> {
        let words = answer.words();
        let sentence = format!("the engine at {} answers {} to {what}: {words}", self.place, answer.status);
        match answer.status {
            200..=299 => Ok(answer),
            401 | 403 => Err(Error::new(Reason::AuthDenied, sentence)),
            404 => Err(Error { gone: true, ..Error::new(Reason::TargetMissing, sentence) }),
            503 | 406 if words.contains("swarm manager") => {
                Err(Error::new(Reason::TargetInput, sentence).hint("`host:` must be a manager of the swarm (`docker node ls` works there)"))
            }
            _other => Err(Error::new(Reason::TargetFailed, sentence)),
        }
    }
}

/// A registry login as the engine takes it.
pub fn registry_auth(user: &str, password: &Secret, host: &str) -> String {
    let server = if host == "docker.io" { "https://index.docker.io/v1/" } else { host };
    URL_SAFE.encode(json!({"username": user, "password": password.expose(), "serveraddress": server}).to_string())
}

/// Writes a secret where only this user can read it.
fn keep(folder: &Path, name: &str, secret: &Secret) -> Result<()> {
    let written = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(name));
    let written = written.and_then(|mut file| file.write_all(secret.expose().as_bytes()));
    written.map_err(|error| Error::new(Reason::Internal, format!("{name} cannot be kept for the connection: {error}")))
}

fn refused_by_ssh(host: &str, words: &str) -> Error {
    let line = words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    let sentence = format!("{host} cannot be reached by SSH: {line}");
    if words.contains("Host key verification failed") {
        return Error::new(Reason::AuthDenied, sentence)
            .hint("`known-hosts` must hold the host's keys: ssh-keyscan HOST, compared with those that its administrator names");
    }
    if words.contains("Permission denied") {
        return Error::new(Reason::AuthMissing, sentence).hint("the key is not the one that this user takes there");
    }
    Error::new(Reason::TargetFailed, sentence).hint("may this job reach it, and does sshd there allow AllowStreamLocalForwarding?")
}
