//! `tidegate.yml` as types. The JSON Schema is generated from them, and the checks in `load` walk that schema.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;

mod check;
pub mod load;
pub mod problem;
pub mod schema;
mod support;
pub mod template;
mod tree;
mod walk;

pub use load::{Loaded, load, parse};
pub use support::refuse_unsupported;

/// The file's name at the root of the repository.
pub const FILE_NAME: &str = "tidegate.yml";

/// tidegate.yml: what to build and where to deploy it. Keys that start with `x-` are yours.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The version of this grammar; always 1.
    #[schemars(range(min = 1, max = 1))]
    pub schema: u32,
    /// The project's short name: lower-case letters, digits and dashes.
    #[schemars(regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"))]
    pub project: String,
    /// What may vary from run to run: value = `--set` or action input, then environment variable, then default.
    #[serde(default)]
    pub variables: IndexMap<String, Variable>,
    /// The AWS region and role; an environment may override both.
    #[serde(default)]
    pub aws: Aws,
    /// Where leases, journal and records are kept: auto, forge, s3://bucket/prefix, redis://host or file:path.
    #[serde(default = "auto")]
    #[schemars(regex(pattern = r"^(auto|forge|s3://.+|rediss?://.+|file:.+)$"))]
    pub state: String,
    /// What builds images: auto (the Docker engine at hand) or a remote BuildKit address.
    #[serde(default = "auto")]
    pub builder: String,
    /// Whose pull requests and comments are trusted.
    #[serde(default)]
    pub trust: Trust,
    /// The images this project builds, by name.
    #[serde(default)]
    pub images: IndexMap<String, Image>,
    /// The places versions go to, by name.
    #[serde(default)]
    pub environments: IndexMap<String, Environment>,
    /// The lane for fixes of a released version.
    pub hotfix: Option<Hotfix>,
    /// The comment on the pull request.
    #[serde(default)]
    pub comment: CommentRules,
}

fn auto() -> String {
    "auto".into()
}

fn yes() -> bool {
    true
}

/// One value that may vary.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Variable {
    /// The environment variable to read.
    pub env: Option<String>,
    /// The value when nothing else gives one.
    pub default: Option<String>,
}

/// A secret, named by the environment variable that holds it; its value never stands in this file.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SecretName {
    /// The environment variable that holds the secret.
    pub env: String,
}

/// AWS access.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Aws {
    /// The region, as eu-central-1.
    #[schemars(regex(pattern = r"^[a-z]{2}(-[a-z]+)+-\d$"))]
    pub region: Option<String>,
    /// The role to assume, as arn:aws:iam::123456789012:role/ci.
    #[schemars(regex(pattern = r"^arn:aws[a-z-]*:iam::\d{12}:role/.+$"))]
    pub role: Option<String>,
}

/// Whose pull requests and comments are trusted.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Trust {
    /// Bots whose pull requests get previews.
    #[serde(default)]
    pub bots: Vec<String>,
    /// Who may give directives in comments.
    #[serde(default)]
    pub directives: Vec<Association>,
}

/// How a person belongs to the repository, as GitHub says it.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Association {
    Owner,
    Member,
    Collaborator,
    Contributor,
}

/// An image: what it is built from and where it is pushed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Image {
    /// Registry host and repository, without a tag.
    pub repository: String,
    /// The folder sent to the builder.
    #[serde(default = "dot")]
    pub context: String,
    /// The Dockerfile inside the context, perhaps with a fallback.
    #[serde(default)]
    pub dockerfile: Dockerfile,
    /// The stage to build; the last one when not given.
    pub target: Option<String>,
    /// Build arguments. They stand in the image's history: never put a secret here.
    #[serde(default)]
    pub args: IndexMap<String, String>,
    /// Build secrets, mounted for single RUN steps (`--mount=type=secret,id=NAME`).
    #[serde(default)]
    pub secrets: IndexMap<String, SecretName>,
    /// Lets RUN steps use the SSH agent (`--mount=type=ssh`).
    #[serde(default)]
    pub ssh: bool,
    /// Platforms, as linux/amd64; the engine's own when empty.
    #[serde(default)]
    pub platforms: Vec<String>,
    /// Where build layers are cached between runs.
    #[serde(default)]
    pub cache: Cache,
    /// In a monorepo: globs; the image is built only when one of these files changed.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Labels to add to the image.
    #[serde(default)]
    pub labels: IndexMap<String, String>,
    /// Attach a provenance attestation.
    #[serde(default)]
    pub provenance: bool,
    /// What to do about the ECR repository itself.
    #[serde(default)]
    pub ensure_repository: EnsureRepository,
    /// How a release gets its image: by copying the digest that was built at merge, or by a new build.
    #[serde(default)]
    pub promote: Promote,
}

