//! `[tidegate skip]` and the like, in commit messages and pull requests: taken from those who may, and from nobody else.

use crate::life::Page;
use crate::world::{Ran, World};
use serde_json::{Value, json};
use tidegate::rehearse::gitlab::MergeRequest;

/// A repository that takes directives of its members, with a variable.
fn world(trust: &str) -> World {
    let world = World::new();
    let variables = "variables: {mode: {default: slow}}\n";
    world.configure("images:\n", &format!("trust: {{{trust}}}\n{variables}images:\n"));
    world.configure("name: \"{project}-pr-{pr}\"", "name: \"{project}-pr-{pr}\"\n    url: \"https://{var.mode}.example.com/\"");
    world.commit("who may say what");
    world
}

/// By a pull request, or directly.
fn pushed(world: &mut World, message: &str, by: Option<u64>) -> Ran {
    let head = world.head();
    let payload = json!({
        "ref": "refs/heads/main", "before": "0".repeat(40), "after": head, "created": false, "deleted": false, "forced": false,
        "head_commit": {"id": head, "message": message}, "repository": crate::world::repository(), "sender": {"login": "octocat"},
    });
    world.pushed();
    world.sandbox.with(|outside| outside.github.pulls = by.map(|number| (head.clone(), number)).into_iter().collect());
    world.event("push", &payload).run(&["run"])
}

fn opened(world: &mut World, association: &str, body: &str, change: impl Fn(&mut Value)) -> Ran {
    let with = |payload: &mut Value| {
        payload["pull_request"]["title"] = json!("A change");
        payload["pull_request"]["body"] = json!(body);
        payload["pull_request"]["author_association"] = json!(association);
        change(payload);
    };
    world.pull_request("opened", with).run(&["run"])
}

#[test]
fn a_member_skips_a_merge() {
    let mut world = world("directives: [MEMBER]");
    world.sandbox.with(|outside| {
        outside.github.permissions.insert("octocat".into(), "write".into());
    });
    let ran = pushed(&mut world, "A change\n\n[tidegate skip]", None);
    ran.must(0, "event.directive");
    assert!(ran.err.contains("[tidegate skip] is written in the commit message"), "{}", ran.err);
    Page::default().shows("directive", "tidegate run", &ran);
    assert_eq!(ran.count("POST /build"), 0);
    // Talking about it is not saying it; and whoever asks by name is answered.
    pushed(&mut world, "Tell of `[tidegate skip]`\n\n> [tidegate skip]", None).must(0, "deploy.done");
    let mut world = self::world("directives: [MEMBER]");
    pushed(&mut world, "[tidegate skip]", None);
    world.run(&["merge"]).must(0, "deploy.done");
}

/// A squash carries the words of whoever opened the pull request.
#[test]
fn a_squashed_message_is_the_pull_requests() {
    let mut world = world("directives: [OWNER, MEMBER]");
    world.sandbox.with(|outside| {
        outside.github.associations.insert(12, "CONTRIBUTOR".into());
        outside.github.permissions.insert("octocat".into(), "admin".into());
    });
    let ran = pushed(&mut world, "A change (#12)\n\n[tidegate skip]", Some(12));
    ran.must(0, "deploy.done");
    assert!(
        ran.err.contains("[tidegate skip] is not taken: its author is CONTRIBUTOR, and `trust.directives` names OWNER, MEMBER"),
        "{}",
        ran.err
    );
    world.sandbox.with(|outside| outside.github.associations.insert(12, "OWNER".into()));
    pushed(&mut world, "A change (#12)\n\n[tidegate skip]", Some(12)).must(0, "event.directive");
}

#[test]
fn without_trust_nothing_is_taken() {
    let mut world = World::new();
    let ran = opened(&mut world, "OWNER", "[tidegate skip]", |_| {});
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("[tidegate skip] is not taken: `trust.directives` of tidegate.yml names nobody"), "{}", ran.err);
    let mut world = self::world("directives: [OWNER]");
    let ran = opened(&mut world, "MEMBER", "[tidegate preview=off]", |_| {});
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("its author is MEMBER"), "{}", ran.err);
    // A pusher of whom GitHub says nothing.
    let ran = pushed(&mut world, "[tidegate skip]", None);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("its author is nobody that the forge knows here"), "{}", ran.err);
}

