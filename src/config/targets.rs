//! `deploy:` of an environment: the places versions run, one type per system.

use super::{AppDeploy, Condition, Ecs, Heroku, SecretName, Span};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// Where an environment is deployed.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// A Kubernetes cluster.
    Kubernetes(Box<Kubernetes>),
    /// A Docker Swarm.
    Swarm(Box<Swarm>),
    /// Heroku.
    Heroku(Box<Heroku>),
    /// An AWX job or workflow template.
    Awx(Box<Awx>),
    /// Amazon ECS.
    Ecs(Box<Ecs>),
    /// tidegate's own CD server, or the ENAC one.
    #[serde(rename = "app_deploy")]
    AppDeploy(Box<AppDeploy>),
    /// A program.
    Command(Box<CommandRun>),
    /// An HTTP endpoint.
    Webhook(Box<Webhook>),
}

/// Workloads in a Kubernetes cluster.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Kubernetes {
    /// A condition on variables: the target is left out when it is not met.
    pub r#if: Option<Condition>,
    /// The context of the kubeconfig; the current one, or the pod's own service account, when not given.
    pub context: Option<String>,
    /// The EKS cluster's name: tidegate makes the token itself and needs no kubeconfig.
    pub cluster: Option<String>,
    /// The namespace.
    pub namespace: String,
    /// What to update, as deployment/web, statefulset/worker or daemonset/agent.
    #[schemars(length(min = 1))]
    pub workloads: Vec<String>,
    /// The image (a key of `images:`) that they run.
    pub image: Option<String>,
    /// The container; when not given the only one, or the one whose image has the same repository.
    pub container: Option<String>,
    /// Manifests to apply: globs of files, relative to tidegate.yml.
    #[serde(default)]
    pub apply: Vec<String>,
    /// Change a manifest repository instead of the cluster, and wait until the cluster shows it.
    pub gitops: Option<Gitops>,
    /// How long the rollout may take.
    #[serde(default = "ten_minutes")]
    pub timeout: Span,
    /// Restart pods even when nothing changes.
    #[serde(default)]
    pub restart: Restart,
    /// What to do with workloads whose update strategy is OnDelete.
    #[serde(default)]
    pub on_delete: OnDelete,
    /// Go back to the previous version when the rollout fails.
    pub rollback: Option<Rollback>,
}

pub(super) fn ten_minutes() -> Span {
    Span(Duration::from_secs(600))
}

/// Restart even when nothing changes.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// A change of the image restarts, nothing else does.
    #[default]
    Never,
    /// When the image is the same as before.
    WhenUnchanged,
    /// Every time.
    Always,
}

/// What to do with workloads whose update strategy is OnDelete.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum OnDelete {
    /// Nothing: changing the image would replace no pod.
    #[default]
    Refuse,
    /// Delete the old pods one after another, each new one ready before the next.
    Replace,
}

/// Go back when the deploy fails.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Rollback {
    /// To what ran before.
    Auto,
    /// What failed stays as it is.
    Never,
}

/// A manifest repository that something in the cluster (Argo CD, Flux) follows.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Gitops {
    /// owner/name on the forge of this run.
    pub repository: String,
    /// The branch that is followed.
    #[serde(default = "main_branch")]
    pub branch: String,
    /// What to write where.
    #[schemars(length(min = 1))]
    pub edit: Vec<GitopsEdit>,
    /// Open a pull request instead of committing to the branch.
    #[serde(default)]
    pub pull_request: bool,
    /// The token that may write there; the run's own when not given.
    pub token: Option<SecretName>,
}

fn main_branch() -> String {
    "main".into()
}

/// One key of one file.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GitopsEdit {
    /// The YAML file in the repository.
    pub file: String,
    /// The path of the key, as ui.image.tag, containers[0].image or images[name=ui].newTag.
    pub key: String,
    /// The text to write.
    #[serde(default = "version_text")]
    pub value: String,
}

fn version_text() -> String {
    "{version}".into()
}

