//! The answers of the pretend ECS, action by action.

use super::super::aws::error;
use super::super::sandbox::{World, json_answer};
use super::{ARN, Clusters, EcsMood, list, set_first, text};
use crate::targets::set;
use axum::response::Response;
use serde_json::{Value, json};

/// Fields of an answer that a registration does not take.
const READ_ONLY: [&str; 6] = ["taskDefinitionArn", "revision", "status", "requiresAttributes", "compatibilities", "registeredAt"];

/// Answers an action.
pub fn answer(world: &mut World, action: &str, body: &Value) -> Response {
    let refusal = world.ecs.refusals.iter_mut().find(|refusal| refusal.action == action && refusal.times > 0).map(|refusal| {
        refusal.times -= 1;
        refusal.clone()
    });
    match refusal {
        Some(refusal) => {
            if refusal.after_effect {
                drop(act(world, action, body));
            }
            let message = format!("User: arn:aws:sts::1:assumed-role/ci is not authorized to perform: ecs:{action} on resource: web");
            error(refusal.status, refusal.code, &message)
        }
        None => act(world, action, body),
    }
}

fn act(world: &mut World, action: &str, body: &Value) -> Response {
    let cluster = text(body, "/cluster").rsplit('/').next().unwrap_or_default().to_owned();
    let service = text(body, "/service").to_owned() + text(body, "/serviceName") + text(body, "/services/0");
    let key = (cluster, service.rsplit('/').next().unwrap_or_default().to_owned());
    if world.generous && !key.1.is_empty() && !world.ecs.services.contains_key(&key) {
        let containers = world.ecs.containers.clone();
        world.ecs.add_service_of(&key.0, &key.1, &containers);
        world.ecs.task_exit = Some(0);
    }
    let clusters = &mut world.ecs;
    let about_tasks_or_services = !matches!(action, "DescribeTaskDefinition" | "RegisterTaskDefinition");
    if about_tasks_or_services && !clusters.services.keys().any(|(known, _)| *known == key.0) {
        return error(400, "ClusterNotFoundException", "Cluster not found.");
    }
    match action {
        "DescribeServices" => describe_services(clusters, &key),
        "UpdateService" => update_service(clusters, &key, body),
        "DescribeTaskDefinition" => described(clusters.definition(text(body, "/taskDefinition"))),
        "RegisterTaskDefinition" => register(clusters, body),
        "ListTasks" => list_tasks(clusters, &key, body),
        "DescribeTasks" => describe_tasks(clusters, body),
        "RunTask" => run_task(clusters, body),
        "StopTask" => stop_task(clusters, body),
        _other => error(400, "UnknownOperationException", action),
    }
}

fn describe_services(clusters: &mut Clusters, key: &(String, String)) -> Response {
    let Some(mut service) = clusters.services.get(key).cloned() else {
        let failure = json!({"arn": format!("{ARN}:service/{}", key.1), "reason": "MISSING"});
        return json_answer(200, &json!({"services": [], "failures": [failure]}));
    };
    clusters.go_on(&key.1, &mut service);
    let shown = service.shown(key);
    clusters.services.insert(key.clone(), service);
    json_answer(200, &json!({"services": [shown], "failures": []}))
}

fn update_service(clusters: &mut Clusters, key: &(String, String), body: &Value) -> Response {
    let Some(mut service) = clusters.services.get(key).cloned() else {
        return error(400, "ServiceNotFoundException", "Service not found.");
    };
    let Some(revision) = clusters.definition(text(body, "/taskDefinition")).map(|known| text(known, "/taskDefinitionArn").to_owned())
    else {
        return error(400, "ClientException", "TaskDefinition not found.");
    };
    let forced = body.get("forceNewDeployment") == Some(&json!(true));
    let is_other = service.deployments.first().is_none_or(|newest| newest.revision != revision);
    if (is_other || forced) && clusters.mood != EcsMood::Ignores {
        let deployment = clusters.begin(&revision);
        service.deployments.insert(0, deployment);
    }
    let shown = service.shown(key);
    clusters.services.insert(key.clone(), service);
    json_answer(200, &json!({"service": shown}))
}

fn described(definition: Option<&Value>) -> Response {
    let Some(mut definition) = definition.cloned() else {
        return error(400, "ClientException", "Unable to describe task definition.");
    };
    let tags = definition.as_object_mut().and_then(|map| map.shift_remove("tags")).unwrap_or_else(|| json!([]));
    json_answer(200, &json!({"taskDefinition": definition, "tags": tags}))
}

fn register(clusters: &mut Clusters, body: &Value) -> Response {
    if let Some(field) = READ_ONLY.iter().find(|field| body.get(**field).is_some()) {
        return error(400, "InvalidParameterException", &format!("{field} cannot be given"));
    }
    if list(body, "/containerDefinitions").next().is_none() {
        return error(400, "ClientException", "Container list cannot be empty.");
    }
    let arn = clusters.register(body.clone());
    described(clusters.definition(&arn))
}