fn dot() -> String {
    ".".into()
}

/// Which Dockerfile.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Dockerfile {
    /// One path; placeholders are allowed.
    Path(String),
    /// A path, and another one for when the first does not exist.
    WithFallback(DockerfileChoice),
}

impl Default for Dockerfile {
    fn default() -> Self {
        Self::Path("Dockerfile".into())
    }
}

/// A Dockerfile with a fallback.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DockerfileChoice {
    /// The first choice, as "Dockerfile.{environment}".
    pub file: String,
    /// Used when the first choice does not exist.
    pub fallback: String,
}

/// Where build layers are cached between runs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Cache {
    /// A named kind.
    Kind(CacheKind),
    /// A registry reference of its own.
    At(CacheAt),
    #[default]
    #[serde(skip)]
    /// The engine's own cache only.
    Engine,
}

/// A kind of build cache.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CacheKind {
    /// No cache at all: every step runs.
    None,
    /// Layers of the images already in the repository.
    Registry,
    /// GitHub's cache service.
    Gha,
}

/// A cache reference.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheAt {
    /// An image reference that holds the cache.
    pub registry: String,
}

/// What to do about the ECR repository itself.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum EnsureRepository {
    /// Leave it alone, or only check that it exists.
    Mode(EnsureMode),
    /// Create it like this when it does not exist.
    Create(RepositoryTemplate),
}

impl Default for EnsureRepository {
    fn default() -> Self {
        Self::Mode(EnsureMode::Check)
    }
}

/// Leave the repository alone, or check it.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum EnsureMode {
    /// Do not look.
    Off,
    /// Fail early, with the command to create it, when it does not exist.
    Check,
}

/// How a new ECR repository is made.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RepositoryTemplate {
    /// Whether tags can be overwritten.
    pub mutability: Option<Mutability>,
    /// Scan images when they are pushed.
    #[serde(default)]
    pub scan_on_push: bool,
    /// A lifecycle policy: the path of a JSON file in the repository.
    pub lifecycle: Option<String>,
    /// The KMS key for encryption; AES-256 when not given.
    pub kms: Option<String>,
    /// AWS tags of the repository.
    #[serde(default)]
    pub tags: IndexMap<String, String>,
}

/// Whether tags of an ECR repository can be overwritten.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Mutability {
    /// All or none.
    Mode(MutabilityMode),
    /// None but these (wildcards).
    ImmutableExcept(ImmutableExcept),
}

/// All tags or none.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MutabilityMode {
    /// Tags can be overwritten.
    Mutable,
    /// Tags stay.
    Immutable,
}

/// Immutable but for these tags.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ImmutableExcept {
    /// Wildcards of tags that may move, as latest or env-*.
    pub immutable_except: Vec<String>,
}

/// How a release gets its image.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Promote {
    /// The same manifest bytes get the new tag.
    #[default]
    Digest,
    /// A new build.
    Rebuild,
}

