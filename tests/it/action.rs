//! The action: what `action.yml` declares is what the program reads, and what it reads is checked.

use crate::world::{World, tidegate};
use serde_yaml::Value;
use tidegate::inputs::NAMES;

fn action() -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("action.yml");
    serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_mapping().unwrap().keys().map(|key| key.as_str().unwrap()).collect()
}

/// The variables that GitHub's runner makes of the defaults, for a step with these inputs.
fn with(world: &mut World, given: &[(&str, &str)]) {
    for (name, declared) in action()["inputs"].as_mapping().unwrap() {
        let name = name.as_str().unwrap();
        let default = declared["default"].as_str().unwrap().replace("${{ github.token }}", "ghs_storytoken");
        let value = given.iter().find(|(known, _)| *known == name).map_or(default, |(_, value)| (*value).to_owned());
        world.var(&format!("INPUT_{}", name.to_uppercase().replace(' ', "_")), value);
    }
    world.without("GITHUB_TOKEN"); // the runner gives it to no step
}

#[test]
fn the_action_declares_what_the_program_reads() {
    let action = action();
    assert_eq!(keys(&action["inputs"]), NAMES);
    for (name, input) in action["inputs"].as_mapping().unwrap() {
        assert!(input["description"].as_str().is_some_and(|text| text.len() > 20), "{name:?} is not described");
        assert!(input["default"].is_string(), "{name:?} has no default");
    }
    let told = ["outcome", "reason", "environment", "version", "image", "digest", "images", "verdict", "url", "deployment-id", "report"];
    assert_eq!(keys(&action["outputs"]), told);
    let page = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/github.md")).unwrap();
    for name in NAMES.iter().chain(&told) {
        assert!(page.contains(&format!("`{name}`")), "{name} is not in docs/github.md");
    }
}

#[test]
fn a_step_without_inputs_takes_the_event() {
    let mut world = World::new();
    with(&mut world, &[]);
    let ran = world.pushed().run(&[]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.outputs["environment"], "dev");
    assert_eq!(world.comments().len(), 1, "the token of the input is used");
    assert!(!ran.err.contains("storytoken\n") || ran.err.contains("::add-mask::ghs_storytoken"), "{}", ran.err);
}

#[test]
fn a_deploy_by_inputs_goes_where_they_say() {
    let mut world = World::new();
    let sha = world.head();
    with(&mut world, &[]);
    world.pushed().run(&[]).must(0, "deploy.done");
    let inputs = [
        ("command", "deploy"),
        ("environment", "production"),
        ("version", sha.as_str()),
        ("report-file", "out/r.json"),
        ("comment", "never"),
    ];
    with(&mut world, &inputs);
    std::fs::create_dir(world.path("out")).unwrap();
    let ran = world
        .event("workflow_dispatch", &serde_json::json!({"ref": "refs/heads/main", "inputs": {}, "repository": crate::world::repository()}))
        .run(&[]);
    ran.must(0, "deploy.done");
    assert_eq!((ran.outputs["environment"].as_str(), ran.outputs["report"].as_str()), ("production", "out/r.json"));
    assert!(world.path("out/r.json").exists());
    assert_eq!(world.comments().len(), 1, "only the merge told the pull request");
}

