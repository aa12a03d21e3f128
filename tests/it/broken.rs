//! A network that breaks: answers that end in the middle, requests that never arrive, clocks that are wrong. What was asked for
//! happens once, or the run says what it does not know.

use crate::proxy::{Break, Proxy};
use crate::world::World;
use std::time::Duration;

/// One delivery is one switch, one record that ends well, one comment.
fn once(world: &World, ran: &crate::world::Ran, what: &str) {
    ran.must(0, "deploy.done");
    assert!(!ran.err.contains("warning"), "{what}: {}", ran.err);
    assert_eq!(ran.count("PATCH /kube/apis/apps/v1/namespaces/dev/deployments/web"), 1, "{what}: {:?}", ran.log);
    assert_eq!(world.deployments(), [["in_progress", "success"]], "{what}");
    assert_eq!(world.comments().len(), 1, "{what}");
}

const EVERYTHING: [&str; 12] = [
    "GET /github/repos/acme/demo/commits",
    "POST /github/repos/acme/demo/git/refs",
    "GET /github/repos/acme/demo/git/matching-refs",
    "POST /github/repos/acme/demo/deployments ",
    "/statuses",
    "GET /github/repos/acme/demo/issues/12/comments",
    "POST /github/repos/acme/demo/issues/12/comments",
    "POST /aws",
    "GET /v2/demo/manifests",
    "HEAD /v2/demo",
    "PUT /v2/demo/manifests/latest",
    "GET /kube/apis/apps/v1/namespaces/dev/deployments/web",
];

/// Nothing of the answer, a part of its head, or a part of its body: the deed was done each time.
#[test]
fn an_answer_that_breaks_off_anywhere_makes_nothing_twice() {
    for on in EVERYTHING {
        for bytes in [0, 40, 260] {
            let mut world = World::new();
            let proxy = Proxy::before(&mut world);
            proxy.rule(on, 1, Break::Answer(bytes));
            let ran = world.pushed().run(&["run"]);
            once(&world, &ran, &format!("{on} breaks off after {bytes} bytes"));
        }
    }
}

/// The outside never saw it.
#[test]
fn a_request_that_never_arrives_is_sent_again() {
    for on in EVERYTHING {
        let mut world = World::new();
        let proxy = Proxy::before(&mut world);
        proxy.rule(on, 2, Break::Request(0));
        let ran = world.pushed().run(&["run"]);
        once(&world, &ran, on);
    }
}

/// The change was made, and its answer was lost: the cluster is looked at, and followed.
#[test]
fn a_switch_whose_answer_is_lost_is_found_out() {
    for how in [Break::Answer(0), Break::Answer(300), Break::Request(0)] {
        let mut world = World::new();
        let proxy = Proxy::before(&mut world);
        proxy.rule("PATCH /kube", 1, how);
        let ran = world.pushed().run(&["run"]);
        ran.must(0, "deploy.done");
        assert_eq!(world.sandbox.with(|outside| outside.cluster.switches.len()), 1, "{how:?}: {:?}", ran.log);
        assert_eq!(world.deployments(), [["in_progress", "success"]], "{how:?}");
    }
}

/// The last answer never comes, whatever is tried: the run does not say that it deployed.
#[test]
fn what_is_never_answered_is_never_said_to_run() {
    let mut world = World::new();
    let proxy = Proxy::before(&mut world);
    proxy.rule("/kube/apis/apps/v1/namespaces/dev/deployments", 1000, Break::Answer(0));
    let ran = world.pushed().run(&["run"]);
    assert!(matches!(ran.code, 1 | 3), "{} {}", ran.code, ran.err);
    assert!(!ran.err.contains("runs on dev"), "{}", ran.err);
    assert_ne!(world.deployments()[0].last().map(String::as_str), Some("success"));
}

/// AWS refuses what is signed with a clock that is more than five minutes off. Its own answers say what time it is.
#[test]
fn a_clock_that_is_wrong_is_corrected_by_what_aws_says() {
    for offset in [-1200, 1200] {
        let mut world = World::new();
        world.configure("tags: [latest]", "tags: [latest]\n    gates:\n      - drain: {queues: [jobs], quiet: 1s, timeout: 60s}");
        world.configure("images:", "state: s3://acme-state/tide\nimages:");
        world.commit("state in a bucket");
        world.sandbox.with(|outside| {
            outside.aws_clock = offset;
            outside.s3.buckets.push("acme-state".into());
        });
        let aws = format!("{}/", world.get("AWS_ENDPOINT_URL"));
        world.var("AWS_ENDPOINT_URL_S3", aws);
        let ran = world.pushed().run(&["run"]);
        ran.must(0, "deploy.done");
        let refused = ran.log.iter().filter(|line| line.contains("→ 403")).count();
        assert!(refused > 0, "the clock of AWS was never looked at: {:?}", ran.log);
    }
}

/// A forge that is slow is waited for, within the time that telling may take.
#[test]
fn a_late_answer_is_waited_for() {
    let mut world = World::new();
    let proxy = Proxy::before(&mut world);
    proxy.rule("POST /github/repos/acme/demo/deployments ", 1, Break::Late(Duration::from_secs(3)));
    let ran = world.pushed().run(&["run"]);
    once(&world, &ran, "a record that took three seconds");
    assert_eq!(proxy.left().len(), 0);
}
