//! From what was asked to a plan: event, configuration, facts, decision. The front half of every delivery command.

use crate::checkout::Checkout;
use crate::config::{self, Loaded};
use crate::context::{self, Back, Decision, Outcome, Request};
use crate::error::{Error, Reason, Result};
use crate::event::{self, Event, FactFlags, Provider};
use crate::forge::Forge;
use crate::gates::Override;
use crate::gather;
use crate::inputs::Inputs;
use crate::plan::{self, Lock, Plan, Work};
use crate::state::{self, Key, Kind, Store};
use crate::tools::aws;
use crate::variables::Variables;
use crate::vars::Vars;
use crate::world::World;
use std::path::PathBuf;
use std::time::Duration;

/// What the user asked for: command, flags and action inputs, merged.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which delivery.
    pub request: Request,
    /// The configuration file named by hand.
    pub config: Option<PathBuf>,
    /// The folder that its paths are relative to, where the file was read elsewhere.
    pub folder: Option<PathBuf>,
    /// `--set NAME=VALUE`.
    pub set: Vec<(String, String)>,
    /// Facts by hand.
    pub facts: FactFlags,
    /// How long to wait for the lease.
    pub lock_timeout: Duration,
    /// Gates that a person lifts.
    pub lifted: Override,
}

/// Everything that is decided before anything is done.
pub struct Prepared {
    /// What happened.
    pub event: Event,
    /// The configuration.
    pub loaded: Loaded,
    /// The answer.
    pub decision: Decision,
    /// The steps.
    pub plan: Plan,
    /// The forge to tell.
    pub forge: Forge,
    /// Where leases and records are kept.
    pub store: Store,
    /// Which lease, which records.
    pub key: Key,
    /// How long to wait for the lease.
    pub lock_timeout: Duration,
    /// What was asked for.
    pub request: Request,
    /// Where a rollback leads.
    pub back: Option<Back>,
}

impl Prepared {
    /// Why a preview is removed, for its records.
    pub fn gone_because(&self) -> &str {
        if let Request::Sweep(sweep) = &self.request { &sweep.why } else { "the pull request is closed" }
    }
}

impl Asked {
    /// The event of this environment with flags applied.
    pub fn event(&self, vars: &Vars) -> Result<(Provider, Event)> {
        let provider = event::provider(vars)?;
        let mut event = event::read(provider, vars)?;
        event.apply(&self.facts)?;
        if let Some(name) =
            event.tag.clone().or_else(|| event.branch.clone()).filter(|_| event.sha.is_none() && self.request != Request::Event)
        {
            event.set_sha(Checkout::here().resolve(&name)); // git is no connection
        }
        Ok((provider, event))
    }
}

/// Decides and plans. Connects only for facts that the event does not hold.
pub async fn prepare(world: &World, asked: &Asked) -> Result<Prepared> {
    let (_provider, event) = asked.event(&world.vars)?;
    prepare_about(world, asked, event).await
}

/// The same for an event that is not the run's own.
pub async fn prepare_about(world: &World, asked: &Asked, mut event: Event) -> Result<Prepared> {
    let mut loaded = config::load(asked.config.as_deref()).map_err(|error| match (event.kind, error.reason) {
        (event::Kind::PreviewStop, Reason::ConfigMissing) => {
            error.hint("a stop job has no checkout (GIT_STRATEGY: none): keep the file as an artifact of the preview's job and name that job under `needs:`")
        }
        _other => error,
    })?;
    if let Some(folder) = &asked.folder {
        loaded.folder.clone_from(folder);
    }
    Inputs::of(&world.vars).apply(&mut loaded.config)?;
    crate::run::lease::expiry(&world.vars)?;
    let variables = Variables::resolve(&loaded.config, &asked.set, &world.vars)?;
    for name in loaded.config.secret_names() {
        if let Some(value) = world.vars.get(name) {
            world.console.mask(&crate::tools::secret::Secret::new(value));
        }
    }
    let forge = Forge::of(&world.vars, &event, &world.console, world.clock)?;
    let checkout = Checkout::at(&loaded.folder);
    if asked.request == Request::PrOpened && (event.sha.is_none() || event.is_fork.is_none()) && asked.facts.head_repo.is_none() {
        forge.fill_pull_request(&mut event).await?;
    }
    // Previews may be named after their branch.
    if matches!(asked.request, Request::PrClosed | Request::Sweep(_))
        && event.head_ref.is_none()
        && let Err(error) = forge.fill_pull_request(&mut event).await
    {
        world.console.warning(&format!("the pull request cannot be read, so only what its number names is known: {}", error.sentence));
    }
    if asked.request == Request::Merge && event.default_branch.is_none() {
        event.default_branch.clone_from(&event.branch);
        event.settle_default_branch();
    }
    // Only what will be acted on is asked about: most events end here, without a connection.
    let expected = context::decide(&event, &loaded, &asked.request, &variables, &gather::assume(&event, asked, &loaded.config));
    let asks_ancestry =
        |decision: &Decision| !event.tag.as_deref().is_some_and(|tag| context::is_claimed_by_pattern(&loaded.config, decision, tag));
    let ancestry = expected.as_ref().map_or(true, asks_ancestry);
    let store = Store::of(world, &loaded.config, &loaded.folder, &forge)?;
    let facts = match expected {
        Err(error) if matches!(asked.request, Request::Rollback { .. } | Request::Hotfix { .. }) => return Err(error), // there is nothing to look up for it
        // Where a release says that it was made is a hint; ancestry decides.
        Ok(decision)
            if matches!(decision.outcome, Outcome::Skip | Outcome::Refuse)
                && !matches!(decision.reason, Reason::EventOffDefault | Reason::GateFreeze | Reason::EventDirective) =>
        {
            gather::assume(&event, asked, &loaded.config)
        }
        Ok(_) | Err(_) => {
            let mut facts = gather::gather(&mut event, asked, (&loaded.config, &checkout, &forge), ancestry).await?;
            if let Request::Rollback { environment, to } = &asked.request {
                facts.back = Some(gather::back(&store, (&loaded.config, &event), environment, to.as_deref()).await?);
            }
            facts
        }
    };
    let (variables, notes) = variables.directed(&loaded.config, &asked.set, &event, &facts.directives);
    facts.notes.iter().chain(&notes).for_each(|note| world.console.warning(note));
    let decision = context::decide(&event, &loaded, &asked.request, &variables, &facts)?;
    let mut plan = plan::plan(&event, &loaded, &asked.request, &decision, &variables)?;
    let key = Key::new(&loaded.config.project, &plan.display_environment);
    if store.kind() == Kind::Job {
        plan.sweeps = None; // the other previews' leases are resource groups, which a job cannot take
    }
    if plan.steps.iter().any(|step| matches!(step.work, Work::Lock | Work::Tags(_))) {
        plan.lock = Some(Lock { key: key.to_string(), scope: store.scope.clone(), store: store.kind() });
        plan.warnings = warnings(world, &loaded, &plan, &store, asked.lock_timeout);
        plan.warnings.extend(
            decision.fix.as_ref().and_then(unmerged).filter(|_| plan.steps.iter().all(|step| !matches!(step.work, Work::BackMerge(_)))),
        );
    }
    let (request, lock_timeout, back) = (asked.request.clone(), asked.lock_timeout, facts.back);
    Ok(Prepared { event, loaded, decision, plan, forge, store, key, lock_timeout, request, back })
}

