//! Never twice, never backwards: two runs at once, runs that end late, are cancelled, killed or repeated.
//! Every story runs on every kind of store; the store is what `Keep` sets up.

use crate::world::{Going, Ran, World, signal};
use serde_json::Value;
use std::process::{Child, Command, Output, Stdio};

/// Points a world at a store.
pub type Keep = fn(&mut World);

/// The stories as tests, once for a store.
macro_rules! stories {
    ($store:ident, $keep:expr) => {
        mod $store {
            use crate::never_twice as story;
            #[test]
            fn the_older_run_ends_last() {
                story::the_older_run_ends_last($keep);
            }
            #[test]
            fn twenty_merges_at_once() {
                story::twenty_merges_at_once($keep);
            }
            #[test]
            fn a_stalled_holder_wakes_up_too_late() {
                story::a_stalled_holder_wakes_up_too_late($keep);
            }
            #[test]
            fn the_second_run_waits_for_the_first() {
                story::the_second_run_waits_for_the_first($keep);
            }
            #[test]
            fn a_finished_run_again_changes_nothing() {
                story::a_finished_run_again_changes_nothing($keep);
            }
            #[test]
            fn killed_anywhere_the_next_run_ends_it() {
                story::killed_anywhere_the_next_run_ends_it($keep);
            }
            #[test]
            fn cancelled_anywhere_the_next_run_ends_it() {
                story::cancelled_anywhere_the_next_run_ends_it($keep);
            }
            #[test]
            fn a_killed_run_leaves_its_producers_to_the_next_one() {
                story::a_killed_run_leaves_its_producers_to_the_next_one($keep);
            }
            #[test]
            fn a_lease_is_released_under_its_holder() {
                story::a_lease_is_released_under_its_holder($keep);
            }
            #[test]
            fn what_may_have_been_switched_counts_as_there() {
                story::what_may_have_been_switched_counts_as_there($keep);
            }
            #[test]
            fn a_killed_waiter_is_forgotten() {
                story::a_killed_waiter_is_forgotten($keep);
            }
            #[test]
            fn leases_are_seen_taken_and_released_by_hand() {
                story::leases_are_seen_taken_and_released_by_hand($keep);
            }
            #[test]
            fn a_lease_that_cannot_be_read_holds_everything_back() {
                story::a_lease_that_cannot_be_read_holds_everything_back($keep);
            }
        }
    };
}
pub(crate) use stories;

/// A world whose state is in this store, with one commit after the first.
fn world(keep: Keep) -> World {
    let mut world = World::new();
    keep(&mut world);
    world.commit("state");
    world
}

