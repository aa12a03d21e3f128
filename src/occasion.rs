//! What happened, in the words of the configuration: the event classified, strangers and noise sorted out. Pure.

use crate::config::Trust;
use crate::context::{Outcome, Request};
use crate::error::Reason;
use crate::event::{Event, Kind, short};

/// What happened, in the words of the configuration.
#[derive(Clone, Debug)]
pub(crate) enum Occasion {
    Push { branch: String, is_default: bool },
    Tag { tag: String, prerelease: bool },
    PullRequest { open: bool, wished: bool },
    Manual { environment: String, version: Option<String> },
    Rollback { environment: String },
    Hotfix { to: Option<String> },
}

/// Reasons to stop before any environment is asked.
pub(crate) struct Stop {
    pub outcome: Outcome,
    pub reason: Reason,
    pub sentence: String,
}

pub(crate) fn skip(reason: Reason, sentence: impl Into<String>) -> Stop {
    Stop { outcome: Outcome::Skip, reason, sentence: sentence.into() }
}

pub(crate) fn refuse(reason: Reason, sentence: impl Into<String>) -> Stop {
    Stop { outcome: Outcome::Refuse, reason, sentence: sentence.into() }
}

/// Classifies in the order of the contract: what was asked by name, deletions, pull requests, releases, tags, the rest.
pub(crate) fn occasion(event: &Event, request: &Request, trust: &Trust) -> std::result::Result<Occasion, Stop> {
    if !matches!(request, Request::Event | Request::PrClosed | Request::Sweep(_)) {
        trusted(event, trust)?; // a command by name does not make a stranger's run trustworthy
    }
    if !matches!(request, Request::Event | Request::PrOpened | Request::PrClosed | Request::Sweep(_)) {
        merged(event)?;
    }
    match request {
        Request::Event => by_event(event, trust),
        Request::Merge => {
            let branch = merged_branch(event)?;
            let is_default = event.default_branch.as_ref().is_none_or(|default| *default == branch);
            Ok(Occasion::Push { branch, is_default })
        }
        Request::Release => tag(event),
        Request::PrOpened if event.more.closed => Err(refuse(Reason::InputEvent, "the pull request is closed: it gets no preview")),
        Request::PrOpened => pull_request(event, true, trust),
        Request::PrClosed => pull_request(event, false, trust),
        Request::Sweep(_) => Ok(Occasion::PullRequest { open: false, wished: false }),
        Request::Deploy { environment, version } => {
            Ok(Occasion::Manual { environment: environment.clone(), version: Some(version.clone()) })
        }
        Request::Hotfix { to, .. } => Ok(Occasion::Hotfix { to: to.clone() }),
        Request::Rollback { environment, .. } => Ok(Occasion::Rollback { environment: environment.clone() }),
    }
}

/// Refuses runs whose code or secrets are not ours.
fn trusted(event: &Event, trust: &Trust) -> std::result::Result<(), Stop> {
    if matches!(event.kind, Kind::PullRequestTarget | Kind::WorkflowRun) {
        let why = "this event mixes the base's secrets with a head that may be a stranger's: nothing is built or deployed from it";
        return Err(skip(Reason::EventUntrusted, why));
    }
    if matches!(event.kind, Kind::PullRequest | Kind::MergeRequest) || event.pr.is_some() {
        own_head(event)?;
    }
    has_secrets(event, trust)
}

/// What nobody has merged yet brings its own configuration: it decides about previews, and about nothing else.
fn merged(event: &Event) -> std::result::Result<(), Stop> {
    let is_proposal = match event.kind {
        Kind::PullRequest | Kind::MergeRequest => event.merged != Some(true),
        Kind::MergeGroup => true,
        Kind::Unknown => event.pr.is_some(),
        Kind::PushBranch
        | Kind::PushTag
        | Kind::BranchCreated
        | Kind::TagCreated
        | Kind::BranchDeleted
        | Kind::TagDeleted
        | Kind::PullRequestTarget
        | Kind::PreviewStop
        | Kind::Release
        | Kind::WorkflowDispatch
        | Kind::RepositoryDispatch
        | Kind::Schedule
        | Kind::WorkflowRun
        | Kind::Deployment
        | Kind::IssueComment
        | Kind::Triggered
        | Kind::Manual => false,
    };
    if !is_proposal {
        return Ok(());
    }
    let why = "this run is about what is not merged yet, and its configuration may be changed there: it decides about previews alone";
    Err(skip(Reason::EventUntrusted, why))
}

