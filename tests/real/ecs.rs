//! ECS by moto. It keeps revisions, services and tasks, but no deployments: an update changes the service's task definition
//! and begins nothing. To tidegate that is a lie, and it has to find it out.

use crate::parts::{part, program};
use crate::world::{OLD, World};
use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError};

/// How fast tasks go on is one setting for all of moto.
static PACE: Mutex<()> = Mutex::new(());

/// A raw call: neither our client nor a typed one.
fn call(action: &str, body: &Value) -> Value {
    let target = format!("x-amz-target: AmazonEC2ContainerServiceV20141113.{action}");
    let scope = "authorization: AWS4-HMAC-SHA256 Credential=AKIASTORY/20260101/us-west-2/ecs/aws4_request, SignedHeaders=host, Signature=x";
    let kind = "content-type: application/x-amz-json-1.1";
    let body = body.to_string();
    let said = program(&["curl", "-fsS", "-H", &target, "-H", scope, "-H", kind, "-d", &body, &part("TIDEGATE_REAL_MOTO")]);
    serde_json::from_str(&said).unwrap()
}

/// After how many looks a task is one state further.
fn pace(looks: u32) {
    let body = json!({"model_name": "ecs::task", "transition": {"progression": "manual", "times": looks}}).to_string();
    let url = format!("{}/moto-api/state-manager/set-transition", part("TIDEGATE_REAL_MOTO"));
    program(&["curl", "-fsS", "-H", "content-type: application/json", "-d", &body, &url]);
}

/// A network of moto's, which tasks on Fargate must have.
fn network() -> Value {
    let scope = "authorization: AWS4-HMAC-SHA256 Credential=AKIASTORY/20260101/us-west-2/ec2/aws4_request, SignedHeaders=host, Signature=x";
    let first = |action: &str, tag: &str| {
        let body = format!("Action={action}&Version=2016-11-15");
        let said = program(&["curl", "-fsS", "-H", scope, "-d", &body, &part("TIDEGATE_REAL_MOTO")]);
        let (_, rest) = said.split_once(&format!("<{tag}>")).unwrap();
        rest.split_once('<').unwrap().0.to_owned()
    };
    let (subnet, group) = (first("DescribeSubnets", "subnetId"), first("DescribeSecurityGroups", "groupId"));
    json!({"awsvpcConfiguration": {"subnets": [subnet], "securityGroups": [group]}})
}

/// A cluster of this name with a service that runs the old image, and a repository that deploys to it.
fn world(name: &str, keys: &str) -> World {
    call("CreateCluster", &json!({"clusterName": name}));
    let web = json!({
        "name": "web", "image": OLD, "memory": 64, "environment": [{"name": "KEEP", "value": "me"}], "dockerLabels": {"team": "web"},
        "healthCheck": {"command": ["CMD", "true"]},
    });
    let proxy = json!({"name": "proxy", "image": "envoy:1", "memory": 64});
    let tags = json!([{"key": "team", "value": "web"}]);
    let definition = json!({
        "family": name, "containerDefinitions": [web, proxy], "tags": tags, "cpu": "256", "memory": "512", "requiresCompatibilities": ["FARGATE"],
        "runtimePlatform": {"cpuArchitecture": "ARM64"},
    });
    call("RegisterTaskDefinition", &definition);
    create(name, &format!("{name}:1"));
    let mut world = World::new();
    world.var("AWS_ENDPOINT_URL_ECS", part("TIDEGATE_REAL_MOTO"));
    world.deploy_dev_by(&format!("ecs: {{cluster: {name}, service: web, image: app, timeout: 20s{keys}}}"));
    world.pushed();
    world
}

/// The service, without tasks: moto calls its deployment completed then.
fn create(cluster: &str, revision: &str) {
    let service = json!({
        "cluster": cluster, "serviceName": "web", "taskDefinition": revision, "desiredCount": 0, "launchType": "FARGATE",
        "networkConfiguration": network(),
    });
    call("CreateService", &service);
}

fn service(cluster: &str) -> Value {
    call("DescribeServices", &json!({"cluster": cluster, "services": ["web"]}))["services"][0].clone()
}

