//! A cancelled job: waiting stops, producers are resumed, the record is ended.

use crate::world::{World, signal};
use std::io::{BufRead, BufReader};

#[test]
fn a_terminated_drain_resumes_the_producers_and_ends_the_record() {
    let mut world = World::new();
    world.write("producers", "#!/bin/sh\necho \"$1\" >> producers.log\n");
    std::process::Command::new("chmod").args(["+x", "producers"]).current_dir(world.folder.path()).status().unwrap();
    world.configure("quiet: 1s", "pause: {command: [./producers, stop]}, resume: {command: [./producers, start]}, quiet: 1s");
    world.configure("timeout: 10s}", "timeout: 10m}");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.sandbox.with(|outside| outside.queues.insert(("us-west-2".into(), "jobs".into()), [[5, 0, 0]].into_iter().collect()));
    let sha = world.head();
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let run = world.run_until(&["deploy", "production", &sha], "us-west-2/jobs: 5 visible");
        run.signal(signal);
        run.ends(code);
    }
    assert_eq!(std::fs::read_to_string(world.path("producers.log")).unwrap(), "stop\nstart\nstop\nstart\n");
    // What was said meanwhile: pausing, paused, resumed.
    let states = world.deployments();
    assert_eq!(
        states[1..],
        [["in_progress", "in_progress", "in_progress", "error"], ["in_progress", "in_progress", "in_progress", "error"]]
    );
    assert!(world.runs_on("production").contains(":old@"));
}

/// The first signal asks, the second one ends: also when everything that the first one started hangs.
#[test]
fn a_second_signal_ends_the_run_at_once() {
    let mut world = World::new();
    world.sandbox.with(|outside| outside.holds.push("POST /build".into()));
    let run = world.pushed().start(&["run"]);
    world.until("the build hangs", |outside| outside.held == 1);
    // From now on nobody answers anything, so that ending in order takes its whole time.
    world.sandbox.with(|outside| outside.holds.push("/".into()));
    signal("-INT", &run);
    signal("-TERM", &run);
    let output = run.wait_with_output().unwrap();
    assert!(matches!(output.status.code(), Some(130 | 143)), "{:?}", output.status);
    world.sandbox.open();
}

/// As the first process of a container there are no default handlers, and nobody else to reap or to answer.
#[test]
fn the_first_process_of_a_container_hears_its_signals() {
    let mut world = World::new();
    world.configure("tags: [latest]", "gates:\n      - drain: {queues: [jobs], quiet: 1s, timeout: 10m}");
    world.commit("drain");
    world.sandbox.with(|outside| outside.queues.insert(("us-west-2".into(), "jobs".into()), [[5, 0, 0]].into_iter().collect()));
    world.pushed();
    let inside = world.command(&["run"]);
    let mut outer = std::process::Command::new("unshare");
    outer.args(["--fork", "--pid", "--kill-child"]).arg(inside.get_program()).args(inside.get_args()).current_dir(world.folder.path());
    outer.env_clear().envs(inside.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut run = outer.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(run.stderr.take().unwrap()).lines().map_while(Result::ok);
    let said: Vec<String> = lines.by_ref().take_while(|line| !line.contains("5 visible")).collect();
    if said.iter().any(|line| line.contains("unshare failed")) && std::env::var("CI").is_err() {
        run.wait().unwrap();
        println!("skipped, no PID namespaces for this user: {}", said.join("\n"));
        return;
    }
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", run.id())).unwrap();
    let first = children.trim().to_owned();
    assert!(std::process::Command::new("kill").args(["-TERM", &first]).status().unwrap().success());
    let rest: Vec<String> = lines.collect();
    let status = run.wait().unwrap();
    assert_eq!(status.code(), Some(143), "{}", rest.join("\n"));
    assert!(rest.iter().any(|line| line.contains("was cancelled")), "{}", rest.join("\n"));
}
