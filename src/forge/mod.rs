//! The forge's API: comments, deployments, ancestry. Which forge is one match here.

use crate::checkout::Ancestry;
use crate::config::Association;
use crate::error::{Reason, Result};
use crate::event::Event;
use crate::tools::console::Console;
use crate::tools::secret::Secret;
use crate::tools::wait::Clock;
use crate::vars::Vars;
use deployments::{DeploymentStatus, NewDeployment};

mod association;
pub mod comments;
pub mod deployments;
pub mod files;
pub mod github;
pub mod gitlab;
pub mod gitlab_records;
pub mod refs;
pub mod releases;
pub mod thread;

/// The task name of deployments that tidegate records, so that it never takes one for a request.
pub const DEPLOYMENT_TASK: &str = "deploy:tidegate";

/// A forge that can be asked.
#[derive(Clone)]
pub enum Forge {
    /// GitHub or GitHub Enterprise.
    GitHub(Box<github::GitHub>),
    /// GitLab, wherever it is.
    GitLab(Box<gitlab::GitLab>),
    /// None: no token or no repository. `why` says what is missing.
    Absent {
        /// What is missing, for a person.
        why: String,
    },
}

/// How a deployment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeploymentState {
    /// It is being done.
    InProgress,
    /// It runs.
    Success,
    /// It was tried and failed.
    Failure,
    /// It was broken off.
    Error,
    /// It is gone.
    Inactive,
}

impl Forge {
    /// The forge of this run. A token comes from the step's input, or from the usual variables.
    pub fn of(vars: &Vars, event: &Event, console: &Console, clock: Clock) -> Result<Self> {
        let absent = |why: &str| Ok(Self::Absent { why: why.to_owned() });
        if event.more.gitlab.is_some() {
            return Ok(match gitlab::GitLab::of(vars, event, clock)? {
                Ok((gitlab, token)) => {
                    console.mask(&token);
                    Self::GitLab(Box::new(gitlab))
                }
                Err(why) => Self::Absent { why },
            });
        }
        let token = github::token(vars);
        let (Some(token), Some(repository)) = (token, &event.more.repository) else {
            return absent(if token.is_none() {
                "no token (`token:` of the step, or GITHUB_TOKEN)"
            } else {
                "no repository (--repository)"
            });
        };
        let token = Secret::new(token);
        console.mask(&token);
        Ok(Self::GitHub(Box::new(github::GitHub::new(vars, github::api(vars), &token, repository, clock)?)))
    }

    /// The default branch's name.
    pub async fn default_branch(&self) -> Result<Option<String>> {
        match self {
            Self::GitHub(github) => github.default_branch().await,
            Self::GitLab(gitlab) => gitlab.default_branch().await,
            Self::Absent { .. } => Ok(None),
        }
    }

    /// The commit that a tag, or else a branch or commit id, names.
    pub async fn commit_of(&self, name: &str) -> Result<Option<String>> {
        match self.tag(name).await? {
            Some(commit) => Ok(Some(commit)),
            None => self.commit_of_ref(name).await,
        }
    }

    /// The commit of a tag.
    pub async fn tag(&self, name: &str) -> Result<Option<String>> {
        self.commit_of_ref(&format!("tags/{name}")).await
    }

    /// The commit of a branch, a commit id or a ref such as tags/v1.0.0.
    pub async fn commit_of_ref(&self, name: &str) -> Result<Option<String>> {
        match self {
            Self::GitHub(github) => github.commit_of_ref(name).await,
            Self::GitLab(gitlab) => gitlab.commit_of_ref(name).await,
            Self::Absent { .. } => Ok(None),
        }
    }

    /// Completes what is known of the event's pull request.
    pub async fn fill_pull_request(&self, event: &mut Event) -> Result<()> {
        match self {
            Self::GitHub(github) => github.fill_pull_request(event).await,
            Self::GitLab(gitlab) => gitlab.fill_merge_request(event).await,
            Self::Absent { .. } => Ok(()),
        }
    }

    /// How `head` relates to `base`: newer when it contains it.
    pub async fn compare(&self, base: &str, head: &str) -> Result<Option<Ancestry>> {
        match self {
            Self::GitHub(github) => github.compare(base, head).await,
            Self::GitLab(gitlab) => gitlab.compare(base, head).await,
            Self::Absent { .. } => Ok(None),
        }
    }

    /// Whether a pull request is open, if the forge says so.
    pub async fn is_open(&self, number: u64) -> Option<bool> {
        match self {
            Self::GitHub(github) => github.is_open(number).await,
            Self::GitLab(gitlab) => gitlab.is_open(number).await,
            Self::Absent { .. } => None,
        }
    }

