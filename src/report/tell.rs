//! Telling the forge: the pull request's comment, and what a closed one leaves. Best effort: a failure here is a warning.

use super::{Report, StepOutcome, markdown};
use crate::config::CommentMode;
use crate::context::Outcome;
use crate::error::{Error, Reason, Verdict};
use crate::event::{Event, Kind};
use crate::forge::comments::{self, Keep, Section};
use crate::forge::deployments::{Deletion, DeploymentStatus};
use crate::forge::github::GitHub;
use crate::forge::gitlab::GitLab;
use crate::forge::{DeploymentState, Forge};
use crate::plan::Plan;
use crate::state::records::state_of;
use crate::world::World;
use std::time::Duration;

/// How long telling may take in all; a cancelled run has only seconds.
const PATIENCE: Duration = Duration::from_secs(180);
/// The same for what is done under the lease.
const PATIENCE_CLOSING: Duration = Duration::from_secs(60);
const PATIENCE_CANCELLED: Duration = Duration::from_secs(2);

/// Whether a preview was removed, or there was nothing of it.
fn is_over(report: &Report) -> bool {
    report.outcome == Outcome::Remove && matches!(report.reason, Reason::Removed | Reason::PreviewKept)
}

/// The telling of one run.
pub struct Teller<'a> {
    world: &'a World,
    forge: &'a Forge,
    project: String,
    mode: CommentMode,
    log_url: Option<String>,
    pull_request: Option<u64>,
}

impl<'a> Teller<'a> {
    /// A teller for this run.
    pub fn new(world: &'a World, forge: &'a Forge, event: &Event, project: &str, mode: CommentMode) -> Self {
        let log_url = event.more.run.url.clone();
        Self { world, forge, project: project.to_owned(), mode, log_url, pull_request: event.pr }
    }

    /// The pull request that is told.
    pub fn pull_request(&self) -> Option<u64> {
        self.pull_request
    }

    /// Finds the pull request. Runs beside the first steps.
    pub async fn begin(&mut self, plan: &Plan, event: &Event) {
        let Some(sha) = plan.commit.as_deref().filter(|_| self.pull_request.is_none() && self.mode != CommentMode::Never) else { return };
        // The index may lag behind a merge, and behind nothing else.
        let tries = if event.kind == Kind::PushBranch { 3 } else { 1 };
        match self.forge.pull_request_of(sha, event.branch.as_deref(), tries).await {
            Ok(found) => self.pull_request = found.or(event.more.open_request),
            Err(error) => self.world.console.warning(&format!("the pull or merge request of this commit is not found: {error}")),
        }
    }

    /// Says how it ended: deployment record, then comment.
    pub async fn end(&mut self, report: &mut Report) {
        if let Some(url) = &self.log_url {
            report.urls.insert("run".into(), url.clone());
        }
        let told = tokio::select! {
            told = tokio::time::timeout(PATIENCE, self.finish(report)) => told.is_ok(),
            () = self.world.cancelled_for(PATIENCE_CANCELLED) => false,
        };
        if !told {
            self.world.console.warning("the forge was too slow to be told everything; the verdict stands");
        }
    }

    async fn finish(&self, report: &Report) {
        match self.forge {
            Forge::GitLab(gitlab) if !is_over(report) => self.commit_status(gitlab, report).await,
            Forge::GitHub(_) | Forge::GitLab(_) => {}
            Forge::Absent { why } => {
                self.world.console.dim(&format!("  no comment and no deployment record are written: {why}"));
                return;
            }
        }
        self.comment(report).await;
    }

    /// Closes what the forge shows of a preview that is over; under its lease, as the next delivery must not be closed with it.
    pub async fn close(&self, report: &Report) {
        if !is_over(report) {
            return;
        }
        let closed = async {
            match self.forge {
                Forge::GitHub(github) => {
                    self.close_records(github, report).await;
                    // A run that found all done has held no lease.
                    if report.steps.iter().any(|step| step.id == "lock" && step.outcome == StepOutcome::Done) {
                        self.delete_environment(github, &report.place).await;
                    }
                }
                Forge::GitLab(gitlab) => self.close_environment(gitlab, &report.place).await,
                Forge::Absent { .. } => {}
            }
        };
        let told = tokio::select! {
            told = tokio::time::timeout(PATIENCE_CLOSING, closed) => told.is_ok(),
            () = self.world.cancelled_for(PATIENCE_CANCELLED) => false,
        };
        if !told {
            self.world.console.warning("the forge was too slow to be told that the preview is over");
        }
    }

