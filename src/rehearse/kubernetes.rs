//! The pretend cluster: apps/v1 workloads that roll out over a moment, their pods, events and logs, and watches.

use super::kubernetes_objects;
use super::kubernetes_rollout::{PodState, pod, record_revision, roll_out, set_status};
use super::sandbox::{Asked, ClusterMood, Shared, World, json_answer};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The objects of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Objects by plural, namespace and name.
    pub objects: BTreeMap<(String, String, String), Value>,
    /// Every change: version, plural, namespace, type, object.
    changes: Vec<(u64, String, String, &'static str, Value)>,
    version: u64,
    /// The last lines of every pod's log.
    pub log: String,
    /// Every change of a template, in order: which lease it was made under, and the first container's image.
    pub switches: Vec<(String, String)>,
    /// Digests of images that are named without one, as a registry knows them.
    pub digests: BTreeMap<String, String>,
    /// Lists whose deletions are confirmed and forgotten.
    pub keeps: Vec<String>,
    /// Fields that another manager owns: an apply of an object of this name conflicts.
    pub owned: Vec<String>,
    /// How Jobs end: their exit code, or none where they never end.
    pub job_exit: Option<i32>,
    /// What the user may not do, as "patch deployments".
    pub denied: Vec<String>,
    /// The image that workloads run before anything was deployed.
    pub first_image: String,
}

impl Cluster {
    pub(super) fn put(&mut self, plural: &str, namespace: &str, mut object: Value) {
        self.version += 1;
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(metadata) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".into(), json!(self.version.to_string()));
            metadata.insert("namespace".into(), json!(namespace));
        }
        let key = (plural.to_owned(), namespace.to_owned(), name);
        let kind = if self.objects.insert(key, object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        self.changes.push((self.version, plural.to_owned(), namespace.to_owned(), kind, object));
    }

    pub(super) fn remove(&mut self, plural: &str, namespace: &str, name: &str) {
        self.version += 1;
        if let Some(object) = self.objects.remove(&(plural.to_owned(), namespace.to_owned(), name.to_owned())) {
            self.changes.push((self.version, plural.to_owned(), namespace.to_owned(), "DELETED", object));
        }
    }

    /// Adds a workload that runs this image on two pods. Several containers are given as name=image.
    pub fn add_workload(&mut self, plural: &str, namespace: &str, name: &str, containers: &[(&str, &str)]) {
        let labels = json!({"app": name});
        let listed: Vec<Value> = containers.iter().map(|(name, image)| json!({"name": name, "image": image})).collect();
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": kind_of(plural),
            "metadata": {"name": name, "uid": format!("uid-{name}"), "generation": 1},
            "spec": {
                "replicas": 2, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": listed}},
            },
        });
        set_status(&mut object, 2, 2);
        self.put(plural, namespace, object.clone());
        record_revision(self, plural, namespace, &object, 2);
        for index in 0..2 {
            self.put("pods", namespace, pod(&object, &format!("{name}-old-{index}"), PodState::Running));
        }
    }

    /// The mood is about what is new: what ran before runs well again.
    pub(super) fn mood_for(&self, mood: ClusterMood, (plural, namespace, name): &(String, String, String)) -> ClusterMood {
        let image = self.image_of(plural, namespace, name);
        if image.as_deref() == Some(self.first_image.as_str()) { ClusterMood::Honest } else { mood }
    }

    /// Whether a StatefulSet has a pod of an older template that never became ready: nothing goes on until it is deleted.
    pub(super) fn is_wedged(&self, plural: &str, namespace: &str, name: &str, generation: i64) -> bool {
        let current = format!("{name}-{generation}-");
        let stuck = |pod: &Value| pod.pointer("/status/conditions/0/status").and_then(Value::as_str) == Some("False");
        plural == "statefulsets"
            && self.objects.iter().any(|((p, n, pod), object)| {
                p == "pods" && n == namespace && pod.starts_with(&format!("{name}-")) && !pod.starts_with(&current) && stuck(object)
            })
    }

    /// The image that a workload's first container is to run.
    pub fn image_of(&self, plural: &str, namespace: &str, name: &str) -> Option<String> {
        let object = self.objects.get(&(plural.to_owned(), namespace.to_owned(), name.to_owned()))?;
        object.pointer("/spec/template/spec/containers/0/image")?.as_str().map(str::to_owned)
    }
}

pub(super) fn kind_of(plural: &str) -> &'static str {
    match plural {
        "deployments" => "Deployment",
        "statefulsets" => "StatefulSet",
        "daemonsets" => "DaemonSet",
        "pods" => "Pod",
        "replicasets" => "ReplicaSet",
        "controllerrevisions" => "ControllerRevision",
        "jobs" => "Job",
        "configmaps" => "ConfigMap",
        "namespaces" => "Namespace",
        "services" => "Service",
        "ingresses" => "Ingress",
        "clusterroles" => "ClusterRole",
        _events => "Event",
    }
}

