//! What the controllers of the pretend cluster do: rollouts in a few moments, revisions, pods, events.

use super::kubernetes::{Cluster, kind_of};
use super::sandbox::{ClusterMood, Shared, World};
use crate::targets::set;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// A moment of a rollout: observed, pods made, pods ready.
const MOMENT: Duration = Duration::from_millis(20);

pub(super) fn set_status(object: &mut Value, updated: u64, ready: u64) {
    let generation = object.pointer("/metadata/generation").cloned().unwrap_or_else(|| json!(1));
    let revision = revision(object);
    let before = object.pointer("/status/currentRevision").and_then(Value::as_str).map(str::to_owned);
    let current = if updated >= 2 { revision.clone() } else { before.unwrap_or_else(|| "none".into()) };
    let status = json!({
        "observedGeneration": generation, "replicas": 2, "updatedReplicas": updated, "availableReplicas": ready, "readyReplicas": ready,
        "currentRevision": current, "updateRevision": revision, "conditions": [],
        "desiredNumberScheduled": 2, "updatedNumberScheduled": updated, "numberAvailable": ready,
        "currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": ready,
    });
    if let Some(map) = object.as_object_mut() {
        map.insert("status".into(), status);
    }
}

pub(super) enum PodState {
    Running,
    Unready,
    Waiting(&'static str, &'static str),
    Crashing,
    Unschedulable,
}

/// A pod of the workload's present template. The node reports the digest that the reference names.
pub(super) fn pod(workload: &Value, name: &str, state: PodState) -> Value {
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
    let is_ready = matches!(state, PodState::Running);
    let ready = json!({"type": "Ready", "status": if is_ready { "True" } else { "False" }});
    let conditions = match state {
        PodState::Unschedulable => {
            json!([ready, {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient memory."}])
        }
        PodState::Running | PodState::Unready | PodState::Waiting(..) | PodState::Crashing => {
            json!([ready, {"type": "PodScheduled", "status": "True"}])
        }
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "uid": format!("uid-{name}-{}", crate::report::outputs::random()), "labels": labels(workload),
            "ownerReferences": [owner(workload)],
        },
        "spec": {"containers": containers},
        "status": {"phase": "Running", "containerStatuses": statuses, "conditions": conditions},
    })
}

/// The template's labels, and the revision's.
fn labels(workload: &Value) -> Value {
    let mut labels = workload.pointer("/spec/template/metadata/labels").cloned().unwrap_or_else(|| json!({}));
    set(&mut labels, &["controller-revision-hash"], json!(revision(workload)));
    labels
}

/// The name of the revision that the present template is.
fn revision(workload: &Value) -> String {
    let name = workload.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let template = workload.pointer("/spec/template").map(Value::to_string).unwrap_or_default();
    let hash = crate::registry::oci::digest_of(template.as_bytes());
    format!("{name}-{}", hash.get(7..15).unwrap_or_default())
}

/// Writes the present template down as a revision, as the controllers do: the newest number, and how many of its pods serve.
pub(super) fn record_revision(cluster: &mut Cluster, plural: &str, namespace: &str, object: &Value, serving: u64) {
    let list = if plural == "deployments" { "replicasets" } else { "controllerrevisions" };
    let own = object.pointer("/metadata/uid").cloned().unwrap_or(Value::Null);
    let is_own = |known: &Value| known.pointer("/metadata/ownerReferences/0/uid") == Some(&own);
    let number = |known: &Value| match list {
        "replicasets" => {
            known.pointer("/metadata/annotations/deployment.kubernetes.io~1revision").and_then(|text| text.as_str()?.parse().ok())
        }
        _revisions => known.get("revision").and_then(Value::as_u64),
    };
    let all: Vec<Value> = cluster
        .objects
        .iter()
        .filter(|((p, n, _), known)| p == list && n == namespace && is_own(known))
        .map(|(_, known)| known.clone())
        .collect();
    let newest = all.iter().filter_map(&number).max().unwrap_or(0);
    let name = revision(object);
    let there = all.iter().find(|known| known.pointer("/metadata/name").and_then(Value::as_str) == Some(name.as_str()));
    let count = match there.and_then(&number) {
        Some(count) if count == newest => count,
        Some(_) | None => newest + 1,
    };
    let metadata = json!({
        "name": name, "labels": labels(object), "ownerReferences": [{"apiVersion": "apps/v1", "kind": kind_of(plural), "name": object.pointer("/metadata/name"), "uid": own, "controller": true}],
        "annotations": {"deployment.kubernetes.io/revision": count.to_string()},
    });
    let template = object.pointer("/spec/template").cloned().unwrap_or(Value::Null);
    let made = match list {
        "replicasets" => {
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata, "spec": {"replicas": 2, "selector": object.pointer("/spec/selector"), "template": template}, "status": {"replicas": 2, "readyReplicas": serving}})
        }
        _revisions => {
            let mut template = template;
            set(&mut template, &["$patch"], json!("replace"));
            json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata, "revision": count, "data": {"spec": {"template": template}}})
        }
    };
    for mut other in all.into_iter().filter(|other| {
        serving > 0 && list == "replicasets" && other.pointer("/metadata/name").and_then(Value::as_str) != Some(name.as_str())
    }) {
        set(&mut other, &["status", "readyReplicas"], json!(0));
        cluster.put(list, namespace, other);
    }
    cluster.put(list, namespace, made);
}

