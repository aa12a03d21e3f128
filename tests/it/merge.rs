//! A merge to the default branch: decided, built once, deployed, proven, told.

use crate::world::World;

#[test]
fn a_merge_is_built_deployed_proven_and_told() {
    let mut world = World::new();
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    insta::assert_snapshot!("merge_log", ran.shown());
    insta::assert_snapshot!("merge_comment", crate::world::steady(&world.comments().join("\n")));
    assert_eq!(world.deployments(), [["in_progress", "success"]]);
    let sha = world.head();
    assert_eq!(ran.outputs["version"], sha[..7]);
    assert_eq!(ran.outputs["environment"], "dev");
    assert_eq!(ran.outputs["verdict"], "deployed");
    assert_eq!(ran.outputs["image"], world.runs_on("dev"), "the output names what runs, by digest");
    assert!(ran.outputs["image"].ends_with(&ran.outputs["digest"]));
    let request = world.sandbox.with(|outside| outside.github.deployments[0].request.clone());
    assert_eq!((&request["auto_merge"], &request["required_contexts"]), (&serde_json::json!(false), &serde_json::json!([])));
    let summary = std::fs::read_to_string(world.path(".summary")).unwrap();
    assert!(summary.contains("runs on dev") && summary.contains("| deploy.kubernetes | done |"), "{summary}");
}

#[test]
fn the_same_merge_again_changes_nothing() {
    let mut world = World::new();
    let first = world.pushed().run(&["run"]);
    first.must(0, "deploy.done");
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert_eq!(again.count("POST /build"), 0, "nothing is built");
    assert_eq!(again.count("/push"), 0, "nothing is pushed");
    assert_eq!(again.count("PutImage") + again.count("PUT /v2/"), 0, "no tag is written");
    assert_eq!(again.count("PATCH /kube"), 0, "the cluster is left alone");
    assert_eq!(again.outputs["digest"], first.outputs["digest"]);
    assert_eq!(world.comments().len(), 1);
}

#[test]
fn another_recipe_under_the_same_version_is_refused_before_building() {
    let mut world = World::new();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.configure("repository: 123456789012", "args: {MODE: fast}\n    repository: 123456789012");
    let ran = world.run(&["run"]);
    ran.must(2, "version.conflict");
    assert_eq!(ran.count("POST /build"), 0);
    assert!(ran.err.contains("there:  commit") && ran.err.contains("wanted: commit"), "{}", ran.err);
}

#[test]
fn latest_follows_new_commits_and_never_goes_back() {
    let mut world = World::new();
    let old = world.head();
    let first = world.pushed().run(&["run"]);
    world.write("app", "two\n");
    world.commit("two");
    let second = world.pushed().run(&["run"]);
    let latest = |world: &World| world.sandbox.with(|outside| outside.repositories["demo"].tags["latest"].clone());
    assert_ne!(first.outputs["digest"], second.outputs["digest"]);
    assert_eq!(latest(&world), second.outputs["digest"]);
    // The old run again: it is superseded, and says by what; the newer one's comment stays.
    world.git(&["checkout", "--quiet", &old]);
    let again = world.pushed().run(&["run"]);
    again.must(0, "order.superseded");
    assert!(again.err.contains("is older than") && again.err.contains("run 77 (octocat) put that there: https://"), "{}", again.err);
    assert_eq!((again.count("PATCH /kube"), again.count("PATCH /github"), latest(&world)), (0, 0, second.outputs["digest"].clone()));
    // By hand it may go back, but latest does not follow.
    let back = world.run(&["deploy", "dev", &old]);
    back.must(0, "deploy.done");
    assert!(back.err.contains("latest stays where it is") && back.err.contains("asked for by hand"), "{}", back.err);
    assert_eq!(latest(&world), second.outputs["digest"]);
    assert_eq!(world.runs_on("dev"), back.outputs["image"]);
}

#[test]
fn a_push_elsewhere_and_a_deletion_do_nothing() {
    let mut world = World::new();
    let sha = world.head();
    let branch = serde_json::json!({"ref": "refs/heads/feature", "after": sha, "head_commit": {"id": sha}, "repository": crate::world::repository()});
    world.event("push", &branch).run(&["run"]).must(0, "event.ignored");
    let gone = serde_json::json!({"ref": "refs/heads/main", "after": "0".repeat(40), "deleted": true, "head_commit": null, "repository": crate::world::repository()});
    let ran = world.event("push", &gone).run(&["run"]);
    ran.must(0, "event.deleted");
    assert_eq!(ran.log, Vec::<String>::new(), "nothing outside was asked");
}

/// Lying twin: the push says yes and the registry has nothing.
#[test]
fn a_push_that_vanishes_fails() {
    let mut world = World::new();
    world.sandbox.with(|outside| outside.registry_forgets = true);
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "push.failed");
    assert_eq!(ran.count("PATCH /kube"), 0);
    assert!(world.deployments().is_empty(), "nothing was about to be switched");
    assert!(world.comments()[0].contains("❌"), "a failure is told as well");
}
