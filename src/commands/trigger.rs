//! `tidegate trigger`: starts one pipeline elsewhere, alone, and follows it where that is asked for.

use super::drain::span;
use crate::cli::Format;
use crate::config::{self, MergeMode, OnCancel, SecretName, Span, TextOrSecret, template::Values};
use crate::error::{Error, Reason, Result};
use crate::steps::trigger;
use crate::targets;
use crate::tools::wait::spoken;
use crate::world::World;
use clap::ValueEnum;
use serde_json::{Value, json};
use std::time::Instant;

/// Which system.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Trigger {
    /// A GitHub workflow, or an event that workflows listen to (--event)
    Github(Github),
    /// A GitLab pipeline
    Gitlab(Gitlab),
    /// A Travis CI build
    Travis(Travis),
}

/// What all of them take.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Follow it to its end and take its verdict
    #[arg(long)]
    wait: bool,
    /// How long it may take
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = span)]
    timeout: Span,
    /// What becomes of it when this is cancelled or its time is over
    #[arg(long, value_enum, default_value_t = WhenCancelled::Cancel)]
    on_cancel: WhenCancelled,
    /// The environment variable that holds the token
    #[arg(long, value_name = "NAME")]
    token_env: Option<String>,
    /// What stdout gets
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What becomes of something that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhenCancelled {
    /// It is cancelled too
    Cancel,
    /// It goes on alone
    Leave,
}

/// A GitHub workflow or event.
#[derive(Clone, Debug, clap::Args)]
pub struct Github {
    /// owner/name
    repository: String,
    /// The workflow's file, name or number
    workflow: Option<String>,
    /// The type of an event to send instead
    #[arg(long, value_name = "TYPE")]
    event: Option<String>,
    /// The branch or tag (default: the default branch)
    #[arg(long = "ref", value_name = "REF")]
    reference: Option<String>,
    /// An input; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    input: Vec<String>,
    /// A key of the event's payload: JSON, or text; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    payload: Vec<String>,
    /// The input or key that gets an id of this start, which the workflow shows in its run-name
    #[arg(long, value_name = "NAME")]
    correlate: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// A GitLab pipeline.
#[derive(Clone, Debug, clap::Args)]
pub struct Gitlab {
    /// The project's path or number
    project: String,
    /// The branch or tag
    #[arg(long = "ref", value_name = "REF")]
    reference: String,
    /// The server (default: this job's, or https://gitlab.com)
    #[arg(long, value_name = "URL")]
    host: Option<String>,
    /// A variable; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    variable: Vec<String>,
    /// An input; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    input: Vec<String>,
    /// The environment variable that holds a token which may read the pipeline
    #[arg(long, value_name = "NAME")]
    read_token_env: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// A Travis CI build.
#[derive(Clone, Debug, clap::Args)]
pub struct Travis {
    /// owner/name
    repository: String,
    /// The branch
    #[arg(long, value_name = "NAME", default_value = "master")]
    branch: String,
    /// The commit of that branch (default: its newest one)
    #[arg(long, value_name = "SHA")]
    sha: Option<String>,
    /// The API (default: https://api.travis-ci.com)
    #[arg(long, value_name = "URL")]
    host: Option<String>,
    /// A variable; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// The build's title
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
    /// How the variables and the repository's configuration are put together: deep_merge_append (the default),
    /// deep_merge_prepend, deep_merge, merge or replace
    #[arg(long, value_name = "MODE", value_parser = merge_mode)]
    merge_mode: Option<MergeMode>,
    #[command(flatten)]
    common: Common,
}

/// How what is written in tidegate.yml is called on the command line.
const FLAGS: [(&str, &str); 8] = [
    ("`token: {env: NAME}` in the trigger", "`--token-env NAME`"),
    ("`token: {env: NAME}`", "`--token-env NAME`"),
    ("`read-token: {env: NAME}`", "`--read-token-env NAME`"),
    ("`timeout:` of the trigger", "`--timeout`"),
    ("add `workflow:` (its file, name or number), or `event:`", "name its workflow (file, name or number), or give `--event TYPE`"),
    ("add `workflow:` with the file", "name the file"),
    ("under `payload:`", "as `--payload`"),
    ("under `inputs:`", "as `--input`"),
];

/// Starts it; what stdout gets.
pub async fn run(world: &World, trigger: &Trigger) -> Result<Option<String>> {
    carry_out(world, trigger).await.map_err(|error| {
        let hint = error.hint.map(|hint| FLAGS.iter().fold(hint, |hint, (key, flag)| hint.replace(key, flag)));
        Error { hint, ..error }
    })
}

async fn carry_out(world: &World, trigger: &Trigger) -> Result<Option<String>> {
    let (trigger, format) = match trigger {
        Trigger::Github(github) => (github.config()?, github.common.format),
        Trigger::Gitlab(gitlab) => (gitlab.config()?, gitlab.common.format),
        Trigger::Travis(travis) => (travis.config()?, travis.common.format),
    };
    let mut values = Values::default();
    values.set("project", Some("tidegate".into()));
    trigger::check(world, &values, &trigger)?;
    let began = Instant::now();
    let started = targets::alone(world, "trigger", async |site| trigger::run(site, &values, &trigger).await).await?;
    world.console.good(&format!("{} ({})", started.said, spoken(began.elapsed())));
    if let Some(url) = &started.url {
        world.console.line(&format!("  {url}"));
    }
    let outcome = if trigger.waits() { "success" } else { "started" };
    let json = json!({"schema": 1, "system": trigger.name(), "run": started.run, "url": started.url, "outcome": outcome});
    Ok((format == Format::Json).then(|| format!("{json:#}\n")))
}

impl Common {
    fn on_cancel(&self) -> OnCancel {
        match self.on_cancel {
            WhenCancelled::Cancel => OnCancel::Cancel,
            WhenCancelled::Leave => OnCancel::Leave,
        }
    }

