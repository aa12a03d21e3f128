//! Amazon ECS: copies the service's task definition with the image by digest, switches the service to the copy, and follows our
//! deployment by its id until the running tasks prove what they run.

use super::{Life, Settled, Site, Work, live, unfilled};
use crate::config::{self, Ecs, Restart, template::Values};
use crate::error::{Error, Reason, Result};
use crate::plan::EcsWork;
use crate::registry::Pushed;
use crate::world::World;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

mod api;
mod definition;
mod follow;
mod lines;
mod noted;
mod place;
mod task;
mod tasks;

use api::Api;
use definition::{Change, Definition};
use noted::{Noted, Step};
use place::{Goal, Place, Service, Stage};

/// How often an update whose answer was lost is sent in all.
const UPDATES: u32 = 4;

/// Refuses a file that is not there, before anything is built.
pub fn check(_world: &World, folder: &Path, work: &Work, target: &Ecs) -> Result<()> {
    let Some(file) = &target.task_definition else { return Ok(()) };
    let file = work.values.fill(file).map_err(|why| unfilled("deploy.ecs", why))?;
    definition::read(folder, &file).map(drop)
}

/// Deploys, and proves that it runs.
pub async fn deploy(site: &Site<'_>, work: &Work, target: &Ecs) -> Result<Settled> {
    live(&Switch::open(site, work, target).await?, work.rollback, site.world).await
}

/// Runs a task of the service once, to its end, and switches nothing.
pub async fn run_off(site: &Site<'_>, values: &Values, task: &EcsWork) -> Result<String> {
    let target = task.run.target();
    let work = Work {
        system: super::System::Ecs(Box::new(target.clone())),
        rollback: crate::config::Rollback::Never,
        image: Some(task.image.clone()),
        values: values.clone(),
        aws: task.aws.clone(),
    };
    let switch = Switch { marker: task.run.failure_marker.as_deref(), ..Switch::open(site, &work, &target).await? };
    let before = switch.read().await?;
    if switch.marker.is_some() && before.wanted.stream(&before.container).is_none() {
        let sentence = format!(
            "the lines of the container {} do not go to CloudWatch Logs, where `failure-marker:` could be looked for",
            before.container
        );
        return Err(Error::new(Reason::TargetInput, sentence)
            .hint("give it the log driver awslogs with a group and a stream prefix, or leave the marker out"));
    }
    let mut started = Started::default();
    let revision = switch.revision(&before).await?;
    let ran = switch.run_task(&before, &revision, &mut started).await;
    match (ran, &started.task) {
        (Ok(()), _) => Ok(format!("a task of {} ended with exit code 0", short(&revision))),
        (Err(mut error), Some(left)) => {
            error.detail.push(switch.stop_task(left).await);
            Err(error)
        }
        (Err(error), None) => Err(error),
    }
}

/// The proof that the service runs the image already, from the same file where there is one.
pub async fn runs(site: &Site<'_>, work: &Work, target: &Ecs) -> Result<Option<Settled>> {
    let switch = Switch::open(site, work, target).await?;
    let before = switch.read().await?;
    if !before.is_current || target.restart != Restart::Never {
        return Ok(None);
    }
    let goal = before.as_it_is();
    if before.service.stage(&goal) != Stage::Completed {
        return Ok(None);
    }
    let proof = switch.proof(&before.service, &goal, &before.container).await?;
    Ok(proof.ok().map(|said| Settled::deployed(said, switch.place.url())))
}

/// Whether the service is there, and has the container. Changes nothing.
pub async fn look(site: &Site<'_>, work: &Work, target: &Ecs) -> Result<String> {
    let place = Place::open(site, work, target, &work.values).await?;
    let service = place.service().await?;
    let current = place.definition(service.revision()).await?;
    let named = optional(site, &work.values, target.container.as_deref())?;
    let container = match (&named, current.containers().as_slice()) {
        (None, [_, _, ..]) => format!("one of the containers {}", current.containers().join(", ")),
        _named_or_only => format!("the container {}", current.container(named.as_deref(), None)?),
    };
    Ok(format!("the ECS service {} runs {} ({}); {container} would get the image", place.name, short(current.arn()), tasks_of(&service)))
}

