//! The Heroku target: the very image released, the release phase followed, dynos identified, one-off dynos by their own exit code.

use crate::world::{Going, Ran, World};
use serde_json::json;
use tidegate::rehearse::heroku::{App, Fate, KEY, Mood};
use tidegate::rehearse::sandbox::Fault;

/// A repository whose merges go to the app `demo-staging`, which runs v3.
fn heroku(mood: Mood, keys: &str) -> World {
    let mut world = World::new();
    world.deploy_dev_by(&format!("heroku: {{app: demo-staging, timeout: 5s{keys}}}"));
    let address = world.sandbox.address.clone();
    world.var("HEROKU_API_URL", world.sandbox.url("heroku")).var("HEROKU_API_KEY", KEY);
    world.var(
        "TIDEGATE_REGISTRY_ENDPOINTS",
        format!("123456789012.dkr.ecr.us-west-2.amazonaws.com=http://{address},registry.heroku.com=http://{address}"),
    );
    world.sandbox.with(|outside| {
        outside.heroku.mood = mood;
        outside.heroku.apps.insert("demo-staging".into(), App::running());
        outside.heroku.phase = vec!["Running migrations".into(), "No migrations to apply.".into()];
        outside.heroku.pipelines = vec!["demo".into()];
    });
    world
}

/// A pull request's preview on Heroku; its app is made.
fn preview(mood: Mood, keys: &str) -> World {
    let world = heroku(mood, "");
    let text = std::fs::read_to_string(world.path("tidegate.yml")).unwrap();
    let (head, _) = text.split_once("  preview:\n").unwrap();
    let tail = format!(
        "  preview:\n    when: pull-request\n    name: \"{{project}}-pr-{{pr}}\"\n    deploy:\n      - heroku: {{app: \"demo-pr-{{branch_slug}}\", create: {{team: acme, region: us}}, timeout: 5s{keys}}}\n"
    );
    world.write("tidegate.yml", &format!("{head}{tail}"));
    world.commit("preview");
    world
}

fn app(world: &World, name: &str) -> App {
    world.sandbox.with(|outside| outside.heroku.app(name))
}

/// Whether a text is said, other than to GitHub as something to mask.
fn shows(ran: &Ran, text: &str) -> bool {
    format!("{}{}{:?}", ran.err, ran.out, ran.outputs).lines().any(|line| line.contains(text) && !line.starts_with("::add-mask::"))
}

#[test]
fn the_very_image_is_released_and_its_dynos_are_identified() {
    let mut world = heroku(Mood::Honest, "");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("demo-staging runs v4: web 1 of 1 up"), "{}", ran.err);
    assert!(ran.err.contains("release | Running migrations"), "{}", ran.err);
    // What Heroku's registry has is the configuration of what was built, under Docker's own types.
    let (there, built, media_type) = world.sandbox.with(|outside| {
        let config = |name: &str, reference: &str| {
            let repository = &outside.repositories[name];
            let digest = repository.tags.get(reference).map_or(reference, String::as_str);
            let (bytes, media_type) = repository.manifests[digest].clone();
            let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            (manifest["config"]["digest"].as_str().unwrap().to_owned(), media_type, manifest)
        };
        let (there, media_type, manifest) = config("demo-staging/web", "latest");
        assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.docker.image.rootfs.diff.tar.gzip");
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
        (there, config("demo", &ran.outputs["digest"]).0, media_type)
    });
    assert_eq!(there, built);
    assert_eq!(media_type, "application/vnd.docker.distribution.manifest.v2+json");
    let release = app(&world, "demo-staging").releases.pop().unwrap();
    assert_eq!(release.description, format!("Deployed web ({})", &built[7..19]));
    assert!(!shows(&ran, KEY));
}

#[test]
fn a_finished_run_again_changes_nothing() {
    let mut world = heroku(Mood::Honest, ", config: {vars: {DEBUG: \"1\"}}");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let ran = world.run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.count("PATCH /heroku") + ran.count("POST /heroku") + ran.count("PUT /v2/demo-staging"), 0, "{}", ran.log.join("\n"));
    assert!(ran.err.contains("delivered before by"), "{}", ran.err);
}

