//! The CD server's target: a job that began when this version was there, followed to its end and judged by state and log.

use crate::world::{Going, Ran, World, tidegate};
use serde_json::{Value, json};
use std::time::Duration;
use tidegate::rehearse::cd_server::{Dialect, Fate, Server};
use tidegate::rehearse::sandbox::Fault;

const SECRET: &str = "cd-secret-cd-secret";
const DEPLOY: &str = "POST /cd/app-deploy/";
const STATUS: &str = "POST /cd/job-status/";
/// What a job says that ends well.
const LINES: [&str; 4] = ["PLAY [web] ****", "ok: [web1]", "PLAY RECAP ****", "Process terminated with return code: 0"];

/// A repository whose merges deploy an app.
fn app(dialect: Dialect, fate: Fate, keys: &str) -> World {
    let mut world = World::new();
    let url = world.sandbox.url("cd");
    world.deploy_dev_by(&format!(
        "app_deploy: {{url: \"{url}\", deployment-id: my-app, deployment-secret: {{env: CD_SECRET}}, interval: 20ms, timeout: 60s{keys}}}"
    ));
    world.sandbox.with(|outside| outside.cd = Server { dialect, fate, ..Server::with("my-app", SECRET) });
    world.var("CD_SECRET", SECRET);
    world
}

fn current(fate: Fate) -> World {
    app(Dialect::Current, fate, "")
}

fn short(world: &World) {
    world.configure("timeout: 60s", "timeout: 1s");
    world.commit("short");
}

fn jobs(world: &World) -> Vec<String> {
    world.sandbox.with(|outside| outside.cd.jobs.keys().cloned().collect())
}

/// The job's own lines, as they were shown.
fn relayed(err: &str) -> Vec<&str> {
    err.lines().filter_map(|line| line.trim().strip_prefix("cd | ")).collect()
}

fn fault(on: &'static str, status: u16, times: usize) -> Fault {
    Fault { on, times, status, headers: vec![], body: json!({"detail": "Bad Gateway"}), after_effect: false }
}

/// The run must have failed with these words in its first line.
#[track_caller]
fn says(ran: &Ran, words: &str) {
    let first = ran.err.lines().find(|line| line.starts_with("error:")).unwrap_or_default();
    assert!(first.contains(words), "{words:?} is not in {first:?}\n{}", ran.err);
}

#[test]
fn a_job_is_followed_in_both_dialects_and_no_line_comes_twice() {
    for dialect in [Dialect::Current, Dialect::Old] {
        let mut world = app(dialect, Fate::Success, "");
        let ran = world.pushed().run(&["run"]);
        ran.must(0, "deploy.done");
        let jobs = jobs(&world);
        let [job] = jobs.as_slice() else { panic!("one job: {jobs:?}") };
        assert!(ran.err.contains(&format!("job {job} ended with success")), "{}", ran.err);
        assert_eq!(relayed(&ran.err), LINES, "{dialect:?}");
        for state in ["starting", "running"] {
            let said = ran.err.matches(&format!("job {job}: {state}")).count();
            assert!(said <= 1, "{state} is said when it changes: {}", ran.err);
        }
        assert_eq!(ran.count(DEPLOY), 1);
        assert!(ran.log.iter().all(|line| !line.contains(SECRET)), "the secret is in no address");
        assert!(!ran.err.replace(&format!("::add-mask::{SECRET}"), "").contains(SECRET));
    }
}

/// A log that lost its first lines meanwhile is known by what was heard last.
#[test]
fn a_log_that_shrinks_says_nothing_twice() {
    let mut world = current(Fate::Shrinks);
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(relayed(&ran.err), LINES);
}

#[test]
fn every_end_that_is_no_success_fails_in_its_own_words() {
    for (dialect, fate, words) in [
        (Dialect::Current, Fate::Error, "ended with an error: return code 2"),
        (Dialect::Current, Fate::NoCode, "ended with an error"),
        (Dialect::Old, Fate::Error, "ended with return code 2"),
        (Dialect::Old, Fate::NoCode, "its log does not end with a return code: how it went cannot be said"),
        (Dialect::Current, Fate::Vanishes, "how it went cannot be said"),
        (Dialect::Old, Fate::Vanishes, "the server does not know job"),
        (Dialect::Current, Fate::UnknownStatus, "is \"paused\": tidegate does not know what that means"),
    ] {
        let mut world = app(dialect, fate, "");
        let ran = world.pushed().run(&["run"]);
        ran.must(1, "target.failed");
        says(&ran, words);
        assert!(ran.err.contains("last lines of the job:\n    PLAY [web] ****\n    ok: [we"), "{}", ran.err);
        assert_eq!(world.deployments()[0].last().unwrap(), "failure");
        assert_eq!(ran.count(DEPLOY), 1, "nothing is asked for twice");
    }
}