    /// How who wrote the commit message or the pull request of this event belongs to the repository; empty when the forge
    /// does not say.
    pub async fn association(&self, event: &Event) -> Result<Vec<Association>> {
        match self {
            Self::GitHub(github) => github.association(event).await,
            Self::GitLab(gitlab) => gitlab.association(event).await,
            Self::Absent { .. } => Ok(Vec::new()),
        }
    }

    /// Whether this try of a run has ended, if the forge can say.
    pub async fn run_ended(&self, id: &str, attempt: u32) -> Result<Option<bool>> {
        match self {
            Self::GitHub(github) => github.run_ended(id, attempt).await,
            Self::GitLab(gitlab) => gitlab.job_ended(id).await,
            Self::Absent { .. } => Ok(None),
        }
    }

    /// The pull or merge request that brought a commit to a branch.
    pub async fn pull_request_of(&self, sha: &str, branch: Option<&str>, tries: u64) -> Result<Option<u64>> {
        match self {
            Self::GitHub(github) => Ok(github.pull_request_of(sha, branch, tries).await?.map(|pull| pull.number)),
            Self::GitLab(gitlab) => gitlab.merge_request_of(sha, branch).await,
            Self::Absent { .. } => Ok(None),
        }
    }

    /// Whether the release of a tag is announced for a later day (GitLab's upcoming releases).
    pub async fn is_upcoming(&self, tag: &str) -> Result<bool> {
        match self {
            Self::GitLab(gitlab) => match gitlab.release(tag).await {
                Ok(upcoming) => Ok(upcoming.unwrap_or(false)),
                Err(error) if error.reason == Reason::AuthDenied => Ok(false), // releases may be switched off
                Err(error) => Err(error),
            },
            Self::GitHub(_) | Self::Absent { .. } => Ok(false),
        }
    }

    /// Whether it can say how commits relate.
    pub fn compares(&self) -> bool {
        match self {
            Self::GitHub(_) => true,
            Self::GitLab(gitlab) => gitlab.has_access_token(),
            Self::Absent { .. } => false,
        }
    }

    /// How people write the number of a pull or merge request.
    pub fn pull_request_name(&self, number: u64) -> String {
        match self {
            Self::GitLab(_) => format!("merge request !{number}"),
            Self::GitHub(_) | Self::Absent { .. } => format!("pull request #{number}"),
        }
    }

    /// The repository, as the forge spells it.
    pub fn repository(&self) -> Option<&str> {
        match self {
            Self::GitHub(github) => Some(github.repository()),
            Self::GitLab(gitlab) => Some(gitlab.repository()),
            Self::Absent { .. } => None,
        }
    }

    /// Shows a delivery as a deployment; its id.
    pub async fn show(&self, new: &NewDeployment<'_>, reference: (&str, bool)) -> Result<Option<u64>> {
        match self {
            Self::GitHub(github) => github.create_deployment(new).await.map(Some),
            Self::GitLab(gitlab) => gitlab.begin_deployment(new, reference).await.map(Some),
            Self::Absent { .. } => Ok(None),
        }
    }

    /// Changes how a deployment stands.
    pub async fn set_shown(&self, status: &DeploymentStatus<'_>) -> Result<()> {
        match self {
            Self::GitHub(github) => github.set_deployment(status).await,
            Self::GitLab(gitlab) => gitlab.end_deployment(status).await,
            Self::Absent { .. } => Ok(()),
        }
    }

    /// The deployment that shows a record of another run, if it has not ended. GitLab keeps no facts of ours with it.
    pub async fn unended(&self, environment: &str, key: &str, sha: Option<&str>) -> Result<Option<u64>> {
        match self {
            Self::GitHub(github) => {
                let known = github.deployments(Some(environment), 100).await?;
                let same = |copy: &&deployments::Deployment| copy.payload.get("key").and_then(serde_json::Value::as_str) == Some(key);
                let Some(copy) = known.iter().find(same) else { return Ok(None) };
                let newest = github.deployment_statuses(copy.id).await?.into_iter().next();
                let open = newest.is_none_or(|status| status.state == "in_progress");
                Ok(open.then_some(copy.id))
            }
            Self::GitLab(gitlab) => match sha {
                Some(sha) => Ok(gitlab.unended(gitlab.place(environment), sha).await?.map(|deployment| deployment.id)),
                None => Ok(None),
            },
            Self::Absent { .. } => Ok(None),
        }
    }
}
