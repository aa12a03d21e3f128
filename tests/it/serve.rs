//! The CD server's jobs and its two APIs, on whichever store the test binary says.

use crate::cd::{Cd, OPERATOR, OTHER, PATIENCE, SECRET, VIEWER, signal};
use serde_json::{Value, json};
use std::time::Instant;

#[test]
fn a_job_runs_and_is_told_in_both_apis() {
    let cd = Cd::new("");
    cd.job("echo \"token $JOB_SECRET\"; echo to stderr >&2; printf unfinished");
    let begun = cd.api("POST", "/apps/my-app/jobs", SECRET).must(202);
    let id = begun.text("/id");
    assert_eq!(begun.header("location").unwrap(), format!("/api/v1/apps/my-app/jobs/{id}"));
    let job = cd.ended("my-app", &id);
    assert_eq!((job["status"].as_str(), job["code"].as_i64(), job["detail"].as_str()), (Some("success"), Some(0), Some("return code 0")));
    assert_eq!((job["inventory"].as_str(), job["by"].as_str()), (Some("my-inventory"), Some("my-app (127.0.0.1)")));
    let log = "deploying my-inventory\ntoken ***\nto stderr\nunfinished\nProcess terminated with return code: 0\n";
    assert_eq!(cd.log("my-app", &id), log);
    let status = cd.enac("/job-status/", "my-app", SECRET, Some(&id)).must(200).json();
    assert_eq!(status, json!({"status": "success", "job_id": id, "output": log}));
    assert_eq!(cd.ran(), [id]);
}

#[test]
fn a_job_that_fails_is_no_success() {
    let cd = Cd::new("");
    cd.job("echo all is well; exit 3");
    let id = cd.deploy();
    let job = cd.ended("my-app", &id);
    assert_eq!((job["status"].as_str(), job["code"].as_i64(), job["detail"].as_str()), (Some("error"), Some(3), Some("return code 3")));
    assert!(cd.log("my-app", &id).ends_with("tidegate: return code 3\nProcess terminated with return code: 3\n"));
    cd.job("echo 'Process terminated with return code: 0'; kill -9 $$"); // it says so, and it is not so
    let id = cd.deploy();
    let job = cd.ended("my-app", &id);
    assert_eq!((job["status"].as_str(), job["code"].as_i64()), (Some("error"), Some(137)));
    assert!(cd.log("my-app", &id).ends_with("tidegate: it was ended by signal 9\nProcess terminated with return code: 137\n"));
    cd.configure("command: [sh,", "command: [no-such-program,");
    wait_for(&cd, "was read again");
    let id = cd.deploy();
    let job = cd.ended("my-app", &id);
    assert_eq!((job["status"].as_str(), job["code"].as_i64()), (Some("error"), Some(127)));
    assert!(job["detail"].as_str().unwrap().contains("`no-such-program` cannot be started"), "{job}");
}

#[track_caller]
pub fn wait_for(cd: &Cd, words: &str) {
    let since = Instant::now();
    while !cd.said().contains(words) {
        assert!(since.elapsed() < PATIENCE, "{words:?} was not said:\n{}", cd.said());
        std::thread::yield_now();
    }
}

#[test]
fn requests_join_wait_or_are_refused() {
    let cd = Cd::new("");
    cd.job("until [ -e go ]; do sleep 0.02; done");
    let id = cd.deploy();
    cd.until("my-app", &id, |status| status == "running");
    assert_eq!(cd.api("POST", "/apps/my-app/jobs", SECRET).must(200).text("/id"), id, "it joins");
    let merged = cd.enac("/app-deploy/", "my-app", SECRET, None).must(200).json();
    assert_eq!((merged["job_id"].as_str(), merged["status"].as_str()), (Some(id.as_str()), Some("running")));
    cd.configure("my-app: {", "my-app: {busy: reject, ");
    wait_for(&cd, "was read again");
    cd.api("POST", "/apps/my-app/jobs", SECRET).must(409);
    assert_eq!(cd.enac("/app-deploy/", "my-app", SECRET, None).text("/error"), "App deployment is already running");
    cd.configure("busy: reject", "busy: queue");
    cd.configure("my-app: {", "my-app: {queue: 2, ");
    let since = Instant::now();
    let second = loop {
        let answer = cd.api("POST", "/apps/my-app/jobs", SECRET);
        if answer.status == 202 {
            break answer.text("/id");
        }
        assert!(since.elapsed() < PATIENCE);
    };
    let third = cd.api("POST", "/apps/my-app/jobs", SECRET).must(202);
    assert_eq!((third.json()["position"].as_u64(), third.text("/status").as_str()), (Some(2), "queued"));
    assert_eq!(cd.api("POST", "/apps/my-app/jobs", SECRET).must(429).header("retry-after").unwrap(), "30");
    let third = third.text("/id");
    cd.write("go", "");
    for id in [&id, &second, &third] {
        assert_eq!(cd.ended("my-app", id)["status"], "success");
    }
    assert_eq!(cd.ran(), [id, second, third], "in the order in which they came");
}

