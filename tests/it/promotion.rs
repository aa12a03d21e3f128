//! From environment to environment: the same image must have succeeded before (`after`), for long enough (`soak`), and not in
//! a freeze. Who lifts a gate says why.

use crate::life::Page;
use crate::world::{Ran, World};
use jiff::{Span, Timestamp, Zoned};
use serde_json::{Value, json};
use tidegate::rehearse::sandbox::ClusterMood;

/// Production takes what succeeded on staging.
fn chained(more: &str) -> World {
    let mut world = World::new();
    world.configure("  production:\n    when: manual\n", &format!("  production:\n    when: manual\n    after: staging\n{more}"));
    world.commit("chained");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    at(&world, Timestamp::now());
    world
}

/// What is written down from now on was written at this time.
fn at(world: &World, time: Timestamp) {
    world.sandbox.with(|outside| outside.github.time = time.to_string());
}

fn ago(span: Span) -> Timestamp {
    Timestamp::now().checked_sub(span).unwrap()
}

/// The payload of the newest record.
fn record(world: &World) -> Value {
    world.sandbox.with(|outside| outside.github.deployments.last().unwrap().request["payload"].clone())
}

#[test]
fn production_takes_only_what_succeeded_on_staging_as_the_same_digest() {
    let mut world = chained("");
    let sha = world.head();
    let early = world.run(&["deploy", "production", &sha]);
    early.must(4, "gate.after");
    assert!(
        early.err.contains("has never been delivered to staging; nothing has") && early.err.contains("tidegate deploy staging"),
        "{}",
        early.err
    );
    assert_eq!(early.count("PATCH /kube"), 0);
    let staging = world.released("v1.0.0", &sha).run(&["run"]);
    staging.must(0, "deploy.done");
    let plan = world.run(&["plan", "deploy", "production", "1.0.0"]);
    assert!(plan.err.contains("gate    after  the same images succeeded on staging"), "{}", plan.err);
    let ran = world.run(&["deploy", "production", "1.0.0"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.outputs["digest"], staging.outputs["digest"]);
    assert!(ran.err.contains("delivered to staging by octocat on"), "{}", ran.err);
}

#[test]
fn what_failed_on_staging_or_was_another_image_there_does_not_count() {
    let mut world = chained("");
    let sha = world.head();
    // The lying twin: staging says yes and keeps what it had.
    world.sandbox.with(|outside| outside.mood = ClusterMood::KeepsTemplate);
    assert_eq!(world.released("v1.0.0", &sha).run(&["run"]).code, 1);
    world.sandbox.with(|outside| outside.mood = ClusterMood::Honest);
    let ran = world.run(&["deploy", "production", "1.0.0"]);
    ran.must(4, "gate.after");
    assert!(ran.err.contains("1.0.0 has not succeeded on staging: its delivery by run 77 ended as failed"), "{}", ran.err);
    world.run(&["deploy", "staging", "1.0.0"]).must(0, "deploy.done");
    // Somebody put other bytes under the tag meanwhile, with labels that look right.
    let other = format!("sha256:{}", "9".repeat(64));
    world.sandbox.with(|outside| {
        let deployment = outside.github.deployments.last_mut().unwrap();
        deployment.request["payload"]["images"][0]["digest"] = json!(other);
    });
    let ran = world.run(&["deploy", "production", "1.0.0"]);
    ran.must(4, "gate.after");
    assert!(ran.err.contains("staging had 1.0.0 as another image (sha256:999999999999…)"), "{}", ran.err);
    assert_eq!(ran.count("PATCH /kube"), 0);
}

#[test]
fn nothing_is_built_for_an_environment_that_takes_what_was_tried() {
    let world = chained("");
    world.write("app", "two\n");
    let sha = world.commit("two");
    let ran = world.run(&["deploy", "production", &sha]);
    ran.must(4, "gate.after");
    assert!(ran.err.contains("was never built, so it cannot have succeeded on staging"), "{}", ran.err);
    assert_eq!(ran.count("POST /build") + ran.count("PutImage"), 0);
}

#[test]
fn a_version_soaks_before_it_goes_on() {
    let mut world = chained("    soak: 30m\n");
    let sha = world.head();
    world.released("v1.0.0", &sha).run(&["run"]).must(0, "deploy.done");
    let ran = world.run(&["deploy", "production", "1.0.0"]);
    ran.must(4, "gate.soak");
    assert!(ran.err.contains("and production wants 30m") && ran.err.contains("run this again after "), "{}", ran.err);
    assert_eq!(ran.count("PATCH /kube"), 0);
    // The same an hour later.
    world.sandbox.with(|outside| {
        let an_hour_ago = ago(Span::new().hours(1)).to_string();
        outside
            .github
            .deployments
            .iter_mut()
            .flat_map(|record| &mut record.statuses)
            .for_each(|(_, body)| body["created_at"] = json!(an_hour_ago));
    });
    let ran = world.run(&["deploy", "production", "1.0.0"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("it ran there for 1h"), "{}", ran.err);
}

#[test]
fn what_was_replaced_before_its_time_has_not_soaked() {
    let mut world = chained("    soak: 30m\n");
    let first = world.head();
    at(&world, ago(Span::new().hours(5)));
    world.released("v1.0.0", &first).run(&["run"]).must(0, "deploy.done");
    at(&world, ago(Span::new().minutes(290)));
    world.write("app", "two\n");
    let second = world.commit("two");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.released("v1.1.0", &second).run(&["run"]).must(0, "deploy.done");
    let ran = world.run(&["deploy", "production", "1.0.0"]);
    ran.must(4, "gate.soak");
    assert!(ran.err.contains("1.0.0 ran on staging for 10m only, until 1.1.0 took its place; production wants 30m"), "{}", ran.err);
    world.run(&["deploy", "production", "1.1.0"]).must(0, "deploy.done");
}

#[test]
fn what_was_taken_back_from_staging_does_not_go_on() {
    let mut world = chained("");
    let first = world.head();
    world.released("v1.0.0", &first).run(&["run"]).must(0, "deploy.done");
    world.write("app", "two\n");
    let second = world.commit("two");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.released("v1.1.0", &second).run(&["run"]).must(0, "deploy.done");
    world.run(&["rollback", "staging"]).must(0, "deploy.done");
    let ran = world.run(&["deploy", "production", "1.1.0"]);
    ran.must(4, "gate.after");
    assert!(ran.err.contains("1.1.0 was taken back from staging by octocat"), "{}", ran.err);
    world.run(&["deploy", "production", "1.0.0"]).must(0, "deploy.done");
}

#[test]
fn a_gate_is_lifted_by_hand_with_a_reason_that_stays() {
    let mut world = chained("");
    let sha = world.head();
    let lift = |reason: &str| world.run(&["deploy", "production", &sha, "--override", "after", "--reason", reason]);
    lift(" ").must(2, "input.invalid");
    let ran = lift("outage 4711");
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("lifted  after: outage 4711"), "{}", ran.err);
    assert_eq!(record(&world)["lifted"], json!(["after: outage 4711"]));
    // An event has nobody who could say why.
    let ran = world.pushed().run(&["run", "--override", "after", "--reason", "x"]);
    ran.must(2, "input.invalid");
    assert!(ran.err.contains("here an event decides"), "{}", ran.err);
    // As inputs of a step.
    world.var("INPUT_COMMAND", "deploy").var("INPUT_ENVIRONMENT", "production").var("INPUT_VERSION", &sha);
    world.var("INPUT_OVERRIDE", "after, drian").var("INPUT_REASON", "y");
    world.run(&[]).must(2, "input.invalid");
    let ran = world.var("INPUT_OVERRIDE", "after, drain").run(&[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.count("GetQueueAttributes"), 0, "the drain was lifted too: {}", ran.err);
}

/// A window in UTC around now.
fn window(from: Span, to: Span) -> String {
    let shape = |span: Span| {
        Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).checked_add(span).unwrap().strftime("%Y-%m-%d %H:%M:%S").to_string()
    };
    format!("freeze: [{{from: \"{}\", to: \"{}\", zone: UTC}}]", shape(from), shape(to))
}

#[test]
fn nothing_is_deployed_in_a_freeze_but_what_a_person_lifts() {
    let mut world = World::new();
    world.configure("    tags: [latest]\n", &format!("    tags: [latest]\n    {}\n", window(Span::new().hours(-1), Span::new().hours(1))));
    let sha = world.commit("frozen");
    let ran = world.pushed().run(&["run"]);
    ran.must(4, "gate.freeze");
    assert!(ran.err.contains("`freeze:` holds deploys back until "), "{}", ran.err);
    let shown = Ran { err: ran.err.replace(&sha[..7], "3f2a1b0"), ..ran }; // the window, and so the commit, is another each time
    Page::default().shows("freeze", "tidegate run", &shown);
    let ran = shown;
    assert_eq!(ran.count("POST /build") + ran.count("PATCH /kube"), 0);
    assert!(world.run(&["plan"]).err.contains("(gate.freeze)"));
    world.run(&["deploy", "dev", &sha]).must(4, "gate.freeze");
    let ran = world.run(&["deploy", "dev", &sha, "--override", "freeze", "--reason", "the shop is down"]);
    ran.must(0, "deploy.done");
    assert!(record(&world)["lifted"][0].as_str().unwrap().starts_with("freeze (holds deploys back until "), "{}", record(&world));
    // Other environments are not meant, and it is over some time.
    world.run(&["deploy", "staging", &sha]).must(0, "deploy.done");
    let mut world = World::new();
    world.configure("    tags: [latest]\n", &format!("    tags: [latest]\n    {}\n", window(Span::new().hours(-2), Span::new().hours(-1))));
    world.commit("thawed");
    world.pushed().run(&["run"]).must(0, "deploy.done");
}

#[test]
fn a_freeze_that_begins_while_a_run_waits_holds_it_back() {
    let mut world = World::new();
    let sha = world.head();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let begins = Timestamp::now().checked_add(Span::new().seconds(8)).unwrap();
    world.configure("    gates:\n", &format!("    {}\n    gates:\n", window(Span::new().seconds(8), Span::new().hours(1))));
    world.sandbox.with(|outside| {
        outside.queues.insert(("us-west-2".into(), "jobs".into()), [[1, 0, 0]].into_iter().collect());
    });
    let going = world.run_until(&["deploy", "production", &sha], "record");
    world.until("the freeze begins", |_| Timestamp::now() > begins);
    world.sandbox.with(|outside| {
        outside.queues.insert(("us-west-2".into(), "jobs".into()), [[0, 0, 0]].into_iter().collect());
    });
    let said = going.ends(4);
    assert!(said.contains("it began while this run waited, and nothing was switched (gate.freeze)"), "{said}");
    assert!(world.runs_on("production").contains(":old@"), "{}", world.runs_on("production"));
}

#[test]
fn gates_that_make_no_sense_are_found_before() {
    let problems = |from: &str, to: &str| {
        let world = World::new();
        world.configure(from, to);
        let ran = world.run(&["check"]);
        assert_eq!(ran.code, 2, "{}", ran.err);
        ran.err
    };
    let said = problems("  dev:\n    when: merge\n", "  dev:\n    when: merge\n    after: dev\n");
    assert!(said.contains("dev comes after itself"), "{said}");
    let said = problems("  dev:\n    when: merge\n", "  dev:\n    when: merge\n    soak: 1h\n");
    assert!(said.contains("add `after: ENVIRONMENT`"), "{said}");
    let said = problems("  dev:\n    when: merge\n", "  dev:\n    when: merge\n    after: preview\n");
    assert!(said.contains("preview is made by pull requests"), "{said}");
    let said =
        problems("  dev:\n    when: merge\n", "  dev:\n    when: merge\n    freeze: [{from: \"Fri 16\", to: \"Mon 08:00\", zone: Mars}]\n");
    assert!(said.contains("\"Mars\" is no time zone"), "{said}");
}

/// Records say what was delivered; targets say what runs.
#[test]
fn status_asks_the_targets_when_it_is_told_to() {
    let mut world = World::new();
    let head = world.head();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let ran = world.run(&["status", "--targets"]);
    assert!(ran.code == 0 && ran.err.contains("deploy.kubernetes: deployment/web: 2 of 2 pods run"), "{}", ran.err);
    assert_eq!(ran.count("PATCH ") + ran.count("POST /build") + ran.count("PutImage"), 0, "{}", ran.log.join("\n"));
    // Somebody puts something else there by hand: no record knows.
    world.sandbox.with(|outside| outside.cluster.add_workload("deployments", "dev", "web", &[("web", crate::world::OLD)]));
    let ran = world.run(&["status", "--targets"]);
    Page::default().shows("status", "tidegate status --targets", &ran);
    assert!(ran.err.contains(&format!("DRIFT deploy.kubernetes: it does not run {} any more", &head[..7])), "{}", ran.err);
    let ran = world.run(&["status"]);
    assert!(!ran.err.contains("DRIFT"), "nobody was asked: {}", ran.err);
    // Who cannot be asked has said nothing.
    world.var("KUBECONFIG", "/nowhere");
    let ran = world.run(&["status", "--targets", "--format", "json"]);
    let said: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let target = &said["environments"][0]["targets"][0];
    assert!(target["runs"].is_null() && target["id"] == "deploy.kubernetes", "{}", ran.out);
}
