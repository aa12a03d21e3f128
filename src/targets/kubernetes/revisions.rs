//! Going back: the template of the revision that served before; and pods that no controller replaces by itself.

use super::resource::{CONFLICTS, Change, Expect, FIELD_MANAGER, Found, LEASE, api, reading, selector};
use super::{Cluster, Workload, WorkloadKind, cause, failure, rollout};
use crate::error::{Error, Reason, Result};
use crate::targets::set;
use k8s_openapi::api::apps::v1::{ControllerRevision, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const REVISION: &str = "deployment.kubernetes.io/revision";
/// The label by which controllers know the revision of a pod.
const HASH: &str = "controller-revision-hash";

/// What served before.
#[derive(Clone, Debug)]
pub(crate) struct Previous {
    /// As the controller calls it: a number, or the name of a ControllerRevision.
    pub revision: String,
    template: Value,
    images: Vec<String>,
}

impl Previous {
    pub fn shown(&self) -> String {
        format!("revision {} ({})", self.revision, self.images.join(", "))
    }
}

/// The revision that serves now: after a rollout that failed it is not the newest one.
pub(crate) async fn previous(cluster: &Cluster<'_>, found: &Found) -> Result<Option<Previous>> {
    let revision = match found.workload.kind {
        WorkloadKind::Deployment => of_replica_sets(cluster, found).await,
        WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => of_controller_revisions(cluster, found).await,
    };
    let (revision, template) = match revision {
        Ok(Some(known)) => known,
        // Without the right to list revisions the template at hand is what there is to go back to.
        Ok(None) => own_template(found),
        Err(error) if error.reason == Reason::AuthDenied => own_template(found),
        Err(error) => return Err(error),
    };
    let images: Vec<String> =
        found.containers.iter().filter_map(|container| image_in(&template, container.list, &container.name)).collect();
    Ok((!images.is_empty()).then_some(Previous { revision, template, images }))
}

fn own_template(found: &Found) -> (String, Value) {
    let object = found.object();
    let revision = object.metadata.annotations.as_ref().and_then(|all| all.get(REVISION)).cloned();
    let template = object.data.pointer("/spec/template").cloned().unwrap_or(Value::Null);
    (revision.unwrap_or_else(|| format!("of generation {}", object.metadata.generation.unwrap_or_default())), template)
}

fn image_in(template: &Value, list: &str, name: &str) -> Option<String> {
    let containers = template.pointer(&format!("/spec/{list}"))?.as_array()?;
    let container = containers.iter().find(|container| container.get("name").and_then(Value::as_str) == Some(name))?;
    container.get("image")?.as_str().map(str::to_owned)
}

/// The ReplicaSet that has most ready pods; of several the newest.
async fn of_replica_sets(cluster: &Cluster<'_>, found: &Found) -> Result<Option<(String, Value)>> {
    let sets: Api<ReplicaSet> = Api::namespaced(cluster.client.clone(), &cluster.work.namespace);
    let params = ListParams::default().labels(&selector(found.object()));
    let listed = reading(|| sets.list(&params), &format!("the replica sets of {} cannot be listed", found.workload)).await?;
    let own = found.object().metadata.uid.clone();
    let ours =
        listed.items.into_iter().filter(|set| set.metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == own.as_ref()));
    let number = |set: &ReplicaSet| set.metadata.annotations.as_ref().and_then(|all| all.get(REVISION)?.parse::<u64>().ok()).unwrap_or(0);
    let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let best = ours.max_by_key(|set| (ready(set), number(set)));
    Ok(best.map(|set| {
        let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        let mut template = serde_json::to_value(template).unwrap_or(Value::Null);
        if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.remove("pod-template-hash");
        }
        (number(&set).to_string(), template)
    }))
}

