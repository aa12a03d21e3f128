//! Migrations around the switch: a Job in the cluster, or a program, with its true exit code.

use crate::world::World;
use serde_json::json;
use tidegate::rehearse::sandbox::Fault;

fn job(exit: Option<i32>, keys: &str) -> World {
    let world = World::new();
    let run = format!(
        "kubernetes-job: {{namespace: dev, from: deployment/web, command: [./manage.py, migrate, \"{{version}}\"], env: {{MODE: \"{{environment}}\"}}, timeout: 5s{keys}}}"
    );
    world.configure("  dev:\n    when: merge\n", &format!("  dev:\n    when: merge\n    migrate: {{run: {{{run}}}}}\n"));
    world.commit("migrate");
    world.sandbox.with(|outside| {
        outside.cluster.job_exit = exit;
        outside.cluster.log = "Applying 0042_users... OK\n".into();
    });
    world
}

fn jobs(world: &World) -> Vec<serde_json::Value> {
    world
        .sandbox
        .with(|outside| outside.cluster.objects.iter().filter(|((plural, _, _), _)| plural == "jobs").map(|(_, job)| job.clone()).collect())
}

#[test]
fn a_job_runs_the_new_image_before_the_switch_with_the_workloads_surroundings() {
    let mut world = job(Some(0), "");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let jobs = jobs(&world);
    let [made] = jobs.as_slice() else { panic!("one job: {jobs:?}") };
    let spec = &made["spec"]["template"]["spec"];
    assert_eq!(spec["containers"][0]["command"], json!(["./manage.py", "migrate", ran.outputs["version"]]));
    assert!(spec["containers"][0]["image"].as_str().unwrap().ends_with(&ran.outputs["digest"]));
    assert_eq!(spec["containers"][0]["env"], json!([{"name": "MODE", "value": "dev"}]));
    assert_eq!((&made["spec"]["backoffLimit"], &spec["restartPolicy"]), (&json!(0), &json!("Never")));
    assert_eq!(made["spec"]["template"]["metadata"], json!({}), "no service may take it for the workload");
    assert!(ran.err.contains("job | Applying 0042_users... OK") && ran.err.contains("ended with exit code 0"), "{}", ran.err);
    let at = |text: &str| ran.log.iter().position(|line| line.contains(text)).unwrap();
    assert!(at("POST /kube/apis/batch/v1/namespaces/dev/jobs") < at("PATCH /kube"), "before the switch");
}

#[test]
fn a_failed_migration_leaves_the_old_version_running() {
    let mut world = job(Some(4), "");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "migration.failed");
    let first = ran.err.lines().find(|line| line.starts_with("error:")).unwrap();
    assert!(first.contains("ended with exit code 4"), "{first}");
    assert!(ran.err.contains("    Applying 0042_users... OK") && ran.count("PATCH /kube") == 0, "{}", ran.err);
    // Run again, it is tried again, under another name.
    world.sandbox.with(|outside| outside.cluster.job_exit = Some(0));
    world.run(&["run"]).must(0, "deploy.done");
    assert_eq!(jobs(&world).len(), 2);
}

/// Lying twin: exit code 0, and the output says that it failed.
#[test]
fn a_marker_is_a_failure() {
    let mut world = job(Some(0), ", failure-marker: MIGRATION_EXIT_STATUS_ERROR");
    world.sandbox.with(|outside| outside.cluster.log = "x\nMIGRATION_EXIT_STATUS_ERROR\n".into());
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "migration.failed");
    assert_eq!(ran.count("PATCH /kube"), 0);
}

#[test]
fn a_job_that_never_ends_is_deleted_at_its_limit_and_after_a_cancel() {
    let mut world = job(None, "");
    let ran = world.pushed().run(&["run"]);
    ran.must(3, "target.timeout");
    assert!(ran.err.contains("was deleted, and its pod is being ended") && jobs(&world).is_empty(), "{}", ran.err);
    let mut world = job(None, ", on-cancel: leave");
    world.configure("timeout: 5s, on-cancel", "timeout: 10m, on-cancel");
    world.commit("long");
    let run = world.pushed().run_until(&["run"], "job | Applying");
    run.signal("-TERM");
    let said = run.ends(143);
    assert!(said.contains("goes on by itself") && jobs(&world).len() == 1, "{said}");
}

#[test]
fn a_lost_answer_makes_no_second_job() {
    let mut world = job(Some(0), "");
    world.sandbox.with(|outside| {
        outside.faults.push(Fault {
            on: "POST /kube/apis/batch",
            times: 1,
            status: 504,
            headers: vec![],
            body: json!({"kind": "Status", "code": 504, "message": "timed out", "reason": "Timeout"}),
            after_effect: true,
        });
    });
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(jobs(&world).len(), 1);
}

#[test]
fn a_program_migrates_before_or_after_and_its_failure_stops() {
    for (when, exit, code, reason, patches) in
        [("before", 0, 0, "deploy.done", 1), ("before", 2, 1, "migration.failed", 0), ("after", 2, 1, "migration.failed", 1)]
    {
        let mut world = World::new();
        world.configure(
            "  dev:\n    when: merge\n",
            &format!("  dev:\n    when: merge\n    migrate: {{run: {{command: {{run: [sh, -c, \"echo moving; exit {exit}\"]}}}}, when: {when}}}\n"),
        );
        world.commit("migrate");
        let ran = world.pushed().run(&["run"]);
        ran.must(code, reason);
        assert_eq!(ran.count("PATCH /kube"), patches, "{when} {exit}");
        assert!(ran.err.contains("migrate | moving"), "{}", ran.err);
    }
}

