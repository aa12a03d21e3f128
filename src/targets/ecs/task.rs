//! A task of the new revision that runs to its end before the service is switched; never twice for one delivery.

use super::lines::Lines;
use super::noted::{Noted, Step};
use super::{Before, Started, Switch, list, short, text};
use crate::config::EcsTask;
use crate::error::{Error, Reason, Result};
use crate::registry::oci::digest_of;
use crate::targets::Lost;
use crate::tools::wait::{Backoff, spoken};
use serde_json::{Value, json};
use std::time::Duration;

/// How many answers in a row may be lost while a task is followed.
const PATIENCE: u32 = 20;

/// How a task ended.
enum End {
    Well,
    Badly(Error),
}

impl Switch<'_> {
    /// Runs the task, or follows the one that a run began that was killed.
    pub(super) async fn run_task(&self, before: &Before, revision: &str, started: &mut Started) -> Result<()> {
        let Some(wanted) = &self.target.run_task else { return Ok(()) };
        let container = match &wanted.container {
            Some(container) => self.fill(container)?,
            None => before.container.clone(),
        };
        let Some(seed) = self.earlier(before, (revision, &container), started).await? else { return Ok(()) };
        let request = self.request(before, (wanted, &container), (revision, &seed)).await?;
        let task = self.begin(&request).await?;
        started.task = Some(task.clone());
        let command: Vec<&str> = list(&request, "/overrides/containerOverrides/0/command").filter_map(Value::as_str).collect();
        self.site.say(&format!("ECS task {} runs {}", short(&task), command.join(" ")));
        self.note(Step::Task(short(&task).to_owned()), revision).await?;
        let end = self.follow_task(before, (&task, &container)).await?;
        started.task = None;
        let End::Badly(error) = end else { return self.note(Step::Passed, revision).await };
        self.note(Step::Failed(short(&task).to_owned()), revision).await?;
        let detail = error.detail.iter().cloned().chain(before.wanted.log(&container)).collect();
        Err(Error { detail, ..error }.hint("nothing was switched; mend the cause, then run this again"))
    }

    /// What became of the task in a run that was killed or failed: nothing when it need not run any more; otherwise what tells
    /// the next task from the one before.
    async fn earlier(&self, before: &Before, (revision, container): (&str, &str), started: &mut Started) -> Result<Option<String>> {
        let of_this = |noted: &Noted| revision.ends_with(&format!("/{}:{}", before.wanted.family(), noted.revision));
        match before.noted.as_ref().filter(|noted| noted.has_passed() || of_this(noted)) {
            Some(noted) if noted.has_passed() => {
                self.site.say("the task of this delivery ran already");
                Ok(None)
            }
            Some(Noted { step: Step::Failed(task), .. }) => Ok(Some(task.clone())),
            Some(Noted { step: Step::Task(task), .. }) => match self.gone_on(before, (task, container), revision, started).await? {
                End::Well => self.note(Step::Passed, revision).await.map(|()| None),
                End::Badly(error) => {
                    self.site.say(&format!("{}; it is run again", error.sentence));
                    Ok(Some(task.clone()))
                }
            },
            Some(_) | None => Ok(Some(String::new())),
        }
    }

    /// Stops a task; what came of that.
    pub(super) async fn stop_task(&self, task: &str) -> String {
        let body = json!({"cluster": self.place.cluster, "task": task, "reason": "tidegate: the run ended before the task did"});
        match self.place.api.call("StopTask", &body).await {
            Ok(_) => format!("the ECS task {} is being stopped", short(task)),
            Err(error) => format!("the ECS task {} could not be stopped and may go on: {}", short(task), error.sentence),
        }
    }

    /// The task of a run that was killed.
    async fn gone_on(&self, before: &Before, (task, container): (&str, &str), revision: &str, started: &mut Started) -> Result<End> {
        self.site.say(&format!("the run before started the ECS task {}: it is followed", short(task)));
        started.task = Some(task.to_owned());
        let followed = self.follow_task(before, (task, container)).await;
        if !matches!(followed, Err(ref error) if matches!(error.reason, Reason::Cancelled | Reason::TargetTimeout)) {
            started.task = None;
        }
        match followed {
            Err(error) if error.gone => {
                self.note(Step::Failed(task.to_owned()), revision).await?;
                Err(error.hint("look at its lines; if it did not end well, run this again, and it is run again"))
            }
            followed => followed,
        }
    }

    /// What is sent: the service's own network and capacity, with another command.
    async fn request(&self, before: &Before, (wanted, container): (&EcsTask, &str), (revision, seed): (&str, &str)) -> Result<Value> {
        let command = wanted.command.iter().map(|word| self.fill(word)).collect::<Result<Vec<_>>>()?;
        let mut environment = Vec::new();
        for (name, value) in &wanted.env {
            environment.push(json!({"name": name, "value": self.fill(value)?}));
        }
        let mut container = json!({"name": container, "command": command});
        if !environment.is_empty() {
            super::super::set(&mut container, &["environment"], json!(environment));
        }
        // The same token for the same work: ECS answers a second request with the task of the first one.
        let delivery = self.site.memory.delivery().await;
        let token = digest_of([delivery.as_str(), self.site.step, revision, seed].join("\n").as_bytes());
        let token: String = token.trim_start_matches("sha256:").chars().take(48).collect();
        let mut request = json!({
            "cluster": self.place.cluster, "taskDefinition": revision, "count": 1, "startedBy": "tidegate", "clientToken": token,
            "overrides": {"containerOverrides": [container]},
        });
        let strategy = list(&before.service.0, "/capacityProviderStrategy").next().is_some();
        let capacity = if strategy { "capacityProviderStrategy" } else { "launchType" };
        for field in ["networkConfiguration", "platformVersion", capacity] {
            if let Some(value) =
                before.service.0.get(field).filter(|value| !value.is_null() && *value != &json!({}) && *value != &json!(""))
            {
                super::super::set(&mut request, &[field], value.clone());
            }
        }
        Ok(request)
    }

    async fn begin(&self, request: &Value) -> Result<String> {
        let answer = self.place.api.call("RunTask", request).await?;
        if let Some(task) = list(&answer, "/tasks").next() {
            return Ok(text(task, "/taskArn").to_owned());
        }
        let why: Vec<String> = list(&answer, "/failures")
            .map(|failure| format!("{} {}", text(failure, "/reason"), text(failure, "/detail")).trim().to_owned())
            .collect();
        let why = if why.is_empty() { "it names no task".into() } else { why.join("; ") };
        Err(Error::new(Reason::MigrationFailed, format!("ECS cannot run the task: {why}"))
            .hint("nothing was switched; RESOURCE means that no instance has room"))
    }

    async fn follow_task(&self, before: &Before, (task, container): (&str, &str)) -> Result<End> {
        let clock = &self.site.world.clock;
        let limit = self.target.run_task.as_ref().map_or(Duration::ZERO, |task| task.timeout.0);
        let (begun, deadline) = (clock.now(), clock.now().saturating_add(limit));
        let (mut said, mut lost) = (String::new(), Lost::at_most(PATIENCE));
        let mut pauses = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
        let name = short(task);
        let mut lines = match before.wanted.stream(container) {
            Some(stream) => Some(Lines::open(self.site, &self.aws, &stream, (container, name), self.marker).await?),
            None => None,
        };
        loop {
            let looked = tokio::select! {
                looked = self.task(task) => looked,
                () = self.site.world.cancel.cancelled() => return Err(Error::new(Reason::Cancelled, format!("cancelled while the ECS task {name} was {said}"))),
            };
            match looked {
                Ok(now) => {
                    lost.over();
                    if let Some(lines) = &mut lines {
                        lines.look().await;
                    }
                    if let Some(end) = ended(&now, container) {
                        self.end_the_rest(&now).await;
                        return told(end, lines, name).await;
                    }
                    if text(&now, "/lastStatus") != said {
                        said = text(&now, "/lastStatus").to_owned();
                        self.site.say(&format!("ECS task {name}: {said}"));
                    }
                }
                Err(error) if error.reason == Reason::TargetFailed => lost.bear(error, self.site)?,
                Err(error) => return Err(error),
            }
            let left = deadline.saturating_sub(clock.now());
            if left.is_zero() {
                let sentence = format!("the ECS task {name} is still {said} after {}", spoken(clock.now().saturating_sub(begun)));
                return Err(Error::new(Reason::TargetTimeout, sentence)
                    .hint("`timeout:` of `run-task:` says how long it may take; nothing was switched"));
            }
            tokio::select! {
                () = clock.sleep(pauses.pause().min(left)) => {}
                () = self.site.world.cancel.cancelled() => {}
            }
        }
    }

    async fn task(&self, task: &str) -> Result<Value> {
        let found = self.place.tasks(&[task.to_owned()]).await?.into_iter().next();
        found.ok_or_else(|| {
            let sentence = format!("ECS does not know the task {} any more, so nobody knows how it ended", short(task));
            Error { gone: true, lost: true, ..Error::new(Reason::MigrationFailed, sentence) }
        })
    }

    /// Our container has ended; others of the task may go on for ever.
    async fn end_the_rest(&self, task: &Value) {
        if text(task, "/desiredStatus") != "STOPPED" {
            self.stop_task(text(task, "/taskArn")).await;
        }
    }
}