/// Lying twins: the server says yes, and its own log or another job's answer says no.
#[test]
fn a_success_that_its_log_denies_fails() {
    let mut world = current(Fate::SuccessWithBadCode);
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.failed");
    says(&ran, "ended with success, but its log ends with return code 2");
    // What is not shown is judged all the same.
    let mut world = app(Dialect::Current, Fate::SuccessWithBadCode, ", output: hide");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.failed");
    assert!(relayed(&ran.err).is_empty() && !ran.err.contains("last lines"), "{}", ran.err);
    let mut world = current(Fate::OtherJob);
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.failed");
    says(&ran, "and answers about job");
}

/// Lying twin: the job went well, and the old version keeps running.
#[test]
fn a_proof_decides_over_the_job() {
    for (running, code, reason, words) in
        [("sha256:old", 1, "target.wrong-digest", "the proof says otherwise"), ("SHA", 0, "deploy.done", "ended with success; ")]
    {
        let mut world = World::new();
        let (url, hooks) = (world.sandbox.url("cd"), world.sandbox.url("hooks"));
        world.deploy_dev_by(&format!(
            "app_deploy: {{url: \"{url}/\", deployment-id: my-app, deployment-secret: {{env: CD_SECRET}}, interval: 20ms, timeout: 2s, proof: {{http: {{url: \"{hooks}/running\", contains: \"{{sha}}\"}}}}}}"
        ));
        let sha = world.head();
        world.sandbox.with(|outside| {
            outside.cd = Server::with("my-app", SECRET);
            outside.hooks.running = running.replace("SHA", &sha);
        });
        let ran = world.var("CD_SECRET", SECRET).pushed().run(&["run"]);
        ran.must(code, reason);
        assert!(ran.err.contains(words), "{}", ran.err);
    }
}

/// A job that ran already may have begun before this version was there: ours is asked for after it.
#[test]
fn a_job_that_ran_already_is_followed_and_then_ours_is_asked_for() {
    for fate in [Fate::Success, Fate::Error, Fate::Vanishes] {
        let mut world = current(Fate::Success);
        let other = world.sandbox.with(|outside| outside.cd.another(Duration::from_secs(40), fate));
        let ran = world.pushed().run(&["run"]);
        ran.must(0, "deploy.done");
        let jobs = jobs(&world);
        assert_eq!((jobs.len(), jobs[0].as_str()), (2, other.as_str()), "{fate:?}: {}", ran.err);
        assert!(ran.err.contains(&format!("job {other} of this app ran already, begun ")), "{}", ran.err);
        assert!(ran.err.contains("asking once more") && ran.err.contains(&format!("job {} ended with success", jobs[1])), "{}", ran.err);
    }
}

/// Lying twin of the above: the one that ran already went well, ours does not.
#[test]
fn the_success_of_another_job_is_not_ours() {
    let mut world = current(Fate::Error);
    world.sandbox.with(|outside| outside.cd.another(Duration::from_secs(40), Fate::Success));
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.failed");
    says(&ran, "ended with an error: return code 2");
}

#[test]
fn a_job_that_ran_already_is_enough_where_its_proof_holds() {
    let mut world = World::new();
    let (url, hooks) = (world.sandbox.url("cd"), world.sandbox.url("hooks"));
    world.deploy_dev_by(&format!(
        "app_deploy: {{url: \"{url}\", deployment-id: my-app, deployment-secret: {{env: CD_SECRET}}, interval: 20ms, proof: {{http: {{url: \"{hooks}/running\", contains: \"{{sha}}\"}}}}}}"
    ));
    let sha = world.head();
    world.sandbox.with(|outside| {
        outside.cd = Server::with("my-app", SECRET);
        outside.hooks.running = sha;
        outside.cd.another(Duration::from_secs(40), Fate::Success)
    });
    let ran = world.var("CD_SECRET", SECRET).pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("nothing more was asked for"), "{}", ran.err);
    assert_eq!(jobs(&world).len(), 1);
}

