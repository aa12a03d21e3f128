//! Releases: the image of the merge gets the version's tag; nothing is built.

use crate::world::World;

fn merged() -> (World, String) {
    let mut world = World::new();
    let ran = world.pushed().run(&["run"]);
    let digest = ran.must(0, "deploy.done").outputs["digest"].clone();
    (world, digest)
}

#[test]
fn a_release_of_a_built_commit_is_a_promotion() {
    let (mut world, digest) = merged();
    let sha = world.head();
    let ran = world.released("v1.4.2", &sha).run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.count("POST /build"), 0, "nothing is built");
    assert_eq!(ran.count("BatchGetImage"), 2, "one manifest read, and what runs there so far");
    assert_eq!(ran.count("PutImage") + ran.count("PUT /v2/"), 2, "one write, and the tag of what runs");
    assert_eq!(ran.outputs["digest"], digest, "the same digest");
    assert_eq!(ran.outputs["version"], "1.4.2");
    let (merge, release) = world.sandbox.with(|outside| {
        let tags = &outside.repositories["demo"].tags;
        (tags[&sha[..7]].clone(), tags["1.4.2"].clone())
    });
    assert_eq!(merge, release);
    assert!(world.runs_on("staging").ends_with(&format!("demo:1.4.2@{digest}")));
    insta::assert_snapshot!("release_log", ran.shown());
}

#[test]
fn a_release_of_a_commit_that_was_never_built_builds_it() {
    let mut world = World::new();
    let sha = world.head();
    let ran = world.released("v1.0.0", &sha).run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.count("POST /build"), 1);
}

#[test]
fn a_tag_push_is_a_release_too() {
    let (mut world, digest) = merged();
    let sha = world.head();
    let payload = serde_json::json!({
        "ref": "refs/tags/v2.0.0", "before": "0".repeat(40), "after": "b".repeat(40), "created": true,
        "head_commit": {"id": sha}, "repository": crate::world::repository(), "sender": {"login": "octocat"},
    });
    let ran = world.event("push", &payload).run(&["run"]);
    assert_eq!(ran.must(0, "deploy.done").outputs["digest"], digest);
}

#[test]
fn a_release_from_another_branch_is_left_to_a_person() {
    let (mut world, _) = merged();
    let other = "c".repeat(40);
    world.sandbox.with(|outside| outside.github.others.push(other.clone()));
    let ran = world.released("v1.4.3", &other).run(&["run"]);
    ran.must(0, "event.off-default");
    assert!(ran.err.contains("tidegate deploy ENVIRONMENT v1.4.3"), "{}", ran.err);
    assert_eq!(ran.count("PATCH"), 0);
}

#[test]
fn pre_releases_drafts_and_moved_tags_stay_out() {
    let (mut world, _) = merged();
    let sha = world.head();
    world.released("v2.0.0-rc.1", &sha).run(&["run"]).must(0, "event.prerelease");
    let moved = serde_json::json!({
        "ref": "refs/tags/v1.0.0", "before": "a".repeat(40), "after": sha, "created": false, "forced": false,
        "head_commit": {"id": sha}, "repository": crate::world::repository(),
    });
    world.event("push", &moved).run(&["run"]).must(4, "tag.moved");
    let draft = serde_json::json!({"action": "published", "release": {"tag_name": "v9.0.0", "draft": true}, "repository": crate::world::repository()});
    world.event("release", &draft).run(&["run"]).must(0, "event.draft");
}

#[test]
fn a_version_that_exists_with_another_image_is_refused() {
    let (mut world, _) = merged();
    let old = world.head();
    world.released("v1.0.0", &old).run(&["run"]).must(0, "deploy.done");
    world.write("app", "two\n");
    let new = world.commit("two");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let ran = world.released("v1.0.0", &new).run(&["run"]);
    ran.must(2, "version.conflict");
    assert_eq!(ran.count("PutImage"), 0);
}

/// A pattern of one's own takes tags from any branch, and asks nobody.
#[test]
fn a_tag_pattern_needs_no_default_branch() {
    let (mut world, _) = merged();
    world.configure("    when: release\n", "    when: {tag: '\\d{4}\\.\\d\\d\\.\\d+(-\\d+)?'}\n");
    let sha = world.commit("calendar");
    let payload = serde_json::json!({
        "ref": "refs/tags/2024.06.1-1", "before": "0".repeat(40), "after": sha, "created": true,
        "head_commit": {"id": sha}, "repository": crate::world::repository(), "sender": {"login": "octocat"},
    });
    let ran = world.event("push", &payload).run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!((ran.outputs["version"].as_str(), ran.count("/compare/")), ("2024.06.1-1", 0));
}

/// Aliases of releases go by number, not by time.
#[test]
fn a_backport_does_not_take_latest() {
    let (mut world, _) = merged();
    world.configure("    when: release\n", "    when: release\n    tags: [latest, \"1\", \"1.4\", \"2\"]\n");
    let sha = world.head();
    world.released("v1.5.0", &sha).run(&["run"]).must(0, "deploy.done");
    world.released("v1.4.9", &sha).run(&["run"]).must(0, "order.superseded");
    let ran = world.run(&["deploy", "staging", "1.4.9"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("latest stays where it is: 1.5.0 is released"), "{}", ran.err);
    assert!(ran.err.contains("1.4 → 1.4.9") && !ran.err.contains("2 →"), "{}", ran.err);
}

/// Several projects in one repository have tags of their own: `svc-a/v1.2.3` is this one's 1.2.3.
#[test]
fn tags_of_this_project_begin_with_its_prefix() {
    let mut world = World::new();
    world.configure("images:\n", "tag-prefix: svc-a/\nimages:\n");
    world.commit("one of several");
    let head = world.head();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let ran = world.released("svc-a/v1.2.3", &head).run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.outputs["version"], "1.2.3");
    assert!(world.runs_on("staging").contains("/demo:1.2.3@"), "{}", world.runs_on("staging"));
    world.released("svc-b/v1.2.4", &head).run(&["run"]).must(0, "event.not-a-version");
    world.released("v1.2.4", &head).run(&["run"]).must(0, "event.not-a-version");
    // By hand both spellings are this project's, and the other's is nobody's here.
    world.sandbox.with(|outside| outside.github.tags = vec![("svc-a/v1.2.3".into(), head.clone()), ("svc-b/v9.0.0".into(), head.clone())]);
    world.run(&["deploy", "production", "1.2.3"]).must(0, "deploy.done");
    let ran = world.run(&["deploy", "production", "svc-b/v9.0.0"]);
    ran.must(2, "input.version");
}
