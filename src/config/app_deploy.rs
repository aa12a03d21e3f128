//! `app_deploy:` of `deploy:`: an app on a CD server, tidegate's own or the ENAC one.

use super::{Condition, Output, Proof, SecretName, Span, TextOrSecret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// An app on a CD server: tidegate's own, or the ENAC one.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AppDeploy {
    /// A condition on variables: the target is left out when it is not met.
    pub r#if: Option<Condition>,
    /// The server's address, as https://cd.example.com.
    pub url: String,
    /// The deployment's id there; `{env: NAME}` where it is kept as a secret.
    pub deployment_id: TextOrSecret,
    /// The deployment's secret.
    pub deployment_secret: SecretName,
    /// What to do after a job that was running already: it may have begun before this version was there.
    #[serde(default)]
    pub busy: Busy,
    /// How it is proven that the version runs; without it the job's own word is the proof.
    pub proof: Option<Proof>,
    /// How long the pause between two looks at the job is.
    #[serde(default = "two_seconds")]
    pub interval: Span,
    /// How long everything may take.
    #[serde(default = "eight_minutes")]
    pub timeout: Span,
    /// Whether the job's output is shown here.
    #[serde(default)]
    pub output: Output,
}

/// What to do when a job of the app runs already.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Busy {
    /// Follow it to its end, then deploy once more.
    #[default]
    Again,
    /// Follow it to its end and take its verdict, as the original client does.
    Merge,
}

fn two_seconds() -> Span {
    Span(Duration::from_secs(2))
}

fn eight_minutes() -> Span {
    Span(Duration::from_secs(480))
}
