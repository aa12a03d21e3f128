//! How a run ended: what the report says of it, and the last line.

use crate::context::Outcome;
use crate::error::{Error, Reason, Result, Verdict};
use crate::plan::{Plan, Work};
use crate::report::Report;
use crate::tools::wait::spoken;
use crate::world::World;
use std::time::Duration;

/// Writes the outcome of the steps into the report.
pub(super) fn conclude(report: &mut Report, plan: &Plan, outcome: Result<()>) {
    match outcome {
        Ok(()) if plan.outcome == Outcome::Remove => {
            if report.targets.iter().any(|target| target.verdict == Verdict::Removed) {
                (report.verdict, report.reason) = (Verdict::Removed, Reason::Removed);
                return;
            }
            (report.verdict, report.reason) = (Verdict::Skipped, Reason::PreviewKept);
            let removes = plan.steps.iter().any(|step| matches!(step.work, Work::Remove(_)));
            let rest = match (plan.has_targets, removes) {
                (true, false) => "what runs for it was not made by tidegate, or cannot be removed by it (docs: previews), and goes on",
                (true, true) => "nothing that tidegate made is left of it; what others made goes on",
                (false, _) => "nothing of it ran",
            };
            report.sentence = format!("{} is closed; {rest}", plan.display_environment);
        }
        Ok(()) => {
            report.verdict = Verdict::Deployed;
            let triggers = plan.steps.iter().any(|step| matches!(step.work, Work::Trigger(_)));
            report.reason = match (report.targets.is_empty(), triggers) {
                (false, _) => Reason::Deployed,
                (true, true) => Reason::Triggered,
                (true, false) => Reason::Built,
            };
        }
        Err(error) => {
            report.verdict = Verdict::of(&error);
            if report.verdict == Verdict::RolledBack && report.targets.iter().any(|target| target.verdict == Verdict::Deployed) {
                report.verdict = Verdict::Failed; // one target went back, another one runs the new version
            }
            report.reason = error.reason;
            report.sentence.clone_from(&error.sentence);
            report.error = Some(error).filter(|error| error.reason.exit_code() != 0);
        }
    }
}

/// Where what runs can be seen: as tidegate.yml says it, or as the first target that knows says it.
pub(super) fn note_url(report: &mut Report, plan: &Plan) {
    let url = plan.url.clone().or_else(|| report.target_url()).filter(|_| report.verdict == Verdict::Deployed);
    let url = url.and_then(|url| url::Url::parse(&url).ok());
    report.urls.extend(url.map(|url| ("environment".to_owned(), url.to_string())));
}

/// The last line.
pub(super) fn print(world: &World, report: &Report, elapsed: Duration) {
    let line = format!("{} ({})", report.headline(), spoken(elapsed));
    match report.verdict {
        Verdict::Deployed | Verdict::Removed | Verdict::Skipped | Verdict::Superseded => world.console.good(&line),
        Verdict::Failed | Verdict::RolledBack | Verdict::Unknown | Verdict::TimedOut | Verdict::Refused | Verdict::Cancelled => {
            world.console.bad(&line);
        }
    }
}

/// The end of a run in which a step had failed before: nothing that the step said gets lost.
pub(super) fn ended_after(failure: Option<Error>, mut end: Error) -> Error {
    match failure {
        // It saw the cancelling first, and says where it stopped.
        Some(failure) if failure.reason == end.reason => failure,
        Some(failure) => {
            end.detail.push(failure.sentence);
            end.detail.extend(failure.detail);
            end
        }
        None => end,
    }
}