/// As the controllers make pods: a Deployment's through a ReplicaSet.
fn owner(workload: &Value) -> Value {
    let kind = workload.pointer("/kind").and_then(Value::as_str).unwrap_or_default();
    let name = workload.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let (kind, name) = if kind == "Deployment" { ("ReplicaSet", format!("{name}-5d4f")) } else { (kind, name.to_owned()) };
    json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": format!("uid-{name}"), "controller": true})
}

/// What the controllers of a real cluster would do, in a few moments.
#[allow(clippy::disallowed_methods)] // the pretend cluster's own time, not ours
pub(super) async fn roll_out(shared: Arc<Shared>, mood: ClusterMood, key: (String, String, String)) {
    if mood == ClusterMood::NeverObserves || mood == ClusterMood::KeepsTemplate {
        return;
    }
    let mood = shared.world().cluster.mood_for(mood, &key);
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
    let on_delete = object.pointer("/spec/updateStrategy/type").and_then(Value::as_str) == Some("OnDelete");
    match (moment, mood) {
        (0, _) => set_status(&mut object, 0, ready_of(cluster, key)),
        (_, _) if on_delete => return, // nobody replaces these pods
        (1, ClusterMood::Quota) => {
            let message =
                "pods \"web\" is forbidden: exceeded quota: compute, requested: memory=2Gi, used: memory=7Gi, limited: memory=8Gi";
            cluster.put("events", namespace, event(namespace, ("ReplicaSet", &format!("{name}-x")), "FailedCreate", message));
            return;
        }
        (1, _) => {
            record_revision(cluster, plural, namespace, &object, 0);
            if plural == "statefulsets" {
                // No surge: a new pod takes the place of an old one, and the next one waits for it.
                let count = if mood == ClusterMood::Honest || mood == ClusterMood::KeepsPods { 2 } else { 1 };
                if cluster.is_wedged(plural, namespace, name, generation) {
                    set_status(&mut object, 0, ready_of(cluster, key));
                    cluster.put(plural, namespace, object);
                    return;
                }
                remove_old(cluster, key, generation, count);
            }
            make_pods(cluster, mood, &object, (namespace, &fresh));
            set_status(&mut object, 1, ready_of(cluster, key));
        }
        // https://github.com/kubernetes/kubernetes/issues/67250
        (_, ClusterMood::Honest) if cluster.is_wedged(plural, namespace, name, generation) => return,
        (_, ClusterMood::Honest | ClusterMood::KeepsPods) => {
            set_status(&mut object, 2, 2);
            record_revision(cluster, plural, namespace, &object, 2);
            remove_old(cluster, key, generation, usize::MAX);
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

/// How many of a workload's pods serve.
fn ready_of(cluster: &Cluster, (plural, namespace, name): &(String, String, String)) -> u64 {
    let prefix = format!("{name}-");
    let ready = |pod: &Value| pod.pointer("/status/conditions/0/status").and_then(Value::as_str) == Some("True");
    let pods =
        cluster.objects.iter().filter(|((p, n, pod), object)| p == "pods" && n == namespace && pod.starts_with(&prefix) && ready(object));
    if plural == "statefulsets" { pods.count() as u64 } else { 2 }
}

/// Removes pods of older templates, the last ones first.
fn remove_old(cluster: &mut Cluster, (_, namespace, name): &(String, String, String), generation: i64, count: usize) {
    let (prefix, current) = (format!("{name}-"), format!("{name}-{generation}-"));
    let is_old = |pod: &str| pod.starts_with(&prefix) && !pod.starts_with(&current);
    let old: Vec<String> = cluster
        .objects
        .keys()
        .rev()
        .filter(|(p, n, pod)| p == "pods" && n == namespace && is_old(pod))
        .map(|(_, _, pod)| pod.clone())
        .take(count)
        .collect();
    old.iter().for_each(|pod| cluster.remove("pods", namespace, pod));
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
    let is_single = object.pointer("/kind").and_then(Value::as_str) == Some("StatefulSet")
        && !matches!(mood, ClusterMood::Honest | ClusterMood::KeepsPods);
    for index in 0..if is_single { 1 } else { 2 } {
        let mut made = pod(object, &fresh(index), state());
        let image = made.pointer("/spec/containers/0/image").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(digest) = cluster.digests.get(&image) {
            let known = format!("{image}@{digest}");
            made.pointer_mut("/status/containerStatuses/0/imageID").into_iter().for_each(|id| *id = json!(known));
        }
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
