//! The ECS target: our deployment is followed by its id, and believed only for tasks that run the digest.

use crate::world::{OLD, World, tidegate};
use serde_json::{Value, json};
use tidegate::rehearse::ecs::{EcsMood, Refusal};

/// A repository whose merges update one service of two tasks.
fn ecs(mood: EcsMood, keys: &str) -> World {
    let world = World::new();
    world.deploy_dev_by(&format!("ecs: {{cluster: demo, service: web, image: app, timeout: 5s{keys}}}"));
    world.sandbox.with(|outside| {
        outside.ecs.add_service("demo", "web", OLD);
        outside.ecs.mood = mood;
        outside.ecs.task_exit = Some(0);
    });
    world
}

fn patient(world: &World, keys: &str) {
    world.configure(&format!("timeout: 5s{keys}}}\n  staging"), &format!("timeout: 10m{keys}}}\n  staging"));
    world.commit("patient");
}

fn refuse(world: &World, action: &'static str, (status, code): (u16, &'static str), times: usize, after_effect: bool) {
    world.sandbox.with(|outside| outside.ecs.refusals.push(Refusal { action, times, status, code, after_effect }));
}

/// The revisions of the family, oldest first.
fn revisions(world: &World) -> Vec<Value> {
    world.sandbox.with(|outside| outside.ecs.definitions.clone())
}

fn first(err: &str) -> &str {
    err.lines().find(|line| line.starts_with("error:")).unwrap_or(err)
}

const RUN_TASK: &str = ", run-task: {command: [./manage.py, migrate, \"{version}\"], env: {DB: \"{environment}\"}, timeout: 30s}";

#[test]
fn a_revision_is_copied_with_everything_in_it_and_the_image_by_digest() {
    let mut world = ecs(EcsMood::Honest, "");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let reference = format!("123456789012.dkr.ecr.us-west-2.amazonaws.com/demo:{}@{}", ran.outputs["version"], ran.outputs["digest"]);
    assert!(ran.err.contains(&format!("ECS web: 2 of 2 tasks run {} (web:8)", ran.outputs["digest"])), "{}", ran.err);
    assert!(ran.err.contains("ECS web: 1 of 2 running (1 pending)"), "{}", ran.err);
    let [old, new] = revisions(&world).try_into().unwrap();
    for field in ["notOfOurs", "cpu", "networkMode", "tags"] {
        assert_eq!(new[field], old[field], "{field}");
    }
    let (was, is) = (&old["containerDefinitions"], &new["containerDefinitions"]);
    assert_eq!(is[1], was[1], "the proxy is as it was");
    for field in ["environment", "futureField", "logConfiguration"] {
        assert_eq!(is[0][field], was[0][field], "{field}");
    }
    assert_eq!((is[0]["image"].as_str(), is[0]["dockerLabels"]["team"].as_str()), (Some(reference.as_str()), Some("web")));
    assert!(is[0]["dockerLabels"]["dev.tidegate.lease"].as_str().unwrap().contains("demo/dev#"), "{is}");
    assert_eq!(world.sandbox.with(|outside| outside.ecs.runs("web", "web")), [reference.clone(), reference]);
    assert!(!format!("{}{}", ran.err, ran.log.join("\n")).contains("storysecret"));
}

/// Lying twins: ECS says yes, and something else runs.
#[test]
fn a_service_that_runs_something_else_fails() {
    for (mood, words) in [
        (EcsMood::KeepsOld, "ECS says that web:8 of web is completed, but task"),
        (EcsMood::OtherDigest, "runs sha256:9999"),
        (EcsMood::Ignores, "began no deployment of it: the newest one is of web:7"),
    ] {
        let ran = ecs(mood, "").pushed().run(&["run"]);
        ran.must(1, "target.wrong-digest");
        assert!(first(&ran.err).contains(words), "{}", ran.err);
        assert_ne!(ran.outputs["verdict"], "deployed");
    }
}

