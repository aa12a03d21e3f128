//! Follows a rollout to its end, by the rules of `kubectl rollout status`, and then proves it by image ids.
//!
//! <https://github.com/kubernetes/kubectl/blob/master/pkg/polymorphichelpers/rollout_status.go>

use super::resource::{Change, api, is_on_delete, reading};
use super::{Cluster, Workload, WorkloadKind, cause, revisions};
use crate::error::{Error, Reason, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::Value;
use std::time::Duration;

/// How often the causes that no watch tells (quota, scheduling) are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long image ids may lag behind a finished rollout.
const SETTLE: Duration = Duration::from_secs(15);

/// Where a rollout stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Waiting(String),
    Done,
    Failed(String),
}

/// Follows one workload until its pods run the image, a failure is certain, or the deadline.
pub(crate) async fn follow(cluster: &Cluster<'_>, workload: &Workload, change: &Change, deadline: Duration) -> Result<String> {
    let clock = &cluster.world.clock;
    let fields = format!("metadata.name={}", workload.name);
    let config = watcher::Config::default().fields(&fields).timeout(60);
    let mut objects = std::pin::pin!(watcher(api(cluster, workload.kind), config).default_backoff());
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.work.namespace);
    let mut pod_events = std::pin::pin!(watcher(pods, watcher::Config::default().labels(&change.selector).timeout(60)).default_backoff());
    let mut last = Progress::Waiting("waiting for the cluster to take the change".into());
    let mut said = String::new();
    let mut judge = cause::Judge::new(cluster, workload, change, clock.now());
    let mut next_look = clock.now().saturating_add(LOOK); // however many events come meanwhile
    loop {
        let left = deadline.saturating_sub(clock.now());
        if left.is_zero() {
            // A watch may have died silently: the last word is the object's own.
            let objects = api(cluster, workload.kind);
            let now = tokio::time::timeout(Duration::from_secs(10), objects.get(&workload.name)).await;
            if let Ok(Ok(object)) = now
                && progress(workload.kind, change.generation, &object) == Progress::Done
            {
                return verify(cluster, workload, change, deadline).await;
            }
            return Err(timed_out(cluster, workload, change, &last).await);
        }
        tokio::select! {
            event = objects.next() => if let Some(event) = event {
                last = after_event(cluster, workload, change, event).await?.unwrap_or(last);
            },
            event = pod_events.next() => {
                // Whatever else comes, pods are looked at once more below.
                if let Some(Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod))) = event {
                    judge.pod(&pod);
                }
            }
            () = clock.sleep(next_look.saturating_sub(clock.now()).min(left)) => {
                judge.look().await;
                if let Err(error) = unblock(cluster, workload, change).await {
                    say(cluster, workload, &error.sentence, &mut said); // the rollout itself decides
                }
                next_look = clock.now().saturating_add(LOOK);
            }
            () = cluster.world.cancel.cancelled() => {
                return Err(Error::new(Reason::Cancelled, format!("cancelled while {workload} rolled out: {}", describe(&last))));
            }
        }
        match (&last, judge.certain()) {
            (Progress::Done, _) => return verify(cluster, workload, change, deadline).await,
            (Progress::Failed(why), _) => return Err(judge.verdict(Reason::TargetFailed, why).await),
            (Progress::Waiting(_), Some(cause)) => return Err(judge.verdict(cause.reason, &cause.sentence).await),
            (Progress::Waiting(what), None) => say(cluster, workload, what, &mut said),
        }
    }
}

/// What no controller does by itself.
async fn unblock(cluster: &Cluster<'_>, workload: &Workload, change: &Change) -> Result<()> {
    match (change.on_delete, workload.kind) {
        (true, _) => revisions::replace_next(cluster, workload, change).await,
        (false, WorkloadKind::StatefulSet) => revisions::free_blocked(cluster, workload, change).await,
        (false, WorkloadKind::Deployment | WorkloadKind::DaemonSet) => Ok(()),
    }
}

/// A line for every change, and none for the same thing again.
fn say(cluster: &Cluster<'_>, workload: &Workload, what: &str, said: &mut String) {
    if what != said {
        cluster.world.console.line(&format!("  {workload}: {what}"));
        what.clone_into(said);
    }
}

