//! Pipelines elsewhere: started once, told from others, followed to their end, and believed for that end alone.

use crate::world::{Going, World};
use serde_json::{Value, json};
use tidegate::rehearse::downstream::{GITHUB_TOKEN, Mood, READ_TOKEN, Run, TRAVIS_TOKEN, TRIGGER_TOKEN, Workflow};
use tidegate::rehearse::sandbox::Fault;

const GITHUB: &str = "github: {repository: acme/e2e, workflow: e2e.yml, inputs: {version: \"{version}\", image: \"{image.app}\"}, token: {env: STORY_GITHUB}, wait: true, timeout: 5s}";

/// A repository whose merges are deployed, and then start this.
fn trigger(text: &str) -> World {
    let mut world = World::new();
    world.configure("  staging:\n    when: release", &format!("    trigger:\n      - {text}\n  staging:\n    when: release"));
    world.commit("trigger");
    let travis = world.sandbox.url("travis");
    world
        .var("STORY_GITHUB", GITHUB_TOKEN)
        .var("STORY_TRIGGER", TRIGGER_TOKEN)
        .var("STORY_READ", READ_TOKEN)
        .var("STORY_TRAVIS", TRAVIS_TOKEN);
    world.var("STORY_TRAVIS_URL", travis);
    world.sandbox.with(|outside| {
        outside.downstream.projects = vec!["acme/e2e".into(), "acme/stack".into()];
        outside.downstream.workflows = vec![
            Workflow::new("acme/e2e", "End to End", "e2e.yml", &["version", "image", "id"]),
            Workflow::new("acme/e2e", "Other", "other.yml", &[]),
        ];
    });
    world
}

fn runs(world: &World) -> Vec<Run> {
    world.sandbox.with(|outside| outside.downstream.runs.clone())
}

#[test]
fn a_workflow_is_started_and_its_very_run_followed() {
    let mut world = trigger(GITHUB);
    let report = world.path("report.json").display().to_string();
    let ran = world.pushed().run(&["run", "--report", &report]);
    ran.must(0, "deploy.done");
    let [run] = &runs(&world)[..] else { panic!("one run") };
    assert_eq!(run.request["ref"], "main");
    assert_eq!(run.request["inputs"]["version"], json!(ran.outputs["version"]));
    assert!(run.request["inputs"]["image"].as_str().unwrap().ends_with(&ran.outputs["digest"]));
    assert!(ran.err.contains("run 500 of acme/e2e: https://github.com/acme/e2e/actions/runs/500"), "{}", ran.err);
    assert!(
        ran.err.contains("run 500 of acme/e2e: in_progress") && ran.err.contains("run 500 of acme/e2e ended with success"),
        "{}",
        ran.err
    );
    let deploy = ran.err.find("✓ deploy.kubernetes").unwrap();
    assert!(deploy < ran.err.find("✓ trigger.github").unwrap(), "after the deploy: {}", ran.err);
    let report: Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    assert_eq!(report["urls"]["trigger.github"], "https://github.com/acme/e2e/actions/runs/500");
    assert!(world.comments()[0].contains("| trigger.github | run 500 of acme/e2e ended with success"), "{}", world.comments()[0]);
    // The same again starts nothing.
    world.run(&["run"]).must(0, "deploy.done");
    assert_eq!(runs(&world).len(), 1);
}

#[test]
fn every_other_end_fails_the_run_and_names_the_job() {
    for (end, words) in [
        ("failure", "run 500 of acme/e2e ended with failure"),
        ("cancelled", "ended with cancelled"),
        ("timed_out", "ended with timed_out"),
        ("action_required", "it waits for somebody to approve it"),
        ("startup_failure", "its workflow file is broken"),
        ("skipped", "none of its jobs ran"),
        ("neutral", "ended with neutral"),
        ("stale", "GitHub gave it up"),
    ] {
        let mut world = trigger(GITHUB);
        world.sandbox.with(|outside| outside.downstream.end = Some(end.into()));
        let ran = world.pushed().run(&["run"]);
        ran.must(1, "trigger.failed");
        assert!(ran.err.contains(words), "{end}: {}", ran.err);
        assert!(world.runs_on("dev").contains(&ran.outputs["version"]), "what was deployed stays");
        if end == "failure" {
            assert!(ran.err.contains("job \"end to end\": failure, in its step \"run the tests\""), "{}", ran.err);
            let comment = &world.comments()[0];
            assert!(comment.contains("runs on dev, but:") && comment.contains("| trigger.github | failed |"), "{comment}");
        }
    }
}

