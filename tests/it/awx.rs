//! The AWX target: launched once with what it really takes, followed to its end, believed only for what it was told.

use crate::world::{Going, World};
use serde_json::json;
use tidegate::rehearse::awx::{Fate, TOKEN, Template};
use tidegate::rehearse::sandbox::Fault;

const NAME: &str = "Staging Stack (Version Change)";

/// A repository whose merges launch the template.
fn awx(fate: Fate, keys: &str) -> World {
    let mut world = World::new();
    let url = world.sandbox.url("awx");
    world.deploy_dev_by(&format!(
        "awx: {{host: \"{url}\", template: \"{NAME}\", token: {{env: AWX_TOKEN}}, extra-vars: {{stack_image_tag: \"{{version}}\", image: \"{{image.app}}\"}}, timeout: 5s{keys}}}"
    ));
    world.sandbox.with(|outside| outside.awx.templates.push(Template::new(7, NAME, fate)));
    world.var("AWX_TOKEN", TOKEN);
    world
}

#[test]
fn a_job_gets_its_values_as_text_and_its_lines_in_their_order() {
    let mut world = awx(Fate::Successful, "");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let requests: Vec<_> = world.sandbox.with(|outside| outside.awx.jobs.values().map(|job| job.request.clone()).collect());
    let [request] = requests.as_slice() else { panic!("one launch: {requests:?}") };
    assert_eq!(request["extra_vars"]["stack_image_tag"], json!(ran.outputs["version"]));
    assert!(request["extra_vars"]["image"].as_str().unwrap().ends_with(&ran.outputs["digest"]));
    let lines: Vec<&str> = ran.err.lines().filter_map(|line| line.trim().strip_prefix("awx | ")).collect();
    assert_eq!(lines, ["PLAY [all] ****", "ok: [web1]", "PLAY RECAP ****"], "no escape sequences, no gap");
    assert!(
        ran.err.contains("/awx/#/jobs/playbook/42/output")
            && ran.err.contains("AWX job 42 of Staging Stack (Version Change) ended successful")
    );
}

/// 1.10 is not 1.1: everything that is sent is text.
#[test]
fn a_version_stays_text() {
    let mut world = awx(Fate::Successful, "");
    let head = world.head();
    world.sandbox.with(|outside| outside.github.tags = vec![("1.10".into(), head)]);
    world.pushed().run(&["deploy", "dev", "1.10"]).must(0, "deploy.done");
    let request = world.sandbox.with(|outside| outside.awx.jobs[&42].request.clone());
    assert_eq!(request["extra_vars"]["stack_image_tag"], json!("1.10"));
    let world = awx(Fate::Successful, "");
    world.configure("\"{version}\", image", "1.10, image");
    let ran = world.run(&["check"]);
    assert!(ran.code == 2 && ran.err.contains("write it in quotes"), "{}", ran.err);
}

/// Lying twins: AWX says successful, and did something else.
#[test]
fn a_job_that_ran_with_other_values_fails() {
    let ran = awx(Fate::OtherValues, "").pushed().run(&["run"]);
    ran.must(1, "target.wrong-digest");
    assert!(ran.err.contains("not with the values it was given: stack_image_tag, image"), "{}", ran.err);
}

#[test]
fn values_that_awx_ignores_stop_the_job() {
    let mut world = awx(Fate::Ignores, "");
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "target.input");
    assert!(ran.err.contains("ignored what it was given") && ran.err.contains("being canceled"), "{}", ran.err);
    assert!(world.sandbox.with(|outside| outside.awx.jobs[&42].canceled));
}

