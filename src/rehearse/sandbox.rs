//! A pretend outside in this process: GitHub, GitLab, ECR with its registry, SQS, STS and Kubernetes behind one loopback port.
//!
//! It keeps state, writes down everything it saw, and can be told to lie: to say yes and do no.

use super::{aws, awx, cd_server, downstream, ecs, engine, github, gitlab, heroku, hooks, kubernetes, manifests, registry, swarm};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// A request body in the sandbox; images are the largest.
const BODY_LIMIT: usize = 2 * 1024 * 1024 * 1024;

/// How the pretend cluster treats a rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClusterMood {
    /// It rolls out.
    #[default]
    Honest,
    /// The patch is answered with success, and the old image stays in the template.
    KeepsTemplate,
    /// The status says it is done, and the pods run the old image.
    KeepsPods,
    /// The status never takes the change.
    NeverObserves,
    /// New pods cannot pull.
    ImagePull,
    /// New pods start and die.
    CrashLoop,
    /// New pods may not be created.
    Quota,
    /// No node takes new pods.
    Unschedulable,
    /// New pods run and never become ready, until the workload's own deadline.
    Probe,
    /// The container cannot be created from its configuration.
    ContainerConfig,
}

/// Everything the sandbox knows.
#[derive(Default)]
pub struct World {
    /// Image repositories by path.
    pub repositories: BTreeMap<String, registry::Repository>,
    /// Scripted counts (visible, in flight, delayed) by region and queue; the last entry stays.
    pub queues: BTreeMap<(String, String), VecDeque<[u64; 3]>>,
    /// How images are scanned.
    pub scans: super::scans::Scans,
    /// S3's side.
    pub s3: super::s3::Storage,
    /// Queues that answer "access denied".
    pub denied_queues: Vec<String>,
    /// Every so manieth request to ECR is throttled.
    pub throttled: Option<usize>,
    /// By how many seconds AWS's clock is ahead of ours.
    pub aws_clock: i64,
    /// How long the sessions of roles last, in seconds; an hour when nothing is said.
    pub session_seconds: Option<i64>,
    /// Labels of what the pretend engine built, by name:tag.
    pub built: BTreeMap<String, Value>,
    /// GitHub's side.
    pub github: github::Forge,
    /// GitLab's side.
    pub gitlab: gitlab::Project,
    /// What the identity tokens of jobs say.
    pub claims: Value,
    /// The roles that were assumed.
    pub assumed: Vec<String>,
    /// Whether no role lets the job in.
    pub refuses_roles: bool,
    /// The cluster's side.
    pub cluster: kubernetes::Cluster,
    /// How the cluster behaves.
    pub mood: ClusterMood,
    /// A manifest repository, and what follows it.
    pub manifests: manifests::Manifests,
    /// AWX's side.
    pub awx: awx::Controller,
    /// Heroku's side.
    pub heroku: heroku::Platform,
    /// The ECS cluster's side.
    pub ecs: ecs::Clusters,
    /// The CD server's side.
    pub cd: cd_server::Server,
    /// Pipelines elsewhere: GitHub workflows, GitLab pipelines, Travis builds of other projects.
    pub downstream: downstream::Pipelines,
    /// The swarm's side.
    pub swarm: swarm::Swarm,
    /// Webhooks that were received, and pages that say what runs.
    pub hooks: hooks::Hooks,
    /// Whether a tag write is confirmed and forgotten.
    pub registry_forgets: bool,
    /// Whether workloads and repositories appear when they are first asked for.
    pub generous: bool,
    /// Answers to give instead: (text in "METHOD path", how often, status, headers, body).
    pub faults: Vec<Fault>,
    /// Texts in "METHOD path": such requests wait until the text is taken out.
    pub holds: Vec<String>,
    /// The number of a request that never ends, and whether it takes effect all the same.
    pub stop_at: Option<(usize, bool)>,
    /// How many requests have come.
    pub arrived: usize,
    /// How many requests are being held or were stopped.
    pub held: usize,
    /// Every request, as METHOD path → status.
    pub log: Vec<String>,
}