fn describe(progress: &Progress) -> &str {
    match progress {
        Progress::Waiting(what) | Progress::Failed(what) => what,
        Progress::Done => "done",
    }
}

/// Where the rollout stands after an event of its workload; nothing when the event says nothing.
async fn after_event(
    cluster: &Cluster<'_>,
    workload: &Workload,
    change: &Change,
    event: watcher::Result<watcher::Event<DynamicObject>>,
) -> Result<Option<Progress>> {
    match event {
        Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
            Ok(Some(progress(workload.kind, change.generation, &object)))
        }
        Ok(watcher::Event::Delete(_)) => Err(Error::new(Reason::TargetMissing, format!("{workload} was deleted during the rollout"))),
        Ok(watcher::Event::Init | watcher::Event::InitDone) => Ok(None),
        Err(error) => after_watch_error(cluster, workload, change, &error).await.map(Some),
    }
}

async fn after_watch_error(cluster: &Cluster<'_>, workload: &Workload, change: &Change, error: &watcher::Error) -> Result<Progress> {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    let status = match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => Some(status),
        WatchError(status) => Some(status),
        InitialListFailed(_) | WatchStartFailed(_) | WatchFailed(_) | NoResourceVersion => None,
    };
    if let Some(status) = status.filter(|status| matches!(status.code, 401 | 404)) {
        return Err(super::failure(&format!("{workload} cannot be watched"), &kube::Error::Api(status.clone())));
    }
    // Without the right to watch, or while the API server is away, a plain read goes on telling.
    let objects = api(cluster, workload.kind);
    Ok(match tokio::time::timeout(Duration::from_secs(30), objects.get(&workload.name)).await {
        Ok(Ok(object)) => progress(workload.kind, change.generation, &object),
        Ok(Err(_)) | Err(_) => Progress::Waiting("the cluster does not answer; asking again".into()),
    })
}

/// kubectl's rules.
pub(crate) fn progress(kind: WorkloadKind, generation: i64, object: &DynamicObject) -> Progress {
    let number = |pointer: &str| object.data.pointer(pointer).and_then(Value::as_i64);
    let status = |name: &str| number(&format!("/status/{name}")).unwrap_or(0);
    if status("observedGeneration") < generation {
        return Progress::Waiting("waiting for the cluster to take the change".into());
    }
    match kind {
        WorkloadKind::Deployment => deployment(object, number("/spec/replicas").unwrap_or(1), &status),
        WorkloadKind::StatefulSet => stateful_set(object, number("/spec/replicas").unwrap_or(1), &status),
        WorkloadKind::DaemonSet => {
            let wanted = status("desiredNumberScheduled");
            let (updated, available) = (status("updatedNumberScheduled"), status("numberAvailable"));
            match () {
                () if updated < wanted => Progress::Waiting(format!("{updated} of {wanted} pods are new")),
                () if available < wanted => Progress::Waiting(format!("{available} of {wanted} new pods are available")),
                () => Progress::Done,
            }
        }
    }
}

fn deployment(object: &DynamicObject, wanted: i64, status: &dyn Fn(&str) -> i64) -> Progress {
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    let text = |condition: &Value, name: &str| condition.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let stuck =
        conditions.into_iter().flatten().find(|c| text(c, "type") == "Progressing" && text(c, "reason") == "ProgressDeadlineExceeded");
    if let Some(condition) = stuck {
        return Progress::Failed(format!("made no progress within its own deadline: {}", text(condition, "message")));
    }
    let (updated, all, available) = (status("updatedReplicas"), status("replicas"), status("availableReplicas"));
    match () {
        () if updated < wanted => Progress::Waiting(format!("{updated} of {wanted} pods are new")),
        () if all > updated => Progress::Waiting(format!("{} old pods are still there", all.saturating_sub(updated))),
        () if available < updated => Progress::Waiting(format!("{available} of {updated} new pods are available")),
        () => Progress::Done,
    }
}

