//! Follows an update to its end: the state that the swarm gives it, and the tasks themselves.

use super::{Change, Services, rolled_back, tasks};
use crate::error::{Error, Reason, Result};
use crate::targets::Lost;
use serde_json::{Value, json};
use std::time::Duration;
use tasks::Task;

const LOOK: Duration = Duration::from_millis(500);
/// How many answers in a row may be lost while an update is followed.
const PATIENCE: u32 = 120;
/// How long a rollback of the swarm's own may take beyond the deadline.
const BACK_LIMIT: Duration = Duration::from_secs(120);

/// A service at one moment.
struct Moment {
    image: String,
    /// The state of our update; nothing when the swarm has not taken it up, or when nothing was updated.
    state: Option<String>,
    message: String,
    desired: u64,
    tasks: Vec<Task>,
}

impl Moment {
    fn running<'a>(&'a self, image: &'a str, force: Option<u64>) -> impl Iterator<Item = &'a Task> {
        self.tasks.iter().filter(move |task| task.runs() && task.image == image && force.is_none_or(|force| task.force == force))
    }

    /// Whether only tasks with this image are meant to run, and as many as wanted do.
    fn is_settled(&self, image: &str, force: Option<u64>) -> bool {
        let others = self.tasks.iter().any(|task| task.desired == "running" && task.image != image);
        !others && self.running(image, force).count() as u64 >= self.desired
    }
}