/// A fix that the default branch lacks is lost with the next release from there.
fn unmerged(fix: &context::Fix) -> Option<String> {
    let lacks = fix.on_default == Some(false);
    lacks.then(|| format!("the default branch lacks this fix: merge {} there, or the next release brings the fault back", fix.branch))
}

/// What can be foreseen to go wrong.
fn warnings(world: &World, loaded: &Loaded, plan: &Plan, store: &Store, lock_timeout: Duration) -> Vec<String> {
    let (protects, absent) = (store.protects(state::is_ci(&world.vars)), store.absent());
    let mut warnings = Vec::new();
    let rules = plan.environment.as_ref().and_then(|name| loaded.config.environments.get(name));
    if let Some(why) = absent {
        warnings.push(format!("a run would be refused (lock.unreachable): {why}"));
    }
    if plan.lock.as_ref().is_some_and(|lock| lock.store == Kind::File) && state::is_ci(&world.vars) {
        warnings.push("the lease is a file on this runner: it holds back no other run".to_owned());
    }
    if plan.lock.as_ref().is_some_and(|lock| lock.store == Kind::Job) && !protects {
        warnings.push("this job is in no resource group: another delivery may run at the same time".to_owned());
    }
    let drains = plan.steps.iter().filter_map(|step| match &step.work {
        Work::Drain(drain) => Some(drain.timeout),
        Work::Lock
        | Work::Tags(_)
        | Work::Record
        | Work::Release(_)
        | Work::BackMerge(_)
        | Work::Keep
        | Work::After(_)
        | Work::Scan(_)
        | Work::Image(_)
        | Work::Archive(_)
        | Work::Seed(_)
        | Work::Backup(_)
        | Work::Migrate(_)
        | Work::Trigger(_)
        | Work::Target(_)
        | Work::Remove(_)
        | Work::RemovePreview => None,
    });
    let longest = drains.max().unwrap_or_default().saturating_add(lock_timeout);
    if let Some((length, why)) = aws::session(&world.vars, loaded.config.role(rules).is_some())
        && longest > length
    {
        let (longest, length) = (humantime::format_duration(longest), humantime::format_duration(length));
        warnings.push(format!("this run may wait {longest}, and {why} may end after {length}: what comes after the wait would be denied"));
    }
    warnings
}

/// `NAME=VALUE` pairs of the action's input `set` and of `--set`. The later one of a name wins: flags over inputs.
pub fn set_of(inputs: &Inputs<'_>, flags: &[String]) -> Result<Vec<(String, String)>> {
    let mut set = parse_set(&inputs.lines("set"))?;
    set.extend(parse_set(flags)?);
    Ok(set)
}

fn parse_set(texts: &[String]) -> Result<Vec<(String, String)>> {
    let lines = texts.iter().flat_map(|text| text.lines()).map(str::trim).filter(|line| !line.is_empty());
    let pair = |line: &str| {
        let (name, value) = line.split_once('=').ok_or_else(|| {
            Error::new(Reason::InputInvalid, format!("{line:?} (--set, or the input `set`) has no ="))
                .hint("write NAME=VALUE, one per line")
        })?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    lines.map(pair).collect()
}
