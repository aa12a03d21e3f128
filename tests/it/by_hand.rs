//! By hand: `tidegate deploy ENV VERSION`, workflow_dispatch, a laptop.

use crate::world::World;
use serde_json::json;

#[test]
fn a_released_version_goes_to_production_after_the_queues_are_quiet() {
    let mut world = World::new();
    let sha = world.head();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let staging = world.released("v1.4.2", &sha).run(&["run"]);
    let ran = world.run(&["deploy", "production", "1.4.2"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.outputs["digest"], staging.outputs["digest"]);
    assert_eq!((ran.count("POST /build"), ran.count("PutImage")), (0, 1), "it is there already, and gets the tag of what runs");
    let deployed = ran.log.iter().position(|line| line.contains("PATCH /kube")).unwrap();
    let looked = ran.log.iter().rposition(|line| line.contains("GetQueueAttributes")).unwrap();
    assert!(
        looked < deployed && ran.log[looked..deployed].iter().all(|line| !line.contains("BatchGetImage")),
        "the last look is right before the switch"
    );
    assert!(ran.err.contains("2 queues quiet for 1s"), "{}", ran.err);
}

#[test]
fn a_dispatch_names_environment_and_version() {
    let mut world = World::new();
    let sha = world.head();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.released("v1.4.2", &sha).run(&["run"]).must(0, "deploy.done");
    let payload = json!({"ref": "refs/heads/main", "inputs": {"environment": "production", "version": " v1.4.2 "}, "repository": crate::world::repository(), "sender": {"login": "octocat"}});
    let ran = world.event("workflow_dispatch", &payload).run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!((ran.outputs["environment"].as_str(), ran.outputs["version"].as_str()), ("production", "1.4.2"));
    // The same as inputs of the step.
    let nothing = json!({"ref": "refs/heads/main", "inputs": null, "repository": crate::world::repository()});
    world.event("workflow_dispatch", &nothing).run(&["run"]).must(2, "input.environment");
    world.var("INPUT_ENVIRONMENT", "production").var("INPUT_VERSION", "1.4.2").run(&["run"]).must(0, "deploy.done");
}

#[test]
fn a_commit_that_was_merged_is_found_by_its_id() {
    let mut world = World::new();
    let sha = world.head();
    let merged = world.pushed().run(&["run"]);
    let ran = world.run(&["deploy", "staging", &sha]);
    assert_eq!(ran.must(0, "deploy.done").outputs["digest"], merged.outputs["digest"]);
}

#[test]
fn a_version_that_does_not_exist_is_not_built_from_something_else() {
    let mut world = World::new();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let ran = world.run(&["deploy", "production", "9.9.9"]);
    ran.must(2, "input.version");
    assert_eq!(ran.count("POST /build") + ran.count("PATCH /kube"), 0);
    world.run(&["deploy", "prodution", "1.4.2"]).must(2, "input.environment");
    world.run(&["deploy", "production", "../../etc"]).must(2, "input.version");
}

#[test]
fn a_dispatch_from_a_tag_deploys_that_tag() {
    let mut world = World::new();
    let sha = world.head();
    let merged = world.pushed().run(&["run"]);
    world.var("GITHUB_REF", "refs/tags/v3.0.0").var("GITHUB_SHA", sha);
    let payload = json!({"ref": "refs/tags/v3.0.0", "inputs": {"environment": "staging"}, "repository": crate::world::repository()});
    let ran = world.event("workflow_dispatch", &payload).run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!((ran.outputs["version"].as_str(), &ran.outputs["digest"]), ("3.0.0", &merged.outputs["digest"]), "promoted from the merge");
}

#[test]
fn a_commit_that_a_program_names_must_be_merged() {
    let mut world = World::new();
    let other = "c".repeat(40);
    world.sandbox.with(|outside| outside.github.others.push(other.clone()));
    for name in ["sha", "version"] {
        let payload = json!({"action": "ship", "branch": "main", "client_payload": {"environment": "staging", name: other}, "repository": crate::world::repository()});
        let ran = world.event("repository_dispatch", &payload).run(&["run"]);
        ran.must(2, "input.version");
        assert_eq!(ran.count("POST /build"), 0);
    }
}

#[test]
fn a_branch_stands_for_its_commit_and_takes_no_alias_of_a_series() {
    let mut world = World::new();
    world.configure("    when: release\n", "    when: release\n    tags: [\"1\", \"1.4\"]\n");
    world.commit("aliases");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let ran = world.run(&["deploy", "staging", "main"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.outputs["version"], world.head()[..7], "not `main`");
    let tags = world.sandbox.with(|outside| outside.repositories["demo"].tags.keys().cloned().collect::<Vec<_>>());
    assert!(!tags.contains(&"1".to_owned()) && !tags.contains(&"1.4".to_owned()), "{tags:?}");
    world.run(&["deploy", "dev", "latest"]).must(2, "input.version");
}

/// A pipeline that another one starts puts the same commit together anew, with other arguments: that is another version.
#[test]
fn the_same_commit_made_anew_has_a_version_of_its_own() {
    let mut world = World::new();
    world.configure("\nimages:\n", "\nvariables: {base: {env: STORY_BASE, default: \"1\"}}\nimages:\n");
    world.configure("    repository: 123456789012", "    args: {BASE: \"{var.base}\"}\n    repository: 123456789012");
    world.commit("base");
    let first = world.pushed().run(&["run"]);
    first.must(0, "deploy.done");
    world.var("STORY_BASE", "2");
    world.run(&["run"]).must(2, "version.conflict");
    let dispatched = json!({"ref": "refs/heads/main", "inputs": {}, "repository": crate::world::repository()});
    let ran = world.event("workflow_dispatch", &dispatched).run(&["merge", "--as=main.42"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.outputs["version"], "main.42");
    assert_eq!(ran.count("nocache=true"), 1, "what it fetches may have changed: {}", ran.log.join("\n"));
    assert_ne!(ran.outputs["digest"], first.outputs["digest"]);
    let tags = world.sandbox.with(|outside| outside.repositories["demo"].tags.clone());
    assert_eq!((&tags["main.42"], &tags["latest"]), (&ran.outputs["digest"], &ran.outputs["digest"]));
    assert_eq!(tags[&world.head()[..7]], first.outputs["digest"], "the merge's own version stays");
    assert!(world.runs_on("dev").contains("main.42"), "{}", world.runs_on("dev"));
    // One that began before and is slower does not take its place, neither there nor as `latest`.
    let ran = world.run(&["merge", "--as=main.41"]);
    ran.must(0, "order.superseded");
    assert!(world.runs_on("dev").contains("main.42"), "{}", world.runs_on("dev"));
    assert_eq!(world.sandbox.with(|outside| outside.repositories["demo"].tags["latest"].clone()), tags["main.42"]);
    for (named, words) in [
        ("main 42", "main 42"),
        ("latest", "an alias that moves"),
        ("9.0.0", "the version of a release"),
        ("v9.0.0", "the version of a release"),
        ("0123456", "stands for another commit"),
    ] {
        let ran = world.run(&["merge", &format!("--as={named}")]);
        ran.must(2, "input.version");
        assert!(ran.err.contains(words), "{named}: {}", ran.err);
    }
    world.run(&["deploy", "dev", "main.42", "--as=main.43"]).must(2, "input.version");
    let ran = world.pull_request("opened", |_| {}).run(&["run", "--as=main.42"]);
    ran.must(2, "input.version");
    assert!(ran.err.contains("names the version of a branch"), "{}", ran.err);
}

#[test]
fn another_branch_by_hand_is_not_the_default_branch() {
    let mut world = World::new();
    world.without("GITHUB_ACTIONS");
    let plan = world.run(&["plan", "merge", "--branch", "feature", "--default-branch", "main", "--sha", &world.head()]);
    assert!(plan.code == 0 && plan.err.contains("event.ignored"), "{}", plan.err);
    let plan = world.run(&["plan", "deploy", "nowhere", "1.0.0", "--format", "json"]);
    assert!(plan.code == 0 && plan.out.contains("\"outcome\": \"refuse\""), "plan answers, whatever it decides: {}", plan.out);
}

#[test]
fn a_laptop_needs_git_and_flags_only() {
    let mut world = World::new();
    for name in ["GITHUB_ACTIONS", "GITHUB_TOKEN", "GITHUB_EVENT_NAME", "GITHUB_OUTPUT"] {
        world.without(name);
    }
    let ran = world.run(&["merge", "--branch", "main", "--default-branch", "main"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.count("/github"), 0, "without a token nobody is told");
    assert!(world.runs_on("dev").contains(&world.head()[..7]));
    assert_eq!(world.run(&["run"]).code, 0, "there is no event here, and that is no failure");
}
