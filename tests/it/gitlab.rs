//! Stories of a GitLab job: every pipeline source, notes, deployments, the resource group, dotenv; and its lying twins.

use crate::world::{Ran, World};
use std::collections::BTreeMap;
use tidegate::rehearse::gitlab::{ACCESS_TOKEN, JOB_TOKEN, MergeRequest, Note, PROJECT};
use tidegate::rehearse::sandbox::{ClusterMood, Fault};

const JOB: u64 = 501;

/// A job of a pipeline on main, with an access token, in a resource group.
fn job(source: &str) -> World {
    let mut world = World::new();
    let sha = world.head();
    for name in [
        "GITHUB_ACTIONS",
        "GITHUB_REPOSITORY",
        "GITHUB_ACTOR",
        "GITHUB_SERVER_URL",
        "GITHUB_API_URL",
        "GITHUB_RUN_ID",
        "GITHUB_RUN_ATTEMPT",
        "GITHUB_TOKEN",
        "GITHUB_EVENT_PATH",
        "GITHUB_OUTPUT",
        "GITHUB_STEP_SUMMARY",
    ] {
        world.without(name);
    }
    let api = format!("{}/api/v4", world.sandbox.url("gitlab"));
    for (name, value) in [
        ("CI", "true"),
        ("GITLAB_CI", "true"),
        ("NO_COLOR", "1"),
        ("CI_API_V4_URL", api.as_str()),
        ("CI_SERVER_URL", "https://gitlab.com"),
        ("CI_PROJECT_PATH", "acme/demo"),
        ("CI_DEFAULT_BRANCH", "main"),
        ("CI_PIPELINE_SOURCE", source),
        ("CI_JOB_URL", "https://gitlab.com/acme/demo/-/jobs/501"),
        ("CI_JOB_STARTED_AT", "2026-11-21T10:00:00Z"),
        ("CI_JOB_TOKEN", JOB_TOKEN),
        ("GITLAB_TOKEN", ACCESS_TOKEN),
        ("GITLAB_USER_LOGIN", "ada"),
        ("TIDEGATE_RESOURCE_GROUP", "demo/dev"),
    ] {
        world.var(name, value);
    }
    world.var("CI_PROJECT_ID", PROJECT.to_string()).var("CI_JOB_ID", JOB.to_string()).var("CI_COMMIT_SHA", sha.clone());
    world.sandbox.with(|outside| {
        let merged = MergeRequest { state: "merged".into(), sha: "f".repeat(40), merge_commit: Some(sha), source_project: PROJECT };
        outside.gitlab.merge_requests.insert(3, merged);
        outside.gitlab.resource_groups.insert("demo/dev".into(), JOB);
    });
    world
}

fn branch(source: &str) -> World {
    let mut world = job(source);
    world.var("CI_COMMIT_BRANCH", "main");
    world
}

/// The pipeline of an open merge request whose head is checked out.
fn merge_request() -> World {
    let mut world = job("merge_request_event");
    let sha = world.head();
    for (name, value) in [
        ("CI_MERGE_REQUEST_IID", "12"),
        ("CI_MERGE_REQUEST_EVENT_TYPE", "detached"),
        ("CI_MERGE_REQUEST_PROJECT_ID", "7"),
        ("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "7"),
        ("CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", "acme/demo"),
        ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "change"),
        ("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", ""),
        ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "main"),
        ("CI_MERGE_REQUEST_REF_PATH", "refs/merge-requests/12/head"),
        ("CI_COMMIT_REF_NAME", "change"),
        ("TIDEGATE_RESOURCE_GROUP", "demo/mr-12"),
    ] {
        world.var(name, value);
    }
    world.sandbox.with(|outside| {
        let open = MergeRequest { state: "opened".into(), sha, merge_commit: None, source_project: PROJECT };
        outside.gitlab.merge_requests.insert(12, open);
        outside.gitlab.resource_groups.insert("demo/mr-12".into(), JOB);
    });
    world
}

/// What a later job would inherit.
fn dotenv(world: &World) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(world.path("tidegate.env")).unwrap_or_default();
    text.lines().map(|line| line.split_once('=').unwrap()).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[track_caller]
fn must(world: &World, ran: &Ran, code: i32, reason: &str) {
    let said = dotenv(world).remove("TIDEGATE_REASON").unwrap_or_default();
    assert!(ran.code == code && said == reason, "wanted {code} {reason}, got {} {said}\n{}\n{}", ran.code, ran.err, ran.log.join("\n"));
}

fn notes(world: &World) -> Vec<Note> {
    world.sandbox.with(|outside| outside.gitlab.notes.clone())
}