    /// GitLab's environment of a preview. The one that the stop job belongs to is stopped by GitLab when the job ends.
    async fn close_environment(&self, gitlab: &GitLab, place: &str) {
        if gitlab.job().is_some_and(|job| job.environment.is_some()) {
            return;
        }
        if let Err(error) = gitlab.stop_environment(place).await {
            self.world.console.warning(&format!("the environment {place} is not stopped: {error}"));
        }
    }

    /// A pipeline shows how it went on its own commit only: a version that was named by hand is another one.
    async fn commit_status(&self, gitlab: &GitLab, report: &Report) {
        let own = self.world.vars.get("CI_COMMIT_SHA");
        let switched = !report.targets.is_empty();
        let Some(sha) = report.commit.as_deref().filter(|sha| switched && Some(*sha) != own && gitlab.has_access_token()) else { return };
        let name = format!("tidegate/{}", report.place);
        let description = report.cleaned(self.world.console.redactor()).headline();
        let (state, log_url) = (state_of(report.verdict), self.log_url.as_deref());
        let status = DeploymentStatus { id: 0, state, description: &description, log_url, environment_url: None };
        if let Err(error) = gitlab.set_commit_status(sha, &name, &status).await {
            self.world.console.warning(&format!("the commit status {name} is not set: {error}"));
        }
    }

    /// Every record of a place that still counts as active.
    async fn close_records(&self, github: &GitHub, report: &Report) {
        let place = &report.place;
        let (state, log_url) = (DeploymentState::Inactive, self.log_url.as_deref());
        let closed = async {
            for record in github.deployments(Some(place), 100).await? {
                let project = record.payload.pointer("/project").and_then(serde_json::Value::as_str);
                if project.is_some_and(|project| project != self.project) {
                    continue; // another project of this repository may have a preview of the same name
                }
                let newest = github.deployment_statuses(record.id).await?.into_iter().next();
                if newest.is_some_and(|status| status.state != "inactive") {
                    let description = &format!("removed: {}", report.gone_because);
                    github.set_deployment(&DeploymentStatus { id: record.id, state, description, log_url, environment_url: None }).await?;
                }
            }
            Ok::<(), crate::error::Error>(())
        };
        if let Err(error) = closed.await {
            self.world.console.warning(&format!("the deployment records of {place} are not closed: {error}"));
        }
    }

    /// GitHub keeps every environment that a deployment named, for ever. What somebody has configured stays.
    async fn delete_environment(&self, github: &GitHub, place: &str) {
        match github.delete_environment(place).await {
            Ok(Deletion::Deleted) => self.world.console.dim(&format!("  GitHub's environment {place} is deleted")),
            Ok(Deletion::Gone | Deletion::Configured) => {}
            Ok(Deletion::Denied) => self.world.console.dim(&format!(
                "  GitHub goes on listing the environment {place}, inactive: deleting it takes a token with `administration: write`, \
                 which a job's own token never has"
            )),
            Err(error) => self.world.console.warning(&format!("GitHub's environment {place} is not deleted: {}", error.sentence)),
        }
    }

    async fn comment(&self, report: &Report) {
        let failed =
            matches!(report.verdict, Verdict::Failed | Verdict::RolledBack | Verdict::Unknown | Verdict::TimedOut | Verdict::Refused);
        let said = report.verdict != Verdict::Skipped || report.reason == Reason::PreviewKept;
        let wanted = said && self.mode != CommentMode::Never;
        let create = failed || self.mode == CommentMode::Always;
        let (true, Some(pr)) = (wanted, self.pull_request) else { return };
        let redactor = self.world.console.redactor();
        let text = redactor.clean(&markdown::section(&report.cleaned(redactor)));
        let environment = report.environment.clone().unwrap_or_else(|| "run".into());
        let plan = format!("plan `{}`", report.plan_hash);
        let keep = match report.verdict {
            _told_before if report.repeats => Keep::Success(&plan),
            Verdict::Superseded => Keep::Anything, // what is newer may have been told there
            Verdict::Deployed | Verdict::Removed | Verdict::Skipped | Verdict::Failed | Verdict::RolledBack => Keep::Nothing,
            Verdict::Unknown | Verdict::TimedOut | Verdict::Refused | Verdict::Cancelled => Keep::Nothing,
        };
        let section = Section { project: &self.project, environment: &environment, text: &text, create, keep };
        let Some(thread) = self.forge.thread(pr) else { return };
        let name = self.forge.pull_request_name(pr);
        match comments::upsert(&thread, &section).await {
            Ok(written) => self.world.console.good(&format!("{name}: comment {}", written.name())),
            Err(error) => self.untold(&name, &error),
        }
    }

    fn untold(&self, name: &str, error: &Error) {
        self.world.console.warning(&format!("{name} is not told: {error}"));
    }
}
