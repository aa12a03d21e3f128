//! A job of a CD server: looked at until it has ended, and judged by its state and its log together.

use super::Deploy;
use super::api::{Answer, Away, Seen};
use super::output::Heard;
use crate::error::{Error, Reason, Result};
use crate::targets::Site;
use crate::tools::wait::{Backoff, spoken};
use std::time::Duration;

/// How often in a row something else may answer in the server's place while it is replaced.
const ABSENCES: u32 = 10;

/// Whose job it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// It began for us, or later than we asked: this version was there.
    Ours,
    /// A run that was killed began it for this delivery.
    RunBefore,
    /// It ran already.
    Others,
}

/// A job that is followed.
pub(super) struct Job<'a> {
    pub(super) deploy: &'a Deploy<'a>,
    pub(super) id: String,
    pub(super) whose: Whose,
    heard: Heard,
    /// The state that was last said.
    said: String,
    patience: Patience,
    /// How often in a row something else answered in the server's place.
    absent: u32,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With success, as the server says.
    Success,
    /// With an error, as the server says.
    Failure,
    /// The server does not say how: its log does.
    Finished,
    /// The server does not know it any more.
    Gone,
}

impl<'a> Job<'a> {
    pub(super) fn new(deploy: &'a Deploy<'a>, id: String, whose: Whose) -> Self {
        Self { deploy, id, whose, heard: Heard::default(), said: "not seen yet".into(), patience: Patience::default(), absent: 0 }
    }

    /// Looks until it has ended, or to the deadline.
    pub(super) async fn follow(&mut self) -> Result<End> {
        loop {
            if let Some(end) = self.look().await? {
                return Ok(end);
            }
            self.pause(self.deploy.target.interval.0).await?;
        }
    }

    /// One look, for which a server that is away is waited for.
    pub(super) async fn look(&mut self) -> Result<Option<End>> {
        loop {
            let left = self.deploy.left();
            let cancel = &self.deploy.site.world.cancel;
            let answer = tokio::select! {
                answer = self.deploy.api.status(&self.id, left) => answer,
                () = cancel.cancelled() => return Err(self.cancelled()),
            };
            let answer = match answer {
                Err(error) if error.gone && self.absent < ABSENCES => {
                    self.absent += 1;
                    Answer::Away(Away::in_its_place(&error))
                }
                answer => answer?,
            };
            match answer {
                Answer::Job(seen) => {
                    self.absent = 0;
                    self.patience.over(self.deploy.site);
                    return self.take(&seen);
                }
                Answer::No(words) if words == "App deployment not found" => {
                    self.heard.end(self.deploy.site, self.deploy.target.output);
                    return Ok(Some(End::Gone));
                }
                Answer::No(words) => {
                    let sentence = format!("the server says about job {}: {words}", self.id);
                    return Err(Error { lost: true, ..Error::new(Reason::TargetFailed, sentence) }.detail(self.heard.tail()));
                }
                Answer::Away(away) => {
                    let pause = self.patience.with(&away, self.deploy.site);
                    self.pause(pause).await?;
                }
            }
        }
    }

    /// Takes what the server told: shows what is new, and says the state when it changes.
    pub(super) fn take(&mut self, seen: &Seen) -> Result<Option<End>> {
        self.heard.take(&seen.output, self.deploy.site, self.deploy.target.output);
        let end = match seen.state.as_str() {
            "starting" | "running" => None,
            "success" => Some(End::Success),
            "error" => Some(End::Failure),
            "finished" => Some(End::Finished),
            other => {
                let other = crate::tools::console::cut(other, 100);
                let sentence = format!("the server says that job {} is {other:?}: tidegate does not know what that means", self.id);
                let error = Error::new(Reason::TargetFailed, sentence).detail(self.heard.tail());
                return Err(Error { lost: true, ..error }.hint("known are starting, running, success, error and finished"));
            }
        };
        if end.is_some() {
            self.heard.end(self.deploy.site, self.deploy.target.output);
            return Ok(end);
        }
        if seen.state != self.said {
            self.deploy.site.say(&format!("job {}: {}", self.id, seen.state));
            self.said.clone_from(&seen.state);
        }
        Ok(None)
    }

