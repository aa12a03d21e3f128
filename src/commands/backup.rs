//! `tidegate backup`: saves the databases of an environment now, or shows what is saved.

use super::lock::At;
use super::place::Place;
use crate::backup::{self, Maker, Taken, Work, bucket::spoken_time};
use crate::cli::Format;
use crate::delivery::set_of;
use crate::error::{Error, Reason, Result};
use crate::inputs::Inputs;
use crate::plan::{self, Databases};
use crate::report::{outputs::random, size};
use crate::variables::Variables;
use crate::world::World;
use serde_json::json;

/// `backup`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The environment's key in tidegate.yml
    #[arg(value_name = "ENV")]
    environment: String,
    /// Show the backups that there are, the newest first; makes none
    #[arg(long)]
    list: bool,
    /// A variable of tidegate.yml; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// What stdout gets
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    at: At,
}

/// Does it; what stdout gets.
pub async fn run(world: &World, args: &Args) -> Result<Option<String>> {
    let place = Place::of(world, &args.at.file, &args.at.facts)?;
    let works = works(world, &place, args)?;
    if args.list {
        return list(world, args, &works).await;
    }
    for work in &works {
        backup::check(world, &place.loaded.folder, work)?;
    }
    let mut taken: Vec<Taken> = Vec::new();
    for work in &works {
        let by = place.event.more.run.url.clone().or_else(|| place.event.actor.clone()).unwrap_or_else(|| "by hand".into());
        let maker = Maker { world, folder: &place.loaded.folder, own: format!("by-hand-{}", random()), ended: Vec::new(), by };
        if let Some(made) = backup::take(&maker, work).await? {
            world.console.good(&made.sentence());
            taken.push(made);
        }
    }
    Ok((args.format == Format::Json).then(|| format!("{:#}\n", json!({"schema": 1, "environment": args.environment, "backups": taken}))))
}

fn works(world: &World, place: &Place, args: &Args) -> Result<Vec<Work>> {
    let works = saved(world, place, &args.environment, &args.set)?;
    if works.is_empty() {
        let sentence = format!("{} has no backups: tidegate.yml gives it no `backup:`", args.environment);
        return Err(Error::new(Reason::InputBackup, sentence)
            .hint("add `backup: {postgres: {url: {env: DATABASE_URL}}, to: \"s3://bucket/\"}` to it"));
    }
    Ok(works)
}

/// What is saved of an environment.
pub fn saved(world: &World, place: &Place, environment: &str, set: &[String]) -> Result<Vec<Work>> {
    let variables = variables(world, place, set)?;
    plan::databases(&place.event, &place.loaded, environment, &variables, Databases::Saved).map(|(works, _)| works)
}

/// The variables of this run; its secrets are masked.
pub fn variables(world: &World, place: &Place, set: &[String]) -> Result<Variables> {
    for name in place.loaded.config.secret_names() {
        if let Some(value) = world.vars.get(name) {
            world.console.mask(&crate::tools::secret::Secret::new(value));
        }
    }
    Variables::resolve(&place.loaded.config, &set_of(&Inputs::of(&world.vars), set)?, &world.vars)
}

async fn list(world: &World, args: &Args, works: &[Work]) -> Result<Option<String>> {
    let mut rows = Vec::new();
    for work in works {
        let bucket = work.bucket(world).await?;
        bucket.look().await?;
        for listed in work.family(&bucket).await? {
            rows.push((bucket.url(&listed.key), listed));
        }
    }
    if args.format == Format::Json {
        let shown =
            rows.iter().map(|(url, listed)| json!({"location": url, "bytes": listed.bytes, "stored": spoken_time(listed.modified)}));
        let shown: Vec<serde_json::Value> = shown.collect();
        return Ok(Some(format!("{:#}\n", json!({"schema": 1, "environment": args.environment, "backups": shown}))));
    }
    if rows.is_empty() {
        world.console.line(&format!("{} has no backups yet", args.environment));
    }
    for (url, listed) in &rows {
        world.console.line(&format!("{}  {:>9}  {url}", spoken_time(listed.modified), size(listed.bytes)));
    }
    Ok(None)
}
