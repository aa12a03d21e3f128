//! What to do, as a value that prints itself and has a hash. How it is made, one recipe per event, stands in `recipes`. Pure.

use crate::backup::{self, archive};
use crate::config::{self, Loaded};
use crate::context::{Decision, Outcome, Request};
use crate::error::{Error, Reason, Result};
use crate::event::{Event, Kind};
use crate::gates::after::After;
use crate::gates::scan::Scan;
use crate::registry::Repository;
use crate::targets;
use crate::variables::{self, Variables};
use crate::version::{Version, hex};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::time::Duration;

mod databases;
mod recipes;
mod switch;

pub use databases::{Databases, databases};
use recipes::Builder;
pub use switch::kept_tag;

/// Everything that a run will do.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The version of this shape; always 1.
    pub schema: u32,
    /// The first 12 hex digits of SHA-256 over everything else, without times and live facts.
    pub hash: String,
    /// What to do.
    pub outcome: Outcome,
    /// The reason code.
    pub reason: Reason,
    /// The environment's key.
    pub environment: Option<String>,
    /// The version.
    pub version: Option<String>,
    /// The images.
    pub images: Vec<PlannedImage>,
    /// The conditions before the switch.
    pub gates: Vec<PlannedGate>,
    /// The steps, each with the steps it waits for.
    pub steps: Vec<Step>,
    /// The lease under which it is done; none when nothing is done.
    pub lock: Option<Lock>,
    /// What happens when a target fails; none when nothing is deployed.
    pub rollback: Option<Rollback>,
    /// Where people see what runs there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Targets and pipelines elsewhere whose `if:` is not met in this run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Gates that a person lifted, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lifted: Vec<String>,
    /// Which previews go before this one is delivered or removed: those that `ttl` and `max` say, and at a closing those
    /// whose own closing went unnoticed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweeps: Option<String>,
    /// What can be foreseen to go wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Why, for a person.
    #[serde(skip)]
    pub sentence: String,
    /// The commit that the version is of.
    #[serde(skip)]
    pub commit: Option<String>,
    /// The environment's name on the forge: a preview has its own.
    #[serde(skip)]
    pub display_environment: String,
    /// Whether this environment belongs to a pull request.
    #[serde(skip)]
    pub is_preview: bool,
    /// Whether something of this environment runs anywhere.
    #[serde(skip)]
    pub has_targets: bool,
    /// Whether it goes back to what ran before.
    #[serde(skip)]
    pub is_back: bool,
    /// What happens to the other targets when one fails.
    #[serde(skip)]
    pub on_partial: config::OnPartial,
}

/// What happens when a target fails.
#[derive(Clone, Debug, Serialize)]
pub struct Rollback {
    /// Where it leads: what each target ran before, or nowhere.
    pub to: &'static str,
    /// For each target whether it goes back, and why not.
    pub targets: Vec<TargetRollback>,
}

/// What happens when one target fails.
#[derive(Clone, Debug, Serialize)]
pub struct TargetRollback {
    /// The step's id.
    pub id: String,
    /// Whether it goes back.
    pub policy: config::Rollback,
    /// Why, for a person.
    pub why: String,
}

/// The lease of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct Lock {
    /// Its name: project and environment.
    pub key: String,
    /// Whom it holds back.
    pub scope: String,
    /// Where it is kept.
    pub store: crate::state::Kind,
}

/// An image of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedImage {
    /// Its key.
    pub name: String,
    /// Registry host and repository.
    pub repository: String,
    /// The version's tag first, then aliases.
    pub tags: Vec<String>,
    /// Further repositories that get the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<String>,
    /// The very image, where the records of the environment name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// How it comes to be.
    pub action: Action,
    /// Everything that a build needs.
    #[serde(skip)]
    pub build: Build,
}

/// How an image comes to be. Whatever the plan says, an image that is already there is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is built.
    Build,
    /// It was pushed before under this version.
    Reuse,
    /// The digest built at merge gets this version's tag.
    Promote,
}

/// A build with all placeholders filled.
#[derive(Clone, Debug, Serialize)]
pub struct Build {
    /// The configuration's own part.
    pub image: config::Image,
    /// Where the image goes.
    pub repository: Repository,
    /// Where copies of it go.
    pub copies: Vec<Repository>,
    /// Dockerfile candidates, in order.
    pub dockerfiles: Vec<String>,
    /// Build arguments.
    pub args: Vec<(String, String)>,
    /// The tag under which a merge pushed the same commit.
    pub source_tag: Option<String>,
    /// The commit.
    pub commit: Option<String>,
    /// The commit that is really checked out, for a pull request's test merge.
    pub checked_out: Option<String>,
    /// The version.
    pub version: Version,
    /// Whether what is built may be used again by others: what a pull request builds is for that one alone.
    pub is_trusted: bool,
    /// The environment where it must have succeeded before: then it is never built for this one.
    pub after: Option<String>,
}

/// A gate of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedGate {
    /// Its id.
    pub id: String,
    /// What it waits for.
    pub detail: String,
}

