//! The forge's API: comments, deployments, ancestry. Which forge is one match here.

use crate::checkout::Ancestry;
use crate::error::Result;
use crate::event::Event;
use crate::tools::console::Console;
use crate::tools::secret::Secret;
use crate::tools::wait::Clock;
use crate::vars::Vars;

pub mod comments;
pub mod deployments;
pub mod github;
pub mod refs;

/// The task name of deployments that tidegate records, so that it never takes one for a request.
pub const DEPLOYMENT_TASK: &str = "deploy:tidegate";

/// A forge that can be asked.
#[derive(Clone)]
pub enum Forge {
    /// GitHub or GitHub Enterprise.
    GitHub(Box<github::GitHub>),
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
        let token = ["INPUT_TOKEN", "GITHUB_TOKEN", "GH_TOKEN"].into_iter().find_map(|name| vars.get(name));
        let (Some(token), Some(repository)) = (token, &event.more.repository) else {
            return absent(if token.is_none() {
                "no token (`token:` of the step, or GITHUB_TOKEN)"
            } else {
                "no repository (--repository)"
            });
        };
        let token = Secret::new(token);
        console.mask(&token);
        let url = vars.get("GITHUB_API_URL").unwrap_or("https://api.github.com");
        Ok(Self::GitHub(Box::new(github::GitHub::new(url, &token, repository, clock)?)))
    }

    /// The default branch's name.
    pub async fn default_branch(&self) -> Result<Option<String>> {
        match self {
            Self::GitHub(github) => github.default_branch().await,
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
            Self::Absent { .. } => Ok(None),
        }
    }

    /// Completes what is known of the event's pull request.
    pub async fn fill_pull_request(&self, event: &mut Event) -> Result<()> {
        match self {
            Self::GitHub(github) => github.fill_pull_request(event).await,
            Self::Absent { .. } => Ok(()),
        }
    }

    /// How `head` relates to `base`: newer when it contains it.
    pub async fn compare(&self, base: &str, head: &str) -> Result<Option<Ancestry>> {
        match self {
            Self::GitHub(github) => github.compare(base, head).await,
            Self::Absent { .. } => Ok(None),
        }
    }

    /// Whether a pull request is open, if the forge says so.
    pub async fn is_open(&self, number: u64) -> Option<bool> {
        match self {
            Self::GitHub(github) => github.is_open(number).await,
            Self::Absent { .. } => None,
        }
    }

    /// Whether this try of a run has ended, if the forge can say.
    pub async fn run_ended(&self, id: &str, attempt: u32) -> Result<Option<bool>> {
        match self {
            Self::GitHub(github) => github.run_ended(id, attempt).await,
            Self::Absent { .. } => Ok(None),
        }
    }
}