/// Other tools of the field say success here: the service is steady again, with the version before.
#[test]
fn a_circuit_breaker_that_goes_back_is_a_failure() {
    let mut world = ecs(EcsMood::CircuitBreaker, ", rollback: auto");
    world.configure("timeout: 5s", "timeout: 30s");
    world.commit("time for two deployments");
    world.sandbox.with(|outside| outside.ecs.set_breaker("web", &json!(true)));
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.rolled-back");
    assert_eq!(ran.outputs["verdict"], "rolled-back");
    let line = first(&ran.err);
    assert!(
        line.contains("starts and dies (container web, exit code 3)")
            && line.contains("ECS went back by itself (ECS deployment circuit breaker: tasks failed to start.)")
            && line.contains("web runs web:7 again (2 of 2 tasks)"),
        "{line}"
    );
    assert!(ran.err.contains("cause: target.crash-loop"), "{}", ran.err);
    assert_eq!(ran.count("UpdateService"), 1, "nothing was left to take back");
    assert_eq!(world.sandbox.with(|outside| outside.ecs.runs("web", "web")), [OLD, OLD]);
}

#[test]
fn a_rollback_that_is_asked_for_brings_the_old_tasks_back() {
    for mood in [EcsMood::Crash, EcsMood::GivesUp] {
        let mut world = ecs(mood, ", rollback: auto");
        world.configure("timeout: 5s", "timeout: 30s");
        world.commit("time for two deployments");
        if mood == EcsMood::GivesUp {
            world.sandbox.with(|outside| outside.ecs.set_breaker("web", &json!(false)));
        }
        let ran = world.pushed().run(&["run"]);
        ran.must(1, "target.rolled-back");
        let line = first(&ran.err);
        assert!(line.contains("starts and dies") && line.contains("rolled back: web runs web:7 again (2 of 2 tasks)"), "{line}");
        assert!(ran.err.contains("cause: target.crash-loop"), "{}", ran.err);
        assert_eq!(world.sandbox.with(|outside| outside.ecs.runs("web", "web")), [OLD, OLD]);
    }
}

#[test]
fn every_cause_has_its_reason() {
    for (mood, reason, words) in [
        (EcsMood::Pull, "target.image-pull", "cannot pull its image: CannotPullContainerError"),
        (EcsMood::Crash, "target.crash-loop", "starts and dies (container web, exit code 3)"),
        (EcsMood::Unhealthy, "target.probe", "its health check fails: Task failed ELB health checks"),
        (EcsMood::NoSecret, "target.container-config", "cannot be started: ResourceInitializationError"),
        (EcsMood::Unplaceable, "target.unschedulable", "no instance takes its tasks: (service web) was unable to place a task"),
        (EcsMood::Taken, "target.failed", "somebody else deployed web:9 to the ECS service web, after our web:8"),
    ] {
        let mut world = ecs(mood, "");
        let ran = world.pushed().run(&["run"]);
        ran.must(1, reason);
        assert!(first(&ran.err).contains(words), "{mood:?}: {}", ran.err);
        assert_eq!(world.deployments()[0].last().unwrap(), "failure", "{mood:?}");
    }
}

#[test]
fn a_deployment_that_never_ends_times_out_and_a_cancel_says_what_goes_on() {
    let ran = ecs(EcsMood::Stuck, "").pushed().run(&["run"]);
    ran.must(3, "target.timeout");
    assert!(ran.err.contains("ECS web: web:8 did not settle within") && ran.err.contains("1 of 2 running (1 pending)"), "{}", ran.err);
    let mut world = ecs(EcsMood::Stuck, "");
    patient(&world, "");
    let run = world.pushed().run_until(&["run"], "1 of 2 running (1 pending)");
    run.signal("-TERM");
    let said = run.ends(143);
    assert!(said.contains("of the ECS service web goes on by itself"), "{said}");
}

#[test]
fn what_runs_already_is_proven_and_nothing_is_changed() {
    let mut world = ecs(EcsMood::Honest, "");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert!(again.err.contains("2 of 2 tasks run") && again.err.contains("delivered before"), "{}", again.err);
    assert_eq!(again.count("UpdateService") + again.count("RegisterTaskDefinition"), 0);
    // Also where no record says so.
    world.sandbox.with(|outside| outside.github.deployments.clear());
    let third = world.run(&["run"]);
    third.must(0, "deploy.done");
    assert!(third.err.contains("has the image already (web:8)"), "{}", third.err);
    assert_eq!(third.count("UpdateService") + third.count("RegisterTaskDefinition"), 0);
}

