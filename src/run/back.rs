//! `on-failure: rollback`: what runs after the switch failed, so what ran before it is put back, as `tidegate rollback` does.

use crate::config::{CommentMode, OnFailure};
use crate::context::Request;
use crate::delivery::{self, Asked, Prepared};
use crate::error::{Error, Reason, Result, Verdict};
use crate::gates::Override;
use crate::plan::Work;
use crate::report::tell::Teller;
use crate::report::{Report, StepOutcome};
use crate::world::World;

/// The report of a run, after going back where its failure asks for that.
pub async fn after(world: &World, asked: &Asked, prepared: &Prepared, mut report: Report) -> Report {
    let Some(step) = failed(prepared, &report) else { return report };
    world.console.line(&format!("{step} failed after the switch: going back to what ran before, as `on-failure: rollback` says"));
    let said = match go_back(world, asked, prepared).await {
        Ok(version) => {
            report.verdict = Verdict::RolledBack;
            format!("{version} runs again, as `on-failure: rollback` says")
        }
        Err(error) => format!("going back failed as well: {}", error.sentence),
    };
    report.sentence.push_str(&format!("; {said}"));
    if let Some(error) = &mut report.error {
        error.sentence.push_str(&format!("; {said}"));
    }
    let config = &prepared.loaded.config;
    let mut teller = Teller::new(world, &prepared.forge, &prepared.event, &config.project, config.comment.mode);
    teller.begin(&prepared.plan, &prepared.event).await;
    teller.end(&mut report).await;
    report
}

/// The step that failed, if its failure means going back.
fn failed(prepared: &Prepared, report: &Report) -> Option<String> {
    let is_over = matches!(report.reason, Reason::Cancelled | Reason::LockLost);
    let goes_back = |id: &str| {
        let step = prepared.plan.steps.iter().find(|step| step.id == id)?;
        matches!(&step.work, Work::Migrate(work) if work.on_failure == OnFailure::Rollback).then(|| step.id.clone())
    };
    let failed = report.steps.iter().find(|step| step.outcome == StepOutcome::Failed)?;
    goes_back(&failed.id).filter(|_| !is_over)
}

/// A delivery of its own, with its own lease and record. It writes no comment: that of the failure tells both.
async fn go_back(world: &World, asked: &Asked, prepared: &Prepared) -> Result<String> {
    let environment = prepared.plan.environment.clone().unwrap_or_default();
    let asked = Asked { request: Request::Rollback { environment, to: None }, lifted: Override::default(), ..asked.clone() };
    let mut back = delivery::prepare(world, &asked).await?;
    back.loaded.config.comment.mode = CommentMode::Never;
    let (ended, _) = super::run(world, &back).await;
    if ended.verdict == Verdict::Deployed {
        return Ok(ended.version.unwrap_or_default());
    }
    let why = ended.headline();
    Err(ended.error.unwrap_or_else(|| Error::new(ended.reason, why)))
}