/// Services of a Docker Swarm.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Swarm {
    /// A condition on variables: the target is left out when it is not met.
    pub r#if: Option<Condition>,
    /// A manager's engine: unix:///path, tcp://host:port, ssh://user@host[:port]; DOCKER_HOST when not given.
    pub host: Option<String>,
    /// Certificates for tcp://.
    pub tls: Option<SwarmTls>,
    /// The key for ssh://.
    pub ssh: Option<SwarmSsh>,
    /// The services to update.
    #[schemars(length(min = 1))]
    pub services: Vec<String>,
    /// The image (a key of `images:`) that they run.
    pub image: Option<String>,
    /// Swarm configs to rotate: their files, by the name that services know.
    #[serde(default)]
    pub configs: IndexMap<String, FileSource>,
    /// Swarm secrets to rotate: the environment variables that hold them, by the name that services know.
    #[serde(default)]
    pub secrets: IndexMap<String, SecretName>,
    /// How long the update may take.
    #[serde(default = "ten_minutes")]
    pub timeout: Span,
    /// Replace tasks even when nothing changes.
    #[serde(default)]
    pub restart: Restart,
    /// Go back to the previous specification when the update fails.
    pub rollback: Option<Rollback>,
}

/// Certificates for an engine behind TLS, each as PEM in an environment variable.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SwarmTls {
    /// The authority.
    pub ca: SecretName,
    /// Our certificate.
    pub cert: SecretName,
    /// Its key.
    pub key: SecretName,
}

/// The login for an engine behind SSH.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SwarmSsh {
    /// The private key, as in ~/.ssh/id_ed25519.
    pub key: SecretName,
    /// The host's public keys, as `ssh-keyscan` prints them.
    pub known_hosts: SecretName,
}

/// A file of this repository.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    /// Its path, relative to tidegate.yml.
    pub file: String,
}

/// An AWX job template or workflow template.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Awx {
    /// A condition on variables: the target is left out when it is not met.
    pub r#if: Option<Condition>,
    /// The address, as https://awx.example.com.
    pub host: String,
    /// The template's exact name, or its number.
    pub template: NameOrId,
    /// Whether it is a job template or a workflow template.
    #[serde(default)]
    pub kind: AwxKind,
    /// Its organization, where the name is not unique.
    pub organization: Option<String>,
    /// An OAuth token.
    pub token: Option<SecretName>,
    /// A user's name and password.
    pub login: Option<Login>,
    /// Extra variables, sent as JSON; `{env: NAME}` is a secret.
    #[serde(default)]
    pub extra_vars: IndexMap<String, Value>,
    /// A pattern of hosts.
    pub limit: Option<String>,
    /// Only tasks with these tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// No tasks with these tags.
    #[serde(default)]
    pub skip_tags: Vec<String>,
    /// An inventory, by name or number.
    pub inventory: Option<NameOrId>,
    /// Credentials, by name or number.
    #[serde(default)]
    pub credentials: Vec<NameOrId>,
    /// The branch of the project.
    pub scm_branch: Option<String>,
    /// Run, or only check.
    pub job_type: Option<JobType>,
    /// How long the job may take, its time in the queue included.
    #[serde(default = "one_hour")]
    pub timeout: Span,
    /// Whether the job's output is shown here.
    #[serde(default)]
    pub output: Output,
    /// What becomes of the job when this run is cancelled or its time is over.
    #[serde(default)]
    pub on_cancel: OnCancel,
}

pub(super) fn one_hour() -> Span {
    Span(Duration::from_secs(3600))
}

/// A name, or the number of something.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum NameOrId {
    /// A number.
    Id(u64),
    /// An exact name.
    Name(String),
}

impl std::fmt::Display for NameOrId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Which kind of template.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum AwxKind {
    /// A job template.
    #[default]
    Job,
    /// A workflow template.
    Workflow,
}

/// How a playbook is run.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum JobType {
    /// It changes things.
    Run,
    /// It only looks.
    Check,
}

impl JobType {
    /// As AWX writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Check => "check",
        }
    }
}

/// Whether the output of something is shown in this run's log.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// Line by line, free of the secrets that this run knows.
    #[default]
    Show,
    /// Not at all: it may hold secrets that this run does not know.
    Hide,
}

/// What becomes of something started elsewhere when this run is cancelled.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OnCancel {
    /// It is cancelled too.
    #[default]
    Cancel,
    /// It goes on alone.
    Leave,
}

/// A user's name and password.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The name.
    pub username: SecretName,
    /// The password.
    pub password: SecretName,
}

