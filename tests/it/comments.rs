//! The one comment: found by marker and author, kept in one piece, and never the reason for a red deploy.

use crate::world::World;
use serde_json::json;
use tidegate::rehearse::github::Comment;
use tidegate::rehearse::sandbox::Fault;

fn fault(on: &'static str, times: usize, status: u16, headers: Vec<(&'static str, &'static str)>, body: serde_json::Value) -> Fault {
    Fault { on, times, status, headers, body, after_effect: false }
}

#[test]
fn each_environment_has_a_section_of_the_same_comment() {
    let mut world = World::new();
    let sha = world.head();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.released("v1.0.0", &sha).run(&["run"]).must(0, "deploy.done");
    let comments = world.comments();
    assert_eq!(comments.len(), 1);
    assert!(comments[0].contains("tidegate:section:dev") && comments[0].contains("tidegate:section:staging"), "{}", comments[0]);
}

#[test]
fn an_unchanged_comment_is_not_edited() {
    let mut world = World::new();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.run(&["run"]).must(0, "deploy.done"); // "reused" instead of "built"
    let third = world.run(&["run"]);
    third.must(0, "deploy.done");
    assert_eq!(third.count("PATCH /github"), 0);
    assert!(third.err.contains("comment unchanged"), "{}", third.err);
}

#[test]
fn a_planted_marker_is_ignored() {
    let mut world = World::new();
    let planted = |id, body: &str, author: (&str, bool)| Comment { id, pr: 12, author: (author.0.into(), author.1), body: body.into() };
    world.sandbox.with(|outside| {
        outside.github.comments.push(planted(1, "<!-- tidegate:demo -->\nmine now", ("mallory", false)));
        outside.github.comments.push(planted(2, "look: <!-- tidegate:demo -->", ("other[bot]", true)));
    });
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let comments = world.comments();
    assert_eq!((comments.len(), comments[0].as_str()), (3, "<!-- tidegate:demo -->\nmine now"));
}

#[test]
fn our_comment_is_found_behind_many_others() {
    let mut world = World::new();
    world.sandbox.with(|outside| {
        for id in 1..=250 {
            outside.github.comments.push(Comment { id, pr: 12, author: ("someone".into(), false), body: "hello".into() });
        }
    });
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.run(&["run"]).must(0, "deploy.done");
    assert_eq!(world.comments().len(), 251);
}

#[test]
fn eight_runs_at_once_leave_one_comment() {
    let mut world = World::new();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.sandbox.with(|outside| outside.github.comments.clear());
    let runs: Vec<_> = (0..8).map(|_| world.start(&["run"])).collect();
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(world.comments().len(), 1);
}

#[test]
fn a_token_without_permission_is_a_warning_that_names_the_line() {
    let mut world = World::new();
    let body = json!({"message": "Resource not accessible by integration"});
    world.sandbox.with(|outside| outside.faults.push(fault("POST /github/repos/acme/demo/issues", 9, 403, vec![], body)));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("`pull-requests: write`"), "{}", ran.err);
    assert_eq!(ran.count("POST /github/repos/acme/demo/issues"), 1, "a permission is not asked for twice");
}

#[test]
fn rate_limits_are_waited_out() {
    let mut world = World::new();
    let body = json!({"message": "You have exceeded a secondary rate limit"});
    world.sandbox.with(|outside| outside.faults.push(fault("POST /github/repos/acme/demo/", 2, 403, vec![("retry-after", "1")], body)));
    world.pushed().run(&["run"]).must(0, "deploy.done");
    assert_eq!(world.comments().len(), 1);
    assert_eq!(world.deployments(), [["in_progress", "success"]]);
}

#[test]
fn a_forge_that_is_down_does_not_make_a_deploy_red() {
    let mut world = World::new();
    world.configure("images:", "state: \"file:.state\"\nimages:");
    world.commit("state elsewhere");
    world.pushed().var("GITHUB_API_URL", "http://127.0.0.1:1");
    let ran = world.run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("is not shown on the forge") && ran.err.contains("holds back no other run"), "{}", ran.err);
}

#[test]
fn comments_can_be_for_failures_only() {
    let mut world = World::new();
    world.configure("images:", "comment: {mode: on-failure}\nimages:");
    world.commit("quiet");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    assert_eq!(world.comments().len(), 0);
    world.sandbox.with(|outside| outside.mood = tidegate::rehearse::sandbox::ClusterMood::ImagePull);
    world.write("app", "two\n");
    world.commit("two");
    world.pushed().run(&["run"]).must(1, "target.image-pull");
    assert_eq!(world.comments().len(), 1);
}
