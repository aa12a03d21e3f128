//! `tidegate-serve.yml` as types: where the server listens, what it keeps, and which apps it deploys by which runners.

mod check;
mod hooks;
mod load;
mod runners;

pub use check::is_id;
pub use hooks::*;
pub use load::{Loaded, load, parse};
pub use runners::*;

use crate::config::{SecretName, Span, TextOrSecret};
use indexmap::IndexMap;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The file's usual name.
pub const FILE_NAME: &str = "tidegate-serve.yml";
/// The app that the announcing job has.
pub const ANNOUNCE: &str = "announce";
/// Where its schema is published.
pub const SCHEMA_ADDRESS: &str = "https://tidegate.dev/schema/serve-v1.json";

/// tidegate-serve.yml: what the CD server deploys, and who may ask for it. Keys that start with `x-` are yours.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Serve {
    /// The version of this grammar; always 1.
    #[schemars(range(min = 1, max = 1))]
    pub schema: u32,
    /// The address and port to listen on.
    #[serde(default = "listen")]
    #[schemars(with = "String", regex(pattern = r"^(\d+\.\d+\.\d+\.\d+|\[[0-9a-fA-F:]+\]):\d{1,5}$"))]
    pub listen: SocketAddr,
    /// The certificate and its key, to speak HTTPS itself.
    pub tls: Option<Tls>,
    /// The address that people and other machines use, as https://cd.example.com; for links, cookies and callbacks.
    #[schemars(regex(pattern = r"^https?://[^/?#\s]+$"))]
    pub public_url: Option<String>,
    /// The folder for the embedded store and for what jobs say.
    pub data: Option<PathBuf>,
    /// Where jobs, apps and audit are kept: embedded, or redis://host:port, rediss://host:port.
    #[serde(default = "embedded")]
    #[schemars(regex(pattern = r"^(embedded|rediss?://[^@\s]+)$"))]
    pub store: String,
    /// What the keys on a Redis server begin with, where several sites share it.
    #[serde(default = "prefix")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.-]{1,64}$"))]
    pub store_prefix: String,
    /// Networks of reverse proxies whose X-Forwarded-For is believed.
    #[serde(default)]
    pub proxies: Vec<Network>,
    /// Which networks may do what without a token.
    #[serde(default)]
    pub networks: Networks,
    /// The dialect of the ENAC server that is spoken at /app-deploy/ and its kin.
    #[serde(default)]
    pub enac: Dialect,
    /// What is bounded.
    #[serde(default)]
    pub limits: Limits,
    /// How jobs are run, by name.
    #[serde(default)]
    pub runners: IndexMap<String, Runner>,
    /// What an app gets where it says nothing itself.
    #[serde(default)]
    pub defaults: Defaults,
    /// The apps, by the id that clients know.
    #[serde(default)]
    pub apps: IndexMap<String, App>,
    /// The job that announces the list of apps, at start-up and on request.
    pub announce: Option<Announce>,
    /// Webhooks that start jobs, by name.
    #[serde(default)]
    pub webhooks: IndexMap<String, Hook>,
    /// Tokens of machines, by name: for the list of apps, metrics and audit.
    #[serde(default)]
    pub tokens: IndexMap<String, Token>,
    /// People who may look at the page, by name.
    #[serde(default)]
    pub users: IndexMap<String, User>,
    /// The Slack channel that is told how jobs ended.
    pub slack: Option<Slack>,
}

fn listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

fn embedded() -> String {
    "embedded".into()
}

fn prefix() -> String {
    "tidegate-serve".into()
}

/// A network, as 10.0.0.0/8, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let alone = text.parse::<std::net::IpAddr>().map(IpNet::from);
        let network = alone.or_else(|_network| text.parse::<IpNet>());
        network.map(Network).map_err(|_unreadable| serde::de::Error::custom(format!("{text:?} is no network, as 10.0.0.0/8 or fd00::/8")))
    }
}

impl JsonSchema for Network {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Network".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": r"^[0-9a-fA-F:.]+(/\d{1,3})?$",
            "description": "A network, as 10.0.0.0/8 or fd00::/8, or one address."
        })
    }
}

/// The certificate and its key, both in PEM form; read again when they change.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tls {
    /// The certificate with those of its issuers.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Which networks may do what without a token. Loopback always may.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Networks {
    /// May replace the list of apps.
    #[serde(default)]
    pub announce: Vec<Network>,
    /// May read /load/ and /metrics.
    #[serde(default)]
    pub monitoring: Vec<Network>,
}

/// The dialect of the ENAC server that is spoken.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// A second request joins the job that runs; the whole log is told each time.
    #[default]
    Current,
    /// A second request is refused, each line is told once, and jobs end as `finished`.
    Old,
    /// None: those paths are not there.
    Off,
}