/// A place versions go to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Environment {
    /// Which events lead here.
    pub when: OneOrMany<When>,
    /// A condition on variables.
    pub r#if: Option<Condition>,
    /// The name of a preview, as "{project}-pr-{pr}".
    pub name: Option<String>,
    /// Extra image tags, as latest; they only move forward.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Whether pre-releases come here (`when: release`).
    #[serde(default)]
    pub prereleases: bool,
    /// Whether draft pull requests come here (`when: pull-request`).
    #[serde(default)]
    pub drafts: bool,
    /// Only pull requests with one of these labels.
    #[serde(default)]
    pub labels: Vec<String>,
    /// How long a preview lives after its last change.
    pub ttl: Option<Span>,
    /// How many previews may live at once.
    #[schemars(range(min = 1, max = 1000))]
    pub max: Option<u32>,
    /// AWS access here, over the project's.
    #[serde(default)]
    pub aws: Aws,
    /// The same digest must have succeeded there before.
    pub after: Option<String>,
    /// How long it must have run there.
    pub soak: Option<Span>,
    /// Times in which nothing is deployed here.
    #[serde(default)]
    pub freeze: Vec<Freeze>,
    /// Conditions before the switch.
    #[serde(default)]
    pub gates: Vec<Gate>,
    /// A database backup before the switch.
    pub backup: Option<Value>,
    /// A database migration.
    pub migrate: Option<Migrate>,
    /// The targets; without any, the images are only built and tagged.
    #[serde(default)]
    pub deploy: Vec<Target>,
    /// What happens to the other targets when one fails.
    #[serde(default)]
    pub on_partial: OnPartial,
    /// Pipelines to start elsewhere after the deploy.
    #[serde(default)]
    pub trigger: Vec<Trigger>,
    /// Checks after the deploy.
    #[serde(default)]
    pub verify: Vec<Verify>,
    /// Who is told, besides the pull request.
    #[serde(default)]
    pub notify: Vec<Notify>,
}

/// One value or a list of them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// Several.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The values, however many were written.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// An event, or a branch or tag, that leads to an environment.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum When {
    /// A kind of event.
    Event(WhenEvent),
    /// A push to branches that match.
    Branch(WhenBranch),
    /// A push of tags that match.
    Tag(WhenTag),
}

/// A kind of event that leads to an environment.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum WhenEvent {
    /// A push to the default branch.
    Merge,
    /// A published release, or a version tag, on the default branch.
    Release,
    /// A pull request is opened or changed; when it is closed, what was made is removed.
    PullRequest,
    /// Only by hand: `tidegate deploy ENV VERSION` or workflow_dispatch.
    Manual,
}

/// Branches that lead to an environment.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WhenBranch {
    /// A glob, as release/**.
    pub branch: String,
    /// Globs of branches that do not.
    #[serde(default)]
    pub except: Vec<String>,
}

/// Tags that lead to an environment.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WhenTag {
    /// A regular expression that the whole tag must match.
    pub tag: String,
}

/// A condition on a variable.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// The variable that must be set and not empty.
    pub var: String,
}

/// A time in which nothing is deployed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Freeze {
    /// The beginning, as "Fri 16:00" or "2026-12-24 12:00".
    pub from: String,
    /// The end.
    pub to: String,
    /// The time zone, as Europe/Zurich.
    pub zone: String,
}

/// A condition before the switch.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// Wait until SQS queues are quiet.
    Drain(Drain),
    /// Look at the registry's scan findings.
    Scan(Scan),
}

/// Wait until SQS queues are quiet.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Drain {
    /// Queue names, URLs, or prefixes that end in `*`.
    #[schemars(length(min = 1))]
    pub queues: Vec<String>,
    /// The regions to look in; the environment's own when empty.
    #[serde(default)]
    pub regions: Vec<String>,
    /// How long all counts must stay zero without a break.
    #[serde(default = "two_minutes")]
    pub quiet: Span,
    /// How long to wait in all.
    #[serde(default = "two_hours")]
    pub timeout: Span,
    /// Stops the producers; runs before the wait.
    pub pause: Option<Hook>,
    /// Starts the producers again; always runs afterwards, also after a failure.
    pub resume: Option<Hook>,
    /// What a timeout means.
    #[serde(default)]
    pub on_timeout: OnTimeout,
}

fn two_minutes() -> Span {
    Span(Duration::from_secs(120))
}

fn two_hours() -> Span {
    Span(Duration::from_secs(7200))
}

/// A program to run, without a shell.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The program and its arguments.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
}

/// What a timeout means.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// Stop; nothing is deployed.
    #[default]
    Fail,
    /// Say so and go on.
    Warn,
}

/// Look at the registry's scan findings.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// The highest severity that is let through.
    pub max: Severity,
}

/// A severity of a finding.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Severity {
    Informational,
    Low,
    Medium,
    High,
    Critical,
}

/// A database migration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Migrate {
    /// How it is run.
    pub run: Value,
    /// Before or after the switch.
    #[serde(default)]
    pub when: MigrateWhen,
    /// Whether the previous version works with the new schema, so that rollback stays possible.
    #[serde(default)]
    pub backward_compatible: bool,
}

