//! Where versions run. All targets share one life: read what runs now, start, watch until settled, verify by identity, and
//! go back when that was asked for. The shared part is `live`; each system's file is the rest.

use crate::config::{self, Rollback, template::Values};
use crate::error::{Error, Reason, Result, Verdict};
use crate::registry::Pushed;
use crate::world::World;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

pub mod app_deploy;
pub mod awx;
pub mod command;
pub mod ecs;
pub mod heroku;
pub mod kubernetes;
pub mod previews;
pub mod proof;
pub mod swarm;
pub mod webhook;

/// How long a target may take, after a cancel, to stop what it started elsewhere.
pub const STOP_LIMIT: Duration = Duration::from_millis(1800);

/// A target of a plan: everything that can be decided before the images are there.
#[derive(Clone, Debug, Serialize)]
pub struct Work {
    /// The system and what is asked of it.
    pub system: System,
    /// What happens when it fails.
    pub rollback: Rollback,
    /// The image that runs there, where the system takes one.
    pub image: Option<String>,
    /// The values of the placeholders that are filled when the images are there.
    pub values: Values,
    /// The AWS region and role.
    pub aws: config::Aws,
}

/// Which system, with its part of the configuration.
#[derive(Clone, Debug, Serialize)]
pub enum System {
    /// Workloads in a cluster.
    Kubernetes(Box<kubernetes::Work>),
    /// Services of a swarm.
    Swarm(Box<config::Swarm>),
    /// An app on Heroku.
    Heroku(Box<heroku::Work>),
    /// A job or workflow template.
    Awx(Box<config::Awx>),
    /// A service of an ECS cluster.
    Ecs(Box<config::Ecs>),
    /// An app on a CD server.
    AppDeploy(Box<config::AppDeploy>),
    /// A program.
    Command(Box<config::CommandRun>),
    /// An HTTP endpoint.
    Webhook(Box<config::Webhook>),
}

impl System {
    /// The name of the system, as in `deploy.awx`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kubernetes(_) => "kubernetes",
            Self::Swarm(_) => "swarm",
            Self::Heroku(_) => "heroku",
            Self::Awx(_) => "awx",
            Self::Ecs(_) => "ecs",
            Self::AppDeploy(_) => "app_deploy",
            Self::Command(_) => "command",
            Self::Webhook(_) => "webhook",
        }
    }
}

/// The number of the lease under which a target is changed. A target that can hold it takes no change under a lower one.
#[derive(Clone, Debug)]
pub struct Fence {
    /// The store and the lease: numbers of other leases say nothing.
    pub place: String,
    /// Higher than that of every lease before.
    pub number: u64,
}

impl Fence {
    /// Whether what a target holds is of a later lease than ours.
    pub fn is_behind(&self, held: &str) -> bool {
        let later = |(place, number): (&str, &str)| place == self.place && number.parse().is_ok_and(|number: u64| number > self.number);
        held.rsplit_once('#').is_some_and(later)
    }

    /// Refuses to change what holds a later lease than ours.
    pub fn check(&self, what: &str, held: &str) -> Result<()> {
        if !self.is_behind(held) {
            return Ok(());
        }
        let error = Error::new(Reason::LockLost, format!("{what} was changed under a later lease ({held}) than ours ({self})"))
            .hint("another run deploys there; if the state was deleted on purpose, remove the annotation or label tidegate.dev/lease (on ECS dev.tidegate.lease)");
        Err(Error { gone: true, ..error })
    }
}

impl std::fmt::Display for Fence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", self.place, self.number)
    }
}

/// What the journal of this delivery knows of a target, also from a run before that was killed.
#[async_trait::async_trait]
pub trait Memory: Sync {
    /// Tells this delivery from all others; a run that goes on with it has the same.
    async fn delivery(&self) -> String;
    /// What was started elsewhere, as "job 42".
    async fn started(&self) -> Option<String>;
    /// Whether it was done to the end.
    async fn is_done(&self) -> bool;
    /// Writes down what was started.
    async fn note_started(&self, handle: &str) -> Result<()>;
    /// Writes down that it was done to the end.
    async fn note_done(&self) -> Result<()>;
}

/// What a target is given.
#[derive(Clone)]
pub struct Site<'a> {
    /// The surroundings.
    pub world: &'a World,
    /// The folder of tidegate.yml.
    pub folder: &'a Path,
    /// The step's id.
    pub step: &'a str,
    /// The images, by key.
    pub images: &'a BTreeMap<String, Pushed>,
    /// The lease.
    pub fence: &'a Fence,
    /// The journal.
    pub memory: &'a dyn Memory,
    /// The forge of this run.
    pub forge: &'a crate::forge::Forge,
    /// Whether it is a pull request's own.
    pub is_preview: bool,
    /// Project and environment, as labels and journals name them.
    pub owner: String,
}