/// Heroku makes no release of what is released already; its description names the image.
#[test]
fn the_same_image_under_another_version_is_known() {
    let mut world = heroku(Mood::Honest, "");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let head = world.head();
    world.sandbox.with(|outside| outside.github.tags = vec![("v1.0.0".into(), head)]);
    let ran = world.run(&["deploy", "dev", "v1.0.0"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("demo-staging has these images already, since v4"), "{}", ran.err);
}

/// Lying twins: yes is said, and no is done.
#[test]
fn what_is_not_identified_is_not_deployed() {
    for (mood, reason, code, words) in [
        (Mood::NoRelease, "target.wrong-digest", 1, "Heroku took the images for demo-staging and made no release; it runs v3"),
        (Mood::KeepsDynos, "target.wrong-digest", 1, "demo-staging does not run v4 after 5.0s: web 0 of 1 up (1 of another release)"),
        (Mood::Overtaken, "target.wrong-digest", 1, "instead of v4"),
        (Mood::Stranger, "target.wrong-digest", 1, "made no release; it runs v4 (Set DEBUG config vars)"),
        (Mood::RegistryForgets, "push.failed", 1, "names nothing instead of sha256:"),
    ] {
        let mut world = heroku(mood, "");
        let ran = world.pushed().run(&["run"]);
        ran.must(code, reason);
        assert!(ran.err.contains(words), "{mood:?}: {}", ran.err);
    }
}

#[test]
fn every_failure_has_its_cause() {
    for (mood, reason, code, words) in [
        (Mood::PhaseFails, "target.failed", 1, "the release phase of v4 of demo-staging failed; what ran before goes on"),
        (Mood::PhasePends, "target.timeout", 3, ") is still pending after 5.0s"),
        (Mood::Crashes, "target.crash-loop", 1, "web.1 of demo-staging crashed with v4"),
        (Mood::Starts, "target.timeout", 3, "web 0 of 1 up (1 starting)"),
    ] {
        let mut world = heroku(mood, "");
        let ran = world.pushed().run(&["run"]);
        ran.must(code, reason);
        assert!(ran.err.contains(words), "{mood:?}: {}", ran.err);
    }
    let mut world = heroku(Mood::Crashes, "");
    let ran = world.pushed().run(&["run"]);
    assert!(ran.err.contains("panic: no database"), "the log is shown: {}", ran.err);
    let mut world = heroku(Mood::PhaseFails, "");
    assert!(world.pushed().run(&["run"]).err.contains("last lines of the release phase:"));
}

#[test]
fn what_ran_before_is_released_again_where_that_was_asked_for() {
    let mut world = heroku(Mood::Crashes, ", rollback: auto, config: {vars: {DEBUG: \"1\"}}");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.rolled-back");
    assert!(ran.err.contains("rolled back: demo-staging runs v3 again, as v6"), "{}", ran.err);
    let app = app(&world, "demo-staging");
    assert!(app.config.is_empty(), "the config vars went back too: {:?}", app.config);
    assert_eq!(app.releases.last().unwrap().description, "Rollback to v3");
    // A release phase that fails changed nothing, unless config vars were set before it.
    let mut world = heroku(Mood::PhaseFails, ", rollback: auto");
    world.pushed().run(&["run"]).must(1, "target.failed");
    assert_eq!(crate::heroku::app(&world, "demo-staging").current, 3);
}

#[test]
fn maintenance_mode_ends_where_something_is_known_to_run() {
    for (mood, code, reason, on) in [
        (Mood::Honest, 0, "deploy.done", false),
        (Mood::Crashes, 1, "target.crash-loop", true),
        (Mood::PhaseFails, 1, "target.failed", false),
        (Mood::ForgetsVars, 1, "target.wrong-digest", false),
    ] {
        let mut world = heroku(mood, ", maintenance: true, config: {vars: {DEBUG: \"1\"}}");
        let ran = world.pushed().run(&["run"]);
        ran.must(code, reason);
        let app = app(&world, "demo-staging");
        assert!(app.was_in_maintenance && app.maintenance == on, "{mood:?}: {}", ran.err);
        assert_eq!(ran.err.contains("heroku maintenance:off -a demo-staging"), on, "{}", ran.err);
    }
}

#[test]
fn config_vars_come_in_layers_and_their_values_are_never_shown() {
    let keys = ", config: {vars: {DEBUG: \"0\", URL: \"https://{version}.example.com\", DB_PASSWORD: {env: STORY_DB}, OLD: null}, \
                per-environment: {dev: {DEBUG: \"1\"}, staging: {DEBUG: {env: STORY_NOT_SET}}}, per-branch: {\"mai*\": {BRANCH: \"{branch}\"}, other: {BRANCH: x}}}";
    let mut world = heroku(Mood::Honest, keys);
    world.var("STORY_DB", "hunter2-hunter2");
    world.sandbox.with(|outside| {
        let app = outside.heroku.apps.get_mut("demo-staging").unwrap();
        app.config.extend([("OLD".into(), "x".into()), ("KEPT".into(), "kept-secret-value".into())]);
    });
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let config = app(&world, "demo-staging").config;
    let version = &ran.outputs["version"];
    let wanted = [
        ("BRANCH", "main"),
        ("DB_PASSWORD", "hunter2-hunter2"),
        ("DEBUG", "1"),
        ("KEPT", "kept-secret-value"),
        ("URL", &format!("https://{version}.example.com")),
    ];
    assert_eq!(config, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect());
    assert!(ran.err.contains("config vars of demo-staging: sets DEBUG, URL, DB_PASSWORD, BRANCH; removes OLD"), "{}", ran.err);
    assert!(!shows(&ran, "hunter2") && !shows(&ran, "kept-secret-value"), "{}", ran.err);
}

/// Heroku makes a release of a change of config vars as well: its release phase has to succeed before the images are released.
#[test]
fn the_release_of_a_change_of_config_vars_is_followed() {
    let keys = ", config: {vars: {DEBUG: \"1\"}}";
    let mut world = heroku(Mood::Honest, keys);
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let followed = ran.err.find("the change of config vars is v4 of demo-staging").unwrap();
    assert!(followed < ran.err.find("v5 of demo-staging is made: Deployed web").unwrap(), "{}", ran.err);
    let mut world = heroku(Mood::PhaseFails, keys);
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.failed");
    assert!(ran.err.contains("the release phase of v4 of demo-staging failed; what ran before goes on"), "{}", ran.err);
    assert!(!app(&world, "demo-staging").releases.iter().any(|release| release.description.starts_with("Deployed") && release.version > 4));
}

#[test]
fn a_preview_gets_an_app_of_its_own_which_goes_with_the_pull_request() {
    let keys = ", pipeline: {name: demo, stage: review}, addons: [{plan: \"heroku-postgresql:essential-0\", config: {version: \"16\"}}], config: {vars: {MODE: REVIEW, RELEASE: \"{version}\"}}, dynos: {web: {quantity: 2, size: Standard-1X}}";
    let mut world = preview(Mood::Honest, keys);
    let ran = world.pull_request("opened", |_| {}).run(&["run"]);
    ran.must(0, "deploy.done");
    let made = app(&world, "demo-pr-change");
    assert_eq!(made.team.as_deref(), Some("acme"));
    assert!(made.coupling.as_ref().is_some_and(|(_, stage)| stage == "review"), "{made:?}");
    assert_eq!(made.addons.len(), 1);
    assert_eq!(made.formation["web"], (2, "Standard-1X".to_owned()));
    assert_eq!(made.config["TIDEGATE_OWNER"], "demo/demo-pr-12");
    assert!(ran.err.contains("demo-pr-change runs v4: web 2 of 2 up"), "{}", ran.err);
    // A change of the pull request uses the same app and adds nothing twice.
    world.write("app", "two\n");
    world.commit("two");
    world.pull_request("synchronize", |_| {}).run(&["run"]).must(0, "deploy.done");
    assert_eq!(app(&world, "demo-pr-change").addons.len(), 1);
    let closed = |payload: &mut serde_json::Value| payload["pull_request"]["merged"] = json!(true);
    let ran = world.pull_request("closed", closed).run(&["run"]);
    ran.must(0, "preview.removed");
    assert!(ran.err.contains("the Heroku app demo-pr-change is deleted, with its add-ons"), "{}", ran.err);
    assert!(
        world
            .sandbox
            .with(|outside| !outside.heroku.apps.contains_key("demo-pr-change") && outside.heroku.apps.contains_key("demo-staging"))
    );
}

/// Whoever names a pull request by hand stands on any branch: the names come from the pull request's.
#[test]
fn a_preview_named_by_hand_is_the_pull_requests() {
    let mut world = preview(Mood::Honest, "");
    let ran = world.pushed().run(&["plan", "pr-closed", "--pr", "12", "--head-ref", "feature/x"]);
    assert!(ran.code == 0 && ran.err.contains("demo-pr-feature-x") && !ran.err.contains("demo-pr-main"), "{}", ran.err);
}

/// Heroku says that it is deleted, and it is there; and what was made by hand is never deleted.
#[test]
fn a_removal_is_looked_after_and_takes_only_what_is_ours() {
    let mut world = preview(Mood::Honest, "");
    world.pull_request("opened", |_| {}).run(&["run"]).must(0, "deploy.done");
    world.sandbox.with(|outside| outside.heroku.mood = Mood::KeepsApps);
    let ran = world.pull_request("closed", |_| {}).run(&["run"]);
    ran.must(1, "target.failed");
    assert!(ran.err.contains("says that the app demo-pr-change is deleted, and it is there"), "{}", ran.err);

    let mut world = preview(Mood::Honest, "");
    world.sandbox.with(|outside| outside.heroku.apps.insert("demo-pr-change".into(), App::running()));
    world.pull_request("opened", |_| {}).run(&["run"]).must(0, "deploy.done");
    let ran = world.pull_request("closed", |_| {}).run(&["run"]);
    ran.must(0, "preview.kept");
    assert!(ran.err.contains("was not made by tidegate"), "{}", ran.err);
    assert!(world.sandbox.with(|outside| outside.heroku.apps.contains_key("demo-pr-change")));
}

/// demo-pr-1 is not demo-pr-12: names are exact.
#[test]
fn an_app_is_found_by_its_exact_name_or_made() {
    let mut world = preview(Mood::Honest, "");
    world.sandbox.with(|outside| outside.heroku.apps.insert("demo-pr-change2".into(), App::running()));
    world.pull_request("opened", |_| {}).run(&["run"]).must(0, "deploy.done");
    assert_eq!(app(&world, "demo-pr-change2").current, 3, "the other app was left alone");
    // Somebody else's, and another preview's.
    let mut world = preview(Mood::Honest, "");
    world.sandbox.with(|outside| outside.heroku.taken.push("demo-pr-change".into()));
    let ran = world.pull_request("opened", |_| {}).run(&["run"]);
    ran.must(5, "auth.denied");
    assert!(ran.err.contains("belongs to somebody else"), "{}", ran.err);
    let mut world = preview(Mood::Honest, "");
    let mut other = App::running();
    other.config.insert("TIDEGATE_OWNER".into(), "demo/demo-pr-9".into());
    world.sandbox.with(|outside| outside.heroku.apps.insert("demo-pr-change".into(), other));
    let ran = world.pull_request("opened", |_| {}).run(&["run"]);
    ran.must(2, "target.input");
    assert!(ran.err.contains("belongs to demo/demo-pr-9, not to demo/demo-pr-12"), "{}", ran.err);
    // Without `create` a missing app is a mistake.
    let mut world = heroku(Mood::Honest, "");
    world.sandbox.with(|outside| outside.heroku.apps.clear());
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.missing");
    assert!(ran.err.contains("there is no app demo-staging on Heroku"), "{}", ran.err);
}

#[test]
fn add_ons_are_waited_for() {
    for (mood, code, reason, words) in [
        (Mood::AddonPends, 3, "target.timeout", "the add-on heroku-redis:mini of demo-staging is still provisioning after 5.0s"),
        (Mood::AddonFails, 1, "target.failed", "could not be made"),
    ] {
        let mut world = heroku(mood, ", addons: [{plan: \"heroku-redis:mini\"}]");
        let ran = world.pushed().run(&["run"]);
        ran.must(code, reason);
        assert!(ran.err.contains(words), "{}", ran.err);
        assert_eq!(app(&world, "demo-staging").current, 3, "nothing was released");
    }
}

#[test]
fn refusals_say_whose_they_are() {
    let mut world = heroku(Mood::Honest, "");
    world.var("HEROKU_API_KEY", "another-key");
    let ran = world.pushed().run(&["run"]);
    ran.must(5, "auth.missing");
    assert!(ran.err.contains("heroku authorizations:create") && !shows(&ran, "another-key"), "{}", ran.err);
    world.without("HEROKU_API_KEY");
    let ran = world.run(&["run"]);
    ran.must(5, "auth.missing");
    assert!(ran.err.contains("HEROKU_API_KEY"), "{}", ran.err);
}

/// 4,500 requests an hour: what was refused for that was not done, and is asked again.
#[test]
fn a_used_up_limit_is_waited_out() {
    let mut world = heroku(Mood::Honest, "");
    let limited = Fault {
        on: "PATCH /heroku/apps/demo-staging/formation",
        times: 2,
        status: 429,
        headers: vec![("retry-after", "1")],
        body: json!({"id": "rate_limit", "message": "Your account reached the API rate limit"}),
        after_effect: false,
    };
    world.sandbox.with(|outside| outside.faults.push(limited));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("Heroku's limit of 4,500 requests an hour is used up; going on in 1.0s"), "{}", ran.err);
    assert_eq!(app(&world, "demo-staging").releases.len(), 2, "one release");
}

