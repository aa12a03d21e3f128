//! `heroku:` of `deploy:`, and `heroku-run:` of `migrate:`: an app on Heroku and what it consists of.

use super::targets::half_an_hour;
use super::{Condition, OnCancel, Rollback, SecretName, Span, TextOrSecret};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// An app on Heroku, released from the image that was built.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Heroku {
    /// A condition on variables: the target is left out when it is not met.
    pub r#if: Option<Condition>,
    /// The app's exact name. A text with placeholders is made lower-case and cut to 30 characters, then with a hash at its end.
    pub app: String,
    /// The API key.
    #[serde(default = "heroku_key")]
    pub token: SecretName,
    /// The process types and the image (a key of `images:`) that each runs; `web` with the only image when not given.
    #[serde(default)]
    pub processes: IndexMap<String, String>,
    /// How the app is made when there is none; without this a missing app is an error.
    pub create: Option<HerokuCreate>,
    /// The pipeline that the app belongs to.
    pub pipeline: Option<HerokuPipeline>,
    /// Add-ons that must be there: made when they are missing, and waited for.
    #[serde(default)]
    pub addons: Vec<HerokuAddon>,
    /// Config vars.
    #[serde(default)]
    pub config: HerokuConfig,
    /// How many dynos of each process type run, and of which size; as they are when not given.
    #[serde(default)]
    pub dynos: IndexMap<String, HerokuDynos>,
    /// Switch maintenance mode on around the switch.
    #[serde(default)]
    pub maintenance: bool,
    /// Whether the output of the release phase is shown here.
    #[serde(default)]
    pub output: super::Output,
    /// How long add-ons, release phase and dynos may take, each.
    #[serde(default = "twenty_minutes")]
    pub timeout: Span,
    /// Go back to the release before when the new one does not run.
    pub rollback: Option<Rollback>,
}

pub(super) fn heroku_key() -> SecretName {
    SecretName { env: "HEROKU_API_KEY".into() }
}

fn twenty_minutes() -> Span {
    Span(Duration::from_secs(1200))
}

/// How an app is made.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HerokuCreate {
    /// The team that owns it; the token's own account when not given.
    pub team: Option<String>,
    /// The region, as us or eu.
    pub region: Option<String>,
}

/// The pipeline of an app.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HerokuPipeline {
    /// Its name or id.
    pub name: String,
    /// The stage of the app there.
    pub stage: HerokuStage,
}

/// A stage of a pipeline.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum HerokuStage {
    Test,
    Review,
    Development,
    Staging,
    Production,
}

impl HerokuStage {
    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Review => "review",
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}

/// An add-on.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HerokuAddon {
    /// Service and plan, as heroku-postgresql:essential-0. An add-on of the same service, whatever its plan, is taken as it is.
    pub plan: String,
    /// Settings of a new one, as version.
    #[serde(default)]
    pub config: IndexMap<String, String>,
}

/// Config vars in layers: later ones go over earlier ones.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HerokuConfig {
    /// Of every app: texts, `{env: NAME}` for a secret, `null` removes.
    #[serde(default)]
    pub vars: IndexMap<String, Option<TextOrSecret>>,
    /// By environment (its key in this file).
    #[serde(default)]
    pub per_environment: IndexMap<String, IndexMap<String, Option<TextOrSecret>>>,
    /// By branch: a glob, and what goes over the rest there; all that match, in their order.
    #[serde(default)]
    pub per_branch: IndexMap<String, IndexMap<String, Option<TextOrSecret>>>,
}

/// Dynos of a process type: how many, or how many of which size.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum HerokuDynos {
    /// How many.
    Quantity(u32),
    /// How many of which size.
    Sized(HerokuSized),
}

impl HerokuDynos {
    /// How many.
    pub fn quantity(&self) -> u32 {
        match self {
            Self::Quantity(quantity) => *quantity,
            Self::Sized(sized) => sized.quantity,
        }
    }

    /// Of which size; as it is when not given.
    pub fn size(&self) -> Option<&str> {
        match self {
            Self::Quantity(_) => None,
            Self::Sized(sized) => Some(&sized.size),
        }
    }
}

/// Dynos of a size.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HerokuSized {
    /// How many.
    pub quantity: u32,
    /// The size, as standard-1x.
    pub size: String,
}

/// A one-off dyno that runs a program of the app to its end.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HerokuRun {
    /// The app, as in the target.
    pub app: String,
    /// The API key.
    #[serde(default = "heroku_key")]
    pub token: SecretName,
    /// The program and its arguments.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// Further variables: texts, or `{env: NAME}` for a secret.
    #[serde(default)]
    pub env: IndexMap<String, TextOrSecret>,
    /// The process type whose image it runs in; `run` when not given, which is that of `web`.
    pub r#type: Option<String>,
    /// The size of the dyno, as standard-2x.
    pub size: Option<String>,
    /// How long it may take.
    #[serde(default = "half_an_hour")]
    pub timeout: Span,
    /// A text in its output that means failure, whatever its exit code.
    pub failure_marker: Option<String>,
    /// What becomes of it when this run is cancelled.
    #[serde(default)]
    pub on_cancel: OnCancel,
}