    fn token(&self) -> Option<SecretName> {
        self.token_env.clone().map(|env| SecretName { env })
    }
}

impl Github {
    fn config(&self) -> Result<config::Trigger> {
        let parsed = |text: String| literal_json(serde_json::from_str(&text).unwrap_or(Value::String(text)));
        let payload: Vec<(String, String)> = pairs(&self.payload, "--payload")?;
        for (name, value) in &payload {
            if value.starts_with(['[', '{'])
                && let Err(error) = serde_json::from_str::<Value>(value)
            {
                let sentence = format!("--payload {name}=… begins like JSON and is none: {error}");
                return Err(Error::new(Reason::InputInvalid, sentence).hint("mend it, or write the text as a JSON string, in quotes"));
            }
        }
        let trigger = config::TriggerGithub {
            r#if: None,
            repository: literal(&self.repository),
            workflow: self.workflow.as_deref().map(literal),
            r#ref: self.reference.as_deref().map(literal),
            inputs: pairs(&self.input, "--input")?.into_iter().map(|(name, value)| (name, literal(&value))).collect(),
            event: self.event.as_deref().map(literal),
            payload: payload.into_iter().map(|(name, value)| (name, parsed(value))).collect(),
            correlate: self.correlate.clone(),
            wait: self.common.wait,
            timeout: self.common.timeout,
            token: self.common.token(),
            on_cancel: self.common.on_cancel(),
        };
        judged(config::Trigger::Github(Box::new(trigger)))
    }
}

impl Gitlab {
    fn config(&self) -> Result<config::Trigger> {
        let trigger = config::TriggerGitlab {
            r#if: None,
            host: self.host.as_deref().map(literal),
            project: literal(&self.project),
            r#ref: literal(&self.reference),
            token: self.common.token(),
            variables: texts(&self.variable, "--variable")?,
            inputs: pairs(&self.input, "--input")?.into_iter().map(|(name, value)| (name, literal(&value))).collect(),
            wait: self.common.wait,
            read_token: self.read_token_env.clone().map(|env| SecretName { env }),
            timeout: self.common.timeout,
            on_cancel: self.common.on_cancel(),
        };
        judged(config::Trigger::Gitlab(Box::new(trigger)))
    }
}

impl Travis {
    fn config(&self) -> Result<config::Trigger> {
        let trigger = config::TriggerTravis {
            r#if: None,
            host: self.host.as_deref().map(literal),
            repository: literal(&self.repository),
            branch: literal(&self.branch),
            sha: self.sha.as_deref().map(literal),
            message: self.message.as_deref().map(literal),
            env: pairs(&self.env, "--env")?.into_iter().map(|(name, value)| (name, literal(&value))).collect(),
            merge_mode: self.merge_mode.unwrap_or_default(),
            token: self.common.token().unwrap_or_else(|| SecretName { env: "TRAVIS_TOKEN".into() }),
            wait: self.common.wait,
            timeout: self.common.timeout,
            on_cancel: self.common.on_cancel(),
        };
        judged(config::Trigger::Travis(Box::new(trigger)))
    }
}

/// The rules of the configuration hold here too.
fn judged(trigger: config::Trigger) -> Result<config::Trigger> {
    match config::check_alone(&trigger) {
        None => Ok(trigger),
        Some((message, hint)) => Err(Error::new(Reason::InputInvalid, message).hint(hint)),
    }
}

fn merge_mode(text: &str) -> std::result::Result<MergeMode, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|error| error.to_string())
}

/// Nothing is a placeholder on a command line.
fn literal(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}")
}

fn literal_json(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(literal(&text)),
        Value::Array(items) => Value::Array(items.into_iter().map(literal_json).collect()),
        Value::Object(map) => Value::Object(map.into_iter().map(|(name, item)| (name, literal_json(item))).collect()),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_)) => plain,
    }
}

/// Split at the first `=`: the rest is the value, whatever is in it.
fn pairs(texts: &[String], flag: &str) -> Result<Vec<(String, String)>> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty())?;
        Some((name.to_owned(), value.to_owned()))
    };
    texts
        .iter()
        .map(|text| {
            pair(text).ok_or_else(|| {
                Error::new(Reason::InputInvalid, format!("{flag} {text:?} is no NAME=VALUE")).hint(format!("as {flag} version=1.4.2"))
            })
        })
        .collect()
}

fn texts(given: &[String], flag: &str) -> Result<indexmap::IndexMap<String, TextOrSecret>> {
    Ok(pairs(given, flag)?.into_iter().map(|(name, value)| (name, TextOrSecret::Text(literal(&value)))).collect())
}
