//! GitLab CI: predefined variables become an `Event`. There is no payload.
//!
//! Predefined variables can be overridden by a pipeline's author, so nothing here makes a run more trusted than its ref.
//! <https://docs.gitlab.com/ci/variables/predefined_variables/>

use super::{Event, Kind, Run, is_full_sha, is_zero_sha};
use crate::error::{Error, Reason, Result};
use crate::vars::Vars;

/// The event that started this job. What ends a preview comes first: its branch may be gone.
pub fn read(vars: &Vars) -> Result<Event> {
    let source = vars.get("CI_PIPELINE_SOURCE").ok_or_else(|| {
        Error::new(Reason::InputEvent, "CI_PIPELINE_SOURCE is not set, so it is unclear what happened")
            .hint("in a container started by hand, pass the job's CI_* variables on")
    })?;
    let context = Context { vars };
    let mut event = match source {
        _stop if vars.get("CI_ENVIRONMENT_ACTION") == Some("stop") => context.stop(),
        "merge_request_event" => context.merge_request()?,
        "schedule" => context.at_ref(Kind::Schedule)?,
        "trigger" | "pipeline" | "parent_pipeline" => context.at_ref(Kind::Triggered)?,
        "push" | "web" | "webide" | "api" | "chat" if vars.get("CI_COMMIT_TAG").is_some() => context.tag(source)?,
        "push" | "webide" => context.at_ref(Kind::PushBranch)?,
        "web" | "api" | "chat" => context.at_ref(Kind::Manual)?,
        _other => context.at_ref(Kind::Unknown)?, // external pull requests, security scans and what may come
    };
    context.finish(&mut event);
    Ok(event)
}

struct Context<'a> {
    vars: &'a Vars,
}