/// An answer that is lost: the deed is looked for, and done once.
#[test]
fn what_was_done_without_an_answer_is_found() {
    let lose = |on: &'static str| Fault { on, times: 1, status: 502, headers: vec![], body: json!({}), after_effect: true };
    let mut world = heroku(Mood::Honest, "");
    world.sandbox.with(|outside| outside.faults.push(lose("PATCH /heroku/apps/demo-staging/formation")));
    world.pushed().run(&["run"]).must(0, "deploy.done");
    assert_eq!(app(&world, "demo-staging").releases.len(), 2);
    let mut world = preview(Mood::Honest, ", pipeline: {name: demo, stage: review}, addons: [{plan: \"heroku-redis:mini\"}]");
    world.sandbox.with(|outside| {
        outside
            .faults
            .extend(["POST /heroku/teams/apps", "POST /heroku/pipeline-couplings", "POST /heroku/apps/demo-pr-change/addons"].map(lose));
    });
    world.pull_request("opened", |_| {}).run(&["run"]).must(0, "deploy.done");
    let made = app(&world, "demo-pr-change");
    assert_eq!((made.addons.len(), made.config.get("TIDEGATE_OWNER").map(String::as_str)), (1, Some("demo/demo-pr-12")));
    // Lost before it took effect: nothing was released, and that is said.
    let mut world = heroku(Mood::Honest, "");
    let lost = Fault { after_effect: false, ..lose("PATCH /heroku/apps/demo-staging/formation") };
    world.sandbox.with(|outside| outside.faults.push(lost));
    world.pushed().run(&["run"]).must(1, "target.failed");
}