#[test]
fn a_prompt_that_is_off_is_known_before_the_launch() {
    let mut world = awx(Fate::Successful, ", limit: web");
    world.sandbox.with(|outside| outside.awx.templates[0].asks = false);
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "target.input");
    assert!(
        ran.err.contains("would ignore limit, extra_vars.stack_image_tag, extra_vars.image") && ran.err.contains("Prompt on launch"),
        "{}",
        ran.err
    );
    assert_eq!(ran.count("/launch/ → 201"), 0);
    // A survey takes its own variables, and no others.
    let mut world = awx(Fate::Successful, "");
    world.sandbox.with(|outside| {
        outside.awx.templates[0].asks = false;
        outside.awx.templates[0].survey = vec!["stack_image_tag".into()];
    });
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "target.input");
    assert!(ran.err.contains("would ignore extra_vars.image"), "{}", ran.err);
}

#[test]
fn every_end_has_its_words() {
    for (fate, words) in [
        (Fate::Failed, "ended failed: fatal: [web1]: FAILED! => {\"msg\": \"no such image\"}"),
        (Fate::Error, "ended error: Task was marked as running at system start up."),
        (Fate::Canceled, "was canceled in AWX"),
    ] {
        let mut world = awx(fate, "");
        let ran = world.pushed().run(&["run"]);
        ran.must(1, "target.failed");
        let first = ran.err.lines().find(|line| line.starts_with("error:")).unwrap();
        assert!(first.contains(words), "{first}");
        assert!(world.deployments()[0].last().unwrap() == "failure", "{:?}", world.deployments());
    }
}

#[test]
fn a_job_that_never_ends_is_canceled_or_left() {
    for (keys, canceled, words) in
        [("", true, "AWX job 42 is being canceled"), (", on-cancel: leave", false, "AWX job 42 goes on by itself")]
    {
        for (fate, state) in [(Fate::Pending, "pending"), (Fate::Running, "running")] {
            let mut world = awx(fate, keys);
            world.configure("timeout: 5s", "timeout: 2s");
            world.commit("short");
            let ran = world.pushed().run(&["run"]);
            ran.must(3, "target.timeout");
            assert!(ran.err.contains(&format!("AWX job 42 is still {state} after")) && ran.err.contains(words), "{}", ran.err);
            assert_eq!(world.sandbox.with(|outside| outside.awx.jobs[&42].canceled), canceled);
        }
    }
}

#[test]
fn a_cancelled_run_cancels_the_job() {
    let mut world = awx(Fate::Running, "");
    world.configure("timeout: 5s", "timeout: 10m");
    world.commit("long");
    let run = world.pushed().run_until(&["run"], "AWX job 42: running");
    run.signal("-TERM");
    let said = run.ends(143);
    assert!(said.contains("AWX job 42 is being canceled"), "{said}");
    assert!(world.sandbox.with(|outside| outside.awx.jobs[&42].canceled));
}

/// Whoever has the lease now must know that the job goes on: it is theirs to stop.
#[test]
fn a_run_that_loses_its_lease_names_the_job_it_leaves() {
    let mut world = awx(Fate::Running, "");
    world.configure("timeout: 5s", "timeout: 10m");
    world.commit("long");
    world.var("TIDEGATE_LEASE_EXPIRY", "2s");
    let run = world.pushed().run_until(&["run"], "AWX job 42: running");
    assert_eq!(world.run(&["lock", "release", "dev", "--reason", "stuck"]).code, 0);
    let said = run.ends(1);
    assert!(said.contains("(lock.lost)"), "{said}");
    assert!(said.contains("deploy.awx may go on by itself; what it started there: job 42"), "{said}");
    assert!(said.contains("is not proven to run on dev"), "something was switched: {said}");
    assert!(!world.sandbox.with(|outside| outside.awx.jobs[&42].canceled), "it is the other run's business");
}

