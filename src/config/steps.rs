//! What an environment does around its targets: gates before them, and what comes after.

use super::{SecretName, Span};
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
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scan {
    /// The highest severity that is let through.
    pub max: Severity,
    /// How long to wait for the scan.
    #[serde(default = "a_quarter")]
    pub timeout: Span,
    /// How long the findings of a scan that has just ended must stay the same: ECR says COMPLETE before it shows them.
    #[serde(default = "half_a_minute")]
    pub settle: Span,
    /// What an image means that ECR cannot scan.
    #[serde(default)]
    pub on_unsupported: OnUnsupported,
    /// Findings that are let through, for a time.
    #[serde(default)]
    pub allow: Vec<AllowedFinding>,
}

fn a_quarter() -> Span {
    Span(Duration::from_secs(900))
}

fn half_a_minute() -> Span {
    Span(Duration::from_secs(30))
}

/// What an image means that ECR cannot scan.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OnUnsupported {
    /// It is refused.
    #[default]
    Fail,
    /// It is let through with a warning.
    Warn,
}

/// A finding that is let through, for a time.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AllowedFinding {
    /// Its name, as CVE-2026-1234.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._:-]{2,80}$"))]
    pub finding: String,
    /// The last day on which it is let through, as 2026-12-31, in UTC.
    #[schemars(regex(pattern = r"^\d{4}-\d{2}-\d{2}$"))]
    pub until: String,
    /// Why.
    #[schemars(length(min = 1))]
    pub reason: String,
}

/// A severity of a finding.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Severity {
    /// Nothing is let through, not even what has no severity yet.
    None,
    Informational,
    Low,
    Medium,
    High,
    Critical,
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