/// By its file, its number or its exact name, over all pages.
#[test]
fn a_workflow_is_found_by_file_number_or_name() {
    for (named, found) in [
        ("e2e.yml", true),
        ("\"493883\"", true),
        (".github/workflows/e2e.yml", true),
        ("\"End to End\"", true),
        ("End to end", false),
        ("e2f.yml", false),
    ] {
        let mut world = trigger(&GITHUB.replace("workflow: e2e.yml", &format!("workflow: {named}")));
        world.sandbox.with(|outside| {
            let filler = (0..230).map(|number| Workflow::new("acme/e2e", &format!("Filler {number}"), &format!("filler{number}.yml"), &[]));
            let all: Vec<Workflow> = filler.chain(outside.downstream.workflows.drain(..)).collect();
            outside.downstream.workflows = all;
        });
        let ran = world.pushed().run(&["run"]);
        if found {
            ran.must(0, "deploy.done");
            assert_eq!(runs(&world).len(), 1, "{named}");
        } else {
            ran.must(2, "trigger.input");
            assert!(ran.err.contains("acme/e2e has no workflow") && runs(&world).is_empty(), "{}", ran.err);
        }
    }
    let mut world = trigger(GITHUB);
    world.sandbox.with(|outside| outside.downstream.workflows[0].state = "disabled_inactivity".into());
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "trigger.input");
    assert!(ran.err.contains("the workflow End to End of acme/e2e is disabled inactivity"), "{}", ran.err);
    let mut world = trigger(&GITHUB.replace("workflow: e2e.yml", "workflow: Twice"));
    world.sandbox.with(|outside| {
        outside.downstream.workflows.extend(["a.yml", "b.yml"].map(|file| Workflow::new("acme/e2e", "Twice", file, &[])));
    });
    world.pushed().run(&["run"]).must(2, "trigger.input");
}

/// Servers that name no run: the run is told by an id that it shows, or by being the only new one.
#[test]
fn without_a_number_the_run_is_told_from_others() {
    for mood in [Mood::Silent, Mood::Old] {
        let mut world = trigger(GITHUB);
        world.sandbox.with(|outside| outside.downstream.mood = mood);
        world.pushed().run(&["run"]).must(0, "deploy.done");
        assert_eq!(runs(&world).len(), 1, "{mood:?}");
    }
    // Nobody has to know which is ours when none is followed.
    let mut world = trigger(&GITHUB.replace(", wait: true", ""));
    world.sandbox.with(|outside| outside.downstream.mood = Mood::Crowded);
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("End to End of acme/e2e is started; it is one of 2 new runs"), "{}", ran.err);
    // Somebody else starts the same: guessing would take the wrong verdict.
    let mut world = trigger(GITHUB);
    world.sandbox.with(|outside| outside.downstream.mood = Mood::Crowded);
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "trigger.failed");
    assert!(
        ran.err.contains("acme/e2e has 2 new runs of End to End: it cannot be said which is ours") && ran.err.contains("`correlate:`"),
        "{}",
        ran.err
    );
    // With an id that the run shows, the other one's failure is not ours.
    let mut world = trigger(&GITHUB.replace("wait: true", "correlate: id, wait: true"));
    world.sandbox.with(|outside| {
        outside.downstream.mood = Mood::Crowded;
        outside.downstream.workflows[0].shows = Some("id".into());
    });
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("run 501 of acme/e2e ended with success"), "{}", ran.err);
    assert!(runs(&world)[1].request["inputs"]["id"].as_str().unwrap().starts_with("tidegate-"));
}

/// Lying twin: 204 says that it is started, and nothing starts.
#[test]
fn a_start_that_starts_nothing_fails() {
    for wait in ["wait: true", "wait: false"] {
        let mut world = trigger(&GITHUB.replace("wait: true", wait));
        world.sandbox.with(|outside| outside.downstream.mood = Mood::Forgets);
        let ran = world.pushed().run(&["run"]);
        ran.must(1, "trigger.failed");
        assert!(ran.err.contains("GitHub took the start of End to End in acme/e2e, and no run came of it"), "{}", ran.err);
    }
}

#[test]
fn without_wait_the_start_is_enough() {
    let mut world = trigger(&GITHUB.replace("wait: true", "wait: false"));
    world.sandbox.with(|outside| outside.downstream.end = Some("failure".into()));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("run 500 of acme/e2e is started"), "{}", ran.err);
}