/// Before or after the switch.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum MigrateWhen {
    #[default]
    Before,
    After,
}

/// Where an environment is deployed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// A Kubernetes cluster.
    Kubernetes(Kubernetes),
    /// A Docker Swarm.
    Swarm(Value),
    /// Heroku.
    Heroku(Value),
    /// An AWX job template.
    Awx(Value),
    /// Amazon ECS.
    Ecs(Value),
    /// tidegate's own CD server, or the ENAC one.
    #[serde(rename = "app_deploy")]
    AppDeploy(Value),
    /// A program.
    Command(Value),
    /// An HTTP endpoint.
    Webhook(Value),
}

/// Workloads in a Kubernetes cluster.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Kubernetes {
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
    /// Manifests to apply first.
    #[serde(default)]
    pub apply: Vec<String>,
    /// How long the rollout may take.
    #[serde(default = "ten_minutes")]
    pub timeout: Span,
    /// Restart pods even when nothing changes.
    #[serde(default)]
    pub restart: Restart,
    /// Go back to the previous version when the rollout fails.
    pub rollback: Option<Rollback>,
}

fn ten_minutes() -> Span {
    Span(Duration::from_secs(600))
}

/// Restart pods even when nothing changes.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// A change of the image restarts pods, nothing else does.
    #[default]
    Never,
    /// When the image is the same as before.
    WhenUnchanged,
    /// Every time.
    Always,
}

/// Go back when the rollout fails.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Rollback {
    Auto,
    Never,
}

/// What happens to the other targets when one fails.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OnPartial {
    /// Later targets are left alone.
    #[default]
    Stop,
    /// Later targets are deployed all the same; the run fails.
    Continue,
}

/// A pipeline to start elsewhere.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// A GitHub workflow.
    Github(TriggerGithub),
    /// A GitLab pipeline.
    Gitlab(Value),
    /// A Travis CI build.
    Travis(Value),
}

/// A GitHub workflow to start.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TriggerGithub {
    /// owner/name.
    pub repository: String,
    /// The workflow's file name, id or name.
    pub workflow: String,
    /// Its inputs.
    #[serde(default)]
    pub inputs: IndexMap<String, String>,
    /// Follow it to its end and take its verdict.
    #[serde(default)]
    pub wait: bool,
}

/// A check after the deploy.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// The address to ask.
    pub http: String,
    /// The status it must answer.
    #[schemars(range(min = 100, max = 599))]
    pub expect: Option<u16>,
}

/// Who is told, besides the pull request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Notify {
    /// A Slack channel.
    Slack(Slack),
    /// E-mail.
    Email(Value),
}

/// A Slack channel.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slack {
    /// The incoming webhook's address.
    pub webhook: SecretName,
    /// When to tell.
    #[serde(default = "yes_list")]
    pub on: Vec<NotifyOn>,
}

fn yes_list() -> Vec<NotifyOn> {
    vec![NotifyOn::Failure, NotifyOn::Success]
}

/// When to tell.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum NotifyOn {
    Failure,
    Success,
}

/// The lane for fixes of a released version.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hotfix {
    /// Globs of branches that may hold hot fixes.
    #[serde(default)]
    pub branches: Vec<String>,
    /// The environment a hot fix goes to.
    pub to: String,
}

/// The comment on the pull request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CommentRules {
    /// When to comment.
    #[serde(default)]
    pub mode: CommentMode,
    /// A preview is of the test merge rather than of the head.
    #[serde(default = "yes")]
    pub preview_of_merge: bool,
}

impl Default for CommentRules {
    fn default() -> Self {
        Self { mode: CommentMode::Always, preview_of_merge: true }
    }
}

/// When to comment.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum CommentMode {
    /// After every delivery.
    #[default]
    Always,
    /// Only when something failed.
    OnFailure,
    /// Not at all.
    Never,
}

/// A length of time, written as 30s, 10m, 2h, 7d or combined as 1h30m.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Span).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": r"^(\d{1,6}(ms|s|m|h|d|w))+$",
            "description": "A length of time, as 30s, 10m, 2h, 7d or 1h30m."
        })
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&humantime::format_duration(self.0).to_string().replace(' ', ""))
    }
}