impl Services<'_> {
    async fn moment(&self, change: &Change) -> Result<Moment> {
        let filters = json!({"id": [change.id]}).to_string();
        let query: String = url::form_urlencoded::byte_serialize(filters.as_bytes()).collect();
        let listed = self.manager.get(&format!("/services?filters={query}&status=true")).await?;
        let service = listed.as_array().into_iter().flatten().find(|service| service.get("ID") == Some(&json!(change.id)));
        let service =
            service.ok_or_else(|| Error::new(Reason::TargetMissing, format!("the service {} was removed meanwhile", change.name)))?;
        let text = |pointer: &str| service.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let began = Some(text("/UpdateStatus/StartedAt")).filter(|at| !at.is_empty());
        let ours = change.changed && began.is_some() && began != change.update_before;
        let number = |pointer: &str| service.pointer(pointer).and_then(Value::as_u64);
        let desired = number("/ServiceStatus/DesiredTasks").or_else(|| number("/Spec/Mode/Replicated/Replicas")).unwrap_or(1);
        Ok(Moment {
            image: text("/Spec/TaskTemplate/ContainerSpec/Image"),
            state: ours.then(|| text("/UpdateStatus/State")),
            message: text("/UpdateStatus/Message"),
            desired,
            tasks: tasks::of(&self.manager, &change.id).await?,
        })
    }

    /// Follows one service until its tasks run the image, a failure is certain, or the deadline.
    pub(super) async fn follow(&self, change: &Change, deadline: Duration) -> Result<String> {
        let (clock, cancel) = (&self.site.world.clock, &self.site.world.cancel);
        let (mut said, mut lost, mut last) = (String::new(), Lost::at_most(PATIENCE), Vec::new());
        loop {
            let moment = tokio::select! {
                moment = self.moment(change) => moment,
                () = cancel.cancelled() => return Err(cancelled(change, &said)),
            };
            match moment {
                Err(error) if error.reason == Reason::TargetFailed => lost.bear(error, self.site)?,
                Err(error) => return Err(error),
                Ok(moment) => {
                    lost.over();
                    if let Some(ids) = self.judge(change, &moment, deadline).await? {
                        if ids == last {
                            return self.verify(change, &moment).await; // the same tasks at two looks
                        }
                        last = ids;
                    } else {
                        last.clear();
                    }
                    let waits = describe(change, &moment);
                    if waits != said {
                        self.site.say(&format!("{}: {waits}", change.name));
                        said = waits;
                    }
                    if clock.now() >= deadline {
                        return Err(self.timed_out(change, &moment, &said).await);
                    }
                }
            }
            tokio::select! {
                () = clock.sleep(LOOK) => {}
                () = cancel.cancelled() => return Err(cancelled(change, &said)),
            }
        }
    }

    /// The ids of the tasks that prove it, once all is settled; nothing while it goes on.
    async fn judge(&self, change: &Change, moment: &Moment, deadline: Duration) -> Result<Option<Vec<String>>> {
        match moment.state.as_deref() {
            Some("paused") => {
                let cause = tasks::cause(&self.manager, &moment.tasks, &change.wanted).await;
                let what = format!("the swarm paused the update: {}", moment.message);
                return Err(tasks::failure(&change.name, &what, cause, Reason::TargetFailed)
                    .hint(format!("the update stays paused; look with: docker service ps --no-trunc {}", change.name)));
            }
            Some(state) if state.starts_with("rollback") => return Err(self.platform_went_back(change, deadline).await),
            Some("updating") => return Ok(None),
            Some(_) | None => {}
        }
        if moment.image != change.wanted {
            let sentence = format!("{}: another update set it to {}", change.name, moment.image);
            return Err(Error::new(Reason::TargetWrongDigest, sentence).hint("who else deploys there? (docker service inspect)"));
        }
        if !moment.is_settled(&change.wanted, Some(change.force)) {
            return Ok(None);
        }
        let mut ids: Vec<String> = moment.running(&change.wanted, Some(change.force)).map(|task| task.id.clone()).collect();
        ids.sort();
        // Nothing is wanted: two looks are the same all the same.
        ids.push(format!("of {}", moment.desired));
        Ok(Some(ids))
    }

    async fn verify(&self, change: &Change, moment: &Moment) -> Result<String> {
        let ours = change.wanted == self.wanted;
        for task in moment.running(&change.wanted, Some(change.force)).filter(|_| ours) {
            if let Some(other) = tasks::wrong_container(&self.manager, &self.own_node, task, &self.image.identities).await? {
                let sentence = format!(
                    "{}: task {} says it runs {} but its container runs {other}",
                    change.name,
                    tasks::short(&task.id),
                    change.wanted
                );
                return Err(Error::new(Reason::TargetWrongDigest, sentence).hint("has somebody tagged another image so on that node?"));
            }
        }
        let digest = change.wanted.rsplit('@').next().and_then(|digest| digest.get(..19)).unwrap_or(&change.wanted);
        let count = moment.running(&change.wanted, Some(change.force)).count();
        let same = if change.changed { "" } else { ", as before" };
        Ok(match moment.desired {
            0 => format!("{}: set to {digest}…; no tasks are wanted, so none could be identified", change.name),
            wanted => format!("{}: {count} of {wanted} tasks run {digest}…{same}", change.name),
        })
    }

    /// One look: the proof, if it holds now.
    pub(super) async fn look(&self, change: &Change) -> Result<Option<String>> {
        let moment = self.moment(change).await?;
        match moment.image == change.wanted && moment.is_settled(&change.wanted, Some(change.force)) {
            true => self.verify(change, &moment).await.map(Some),
            false => Ok(None),
        }
    }

    async fn timed_out(&self, change: &Change, moment: &Moment, said: &str) -> Error {
        let cause = tasks::cause(&self.manager, &moment.tasks, &change.wanted).await;
        let what = format!("did not settle within {}: {said}", self.swarm.timeout);
        tasks::failure(&change.name, &what, cause, Reason::TargetTimeout)
            .hint(format!("the update may go on; look with: docker service ps --no-trunc {}", change.name))
    }

    /// The swarm rolls back by itself (`update-failure-action: rollback`): a failure, told when it is known how that ended.
    async fn platform_went_back(&self, change: &Change, deadline: Duration) -> Error {
        let moment = self.moment(change).await;
        let message = moment.as_ref().map_or(String::new(), |moment| moment.message.clone());
        let cause = match &moment {
            Ok(moment) => tasks::cause(&self.manager, &moment.tasks, &change.wanted).await,
            Err(_unknown) => None,
        };
        let failure = tasks::failure(&change.name, &format!("the swarm went back by itself: {message}"), cause, Reason::TargetFailed);
        match self.follow_back(change, deadline.max(self.site.world.clock.now().saturating_add(BACK_LIMIT))).await {
            Ok(to) => rolled_back(failure, &to),
            Err(error) if error.reason == Reason::Cancelled => error,
            Err(error) => {
                let mut failure = failure;
                failure.detail.push(format!("its rollback did not end well: {}", error.sentence));
                failure
            }
        }
    }

    /// Follows a rollback until the tasks of before run again.
    pub(super) async fn follow_back(&self, change: &Change, deadline: Duration) -> Result<String> {
        let (clock, cancel) = (&self.site.world.clock, &self.site.world.cancel);
        let mut lost = 0;
        loop {
            match self.moment(change).await {
                Ok(moment) => {
                    let over = moment.state.as_deref() == Some("rollback_completed");
                    if moment.state.as_deref() == Some("rollback_paused") {
                        let sentence = format!("{}: the rollback is paused: {}", change.name, moment.message);
                        return Err(Error::new(Reason::TargetFailed, sentence));
                    }
                    let running = moment.running(&change.before, None).count();
                    if over && moment.is_settled(&change.before, None) {
                        return Ok(format!("{} runs {} again ({running} of {} tasks)", change.name, change.before, moment.desired));
                    }
                    if clock.now() >= deadline {
                        let state = moment.state.unwrap_or_default();
                        let sentence = format!("{}: {running} of {} tasks run the image of before ({state})", change.name, moment.desired);
                        return Err(Error::new(Reason::TargetTimeout, sentence));
                    }
                }
                Err(error) if error.reason == Reason::TargetFailed && lost < PATIENCE => lost += 1,
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = clock.sleep(LOOK) => {}
                () = cancel.cancelled() => return Err(cancelled(change, "going back")),
            }
        }
    }
}

fn describe(change: &Change, moment: &Moment) -> String {
    let running = moment.running(&change.wanted, Some(change.force)).count();
    let old = moment.tasks.iter().filter(|task| task.desired == "running" && task.image != change.wanted).count();
    let old = if old > 0 { format!(", {old} old ones are still there") } else { String::new() };
    let state = moment.state.as_deref().map(|state| format!(" ({state})")).unwrap_or_default();
    format!("{running} of {} new tasks run{old}{state}", moment.desired)
}

fn cancelled(change: &Change, said: &str) -> Error {
    Error::new(Reason::Cancelled, format!("cancelled while {} was updated: {said}", change.name))
}
