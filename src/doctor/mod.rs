//! `tidegate doctor`: tries everything that a run will need, and changes nothing.
//!
//! Each finding says what is missing and where to add it. Permissions to write are tried with requests that the other
//! side refuses for their content after it has looked at the permission.

use crate::checkout::Checkout;
use crate::cli::{File, Format};
use crate::commands::place::Place;
use crate::config::{self, Loaded};
use crate::context::{Decision, Outcome, Request};
use crate::delivery::set_of;
use crate::error::{Error, Reason, Result};
use crate::event::FactFlags;
use crate::plan::{self, Plan};
use crate::variables::Variables;
use crate::version::Version;
use crate::world::World;
use serde::Serialize;
use serde_json::json;

mod cloud;
mod forge;
mod here;

/// What to look at.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Only this environment of tidegate.yml (default: all)
    #[arg(value_name = "ENV")]
    environment: Option<String>,
    #[command(flatten)]
    file: File,
    /// What stdout gets
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    facts: FactFlags,
}

/// How something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Good,
    Note,
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    topic: String,
    level: Level,
    said: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
}

impl Finding {
    fn good(topic: &str, said: impl Into<String>) -> Self {
        Self { topic: topic.to_owned(), level: Level::Good, said: said.into(), fix: None, reason: None }
    }

    /// Nothing that stops a run; good to know.
    fn note(topic: &str, said: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { topic: topic.to_owned(), level: Level::Note, said: said.into(), fix: Some(fix.into()), reason: None }
    }

    fn bad(topic: &str, error: &Error) -> Self {
        let mut said = error.sentence.clone();
        error.detail.iter().for_each(|line| said.push_str(&format!("\n{line}")));
        Self { topic: topic.to_owned(), level: Level::Bad, said, fix: error.hint.clone(), reason: Some(error.reason) }
    }

    /// What an attempt came to.
    fn of(topic: &str, tried: Result<String>) -> Self {
        match tried {
            Ok(said) => Self::good(topic, said),
            Err(error) => Self::bad(topic, &error),
        }
    }
}

/// Looks at everything; what stdout gets, and the exit code.
pub async fn run(world: &World, args: &Args) -> Result<(Option<String>, u8)> {
    let mut found = here::provider(world);
    match Place::of(world, &args.file, &args.facts) {
        Ok(place) => with_config(world, args, &place, &mut found).await?,
        Err(error) => {
            found.push(Finding::bad("configuration", &error));
            found.extend(here::tools());
        }
    }
    let bad: Vec<&Finding> = found.iter().filter(|finding| finding.level == Level::Bad).collect();
    let code = bad.iter().filter_map(|finding| finding.reason).map(Reason::exit_code).max().unwrap_or(0);
    if args.format == Format::Json {
        let clean = world.console.redactor().clean(&format!("{:#}\n", json!({"schema": 1, "ok": bad.is_empty(), "findings": found})));
        return Ok((Some(clean), code));
    }
    let mut topic = "";
    for finding in &found {
        if finding.topic != topic {
            topic = &finding.topic;
            world.console.bold(topic);
        }
        tell(world, finding);
    }
    let notes = found.iter().filter(|finding| finding.level == Level::Note).count();
    let line = format!("{} looked at: {} to mend, {notes} to know", found.len(), bad.len());
    if bad.is_empty() {
        world.console.good(&line)
    } else {
        world.console.bad(&line)
    }
    Ok((None, code))
}

fn tell(world: &World, finding: &Finding) {
    let mut lines = finding.said.lines();
    let first = lines.next().unwrap_or_default();
    match finding.level {
        Level::Good => world.console.good(first),
        Level::Bad => world.console.bad(&format!("{first}{}", finding.reason.map(|reason| format!(" ({reason})")).unwrap_or_default())),
        Level::Note => world.console.line(&format!("! {first}")),
    }
    lines.for_each(|line| world.console.line(&format!("    {line}")));
    for line in finding.fix.iter().flat_map(|fix| fix.lines()) {
        world.console.line(&format!("  → {line}"));
    }
}

async fn with_config(world: &World, args: &Args, place: &Place, found: &mut Vec<Finding>) -> Result<()> {
    let config = &place.loaded.config;
    if let Some(name) = args.environment.as_ref().filter(|name| !config.environments.contains_key(*name)) {
        return Err(crate::context::unknown_environment(config, name));
    }
    found.push(here::configuration(&place.loaded));
    found.extend(here::context(world, place));
    let set = set_of(&crate::inputs::Inputs::of(&world.vars), &[])?;
    let variables = match Variables::resolve(config, &set, &world.vars) {
        Ok(variables) => variables,
        Err(error) => {
            found.push(Finding::bad("configuration", &error));
            return Ok(());
        }
    };
    found.extend(here::secrets(world, &place.loaded, &variables));
    found.extend(here::checkout(place, &Checkout::at(&place.loaded.folder)));
    found.extend(here::tools());
    if !config.images.is_empty() {
        found.push(Finding::of("builder", crate::steps::engine::describe(&world.vars).await));
    }
    found.extend(forge::look(world, place).await);
    found.extend(here::state(world, place).await);
    let mut plans = Vec::new();
    for name in config.environments.keys().filter(|name| args.environment.as_ref().is_none_or(|only| only == *name)) {
        match plan_of(place, &variables, name) {
            Ok(plan) => plans.push((name.clone(), plan)),
            Err(error) => found.push(Finding::bad(&format!("environment {name}"), &error)),
        }
    }
    found.extend(cloud::look(world, &place.loaded, &plans).await);
    Ok(())
}

/// What a delivery to this environment would consist of; the version is nobody's.
fn plan_of(place: &Place, variables: &Variables, name: &str) -> Result<Plan> {
    let Loaded { config, .. } = &place.loaded;
    let mut event = place.event.clone();
    event.pr = event.pr.or(Some(0));
    event.head_ref = event.head_ref.or_else(|| event.branch.clone()).or_else(|| Some("branch".into()));
    let version = Version::parse("0.0.0-doctor")?;
    let commit = event.sha.clone().or_else(|| Some("0".repeat(40)));
    let decision = Decision {
        environment: Some(name.to_owned()),
        version: Some(version),
        commit,
        by_hand: !config.environments.get(name).is_some_and(config::Environment::is_preview), // a preview has a branch
        ..Decision::none(Outcome::Deploy, Reason::Planned, String::new())
    };
    let request = Request::Deploy { environment: name.to_owned(), version: "0.0.0-doctor".into() };
    plan::plan(&event, &place.loaded, &request, &decision, variables)
}