#[test]
fn a_merge_is_delivered_and_its_merge_request_told() {
    let world = branch("push");
    let ran = world.run(&["run"]);
    must(&world, &ran, 0, "deploy.done");
    let version = &world.head()[..7];
    assert!(world.runs_on("dev").contains(&format!("demo:{version}@sha256:")), "{}", world.runs_on("dev"));
    let notes = notes(&world);
    assert_eq!((notes.len(), notes[0].merge_request), (1, 3));
    assert!(notes[0].body.contains("runs on dev") && notes[0].body.contains("/-/jobs/501"), "{}", notes[0].body);
    let deployments = world.sandbox.with(|outside| outside.gitlab.deployments.clone());
    assert_eq!(deployments.len(), 1);
    assert_eq!(
        (deployments[0].environment.as_str(), deployments[0].status.as_str(), deployments[0].sha.as_str()),
        ("dev", "success", world.head().as_str())
    );
    let outputs = dotenv(&world);
    assert_eq!((outputs["TIDEGATE_ENVIRONMENT"].as_str(), outputs["TIDEGATE_VERSION"].as_str()), ("dev", version));
    assert!(outputs["TIDEGATE_IMAGE"].contains("@sha256:") && !outputs.contains_key("TIDEGATE_IMAGES"), "{outputs:?}");
    assert_eq!(ran.count("/github"), 0);
    assert!(ran.err.contains("merge request !3: comment created"), "{}", ran.err);
    assert!(ran.err.contains("section_start:") && ran.err.contains("section_end:"), "the build is a section: {}", ran.err);
}

#[test]
fn a_second_run_edits_the_note_and_takes_nothing_back() {
    let mut world = branch("push");
    must(&world, &world.run(&["run"]), 0, "deploy.done");
    let before = notes(&world);
    world.var("CI_JOB_ID", "502").sandbox.with(|outside| outside.gitlab.resource_groups.insert("demo/dev".into(), 502));
    let ran = world.run(&["run"]);
    must(&world, &ran, 0, "deploy.done");
    assert_eq!(notes(&world).len(), 1);
    assert_eq!(notes(&world)[0].id, before[0].id);
    assert_eq!(ran.count("POST /build"), 0, "the image is reused");
}

/// GitLab keeps a deployment for a job with `environment:` by itself.
#[test]
fn a_job_with_an_environment_makes_no_second_deployment() {
    let mut world = branch("push");
    let sha = world.head();
    world.var("CI_ENVIRONMENT_NAME", "dev").sandbox.with(|outside| outside.gitlab.start_job(JOB, "dev", &sha));
    let ran = world.run(&["run"]);
    must(&world, &ran, 0, "deploy.done");
    let deployments = world.sandbox.with(|outside| outside.gitlab.deployments.clone());
    assert_eq!(deployments.len(), 1);
    assert_eq!(ran.count("POST /gitlab/api/v4/projects/7/deployments") + ran.count("PUT /gitlab/api/v4/projects/7/deployments"), 0);
    assert_eq!(dotenv(&world)["TIDEGATE_DEPLOYMENT_ID"], deployments[0].id.to_string());
}

#[test]
fn a_tag_is_a_release_and_promotes_the_digest() {
    let mut world = branch("push");
    must(&world, &world.run(&["run"]), 0, "deploy.done");
    let merged = world.runs_on("dev");
    let sha = world.head();
    world.git(&["tag", "v1.4.2"]);
    world.sandbox.with(|outside| outside.github.tags.push(("v1.4.2".into(), sha.clone())));
    world.without("CI_COMMIT_BRANCH").var("CI_COMMIT_TAG", "v1.4.2").var("CI_COMMIT_BEFORE_SHA", "0".repeat(40));
    let ran = world.run(&["run"]);
    must(&world, &ran, 0, "deploy.done");
    assert_eq!(ran.count("POST /build"), 0);
    assert_eq!(world.runs_on("staging").split('@').nth(1), merged.split('@').nth(1), "the same digest");
    assert!(world.runs_on("staging").contains("demo:1.4.2@"));
    let last = world.sandbox.with(|outside| outside.gitlab.deployments.last().cloned()).unwrap();
    assert_eq!((last.environment.as_str(), last.reference.as_str()), ("staging", "v1.4.2"));
}