fn own_head(event: &Event) -> std::result::Result<(), Stop> {
    if event.is_fork == Some(false) {
        return Ok(());
    }
    let head = event.head_repo.as_deref().unwrap_or("a repository that is gone or not known (--head-repo)");
    Err(skip(Reason::EventFork, format!("the pull request comes from {head}: untrusted code gets no secrets and no deploy")))
}

fn merged_branch(event: &Event) -> std::result::Result<String, Stop> {
    // A GitLab job without a branch is about a tag or a merge request: its commit is not on the default branch.
    let in_gitlab = event.more.gitlab.is_some() && event.more.run.id.is_some();
    let branch = event.branch.clone().or_else(|| event.default_branch.clone().filter(|_| !in_gitlab && event.tag.is_none()));
    branch.ok_or_else(|| refuse(Reason::InputEvent, "the branch is not known: name it with --branch"))
}

fn by_event(event: &Event, trust: &Trust) -> std::result::Result<Occasion, Stop> {
    let ignored = |sentence: &str| Err(skip(Reason::EventIgnored, sentence));
    match event.kind {
        Kind::BranchDeleted | Kind::TagDeleted => {
            Err(skip(Reason::EventDeleted, format!("{} was deleted", event.r#ref.as_deref().unwrap_or("a ref"))))
        }
        Kind::PullRequestTarget if event.action.as_deref() == Some("closed") => {
            own_head(event)?; // with the base's secrets, and perhaps with the head's files
            pull_request(event, false, trust)
        }
        Kind::PullRequestTarget => {
            let why = "pull_request_target runs with the base's secrets; building or deploying the head there is unsafe: use pull_request";
            Err(skip(Reason::EventUntrusted, why))
        }
        Kind::PullRequest => by_pull_request_action(event, trust),
        Kind::MergeRequest => pull_request(event, true, trust),
        Kind::PreviewStop if event.pr.is_none() => ignored("the environment is stopped; by its name it is no preview of a merge request"),
        Kind::PreviewStop => pull_request(event, false, trust),
        Kind::MergeGroup => Err(skip(Reason::EventMergeGroup, "the merge queue only checks; the merge itself deploys")),
        Kind::Release => by_release_action(event),
        Kind::PushTag => tag(event),
        Kind::PushBranch => push(event, event.is_default_branch, trust),
        Kind::WorkflowDispatch | Kind::RepositoryDispatch | Kind::Deployment => dispatched(event),
        Kind::Schedule => Err(skip(Reason::EventSchedule, "a schedule deploys nothing by itself")),
        Kind::WorkflowRun => {
            Err(skip(Reason::EventUntrusted, "workflow_run carries another run's untrusted head; nothing is deployed from it"))
        }
        Kind::BranchCreated | Kind::TagCreated => ignored("`create` repeats what the push event says"),
        Kind::IssueComment => ignored("comments are not commands"),
        Kind::Triggered => ignored(
            "a pipeline that another one or a trigger started deploys nothing by itself: name an event (tidegate merge), or an environment",
        ),
        Kind::Manual if event.more.gitlab.is_some() && event.more.run.id.is_some() => {
            ignored("a pipeline started by hand deploys nothing by itself: name an environment (TIDEGATE_INPUT_ENVIRONMENT), or an event")
        }
        Kind::Manual => ignored("there is no CI event here: name one (merge, release, pr-opened, pr-closed, deploy)"),
        Kind::Unknown => Err(skip(Reason::EventUnknown, "tidegate does not know this event")),
    }
}

fn push(event: &Event, is_default: bool, trust: &Trust) -> std::result::Result<Occasion, Stop> {
    let Some(branch) = event.branch.clone() else {
        return Err(skip(Reason::EventIgnored, format!("{} is neither a branch nor a tag", event.r#ref.as_deref().unwrap_or("the ref"))));
    };
    has_secrets(event, trust)?;
    if branch.starts_with("gh-readonly-queue/") {
        return Err(skip(Reason::EventMergeGroup, "a merge queue's own branch; the merge itself deploys"));
    }
    Ok(Occasion::Push { branch, is_default })
}

fn tag(event: &Event) -> std::result::Result<Occasion, Stop> {
    if event.more.draft && event.kind == Kind::PushTag {
        return Err(skip(Reason::EventDraft, "the release of this tag is still to come")); // GitLab's upcoming releases
    }
    let tag = event.tag.clone().ok_or_else(|| refuse(Reason::InputEvent, "the tag is not known: name it with --tag"))?;
    if let Some(before) = &event.more.moved_from {
        let sentence =
            format!("the tag {tag} was moved from {} to {}; versions do not change", short(before), event.short7.as_deref().unwrap_or("?"));
        return Err(refuse(Reason::TagMoved, sentence));
    }
    Ok(Occasion::Tag { tag, prerelease: event.more.prerelease })
}

fn by_release_action(event: &Event) -> std::result::Result<Occasion, Stop> {
    if event.more.draft {
        return Err(skip(Reason::EventDraft, "the release is a draft"));
    }
    match event.action.as_deref().unwrap_or_default() {
        "published" => tag(event),
        "edited" if event.more.tag_renamed => Err(refuse(Reason::TagMoved, "the release was moved to another tag; versions do not change")),
        "released" => {
            Err(skip(Reason::EventIgnored, "`released` repeats `published`; to deploy a promoted pre-release use `tidegate deploy`"))
        }
        "created" | "edited" | "deleted" | "unpublished" | "prereleased" => {
            Err(skip(Reason::EventIgnored, "only a published release deploys"))
        }
        other => Err(skip(Reason::EventUnknown, format!("tidegate does not know the release action {other:?}"))),
    }
}

fn by_pull_request_action(event: &Event, trust: &Trust) -> std::result::Result<Occasion, Stop> {
    match event.action.as_deref().unwrap_or_default() {
        "closed" => pull_request(event, false, trust),
        _any if event.more.closed => Err(skip(Reason::EventIgnored, "the pull request is closed: it gets no preview any more")),
        "opened" | "synchronize" | "reopened" | "ready_for_review" | "labeled" => pull_request(event, true, trust),
        "edited" if event.more.retargeted => pull_request(event, true, trust),
        action => Err(skip(Reason::EventIgnored, format!("the action {action:?} of a pull request changes nothing that runs"))),
    }
}

fn pull_request(event: &Event, open: bool, trust: &Trust) -> std::result::Result<Occasion, Stop> {
    if event.pr.is_none() {
        return Err(refuse(Reason::InputEvent, "the pull request's number is not known: name it with --pr"));
    }
    if open || event.head_repo.is_some() {
        own_head(event)?; // what a repository that is gone left behind is removed all the same
    }
    has_secrets(event, trust)?;
    Ok(Occasion::PullRequest { open, wished: false })
}

/// Dependabot's runs have the secrets that were given to Dependabot, and no others.
fn has_secrets(event: &Event, trust: &Trust) -> std::result::Result<(), Stop> {
    const DEPENDABOT: &str = "dependabot[bot]";
    let theirs = [&event.actor, &event.more.author].into_iter().flatten().any(|login| login == DEPENDABOT);
    if theirs && !trust.is_trusted_bot(DEPENDABOT) {
        return Err(skip(Reason::EventNoSecrets, "Dependabot's runs have no secrets, so nothing can be deployed"));
    }
    Ok(())
}

fn dispatched(event: &Event) -> std::result::Result<Occasion, Stop> {
    let input = |name: &str| event.more.inputs.get(name).cloned();
    let asked = event.more.deployment_environment.clone().or_else(|| input("environment"));
    let Some(environment) = asked else {
        if event.kind == Kind::Deployment {
            return Err(skip(Reason::EventIgnored, "this deployment is tidegate's own record of a delivery"));
        }
        let sentence = match event.kind == Kind::RepositoryDispatch {
            true => "the client_payload names no `environment`",
            false => "no environment is named: give the workflow an input `environment`, or the step `environment:`",
        };
        return Err(refuse(Reason::InputEnvironment, sentence));
    };
    Ok(Occasion::Manual { environment, version: input("version").or_else(|| input("sha")) })
}
