//! Stories of `tidegate doctor`: everything right, and each thing missing by itself. It must never change anything.

use crate::world::{Ran, World};
use serde_json::{Value, json};
use tidegate::rehearse::gitlab::ACCESS_TOKEN;
use tidegate::rehearse::sandbox::Fault;

fn healthy() -> World {
    let mut world = World::new();
    world.pushed();
    world
}

fn doctor(world: &World) -> (Ran, Value) {
    let ran = world.run(&["doctor", "--format", "json"]);
    let json = serde_json::from_str(&ran.out).expect(&ran.err);
    (ran, json)
}

/// What is wrong, with its remedy.
fn bad(json: &Value) -> Vec<String> {
    let all = json["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] == "bad");
    all.map(|finding| {
        format!(
            "{}: {} → {} ({})",
            finding["topic"].as_str().unwrap(),
            finding["said"].as_str().unwrap(),
            finding["fix"].as_str().unwrap_or("-"),
            finding["reason"].as_str().unwrap()
        )
    })
    .collect()
}

/// One thing is wrong, it is named, and what to add as well; the exit code is the reason's.
#[track_caller]
fn finds(world: &World, code: i32, said: &[&str]) {
    let (ran, json) = doctor(world);
    let bad = bad(&json);
    assert_eq!((ran.code, json["ok"].as_bool()), (code, Some(false)), "{bad:#?}");
    assert_eq!(bad.len(), 1, "{bad:#?}");
    for text in said {
        assert!(bad[0].contains(text), "{text:?} is not in {}", bad[0]);
    }
    changed_nothing(world, &ran);
}

#[track_caller]
fn changed_nothing(world: &World, ran: &Ran) {
    let wrote = |line: &&String| {
        ["PUT ", "PATCH ", "DELETE "].iter().any(|method| line.starts_with(method))
            || line.contains("PutImage")
            || line.ends_with("→ 201") && !line.contains("selfsubjectaccessreviews")
    };
    assert_eq!(ran.log.iter().filter(wrote).collect::<Vec<_>>(), [] as [&String; 0]);
    world.sandbox.with(|outside| {
        assert!(outside.github.comments.is_empty() && outside.github.deployments.is_empty() && outside.github.refs.is_empty());
        assert!(outside.repositories["demo"].tags.is_empty());
    });
}

fn answers(on: &'static str, status: u16, message: &str) -> Fault {
    Fault { on, times: 99, status, headers: vec![], body: json!({"message": message, "__type": message}), after_effect: false }
}

#[test]
fn a_healthy_job_has_nothing_to_mend() {
    let world = healthy();
    let ran = world.run(&["doctor"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    for text in [
        "a GitHub job of acme/demo",
        "tidegate.yml is valid",
        "the token reads acme/demo (contents: read)",
        "deployments: write, for records of deliveries",
        "contents: write, for leases",
        "pull-requests: write, for comments",
        "leases and records can be read; they hold back every run of acme/demo",
        "AWS takes this job for arn:aws:iam::123456789012:user/sandbox",
        "123456789012.dkr.ecr.us-west-2.amazonaws.com/demo: login, ecr:BatchGetImage",
        "production: 2 queues can be read, all at zero now",
        "dev: deployment/web in dev can be read and updated",
        "the Docker engine",
        "from the forge's",
        "0 to mend",
    ] {
        assert!(ran.err.contains(text), "{text}\n{}", ran.err);
    }
    changed_nothing(&world, &ran);
}

#[test]
fn each_permission_of_the_token_is_missed_by_name() {
    let denied = "Resource not accessible by integration";
    for (on, permission) in [
        ("POST /github/repos/acme/demo/deployments", "deployments: write"),
        ("POST /github/repos/acme/demo/git/refs", "contents: write"),
        ("POST /github/repos/acme/demo/issues/12/comments", "pull-requests: write"),
    ] {
        let world = healthy();
        world.sandbox.with(|outside| outside.faults.push(answers(on, 403, denied)));
        finds(&world, 5, &[denied, &format!("add `{permission}` under `permissions:` of the job")]);
    }
    let world = healthy();
    world.sandbox.with(|outside| outside.faults.push(answers("/actions/runs", 403, denied)));
    let (ran, json) = doctor(&world);
    assert_eq!((ran.code, bad(&json).len()), (0, 0));
    assert!(ran.out.contains("actions: read"), "good to know, not to mend");
}

#[test]
fn places_that_are_missing_or_closed_are_told_apart() {
    let world = healthy();
    world.sandbox.with(|outside| _ = outside.queues.remove(&("us-east-2".into(), "jobs".into())));
    finds(&world, 1, &["jobs", "us-east-2"]);
    let world = healthy();
    world.sandbox.with(|outside| outside.denied_queues.push("jobs".into()));
    let (ran, json) = doctor(&world);
    assert!(ran.code == 5 && bad(&json)[0].starts_with("queues: "), "{:?}", bad(&json));
    let world = healthy();
    world.sandbox.with(|outside| outside.cluster.denied = vec!["patch deployments".into(), "get pods".into()]);
    let (ran, json) = doctor(&world);
    assert_eq!((ran.code, bad(&json).len()), (5, 3), "every environment's namespace: {:#?}", bad(&json));
    assert!(bad(&json)[0].contains("may not: patch deployments, get pods/log"), "{:#?}", bad(&json));
    let world = healthy();
    world.configure("{namespace: staging, workloads: [deployment/web]", "{namespace: staging, workloads: [deployment/wep]");
    finds(&world, 1, &["staging: deployment/wep"]);
    let world = healthy();
    world.configure("amazonaws.com/demo", "amazonaws.com/dome");
    finds(&world, 1, &["registry: ", "aws ecr create-repository --region us-west-2 --repository-name dome"]);
}

#[test]
fn what_the_job_itself_lacks_is_said_with_where_to_add_it() {
    let mut world = healthy();
    world.configure("aws: {region: us-west-2}", "aws: {region: us-west-2, role: \"arn:aws:iam::123456789012:role/ci\"}");
    world.without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY").var("CI", "true");
    let (ran, json) = doctor(&world);
    assert_eq!(ran.code, 5);
    assert!(
        bad(&json).iter().any(|bad| bad.contains("no identity token") && bad.contains("`id-token: write` under `permissions:`")),
        "{:#?}",
        bad(&json)
    );
    let mut world = healthy();
    world.configure("    repository: 123456789012", "    secrets: {npm: {env: NPM_TOKEN}}\n    repository: 123456789012");
    finds(&world, 5, &["NPM_TOKEN is not set", "secrets.NPM_TOKEN"]);
    world.var("NPM_TOKEN", "npm_verysecretvalue");
    let (ran, _) = doctor(&world);
    assert!(ran.code == 0 && !ran.out.contains("npm_verysecretvalue") && !ran.err.contains("npm_verysecretvalue"));
    // What an `if:` switches off needs no secret, until it is switched on.
    let mut world = healthy();
    let trigger = "    trigger:\n      - github: {if: {var: loader}, repository: acme/e2e, workflow: e2e.yml, token: {env: E2E_TOKEN}}\n";
    world.configure("  staging:\n    when: release\n", &format!("{trigger}  staging:\n    when: release\n"));
    world.configure("\nimages:\n", "\nvariables: {loader: {env: TRIGGER_LOADER}}\nimages:\n");
    world.commit("loader");
    let (ran, json) = doctor(&world);
    assert_eq!((ran.code, bad(&json)), (0, vec![]));
    world.var("TRIGGER_LOADER", "yes");
    finds(&world, 5, &["E2E_TOKEN is not set"]);
    let mut world = healthy();
    world.var("DOCKER_HOST", "unix:///nowhere.sock");
    finds(&world, 2, &["builder: ", "mount /var/run/docker.sock"]);
    let world = healthy();
    world.write("tidegate.yml", "schema: 1\nproject: demo\nenvironmnts: {}\n");
    finds(&world, 2, &["configuration: "]);
}

/// A preview's names come from the branch of a pull request; here there is none, and nothing is wrong.
#[test]
fn a_preview_named_after_its_branch_can_be_looked_at() {
    let world = healthy();
    let text = std::fs::read_to_string(world.path("tidegate.yml")).unwrap();
    let (head, _) = text.split_once("  preview:\n").unwrap();
    let tail =
        "  preview:\n    when: pull-request\n    deploy:\n      - heroku: {app: \"demo-pr-{branch_slug}\", token: {env: HEROKU_TOKEN}}\n";
    world.write("tidegate.yml", &format!("{head}{tail}"));
    world.commit("preview");
    finds(&world, 5, &["HEROKU_TOKEN is not set"]);
}

#[test]
fn a_role_that_refuses_shows_the_trust_policy_that_would_fit() {
    let mut world = healthy();
    world.configure("aws: {region: us-west-2}", "aws: {region: us-west-2, role: \"arn:aws:iam::123456789012:role/ci\"}");
    world.without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY");
    world.var("ACTIONS_ID_TOKEN_REQUEST_URL", world.sandbox.url("oidc?v=1")).var("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "runner-token");
    world.sandbox.with(|outside| {
        outside.claims = json!({"iss": "https://token.actions.githubusercontent.com", "aud": "sts.amazonaws.com", "sub": "repo:acme/demo:ref:refs/heads/main"});
        outside.refuses_roles = true;
    });
    let (ran, json) = doctor(&world);
    assert_eq!(ran.code, 5);
    assert!(
        bad(&json).iter().any(|bad| bad.contains("\"token.actions.githubusercontent.com:sub\":\"repo:acme/demo:ref:refs/heads/main\"")),
        "{:#?}",
        bad(&json)
    );
    world.sandbox.with(|outside| outside.refuses_roles = false);
    let ran = world.run(&["doctor"]);
    assert!(
        ran.code == 0 && ran.err.contains("identity token: sub = repo:acme/demo:ref:refs/heads/main, aud = sts.amazonaws.com"),
        "{}",
        ran.err
    );
}

/// AWS refuses what is signed five minutes ago, and says so in riddles.
#[test]
fn a_clock_that_is_off_is_seen_by_the_forges() {
    let world = healthy();
    let fault = Fault { headers: vec![("date", "Thu, 01 Jan 2026 00:00:00 GMT")], ..answers("HEAD /github", 404, "no") };
    world.sandbox.with(|outside| outside.faults.push(fault));
    finds(&world, 2, &["clock: ", "ahead of the forge's", "NTP"]);
}

#[test]
fn a_shallow_clone_matters_only_where_nobody_else_can_compare() {
    let mut world = healthy();
    world.write("app", "two\n");
    world.commit("two");
    let shallow = world.path("shallow");
    world.git(&["clone", "--quiet", "--depth", "1", &format!("file://{}", world.folder.path().display()), &shallow.display().to_string()]);
    let look = |world: &World| {
        let output = world.command(&["doctor", "--format", "json"]).current_dir(&shallow).output().unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        bad(&json)
    };
    assert_eq!(look(&world), [] as [&str; 0]);
    world.without("GITHUB_TOKEN").configure("schema: 1", "schema: 1\nstate: file:state");
    std::fs::copy(world.path("tidegate.yml"), shallow.join("tidegate.yml")).unwrap();
    let bad = look(&world);
    assert!(bad.len() == 1 && bad[0].contains("shallow") && bad[0].contains("fetch-depth: 0"), "{bad:#?}");
}

#[test]
fn gitlabs_tokens_are_told_apart() {
    let mut world = healthy();
    world.on_gitlab("web").var("CI_COMMIT_BRANCH", "main").var("CI_COMMIT_REF_PROTECTED", "false").without("GITLAB_TOKEN");
    let (ran, json) = doctor(&world);
    assert_eq!((ran.code, bad(&json).len()), (0, 0), "{:#?}", bad(&json));
    assert!(
        ran.out.contains("writes no notes") && ran.out.contains("GITLAB_TOKEN") && ran.out.contains("this ref is not protected"),
        "{}",
        ran.out
    );
    world.var("GITLAB_TOKEN", ACCESS_TOKEN);
    assert!(world.run(&["doctor"]).err.contains("GITLAB_TOKEN has the scope api and ends never"));
    world.sandbox.with(|outside| outside.gitlab.level = Some(20));
    finds(&world, 5, &["level 20", "role Developer"]);
    world.sandbox.with(|outside| (outside.gitlab.level, outside.gitlab.scopes) = (None, Some(vec!["read_api".into()])));
    finds(&world, 5, &["read_api", "`api` is needed"]);
    world.sandbox.with(|outside| (outside.gitlab.scopes, outside.gitlab.expires) = (None, Some("2026-01-01".into())));
    assert!(world.run(&["doctor"]).err.contains("GITLAB_TOKEN ends on 2026-01-01"));
}

#[test]
fn one_environment_can_be_looked_at_alone() {
    let world = healthy();
    world.sandbox.with(|outside| outside.queues.clear());
    let ran = world.run(&["doctor", "dev"]);
    assert!(ran.code == 0 && !ran.err.contains("production:"), "{}", ran.err);
    world.run(&["doctor", "prodction"]).must(2, "input.environment");
}