/// What is bounded.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// How many jobs run at once, over all replicas.
    #[schemars(range(min = 1, max = 1000))]
    pub running: usize,
    /// How many jobs of one inventory may wait.
    #[schemars(range(min = 1, max = 10000))]
    pub queue: usize,
    /// How much of a job's output is kept, in MiB: its beginning and its end.
    #[schemars(range(min = 1, max = 1024))]
    pub output: u64,
    /// How long ended jobs and the audit are kept.
    pub keep: Span,
    /// How many connections are open at once.
    #[schemars(range(min = 16, max = 100000))]
    pub connections: usize,
    /// How many wrong secrets one source, or one app, may be sent in a minute.
    #[schemars(range(min = 1, max = 100000))]
    pub wrong_secrets: u32,
    /// How many requests one source may send in a second; more are answered with 429.
    #[schemars(range(min = 1, max = 1000000))]
    pub requests: u32,
    /// How long a replica may be silent before its jobs are taken over (Redis).
    pub lease: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            running: 4,
            queue: 100,
            output: 16,
            keep: Span(Duration::from_secs(7 * 24 * 3600)),
            connections: 2048,
            wrong_secrets: 30,
            requests: 1000,
            lease: Span(Duration::from_secs(30)),
        }
    }
}

/// What an app gets where it says nothing itself.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Defaults {
    /// The runner (default: the only one there is).
    pub runner: Option<String>,
    /// What happens to a request while a job of the same inventory runs.
    pub busy: Busy,
    /// How long a job may take.
    pub timeout: Span,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { runner: None, busy: Busy::Merge, timeout: Span(Duration::from_secs(30 * 60)) }
    }
}

/// What happens to a request while a job of the same inventory runs or waits.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Busy {
    /// It joins that job.
    #[default]
    Merge,
    /// It gets a job of its own, which waits for its turn.
    Queue,
    /// It is refused.
    Reject,
}

/// An app.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct App {
    /// The secret that clients send; without one only webhooks and people start it.
    pub secret: Option<AppSecret>,
    /// What is deployed: one job at a time (default: the app's id).
    #[schemars(regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"))]
    pub inventory: Option<String>,
    /// The runner.
    pub runner: Option<String>,
    /// What happens to a request while a job of the same inventory runs.
    pub busy: Option<Busy>,
    /// How many of its jobs may wait (default: `queue` of `limits`).
    #[schemars(range(min = 1, max = 10000))]
    pub queue: Option<usize>,
    /// How long a job may take.
    pub timeout: Option<Span>,
}

/// The secret of an app, or what its SHA-256 is.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum AppSecret {
    /// The environment variable that holds it.
    Env(SecretName),
    /// The file that holds it.
    File(SecretFile),
    /// Its SHA-256 in hex, so that the server never knows it.
    Hash(SecretHash),
}

/// A file that holds a secret.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretFile {
    /// The file; white space at its end does not count.
    pub file: PathBuf,
}

/// The SHA-256 of a secret.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretHash {
    /// 64 hexadecimal digits.
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    pub sha256: String,
}

/// The job that announces the list of apps: it sends it to /set-available-apps/.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Announce {
    /// The runner whose surroundings it has.
    pub runner: String,
    /// What it runs there, as [announce-apps].
    pub command: Vec<String>,
    /// An inventory whose deploy means this job instead (enac: cd_runner_with_enacit_ansible).
    pub inventory: Option<String>,
    /// Whether it runs when the server starts.
    #[serde(default = "yes")]
    pub at_start: bool,
    /// How long it may take.
    #[serde(default = "ten_minutes")]
    pub timeout: Span,
}

fn yes() -> bool {
    true
}

fn ten_minutes() -> Span {
    Span(Duration::from_secs(600))
}

/// A token of a machine.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Token {
    /// The environment variable that holds it; at least 16 characters.
    pub secret: SecretName,
    /// What it may do.
    pub role: Role,
}

/// A person.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct User {
    /// The environment variable that holds the password; at least 12 characters.
    pub password: SecretName,
    /// What they may do.
    #[serde(default)]
    pub role: Role,
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look at everything that is no secret.
    #[default]
    Viewer,
    /// Also deploy, cancel, and ask for the list of apps.
    Operator,
    /// Replace the list of apps, and nothing else.
    Announcer,
    /// Read /load/ and /metrics, and nothing else.
    Monitor,
}

/// The Slack channel that is told how jobs ended.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Slack {
    /// The incoming webhook's address, which is a secret.
    pub webhook: SecretName,
    /// Which ends are told.
    #[serde(default)]
    pub on: SlackOn,
    /// How many of the last lines of the output are sent.
    #[serde(default = "twenty")]
    #[schemars(range(min = 0, max = 100))]
    pub lines: usize,
}

fn twenty() -> usize {
    20
}

/// Which ends are told.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum SlackOn {
    /// All.
    #[default]
    All,
    /// Only those that did not go well.
    Failure,
}

impl Serve {
    /// The files that hold secrets.
    pub fn secret_files(&self) -> Vec<&PathBuf> {
        let of_app = self.apps.values().filter_map(|app| match &app.secret {
            Some(AppSecret::File(file)) => Some(&file.file),
            Some(AppSecret::Env(_) | AppSecret::Hash(_)) | None => None,
        });
        let of_hook = self.webhooks.values().filter_map(|hook| match hook {
            Hook::DockerHub(DockerHub { login: Some(HookLogin { password: HookSecret::File(file), .. }), .. }) => Some(&file.file),
            Hook::DockerHub(_) | Hook::Github(_) | Hook::Gitlab(_) | Hook::Signed(_) | Hook::Ecr(_) => None,
        });
        of_app.chain(of_hook).collect()
    }
}

/// A secret's names in a text or as a secret.
pub(super) fn named(value: &TextOrSecret) -> Option<&str> {
    match value {
        TextOrSecret::Text(_) => None,
        TextOrSecret::Secret(secret) => Some(&secret.env),
    }
}
