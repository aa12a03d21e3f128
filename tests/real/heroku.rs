//! Heroku's own description between us and the sandbox, and a real registry in the place of Heroku's.

use crate::image;
use crate::parts::{part, program};
use crate::prism::Prism;
use crate::world::World;
use tidegate::rehearse::heroku::{App, Fate, KEY};
use tidegate::rehearse::sandbox::Fault;

const KEYS: &str = "pipeline: {name: demo, stage: review}, addons: [{plan: \"heroku-postgresql:essential-0\"}], config: {vars: {MODE: REVIEW, OLD: null}}, \
                    dynos: {web: {quantity: 2, size: Standard-1X}}, maintenance: true, rollback: auto, timeout: 20s";

/// A preview with everything that the target can ask for, and a one-off dyno after it.
fn preview(world: &mut World) {
    let text = std::fs::read_to_string(world.path("tidegate.yml")).unwrap();
    let (head, _) = text.split_once("  preview:\n").unwrap();
    let tail = format!(
        "  preview:\n    when: pull-request\n    name: \"{{project}}-pr-{{pr}}\"\n    migrate: {{when: after, run: {{heroku-run: {{app: demo-pr-12, command: [./manage.py, migrate]}}}}}}\n    \
         deploy:\n      - heroku: {{app: demo-pr-12, create: {{team: acme, region: us}}, {KEYS}}}\n"
    );
    world.write("tidegate.yml", &format!("{head}{tail}"));
    world.commit("preview");
    let address = world.sandbox.address.clone();
    world.var("HEROKU_API_KEY", KEY);
    world.var(
        "TIDEGATE_REGISTRY_ENDPOINTS",
        format!("123456789012.dkr.ecr.us-west-2.amazonaws.com=http://{address},registry.heroku.com=http://{address}"),
    );
    world.sandbox.with(|outside| outside.heroku.pipelines = vec!["demo".into()]);
}

fn prism(world: &mut World) -> Prism {
    let prism = Prism::between(world, "heroku.openapi.json", &world.sandbox.url("heroku"));
    world.var("HEROKU_API_URL", prism.address.clone());
    prism
}

#[test]
fn described_our_requests_and_the_sandboxs_answers_fit() {
    let mut world = World::new();
    preview(&mut world);
    let prism = prism(&mut world);
    let ran = world.pull_request("opened", |_| {}).run(&["run"]);
    assert_eq!(ran.code, 0, "{}\n{}", ran.err, prism.said().join("\n"));
    world.sandbox.with(|outside| {
        let app = outside.heroku.apps.get_mut("demo-pr-12").unwrap();
        app.coupling = app.coupling.take().map(|(pipeline, _)| (pipeline, "staging".into()));
        outside.heroku.mood = tidegate::rehearse::heroku::Mood::Crashes;
    });
    world.write("app", "two\n");
    world.commit("two");
    world.pull_request("synchronize", |_| {}).run(&["run"]).must(1, "target.rolled-back"); // moves the stage, reads a log, goes back
    world.sandbox.with(|outside| (outside.heroku.mood, outside.heroku.fate) = (Default::default(), Fate::Hangs));
    world.configure("command: [./manage.py, migrate]", "timeout: 2s, command: [./manage.py, migrate]");
    world.write("app", "three\n");
    world.commit("three");
    world.pull_request("synchronize", |_| {}).run(&["run"]).must(3, "target.timeout"); // stops its dyno
    world.sandbox.with(|outside| outside.github.closed.push(12)); // its event gets lost
    world.sandbox.with(|outside| outside.heroku.page = Some(1));
    let ran = world.run(&["sweep"]);
    assert!(ran.code == 0 && ran.err.contains("the Heroku app demo-pr-12 is deleted"), "{}\n{}", ran.err, prism.said().join("\n"));
    let asked = [
        "/teams/acme/apps",
        "POST /heroku/teams/apps",
        "PATCH /heroku/apps/demo-pr-12 ",
        "config-vars",
        "addons",
        "pipeline-couplings",
        "formation",
        "releases",
        "dynos",
        "log-sessions",
        "actions/stop",
        "DELETE /heroku/apps/demo-pr-12",
    ];
    let said = prism.said().join("\n");
    for text in asked.map(|text| {
        text.trim().trim_start_matches("POST ").trim_start_matches("PATCH ").trim_start_matches("DELETE ").replace("/heroku", "")
    }) {
        assert!(said.contains(&text), "{text} was never asked for:\n{said}");
    }
    assert!(!said.to_lowercase().contains("violation"), "{said}");
}

/// Lying twin: the description does refuse what is wrong.
#[test]
fn described_a_wrong_answer_would_be_seen() {
    let mut world = World::new();
    preview(&mut world);
    let prism = prism(&mut world);
    let wrong = Fault {
        on: "GET /heroku/apps/demo-pr-12/formation",
        times: 99,
        status: 200,
        headers: vec![],
        body: serde_json::json!([{"type": "web", "quantity": "two"}]),
        after_effect: false,
    };
    world.sandbox.with(|outside| outside.faults.push(wrong));
    let ran = world.pull_request("opened", |_| {}).run(&["run"]);
    assert_ne!(ran.code, 0, "{}", ran.err);
    assert!(prism.said().join("\n").to_lowercase().contains("violation"), "{}", prism.said().join("\n"));
}

/// A real image, built by a real engine and kept behind an ECR front, in a real registry under Docker's own types: an engine
/// runs what arrived.
#[test]
fn an_image_arrives_in_a_real_registry_and_runs() {
    let mut world = image::world("heroku-story", "MUTABLE");
    world.deploy_dev_by("heroku: {app: demo-staging, timeout: 20s, processes: {web: app, worker: app}, dynos: {worker: 1}}");
    let (front, registry) = (part("TIDEGATE_REAL_ECR"), part("TIDEGATE_REAL_REGISTRY"));
    world.var(
        "TIDEGATE_REGISTRY_ENDPOINTS",
        format!("123456789012.dkr.ecr.us-west-2.amazonaws.com=http://{front},registry.heroku.com=http://{registry}"),
    );
    world.var("HEROKU_API_URL", world.sandbox.url("heroku")).var("HEROKU_API_KEY", KEY);
    world.sandbox.with(|outside| {
        outside.heroku.apps.insert("demo-staging".into(), App::running());
        outside.heroku.registry_elsewhere = true;
    });
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("registry.heroku.com/demo-staging/worker: 0 blobs sent"), "mounted from web: {}", ran.err);
    let reference = format!("docker://{registry}/demo-staging/web:latest");
    let raw = program(&["skopeo", "inspect", "--tls-verify=false", "--raw", &reference]);
    let manifest: serde_json::Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    let (_, tag) = (0, ran.outputs["version"].clone());
    let (built, _) = image::skopeo("heroku-story", &tag);
    let built: serde_json::Value = serde_json::from_str(&built).unwrap();
    assert_eq!(manifest["config"]["digest"], built["config"]["digest"], "the same image");
    let docker = part("TIDEGATE_REAL_DOCKER");
    let said = program(&["docker", "-H", &docker, "run", "--rm", &format!("{registry}/demo-staging/web:latest")]);
    assert_eq!(said, "fast");
    program(&["docker", "-H", &docker, "image", "rm", "-f", &format!("{registry}/demo-staging/web:latest")]);
}
