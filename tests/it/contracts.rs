//! What scripts rely on: JSON shapes, hashes, committed schema and lists, and which commands stay offline.

use crate::world::{World, tidegate};
use serde_json::Value;
use std::path::Path;
use tidegate::error::Reason;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_committed_schema_is_current() {
    let (code, out, _) = tidegate(root(), &["schema"], &[]);
    let committed = std::fs::read_to_string(root().join("docs/tidegate.schema.json")).unwrap_or_default();
    assert!(code == 0 && out == committed, "run: cargo run -- schema > docs/tidegate.schema.json");
}

#[test]
fn the_committed_schema_of_the_server_is_current() {
    let (code, out, _) = tidegate(root(), &["schema", "serve"], &[]);
    let committed = std::fs::read_to_string(root().join("docs/tidegate-serve.schema.json")).unwrap_or_default();
    assert!(code == 0 && out == committed, "run: cargo run -- schema serve > docs/tidegate-serve.schema.json");
}

#[test]
fn the_list_of_reasons_is_current() {
    let committed = std::fs::read_to_string(root().join("docs/reason-codes.md")).unwrap_or_default();
    for reason in Reason::ALL {
        let row = format!("| `{}` | {} | {} |", reason.name(), reason.exit_code(), reason.meaning());
        assert!(committed.contains(&row), "docs/reason-codes.md lacks: {row}");
    }
    let rows = committed.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, Reason::ALL.len(), "a row for each reason and no other");
}

#[test]
fn plan_and_explain_open_no_connection_when_the_payload_holds_the_facts() {
    let mut world = World::new();
    for command in ["plan", "explain"] {
        let ran = world.pushed().run(&[command, "--format", "json"]);
        assert_eq!((ran.code, &ran.log), (0, &Vec::new()), "{command}: {}", ran.err);
        let ran = world.pull_request("opened", |_| {}).run(&[command]);
        assert_eq!((ran.code, &ran.log), (0, &Vec::new()), "{command}: {}", ran.err);
    }
    let sha = world.head();
    let ran = world.released("v1.0.0", &sha).run(&["explain"]);
    assert_eq!((ran.code, &ran.log), (0, &Vec::new()), "{}", ran.err);
}

#[test]
fn the_same_inputs_have_the_same_hash_and_others_another() {
    let mut world = World::new();
    let hash = |world: &World| -> String {
        let plan: Value = serde_json::from_str(&world.run(&["plan", "--format", "json"]).out).unwrap();
        plan["hash"].as_str().unwrap().to_owned()
    };
    let first = hash(world.pushed());
    assert_eq!(first.len(), 12);
    assert_eq!(first, hash(&world));
    world.configure("timeout: 5s", "timeout: 6s");
    assert_ne!(first, hash(&world));
}

#[test]
fn the_json_has_the_agreed_shape() {
    let mut world = World::new();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let plan: Value = serde_json::from_str(&world.pushed().run(&["plan", "--format", "json"]).out).unwrap();
    assert_eq!(
        keys(&plan),
        ["schema", "hash", "outcome", "reason", "environment", "version", "images", "gates", "steps", "lock", "rollback"]
    );
    assert_eq!(keys(&plan["images"][0]), ["name", "repository", "tags", "action"]);
    assert_eq!(plan["images"][0]["action"], "build");
    assert_eq!(keys(&plan["steps"][0]), ["id", "title", "after"]);
    let explained: Value = serde_json::from_str(&world.run(&["explain", "--format", "json"]).out).unwrap();
    assert_eq!(keys(&explained), ["schema", "provider", "event", "decision", "rules", "assumed"]);
    assert_eq!(keys(&explained["decision"]), ["outcome", "reason", "environment", "version"]);
    let ran = world.run(&["run", "--format", "json", "--report", "report.json"]);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(keys(&report), ["schema", "outcome", "reason", "environment", "version", "verdict", "images", "targets", "steps", "urls"]);
    assert_eq!(keys(&report["targets"][0]), ["id", "verdict", "detail", "url"]);
    assert_eq!(keys(&report["steps"][0]), ["id", "outcome", "seconds", "note"]);
    let written: Value = serde_json::from_str(&std::fs::read_to_string(world.path("report.json")).unwrap()).unwrap();
    assert_eq!(written, report);
    let names = ["deployment-id", "digest", "environment", "image", "images", "outcome", "reason", "report", "url", "verdict", "version"];
    assert_eq!(ran.outputs.keys().collect::<Vec<_>>(), names);
}

#[test]
fn hostile_payloads_are_answered_not_died_of() {
    let mut world = World::new();
    let events = [
        "push",
        "create",
        "delete",
        "release",
        "pull_request",
        "pull_request_target",
        "merge_group",
        "workflow_dispatch",
        "repository_dispatch",
        "schedule",
        "workflow_run",
        "deployment",
        "issue_comment",
        "star",
    ];
    let bodies = [
        "{}",
        "[]",
        "null",
        "",
        "\u{feff}{\"ref\":\"refs/heads/main\"}",
        "{\"ref\":7,\"number\":\"x\",\"release\":[],\"pull_request\":null,\"action\":{}}",
        "{\"after\":\"\\u0000\",\"ref\":\"refs/tags/\"}",
    ];
    let head = world.head();
    world.var("GITHUB_SHA", head);
    for event in events {
        for body in bodies {
            world.write(".event.json", body);
            world.var("GITHUB_EVENT_NAME", event);
            let ran = world.run(&["explain", "--format", "json"]);
            assert!(matches!(ran.code, 0 | 2), "{event} {body}: {} {}", ran.code, ran.err);
            assert!(!ran.err.contains("panicked"), "{event} {body}: {}", ran.err);
            assert!(ran.code == 0 || ran.err.contains("(input.event)"), "{event} {body}: {}", ran.err);
        }
    }
}
