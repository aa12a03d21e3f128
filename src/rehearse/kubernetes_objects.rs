//! The pretend cluster's other objects: discovery, server-side apply, namespaces, deletions, and Jobs that end.

use super::kubernetes::{kind_of, merge, status};
use super::kubernetes_rollout::{PodState, pod, record_revision, roll_out, set_status};
use super::sandbox::{Asked, Shared, World, json_answer};
use crate::targets::set;
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// What the cluster knows: group, version, plural, whether it is in a namespace.
const KINDS: [(&str, &str, &str, bool); 10] = [
    ("", "v1", "pods", true),
    ("", "v1", "configmaps", true),
    ("", "v1", "services", true),
    ("", "v1", "namespaces", false),
    ("apps", "v1", "deployments", true),
    ("apps", "v1", "statefulsets", true),
    ("apps", "v1", "daemonsets", true),
    ("batch", "v1", "jobs", true),
    ("networking.k8s.io", "v1", "ingresses", true),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", false),
];

/// The answer, if the request is about these.
pub fn answer(shared: &Arc<Shared>, asked: &Asked, parts: &[&str]) -> Option<Response> {
    Some(match (asked.method.as_str(), parts) {
        ("GET", ["api"]) => json_answer(200, &json!({"kind": "APIVersions", "versions": ["v1"]})),
        ("GET", ["apis"]) => groups(),
        ("GET", ["api", "v1"]) => discovery("", "v1"),
        ("GET", ["apis", group, version]) => discovery(group, version),
        ("GET", ["api", "v1", "namespaces", name]) => namespace(&mut shared.world(), name),
        ("POST", ["api", "v1", "namespaces"]) => make_namespace(&mut shared.world(), asked),
        ("DELETE", ["api", "v1", "namespaces", name]) => delete_namespace(&mut shared.world(), name),
        ("PATCH", ["api", "v1", "namespaces", namespace, plural, name] | ["apis", _, _, "namespaces", namespace, plural, name])
            if is_apply(asked) =>
        {
            apply(shared, asked, (plural, namespace, name))
        }
        ("PATCH", ["apis", _, _, plural, name]) if is_apply(asked) => apply(shared, asked, (plural, "", name)),
        ("POST", ["apis", "batch", "v1", "namespaces", namespace, "jobs"]) => make_job(shared, asked, namespace),
        ("DELETE", ["api", "v1", "namespaces", namespace, "pods", name]) => delete_pod(shared, namespace, name),
        ("DELETE", ["api", "v1", "namespaces", namespace, plural, name] | ["apis", _, _, "namespaces", namespace, plural, name]) => {
            delete(&mut shared.world(), (plural, namespace, name))
        }
        _other => return None,
    })
}

fn is_apply(asked: &Asked) -> bool {
    asked.header("content-type").starts_with("application/apply-patch")
}

fn groups() -> Response {
    let mut groups: Vec<&str> = KINDS.iter().map(|(group, _, _, _)| *group).filter(|group| !group.is_empty()).collect();
    groups.dedup();
    let shown: Vec<Value> = groups
        .iter()
        .map(|group| {
            let version = json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
            json!({"name": group, "versions": [version], "preferredVersion": version})
        })
        .collect();
    json_answer(200, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": shown}))
}

fn discovery(group: &str, version: &str) -> Response {
    let known: Vec<Value> = KINDS
        .iter()
        .filter(|(g, v, _, _)| *g == group && *v == version)
        .map(|(_, _, plural, namespaced)| {
            json!({"name": plural, "singularName": "", "namespaced": namespaced, "kind": kind_of(plural), "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"]})
        })
        .collect();
    if known.is_empty() {
        return status(404, "NotFound", "the server could not find the requested resource");
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json_answer(200, &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": known}))
}

/// Namespaces are there when something is in them, or when they were made.
fn namespace(world: &mut World, name: &str) -> Response {
    let key = ("namespaces".to_owned(), String::new(), name.to_owned());
    if let Some(made) = world.cluster.objects.get(&key) {
        return json_answer(200, made);
    }
    if world.cluster.objects.keys().any(|(_, namespace, _)| namespace == name) {
        return json_answer(
            200,
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "uid": format!("uid-{name}"), "labels": {}}}),
        );
    }
    status(404, "NotFound", &format!("namespaces \"{name}\" not found"))
}