/// Lying twin: the record says it runs, and somebody went back by hand.
#[test]
fn a_record_does_not_stand_for_what_runs() {
    let mut world = ecs(EcsMood::Honest, "");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.sandbox.with(|outside| outside.ecs.add_service("demo", "web", OLD));
    let ran = world.run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.count("UpdateService"), 1, "{}", ran.err);
}

#[test]
fn the_same_image_can_be_restarted() {
    let mut world = ecs(EcsMood::Honest, ", restart: when-unchanged");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert!(again.err.contains("replaces the tasks of web:8"), "{}", again.err);
    assert_eq!((again.count("UpdateService"), again.count("RegisterTaskDefinition")), (1, 0));
}

/// What failed before a person ran it again says nothing about now.
#[test]
fn a_failed_deployment_can_be_tried_again() {
    let mut world = ecs(EcsMood::GivesUp, "");
    world.sandbox.with(|outside| outside.ecs.set_breaker("web", &json!(false)));
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.crash-loop");
    assert!(first(&ran.err).contains("ECS gave up the deployment of web:8"), "{}", ran.err);
    world.sandbox.with(|outside| outside.ecs.mood = EcsMood::Honest);
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert!(again.err.contains("replaces the tasks of web:8"), "{}", again.err);
    // Without a circuit breaker the deployment goes on all the time.
    let mut world = ecs(EcsMood::Crash, "");
    world.pushed().run(&["run"]).must(1, "target.crash-loop");
    world.sandbox.with(|outside| outside.ecs.mood = EcsMood::Honest);
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert_eq!(again.count("UpdateService"), 0, "{}", again.err);
}

#[test]
fn a_service_without_tasks_is_not_said_to_run_anything() {
    let mut world = ecs(EcsMood::Honest, "");
    world.sandbox.with(|outside| {
        outside.ecs.services.values_mut().for_each(|service| service.desired = 0);
        outside.ecs.tasks.clear();
    });
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("ECS web: 0 tasks wanted, so none could be identified; the service has web:8"), "{}", ran.err);
}

#[test]
fn a_task_runs_to_its_end_before_the_switch() {
    let mut world = ecs(EcsMood::Honest, RUN_TASK);
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let [run] = world.sandbox.with(|outside| outside.ecs.runs.clone()).try_into().unwrap();
    assert!(run["taskDefinition"].as_str().unwrap().ends_with("/web:8") && run["startedBy"] == "tidegate", "{run}");
    let part = &run["overrides"]["containerOverrides"][0];
    assert_eq!(part["command"], json!(["./manage.py", "migrate", ran.outputs["version"]]));
    assert_eq!((&part["name"], &part["environment"]), (&json!("web"), &json!([{"name": "DB", "value": "dev"}])));
    assert_eq!((&run["launchType"], &run["platformVersion"]), (&json!("FARGATE"), &json!("LATEST")));
    assert_eq!(run["networkConfiguration"]["awsvpcConfiguration"]["subnets"], json!(["subnet-1"]));
    let order = |text: &str| ran.log.iter().position(|line| line.contains(text)).unwrap();
    assert!(order("RunTask") < order("UpdateService"));
    assert!(ran.err.contains(&format!("runs ./manage.py migrate {}", ran.outputs["version"])), "{}", ran.err);
}

#[test]
fn a_task_that_fails_keeps_the_service_as_it_is_and_is_run_again_when_asked() {
    let mut world = ecs(EcsMood::Honest, RUN_TASK);
    world.sandbox.with(|outside| outside.ecs.task_exit = Some(2));
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "migration.failed");
    assert!(first(&ran.err).contains("(container web) ended with exit code 2: Essential container in task exited"), "{}", ran.err);
    assert!(ran.err.contains("nothing was switched") && ran.err.contains("log group /ecs/web"), "{}", ran.err);
    assert_eq!(ran.count("UpdateService"), 0);
    world.sandbox.with(|outside| outside.ecs.task_exit = Some(0));
    world.run(&["run"]).must(0, "deploy.done");
}

