//! `tidegate status`: per environment what runs, who put it there, what has happened since, and who is at it now.

use super::lock::{At, lease_of};
use super::place::Place;
use crate::cli::Format;
use crate::config::{Environment, When, WhenEvent};
use crate::context::{Outcome, Request};
use crate::delivery::{self, Asked, set_of};
use crate::error::{Error, Result};
use crate::event::short;
use crate::gates::{Gate, Override};
use crate::inputs::Inputs;
use crate::run::look::{Seen, look};
use crate::state::Key;
use crate::state::records::{Record, is_open};
use crate::targets::set;
use crate::world::World;
use serde_json::{Value, json};
use std::time::Duration;

/// `status`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Ask the targets, too, whether they run what the records say; needs what a deploy there needs to read
    #[arg(long)]
    pub targets: bool,
    /// What stdout gets
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    #[command(flatten)]
    pub at: At,
}

/// Looks; what stdout gets.
pub async fn run(world: &World, args: &Args) -> Result<Option<String>> {
    let place = Place::of(world, &args.at.file, &args.at.facts)?;
    let mut rows = Vec::new();
    for (environment, name) in place.names().await? {
        let key = Key::new(&place.loaded.config.project, &name);
        let history = place.store.history(&key).await?;
        let rules = place.loaded.config.environments.get(&environment);
        let is_preview = rules.is_some_and(Environment::is_preview);
        if is_preview && !history.iter().any(is_open) {
            continue; // its pull request is closed
        }
        let live = history.iter().find(|record| record.is_deployed());
        let drift = match (rules, live) {
            (Some(rules), Some(live)) => drift(&place, rules, live).await?,
            (Some(_) | None, _) => None,
        };
        let lease = lease_of(&place, &key).await?;
        let mut row = row((&environment, &name), &history, drift, lease);
        if let Some(live) = live.filter(|_| args.targets) {
            let seen = if is_preview { json!(null) } else { runs_there(world, args, &place, live).await };
            set(&mut row, &["targets"], seen);
        }
        rows.push(row);
    }
    if args.format == Format::Json {
        return Ok(Some(format!("{:#}\n", json!({"schema": 1, "store": place.store.kind(), "environments": rows}))));
    }
    table(&rows).iter().for_each(|line| world.console.line(line));
    Ok(None)
}

fn row((environment, name): (&str, &str), history: &[Record], drift: Option<Value>, lease: Value) -> Value {
    let live = history.iter().find(|record| record.is_deployed());
    // Something that came later and did not get there: it failed, or it goes on.
    let newer = history.first().filter(|record| !record.is_deployed());
    json!({
        "environment": environment, "name": name,
        "version": live.map(|live| &live.version),
        "commit": live.and_then(|live| live.commit.as_ref()),
        "images": live.map(|live| &live.images),
        "who": live.map(|live| &live.who),
        "at": live.and_then(|live| Some(&live.ended.as_ref()?.at)),
        "run": live.and_then(|live| live.run.as_ref()),
        "plan": live.map(|live| &live.plan),
        "replaced": live.and_then(|live| live.replaces.as_ref()),
        "drift": drift,
        "last": newer.map(|last| json!({
            "version": last.version, "who": last.who, "run": last.run,
            "verdict": last.ended.as_ref().map(|ended| ended.verdict), "sentence": last.ended.as_ref().map(|ended| &ended.sentence),
        })),
        "lease": lease,
    })
}

/// For each target whether it runs what the record says, or why that cannot be said.
async fn runs_there(world: &World, args: &Args, place: &Place, live: &Record) -> Value {
    let request = Request::Deploy { environment: live.environment.clone(), version: live.version.clone() };
    // It is only looked: whether something could be deployed now does not matter.
    let lifted = Override { gates: vec![Gate::Freeze], reason: "status".into() };
    let asked = Asked {
        request,
        config: Some(place.loaded.file.clone().into()),
        folder: None,
        set: set_of(&Inputs::of(&world.vars), &[]).unwrap_or_default(),
        facts: args.at.facts.clone(),
        lock_timeout: Duration::ZERO,
        lifted,
    };
    let unseen = |id: &str, error: &Error| json!({"id": id, "runs": null, "detail": error.sentence});
    let prepared = match delivery::prepare_about(world, &asked, place.event.clone()).await {
        Ok(prepared) => prepared,
        Err(error) => return json!([unseen("deploy", &error)]),
    };
    if prepared.plan.outcome != Outcome::Deploy {
        return json!([{"id": "deploy", "runs": null, "detail": prepared.plan.sentence}]);
    }
    let seen = look(world, &prepared, live).await;
    let answer = |Seen { id, answer }: &Seen| match answer {
        Ok(Some(settled)) => json!({"id": id, "runs": true, "detail": settled.detail}),
        Ok(None) => {
            json!({"id": id, "runs": false, "detail": format!("it does not run {} any more, or not as tidegate.yml says", live.version)})
        }
        Err(error) => unseen(id, error),
    };
    Value::Array(seen.iter().map(answer).collect())
}