#[test]
fn a_merge_request_gets_a_preview_and_its_stop_job_closes_it() {
    let mut world = merge_request();
    let ran = world.run(&["run"]);
    must(&world, &ran, 0, "deploy.done");
    let version = format!("mr-12-{}", &world.head()[..7]);
    assert!(world.runs_on("demo-pr-12").contains(&version), "{}", world.runs_on("demo-pr-12"));
    assert_eq!(notes(&world).iter().map(|note| note.merge_request).collect::<Vec<_>>(), [12]);
    // Merged: GitLab starts the stop job, without a checkout.
    world.var("CI_ENVIRONMENT_ACTION", "stop").var("CI_ENVIRONMENT_NAME", "demo-pr-12").var("CI_JOB_ID", "502");
    world.sandbox.with(|outside| {
        outside.gitlab.merge_requests.get_mut(&12).unwrap().state = "merged".into();
        outside.gitlab.resource_groups.insert("demo/mr-12".into(), 502);
    });
    let ran = world.run(&["run"]);
    must(&world, &ran, 0, "preview.kept");
    assert_eq!(notes(&world).len(), 1, "the same note tells it");
    assert_eq!(ran.count("POST /build"), 0);
}

#[test]
fn sources_that_deploy_nothing_say_why() {
    for (source, reason, said) in [
        ("web", "event.ignored", "TIDEGATE_INPUT_ENVIRONMENT"),
        ("api", "event.ignored", "started by hand"),
        ("trigger", "event.ignored", "tidegate merge"),
        ("pipeline", "event.ignored", "a pipeline that another one or a trigger started"),
        ("parent_pipeline", "event.ignored", "a pipeline that another one or a trigger started"),
        ("schedule", "event.schedule", "a schedule deploys nothing"),
        ("external_pull_request_event", "event.unknown", "does not know this event"),
    ] {
        let world = branch(source);
        let ran = world.run(&["run"]);
        must(&world, &ran, 0, reason);
        assert!(ran.err.contains(said), "{source}: {}", ran.err);
        assert_eq!(ran.log, [] as [&str; 0], "{source}");
    }
}

