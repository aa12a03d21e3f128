//! A run of a GitHub workflow: looked at until it has ended, cancelled, and asked which of its jobs failed.

use super::follow::{Pipeline, Seen};
use super::lost;
use crate::error::{Error, Reason, Result};
use crate::forge::github::GitHub;
use http::Method;
use serde_json::Value;

/// A run of a workflow.
pub(super) struct Run<'a> {
    pub(super) github: &'a GitHub,
    pub(super) id: u64,
    pub(super) url: String,
    /// The repository.
    pub(super) name: String,
    /// What started it.
    pub(super) event: &'static str,
}

#[async_trait::async_trait]
impl Pipeline for Run<'_> {
    fn name(&self) -> String {
        format!("run {} of {}", self.id, self.name)
    }

    fn url(&self) -> Option<String> {
        Some(self.url.clone())
    }

    async fn look(&self) -> Result<Seen> {
        let answer = self.github.call(Method::GET, &format!("/actions/runs/{}", self.id), None).await;
        let answer = answer.map_err(|error| Error { reason: Reason::TriggerFailed, lost: true, ..error })?;
        let sentence = format!("GitHub answers {} about {}: {}", answer.status, self.name(), answer.text("/message").unwrap_or_default());
        if let Some(length) = answer.rate_limited() {
            return Ok(Seen::Limited(length, sentence));
        }
        match answer.status {
            200..=299 => {}
            404 => return Err(Error { gone: true, ..Error::new(Reason::TriggerFailed, sentence) }),
            401 | 403 => return Err(Error::new(Reason::AuthDenied, sentence).hint("the token needs `actions: read` there")),
            _passing => return Err(lost(sentence)),
        }
        let status = answer.text("/status").unwrap_or_default();
        if status != "completed" {
            return Ok(Seen::Going(status));
        }
        let conclusion = answer.text("/conclusion").unwrap_or_default();
        let event = answer.text("/event").unwrap_or_default();
        if !event.is_empty() && event != self.event {
            let sentence = format!("{} was started by {event}, not by us", self.name());
            return Ok(Seen::Badly(Error::new(Reason::TriggerFailed, sentence)));
        }
        if conclusion == "success" {
            return Ok(Seen::Well(format!("{} ended with success", self.name())));
        }
        let why = match conclusion.as_str() {
            "skipped" => ": none of its jobs ran",
            "action_required" => ": it waits for somebody to approve it",
            "startup_failure" => ": its workflow file is broken",
            "stale" => ": GitHub gave it up",
            _other => "",
        };
        let sentence = format!("{} ended with {conclusion}{why}", self.name());
        Ok(Seen::Badly(Error::new(Reason::TriggerFailed, sentence).detail(self.failed_jobs().await)))
    }

    async fn cancel(&self) -> bool {
        let answer = self.github.call(Method::POST, &format!("/actions/runs/{}/cancel", self.id), None).await;
        answer.is_ok_and(|answer| answer.status == 202)
    }
}

impl Run<'_> {
    /// The jobs that failed, with the step that did.
    async fn failed_jobs(&self) -> Vec<String> {
        let Ok(answer) = self.github.call(Method::GET, &format!("/actions/runs/{}/jobs?per_page=100", self.id), None).await else {
            return Vec::new();
        };
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let failed =
            |value: &&Value| matches!(text(value, "conclusion").as_str(), "failure" | "timed_out" | "cancelled" | "startup_failure");
        let jobs = answer.body.pointer("/jobs").and_then(Value::as_array).cloned().unwrap_or_default();
        let named = jobs.iter().filter(failed).map(|job| {
            let step = job.get("steps").and_then(Value::as_array).into_iter().flatten().find(failed);
            let step = step.map(|step| format!(", in its step {:?}", text(step, "name"))).unwrap_or_default();
            format!("job {:?}: {}{step}", text(job, "name"), text(job, "conclusion"))
        });
        named.take(10).collect()
    }
}