/// How it ended, with its last lines: they may say that it failed, whatever its exit code.
async fn told(end: End, lines: Option<Lines<'_>>, name: &str) -> Result<End> {
    let Some(mut lines) = lines else { return Ok(end) };
    lines.rest().await?;
    Ok(match end {
        End::Well if lines.is_marked() => {
            let sentence = format!("the ECS task {name} ended with exit code 0, and its lines hold the failure marker");
            End::Badly(Error::new(Reason::MigrationFailed, sentence).detail(lines.tail()))
        }
        End::Badly(error) => End::Badly(Error { detail: lines.tail(), ..error }),
        End::Well => End::Well,
    })
}

/// How the container ended, once it has.
fn ended(task: &Value, container: &str) -> Option<End> {
    let part = list(task, "/containers").find(|part| text(part, "/name") == container);
    let is_over = |value: &Value| text(value, "/lastStatus") == "STOPPED";
    if !is_over(task) && !part.is_some_and(is_over) {
        return None;
    }
    let exit = part.and_then(|part| part.get("exitCode")).and_then(Value::as_i64);
    let reasons = std::iter::once(text(task, "/stoppedReason")).chain(part.map(|part| text(part, "/reason")));
    let reasons: Vec<&str> = reasons.filter(|reason| !reason.is_empty()).collect();
    let what = match exit {
        Some(0) => return Some(End::Well),
        Some(code) => format!("ended with exit code {code}"),
        None => "ended without an exit code".to_owned(),
    };
    let why = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
    let sentence = format!("the ECS task {} (container {container}) {what}{why}", short(text(task, "/taskArn")));
    Some(End::Badly(Error::new(Reason::MigrationFailed, sentence)))
}