/// A program: argument list, surroundings, limits.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CommandRun {
    /// A condition on variables: the target is left out when it is not met.
    pub r#if: Option<Condition>,
    /// The program and its arguments, without a shell.
    #[schemars(length(min = 1))]
    pub run: Vec<String>,
    /// Variables of its environment: texts, or `{env: NAME}` for a secret.
    #[serde(default)]
    pub env: IndexMap<String, TextOrSecret>,
    /// Variables of ours that it may see, besides PATH, HOME and the like.
    #[serde(default)]
    pub pass: Vec<String>,
    /// Its working directory, relative to tidegate.yml.
    pub directory: Option<String>,
    /// How long it may take.
    #[serde(default = "half_an_hour")]
    pub timeout: Span,
    /// A text in its output that means failure, whatever its exit code.
    pub failure_marker: Option<String>,
    /// The program that goes back when it fails.
    #[serde(default)]
    pub undo: Vec<String>,
    /// Of a preview: the program that takes away what was made, when the pull request is closed. It may run more than once.
    #[serde(default)]
    pub remove: Vec<String>,
    /// How it is proven that the version runs; without it the exit code is the proof.
    pub proof: Option<Proof>,
}

impl CommandRun {
    /// The removal of what it made: of its variables those that have a value when there is no version any more.
    pub fn removal(&self, has_value: impl Fn(&str) -> bool) -> Self {
        let kept = |value: &TextOrSecret| match value {
            TextOrSecret::Text(text) => has_value(text),
            TextOrSecret::Secret(_) => true,
        };
        let env = self.env.iter().filter(|(_, value)| kept(value)).map(|(name, value)| (name.clone(), value.clone())).collect();
        Self { run: self.remove.clone(), undo: Vec::new(), remove: Vec::new(), proof: None, env, ..self.clone() }
    }
}

pub(super) fn half_an_hour() -> Span {
    Span(Duration::from_secs(1800))
}

/// A text, or the name of the environment variable that holds a secret.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum TextOrSecret {
    /// A text; placeholders are filled.
    Text(String),
    /// A secret.
    Secret(SecretName),
}

/// An HTTP endpoint that deploys.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Webhook {
    /// A condition on variables: the target is left out when it is not met.
    pub r#if: Option<Condition>,
    /// The address; `{env: NAME}` where the address itself is secret.
    pub url: TextOrSecret,
    /// How the request proves who sends it.
    pub auth: Option<WebhookAuth>,
    /// The JSON to send; a description of the delivery when not given.
    pub body: Option<Value>,
    /// The statuses that mean yes.
    #[serde(default = "two_hundreds")]
    pub expect: Vec<u16>,
    /// How it is proven that the version runs: a receiver that accepts a request has done nothing yet.
    pub proof: Proof,
    /// How long request and proof may take.
    #[serde(default = "ten_minutes")]
    pub timeout: Span,
}

fn two_hundreds() -> Vec<u16> {
    vec![200, 201, 202, 204]
}

/// How a webhook proves who sends it.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WebhookAuth {
    /// A signature over id, timestamp and body, as <https://www.standardwebhooks.com> describes it.
    Hmac(SecretName),
    /// HTTP Basic.
    Basic(Login),
    /// A bearer token.
    Bearer(SecretName),
}

/// How it is proven that the version runs.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// An address whose answer must hold a text; asked until it does.
    Http(HttpProof),
    /// A program whose output must hold a text; run until it does.
    Command(CommandProof),
    /// The answer to the webhook itself must hold a text: the receiver works before it answers.
    Answer(Contains),
}

/// An address whose answer must hold a text.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HttpProof {
    /// The address.
    pub url: String,
    /// The text, as {version} or {digest.web}.
    pub contains: String,
}

/// A program whose output must hold a text.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CommandProof {
    /// The program and its arguments.
    #[schemars(length(min = 1))]
    pub run: Vec<String>,
    /// Variables of ours that it may see, besides PATH, HOME and the like.
    #[serde(default)]
    pub pass: Vec<String>,
    /// The text, as {version} or {digest.web}.
    pub contains: String,
}

/// A text that must be there.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Contains {
    /// The text, as {version} or {digest.web}.
    pub contains: String,
}