fn list_tasks(clusters: &Clusters, key: &(String, String), body: &Value) -> Response {
    let group = format!("service:{}", key.1);
    let wanted = body.get("desiredStatus").and_then(Value::as_str).unwrap_or("RUNNING");
    let of_service = clusters.tasks.iter().filter(|task| text(task, "/group") == group && text(task, "/desiredStatus") == wanted);
    let all: Vec<&str> = of_service.map(|task| text(task, "/taskArn")).collect();
    // One at a time, so that whoever forgets the next page is found out.
    let start: usize = text(body, "/nextToken").parse().unwrap_or(0);
    let size = if wanted == "RUNNING" { 1 } else { 100 };
    let page: Vec<&str> = all.iter().copied().skip(start).take(size).collect();
    let end = start + page.len();
    let mut shown = json!({"taskArns": page});
    if end < all.len() {
        set(&mut shown, &["nextToken"], json!(end.to_string()));
    }
    json_answer(200, &shown)
}

fn describe_tasks(clusters: &mut Clusters, body: &Value) -> Response {
    let wanted: Vec<&str> = list(body, "/tasks").filter_map(Value::as_str).collect();
    if wanted.is_empty() {
        return error(400, "InvalidParameterException", "Tasks cannot be empty.");
    }
    let exit = clusters.task_exit;
    let mut shown = Vec::new();
    for task in clusters.tasks.iter_mut().filter(|task| wanted.iter().any(|name| is_named(task, name))) {
        if text(task, "/startedBy") == "tidegate" {
            walk(task, exit);
        }
        shown.push(task.clone());
    }
    json_answer(200, &json!({"tasks": shown, "failures": []}))
}

/// By its ARN or its id.
fn is_named(task: &Value, name: &str) -> bool {
    let arn = text(task, "/taskArn");
    arn == name || arn.rsplit('/').next() == Some(name)
}

/// A task that runs to its end, one look later.
fn walk(task: &mut Value, exit: Option<i64>) {
    let next = match (text(task, "/lastStatus"), exit) {
        ("PROVISIONING", _) => "PENDING",
        ("PENDING", _) => "RUNNING",
        ("RUNNING", Some(code)) => {
            set_first(task, "exitCode", json!(code));
            set_first(task, "lastStatus", json!("STOPPED"));
            set(task, &["stoppedReason"], json!("Essential container in task exited"));
            set(task, &["desiredStatus"], json!("STOPPED"));
            "STOPPED"
        }
        (_, _) => return,
    };
    set(task, &["lastStatus"], json!(next));
}

fn run_task(clusters: &mut Clusters, body: &Value) -> Response {
    clusters.runs.push(body.clone());
    let token = text(body, "/clientToken").to_owned();
    let known = clusters.tasks.iter().find(|task| !token.is_empty() && text(task, "/clientToken") == token);
    if let Some(known) = known {
        return json_answer(200, &json!({"tasks": [known], "failures": []}));
    }
    let mut task = clusters.task(text(body, "/taskDefinition"), "");
    for (field, value) in [
        ("startedBy", json!(text(body, "/startedBy"))),
        ("clientToken", json!(token)),
        ("lastStatus", json!("PROVISIONING")),
        ("group", json!("family:task")),
    ] {
        set(&mut task, &[field], value);
    }
    clusters.tasks.push(task.clone());
    json_answer(200, &json!({"tasks": [task], "failures": []}))
}

fn stop_task(clusters: &mut Clusters, body: &Value) -> Response {
    let wanted = text(body, "/task");
    let Some(task) = clusters.tasks.iter_mut().find(|task| is_named(task, wanted)) else {
        return error(400, "InvalidParameterException", "The referenced task was not found.");
    };
    for (field, value) in
        [("lastStatus", json!("STOPPED")), ("desiredStatus", json!("STOPPED")), ("stoppedReason", json!(text(body, "/reason")))]
    {
        set(task, &[field], value);
    }
    json_answer(200, &json!({"task": task}))
}

/// Answers a request to CloudWatch Logs: one line more with each token.
pub fn lines(world: &mut World, action: &str, body: &Value) -> Response {
    if action != "GetLogEvents" {
        return error(400, "UnknownOperationException", action);
    }
    let task = text(body, "/logStreamName").rsplit('/').next().unwrap_or_default().to_owned();
    let is_known = world.ecs.tasks.iter().any(|known| text(known, "/taskArn").ends_with(&task));
    if !is_known || text(body, "/logGroupName") != "/ecs/web" {
        return error(400, "ResourceNotFoundException", "The specified log stream does not exist.");
    }
    let at: usize = text(body, "/nextToken").trim_start_matches("f/").parse().unwrap_or(0);
    let shown: Vec<Value> =
        world.ecs.lines.get(at).map(|line| json!({"timestamp": 1, "message": line, "ingestionTime": 2})).into_iter().collect();
    let next = at + shown.len();
    json_answer(200, &json!({"events": shown, "nextForwardToken": format!("f/{next}"), "nextBackwardToken": "b/0"}))
}