#[test]
fn what_github_refuses_says_why() {
    for (change, code, reason, words) in [
        (("inputs: {", "inputs: {unknown: x, "), 2, "trigger.input", "Unexpected inputs provided"),
        (("workflow: e2e.yml", "workflow: other.yml, ref: gone"), 2, "trigger.input", "No ref found for: gone"),
        (("token: {env: STORY_GITHUB}, ", ""), 5, "auth.denied", "the run's own token reaches its own repository only"),
        (("repository: acme/e2e", "repository: acme/nowhere"), 5, "auth.denied", "GitHub answers 404 about acme/nowhere"),
    ] {
        let text = GITHUB.replace(change.0, change.1);
        let text = if change.1.contains("other.yml") {
            text.replace("inputs: {version: \"{version}\", image: \"{image.app}\"}, ", "")
        } else {
            text
        };
        let mut world = trigger(&text);
        let ran = world.pushed().run(&["run"]);
        ran.must(code, reason);
        assert!(ran.err.contains(words) && runs(&world).is_empty(), "{words}: {}", ran.err);
    }
    let mut world = trigger(GITHUB);
    world.sandbox.with(|outside| outside.downstream.workflows[0].inputs = None);
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "trigger.input");
    assert!(
        ran.err.contains("does not have 'workflow_dispatch' trigger") && ran.err.contains("add `on: {workflow_dispatch:"),
        "{}",
        ran.err
    );
    // A token without the permission is told which one it lacks.
    for (text, on, permission) in [
        (GITHUB, "POST /github/repos/acme/e2e/actions/workflows/e2e.yml/dispatches", "the token needs `actions: write` there"),
        (EVENT, "POST /github/repos/acme/e2e/dispatches", "the token needs `contents: write` there"),
    ] {
        let mut world = trigger(text);
        let body = json!({"message": "Resource not accessible by personal access token"});
        world.sandbox.with(|outside| outside.faults.push(Fault { on, times: 1, status: 403, headers: vec![], body, after_effect: false }));
        let ran = world.pushed().run(&["run"]);
        ran.must(5, "auth.denied");
        assert!(ran.err.contains(permission) && ran.err.contains("not accessible") && runs(&world).is_empty(), "{}", ran.err);
    }
    // More text than GitHub takes is known before it is sent.
    let mut world = trigger(&EVENT.replace("dry: false", "dry: \"{var.long}\""));
    world.configure("\nimages:", "\nvariables: {long: {env: STORY_LONG}}\nimages:");
    world.commit("long");
    world.var("STORY_LONG", "x".repeat(66_000));
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "trigger.input");
    assert!(ran.err.contains("bytes, and GitHub takes 65535") && runs(&world).is_empty(), "{}", ran.err);
    let mut world = trigger(&GITHUB.replace("inputs: {", "inputs: {id: \"{var.long}\", "));
    world.configure("images:", "variables: {long: {env: STORY_LONG}}\nimages:");
    world.commit("long");
    world.var("STORY_LONG", "x".repeat(66_000));
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "trigger.input");
    assert!(ran.err.contains("and GitHub takes 65535") && runs(&world).is_empty(), "{}", ran.err);
    // A token that is not there is known before anything is built.
    let mut world = trigger(GITHUB);
    world.without("STORY_GITHUB");
    let ran = world.pushed().run(&["run"]);
    ran.must(5, "auth.missing");
    assert_eq!(ran.count("POST /build"), 0);
}

fn lose(on: &'static str) -> Fault {
    Fault { on, times: 1, status: 502, headers: vec![], body: json!({}), after_effect: true }
}

/// An answer that is lost is not a start that is repeated.
#[test]
fn a_start_is_never_sent_twice() {
    let mut world = trigger(GITHUB);
    world.sandbox.with(|outside| outside.faults.push(lose("POST /github/repos/acme/e2e/actions/workflows/e2e.yml/dispatches")));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(runs(&world).len(), 1);
    assert!(ran.err.contains("the answer was lost; looking whether a run came of it"), "{}", ran.err);
    // Killed while it follows: the next run follows the same.
    let mut world = trigger(&GITHUB.replace("timeout: 5s", "timeout: 10m"));
    world.var("TIDEGATE_LEASE_EXPIRY", "1s");
    world.sandbox.with(|outside| outside.downstream.end = Some(String::new()));
    let going = world.pushed().run_until(&["run"], "run 500 of acme/e2e: in_progress");
    going.kill();
    world.sandbox.with(|outside| outside.downstream.runs[0].end = "success".into());
    let ran = world.run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("the run before started run 500 of acme/e2e: it is followed"), "{}", ran.err);
    assert_eq!(runs(&world).len(), 1);
    // Killed while it starts: what came of that is found by its id, and by nothing else.
    for keys in ["correlate: id, wait: true", "wait: true"] {
        killed_while_it_starts(keys);
    }
}

