//! The image step: Dockerfile choice, secrets, repositories, registries' answers.

use crate::world::World;
use serde_json::json;
use tidegate::rehearse::sandbox::Fault;

#[test]
fn the_dockerfile_is_chosen_per_environment_with_a_fallback() {
    let mut world = World::new();
    world.configure(
        "    repository: 123456789012",
        "    dockerfile: {file: \"Dockerfile.{environment}\", fallback: Dockerfile}\n    repository: 123456789012",
    );
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.count("dockerfile=Dockerfile&"), 1, "{:?}", ran.log);
    world.write("Dockerfile.dev", "FROM scratch\nCOPY app /dev-app\n");
    world.commit("two");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.count("dockerfile=Dockerfile.dev&"), 1, "{:?}", ran.log);
}

#[test]
fn args_target_and_labels_reach_the_builder_and_secrets_do_not() {
    let mut world = World::new();
    let keys = "    args: {MODE: fast}\n    target: runtime\n    labels: {team: ui}\n    secrets: {npm: {env: NPM_TOKEN}}\n    repository: 123456789012";
    world.configure("    repository: 123456789012", keys);
    world.pushed().run(&["run"]).must(5, "auth.missing");
    let ran = world.var("NPM_TOKEN", "npm_verysecret").run(&["run"]);
    ran.must(0, "deploy.done");
    let build = ran.log.iter().find(|line| line.contains("POST /build")).unwrap();
    for part in ["MODE", "fast", "target=runtime", "team", "version=2", "session=tidegate-"] {
        assert!(build.contains(part), "{part}: {build}");
    }
    let everything =
        format!("{}{}{}{}", ran.log.join("\n"), world.comments().join("\n"), ran.out, ran.err.replace("::add-mask::npm_verysecret", ""));
    assert!(!everything.contains("npm_verysecret"));
}

#[test]
fn a_secret_as_a_build_argument_is_refused() {
    let mut world = World::new();
    let keys = "    args: {TOKEN: \"{var.token}\"}\n    secrets: {npm: {env: NPM_TOKEN}}\n    repository: 123456789012";
    world.configure("    repository: 123456789012", keys);
    world.configure("images:", "variables: {token: {default: npm_verysecret}}\nimages:");
    let ran = world.pushed().var("NPM_TOKEN", "npm_verysecret").run(&["run"]);
    ran.must(2, "config.invalid");
    assert_eq!(ran.count("POST /build"), 0);
}

#[test]
fn a_missing_repository_is_named_with_the_command_that_makes_it() {
    let mut world = World::new();
    world.sandbox.with(|outside| outside.repositories.clear());
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "push.failed");
    assert!(ran.err.contains("aws ecr create-repository --region us-west-2 --repository-name demo"), "{}", ran.err);
    assert_eq!(ran.count("POST /build"), 0, "found out before building");
    world.configure("    repository: 123456789012", "    ensure-repository: {mutability: immutable}\n    repository: 123456789012");
    world.commit("create");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.count("CreateRepository"), 1);
}

#[test]
fn an_immutable_repository_takes_the_version_and_leaves_the_alias() {
    let mut world = World::new();
    world.sandbox.with(|outside| outside.repositories.get_mut("demo").unwrap().immutable = true);
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.write("app", "two\n");
    world.commit("two");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("immutable") && ran.err.contains("exclusions"), "{}", ran.err);
    world.run(&["run"]).must(0, "deploy.done");
}

#[test]
fn a_failed_build_says_which_step_and_pushes_nothing() {
    let mut world = World::new();
    let body = json!({"errorDetail": {"message": "process \"/bin/sh -c make\" did not complete successfully: exit code: 2"}, "error": "x"});
    let fault = Fault { on: "POST /build", times: 1, status: 200, headers: vec![], body, after_effect: false };
    world.sandbox.with(|outside| outside.faults.push(fault));
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "build.failed");
    assert!(ran.err.contains("exit code: 2"), "{}", ran.err);
    assert_eq!(ran.count("/push"), 0);
    assert!(world.runs_on("dev").contains(":old@"));
}

#[test]
fn a_push_that_is_interrupted_goes_on_and_is_not_built_again() {
    let mut world = World::new();
    let body = json!({"errorDetail": {"message": "received unexpected HTTP status: 503 Service Unavailable"}, "error": "x"});
    let fault = Fault { on: "/push", times: 2, status: 200, headers: vec![], body, after_effect: false };
    world.sandbox.with(|outside| outside.faults.push(fault));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!((ran.count("POST /build"), ran.count("/push")), (1, 3));
}

#[test]
fn no_engine_is_an_error_that_says_what_to_do() {
    let mut world = World::new();
    let ran = world.pushed().var("DOCKER_HOST", "unix:///nowhere.sock").run(&["run"]);
    ran.must(2, "tool.missing");
    assert!(ran.err.contains("/var/run/docker.sock"), "{}", ran.err);
}

#[test]
fn the_wrong_checkout_is_not_built_under_a_version() {
    let mut world = World::new();
    let first = world.head();
    world.commit("two");
    world.pushed();
    world.git(&["checkout", "--quiet", &first]);
    let ran = world.run(&["run"]);
    ran.must(2, "input.version");
    assert_eq!(ran.count("POST /build"), 0);
}

#[test]
fn several_platforms_are_one_image() {
    let mut world = World::new();
    world.configure("    repository: 123456789012", "    platforms: [linux/amd64, linux/arm64]\n    repository: 123456789012");
    let sha = world.commit("platforms");
    let first = world.pushed().run(&["run"]);
    first.must(0, "deploy.done");
    assert_eq!((first.count("platform=linux%2Famd64"), first.count("platform=linux%2Farm64")), (1, 1), "{:?}", first.log);
    let index = world.sandbox.with(|outside| outside.repositories["demo"].manifests[&first.outputs["digest"]].0.clone());
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let architectures: Vec<&str> =
        index["manifests"].as_array().unwrap().iter().map(|m| m["platform"]["architecture"].as_str().unwrap()).collect();
    assert_eq!(architectures, ["amd64", "arm64"]);
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert_eq!(again.count("POST /build"), 0);
    let release = world.released("v1.0.0", &sha).run(&["run"]);
    assert_eq!(release.must(0, "deploy.done").outputs["digest"], first.outputs["digest"]);
}

/// Nothing is deployed there, so only aliases that move need the lease: once for all images, and never for a repeated run.
#[test]
fn two_images_without_a_target_share_one_lease() {
    let mut world = World::new();
    world.sandbox.with(|outside| outside.repositories.insert("side".into(), Default::default()));
    let text = std::fs::read_to_string(world.path("tidegate.yml")).unwrap();
    let (head, rest) = text.split_once("environments:").unwrap();
    let (_dev, others) = rest.split_once("  staging:").unwrap();
    let side = "  side:\n    repository: 123456789012.dkr.ecr.us-west-2.amazonaws.com/side\n";
    world.write("tidegate.yml", &format!("{head}{side}environments:\n  dev:\n    when: merge\n    tags: [latest]\n  staging:{others}"));
    world.commit("two images");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "image.built");
    assert_eq!((ran.count("POST /github/repos/acme/demo/git/refs"), world.deployments().len()), (1, 0), "{}", ran.err);
    let again = world.run(&["run"]);
    again.must(0, "image.built");
    assert_eq!(again.count("/git/") + again.count("PutImage"), 0, "{}", again.err);
    let ran = world.run(&["lock", "status", "dev"]);
    assert!(ran.err.contains("free"), "{}", ran.err);
}
