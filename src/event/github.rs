//! GitHub Actions: variables and the event file become an `Event`.
//!
//! The event's name decides what the payload is; payload keys never do (a push may carry an `action`).
//! <https://docs.github.com/actions/reference/workflows-and-actions/events-that-trigger-workflows>

use super::{Ended, Event, Kind, Run, is_full_sha, is_zero_sha};
use crate::error::{Error, Reason, Result};
use crate::vars::Vars;
use serde_json::Value;
use std::path::Path;

/// GitHub caps webhook payloads at 25 MB; anything larger is not an event.
const PAYLOAD_LIMIT: u64 = 25 * 1024 * 1024;

/// The event that started this job.
pub fn read(vars: &Vars) -> Result<Event> {
    let name = vars.get("GITHUB_EVENT_NAME").ok_or_else(|| {
        Error::new(Reason::InputEvent, "GITHUB_EVENT_NAME is not set, so it is unclear what happened")
            .hint("in a container started by hand, pass the job's GITHUB_* variables on")
    })?;
    let payload = read_payload(vars.get("GITHUB_EVENT_PATH"))?;
    parse(name, &payload, vars)
}

/// The event called `name` with this payload, in the environment `vars`.
pub fn parse(name: &str, payload: &Value, vars: &Vars) -> Result<Event> {
    let context = Context { payload, vars };
    let mut event = match name {
        "push" => context.push()?,
        "create" => context.created_or_deleted(Kind::BranchCreated, Kind::TagCreated),
        "delete" => context.created_or_deleted(Kind::BranchDeleted, Kind::TagDeleted),
        "release" => context.release()?,
        "pull_request" => context.pull_request(Kind::PullRequest)?,
        "pull_request_target" => context.pull_request(Kind::PullRequestTarget)?,
        "merge_group" => context.merge_group()?,
        "workflow_dispatch" => context.dispatch(Kind::WorkflowDispatch, "inputs")?,
        "repository_dispatch" => context.dispatch(Kind::RepositoryDispatch, "client_payload")?,
        "schedule" => context.schedule(),
        "workflow_run" => context.workflow_run(),
        "deployment" => context.deployment()?,
        "issue_comment" => context.issue_comment(),
        _ => context.at_ci_ref(Kind::Unknown),
    };
    context.finish(&mut event);
    Ok(event)
}

fn read_payload(path: Option<&str>) -> Result<Value> {
    let Some(path) = path else { return Ok(Value::Null) };
    let broken = |what: String| {
        Error::new(Reason::InputEvent, format!("the event file {path} (GITHUB_EVENT_PATH) {what}"))
            .hint("in a container started by hand, mount the job's event file and pass its path")
    };
    let size = std::fs::metadata(path).map_err(|e| broken(format!("cannot be read: {e}")))?.len();
    if size > PAYLOAD_LIMIT {
        return Err(broken(format!("is {size} bytes long, more than GitHub ever sends")));
    }
    let text = std::fs::read(Path::new(path)).map_err(|e| broken(format!("cannot be read: {e}")))?;
    let text = text.strip_prefix(b"\xef\xbb\xbf".as_slice()).unwrap_or(&text);
    let payload: Value = serde_json::from_slice(text).map_err(|e| broken(format!("is not JSON: {e}")))?;
    if payload.is_object() {
        return Ok(payload);
    }
    Err(broken("is not a JSON object".into()))
}

struct Context<'a> {
    payload: &'a Value,
    vars: &'a Vars,
}