#[test]
fn forks_trains_and_freezes_deploy_nothing() {
    let mut fork = merge_request();
    fork.var("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "8");
    must(&fork, &fork.run(&["run"]), 0, "event.fork");
    let mut train = merge_request();
    train.var("CI_MERGE_REQUEST_EVENT_TYPE", "merge_train");
    must(&train, &train.run(&["run"]), 0, "event.merge-group");
    let mut frozen = branch("push");
    frozen.var("CI_DEPLOY_FREEZE", "true");
    let ran = frozen.run(&["run"]);
    must(&frozen, &ran, 4, "gate.freeze");
    assert_eq!(ran.log, [] as [&str; 0]);
    let mut preview = merge_request();
    preview.var("CI_DEPLOY_FREEZE", "true");
    must(&preview, &preview.run(&["run"]), 0, "deploy.done");
}

#[test]
fn production_goes_by_inputs_and_only_in_a_resource_group() {
    let mut world = branch("push");
    must(&world, &world.run(&["run"]), 0, "deploy.done");
    let sha = world.head();
    world.var("CI_PIPELINE_SOURCE", "web").var("TIDEGATE_INPUT_ENVIRONMENT", "production").var("TIDEGATE_INPUT_VERSION", sha);
    world.without("TIDEGATE_RESOURCE_GROUP");
    let ran = world.run(&["run"]);
    must(&world, &ran, 4, "lock.scope");
    assert!(ran.err.contains("resource_group"), "{}", ran.err);
    world.var("TIDEGATE_RESOURCE_GROUP", "demo/production");
    world.sandbox.with(|outside| outside.gitlab.resource_groups.insert("demo/production".into(), JOB));
    let plan = world.run(&["plan"]);
    assert!(plan.err.contains("jobs of acme/demo in the resource group demo/production"), "{}", plan.err);
    must(&world, &world.run(&["run"]), 0, "deploy.done");
}

/// The lying twin of the lock: the job says that it is in a resource group, and GitLab says that another one holds it.
#[test]
fn a_resource_group_that_somebody_else_holds_stops_the_run() {
    let world = branch("push");
    world.sandbox.with(|outside| outside.gitlab.resource_groups.insert("demo/dev".into(), 777));
    let ran = world.run(&["run"]);
    must(&world, &ran, 1, "lock.lost");
    assert!(ran.err.contains("job 777 does"), "{}", ran.err);
    assert_eq!(ran.count("PATCH /kube"), 0);
}

/// With the job's own token everything is delivered; what it may not do is said once, with what to do.
#[test]
fn the_jobs_own_token_delivers_and_cannot_tell() {
    let mut world = branch("push");
    world.without("GITLAB_TOKEN");
    let ran = world.run(&["run"]);
    must(&world, &ran, 0, "deploy.done");
    assert!(ran.err.contains("merge request !3 is not told: the job's own token (CI_JOB_TOKEN) may not write notes"), "{}", ran.err);
    assert!(ran.err.contains("project access token (scope `api`, role Developer)"), "{}", ran.err);
    assert_eq!(ran.count("→ 401") + ran.count("→ 403"), 0, "what it may not do is not tried: {:#?}", ran.log);
    assert_eq!(world.sandbox.with(|outside| outside.gitlab.deployments.len()), 1);
}

#[test]
fn a_token_that_has_expired_is_told_apart() {
    let mut world = branch("push");
    world.var("GITLAB_TOKEN", "glpat-revoked");
    let ran = world.run(&["run"]);
    must(&world, &ran, 4, "lock.unreachable");
    assert!(ran.err.contains("GITLAB_TOKEN has expired or was revoked"), "{}", ran.err);
    assert!(!ran.err.contains("glpat-revoked"), "{}", ran.err);
    assert_eq!(ran.count("PATCH /kube"), 0);
}

#[test]
fn an_older_run_that_ends_last_is_superseded() {
    let mut world = branch("push");
    let older = world.head();
    world.write("app", "two\n");
    let newer = world.commit("two");
    world.var("CI_COMMIT_SHA", newer.clone());
    must(&world, &world.run(&["run"]), 0, "deploy.done");
    world.git(&["checkout", "--quiet", &older]);
    world.var("CI_COMMIT_SHA", older).var("CI_JOB_ID", "502");
    world.sandbox.with(|outside| outside.gitlab.resource_groups.insert("demo/dev".into(), 502));
    let ran = world.run(&["run"]);
    must(&world, &ran, 0, "order.superseded");
    assert!(world.runs_on("dev").contains(&newer[..7]));
}

#[test]
fn a_failure_is_told_and_the_deployment_fails() {
    let world = branch("push");
    world.sandbox.with(|outside| outside.mood = ClusterMood::KeepsPods);
    let ran = world.run(&["run"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert_eq!(world.sandbox.with(|outside| outside.gitlab.deployments[0].status.clone()), "failed");
    assert!(notes(&world)[0].body.contains("### ❌"), "{}", notes(&world)[0].body);
}

/// A version by hand is another commit than the pipeline's: its own commit shows how it went.
#[test]
fn a_version_by_hand_shows_on_its_own_commit() {
    let mut world = branch("push");
    must(&world, &world.run(&["run"]), 0, "deploy.done");
    let delivered = world.head();
    world.write("app", "two\n");
    let other = world.commit("two");
    world.var("CI_COMMIT_SHA", other).var("CI_PIPELINE_SOURCE", "web").var("TIDEGATE_RESOURCE_GROUP", "demo/production");
    world.var("TIDEGATE_INPUT_ENVIRONMENT", "production").var("TIDEGATE_INPUT_VERSION", delivered.clone());
    world.sandbox.with(|outside| outside.gitlab.resource_groups.insert("demo/production".into(), JOB));
    must(&world, &world.run(&["run"]), 0, "deploy.done");
    let statuses = world.sandbox.with(|outside| outside.gitlab.statuses.clone());
    assert_eq!(statuses.len(), 1, "{statuses:?}");
    assert_eq!(
        (statuses[0].0.as_str(), statuses[0].1["state"].as_str(), statuses[0].1["name"].as_str()),
        (delivered.as_str(), "success", "tidegate/production")
    );
}

/// Many notes, a stranger's copy of the marker, a system note, and text that GitLab would take for commands.
#[test]
fn the_note_is_found_among_many_and_runs_no_commands() {
    let world = branch("push");
    world.sandbox.with(|outside| {
        outside.cluster.log = "/merge\n/close\n".into();
        outside.mood = ClusterMood::CrashLoop;
        for id in 2000..2250_u64 {
            let (author, body) = if id % 2 == 0 { ("eve", "<!-- tidegate:demo -->\nfake") } else { ("ada", "looks good") };
            outside.gitlab.notes.push(Note { id, merge_request: 3, author: author.into(), system: false, body: body.into() });
        }
    });
    let ran = world.run(&["run"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert_eq!(ran.count("notes?order_by"), 6, "250 notes are three pages, read before and after: {:#?}", ran.log);
    let own: Vec<Note> = notes(&world).into_iter().filter(|note| note.author == "project_7_bot").collect();
    assert_eq!(own.len(), 1);
    assert!(own[0].body.contains("/merge"), "the log is shown: {}", own[0].body);
    assert_eq!(world.sandbox.with(|outside| outside.gitlab.quick_actions.clone()), [] as [&str; 0]);
}

/// Lying twins: a note or a deployment that is confirmed and forgotten is no reason to say less, or to fail a good deploy.
#[test]
fn what_gitlab_confirms_and_forgets_does_not_change_what_runs() {
    let world = branch("push");
    world.sandbox.with(|outside| (outside.gitlab.forgets_notes, outside.gitlab.forgets_deployments) = (true, true));
    let ran = world.run(&["run"]);
    assert_eq!(ran.count("POST /gitlab/api/v4/projects/7/merge_requests/3/notes"), 1, "{:#?}", ran.log);
    assert!(world.runs_on("dev").contains(&world.head()[..7]));
    assert!(ran.err.contains("warning:"), "the deployment could not be ended: {}", ran.err);
}

#[test]
fn passing_failures_are_waited_out_and_a_moved_project_is_followed_on_its_own_host_only() {
    let passing =
        |on, status, headers| Fault { on, times: 1, status, headers, body: serde_json::json!({"message": "later"}), after_effect: false };
    let world = branch("push");
    world.sandbox.with(|outside| {
        outside.faults.push(passing("/deployments?", 429, vec![("retry-after", "1")]));
        outside.faults.push(passing("/merge_requests", 502, vec![]));
        outside.faults.push(passing(
            "/notes?",
            301,
            vec![("location", "/gitlab/api/v4/projects/7/merge_requests/3/notes?page=1&per_page=100&sort=asc")],
        ));
    });
    must(&world, &world.run(&["run"]), 0, "deploy.done");
    assert_eq!(notes(&world).len(), 1);
    let away = branch("push");
    away.sandbox.with(|outside| {
        outside.faults.push(Fault { times: 9, ..passing("/deployments?", 302, vec![("location", "http://127.0.0.9/steal")]) })
    });
    let ran = away.run(&["run"]);
    must(&away, &ran, 4, "lock.unreachable");
    assert!(ran.err.contains("redirects to another host (127.0.0.9), which does not get our token"), "{}", ran.err);
}

#[test]
fn status_shows_what_gitlab_knows_and_leases_are_gitlabs() {
    let mut world = branch("push");
    must(&world, &world.run(&["run"]), 0, "deploy.done");
    world.var("CI_JOB_ID", "502");
    let ran = world.run(&["status"]);
    assert!(ran.code == 0 && ran.err.contains("dev") && ran.err.contains(&world.head()[..7]), "{}", ran.err);
    let taken = world.run(&["lock", "take", "dev", "--reason", "maintenance"]);
    assert!(taken.code != 0 && taken.err.contains("resource group"), "{}", taken.err);
}

#[test]
fn a_stop_job_without_a_configuration_says_where_to_keep_it() {
    let mut world = merge_request();
    world.var("CI_ENVIRONMENT_ACTION", "stop").var("CI_ENVIRONMENT_NAME", "review/demo-mr-12");
    std::fs::remove_file(world.path("tidegate.yml")).unwrap();
    let ran = world.run(&["run"]);
    must(&world, &ran, 2, "config.missing");
    assert!(ran.err.contains("artifact of the preview's job"), "{}", ran.err);
}

#[test]
fn what_a_resource_group_cannot_remember_is_said_by_the_plan() {
    let mut world = branch("push");
    world.configure("tags: [latest]", "tags: [latest]\n    gates:\n      - drain: {queues: [jobs], quiet: 1s, timeout: 10s, pause: {command: [./stop]}, resume: {command: [./start]}}");
    assert!(world.run(&["plan"]).err.contains("GitLab keeps no journal"));
    world.without("TIDEGATE_RESOURCE_GROUP");
    assert!(world.run(&["plan"]).err.contains("this job is in no resource group"));
}

/// The README is what GitLab's catalog shows.
#[test]
fn the_components_inputs_are_described_and_in_the_readme() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let template = std::fs::read_to_string(root.join("templates/tidegate.yml")).unwrap();
    let (head, _) = template.split_once("\n---\n").unwrap();
    let head: serde_yaml::Value = serde_yaml::from_str(head).unwrap();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    for (name, input) in head["spec"]["inputs"].as_mapping().unwrap() {
        let name = name.as_str().unwrap();
        assert!(input["description"].as_str().is_some_and(|text| text.len() > 20) && !input["default"].is_null(), "{name}");
        assert!(readme.contains(&format!("`{name}`")), "{name} is not in the README");
    }
}