#[test]
fn a_cancelled_run_names_the_release_that_goes_on() {
    let mut world = heroku(Mood::PhasePends, "");
    world.configure("timeout: 5s}", "timeout: 10m}");
    world.commit("long");
    let run = world.pushed().run_until(&["run"], "release phase of v4 of demo-staging: pending");
    run.signal("-TERM");
    let said = run.ends(143);
    assert!(said.contains("the release v4 (") && said.contains("goes on at Heroku"), "{said}");
}

#[test]
fn a_killed_run_leaves_a_release_that_the_next_one_follows() {
    let mut world = heroku(Mood::PhasePends, "");
    world.configure("timeout: 5s}", "timeout: 10m}");
    world.commit("long");
    world.var("TIDEGATE_LEASE_EXPIRY", "1s");
    let run = world.pushed().run_until(&["run"], "release phase of v4 of demo-staging: pending");
    run.kill();
    world.sandbox.with(|outside| outside.heroku.mood = Mood::Honest);
    let ran = world.run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("the run before made the release v4: it is followed"), "{}", ran.err);
    assert_eq!(app(&world, "demo-staging").releases.len(), 2);
}

/// A repository whose merges go to Heroku and then run a migration in a one-off dyno.
fn migrated(fate: Fate, keys: &str) -> World {
    let world = heroku(Mood::Honest, "");
    let run = format!(
        "    migrate: {{when: after, run: {{heroku-run: {{app: demo-staging, command: [./manage.py, migrate, \"it's $HOME\"], env: {{MODE: \"{{environment}}\", KEY: {{env: STORY_KEY}}}}, timeout: 5s{keys}}}}}}}\n    deploy:\n      - heroku"
    );
    world.configure("    deploy:\n      - heroku", &run);
    world.commit("migrate");
    world.sandbox.with(|outside| outside.heroku.fate = fate);
    let mut world = world;
    world.var("STORY_KEY", "very-secret-key");
    world
}

