//! The tasks of a service: what runs in them, and why others do not run.

use super::place::{Deployment, Place, Service};
use super::{list, short, text};
use crate::error::{Reason, Result};
use crate::registry::Pushed;
use serde_json::{Value, json};

/// How many tasks ECS describes at once.
const PAGE: usize = 100;

/// Why tasks do not run.
pub struct Cause {
    pub reason: Reason,
    /// What is wrong, after "ECS web: ".
    pub sentence: String,
    /// How many tasks failed.
    pub failed: usize,
    /// What ECS says.
    pub detail: Vec<String>,
}

/// What tasks are to run.
pub struct Wanted<'a> {
    /// The revision.
    pub revision: &'a str,
    /// The container and the image in it; only the revision counts when not given.
    pub image: Option<(&'a str, &'a Pushed)>,
}

/// What the running tasks say.
#[derive(Debug, PartialEq, Eq)]
pub enum Proof {
    /// This many run what is wanted, and none runs anything else.
    Right(u64),
    /// Not all of them do; that may pass.
    NotYet(String),
    /// Something else runs under our revision.
    Other(String),
}

impl Place {
    /// Every task of the service that is meant to run.
    pub async fn running(&self) -> Result<Vec<Value>> {
        let mut names = Vec::new();
        let mut page = Value::Null;
        loop {
            let (more, next) = self.names("RUNNING", &page).await?;
            names.extend(more);
            match next {
                Value::String(_) => page = next,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => break,
            }
        }
        let mut tasks = Vec::new();
        for names in names.chunks(PAGE) {
            tasks.extend(self.tasks(names).await?);
        }
        Ok(tasks)
    }

    /// Why tasks of a deployment stopped or cannot be placed; nothing when nothing says so.
    pub async fn cause(&self, service: &Service, deployment: Deployment<'_>) -> Result<Option<Cause>> {
        let (names, _) = self.names("STOPPED", &Value::Null).await?;
        let stopped = self.tasks(names.get(..PAGE.min(names.len())).unwrap_or_default()).await?;
        let ours = stopped.iter().filter(|task| text(task, "/startedBy") == deployment.id());
        let judged: Vec<(Reason, String, &Value)> = ours.filter_map(|task| judge(task).map(|(reason, why)| (reason, why, task))).collect();
        let events = service.events(deployment.began());
        if let Some((reason, sentence, _)) = judged.first() {
            let mut detail: Vec<String> = judged.iter().take(4).map(|(_, _, task)| told(task)).collect();
            detail.extend(events.iter().take(3).map(|event| (*event).to_owned()));
            return Ok(Some(Cause { reason: *reason, sentence: sentence.clone(), failed: judged.len(), detail }));
        }
        let about = events.iter().find_map(|event| of_event(event).map(|(reason, words)| (reason, words, *event)));
        Ok(about.map(|(reason, words, event)| Cause { reason, sentence: format!("{words}: {event}"), failed: 0, detail: Vec::new() }))
    }

    /// Tasks by their names.
    pub async fn tasks(&self, names: &[String]) -> Result<Vec<Value>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let answer = self.api.call("DescribeTasks", &json!({"cluster": self.cluster, "tasks": names})).await?;
        Ok(list(&answer, "/tasks").cloned().collect())
    }

    /// A page of the service's tasks. Filtering by who started them does not go together with the state.
    async fn names(&self, state: &str, page: &Value) -> Result<(Vec<String>, Value)> {
        let mut body = json!({"cluster": self.cluster, "serviceName": self.name, "desiredStatus": state});
        if page.is_string() {
            super::super::set(&mut body, &["nextToken"], page.clone());
        }
        let answer = self.api.call("ListTasks", &body).await?;
        let names = list(&answer, "/taskArns").filter_map(Value::as_str).map(str::to_owned).collect();
        Ok((names, answer.get("nextToken").cloned().unwrap_or_default()))
    }
}

/// What the tasks that are meant to run say about what is wanted.
pub fn prove(tasks: &[Value], desired: u64, wanted: &Wanted<'_>) -> Proof {
    let mut right = 0;
    for task in tasks.iter().filter(|task| text(task, "/lastStatus") == "RUNNING") {
        let name = short(text(task, "/taskArn"));
        let revision = text(task, "/taskDefinitionArn");
        if revision != wanted.revision {
            return Proof::NotYet(format!("task {name} runs the revision {}", short(revision)));
        }
        if let Some((container, image)) = wanted.image
            && let Err(other) = identify(task, container, image)
        {
            return Proof::Other(format!("task {name} runs {other}"));
        }
        right += 1;
    }
    if right < desired {
        return Proof::NotYet(format!("only {right} of {desired} running tasks could be identified"));
    }
    Proof::Right(right)
}

/// Whether the container runs one of the digests of the image; otherwise what it runs.
fn identify(task: &Value, container: &str, image: &Pushed) -> std::result::Result<(), String> {
    let Some(part) = list(task, "/containers").find(|part| text(part, "/name") == container) else {
        return Err(format!("no container {container}"));
    };
    match (text(part, "/imageDigest"), text(part, "/image")) {
        ("", shown) if shown == image.reference() => Ok(()), // old agents report no digest; this one is pulled by it
        ("", "") => Err("an image that ECS does not name".into()),
        ("", shown) => Err(shown.to_owned()),
        (digest, _) if image.identities.iter().any(|known| known == digest) || digest == image.digest => Ok(()),
        (digest, shown) => Err(format!("{digest} ({shown})")),
    }
}

