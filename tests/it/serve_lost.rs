//! The server is killed at random moments: nothing that was accepted is lost, nothing runs twice.

use crate::cd::{Cd, PATIENCE, SECRET};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the server is killed; `TIDEGATE_KILLS=10000` for a long run.
fn kills() -> u32 {
    std::env::var("TIDEGATE_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(25)
}

/// A cheap source of chance, so that a failure can be told from another.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn killed_at_random_moments_under_load_nothing_is_lost_and_nothing_runs_twice() {
    let apps: String = (0..6).map(|n| format!("  app-{n}: {{secret: {{env: MY_APP}}, busy: queue}}\n")).collect();
    let mut cd = Cd::prepared(&format!(
        "runners:\n  script: {{process: {{command: [sh, script, \"{{inventory}}\"]}}}}\napps:\n{apps}tokens: {{ops: {{secret: {{env: OPS}}, role: operator}}}}\nlimits: {{running: 3, queue: 10000}}\n"
    ));
    cd.write("script", "echo \"$1 $TIDEGATE_JOB\" >> ran\n");
    let mut chance = Chance(u64::from(std::process::id()) * 2 + 1);
    let mut accepted: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..kills() {
        cd.start();
        let stop = AtomicBool::new(false);
        let wait = Duration::from_micros(chance.below(250_000));
        let answered = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..3)
                .map(|client| {
                    let (cd, stop) = (&cd, &stop);
                    scope.spawn(move || {
                        let mut answered = Vec::new();
                        let mut number = 0;
                        while !stop.load(Ordering::Relaxed) && number < 40 {
                            let app = format!("app-{}", (number + client) % 6);
                            let key = format!("{round}-{client}-{number}");
                            let headers = [("authorization", format!("Bearer {SECRET}")), ("idempotency-key", key.clone())];
                            let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
                            let path = format!("/api/v1/apps/{app}/jobs");
                            if let Some(answer) =
                                cd.try_ask("POST", &path, &headers, "").filter(|answer| matches!(answer.status, 200 | 202))
                            {
                                // An answer that broke off has said nothing.
                                if let Ok(job) = serde_json::from_str::<serde_json::Value>(&answer.body) {
                                    answered.push((key, job["id"].as_str().unwrap().to_owned()));
                                }
                            }
                            number += 1;
                        }
                        answered
                    })
                })
                .collect();
            let since = Instant::now();
            while since.elapsed() < wait {
                std::thread::yield_now();
            }
            crate::cd::signal(cd.pid(), "KILL");
            stop.store(true, Ordering::Relaxed);
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
        });
        accepted.extend(answered);
        cd.kill();
    }
    cd.start();
    let since = Instant::now();
    let everything = loop {
        let all = jobs(&cd);
        if all.values().all(|status| !matches!(status.as_str(), "queued" | "starting" | "running")) {
            break all;
        }
        assert!(since.elapsed() < PATIENCE * 3, "some jobs never end: {all:?}\n{}", cd.said());
    };
    println!("{} kills, {} requests answered, {} jobs", kills(), accepted.len(), everything.len());
    assert!(!accepted.is_empty(), "nothing was accepted at all, so nothing is shown");
    for (key, id) in &accepted {
        assert!(everything.contains_key(id), "the job {id} of request {key} was accepted and is lost");
    }
    let ran = cd.ran();
    let distinct: BTreeSet<&String> = ran.iter().collect();
    assert_eq!(distinct.len(), ran.len(), "some jobs ran twice");
    for (id, status) in &everything {
        let did_run = ran.iter().any(|line| line.ends_with(id.as_str()));
        let path = "/jobs?limit=200";
        let why =
            || cd.api("GET", path, crate::cd::OPERATOR).json()["jobs"].as_array().unwrap().iter().find(|job| job["id"] == **id).cloned();
        assert!(status == "success" && did_run, "job {id} ended as {status}, and ran: {did_run} {:?}\n{}", why(), cd.said());
    }
    // Jobs of one app ran in the order in which they came.
    for app in 0..6 {
        let of_app: Vec<&String> = ran.iter().filter(|line| line.starts_with(&format!("app-{app} "))).collect();
        assert!(of_app.is_sorted(), "{of_app:?}");
    }
}

/// All jobs and where they stand.
fn jobs(cd: &Cd) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut before = String::new();
    loop {
        let page = cd.api("GET", &format!("/jobs?limit=200{before}"), crate::cd::OPERATOR).must(200).json();
        let page = page["jobs"].as_array().unwrap().clone();
        for job in &page {
            all.insert(job["id"].as_str().unwrap().to_owned(), job["status"].as_str().unwrap().to_owned());
        }
        let Some(last) = page.last().filter(|_| page.len() == 200) else { return all };
        before = format!("&before={}", last["id"].as_str().unwrap());
    }
}