#[test]
fn with_busy_merge_the_word_of_the_other_job_is_taken() {
    for (fate, code, reason) in [(Fate::Success, 0, "deploy.done"), (Fate::Error, 1, "target.failed")] {
        let mut world = app(Dialect::Current, Fate::Success, ", busy: merge");
        let other = world.sandbox.with(|outside| outside.cd.another(Duration::from_secs(40), fate));
        let ran = world.pushed().run(&["run"]);
        ran.must(code, reason);
        assert!(ran.err.contains(&format!("job {other}, which ran already, ended with")), "{}", ran.err);
        assert_eq!(jobs(&world), [other]);
    }
}

/// The old server names no job: ours is asked for until it is taken.
#[test]
fn the_old_server_is_asked_until_it_takes_the_request() {
    for keys in ["", ", busy: merge"] {
        let mut world = app(Dialect::Old, Fate::Success, keys);
        world.sandbox.with(|outside| outside.cd.another(Duration::from_secs(40), Fate::Error));
        let ran = world.pushed().run(&["run"]);
        ran.must(0, "deploy.done");
        assert_eq!(ran.err.matches("a job of this app runs already").count(), 1, "{}", ran.err);
        assert!(ran.count(DEPLOY) > 2 && jobs(&world).len() == 2, "{:?}", ran.log);
    }
    let mut world = app(Dialect::Old, Fate::Success, "");
    world.sandbox.with(|outside| outside.cd.another(Duration::from_secs(40), Fate::NeverEnds));
    short(&world);
    let ran = world.pushed().run(&["run"]);
    ran.must(3, "target.timeout");
    says(&ran, "another job of this app was still running after");
}

/// The server is one of its own apps, so it goes away for a while in the middle of its own deployment.
#[test]
fn a_server_that_redeploys_itself_is_waited_for() {
    for dialect in [Dialect::Current, Dialect::Old] {
        let mut world = app(dialect, Fate::Redeploys, "");
        let ran = world.pushed().run(&["run"]);
        ran.must(0, "deploy.done");
        assert_eq!(ran.err.matches("it may be redeploying itself").count(), 1, "{}", ran.err);
        assert!(ran.err.contains("(502 Bad Gateway") && ran.err.contains("the server answers again"), "{}", ran.err);
        assert_eq!(ran.count("→ 502"), 3);
        assert_eq!(relayed(&ran.err).len(), 4, "{}", ran.err);
    }
}

/// While the server is replaced, a proxy may answer for it that there is no such page; not for ever.
#[test]
fn a_proxy_that_answers_in_its_place_is_not_its_word() {
    let absent = |times| Fault { body: json!("404 page not found"), ..fault(STATUS, 404, times) };
    let mut world = current(Fate::Success);
    world.sandbox.with(|outside| outside.faults.push(absent(3)));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("answers 404") && ran.err.contains("the server answers again") && jobs(&world).len() == 1, "{}", ran.err);
    // Its own word counts at once.
    let mut world = current(Fate::Success);
    world.sandbox.with(|outside| outside.faults.push(Fault { body: json!({"detail": "Not Found"}), ..fault(STATUS, 404, 1) }));
    world.pushed().run(&["run"]).must(2, "target.input");
}

/// After its start the server does not know its apps yet.
#[test]
fn a_server_that_is_away_at_first_is_waited_for() {
    let mut world = current(Fate::Success);
    let unknown = Fault { body: json!({"status": "error", "error": "App not found"}), ..fault(DEPLOY, 200, 2) };
    world.sandbox.with(|outside| outside.faults = vec![fault(DEPLOY, 503, 1), unknown]);
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!((ran.count(DEPLOY), jobs(&world).len()), (4, 1));
}

/// The job was begun and the answer lost: asking again joins it, and it is ours.
#[test]
fn a_lost_answer_begins_no_second_job() {
    for status in [502, 0] {
        let mut world = current(Fate::Success);
        world.sandbox.with(|outside| {
            outside.faults.push(Fault { after_effect: true, ..fault(DEPLOY, status, 1) });
            outside.faults.push(fault(STATUS, 0, 1));
        });
        let ran = world.pushed().run(&["run"]);
        ran.must(0, "deploy.done");
        assert!(ran.err.contains("asking again joins that") && !ran.err.contains("ran already"), "{}", ran.err);
        assert_eq!((jobs(&world).len(), ran.count(DEPLOY)), (1, 2));
    }
    // The old server does not say whose job runs: the next one is waited for.
    let mut world = app(Dialect::Old, Fate::Success, "");
    world.sandbox.with(|outside| outside.faults.push(Fault { after_effect: true, ..fault(DEPLOY, 502, 1) }));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(jobs(&world).len(), 2, "{}", ran.err);
}

