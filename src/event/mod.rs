//! What happened: CI variables and a payload become one `Event`, whatever the CI system.
//!
//! Each CI system has one file here; everything downstream sees only `Event`.

use crate::checkout::Checkout;
use crate::error::{Error, Reason, Result};
use crate::vars::Vars;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub mod directives;
pub mod github;
pub mod gitlab;
pub mod laptop;

/// The CI system a run is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// GitHub Actions.
    GitHub,
    /// GitLab CI.
    GitLab,
    /// No CI: git and flags.
    Laptop,
}

/// What kind of thing happened. The names are part of the `explain` contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A branch got new commits.
    PushBranch,
    /// A tag was pushed.
    PushTag,
    /// A branch was deleted.
    BranchDeleted,
    /// A tag was deleted.
    TagDeleted,
    /// A branch was created (`create` event; the push says more).
    BranchCreated,
    /// A tag was created (`create` event; the push says more).
    TagCreated,
    /// Something happened to a release.
    Release,
    /// Something happened to a pull request.
    PullRequest,
    /// The same, with the base's secrets: never to be trusted with head code.
    PullRequestTarget,
    /// A merge queue (GitLab: merge train) asks for checks.
    MergeGroup,
    /// A merge request's pipeline (GitLab); only while it is open.
    MergeRequest,
    /// GitLab asks to remove a preview: its merge request is over, its branch is gone, or its time is.
    PreviewStop,
    /// Another pipeline, or a program with a trigger token, started this one (GitLab).
    Triggered,
    /// A person pressed the button.
    WorkflowDispatch,
    /// A program asked through the API.
    RepositoryDispatch,
    /// Cron.
    Schedule,
    /// Another workflow ended.
    WorkflowRun,
    /// A deployment was asked for through the API.
    Deployment,
    /// Somebody commented.
    IssueComment,
    /// A person ran tidegate by hand, on a laptop, or started a GitLab pipeline.
    Manual,
    /// An event tidegate does not know.
    Unknown,
}

/// The facts of an event, as `explain --format json` prints them; absent facts are `null`.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// The sub-kind, as the CI system says it.
    pub action: Option<String>,
    /// The commit this is about, 40 or 64 hex digits; for a pull request its head.
    pub sha: Option<String>,
    /// Its first seven digits.
    pub short7: Option<String>,
    /// The full ref.
    pub r#ref: Option<String>,
    /// The branch, when the ref is one.
    pub branch: Option<String>,
    /// The tag, when the ref is one.
    pub tag: Option<String>,
    /// The pull request's number.
    pub pr: Option<u64>,
    /// The branch the pull request goes to.
    pub base: Option<String>,
    /// The branch it comes from.
    pub head_ref: Option<String>,
    /// The repository it comes from.
    pub head_repo: Option<String>,
    /// Whether that is another repository; unknown counts as yes for pull requests.
    pub is_fork: Option<bool>,
    /// Whether the pull request was merged.
    pub merged: Option<bool>,
    /// The repository's default branch.
    pub default_branch: Option<String>,
    /// Whether the branch is the default branch.
    pub is_default_branch: bool,
    /// Who caused it.
    pub actor: Option<String>,
    /// Facts that decide but are not part of the printed contract.
    #[serde(skip)]
    pub more: More,
}

/// Facts that decide but are not part of the printed contract.
#[derive(Clone, Debug, Default)]
pub struct More {
    /// `owner/name`, original letter case.
    pub repository: Option<String>,
    /// The commit that is checked out when it is not `sha`: a pull request's test merge.
    pub built_sha: Option<String>,
    /// The merge commit of a merged pull request.
    pub merge_sha: Option<String>,
    /// The commit a moved tag pointed to before.
    pub moved_from: Option<String>,
    /// Whether the branch was force-pushed.
    pub forced: bool,
    /// The pull request is closed, whatever the action says.
    pub closed: bool,
    /// Draft pull request or release.
    pub draft: bool,
    /// The release is marked as a pre-release.
    pub prerelease: bool,
    /// Where the release's tag was asked to be made: a hint, not a fact.
    pub target_hint: Option<String>,
    /// The payload says the tag itself changed.
    pub tag_renamed: bool,
    /// Labels of the pull request.
    pub labels: Vec<String>,
    /// The label that a `labeled` action is about.
    pub label: Option<String>,
    /// The pull request goes to another branch now.
    pub retargeted: bool,
    /// The author of the pull request.
    pub author: Option<String>,
    /// The message of the pushed commit, or title and text of the pull request: directives may stand there.
    pub text: Option<String>,
    /// How the author of the text belongs to the repository, where the event says so.
    pub association: Option<String>,
    /// Inputs of a dispatch, or of a deployment's payload, as strings.
    pub inputs: BTreeMap<String, String>,
    /// The environment a `deployment` event names.
    pub deployment_environment: Option<String>,
    /// An open merge request of the pushed branch (GitLab).
    pub open_request: Option<u64>,
    /// The address of GitLab's API, where the repository is on one.
    pub gitlab: Option<String>,
    /// A deploy freeze is on (GitLab says so and stops nothing).
    pub frozen: bool,
    /// The version that was named for what a branch has.
    pub named: Option<String>,
    /// The run that a `workflow_run` is about.
    pub ended: Option<Ended>,
    /// The run, for links and ordering.
    pub run: Run,
}

