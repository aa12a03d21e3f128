//! What an environment does: gates, targets, and what comes after them.

use super::{SecretName, Span};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// A condition before the switch.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// Wait until SQS queues are quiet.
    Drain(Drain),
    /// Look at the registry's scan findings.
    Scan(Scan),
}

/// Wait until SQS queues are quiet.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
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
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The program and its arguments.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
}

/// What a timeout means.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// Stop; nothing is deployed.
    #[default]
    Fail,
    /// Say so and go on.
    Warn,
}

/// Look at the registry's scan findings.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// The highest severity that is let through.
    pub max: Severity,
}

/// A severity of a finding.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
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
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
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
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum MigrateWhen {
    #[default]
    Before,
    After,
}

/// Where an environment is deployed.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
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

impl Target {
    /// The workloads, where it is a cluster; no other target can be deployed to yet.
    pub fn kubernetes(&self) -> Option<&Kubernetes> {
        match self {
            Self::Kubernetes(kubernetes) => Some(kubernetes),
            Self::Swarm(_) | Self::Heroku(_) | Self::Awx(_) | Self::Ecs(_) | Self::AppDeploy(_) | Self::Command(_) | Self::Webhook(_) => {
                None
            }
        }
    }
}

/// Workloads in a Kubernetes cluster.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
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
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Rollback {
    Auto,
    Never,
}

/// What happens to the other targets when one fails.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OnPartial {
    /// Later targets are left alone.
    #[default]
    Stop,
    /// Later targets are deployed all the same; the run fails.
    Continue,
}

/// A pipeline to start elsewhere.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
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
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
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
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// The address to ask.
    pub http: String,
    /// The status it must answer.
    #[schemars(range(min = 100, max = 599))]
    pub expect: Option<u16>,
}

/// Who is told, besides the pull request.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Notify {
    /// A Slack channel.
    Slack(Slack),
    /// E-mail.
    Email(Value),
}

/// A Slack channel.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
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
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum NotifyOn {
    Failure,
    Success,
}