/// An error of the server itself is no redeploy: whether a job began is not known, and none is asked for again.
#[test]
fn an_error_of_the_server_itself_fails() {
    let mut world = current(Fate::Success);
    world.sandbox.with(|outside| outside.faults.push(fault(DEPLOY, 500, 9)));
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.failed");
    assert!(ran.err.contains("a job may run there all the same") && ran.count(DEPLOY) == 1, "{}", ran.err);
}

#[test]
fn a_wrong_id_or_secret_is_denied() {
    let mut world = current(Fate::Success);
    let ran = world.var("CD_SECRET", "another-secret-entirely").pushed().run(&["run"]);
    ran.must(5, "auth.denied");
    says(&ran, "its id or its secret is wrong, and the server does not say which");
    assert!(ran.err.contains("CD_SECRET") && jobs(&world).is_empty(), "{}", ran.err);
    assert!(!ran.err.replace("::add-mask::another-secret-entirely", "").contains("another-secret-entirely"));
    let mut world = current(Fate::Success);
    world.configure("deployment-id: my-app", "deployment-id: {env: CD_ID}");
    world.commit("secret id");
    let ran = world.var("CD_ID", "an-app-that-is-not-there").pushed().run(&["run"]);
    ran.must(5, "auth.denied");
    assert!(ran.err.contains("CD_SECRET, CD_ID"), "{}", ran.err);
    world.var("CD_ID", "my-app").pushed().run(&["run"]).must(0, "deploy.done");
    let mut world = current(Fate::Success);
    let ran = world.without("CD_SECRET").pushed().run(&["run"]);
    ran.must(5, "auth.missing");
    assert_eq!(ran.count("POST /build"), 0, "known before anything is built");
}

#[test]
fn every_refusal_has_its_reason() {
    let detail = |words: &str| json!({"detail": words});
    let shape =
        json!({"detail": [{"loc": ["body"], "msg": "Input should be a valid dictionary", "input": {"deployment_secret": "spilled"}}]});
    let leak = json!({"status": "error", "error": "argument of type 'NoneType' is not iterable"});
    let cases: Vec<(u16, Value, i32, &str, &str)> = vec![
        (401, detail("Unauthorized"), 5, "auth.missing", "answers 401: Unauthorized"),
        (403, detail("Access denied"), 5, "auth.denied", "answers 403: Access denied"),
        (404, detail("Not Found"), 2, "target.input", "answers 404: Not Found"),
        (405, detail("Method Not Allowed"), 2, "target.input", "answers 405: Method Not Allowed"),
        (422, shape, 2, "target.input", "answers 422: body: Input should be a valid dictionary"),
        (307, json!({}), 2, "target.input", "leads to https://elsewhere.example.com/x: a secret is not taken there"),
        (418, json!("short"), 1, "target.failed", "answers 418: \"short\""),
        (200, json!("up"), 2, "target.input", "answers JSON without a `status`"),
        (200, json!({"status": "starting"}), 1, "target.failed", "names no job"),
        (200, json!({"status": "starting", "job_id": "a\n::stop-commands::b", "output": ""}), 1, "target.failed", "names no job"),
        (200, leak, 1, "target.failed", "refuses the deployment: argument of type 'NoneType' is not iterable"),
    ];
    for (status, body, code, reason, words) in cases {
        let mut world = current(Fate::Success);
        let headers = vec![("location", "https://elsewhere.example.com/x?key=1")];
        world.sandbox.with(|outside| outside.faults.push(Fault { headers, body, ..fault(DEPLOY, status, 9) }));
        let ran = world.pushed().run(&["run"]);
        ran.must(code, reason);
        says(&ran, words);
        assert!(!ran.err.contains("spilled") && !ran.err.contains("key=1") && ran.count(DEPLOY) == 1, "{}", ran.err);
    }
    // Something else than a CD server.
    let mut world = current(Fate::Success);
    world.configure("/cd\"", "/hooks\"");
    world.commit("elsewhere");
    world.sandbox.with(|outside| outside.hooks.answer = Some("<html>Welcome</html>".into()));
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "target.input");
    says(&ran, "answers something else than JSON: \"<html>Welcome</html>\"");
}

