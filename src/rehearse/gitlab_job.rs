//! The job of a rehearsal on GitLab: its variables, and what GitLab knows when it starts.

use super::gitlab::{ACCESS_TOKEN, JOB_TOKEN, MergeRequest, PROJECT};
use super::sandbox::Sandbox;
use super::{PULL_REQUEST, Rehearsal};
use crate::vars::Vars;

/// The job's id.
const JOB: u64 = 1;

/// The variables of the job, in place of those of a GitHub job.
pub(super) fn of(sandbox: &Sandbox, repository: &str, sha: &str, rehearsal: &Rehearsal, vars: Vars) -> Vars {
    let group = format!("{}/rehearsal", repository.rsplit('/').next().unwrap_or("app"));
    let merged = matches!(rehearsal, Rehearsal::Merge | Rehearsal::PrClosed);
    sandbox.with(|outside| {
        let state = if merged { "merged" } else { "opened" };
        let merge_commit = merged.then(|| sha.to_owned());
        let request = MergeRequest { state: state.into(), sha: sha.to_owned(), merge_commit, source_project: PROJECT };
        // A release comes with the commit of its merge.
        outside.gitlab.merge_requests.entry(PULL_REQUEST).or_insert(request);
        outside.gitlab.resource_groups.insert(group.clone(), JOB);
    });
    let kept = vars.starting_with("").filter(|(name, _)| !name.starts_with("GITHUB_"));
    let mut job: Vars = kept.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    for (name, value) in [
        ("GITLAB_CI", "true"),
        ("CI_API_V4_URL", &format!("{}/api/v4", sandbox.url("gitlab"))),
        ("CI_SERVER_URL", "https://gitlab.com"),
        ("CI_PROJECT_PATH", repository),
        ("CI_PROJECT_ID", &PROJECT.to_string()),
        ("CI_DEFAULT_BRANCH", "main"),
        ("CI_COMMIT_SHA", sha),
        ("CI_JOB_ID", &JOB.to_string()),
        ("CI_JOB_URL", &format!("https://gitlab.com/{repository}/-/jobs/{JOB}")),
        ("CI_JOB_STARTED_AT", "2026-01-01T00:00:00Z"),
        ("CI_JOB_TOKEN", JOB_TOKEN),
        ("GITLAB_TOKEN", ACCESS_TOKEN),
        ("GITLAB_USER_LOGIN", "ada"),
        ("TIDEGATE_RESOURCE_GROUP", &group),
    ] {
        job = job.with(name, value);
    }
    for (name, value) in about(rehearsal) {
        job = job.with(name, value);
    }
    job
}

fn about(rehearsal: &Rehearsal) -> Vec<(&'static str, String)> {
    let merge_request = || {
        let project = PROJECT.to_string();
        vec![
            ("CI_PIPELINE_SOURCE", "merge_request_event".to_owned()),
            ("CI_MERGE_REQUEST_IID", PULL_REQUEST.to_string()),
            ("CI_MERGE_REQUEST_EVENT_TYPE", "detached".to_owned()),
            ("CI_MERGE_REQUEST_PROJECT_ID", project.clone()),
            ("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", project),
            ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "change".to_owned()),
            ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "main".to_owned()),
            ("CI_MERGE_REQUEST_LABELS", "preview".to_owned()),
            ("CI_MERGE_REQUEST_REF_PATH", format!("refs/merge-requests/{PULL_REQUEST}/head")),
        ]
    };
    match rehearsal {
        Rehearsal::Merge => vec![("CI_PIPELINE_SOURCE", "push".into()), ("CI_COMMIT_BRANCH", "main".into())],
        Rehearsal::Release { tag } => vec![("CI_PIPELINE_SOURCE", "push".into()), ("CI_COMMIT_TAG", tag.clone())],
        Rehearsal::Push { branch } => vec![("CI_PIPELINE_SOURCE", "push".into()), ("CI_COMMIT_BRANCH", branch.clone())],
        Rehearsal::PrOpened => merge_request(),
        Rehearsal::PrClosed => {
            let mut about = merge_request();
            about.push(("CI_ENVIRONMENT_ACTION", "stop".into()));
            about
        }
        Rehearsal::Deploy { .. } => vec![("CI_PIPELINE_SOURCE", "web".into()), ("CI_COMMIT_BRANCH", "main".into())],
    }
}