#[test]
fn a_one_off_dyno_is_believed_by_its_own_exit_code() {
    for (fate, code, reason, words) in [
        (Fate::Exits(0), 0, "deploy.done", "run.1 of demo-staging ended with exit code 0"),
        (Fate::Pieces(0), 0, "deploy.done", "run.1 of demo-staging ended with exit code 0"),
        (Fate::Exits(2), 1, "migration.failed", "run.1 of demo-staging ended with exit code 2"),
        (Fate::Pieces(137), 1, "migration.failed", "run.1 of demo-staging ended with exit code 137"),
        (Fate::Breaks, 1, "migration.failed", "run.1 of demo-staging told no exit code: the connection ended before it"),
        (Fate::Hangs, 3, "target.timeout", "run.1 is stopped"),
    ] {
        let mut world = migrated(fate, "");
        let ran = world.pushed().run(&["run"]);
        ran.must(code, reason);
        assert!(ran.err.contains(words) && ran.err.contains("run | migrating demo-staging"), "{fate:?}: {}", ran.err);
        let row = if code == 0 { "| migrate | run.1 of demo-staging ended with exit code 0 |" } else { "| migrate | failed |" };
        assert!(world.comments()[0].contains(row), "{}", world.comments()[0]);
        assert!(!ran.err.contains("heroku-command-exit-status") && !shows(&ran, "very-secret-key"), "{}", ran.err);
        let (command, env) = world.sandbox.with(|outside| outside.heroku.commands()).remove(0);
        assert_eq!(command, "('./manage.py' 'migrate' 'it'\\''s $HOME'); echo \"\u{FFFF} heroku-command-exit-status: $?\"");
        assert_eq!(json!(env), json!({"MODE": "dev", "KEY": "very-secret-key"}));
    }
    // The program of another release ended well: nothing was migrated by ours.
    let mut world = migrated(Fate::Exits(0), "");
    world.sandbox.with(|outside| outside.heroku.run_release = Some(3));
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.wrong-digest");
    assert!(ran.err.contains("exit code 0, but it was the program of v3, and this delivery released v4"), "{}", ran.err);
    // The shell of the test says what a shell makes of it: `exit` inside does not swallow the line.
    let output = std::process::Command::new("sh").args(["-c", "('exit' '3'); echo \"heroku-command-exit-status: $?\""]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "heroku-command-exit-status: 3\n");
}

