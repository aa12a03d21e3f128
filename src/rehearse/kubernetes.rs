//! The pretend cluster: apps/v1 workloads that roll out over a moment, their pods, events and logs, and watches.

use super::sandbox::{Asked, ClusterMood, Shared, World, json_answer};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A moment of a rollout: observed, pods made, pods ready.
const MOMENT: Duration = Duration::from_millis(20);

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
    /// What the user may not do, as "patch deployments".
    pub denied: Vec<String>,
    /// The image that workloads run before anything was deployed.
    pub first_image: String,
}

impl Cluster {
    fn put(&mut self, plural: &str, namespace: &str, mut object: Value) {
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

    fn remove(&mut self, plural: &str, namespace: &str, name: &str) {
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
        for index in 0..2 {
            self.put("pods", namespace, pod(&object, &format!("{name}-old-{index}"), PodState::Running));
        }
    }

    /// The image that a workload's first container is to run.
    pub fn image_of(&self, plural: &str, namespace: &str, name: &str) -> Option<String> {
        let object = self.objects.get(&(plural.to_owned(), namespace.to_owned(), name.to_owned()))?;
        object.pointer("/spec/template/spec/containers/0/image")?.as_str().map(str::to_owned)
    }
}

fn kind_of(plural: &str) -> &'static str {
    match plural {
        "deployments" => "Deployment",
        "statefulsets" => "StatefulSet",
        "daemonsets" => "DaemonSet",
        "pods" => "Pod",
        _events => "Event",
    }
}

fn set_status(object: &mut Value, updated: u64, ready: u64) {
    let generation = object.pointer("/metadata/generation").cloned().unwrap_or_else(|| json!(1));
    let revision = if updated >= 2 { "new" } else { "old" };
    let status = json!({
        "observedGeneration": generation, "replicas": 2, "updatedReplicas": updated, "availableReplicas": ready, "readyReplicas": ready,
        "currentRevision": revision, "updateRevision": "new", "conditions": [],
        "desiredNumberScheduled": 2, "updatedNumberScheduled": updated, "numberAvailable": ready,
        "currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": ready,
    });
    if let Some(map) = object.as_object_mut() {
        map.insert("status".into(), status);
    }
}

enum PodState {
    Running,
    Unready,
    Waiting(&'static str, &'static str),
    Crashing,
    Unschedulable,
}

/// A pod of the workload's present template. The node reports the digest that the reference names.
fn pod(workload: &Value, name: &str, state: PodState) -> Value {
    let empty = Vec::new();
    let containers = workload.pointer("/spec/template/spec/containers").and_then(Value::as_array).unwrap_or(&empty);
    let text = |container: &Value, field: &str| container.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let statuses: Vec<Value> = containers
        .iter()
        .map(|container| {
            let image = text(container, "image");
            let (waiting, restarts, last, ready) = match &state {
                PodState::Running => (None, 0, json!({}), true),
                PodState::Unready | PodState::Unschedulable => (None, 0, json!({}), false),
                PodState::Waiting(reason, message) => (Some(json!({"reason": reason, "message": message})), 0, json!({}), false),
                PodState::Crashing => {
                    let ended = json!({"terminated": {"exitCode": 3, "reason": "Error"}});
                    (Some(json!({"reason": "CrashLoopBackOff", "message": "back-off 10s"})), 2, ended, false)
                }
            };
            let now = match waiting {
                Some(waiting) => json!({"waiting": waiting}),
                None => json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}),
            };
            json!({
                "name": text(container, "name"), "image": image, "imageID": image, "ready": ready, "restartCount": restarts,
                "state": now, "lastState": last,
            })
        })
        .collect();
    let conditions = match state {
        PodState::Unschedulable => {
            json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient memory."}])
        }
        PodState::Running | PodState::Unready | PodState::Waiting(..) | PodState::Crashing => {
            json!([{"type": "PodScheduled", "status": "True"}])
        }
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "uid": format!("uid-{name}"), "labels": workload.pointer("/spec/template/metadata/labels"),
            "ownerReferences": [owner(workload)],
        },
        "spec": {"containers": containers},
        "status": {"phase": "Running", "containerStatuses": statuses, "conditions": conditions},
    })
}

/// As the controllers make pods: a Deployment's through a ReplicaSet.
fn owner(workload: &Value) -> Value {
    let kind = workload.pointer("/kind").and_then(Value::as_str).unwrap_or_default();
    let name = workload.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let (kind, name) = if kind == "Deployment" { ("ReplicaSet", format!("{name}-5d4f")) } else { (kind, name.to_owned()) };
    json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": format!("uid-{name}"), "controller": true})
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
    let (namespace, plural, name, sub) = match parts.as_slice() {
        ["apis", "apps", "v1", "namespaces", namespace, plural, rest @ ..] | ["api", "v1", "namespaces", namespace, plural, rest @ ..] => {
            (*namespace, *plural, rest.first().copied(), rest.get(1).copied())
        }
        _other => return status(404, "NotFound", "the server could not find the requested resource"),
    };
    match (asked.method.as_str(), name, sub) {
        ("GET", None, _) if asked.parameter("watch").as_deref() == Some("true") => watch(shared, asked, plural, namespace),
        ("GET", None, _) => list(&shared.world(), asked, plural, namespace),
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

fn status(code: u16, reason: &str, message: &str) -> Response {
    json_answer(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code}),
    )
}