/// The revision that most ready pods have; else the one that the controller calls current.
async fn of_controller_revisions(cluster: &Cluster<'_>, found: &Found) -> Result<Option<(String, Value)>> {
    let revisions: Api<ControllerRevision> = Api::namespaced(cluster.client.clone(), &cluster.work.namespace);
    let params = ListParams::default().labels(&selector(found.object()));
    let what = format!("the revisions of {} cannot be listed", found.workload);
    let listed = reading(|| revisions.list(&params), &what).await?;
    let own = found.object().metadata.uid.clone();
    let mut ours: Vec<ControllerRevision> = listed.items;
    ours.retain(|revision| revision.metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == own.as_ref()));
    let pods = pods_of(cluster, &found.workload, &selector(found.object())).await?;
    let mut served: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| cause::is_ready(pod)) {
        *served.entry(hash_of(pod)).or_default() += 1;
    }
    let current = found.object().data.pointer("/status/currentRevision").and_then(Value::as_str).unwrap_or_default().to_owned();
    let count = |revision: &ControllerRevision| {
        let name = revision.metadata.name.as_deref().unwrap_or_default();
        let label = revision.metadata.labels.as_ref().and_then(|labels| labels.get(HASH)).map(String::as_str).unwrap_or_default();
        let pods = served.get(name).or_else(|| served.get(label)).copied().unwrap_or(0);
        (pods, name == current, revision.revision)
    };
    let best = ours.into_iter().max_by_key(|revision| count(revision));
    Ok(best.and_then(|revision| {
        let mut template = revision.data.as_ref()?.0.pointer("/spec/template").cloned()?;
        if let Some(map) = template.as_object_mut() {
            map.remove("$patch");
        }
        Some((revision.metadata.name.clone().unwrap_or_default(), template))
    }))
}

fn hash_of(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH)).map(String::as_str).unwrap_or_default()
}

async fn pods_of(cluster: &Cluster<'_>, workload: &Workload, selector: &str) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.work.namespace);
    let own = ListParams::default().labels(selector);
    let listed = reading(|| pods.list(&own), &format!("the pods of {workload} cannot be listed")).await?;
    Ok(listed.items.into_iter().filter(|pod| cause::is_of(pod, workload) && cause::is_live(pod)).collect())
}

/// Sets the previous template and waits until it serves again.
pub(crate) async fn go_back(cluster: &Cluster<'_>, workload: &Workload, previous: &Previous, deadline: Duration) -> Result<String> {
    let (object, bad) = restore(cluster, workload, previous).await?;
    cluster.site.say(&format!("{workload}: back to {}", previous.shown()));
    if workload.kind != WorkloadKind::Deployment {
        free_wedged(cluster, workload, &object, &bad).await?;
    }
    let found = Found::read(cluster, workload).await?;
    let change = found.expecting(&object, Expect::named(previous.images.clone()), true);
    rollout::follow(cluster, workload, &change, deadline).await
}

/// The patch, made anew while others write; with the revision that failed.
async fn restore(cluster: &Cluster<'_>, workload: &Workload, previous: &Previous) -> Result<(DynamicObject, String)> {
    let api = api(cluster, workload.kind);
    for _try in 0..CONFLICTS {
        let now = reading(|| api.get(&workload.name), &format!("{workload} cannot be read")).await?;
        let held = now.metadata.annotations.as_ref().and_then(|all| all.get(LEASE)).cloned().unwrap_or_default();
        cluster.site.fence.check(&workload.to_string(), &held)?;
        let found = Found::read(cluster, workload).await?;
        let ours = cluster.image.reference();
        if let Some(other) = found.containers.iter().find(|container| container.image != ours) {
            let sentence = format!("somebody set {workload} to {} meanwhile: it is left so", other.image);
            return Err(Error::new(Reason::TargetFailed, sentence));
        }
        let bad = now.data.pointer("/status/updateRevision").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut template = previous.template.clone();
        set(&mut template, &["$patch"], json!("replace"));
        let patch = json!({"metadata": {"resourceVersion": now.metadata.resource_version}, "spec": {"template": template}});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let what = format!("{workload} cannot be sent back");
        let sent = tokio::time::timeout(Duration::from_secs(30), api.patch(&workload.name, &params, &Patch::Strategic(&patch))).await;
        match sent {
            Ok(Ok(object)) => return Ok((object, bad)),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
            Ok(Err(error)) => return Err(failure(&what, &error)),
            Err(_elapsed) => return Err(Error::new(Reason::TargetFailed, format!("{what}: the cluster does not answer within 30s"))),
        }
    }
    Err(Error::new(Reason::TargetFailed, format!("{workload} keeps changing while it is sent back")))
}

