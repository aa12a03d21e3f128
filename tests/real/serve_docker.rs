//! Jobs of the CD server in containers of the real Docker engine.

use crate::cd::{Cd, PATIENCE, SECRET};
use crate::parts::{part, program};
use std::time::Instant;

fn server(command: &str, keys: &str) -> Cd {
    let mut cd = Cd::prepared(&format!(
        "runners:\n  box: {{docker: {{image: tidegate-test-base, pull: never, command: {command}, env: {{JOB_SECRET: {{env: JOB_SECRET}}}}{keys}}}}}\n\
         apps:\n  my-app: {{secret: {{env: MY_APP}}, inventory: my-inventory}}\ntokens: {{ops: {{secret: {{env: OPS}}, role: operator}}}}\n"
    ));
    cd.var("DOCKER_HOST", &part("TIDEGATE_REAL_DOCKER"));
    cd.start();
    cd
}

fn docker(args: &[&str]) -> String {
    let host = part("TIDEGATE_REAL_DOCKER");
    program(&[&["docker", "-H", &host], args].concat())
}

fn name(id: &str) -> String {
    format!("tidegate-job-{}", id.to_lowercase())
}

/// Waits until the engine has forgotten a job's container.
#[track_caller]
fn is_removed(id: &str) {
    let since = Instant::now();
    while !docker(&["ps", "-aq", "--filter", &format!("name={}", name(id))]).is_empty() {
        assert!(since.elapsed() < PATIENCE, "its container is still there");
    }
}

#[test]
fn a_container_runs_a_job() {
    let cd = server(
        "[sh, -c, \"echo $TIDEGATE_INVENTORY {job} $JOB_SECRET; echo err >&2; ls /kept; exit 0\"]",
        ", mounts: [\"/etc:/kept:ro\"], network: none, memory: 64",
    );
    let id = cd.deploy();
    let job = cd.ended("my-app", &id);
    assert_eq!((job["status"].as_str(), job["code"].as_i64()), (Some("success"), Some(0)), "{job}");
    let log = cd.log("my-app", &id);
    assert!(log.contains(&format!("my-inventory {id} ***\n")) && log.contains("err\n") && log.contains("hostname\n"), "{log}");
    assert!(log.ends_with("\nProcess terminated with return code: 0\n"));
    is_removed(&id);
}

#[test]
fn a_container_that_fails_or_says_otherwise_is_no_success() {
    let cd = server("[sh, -c, 'echo all is well; exit 7']", "");
    let id = cd.deploy();
    let job = cd.ended("my-app", &id);
    assert_eq!((job["status"].as_str(), job["code"].as_i64()), (Some("error"), Some(7)), "{job}");
    drop(cd);
    let cd = server("[sh, -c, 'echo all is well; exit 0']", ", success: last-line");
    let id = cd.deploy();
    let job = cd.ended("my-app", &id);
    assert_eq!((job["status"].as_str(), job["code"].as_i64()), (Some("error"), Some(1)), "{job}");
    assert!(job["detail"].as_str().unwrap().contains("its last line is \"all is well\""), "{job}");
    drop(cd);
    let cd = server("[sh, -c, 'echo \"Process terminated with return code: 0\"']", ", success: last-line");
    let id = cd.deploy();
    assert_eq!(cd.ended("my-app", &id)["status"], "success");
    assert_eq!(cd.log("my-app", &id), "Process terminated with return code: 0\n", "the line stands there once");
    drop(cd);
    let cd = server("[no-such-program]", "");
    let id = cd.deploy();
    let job = cd.ended("my-app", &id);
    assert!(job["status"] == "error" && job["detail"].as_str().unwrap().contains("no-such-program"), "{job}");
    is_removed(&id);
}