#[test]
fn a_pull_request_says_whether_it_wants_a_preview() {
    let mut world = world("directives: [MEMBER]");
    let ran = opened(&mut world, "MEMBER", "[tidegate preview=off]", |_| {});
    ran.must(0, "event.directive");
    assert_eq!(ran.log, Vec::<String>::new(), "the event says all that is needed");
    let draft = |payload: &mut Value| payload["pull_request"]["draft"] = json!(true);
    opened(&mut world, "MEMBER", "", draft).must(0, "event.draft");
    let ran = opened(&mut world, "MEMBER", "[tidegate preview=on]\n[tidegate set mode=fast]", draft);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("is open, and asks for a preview"), "{}", ran.err);
    assert_eq!(ran.outputs["url"], "https://fast.example.com/");
    let status = world.sandbox.with(|outside| outside.github.deployments[0].statuses.last().unwrap().1.clone());
    assert_eq!(status["environment_url"], "https://fast.example.com/");
    assert!(world.comments()[0].contains("| url | <https://fast.example.com/> |"), "{}", world.comments()[0]);
    // A stranger's fork gets nothing, whatever it says.
    let fork = |payload: &mut Value| payload["pull_request"]["head"]["repo"] = json!({"id": 2, "full_name": "mallory/demo"});
    opened(&mut world, "OWNER", "[tidegate preview=on]", fork).must(0, "event.fork");
}

#[test]
fn what_is_no_directive_is_named() {
    let mut world = world("directives: [MEMBER]");
    let ran = opened(&mut world, "MEMBER", "[tidegate skp] [tidegate set speed=1]", |_| {});
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("[tidegate skp] is no directive: write skip, preview=off, preview=on or set NAME=VALUE"), "{}", ran.err);
    assert!(ran.err.contains("there is no variable \"speed\" in tidegate.yml"), "{}", ran.err);
    // What is set goes over defaults, and `--set` goes over that.
    let ran = world.run(&["plan", "--set", "mode=exact"]);
    assert!(ran.err.contains("url     https://exact.example.com/"), "{}", ran.err);
}

/// Dependabot's runs have Dependabot's secrets, where those were given.
#[test]
fn a_trusted_bot_gets_previews_and_is_not_heard() {
    let bot = |payload: &mut Value| {
        payload["sender"]["login"] = json!("dependabot[bot]");
        payload["pull_request"]["user"]["login"] = json!("dependabot[bot]");
    };
    let mut world = world("directives: [MEMBER]");
    opened(&mut world, "CONTRIBUTOR", "", bot).must(0, "event.no-secrets");
    let mut world = self::world("bots: [dependabot]");
    opened(&mut world, "CONTRIBUTOR", "", bot).must(0, "deploy.done");
    // What it copies from elsewhere is nobody's word.
    let ran = opened(&mut world, "CONTRIBUTOR", "<blockquote>[tidegate preview=off]</blockquote> [tidegate preview=off]", bot);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("`trust.directives` of tidegate.yml names nobody"), "{}", ran.err);
}

#[test]
fn on_gitlab_members_are_asked_for() {
    let mut world = world("directives: [MEMBER]");
    let head = world.head();
    world
        .on_gitlab("push")
        .var("CI_COMMIT_SHA", &head)
        .var("CI_COMMIT_BRANCH", "main")
        .var("CI_COMMIT_MESSAGE", "A change\n[tidegate skip]");
    world.sandbox.with(|outside| {
        let merged = MergeRequest { state: "merged".into(), sha: head.clone(), merge_commit: Some(head.clone()), source_project: 7 };
        outside.gitlab.merge_requests.insert(12, merged);
        outside.gitlab.members.insert("ada".into(), 30);
        outside.gitlab.members.insert("ada2".into(), 50);
    });
    world.run(&["run"]).must(0, "event.directive");
    world.sandbox.with(|outside| outside.gitlab.members.insert("ada".into(), 20));
    let ran = world.run(&["plan"]);
    assert!(ran.err.contains("its author is nobody that the forge knows here") && ran.err.contains("deploy"), "{}", ran.err);
}

/// A preview of the head rather than of the test merge: then that must be checked out.
#[test]
fn a_preview_may_be_of_the_head() {
    let mut world = World::new();
    world.configure("images:\n", "comment: {preview-of-merge: false}\nimages:\n");
    world.commit("of the head");
    world.pull_request("opened", |_| {}).run(&["run"]).must(0, "deploy.done");
    let head = world.head();
    world.commit("a test merge");
    let ran = world.pull_request("opened", |payload| payload["pull_request"]["head"]["sha"] = json!(head)).run(&["run"]);
    ran.must(0, "deploy.done"); // that head has its image already
    let head = world.commit("one more");
    let merge = world.commit("its test merge");
    let payload = |payload: &mut Value| payload["pull_request"]["head"]["sha"] = json!(head);
    let ran = world.pull_request("opened", payload).var("GITHUB_SHA", merge.clone()).run(&["run"]);
    ran.must(2, "input.version");
    assert!(ran.err.contains(&format!("check out {head} first")), "{}", ran.err);
    world.configure("preview-of-merge: false", "preview-of-merge: true");
    world.run(&["run"]).must(0, "deploy.done");
}
