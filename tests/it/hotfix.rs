//! A fix of what is released, beside the default branch: one dispatch, on GitHub and on GitLab.

use crate::world::{Ran, World};
use serde_json::json;
use std::process::Command;
use tidegate::rehearse::sandbox::Fault;

/// v1.4.2 runs on staging and production, main has gone on, and a branch that starts at v1.4.2 has a fix.
fn fixed(gitlab: bool) -> World {
    let mut world = World::new();
    world.configure("environments:\n", "hotfix: {branches: [\"hotfix/*\"], to: staging}\nenvironments:\n");
    world.commit("a lane for hot fixes");
    world.write("app", "released\n");
    let released = world.commit("released");
    world.real_git();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.git(&["tag", "v1.4.2"]);
    world.released("v1.4.2", &released).run(&["run"]).must(0, "deploy.done");
    world.run(&["deploy", "production", "1.4.2"]).must(0, "deploy.done");
    world.write("app", "more\n");
    world.commit("main goes on");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.branch("hotfix/1.4.3", "v1.4.2");
    world.write("app", "fixed\n");
    world.commit("the fix");
    if gitlab {
        world.on_gitlab("web").var("CI_COMMIT_BRANCH", "hotfix/1.4.3");
    }
    world
}

fn hotfix(world: &World, version: &str, more: &[&str]) -> Ran {
    world.run(&[&["hotfix", version, "--branch", "hotfix/1.4.3"], more].concat())
}

fn tag_of(world: &World, tag: &str) -> Option<String> {
    world.sandbox.with(|outside| outside.github.tags.iter().find(|(known, _)| known == tag).map(|(_, sha)| sha.clone()))
}

#[test]
fn a_hot_fix_is_one_command_up_to_staging_and_production_takes_the_same_bytes() {
    for gitlab in [false, true] {
        let world = fixed(gitlab);
        let tip = world.head();
        let latest = |world: &World| world.sandbox.with(|outside| outside.repositories["demo"].tags["latest"].clone());
        let (newest, before) = (latest(&world), world.runs_on("production"));
        let plan = world.run(&["plan", "hotfix", "1.4.3", "--branch", "hotfix/1.4.3"]);
        assert_eq!(plan.code, 0, "{}", plan.err);
        assert!(
            plan.err.contains("deploy 1.4.3 to staging (a hot fix of v1.4.2 from hotfix/1.4.3; the default branch does not have it yet)"),
            "{}",
            plan.err
        );
        assert!(plan.err.contains("warning the default branch lacks this fix"), "{}", plan.err);
        assert_eq!(tag_of(&world, "v1.4.3"), None, "a plan makes nothing");
        let ran = hotfix(&world, "1.4.3", &[]);
        assert_eq!((ran.code, tag_of(&world, "v1.4.3")), (0, Some(tip)), "{}", ran.err);
        let digest = ran.outputs.get("digest").cloned().unwrap_or_else(|| world.digest_of("1.4.3"));
        assert!(world.runs_on("staging").ends_with(&digest), "{}", world.runs_on("staging"));
        assert_eq!((latest(&world), world.runs_on("production")), (newest, before), "it stops there, and `latest` stays");
        if gitlab {
            world.sandbox.with(|outside| outside.gitlab.resource_groups.insert("demo/production".into(), 501));
            let mut world = world;
            world.var("TIDEGATE_RESOURCE_GROUP", "demo/production");
            assert_eq!(world.run(&["deploy", "production", "1.4.3"]).code, 0);
            assert!(world.runs_on("production").ends_with(&digest));
        } else {
            world.run(&["deploy", "production", "1.4.3"]).must(0, "deploy.done");
            assert!(world.runs_on("production").ends_with(&digest));
        }
    }
}