fn stateful_set(object: &DynamicObject, wanted: i64, status: &dyn Fn(&str) -> i64) -> Progress {
    let (ready, updated) = (status("readyReplicas"), status("updatedReplicas"));
    if ready < wanted {
        return Progress::Waiting(format!("{ready} of {wanted} pods are ready"));
    }
    let partition = object.data.pointer("/spec/updateStrategy/rollingUpdate/partition").and_then(Value::as_i64).unwrap_or(0);
    // With OnDelete the controller never calls a revision the current one.
    if partition > 0 || is_on_delete(object) {
        return match updated >= wanted.saturating_sub(partition) {
            true => Progress::Done,
            false => Progress::Waiting(format!("{updated} of {} pods outside the partition are new", wanted.saturating_sub(partition))),
        };
    }
    let revision = |name: &str| object.data.pointer(&format!("/status/{name}")).and_then(Value::as_str).unwrap_or_default();
    if revision("updateRevision") != revision("currentRevision") {
        return Progress::Waiting(format!("{updated} of {wanted} pods are new"));
    }
    Progress::Done
}

/// The rollout says it is done; believed only when the running pods have the image's own digests.
async fn verify(cluster: &Cluster<'_>, workload: &Workload, change: &Change, deadline: Duration) -> Result<String> {
    let clock = &cluster.world.clock;
    let until = clock.now().saturating_add(SETTLE).min(deadline);
    loop {
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.work.namespace);
        let params = ListParams::default().labels(&change.selector);
        let listed = reading(|| pods.list(&params), &format!("the pods of {workload} cannot be listed")).await?;
        let api = api(cluster, workload.kind);
        let object = reading(|| api.get(&workload.name), &format!("{workload} cannot be read")).await?;
        match identify(workload, change, &listed.items, wanted_pods(workload.kind, &object)) {
            Ok(proof) => return Ok(proof),
            Err(why) if clock.now() >= until => {
                return Err(Error::new(Reason::TargetWrongDigest, format!("{workload} says it rolled out, but {}", why.sentence))
                    .detail(why.detail));
            }
            Err(_lag) => clock.sleep(Duration::from_secs(1)).await,
        }
    }
}

/// One look: whether the rollout is done and the pods run the image.
pub(crate) async fn proof(cluster: &Cluster<'_>, workload: &Workload, change: &Change) -> Result<Option<String>> {
    let api = api(cluster, workload.kind);
    let object = reading(|| api.get(&workload.name), &format!("{workload} cannot be read")).await?;
    if progress(workload.kind, change.generation, &object) != Progress::Done {
        return Ok(None);
    }
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.work.namespace);
    let params = ListParams::default().labels(&change.selector);
    let listed = reading(|| pods.list(&params), &format!("the pods of {workload} cannot be listed")).await?;
    Ok(identify(workload, change, &listed.items, wanted_pods(workload.kind, &object)).ok())
}