impl Context<'_> {
    fn var(&self, name: &str) -> Option<String> {
        self.vars.get(name).map(str::to_owned)
    }

    fn sha(&self, name: &str) -> Option<String> {
        self.var(name).filter(|sha| is_full_sha(sha) && !is_zero_sha(sha))
    }

    /// The commit that is checked out.
    fn commit(&self) -> Result<String> {
        self.sha("CI_COMMIT_SHA").ok_or_else(|| {
            Error::new(Reason::InputEvent, "CI_COMMIT_SHA is not a commit").hint("GitLab sets it in every job: was it overridden?")
        })
    }

    fn at_ref(&self, kind: Kind) -> Result<Event> {
        let mut event = Event::of(kind);
        event.set_sha(Some(self.commit()?));
        let tag = self.var("CI_COMMIT_TAG").map(|name| format!("refs/tags/{name}"));
        // CI_COMMIT_REF_NAME would be the source branch in a merge request's pipeline.
        event.set_ref(tag.or_else(|| self.var("CI_COMMIT_BRANCH").map(|name| format!("refs/heads/{name}"))));
        // Up to four, also of other projects: Acme/web/Demo!3,Acme/fork!7
        let own = format!("{}!", self.vars.get("CI_PROJECT_PATH").unwrap_or_default());
        let open = self.vars.get("CI_OPEN_MERGE_REQUESTS").unwrap_or_default().split(',');
        event.more.open_request = open.filter_map(|request| request.trim().strip_prefix(&own)?.parse().ok()).next();
        if self.number().is_some() || self.vars.get("CI_MERGE_REQUEST_ID").is_some() {
            event.pr = self.number().or(Some(0)); // a child of a merge request's pipeline, perhaps of a fork's
            self.whose(&mut event);
        }
        Ok(event)
    }

    /// Only a push tells what was there before; pipelines started otherwise say zeros.
    fn tag(&self, source: &str) -> Result<Event> {
        let mut event = self.at_ref(Kind::PushTag)?;
        let before = self.sha("CI_COMMIT_BEFORE_SHA").filter(|before| source == "push" && Some(before) != event.sha.as_ref());
        event.more.moved_from = before;
        Ok(event)
    }

    fn number(&self) -> Option<u64> {
        self.vars.get("CI_MERGE_REQUEST_IID")?.parse().ok()
    }

    fn merge_request(&self) -> Result<Event> {
        let train = self.vars.get("CI_MERGE_REQUEST_EVENT_TYPE") == Some("merge_train");
        let mut event = Event::of(if train { Kind::MergeGroup } else { Kind::MergeRequest });
        let checked_out = self.commit()?;
        let number = self.number().ok_or_else(|| {
            Error::new(Reason::InputEvent, "CI_MERGE_REQUEST_IID is not set in a merge request's pipeline")
                .hint("GitLab sets it while the merge request is open; pass the job's CI_* variables on")
        })?;
        // In a merged_result pipeline the checked-out commit is a test merge that is on no branch.
        let head = self.sha("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA").filter(|_| !train);
        event.more.built_sha = head.is_some().then(|| checked_out.clone()).filter(|built| head.as_ref() != Some(built));
        event.set_sha(Some(head.unwrap_or(checked_out)));
        event.set_ref(self.var("CI_MERGE_REQUEST_REF_PATH"));
        event.pr = Some(number);
        self.whose(&mut event);
        event.more.draft = self.vars.is_true("CI_MERGE_REQUEST_DRAFT");
        let words: Vec<String> =
            ["CI_MERGE_REQUEST_TITLE", "CI_MERGE_REQUEST_DESCRIPTION"].iter().filter_map(|part| self.var(part)).collect();
        event.more.text = (!words.is_empty()).then(|| words.join("\n"));
        let labels = self.vars.get("CI_MERGE_REQUEST_LABELS").unwrap_or_default().split(',').map(str::trim);
        event.more.labels = labels.filter(|label| !label.is_empty()).map(str::to_owned).collect();
        Ok(event)
    }

    /// Where a merge request comes from. Ids are compared: paths of forks can look the same after a rename.
    fn whose(&self, event: &mut Event) {
        let id = |name: &str| self.vars.get(name).and_then(|id| id.parse::<u64>().ok());
        event.base = self.var("CI_MERGE_REQUEST_TARGET_BRANCH_NAME");
        event.head_ref = self.var("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME");
        event.head_repo = self.var("CI_MERGE_REQUEST_SOURCE_PROJECT_PATH");
        let target = id("CI_MERGE_REQUEST_PROJECT_ID").or_else(|| id("CI_PROJECT_ID"));
        event.is_fork = Some(match (id("CI_MERGE_REQUEST_SOURCE_PROJECT_ID"), target) {
            (Some(source), Some(target)) => source != target,
            _unknown => true,
        });
    }

    /// The job that GitLab starts when the merge request was merged or closed, its branch deleted, or its time is over.
    fn stop(&self) -> Event {
        let mut event = Event::of(Kind::PreviewStop);
        event.set_sha(self.sha("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA").or_else(|| self.sha("CI_COMMIT_SHA")));
        let project = self.vars.get("CI_PROJECT_NAME").unwrap_or_default();
        event.pr = self.number().or_else(|| number_of(self.vars.get("CI_ENVIRONMENT_NAME")?, project));
        if self.number().is_some() {
            self.whose(&mut event);
        }
        event.more.closed = true;
        event
    }

    /// The facts that every event has in the same place.
    fn finish(&self, event: &mut Event) {
        event.more.repository = self.var("CI_PROJECT_PATH");
        event.more.gitlab = self.var("CI_API_V4_URL").or_else(|| Some(format!("{}/api/v4", self.vars.get("CI_SERVER_URL")?)));
        event.more.frozen = self.vars.is_true("CI_DEPLOY_FREEZE");
        event.default_branch = self.var("CI_DEFAULT_BRANCH");
        if event.kind == Kind::PushBranch {
            event.more.text = self.var("CI_COMMIT_MESSAGE");
        }
        // A manual job's variable names the person who pressed play, not the one who pushed.
        event.actor = self.var("GITLAB_USER_LOGIN");
        let url = self.var("CI_JOB_URL").or_else(|| self.var("CI_PIPELINE_URL"));
        event.more.run = Run { id: self.var("CI_JOB_ID"), attempt: 1, url };
        if matches!(event.kind, Kind::MergeRequest | Kind::MergeGroup | Kind::PreviewStop) {
            return; // never the default branch, whatever the source branch is called
        }
        event.settle_default_branch();
    }
}