#[test]
fn once_more_changes_nothing_and_the_back_merge_is_opened_once() {
    for gitlab in [false, true] {
        let world = fixed(gitlab);
        assert_eq!(hotfix(&world, "v1.4.3", &["--back-merge"]).code, 0);
        let opened = |world: &World| {
            world.sandbox.with(|outside| if gitlab { outside.gitlab.opened.clone() } else { outside.github.opened.clone() })
        };
        let (head, base) = if gitlab { ("source_branch", "target_branch") } else { ("head", "base") };
        assert_eq!((&opened(&world)[0][head], &opened(&world)[0][base]), (&json!("hotfix/1.4.3"), &json!("main")));
        let ran = hotfix(&world, "1.4.3", &["--back-merge"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert_eq!(ran.count("POST /build") + ran.count("PATCH /kube") + ran.count("/releases → 201"), 0, "{}", ran.log.join("\n"));
        assert_eq!(opened(&world).len(), 1);
    }
    // One that was refused is opened by the next run, although everything else is done.
    let world = fixed(false);
    let refuse = Fault {
        on: "POST /github/repos/acme/demo/pulls",
        times: 1,
        status: 403,
        headers: vec![],
        body: json!({"message": "Resource not accessible by integration"}),
        after_effect: false,
    };
    world.sandbox.with(|outside| outside.faults.push(refuse));
    let ran = hotfix(&world, "1.4.3", &["--back-merge"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("is not opened"), "{}", ran.err);
    hotfix(&world, "1.4.3", &["--back-merge"]).must(0, "deploy.done");
    assert_eq!(world.sandbox.with(|outside| outside.github.opened.len()), 1);
}

#[test]
fn what_is_no_hot_fix_is_refused_before_anything_is_made() {
    let world = fixed(false);
    let refused = |ran: &Ran, reason: &str, words: &str| {
        ran.must(4, reason);
        assert!(ran.err.contains(words), "{}", ran.err);
        assert_eq!(ran.count("POST /build") + ran.count("POST /github/repos/acme/demo/releases"), 0);
    };
    refused(&hotfix(&world, "1.4.4", &[]), "gate.hotfix", "1.4.4 does not follow 1.4.2");
    refused(&hotfix(&world, "1.5.1", &[]), "gate.hotfix", "there is no release before 1.5.1 that it could fix");
    refused(&hotfix(&world, "1.4.2", &[]), "gate.hotfix", "there is no release before 1.4.2");
    refused(&world.run(&["hotfix", "1.4.3", "--branch", "main"]), "gate.hotfix", "main is the default branch");
    world.branch("fix", "v1.4.2");
    refused(&world.run(&["hotfix", "1.4.3", "--branch", "fix"]), "gate.hotfix", "fix is no branch for hot fixes");
    world.branch("hotfix/empty", "v1.4.2");
    refused(&world.run(&["hotfix", "1.4.3", "--branch", "hotfix/empty"]), "gate.hotfix", "it fixes nothing");
    world.git(&["switch", "--quiet", "--detach", "v1.4.2~1"]);
    world.branch("hotfix/astray", "HEAD");
    world.write("app", "elsewhere\n");
    world.commit("from elsewhere");
    refused(
        &world.run(&["hotfix", "1.4.3", "--branch", "hotfix/astray"]),
        "gate.hotfix",
        "does not descend from v1.4.2, which 1.4.3 would fix",
    );
    assert!(world.run(&["plan", "hotfix", "1.4.3", "--branch", "hotfix/astray"]).err.contains("gate.hotfix"));
    world.sandbox.with(|outside| outside.github.tags.push(("v1.4.3".into(), "a".repeat(40))));
    world.git(&["switch", "--quiet", "hotfix/1.4.3"]);
    refused(&hotfix(&world, "1.4.3", &[]), "tag.moved", "v1.4.3 is released already, from aaaaaaa");
    hotfix(&world, "1.4.x", &[]).must(4, "gate.hotfix");
    world.run(&["hotfix", "1.4.3", "--branch", "hotfix/none"]).must(2, "input.event");
    world.run(&["hotfix", "1.4.3"]).must(4, "gate.hotfix"); // the branch of the run is main
    hotfix(&world, "1.4.3", &["--to", "preview"]).must(2, "input.environment");
}

#[test]
fn a_release_that_is_only_confirmed_is_none() {
    let world = fixed(false);
    world.sandbox.with(|outside| outside.github.forgets_tags = true);
    let ran = hotfix(&world, "1.4.3", &[]);
    ran.must(4, "tag.moved");
    assert!(ran.err.contains("v1.4.3 was released, but its tag is not there"), "{}", ran.err);
    assert_eq!(ran.count("PATCH /kube"), 0);
}

#[test]
fn a_build_that_fails_leaves_no_version_behind() {
    let world = fixed(false);
    let body = json!({"errorDetail": {"message": "the compiler says no"}, "error": "x"});
    let fault = Fault { on: "POST /build", times: 1, status: 200, headers: vec![], body, after_effect: false };
    world.sandbox.with(|outside| outside.faults.push(fault));
    hotfix(&world, "1.4.3", &[]).must(1, "build.failed");
    assert_eq!(tag_of(&world, "v1.4.3"), None);
}

#[test]
fn an_alias_stays_at_the_newer_release() {
    let mut world = fixed(false);
    world.git(&["switch", "--quiet", "main"]);
    let newer = world.head();
    world.git(&["tag", "v1.5.0"]);
    world.configure("  staging:\n    when: release\n", "  staging:\n    when: release\n    tags: [latest, \"1\", \"1.4\"]\n");
    world.released("v1.5.0", &newer).run(&["run"]).must(0, "deploy.done");
    world.git(&["stash", "--quiet"]);
    world.git(&["switch", "--quiet", "hotfix/1.4.3"]);
    world.git(&["stash", "pop", "--quiet"]);
    let ran = hotfix(&world, "1.4.3", &[]);
    ran.must(0, "deploy.done");
    let digest = |tag: &str| world.digest_of(tag);
    assert_eq!((digest("latest"), digest("1"), digest("1.4")), (digest("1.5.0"), digest("1.5.0"), digest("1.4.3")), "{}", ran.err);
    assert!(ran.err.contains("1.5.0 is released and higher than 1.4.3"), "{}", ran.err);
}

#[test]
fn a_gate_that_is_closed_leaves_no_version_behind() {
    let world = fixed(false);
    let digest = {
        world.configure("to: staging}", "to: dev}");
        hotfix(&world, "1.4.3", &["--to", "dev"]).must(0, "deploy.done");
        world.sandbox.with(|outside| outside.github.tags.retain(|(tag, _)| tag != "v1.4.3"));
        world.sandbox.with(|outside| outside.github.releases.clear());
        world.digest_of("1.4.3")
    };
    assert_eq!(world.run(&["quarantine", &digest, "--reason", "worse"]).code, 0);
    hotfix(&world, "1.4.3", &["--to", "staging"]).must(4, "gate.quarantined");
    assert_eq!(tag_of(&world, "v1.4.3"), None);
}

#[test]
fn hot_fixes_may_be_forbidden() {
    let world = fixed(false);
    world.configure("hotfix: {branches: [\"hotfix/*\"], to: staging}", "hotfix: forbid");
    let ran = hotfix(&world, "1.4.3", &[]);
    ran.must(4, "gate.hotfix");
    assert!(ran.err.contains("`hotfix: forbid`"), "{}", ran.err);
    world.configure("hotfix: forbid\n", "");
    hotfix(&world, "1.4.3", &[]).must(2, "input.environment");
    hotfix(&world, "1.4.3", &["--to", "staging"]).must(0, "deploy.done");
}

#[test]
fn a_release_beside_the_default_branch_takes_the_lane_by_ancestry_not_by_its_target() {
    let mut world = fixed(false);
    let tip = world.head();
    world.git(&["tag", "v1.4.3"]);
    // Its target says main, which is only where a tag would have been made.
    let ran = world.released("v1.4.3", &tip).run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("deploy 1.4.3 to staging (a hot fix of v1.4.2 from hotfix/1.4.3"), "{}", ran.err);
    assert!(world.runs_on("staging").contains(":1.4.3@"));
    // The usual target is the branch itself; and one of main's own commits is no hot fix, whatever its target says.
    let targeted = |world: &mut World, tag: &str, sha: &str| {
        world.released(tag, sha);
        let text = std::fs::read_to_string(world.path(".event.json")).unwrap();
        world.write(".event.json", &text.replace("\"target_commitish\":\"main\"", "\"target_commitish\":\"hotfix/1.4.3\""));
        world.run(&["plan"])
    };
    let ran = targeted(&mut world, "v1.4.3", &tip);
    assert!(ran.err.contains("deploy 1.4.3 to staging (a hot fix of v1.4.2 from hotfix/1.4.3"), "{}", ran.err);
    let on_main = world.git(&["rev-parse", "main"]);
    let ran = targeted(&mut world, "v1.5.0", &on_main);
    assert!(ran.err.contains("deploy 1.5.0 to staging (a release, v1.5.0)"), "{}", ran.err);
    // From a branch that is none for hot fixes, nothing happens.
    world.branch("elsewhere", "v1.4.2");
    world.write("app", "elsewhere\n");
    let tip = world.commit("elsewhere");
    world.git(&["tag", "v1.4.4"]);
    let ran = world.released("v1.4.4", &tip).run(&["run"]);
    ran.must(0, "event.off-default");
    assert!(ran.err.contains("no branch for hot fixes (hotfix/*) holds it"), "{}", ran.err);
    world.configure("hotfix: {branches: [\"hotfix/*\"], to: staging}", "hotfix: forbid");
    let ran = world.run(&["run"]);
    ran.must(0, "event.off-default");
    assert!(ran.err.contains("`hotfix: forbid`"), "{}", ran.err);
}

/// A runner's checkout of one commit, nothing before it, and no tags.
pub fn shallow(world: &World, branch: &str) -> std::path::PathBuf {
    let folder = world.path(".shallow");
    let from = format!("file://{}", world.folder.path().display());
    let cloned = Command::new("git")
        .args(["clone", "--quiet", "--depth", "1", "--no-tags", "--branch", branch, &from, &folder.display().to_string()])
        .status();
    assert!(cloned.unwrap().success());
    folder
}

#[test]
fn a_shallow_clone_asks_the_forge() {
    let world = fixed(false);
    let folder = shallow(&world, "hotfix/1.4.3");
    let run = |version: &str| {
        let output = world.command(&["hotfix", version, "--branch", "hotfix/1.4.3"]).current_dir(&folder).output().unwrap();
        world.ran(output)
    };
    let ran = run("1.4.4");
    ran.must(4, "gate.hotfix");
    let ran = run("1.4.3");
    ran.must(0, "deploy.done");
    assert!(ran.count("/compare/") > 0, "{}", ran.log.join("\n"));
}

#[test]
fn as_a_step_it_takes_version_and_branch() {
    let mut world = fixed(false);
    let payload =
        json!({"ref": "refs/heads/main", "inputs": null, "repository": crate::world::repository(), "sender": {"login": "octocat"}});
    world.event("workflow_dispatch", &payload).var("INPUT_COMMAND", "hotfix");
    world.run(&[]).must(2, "input.invalid");
    world.var("INPUT_VERSION", "1.4.3").var("INPUT_BRANCH", "hotfix/1.4.3").run(&[]).must(0, "deploy.done");
}