/// A step of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Its id.
    pub id: String,
    /// What it does.
    pub title: String,
    /// The steps it waits for.
    pub after: Vec<String>,
    /// The work.
    #[serde(skip)]
    pub work: Work,
}

/// The work of a step.
#[derive(Clone, Debug, Serialize)]
pub enum Work {
    /// Take the lease.
    Lock,
    /// Move the image's aliases forward; the index into `images`.
    Tags(usize),
    /// Make the release and its tag.
    Release(ReleaseWork),
    /// Write down that the delivery begins.
    Record,
    /// Make sure the image is in its registry; the index into `images`.
    Image(usize),
    /// See that the same images succeeded elsewhere before.
    After(After),
    /// See what the registry's scan of an image found.
    Scan(Scan),
    /// Wait until queues are quiet.
    Drain(DrainWork),
    /// Keep files of the repository in a bucket.
    Archive(Box<archive::Work>),
    /// Fill an empty database from a backup.
    Seed(Box<SeedWork>),
    /// Save a database, and prove that.
    Backup(Box<backup::Work>),
    /// Run a migration.
    Migrate(Box<MigrateWork>),
    /// Deploy to a target.
    Target(Box<targets::Work>),
    /// Give what runs here a tag that lifecycle rules spare.
    Keep,
    /// Bring a hot fix to the default branch by a pull request.
    BackMerge(BackMergeWork),
    /// Start a pipeline elsewhere.
    Trigger(Box<TriggerWork>),
    /// Remove what a preview has at a target.
    Remove(Box<targets::Work>),
    /// Close the records of a pull request.
    RemovePreview,
}

impl Work {
    /// What is deployed, if this is a deploy.
    pub fn target(&self) -> Option<&targets::Work> {
        if let Self::Target(work) = self { Some(work) } else { None }
    }

    /// The queues that are waited for, if this waits for queues.
    pub fn drain(&self) -> Option<&DrainWork> {
        if let Self::Drain(work) = self { Some(work) } else { None }
    }
}

/// A drain with all placeholders filled.
#[derive(Clone, Debug, Serialize)]
pub struct DrainWork {
    /// Queue names, URLs, prefixes.
    pub queues: Vec<String>,
    /// The regions.
    pub regions: Vec<String>,
    /// How long all counts must stay zero.
    pub quiet: Duration,
    /// How long to wait in all.
    pub timeout: Duration,
    /// Stops the producers.
    pub pause: Option<Vec<String>>,
    /// Starts them again.
    pub resume: Option<Vec<String>>,
    /// What a timeout means.
    pub on_timeout: config::OnTimeout,
    /// The role to assume.
    pub role: Option<String>,
}

/// A release to make.
#[derive(Clone, Debug, Serialize)]
pub struct ReleaseWork {
    /// The tag.
    pub tag: String,
    /// The commit.
    pub commit: String,
    /// What the release says.
    pub body: String,
}

/// A pull request to open.
#[derive(Clone, Debug, Serialize)]
pub struct BackMergeWork {
    /// From there.
    pub branch: String,
    /// To there; the default branch is asked for when it is not known yet.
    pub base: String,
    /// The version that it brings.
    pub version: String,
}

/// A migration, with all placeholders filled that are known before the images are.
#[derive(Clone, Debug, Serialize)]
pub struct MigrateWork {
    /// How it is run.
    pub run: MigrateRun,
    /// Whether older versions cannot live with what it does.
    pub breaks: bool,
    /// What its failure means for what was switched before.
    pub on_failure: config::OnFailure,
    /// The values of the placeholders that are filled when the images are there.
    pub values: config::template::Values,
}

/// A pipeline to start elsewhere, with its placeholders.
#[derive(Clone, Debug, Serialize)]
pub struct TriggerWork {
    /// What is started.
    pub trigger: config::Trigger,
    /// The values of the placeholders that are filled when the images are there.
    pub values: config::template::Values,
}

/// A backup that comes back.
#[derive(Clone, Debug, Serialize)]
pub struct SeedWork {
    /// Whose backup.
    pub from: backup::Work,
    /// The environment that it is of.
    pub environment: String,
    /// Where it goes.
    pub into: config::RestoreInto,
    /// What is left out, and what runs over it.
    pub restore: config::Restore,
}

/// A task of an ECS service that runs once.
#[derive(Clone, Debug, Serialize)]
pub struct EcsWork {
    /// The configuration's part.
    pub run: config::EcsRun,
    /// The image that it runs, by key.
    pub image: String,
    /// Region and role.
    pub aws: config::Aws,
}

/// How a migration is run.
#[derive(Clone, Debug, Serialize)]
pub enum MigrateRun {
    /// As a Job in a cluster.
    KubernetesJob(Box<targets::kubernetes::job::Work>),
    /// As a one-off dyno.
    HerokuRun(Box<config::HerokuRun>),
    /// As a task of an ECS service.
    EcsTask(Box<EcsWork>),
    /// As a program beside tidegate.
    Command(Box<config::CommandRun>),
}

