//! A network that breaks: answers that end in the middle, requests that never arrive, clocks that are wrong. What was asked for
//! happens once, or the run says what it does not know.

use crate::proxy::{Break, Proxy};
use crate::world::World;
use serde_json::json;
use std::time::Duration;
use tidegate::rehearse::sandbox::Fault;

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

/// The engine goes away in the midst of a build or of a push: it is named, nothing is switched, and the next run does it.
#[test]
fn an_engine_that_dies_is_named_and_the_next_run_succeeds() {
    for (on, reason) in [("POST /build", "build.failed"), ("/push?", "push.failed")] {
        let mut world = World::new();
        let proxy = Proxy::before(&mut world);
        proxy.rule(on, 9, Break::Answer(120));
        let ran = world.pushed().run(&["run"]);
        ran.must(1, reason);
        assert!(ran.err.contains("run the job again") || ran.err.contains("running again pushes the rest"), "{}", ran.err);
        assert!(world.runs_on("dev").contains(":old@") && ran.count("PATCH /kube") == 0, "{on}: {:?}", ran.log);
        assert!(world.deployments().iter().flatten().all(|state| state != "success"), "{on}");
        proxy.heal();
        world.run(&["run"]).must(0, "deploy.done");
    }
}

/// A watch that ends, breaks off in the midst of an event, or is told that it is too old, is begun again; none is begun in a hurry.
#[test]
fn a_watch_that_breaks_is_begun_again() {
    for bytes in [0, 200, 700] {
        let mut world = World::new();
        let proxy = Proxy::before(&mut world);
        proxy.rule("deployments?&watch", 2, Break::Answer(bytes));
        let ran = world.pushed().run(&["run"]);
        ran.must(0, "deploy.done");
        assert_eq!(proxy.left().len(), 0, "{bytes}: the watch was never broken: {:?}", ran.log);
        assert!(ran.count("&watch") < 12, "{bytes}: {:?}", ran.log);
    }
    let mut world = World::new();
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old resource version"});
    world.sandbox.with(|outside| {
        outside.faults.push(Fault { on: "deployments?&watch", times: 1, status: 410, headers: vec![], body, after_effect: false });
    });
    world.pushed().run(&["run"]).must(0, "deploy.done");
}

/// Registry, ECR and the forge say "not now", with and without a time.
#[test]
fn busy_servers_are_waited_for() {
    for (on, status, headers) in [
        ("GET /v2/demo", 429, vec![("retry-after", "1")]),
        ("GET /v2/demo", 429, vec![]),
        ("GET /v2/demo", 503, vec![]),
        ("GET /kube/apis/apps/v1/namespaces/dev/deployments/web", 429, vec![("retry-after", "1")]),
        ("GET /kube/apis/apps/v1/namespaces/dev/deployments/web", 503, vec![]),
    ] {
        let mut world = World::new();
        let body = json!({"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}], "kind": "Status", "code": status, "message": "slow down"});
        world.sandbox.with(|outside| {
            outside.faults.push(Fault { on, times: 2, status, headers, body, after_effect: false });
        });
        let ran = world.pushed().run(&["run"]);
        once(&world, &ran, &format!("{on} {status}"));
        assert!(world.sandbox.with(|outside| outside.faults[0].times) == 0, "{on} was not asked");
    }
}

/// Twenty runs at once, and every third request to ECR is throttled: all succeed, with less than three times the requests.
#[test]
fn throttling_fails_nobody() {
    let mut world = World::new();
    world.configure(
        "    deploy:\n      - kubernetes: {namespace: dev, workloads: [deployment/web], image: app, timeout: 5s}\n  staging",
        "  staging",
    );
    world.commit("only built and tagged");
    let quiet = world.pushed().run(&["run"]);
    quiet.must(0, "image.built");
    let alone = world.run(&["run"]).count("POST /aws/ AmazonEC2ContainerRegistry");
    assert!(alone > 0);
    world.sandbox.with(|outside| (outside.throttled, outside.log) = (Some(3), Vec::new()));
    let runs: Vec<_> = (0..20).map(|_| world.start(&["run"])).collect();
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let asked = world.sandbox.with(|outside| outside.log.iter().filter(|line| line.contains("AmazonEC2ContainerRegistry")).count());
    assert!(asked <= 20 * alone * 3, "{asked} requests for what takes {alone}");
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
