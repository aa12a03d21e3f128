//! Two replicas of the CD server on one real Redis: one is killed, one cannot reach the store, one is told what the other does.

use crate::cd::{Cd, PATIENCE, SECRET, signal};
use std::time::Instant;

/// Two servers with folders of their own and one store.
fn pair() -> (Cd, Cd) {
    let one = Cd::new("limits: {lease: 6s, running: 4}\n");
    let mut other = Cd::prepared("");
    let text = std::fs::read_to_string(one.path("tidegate-serve.yml")).unwrap();
    other.write("tidegate-serve.yml", &text);
    other.start();
    (one, other)
}

#[test]
fn one_replica_tells_of_a_job_that_the_other_runs() {
    let (one, other) = pair();
    for cd in [&one, &other] {
        cd.job("echo \"$JOB_SECRET here\"; until [ -e go ]; do sleep 0.02; done; echo done");
    }
    let id = one.deploy();
    let since = Instant::now();
    while !other.log("my-app", &id).contains("*** here") {
        assert!(since.elapsed() < PATIENCE, "{}", other.said());
    }
    assert_eq!(
        other.api("POST", "/apps/my-app/jobs", SECRET).must(200).text("/id"),
        id,
        "one job per inventory, whichever replica is asked"
    );
    assert_eq!(one.ran().len() + other.ran().len(), 1);
    let runs = if one.ran().is_empty() { &other } else { &one };
    let asks = if one.ran().is_empty() { &one } else { &other };
    asks.api("POST", &format!("/apps/my-app/jobs/{id}/cancel"), SECRET).must(202);
    assert_eq!(asks.ended("my-app", &id)["status"], "cancelled");
    runs.write("go", "");
    assert!(asks.log("my-app", &id).contains("tidegate: cancelled by"));
}

#[test]
fn a_replica_that_is_killed_and_comes_back_goes_on_with_its_jobs() {
    let (mut one, other) = pair();
    let mut other = other;
    one.job("until [ -e go ]; do sleep 0.02; done; echo it went on");
    other.stop(); // so that the job is one's
    let id = one.deploy();
    one.until("my-app", &id, |status| status == "running");
    other.start();
    one.kill();
    one.start();
    one.write("go", "");
    assert_eq!(other.ended("my-app", &id)["status"], "success");
    assert!(other.log("my-app", &id).ends_with("it went on\nProcess terminated with return code: 0\n"));
    assert_eq!(one.ran(), [id]);
}

#[test]
fn a_replica_that_stays_away_loses_its_jobs_and_nobody_waits_for_them() {
    let (mut one, other) = pair();
    let mut other = other;
    one.job("echo $$ > program.new; mv program.new program; trap '' TERM; until [ -e go ]; do sleep 0.02; done; echo too late >> late");
    other.stop();
    let id = one.deploy();
    let since = Instant::now();
    while !one.path("program").exists() {
        assert!(since.elapsed() < PATIENCE);
    }
    other.start();
    one.kill();
    let job = other.ended("my-app", &id);
    assert_eq!(job["status"], "lost", "{job}");
    let program: u32 = std::fs::read_to_string(one.path("program")).unwrap().trim().parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{program}/stat"));
    assert!(
        stat.is_err() || stat.is_ok_and(|stat| stat.rsplit(')').next().unwrap().trim_start().starts_with('Z')),
        "its program was ended before the job was said to be lost"
    );
    let next = other.deploy();
    assert_eq!(other.ended("my-app", &next)["status"], "success");
    one.write("go", "");
    assert!(!one.path("late").exists());
    one.start();
    assert_eq!(one.job_of("my-app", &id)["status"], "lost", "its end stays what it is");
}

#[test]
fn a_replica_that_was_only_held_up_is_another_ones_no_more() {
    let (one, mut other) = pair();
    one.job("until [ -e go ]; do sleep 0.02; done");
    other.stop();
    let id = one.deploy();
    one.until("my-app", &id, |status| status == "running");
    other.start();
    signal(one.pid(), "STOP");
    assert_eq!(other.ended("my-app", &id)["status"], "lost");
    signal(one.pid(), "CONT");
    crate::serve::wait_for(&one, "is another replica's now");
    assert_eq!(one.job_of("my-app", &id)["status"], "lost");
    assert_eq!(other.job_of("my-app", &id)["detail"], one.job_of("my-app", &id)["detail"]);
}
