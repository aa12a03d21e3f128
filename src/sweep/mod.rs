//! `tidegate sweep`: previews that have had their time go, as if their pull requests had been closed.
//!
//! Nothing goes that is not proven to be a preview of this project: by a record of ours, or by the mark that tidegate put
//! on it. Each is removed by the plan of a closed pull request, under its own lease, and is looked at once more there.

use crate::checkout::Checkout;
use crate::cli::Format;
use crate::commands::lock::At;
use crate::commands::place::Place;
use crate::config::{self, Environment, Loaded, Span};
use crate::context::{Outcome, Request, Sweep};
use crate::delivery::{self, Asked, Prepared, set_of};
use crate::error::{Error, Reason, Result};
use crate::event::{Event, FactFlags};
use crate::forge::Forge;
use crate::gates::Override;
use crate::inputs::Inputs;
use crate::report::Report;
use crate::run;
use crate::state::Store;
use crate::variables::Variables;
use crate::world::World;
use jiff::Timestamp;
use judge::{Coming, Fate, Limits, Preview, judge};
use look::{Depth, look};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

mod judge;
mod look;

/// How long an event's own run waits for the lease of another preview: whoever has it is at work there.
const PATIENCE: Duration = Duration::from_secs(5);

/// `sweep`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A variable of tidegate.yml; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// What stdout gets
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// How long to wait for the lease of each preview
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = crate::commands::drain::span)]
    pub lock_timeout: Span,
    #[command(flatten)]
    pub at: At,
}

/// Whether it is only shown what would go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `plan sweep`.
    Plan,
    /// `sweep`.
    Remove,
}

/// Where previews are looked for.
struct Scene<'a> {
    loaded: &'a Loaded,
    event: &'a Event,
    forge: &'a Forge,
    store: &'a Store,
}

impl<'a> Scene<'a> {
    /// The environments that pull requests lead to.
    fn environments(&self) -> impl Iterator<Item = (&'a str, &'a Environment)> + use<'a> {
        let all = self.loaded.config.environments.iter();
        all.filter(|(_, rules)| rules.is_preview()).map(|(name, rules)| (name.as_str(), rules))
    }

    /// The pull request of a preview with this name.
    fn number_of(&self, rules: &Environment, name: &str) -> Option<u64> {
        rules.preview_number(&self.loaded.config.project, name)
    }

    fn preview(&self, environment: &str, name: &str, number: u64) -> Preview {
        Preview {
            environment: environment.to_owned(),
            name: name.to_owned(),
            number,
            pull_request: self.forge.pull_request_name(number),
            is_open: None,
            since: None,
            newest: None,
            found: Vec::new(),
        }
    }

    /// Every preview with what becomes of it.
    fn judged(&self, previews: Vec<Preview>, coming: Option<(&str, Coming)>) -> Vec<(Preview, Fate)> {
        let mut judged = Vec::new();
        for (name, rules) in self.environments() {
            let own: Vec<Preview> = previews.iter().filter(|preview| preview.environment == name).cloned().collect();
            let limits = Limits { ttl: rules.ttl.as_ref().map(|ttl| ttl.0), max: rules.max };
            let coming = coming.filter(|(environment, _)| *environment == name).map(|(_, coming)| coming);
            let fates = judge(&own, limits, Timestamp::now(), coming);
            judged.extend(own.into_iter().zip(fates));
        }
        judged
    }
}

/// Looks, judges and removes; what stdout gets, and the first failure.
pub async fn run(world: &World, args: &Args, mode: Mode) -> Result<(Option<String>, Result<()>)> {
    let place = Place::of(world, &args.at.file, &args.at.facts)?;
    let Place { loaded, event, forge, store } = &place;
    let scene = Scene { loaded, event, forge, store };
    for (name, _) in scene.environments() {
        config::refuse_unsupported(loaded, Some(name))?;
    }
    if let Forge::Absent { why } = forge {
        let sentence = format!("a sweep asks the forge which pull requests are open, and there is {why}");
        return Err(Error::new(Reason::AuthMissing, sentence).hint("give the step a token; by hand GITHUB_TOKEN and --repository"));
    }
    if scene.environments().next().is_none() {
        let sentence = "no environment of tidegate.yml is made by pull requests, so there are no previews";
        return Err(Error::new(Reason::InputEnvironment, sentence).hint("add one with `when: pull-request`"));
    }
    let set = set_of(&Inputs::of(&world.vars), &args.set)?;
    let variables = Variables::resolve(&loaded.config, &set, &world.vars)?;
    let looked = tokio::select! {
        looked = look(world, &scene, &variables, Depth::Targets) => looked,
        () = world.cancel.cancelled() => Err(Error::new(Reason::Cancelled, "cancelled before anything was removed")),
    };
    let (previews, mut unseen) = looked?;
    unseen.extend(previews.iter().filter(|preview| preview.is_open.is_none()).map(|preview| {
        let sentence = format!("whether {} is open cannot be said: no answer, or the token may not read it", preview.pull_request);
        (preview.name.clone(), Error::new(Reason::ForgeFailed, sentence).hint("permissions: {pull-requests: read}"))
    }));
    let judged = scene.judged(previews, None);
    if judged.is_empty() && unseen.is_empty() {
        world.console.line("there are no previews");
    }
    table(&judged).iter().for_each(|line| world.console.line(line));
    unseen.iter().for_each(|(what, error)| world.console.warning(&format!("not looked at: {what}: {}", error.sentence)));
    let mut swept = Vec::new();
    if mode == Mode::Remove {
        let asked = Removal { file: &loaded.file, set: &set, lock_timeout: args.lock_timeout.0, event };
        swept = remove_all(world, &asked, &scene, &judged).await;
    }
    let text = (args.format == Format::Json).then(|| format!("{:#}\n", as_json(&judged, &swept, &unseen)));
    if mode == Mode::Plan {
        return Ok((text, Ok(())));
    }
    Ok((text, told(world, &swept, &unseen, judged.len())))
}