#[test]
fn a_task_that_never_ends_is_stopped() {
    let mut world = ecs(EcsMood::Honest, RUN_TASK);
    world.configure("timeout: 30s", "timeout: 2s");
    world.commit("short");
    world.sandbox.with(|outside| outside.ecs.task_exit = None);
    let ran = world.pushed().run(&["run"]);
    ran.must(3, "target.timeout");
    assert!(ran.err.contains("is still RUNNING after") && ran.err.contains("is being stopped"), "{}", ran.err);
    assert_eq!((ran.count("StopTask"), ran.count("UpdateService")), (1, 0));
}

fn killed_while_its_task_runs() -> World {
    let mut world = ecs(EcsMood::Honest, RUN_TASK);
    world.configure("timeout: 30s", "timeout: 10m");
    world.commit("long");
    world.var("TIDEGATE_LEASE_EXPIRY", "1s");
    world.sandbox.with(|outside| outside.ecs.task_exit = None);
    world.pushed().run_until(&["run"], ": RUNNING").kill();
    world
}

/// A run that is killed while its task runs: the next one follows that task, and then goes on.
#[test]
fn a_killed_run_leaves_a_task_that_the_next_one_follows() {
    let world = killed_while_its_task_runs();
    world.sandbox.with(|outside| outside.ecs.task_exit = Some(0));
    let ran = world.run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("the run before started the ECS task"), "{}", ran.err);
    assert_eq!(world.sandbox.with(|outside| outside.ecs.runs.len()), 1);
    assert_eq!(revisions(&world).len(), 2, "no second revision");
}

/// Killed after ECS took the task and before that was written down: the same request gets the same task.
#[test]
fn a_task_whose_start_was_never_written_down_is_not_run_twice() {
    let world = killed_while_its_task_runs();
    world.sandbox.with(|outside| {
        outside.github.deployments[0].statuses.retain(|(_, body)| !body.to_string().contains("started task "));
        outside.ecs.task_exit = Some(0);
    });
    let ran = world.run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("the run before registered web:8"), "{}", ran.err);
    let tasks = world.sandbox.with(|outside| outside.ecs.tasks.iter().filter(|task| task["startedBy"] == "tidegate").count());
    assert_eq!(tasks, 1);
}

#[test]
fn a_killed_run_leaves_a_deployment_that_the_next_one_follows() {
    let mut world = ecs(EcsMood::Stuck, RUN_TASK);
    patient(&world, RUN_TASK);
    world.var("TIDEGATE_LEASE_EXPIRY", "1s");
    let run = world.pushed().run_until(&["run"], "1 of 2 running (1 pending)");
    run.kill();
    world.sandbox.with(|outside| outside.ecs.mood = EcsMood::Honest);
    let ran = world.run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("the run before began the deployment ecs-svc/"), "{}", ran.err);
    assert_eq!(ran.count("UpdateService") + ran.count("RegisterTaskDefinition") + ran.count("RunTask"), 0);
}

/// The one who goes on knows what ran before as well.
#[test]
fn a_run_that_goes_on_can_go_back() {
    let mut world = ecs(EcsMood::Stuck, ", rollback: auto");
    patient(&world, ", rollback: auto");
    world.var("TIDEGATE_LEASE_EXPIRY", "1s");
    let run = world.pushed().run_until(&["run"], "1 of 2 running (1 pending)");
    run.kill();
    world.sandbox.with(|outside| outside.ecs.mood = EcsMood::Crash);
    let ran = world.run(&["run"]);
    ran.must(1, "target.rolled-back");
    assert!(first(&ran.err).contains("rolled back: web runs web:7 again"), "{}", ran.err);
}

/// The update was taken and its answer lost: that deployment is followed. Where none began it is sent again.
#[test]
fn a_lost_answer_deploys_nothing_twice() {
    for keys in ["", ", restart: always"] {
        for after_effect in [true, false] {
            let mut world = ecs(EcsMood::Honest, keys);
            if !keys.is_empty() {
                world.pushed().run(&["run"]).must(0, "deploy.done");
            }
            refuse(&world, "UpdateService", (503, "ServerException"), 1, after_effect);
            let ran = world.pushed().run(&["run"]);
            ran.must(0, "deploy.done");
            assert!(ran.err.contains("looking whether it was taken"), "{}", ran.err);
            assert_eq!(ran.count("UpdateService"), if after_effect { 1 } else { 2 }, "{keys} {}", ran.log.join("\n"));
        }
    }
}

