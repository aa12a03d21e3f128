//! The drain gate: three counts, every region, a window without a break; what cannot be read is never quiet.

use crate::world::World;
use std::collections::VecDeque;
use tidegate::rehearse::sandbox::Fault;

fn script(world: &World, region: &str, counts: &[[u64; 3]]) {
    let counts: VecDeque<[u64; 3]> = counts.iter().copied().collect();
    world.sandbox.with(|outside| outside.queues.insert((region.into(), "jobs".into()), counts));
}

const ALONE: [&str; 10] = ["drain", "jobs", "--region", "us-west-2", "--region", "us-east-2", "--quiet", "1s", "--timeout", "8s"];

#[test]
fn visible_in_flight_delayed_and_returning_messages_are_waited_for() {
    let world = World::new();
    script(&world, "us-west-2", &[[3, 0, 0], [0, 2, 0], [0, 0, 0]]);
    script(&world, "us-east-2", &[[0, 0, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 2, 0], [0, 0, 0]]);
    let ran = world.run(&ALONE);
    assert_eq!(ran.code, 0, "{}", ran.err);
    for words in
        ["us-west-2/jobs: 3 visible, 0 in flight, 0 delayed", "us-east-2/jobs: 0 visible, 2 in flight, 0 delayed", "2 queues quiet for 1s"]
    {
        assert!(ran.err.contains(words), "{words}: {}", ran.err);
    }
    let sweeps = ran.count("GetQueueAttributes") / 2;
    assert!(sweeps >= 5 + 3, "the window starts again after the message that came back: {sweeps}");
    assert!(!ran.err.contains("empty"), "counts are approximate: nothing is called empty");
}

#[test]
fn a_queue_that_does_not_drain_times_out_with_its_last_counts() {
    let world = World::new();
    script(&world, "us-east-2", &[[0, 1, 0]]);
    let ran = world.run(&["drain", "jobs", "--region", "us-west-2,us-east-2", "--quiet", "1s", "--timeout", "2s"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("us-east-2/jobs: 0 visible, 1 in flight, 0 delayed") && ran.err.contains("(drain.timeout)"), "{}", ran.err);
}

#[test]
fn missing_denied_and_wrong_region_fail_by_name() {
    let world = World::new();
    let ran = world.run(&["drain", "jbos", "--region", "us-west-2"]);
    assert!(ran.code == 1 && ran.err.contains("there is no queue jbos in us-west-2"), "{}", ran.err);
    let ran = world.run(&["drain", "jobs", "--region", "us-west-2,eu-west-1"]);
    assert!(ran.code == 1 && ran.err.contains("there is no queue jobs in eu-west-1"), "{}", ran.err);
    let ran = world.run(&["drain", "nothing-*", "--region", "us-west-2"]);
    assert!(ran.code == 1 && ran.err.contains("there is no queue nothing-* in us-west-2"), "{}", ran.err);
    world.sandbox.with(|outside| outside.denied_queues.push("jobs".into()));
    let ran = world.run(&ALONE);
    assert!(ran.code == 5 && ran.err.contains("the queue jobs in us-west-2") && ran.err.contains("sqs:GetQueueAttributes"), "{}", ran.err);
}

#[test]
fn a_prefix_finds_more_than_a_thousand_queues() {
    let world = World::new();
    world.sandbox.with(|outside| {
        for number in 0..2_345 {
            outside.queues.insert(("us-west-2".into(), format!("many-{number:05}")), [[0, 0, 0]].into_iter().collect());
        }
    });
    let ran = world.run(&["drain", "many-*", "--region", "us-west-2", "--quiet", "200ms", "--timeout", "60s"]);
    assert!(ran.code == 0 && ran.err.contains("2345 queues quiet for 200ms"), "{}", ran.err);
    assert_eq!(ran.count("ListQueues"), 3, "all pages");
}

#[test]
fn a_message_that_comes_right_before_the_switch_is_waited_for() {
    let mut world = World::new();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    // 4s of quiet are five looks, 1 s apart; the sixth, right before the switch, finds one in flight.
    world.configure("quiet: 1s, timeout: 10s", "quiet: 4s, timeout: 30s");
    script(&world, "us-west-2", &[[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]);
    let sha = world.head();
    let ran = world.run(&["deploy", "production", &sha]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("right before the switch: us-west-2/jobs: 0 visible, 1 in flight"), "{}", ran.err);
}

#[test]
fn producers_are_paused_first_and_resumed_whatever_happens() {
    let mut world = World::new();
    world.write("producers", "#!/bin/sh\necho \"$1\" >> producers.log\n");
    std::process::Command::new("chmod").args(["+x", "producers"]).current_dir(world.folder.path()).status().unwrap();
    let hooks = "pause: {command: [./producers, stop]}, resume: {command: [./producers, start]}, quiet: 1s";
    world.configure("quiet: 1s", hooks);
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let sha = world.head();
    let log = |world: &World| std::fs::read_to_string(world.path("producers.log")).unwrap_or_default();
    world.run(&["deploy", "production", &sha]).must(0, "deploy.done");
    assert_eq!(log(&world), "stop\nstart\n");
    let deployed = world.runs_on("production");
    world.write("app", "two\n");
    let sha = world.commit("two");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    script(&world, "us-west-2", &[[9, 0, 0]]);
    world.configure("timeout: 10s", "timeout: 2s");
    world.run(&["deploy", "production", &sha]).must(3, "drain.timeout");
    assert_eq!(log(&world), "stop\nstart\nstop\nstart\n");
    assert_eq!(world.runs_on("production"), deployed, "nothing was deployed the second time");
}

#[test]
fn a_timeout_can_be_a_warning() {
    let mut world = World::new();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    script(&world, "us-west-2", &[[9, 0, 0]]);
    world.configure("timeout: 10s", "timeout: 1500ms, on-timeout: warn");
    let sha = world.head();
    let ran = world.run(&["deploy", "production", &sha]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("going on (`on-timeout: warn`)"), "{}", ran.err);
}

#[test]
fn a_look_that_fails_starts_the_window_again() {
    let world = World::new();
    let body = serde_json::json!({"__type": "ServiceUnavailable", "message": "try again"});
    let fault = Fault { on: "POST /aws", times: 12, status: 503, headers: vec![], body, after_effect: false };
    world.sandbox.with(|outside| outside.faults.push(fault));
    let ran = world.run(&["drain", "jobs", "--region", "us-west-2", "--quiet", "1s", "--timeout", "60s"]);
    assert!(matches!(ran.code, 0 | 1), "{}", ran.err);
    assert!(ran.code == 0 || ran.err.contains("us-west-2"), "{}", ran.err);
}
