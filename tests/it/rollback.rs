//! Back to what ran before, by the records; and what must not come back, by the quarantine.

use crate::world::{Going, World};
use serde_json::{Value, json};
use tidegate::rehearse::sandbox::ClusterMood;

/// Versions 1.0.0, 1.1.0 and 1.2.0 were delivered to staging, one after another: their digests.
fn released() -> (World, Vec<String>) {
    let mut world = World::new();
    let mut digests = Vec::new();
    for number in 0..3 {
        world.write("app", &format!("app {number}\n"));
        let sha = world.commit("more");
        world.pushed().run(&["run"]).must(0, "deploy.done");
        let ran = world.released(&format!("v1.{number}.0"), &sha).run(&["run"]);
        ran.must(0, "deploy.done");
        digests.push(ran.outputs["digest"].clone());
    }
    (world, digests)
}

#[test]
fn the_last_good_version_comes_back_as_the_same_bytes() {
    let (mut world, digests) = released();
    world.configure("  staging:\n    when: release\n", "  staging:\n    when: release\n    tags: [latest]\n");
    let plan = world.run(&["plan", "rollback", "staging"]);
    assert_eq!(plan.code, 0, "{}", plan.err);
    assert!(plan.err.contains("put 1.1.0 back on staging (back from 1.2.0; 1.1.0 was delivered by octocat on "), "{}", plan.err);
    assert!(plan.err.contains(&format!("the one that was delivered: {}", digests[1])), "{}", plan.err);
    let ran = world.run(&["rollback", "staging"]);
    ran.must(0, "deploy.done");
    assert_eq!((ran.outputs["version"].as_str(), &ran.outputs["digest"]), ("1.1.0", &digests[1]));
    assert!(world.runs_on("staging").ends_with(&digests[1]));
    assert_eq!(ran.count("POST /build"), 0);
    assert_eq!(world.digest_of("latest"), digests[2], "no alias moves");
    // Once more is further back: what somebody went back from is not good.
    let ran = world.var("GITHUB_RUN_ID", "78").run(&["rollback", "staging"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.outputs["version"], "1.0.0");
    let ran = world.var("GITHUB_RUN_ID", "79").run(&["rollback", "staging"]);
    ran.must(2, "input.version");
    assert!(ran.err.contains("there is nothing good before 1.0.0 on staging"), "{}", ran.err);
    // By name it may be any that was there.
    let ran = world.run(&["rollback", "staging", "--to", "v1.2.0"]);
    ran.must(0, "deploy.done");
    assert!(world.runs_on("staging").ends_with(&digests[2]));
    world.run(&["rollback", "staging", "--to", "1.2.0"]).must(2, "input.version");
    let ran = world.run(&["rollback", "staging", "--to", "9.9.9"]);
    ran.must(2, "input.version");
    assert!(ran.err.contains("delivered there: ") && ran.err.contains("1.1.0"), "{}", ran.err);
}

#[test]
fn a_version_that_failed_is_gone_back_from_to_the_one_before() {
    let (mut world, digests) = released();
    world.write("app", "broken\n");
    let sha = world.commit("broken");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.sandbox.with(|outside| outside.mood = ClusterMood::CrashLoop);
    assert_eq!(world.released("v1.3.0", &sha).run(&["run"]).code, 1);
    world.sandbox.with(|outside| outside.mood = ClusterMood::Honest);
    let ran = world.run(&["rollback", "staging"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.outputs["digest"], digests[2]);
    assert!(ran.err.contains("back from 1.3.0"), "{}", ran.err);
}

#[test]
fn a_good_version_stays_good_after_others_went_back_to_it() {
    let (mut world, digests) = released();
    for number in [3, 4] {
        world.write("app", &format!("broken {number}\n"));
        let sha = world.commit("broken");
        world.pushed().run(&["run"]).must(0, "deploy.done");
        world.sandbox.with(|outside| outside.mood = ClusterMood::CrashLoop);
        assert_eq!(world.released(&format!("v1.{number}.0"), &sha).run(&["run"]).code, 1);
        world.sandbox.with(|outside| outside.mood = ClusterMood::Honest);
        let ran = world.run(&["rollback", "staging"]);
        ran.must(0, "deploy.done");
        assert_eq!(ran.outputs["digest"], digests[2], "{}", ran.err);
        world.var("GITHUB_RUN_ID", format!("10{number}"));
    }
}

#[test]
fn a_rollback_that_is_run_again_leads_where_it_led() {
    let (mut world, digests) = released();
    world.var("GITHUB_RUN_ID", "90");
    world.sandbox.with(|outside| outside.mood = ClusterMood::KeepsTemplate);
    assert_eq!(world.run(&["rollback", "staging"]).code, 1);
    world.sandbox.with(|outside| outside.mood = ClusterMood::Honest);
    for _again in 0..2 {
        let ran = world.var("GITHUB_RUN_ATTEMPT", "2").run(&["rollback", "staging"]);
        ran.must(0, "deploy.done");
        assert_eq!((ran.outputs["version"].as_str(), &ran.outputs["digest"]), ("1.1.0", &digests[1]), "{}", ran.err);
    }
    // Another one is another wish.
    let ran = world.var("GITHUB_RUN_ID", "91").run(&["rollback", "staging"]);
    assert_eq!(ran.outputs["version"], "1.0.0", "{}", ran.err);
}

#[test]
fn what_was_delivered_while_a_rollback_waited_is_not_rolled_over() {
    let (world, _) = released();
    for version in ["1.0.0", "1.1.0"] {
        world.run(&["deploy", "production", version]).must(0, "deploy.done");
    }
    let busy = |count: u64| {
        world.sandbox.with(|outside| outside.queues.insert(("us-west-2".into(), "jobs".into()), [[count, 0, 0]].into_iter().collect()));
    };
    busy(1);
    let deploy = world.run_until(&["deploy", "production", "1.2.0"], "record");
    let mut rollback = world.command(&["rollback", "production"]);
    rollback.env("GITHUB_RUN_ID", "78");
    let mut rollback = Going::start(rollback);
    rollback.until("put 1.0.0 back on production");
    rollback.until("held by");
    busy(0);
    deploy.ends(0);
    let said = rollback.ends(4);
    assert!(said.contains("1.2.0 was delivered to production while this rollback waited") && said.contains("(order.changed)"), "{said}");
    assert!(world.runs_on("production").contains(":1.2.0@"), "{}", world.runs_on("production"));
}

#[test]
fn what_the_record_does_not_name_is_not_made_up() {
    let (world, _) = released();
    let more = "images:\n  other:\n    repository: 123456789012.dkr.ecr.us-west-2.amazonaws.com/other\n";
    world.configure("images:\n", more);
    world.configure(
        "      - kubernetes: {namespace: staging, workloads: [deployment/web], image: app, timeout: 5s}",
        "      - kubernetes: {namespace: staging, workloads: [deployment/web], image: other, timeout: 5s}",
    );
    let ran = world.run(&["rollback", "staging"]);
    ran.must(2, "input.version");
    assert!(ran.err.contains("when 1.1.0 was delivered to staging, there was no image other with it"), "{}", ran.err);
}

#[test]
fn the_outside_that_only_says_yes_is_no_rollback() {
    let (world, digests) = released();
    world.sandbox.with(|outside| outside.mood = ClusterMood::KeepsTemplate);
    let ran = world.run(&["rollback", "staging"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    // It did not succeed, so it is not where the next one begins.
    world.sandbox.with(|outside| outside.mood = ClusterMood::Honest);
    let ran = world.run(&["rollback", "staging", "--to", "1.1.0"]);
    ran.must(0, "deploy.done");
    assert!(world.runs_on("staging").ends_with(&digests[1]));
}

#[test]
fn an_image_that_is_gone_or_was_moved_is_told_from_its_tag() {
    let (mut world, digests) = released();
    // The tag stands for other bytes by now; the record knows better.
    world.sandbox.with(|outside| outside.repositories.get_mut("demo").unwrap().tags.insert("1.1.0".into(), digests[0].clone()));
    let ran = world.run(&["rollback", "staging"]);
    ran.must(0, "deploy.done");
    assert!(world.runs_on("staging").ends_with(&digests[1]), "{}", world.runs_on("staging"));
    world.sandbox.with(|outside| {
        let repository = outside.repositories.get_mut("demo").unwrap();
        repository.tags.retain(|_, digest| *digest != digests[0]);
        repository.manifests.remove(&digests[0]);
    });
    let ran = world.var("GITHUB_RUN_ID", "78").run(&["rollback", "staging"]);
    ran.must(2, "input.version");
    assert!(
        ran.err.contains("is not in 123456789012.dkr.ecr.us-west-2.amazonaws.com/demo any more") && ran.err.contains("lifecycle"),
        "{}",
        ran.err
    );
    assert!(world.runs_on("staging").ends_with(&digests[1]), "nothing was switched");
}

#[test]
fn nothing_to_go_back_to_is_said() {
    let mut world = World::new();
    let ran = world.pushed().run(&["rollback", "staging"]);
    ran.must(2, "input.version");
    assert!(ran.err.contains("nothing was ever delivered to staging"), "{}", ran.err);
    world.run(&["rollback", "stagign"]).must(2, "input.environment");
    world.run(&["rollback", "preview"]).must(2, "input.environment");
    world.var("INPUT_COMMAND", "rollback").run(&[]).must(2, "input.invalid");
    let ran = world.var("INPUT_ENVIRONMENT", "staging").run(&[]);
    ran.must(2, "input.version");
}

#[test]
fn a_migration_in_between_keeps_it_from_going_back() {
    let migrate = |more: &str| {
        let world = World::new();
        let text = format!("  staging:\n    when: release\n    migrate: {{run: {{command: {{run: [sh, -c, 'true']}}}}{more}}}\n");
        world.configure("  staging:\n    when: release\n", &text);
        world.commit("migrate");
        let mut world = world;
        for number in 0..2 {
            world.write("app", &format!("app {number}\n"));
            let sha = world.commit("more");
            world.pushed().run(&["run"]).must(0, "deploy.done");
            world.released(&format!("v1.{number}.0"), &sha).run(&["run"]).must(0, "deploy.done");
        }
        world
    };
    let world = migrate("");
    let ran = world.run(&["rollback", "staging"]);
    ran.must(4, "gate.migration");
    assert!(ran.err.contains("1.1.0 migrated the database of staging since 1.0.0 was delivered"), "{}", ran.err);
    assert!(world.run(&["plan", "rollback", "staging"]).err.contains("gate.migration"));
    let ran = world.run(&["rollback", "staging", "--override", "migration", "--reason", "only an index was added"]);
    ran.must(0, "deploy.done");
    assert!(!ran.err.contains("migrate: "), "a rollback migrates nothing: {}", ran.err);
    migrate(", backward-compatible: true").run(&["rollback", "staging"]).must(0, "deploy.done");
}

#[test]
fn what_is_in_quarantine_is_deployed_by_nobody() {
    let (mut world, digests) = released();
    world.run(&["quarantine", "1.1.0"]).must(2, "input.invalid");
    world.run(&["quarantine", "9.9.9", "--reason", "x"]).must(2, "input.version");
    world.run(&["quarantine", "sha256:12", "--reason", "x"]).must(2, "input.invalid");
    let ran = world.run(&["quarantine", "1.1.0", "--reason", "loses orders", "--until", "7d"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let listed: Value = serde_json::from_str(&world.run(&["quarantine", "--format", "json"]).out).unwrap();
    assert_eq!((&listed["quarantine"][0]["digest"], &listed["quarantine"][0]["reason"]), (&json!(digests[1]), &json!("loses orders")));
    // By its version, by its commit's name, and on the way back.
    let ran = world.run(&["deploy", "production", "1.1.0"]);
    ran.must(4, "gate.quarantined");
    assert!(ran.err.contains("by octocat on ") && ran.err.contains("loses orders"), "{}", ran.err);
    assert_eq!(ran.count("PATCH /kube"), 0);
    let ran = world.run(&["rollback", "staging"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.outputs["version"], "1.0.0", "the quarantined one is passed over");
    world.run(&["rollback", "staging", "--to", "1.1.0"]).must(4, "gate.quarantined");
    // An automatic run that is tried again.
    let sha = world.sandbox.with(|outside| outside.github.tags.iter().find(|(tag, _)| tag == "v1.1.0").unwrap().1.clone());
    let ran = world.released("v1.1.0", &sha).run(&["run"]);
    ran.must(4, "gate.quarantined");
    let ran = world.run(&["quarantine", &digests[1], "--lift", "--reason", "it was the network"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(world.run(&["quarantine"]).err.contains("nothing is in quarantine"));
    world.run(&["deploy", "production", "1.1.0"]).must(0, "deploy.done");
}

#[test]
fn a_quarantine_that_begins_while_a_run_waits_holds_it_back() {
    let (world, digests) = released();
    let busy = |world: &World, count: u64| {
        world.sandbox.with(|outside| outside.queues.insert(("us-west-2".into(), "jobs".into()), [[count, 0, 0]].into_iter().collect()));
    };
    busy(&world, 1);
    let going = world.run_until(&["deploy", "production", "1.2.0"], "jobs");
    assert_eq!(world.run(&["quarantine", &digests[2], "--reason", "leaks"]).code, 0);
    busy(&world, 0);
    let said = going.ends(4);
    assert!(said.contains("(gate.quarantined)"), "{said}");
    assert!(world.runs_on("production").contains(":old@"), "{}", world.runs_on("production"));
}
