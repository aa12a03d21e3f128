//! Why a rollout does not get on: the cause first, then events, then the last log lines.

use super::resource::{Change, Container, reading};
use super::{Cluster, Workload, WorkloadKind};
use crate::error::{Error, Reason};
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::api::{Api, ListParams, LogParams};
use std::collections::BTreeMap;
use std::time::Duration;

/// An autoscaler may still bring a node; after this long it is a failure.
const SCHEDULING_GRACE: Duration = Duration::from_secs(120);
const EVENTS: usize = 6;
const LOG_LINES: i64 = 15;

/// A cause that is certain enough to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    pub reason: Reason,
    pub sentence: String,
    /// The pod and container whose log tells more.
    log_of: Option<(String, String)>,
}

/// Watches the new pods of one workload for causes.
pub(crate) struct Judge<'a> {
    cluster: &'a Cluster<'a>,
    workload: &'a Workload,
    change: &'a Change,
    started: Duration,
    pods: BTreeMap<String, Pod>,
    /// What refuses new pods, and at how many looks in a row.
    quota: Option<(String, u32)>,
}

/// Whether a container of the pod is to run one of these images.
pub(crate) fn has_image(pod: &Pod, images: &[String]) -> bool {
    let spec = pod.spec.as_ref();
    let mut all = spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    all.any(|container| container.image.as_ref().is_some_and(|image| images.contains(image)))
}

/// Whether a pod serves.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether a container of the pod is certain not to run as it is.
pub(crate) fn will_not_start(pod: &Pod) -> bool {
    container_cause(pod).is_some()
}

/// Whether a pod still counts: finished ones do not.
pub(crate) fn is_live(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether the workload made this pod; a debug pod or a job may have the same labels.
pub(crate) fn is_of(pod: &Pod, workload: &Workload) -> bool {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners.any(|owner| match workload.kind {
        WorkloadKind::Deployment => owner.kind == "ReplicaSet" && is_made_by(&owner.name, &workload.name),
        WorkloadKind::StatefulSet => owner.kind == "StatefulSet" && owner.name == workload.name,
        WorkloadKind::DaemonSet => owner.kind == "DaemonSet" && owner.name == workload.name,
    })
}

/// web-5d4f is made by web; web-api-5d4f is not.
fn is_made_by(name: &str, workload: &str) -> bool {
    let rest = name.strip_prefix(workload).and_then(|rest| rest.strip_prefix('-'));
    rest.is_some_and(|hash| !hash.is_empty() && !hash.contains('-'))
}

/// The digests of the containers that take the image, as the node reports them.
pub(crate) fn image_ids(pod: &Pod, containers: &[Container]) -> Vec<String> {
    let digest = |status: &ContainerStatus| {
        let at = status.image_id.find("sha256:")?;
        status.image_id.get(at..).map(str::to_owned)
    };
    let ours = statuses(pod).filter(|status| containers.iter().any(|container| container.name == status.name));
    ours.filter_map(digest).collect()
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let main = status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten();
    main.chain(status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten())
}

impl<'a> Judge<'a> {
    pub fn new(cluster: &'a Cluster<'a>, workload: &'a Workload, change: &'a Change, started: Duration) -> Self {
        Self { cluster, workload, change, started, pods: BTreeMap::new(), quota: None }
    }

    /// Notes a pod, if it is one of the new ones.
    pub fn pod(&mut self, pod: &Pod) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let is_new = has_image(pod, &self.change.expect.images);
        if is_new && is_of(pod, self.workload) && pod.metadata.deletion_timestamp.is_none() {
            self.pods.insert(name, pod.clone());
        } else {
            self.pods.remove(&name);
        }
    }

    /// Reads pods and events once more: what no watch told.
    pub async fn look(&mut self) {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.cluster.work.namespace);
        let params = ListParams::default().labels(&self.change.selector);
        if let Ok(listed) = reading(|| pods.list(&params), "pods").await {
            self.pods.clear();
            listed.items.iter().for_each(|pod| self.pod(pod));
        }
        let refused = self.events().await.into_iter().rev().find(|event| event.reason.as_deref() == Some("FailedCreate"));
        let message = refused.and_then(|event| event.message).filter(|_| self.pods.is_empty());
        // A creation that failed once may succeed the next time: it must be so twice in a row.
        self.quota = match (message, &self.quota) {
            (Some(message), None) => Some((message, 1)),
            (Some(message), Some((_, seen))) => Some((message, seen + 1)),
            (None, _) => None,
        };
    }

    /// A cause that will not pass by itself.
    pub fn certain(&self) -> Option<Cause> {
        if let Some((message, 2..)) = &self.quota {
            return Some(Cause { reason: Reason::TargetQuota, sentence: format!("no new pod may be created: {message}"), log_of: None });
        }
        self.pods.values().find_map(|pod| container_cause(pod).or_else(|| self.unschedulable(pod)))
    }

    fn unschedulable(&self, pod: &Pod) -> Option<Cause> {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        let condition = conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
        let waited = self.cluster.world.clock.now().saturating_sub(self.started);
        let grace = SCHEDULING_GRACE.min(self.cluster.work.target.timeout.0 / 4);
        let message = condition.message.clone().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        (waited >= grace).then(|| Cause {
            reason: Reason::TargetUnschedulable,
            sentence: format!("no node takes {name}: {message}"),
            log_of: None,
        })
    }

    /// The failure: cause, events, log. `reason` is used when no better cause is known.
    pub async fn verdict(&mut self, reason: Reason, why: &str) -> Error {
        let events = self.events().await;
        let cause = self.certain().or_else(|| self.probe(&events));
        let (reason, first) = match &cause {
            Some(cause) if reason == Reason::TargetTimeout => (reason, format!("{} ({why})", cause.sentence)),
            Some(cause) => (cause.reason, cause.sentence.clone()),
            None => (reason, why.to_owned()),
        };
        let mut detail: Vec<String> = events.iter().rev().take(EVENTS).rev().map(told).collect();
        if let Some((pod, container)) = cause.and_then(|cause| cause.log_of) {
            let lines = self.log(&pod, &container).await;
            if !lines.is_empty() {
                detail.push(format!("last lines of {pod}/{container}:"));
                detail.extend(lines.into_iter().map(|line| format!("  {line}")));
            }
        }
        let place = &self.cluster.work.namespace;
        Error::new(reason, format!("{} in {place}: {first}", self.workload))
            .detail(detail)
            .hint(format!("the new pods stay as they are; look with: kubectl -n {place} describe {}", self.workload))
    }

    fn probe(&self, events: &[Event]) -> Option<Cause> {
        let failed = events.iter().rev().find(|event| event.reason.as_deref() == Some("Unhealthy"))?;
        let pod = failed.involved_object.name.clone().filter(|name| self.pods.contains_key(name))?;
        let container = self.change.containers.first().map(|container| container.name.clone())?;
        let message = failed.message.clone().unwrap_or_default();
        Some(Cause {
            reason: Reason::TargetProbe,
            sentence: format!("{pod} runs but is not ready: {message}"),
            log_of: Some((pod, container)),
        })
    }

    /// Warnings about the workload, its replica sets and its new pods, oldest first.
    async fn events(&self) -> Vec<Event> {
        let events: Api<Event> = Api::namespaced(self.cluster.client.clone(), &self.cluster.work.namespace);
        let params = ListParams::default().fields("type=Warning").limit(500);
        let Ok(listed) = reading(|| events.list(&params), "events").await else { return Vec::new() };
        let name = &self.workload.name;
        let about_us = |event: &Event| {
            let object = event.involved_object.name.as_deref().unwrap_or_default();
            let owned = object == name || is_made_by(object, name);
            self.pods.contains_key(object) || (owned && event.involved_object.kind.as_deref() != Some("Pod"))
        };
        // What was there before the change is an old story; clocks are not compared, they may differ.
        let is_new = |event: &Event| {
            self.change.known_events.get(event.metadata.name.as_deref().unwrap_or_default()) != Some(&event.count.unwrap_or(1))
        };
        let mut ours: Vec<Event> = listed.items.into_iter().filter(about_us).filter(is_new).collect();
        ours.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
        ours
    }

    async fn log(&self, pod: &str, container: &str) -> Vec<String> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.cluster.work.namespace);
        for previous in [true, false] {
            let container = Some(container.to_owned());
            let params = LogParams { container, previous, tail_lines: Some(LOG_LINES), limit_bytes: Some(16_384), ..LogParams::default() };
            if let Ok(text) = reading(|| pods.logs(pod, &params), "log").await
                && !text.trim().is_empty()
            {
                return text.lines().map(str::to_owned).collect();
            }
        }
        Vec::new()
    }
}