/// A pod that never became ready blocks its StatefulSet, also when the template is right again.
/// <https://github.com/kubernetes/kubernetes/issues/67250>
async fn free_wedged(cluster: &Cluster<'_>, workload: &Workload, object: &DynamicObject, bad: &str) -> Result<()> {
    let is_bad = |pod: &&Pod| match bad.is_empty() {
        false => hash_of(pod) == bad,
        true => cause::has_image(pod, &[cluster.image.reference()]), // a DaemonSet's status names no revision
    };
    let pods = pods_of(cluster, workload, &selector(object)).await?;
    for pod in pods.iter().filter(is_bad).filter(|pod| !cause::is_ready(pod) && pod.metadata.deletion_timestamp.is_none()) {
        delete(cluster, pod).await?;
    }
    Ok(())
}

async fn delete(cluster: &Cluster<'_>, pod: &Pod) -> Result<()> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    cluster.site.say(&format!("deleting the pod {name}, which nothing else replaces"));
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.work.namespace);
    let preconditions = Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
    let params = DeleteParams { preconditions, ..DeleteParams::default() };
    match tokio::time::timeout(Duration::from_secs(30), pods.delete(&name, &params)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(()), // it is gone, or another one already
        Ok(Err(error)) => Err(failure(&format!("the pod {name} cannot be deleted"), &error)),
        Err(_elapsed) => Err(Error::new(Reason::TargetFailed, format!("the pod {name} cannot be deleted: no answer within 30s"))),
    }
}

/// A pod of an older template that never becomes ready keeps a StatefulSet from going on, also when the new template would
/// mend it. Those that are certain to fail are deleted; the controller makes them anew from the right template.
pub(crate) async fn free_blocked(cluster: &Cluster<'_>, workload: &Workload, change: &Change) -> Result<()> {
    let pods = pods_of(cluster, workload, &change.selector).await?;
    let is_old = |pod: &&Pod| !cause::has_image(pod, &change.expect.images) && pod.metadata.deletion_timestamp.is_none();
    for pod in pods.iter().filter(is_old).filter(|pod| !cause::is_ready(pod) && cause::will_not_start(pod)) {
        delete(cluster, pod).await?;
    }
    Ok(())
}

/// With the strategy OnDelete: deletes the next old pod, the highest ordinal first, once all others are ready.
pub(crate) async fn replace_next(cluster: &Cluster<'_>, workload: &Workload, change: &Change) -> Result<()> {
    let api = api(cluster, workload.kind);
    let object = reading(|| api.get(&workload.name), &format!("{workload} cannot be read")).await?;
    let observed = object.data.pointer("/status/observedGeneration").and_then(Value::as_i64).unwrap_or(0);
    if observed < change.generation {
        return Ok(());
    }
    let mut pods = pods_of(cluster, workload, &change.selector).await?;
    let wanted = rollout::wanted_pods(workload.kind, &object);
    let all_serve = pods.len() >= wanted && pods.iter().all(|pod| cause::is_ready(pod) && pod.metadata.deletion_timestamp.is_none());
    pods.retain(|pod| !cause::has_image(pod, &change.expect.images));
    // An old pod that is not ready anyway may go first: it serves nobody.
    let next = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).max_by_key(|pod| (!cause::is_ready(pod), ordinal(pod)));
    match next {
        Some(pod) if all_serve || !cause::is_ready(pod) => delete(cluster, pod).await,
        Some(_) | None => Ok(()),
    }
}

fn ordinal(pod: &Pod) -> u64 {
    pod.metadata.name.as_deref().and_then(|name| name.rsplit('-').next()?.parse().ok()).unwrap_or(0)
}