/// Answers a request below /kube.
pub fn answer(shared: &Arc<Shared>, asked: &Asked) -> Response {
    let path = asked.path.strip_prefix("/kube").unwrap_or_default();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    // A signed address, as EKS takes it, or the kubeconfig's token.
    let token = asked.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
    if token != "sandbox-token" && !token.starts_with("k8s-aws-v1.") {
        return status(401, "Unauthorized", "Unauthorized");
    }
    if asked.method == "POST" && parts.as_slice() == ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"] {
        return review(&shared.world(), asked);
    }
    if let Some(answer) = kubernetes_objects::answer(shared, asked, &parts) {
        return answer;
    }
    if let ("GET", ["api", "v1", plural]) = (asked.method.as_str(), parts.as_slice()) {
        return list(&shared.world(), asked, plural, None);
    }
    let (namespace, plural, name, sub) = match parts.as_slice() {
        ["apis", _, _, "namespaces", namespace, plural, rest @ ..] | ["api", "v1", "namespaces", namespace, plural, rest @ ..] => {
            (*namespace, *plural, rest.first().copied(), rest.get(1).copied())
        }
        _other => return status(404, "NotFound", "the server could not find the requested resource"),
    };
    match (asked.method.as_str(), name, sub) {
        ("GET", None, _) if asked.parameter("watch").as_deref() == Some("true") => watch(shared, asked, plural, namespace),
        ("GET", None, _) => list(&shared.world(), asked, plural, Some(namespace)),
        ("GET", Some(_), Some("log")) => shared.world().cluster.log.clone().into_response(),
        ("GET", Some(name), None) => get(&mut shared.world(), plural, namespace, name),
        ("PATCH", Some(name), None) => patch(shared, asked, (plural, namespace, name)),
        _other => status(405, "MethodNotAllowed", "the server does not allow this method"),
    }
}

/// What this user may do: all but what the sandbox was told to deny, as "patch deployments".
fn review(world: &World, asked: &Asked) -> Response {
    let mut body = asked.json();
    let text =
        |name: &str| body.pointer(&format!("/spec/resourceAttributes/{name}")).and_then(Value::as_str).unwrap_or_default().to_owned();
    let wanted = format!("{} {}", text("verb"), text("resource"));
    let allowed = !world.cluster.denied.contains(&wanted);
    if let Some(map) = body.as_object_mut() {
        map.insert("status".into(), json!({"allowed": allowed}));
    }
    json_answer(201, &body)
}

pub(super) fn status(code: u16, reason: &str, message: &str) -> Response {
    json_answer(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code}),
    )
}

fn get(world: &mut World, plural: &str, namespace: &str, name: &str) -> Response {
    let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
    let is_workload = matches!(plural, "deployments" | "statefulsets" | "daemonsets");
    if world.generous && !world.cluster.objects.contains_key(&key) && is_workload {
        let image = world.cluster.first_image.clone();
        world.cluster.add_workload(plural, namespace, name, &[(name, &image)]);
    }
    match world.cluster.objects.get(&key) {
        Some(object) => json_answer(200, object),
        None => status(404, "NotFound", &format!("{plural}.apps \"{name}\" not found")),
    }
}

fn selected(asked: &Asked, object: &Value) -> bool {
    let labels = asked.parameter("labelSelector").unwrap_or_default();
    let by_label = labels
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .all(|(name, value)| object.pointer("/metadata/labels").and_then(|labels| labels.get(name)).and_then(Value::as_str) == Some(value));
    let fields = asked.parameter("fieldSelector").unwrap_or_default();
    let by_field = fields
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .all(|(name, value)| object.pointer(&format!("/{}", name.replace('.', "/"))).and_then(Value::as_str) == Some(value));
    let labelled = |name: &str| object.pointer("/metadata/labels").and_then(|labels| labels.get(name)).is_some();
    let exists = labels.split(',').filter(|label| !label.is_empty() && !label.contains('=')).all(labelled);
    by_label && by_field && exists
}

/// Of one namespace, or of the whole cluster.
fn list(world: &World, asked: &Asked, plural: &str, namespace: Option<&str>) -> Response {
    if namespace.is_none() && world.cluster.denied.contains(&format!("list {plural}")) {
        return status(
            403,
            "Forbidden",
            &format!("{plural} is forbidden: User \"ci\" cannot list resource \"{plural}\" at the cluster scope"),
        );
    }
    let is_there = |known: &String| namespace.is_none_or(|namespace| known == namespace);
    let objects = world.cluster.objects.iter().filter(|((p, n, _), object)| p == plural && is_there(n) && selected(asked, object));
    let items: Vec<&Value> = objects.map(|(_, object)| object).collect();
    let version = match plural {
        "pods" | "events" | "configmaps" | "namespaces" => "v1",
        "jobs" => "batch/v1",
        _apps => "apps/v1",
    };
    json_answer(
        200,
        &json!({
            "apiVersion": version, "kind": format!("{}List", kind_of(plural)),
            "metadata": {"resourceVersion": world.cluster.version.to_string()}, "items": items,
        }),
    )
}