/// A list runs in order, each once; what failed is not followed by what comes after it.
#[test]
fn several_run_one_after_another_around_the_switch() {
    let runs = |second: &str| {
        format!(
            "migrate: [{{run: {{command: {{run: [sh, -c, \"echo one >> order\"]}}}}}}, {{run: {{command: {{run: [sh, -c, \"{second}\"]}}}}}}, \
             {{run: {{command: {{run: [sh, -c, \"echo static >> order\"]}}}}, when: after, backward-compatible: true}}]"
        )
    };
    let mut world = World::new();
    world.configure("  dev:\n    when: merge\n", &format!("  dev:\n    when: merge\n    {}\n", runs("echo two >> order")));
    world.commit("list");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(std::fs::read_to_string(world.path("order")).unwrap(), "one\ntwo\nstatic\n");
    assert!(ran.err.contains("migrate.3"), "{}", ran.err);
    std::fs::remove_file(world.path("order")).unwrap();
    let text = std::fs::read_to_string(world.path("tidegate.yml")).unwrap();
    world.write("tidegate.yml", &text.replace("echo two >> order", "exit 4"));
    world.commit("broken");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "migration.failed");
    assert_eq!((std::fs::read_to_string(world.path("order")).unwrap().as_str(), ran.count("PATCH /kube")), ("one\n", 0));
    // Another way back is barred once one of them has begun that older versions cannot live with.
    let ran = world.run(&["rollback", "dev"]);
    ran.must(4, "gate.migration");
}

/// What fails after the switch takes the new version back, where the one before works with the database.
#[test]
fn a_failure_after_the_switch_goes_back_where_that_is_said() {
    let mut world = World::new();
    world.configure("  dev:\n    when: merge\n", "  dev:\n    when: merge\n    migrate: {run: {command: {run: [sh, -c, \"test ! -e broken\"]}}, when: after, backward-compatible: true, on-failure: rollback}\n");
    world.commit("one");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let good = world.runs_on("dev");
    world.write("broken", "");
    world.write("app", "two\n");
    world.commit("two");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "migration.failed");
    assert_eq!(world.runs_on("dev"), good, "{}", ran.err);
    assert!(
        ran.err.contains("runs again, as `on-failure: rollback` says") && ran.outputs["verdict"] == "rolled-back",
        "{:?} {}",
        ran.outputs,
        ran.err
    );
    assert!(world.comments()[0].contains("runs again, as"), "{}", world.comments()[0]);
    // The first delivery of all has nothing to go back to, and says so.
    let mut first = World::new();
    first.configure("  dev:\n    when: merge\n", "  dev:\n    when: merge\n    migrate: {run: {command: {run: [sh, -c, \"exit 3\"]}}, when: after, backward-compatible: true, on-failure: rollback}\n");
    first.commit("one");
    let ran = first.pushed().run(&["run"]);
    ran.must(1, "migration.failed");
    assert!(
        ran.err.contains("going back failed as well: there is nothing good before") || ran.err.contains("going back failed as well"),
        "{}",
        ran.err
    );
}

/// A task of an ECS service, beside a target of another kind.
fn task(keys: &str, lines: &[&str]) -> World {
    let world = World::new();
    let run = format!(
        "ecs-task: {{cluster: demo, service: web, container: web, command: [./manage.py, migrate, \"{{version}}\"], env: {{MODE: \"{{environment}}\"}}, timeout: 20s{keys}}}"
    );
    world.configure("  dev:\n    when: merge\n", &format!("  dev:\n    when: merge\n    migrate: {{run: {{{run}}}}}\n"));
    world.commit("task");
    world.sandbox.with(|outside| {
        outside.ecs.add_service("demo", "web", crate::world::OLD);
        outside.ecs.task_exit = Some(0);
        outside.ecs.lines = lines.iter().map(|line| (*line).to_owned()).collect();
    });
    world
}

#[test]
fn an_ecs_task_runs_the_new_image_and_its_lines_are_shown() {
    let mut world = task("", &["Applying 0042_users... OK", "done"]);
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let runs = world.sandbox.with(|outside| outside.ecs.runs.clone());
    let [run] = runs.as_slice() else { panic!("one task: {runs:?}") };
    assert_eq!(run["overrides"]["containerOverrides"][0]["command"], json!(["./manage.py", "migrate", ran.outputs["version"]]));
    let revision = run["taskDefinition"].as_str().unwrap();
    let image = world.sandbox.with(|outside| {
        outside.ecs.definitions.iter().find(|known| known["taskDefinitionArn"] == revision).unwrap()["containerDefinitions"][0]["image"]
            .clone()
    });
    assert!(image.as_str().unwrap().ends_with(&ran.outputs["digest"]), "{image}");
    assert!(ran.err.contains("task | Applying 0042_users... OK") && ran.err.contains("task | done"), "{}", ran.err);
    let at = |text: &str| ran.log.iter().position(|line| line.contains(text)).unwrap();
    assert!(at("RunTask") < at("PATCH /kube") && ran.count("UpdateService") == 0, "{}", ran.log.join("\n"));
}

/// Lying twins: another exit code, and exit code 0 with the marker among its lines.
#[test]
fn an_ecs_task_that_failed_stops_the_delivery() {
    let mut world = task("", &["no such table"]);
    world.sandbox.with(|outside| outside.ecs.task_exit = Some(2));
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "migration.failed");
    assert!(
        ran.err.contains("ended with exit code 2") && ran.err.contains("no such table") && ran.count("PATCH /kube") == 0,
        "{}",
        ran.err
    );
    let mut world = task(", failure-marker: MIGRATION_EXIT_STATUS_ERROR", &["MIGRATION_EXIT_STATUS_ERROR"]);
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "migration.failed");
    assert!(ran.err.contains("its lines hold the failure marker") && ran.count("PATCH /kube") == 0, "{}", ran.err);
}