/// The last part of an ARN: demo:7, web.
fn short(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

/// The ARN of another revision: that of `arn` with another name at its end.
fn sibling(arn: &str, name: &str) -> String {
    arn.rsplit_once('/').map_or_else(|| name.to_owned(), |(head, _)| format!("{head}/{name}"))
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn list<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = &'v Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn tasks_of(service: &Service) -> String {
    service.primary().map_or_else(|| "it has no deployment".into(), |primary| primary.progress())
}

fn optional(site: &Site<'_>, values: &Values, text: Option<&str>) -> Result<Option<String>> {
    text.map(|text| site.fill(values, text)).transpose()
}

impl Place {
    async fn open(site: &Site<'_>, work: &Work, target: &Ecs, values: &Values) -> Result<Self> {
        let fill = |text: &str| site.fill(values, text);
        let (cluster, name) = (fill(&target.cluster)?, fill(&target.service)?);
        Ok(Self { api: Api::open(site.world, &work.aws).await?, cluster, name })
    }
}

struct Switch<'a> {
    site: &'a Site<'a>,
    target: &'a Ecs,
    place: Place,
    values: Values,
    image: &'a Pushed,
    aws: config::Aws,
    /// A line of a task that means failure.
    marker: Option<&'a str>,
}

/// What was there, and what is to be.
struct Before {
    service: Service,
    /// The revision that ran before; to it one goes back.
    revision: String,
    /// The revision of the service now.
    current: Definition,
    /// What is registered, before the image stands in it.
    wanted: Definition,
    /// The container that gets the image.
    container: String,
    /// Whether the service is to run the image already.
    is_current: bool,
    /// How far a run came that was killed.
    noted: Option<Noted>,
}

/// An update of the service.
struct Update<'a> {
    body: Value,
    /// The revision that it is for.
    revision: &'a str,
    /// The deployment that was there before, where ours must be another.
    replaces: Option<&'a str>,
}

#[derive(Default)]
struct Started {
    /// The revision that is deployed.
    revision: Option<String>,
    /// Our deployment.
    deployment: Option<String>,
    /// A task that runs beforehand.
    task: Option<String>,
    /// Whether ECS went back by itself.
    went_back: std::sync::atomic::AtomicBool,
}

impl Before {
    /// The newest deployment as the one that is followed: nothing is changed.
    fn as_it_is(&self) -> Goal {
        let id = self.service.primary().map(|primary| primary.id().to_owned()).unwrap_or_default();
        Goal { id, revision: self.current.arn().to_owned(), before: self.revision.clone(), replaced: None }
    }

    fn deployment(&self) -> Option<&str> {
        self.service.primary().map(place::Deployment::id)
    }
}