fn killed_while_it_starts(keys: &str) {
    let mut world = trigger(&GITHUB.replace("wait: true", keys));
    world.var("TIDEGATE_LEASE_EXPIRY", "1s");
    world.sandbox.with(|outside| outside.downstream.workflows[0].shows = Some("id".into()));
    world.sandbox.with(|outside| outside.holds.push("GET /github/repos/acme/e2e/actions/runs/500".into()));
    let going = Going::start(world.pushed().command(&["run"]));
    world.until("it was started", |outside| outside.downstream.runs.len() == 1);
    world.until("it was written down", |outside| {
        outside.github.deployments[0].statuses.iter().any(|(_, body)| body.to_string().contains("started run 500"))
    });
    going.kill();
    world.sandbox.with(|outside| outside.github.deployments[0].statuses.retain(|(_, body)| !body.to_string().contains("started run 500")));
    world.sandbox.open();
    let ran = world.run(&["run"]);
    assert!(ran.err.contains("the run before may have started it; looking") && runs(&world).len() == 1, "{}", ran.err);
    if keys.contains("correlate") {
        ran.must(0, "deploy.done");
    } else {
        ran.must(1, "trigger.failed");
        assert!(ran.err.contains("it may have been taken"), "{}", ran.err);
    }
}

#[test]
fn time_and_cancel_end_what_was_started_or_leave_it() {
    for (keys, cancelled, words) in
        [("", true, "run 500 of acme/e2e is being cancelled"), (", on-cancel: leave", false, "run 500 of acme/e2e goes on by itself")]
    {
        let mut world = trigger(&GITHUB.replace("timeout: 5s", &format!("timeout: 2s{keys}")));
        world.sandbox.with(|outside| outside.downstream.end = Some(String::new()));
        let ran = world.pushed().run(&["run"]);
        ran.must(3, "trigger.timeout");
        assert!(ran.err.contains("run 500 of acme/e2e is still in_progress after") && ran.err.contains(words), "{}", ran.err);
        assert_eq!(runs(&world)[0].cancelled, cancelled);
    }
    // A limit of requests says nothing about the run: it is waited out, and not asked into.
    let mut world = trigger(&GITHUB.replace("timeout: 5s", "timeout: 2s, on-cancel: leave"));
    let limited = Fault {
        on: "GET /github/repos/acme/e2e/actions/runs/500",
        times: 9,
        status: 429,
        headers: vec![("retry-after", "300")],
        body: json!({"message": "API rate limit exceeded"}),
        after_effect: false,
    };
    world.sandbox.with(|outside| outside.faults.push(limited));
    let ran = world.pushed().run(&["run"]);
    ran.must(3, "trigger.timeout");
    assert!(ran.err.contains("run 500 of acme/e2e is looked at again in 5m"), "{}", ran.err);
    let looks = ran.count("GET /github/repos/acme/e2e/actions/runs/500");
    assert_eq!(looks, 2, "the first, and the last one at the deadline: {}", ran.log.join("\n"));
    let mut world = trigger(&GITHUB.replace("timeout: 5s", "timeout: 10m"));
    world.sandbox.with(|outside| outside.downstream.end = Some(String::new()));
    let going = world.pushed().run_until(&["run"], "run 500 of acme/e2e: in_progress");
    going.signal("-TERM");
    let said = going.ends(143);
    assert!(said.contains("run 500 of acme/e2e is being cancelled") && runs(&world)[0].cancelled, "{said}");
    // What failed before the cancelling is said too.
    let missing = GITHUB.replace("e2e.yml", "none.yml");
    let mut world = trigger(&format!("{}\n      - {missing}", GITHUB.replace("timeout: 5s", "timeout: 10m")));
    world.sandbox.with(|outside| outside.downstream.end = Some(String::new()));
    let going = world.pushed().run_until(&["run"], "✗ trigger.github.2");
    going.signal("-TERM");
    let said = going.ends(143);
    assert!(said.contains("acme/e2e has no workflow \"none.yml\""), "{said}");
}