/// The tip of the branch that leads here, when that is not what runs.
async fn drift(place: &Place, rules: &Environment, live: &Record) -> Result<Option<Value>> {
    let literal = |branch: &str| !branch.contains(['*', '?', '[', '{']);
    let branch = rules.when.as_slice().iter().find_map(|when| match when {
        When::Event(WhenEvent::Merge) => Some(place.event.default_branch.clone()),
        When::Branch(rule) if literal(&rule.branch) => Some(Some(rule.branch.clone())),
        When::Event(WhenEvent::Release | WhenEvent::PullRequest | WhenEvent::Manual) | When::Branch(_) | When::Tag(_) => None,
    });
    let branch = match branch {
        Some(Some(branch)) => branch,
        Some(None) => match place.forge.default_branch().await? {
            Some(branch) => branch,
            None => return Ok(None),
        },
        None => return Ok(None),
    };
    let tip = match place.forge.commit_of_ref(&format!("heads/{branch}")).await? {
        Some(tip) => Some(tip),
        None => crate::checkout::Checkout::at(&place.loaded.folder).tip(&branch),
    };
    Ok(tip.filter(|tip| Some(tip) != live.commit.as_ref()).map(|tip| json!({"branch": branch, "tip": tip})))
}

fn table(rows: &[Value]) -> Vec<String> {
    let mut cells = vec![["environment", "version", "commit", "digest", "who", "when", ""].map(str::to_owned)];
    for row in rows {
        let text = |pointer: &str| row.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let or_dash = |text: String| if text.is_empty() { "–".to_owned() } else { text };
        let digest: String = text("/images/0/digest").chars().take(19).collect();
        let commit = if text("/commit").is_empty() { String::new() } else { short(&text("/commit")) };
        let at: String = text("/at").chars().take(16).map(|c| if c == 'T' { ' ' } else { c }).collect();
        cells.push([text("/name"), text("/version"), commit, digest, text("/who"), at, remarks(row)].map(or_dash));
    }
    let width = |column: usize| cells.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let line = |row: &[String; 7]| {
        let padded: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end_matches([' ', '–']).to_owned()
    };
    cells.iter().map(line).collect()
}

/// What a person should know beside what runs.
fn remarks(row: &Value) -> String {
    let text = |pointer: &str| row.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut said = Vec::new();
    if text("/version").is_empty() && !row.pointer("/last").is_some_and(Value::is_object) {
        said.push("nothing was delivered yet".to_owned());
    }
    if row.pointer("/lease/holder").is_some_and(Value::is_object) {
        said.push(
            super::lock::sentence(row.pointer("/lease").unwrap_or(&Value::Null))
                .trim_start_matches(text("/name").as_str())
                .trim()
                .to_owned(),
        );
    }
    if !text("/drift/tip").is_empty() {
        said.push(format!("{} is at {}", text("/drift/branch"), short(&text("/drift/tip"))));
    }
    for target in row.pointer("/targets").and_then(Value::as_array).into_iter().flatten() {
        let text = |name: &str| target.get(name).and_then(Value::as_str).unwrap_or_default();
        match target.get("runs") {
            Some(Value::Bool(true)) => said.push(format!("{}: {}", text("id"), text("detail"))),
            Some(Value::Bool(false)) => said.push(format!("DRIFT {}: {}", text("id"), text("detail"))),
            Some(_) | None => said.push(format!("{} cannot be asked: {}", text("id"), text("detail"))),
        }
    }
    if row.pointer("/last").is_some_and(Value::is_object) {
        let verdict = if text("/last/verdict").is_empty() { "not ended".to_owned() } else { text("/last/verdict") };
        said.push(format!("{} after it: {verdict}", text("/last/version")));
    }
    said.join("; ")
}