impl Life for Switch<'_> {
    type Before = Before;
    type Started = Started;

    async fn read(&self) -> Result<Before> {
        let service = self.place.service().await?;
        let current = self.place.definition(service.revision()).await?;
        let wanted = match &self.target.task_definition {
            Some(file) => self.load(file)?.with_family_of(&current),
            None => current.clone(),
        };
        let named = optional(self.site, &self.values, self.target.container.as_deref())?;
        let container = wanted.container(named.as_deref(), Some(&self.image.repository))?;
        if let Some(other) = self.target.run_task.as_ref().and_then(|task| task.container.as_deref()) {
            let other = self.fill(other)?;
            wanted.container(Some(&other), None)?;
        }
        let same_source = wanted.source.as_deref().is_none_or(|source| current.label(&container, definition::SOURCE) == source);
        let is_current = same_source && current.image(&container) == self.image.reference();
        let noted = match self.site.memory.is_done().await {
            true => None,
            false => self.site.memory.started().await.and_then(|text| Noted::parse(&text)),
        };
        let is_noted = noted.as_ref().is_some_and(|noted| noted.revision == current.number() && wanted.family() == current.family());
        let before = current.label(&container, definition::BEFORE);
        let revision = match is_noted && !before.is_empty() {
            true => sibling(current.arn(), before), // a run that was killed switched to this one
            false => current.arn().to_owned(),
        };
        Ok(Before { service, revision, current, wanted, container, is_current, noted })
    }

    async fn start(&self, before: &mut Before, started: &mut Started) -> Result<()> {
        if self.follows(before, started) {
            return Ok(());
        }
        let held = before.current.label(&before.container, definition::LEASE);
        self.site.fence.check(&format!("the ECS service {}", self.place.name), held)?;
        if before.is_current {
            return self.restart(before, started).await;
        }
        let revision = self.revision(before).await?;
        self.run_task(before, &revision, started).await?;
        let body = json!({"cluster": self.place.cluster, "service": self.place.name, "taskDefinition": revision});
        let id = self.update(&Update { body, revision: &revision, replaces: before.deployment() }).await?;
        self.site.say(&format!("ECS {}: deployment {id} of {} begins", self.place.name, short(&revision)));
        (started.revision, started.deployment) = (Some(revision.clone()), Some(id.clone()));
        self.note(Step::Deployment(id), &revision).await
    }

    async fn settle(&self, before: &Before, started: &Started) -> Result<Settled> {
        let goal = match (&started.deployment, &started.revision) {
            (Some(id), Some(revision)) => {
                let replaced = before.deployment().filter(|replaced| *replaced != id).map(str::to_owned);
                Goal { id: id.clone(), revision: revision.clone(), before: before.revision.clone(), replaced }
            }
            (_, _) => before.as_it_is(),
        };
        let deadline = self.site.world.clock.now().saturating_add(self.target.timeout.0);
        let service = self.follow(&goal, deadline, &started.went_back).await?;
        let said = self.verify(service, &goal, &before.container).await?;
        self.site.note_done().await?;
        Ok(Settled::deployed(said, self.place.url()))
    }

    fn has_changed(&self, started: &Started) -> bool {
        started.deployment.is_some() && !started.went_back.load(std::sync::atomic::Ordering::Relaxed)
    }

    async fn back(&self, before: &Before, started: &Started) -> Result<String> {
        if started.revision.as_ref() == Some(&before.revision) {
            return Ok(String::new()); // the same revision was only restarted
        }
        self.go_back(before).await
    }

    async fn stop(&self, started: &Started) -> Option<String> {
        if let Some(task) = &started.task {
            return Some(self.stop_task(task).await);
        }
        let id = started.deployment.as_ref()?;
        Some(format!("the deployment {id} of the ECS service {} goes on by itself", self.place.name))
    }
}

impl<'a> Switch<'a> {
    async fn open(site: &'a Site<'a>, work: &Work, target: &'a Ecs) -> Result<Self> {
        let values = site.values(&work.values);
        let place = Place::open(site, work, target, &values).await?;
        Ok(Self { site, target, place, values, image: site.image(work)?, aws: work.aws.clone(), marker: None })
    }

    fn fill(&self, text: &str) -> Result<String> {
        self.site.fill(&self.values, text)
    }

    fn load(&self, file: &str) -> Result<Definition> {
        let file = self.fill(file)?;
        Definition::load(self.site.folder, &file, &self.values, &mut |name| {
            self.site.world.console.warning(&format!("{file}: {{{name}}} is no placeholder and stays as it is"));
        })
    }

    /// Whether a run that was killed began the deployment that is now the newest one, or the one that is to come.
    fn follows(&self, before: &Before, started: &mut Started) -> bool {
        let (Some(noted), Some(primary)) = (&before.noted, before.service.primary()) else { return false };
        let id = match &noted.step {
            Step::Deployment(id) => id.as_str(),
            Step::Registered | Step::Passed => primary.id(), // it was killed before it could write the deployment down
            Step::Task(_) | Step::Failed(_) => return false,
        };
        let ours = sibling(before.current.arn(), &format!("{}:{}", before.wanted.family(), noted.revision));
        let is_ours = primary.id() == id && primary.revision() == ours && ours != before.revision;
        if !is_ours || primary.state() == "FAILED" {
            return false;
        }
        self.site.say(&format!("the run before began the deployment {id}: it is followed"));
        (started.revision, started.deployment) = (Some(ours), Some(id.to_owned()));
        true
    }

