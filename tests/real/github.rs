//! GitHub's own description, as a proxy between us and the sandbox: it checks our requests and the sandbox's answers.

use crate::prism::Prism;
use crate::world::World;
use serde_json::json;

fn passes(world: &World, prism: &Prism, args: &[&str], reason: &str) {
    let ran = world.run(args);
    ran.must(0, reason);
    assert!(!ran.err.contains("::warning"), "{}\n{}", ran.err, prism.said().join("\n"));
    let bad: Vec<String> = prism.said().into_iter().filter(|line| line.to_lowercase().contains("violation")).collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn our_requests_and_the_sandboxs_answers_fit_githubs_description() {
    let mut world = World::new();
    // As in a job: the clone has a remote and does not know its branches, so the forge is asked.
    world.git(&["remote", "add", "origin", "https://github.com/acme/demo.git"]);
    let prism = Prism::before(&mut world);
    passes(world.pushed(), &prism, &["run"], "deploy.done");
    world.write("app", "two\n");
    world.commit("two");
    passes(world.pushed(), &prism, &["run"], "deploy.done"); // asks how latest relates: compare
    let sha = world.head();
    passes(world.released("v1.0.0", &sha), &prism, &["run"], "deploy.done");
    passes(&world, &prism, &["deploy", "production", "1.0.0"], "deploy.done"); // asks for a tag's commit
    passes(world.pull_request("opened", |_| {}), &prism, &["run"], "deploy.done");
    let merged = |payload: &mut serde_json::Value| payload["pull_request"]["merged"] = json!(true);
    world.sandbox.with(|outside| outside.github.person = Some("octocat".into())); // who may delete environments
    passes(world.pull_request("closed", merged), &prism, &["run"], "preview.kept");
    world.configure("images:\n", "trust: {directives: [MEMBER]}\nimages:\n");
    world.write("app", "three\n");
    let head = world.commit("three");
    world.pushed();
    world.sandbox.with(|outside| {
        outside.github.pulls.clear();
        outside.github.permissions.insert("octocat".into(), "write".into());
    });
    let payload = json!({
        "ref": "refs/heads/main", "before": "0".repeat(40), "after": head, "created": false, "deleted": false, "forced": false,
        "head_commit": {"id": head, "message": "three [tidegate skip]"}, "repository": crate::world::repository(), "sender": {"login": "octocat"},
    });
    passes(world.event("push", &payload), &prism, &["run"], "event.directive");
    let swept = world.run(&["sweep"]);
    assert_eq!(swept.code, 0, "{}", swept.err);
    let said = prism.said().join("\n");
    let looked = world.run(&["status", "--format", "json"]);
    assert_eq!(looked.code, 0, "{}", looked.err);
    for asked in [
        "/issues/12/comments",
        "/deployments",
        "/statuses",
        "/pulls",
        "/compare/",
        "/git/refs",
        "/git/matching-refs",
        "/git/commits",
        "/environments/demo-pr-12",
        "/collaborators/octocat/permission",
    ] {
        assert!(said.contains(asked), "{asked} was never asked for:\n{said}");
    }
}

/// Lying twin: the proxy does find a wrong answer, so its silence means something.
#[test]
fn a_wrong_answer_of_the_sandbox_would_be_seen() {
    let mut world = World::new();
    let prism = Prism::before(&mut world);
    let fault = tidegate::rehearse::sandbox::Fault {
        on: "POST /github/repos/acme/demo/issues",
        times: 99,
        status: 201,
        headers: vec![],
        body: json!({"id": "not a number"}),
        after_effect: false,
    };
    world.sandbox.with(|outside| outside.faults.push(fault));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("pull request #12 is not told"), "{}\n{}", ran.err, prism.said().join("\n"));
}
