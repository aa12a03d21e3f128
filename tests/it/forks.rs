//! A fork's pull request: its own run has nothing, and the run after it tells how it went.

use crate::world::{World, repository};
use serde_json::{Value, json};
use tidegate::rehearse::sandbox::Fault;

const HEAD: &str = "abcdef0123456789abcdef0123456789abcdef01";
const BRANCH: &str = "x\"><img src=//evil.example> @everyone";

/// The run of a fork's pull request has ended; its pull request is number 31, with this head.
fn ended(world: &mut World, head: &str, change: impl Fn(&mut Value)) {
    let pull = json!({
        "number": 31, "state": "open", "merged_at": null,
        "head": {"label": format!("mallory:{BRANCH}"), "ref": BRANCH, "sha": head, "repo": {"full_name": "mallory/demo"}},
    });
    world.sandbox.with(|outside| outside.github.of_forks = vec![pull]);
    let mut payload = json!({
        "action": "completed", "repository": repository(), "sender": {"login": "mallory"},
        "workflow": {"name": "<!-- tidegate:demo -->"},
        "workflow_run": {
            "id": 4242, "name": "@everyone", "event": "pull_request", "conclusion": "failure", "head_sha": HEAD, "head_branch": BRANCH,
            "head_repository": {"id": 2, "full_name": "mallory/demo"}, "html_url": "https://evil.example", "pull_requests": [],
            "display_title": "<script>",
        },
    });
    change(&mut payload);
    world.var("GITHUB_SHA", world.head()).var("GITHUB_REF", "refs/heads/main");
    world.event("workflow_run", &payload);
}

#[test]
fn a_forks_pull_request_is_told_by_the_run_after_its_own() {
    let mut world = World::new();
    ended(&mut world, HEAD, |_| {});
    let ran = world.run(&["run"]);
    ran.must(0, "event.untrusted");
    assert!(ran.err.contains("pull request #31: comment created"), "{}", ran.err);
    assert_eq!(
        world.comments(),
        ["<!-- tidegate:demo -->\n<!-- tidegate:section:=fork -->\n### ⏭️ not deployed: this pull request comes from a fork\n\n\
          ❌ its own run of abcdef0 failed · [log](https://github.com/acme/demo/actions/runs/4242)\n\n\
          Code of a fork gets no secrets here, so it has no preview. Once it is merged it is delivered as `tidegate.yml` says.\n\
          <!-- tidegate:end -->\n"]
    );
    assert_eq!(ran.count("/build") + ran.count("/kube") + ran.count("artifacts") + ran.count("deployments"), 0, "{:?}", ran.log);
    // The same again changes nothing; a run that went well does.
    let ran = world.run(&["run"]);
    assert!(ran.err.contains("comment unchanged"), "{}", ran.err);
    ended(&mut world, HEAD, |payload| payload["workflow_run"]["conclusion"] = json!("success"));
    assert!(world.run(&["run"]).err.contains("comment edited"));
    assert!(world.comments().len() == 1 && world.comments()[0].contains("✅ its own run of abcdef0 succeeded"), "{:?}", world.comments());
}

/// Somebody else's pull request, one that has moved on, our own, or another event: nobody is told anything.
#[test]
fn nobody_else_is_told() {
    let mut world = World::new();
    ended(&mut world, &"9".repeat(40), |_| {});
    let ran = world.run(&["run"]);
    ran.must(0, "event.untrusted");
    assert!(ran.err.contains("no open pull request has the commit abcdef0"), "{}", ran.err);
    let changes: [fn(&mut Value); 4] = [
        |payload| payload["workflow_run"]["head_repository"] = json!({"id": 1, "full_name": "acme/demo"}),
        |payload| payload["workflow_run"]["head_repository"] = json!({"id": 3, "full_name": "eve/demo"}),
        |payload| payload["workflow_run"]["event"] = json!("push"),
        |payload| payload["action"] = json!("requested"),
    ];
    for change in changes {
        ended(&mut world, HEAD, change);
        world.run(&["run"]).must(0, "event.untrusted");
    }
    world.configure("environments:", "comment: {mode: never}\nenvironments:");
    world.commit("quiet");
    ended(&mut world, HEAD, |_| {});
    world.run(&["run"]).must(0, "event.untrusted");
    assert_eq!(world.comments(), [""; 0]);
}

/// Telling is never what fails.
#[test]
fn a_token_that_may_not_comment_changes_nothing() {
    let mut world = World::new();
    ended(&mut world, HEAD, |_| {});
    let body = json!({"message": "Resource not accessible by integration"});
    let fault =
        Fault { on: "POST /github/repos/acme/demo/issues/31/comments", times: 9, status: 403, headers: vec![], body, after_effect: false };
    world.sandbox.with(|outside| outside.faults.push(fault));
    let ran = world.run(&["run"]);
    ran.must(0, "event.untrusted");
    assert!(ran.err.contains("pull request #31 is not told") && ran.err.contains("pull-requests: write"), "{}", ran.err);
}