    /// The image is there already: nothing is done, or its tasks are replaced when that is asked for, or when ECS gave up before.
    async fn restart(&self, before: &Before, started: &mut Started) -> Result<()> {
        let revision = before.current.arn();
        let gave_up = before.service.primary().is_some_and(|primary| primary.state() == "FAILED");
        if self.target.restart == Restart::Never && !gave_up {
            self.site.say(&format!("ECS {} has the image already ({})", self.place.name, short(revision)));
            return Ok(());
        }
        let body =
            json!({"cluster": self.place.cluster, "service": self.place.name, "taskDefinition": revision, "forceNewDeployment": true});
        let id = self.update(&Update { body, revision, replaces: before.deployment() }).await?;
        self.site.say(&format!("ECS {}: deployment {id} replaces the tasks of {}", self.place.name, short(revision)));
        (started.revision, started.deployment) = (Some(revision.to_owned()), Some(id));
        Ok(())
    }

    /// The new revision: that of a run that was killed, or one that is registered now.
    async fn revision(&self, before: &Before) -> Result<String> {
        if let Some(noted) = &before.noted
            && let Ok(made) = self.place.definition(&format!("{}:{}", before.wanted.family(), noted.revision)).await
            && made.is_active()
            && made.image(&before.container) == self.image.reference()
        {
            self.site.say(&format!("the run before registered {}", short(made.arn())));
            return Ok(made.arn().to_owned());
        }
        let (image, lease) = (self.image.reference(), self.site.fence.to_string());
        let copy = before.wanted.copy(&Change { container: &before.container, image: &image, lease, before: &before.revision });
        let made = Definition::of(self.place.api.call("RegisterTaskDefinition", &copy).await?)?;
        if made.image(&before.container) != image {
            let sentence = format!("ECS registered {} with another image: {}", short(made.arn()), made.image(&before.container));
            return Err(Error::new(Reason::TargetWrongDigest, sentence));
        }
        self.site.say(&format!("ECS {}: {} has {image}", self.place.name, short(made.arn())));
        let noted = Noted { step: Step::Registered, revision: made.number() };
        self.site.memory.note_started(&noted.to_string()).await?; // without a journal nothing is run or switched
        Ok(made.arn().to_owned())
    }

    /// Writes down how far it came.
    async fn note(&self, step: Step, revision: &str) -> Result<()> {
        let number = revision.rsplit(':').next().and_then(|number| number.parse().ok()).unwrap_or_default();
        self.site.note_started(&Noted { step, revision: number }.to_string()).await
    }

    /// Updates the service once; our deployment's id. Where the answer was lost the service says whether it was taken.
    async fn update(&self, update: &Update<'_>) -> Result<String> {
        let (name, revision) = (&self.place.name, update.revision);
        let begun = |service: &Service| {
            let primary = service.primary()?;
            let is_new = Some(primary.id()) != update.replaces && primary.revision() == revision;
            is_new.then(|| primary.id().to_owned())
        };
        let mut tries = 0;
        loop {
            tries += 1;
            match self.place.api.once("UpdateService", &update.body).await {
                Ok(mut answer) => {
                    let service = Service(answer.get_mut("service").map(Value::take).unwrap_or_default());
                    return begun(&service).ok_or_else(|| ignored(name, revision, &service));
                }
                Err(error) if error.lost && tries < UPDATES => {
                    self.site.say(&format!("{}; looking whether it was taken", error.sentence));
                    self.site.world.clock.sleep(Duration::from_millis(500)).await;
                    if let Some(id) = begun(&self.place.service().await?) {
                        return Ok(id);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// ECS said yes to an update, and did nothing.
fn ignored(name: &str, revision: &str, service: &Service) -> Error {
    let there = service.primary().map_or("no deployment", |primary| short(primary.revision()));
    let sentence =
        format!("ECS took the update of {name} to {}, but began no deployment of it: the newest one is of {there}", short(revision));
    Error::new(Reason::TargetWrongDigest, sentence).hint(format!("look at the deployments of {name}, then run this again"))
}
