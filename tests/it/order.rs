//! Who may go: what is newer than what runs, whose lease it is, and what a target or a store says against it.

use crate::world::World;
use serde_json::{Value, json};

/// A commit that is on another line than the branch's.
fn aside(world: &World) -> String {
    let main = world.head();
    world.git(&["checkout", "--quiet", "--orphan", "aside"]);
    world.write("app", "aside\n");
    world.git(&["add", "tidegate.yml", "Dockerfile", "app"]);
    world.git(&["commit", "--quiet", "-m", "aside"]);
    let sha = world.head();
    world.sandbox.with(|outside| outside.github.others.push(sha.clone()));
    world.git(&["checkout", "--quiet", "--detach", &main]);
    sha
}

#[test]
fn a_force_pushed_tip_is_newer_and_any_other_stray_commit_is_not() {
    let mut world = World::new();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let stray = aside(&world);
    world.git(&["checkout", "--quiet", &stray]);
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "order.superseded");
    assert!(ran.err.contains("is on another line") && ran.err.contains("not the tip of its branch"), "{}", ran.err);
    // The same commit, now at the end of main: history was rewritten.
    world.sandbox.with(|outside| outside.github.history.push(stray.clone()));
    world.sandbox.with(|outside| outside.github.others.clear());
    world.run(&["run"]).must(0, "deploy.done");
    assert!(world.runs_on("dev").contains(&stray[..7]));
}

#[test]
fn where_nobody_knows_both_commits_the_order_of_runs_decides() {
    let mut world = World::new();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let stray = aside(&world);
    world.git(&["checkout", "--quiet", &stray]);
    // The forge has forgotten what runs, and this clone cannot say either.
    world.sandbox.with(|outside| outside.github.others.clear());
    world.git(&["remote", "add", "origin", "https://github.com/acme/demo.git"]);
    std::fs::write(world.path(".git/shallow"), format!("{stray}\n")).unwrap();
    let known = world.sandbox.with(|outside| std::mem::take(&mut outside.github.history));
    world.sandbox.with(|outside| outside.github.history.push(known[0].clone()));
    let older = world.pushed().var("GITHUB_RUN_ID", "76").run(&["run"]);
    older.must(0, "order.superseded");
    assert!(older.err.contains("comes from an earlier run"), "{}", older.err);
    let ran = world.var("GITHUB_RUN_ID", "strange").run(&["run"]);
    ran.must(4, "order.unknown");
    assert!(ran.err.contains("tidegate deploy dev"), "{}", ran.err);
    assert_eq!(ran.count("PATCH /kube"), 0);
    world.var("GITHUB_RUN_ID", "78").run(&["run"]).must(0, "deploy.done");
}

#[test]
fn of_the_same_commit_the_lower_version_is_superseded() {
    let mut world = World::new();
    world.configure("    when: release\n", "    when: release\n    prereleases: true\n");
    world.commit("prereleases");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let sha = world.head();
    world.released("v1.0.0-rc.1", &sha).run(&["run"]).must(0, "deploy.done");
    world.released("v1.0.0", &sha).run(&["run"]).must(0, "deploy.done");
    let late = world.released("v1.0.0-rc.1", &sha).run(&["run"]);
    late.must(0, "order.superseded");
    assert!(late.err.contains("1.0.0-rc.1 is a lower version of the same commit than 1.0.0"), "{}", late.err);
    assert!(world.runs_on("staging").contains(":1.0.0@"));
}

/// Second line: whatever the store says, a workload that was changed under a later lease is left alone.
#[test]
fn a_workload_of_a_later_lease_is_not_changed() {
    let mut world = World::new();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let annotation = |world: &World| {
        world.sandbox.with(|outside| {
            let key = ("deployments".to_owned(), "dev".to_owned(), "web".to_owned());
            outside.cluster.objects[&key]["metadata"]["annotations"]["tidegate.dev/lease"].clone()
        })
    };
    assert_eq!(annotation(&world), "forge:acme/demo:demo/dev#1");
    world.sandbox.with(|outside| {
        let key = ("deployments".to_owned(), "dev".to_owned(), "web".to_owned());
        outside.cluster.objects.get_mut(&key).unwrap()["metadata"]["annotations"]["tidegate.dev/lease"] =
            json!("forge:acme/demo:demo/dev#9");
    });
    world.write("app", "two\n");
    world.commit("two");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "lock.lost");
    assert!(ran.err.contains("#9") && ran.err.contains("#2") && ran.err.contains("remove the annotation"), "{}", ran.err);
    assert_eq!(ran.count("PATCH /kube"), 0);
    // Numbers of another store say nothing.
    world.sandbox.with(|outside| {
        let key = ("deployments".to_owned(), "dev".to_owned(), "web".to_owned());
        outside.cluster.objects.get_mut(&key).unwrap()["metadata"]["annotations"]["tidegate.dev/lease"] = json!("redis://cache:demo/dev#9");
    });
    world.run(&["run"]).must(0, "deploy.done");
}