#[test]
fn passing_failures_are_waited_for() {
    let mut world = ecs(EcsMood::Honest, RUN_TASK);
    for (action, code) in [
        ("DescribeServices", (502, "")),
        ("RegisterTaskDefinition", (400, "ThrottlingException")),
        ("RunTask", (500, "ServerException")),
        ("UpdateService", (429, "")),
        ("DescribeTasks", (503, "ServiceUnavailable")),
        ("ListTasks", (400, "ThrottlingException")),
    ] {
        refuse(&world, action, code, 2, false);
    }
    world.configure("timeout: 5s", "timeout: 60s");
    world.commit("patient");
    world.pushed().run(&["run"]).must(0, "deploy.done");
}

#[test]
fn errors_of_aws_are_told_apart() {
    for (action, code, exit, reason, words) in [
        ("UpdateService", "AccessDeniedException", 5, "auth.denied", "allow ecs:UpdateService for the role or user"),
        ("DescribeServices", "ExpiredTokenException", 5, "auth.expired", "the session is over"),
        ("RegisterTaskDefinition", "ClientException", 2, "target.input", "answers RegisterTaskDefinition with 400: ClientException"),
        ("DescribeServices", "ClusterNotFoundException", 1, "target.missing", "look at `cluster:`"),
    ] {
        let mut world = ecs(EcsMood::Honest, "");
        refuse(&world, action, (400, code), 9, false);
        let ran = world.pushed().run(&["run"]);
        ran.must(exit, reason);
        assert!(ran.err.contains(words), "{}", ran.err);
        assert_eq!(world.sandbox.with(|outside| outside.ecs.runs("web", "web")), [OLD, OLD]);
    }
}

#[test]
fn what_is_missing_or_unclear_is_named_before_anything_changes() {
    let changes = |ran: &crate::world::Ran| ran.count("UpdateService") + ran.count("RegisterTaskDefinition");
    let mut world = ecs(EcsMood::Honest, "");
    world.configure("service: web", "service: wep");
    world.commit("typo");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.missing");
    assert!(ran.err.contains("the ECS cluster demo in us-west-2 has no service wep") && changes(&ran) == 0, "{}", ran.err);

    let ran = ecs(EcsMood::Honest, ", container: app").pushed().run(&["run"]);
    ran.must(2, "target.input");
    assert!(ran.err.contains("the task definition web:7 has no container app: it has web, proxy") && changes(&ran) == 0, "{}", ran.err);

    let mut world = ecs(EcsMood::Honest, "");
    world.sandbox.with(|outside| outside.ecs.add_service("demo", "web", "nginx:1"));
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "target.input");
    assert!(ran.err.contains("has no container whose image is of 123456789012") && ran.err.contains("name one of them"), "{}", ran.err);

    let mut world = ecs(EcsMood::Honest, "");
    world.sandbox.with(|outside| {
        outside.ecs.services.values_mut().for_each(|service| service.more = json!({"deploymentController": {"type": "CODE_DEPLOY"}}));
    });
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "target.input");
    assert!(ran.err.contains("is deployed by CODE_DEPLOY") && changes(&ran) == 0, "{}", ran.err);
}

/// Somebody with a later lease was there: nothing is changed.
#[test]
fn a_later_lease_holds() {
    let mut world = ecs(EcsMood::Honest, "");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.sandbox.with(|outside| {
        let label = &mut outside.ecs.definitions.last_mut().unwrap()["containerDefinitions"][0]["dockerLabels"]["dev.tidegate.lease"];
        let (place, _) = label.as_str().unwrap().rsplit_once('#').unwrap();
        *label = json!(format!("{place}#999999999999"));
    });
    world.write("app", "two\n");
    world.commit("two");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "lock.lost");
    assert_eq!(ran.count("UpdateService") + ran.count("RegisterTaskDefinition"), 0);
}

