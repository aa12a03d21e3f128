//! A deployment on ECS: followed to its end, judged, proven by the tasks that run, or taken back.

use super::place::{Deployment, Goal, Service, Stage};
use super::tasks::{Cause, Proof, Wanted, prove};
use super::{Before, Switch, Update, short};
use crate::error::{Error, Reason, Result};
use crate::targets::{AFTER_GOING_BACK, Lost};
use crate::tools::wait::{Backoff, spoken};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How many answers in a row may be lost while a deployment is followed.
const PATIENCE: u32 = 20;
/// So many tasks of ours that failed are enough where ECS itself never gives up.
const ENOUGH: usize = 3;
/// How often tasks are looked at after ECS has said that they run, a second apart: lists lag behind.
const LOOKS: u32 = 5;

/// How a wait for a deployment ended.
enum End {
    /// ECS says that it is completed.
    Completed(Service),
    /// ECS deploys what was there before.
    WentBack(Service),
}

impl Switch<'_> {
    /// Follows a deployment until ECS says that it is completed.
    pub(super) async fn follow(&self, goal: &Goal, deadline: Duration, went_back: &AtomicBool) -> Result<Service> {
        match self.wait(goal, deadline).await? {
            End::Completed(service) => Ok(service),
            End::WentBack(service) => Err(self.platform_went_back(&service, goal, deadline, went_back).await),
        }
    }

    /// Looks until the running tasks prove it, or until they do not.
    pub(super) async fn verify(&self, mut service: Service, goal: &Goal, container: &str) -> Result<String> {
        let mut looks = 0;
        loop {
            looks += 1;
            let why = match self.proof(&service, goal, container).await? {
                Ok(said) => return Ok(said),
                Err(Proof::NotYet(why)) if looks < LOOKS => why,
                Err(Proof::NotYet(why) | Proof::Other(why)) => {
                    let sentence = format!("ECS says that {} of {} is completed, but {why}", short(&goal.revision), self.place.name);
                    return Err(
                        Error::new(Reason::TargetWrongDigest, sentence).hint("look at the tasks of the service, then run this again")
                    );
                }
                Err(Proof::Right(_)) => return Err(Error::new(Reason::Internal, "a proof that is none")),
            };
            self.site.say(&format!("ECS {}: {why}; looking again", self.place.name));
            tokio::select! {
                () = self.site.world.clock.sleep(Duration::from_secs(1)) => {}
                () = self.site.world.cancel.cancelled() => return Err(self.cancelled(&why)),
            }
            service = self.place.service().await?;
        }
    }

    /// One look at the running tasks: what is proven, or what is not.
    pub(super) async fn proof(&self, service: &Service, goal: &Goal, container: &str) -> Result<std::result::Result<String, Proof>> {
        let wanted = Wanted { revision: &goal.revision, image: Some((container, self.image)) };
        let right = match self.proven(service, &wanted).await? {
            Proof::Right(right) => right,
            unproven @ (Proof::NotYet(_) | Proof::Other(_)) => return Ok(Err(unproven)),
        };
        let (name, revision) = (&self.place.name, short(&goal.revision));
        Ok(Ok(match service.desired() {
            0 => format!("ECS {name}: 0 tasks wanted, so none could be identified; the service has {revision}"),
            desired => format!("ECS {name}: {right} of {desired} tasks run {} ({revision})", self.image.digest),
        }))
    }

    /// Switches to the revision before, and waits until its tasks run again.
    pub(super) async fn go_back(&self, before: &Before) -> Result<String> {
        let (name, revision) = (&self.place.name, &before.revision);
        let now = self.place.service().await?;
        let there = now.primary().filter(|primary| primary.revision() == revision).map(|primary| primary.id().to_owned());
        let id = match there {
            Some(id) => id,
            None => {
                let body = json!({"cluster": self.place.cluster, "service": name, "taskDefinition": revision});
                self.update(&Update { body, revision, replaces: None }).await?
            }
        };
        let deadline = self.site.world.clock.now().saturating_add(self.target.timeout.0);
        let goal = Goal { id, revision: revision.clone(), before: revision.clone(), replaced: None };
        match self.wait(&goal, deadline).await? {
            End::Completed(service) => self.runs_before(service, revision).await,
            End::WentBack(_) => Err(Error::new(Reason::TargetFailed, format!("somebody else deploys {name} as well"))),
        }
    }

    async fn wait(&self, goal: &Goal, deadline: Duration) -> Result<End> {
        let clock = &self.site.world.clock;
        let (begun, mut said, mut lost, mut stale) = (clock.now(), String::new(), Lost::at_most(PATIENCE), None);
        let mut pauses = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
        loop {
            let looked = tokio::select! {
                looked = self.look(goal, &mut stale) => looked,
                () = self.site.world.cancel.cancelled() => return Err(self.cancelled(&said)),
            };
            match looked {
                Ok((service, Stage::Completed)) => return Ok(End::Completed(service)),
                Ok((service, Stage::WentBack)) => return Ok(End::WentBack(service)),
                Ok((service, Stage::Failed)) => return Err(self.gave_up(&service, goal).await),
                Ok((service, Stage::Taken)) => return Err(self.taken(&service, goal)),
                Ok((service, Stage::Going)) => {
                    lost.over();
                    self.progress(&service, &mut said);
                }
                Err(error) if error.reason == Reason::TargetFailed => lost.bear(error, self.site)?,
                Err(error) => return Err(error),
            }
            let left = deadline.saturating_sub(clock.now());
            if left.is_zero() {
                return Err(self.timed_out(goal, clock.now().saturating_sub(begun), &said).await);
            }
            tokio::select! {
                () = clock.sleep(pauses.pause().min(left)) => {}
                () = self.site.world.cancel.cancelled() => return Err(self.cancelled(&said)),
            }
        }
    }

    /// The service and how far the deployment is; an error as soon as its tasks say why it will never end. Those that had failed
    /// before we began to look say nothing: their cause may be mended.
    async fn look(&self, goal: &Goal, stale: &mut Option<usize>) -> Result<(Service, Stage)> {
        let service = self.place.service().await?;
        let stage = service.stage(goal);
        let (Stage::Going, Some(primary)) = (stage, service.primary()) else { return Ok((service, stage)) };
        if service.gives_up() {
            return Ok((service, stage));
        }
        let cause = self.place.cause(&service, primary).await?;
        let failed = cause.as_ref().map_or(0, |cause| cause.failed);
        if failed.saturating_sub(*stale.get_or_insert(failed)) < ENOUGH {
            return Ok((service, stage));
        }
        let what = format!("{failed} tasks of {} have failed, and the service has no circuit breaker", short(&goal.revision));
        Err(self.failure(cause, &what, Reason::TargetFailed))
    }

    fn progress(&self, service: &Service, said: &mut String) {
        let now = service.primary().map_or_else(|| "no deployment".into(), Deployment::progress);
        if now != *said {
            self.site.say(&format!("ECS {}: {now}", self.place.name));
            *said = now;
        }
    }

    async fn proven(&self, service: &Service, wanted: &Wanted<'_>) -> Result<Proof> {
        let primary = service.primary().map(Deployment::revision).unwrap_or_default();
        let other = [service.revision(), primary].into_iter().find(|there| *there != wanted.revision);
        if let Some(other) = other {
            return Ok(Proof::NotYet(format!("the service has {:?}", short(other))));
        }
        Ok(prove(&self.place.running().await?, service.desired(), wanted))
    }

    /// That the version before runs again, which is only said when its tasks were seen.
    async fn runs_before(&self, mut service: Service, revision: &str) -> Result<String> {
        let mut why = String::new();
        for _look in 0..LOOKS {
            let wanted = Wanted { revision, image: None };
            match self.proven(&service, &wanted).await? {
                Proof::Right(0) => return Ok(format!("the service has {} again (0 tasks wanted)", short(revision))),
                Proof::Right(right) => {
                    return Ok(format!("{} runs {} again ({right} of {} tasks)", self.place.name, short(revision), service.desired()));
                }
                Proof::NotYet(now) | Proof::Other(now) => why = now,
            }
            self.site.world.clock.sleep(Duration::from_secs(1)).await;
            service = self.place.service().await?;
        }
        Err(Error::new(Reason::TargetFailed, format!("{} is to run {} again, but {why}", self.place.name, short(revision))))
    }

    /// The circuit breaker, an alarm or a person went back: a failure, told when it is known how that ended.
    async fn platform_went_back(&self, service: &Service, goal: &Goal, deadline: Duration, went_back: &AtomicBool) -> Error {
        let ours = service.deployment(&goal.id);
        let cause = self.cause_of(service, &goal.id).await;
        let why = ours.map(Deployment::why).filter(|why| !why.is_empty()).map(|why| format!(" ({why})")).unwrap_or_default();
        let back = Goal {
            id: service.primary().map(|primary| primary.id().to_owned()).unwrap_or_default(),
            revision: goal.before.clone(),
            before: goal.before.clone(),
            replaced: None,
        };
        self.site.say(&format!("ECS {}: going back to {}{why}", self.place.name, short(&goal.before)));
        let ended = match self.wait(&back, deadline).await {
            Ok(End::Completed(service)) => self.runs_before(service, &goal.before).await,
            Ok(End::WentBack(_)) => Err(Error::new(Reason::TargetFailed, "somebody deploys something else")),
            Err(error) => Err(error),
        };
        went_back.store(true, Ordering::Relaxed);
        match ended {
            Ok(said) => {
                let what = format!("ECS went back by itself{why}: {said}");
                let error = self.failure(cause, &what, Reason::TargetRolledBack);
                let detail = std::iter::once(format!("cause: {}", error.reason)).filter(|_| error.reason != Reason::TargetRolledBack);
                let detail = detail.chain(error.detail).collect();
                Error { reason: Reason::TargetRolledBack, detail, ..error }.hint(AFTER_GOING_BACK)
            }
            Err(error) if error.reason == Reason::Cancelled => error,
            Err(error) => {
                let what = format!("ECS goes back by itself{why}, and that has not ended: {}", error.sentence);
                self.failure(cause, &what, Reason::TargetFailed)
            }
        }
    }

    /// ECS gave it up, and nothing goes back.
    async fn gave_up(&self, service: &Service, goal: &Goal) -> Error {
        let cause = self.cause_of(service, &goal.id).await;
        let why = service.deployment(&goal.id).map(Deployment::why).unwrap_or_default();
        self.failure(cause, &format!("ECS gave up the deployment of {}: {why}", short(&goal.revision)), Reason::TargetFailed)
    }

    fn taken(&self, service: &Service, goal: &Goal) -> Error {
        let there = service.primary().map(Deployment::revision).unwrap_or_default();
        let sentence =
            format!("somebody else deployed {} to the ECS service {}, after our {}", short(there), self.place.name, short(&goal.revision));
        Error::new(Reason::TargetFailed, sentence).hint("find out who deploys there besides tidegate, then run this again")
    }

    fn cancelled(&self, said: &str) -> Error {
        Error::new(Reason::Cancelled, format!("cancelled while ECS {} was at: {said}", self.place.name))
    }

    async fn timed_out(&self, goal: &Goal, waited: Duration, said: &str) -> Error {
        let cause = match self.place.service().await {
            Ok(service) => self.cause_of(&service, &goal.id).await,
            Err(_unknown) => None,
        };
        let what = format!("{} did not settle within {}: {said}", short(&goal.revision), spoken(waited));
        self.failure(cause, &what, Reason::TargetTimeout)
    }

    async fn cause_of(&self, service: &Service, id: &str) -> Option<Cause> {
        let deployment = service.deployment(id)?;
        self.place.cause(service, deployment).await.ok().flatten() // it explains the failure, it is not the failure
    }

    /// A failure that begins with its cause, where one is known.
    fn failure(&self, cause: Option<Cause>, what: &str, otherwise: Reason) -> Error {
        let name = &self.place.name;
        let Some(cause) = cause else { return Error::new(otherwise, format!("ECS {name}: {what}")) };
        Error::new(cause.reason, format!("ECS {name}: {}; {what}", cause.sentence)).detail(cause.detail).hint(hint(cause.reason))
    }
}

fn hint(reason: Reason) -> &'static str {
    if reason == Reason::TargetImagePull {
        return "may the task's execution role pull the image, and does the network reach the registry?";
    }
    if reason == Reason::TargetUnschedulable {
        return "add capacity, or lower what the task asks for (cpu, memory, ports, placement)";
    }
    if reason == Reason::TargetProbe {
        return "look at the health check's path, its grace period and the task's lines";
    }
    "look at the lines of the stopped task"
}