impl Context<'_> {
    fn text(&self, pointer: &str) -> Option<String> {
        self.payload.pointer(pointer)?.as_str().filter(|s| !s.is_empty()).map(str::to_owned)
    }

    fn flag(&self, pointer: &str) -> bool {
        self.payload.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A commit id in the payload; anything that is not a whole one does not count.
    fn sha(&self, pointer: &str) -> Option<String> {
        self.text(pointer).filter(|sha| is_full_sha(sha) && !is_zero_sha(sha))
    }

    fn var(&self, name: &str) -> Option<String> {
        self.vars.get(name).map(str::to_owned)
    }

    fn ci_sha(&self) -> Option<String> {
        self.var("GITHUB_SHA").filter(|sha| is_full_sha(sha))
    }

    /// `GITHUB_REF` as a full ref: a merged pull request may leave an unqualified branch there.
    fn ci_ref(&self) -> Option<String> {
        let name = self.var("GITHUB_REF")?;
        if name.starts_with("refs/") {
            return Some(name);
        }
        let folder = if self.vars.get("GITHUB_REF_TYPE") == Some("tag") { "tags" } else { "heads" };
        Some(format!("refs/{folder}/{name}"))
    }

    fn missing(&self, what: &str) -> Error {
        Error::new(Reason::InputEvent, format!("the event payload has no {what}"))
            .hint("the event file (GITHUB_EVENT_PATH) does not belong to GITHUB_EVENT_NAME, or was cut")
    }

    fn at_ci_ref(&self, kind: Kind) -> Event {
        let mut event = Event::of(kind);
        event.action = self.text("/action");
        event.set_sha(self.ci_sha());
        event.set_ref(self.ci_ref());
        event
    }

    fn push(&self) -> Result<Event> {
        let full = self.text("/ref").ok_or_else(|| self.missing("`ref`"))?;
        let is_tag = full.starts_with("refs/tags/");
        let deleted = self.flag("/deleted") || self.text("/after").is_some_and(|after| is_zero_sha(&after));
        let mut event = Event::of(match (deleted, is_tag) {
            (true, true) => Kind::TagDeleted,
            (true, false) => Kind::BranchDeleted,
            (false, true) => Kind::PushTag,
            (false, false) => Kind::PushBranch,
        });
        event.set_ref(Some(full));
        event.more.forced = self.flag("/forced");
        if deleted {
            return Ok(event); // GITHUB_SHA is the default branch's tip here: never to be deployed
        }
        // For an annotated tag `after` is the tag object; only `head_commit` is the commit.
        let commit = if is_tag {
            self.sha("/head_commit/id").or_else(|| self.ci_sha())
        } else {
            self.sha("/after").or_else(|| self.sha("/head_commit/id")).or_else(|| self.ci_sha())
        };
        event.set_sha(Some(commit.ok_or_else(|| self.missing("commit (`head_commit.id`, `after`)"))?));
        event.more.text = self.text("/head_commit/message");
        if is_tag && !self.flag("/created") {
            event.more.moved_from = self.sha("/before"); // `forced` may be false for a moved tag
        }
        Ok(event)
    }

    fn created_or_deleted(&self, branch: Kind, tag: Kind) -> Event {
        let is_tag = self.text("/ref_type").as_deref() == Some("tag");
        let mut event = Event::of(if is_tag { tag } else { branch });
        let folder = if is_tag { "tags" } else { "heads" };
        event.set_ref(self.text("/ref").map(|name| format!("refs/{folder}/{name}")));
        if matches!(event.kind, Kind::BranchCreated | Kind::TagCreated) {
            event.set_sha(self.ci_sha());
        }
        event
    }

    fn release(&self) -> Result<Event> {
        let mut event = Event::of(Kind::Release);
        event.action = self.text("/action");
        let tag = self.text("/release/tag_name").ok_or_else(|| self.missing("`release.tag_name`"))?;
        event.set_ref(Some(format!("refs/tags/{tag}")));
        if self.ci_ref() == event.r#ref || self.vars.get("GITHUB_REF").is_none() {
            event.set_sha(self.ci_sha());
        }
        event.more.draft = self.flag("/release/draft");
        event.more.prerelease = self.flag("/release/prerelease");
        event.more.target_hint = self.text("/release/target_commitish");
        event.more.tag_renamed = self.payload.pointer("/changes/tag_name").is_some();
        event.more.author = self.text("/release/author/login");
        Ok(event)
    }

    fn pull_request(&self, kind: Kind) -> Result<Event> {
        let mut event = Event::of(kind);
        let number = self.payload.pointer("/number").or_else(|| self.payload.pointer("/pull_request/number"));
        let number = number.and_then(Value::as_u64).ok_or_else(|| self.missing("`number`"))?;
        event.action = self.text("/action");
        event.pr = Some(number);
        event.set_sha(self.sha("/pull_request/head/sha"));
        // A closed one has no ref any more. pull_request_target says the base branch: kept as CI says it, never as a branch.
        event.r#ref = match (kind, event.action.as_deref()) {
            (Kind::PullRequestTarget, _) => self.ci_ref(),
            (_, Some("closed")) => None,
            (_, _) => Some(format!("refs/pull/{number}/merge")),
        };
        event.base = self.text("/pull_request/base/ref");
        event.head_ref = self.text("/pull_request/head/ref");
        event.head_repo = self.text("/pull_request/head/repo/full_name");
        event.is_fork = Some(self.is_fork());
        event.merged = Some(self.flag("/pull_request/merged"));
        let merge = self.sha("/pull_request/merge_commit_sha");
        event.more.merge_sha = merge.filter(|_| event.merged == Some(true));
        if kind == Kind::PullRequest && event.action.as_deref() != Some("closed") {
            event.more.built_sha = self.ci_sha().filter(|sha| Some(sha) != event.sha.as_ref());
        }
        event.more.closed = self.text("/pull_request/state").as_deref() == Some("closed");
        event.more.draft = self.flag("/pull_request/draft");
        event.more.author = self.text("/pull_request/user/login");
        event.more.label = self.text("/label/name");
        let words: Vec<String> = ["/pull_request/title", "/pull_request/body"].iter().filter_map(|part| self.text(part)).collect();
        event.more.text = (!words.is_empty()).then(|| words.join("\n"));
        event.more.association = self.text("/pull_request/author_association");
        event.more.retargeted = self.payload.pointer("/changes/base").is_some();
        let labels = self.payload.pointer("/pull_request/labels").and_then(Value::as_array);
        let names = labels.into_iter().flatten().filter_map(|label| label.pointer("/name")?.as_str());
        event.more.labels = names.map(str::to_owned).collect();
        Ok(event)
    }

    /// A deleted head repository is untrusted. `head.repo.fork` says nothing: it is true inside a forked repository.
    fn is_fork(&self) -> bool {
        let id = |pointer: &str| self.payload.pointer(pointer).and_then(Value::as_u64);
        let base = id("/pull_request/base/repo/id").or_else(|| id("/repository/id"));
        match (id("/pull_request/head/repo/id"), base) {
            (Some(head), Some(base)) => head != base,
            _ => true,
        }
    }

    fn merge_group(&self) -> Result<Event> {
        let mut event = Event::of(Kind::MergeGroup);
        event.action = self.text("/action");
        event.set_sha(self.sha("/merge_group/head_sha").or_else(|| self.ci_sha()));
        let head = self.text("/merge_group/head_ref").or_else(|| self.ci_ref());
        event.set_ref(Some(head.ok_or_else(|| self.missing("`merge_group.head_ref`"))?));
        let base = self.text("/merge_group/base_ref");
        event.base = base.map(|full| full.trim_start_matches("refs/heads/").to_owned());
        Ok(event)
    }

    fn dispatch(&self, kind: Kind, inputs: &str) -> Result<Event> {
        let mut event = self.at_ci_ref(kind);
        let named = match kind == Kind::RepositoryDispatch {
            true => self.text("/branch").map(|branch| format!("refs/heads/{branch}")),
            false => self.text("/ref").filter(|full| full.starts_with("refs/")),
        };
        if named.is_some() {
            event.set_ref(named);
        }
        event.more.inputs = strings(self.payload.get(inputs));
        for name in ["environment", "version", "sha"] {
            let given = self.payload.get(inputs).and_then(|inputs| inputs.get(name));
            if given.is_some_and(|value| !value.is_string() && !value.is_null()) {
                return Err(Error::new(Reason::InputVersion, format!("`{name}` in the {inputs} is not text: 1.10 would become 1.1"))
                    .hint("send it in quotes"));
            }
        }
        if kind == Kind::RepositoryDispatch {
            let commit = event.more.inputs.get("sha").filter(|sha| is_full_sha(sha)).cloned();
            if commit.is_some() {
                event.set_sha(commit);
            }
            event.pr = event.more.inputs.get("pr").and_then(|number| number.parse().ok());
        }
        Ok(event)
    }

    fn schedule(&self) -> Event {
        let mut event = self.at_ci_ref(Kind::Schedule);
        event.default_branch = self.text("/repository/default_branch").or_else(|| event.branch.clone());
        event
    }

    fn workflow_run(&self) -> Event {
        let mut event = Event::of(Kind::WorkflowRun);
        event.action = self.text("/action");
        event.set_sha(self.sha("/workflow_run/head_sha"));
        event.set_ref(self.text("/workflow_run/head_branch").map(|branch| format!("refs/heads/{branch}")));
        event.head_repo = self.text("/workflow_run/head_repository/full_name");
        let id = |pointer: &str| self.payload.pointer(pointer).and_then(Value::as_u64);
        let (head, own) = (id("/workflow_run/head_repository/id"), id("/repository/id"));
        event.is_fork = Some(head.is_none() || head != own);
        let text = |pointer: &str| self.text(pointer).unwrap_or_default();
        let ended = |run| Ended { run, of: text("/workflow_run/event"), conclusion: text("/workflow_run/conclusion") };
        event.more.ended = id("/workflow_run/id").map(ended);
        event
    }

    fn deployment(&self) -> Result<Event> {
        let mut event = Event::of(Kind::Deployment);
        event.action = self.text("/action");
        event.set_sha(Some(self.sha("/deployment/sha").ok_or_else(|| self.missing("`deployment.sha`"))?));
        // `deployment.ref` is unqualified: a branch, a tag or a commit. Only CI's own full ref says which.
        let named = self.text("/deployment/ref");
        let same = |full: &String| full.splitn(3, '/').nth(2) == named.as_deref();
        event.set_ref(self.var("GITHUB_REF").filter(same));
        event.more.deployment_environment = self.text("/deployment/environment");
        event.more.inputs = strings(self.payload.pointer("/deployment/payload"));
        event.actor = self.text("/deployment/creator/login");
        if self.text("/deployment/task").as_deref() == Some(crate::forge::DEPLOYMENT_TASK) {
            event.more.deployment_environment = None; // our own record of a delivery, not a request for one
        }
        Ok(event)
    }

    fn issue_comment(&self) -> Event {
        let mut event = Event::of(Kind::IssueComment);
        event.action = self.text("/action");
        event.is_fork = None; // the payload cannot tell
        if self.payload.pointer("/issue/pull_request").is_some_and(|v| !v.is_null()) {
            event.pr = self.payload.pointer("/issue/number").and_then(Value::as_u64);
        }
        event.actor = self.text("/comment/user/login");
        event
    }

    /// The facts that every event has in the same place.
    fn finish(&self, event: &mut Event) {
        event.more.repository = self.text("/repository/full_name").or_else(|| self.var("GITHUB_REPOSITORY"));
        let default = self.text("/repository/default_branch").or_else(|| self.text("/master_branch"));
        event.default_branch = default.or_else(|| event.default_branch.take());
        let is_push = matches!(event.kind, Kind::PushBranch | Kind::PushTag);
        let pusher = || self.text("/pusher/name").filter(|name| name != "none");
        let payload_actor = self.text("/sender/login").or_else(|| if is_push { pusher() } else { event.more.author.clone() });
        event.actor = event.actor.take().or(payload_actor).or_else(|| self.var("GITHUB_ACTOR"));
        let is_pull_request = matches!(event.kind, Kind::PullRequest | Kind::PullRequestTarget);
        let is_foreign = event.kind == Kind::WorkflowRun && event.is_fork != Some(false);
        if !is_pull_request && !is_foreign && event.kind != Kind::MergeGroup {
            event.settle_default_branch();
        }
        if event.kind == Kind::Unknown {
            self.suspect(event);
        }
        event.more.run = self.run();
    }

    /// An event that is not known may be about a pull request all the same: reviews are. Then it is as little trusted as that.
    fn suspect(&self, event: &mut Event) {
        let of_ref = event.r#ref.as_deref().and_then(|full| full.strip_prefix("refs/pull/")?.split('/').next()?.parse().ok());
        let about = self.payload.pointer("/pull_request").filter(|pull| pull.is_object());
        event.pr = about.and_then(|pull| pull.pointer("/number")?.as_u64()).or(of_ref);
        if about.is_some() || of_ref.is_some() {
            event.is_fork = about.map(|_| self.is_fork()); // nothing: unknown, which is no better
            event.head_repo = self.text("/pull_request/head/repo/full_name");
        }
    }

    fn run(&self) -> Run {
        let attempt = self.vars.get("GITHUB_RUN_ATTEMPT").and_then(|n| n.parse().ok()).unwrap_or(1);
        let url = || {
            let server = self.vars.get("GITHUB_SERVER_URL")?;
            let (repository, id) = (self.vars.get("GITHUB_REPOSITORY")?, self.vars.get("GITHUB_RUN_ID")?);
            Some(format!("{server}/{repository}/actions/runs/{id}"))
        };
        Run { id: self.var("GITHUB_RUN_ID"), attempt, url: url() }
    }
}