const EVENT: &str = "github: {repository: acme/e2e, event: update-manifest, payload: {sha: \"{sha}\", images: [{name: app, digest: \"{digest.app}\"}], dry: false}, token: {env: STORY_GITHUB}}";

#[test]
fn an_event_carries_json_and_is_followed_by_what_it_shows() {
    let mut world = trigger(EVENT);
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let request = runs(&world)[0].request.clone();
    assert_eq!(request["event_type"], "update-manifest");
    assert_eq!(request["client_payload"]["images"][0]["digest"], json!(ran.outputs["digest"]));
    assert_eq!(request["client_payload"]["dry"], json!(false));
    assert!(ran.err.contains("acme/e2e took the event update-manifest; which workflows it starts is not known here"), "{}", ran.err);
    let followed = EVENT.replace("token:", "workflow: e2e.yml, correlate: id, wait: true, timeout: 5s, token:");
    for (end, code, reason) in [("success", 0, "deploy.done"), ("failure", 1, "trigger.failed")] {
        let mut world = trigger(&followed);
        world.sandbox.with(|outside| {
            outside.downstream.workflows[0].shows = Some("id".into());
            outside.downstream.end = Some(end.into());
        });
        world.pushed().run(&["run"]).must(code, reason);
    }
    let mut world = trigger(&followed);
    world.sandbox.with(|outside| outside.downstream.mood = Mood::Forgets);
    world.pushed().run(&["run"]).must(1, "trigger.failed");
}

const GITLAB: &str = "gitlab: {host: \"HOST\", project: acme/stack, ref: main, token: {env: STORY_TRIGGER}, read-token: {env: STORY_READ}, variables: {VERSION: \"{version}\", KEY: {env: STORY_KEY}}, inputs: {mode: full}, wait: true, timeout: 5s}";

fn gitlab(change: impl Fn(String) -> String) -> World {
    // A story's server is the sandbox; its address is known only then.
    let mut world = trigger(&change(GITLAB.replace("HOST", "{var.gitlab}")));
    world.configure("images:", "variables: {gitlab: {env: STORY_GITLAB}}\nimages:");
    world.commit("gitlab");
    let url = world.sandbox.url("gitlab");
    world.var("STORY_GITLAB", url).var("STORY_KEY", "very-secret-key");
    world
}

#[test]
fn a_gitlab_pipeline_is_started_and_followed() {
    let mut world = gitlab(|text| text);
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let request = runs(&world)[0].request.clone();
    let wanted =
        json!({"ref": "main", "variables[VERSION]": ran.outputs["version"], "variables[KEY]": "very-secret-key", "inputs[mode]": "full"});
    assert_eq!(request, wanted);
    assert!(ran.err.contains("pipeline 500 of acme/stack ended with success"), "{}", ran.err);
    let shown = ran.err.lines().any(|line| line.contains("very-secret-key") && !line.starts_with("::add-mask::"));
    assert!(!shown && !ran.log.join("\n").contains(TRIGGER_TOKEN), "the token stands in the form, not in the address");
    // Moved to another place: nobody follows with a token.
    let mut world = gitlab(|text| text);
    let headers = vec![("location", "https://elsewhere.example.com/")];
    world.sandbox.with(|outside| {
        outside.faults.push(Fault { on: "/trigger/pipeline", times: 1, status: 301, headers, body: json!({}), after_effect: false })
    });
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "trigger.input");
    assert!(ran.err.contains("GitLab has acme/stack at another place") && !ran.err.contains("elsewhere"), "{}", ran.err);
    for (end, words) in [("failed", "ended as failed"), ("canceled", "ended as canceled"), ("skipped", "ended as skipped")] {
        let mut world = gitlab(|text| text);
        world.sandbox.with(|outside| outside.downstream.end = Some(end.into()));
        let ran = world.pushed().run(&["run"]);
        ran.must(1, "trigger.failed");
        assert!(ran.err.contains(words) && ran.err.contains("job \"end to end\": script failure"), "{}", ran.err);
    }
    // Lying twin: 201, and there is no such pipeline.
    let mut world = gitlab(|text| text.replace("timeout: 5s", "timeout: 2s"));
    world.sandbox.with(|outside| outside.downstream.mood = Mood::Forgets);
    world.pushed().run(&["run"]).must(3, "trigger.timeout");
    // A lost answer: found, not repeated.
    let mut world = gitlab(|text| text);
    world.sandbox.with(|outside| outside.faults.push(lose("/trigger/pipeline")));
    world.pushed().run(&["run"]).must(0, "deploy.done");
    assert_eq!(runs(&world).len(), 1);
}

