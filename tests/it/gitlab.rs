//! Stories of a GitLab job: every pipeline source, notes, deployments, the resource group, dotenv; and its lying twins.

use crate::world::{Ran, World};
use std::collections::BTreeMap;
use tidegate::rehearse::gitlab::Note;
use tidegate::rehearse::sandbox::{ClusterMood, Fault};

const JOB: u64 = 501;

fn job(source: &str) -> World {
    let mut world = World::new();
    world.on_gitlab(source);
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
    world.merge_request(12);
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
    // Pipelines elsewhere deploy too.
    let mut triggers = branch("push");
    let text = std::fs::read_to_string(triggers.path("tidegate.yml")).unwrap();
    let (head, rest) = text.split_once("    deploy:\n").unwrap();
    let (_, tail) = rest.split_once("  staging:\n").unwrap();
    let trigger = "    trigger:\n      - github: {repository: acme/manifests, event: go, token: {env: STORY}}\n  staging:\n";
    triggers.write("tidegate.yml", &format!("{head}{trigger}{tail}"));
    triggers.var("CI_DEPLOY_FREEZE", "true");
    must(&triggers, &triggers.run(&["run"]), 4, "gate.freeze");
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
    for (holder, said) in [(Some(777), "job 777 does"), (Some(0), "nobody does"), (None, "there is no resource group demo/dev")] {
        world.sandbox.with(|outside| match holder {
            Some(holder) => _ = outside.gitlab.resource_groups.insert("demo/dev".into(), holder),
            None => outside.gitlab.resource_groups.clear(),
        });
        let ran = world.run(&["run"]);
        must(&world, &ran, 1, "lock.lost");
        assert!(ran.err.contains(said), "{}", ran.err);
        assert_eq!(ran.count("PATCH /kube"), 0);
    }
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
        outside.faults.push(Fault { times: 9, ..passing("current_job", 302, vec![("location", "http://127.0.0.9/steal")]) })
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
fn a_job_without_resource_group_is_warned_by_the_plan() {
    let mut world = branch("push");
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

/// GitLab says "success" of every job that ends well, also of one that had nothing to do: only our own records count.
#[test]
fn deployments_of_jobs_that_did_nothing_are_no_records() {
    let mut world = branch("push");
    let first = world.head();
    world.write("app", "two\n");
    let newer = world.commit("two");
    world.sandbox.with(|outside| {
        outside.gitlab.start_job(400, "dev", &newer);
        outside.gitlab.end_job(400, "success");
        outside.gitlab.start_job(401, "dev", &newer); // still running, or its runner died
    });
    world.git(&["checkout", "--quiet", &first]);
    world.var("CI_COMMIT_SHA", first.clone());
    let ran = world.run(&["run"]);
    must(&world, &ran, 0, "deploy.done");
    assert!(world.runs_on("dev").contains(&first[..7]) && !ran.err.contains("warning:"), "{}", ran.err);
    let foreign =
        world.sandbox.with(|outside| outside.gitlab.deployments.iter().map(|deployment| deployment.status.clone()).collect::<Vec<_>>());
    assert_eq!(foreign, ["success", "running", "success"], "what others made is left alone");
}

/// A record that was never ended belongs to a run that was killed: the next one says so and ends it.
#[test]
fn a_killed_runs_record_is_ended_by_the_next() {
    let world = branch("push");
    must(&world, &world.run(&["run"]), 0, "deploy.done");
    world.sandbox.with(|outside| {
        let text = outside.gitlab.packages.values_mut().next().unwrap();
        let mut file: serde_json::Value = serde_json::from_str(text).unwrap();
        let record = file["records"].as_object_mut().unwrap().values_mut().next().unwrap();
        (record["plan"], record["version"]) = ("another".into(), "other".into());
        record.as_object_mut().unwrap().remove("ended");
        *text = file.to_string();
    });
    let ran = world.run(&["run"]);
    must(&world, &ran, 0, "deploy.done");
    assert!(ran.err.contains("run 501 ended without a word at deploy.kubernetes, with other"), "{}", ran.err);
    let text = world.sandbox.with(|outside| outside.gitlab.packages.values().next().cloned()).unwrap();
    assert!(text.contains(r#""verdict":"cancelled""#), "{text}");
}

#[test]
fn a_project_without_package_registry_is_refused_with_the_way_out() {
    let world = branch("push");
    world.sandbox.with(|outside| outside.gitlab.no_packages = true);
    let ran = world.run(&["run"]);
    must(&world, &ran, 4, "lock.unreachable");
    assert!(ran.err.contains("package registry"), "{}", ran.err);
    assert_eq!(ran.count("PATCH /kube"), 0);
}

/// Variables of a pipeline win over a job's: a job must not deploy to another environment than the one it declares.
#[test]
fn a_job_deploys_only_to_the_environment_that_it_declares() {
    let mut world = branch("push");
    must(&world, &world.run(&["run"]), 0, "deploy.done");
    let sha = world.head();
    world.var("CI_ENVIRONMENT_NAME", "staging").var("TIDEGATE_INPUT_ENVIRONMENT", "production").var("TIDEGATE_INPUT_VERSION", sha);
    let ran = world.run(&["run"]);
    must(&world, &ran, 4, "lock.scope");
    assert!(ran.err.contains("this job has `environment: staging`"), "{}", ran.err);
    world.var("CI_ENVIRONMENT_NAME", "dev").without("TIDEGATE_INPUT_ENVIRONMENT").without("TIDEGATE_INPUT_VERSION");
    let status = world.run(&["status", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    let shown = |name: &str| json["environments"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap()["version"].clone();
    assert_eq!((shown("dev").as_str(), shown("staging").as_str()), (Some(&world.head()[..7]), None), "{json:#}");
}

#[test]
fn children_of_a_forks_pipeline_and_merge_requests_are_no_merges() {
    let mut child = branch("parent_pipeline");
    child
        .without("CI_COMMIT_BRANCH")
        .var("CI_MERGE_REQUEST_IID", "12")
        .var("CI_MERGE_REQUEST_PROJECT_ID", "7")
        .var("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "8");
    must(&child, &child.run(&["merge"]), 0, "event.fork");
    must(&child, &child.run(&["deploy", "production", "1.2.3"]), 0, "event.fork");
    let own = merge_request();
    let ran = own.run(&["merge"]);
    must(&own, &ran, 0, "event.untrusted");
    assert_eq!(ran.count("POST /build"), 0);
    let mut mixed = branch("push");
    mixed.configure("when: merge", "when: [merge, pull-request]");
    mixed.configure("    when: pull-request\n    name", "    when: {branch: nothing}\n    name");
    mixed.var("CI_DEPLOY_FREEZE", "true");
    must(&mixed, &mixed.run(&["run"]), 4, "gate.freeze");
}

/// A checkout is not ours: what it links to must not be written.
#[test]
fn outputs_do_not_follow_links_of_the_checkout() {
    let world = branch("push");
    let away = tempfile::tempdir().unwrap();
    std::fs::write(away.path().join("victim"), "untouched").unwrap();
    std::os::unix::fs::symlink(away.path().join("victim"), world.path("tidegate.env")).unwrap();
    std::os::unix::fs::symlink(away.path(), world.path("out")).unwrap();
    let ran = world.run(&["run", "--report", "out/report.json"]);
    assert!(ran.code == 2 && ran.err.contains("a link in") && ran.err.contains("leads out of"), "{}", ran.err);
    assert_eq!(std::fs::read_to_string(away.path().join("victim")).unwrap(), "untouched");
    assert!(!away.path().join("report.json").exists());
    std::fs::create_dir(world.path("sub")).unwrap();
    let output = world
        .command(&["run", "--config", "../tidegate.yml", "--report", "../report.json"])
        .current_dir(world.path("sub"))
        .output()
        .unwrap();
    assert!(output.status.success() && world.path("report.json").exists(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = world.run(&["run", "--report", "/dev/stdout"]);
    assert!(shown.code == 0 && shown.out.contains("\"verdict\""), "{}", shown.err);
    assert!(!world.path("tidegate.env").is_symlink() && dotenv(&world)["TIDEGATE_REASON"] == "deploy.done");
}

/// A preview that is closed by hand, in a job without `environment:`, stops GitLab's environment.
#[test]
fn a_preview_closed_by_hand_stops_its_environment() {
    let world = merge_request();
    must(&world, &world.run(&["run"]), 0, "deploy.done");
    world.sandbox.with(|outside| outside.gitlab.merge_requests.get_mut(&12).unwrap().state = "closed".into());
    let ran = world.run(&["pr-closed"]);
    must(&world, &ran, 0, "preview.kept");
    assert!(!ran.err.contains("warning:"), "{}", ran.err);
    assert_eq!(world.sandbox.with(|outside| outside.gitlab.environments.clone()), [("demo-pr-12".to_owned(), true)]);
}

/// GitLab keeps packages in an object store, as gitlab.com does: downloads are redirected there, and our token stays here.
#[test]
fn records_are_read_from_an_object_store_without_our_token() {
    use std::io::{BufRead, BufReader, Write};
    let world = branch("push");
    must(&world, &world.run(&["run"]), 0, "deploy.done");
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = format!("http://{}/objects/1", listener.local_addr().unwrap());
    let text = world.sandbox.with(|outside| {
        outside.gitlab.store = Some(address);
        outside.gitlab.packages.values().next().cloned().unwrap()
    });
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let seen = asked.clone();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let lines = BufReader::new(client.try_clone().unwrap()).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            seen.lock().unwrap().extend(lines);
            write!(client, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len()).unwrap();
        }
    });
    let ran = world.run(&["run"]);
    must(&world, &ran, 0, "deploy.done");
    assert!(ran.err.contains("delivered before by run 501"), "{}", ran.err);
    let asked = asked.lock().unwrap().clone();
    assert!(asked.iter().any(|line| line.starts_with("GET /objects/1?signature=once")), "{asked:?}");
    assert!(
        asked.iter().all(|line| !line.contains(tidegate::rehearse::gitlab::ACCESS_TOKEN) && !line.to_lowercase().contains("token")),
        "{asked:?}"
    );
}

/// The commit of a merged result's job is a test merge: its deployment is the preview's all the same.
#[test]
fn a_merged_results_preview_keeps_its_jobs_deployment() {
    let mut world = merge_request();
    let (head, merge) = (world.head(), "e".repeat(40));
    world
        .var("CI_MERGE_REQUEST_EVENT_TYPE", "merged_result")
        .var("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", head)
        .var("CI_COMMIT_SHA", merge.clone());
    world.var("CI_ENVIRONMENT_NAME", "review/demo-mr-12");
    world.sandbox.with(|outside| outside.gitlab.start_job(JOB, "review/demo-mr-12", &merge));
    must(&world, &world.run(&["run"]), 0, "deploy.done");
    assert_eq!(world.sandbox.with(|outside| outside.gitlab.deployments.len()), 1, "a second one would take the stop job away");
}

#[test]
fn a_tag_needs_no_releases_and_waits_for_an_upcoming_one() {
    let mut world = branch("push");
    world.without("CI_COMMIT_BRANCH").var("CI_COMMIT_TAG", "v1.4.2");
    let sha = world.head();
    world.git(&["tag", "v1.4.2"]);
    world.sandbox.with(|outside| {
        outside.github.tags.push(("v1.4.2".into(), sha));
        outside.gitlab.resource_groups.insert("demo/dev".into(), JOB);
        outside.gitlab.upcoming = vec!["v1.4.2".into()];
    });
    must(&world, &world.run(&["run"]), 0, "event.draft");
    let denied = Fault {
        on: "/releases/",
        times: 9,
        status: 403,
        headers: vec![],
        body: serde_json::json!({"message": "403 Forbidden"}),
        after_effect: false,
    };
    world.sandbox.with(|outside| outside.faults.push(denied));
    must(&world, &world.run(&["run"]), 0, "deploy.done");
}