/// Another run, which has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its number.
    pub run: u64,
    /// The event it was about.
    pub of: String,
    /// How it ended, in GitHub's word.
    pub conclusion: String,
}

/// The CI run this process is part of.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The CI system's own id.
    pub id: Option<String>,
    /// 1 for the first try.
    pub attempt: u32,
    /// Where a person can read the log.
    pub url: Option<String>,
}

/// Facts named by hand with flags; they win over what CI says.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Facts by hand")]
pub struct FactFlags {
    /// The commit: all its hex digits, or a name that git knows here
    #[arg(long, value_name = "SHA")]
    pub sha: Option<String>,
    /// The branch
    #[arg(long, value_name = "NAME")]
    pub branch: Option<String>,
    /// The release tag
    #[arg(long, value_name = "TAG")]
    pub tag: Option<String>,
    /// The pull request's number
    #[arg(long, value_name = "NUMBER")]
    pub pr: Option<u64>,
    /// The branch that the pull request goes to
    #[arg(long, value_name = "NAME")]
    pub base: Option<String>,
    /// The branch that it comes from
    #[arg(long, value_name = "NAME")]
    pub head_ref: Option<String>,
    /// The repository that it comes from; another one than --repository is a fork
    #[arg(long, value_name = "OWNER/NAME")]
    pub head_repo: Option<String>,
    /// A label of the pull request; may be given several times
    #[arg(long = "label", value_name = "NAME")]
    pub labels: Vec<String>,
    /// The pull request or release is a draft
    #[arg(long)]
    pub draft: bool,
    /// The release is marked as a pre-release
    #[arg(long)]
    pub prerelease: bool,
    /// The repository on the forge, owner/name
    #[arg(long, value_name = "OWNER/NAME")]
    pub repository: Option<String>,
    /// The repository's default branch
    #[arg(long, value_name = "NAME")]
    pub default_branch: Option<String>,
    /// Who does this
    #[arg(long, value_name = "LOGIN")]
    pub actor: Option<String>,
    /// The version of what a branch has (default: its commit's first 7 digits), for a run that another pipeline started
    #[arg(long = "as", value_name = "VERSION")]
    pub named: Option<String>,
}

