//! A job that was launched: followed to its end, judged, or cancelled.

use super::api::{Answer, Api, Paths};
use super::output::Heard;
use super::{Launched, differences};
use crate::config::{Awx, AwxKind, NameOrId, Output};
use crate::error::{Error, Reason, Result};
use crate::targets::{Lost, Settled, Site};
use crate::tools::wait::{Backoff, spoken};
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How long the last lines may lag behind the end of a job.
const LAST_LINES: Duration = Duration::from_secs(15);
/// How many answers in a row may be lost while a job is followed.
const PATIENCE: u32 = 20;
/// A job that was launched.
pub(super) struct Job<'a> {
    pub(super) site: &'a Site<'a>,
    pub(super) awx: &'a Awx,
    pub(super) api: &'a Api,
    pub(super) paths: Paths,
    pub(super) template: &'a NameOrId,
    pub(super) launched: Launched,
}

impl Job<'_> {
    /// The job as AWX has it now.
    pub(super) async fn read(&self) -> Result<Answer> {
        self.api.get(&format!("/api/v2/{}/{}/", self.paths.jobs, self.launched.id)).await
    }

    pub(super) fn success(&self) -> Settled {
        Settled::deployed(format!("AWX {} of {} ended successful", self.launched, self.template), Some(self.page()))
    }

    pub(super) fn page(&self) -> String {
        self.paths.page(&self.api.host, self.launched.id)
    }

    /// Follows it to its end, or to the deadline.
    pub(super) async fn follow(&self) -> Result<Answer> {
        let clock = &self.site.world.clock;
        let (begun, deadline) = (clock.now(), clock.now().saturating_add(self.awx.timeout.0));
        let (mut heard, mut said, mut lost) = (Heard::default(), String::new(), Lost::at_most(PATIENCE));
        let mut pauses = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
        loop {
            let looked = async {
                let answer = self.read().await?;
                let news = heard.more(self).await.unwrap_or(false); // its lines are not its verdict
                Ok::<_, Error>((answer, news))
            };
            let looked = tokio::select! {
                looked = looked => looked,
                () = self.site.world.cancel.cancelled() => return Err(self.cancelled(&said)),
            };
            match looked {
                Ok((answer, news)) => {
                    lost.over();
                    let state = answer.text("/status").unwrap_or_default().to_owned();
                    if is_over(&state) {
                        self.rest(&mut heard).await;
                        return self.judge(answer, &state, &heard);
                    }
                    if state != said {
                        self.site.say(&format!("AWX {}: {state}", self.launched));
                        said = state;
                    }
                    if news {
                        pauses = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
                    }
                }
                Err(error) if error.reason == Reason::TargetFailed => lost.bear(error, self.site)?,
                Err(error) => return Err(error),
            }
            let left = deadline.saturating_sub(clock.now());
            if left.is_zero() {
                return Err(self.timed_out(&said, clock.now().saturating_sub(begun), &heard));
            }
            tokio::select! {
                () = clock.sleep(pauses.pause().min(left)) => {}
                () = self.site.world.cancel.cancelled() => return Err(self.cancelled(&said)),
            }
        }
    }

    fn cancelled(&self, state: &str) -> Error {
        Error::new(Reason::Cancelled, format!("cancelled while AWX {} was {state}", self.launched))
    }

    fn timed_out(&self, state: &str, waited: Duration, heard: &Heard) -> Error {
        let what = format!("AWX {} is still {state} after {}", self.launched, spoken(waited));
        let hint = match state {
            "new" | "pending" | "waiting" => "has AWX capacity, and does another job of the template or project run?",
            _running => "look at the job; `timeout:` says how long it may take",
        };
        Error::new(Reason::TargetTimeout, what).detail(self.tail(heard)).hint(hint)
    }

    /// The last lines: they lag behind the end, and after an error they may never come.
    async fn rest(&self, heard: &mut Heard) {
        let clock = &self.site.world.clock;
        let until = clock.now().saturating_add(LAST_LINES);
        loop {
            // A workflow has no lines of its own.
            let complete =
                self.launched.kind == AwxKind::Workflow || self.read().await.is_ok_and(|answer| answer.is("event_processing_finished"));
            let Ok(news) = heard.more(self).await else { return };
            if (complete && !news) || clock.now() >= until || self.site.world.cancel.is_cancelled() {
                return;
            }
            if !news {
                clock.sleep(Duration::from_millis(500)).await;
            }
        }
    }

    fn tail(&self, heard: &Heard) -> Vec<String> {
        if heard.tail.is_empty() || self.awx.output == Output::Hide {
            return Vec::new();
        }
        std::iter::once("last lines of the job:".to_owned()).chain(heard.tail.iter().map(|line| format!("  {line}"))).collect()
    }

    fn judge(&self, answer: Answer, state: &str, heard: &Heard) -> Result<Answer> {
        if state == "successful" && !answer.is("failed") {
            return Ok(answer);
        }
        let why = ["/job_explanation", "/result_traceback"].into_iter().filter_map(|pointer| answer.text(pointer));
        let why = why.map(str::trim).find(|text| !text.is_empty());
        let fatal = heard.tail.iter().rev().find(|line| line.starts_with("fatal:")).filter(|_| self.awx.output == Output::Show);
        let why = why.map(|text| text.lines().last().unwrap_or(text).to_owned()).or_else(|| fatal.cloned());
        let why = why.map(|why| format!(": {}", crate::tools::console::cut(&why, 300))).unwrap_or_default();
        let what = match state {
            "canceled" => "was canceled in AWX".to_owned(),
            other => format!("ended {other}"),
        };
        let sentence = format!("AWX {} of {} {what}{why}", self.launched, self.template);
        Err(Error::new(Reason::TargetFailed, sentence).detail(self.tail(heard)).hint(format!("see {}", self.page())))
    }

    /// A job that went well with other values has deployed something else.
    pub(super) fn did_what_was_asked(&self, answer: &Answer, request: &Map<String, Value>) -> Result<()> {
        if answer.text("/job_type") == Some("check") {
            let sentence = format!("AWX {} ended successful, but it only checked: its template has the job type `check`", self.launched);
            return Err(Error::new(Reason::TargetWrongDigest, sentence).hint("set the template's job type to run"));
        }
        let wanted = request.get("extra_vars").cloned().unwrap_or_else(|| json!({}));
        let other = differences(&answer.body, &wanted);
        if other.is_empty() {
            return Ok(());
        }
        let sentence = format!("AWX {} ended successful, but not with the values it was given: {}", self.launched, other.join(", "));
        Err(Error::new(Reason::TargetWrongDigest, sentence).hint("does the template or its survey set these variables itself?"))
    }

    /// Asks AWX to cancel it; what came of that.
    pub(super) async fn cancel(&self) -> String {
        let what = format!("AWX {}", self.launched);
        let path = format!("/api/v2/{}/{}/cancel/", self.paths.jobs, self.launched.id);
        match self.api.once(Method::POST, &path, None).await {
            Ok(answer) if answer.status.is_success() => format!("{what} is being canceled"),
            Ok(answer) if answer.status.as_u16() == 405 => format!("{what} had ended already"),
            Ok(answer) => format!("{what} could not be canceled and may go on: {}", answer.words()),
            Err(error) => format!("{what} could not be canceled and may go on: {}", error.sentence),
        }
    }
}

fn is_over(state: &str) -> bool {
    matches!(state, "successful" | "failed" | "error" | "canceled")
}