impl Site<'_> {
    /// The image that runs there.
    pub fn image(&self, work: &Work) -> Result<&Pushed> {
        let name = work.image.as_deref().unwrap_or_default();
        self.images.get(name).ok_or_else(|| Error::new(Reason::Internal, format!("the image {name} is not there yet")))
    }

    /// A text with its placeholders filled; an error names the step.
    pub fn fill(&self, values: &Values, text: &str) -> Result<String> {
        values.fill(text).map_err(|why| unfilled(self.step, why))
    }

    /// The same for every text of a JSON value.
    pub fn fill_json(&self, values: &Values, value: &serde_json::Value) -> Result<serde_json::Value> {
        values.fill_json(value).map_err(|why| unfilled(self.step, why))
    }

    /// The values of placeholders, those of images included.
    pub fn values(&self, values: &Values) -> Values {
        with_images(values, self.images.iter().map(|(name, image)| (name.as_str(), image.reference(), image.digest.clone())))
    }

    /// Writes down what was started. It runs: that this cannot be written down is said, and stops nothing but a lost lease.
    pub async fn note_started(&self, handle: &str) -> Result<()> {
        self.noted(self.memory.note_started(handle).await, handle)
    }

    /// Writes down that it was done to the end.
    pub async fn note_done(&self) -> Result<()> {
        self.noted(self.memory.note_done().await, "it was done")
    }

    fn noted(&self, noted: Result<()>, what: &str) -> Result<()> {
        match noted {
            Err(error) if error.reason != Reason::LockLost => {
                let step = self.step;
                self.world.console.warning(&format!(
                    "{step}: it is not written down ({what}): a run that goes on with this one may do it again: {}",
                    error.sentence
                ));
                Ok(())
            }
            noted => noted,
        }
    }

    /// A line about this target.
    pub fn say(&self, text: &str) {
        self.world.console.line(&format!("  {text}"));
    }
}

/// Looks in a row that were lost while something is followed.
pub struct Lost {
    count: u32,
    most: u32,
}

impl Lost {
    /// None yet; so many may be.
    pub fn at_most(most: u32) -> Self {
        Self { count: 0, most }
    }

    /// Something was seen.
    pub fn over(&mut self) {
        self.count = 0;
    }

    /// Says that it is looked again; gives the error back when that was one too many.
    pub fn bear(&mut self, error: Error, site: &Site<'_>) -> Result<()> {
        if self.count >= self.most {
            return Err(error);
        }
        self.count += 1;
        site.say(&format!("{}; asking again", error.sentence));
        Ok(())
    }
}

/// The values with those of images.
pub fn with_images<'a>(values: &Values, images: impl Iterator<Item = (&'a str, String, String)>) -> Values {
    let mut values = values.clone();
    for (name, reference, digest) in images {
        values.set(format!("image.{name}"), Some(reference));
        values.set(format!("digest.{name}"), Some(digest));
    }
    values
}

/// What became of a target.
#[derive(Clone, Debug)]
pub struct Settled {
    /// What is true now.
    pub verdict: Verdict,
    /// One sentence that names what was identified.
    pub detail: String,
    /// Where it can be seen.
    pub url: Option<String>,
}

impl Settled {
    /// It runs, and this is what was identified.
    pub fn deployed(detail: impl Into<String>, url: Option<String>) -> Self {
        Self { verdict: Verdict::Deployed, detail: detail.into(), url }
    }
}

/// The parts of a target's life that differ from system to system.
pub(crate) trait Life: Sync {
    /// What was there.
    type Before: Send + Sync;
    /// What was begun; its default is nothing.
    type Started: Default + Send + Sync;

    /// Looks at what runs now and refuses what cannot work. Changes nothing.
    fn read(&self) -> impl Future<Output = Result<Self::Before>> + Send;
    /// Begins. What was begun is noted as it happens, so that a failure in the middle is known.
    fn start(&self, before: &mut Self::Before, started: &mut Self::Started) -> impl Future<Output = Result<()>> + Send;
    /// Watches until it is settled, and proves by identity that the version runs.
    fn settle(&self, before: &Self::Before, started: &Self::Started) -> impl Future<Output = Result<Settled>> + Send;
    /// Whether something was changed that one can go back from.
    fn has_changed(&self, started: &Self::Started) -> bool;
    /// Goes back; says to what, once that runs.
    fn back(&self, before: &Self::Before, started: &Self::Started) -> impl Future<Output = Result<String>> + Send;
    /// After a cancel or at the deadline: stops what was begun elsewhere, or says that it goes on.
    fn stop(&self, started: &Self::Started) -> impl Future<Output = Option<String>> + Send;
}