/// Why a task stopped, if that was not meant to be.
fn judge(task: &Value) -> Option<(Reason, String)> {
    let name = short(text(task, "/taskArn"));
    let containers = || list(task, "/containers");
    let reasons = containers().map(|part| text(part, "/reason")).filter(|reason| !reason.is_empty());
    let words = std::iter::once(text(task, "/stoppedReason")).chain(reasons).collect::<Vec<_>>().join("; ");
    let has = |parts: &[&str]| parts.iter().any(|part| words.contains(part));
    if has(&["CannotPull"]) {
        return Some((Reason::TargetImagePull, format!("task {name} cannot pull its image: {words}")));
    }
    if has(&["failed ELB health checks", "failed container health checks", "failed health checks"]) {
        return Some((Reason::TargetProbe, format!("task {name} runs but its health check fails: {words}")));
    }
    if has(&["ResourceInitializationError", "CannotStartContainer", "CannotCreateContainer", "CannotCreateVolume", "ContainerRuntimeError"])
    {
        return Some((Reason::TargetConfig, format!("task {name} cannot be started: {words}")));
    }
    let code = text(task, "/stopCode");
    if has(&["Essential container in task exited", "OutOfMemory"]) || code == "EssentialContainerExited" {
        let exit = containers().filter_map(|part| part.get("exitCode").and_then(Value::as_i64).map(|code| (text(part, "/name"), code)));
        let exit = exit.max_by_key(|(_, code)| code.unsigned_abs());
        let exit = exit.map(|(container, code)| format!(" (container {container}, exit code {code})")).unwrap_or_default();
        return Some((Reason::TargetCrashLoop, format!("task {name} starts and dies{exit}: {words}")));
    }
    if has(&["RESOURCE:", "Capacity is unavailable"]) {
        return Some((Reason::TargetUnschedulable, format!("task {name} finds no place: {words}")));
    }
    (code == "TaskFailedToStart").then(|| (Reason::TargetConfig, format!("task {name} cannot be started: {words}")))
}

/// What an event of the service says about tasks that do not come.
fn of_event(event: &str) -> Option<(Reason, &'static str)> {
    if event.contains("unable to place a task") {
        return Some((Reason::TargetUnschedulable, "no instance takes its tasks"));
    }
    if event.contains("failed to launch a task") || event.contains("unable to assume") {
        return Some((Reason::TargetConfig, "its tasks cannot be started"));
    }
    let unhealthy = event.contains("is unhealthy in") || event.contains("failed container health checks");
    unhealthy.then_some((Reason::TargetProbe, "its tasks run but their health check fails"))
}

fn told(task: &Value) -> String {
    let exits = list(task, "/containers").filter_map(|part| {
        let code = part.get("exitCode").and_then(Value::as_i64)?;
        Some(format!(", {} exit code {code}", text(part, "/name")))
    });
    let exits: String = exits.collect();
    format!("task {}: {}{exits}", short(text(task, "/taskArn")), text(task, "/stoppedReason"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopped_tasks_have_a_reason_or_were_meant_to_stop() {
        for (task, reason) in [
            (
                json!({"stoppedReason": "CannotPullContainerError: pull image manifest has been retried 1 time(s)"}),
                Some(Reason::TargetImagePull),
            ),
            (json!({"stoppedReason": "Task failed ELB health checks in (target-group arn:x)"}), Some(Reason::TargetProbe)),
            (json!({"stoppedReason": "ResourceInitializationError: unable to pull secrets"}), Some(Reason::TargetConfig)),
            (json!({"stopCode": "EssentialContainerExited"}), Some(Reason::TargetCrashLoop)),
            (
                json!({"stoppedReason": "x", "containers": [{"reason": "OutOfMemoryError: Container killed"}]}),
                Some(Reason::TargetCrashLoop),
            ),
            (
                json!({"stopCode": "ServiceSchedulerInitiated", "stoppedReason": "Scaling activity initiated by (deployment ecs-svc/1)"}),
                None,
            ),
            (json!({"stopCode": "SpotInterruption"}), None),
        ] {
            assert_eq!(judge(&task).map(|(reason, _)| reason), reason, "{task}");
        }
    }

    #[test]
    fn tasks_are_identified_by_digest() {
        let repository = crate::registry::Repository::parse("localhost:5000/web").unwrap();
        let image = Pushed {
            repository,
            tag: "1".into(),
            digest: "sha256:a".into(),
            identities: vec!["sha256:a".into(), "sha256:b".into()],
            size: 1,
        };
        let wanted = Wanted { revision: "new", image: Some(("web", &image)) };
        let task = |revision: &str, container: Value| json!({"lastStatus": "RUNNING", "taskArn": "t/1", "taskDefinitionArn": revision, "containers": [container]});
        let right = task("new", json!({"name": "web", "imageDigest": "sha256:b"}));
        assert_eq!(prove(&[right.clone(), right.clone()], 2, &wanted), Proof::Right(2));
        assert!(matches!(prove(std::slice::from_ref(&right), 2, &wanted), Proof::NotYet(_)));
        assert!(matches!(prove(&[right.clone(), task("old", json!({}))], 2, &wanted), Proof::NotYet(_)));
        assert!(matches!(prove(&[task("new", json!({"name": "web", "imageDigest": "sha256:c"}))], 1, &wanted), Proof::Other(_)));
        assert!(
            matches!(prove(&[task("new", json!({"name": "web", "image": "localhost:5000/web:1"}))], 1, &wanted), Proof::Other(_)),
            "a tag is no proof"
        );
        assert_eq!(prove(&[task("new", json!({"name": "web", "image": "localhost:5000/web:1@sha256:a"}))], 1, &wanted), Proof::Right(1));
    }
}