fn make_namespace(world: &mut World, asked: &Asked) -> Response {
    let mut object = asked.json();
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    set(&mut object, &["metadata", "uid"], json!(format!("uid-{name}")));
    world.cluster.put("namespaces", "", object.clone());
    json_answer(201, &object)
}

fn delete_namespace(world: &mut World, name: &str) -> Response {
    if world.cluster.keeps.iter().any(|list| list == "namespaces") {
        return json_answer(200, &json!({"kind": "Status", "status": "Success"}));
    }
    let inside: Vec<(String, String)> = world
        .cluster
        .objects
        .keys()
        .filter(|(_, namespace, _)| namespace == name)
        .map(|(plural, _, name)| (plural.clone(), name.clone()))
        .collect();
    inside.iter().for_each(|(plural, object)| world.cluster.remove(plural, name, object));
    world.cluster.remove("namespaces", "", name);
    json_answer(200, &json!({"kind": "Status", "status": "Success"}))
}

fn delete(world: &mut World, (plural, namespace, name): (&str, &str, &str)) -> Response {
    let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
    if !world.cluster.objects.contains_key(&key) {
        return status(404, "NotFound", "not found");
    }
    if !world.cluster.keeps.iter().any(|list| list == plural) {
        world.cluster.remove(plural, namespace, name);
        let prefix = format!("{name}-");
        let pods: Vec<String> = world
            .cluster
            .objects
            .keys()
            .filter(|(p, n, pod)| p == "pods" && n == namespace && pod.starts_with(&prefix))
            .map(|(_, _, pod)| pod.clone())
            .collect();
        pods.iter().for_each(|pod| world.cluster.remove("pods", namespace, pod));
    }
    json_answer(200, &json!({"kind": "Status", "status": "Success"}))
}

