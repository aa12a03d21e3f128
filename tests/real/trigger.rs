//! Pipelines elsewhere through the descriptions of GitHub and GitLab, which check our requests and the sandbox's answers.

use crate::prism::Prism;
use crate::world::World;
use tidegate::rehearse::downstream::{GITHUB_TOKEN, Mood, READ_TOKEN, TRIGGER_TOKEN, Workflow};

fn world() -> World {
    let mut world = World::new();
    world.sandbox.with(|outside| {
        outside.downstream.projects = vec!["acme/e2e".into()];
        outside.downstream.workflows =
            vec![Workflow { shows: Some("id".into()), ..Workflow::new("acme/e2e", "End to End", "e2e.yml", &["version", "id"]) }];
    });
    world.var("GITHUB_TOKEN", GITHUB_TOKEN).var("STORY_TRIGGER", TRIGGER_TOKEN).var("STORY_READ", READ_TOKEN);
    world
}

fn fits(world: &World, prism: &Prism, (code, args): (i32, &[&str])) {
    let ran = world.run(args);
    assert_eq!(ran.code, code, "{}\n{}", ran.err, prism.said().join("\n"));
    let bad: Vec<String> = prism.said().into_iter().filter(|line| line.to_lowercase().contains("violation")).collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn described_by_github_our_requests_and_the_sandboxs_answers_fit() {
    let mut world = world();
    let prism = Prism::before(&mut world);
    let workflow = ["trigger", "github", "acme/e2e", "End to End", "--input", "version=1.4.2", "--wait"];
    fits(&world, &prism, (0, &workflow));
    world.sandbox.with(|outside| outside.downstream.mood = Mood::Silent);
    fits(&world, &prism, (0, &[&workflow[..], &["--correlate", "id", "--ref", "main"]].concat()));
    let event = ["trigger", "github", "acme/e2e", "e2e.yml", "--event", "go", "--payload", "n=3", "--correlate", "id", "--wait"];
    fits(&world, &prism, (0, &event));
    world.sandbox.with(|outside| outside.downstream.end = Some("failure".into()));
    fits(&world, &prism, (1, &workflow)); // the failed jobs are read
    world.sandbox.with(|outside| outside.downstream.end = Some(String::new()));
    fits(&world, &prism, (3, &[&workflow[..], &["--timeout", "2s"]].concat())); // and it is cancelled
    assert!(world.sandbox.with(|outside| outside.downstream.runs.last().unwrap().cancelled));
    let said = prism.said().join("\n");
    for asked in ["/actions/workflows", "/dispatches", "/runs?event=", "/jobs", "/cancel"] {
        assert!(said.contains(asked), "{asked} was never asked for:\n{said}");
    }
}

#[test]
fn described_by_gitlab_our_requests_and_the_sandboxs_answers_fit() {
    let world = world();
    let prism = Prism::between(&world, "gitlab.openapi.json", &world.sandbox.url("gitlab"));
    let pipeline = [
        "trigger",
        "gitlab",
        "acme/e2e",
        "--ref",
        "main",
        "--host",
        &prism.address,
        "--variable",
        "VERSION=1.4.2",
        "--input",
        "mode=full",
        "--token-env",
        "STORY_TRIGGER",
        "--read-token-env",
        "STORY_READ",
        "--wait",
    ];
    fits(&world, &prism, (0, &pipeline));
    let sent = world.sandbox.with(|outside| outside.downstream.runs[0].request.clone());
    assert_eq!((&sent["variables[VERSION]"], &sent["inputs[mode]"]), (&"1.4.2".into(), &"full".into()));
    world.sandbox.with(|outside| outside.downstream.end = Some("failed".into()));
    fits(&world, &prism, (1, &pipeline));
    world.sandbox.with(|outside| outside.downstream.end = Some(String::new()));
    fits(&world, &prism, (3, &[&pipeline[..], &["--timeout", "2s"]].concat()));
    assert!(world.sandbox.with(|outside| outside.log.iter().all(|line| !line.contains(TRIGGER_TOKEN))), "the token is in no address");
}