/// The one life of a target.
pub(crate) async fn live<T: Life>(target: &T, rollback: Rollback, world: &World) -> Result<Settled> {
    let mut before = target.read().await?;
    let mut started = T::Started::default();
    let outcome = match target.start(&mut before, &mut started).await {
        Ok(()) => target.settle(&before, &started).await,
        Err(error) => Err(error),
    };
    let Err(mut error) = outcome else { return outcome };
    if matches!(error.reason, Reason::Cancelled | Reason::TargetTimeout)
        && let Ok(Some(said)) = tokio::time::timeout(STOP_LIMIT, target.stop(&started)).await
    {
        error.detail.push(said);
    }
    let may_go_back = !matches!(error.reason, Reason::Cancelled | Reason::LockLost);
    if rollback == Rollback::Never || !may_go_back || !target.has_changed(&started) {
        return Err(error);
    }
    let platform_did = error.reason == Reason::TargetRolledBack;
    if !platform_did {
        world.console.bad(&error.sentence);
        world.console.line("  going back to what ran before");
    }
    let back = tokio::select! {
        back = target.back(&before, &started) => back,
        () = world.cancel.cancelled() => Err(Error::new(Reason::Cancelled, "the run was cancelled meanwhile")),
    };
    Err(match back {
        Ok(to) if to.is_empty() => error,
        Ok(to) if platform_did => {
            error.detail.push(to);
            error
        }
        Ok(to) => rolled_back(error, &to),
        Err(second) => {
            error.detail.extend(std::iter::once(format!("going back failed as well: {}", second.sentence)).chain(second.detail));
            error.hint("the old and the new version may run side by side: look there before the next deploy")
        }
    })
}

/// What to do when the version before runs again.
pub(crate) const AFTER_GOING_BACK: &str = "mend the cause, then deliver a new commit, or run this again if the cause was outside";

/// The failure of a deploy after which the version before runs again.
pub(crate) fn rolled_back(cause: Error, to: &str) -> Error {
    let mut detail = vec![format!("cause: {}", cause.reason)];
    detail.extend(cause.detail);
    Error::new(Reason::TargetRolledBack, format!("{}; rolled back: {to}", cause.sentence)).detail(detail).hint(AFTER_GOING_BACK)
}

/// Deploys, and proves that it runs.
pub async fn deploy(site: &Site<'_>, work: &Work) -> Result<Settled> {
    match &work.system {
        System::Kubernetes(kubernetes) => kubernetes::deploy(site, work, kubernetes).await,
        System::Swarm(swarm) => swarm::deploy(site, work, swarm).await,
        System::Heroku(heroku) => heroku::deploy(site, work, heroku).await,
        System::Awx(awx) => awx::deploy(site, work, awx).await,
        System::Ecs(ecs) => ecs::deploy(site, work, ecs).await,
        System::AppDeploy(app) => app_deploy::deploy(site, work, app).await,
        System::Command(command) => command::deploy(site, work, command).await,
        System::Webhook(webhook) => webhook::deploy(site, work, webhook).await,
    }
}

/// The proof that the version runs there already; nothing when something would have to be done. Changes nothing.
pub async fn runs(site: &Site<'_>, work: &Work) -> Result<Option<Settled>> {
    match &work.system {
        System::Kubernetes(kubernetes) => kubernetes::runs(site, work, kubernetes).await,
        System::Swarm(swarm) => swarm::runs(site, work, swarm).await,
        System::Heroku(heroku) => heroku::runs(site, work, heroku).await,
        System::Awx(awx) => awx::runs(site, work, awx).await,
        System::Ecs(ecs) => ecs::runs(site, work, ecs).await,
        System::AppDeploy(app) => app_deploy::runs(site, work, app).await,
        System::Command(command) => command::runs(site, work, command).await,
        System::Webhook(webhook) => webhook::runs(site, work, webhook).await,
    }
}

/// Removes what a preview has at a target; what is gone, if anything of ours was there.
pub async fn remove(site: &Site<'_>, work: &Work) -> Result<Option<String>> {
    match &work.system {
        System::Kubernetes(kubernetes) => kubernetes::remove(site, kubernetes).await,
        System::Heroku(heroku) => heroku::remove(site, heroku).await,
        System::Command(command) => command::remove(site, work, command).await,
        System::Swarm(_) | System::Awx(_) | System::Ecs(_) | System::AppDeploy(_) | System::Webhook(_) => Ok(None),
    }
}

