//! A cancelled job: waiting stops, producers are resumed, the record is ended.

use crate::world::World;
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
        let mut run = world.start(&["deploy", "production", &sha]);
        let mut lines = BufReader::new(run.stderr.take().unwrap()).lines();
        let waiting = lines.by_ref().map_while(Result::ok).any(|line| line.contains("us-west-2/jobs: 5 visible"));
        assert!(waiting, "the drain began");
        std::process::Command::new("kill").args([signal, &run.id().to_string()]).status().unwrap();
        let said: Vec<String> = lines.map_while(Result::ok).collect();
        assert_eq!(run.wait().unwrap().code(), Some(code), "{}", said.join("\n"));
    }
    assert_eq!(std::fs::read_to_string(world.path("producers.log")).unwrap(), "stop\nstart\nstop\nstart\n");
    // What was said meanwhile: pausing, paused, resumed.
    let states = world.deployments();
    assert_eq!(states[1..], [["in_progress", "in_progress", "in_progress", "error"], ["in_progress", "in_progress", "in_progress", "error"]]);
    assert!(world.runs_on("production").contains(":old@"));
}
