//! The one loop that follows a pipeline elsewhere: to its end, to the deadline, or until this run is cancelled.

use crate::config::OnCancel;
use crate::error::{Error, Reason, Result};
use crate::targets::{Lost, STOP_LIMIT, Site};
use crate::tools::wait::{Backoff, spoken};
use std::time::Duration;

/// How many looks in a row may be lost.
const PATIENCE: u32 = 20;
/// How long a pipeline that was just started may be unknown.
const APPEARING: Duration = Duration::from_secs(30);

/// How long the last look may take.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// What one look saw.
pub enum Seen {
    /// It goes on; its state.
    Going(String),
    /// The server takes no more requests for so long; in its words.
    Limited(Duration, String),
    /// It ended well; one sentence.
    Well(String),
    /// It ended otherwise.
    Badly(Error),
}

/// A pipeline that was started.
#[async_trait::async_trait]
pub trait Pipeline: Sync {
    /// What it is called, as "run 12 of acme/e2e".
    fn name(&self) -> String;
    /// Where a person sees it.
    fn url(&self) -> Option<String>;
    /// Looks once.
    async fn look(&self) -> Result<Seen>;
    /// Asks the server to cancel it; whether it says that it will.
    async fn cancel(&self) -> bool;
}

/// How long, and what becomes of it when that is over.
pub struct Limits {
    pub timeout: Duration,
    pub on_cancel: OnCancel,
}

/// Follows it to its end; the sentence of a good one.
pub async fn follow(site: &Site<'_>, pipeline: &dyn Pipeline, limits: &Limits) -> Result<String> {
    let (clock, name) = (&site.world.clock, pipeline.name());
    let (begun, deadline) = (clock.now(), clock.now().saturating_add(limits.timeout));
    let mut pauses = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
    let (mut said, mut lost) = (String::new(), Lost::at_most(PATIENCE));
    loop {
        let mut pause = pauses.pause();
        let looked = tokio::select! {
            looked = pipeline.look() => Some(looked),
            () = clock.sleep(deadline.saturating_sub(clock.now()).max(LAST_LOOK)) => None,
            () = site.world.cancel.cancelled() => return Err(cancelled(pipeline, limits, &said).await),
        };
        match looked {
            None => {}
            Some(Ok(Seen::Well(sentence))) => return Ok(sentence),
            Some(Ok(Seen::Badly(error))) => return Err(seen_at(error, pipeline)),
            Some(Ok(Seen::Going(state))) => {
                lost.over();
                if state != said {
                    site.say(&format!("{name}: {state}"));
                    said = state;
                }
            }
            Some(Ok(Seen::Limited(length, words))) => {
                site.say(&format!("{words}; {name} is looked at again in {}", spoken(length)));
                pause = length.max(pause);
            }
            Some(Err(error)) if error.gone && clock.now().saturating_sub(begun) < APPEARING => {}
            Some(Err(error)) if error.gone && said.is_empty() => {
                let sentence = format!("its start was confirmed, and {name} is not there: {}", error.sentence);
                return Err(seen_at(Error::new(Reason::TriggerFailed, sentence), pipeline));
            }
            Some(Err(error)) if error.lost => lost.bear(error, site).map_err(|error| seen_at(error, pipeline))?,
            Some(Err(error)) => return Err(seen_at(error, pipeline)),
        }
        let left = deadline.saturating_sub(clock.now());
        if left.is_zero() {
            let waited = spoken(clock.now().saturating_sub(begun));
            let state = if said.is_empty() { "not to be seen".to_owned() } else { said };
            let error = Error::new(Reason::TriggerTimeout, format!("{name} is still {state} after {waited}"));
            let error = error.detail(vec![stop(pipeline, limits).await]).hint("`timeout:` of the trigger says how long it may take");
            return Err(seen_at(error, pipeline));
        }
        tokio::select! {
            () = clock.sleep(pause.min(left)) => {}
            () = site.world.cancel.cancelled() => return Err(cancelled(pipeline, limits, &said).await),
        }
    }
}

fn seen_at(error: Error, pipeline: &dyn Pipeline) -> Error {
    match pipeline.url() {
        Some(url) if error.hint.is_none() => error.hint(format!("see {url}")),
        Some(url) => {
            let mut error = error;
            error.detail.push(format!("see {url}"));
            error
        }
        None => error,
    }
}

async fn cancelled(pipeline: &dyn Pipeline, limits: &Limits, state: &str) -> Error {
    let state = if state.is_empty() { String::new() } else { format!(" was {state}") };
    let error = Error::new(Reason::Cancelled, format!("cancelled while {}{state}", pipeline.name()));
    error.detail(vec![stop(pipeline, limits).await])
}

async fn stop(pipeline: &dyn Pipeline, limits: &Limits) -> String {
    let name = pipeline.name();
    match limits.on_cancel {
        OnCancel::Leave => format!("{name} goes on by itself (`on-cancel: leave`)"),
        OnCancel::Cancel => match tokio::time::timeout(STOP_LIMIT, pipeline.cancel()).await {
            Ok(true) => format!("{name} is being cancelled"),
            Ok(false) | Err(_) => format!("{name} could not be cancelled and may go on"),
        },
    }
}