#[test]
fn names_are_exact_and_told_apart_by_their_organization() {
    let mut world = awx(Fate::Successful, "");
    world
        .sandbox
        .with(|outside| outside.awx.templates.push(Template { organization: "Other".into(), ..Template::new(8, NAME, Fate::Failed) }));
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "target.input");
    assert!(ran.err.contains("7 (Default), 8 (Other)") && ran.err.contains("add `organization:`"), "{}", ran.err);
    world.configure("token: {env: AWX_TOKEN}", "token: {env: AWX_TOKEN}, organization: Default");
    world.commit("organization");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let mut world = awx(Fate::Successful, "");
    world.sandbox.with(|outside| outside.awx.templates.clear());
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.missing");
    assert!(ran.err.contains("AWX has no job template"), "{}", ran.err);
}

#[test]
fn everything_that_a_launch_takes_is_sent() {
    let mut world = awx(
        Fate::Successful,
        ", limit: web, tags: [a, b], skip-tags: [c], inventory: Staging, credentials: [ssh key, 6], scm-branch: \"{branch}\", job-type: run",
    );
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let request = world.sandbox.with(|outside| outside.awx.jobs[&42].request.clone());
    for (field, value) in [
        ("limit", json!("web")),
        ("job_tags", json!("a,b")),
        ("skip_tags", json!("c")),
        ("inventory", json!(5)),
        ("credentials", json!([4, 6])),
        ("scm_branch", json!("main")),
        ("job_type", json!("run")),
    ] {
        assert_eq!(request[field], value, "{field}");
    }
}

#[test]
fn a_workflow_is_followed_by_its_nodes() {
    let mut world = awx(Fate::Successful, ", kind: workflow");
    world.sandbox.with(|outside| outside.awx.templates[0].is_workflow = true);
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("awx | first node (job 7): running") && ran.err.contains("AWX workflow 42 of"), "{}", ran.err);
    let mut world = awx(Fate::Failed, ", kind: workflow");
    world.sandbox.with(|outside| outside.awx.templates[0].is_workflow = true);
    world.pushed().run(&["run"]).must(1, "target.failed");
}

#[test]
fn secrets_among_the_values_and_lines_are_masked() {
    let mut world = awx(Fate::Successful, "");
    world.configure("extra-vars: {", "extra-vars: {db_password: {env: DB_PASSWORD}, ");
    world.commit("secret");
    world.sandbox.with(|outside| outside.awx.lines = vec!["the password is hunter2hunter2".into()]);
    let ran = world.var("DB_PASSWORD", "hunter2hunter2").pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("awx | the password is ***"), "{}", ran.err);
    assert!(!ran.err.replace("::add-mask::hunter2hunter2", "").contains("hunter2hunter2"));
    assert_eq!(world.sandbox.with(|outside| outside.awx.jobs[&42].request["extra_vars"]["db_password"].clone()), json!("hunter2hunter2"));
    // What this run does not know cannot be masked: the lines can be left out as a whole.
    let mut world = awx(Fate::Failed, ", output: hide");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.failed");
    assert!(!ran.err.contains("awx |") && !ran.err.contains("fatal:"), "{}", ran.err);
}

fn fault(on: &'static str, status: u16, times: usize, after_effect: bool) -> Fault {
    Fault { on, times, status, headers: vec![], body: json!({"detail": "Bad Gateway"}), after_effect }
}

/// The launch was taken and its answer lost: that job is followed. Where none comes, none is launched a second time.
#[test]
fn a_lost_answer_launches_nothing_twice() {
    for (after_effect, code, reason) in [(true, 0, "deploy.done"), (false, 1, "target.failed")] {
        let mut world = awx(Fate::Successful, "");
        world.configure("timeout: 5s", "timeout: 60s");
        world.commit("patient");
        world.sandbox.with(|outside| outside.faults.push(fault("POST /awx/api/v2/job_templates/7/launch/", 502, 9, after_effect)));
        let ran = world.pushed().run(&["run"]);
        ran.must(code, reason);
        assert_eq!(world.sandbox.with(|outside| outside.awx.jobs.len()), usize::from(after_effect));
        assert!(ran.err.contains("looking whether it was taken") && ran.count("POST /awx") == 1, "{}", ran.err);
    }
}