/// A lease of another run, as it would stand on the forge.
fn lease_of(world: &World, run: &str, since: &str) {
    let run = json!({"repository": "acme/demo", "id": run, "attempt": 1, "url": "https://github.com/acme/demo/actions/runs/5"});
    let holder = json!({"who": "mona", "doing": "abc1234", "run": run, "process": null});
    let sheet = json!({"schema": 1, "fence": 7, "nonce": "n", "holder": holder, "since": since, "seconds": 60, "sign": 0, "reason": null});
    world.sandbox.with(|outside| {
        outside.github.messages.insert("5".repeat(40), sheet.to_string());
        outside.github.refs.insert("refs/tidegate/demo/dev/lock/lease-0000000007".into(), "5".repeat(40));
    });
}

/// The holder's clock is for people: neither one that is ahead nor one that is behind ends a lease.
#[test]
fn the_time_of_day_ends_no_lease() {
    for since in ["1970-01-01T00:00:00Z", "2099-01-01T00:00:00Z", "not a time"] {
        let mut world = World::new();
        lease_of(&world, "5", since);
        world.sandbox.with(|outside| outside.github.runs.insert("5".into(), (1, false)));
        let ran = world.pushed().run(&["run", "--lock-timeout", "500ms"]);
        ran.must(3, "lock.timeout");
        assert!(ran.err.contains("run 5 (mona, abc1234)"), "{since}: {}", ran.err);
        assert_eq!(ran.count("PATCH /kube"), 0);
    }
}

/// GitHub says that the holder's run is over, or that it is tried again: nobody waits for its lease to run out.
#[test]
fn the_lease_of_a_run_that_has_ended_is_taken_over_at_once() {
    for (attempt, ended) in [(1, true), (2, false)] {
        let mut world = World::new();
        lease_of(&world, "5", "2026-01-01T00:00:00Z");
        world.sandbox.with(|outside| outside.github.runs.insert("5".into(), (attempt, ended)));
        let ran = world.pushed().run(&["run", "--lock-timeout", "500ms"]);
        ran.must(0, "deploy.done");
        assert!(ran.err.contains("taken over: run 5 (mona, abc1234) has ended without releasing it"), "{}", ran.err);
        assert!(ran.err.contains("lease 8 of demo/dev"), "{}", ran.err);
    }
}

/// Lying twins: the store says yes and does no.
#[test]
fn a_lease_or_record_that_is_confirmed_and_forgotten_is_not_believed() {
    let mut world = World::new();
    world.sandbox.with(|outside| outside.github.forgets_refs = true);
    let ran = world.pushed().run(&["run", "--lock-timeout", "1s"]);
    ran.must(3, "lock.timeout");
    assert_eq!(ran.count("PATCH /kube"), 0);
    world.sandbox.with(|outside| (outside.github.forgets_refs, outside.github.forgets_deployments) = (false, true));
    let ran = world.run(&["run"]);
    ran.must(4, "lock.unreachable");
    assert_eq!(ran.count("PATCH /kube"), 0);
}

#[test]
fn a_file_on_a_runner_guards_nothing_that_people_guard() {
    let mut world = World::new();
    world.configure("images:", "state: \"file:.state\"\nimages:");
    let sha = world.commit("files");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("holds back no other run"), "{}", ran.err);
    let ran = world.run(&["deploy", "production", &sha]);
    ran.must(4, "lock.scope");
    assert_eq!(ran.count("PATCH /kube"), 0);
    let plan = world.run(&["plan", "--format", "json"]);
    let lock = serde_json::from_str::<Value>(&plan.out).unwrap()["lock"].clone();
    assert_eq!((&lock["store"], &lock["key"]), (&json!("file"), &json!("demo/dev")));
    assert!(lock["scope"].as_str().unwrap().starts_with("this machine only"), "{lock}");
    // On a laptop a file is what there is.
    world.without("GITHUB_ACTIONS");
    world.run(&["deploy", "production", &sha, "--repository", "acme/demo"]).must(0, "deploy.done");
}