impl Event {
    /// An event of this kind about which nothing is known yet.
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            action: None,
            sha: None,
            short7: None,
            r#ref: None,
            branch: None,
            tag: None,
            pr: None,
            base: None,
            head_ref: None,
            head_repo: None,
            is_fork: Some(false),
            merged: Some(false),
            default_branch: None,
            is_default_branch: false,
            actor: None,
            more: More::default(),
        }
    }

    /// Another pull request of the same repository, in the same run. Nothing else of this event is about that.
    pub fn about(&self, number: u64) -> Self {
        let More { repository, gitlab, run, .. } = self.more.clone();
        let more = More { repository, gitlab, run, ..More::default() };
        Self {
            pr: Some(number),
            is_fork: None,
            default_branch: self.default_branch.clone(),
            actor: self.actor.clone(),
            more,
            ..Self::of(Kind::Manual)
        }
    }

    /// Sets the commit and its short form together, so that they cannot disagree.
    pub fn set_sha(&mut self, sha: Option<String>) {
        self.short7 = sha.as_deref().map(short);
        self.sha = sha;
    }

    /// Sets the ref and the branch or tag that it names.
    pub fn set_ref(&mut self, full: Option<String>) {
        let name = |prefix: &str| full.as_deref().and_then(|f| f.strip_prefix(prefix)).map(str::to_owned);
        self.branch = name("refs/heads/");
        self.tag = name("refs/tags/");
        self.r#ref = full;
    }

    /// Derives whether the branch is the default one; call when both are known.
    pub fn settle_default_branch(&mut self) {
        self.is_default_branch = self.branch.is_some() && self.branch == self.default_branch;
    }

    /// Puts facts named by hand over what CI said.
    pub fn apply(&mut self, flags: &FactFlags) -> Result<()> {
        // Another branch, tag or pull request has another commit: what CI said of the old one does not count.
        let another_pr = flags.pr.is_some_and(|pr| Some(pr) != self.pr);
        if flags.tag.is_some() || flags.branch.is_some() || another_pr {
            self.set_sha(None);
            self.more.built_sha = None;
            (self.more.text, self.more.association) = (None, None);
        }
        if another_pr {
            self.is_fork = None; // whose it is has to be asked, or said with --head-repo
        }
        if let Some(sha) = &flags.sha {
            self.set_sha(Some(full_sha(sha)?));
            self.more.built_sha = None;
        }
        if let Some(branch) = &flags.branch {
            self.set_ref(Some(format!("refs/heads/{}", branch.trim_start_matches("refs/heads/"))));
        }
        if let Some(tag) = &flags.tag {
            self.set_ref(Some(format!("refs/tags/{}", tag.trim_start_matches("refs/tags/"))));
        }
        self.pr = flags.pr.or(self.pr);
        self.more.named.clone_from(&flags.named);
        for (flag, fact) in [
            (&flags.default_branch, &mut self.default_branch),
            (&flags.actor, &mut self.actor),
            (&flags.repository, &mut self.more.repository),
            (&flags.base, &mut self.base),
            (&flags.head_ref, &mut self.head_ref),
            (&flags.head_repo, &mut self.head_repo),
        ] {
            if flag.is_some() {
                fact.clone_from(flag);
            }
        }
        for repository in self.more.repository.iter().chain(&flags.head_repo) {
            check_repository(repository)?;
        }
        if flags.head_repo.is_some() {
            self.is_fork = Some(flags.head_repo != self.more.repository);
        }
        self.more.labels.extend(flags.labels.iter().cloned());
        self.more.draft |= flags.draft;
        self.more.prerelease |= flags.prerelease;
        if flags.branch.is_some() || flags.tag.is_some() || flags.default_branch.is_some() {
            self.settle_default_branch();
        }
        Ok(())
    }
}

/// Which CI system this is. Only the systems' own marks count, never single variables: jobs export those themselves.
pub fn provider(vars: &Vars) -> Result<Provider> {
    match (vars.is_true("GITHUB_ACTIONS"), vars.is_true("GITLAB_CI")) {
        (true, true) => Err(Error::new(
            Reason::ProviderAmbiguous,
            "both GITHUB_ACTIONS and GITLAB_CI are true, so it is unclear which CI system this is",
        )
        .hint("unset the one that this job does not run on")),
        (true, false) => Ok(Provider::GitHub),
        (false, true) => Ok(Provider::GitLab),
        (false, false) => Ok(Provider::Laptop),
    }
}

/// The event of this environment, before flags.
pub fn read(provider: Provider, vars: &Vars) -> Result<Event> {
    match provider {
        Provider::GitHub => github::read(vars),
        Provider::GitLab => gitlab::read(vars),
        Provider::Laptop => laptop::read(vars),
    }
}

/// The first seven digits, always a slice: git's own short form depends on the clone.
pub fn short(sha: &str) -> String {
    sha.chars().take(7).collect()
}

/// Whether this is a full commit id, SHA-1 or SHA-256.
pub fn is_full_sha(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether this is the id that means "none".
pub fn is_zero_sha(text: &str) -> bool {
    is_full_sha(text) && text.bytes().all(|b| b == b'0')
}

fn full_sha(text: &str) -> Result<String> {
    let lower = text.trim().to_ascii_lowercase();
    if is_full_sha(&lower) && !is_zero_sha(&lower) {
        return Ok(lower);
    }
    if let Some(sha) = Checkout::here().resolve(text.trim()).filter(|_| !is_full_sha(&lower)) {
        return Ok(sha);
    }
    Err(Error::new(Reason::InputInvalid, format!("--sha {text:?} is not a commit that git knows here"))
        .hint("give all 40 (or 64) hex digits: `git rev-parse HEAD` prints them"))
}

fn check_repository(text: &str) -> Result<()> {
    let parts: Vec<&str> = text.split('/').collect(); // GitLab's groups may be nested
    let fine = |part: &&str| {
        !part.is_empty() && *part != "." && *part != ".." && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    if parts.len() >= 2 && parts.iter().all(fine) {
        return Ok(());
    }
    Err(Error::new(Reason::InputInvalid, format!("{text:?} is not a repository"))
        .hint("write it as owner/name (on GitLab also group/subgroup/name), as in the forge's address"))
}