/// Killed while it launched: the next run finds the job by what is newer than all before.
#[test]
fn a_run_that_is_killed_while_it_launches_leaves_one_job() {
    let mut world = awx(Fate::Successful, "");
    world.var("TIDEGATE_LEASE_EXPIRY", "1s");
    world.sandbox.with(|outside| outside.holds.push("GET /awx/api/v2/jobs/42".into()));
    let run = Going::start(world.pushed().command(&["run"]));
    world.until("it was launched", |outside| outside.awx.jobs.len() == 1);
    // As if the journal had only the intent.
    world.until("it was written down", |outside| {
        outside.github.deployments[0].statuses.iter().any(|(_, body)| body.to_string().contains("started job 42"))
    });
    run.kill();
    world.sandbox.with(|outside| outside.github.deployments[0].statuses.retain(|(_, body)| !body.to_string().contains("started job 42")));
    world.sandbox.open();
    let ran = world.run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("the run before may have launched it; looking"), "{}", ran.err);
    assert_eq!(world.sandbox.with(|outside| outside.awx.jobs.len()), 1);
}

#[test]
fn a_gateway_that_stumbles_while_the_job_runs_is_waited_for() {
    let mut world = awx(Fate::Successful, "");
    world.configure("timeout: 5s", "timeout: 30s");
    world.commit("patient");
    world.sandbox.with(|outside| outside.faults.push(fault("GET /awx/api/v2/jobs/42/ ", 502, 3, false)));
    world.sandbox.with(|outside| outside.faults.push(fault("GET /awx/api/v2/jobs/42/job_events", 502, 2, false)));
    world.pushed().run(&["run"]).must(0, "deploy.done");
}

#[test]
fn logins_are_told_apart() {
    let mut world = awx(Fate::Successful, "");
    let ran = world.var("AWX_TOKEN", "wrong-token-wrong").pushed().run(&["run"]);
    ran.must(5, "auth.missing");
    assert!(
        ran.err.contains("AWX answers 401") && !ran.err.replace("::add-mask::wrong-token-wrong", "").contains("wrong-token-wrong"),
        "{}",
        ran.err
    );
    let mut world = awx(Fate::Successful, "");
    world.sandbox.with(|outside| outside.faults.push(fault("/launch/", 403, 9, false)));
    let ran = world.pushed().run(&["run"]);
    ran.must(5, "auth.denied");
    assert!(ran.err.contains("role Execute"), "{}", ran.err);
    let mut world = awx(Fate::Successful, "");
    world.configure("token: {env: AWX_TOKEN}", "login: {username: {env: AWX_USER}, password: {env: AWX_PASSWORD}}");
    world.commit("login");
    world.var("AWX_USER", "admin").var("AWX_PASSWORD", tidegate::rehearse::awx::PASSWORD);
    world.pushed().run(&["run"]).must(0, "deploy.done");
}

#[test]
fn what_was_delivered_is_not_launched_again() {
    let mut world = awx(Fate::Successful, "");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert!(again.err.contains("AWX job 42") && again.err.contains("delivered before"), "{}", again.err);
    assert_eq!(world.sandbox.with(|outside| outside.awx.jobs.len()), 1);
}

/// A run that was killed while the job ran is gone on with by the next one: the same job, not another.
#[test]
fn a_killed_run_leaves_a_job_that_the_next_one_follows() {
    let mut world = awx(Fate::Running, "");
    world.configure("timeout: 5s", "timeout: 10m");
    world.commit("long");
    world.var("TIDEGATE_LEASE_EXPIRY", "1s");
    let run = world.pushed().run_until(&["run"], "AWX job 42: running");
    run.kill();
    world.sandbox.with(|outside| outside.awx.end_well(42));
    let ran = world.run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("the run before started AWX job 42: it is followed"), "{}", ran.err);
    assert_eq!(world.sandbox.with(|outside| outside.awx.jobs.len()), 1);
}
