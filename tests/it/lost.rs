//! Answers that are lost after the deed, and stores that go away: counted once, or not done at all.

use crate::world::World;
use serde_json::json;
use tidegate::rehearse::sandbox::Fault;

fn lose(on: &'static str, times: usize) -> Fault {
    Fault { on, times, status: 502, headers: vec![], body: json!({"message": "Bad Gateway"}), after_effect: true }
}

/// Each of these took effect, and the answer never came.
#[test]
fn an_answer_that_is_lost_makes_nothing_twice() {
    for on in [
        "POST /github/repos/acme/demo/deployments ",
        "/statuses",
        "POST /github/repos/acme/demo/issues/12/comments",
        "POST /github/repos/acme/demo/git/refs",
        "POST /github/repos/acme/demo/git/commits",
        "PATCH /github/repos/acme/demo/git/refs",
    ] {
        let mut world = World::new();
        let on = on.trim_end();
        world.sandbox.with(|outside| outside.faults.push(lose(on, 1)));
        let ran = world.pushed().run(&["run"]);
        ran.must(0, "deploy.done");
        assert!(!ran.err.contains("::warning"), "{on}: {}", ran.err);
        assert_eq!(world.deployments(), [["in_progress", "success"]], "{on}");
        assert_eq!(world.comments().len(), 1, "{on}");
        assert_eq!(ran.count("PATCH /kube"), 1, "{on}");
        let refs = world.sandbox.with(|outside| outside.github.refs.len());
        assert_eq!(refs, 1, "{on}: one lease, and it is free");
    }
}

/// Without a store nobody knows who else is at it.
#[test]
fn a_store_that_is_away_refuses() {
    let mut world = World::new();
    world.pushed().var("GITHUB_API_URL", "http://127.0.0.1:1");
    let ran = world.run(&["run"]);
    ran.must(4, "lock.unreachable");
    assert!(ran.err.contains("nothing was switched") && ran.err.contains("`state:`"), "{}", ran.err);
    assert_eq!(ran.count("PATCH /kube") + ran.count("POST /build"), 0);
    let mut world = World::new();
    world.without("GITHUB_TOKEN");
    let ran = world.pushed().run(&["run"]);
    ran.must(4, "lock.unreachable");
    assert!(ran.err.contains("no token") && ran.err.contains("contents: write"), "{}", ran.err);
    for state in ["redis://127.0.0.1:1", "s3://acme-state", "file:tidegate.yml/state"] {
        let mut world = World::new();
        world.configure("images:", &format!("state: \"{state}\"\nimages:"));
        world.commit("state");
        world.var("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1");
        let ran = world.pushed().run(&["run"]);
        ran.must(4, "lock.unreachable");
        assert_eq!(ran.count("PATCH /kube") + ran.count("POST /build"), 0, "{state}");
    }
}

#[test]
fn a_token_that_may_not_write_is_told_which_line_is_missing() {
    for (on, line) in [
        ("POST /github/repos/acme/demo/git/commits", "contents: write"),
        ("POST /github/repos/acme/demo/deployments", "deployments: write"),
    ] {
        let mut world = World::new();
        let body = json!({"message": "Resource not accessible by integration"});
        let fault = Fault { on, times: 9, status: 403, headers: vec![], body, after_effect: false };
        world.sandbox.with(|outside| outside.faults.push(fault));
        let ran = world.pushed().run(&["run"]);
        ran.must(4, "lock.unreachable");
        assert!(ran.err.contains(line), "{}", ran.err);
        assert_eq!(ran.count("PATCH /kube"), 0);
    }
}

/// The store goes away while the run holds the lease and waits: it stops before the switch, since others may go now.
#[test]
fn a_store_that_goes_away_in_the_middle_stops_the_run() {
    let mut world = World::new();
    world.configure("tags: [latest]", "gates:\n      - drain: {queues: [jobs], quiet: 1s, timeout: 10m}");
    world.commit("drain");
    world.var("TIDEGATE_LEASE_EXPIRY", "2s");
    world.sandbox.with(|outside| outside.queues.insert(("us-west-2".into(), "jobs".into()), [[5, 0, 0]].into_iter().collect()));
    let run = world.pushed().run_until(&["run"], "✓ record");
    world.sandbox.with(|outside| outside.holds.push("/git/".into()));
    let rest = run.ends(1);
    world.sandbox.open();
    assert!(rest.contains("could not be renewed in time (lock.lost)"), "{rest}");
    assert!(world.runs_on("dev").contains(":old@"));
    // The next run finds the lease dead and the record open, and goes on with it.
    world.sandbox.with(|outside| outside.queues.insert(("us-west-2".into(), "jobs".into()), [[0, 0, 0]].into_iter().collect()));
    world.run(&["run"]).must(0, "deploy.done");
    assert_eq!(world.deployments(), [["in_progress", "in_progress", "success"]]);
}