/// A pod that is deleted is made again by its workload, from the present template.
fn delete_pod(shared: &Arc<Shared>, namespace: &str, name: &str) -> Response {
    let mut world = shared.world();
    let mood = world.mood;
    let key = ("pods".to_owned(), namespace.to_owned(), name.to_owned());
    let Some(old) = world.cluster.objects.get(&key).cloned() else { return status(404, "NotFound", "not found") };
    world.cluster.remove("pods", namespace, name);
    let owner = old.pointer("/metadata/ownerReferences/0/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let workload = world
        .cluster
        .objects
        .iter()
        .find(|((plural, n, known), _)| n == namespace && *known == owner && plural.ends_with("sets") && plural != "replicasets");
    if let Some((key, object)) = workload.map(|(key, object)| (key.clone(), object.clone())) {
        let on_delete = object.pointer("/spec/updateStrategy/type").and_then(Value::as_str) == Some("OnDelete");
        if on_delete {
            let state = if mood == super::sandbox::ClusterMood::CrashLoop { PodState::Crashing } else { PodState::Running };
            world.cluster.put("pods", namespace, pod(&object, name, state));
            count_updated(&mut world, &key, object);
        } else {
            tokio::spawn(roll_out(shared.clone(), mood, key));
        }
    }
    drop(world);
    shared.changed.notify_waiters();
    json_answer(200, &json!({"kind": "Status", "status": "Success"}))
}

fn count_updated(world: &mut World, (plural, namespace, name): &(String, String, String), mut object: Value) {
    let image = object.pointer("/spec/template/spec/containers/0/image").cloned();
    let prefix = format!("{name}-");
    let updated = world
        .cluster
        .objects
        .iter()
        .filter(|((p, n, pod), known)| {
            p == "pods" && n == namespace && pod.starts_with(&prefix) && known.pointer("/spec/containers/0/image") == image.as_ref()
        })
        .count();
    set_status(&mut object, updated as u64, 2);
    world.cluster.put(plural, namespace, object);
}

/// Server-side apply: fields are merged; those of another manager conflict, unless they are taken by force.
fn apply(shared: &Arc<Shared>, asked: &Asked, (plural, namespace, name): (&str, &str, &str)) -> Response {
    let mut world = shared.world();
    let mood = world.mood;
    let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
    let forced = asked.parameter("force").as_deref() == Some("true");
    if world.cluster.owned.iter().any(|owned| owned == name) && !forced {
        let message = "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using apps/v1: .spec.replicas";
        return status(409, "Conflict", message);
    }
    let wanted = asked.json();
    let before = world.cluster.objects.get(&key).cloned();
    let mut object = before.clone().unwrap_or_else(|| json!({"metadata": {"uid": format!("uid-{name}"), "generation": 1}}));
    merge(&mut object, &wanted);
    let template = |object: &Value| object.pointer("/spec/template").cloned();
    let is_workload = matches!(plural, "deployments" | "statefulsets" | "daemonsets");
    let changes = is_workload && before.as_ref().is_none_or(|before| template(before) != template(&object));
    if changes && before.is_some() {
        let generation = object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(1) + 1;
        set(&mut object, &["metadata", "generation"], json!(generation));
    }
    if asked.parameter("dryRun").is_some() {
        return json_answer(200, &object);
    }
    let keeps = mood == super::sandbox::ClusterMood::KeepsTemplate && is_workload;
    if let (true, Some(before)) = (keeps, &before) {
        object = before.clone();
    }
    world.cluster.put(plural, namespace, object.clone());
    if changes && !keeps {
        record_revision(&mut world.cluster, plural, namespace, &object, 0);
    }
    drop(world);
    shared.changed.notify_waiters();
    if changes {
        tokio::spawn(roll_out(shared.clone(), mood, key));
    }
    json_answer(if before.is_some() { 200 } else { 201 }, &object)
}

/// A Job whose pod runs for a moment and ends as it was told to.
#[allow(clippy::disallowed_methods)] // the pretend cluster's own time, not ours
fn make_job(shared: &Arc<Shared>, asked: &Asked, namespace: &str) -> Response {
    let mut world = shared.world();
    let mut job = asked.json();
    let name = job.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let key = ("jobs".to_owned(), namespace.to_owned(), name.clone());
    if world.cluster.objects.contains_key(&key) {
        return status(409, "AlreadyExists", &format!("jobs.batch \"{name}\" already exists"));
    }
    set(&mut job, &["metadata", "uid"], json!(format!("uid-{name}")));
    set(&mut job, &["status"], json!({"active": 1}));
    world.cluster.put("jobs", namespace, job.clone());
    let exit = if world.generous { Some(0) } else { world.cluster.job_exit };
    world.cluster.put("pods", namespace, job_pod(&job, &name, None));
    drop(world);
    let (shared, namespace, made) = (shared.clone(), namespace.to_owned(), job.clone());
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Some(code) = exit else { return };
        let mut world = shared.world();
        let mut job = made;
        let (kind, reason) = if code == 0 { ("Complete", "") } else { ("Failed", "BackoffLimitExceeded") };
        set(
            &mut job,
            &["status"],
            json!({"conditions": [{"type": kind, "status": "True", "reason": reason, "message": "Job has reached the specified backoff limit"}]}),
        );
        world.cluster.put("pods", &namespace, job_pod(&job, &name, Some(code)));
        world.cluster.put("jobs", &namespace, job);
        drop(world);
        shared.changed.notify_waiters();
    });
    json_answer(201, &job)
}

fn job_pod(job: &Value, name: &str, exit: Option<i32>) -> Value {
    let state = match exit {
        Some(code) => json!({"terminated": {"exitCode": code}}),
        None => json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}),
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{name}-x7k2p"), "labels": {"job-name": name}, "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": format!("uid-{name}"), "controller": true}],
        },
        "spec": job.pointer("/spec/template/spec"),
        "status": {"phase": "Running", "containerStatuses": [{"name": job.pointer("/spec/template/spec/containers/0/name"), "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]},
    })
}
