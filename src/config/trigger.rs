//! `trigger:` of an environment: pipelines to start elsewhere after the deploy.

use super::{Condition, OnCancel, SecretName, Span, TextOrSecret};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A pipeline to start elsewhere.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// A GitHub workflow (`workflow`), or an event that workflows listen to (`event`).
    Github(Box<TriggerGithub>),
    /// A GitLab pipeline.
    Gitlab(Box<TriggerGitlab>),
    /// A Travis CI build.
    Travis(Box<TriggerTravis>),
}

/// A GitHub workflow to start (`workflow_dispatch`), or an event to send (`repository_dispatch`).
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TriggerGithub {
    /// A condition on variables: nothing is started when it is not met.
    pub r#if: Option<Condition>,
    /// owner/name.
    pub repository: String,
    /// The workflow's file name, id or name. With `event`: the workflow that the event starts, which `wait` follows.
    pub workflow: Option<String>,
    /// The branch or tag whose workflow file is run; the default branch when not given.
    pub r#ref: Option<String>,
    /// Its inputs: at most 25, all of them text.
    #[serde(default)]
    pub inputs: IndexMap<String, String>,
    /// The type of a `repository_dispatch`, instead of a workflow: at most 100 characters.
    pub event: Option<String>,
    /// What the event carries: at most 10 keys, 64 KB.
    #[serde(default)]
    pub payload: IndexMap<String, Value>,
    /// The input (or key of the payload) that gets an id of this start, which the workflow shows in its `run-name:`. It tells
    /// runs apart where GitHub does not say which one was started.
    pub correlate: Option<String>,
    /// Follow it to its end and take its verdict.
    #[serde(default)]
    pub wait: bool,
    /// How long it may take.
    #[serde(default = "super::targets::one_hour")]
    pub timeout: Span,
    /// A token with `actions: write` (an event: `contents: write`) there; the run's own when not given.
    pub token: Option<SecretName>,
    /// What becomes of the run when ours is cancelled or its time is over, where `wait` follows it.
    #[serde(default)]
    pub on_cancel: OnCancel,
}

/// A GitLab pipeline to start.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TriggerGitlab {
    /// A condition on variables: nothing is started when it is not met.
    pub r#if: Option<Condition>,
    /// The server; this job's own, or https://gitlab.com.
    pub host: Option<String>,
    /// The project's path or number.
    pub project: String,
    /// The branch or tag.
    pub r#ref: String,
    /// A pipeline trigger token of that project; this job's own token (`CI_JOB_TOKEN`) when not given.
    pub token: Option<SecretName>,
    /// Variables of the pipeline: texts, or `{env: NAME}` for a secret.
    #[serde(default)]
    pub variables: IndexMap<String, TextOrSecret>,
    /// Inputs of the pipeline.
    #[serde(default)]
    pub inputs: IndexMap<String, String>,
    /// Follow it to its end and take its verdict.
    #[serde(default)]
    pub wait: bool,
    /// A token that may read the pipeline (`read_api`), for `wait`; `GITLAB_TOKEN` when not given.
    pub read_token: Option<SecretName>,
    /// How long it may take.
    #[serde(default = "super::targets::one_hour")]
    pub timeout: Span,
    /// What becomes of the pipeline when this run is cancelled or its time is over, where `wait` follows it.
    #[serde(default)]
    pub on_cancel: OnCancel,
}

/// A Travis CI build to start.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TriggerTravis {
    /// A condition on variables: nothing is started when it is not met.
    pub r#if: Option<Condition>,
    /// The API; https://api.travis-ci.com when not given.
    pub host: Option<String>,
    /// owner/name.
    pub repository: String,
    /// The branch.
    #[serde(default = "master")]
    pub branch: String,
    /// The commit of that branch; its newest one when not given.
    pub sha: Option<String>,
    /// The build's title.
    pub message: Option<String>,
    /// Variables of the build. They stand in its log: secrets belong into the repository's settings at Travis.
    #[serde(default)]
    pub env: IndexMap<String, String>,
    /// How they and the repository's own configuration are put together.
    #[serde(default)]
    pub merge_mode: MergeMode,
    /// An API token.
    pub token: SecretName,
    /// Follow the builds to their end and take their verdict.
    #[serde(default)]
    pub wait: bool,
    /// How long it may take.
    #[serde(default = "super::targets::one_hour")]
    pub timeout: Span,
    /// What becomes of the builds when this run is cancelled or its time is over, where `wait` follows them.
    #[serde(default)]
    pub on_cancel: OnCancel,
}

/// How Travis puts two configurations together.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum MergeMode {
    #[default]
    DeepMergeAppend,
    DeepMergePrepend,
    DeepMerge,
    Merge,
    Replace,
}

fn master() -> String {
    "master".into()
}