impl World {
    /// A token that says who the job is, unsigned.
    pub fn identity_token(&self) -> String {
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", encode(r#"{"alg":"none"}"#), encode(&self.claims.to_string()), encode("no signature"))
    }
}

/// An answer to give instead of the real one.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Text that "METHOD path" must contain.
    pub on: &'static str,
    /// How often.
    pub times: usize,
    /// The status.
    pub status: u16,
    /// Headers.
    pub headers: Vec<(&'static str, &'static str)>,
    /// The body.
    pub body: Value,
    /// Whether the request takes effect all the same: the answer is lost, not the deed.
    pub after_effect: bool,
}

/// A running sandbox. It ends with the runtime.
#[derive(Clone)]
pub struct Sandbox {
    state: Arc<Shared>,
    /// host:port.
    pub address: String,
}

/// What handlers share.
pub struct Shared {
    world: Mutex<World>,
    /// Rung whenever an object in the cluster changes.
    pub changed: Notify,
    /// Rung when holds were taken out.
    pub opened: Notify,
}

impl Shared {
    /// The state. A panic elsewhere must not hide what was seen.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Sandbox {
    /// Starts on a free loopback port.
    pub async fn start(world: World) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?.to_string();
        let state = Arc::new(Shared { world: Mutex::new(world), changed: Notify::new(), opened: Notify::new() });
        heroku::attach(&state).await?;
        let app = axum::Router::new().fallback(serve).with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self { state, address })
    }

    /// Looks at the state, or changes it.
    pub fn with<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.state.world())
    }

    /// Lets every held request go on.
    pub fn open(&self) {
        self.state.world().holds.clear();
        self.state.opened.notify_waiters();
    }

    /// The address of one of the parts: github, aws, kube.
    pub fn url(&self, part: &str) -> String {
        format!("http://{}/{part}", self.address)
    }

    /// A kubeconfig for the pretend cluster, with the contexts that a configuration names.
    pub fn kubeconfig(&self, contexts: &[String]) -> String {
        let entries: Vec<Value> =
            contexts.iter().map(|name| json!({"name": name, "context": {"cluster": "sandbox", "user": "sandbox"}})).collect();
        let current = contexts.first();
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": current,
            "clusters": [{"name": "sandbox", "cluster": {"server": self.url("kube")}}],
            "users": [{"name": "sandbox", "user": {"token": "sandbox-token"}}],
            "contexts": entries,
        })
        .to_string()
    }
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let said = format!("{} {}", parts.method, parts.uri.path_and_query().map_or("", |path| path.as_str()));
    let body = axum::body::to_bytes(body, BODY_LIMIT).await.unwrap_or_default();
    let stops = arrive(&shared);
    if stops == Some(false) {
        return for_ever(&shared).await;
    }
    held_back(&shared, &said).await;
    let fault = take_fault(&shared, &said);
    if let Some(fault) = fault.as_ref().filter(|fault| !fault.after_effect) {
        note(&shared, &said, fault.status);
        return answer_of(fault);
    }
    let asked = Asked {
        method: parts.method.to_string(),
        path,
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
    };
    let response = match asked.path.split('/').nth(1).unwrap_or_default() {
        "github" | "gitlab" | "travis" if downstream::is_about(&shared, &asked) => downstream::answer(&shared, &asked),
        "github" | "gitlab" if asked.path.contains("acme/manifests/") || asked.path.contains("acme%2Fmanifests/") => {
            manifests::answer(&shared, &asked).unwrap_or_else(|| json_answer(404, &json!({"message": "Not Found"})))
        }
        "github" => github::answer(&shared, &asked),
        "gitlab" => gitlab::answer(&shared, &asked),
        "oidc" => json_answer(200, &json!({"value": shared.world().identity_token()})),
        "aws" => aws::answer(&shared, &asked),
        "kube" => kubernetes::answer(&shared, &asked),
        "v2" => registry::answer(&shared, &asked),
        "awx" | "api" => awx::answer(&shared, &asked),
        "heroku" => heroku::answer(&shared, &asked),
        "cd" => cd_server::answer(&shared, &asked),
        "hooks" => hooks::answer(&shared, &asked),
        "info" | "services" | "tasks" | "configs" | "secrets" | "containers" => swarm::answer(&shared, &asked),
        "images" if asked.path.ends_with("/json") => swarm::answer(&shared, &asked),
        "version" | "session" | "build" | "images" => engine::answer(&shared, &asked),
        _nothing => json_answer(404, &json!({"message": "Not Found"})),
    };
    let target =
        asked.headers.get("x-amz-target").and_then(|value| value.to_str().ok()).map(str::to_owned).or_else(|| aws::query_action(&asked));
    note(&shared, &target.map_or(said.clone(), |target| format!("{said} {target}")), response.status().as_u16());
    if stops == Some(true) {
        return for_ever(&shared).await;
    }
    match fault {
        Some(fault) => answer_of(&fault),
        None => response,
    }
}