    /// Success in one sentence, or what speaks against it.
    pub(super) fn judge(&self, end: End) -> Result<String> {
        let id = match self.whose {
            Whose::Ours | Whose::RunBefore => self.id.clone(),
            Whose::Others => format!("{}, which ran already,", self.id),
        };
        let failed = |what: String| Err(Error::new(Reason::TargetFailed, what).detail(self.heard.tail()));
        let lost = |what: String| failed(what).map_err(|error| Error { lost: true, ..error });
        match (end, self.heard.code()) {
            (End::Success, Some("0") | None) => Ok(format!("job {id} ended with success")),
            (End::Success, Some(code)) => {
                let hint = "the server's word and its log contradict each other: look at the app itself before the next deploy";
                lost(format!("the server says that job {id} ended with success, but its log ends with return code {code}"))
                    .map_err(|error| error.hint(hint))
            }
            (End::Failure, Some("0")) => {
                failed(format!("job {id} ended with an error, as the server says, but its log ends with return code 0"))
            }
            (End::Failure, Some(code)) => failed(format!("job {id} ended with an error: return code {code}")),
            (End::Failure, None) => failed(format!("job {id} ended with an error")),
            (End::Finished, Some("0")) => Ok(format!("job {id} ended with success (return code 0)")),
            (End::Finished, Some(code)) => failed(format!("job {id} ended with return code {code}")),
            (End::Finished, None) => lost(format!(
                "job {id} has finished, but its log does not end with a return code: how it went cannot be said"
            ))
            .map_err(|error| error.hint("this server tells its log once: did somebody else ask for it? Look there, then run this again")),
            (End::Gone, _) => lost(format!("the server does not know job {id} any more: how it went cannot be said")).map_err(|error| {
                error.hint("did the server lose its jobs, or was the app's entry changed meanwhile? Look there, then run this again")
            }),
        }
    }

    async fn pause(&self, length: Duration) -> Result<()> {
        match self.deploy.pause(length).await {
            Ok(()) => Ok(()),
            Err(Over::Cancelled) => Err(self.cancelled()),
            Err(Over::Late) => Err(self.timed_out()),
        }
    }

    fn cancelled(&self) -> Error {
        Error::new(Reason::Cancelled, format!("cancelled while job {} was {}", self.id, self.said))
    }

    fn timed_out(&self) -> Error {
        let waited = spoken(self.deploy.waited());
        let hint = match self.said.as_str() {
            "starting" => "does the server begin jobs at all? One that it lost at its own restart stays in this state for ever",
            _going => "look at the job; `timeout:` says how long it may take",
        };
        let sentence = match &self.patience.why {
            Some(why) => format!("job {} was {} when the server stopped answering ({why}); {waited} are over", self.id, self.said),
            None => format!("job {} is still {} after {waited}", self.id, self.said),
        };
        Error::new(Reason::TargetTimeout, sentence).detail(self.heard.tail()).hint(hint)
    }
}

/// Why waiting ended.
pub(super) enum Over {
    /// The run was cancelled.
    Cancelled,
    /// The time is over.
    Late,
}

/// A server that is away for a while, said once.
pub(super) struct Patience {
    pauses: Backoff,
    /// Why it is away, while it is.
    pub(super) why: Option<String>,
    /// Whether it was away at all.
    pub(super) was_needed: bool,
}

impl Default for Patience {
    fn default() -> Self {
        Self { pauses: Self::pauses(), why: None, was_needed: false }
    }
}

impl Patience {
    /// How long to wait for a server that is away.
    pub(super) fn with(&mut self, away: &Away, site: &Site<'_>) -> Duration {
        if self.why.is_none() {
            site.say(&format!("the server does not answer ({}): it may be redeploying itself; asking until it does", away.why));
        }
        self.why = Some(away.why.clone());
        self.was_needed = true;
        away.pause.unwrap_or_default().max(self.pauses.pause())
    }

    /// It answers again.
    pub(super) fn over(&mut self, site: &Site<'_>) {
        if self.why.take().is_some() {
            site.say("the server answers again");
            self.pauses = Self::pauses();
        }
    }

    fn pauses() -> Backoff {
        Backoff::new(Duration::from_secs(1), Duration::from_secs(10))
    }
}