#[test]
fn a_file_is_registered_once_and_again_when_it_changes() {
    let mut world = ecs(EcsMood::Honest, ", task-definition: ecs/web.json");
    let file = |memory: &str| {
        json!({"family": "other", "memory": memory, "newerField": 1, "containerDefinitions": [
            {"name": "main", "image": "filled in", "environment": [{"name": "RELEASE", "value": "{environment}"}, {"name": "FORMAT", "value": "{x}"}]},
        ]})
        .to_string()
    };
    world.write("ecs/web.json", &file("512"));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let made = revisions(&world).pop().unwrap();
    assert_eq!((&made["family"], &made["newerField"]), (&json!("other"), &json!(1)));
    let part = &made["containerDefinitions"][0];
    assert!(part["image"].as_str().unwrap().ends_with(&ran.outputs["digest"]));
    assert_eq!(part["environment"][0]["value"], "dev");
    assert_eq!(part["environment"][1]["value"], "{x}", "no placeholder of ours");
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert_eq!(again.count("RegisterTaskDefinition") + again.count("UpdateService"), 0);
    world.write("ecs/web.json", &file("1024"));
    world.run(&["run"]).must(0, "deploy.done");
    assert_eq!(revisions(&world).pop().unwrap()["memory"], "1024");
}

#[test]
fn a_file_that_cannot_be_used_stops_before_the_build() {
    for (text, words) in [
        (None, "ecs/web.json: the task definition cannot be read"),
        (Some("{"), "ecs/web.json: this is not JSON"),
        (Some("[]"), "a task definition is a JSON object"),
    ] {
        let mut world = ecs(EcsMood::Honest, ", task-definition: ecs/web.json");
        text.inspect(|text| world.write("ecs/web.json", text));
        let ran = world.pushed().run(&["run"]);
        ran.must(2, "config.invalid");
        assert!(ran.err.contains(words) && ran.count("POST /build") == 0, "{}", ran.err);
    }
}

#[test]
fn mistakes_are_found_by_check() {
    for (target, words) in [
        ("ecs: {service: \"\"}", "the service has no name"),
        ("ecs: {service: web, image: ap}", "there is no image \"ap\""),
        ("ecs: {service: web, timeout: 0s}", "no time at all is never enough"),
        ("ecs: {service: \"{nothing}\"}", "nothing"),
        ("ecs: {service: web, task-definition: ../web.json}", "leads out of the repository"),
        ("ecs: {service: web, run-task: {command: [\"\"]}}", "the command is empty"),
        ("ecs: {service: web, run-task: {command: [a], timeout: 0s}}", "no time at all is never enough"),
        ("ecs: {service: web, run-task: {command: [a], env: {\"A=B\": x}}}", "cannot name a variable"),
        ("ecs: {service: web, run-task: {command: [\"{image.x}\"]}}", "image"),
        ("ecs: {cluster: demo}", "service"),
    ] {
        let world = World::new();
        world.deploy_dev_by(target);
        let ran = world.run(&["check"]);
        assert!(ran.code == 2 && ran.err.contains(words), "{target}: {}", ran.err);
    }
}

#[test]
fn a_doctor_looks_at_the_service_and_changes_nothing() {
    let mut world = ecs(EcsMood::Honest, ", container: web");
    let ran = world.pushed().run(&["doctor", "dev"]);
    let said = format!("{}{}", ran.out, ran.err);
    assert!(said.contains("the ECS service web runs web:7 (2 of 2 running); the container web would get the image"), "{said}");
    assert_eq!(ran.count("UpdateService") + ran.count("RegisterTaskDefinition"), 0);
}

#[test]
fn a_deployment_can_be_rehearsed() {
    let world = World::new();
    world.deploy_dev_by("ecs: {cluster: demo, service: web, container: main, run-task: {command: [migrate]}}");
    let (code, out, err) = tidegate(world.folder.path(), &["rehearse", "merge"], &[("DOCKER_HOST", "unix:///nowhere.sock")]);
    assert_eq!(code, 0, "{out}\n{err}");
    assert!(format!("{out}{err}").contains("2 of 2 tasks run sha256:"), "{out}\n{err}");
}