/// Counts a request; whether it is the one that never ends, before or after its effect.
fn arrive(shared: &Shared) -> Option<bool> {
    let mut world = shared.world();
    world.arrived += 1;
    let arrived = world.arrived;
    world.stop_at.filter(|(number, _)| *number == arrived).map(|(_, after)| after)
}

async fn for_ever(shared: &Shared) -> Response {
    shared.world().held += 1;
    std::future::pending().await
}

async fn held_back(shared: &Shared, said: &str) {
    let is_held = |world: &World| world.holds.iter().any(|text| said.contains(text));
    if is_held(&shared.world()) {
        shared.world().held += 1;
        loop {
            let opened = shared.opened.notified();
            if !is_held(&shared.world()) {
                return;
            }
            opened.await;
        }
    }
}

/// A request as handlers see it.
pub struct Asked {
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The query, raw.
    pub query: String,
    /// The headers.
    pub headers: axum::http::HeaderMap,
    /// The whole body.
    pub body: bytes::Bytes,
}

impl Asked {
    /// The body as JSON, or null.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A query parameter.
    pub fn parameter(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// All values of a query parameter.
    pub fn parameters(&self, name: &str) -> Vec<String> {
        let all = url::form_urlencoded::parse(self.query.as_bytes()).filter(|(key, _)| key == name);
        all.map(|(_, value)| value.into_owned()).collect()
    }

    /// The body as a form.
    pub fn form(&self) -> BTreeMap<String, String> {
        url::form_urlencoded::parse(&self.body).into_owned().collect()
    }

    /// A header.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

fn take_fault(shared: &Shared, said: &str) -> Option<Fault> {
    let mut world = shared.world();
    let fault = world.faults.iter_mut().find(|fault| fault.times > 0 && said.contains(fault.on))?;
    fault.times -= 1;
    Some(fault.clone())
}

/// A status of 0 stands for a connection that breaks in the middle of the answer.
fn answer_of(fault: &Fault) -> Response {
    if fault.status == 0 {
        let broken = futures::stream::iter([Ok(bytes::Bytes::from_static(b"{")), Err(std::io::Error::other("broken"))]);
        return Body::from_stream(broken).into_response();
    }
    let mut response = json_answer(fault.status, &fault.body);
    for (name, value) in &fault.headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(*name, value);
        }
    }
    response
}

fn note(shared: &Shared, said: &str, status: u16) {
    shared.world().log.push(format!("{said} → {status}"));
}

/// A JSON answer.
pub fn json_answer(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [("content-type", "application/json; charset=utf-8")], Body::from(body.to_string())).into_response()
}
