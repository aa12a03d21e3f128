//! `migrate:` of an environment: what runs around the switch, once, to its end.

use super::targets::half_an_hour;
use super::{CommandRun, EcsRun, HerokuRun, OnCancel, Span};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A database migration.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Migrate {
    /// How it is run.
    pub run: Runner,
    /// Before or after the switch.
    #[serde(default)]
    pub when: MigrateWhen,
    /// Whether the previous version works with the new schema, so that rollback stays possible.
    #[serde(default)]
    pub backward_compatible: bool,
    /// What happens to the new version when what runs after the switch fails.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// What happens to the new version when what runs after the switch fails.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Everything stays as it is; the run fails.
    #[default]
    Stop,
    /// The run fails, and goes back to the version before, as `tidegate rollback` does.
    Rollback,
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

/// What runs something to its end and tells its exit code.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runner {
    /// A Job in a Kubernetes cluster.
    KubernetesJob(Box<KubernetesJob>),
    /// A one-off dyno of a Heroku app, after the switch.
    HerokuRun(Box<HerokuRun>),
    /// A task of an ECS service, with its network and the version's image.
    EcsTask(Box<EcsRun>),
    /// A program beside tidegate.
    Command(Box<CommandRun>),
}

/// A Job in a Kubernetes cluster, with the version's image.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct KubernetesJob {
    /// The context of the kubeconfig.
    pub context: Option<String>,
    /// The EKS cluster's name.
    pub cluster: Option<String>,
    /// The namespace.
    pub namespace: String,
    /// The workload whose pods are the pattern (environment, volumes, service account), as deployment/web.
    pub from: Option<String>,
    /// A file with a Job, relative to tidegate.yml, instead of `from`.
    pub manifest: Option<String>,
    /// The container of the pattern; when not given the only one, or the one whose image has the same repository.
    pub container: Option<String>,
    /// The image (a key of `images:`).
    pub image: Option<String>,
    /// What is run in it.
    #[serde(default)]
    pub command: Vec<String>,
    /// Further variables.
    #[serde(default)]
    pub env: IndexMap<String, String>,
    /// How long it may take, its time in the queue included.
    #[serde(default = "half_an_hour")]
    pub timeout: Span,
    /// A text in its output that means failure, whatever its exit code.
    pub failure_marker: Option<String>,
    /// What becomes of it when this run is cancelled.
    #[serde(default)]
    pub on_cancel: OnCancel,
}
