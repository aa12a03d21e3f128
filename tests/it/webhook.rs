//! The webhook target: sent once, signed, and believed only when its proof holds.

use crate::world::World;
use serde_json::{Value, json};
use tidegate::rehearse::sandbox::Fault;
use tidegate::targets::webhook::signature;
use tidegate::tools::secret::Secret;

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A repository whose merges are webhooks.
fn hook(keys: &str) -> World {
    let mut world = World::new();
    let url = world.sandbox.url("hooks");
    world.deploy_dev_by(&format!(
        "webhook: {{url: \"{url}/deploy\", proof: {{http: {{url: \"{url}/running\", contains: \"{{digest.app}}\"}}}}, timeout: 3s{keys}}}"
    ));
    world.var("HOOK_KEY", KEY).var("HOOK_USER", "maintainer").var("HOOK_PASSWORD", "hunter2hunter2");
    world
}

fn received(world: &World) -> Vec<tidegate::rehearse::hooks::Received> {
    world.sandbox.with(|outside| outside.hooks.received.clone())
}

#[test]
fn a_delivery_is_described_and_signed() {
    let mut world = hook(", auth: {hmac: {env: HOOK_KEY}}");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("/hooks/running says sha256:"), "{}", ran.err);
    let all = received(&world);
    let [got] = all.as_slice() else { panic!("one request: {all:?}") };
    assert_eq!(got.signature, signature(&Secret::new(KEY), &got.id, &got.timestamp, &got.body));
    let body: Value = serde_json::from_str(&got.body).unwrap();
    assert_eq!(
        (&body["type"], &body["project"], &body["environment"], &body["version"]),
        (&json!("deploy"), &json!("demo"), &json!("dev"), &json!(ran.outputs["version"]))
    );
    assert_eq!(body["images"][0]["digest"], ran.outputs["digest"].as_str());
    assert_eq!(body["delivery"], got.id.as_str());
}

/// As Jincor's receiver wants it: Docker Hub's words, and a name and password.
#[test]
fn a_body_and_a_login_of_its_own() {
    let mut world = hook(
        ", auth: {basic: {username: {env: HOOK_USER}, password: {env: HOOK_PASSWORD}}}, body: {push_data: {tag: \"{version}\"}, repository: {repo_name: jincor/app}, digest: \"{digest.app}\"}",
    );
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let all = received(&world);
    assert_eq!(all[0].authorization, "Basic bWFpbnRhaW5lcjpodW50ZXIyaHVudGVyMg==");
    let body: Value = serde_json::from_str(&all[0].body).unwrap();
    assert_eq!(body["push_data"]["tag"], ran.outputs["version"].as_str());
    assert!(!ran.err.replace("::add-mask::hunter2hunter2", "").contains("hunter2hunter2"));
}

/// Lying twin: the receiver says yes, and the old version keeps running.
#[test]
fn a_receiver_that_only_says_yes_is_not_believed() {
    let mut world = hook("");
    world.sandbox.with(|outside| (outside.hooks.forgets, outside.hooks.running) = (true, "version 1, sha256:old".into()));
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.wrong-digest");
    assert!(ran.err.contains("the proof says otherwise") && ran.err.contains("version 1, sha256:old"), "{}", ran.err);
    assert_eq!(received(&world).len(), 1);
}

#[test]
fn the_answer_itself_can_be_the_proof() {
    for (answer, code, reason) in
        [(Some("deployed {version}"), 1, "target.wrong-digest"), (None, 1, "target.wrong-digest"), (Some("SHA"), 0, "deploy.done")]
    {
        let mut world = World::new();
        let url = world.sandbox.url("hooks");
        world.deploy_dev_by(&format!("webhook: {{url: \"{url}/deploy\", proof: {{answer: {{contains: \"deployed {{short_sha}}\"}}}}}}"));
        let sha = world.head();
        world.sandbox.with(|outside| outside.hooks.answer = answer.map(|text| text.replace("SHA", &format!("deployed {}", &sha[..7]))));
        world.pushed().run(&["run"]).must(code, reason);
    }
}

fn fault(status: u16, times: usize, after_effect: bool) -> Fault {
    Fault { on: "POST /hooks", times, status, headers: vec![], body: json!({"message": "not this time"}), after_effect }
}

#[test]
fn who_says_not_now_is_asked_again() {
    let mut world = hook("");
    world.sandbox.with(|outside| outside.faults.push(Fault { headers: vec![("retry-after", "1")], ..fault(503, 2, false) }));
    world.pushed().run(&["run"]).must(0, "deploy.done");
    assert_eq!(received(&world).len(), 1);
}

/// The answer was lost: a receiver that knows ids is asked again with the same one; another is not asked twice.
#[test]
fn a_lost_answer_sends_nothing_twice_that_could_count_twice() {
    let mut world = hook(", auth: {hmac: {env: HOOK_KEY}}");
    world.sandbox.with(|outside| outside.faults.push(fault(502, 1, true)));
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let ids: Vec<String> = received(&world).into_iter().map(|got| got.id).collect();
    assert!(ids.len() == 2 && ids[0] == ids[1], "{ids:?}");
    let mut world = hook("");
    world.sandbox.with(|outside| outside.faults.push(fault(502, 1, true)));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(received(&world).len() == 1 && ran.err.contains("the proof decides"), "{}", ran.err);
}

#[test]
fn refusals_name_what_to_look_at() {
    for (status, code, reason, words) in [
        (401, 5, "auth.missing", "look at HOOK_KEY"),
        (403, 5, "auth.denied", "look at HOOK_KEY"),
        (404, 1, "target.failed", "answers 404 Not Found"),
    ] {
        let mut world = hook(", auth: {hmac: {env: HOOK_KEY}}");
        world.sandbox.with(|outside| outside.faults.push(fault(status, 9, false)));
        let ran = world.pushed().run(&["run"]);
        ran.must(code, reason);
        assert!(ran.err.contains(words) && ran.count("POST /hooks") == 1, "{}", ran.err);
    }
    let mut world = hook(", auth: {hmac: {env: HOOK_KEY}}");
    let ran = world.without("HOOK_KEY").pushed().run(&["run"]);
    ran.must(5, "auth.missing");
    assert_eq!(ran.count("POST /build"), 0, "known before anything is built");
}

#[test]
fn a_secret_address_is_never_shown() {
    let mut world = World::new();
    let url = world.sandbox.url("hooks");
    world.deploy_dev_by(&format!(
        "webhook: {{url: {{env: HOOK_URL}}, timeout: 1s, proof: {{http: {{url: \"{url}/running\", contains: \"{{digest.app}}\"}}}}}}"
    ));
    let ran = world.var("HOOK_URL", format!("{url}/T00/B00/secretpath")).pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("POST the address in HOOK_URL"), "{}", ran.err);
    let shown: Vec<&str> = ran.err.lines().filter(|line| !line.starts_with("::add-mask::")).collect();
    assert!(!shown.join("\n").contains("secretpath"), "{}", ran.err);
}

#[test]
fn what_runs_already_is_not_sent_again_and_a_cancel_says_what_goes_on() {
    let mut world = hook("");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert!(received(&world).len() == 1 && again.err.contains("delivered before"), "{}", again.err);
    let mut world = hook("");
    world.configure("timeout: 3s", "timeout: 10m");
    world.commit("long");
    world.sandbox.with(|outside| outside.hooks.forgets = true);
    let run = world.pushed().run_until(&["run"], "not yet:");
    run.signal("-TERM");
    let said = run.ends(143);
    assert!(said.contains("what the receiver began goes on there"), "{said}");
}