/// The last line, and the first failure of all.
fn told(world: &World, swept: &[(&Preview, Report)], unseen: &[(String, Error)], seen: usize) -> Result<()> {
    let gone = swept.iter().filter(|(_, report)| matches!(report.reason, Reason::Removed | Reason::PreviewKept)).count();
    let failed: Vec<&Error> = swept.iter().filter_map(|(_, report)| report.error.as_ref()).collect();
    let said = format!("swept: {gone} removed, {} kept", seen - gone);
    match (failed.as_slice(), unseen.first()) {
        ([first, ..], _) => {
            let sentence = format!("{} of {} previews could not be removed; the first: {}", failed.len(), swept.len(), first.sentence);
            Err(Error { sentence, ..(*first).clone() })
        }
        // A schedule that sees nothing must not stay green.
        ([], Some((what, first))) => {
            world.console.bad(&said);
            let sentence =
                format!("{} of the places where previews may be could not be judged; the first, {what}: {}", unseen.len(), first.sentence);
            Err(Error { sentence, ..first.clone() })
        }
        ([], None) => {
            world.console.good(&said);
            Ok(())
        }
    }
}

/// Before a preview is delivered or removed: those go that `ttl` and `max` say, and those of closed pull requests, by the
/// newest records alone. That this fails is said, and stops nothing. What a pull request writes into its own tidegate.yml
/// decides about no other one's preview.
pub async fn make_room(world: &World, asked: &Asked, prepared: &Prepared) {
    let Prepared { event, forge, store, plan, .. } = prepared;
    let (Some(_), Outcome::Deploy | Outcome::Remove, Some(environment)) = (&plan.sweeps, plan.outcome, &plan.environment) else { return };
    let swept = async {
        let Some((loaded, _folder)) = merged(prepared).await? else { return Ok(()) };
        let scene = Scene { loaded: &loaded, event, forge, store };
        let makes = plan.outcome == Outcome::Deploy;
        let coming = event.pr.map(|number| (environment.as_str(), Coming { number, makes }));
        let declared = |(name, _): &&(String, String)| loaded.config.variables.contains_key(name);
        let set: Vec<(String, String)> = asked.set.iter().filter(declared).cloned().collect();
        let variables = Variables::resolve(&loaded.config, &set, &world.vars)?;
        let (previews, _) = look(world, &scene, &variables, Depth::Records).await?;
        let judged = scene.judged(previews, coming);
        let removal = Removal { file: &loaded.file, set: &set, lock_timeout: PATIENCE, event };
        for (_, report) in remove_all(world, &removal, &scene, &judged).await {
            if let Some(error) = report.error {
                world.console.warning(&format!("{} is not removed: {}", report.place, error.sentence));
            }
        }
        let others = judged.iter().filter(|(preview, _)| preview.is_open.is_none() && event.pr != Some(preview.number));
        let unsure = others.map(|(preview, fate)| (&preview.name, fate)).find(|(_, fate)| matches!(fate, Fate::Keep(_)));
        if let Some((name, Fate::Keep(why))) = unsure {
            world.console.warning(&format!("{name} stays, whatever `ttl` and `max` say: {why}"));
        }
        Ok::<(), Error>(())
    };
    let swept = tokio::select! {
        swept = swept => swept,
        () = world.cancel.cancelled() => Ok(()), // the run itself says so
    };
    if let Err(error) = swept {
        world.console.warning(&format!("old previews are not looked for: {}", error.sentence));
    }
}