#[test]
fn a_revision_is_registered_and_an_update_that_begins_no_deployment_is_found_out() {
    let world = world("found-out", "");
    let ran = world.run(&["run"]);
    ran.must(1, "target.wrong-digest");
    assert!(
        ran.err.contains("ECS took the update of web to found-out:2, but began no deployment of it: the newest one is of found-out:1"),
        "{}",
        ran.err
    );
    assert!(service("found-out")["taskDefinition"].as_str().unwrap().ends_with("/found-out:2"), "the update itself was taken");
    let described = |revision: &str| call("DescribeTaskDefinition", &json!({"taskDefinition": revision, "include": ["TAGS"]}));
    let (old, new) = (described("found-out:1"), described("found-out:2"));
    assert_eq!(new["tags"], old["tags"]);
    for field in ["cpu", "memory", "runtimePlatform", "requiresCompatibilities"] {
        assert_eq!(new["taskDefinition"][field], old["taskDefinition"][field], "{field}");
    }
    let (was, is) = (&old["taskDefinition"]["containerDefinitions"], &new["taskDefinition"]["containerDefinitions"]);
    assert_eq!(is[1], was[1]);
    assert_eq!((&is[0]["environment"], &is[0]["healthCheck"]), (&was[0]["environment"], &was[0]["healthCheck"]));
    assert!(is[0]["image"].as_str().unwrap().ends_with(&format!("@{}", ran.outputs["digest"])), "{is}");
    assert!(is[0]["dockerLabels"]["dev.tidegate.lease"].as_str().is_some_and(|lease| lease.contains("demo/dev#")), "{is}");
}

#[test]
fn what_runs_is_proven_by_its_tasks() {
    let world = world("proven", "");
    world.run(&["run"]).must(1, "target.wrong-digest"); // it leaves the revision 2
    create("proven", "proven:2");
    let ran = world.run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("ECS web: 0 tasks wanted, so none could be identified; the service has proven:2"), "{}", ran.err);
    // Wanted, and none runs: neither the record nor the service prove anything.
    call("UpdateService", &json!({"cluster": "proven", "service": "web", "desiredCount": 1}));
    let ran = world.run(&["run"]);
    ran.must(1, "target.wrong-digest");
    assert!(ran.err.contains("only 0 of 1 running tasks could be identified"), "{}", ran.err);
    // moto starts no tasks for services, so this one is started by hand. It reports no digest: the pinned name has to do.
    // Every look brings it closer to its end, so that is put far away.
    let _pace = PACE.lock().unwrap_or_else(PoisonError::into_inner);
    pace(1000);
    let task = json!({"cluster": "proven", "taskDefinition": "proven:2", "launchType": "FARGATE", "networkConfiguration": network()});
    call("RunTask", &task);
    let ran = world.run(&["run"]);
    pace(1);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("ECS web: 1 of 1 tasks run sha256:"), "{}", ran.err);
}

#[test]
fn a_task_runs_to_its_end_and_nothing_is_run_twice() {
    let _pace = PACE.lock().unwrap_or_else(PoisonError::into_inner);
    let world = world("tasks", ", run-task: {command: [migrate, \"{version}\"], timeout: 20s}");
    let ran = world.run(&["run"]);
    ran.must(1, "target.wrong-digest"); // as above: no deployment begins
    assert!(ran.err.contains("runs migrate "), "{}", ran.err);
    let tasks = || call("ListTasks", &json!({"cluster": "tasks", "startedBy": "tidegate"}))["taskArns"].as_array().unwrap().clone();
    let [task] = tasks().try_into().unwrap();
    let task = call("DescribeTasks", &json!({"cluster": "tasks", "tasks": [task]}))["tasks"][0].clone();
    assert!(task["taskDefinitionArn"].as_str().unwrap().ends_with("/tasks:2"), "{task}");
    assert_eq!(task["overrides"]["containerOverrides"][0]["command"][0], "migrate");
    let again = world.run(&["run"]);
    assert_eq!(tasks().len(), 1, "the next run knows that it ended well: {}", again.err);
}

#[test]
fn what_moto_does_not_have_is_missing() {
    let world = world("missing", "");
    world.configure("service: web", "service: wep");
    world.commit("typo");
    let sha = world.head();
    let ran = world.run(&["deploy", "dev", &sha]);
    ran.must(1, "target.missing");
    assert!(ran.err.contains("the ECS cluster missing in us-west-2 has no service wep"), "{}", ran.err);
    world.configure("cluster: missing", "cluster: nowhere");
    world.commit("typo");
    let sha = world.head();
    let ran = world.run(&["deploy", "dev", &sha]);
    ran.must(1, "target.missing");
    assert!(ran.err.contains("ClusterNotFoundException"), "{}", ran.err);
}