fn get(world: &mut World, plural: &str, namespace: &str, name: &str) -> Response {
    let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
    if world.generous && !world.cluster.objects.contains_key(&key) && plural != "pods" {
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
    by_label && by_field
}

fn list(world: &World, asked: &Asked, plural: &str, namespace: &str) -> Response {
    let objects = world.cluster.objects.iter().filter(|((p, n, _), object)| p == plural && n == namespace && selected(asked, object));
    let items: Vec<&Value> = objects.map(|(_, object)| object).collect();
    let version = if plural == "pods" || plural == "events" { "v1" } else { "apps/v1" };
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
fn merge(object: &mut Value, patch: &Value) {
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
            (Some(old @ Value::Object(_)), Value::Object(_)) => merge(old, value),
            (Some(_) | None, _) => {
                object.insert(key.clone(), value.clone());
            }
        }
    }
}

/// What the controllers of a real cluster would do, in a few moments.
#[allow(clippy::disallowed_methods)] // the pretend cluster's own time, not ours
async fn roll_out(shared: Arc<Shared>, mood: ClusterMood, key: (String, String, String)) {
    if mood == ClusterMood::NeverObserves || mood == ClusterMood::KeepsTemplate {
        return;
    }
    for moment in 0..3 {
        tokio::time::sleep(MOMENT).await;
        advance(&mut shared.world(), mood, &key, moment);
        shared.changed.notify_waiters();
    }
}

fn advance(world: &mut World, mood: ClusterMood, key: &(String, String, String), moment: u32) {
    let (plural, namespace, name) = key;
    let Some(mut object) = world.cluster.objects.get(key).cloned() else { return };
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(1);
    let fresh = |index: usize| format!("{name}-{generation}-{index}");
    let cluster = &mut world.cluster;
    match (moment, mood) {
        (0, _) => set_status(&mut object, 0, 2),
        (1, ClusterMood::Quota) => {
            let message =
                "pods \"web\" is forbidden: exceeded quota: compute, requested: memory=2Gi, used: memory=7Gi, limited: memory=8Gi";
            cluster.put("events", namespace, event(namespace, ("ReplicaSet", &format!("{name}-x")), "FailedCreate", message));
            return;
        }
        (1, _) => {
            set_status(&mut object, 1, 2);
            make_pods(cluster, mood, &object, (namespace, &fresh));
        }
        (_, ClusterMood::Honest | ClusterMood::KeepsPods) => {
            set_status(&mut object, 2, 2);
            let prefix = format!("{name}-");
            let current = format!("{name}-{generation}-");
            let old: Vec<String> = cluster
                .objects
                .keys()
                .filter(|(p, n, pod)| p == "pods" && n == namespace && pod.starts_with(&prefix) && !pod.starts_with(&current))
                .map(|(_, _, pod)| pod.clone())
                .collect();
            old.iter().for_each(|pod| cluster.remove("pods", namespace, pod));
        }
        (_, ClusterMood::Probe) if plural == "deployments" => {
            let condition = json!({"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "ReplicaSet has timed out progressing."});
            if let Some(conditions) = object.pointer_mut("/status/conditions") {
                *conditions = json!([condition]);
            }
        }
        _stuck => return,
    }
    cluster.put(plural, namespace, object);
}

/// The pods of the new template, as the mood has them.
fn make_pods(cluster: &mut Cluster, mood: ClusterMood, object: &Value, (namespace, fresh): (&str, &dyn Fn(usize) -> String)) {
    let state = || match mood {
        ClusterMood::ImagePull => PodState::Waiting("ImagePullBackOff", "Back-off pulling image: manifest unknown"),
        ClusterMood::ContainerConfig => PodState::Waiting("CreateContainerConfigError", "secret \"web\" not found"),
        ClusterMood::CrashLoop => PodState::Crashing,
        ClusterMood::Unschedulable => PodState::Unschedulable,
        ClusterMood::Probe => PodState::Unready,
        ClusterMood::Honest | ClusterMood::KeepsTemplate | ClusterMood::KeepsPods | ClusterMood::NeverObserves | ClusterMood::Quota => {
            PodState::Running
        }
    };
    for index in 0..2 {
        let mut made = pod(object, &fresh(index), state());
        if mood == ClusterMood::KeepsPods {
            let old = cluster.first_image.clone();
            if let Some(id) = made.pointer_mut("/status/containerStatuses/0/imageID") {
                *id = json!(old);
            }
        }
        cluster.put("pods", namespace, made);
    }
    if mood == ClusterMood::Probe {
        cluster.put(
            "events",
            namespace,
            event(namespace, ("Pod", &fresh(0)), "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503"),
        );
    }
}

fn event(namespace: &str, (kind, name): (&str, &str), reason: &str, message: &str) -> Value {
    let now = jiff::Timestamp::now().to_string();
    let now = now.split('.').next().map_or(now.clone(), |whole| format!("{}Z", whole.trim_end_matches('Z')));
    json!({
        "apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": reason, "message": message, "lastTimestamp": now, "count": 1,
        "metadata": {"name": format!("{name}.{reason}")}, "involvedObject": {"kind": kind, "name": name, "namespace": namespace},
    })
}