#[test]
fn a_failure_marker_and_a_refused_dyno() {
    let mut world = migrated(Fate::Exits(0), ", failure-marker: done");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "migration.failed");
    assert!(ran.err.contains("but its output says done"), "{}", ran.err);
    // Right after an app was made the first dyno may be refused.
    let conflict = |times| Fault {
        on: "POST /heroku/apps/demo-staging/dynos",
        times,
        status: 409,
        headers: vec![],
        body: json!({"id": "conflict", "message": "Requests to this endpoint must be made one at a time"}),
        after_effect: false,
    };
    let mut world = migrated(Fate::Exits(0), "");
    world.sandbox.with(|outside| outside.faults.push(conflict(2)));
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let mut world = migrated(Fate::Exits(0), "");
    world.sandbox.with(|outside| outside.faults.push(conflict(3)));
    world.pushed().run(&["run"]).must(1, "migration.failed");
}

#[test]
fn a_one_off_dyno_is_never_run_twice_by_itself() {
    let mut world = migrated(Fate::Hangs, "");
    world.configure("timeout: 5s}}", "timeout: 10m}}");
    world.commit("long");
    world.var("TIDEGATE_LEASE_EXPIRY", "1s");
    let going = Going::start(world.pushed().command(&["run"]));
    world.until("it runs", |outside| !outside.heroku.runs.is_empty());
    world.until("it was written down", |outside| {
        outside.github.deployments[0].statuses.iter().any(|(_, body)| body.to_string().contains("the dyno run.1"))
    });
    going.kill();
    let ran = world.run(&["run"]);
    ran.must(1, "migration.failed");
    assert!(ran.err.contains("the run before was killed while it ran the dyno run.1 of demo-staging"), "{}", ran.err);
    assert_eq!(world.sandbox.with(|outside| outside.heroku.runs.len()), 1);
    // Cancelled: it is stopped.
    let mut world = migrated(Fate::Hangs, "");
    world.configure("timeout: 5s}}", "timeout: 10m}}");
    world.commit("long");
    let run = world.pushed().run_until(&["run"], "run | migrating");
    run.signal("-TERM");
    let said = run.ends(143);
    assert!(said.contains("run.1 is stopped") && world.sandbox.with(|outside| outside.heroku.runs[0].stopped), "{said}");
}