pub(crate) fn wanted_pods(kind: WorkloadKind, object: &DynamicObject) -> usize {
    let number = |pointer: &str| object.data.pointer(pointer).and_then(Value::as_i64);
    let count = match kind {
        WorkloadKind::Deployment => number("/spec/replicas").unwrap_or(1),
        WorkloadKind::StatefulSet => {
            let partition = number("/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0);
            number("/spec/replicas").unwrap_or(1).saturating_sub(partition)
        }
        WorkloadKind::DaemonSet => number("/status/desiredNumberScheduled").unwrap_or(0),
    };
    usize::try_from(count).unwrap_or(0)
}

struct Unproven {
    sentence: String,
    detail: Vec<String>,
}

fn identify(workload: &Workload, change: &Change, pods: &[Pod], wanted: usize) -> std::result::Result<String, Unproven> {
    let expect = &change.expect;
    let ours = |digest: &str| expect.identities.iter().any(|known| known == digest);
    let expected = change.containers.len().max(1);
    let mut right = 0;
    let mut others = Vec::new();
    let counts = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none() && cause::is_live(pod) && cause::is_of(pod, workload);
    for pod in pods.iter().filter(counts) {
        let ids = cause::image_ids(pod, &change.containers);
        let by_name = expect.identities.is_empty() && cause::has_image(pod, &expect.images) && cause::is_ready(pod);
        if by_name || (ids.len() >= expected && ids.iter().all(|id| ours(id))) {
            right += 1;
        } else {
            let name = pod.metadata.name.clone().unwrap_or_default();
            others.push(format!("{name} runs {}", if ids.is_empty() { "nothing yet".to_owned() } else { ids.join(", ") }));
        }
    }
    let named = expect.images.first().map(String::as_str).unwrap_or_default();
    let whole = named.split_once('@').map(|(_, digest)| digest).or(expect.identities.first().map(String::as_str)).unwrap_or(named);
    let digest = if whole.starts_with("sha256:") { format!("{}…", whole.get(..19).unwrap_or(whole)) } else { whole.to_owned() };
    let is_partitioned = others.len() + right > wanted && workload.kind == WorkloadKind::StatefulSet;
    if right < wanted || (!others.is_empty() && !is_partitioned) {
        let sentence = format!("{right} of {wanted} pods run {whole}");
        return Err(Unproven { sentence, detail: others });
    }
    let same = if change.changed { "" } else { ", as before" };
    Ok(match wanted {
        0 => format!("{workload}: set to {digest}; no pods are wanted, so none could be identified"),
        _some => format!("{workload}: {right} of {wanted} pods run {digest}{same}"),
    })
}

async fn timed_out(cluster: &Cluster<'_>, workload: &Workload, change: &Change, last: &Progress) -> Error {
    let mut judge = cause::Judge::new(cluster, workload, change, Duration::ZERO);
    judge.look().await;
    let limit = cluster.work.target.timeout;
    let sentence = format!("did not settle within {limit}: {}", describe(last));
    judge.verdict(Reason::TargetTimeout, &sentence).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(kind: WorkloadKind, data: Value) -> DynamicObject {
        DynamicObject::new("web", &super::super::resource::resource(kind)).data(data)
    }

    #[test]
    fn a_deployment_is_done_by_kubectls_rules() {
        let at = |status: Value| {
            progress(WorkloadKind::Deployment, 2, &object(WorkloadKind::Deployment, json!({"spec": {"replicas": 2}, "status": status})))
        };
        let waits = |status| matches!(at(status), Progress::Waiting(_));
        assert!(waits(json!({"observedGeneration": 1, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 2})), "not observed");
        assert!(waits(json!({"observedGeneration": 2, "updatedReplicas": 1, "replicas": 2, "availableReplicas": 2})), "not updated");
        assert!(waits(json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 3, "availableReplicas": 3})), "old ones left");
        assert!(waits(json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 1})), "not available");
        assert_eq!(at(json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 2})), Progress::Done);
        let stuck =
            json!({"observedGeneration": 2, "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded", "message": "m"}]});
        assert!(matches!(at(stuck), Progress::Failed(_)));
    }

    #[test]
    fn a_stateful_set_waits_for_its_revision_or_partition() {
        let at = |spec: Value, status: Value| {
            progress(WorkloadKind::StatefulSet, 1, &object(WorkloadKind::StatefulSet, json!({"spec": spec, "status": status})))
        };
        let status =
            json!({"observedGeneration": 1, "readyReplicas": 3, "updatedReplicas": 2, "currentRevision": "a", "updateRevision": "b"});
        assert!(matches!(at(json!({"replicas": 3}), status.clone()), Progress::Waiting(_)));
        assert_eq!(at(json!({"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 1}}}), status), Progress::Done);
        let done = json!({"observedGeneration": 1, "readyReplicas": 3, "currentRevision": "b", "updateRevision": "b"});
        assert_eq!(at(json!({"replicas": 3}), done), Progress::Done);
    }

    #[test]
    fn a_daemon_set_waits_for_updated_and_available() {
        let at = |status: Value| progress(WorkloadKind::DaemonSet, 1, &object(WorkloadKind::DaemonSet, json!({"status": status})));
        assert!(matches!(
            at(json!({"observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": 1})),
            Progress::Waiting(_)
        ));
        assert_eq!(
            at(json!({"observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 2})),
            Progress::Done
        );
    }
}