fn watch(shared: &Arc<Shared>, asked: &Asked, plural: &str, namespace: &str) -> Response {
    let from: u64 = asked.parameter("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
    let selector = Asked {
        method: String::new(),
        path: String::new(),
        query: asked.query.clone(),
        headers: axum::http::HeaderMap::new(),
        body: bytes::Bytes::new(),
    };
    let state = (shared.clone(), from, plural.to_owned(), namespace.to_owned(), Arc::new(selector));
    let events = stream::unfold(state, |(shared, seen, plural, namespace, selector)| async move {
        loop {
            let changed = shared.changed.notified();
            let found = {
                let world = shared.world();
                let newer =
                    world.cluster.changes.iter().filter(|(version, p, n, _, object)| {
                        *version > seen && *p == plural && *n == namespace && selected(&selector, object)
                    });
                let lines: Vec<(u64, String)> = newer
                    .map(|(version, _, _, kind, object)| (*version, format!("{}\n", json!({"type": kind, "object": object}))))
                    .collect();
                lines
            };
            if let Some((last, _)) = found.last() {
                let seen = *last;
                let text: String = found.into_iter().map(|(_, line)| line).collect();
                let next = (shared.clone(), seen, plural, namespace, selector);
                return Some((Ok::<_, std::convert::Infallible>(text), next));
            }
            let _again = tokio::time::timeout(Duration::from_millis(500), changed).await;
        }
    });
    ([("content-type", "application/json")], Body::from_stream(events)).into_response()
}

fn patch(shared: &Arc<Shared>, asked: &Asked, (plural, namespace, name): (&str, &str, &str)) -> Response {
    let mut world = shared.world();
    let mood = world.mood;
    let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
    let Some(mut object) = world.cluster.objects.get(&key).cloned() else { return status(404, "NotFound", "not found") };
    let mut wanted = asked.json();
    let version = wanted.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned);
    if version.is_some() && version.as_deref() != object.pointer("/metadata/resourceVersion").and_then(Value::as_str) {
        return status(409, "Conflict", "the object has been modified; please apply your changes to the latest version and try again");
    }
    if wanted.get("spec").is_none() {
        merge(&mut object, &wanted); // an annotation starts no rollout
        world.cluster.put(plural, namespace, object.clone());
        drop(world);
        shared.changed.notify_waiters();
        return json_answer(200, &object);
    }
    if mood == ClusterMood::KeepsTemplate {
        wanted = json!({"metadata": wanted.get("metadata")});
        merge(&mut object, &wanted);
    } else {
        merge(&mut object, &wanted);
        let generation = object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(1) + 1;
        if let Some(metadata) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
            metadata.insert("generation".into(), json!(generation));
        }
    }
    let text = |pointer: &str| wanted.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let switch = (text("/metadata/annotations/tidegate.dev~1lease"), text("/spec/template/spec/containers/0/image"));
    world.cluster.switches.push(switch);
    world.cluster.put(plural, namespace, object.clone());
    drop(world);
    shared.changed.notify_waiters();
    tokio::spawn(roll_out(shared.clone(), mood, key));
    json_answer(200, &object)
}

/// Strategic merge, as far as images and annotations need it: containers are merged by name.
pub(super) fn merge(object: &mut Value, patch: &Value) {
    let (Some(object), Some(patch)) = (object.as_object_mut(), patch.as_object()) else { return };
    for (key, value) in patch {
        let by_name = matches!(key.as_str(), "containers" | "initContainers");
        match (object.get_mut(key), value) {
            (Some(Value::Array(old)), Value::Array(new)) if by_name => {
                for entry in new {
                    match old.iter_mut().find(|known| known.get("name") == entry.get("name")) {
                        Some(known) => merge(known, entry),
                        None => old.push(entry.clone()),
                    }
                }
            }
            (Some(old @ Value::Object(_)), Value::Object(new)) if new.contains_key("$patch") => {
                *old = value.clone();
                old.as_object_mut().map(|old| old.remove("$patch"));
            }
            (Some(old @ Value::Object(_)), Value::Object(_)) => merge(old, value),
            (Some(_) | None, _) => {
                object.insert(key.clone(), value.clone());
            }
        }
    }
}