fn piped(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn ended(child: Child, code: i32, words: &str) -> String {
    let output = child.wait_with_output().unwrap();
    let said = text(&output);
    assert!(output.status.code() == Some(code) && said.contains(words), "wanted {code} {words:?}, got {:?}\n{said}", output.status);
    said
}

/// Every lease as `lock status` shows it.
fn leases(world: &World) -> Vec<Value> {
    let ran = world.run(&["lock", "status", "--format", "json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    serde_json::from_str::<Value>(&ran.out).unwrap()["leases"].as_array().unwrap().clone()
}

fn lease(world: &World, environment: &str) -> Value {
    leases(world).into_iter().find(|lease| lease["environment"] == environment).unwrap()
}

fn status(world: &World, environment: &str) -> Value {
    let ran = world.run(&["status", "--format", "json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let rows = serde_json::from_str::<Value>(&ran.out).unwrap()["environments"].as_array().unwrap().clone();
    rows.into_iter().find(|row| row["name"] == environment).unwrap()
}

/// Nobody holds or waits for anything.
#[track_caller]
fn all_free(world: &World) {
    for lease in leases(world) {
        assert!(lease["holder"].is_null() && lease["waiting"] == 0, "{lease}");
    }
}

/// The versions that were switched to, in order.
fn switched(world: &World) -> Vec<String> {
    let switches = world.sandbox.with(|outside| outside.cluster.switches.clone());
    switches.iter().map(|(_, image)| image.split(['@', ':']).nth(1).unwrap_or_default().to_owned()).collect()
}

/// Slow to build, quick to be overtaken: what was merged first must not end up on top.
pub fn the_older_run_ends_last(keep: Keep) {
    let world = world(keep);
    let (old, new) = (world.head(), {
        world.write("app", "two\n");
        world.commit("two")
    });
    world.sandbox.with(|outside| outside.holds.push(format!("demo%3A{}", &old[..7])));
    let late = piped(world.merge(&old, 1));
    world.until("the old run builds", |outside| outside.held == 1);
    ended(piped(world.merge(&new, 2)), 0, "runs on dev");
    world.sandbox.open();
    let said = ended(late, 0, "superseded: ");
    assert!(said.contains(&format!("{} is older than {}", &old[..7], &new[..7])) && said.contains("run 2 (octocat)"), "{said}");
    assert_eq!(switched(&world), [new[..7].to_owned()]);
    assert!(world.runs_on("dev").contains(&new[..7]));
    all_free(&world);
}

/// One at a time, never backwards, and in the end the last one; none leaves anything open.
pub fn twenty_merges_at_once(keep: Keep) {
    let mut world = world(keep);
    world.var("TIDEGATE_LEASE_EXPIRY", "12s");
    let commits: Vec<String> = (0..20)
        .map(|n| {
            world.write("app", &format!("{n}\n"));
            world.commit(&n.to_string())
        })
        .collect();
    commits.iter().for_each(|sha| drop(world.checkout(sha)));
    // Not in the order of their making: 0, 7, 14, 1, 8, …
    let runs: Vec<Child> = (0..20).map(|n| (n * 7) % 20).map(|n| piped(world.merge(&commits[n], n as u32 + 1))).collect();
    let mut superseded = 0;
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        superseded += usize::from(text(&output).contains("superseded: "));
    }
    let order: Vec<usize> = switched(&world).iter().map(|short| commits.iter().position(|sha| sha.starts_with(short)).unwrap()).collect();
    assert!(order.is_sorted() && order.last() == Some(&19), "never backwards, and the tip in the end: {order:?}");
    assert_eq!(order.len() + superseded, 20, "each one was switched to once or superseded: {order:?}");
    let fences: Vec<u64> = world
        .sandbox
        .with(|outside| outside.cluster.switches.clone())
        .iter()
        .map(|(lease, _)| lease.rsplit('#').next().unwrap().parse().unwrap())
        .collect();
    assert!(fences.windows(2).all(|pair| pair[0] < pair[1]), "each switch under a lease of its own: {fences:?}");
    assert!(world.runs_on("dev").contains(&commits[19][..7]));
    assert!(
        world.deployments().iter().all(|states| states.last().is_some_and(|state| state != "in_progress")),
        "{:?}",
        world.deployments()
    );
    all_free(&world);
}

const DRAIN: &str = "tags: [latest]\n    gates:\n      - drain: {queues: [jobs], quiet: 1s, timeout: 10m}";

/// A world with a drain before the switch, short leases, and two commits to merge.
fn two_merges(keep: Keep, expiry: &str) -> (World, String, String) {
    let mut world = world(keep);
    world.configure("tags: [latest]", DRAIN);
    world.var("TIDEGATE_LEASE_EXPIRY", expiry);
    let old = world.commit("drain");
    world.write("app", "two\n");
    let new = world.commit("two");
    (world, old, new)
}

fn busy(world: &World, messages: u64) {
    world.sandbox.with(|outside| outside.queues.insert(("us-west-2".into(), "jobs".into()), [[messages, 0, 0]].into_iter().collect()));
}

/// A run that holds the lease of dev and waits for a queue, and everything it says from then on.
fn draining(world: &World, sha: &str, run: u32) -> Going {
    busy(world, 5);
    let mut going = Going::start(world.merge(sha, run));
    going.until_all(&["✓ record", "5 visible"]); // queues are watched while the image is built
    going
}

/// Two runs for one lease, and the first one stands still: the second takes over, the first one may not go on.
pub fn a_stalled_holder_wakes_up_too_late(keep: Keep) {
    let (world, old, new) = two_merges(keep, "2s");
    world.checkout(&new);
    let stalled = draining(&world, &old, 1);
    stalled.signal("-STOP");
    busy(&world, 0);
    let said = ended(piped(world.merge(&new, 2)), 0, "runs on dev");
    assert!(said.contains("waiting for the lease demo/dev: held by run 1 (octocat") && said.contains("position 1"), "{said}");
    assert!(said.contains("is taken over: run 1") && said.contains("gave no sign of life"), "{said}");
    stalled.signal("-CONT");
    let woke = stalled.ends(1);
    assert!(woke.contains("(lock.lost)"), "{woke}");
    assert_eq!(switched(&world), [new[..7].to_owned()], "the stalled run switched nothing");
    all_free(&world);
}

/// The second run sees who is first, and goes on when it is done.
pub fn the_second_run_waits_for_the_first(keep: Keep) {
    let (world, old, new) = two_merges(keep, "4s");
    let first = draining(&world, &old, 1);
    let mut second = Going::start(world.merge(&new, 2));
    let waiting = second.until("waiting for the lease");
    assert!(waiting.contains("held by run 1 (octocat, ") && waiting.contains("giving up in"), "{waiting}");
    let third = world.merge(&new, 3).args(["--lock-timeout", "1s"]).output().unwrap();
    assert_eq!(third.status.code(), Some(3), "{}", text(&third));
    assert!(text(&third).contains("(lock.timeout)") && text(&third).contains("actions/runs/1"), "{}", text(&third));
    let seen = lease(&world, "dev");
    assert_eq!((&seen["holder"]["run"]["id"], &seen["waiting"]), (&Value::from("1"), &Value::from(1)), "{seen}");
    busy(&world, 0);
    first.ends(0);
    second.ends(0);
    assert_eq!(switched(&world), [old[..7].to_owned(), new[..7].to_owned()]);
    all_free(&world);
}

/// Nothing outside is changed, and no lease is taken: the number of the last one stays.
pub fn a_finished_run_again_changes_nothing(keep: Keep) {
    let mut world = world(keep);
    world.configure("tags: [latest]", DRAIN);
    world.configure(
        "quiet: 1s, timeout: 10m",
        "quiet: 1s, timeout: 10m, pause: {command: [./producers, stop]}, resume: {command: [./producers, start]}",
    );
    producers(&world);
    world.commit("drain");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let fence = lease(&world, "dev")["fence"].clone();
    for _again in 0..2 {
        let ran = world.run(&["run"]);
        ran.must(0, "deploy.done");
        assert_eq!(changes(&ran), Vec::<String>::new());
        assert!(ran.err.contains("delivered before by run 77") && ran.err.contains("comment unchanged"), "{}", ran.err);
        assert_eq!((ran.outputs["verdict"].as_str(), &ran.outputs["image"]), ("deployed", &world.runs_on("dev")));
    }
    assert_eq!(std::fs::read_to_string(world.path("producers.log")).unwrap(), "stop\nstart\n");
    assert_eq!(lease(&world, "dev")["fence"], fence);
    // Lying twin: the record says it runs, the cluster says no. Then it is not "delivered before".
    world.sandbox.with(|outside| outside.cluster.add_workload("deployments", "dev", "web", &[("web", crate::world::OLD)]));
    let ran = world.run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!((ran.count("PATCH /kube"), ran.err.contains("delivered before")), (1, false), "{}", ran.err);
}

/// Requests that change something. Reads of AWS are POSTs as well.
fn changes(ran: &Ran) -> Vec<String> {
    let reads =
        ["GetAuthorizationToken", "BatchGetImage", "DescribeRepositories", "GetQueue", "ListQueues", "AssumeRole", "POST /aws/clusters"];
    let reading = |line: &&String| line.starts_with("GET ") || line.starts_with("HEAD ") || reads.iter().any(|read| line.contains(read));
    ran.log.iter().filter(|line| !reading(line)).cloned().collect()
}

fn producers(world: &World) {
    world.write("producers", "#!/bin/sh\necho \"$1\" >> producers.log\n");
    assert!(Command::new("chmod").args(["+x", "producers"]).current_dir(world.folder.path()).status().unwrap().success());
}

/// A delivery with everything in it: build, alias, lease, record, paused producers, queues, switch, comment.
fn full(keep: Keep) -> World {
    let mut world = world(keep);
    world.configure("tags: [latest]", DRAIN);
    world.configure(
        "quiet: 1s, timeout: 10m",
        "quiet: 500ms, timeout: 10m, pause: {command: [./producers, stop]}, resume: {command: [./producers, start]}",
    );
    producers(&world);
    world.commit("drain");
    world.pushed();
    world
}

/// The end is right, and everything that can be counted happened once.
#[track_caller]
fn once(world: &World, when: &str, cancelled: bool) {
    let version = world.head()[..7].to_owned();
    let again = world.command(&["run"]).env("GITHUB_RUN_ATTEMPT", "2").output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{when}: {}", text(&again));
    assert_eq!(switched(world), std::slice::from_ref(&version), "{when}: one switch\n{}", text(&again));
    assert!(world.runs_on("dev").contains(&version), "{when}");
    assert_eq!(world.comments().len(), 1, "{when}: one comment");
    assert!(world.comments()[0].contains("✅"), "{when}: {}", world.comments()[0]);
    let deployments = world.deployments();
    let mut ended: Vec<&str> = deployments.iter().map(|states| states.last().map_or("nothing", String::as_str)).collect();
    assert_eq!(ended.pop(), Some("success"), "{when}: {deployments:?}\n{}", text(&again));
    // A cancelled delivery has a record of its own; a killed one is gone on with.
    let before = if cancelled { vec!["error"; ended.len().min(1)] } else { Vec::new() };
    assert_eq!(ended, before, "{when}: every deployment has ended\n{}", text(&again));
    let tags = world.sandbox.with(|outside| outside.repositories["demo"].tags.clone());
    assert_eq!((tags.len(), &tags["latest"]), (3, &tags[&version]), "{when}"); // and that of what runs
    let producers = std::fs::read_to_string(world.path("producers.log")).unwrap();
    assert!(producers.ends_with("start\n"), "{when}: the producers run again: {producers}\n{}", text(&again));
    all_free(world);
    let third = world.run(&["run"]);
    assert_eq!((third.code, changes(&third)), (0, Vec::new()), "{when}: {}", third.err);
}

/// How many requests a full delivery makes.
fn requests(keep: Keep) -> usize {
    let world = full(keep);
    world.sandbox.with(|outside| outside.arrived = 0);
    world.run(&["run"]).must(0, "deploy.done");
    world.sandbox.with(|outside| outside.arrived)
}

/// Every request of a delivery in the long form; every seventh, from a beginning that varies with the store, in the short one.
fn moments(keep: Keep) -> impl Iterator<Item = usize> {
    let long = std::env::var("TIDEGATE_TEST_LONG").is_ok();
    let all = requests(keep);
    (1..=all).filter(move |number| long || number % 7 == all % 7)
}

/// `kill -9` at a request, before or after it took effect; then a plain run.
pub fn killed_anywhere_the_next_run_ends_it(keep: Keep) {
    for number in moments(keep) {
        for after_effect in [false, true] {
            let world = full(keep);
            stopped_at(&world, (number, after_effect), "-KILL", None);
            once(&world, &format!("killed at request {number}, after its effect: {after_effect}"), false);
        }
    }
}

/// A cancelled job at a request; then a plain run.
pub fn cancelled_anywhere_the_next_run_ends_it(keep: Keep) {
    for number in moments(keep) {
        for (name, code) in [("-INT", 130), ("-TERM", 143)] {
            let world = full(keep);
            stopped_at(&world, (number, name == "-INT"), name, Some(code));
            let open = lease(&world, "dev");
            let when = format!("{name} at request {number}");
            once(&world, &when, true);
            // Only a lease whose last request is the one that hangs cannot be given back.
            assert!(open["holder"].is_null() || open["holder"]["run"]["id"] == "77", "{when}: {open}");
        }
    }
}

/// A run that hangs at a request, and gets a signal there.
fn stopped_at(world: &World, at: (usize, bool), name: &str, code: Option<i32>) {
    world.sandbox.with(|outside| (outside.arrived, outside.held, outside.stop_at) = (0, 0, Some(at)));
    let mut child = piped(world.command(&["run"]));
    let mut over = false;
    world.until("the request, or the end", |outside| {
        over = child.try_wait().unwrap().is_some();
        outside.held > 0 || over
    });
    if !over {
        signal(name, &child);
    }
    let output = child.wait_with_output().unwrap();
    // A run that is told to stop when all is done but the telling may end as what it is: done.
    let fine = |code: i32| over || output.status.code() == Some(code) || output.status.code() == Some(0);
    assert!(code.is_none_or(fine), "{name} at request {}: {:?}\n{}", at.0, output.status, text(&output));
    world.sandbox.with(|outside| outside.stop_at = None);
}

/// A run of the whole delivery that waits for its queue.
fn at_the_queue(world: &World) -> Going {
    busy(world, 5);
    world.run_until(&["run"], "5 visible")
}

/// What was stopped is not stopped again, and is started again by whoever comes next.
pub fn a_killed_run_leaves_its_producers_to_the_next_one(keep: Keep) {
    let world = full(keep);
    at_the_queue(&world).kill();
    busy(&world, 0);
    let log = || std::fs::read_to_string(world.path("producers.log")).unwrap();
    assert_eq!(log(), "stop\n");
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert!(
        again.err.contains("run 77 ended without a word at drain") && again.err.contains("stopped the producers already"),
        "{}",
        again.err
    );
    assert_eq!(log(), "stop\nstart\n");
    once(&world, "killed while it waited", false);
}

/// By hand, while the holder lives: it stops before it changes anything more, and starts its producers again.
pub fn a_lease_is_released_under_its_holder(keep: Keep) {
    let mut world = full(keep);
    world.var("TIDEGATE_LEASE_EXPIRY", "2s");
    let run = at_the_queue(&world);
    assert_eq!(world.run(&["lock", "release", "dev", "--reason", "stuck since lunch"]).code, 0);
    let rest = run.ends(1);
    assert!(rest.contains("it was released by hand: stuck since lunch (lock.lost)"), "{rest}");
    assert_eq!(std::fs::read_to_string(world.path("producers.log")).unwrap(), "stop\nstart\n");
    assert_eq!(switched(&world), Vec::<String>::new());
    all_free(&world);
    busy(&world, 0);
    world.run(&["run"]).must(0, "deploy.done");
}

/// Killed in the middle of the switch: what is older does not go over it, although it was never said to be deployed.
pub fn what_may_have_been_switched_counts_as_there(keep: Keep) {
    let world = world(keep);
    let (old, new) = (world.head(), {
        world.write("app", "two\n");
        world.commit("two")
    });
    world.sandbox.with(|outside| outside.holds.push("deployments?&watch".into()));
    let mut run = piped(world.merge(&new, 2));
    world.until("the rollout is watched", |outside| outside.held > 0);
    signal("-KILL", &run);
    run.wait().unwrap();
    world.sandbox.open();
    let late = ended(piped(world.merge(&old, 1)), 0, "superseded: ");
    assert!(late.contains(&format!("{} is older than {}", &old[..7], &new[..7])), "{late}");
    ended(piped(world.merge(&new, 2)), 0, "runs on dev");
    assert_eq!(switched(&world), [new[..7].to_owned()]);
    all_free(&world);
}

/// Its place in the queue is given up, and nobody waits for it a second time.
pub fn a_killed_waiter_is_forgotten(keep: Keep) {
    let (world, old, new) = two_merges(keep, "4s");
    let first = draining(&world, &old, 1);
    let mut second = Going::start(world.merge(&new, 2));
    second.until("waiting for the lease");
    let queued = std::time::Instant::now();
    while lease(&world, "dev")["waiting"] != 1 {
        assert!(queued.elapsed().as_secs() < 60, "it never stood in the queue");
    }
    second.kill();
    busy(&world, 0);
    first.ends(0);
    ended(piped(world.merge(&new, 3)), 0, "runs on dev");
    assert_eq!(switched(&world), [old[..7].to_owned(), new[..7].to_owned()]);
    all_free(&world);
}

/// `tidegate lock` and `tidegate status`.
pub fn leases_are_seen_taken_and_released_by_hand(keep: Keep) {
    let mut world = world(keep);
    let ran = world.run(&["lock", "take", "dev", "--reason", "repairing the database", "--for", "2h"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let held = lease(&world, "dev");
    assert_eq!((held["reason"].as_str(), held["seconds"].as_u64()), (Some("repairing the database"), Some(7200)), "{held}");
    let refused = world.pushed().run(&["run", "--lock-timeout", "1s"]);
    refused.must(3, "lock.timeout");
    assert!(refused.err.contains("octocat") && refused.err.contains("tidegate lock release dev --reason"), "{}", refused.err);
    assert_eq!(refused.count("PATCH /kube"), 0);
    let shown = world.run(&["status"]);
    assert!(shown.code == 0 && shown.err.contains("repairing the database"), "{}", shown.err);
    assert_eq!(world.run(&["lock", "release", "dev", "--reason", "repaired"]).code, 0);
    world.run(&["run"]).must(0, "deploy.done");
    let row = status(&world, "dev");
    let version = world.head()[..7].to_owned();
    assert_eq!(
        (row["version"].as_str(), row["who"].as_str(), row["run"]["id"].as_str()),
        (Some(version.as_str()), Some("octocat"), Some("77"))
    );
    assert_eq!((row["commit"].as_str(), &row["drift"], &row["last"]), (Some(world.head().as_str()), &Value::Null, &Value::Null), "{row}");
    assert!(world.runs_on("dev").ends_with(row["images"][0]["digest"].as_str().unwrap()), "{row}");
    // The next merge is on its way: what runs is behind the branch.
    world.write("app", "two\n");
    let tip = world.commit("two");
    assert_eq!(status(&world, "dev")["drift"]["tip"], Value::from(tip.clone()));
    world.sandbox.with(|outside| outside.mood = tidegate::rehearse::sandbox::ClusterMood::ImagePull);
    world.pushed().run(&["run"]).must(1, "target.image-pull");
    let row = status(&world, "dev");
    assert_eq!(
        (row["version"].as_str(), row["last"]["version"].as_str(), row["last"]["verdict"].as_str()),
        (Some(version.as_str()), Some(&tip[..7]), Some("failed"))
    );
    for wrong in [["lock", "release", "nowhere", "--reason", "x"], ["lock", "take", "dev", "--reason", " "]] {
        assert_eq!(world.run(&wrong).code, 2);
    }
    all_free(&world);
}

/// Damage is not taken for "free".
pub fn a_lease_that_cannot_be_read_holds_everything_back(keep: Keep) {
    let mut world = world(keep);
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.damage_leases();
    world.write("app", "two\n");
    world.commit("two");
    let ran = world.pushed().run(&["run"]);
    ran.must(4, "lock.unreachable");
    assert!(ran.err.contains("cannot be read") && ran.err.contains("tidegate lock release"), "{}", ran.err);
    assert_eq!(ran.count("PATCH /kube"), 0);
    assert_eq!(world.run(&["lock", "release", "dev", "--reason", "damaged"]).code, 0);
    world.run(&["run"]).must(0, "deploy.done");
}