/// Refuses, before anything is built, what lacks a file, a program or a secret. Connects to nothing.
pub fn check(world: &World, folder: &Path, work: &Work) -> Result<()> {
    match &work.system {
        System::Kubernetes(kubernetes) => kubernetes::check(world, folder, work, kubernetes),
        System::Swarm(swarm) => swarm::check(world, folder, swarm),
        System::Heroku(heroku) => heroku::check(world, work, heroku),
        System::Awx(awx) => awx::check(world, awx),
        System::Ecs(ecs) => ecs::check(world, folder, work, ecs),
        System::AppDeploy(app) => app_deploy::check(world, folder, app),
        System::Command(command) => command::check(world, folder, &work.values, command),
        System::Webhook(webhook) => webhook::check(world, folder, webhook),
    }
}

/// A journal of nothing, for those who only look.
struct Forgetful;

#[async_trait::async_trait]
impl Memory for Forgetful {
    async fn delivery(&self) -> String {
        crate::report::outputs::random()
    }

    async fn started(&self) -> Option<String> {
        None
    }

    async fn is_done(&self) -> bool {
        false
    }

    async fn note_started(&self, _handle: &str) -> Result<()> {
        Ok(())
    }

    async fn note_done(&self) -> Result<()> {
        Ok(())
    }
}

/// Looks at a target without a delivery: nothing is changed.
pub async fn look(world: &World, folder: &Path, work: &Work) -> Result<String> {
    check(world, folder, work)?;
    alone(world, "look", async |site| look_at(&Site { folder, ..site.clone() }, work).await).await
}

/// A site without a delivery: no images, no lease, and a journal of nothing.
pub async fn alone<T>(world: &World, step: &str, act: impl AsyncFnOnce(&Site<'_>) -> Result<T>) -> Result<T> {
    let (images, fence) = (BTreeMap::new(), Fence { place: String::new(), number: 0 });
    let forge = crate::forge::Forge::Absent { why: "nobody is told".into() };
    let (folder, owner) = (Path::new("."), String::new());
    act(&Site { world, folder, step, images: &images, fence: &fence, memory: &Forgetful, forge: &forge, is_preview: false, owner }).await
}

async fn look_at(site: &Site<'_>, work: &Work) -> Result<String> {
    match &work.system {
        System::Heroku(heroku) => heroku::look(site, work, heroku).await,
        System::Awx(awx) => awx::look(site, work, awx).await,
        System::Ecs(ecs) => ecs::look(site, work, ecs).await,
        System::AppDeploy(_) => Ok("the id and the secret of the deployment are set (nothing is asked for)".into()),
        System::Swarm(swarm) => swarm::look(site, work, swarm).await,
        System::Command(command) => {
            Ok(format!("`{}` and its secrets are there (it is not run)", command.run.first().map(String::as_str).unwrap_or_default()))
        }
        System::Webhook(_) => Ok("the secrets of the webhook are set (it is not sent)".into()),
        System::Kubernetes(_) => Ok("looked at by `may`".into()),
    }
}

/// A secret that must be there.
pub(crate) fn secret(world: &World, name: &str, what: &str) -> Result<crate::tools::secret::Secret> {
    let value = world.vars.get(name).ok_or_else(|| {
        Error::new(Reason::AuthMissing, format!("{what} is not set ({name})"))
            .hint(format!("GitHub: `env: {{{name}: ${{{{ secrets.{name} }}}}}}` in the step; GitLab: Settings > CI/CD > Variables"))
    })?;
    let secret = crate::tools::secret::Secret::new(value);
    world.console.mask(&secret);
    Ok(secret)
}

/// Sets a value inside a JSON object; objects on the way are made where there are none.
pub(crate) fn set(value: &mut serde_json::Value, path: &[&str], to: serde_json::Value) {
    use serde_json::Value;
    let Some((first, rest)) = path.split_first() else {
        *value = to;
        return;
    };
    if !value.is_object() {
        *value = Value::Object(serde_json::Map::new());
    }
    if let Some(map) = value.as_object_mut() {
        set(map.entry((*first).to_owned()).or_insert(Value::Null), rest, to);
    }
}

/// A placeholder that has no value, found when the images are there.
pub(crate) fn unfilled(step: &str, why: String) -> Error {
    Error::new(Reason::ConfigInvalid, format!("{step}: {why}")).hint("use another placeholder, or claim only events that have it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_keeps_its_cause_in_front() {
        let cause = Error::new(Reason::TargetCrashLoop, "web dies").detail(vec!["panic".into()]);
        let error = rolled_back(cause, "old");
        assert_eq!(error.sentence, "web dies; rolled back: old");
        assert_eq!(error.detail, ["cause: target.crash-loop", "panic"]);
    }
}
