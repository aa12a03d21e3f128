//! Every GitHub event with its traps: what `explain` reads from a payload, and what follows from it.

use crate::world::World;
use serde_json::{Value, json};

const HEAD: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const TIP: &str = "dddddddddddddddddddddddddddddddddddddddd";

/// Explains a payload in the surroundings that GitHub gives that event.
fn explain(name: &str, git_ref: &str, sha: &str, payload: Value) -> Value {
    let mut world = World::new();
    let mut whole = json!({"repository": {"full_name": "acme/demo", "default_branch": "main", "id": 1}, "sender": {"login": "octocat"}});
    for (key, value) in payload.as_object().unwrap() {
        whole[key] = value.clone();
    }
    world.var("GITHUB_REF", git_ref).var("GITHUB_SHA", sha);
    let kind = if git_ref.starts_with("refs/tags/") { "tag" } else { "branch" };
    let ran = world.var("GITHUB_REF_TYPE", kind).event(name, &whole).run(&["explain", "--format", "json"]);
    assert_eq!((ran.code, ran.log.len()), (0, 0), "{}", ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

/// Compares the facts and the decision that are named.
#[track_caller]
fn expect(answer: &Value, facts: Value, decision: (&str, &str, Option<&str>)) {
    for (name, wanted) in facts.as_object().unwrap() {
        assert_eq!(&answer["event"][name], wanted, "{name} in {answer:#}");
    }
    let got = (
        answer["decision"]["outcome"].as_str().unwrap(),
        answer["decision"]["reason"].as_str().unwrap(),
        answer["decision"]["environment"].as_str(),
    );
    assert_eq!(got, decision, "{answer:#}");
}

fn pull_request(change: impl Fn(&mut Value)) -> Value {
    let side = |name: &str| json!({"ref": name, "sha": HEAD, "repo": {"id": 1, "full_name": "acme/demo", "fork": true}});
    let mut payload = json!({"action": "opened", "number": 7, "pull_request": {"merged": false, "user": {"login": "octocat"}, "head": side("fix/it"), "base": side("main")}});
    change(&mut payload);
    payload
}

#[test]
fn pushes_to_branches() {
    let push = |name: &str| json!({"ref": format!("refs/heads/{name}"), "before": TIP, "after": HEAD, "deleted": false, "head_commit": {"id": HEAD}, "action": "opened"});
    let answer = explain("push", "refs/heads/main", HEAD, push("main"));
    expect(
        &answer,
        json!({"kind": "push_branch", "sha": HEAD, "short7": "aaaaaaa", "branch": "main", "tag": null, "pr": null, "is_default_branch": true, "actor": "octocat"}),
        ("deploy", "event.matched", Some("dev")),
    );
    let answer = explain("push", "refs/heads/Main", HEAD, push("Main"));
    expect(&answer, json!({"branch": "Main", "is_default_branch": false}), ("skip", "event.ignored", None));
    let answer = explain("push", "refs/heads/a/b#1-ünï🚀", HEAD, push("a/b#1-ünï🚀"));
    expect(&answer, json!({"branch": "a/b#1-ünï🚀"}), ("skip", "event.ignored", None));
    let queue = "gh-readonly-queue/main/pr-104-929f820";
    let answer = explain("push", &format!("refs/heads/{queue}"), HEAD, push(queue));
    expect(&answer, json!({"branch": queue}), ("skip", "event.merge-group", None));
    let mut gone = push("main");
    (gone["deleted"], gone["after"], gone["head_commit"]) = (json!(true), json!("0".repeat(40)), json!(null));
    let answer = explain("push", "refs/heads/main", TIP, gone);
    expect(&answer, json!({"kind": "branch_deleted", "sha": null, "short7": null, "branch": "main"}), ("skip", "event.deleted", None));
}

#[test]
fn pushes_of_tags() {
    let push = |tag: &str| json!({"ref": format!("refs/tags/{tag}"), "before": "0".repeat(40), "after": "b".repeat(40), "created": true, "head_commit": {"id": HEAD}});
    // Annotated: `after` is the tag object, the commit stands in head_commit.
    let answer = explain("push", "refs/tags/v1.2.0", TIP, push("v1.2.0"));
    expect(
        &answer,
        json!({"kind": "push_tag", "sha": HEAD, "branch": null, "tag": "v1.2.0", "is_default_branch": false}),
        ("deploy", "event.matched", Some("staging")),
    );
    assert_eq!(answer["decision"]["version"], "1.2.0");
    for (tag, reason) in [
        ("v22", "event.not-a-version"),
        ("2024.06.01", "event.not-a-version"),
        ("1.2.3.4", "event.not-a-version"),
        ("latest", "event.not-a-version"),
        ("v2.0.0-rc.1", "event.prerelease"),
    ] {
        expect(&explain("push", &format!("refs/tags/{tag}"), HEAD, push(tag)), json!({"tag": tag}), ("skip", reason, None));
    }
    expect(&explain("push", "refs/tags/1.0.0+7", HEAD, push("1.0.0+7")), json!({}), ("refuse", "input.version", None));
    let mut moved = push("v1.2.0");
    (moved["created"], moved["before"]) = (json!(false), json!(TIP));
    expect(&explain("push", "refs/tags/v1.2.0", HEAD, moved), json!({"sha": HEAD}), ("refuse", "tag.moved", None));
    let mut gone = push("v1.2.0");
    (gone["deleted"], gone["head_commit"]) = (json!(true), json!(null));
    expect(
        &explain("push", "refs/tags/v1.2.0", TIP, gone),
        json!({"kind": "tag_deleted", "sha": null, "tag": "v1.2.0"}),
        ("skip", "event.deleted", None),
    );
}

#[test]
fn creations_and_deletions_repeat_the_push() {
    let answer = explain("create", "refs/tags/v1.0.0", HEAD, json!({"ref": "v1.0.0", "ref_type": "tag", "master_branch": "main"}));
    expect(
        &answer,
        json!({"kind": "tag_created", "tag": "v1.0.0", "ref": "refs/tags/v1.0.0", "sha": HEAD}),
        ("skip", "event.ignored", None),
    );
    let answer = explain("delete", "refs/heads/main", TIP, json!({"ref": "feature", "ref_type": "branch"}));
    expect(&answer, json!({"kind": "branch_deleted", "branch": "feature", "sha": null}), ("skip", "event.deleted", None));
}

#[test]
fn releases() {
    let release = |action: &str, target: &str| json!({"action": action, "release": {"tag_name": "v1.4.2", "target_commitish": target, "draft": false, "prerelease": false, "author": {"login": "ann"}}});
    let answer = explain("release", "refs/tags/v1.4.2", HEAD, release("published", "main"));
    expect(
        &answer,
        json!({"kind": "release", "action": "published", "tag": "v1.4.2", "ref": "refs/tags/v1.4.2", "sha": HEAD}),
        ("deploy", "event.matched", Some("staging")),
    );
    assert_eq!(answer["assumed"], json!(["v1.4.2 is on main"]));
    let answer = explain("release", "refs/tags/v1.4.2", HEAD, release("published", "hotfix/1.4.x"));
    expect(&answer, json!({}), ("skip", "event.off-default", None));
    for action in ["created", "edited", "deleted", "unpublished", "prereleased", "released"] {
        expect(
            &explain("release", "refs/tags/v1.4.2", HEAD, release(action, "main")),
            json!({"action": action}),
            ("skip", "event.ignored", None),
        );
    }
    let mut renamed = release("edited", "main");
    renamed["changes"] = json!({"tag_name": {"from": "v1.4.1"}});
    expect(&explain("release", "refs/tags/v1.4.2", HEAD, renamed), json!({}), ("refuse", "tag.moved", None));
    expect(&explain("release", "refs/tags/v1.4.2", HEAD, release("exploded", "main")), json!({}), ("skip", "event.unknown", None));
    let mut marked = release("published", "main");
    marked["release"]["prerelease"] = json!(true);
    expect(&explain("release", "refs/tags/v1.4.2", HEAD, marked), json!({}), ("skip", "event.prerelease", None));
}

#[test]
fn pull_requests() {
    // Inside a repository that is itself a fork, head.repo.fork is true and means nothing.
    let answer = explain("pull_request", "refs/pull/7/merge", TIP, pull_request(|_| {}));
    let facts = json!({"kind": "pull_request", "pr": 7, "sha": HEAD, "base": "main", "head_ref": "fix/it", "head_repo": "acme/demo", "is_fork": false, "merged": false, "branch": null, "is_default_branch": false, "ref": "refs/pull/7/merge"});
    expect(&answer, facts, ("deploy", "event.matched", Some("preview")));
    assert_eq!(answer["decision"]["version"], "pr-7-aaaaaaa");
    for action in ["synchronize", "reopened", "ready_for_review"] {
        expect(
            &explain("pull_request", "refs/pull/7/merge", TIP, pull_request(|p| p["action"] = json!(action))),
            json!({"action": action}),
            ("deploy", "event.matched", Some("preview")),
        );
    }
    for action in [
        "assigned",
        "labeled",
        "unlabeled",
        "edited",
        "locked",
        "converted_to_draft",
        "review_requested",
        "auto_merge_enabled",
        "enqueued",
        "never-heard-of",
    ] {
        expect(
            &explain("pull_request", "refs/pull/7/merge", TIP, pull_request(|p| p["action"] = json!(action))),
            json!({}),
            ("skip", "event.ignored", None),
        );
    }
    let closed = |merged: bool| {
        pull_request(move |p| {
            (p["action"], p["pull_request"]["merged"], p["pull_request"]["merge_commit_sha"]) = (json!("closed"), json!(merged), json!(TIP))
        })
    };
    for merged in [true, false] {
        expect(
            &explain("pull_request", "refs/heads/main", TIP, closed(merged)),
            json!({"merged": merged, "sha": HEAD}),
            ("remove", "event.matched", Some("preview")),
        );
    }
    // A fork's branch called main is not our main, and a repository that is gone is nobody's.
    let fork = pull_request(|p| {
        (p["pull_request"]["head"]["repo"], p["pull_request"]["head"]["ref"]) =
            (json!({"id": 2, "full_name": "mallory/demo"}), json!("main"))
    });
    expect(
        &explain("pull_request", "refs/pull/7/merge", TIP, fork),
        json!({"is_fork": true, "head_ref": "main", "is_default_branch": false}),
        ("skip", "event.fork", None),
    );
    let gone = pull_request(|p| p["pull_request"]["head"]["repo"] = json!(null));
    expect(
        &explain("pull_request", "refs/pull/7/merge", TIP, gone),
        json!({"is_fork": true, "head_repo": null}),
        ("skip", "event.fork", None),
    );
    let late = pull_request(|p| (p["action"], p["pull_request"]["state"]) = (json!("synchronize"), json!("closed")));
    expect(&explain("pull_request", "refs/pull/7/merge", TIP, late), json!({}), ("skip", "event.ignored", None));
    let draft = pull_request(|p| p["pull_request"]["draft"] = json!(true));
    expect(&explain("pull_request", "refs/pull/7/merge", TIP, draft), json!({}), ("skip", "event.draft", None));
    let bot = pull_request(|p| p["pull_request"]["user"]["login"] = json!("dependabot[bot]"));
    expect(&explain("pull_request", "refs/pull/7/merge", TIP, bot), json!({}), ("skip", "event.no-secrets", None));
}

#[test]
fn pull_request_target_is_not_a_push_to_main() {
    let answer = explain("pull_request_target", "refs/heads/main", TIP, pull_request(|_| {}));
    expect(
        &answer,
        json!({"kind": "pull_request_target", "sha": HEAD, "branch": null, "is_default_branch": false}),
        ("skip", "event.untrusted", None),
    );
    let answer = explain("pull_request_target", "refs/heads/main", TIP, pull_request(|p| p["action"] = json!("closed")));
    expect(&answer, json!({}), ("remove", "event.matched", Some("preview")));
}

#[test]
fn dispatches() {
    let manual = |inputs: Value| explain("workflow_dispatch", "refs/heads/main", HEAD, json!({"ref": "refs/heads/main", "inputs": inputs}));
    let answer = manual(json!({"environment": "production", "version": "v1.4.2\r\n"}));
    expect(&answer, json!({"kind": "workflow_dispatch", "branch": "main", "sha": HEAD}), ("deploy", "event.matched", Some("production")));
    assert_eq!(answer["decision"]["version"], "1.4.2");
    for inputs in [json!(null), json!({}), json!({"environment": ""}), json!({"environment": "null"}), json!({"version": "1.0.0"})] {
        expect(&manual(inputs), json!({}), ("refuse", "input.environment", None));
    }
    expect(&manual(json!({"environment": "prod", "version": "1.0.0"})), json!({}), ("refuse", "input.environment", None));
    expect(&manual(json!({"environment": "production", "version": "../../etc"})), json!({}), ("refuse", "input.version", None));
    expect(&manual(json!({"environment": "production", "version": "latest"})), json!({}), ("refuse", "input.version", None));
    let api = |payload: Value| {
        explain("repository_dispatch", "refs/heads/main", TIP, json!({"action": "ship", "branch": "main", "client_payload": payload}))
    };
    let answer = api(json!({"environment": "staging", "version": "1.10", "pr": 9}));
    expect(&answer, json!({"kind": "repository_dispatch", "action": "ship", "pr": 9}), ("deploy", "event.matched", Some("staging")));
    assert_eq!(answer["decision"]["version"], "1.10", "a version is never a number");
}

#[test]
fn deployments_of_others_are_not_requests() {
    let deployment = |environment: &str, task: &str| json!({"action": "created", "deployment": {"sha": HEAD, "ref": "main", "environment": environment, "task": task, "creator": {"login": "ann"}, "payload": {}}});
    let answer = explain("deployment", "refs/heads/main", HEAD, deployment("staging", "deploy"));
    expect(&answer, json!({"kind": "deployment", "sha": HEAD, "actor": "ann"}), ("deploy", "event.matched", Some("staging")));
    expect(
        &explain("deployment", "refs/heads/main", HEAD, deployment("Preview – web", "deploy")),
        json!({}),
        ("skip", "event.ignored", None),
    );
    expect(
        &explain("deployment", "refs/heads/main", HEAD, deployment("staging", "deploy:tidegate")),
        json!({}),
        ("skip", "event.ignored", None),
    );
}

#[test]
fn everything_else_does_nothing_and_says_why() {
    let group = json!({"action": "checks_requested", "merge_group": {"head_sha": HEAD, "head_ref": "refs/heads/gh-readonly-queue/main/pr-1-x", "base_ref": "refs/heads/main"}});
    expect(
        &explain("merge_group", "refs/heads/gh-readonly-queue/main/pr-1-x", HEAD, group),
        json!({"kind": "merge_group", "base": "main", "sha": HEAD}),
        ("skip", "event.merge-group", None),
    );
    let mut cron = explain("schedule", "refs/heads/main", HEAD, json!({"schedule": "*/5 * * * *", "repository": null, "sender": null}));
    expect(
        &cron,
        json!({"kind": "schedule", "branch": "main", "default_branch": "main", "is_default_branch": true}),
        ("skip", "event.schedule", None),
    );
    cron["event"] = json!(null);
    let run = json!({"action": "completed", "workflow_run": {"head_sha": HEAD, "head_branch": "main", "head_repository": {"id": 2, "full_name": "mallory/demo"}}});
    expect(
        &explain("workflow_run", "refs/heads/main", TIP, run),
        json!({"is_fork": true, "is_default_branch": false}),
        ("skip", "event.untrusted", None),
    );
    let comment = json!({"action": "created", "issue": {"number": 5, "pull_request": {"url": "x"}}, "comment": {"user": {"login": "ann"}, "body": "/deploy"}});
    expect(
        &explain("issue_comment", "refs/heads/main", TIP, comment),
        json!({"kind": "issue_comment", "pr": 5, "actor": "ann", "sha": null}),
        ("skip", "event.ignored", None),
    );
    expect(
        &explain("star", "refs/heads/main", TIP, json!({"action": "created"})),
        json!({"kind": "unknown"}),
        ("skip", "event.unknown", None),
    );
}
