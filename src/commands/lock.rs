//! `tidegate lock`: who holds the lease of an environment; take it, or let go of it, by hand and with a reason.

use super::place::Place;
use crate::cli::{File, Format};
use crate::config::Span;
use crate::error::{Error, Reason, Result};
use crate::event::FactFlags;
use crate::run::lease::{self, Wanted};
use crate::run::ledger::holder;
use crate::state::{Key, Kind};
use crate::world::World;
use clap::Subcommand;
use serde_json::{Value, json};

/// What to do with a lease.
#[derive(Clone, Debug, Subcommand)]
pub enum Lock {
    /// Who holds which lease, since when, and how many wait
    Status {
        /// The environment (a preview by its own name); default: all of tidegate.yml
        #[arg(value_name = "ENV")]
        environment: Option<String>,
        /// What stdout gets
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        #[command(flatten)]
        at: At,
    },
    /// Let go of a lease whose holder is stuck; it stops before it changes anything more
    Release {
        /// The environment
        #[arg(value_name = "ENV")]
        environment: String,
        /// Why, for those who ask later
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        at: At,
    },
    /// Take a lease at once, whoever holds it, and keep every delivery out until it is released or its time is over
    Take {
        /// The environment
        #[arg(value_name = "ENV")]
        environment: String,
        /// Why, for those who wait
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// How long
        #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = super::drain::span)]
        length: Span,
        #[command(flatten)]
        at: At,
    },
}

/// Where the state is.
#[derive(Clone, Debug, clap::Args)]
pub struct At {
    #[command(flatten)]
    pub file: File,
    #[command(flatten)]
    pub facts: FactFlags,
}

/// Does it; what stdout gets.
pub async fn run(world: &World, command: &Lock) -> Result<Option<String>> {
    match command {
        Lock::Status { environment, format, at } => status(world, environment.as_deref(), *format, at).await,
        Lock::Release { environment, reason, at } => {
            let place = Place::of(world, &at.file, &at.facts)?;
            let key = place.key(environment)?;
            let released = lease::break_(&wanted(world, &place, &key, reason)?, reason).await?;
            match released {
                true => world.console.good(&format!("the lease {key} is free; its holder stops before it changes anything more")),
                false => world.console.line(&format!("the lease {key} was free already")),
            }
            Ok(None)
        }
        Lock::Take { environment, reason, length, at } => {
            let place = Place::of(world, &at.file, &at.facts)?;
            let key = place.key(environment)?;
            let sheet = lease::take(&wanted(world, &place, &key, reason)?, reason, length.0).await?;
            world.console.good(&format!("the lease {key} is yours for {length} (number {}): {reason}", sheet.fence));
            world.console.line(&format!("  give it back with: tidegate lock release {environment} --reason TEXT"));
            Ok(None)
        }
    }
}

fn wanted<'a>(world: &'a World, place: &'a Place, key: &'a Key, reason: &str) -> Result<Wanted<'a>> {
    if reason.trim().is_empty() {
        return Err(Error::new(Reason::InputInvalid, "--reason is empty").hint("those who find the lease want to know why"));
    }
    if place.store.kind() == Kind::Job {
        let sentence = format!("the lease {key} is a resource group of GitLab, which nobody can take or give back by hand");
        return Err(Error::new(Reason::InputInvalid, sentence).hint(
            "cancel the job that holds it to let the next one in; to keep all out, add a deploy freeze (Settings > CI/CD > Deploy freezes), \
             or keep the state in S3 or Redis",
        ));
    }
    let holder = holder(&place.event, "by hand".into());
    Ok(Wanted { world, store: &place.store, forge: &place.forge, key, holder, timeout: std::time::Duration::ZERO, floor: 0 })
}

async fn status(world: &World, environment: Option<&str>, format: Format, at: &At) -> Result<Option<String>> {
    let place = Place::of(world, &at.file, &at.facts)?;
    let names = match environment {
        Some(name) => vec![name.to_owned()],
        None => place.names().await?.into_iter().map(|(_, name)| name).collect(),
    };
    let mut rows = Vec::new();
    for name in names {
        let key = place.key(&name)?;
        rows.push(lease_of(&place, &key).await?);
    }
    if format == Format::Json {
        return Ok(Some(format!("{:#}\n", json!({"schema": 1, "store": place.store.kind(), "scope": place.store.scope, "leases": rows}))));
    }
    world.console.dim(&format!("leases hold back {}", place.store.scope));
    if place.store.kind() == Kind::Job {
        world.console.line("  GitLab starts one job of a resource group at a time; which one, its page of the pipeline shows");
        return Ok(None);
    }
    for row in &rows {
        world.console.line(&sentence(row));
    }
    Ok(None)
}

/// A lease as JSON shows it.
pub async fn lease_of(place: &Place, key: &Key) -> Result<Value> {
    let seen = lease::look(&place.store, key).await?;
    let sheet = seen.sheet(&place.store, key).await?;
    let held = sheet.as_ref().filter(|sheet| sheet.holder.is_some());
    let run = held.and_then(|sheet| sheet.holder.as_ref()?.run.as_ref());
    let ended = match run {
        Some(run) => place.forge.run_ended(&run.id, run.attempt).await.ok().flatten(),
        None => None,
    };
    Ok(json!({
        "environment": key.environment(),
        "ended": ended,
        "holder": held.and_then(|sheet| sheet.holder.as_ref()),
        "since": held.map(|sheet| &sheet.since),
        "age": held.map(|sheet| sheet.age().as_secs()),
        "seconds": held.map(|sheet| sheet.seconds),
        "fence": sheet.as_ref().map(|sheet| sheet.fence),
        "reason": sheet.as_ref().and_then(|sheet| sheet.reason.as_ref()),
        "waiting": seen.waiting(),
    }))
}

/// A lease in one line.
pub fn sentence(row: &Value) -> String {
    let text = |pointer: &str| row.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = text("/environment");
    let Ok(holder) = serde_json::from_value::<lease::Holder>(row.pointer("/holder").cloned().unwrap_or_default()) else {
        return format!("{name:<20} free");
    };
    let age = row.pointer("/age").and_then(Value::as_u64).unwrap_or_default();
    let age = humantime::format_duration(std::time::Duration::from_secs(age));
    let waiting = row.pointer("/waiting").and_then(Value::as_u64).unwrap_or_default();
    let ended = match row.pointer("/ended").and_then(Value::as_bool) {
        Some(true) => " (that run has ended: the next one takes over at once)",
        Some(false) | None => "",
    };
    let reason = if text("/reason").is_empty() { String::new() } else { format!(": {}", text("/reason")) };
    format!("{name:<20} held by {holder} for {age}{ended}{reason}; {waiting} waiting")
}