#[test]
fn the_working_directory_is_where_all_is_looked_for() {
    let mut world = World::new();
    for name in ["tidegate.yml", "Dockerfile", "app"] {
        let text = std::fs::read_to_string(world.path(name)).unwrap();
        world.write(&format!("services/api/{name}"), &text);
        std::fs::remove_file(world.path(name)).unwrap();
    }
    with(&mut world, &[("command", "check"), ("working-directory", "services/api")]);
    let ran = world.run(&[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    with(&mut world, &[("command", "check"), ("working-directory", "services/ipa")]);
    world.run(&[]).must(2, "input.invalid");
}

#[test]
fn the_role_and_region_of_the_step_win_over_those_of_the_file() {
    let mut world = World::new();
    world.configure("aws: {region: us-west-2}", "aws: {region: eu-central-1, role: \"arn:aws:iam::123456789012:role/file\"}");
    world.without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY");
    world.var("ACTIONS_ID_TOKEN_REQUEST_URL", world.sandbox.url("oidc?v=1")).var("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "runner-token");
    with(&mut world, &[("aws-region", "us-west-2"), ("role-to-assume", "arn:aws:iam::123456789012:role/step")]);
    let ran = world.pushed().run(&[]);
    ran.must(0, "deploy.done");
    let roles = world.sandbox.with(|outside| outside.assumed.clone());
    assert!(!roles.is_empty() && roles.iter().all(|role| role == "arn:aws:iam::123456789012:role/step"), "{roles:?}");
}

/// What a role answers whose trust policy does not fit the job.
#[test]
fn a_role_that_refuses_is_told_with_the_line_that_would_fit() {
    let mut world = World::new();
    world.configure("aws: {region: us-west-2}", "aws: {region: us-west-2, role: \"arn:aws:iam::123456789012:role/ci\"}");
    world.without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY");
    world.var("ACTIONS_ID_TOKEN_REQUEST_URL", world.sandbox.url("oidc?v=1")).var("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "runner-token");
    world.sandbox.with(|outside| {
        outside.claims = serde_json::json!({"iss": "https://token.actions.githubusercontent.com", "aud": "sts.amazonaws.com", "sub": "repo:acme@5/demo@6:ref:refs/heads/main"});
        outside.refuses_roles = true;
    });
    with(&mut world, &[]);
    let ran = world.pushed().run(&[]);
    ran.must(5, "auth.denied");
    for line in [
        "STS does not let this job assume arn:aws:iam::123456789012:role/ci: AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity",
        "the token of this job says: sub = repo:acme@5/demo@6:ref:refs/heads/main, aud = sts.amazonaws.com",
        "the principal arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com",
        r#""token.actions.githubusercontent.com:sub":"repo:acme@5/demo@6:ref:refs/heads/main""#,
    ] {
        assert!(ran.err.contains(line), "{line}\n{}", ran.err);
    }
    let token = world.sandbox.with(|outside| outside.identity_token());
    assert!(!ran.err.contains(&token), "the token itself is shown");
}

#[test]
fn a_wrong_input_names_itself_and_leaves_outputs() {
    for (name, value, said) in [
        ("command", "delpoy", "did you mean \"deploy\"?"),
        ("command", "drain --region x", "more words go into `args`"),
        ("summary", "yes", "the input `summary` is \"yes\""),
        ("comment", "sometimes", "write always, on-failure or never"),
        ("lock-timeout", "soon", "write a length of time"),
        ("set", "namespace", "namespace"),
    ] {
        let mut world = World::new();
        with(&mut world, &[(name, value)]);
        let ran = world.pushed().run(&[]);
        assert!(ran.code == 2 && ran.err.contains(said), "{name}={value}: {} {}", ran.code, ran.err);
        assert_eq!(ran.count("PATCH") + ran.count("POST"), 0, "{name}: nothing was done");
    }
    let mut world = World::new();
    with(&mut world, &[("comment", "sometimes")]);
    assert_eq!(world.pushed().run(&[]).outputs["reason"], "input.invalid");
    world.var("INPUT_ENVIROMENT", "dev");
    with(&mut world, &[]);
    assert!(world.pushed().run(&[]).err.contains("did you mean `environment`?"));
}

/// The runner hands `with: args` of a container action on as arguments, too; act does that even when told otherwise.
#[test]
fn arguments_that_repeat_the_input_are_the_input() {
    let mut world = World::new();
    with(&mut world, &[("command", "explain"), ("args", "--format\njson")]);
    world.pushed();
    for given in [&[][..], &["--format", "json"], &["", ""]] {
        let ran = world.run(given);
        assert!(ran.code == 0 && ran.out.contains("\"provider\": \"github\""), "{given:?}: {}", ran.err);
    }
    let (code, out, _) = tidegate(world.folder.path(), &["schema"], &[("GITHUB_ACTIONS", "true"), ("INPUT_COMMAND", "check")]);
    assert!(code == 0 && out.contains("draft-07"), "a command that is written out wins");
}