/// There is no cancel in this protocol: the job is named, and that it goes on.
#[test]
fn a_job_that_never_ends_is_named_and_goes_on() {
    for (fate, state) in [(Fate::NeverEnds, "running"), (Fate::NeverStarts, "starting")] {
        let mut world = current(fate);
        short(&world);
        let ran = world.pushed().run(&["run"]);
        ran.must(3, "target.timeout");
        let job = jobs(&world).remove(0);
        says(&ran, &format!("job {job} is still {state} after"));
        assert!(ran.err.contains(&format!("job {job} goes on there: a CD server takes no cancel")), "{}", ran.err);
    }
    // One that the server lost at its own restart: every request is merged into it.
    let mut world = current(Fate::Success);
    let dead = world.sandbox.with(|outside| outside.cd.another(Duration::from_secs(90_000), Fate::NeverStarts));
    short(&world);
    let ran = world.pushed().run(&["run"]);
    ran.must(3, "target.timeout");
    assert!(ran.err.contains(&format!("job {dead} of this app ran already, begun 1day")), "{}", ran.err);
    assert!(ran.err.contains("stays in this state for ever"), "{}", ran.err);
}

#[test]
fn a_server_that_never_answers_is_given_up_at_the_deadline() {
    let mut world = current(Fate::Success);
    world.configure(&world.sandbox.url("cd"), "http://127.0.0.1:1");
    short(&world);
    let ran = world.pushed().run(&["run"]);
    ran.must(3, "target.timeout");
    says(&ran, "http://127.0.0.1:1 did not answer within");
    assert!(!ran.err.contains("joins that") && !ran.err.contains("goes on"), "nothing arrived: {}", ran.err);
}

#[test]
fn a_cancelled_run_says_that_the_job_goes_on() {
    let mut world = current(Fate::NeverEnds);
    let run = world.pushed().run_until(&["run"], ": running");
    run.signal("-TERM");
    let said = run.ends(143);
    let job = jobs(&world).remove(0);
    assert!(said.contains(&format!("cancelled while job {job} was running")), "{said}");
    assert!(said.contains(&format!("job {job} goes on there: a CD server takes no cancel")), "{said}");
    // While it is asked for: nobody knows.
    let mut world = current(Fate::NeverEnds);
    world.sandbox.with(|outside| outside.holds.push(DEPLOY.into()));
    let run = Going::start(world.pushed().command(&["run"]));
    world.until("the request hangs", |outside| outside.held == 1);
    run.signal("-TERM");
    let said = run.ends(143);
    assert!(said.contains("a job may have begun there all the same"), "{said}");
    world.sandbox.open();
}

/// A run that was killed while the job ran is gone on with: the same job, not another.
#[test]
fn a_killed_run_leaves_a_job_that_the_next_one_follows() {
    for fate in [Fate::Success, Fate::Error] {
        let mut world = current(Fate::NeverEnds);
        world.var("TIDEGATE_LEASE_EXPIRY", "1s");
        let run = world.pushed().run_until(&["run"], ": running");
        run.kill();
        world.sandbox.with(|outside| {
            outside.cd.jobs.values_mut().for_each(|job| (job.fate, job.looks) = (fate, 9));
            outside.cd.fate = Fate::Success;
        });
        let ran = world.run(&["run"]);
        ran.must(0, "deploy.done");
        let jobs = jobs(&world);
        assert!(ran.err.contains(&format!("the run before started job {}: it is followed", jobs[0])), "{}", ran.err);
        // One that ended badly meanwhile is no reason to fail: another one is asked for.
        assert_eq!(jobs.len(), if fate == Fate::Success { 1 } else { 2 }, "{}", ran.err);
    }
}