fn told(event: &Event) -> String {
    let object = &event.involved_object;
    let count = event.count.filter(|count| *count > 1).map(|count| format!(" (×{count})")).unwrap_or_default();
    format!(
        "{} {}: {}: {}{count}",
        object.kind.as_deref().unwrap_or_default().to_lowercase(),
        object.name.as_deref().unwrap_or_default(),
        event.reason.as_deref().unwrap_or_default(),
        event.message.as_deref().unwrap_or_default().trim(),
    )
}

fn container_cause(pod: &Pod) -> Option<Cause> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    statuses(pod).find_map(|status| {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let message = waiting.message.as_deref().unwrap_or_default();
        let gone = ["not found", "manifest unknown", "denied", "unauthorized"].iter().any(|part| message.contains(part));
        let (reason, sentence) = match waiting.reason.as_deref()? {
            "ErrImagePull" if !gone => return None, // the next try may succeed
            "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "ErrImagePull" => {
                (Reason::TargetImagePull, format!("{name} cannot pull its image: {message}"))
            }
            "CrashLoopBackOff" => {
                (Reason::TargetCrashLoop, format!("{name} starts and dies{}: {} restarts", last_exit(status), status.restart_count))
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                (Reason::TargetConfig, format!("the container {} of {name} cannot be created: {message}", status.name))
            }
            _passing => return None,
        };
        let log_of = (reason == Reason::TargetCrashLoop).then(|| (name.clone(), status.name.clone()));
        Some(Cause { reason, sentence, log_of })
    })
}

fn last_exit(status: &ContainerStatus) -> String {
    let ended = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    match ended {
        Some(ended) => {
            let reason =
                ended.reason.as_deref().filter(|reason| *reason != "Error").map(|reason| format!(" ({reason})")).unwrap_or_default();
            format!(" with exit code {}{reason}", ended.exit_code)
        }
        None => String::new(),
    }
}