#[test]
fn what_gitlab_refuses_says_why() {
    for (from, to, code, reason, words) in [
        ("ref: main", "ref: gone", 2, "trigger.input", "Reference not found"),
        ("ref: main", "ref: quiet", 2, "trigger.input", "filtered out by workflow rules"),
        ("token: {env: STORY_TRIGGER}", "token: {env: STORY_READ}", 5, "auth.denied", "the token is no pipeline trigger token of it"),
        ("token: {env: STORY_TRIGGER}, ", "", 5, "auth.missing", "a pipeline trigger token of that project"),
        ("read-token: {env: STORY_READ}, ", "", 5, "auth.missing", "a trigger token only starts"),
        ("timeout: 5s", "timeout: 2s", 3, "trigger.timeout", "pipeline 500 of acme/stack is being cancelled"),
    ] {
        let mut world = gitlab(|text| text.replacen(from, to, 1));
        world.sandbox.with(|outside| outside.downstream.end = Some(String::new()));
        let ran = world.pushed().run(&["run"]);
        ran.must(code, reason);
        assert!(ran.err.contains(words), "{words}: {}", ran.err);
    }
}

const TRAVIS: &str = "travis: {host: \"{var.travis}\", repository: acme/stack, branch: main, message: \"from {project} {version}\", env: {TAG: \"{version}\", TITLE: \"it's $5, \\\"now\\\"\"}, token: {env: STORY_TRAVIS}, wait: true, timeout: 5s}";

fn travis(change: impl Fn(String) -> String) -> World {
    let world = trigger(&change(TRAVIS.to_owned()));
    world.configure("images:", "variables: {travis: {env: STORY_TRAVIS_URL}}\nimages:");
    world.commit("travis");
    world
}

#[test]
fn a_travis_build_is_asked_for_and_followed() {
    let mut world = travis(|text| text);
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let version = &ran.outputs["version"];
    let wanted = json!({"request": {
        "branch": "main", "message": format!("from demo {version}"), "merge_mode": "deep_merge_append",
        "config": {"env": {"global": [format!("TAG={version}"), "TITLE=\"it's \\$5, \\\"now\\\"\""]}},
    }});
    assert_eq!(runs(&world)[0].request, wanted);
    assert!(ran.err.contains("request 500 of acme/stack: build 5000 passed") && ran.err.contains("takes 9 more requests"), "{}", ran.err);
    assert!(ran.log.iter().any(|line| line.contains("/travis/repo/acme%2Fstack/requests")), "{}", ran.log.join("\n"));
    for (end, words) in [
        ("failed", "build 5000 of acme/stack failed"),
        ("errored", "build 5000 of acme/stack errored"),
        ("canceled", "build 5000 of acme/stack canceled"),
        ("rejected", "was rejected: Build config file not found"),
        ("barren", "request 500 of acme/stack is finished, and no build came of it"),
    ] {
        let mut world = travis(|text| text.replace("timeout: 5s", "timeout: 1m"));
        world.sandbox.with(|outside| outside.downstream.end = Some(end.into()));
        let ran = world.pushed().run(&["run"]);
        ran.must(1, "trigger.failed");
        assert!(ran.err.contains(words), "{}", ran.err);
    }
    // A lost answer cannot be looked for: it is said, and nothing is sent again.
    let mut world = travis(|text| text);
    world.sandbox.with(|outside| outside.faults.push(lose("/requests")));
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "trigger.failed");
    assert!(runs(&world).len() == 1 && ran.err.contains("it may have been taken all the same"), "{}", ran.err);
    // Lying twin: 202, and there is no such request.
    let mut world = travis(|text| text.replace("timeout: 5s", "timeout: 2s"));
    world.sandbox.with(|outside| outside.downstream.mood = Mood::Forgets);
    world.pushed().run(&["run"]).must(3, "trigger.timeout");
}

#[test]
fn what_travis_refuses_is_never_green() {
    let mut world = travis(|text| text);
    world.var("STORY_TRAVIS", "another-token");
    let ran = world.pushed().run(&["run"]);
    ran.must(5, "auth.denied");
    assert!(ran.err.contains("Travis CI answers 403 about acme/stack: access denied"), "{}", ran.err);
    let mut world = travis(|text| text);
    world.sandbox.with(|outside| outside.downstream.left = Some(0));
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "trigger.failed");
    assert!(ran.err.contains("10 requests per repository and hour"), "{}", ran.err);
    let mut world = travis(|text| text.replace("acme/stack", "acme/nowhere"));
    world.pushed().run(&["run"]).must(5, "auth.denied");
}