/// The scalar entries of an object as strings. A deployment's payload may be JSON text inside a string.
fn strings(value: Option<&Value>) -> std::collections::BTreeMap<String, String> {
    let nested = value.and_then(Value::as_str).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let object = nested.as_ref().or(value).and_then(Value::as_object);
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Bool(flag) => Some(flag.to_string()),
        // 1.10 would have become 1.1 before we see it.
        Value::Number(number) if number.is_u64() => Some(number.to_string()),
        Value::Number(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let pairs = object.into_iter().flatten().filter_map(|(name, value)| Some((name.clone(), text(value)?)));
    pairs.filter(|(_, value)| !value.is_empty() && value != "null").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z0-9/:{}\u{0}-\u{1f}é]{0,50}".prop_map(Value::from),
            "[0-9a-f]{40}".prop_map(Value::from),
        ];
        let keys = prop::sample::select(vec![
            "ref",
            "after",
            "before",
            "head_commit",
            "id",
            "deleted",
            "created",
            "release",
            "tag_name",
            "action",
            "number",
            "pull_request",
            "head",
            "base",
            "repo",
            "sha",
            "labels",
            "name",
            "merge_group",
            "head_ref",
            "deployment",
            "payload",
            "inputs",
            "client_payload",
            "repository",
            "full_name",
            "default_branch",
            "sender",
            "login",
            "workflow_run",
            "issue",
            "comment",
            "user",
            "changes",
            "version",
            "environment",
        ]);
        leaf.prop_recursive(5, 60, 8, move |inner| {
            let object = prop::collection::hash_map(keys.clone(), inner.clone(), 0..8);
            let object = object.prop_map(|map| Value::Object(map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()));
            prop_oneof![prop::collection::vec(inner, 0..4).prop_map(Value::from), object]
        })
    }

    proptest! {
        /// Whatever a payload holds, it is an event or a sentence, never a panic.
        #[test]
        fn no_payload_panics(payload in any_json(), name in prop::sample::select(vec![
            "push", "create", "delete", "release", "pull_request", "pull_request_target", "merge_group", "workflow_dispatch",
            "repository_dispatch", "schedule", "workflow_run", "deployment", "issue_comment", "star",
        ])) {
            let vars = Vars::from([("GITHUB_SHA", "dddddddddddddddddddddddddddddddddddddddd"), ("GITHUB_REF", "main")]);
            match parse(name, &payload, &vars) {
                Ok(event) => prop_assert!(event.sha.as_deref().is_none_or(is_full_sha)),
                Err(error) => prop_assert!(matches!(error.reason, Reason::InputEvent | Reason::InputVersion)),
            }
        }
    }
}