#[test]
fn another_app_of_the_same_inventory_waits_and_sees_nothing() {
    let cd = Cd::new("");
    cd.configure("other-app: {", "other-app: {inventory: my-inventory, ");
    wait_for(&cd, "was read again");
    cd.job("until [ -e go ]; do sleep 0.02; done");
    let mine = cd.deploy();
    cd.until("my-app", &mine, |status| status == "running");
    let other = cd.api("POST", "/apps/other-app/jobs", OTHER).must(202).text("/id");
    assert_ne!(mine, other, "it does not join another app's job");
    assert_eq!(cd.job_of("other-app", &other)["status"], "queued");
    let unknown = cd.api("GET", "/apps/other-app/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV", OTHER).must(404);
    for id in [mine.as_str(), "01ARZ3NDEKTSV4RRFFQ69G5FAV", "nonsense"] {
        for path in ["", "/log", "/cancel"] {
            let method = if path == "/cancel" { "POST" } else { "GET" };
            let answer = cd.api(method, &format!("/apps/other-app/jobs/{id}{path}"), OTHER);
            assert_eq!((answer.status, answer.body), (404, unknown.body.clone()), "{id}{path}");
        }
        let old = cd.enac("/job-status/", "other-app", OTHER, Some(id)).must(200);
        assert_eq!(old.body, r#"{"status":"error","error":"App deployment not found"}"#);
    }
    cd.write("go", "");
    assert_eq!(
        (cd.ended("my-app", &mine)["status"].as_str(), cd.ended("other-app", &other)["status"].as_str()),
        (Some("success"), Some("success"))
    );
}

#[test]
fn jobs_are_cancelled_while_they_wait_and_while_they_run() {
    let cd = Cd::new("");
    cd.configure("my-app: {", "my-app: {busy: queue, ");
    wait_for(&cd, "was read again");
    cd.job("trap 'echo asked to end; exit 5' TERM; echo here; while :; do sleep 0.02; done");
    let (running, waiting) = (cd.deploy(), cd.deploy());
    cd.until("my-app", &running, |status| status == "running");
    cd.api("POST", &format!("/apps/my-app/jobs/{waiting}/cancel"), SECRET).must(202);
    let job = cd.job_of("my-app", &waiting);
    assert_eq!((job["status"].as_str(), job["cancelled_by"].as_str()), (Some("cancelled"), Some("my-app (127.0.0.1)")));
    let since = Instant::now();
    while !cd.log("my-app", &running).contains("here") {
        assert!(since.elapsed() < PATIENCE);
    }
    cd.api("POST", &format!("/apps/my-app/jobs/{running}/cancel"), VIEWER).must(403);
    cd.api("POST", &format!("/apps/my-app/jobs/{running}/cancel"), OPERATOR).must(202);
    let job = cd.ended("my-app", &running);
    assert_eq!((job["status"].as_str(), job["detail"].as_str()), (Some("cancelled"), Some("cancelled by ops")));
    assert!(cd.log("my-app", &running).contains("asked to end\ntidegate: cancelled by ops\nProcess terminated with return code: 5\n"));
    cd.api("POST", &format!("/apps/my-app/jobs/{running}/cancel"), SECRET).must(409);
    assert_eq!(cd.ran(), std::slice::from_ref(&running));
    cd.job("");
    let next = cd.deploy();
    assert_eq!(cd.ended("my-app", &next)["status"], "success", "nothing is left in its way");
}

#[test]
fn a_job_ends_at_its_limit_with_all_that_it_started() {
    let cd = Cd::new("");
    cd.configure("my-app: {", "my-app: {timeout: 1s, ");
    wait_for(&cd, "was read again");
    cd.job("sleep 300 & echo $! > child; wait");
    let id = cd.deploy();
    let job = cd.ended("my-app", &id);
    assert_eq!((job["status"].as_str(), job["detail"].as_str()), (Some("timed-out"), Some("it was ended after 1s, its limit")));
    let child: u32 = std::fs::read_to_string(cd.path("child")).unwrap().trim().parse().unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{child}")).exists() || is_zombie(child), "its child runs on");
    // A program that ends and leaves somebody who holds its output.
    cd.job("sleep 300 & echo done");
    let id = cd.deploy();
    assert_eq!(cd.ended("my-app", &id)["status"], "success");
}

fn is_zombie(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

#[test]
fn logs_are_told_from_any_offset_and_waited_for() {
    let cd = Cd::new("");
    cd.job("echo one; until [ -e go ]; do sleep 0.02; done; echo two \u{e9}");
    let id = cd.deploy();
    let since = Instant::now();
    let mut next = 0;
    let mut text = String::new();
    loop {
        let piece = cd.api("GET", &format!("/apps/my-app/jobs/{id}/log?from={next}&wait=5"), SECRET).must(200);
        text.push_str(&piece.body);
        next = piece.header("tidegate-log-next").unwrap().parse::<u64>().unwrap();
        if text.contains("one") {
            cd.write("go", "");
        }
        if piece.body.is_empty() && piece.header("tidegate-job-status").as_deref() == Some("success") {
            break;
        }
        assert!(since.elapsed() < PATIENCE);
    }
    assert_eq!(text, "deploying my-inventory\none\ntwo \u{e9}\nProcess terminated with return code: 0\n");
    assert_eq!(next, text.len() as u64);
    let middle = cd.api("GET", &format!("/apps/my-app/jobs/{id}/log?from=10"), SECRET);
    assert_eq!(middle.body, text[10..]);
    for wrong in ["from=-1", "from=x", "wait=61", "from=99999999999999999999"] {
        cd.api("GET", &format!("/apps/my-app/jobs/{id}/log?{wrong}"), SECRET).must(400);
    }
}

#[test]
fn only_the_beginning_and_the_end_of_much_output_is_kept() {
    let cd = Cd::new("limits: {output: 1}\n");
    cd.job("i=0; while [ $i -lt 60 ]; do head -c 100000 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done; echo the end");
    let id = cd.deploy();
    assert_eq!(cd.ended("my-app", &id)["log"].as_u64(), Some(6_000_130), "all of it is counted");
    let told = cd.enac("/job-status/", "my-app", SECRET, Some(&id)).text("/output");
    assert!(told.starts_with("deploying my-inventory\nxxx") && told.ends_with("the end\nProcess terminated with return code: 0\n"));
    assert!(told.contains("bytes are not kept …") && told.len() < 1_400_000, "{}", told.len());
}

#[test]
fn a_character_at_the_end_of_the_kept_beginning_stays_whole() {
    let cd = Cd::new("limits: {output: 1}\n");
    // The beginning is 512 KiB: this two-byte character would be cut in two by it.
    cd.job("printf '%s' $(head -c 524264 /dev/zero | tr '\\0' x); printf '\\303\\251'; head -c 300000 /dev/zero | tr '\\0' y; echo; echo THE END");
    let id = cd.deploy();
    assert_eq!(cd.ended("my-app", &id)["status"], "success");
    let (mut text, mut next, mut total) = (String::new(), 0_u64, 1);
    let since = Instant::now();
    while next < total {
        let piece = cd.api("GET", &format!("/apps/my-app/jobs/{id}/log?from={next}"), SECRET).must(200);
        text.push_str(&piece.body);
        let number = |name: &str| piece.header(name).unwrap().parse::<u64>().unwrap();
        assert!(number("tidegate-log-next") > next && since.elapsed() < PATIENCE, "it goes on from {next}: {:?}", piece.head);
        (next, total) = (number("tidegate-log-next"), number("tidegate-log-total"));
    }
    assert!(text.starts_with("deploying my-inventory\nxxx") && text.ends_with("yyy\nTHE END\nProcess terminated with return code: 0\n"));
    let around: String = text.chars().filter(|c| !matches!(c, 'x' | 'y')).collect();
    assert!(!text.contains('\u{fffd}') && text.contains('\u{e9}'), "no half characters: {around}");
}

#[test]
fn the_api_refuses_in_its_own_words() {
    let cd = Cd::new("");
    let id = cd.deploy();
    for (method, path, token, status) in [
        ("GET", "/apps/my-app/jobs", "", 401),
        ("GET", "/apps/my-app/jobs", "wrong", 401),
        ("GET", "/apps/no-app/jobs", SECRET, 401),
        ("GET", "/apps/other-app/jobs", SECRET, 401),
        ("GET", "/apps/no-app/jobs", OPERATOR, 404),
        ("GET", "/apps", SECRET, 401),
        ("GET", "/audit", "", 401),
        ("POST", "/apps/my-app/jobs", VIEWER, 403),
        ("POST", "/announce", OPERATOR, 409),
        ("DELETE", "/apps", OPERATOR, 405),
        ("GET", "/nothing", OPERATOR, 404),
        ("GET", "/apps/my-app/jobs?limit=9999", SECRET, 400),
        ("GET", "/apps/my-app/jobs?before=x", SECRET, 400),
    ] {
        let answer = cd.api(method, path, token).must(status);
        if status != 405 {
            assert_eq!(answer.header("content-type").as_deref(), Some("application/problem+json"), "{method} {path}");
        }
    }
    let unknown = cd.api("GET", "/apps/no-app/jobs", "wrong-secret");
    let wrong = cd.api("GET", "/apps/my-app/jobs", "wrong-secret");
    assert_eq!((unknown.status, &unknown.body), (wrong.status, &wrong.body), "nobody can tell which of the two is wrong");
    cd.ended("my-app", &id);
    let jobs = cd.api("GET", "/jobs", VIEWER).must(200).json();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 1);
    let audit = cd.api("GET", "/audit", VIEWER).must(200).json();
    let whats: Vec<&str> = audit["entries"].as_array().unwrap().iter().map(|entry| entry["what"].as_str().unwrap()).collect();
    assert_eq!(whats, ["ended", "accepted"]);
    let apps = cd.api("GET", "/apps", VIEWER).must(200);
    assert!(apps.body.contains("my-inventory") && !apps.body.contains(SECRET), "{apps:?}");
    let once = |key: &str| {
        cd.ask("POST", "/api/v1/apps/my-app/jobs", &[("authorization", &format!("Bearer {SECRET}")), ("idempotency-key", key)], "")
    };
    let first = once("delivery-1").must(202).text("/id");
    cd.ended("my-app", &first);
    assert_eq!(once("delivery-1").must(200).text("/id"), first, "its answer was lost, so it is sent again");
    assert_ne!(once("delivery-2").must(202).text("/id"), first);
}

#[test]
fn the_server_stops_in_order_and_its_jobs_go_on() {
    let mut cd = Cd::new("");
    cd.job("until [ -e go ]; do sleep 0.02; done; echo it went on");
    let id = cd.deploy();
    cd.until("my-app", &id, |status| status == "running");
    assert_eq!(cd.stop(), 0, "{}", cd.said());
    wait_for(&cd, "stopped; 1 of its jobs go on");
    cd.write("go", "");
    cd.start();
    assert_eq!(cd.ended("my-app", &id)["status"], "success");
    assert!(cd.log("my-app", &id).ends_with("it went on\nProcess terminated with return code: 0\n"));
    assert_eq!(cd.ran(), [id]);
}

#[test]
fn a_job_that_deploys_the_server_itself_ends_well() {
    let mut cd = Cd::new("");
    cd.job("until [ -e server ]; do sleep 0.02; done; kill -TERM $(cat server); until [ -e go ]; do sleep 0.02; done; echo the new server is up");
    let id = cd.deploy();
    cd.until("my-app", &id, |status| status == "running");
    // Somebody waits for news of it meanwhile, and is answered when the server stops.
    let (address, path) = (cd.address.clone(), format!("/api/v1/apps/my-app/jobs/{id}?wait=60"));
    let waiter = std::thread::spawn(move || {
        let request = crate::cd::request("GET", &path, &[("authorization", &format!("Bearer {SECRET}"))], "");
        crate::cd::answer_to(&address, request.as_bytes()).map_or(0, |answer| answer.status)
    });
    cd.write("server.new", &cd.pid().to_string());
    std::fs::rename(cd.path("server.new"), cd.path("server")).unwrap();
    assert_eq!(cd.exited(), 0, "{}", cd.said());
    assert!(matches!(waiter.join().unwrap(), 200 | 0), "a request that began late meets a closed door");
    cd.start();
    cd.write("go", "");
    assert_eq!(cd.ended("my-app", &id)["status"], "success");
    assert!(cd.log("my-app", &id).ends_with("the new server is up\nProcess terminated with return code: 0\n"));
    assert_eq!(cd.ran(), [id]);
}

#[test]
fn a_server_that_is_killed_finds_its_jobs_again() {
    let mut cd = Cd::new("");
    cd.job("until [ -e go ]; do sleep 0.02; done; echo it went on");
    let id = cd.deploy();
    cd.until("my-app", &id, |status| status == "running");
    cd.kill();
    cd.start();
    assert_eq!(cd.job_of("my-app", &id)["status"], "running", "the job knows nothing of it");
    assert_eq!(cd.api("POST", "/apps/my-app/jobs", SECRET).must(200).text("/id"), id);
    cd.kill();
    cd.write("go", ""); // it ends while no server is there
    let since = Instant::now();
    while !crate::cd::attempts(&cd.path("data/jobs")).iter().all(|attempt| attempt.join("end").exists()) {
        assert!(since.elapsed() < PATIENCE);
    }
    cd.start();
    assert_eq!(cd.ended("my-app", &id)["status"], "success");
    assert!(cd.log("my-app", &id).ends_with("it went on\nProcess terminated with return code: 0\n"));
    assert_eq!(cd.ran(), [id]);
}

#[test]
fn a_job_whose_supervisor_is_killed_is_lost_and_nothing_waits_for_it() {
    let mut cd = Cd::new("");
    cd.job("echo $$ > program.new; mv program.new program; until [ -e go ]; do sleep 0.02; done");
    let id = cd.deploy();
    let since = Instant::now();
    while !cd.path("program").exists() {
        assert!(since.elapsed() < PATIENCE);
    }
    let program: u32 = std::fs::read_to_string(cd.path("program")).unwrap().trim().parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{program}/stat")).unwrap();
    let supervisor: u32 = stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    cd.kill();
    signal(supervisor, "KILL");
    cd.start();
    let job = cd.ended("my-app", &id);
    assert_eq!((job["status"].as_str(), job["code"].as_i64()), (Some("lost"), None), "{job}");
    assert!(!std::path::Path::new(&format!("/proc/{program}")).exists() || is_zombie(program), "what it ran is ended");
    let status = cd.enac("/job-status/", "my-app", SECRET, Some(&id)).json();
    assert_eq!(status["status"], "error");
    assert!(status["output"].as_str().unwrap().contains("tidegate: its supervisor is gone"), "{status}");
    cd.job("");
    let next = cd.deploy();
    assert_ne!(next, id, "the original merges every request into such a job for ever");
    assert_eq!(cd.ended("my-app", &next)["status"], "success");
}

#[test]
fn apps_are_announced_all_at_once_or_not_at_all() {
    let mut cd = Cd::new("");
    let list = |apps: &[(&str, &str)]| {
        let apps: Vec<Value> = apps
            .iter()
            .map(|(id, secret)| json!({"inventory": format!("{id}-inventory"), "deployment_id": id, "deployment_secret": secret}))
            .collect();
        cd.ask("POST", "/set-available-apps/", &[], &Value::from(apps).to_string()).must(200)
    };
    assert_eq!(list(&[("one", "secret-of-one"), ("two", "secret-of-two")]).body, r#"{"status":"ok"}"#);
    let id = cd.enac("/app-deploy/", "one", "secret-of-one", None).text("/job_id");
    cd.ended("one", &id);
    for (bad, why) in [
        (&[("three", "secret-of-three"), ("b a d", "x")][..], "is not usable"),
        (&[("three", "")][..], "is empty"),
        (&[("three", "a"), ("three", "b")][..], "twice"),
    ] {
        let answer = list(bad);
        assert!(answer.text("/error").contains(why), "{answer:?}");
    }
    let broken = cd.ask("POST", "/set-available-apps/", &[], r#"[{"inventory": "x", "deployment_secret": "leaked-secret"}]"#).must(200);
    assert!(broken.text("/status") == "error" && !broken.body.contains("leaked-secret"), "{broken:?}");
    assert_eq!(cd.enac("/app-deploy/", "three", "secret-of-three", None).text("/error"), "App not found");
    assert_eq!(cd.enac("/app-deploy/", "two", "secret-of-two", None).text("/status"), "starting", "the list is as it was");
    let shown = cd.ask("GET", "/get-available-apps/", &[], "").must(200);
    assert!(shown.body.contains("\"deployment_id\":\"one\"") && !shown.body.contains("secret-of"), "{shown:?}");
    list(&[("two", "another-secret-of-two")]);
    assert_eq!(cd.enac("/app-deploy/", "one", "secret-of-one", None).text("/error"), "App not found");
    assert_eq!(cd.enac("/app-deploy/", "two", "secret-of-two", None).text("/error"), "App not found");
    assert_eq!(cd.enac("/job-status/", "one", "secret-of-one", Some(&id)).text("/error"), "App deployment not found");
    cd.kill();
    cd.start();
    assert!(cd.enac("/app-deploy/", "two", "another-secret-of-two", None).json()["job_id"].is_string(), "it is kept");
}

#[test]
fn a_job_announces_the_apps_at_the_start_and_on_request() {
    let mut cd = Cd::prepared(
        "runners:\n  script: {process: {command: [sh, script, \"{inventory}\"]}}\napps:\n  runner: {secret: {env: MY_APP}, inventory: cd_runner}\n\
         tokens: {ops: {secret: {env: OPS}, role: operator}}\n\
         announce: {runner: script, command: [bash, announce], inventory: cd_runner}\n",
    );
    // It sends the list to the server, as the original's does.
    cd.write(
        "announce",
        "until [ -e port ]; do sleep 0.02; done\nlist='[{\"inventory\": \"told\", \"deployment_id\": \"told\", \"deployment_secret\": \"secret-of-told\"}]'\n\
         exec 3<>/dev/tcp/127.0.0.1/$(cat port)\n\
         printf 'POST /set-available-apps/ HTTP/1.1\\r\\nHost: cd\\r\\nConnection: close\\r\\nContent-Length: %s\\r\\n\\r\\n%s' ${#list} \"$list\" >&3\n\
         grep -q '200 OK' <&3 && echo \"$TIDEGATE_JOB announce\" >> ran\n",
    );
    cd.start();
    let port = cd.address.rsplit(':').next().unwrap();
    cd.write("port.new", port);
    std::fs::rename(cd.path("port.new"), cd.path("port")).unwrap();
    let since = Instant::now();
    while cd.ran().is_empty() {
        assert!(since.elapsed() < PATIENCE, "{}", cd.said());
    }
    wait_for(&cd, "ended: success");
    assert!(cd.enac("/app-deploy/", "told", "secret-of-told", None).json()["job_id"].is_string(), "the app is there");
    let id = cd.enac("/app-deploy/", "runner", SECRET, None).text("/job_id");
    assert_eq!(cd.ended("runner", &id)["status"], "success");
    let asked = cd.api("POST", "/announce", OPERATOR).must(202).text("/id");
    assert_eq!(cd.ended("announce", &asked)["status"], "success");
    let announced = cd.ran().iter().filter(|line| line.ends_with(" announce")).count();
    assert_eq!(announced, 3);
}

#[test]
fn the_old_dialect_refuses_and_tells_each_line_once() {
    let cd = Cd::new("enac: old\n");
    cd.job("until [ -e go ]; do sleep 0.02; done; echo second");
    let first = cd.enac("/app-deploy/", "my-app", SECRET, None).json();
    assert_eq!((first["status"].as_str(), first["output"].as_str()), (Some("starting"), Some("")));
    let id = first["job_id"].as_str().unwrap();
    assert_eq!(cd.enac("/app-deploy/", "my-app", SECRET, None).text("/error"), "App deployment is already running");
    let since = Instant::now();
    let mut told = String::new();
    loop {
        let status = cd.enac("/job-status/", "my-app", SECRET, Some(id)).json();
        told.push_str(status["output"].as_str().unwrap());
        if told.contains("deploying") {
            cd.write("go", "");
        }
        if status["status"] == "finished" {
            break;
        }
        assert!(since.elapsed() < PATIENCE);
    }
    assert_eq!(told, "deploying my-inventory\nsecond\nProcess terminated with return code: 0\n");
    assert_eq!(cd.enac("/job-status/", "my-app", SECRET, Some(id)).text("/output"), "");
    assert_eq!(cd.ask("POST", "/set-job-status/", &[], "{}").must(200).body, r#"{"status":"ok"}"#);
    assert_eq!(cd.ask("POST", "/inject-apps/", &[], "[]").must(200).body, r#"{"status":"ok"}"#);
}

#[test]
fn the_shapes_of_the_original_server() {
    let cd = Cd::new("");
    assert_eq!(cd.ask("GET", "/", &[], "").must(200).text("/app"), "tidegate");
    assert_eq!(cd.ask("GET", "/health/", &[], "").must(200).body, r#"{"status":"ok"}"#);
    assert_eq!(cd.ask("GET", "/app-deploy/", &[], "").must(405).body, r#"{"detail":"Method Not Allowed"}"#);
    assert_eq!(cd.ask("GET", "/nothing", &[], "").must(404).body, r#"{"detail":"Not Found"}"#);
    assert_eq!(cd.ask("POST", "/app-deploy", &[], "{}").must(307).header("location").unwrap(), "/app-deploy/");
    for body in ["", "[", "\"x\"", "[1]", "\u{0}"] {
        assert!(cd.ask("POST", "/app-deploy/", &[], body).must(422).json()["detail"].is_array(), "{body:?}");
    }
    for body in ["{}", r#"{"deployment_id": "my-app"}"#, r#"{"deployment_id": 1, "deployment_secret": 2}"#] {
        assert_eq!(cd.ask("POST", "/app-deploy/", &[], body).must(200).text("/status"), "error");
    }
    let (unknown, wrong) = (cd.enac("/app-deploy/", "no-app", SECRET, None), cd.enac("/app-deploy/", "my-app", "wrong", None));
    assert_eq!(
        (unknown.must(200).body, wrong.must(200).body),
        (r#"{"status":"error","error":"App not found"}"#.into(), r#"{"status":"error","error":"App not found"}"#.into())
    );
    let load = cd.ask("GET", "/load/?periods=now:1,ever:999999999", &[], "").must(200).json();
    assert_eq!(
        load,
        json!({"status": "ok", "load": {"now": {"starting": 0, "running": 0, "success": 0, "error": 0}, "ever": {"starting": 0, "running": 0, "success": 0, "error": 0}}})
    );
    assert_eq!(cd.ask("GET", "/load/?periods=x", &[], "").must(200).text("/status"), "error");
    // A proxy of this machine that nobody named does not make strangers local.
    for (method, path) in [("GET", "/load/"), ("GET", "/metrics"), ("POST", "/set-available-apps/"), ("GET", "/get-available-apps/")] {
        cd.ask(method, path, &[("x-forwarded-for", "203.0.113.9")], "[]").must(403);
    }
    // Behind a proxy that is believed, a stranger is a stranger.
    cd.configure("schema: 1", "schema: 1\nproxies: [127.0.0.1]");
    wait_for(&cd, "was read again");
    for (method, path) in [("GET", "/load/"), ("GET", "/metrics"), ("POST", "/set-available-apps/"), ("GET", "/get-available-apps/")] {
        let forwarded = [("x-forwarded-for", "127.0.0.1, 203.0.113.9")];
        assert_eq!(cd.ask(method, path, &forwarded, "[]").must(403).body, r#"{"detail":"Access denied"}"#, "{path}");
    }
}