/// Killed while it asked: whose job runs is not known, so it is followed and ours asked for after it.
#[test]
fn a_run_that_is_killed_while_it_asks_leaves_no_doubt() {
    let mut world = current(Fate::Success);
    world.var("TIDEGATE_LEASE_EXPIRY", "1s");
    world.sandbox.with(|outside| outside.holds.push(DEPLOY.into()));
    let run = Going::start(world.pushed().command(&["run"]));
    world.until("it asks", |outside| outside.held == 1);
    run.kill();
    world.sandbox.with(|outside| outside.cd.another(Duration::from_secs(5), Fate::Success));
    world.sandbox.with(|outside| outside.holds.clear());
    let ran = world.run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("the run before may have asked for a job"), "{}", ran.err);
    assert_eq!(jobs(&world).len(), 2, "{}", ran.err);
}

#[test]
fn what_was_delivered_is_not_deployed_again() {
    for dialect in [Dialect::Current, Dialect::Old] {
        let mut world = app(dialect, Fate::Success, "");
        world.pushed().run(&["run"]).must(0, "deploy.done");
        let again = world.run(&["run"]);
        again.must(0, "deploy.done");
        assert!(again.err.contains("ended with success; delivered before"), "{}", again.err);
        assert_eq!((jobs(&world).len(), again.count(DEPLOY)), (1, 0));
    }
    // A server that lost its jobs cannot confirm it.
    let mut world = current(Fate::Success);
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.sandbox.with(|outside| outside.cd.jobs.clear());
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert_eq!(again.count(DEPLOY), 1);
}

#[test]
fn secrets_in_the_lines_are_masked() {
    let mut world = current(Fate::Success);
    world.sandbox.with(|outside| outside.cd.line = Some(format!("the secret is {SECRET}")));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(relayed(&ran.err).contains(&"the secret is ***"), "{}", ran.err);
    let mut world = app(Dialect::Current, Fate::Success, ", output: hide");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(relayed(&ran.err).is_empty(), "{}", ran.err);
}

#[test]
fn mistakes_in_the_configuration_are_told() {
    let good = "url: \"https://cd.example.com\", deployment-id: my-app, deployment-secret: {env: CD_SECRET}";
    for (from, to, words) in [
        ("https://cd", "http://cd", "without TLS everybody on the way can read"),
        ("https://cd.example.com", "https://me@cd.example.com", "a login stands in the address"),
        ("https://cd.example.com", "cd.example.com", "is not an address"),
        ("example.com", "example.com/?a=b", "the paths of the server are added to this address"),
        ("example.com", "example.com/app-deploy/", "/app-deploy/ is added by tidegate"),
        ("my-app", "\"\"", "the id is empty"),
        ("my-app", "\"{nonsense}\"", "nonsense"),
        ("{env: CD_SECRET}", "plain", "deployment-secret"),
        ("my-app", "my-app, interval: 0s", "without a pause"),
        ("my-app", "my-app, interval: 10m", "a pause of 10m is not shorter than the timeout, 8m"),
        ("my-app", "my-app, timeout: 0s", "no time at all is never enough"),
        ("my-app", "my-app, busy: fail", "busy"),
        ("my-app", "my-app, proof: {answer: {contains: \"{sha}\"}}", "use `command` or `http` here"),
        ("my-app", "my-app, proof: {http: {url: \"https://x.example.com\", contains: up}}", "it proves nothing"),
    ] {
        let world = World::new();
        assert!(good.contains(from), "{from}");
        world.deploy_dev_by(&format!("app_deploy: {{{}}}", good.replace(from, to)));
        let ran = world.run(&["check"]);
        assert!(ran.code == 2 && ran.err.contains(words), "{to}: {}", ran.err);
    }
    let world = World::new();
    world.deploy_dev_by(&format!("app_deploy: {{{good}}}"));
    assert_eq!(world.run(&["check"]).code, 0, "{}", world.run(&["check"]).err);
}

#[test]
fn it_can_be_rehearsed() {
    let folder = tempfile::tempdir().unwrap();
    let target = "app_deploy: {url: \"https://cd.example.com\", deployment-id: my-app, deployment-secret: {env: CD_SECRET}}";
    let kubernetes = "kubernetes: {namespace: dev, workloads: [deployment/web], image: app, timeout: 5s}";
    std::fs::write(folder.path().join("tidegate.yml"), crate::world::CONFIG.replace(kubernetes, target)).unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    let (code, _, err) = tidegate(folder.path(), &["rehearse", "merge"], &[("DOCKER_HOST", "unix:///nowhere.sock")]);
    assert!(code == 0 && err.contains("ended with success") && err.contains("cd | ok: [web1]"), "{err}");
}