/// A pull request that is closed while its preview is deployed: the deploy ends first, then the records are closed.
#[test]
fn closing_waits_for_the_preview_that_is_being_deployed() {
    let mut world = World::new();
    world.var("TIDEGATE_LEASE_EXPIRY", "6s");
    world.sandbox.with(|outside| outside.holds.push("PATCH /kube".into()));
    let opening = world.pull_request("opened", |_| {}).start(&["run"]);
    world.until("the preview is switched", |outside| outside.held == 1);
    let closing = world.pull_request("closed", |payload| payload["pull_request"]["merged"] = json!(true)).start(&["run"]);
    world.until("the closing run waits", |outside| outside.github.refs.keys().any(|name| name.contains("/wait-")));
    world.sandbox.open();
    assert!(opening.wait_with_output().unwrap().status.success());
    let closed = closing.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&closed.stderr).into_owned();
    assert!(closed.status.success() && said.contains("waiting for the lease demo/demo-pr-12"), "{said}");
    assert_eq!(world.deployments(), [["in_progress", "success", "inactive"]]);
    let again = world.run(&["run"]);
    assert_eq!(again.log.iter().filter(|line| !line.starts_with("GET ")).count(), 0, "{:?}", again.log);
}

/// A repository with two projects: what one of them does hides nothing of the other's history.
#[test]
fn another_projects_records_hide_nothing() {
    let mut world = World::new();
    let old = world.head();
    world.write("app", "two\n");
    world.commit("two");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.sandbox.with(|outside| {
        let own = outside.github.deployments[0].clone();
        for id in 1..=130 {
            let mut other = own.clone();
            (other.id, other.request["payload"]["project"]) = (5000 + id, json!("api"));
            outside.github.deployments.push(other);
        }
    });
    world.git(&["checkout", "--quiet", &old]);
    world.pushed().run(&["run"]).must(0, "order.superseded");
}

/// Somebody deletes "the stuck lock": numbers go on, and what the targets hold stays behind them.
#[test]
fn numbers_never_fall() {
    let mut world = World::new();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.write("app", "two\n");
    world.commit("two");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.sandbox.with(|outside| outside.github.refs.clear());
    world.write("app", "three\n");
    world.commit("three");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("lease 3 of demo/dev"), "{}", ran.err);
}

/// A push starts a long build, the pull request is closed meanwhile, and the removal is through before the image is there.
#[test]
fn a_preview_of_a_closed_pull_request_is_not_deployed() {
    let mut world = World::new();
    world.sandbox.with(|outside| outside.holds.push("POST /build".into()));
    let building = world.pull_request("synchronize", |_| {}).start(&["run"]);
    world.until("it builds", |outside| outside.held == 1);
    world.sandbox.with(|outside| outside.github.closed.push(12));
    world.sandbox.open();
    let output = building.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("pull request 12 was closed meanwhile"), "{said}");
    assert!(world.runs_on("demo-pr-12").contains(":old@") && world.deployments().is_empty(), "{said}");
}

/// A release and its tag push, or two jobs for one event: the second one waits, and finds it done.
#[test]
fn what_was_delivered_while_a_run_waited_is_not_delivered_again() {
    let mut world = World::new();
    world.var("TIDEGATE_LEASE_EXPIRY", "6s");
    world.pushed();
    world.sandbox.with(|outside| outside.holds.push("PATCH /kube".into()));
    let first = world.start(&["run"]);
    world.until("the first one switches", |outside| outside.held == 1);
    let second = world.command(&["run"]).env("GITHUB_RUN_ID", "78").stderr(std::process::Stdio::piped()).spawn().unwrap();
    world.until("the second one waits", |outside| outside.github.refs.keys().any(|name| name.contains("/wait-")));
    world.sandbox.open();
    assert!(first.wait_with_output().unwrap().status.success());
    let output = second.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("was delivered by run 77 while this run waited"), "{said}");
    assert_eq!(world.deployments(), [["in_progress", "success"]]);
}