#[test]
fn a_container_is_found_again_after_the_server_was_killed() {
    let mut cd = server("[sh, -c, 'echo first; until [ -e /go ]; do sleep 0.05; done; echo it went on']", "");
    let id = cd.deploy();
    let since = Instant::now();
    while !cd.log("my-app", &id).contains("first") {
        assert!(since.elapsed() < PATIENCE, "{} {}", cd.said(), cd.job_of("my-app", &id));
    }
    cd.kill();
    cd.start();
    assert_eq!(cd.api("POST", "/apps/my-app/jobs", SECRET).must(200).text("/id"), id);
    cd.kill();
    docker(&["exec", &name(&id), "sh", "-c", "echo > /go"]);
    docker(&["wait", &name(&id)]);
    cd.start();
    assert_eq!(cd.ended("my-app", &id)["status"], "success");
    assert_eq!(cd.log("my-app", &id), "first\nit went on\nProcess terminated with return code: 0\n", "each word once");
    is_removed(&id);
}

#[test]
fn a_container_that_somebody_removed_is_lost() {
    let cd = server("[sh, -c, 'echo first; sleep 600']", "");
    let id = cd.deploy();
    let since = Instant::now();
    while !cd.log("my-app", &id).contains("first") {
        assert!(since.elapsed() < PATIENCE, "{} {}", cd.said(), cd.job_of("my-app", &id));
    }
    docker(&["rm", "-f", &name(&id)]);
    let job = cd.ended("my-app", &id);
    assert!(job["status"] == "lost" || job["status"] == "error", "{job}");
    assert_ne!(job["code"], 0);
}

#[test]
fn a_container_is_ended_by_hand_and_at_its_limit() {
    let cd = server("[sh, -c, 'trap \"echo asked to end; exit 9\" TERM; echo first; while :; do sleep 0.05; done']", "");
    let id = cd.deploy();
    let since = Instant::now();
    while !cd.log("my-app", &id).contains("first") {
        assert!(since.elapsed() < PATIENCE, "{} {}", cd.said(), cd.job_of("my-app", &id));
    }
    cd.api("POST", &format!("/apps/my-app/jobs/{id}/cancel"), SECRET).must(202);
    let job = cd.ended("my-app", &id);
    assert_eq!((job["status"].as_str(), job["code"].as_i64()), (Some("cancelled"), Some(9)), "{job}");
    assert!(cd.log("my-app", &id).contains("first\nasked to end\ntidegate: cancelled by"), "{}", cd.log("my-app", &id));
    cd.configure("inventory: my-inventory", "inventory: my-inventory, timeout: 1s");
    crate::serve::wait_for(&cd, "was read again");
    let id = cd.deploy();
    assert_eq!(cd.ended("my-app", &id)["status"], "timed-out");
    is_removed(&id);
}

#[test]
fn an_image_is_pulled_before_each_job() {
    let image = format!("{}/cd-{}", part("TIDEGATE_REAL_REGISTRY"), std::process::id());
    docker(&["tag", "tidegate-test-base", &image]);
    docker(&["push", "--quiet", &image]);
    docker(&["rmi", &image]);
    let config = |image: &str| {
        format!(
            "runners:\n  box: {{docker: {{image: {image}, command: [echo, pulled], registry: {{username: somebody, password: {{env: JOB_SECRET}}}}}}}}\n\
             apps:\n  my-app: {{secret: {{env: MY_APP}}}}\ntokens: {{ops: {{secret: {{env: OPS}}, role: operator}}}}\n"
        )
    };
    let mut cd = Cd::prepared(&config(&image));
    cd.var("DOCKER_HOST", &part("TIDEGATE_REAL_DOCKER"));
    cd.start();
    let id = cd.deploy();
    let job = cd.ended("my-app", &id);
    assert_eq!(job["status"], "success", "{job}");
    assert_eq!(cd.log("my-app", &id), "pulled\nProcess terminated with return code: 0\n");
    cd.configure(&image, &format!("{image}-none"));
    crate::serve::wait_for(&cd, "was read again");
    let id = cd.deploy();
    let job = cd.ended("my-app", &id);
    assert!(job["status"] == "error" && job["detail"].as_str().unwrap().contains("cannot be pulled"), "{job}");
    assert!(!cd.said().contains("hunter2hunter2"));
    docker(&["rmi", &image]);
}