/// Makes the plan of a decision.
pub fn plan(event: &Event, loaded: &Loaded, request: &Request, decision: &Decision, variables: &Variables) -> Result<Plan> {
    let config = &loaded.config;
    let mut plan = Plan {
        environment: decision.environment.clone(),
        version: decision.version.as_ref().map(Version::to_string),
        commit: decision.commit.clone(),
        display_environment: decision.environment.clone().unwrap_or_default(),
        is_back: matches!(request, Request::Rollback { .. }),
        lifted: decision.lifted.clone(),
        ..Plan::empty(decision.outcome, decision.reason, decision.sentence.clone())
    };
    if let Some((name, rules)) = decision.environment.as_ref().and_then(|name| config.environments.get_key_value(name)) {
        config::refuse_unsupported(loaded, Some(name))?;
        let values = variables::values(event, config, decision, variables);
        plan.is_preview = rules.is_preview();
        plan.on_partial = rules.on_partial;
        let closing = decision.outcome == Outcome::Remove && rules.deploy.iter().any(config::Target::is_removable);
        let orphans = || closing.then(|| "of pull requests whose closing went unnoticed".to_owned());
        plan.sweeps = rules.limits().or_else(orphans).filter(|_| plan.is_preview && !matches!(request, Request::Sweep(_)));
        let mut builder = Builder { event, loaded, config, name, rules, values, decision, plan: &mut plan };
        builder.display_name()?;
        builder.url()?;
        builder.plan.has_targets = builder.has_targets();
        match (decision.outcome, request, event.kind) {
            (Outcome::Remove, Request::Sweep(sweep), _) => builder.pull_request_closed(&sweep.found)?,
            (Outcome::Remove, _, _) => builder.pull_request_closed(&[])?,
            (_, Request::PrOpened, _) | (_, Request::Event, Kind::PullRequest | Kind::MergeRequest) => builder.pull_request_opened()?,
            (_, Request::Release, _) | (_, Request::Event, Kind::Release | Kind::PushTag) => builder.released()?,
            (_, Request::Merge, _) | (_, Request::Event, Kind::PushBranch) => builder.merged()?,
            (_, Request::Hotfix { back_merge, .. }, _) => builder.hot_fixed(*back_merge)?,
            (_, Request::Rollback { .. }, _) => builder.rolled_back()?,
            (_, Request::Deploy { .. } | Request::Event | Request::PrClosed | Request::Sweep(_), _) => builder.deployed_by_hand()?,
        }
    }
    plan.hash = hash(&plan);
    Ok(plan)
}

/// What a preview may have at the targets of an environment, each with its place among them. What is named after the pull
/// request or its branch is filled with something.
pub fn removable(event: &Event, loaded: &Loaded, environment: &str, variables: &Variables) -> Result<Vec<(usize, targets::Work)>> {
    let config = &loaded.config;
    let Some((name, rules)) = config.environments.get_key_value(environment) else { return Ok(Vec::new()) };
    let decision = Decision { environment: Some(name.clone()), ..Decision::none(Outcome::Remove, Reason::Planned, String::new()) };
    let event = Event { head_ref: Some("sweep".into()), ..event.about(1) };
    let values = variables::values(&event, config, &decision, variables);
    let mut plan = Plan::empty(Outcome::Remove, Reason::Planned, String::new());
    let builder = Builder { event: &event, loaded, config, name, rules, values, decision: &decision, plan: &mut plan };
    Ok(builder.removable()?.into_iter().map(|(index, work, _place)| (index, work)).collect())
}

/// SHA-256 over the canonical plan: it holds neither times nor live facts.
fn hash(plan: &Plan) -> String {
    let work: Vec<&Work> = plan.steps.iter().map(|step| &step.work).collect();
    let builds: Vec<&Build> = plan.images.iter().map(|image| &image.build).collect();
    let canonical = serde_json::json!({
        "outcome": plan.outcome, "environment": plan.environment, "version": plan.version, "commit": plan.commit,
        "images": plan.images, "gates": plan.gates, "steps": plan.steps, "work": work, "builds": builds, "rollback": plan.rollback,
    });
    hex(&Sha256::digest(canonical.to_string().as_bytes())).chars().take(12).collect()
}

impl Plan {
    /// The plan of something that cannot be done.
    pub fn refused(error: &Error) -> Self {
        let mut plan = Self::empty(Outcome::Refuse, error.reason, error.lines().join("\n"));
        plan.hash = hash(&plan);
        plan
    }

    fn empty(outcome: Outcome, reason: Reason, sentence: String) -> Self {
        Self {
            schema: 1,
            hash: String::new(),
            outcome,
            reason,
            environment: None,
            version: None,
            images: Vec::new(),
            gates: Vec::new(),
            steps: Vec::new(),
            lock: None,
            rollback: None,
            url: None,
            left_out: Vec::new(),
            lifted: Vec::new(),
            sweeps: None,
            warnings: Vec::new(),
            sentence,
            commit: None,
            display_environment: String::new(),
            is_preview: false,
            has_targets: false,
            is_back: false,
            on_partial: config::OnPartial::Stop,
        }
    }
}