/// 12 of `review/mr-12` and of `review/demo-mr-12`, where the project is called demo; branches have numbers as well.
fn number_of(environment: &str, project: &str) -> Option<u64> {
    let last = environment.rsplit('/').next()?;
    let own = last.strip_prefix(project).and_then(|rest| rest.strip_prefix('-')).unwrap_or(last);
    own.strip_prefix("mr-").or_else(|| own.strip_prefix("pr-"))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "ccea8b431ba7c158b79a184cb13aa0a4eb293c59";
    const MERGED: &str = "1111111111111111111111111111111111111111";

    fn job(source: &str) -> Vars {
        Vars::from([
            ("GITLAB_CI", "true"),
            ("CI_COMMIT_SHA", HEAD),
            ("CI_DEFAULT_BRANCH", "main"),
            ("CI_PROJECT_PATH", "Acme/web/Demo"),
            ("CI_PROJECT_ID", "7"),
            ("CI_API_V4_URL", "https://gitlab.com/api/v4"),
            ("CI_JOB_ID", "99"),
            ("CI_JOB_URL", "https://gitlab.com/Acme/web/Demo/-/jobs/99"),
            ("GITLAB_USER_LOGIN", "ada"),
        ])
        .with("CI_PIPELINE_SOURCE", source)
    }

    fn merge_request(kind: &str) -> Vars {
        job("merge_request_event")
            .with("CI_MERGE_REQUEST_IID", "3")
            .with("CI_MERGE_REQUEST_EVENT_TYPE", kind)
            .with("CI_MERGE_REQUEST_PROJECT_ID", "7")
            .with("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "7")
            .with("CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", "Acme/web/Demo")
            .with("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "main")
            .with("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "main")
            .with("CI_MERGE_REQUEST_REF_PATH", "refs/merge-requests/3/head")
            .with("CI_COMMIT_REF_NAME", "main")
    }

    #[test]
    fn every_pipeline_source_has_its_kind() {
        for (source, kind) in [
            ("push", Kind::PushBranch),
            ("webide", Kind::PushBranch),
            ("web", Kind::Manual),
            ("api", Kind::Manual),
            ("chat", Kind::Manual),
            ("schedule", Kind::Schedule),
            ("trigger", Kind::Triggered),
            ("pipeline", Kind::Triggered),
            ("parent_pipeline", Kind::Triggered),
            ("external", Kind::Unknown),
            ("external_pull_request_event", Kind::Unknown),
            ("ondemand_dast_scan", Kind::Unknown),
            ("ondemand_dast_validation", Kind::Unknown),
            ("security_orchestration_policy", Kind::Unknown),
        ] {
            let event = read(&job(source).with("CI_COMMIT_BRANCH", "main")).unwrap();
            assert_eq!(event.kind, kind, "{source}");
            assert!(event.is_default_branch && event.branch.as_deref() == Some("main"), "{source}");
        }
        assert!(read(&Vars::from([("GITLAB_CI", "true")])).is_err());
        let open =
            read(&job("push").with("CI_COMMIT_BRANCH", "change").with("CI_OPEN_MERGE_REQUESTS", "Acme/fork!7,Acme/web/Demo!3")).unwrap();
        assert_eq!(open.more.open_request, Some(3));
    }

    #[test]
    fn a_tag_is_a_release_however_its_pipeline_was_started() {
        for source in ["push", "web", "api"] {
            let event = read(&job(source).with("CI_COMMIT_TAG", "v1.4.2").with("CI_COMMIT_BEFORE_SHA", "0".repeat(40))).unwrap();
            assert_eq!((event.kind, event.tag.as_deref(), event.branch), (Kind::PushTag, Some("v1.4.2"), None));
            assert_eq!(event.more.moved_from, None);
        }
        let moved = read(&job("push").with("CI_COMMIT_TAG", "v1.4.2").with("CI_COMMIT_BEFORE_SHA", MERGED)).unwrap();
        assert_eq!(moved.more.moved_from.as_deref(), Some(MERGED));
        let scheduled = read(&job("schedule").with("CI_COMMIT_TAG", "v1.4.2")).unwrap();
        assert_eq!(scheduled.kind, Kind::Schedule);
    }

    #[test]
    fn a_detached_merge_request_is_built_from_its_head() {
        let event = read(&merge_request("detached").with("CI_MERGE_REQUEST_LABELS", "preview, ui")).unwrap();
        assert_eq!((event.kind, event.sha.as_deref(), event.pr), (Kind::MergeRequest, Some(HEAD), Some(3)));
        assert_eq!(
            (event.branch, event.is_default_branch, event.is_fork),
            (None, false, Some(false)),
            "its branch is called main, and is none"
        );
        assert_eq!(event.more.labels, ["preview", "ui"]);
        assert_eq!(event.more.built_sha, None);
    }

    #[test]
    fn a_merged_result_is_about_the_head_and_builds_the_test_merge() {
        let vars = merge_request("merged_result").with("CI_COMMIT_SHA", MERGED).with("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", HEAD);
        let event = read(&vars).unwrap();
        assert_eq!((event.sha.as_deref(), event.more.built_sha.as_deref()), (Some(HEAD), Some(MERGED)));
        let train = read(&vars.with("CI_MERGE_REQUEST_EVENT_TYPE", "merge_train")).unwrap();
        assert_eq!((train.kind, train.sha.as_deref()), (Kind::MergeGroup, Some(MERGED)));
    }

    #[test]
    fn a_fork_is_known_by_ids_and_an_unknown_source_is_one() {
        let fork = read(&merge_request("detached").with("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "8")).unwrap();
        assert_eq!(fork.is_fork, Some(true), "although the paths are equal");
        let gone = read(&merge_request("detached").with("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "")).unwrap();
        assert_eq!(gone.is_fork, Some(true));
    }

    #[test]
    fn a_stop_job_comes_before_all_else() {
        let stop = |vars: Vars| {
            read(
                &vars
                    .with("CI_ENVIRONMENT_ACTION", "stop")
                    .with("CI_PROJECT_NAME", "demo")
                    .with("CI_ENVIRONMENT_NAME", "review/demo-pr-12"),
            )
            .unwrap()
        };
        let of_merge_request = stop(merge_request("detached"));
        assert_eq!((of_merge_request.kind, of_merge_request.pr), (Kind::PreviewStop, Some(3)));
        let of_branch = stop(job("push").with("CI_COMMIT_BRANCH", "main"));
        assert_eq!((of_branch.kind, of_branch.pr, of_branch.is_default_branch), (Kind::PreviewStop, Some(12), false));
        for (name, number) in
            [("review/demo-mr-12", Some(12)), ("mr-7", Some(7)), ("review/fix-pr-42", None), ("review/v2", None), ("", None)]
        {
            assert_eq!(number_of(name, "demo"), number, "{name}");
        }
        let child =
            read(&merge_request("detached").with("CI_PIPELINE_SOURCE", "parent_pipeline").with("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "8"))
                .unwrap();
        assert_eq!((child.kind, child.is_fork), (Kind::Triggered, Some(true)));
    }
}