/// The configuration that was merged: that of the default branch.
async fn merged(prepared: &Prepared) -> Result<Option<(Loaded, tempfile::TempDir)>> {
    let Prepared { loaded, event, forge, .. } = prepared;
    // Not that of the base: anybody may open a pull request against a branch of their own.
    let Some(branch) = event.default_branch.as_ref().or(event.base.as_ref()) else { return Ok(None) };
    let name = Path::new(&loaded.file).file_name().unwrap_or(OsStr::new(config::FILE_NAME));
    let prefix = Checkout::at(&loaded.folder).prefix().unwrap_or_default();
    let path = format!("{prefix}{}", name.to_string_lossy());
    let Some(text) = forge.file(&path, branch).await? else { return Ok(None) };
    let failed = |error: std::io::Error| Error::new(Reason::Internal, format!("no folder for it: {error}"));
    let folder = tempfile::tempdir().map_err(failed)?;
    let file = folder.path().join(config::FILE_NAME);
    std::fs::write(&file, text).map_err(failed)?;
    let mut merged = config::load(Some(&file))?;
    merged.folder.clone_from(&loaded.folder); // its programs and stores are where they are
    Ok(Some((merged, folder)))
}

/// What all removals have in common.
struct Removal<'a> {
    file: &'a str,
    set: &'a [(String, String)],
    lock_timeout: Duration,
    event: &'a Event,
}

/// Removes what is to go, one after another. A failure does not keep the others.
async fn remove_all<'p>(
    world: &World,
    removal: &Removal<'_>,
    scene: &Scene<'_>,
    judged: &'p [(Preview, Fate)],
) -> Vec<(&'p Preview, Report)> {
    let mut swept = Vec::new();
    for (preview, fate) in judged {
        let Fate::Remove(cause, why) = fate else { continue };
        if world.cancel.is_cancelled() {
            let mut report = Report::of_error(&Error::new(Reason::Cancelled, "the run was cancelled"));
            report.place.clone_from(&preview.name);
            swept.push((preview, report));
            continue;
        }
        if let Some(why) = scene.store.busy(preview.number).await {
            let mut report = Report::of_error(&Error::new(Reason::EventIgnored, why.clone()));
            (report.error, report.place) = (None, preview.name.clone());
            world.console.line(&format!("  {}: {why}", preview.name));
            swept.push((preview, report));
            continue;
        }
        let sweep = Sweep {
            environment: preview.environment.clone(),
            number: preview.number,
            cause: cause.clone(),
            why: why.clone(),
            found: preview.found.clone(),
        };
        let asked = Asked {
            request: Request::Sweep(Box::new(sweep)),
            config: Some(removal.file.into()),
            folder: Some(scene.loaded.folder.clone()),
            set: removal.set.to_vec(),
            facts: FactFlags::default(),
            lock_timeout: removal.lock_timeout,
            lifted: Override::default(),
        };
        let mut report = match delivery::prepare_about(world, &asked, removal.event.about(preview.number)).await {
            Ok(prepared) => run::run(world, &prepared).await.0,
            Err(error) => Report::of_error(&error),
        };
        if report.place.is_empty() {
            report.place.clone_from(&preview.name);
        }
        swept.push((preview, report));
    }
    swept
}

fn table(judged: &[(Preview, Fate)]) -> Vec<String> {
    let width = judged.iter().map(|(preview, _)| preview.name.chars().count()).max().unwrap_or(0);
    let line = |(preview, fate): &(Preview, Fate)| match fate {
        Fate::Keep(why) => format!("  keep    {:<width$}  {why}", preview.name),
        Fate::Remove(_, why) => format!("  remove  {:<width$}  {why}", preview.name),
    };
    judged.iter().map(line).collect()
}

fn as_json(judged: &[(Preview, Fate)], swept: &[(&Preview, Report)], unseen: &[(String, Error)]) -> Value {
    let unseen: Vec<Value> = unseen.iter().map(|(what, error)| json!({"place": what, "why": error.sentence})).collect();
    let row = |(preview, fate): &(Preview, Fate)| {
        let (action, why) = match fate {
            Fate::Keep(why) => ("keep", why),
            Fate::Remove(_, why) => ("remove", why),
        };
        let report = swept.iter().find(|(known, _)| known.name == preview.name).map(|(_, report)| report);
        json!({
            "environment": preview.environment, "name": preview.name, "pr": preview.number, "is_open": preview.is_open,
            "since": preview.since.map(|since| since.to_string()), "found": preview.found.iter().map(|(_, place)| place).collect::<Vec<_>>(),
            "action": action, "why": why, "verdict": report.map(|report| report.verdict), "reason": report.map(|report| report.reason),
        })
    };
    json!({"schema": 1, "previews": judged.iter().map(row).collect::<Vec<_>>(), "unseen": unseen})
}