#[test]
fn two_process_types_share_their_layers() {
    let mut world = heroku(Mood::Honest, ", processes: {web: app, worker: app}, dynos: {worker: 2}");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("web 1 of 1 up, worker 2 of 2 up"), "{}", ran.err);
    assert!(ran.count("mount=sha256") > 0 && ran.count("PUT /v2/demo-staging/worker/blobs") == 0, "{}", ran.log.join("\n"));
}

#[test]
fn mistakes_are_found_in_the_file() {
    for (keys, words) in [
        (", app: Demo_App", "\"Demo_App\" (8 characters) cannot be an app's name"),
        (", processes: {web: apq}", "did you mean \"app\"?"),
        (", dynos: {worker: 1}", "nothing is released as \"worker\""),
        (", config: {vars: {TIDEGATE_X: y}}", "names that begin with TIDEGATE_ are ours"),
        (", config: {per-environment: {stagign: {A: b}}}", "did you mean \"staging\"?"),
        (", pipeline: {name: demo, stage: preview}", "preview"),
        (", config: {vars: {A: 1}}", "A"),
    ] {
        let world = World::new();
        let base = if keys.contains("app: Demo") { String::new() } else { "app: demo-staging".to_owned() };
        world.deploy_dev_by(&format!("heroku: {{{base}{keys}}}").replace("{,", "{"));
        let ran = world.run(&["check"]);
        assert!(ran.code == 2 && ran.err.contains(words), "{keys}: {}", ran.err);
    }
    let world = migrated(Fate::Exits(0), "");
    world.configure("{when: after, run", "{run");
    let ran = world.run(&["check"]);
    assert!(ran.code == 2 && ran.err.contains("before the release a one-off dyno would run the version before"), "{}", ran.err);
}

/// The line to a dyno is encrypted and its server known, as the API's is; another server's certificate ends the run.
#[test]
fn attached_dynos_are_heard_over_tls() {
    for is_ours in [true, false] {
        let mut world = migrated(Fate::Exits(3), "");
        let line = world.sandbox.with(|outside| outside.heroku.rendezvous.clone());
        let (api, authority) = crate::tls::tls_in_front_of(&world);
        let (dyno, other) = crate::tls::tls_before(&world, &line);
        world.write("authority.pem", &if is_ours { format!("{authority}{other}") } else { authority });
        let bundle = world.path("authority.pem").display().to_string();
        world.var("HEROKU_API_URL", format!("https://localhost:{api}/heroku")).var("SSL_CERT_FILE", bundle);
        world.sandbox.with(|outside| outside.heroku.rendezvous = format!("localhost:{dyno}"));
        let ran = world.pushed().run(&["run"]);
        ran.must(1, "migration.failed");
        let words = if is_ours { "run.1 of demo-staging ended with exit code 3" } else { "told no exit code: localhost:" };
        assert!(ran.err.contains(words), "{}", ran.err);
    }
}