/// Several are started side by side; `if:` leaves one out; an environment may have nothing else.
#[test]
fn triggers_alone_and_side_by_side() {
    let world = trigger(GITHUB);
    let text = std::fs::read_to_string(world.path("tidegate.yml")).unwrap();
    let (head, rest) = text.split_once("    deploy:\n").unwrap();
    let (_, tail) = rest.split_once("    trigger:\n").unwrap();
    let more = format!("    trigger:\n      - {}\n      - {}\n", GITHUB.replace("{repository", "{if: {var: off}, repository"), EVENT);
    world.write("tidegate.yml", &format!("{head}{more}{tail}").replace("\nimages:\n", "\nvariables: {off: {env: STORY_OFF}}\nimages:\n"));
    world.commit("alone");
    let mut world = world;
    let ran = world.pushed().run(&["run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(runs(&world).len(), 2, "the event and one workflow: {}", ran.err);
    assert!(ran.err.contains("trigger.github.2") && !ran.err.contains("trigger.github.3"), "{}", ran.err);
    assert_eq!(ran.outputs["reason"], "trigger.done");
    assert!(ran.err.contains("  without the trigger e2e.yml of acme/e2e: the variable `off` is not set"), "{}", ran.err);
    assert!(ran.err.contains("the pipelines of dev were started for"), "{}", ran.err);
    world.run(&["run"]);
    assert_eq!(runs(&world).len(), 2, "the same again starts nothing");
    let text = std::fs::read_to_string(world.path("tidegate.yml")).unwrap();
    world.write("tidegate.yml", &text.replace("wait: true, timeout: 5s}\n", "wait: true, timeout: 6s}\n"));
    world.write("next", "more");
    world.commit("next");
    world.sandbox.with(|outside| outside.downstream.end = Some("failure".into()));
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "trigger.failed");
    assert!(ran.err.contains("the pipelines of dev are not all done for"), "{}", ran.err);
    assert!(!ran.err.contains("nothing was switched"), "{}", ran.err);
}

#[test]
fn mistakes_are_found_in_the_file() {
    let many: String = (0..26).map(|number| format!("k{number}: x, ")).collect();
    for (text, words) in [
        ("github: {repository: acme/e2e}", "nothing says what is started"),
        ("github: {repository: e2e, workflow: a.yml}", "\"e2e\" is not a repository"),
        ("github: {repository: acme/e2e, event: x, wait: true}", "an event names no run, so none can be followed"),
        ("github: {repository: acme/e2e, event: x, inputs: {a: b}}", "an event has no inputs"),
        ("github: {repository: acme/e2e, workflow: a.yml, payload: {a: b}}", "a workflow has no payload"),
        ("github: {repository: acme/e2e, workflow: a.yml, inputs: {MANY}}", "26 are more than GitHub takes"),
        ("github: {repository: acme/e2e, event: x, payload: {MANY}}", "26 are more than GitHub takes"),
        ("github: {repository: acme/e2e, event: x, payload: {TEN}, correlate: id}", "11 are more than GitHub takes"),
        ("github: {repository: acme/e2e, workflow: a.yml, inputs: {id: x}, correlate: id}", "\"id\" has a value already"),
        ("github: {repository: acme/e2e, workflow: a.yml, inputs: {v: \"{vresion}\"}}", "did you mean {version}?"),
        ("github: {repository: acme/e2e, event: x, payload: {v: 1.10}}", "write it in quotes"),
        ("github: {if: {var: nothing}, repository: acme/e2e, workflow: a.yml}", "there is no variable \"nothing\""),
        ("gitlab: {host: \"http://gitlab.example.com\", project: a/b, ref: main}", "write https://"),
        ("gitlab: {project: a/b, ref: main, variables: {\"A-B\": c}}", "\"A-B\" cannot name a variable"),
        ("travis: {repository: a/b/c, token: {env: T}}", "\"a/b/c\" is not a repository"),
        ("travis: {repository: a/b, token: {env: T}, timeout: 0s}", "no time at all is never enough"),
    ] {
        let ten: Vec<&str> = many.split_inclusive(", ").take(10).collect();
        let world = trigger(&text.replace("MANY", many.trim_end_matches(", ")).replace("TEN", ten.concat().trim_end_matches(", ")));
        let ran = world.run(&["check"]);
        assert!(ran.code == 2 && ran.err.contains(words), "{text}: {}", ran.err);
    }
}

#[test]
fn the_command_alone_starts_and_follows() {
    let mut world = trigger(GITHUB);
    world.var("GITHUB_TOKEN", GITHUB_TOKEN);
    let ran = world.run(&[
        "trigger",
        "github",
        "acme/e2e",
        "e2e.yml",
        "--input",
        "version=1.4.2",
        "--input",
        "image=a=b c,{d}",
        "--wait",
        "--format",
        "json",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let out: Value = serde_json::from_str(&ran.out).unwrap();
    let wanted =
        json!({"schema": 1, "system": "github", "run": 500, "url": "https://github.com/acme/e2e/actions/runs/500", "outcome": "success"});
    assert_eq!(out, wanted);
    assert_eq!(runs(&world)[0].request["inputs"], json!({"version": "1.4.2", "image": "a=b c,{d}"}));
    let ran = world.run(&[
        "trigger",
        "github",
        "acme/e2e",
        "--event",
        "go",
        "--payload",
        "n=3",
        "--payload",
        "text=1.4.2",
        "--payload",
        "images=[{\"name\":\"{app}\"}]",
        "--token-env",
        "STORY_GITHUB",
    ]);
    assert!(ran.code == 0 && ran.out.is_empty() && ran.err.contains("took the event go"), "{}", ran.err);
    assert_eq!(runs(&world)[1].request["client_payload"], json!({"n": 3, "text": "1.4.2", "images": [{"name": "{app}"}]}));
    let host = world.sandbox.url("gitlab");
    let gitlab =
        ["trigger", "gitlab", "acme/stack", "--ref", "main", "--host", &host, "--variable", "A=b=c", "--token-env", "STORY_TRIGGER"];
    let ran = world.run(&gitlab);
    assert!(ran.code == 0 && ran.err.contains("pipeline 502 of acme/stack is started"), "{}", ran.err);
    let host = world.sandbox.url("travis");
    world.sandbox.with(|outside| outside.downstream.end = Some("errored".into()));
    let ran = world.run(&["trigger", "travis", "acme/stack", "--host", &host, "--token-env", "STORY_TRAVIS", "--wait", "--timeout", "5s"]);
    ran.must(1, "trigger.failed");
    let mode =
        ["trigger", "travis", "acme/stack", "--host", &host, "--token-env", "STORY_TRAVIS", "--merge-mode", "replace", "--sha", "abc"];
    assert_eq!(world.run(&mode).code, 0);
    assert_eq!(runs(&world).last().unwrap().request["request"]["sha"], "abc");
    assert_eq!(runs(&world).last().unwrap().request["request"]["merge_mode"], "replace");
    for (args, words) in [
        (&["trigger", "github", "acme/e2e"][..], "nothing says what is started"),
        (&["trigger", "github", "acme/e2e"], "or give `--event TYPE`"),
        (&["trigger", "github", "acme/e2e", "--event", "go", "--input", "a=b"], "write them as `--payload`"),
        (&["trigger", "github", "acme/e2e", "e2e.yml", "--input", "version"], "\"version\" is no NAME=VALUE"),
        (&["trigger", "github", "e2e", "e2e.yml"], "is not a repository"),
        (&["trigger", "github", "acme/e2e", "--event", "go", "--payload", "a=[{\"b\":1}"], "begins like JSON and is none"),
    ] {
        let ran = world.run(args);
        ran.must(2, "input.invalid");
        assert!(ran.err.contains(words), "{}", ran.err);
    }
    // As a step of a workflow: one word on each line.
    world.sandbox.with(|outside| outside.downstream.end = None);
    world.var("INPUT_COMMAND", "trigger").var("INPUT_ARGS", "github\nacme/e2e\ne2e.yml\n--wait");
    let ran = world.run(&[]);
    assert!(ran.code == 0 && ran.err.contains("of acme/e2e ended with success"), "{}", ran.err);
    world.without("INPUT_COMMAND").without("INPUT_ARGS");
    let ran = world.run(&["trigger", "travis", "acme/stack"]);
    ran.must(5, "auth.missing");
    assert!(ran.err.contains("TRAVIS_TOKEN"), "{}", ran.err);
}
