//! Pull requests: previews for one's own, nothing for strangers.

use crate::world::World;
use serde_json::json;

#[test]
fn an_opened_pull_request_gets_a_preview() {
    let mut world = World::new();
    let ran = world.pull_request("opened", |_| {}).run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.outputs["version"], format!("pr-12-{}", &world.head()[..7]));
    assert_eq!(world.runs_on("demo-pr-12"), ran.outputs["image"]);
    let request = world.sandbox.with(|outside| outside.github.deployments[0].request.clone());
    assert_eq!((&request["environment"], &request["transient_environment"]), (&json!("demo-pr-12"), &json!(true)));
    assert_eq!(world.comments().len(), 1);
}

#[test]
fn a_closed_pull_request_ends_its_records() {
    let mut world = World::new();
    world.pull_request("opened", |_| {}).run(&["run"]).must(0, "deploy.done");
    let ran = world.pull_request("closed", |payload| payload["pull_request"]["merged"] = json!(true)).run(&["run"]);
    ran.must(0, "preview.kept");
    assert_eq!(ran.outputs["verdict"], "skipped", "nothing was removed, so nothing says so");
    assert_eq!(world.deployments(), [["in_progress", "success", "inactive"]]);
    assert_eq!(world.comments().len(), 1, "the same comment says it");
    assert!(world.comments()[0].contains("cannot be removed by it"));
}

#[test]
fn strangers_get_nothing_and_no_connection_is_made() {
    let mut world = World::new();
    type Change = Box<dyn Fn(&mut serde_json::Value)>;
    let cases: [(&str, &str, Change); 5] = [
        ("event.fork", "opened", Box::new(|p| p["pull_request"]["head"]["repo"] = json!({"id": 2, "full_name": "mallory/demo"}))),
        ("event.fork", "synchronize", Box::new(|p| p["pull_request"]["head"]["repo"] = json!(null))),
        ("event.no-secrets", "opened", Box::new(|p| p["sender"]["login"] = json!("dependabot[bot]"))),
        ("event.draft", "opened", Box::new(|p| p["pull_request"]["draft"] = json!(true))),
        ("event.ignored", "assigned", Box::new(|_| {})),
    ];
    for (reason, action, change) in cases {
        let ran = world.pull_request(action, &*change).run(&["run"]);
        ran.must(0, reason);
        assert_eq!(ran.log, Vec::<String>::new(), "{reason}");
    }
}

#[test]
fn pull_request_target_never_deploys_the_head() {
    let mut world = World::new();
    world.pull_request("opened", |_| {});
    let ran = world.var("GITHUB_EVENT_NAME", "pull_request_target").run(&["run"]);
    ran.must(0, "event.untrusted");
    assert_eq!(ran.log, Vec::<String>::new());
}

#[test]
fn labels_decide_when_they_are_asked_for() {
    let mut world = World::new();
    world.configure("    when: pull-request\n", "    when: pull-request\n    labels: [preview]\n");
    world.pull_request("opened", |_| {}).run(&["run"]).must(0, "event.label");
    let labelled = |payload: &mut serde_json::Value| payload["pull_request"]["labels"] = json!([{"name": "preview"}]);
    world.pull_request("opened", labelled).run(&["run"]).must(0, "deploy.done");
}

#[test]
fn a_pull_request_that_was_reopened_meanwhile_keeps_its_preview() {
    let mut world = World::new();
    world.pull_request("opened", |_| {}).run(&["run"]).must(0, "deploy.done");
    // The run for its closing comes late: it is open again.
    world.pull_request("closed", |_| {});
    world.sandbox.with(|outside| outside.github.closed.clear());
    let ran = world.run(&["run"]);
    ran.must(0, "event.ignored");
    assert!(ran.err.contains("pull request #12 is open: its preview stays"), "{}", ran.err);
    assert_eq!(world.deployments()[0].last().map(String::as_str), Some("success"), "its record stays open");
    // By hand it is the same; closed for certain, it goes.
    let ran = world.run(&["pr-closed", "--pr", "12"]);
    assert!(ran.code == 0 && ran.err.contains("is open: its preview stays"), "{}", ran.err);
    world.pull_request("closed", |_| {}).run(&["run"]).must(0, "preview.kept");
    assert_eq!(world.deployments()[0].last().map(String::as_str), Some("inactive"));
}
