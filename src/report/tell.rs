//! Telling the forge: the deployment record and the pull request's comment. Best effort: a failure here is a warning.

use super::{Report, markdown};
use crate::config::CommentMode;
use crate::context::Outcome;
use crate::error::{Reason, Result, Verdict};
use crate::event::Event;
use crate::forge::comments::{self, Section};
use crate::forge::github::{DeploymentStatus, GitHub, NewDeployment};
use crate::forge::{DeploymentState, Forge};
use crate::plan::Plan;
use crate::world::World;
use serde_json::json;
use std::time::Duration;

/// How long telling may take in all; a cancelled run has only seconds.
const PATIENCE: Duration = Duration::from_secs(180);
const PATIENCE_CANCELLED: Duration = Duration::from_secs(2);

/// The telling of one run.
pub struct Teller<'a> {
    world: &'a World,
    forge: &'a Forge,
    project: String,
    mode: CommentMode,
    log_url: Option<String>,
    deployment: Option<u64>,
    pull_request: Option<u64>,
}

impl<'a> Teller<'a> {
    /// A teller for this run.
    pub fn new(world: &'a World, forge: &'a Forge, event: &Event, project: &str, mode: CommentMode) -> Self {
        let log_url = event.more.run.url.clone();
        Self { world, forge, project: project.to_owned(), mode, log_url, deployment: None, pull_request: event.pr }
    }

    /// The pull request that is told.
    pub fn pull_request(&self) -> Option<u64> {
        self.pull_request
    }

    /// Says that the delivery begins, and finds the pull request. Runs beside the first steps.
    pub async fn begin(&mut self, plan: &Plan, event: &Event) {
        let Forge::GitHub(github) = self.forge else { return };
        if plan.outcome == Outcome::Deploy && plan.steps.iter().any(|step| step.id.starts_with("deploy")) {
            match self.record(github, plan).await {
                Ok(()) => {}
                Err(error) => self.world.console.warning(&format!("the deployment is not recorded: {error}")),
            }
        }
        let Some(sha) = plan.commit.as_deref().filter(|_| self.pull_request.is_none() && self.mode != CommentMode::Never) else { return };
        match github.pull_request_of(sha, event.branch.as_deref()).await {
            Ok(found) => self.pull_request = found.map(|pull| pull.number),
            Err(error) => self.world.console.warning(&format!("the pull request of this commit is not found: {error}")),
        }
    }

    async fn record(&mut self, github: &GitHub, plan: &Plan) -> Result<()> {
        let sha = plan.commit.clone().unwrap_or_default();
        let description = format!("{} by tidegate", plan.version.as_deref().unwrap_or_default());
        let new = NewDeployment {
            sha: &sha,
            environment: &plan.display_environment,
            description: &description,
            transient: plan.is_preview,
            production: plan.environment.as_deref() == Some("production"),
            payload: json!({"tidegate": 1, "version": plan.version, "plan": plan.hash}),
        };
        let id = github.create_deployment(&new).await?;
        self.deployment = Some(id); // from here on it gets an end, whatever happens
        self.status(github, id, DeploymentState::InProgress, &description).await
    }

    async fn status(&self, github: &GitHub, id: u64, state: DeploymentState, description: &str) -> Result<()> {
        let log_url = self.log_url.as_deref();
        let description = &self.world.console.redactor().clean(description);
        github.set_deployment(&DeploymentStatus { id, state, description, log_url, environment_url: None }).await
    }

    /// Says how it ended: deployment record, then comment.
    pub async fn end(&mut self, report: &mut Report) {
        report.deployment_id = self.deployment;
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
        let Forge::GitHub(github) = self.forge else {
            if let Forge::Absent { why } = self.forge {
                self.world.console.dim(&format!("  no comment and no deployment record are written: {why}"));
            }
            return;
        };
        if let Some(id) = self.deployment {
            let state = match report.verdict {
                Verdict::Deployed => DeploymentState::Success,
                Verdict::Removed | Verdict::Skipped | Verdict::Superseded => DeploymentState::Inactive,
                Verdict::Failed | Verdict::RolledBack | Verdict::Unknown | Verdict::TimedOut | Verdict::Refused => DeploymentState::Failure,
                Verdict::Cancelled => DeploymentState::Error,
            };
            if let Err(error) = self.status(github, id, state, &report.headline()).await {
                self.world.console.warning(&format!("the deployment record {id} still says in_progress: {error}"));
            }
        }
        if report.outcome == Outcome::Remove && matches!(report.verdict, Verdict::Removed | Verdict::Skipped) {
            self.close_records(github, &report.place).await;
        }
        self.comment(github, report).await;
    }

    async fn close_records(&self, github: &GitHub, place: &str) {
        let closed = async {
            for id in github.deployments(place).await? {
                self.status(github, id, DeploymentState::Inactive, "the pull request is closed").await?;
            }
            Ok::<(), crate::error::Error>(())
        };
        if let Err(error) = closed.await {
            self.world.console.warning(&format!("the deployment records of {place} are not closed: {error}"));
        }
    }

    async fn comment(&self, github: &GitHub, report: &Report) {
        let failed =
            matches!(report.verdict, Verdict::Failed | Verdict::RolledBack | Verdict::Unknown | Verdict::TimedOut | Verdict::Refused);
        let said = report.verdict != Verdict::Skipped || report.reason == Reason::PreviewKept;
        let wanted = said && self.mode != CommentMode::Never;
        let create = failed || self.mode == CommentMode::Always;
        let (true, Some(pr)) = (wanted, self.pull_request) else { return };
        let text = self.world.console.redactor().clean(&markdown::section(report));
        let environment = report.environment.clone().unwrap_or_else(|| "run".into());
        let section = Section { project: &self.project, environment: &environment, text: &text, create };
        match comments::upsert(github, pr, &section).await {
            Ok(written) => self.world.console.good(&format!("pull request #{pr}: comment {}", written.name())),
            Err(error) => self.world.console.warning(&format!("pull request #{pr} is not told: {error}")),
        }
    }
}
