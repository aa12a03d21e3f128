//! A workload as the API holds it: what runs now, which containers take the image, and the one patch that starts a rollout.

use super::{Cluster, Workload, WorkloadKind, failure, is_login_failure};
use crate::config::{OnDelete, Restart};
use crate::error::{Error, Reason, Result};
use crate::targets::Fence;
use crate::tools::wait::{Backoff, Clock};
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::ApiResource;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// kubectl's own annotation, so that both tools understand each other's restarts.
pub(crate) const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
pub(crate) const FIELD_MANAGER: &str = "tidegate";
/// The lease under which a workload was last changed.
pub(crate) const LEASE: &str = "tidegate.dev/lease";
/// How often a patch is made anew because the workload changed since it was read.
/// How often in a row the answer to a patch may be lost.
const LOST: u32 = 3;
const LIMIT: Duration = Duration::from_secs(30);
/// How often something is read before it counts as unreadable.
const READS: u32 = 5;
pub(crate) const CONFLICTS: usize = 8;

/// What came of a patch.
enum Sent {
    Taken(Box<DynamicObject>),
    /// The workload is not any more what was read.
    Changed,
    /// Nobody knows.
    Lost,
}

/// A workload before the deploy.
pub(crate) struct Found {
    pub workload: Workload,
    /// The containers that take the image: list (`containers` or `initContainers`), name, image now.
    pub containers: Vec<Container>,
    object: DynamicObject,
    known_events: BTreeMap<String, i32>,
}

/// A container that takes the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub list: &'static str,
    pub name: String,
    pub image: String,
}

/// What was started.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The generation that holds it.
    pub generation: i64,
    /// Whether anything had to be changed.
    pub changed: bool,
    /// The containers that take the image.
    pub containers: Vec<Container>,
    /// The labels that its pods have.
    pub selector: String,
    /// The warnings that were there before: name and count.
    pub known_events: BTreeMap<String, i32>,
    /// What its pods are to run.
    pub expect: Expect,
    /// Nobody but us replaces its pods.
    pub on_delete: bool,
}

/// What pods must run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expect {
    /// The images, as pods name them.
    pub images: Vec<String>,
    /// The digests that prove it; none where only names are known.
    pub identities: Vec<String>,
}

impl Expect {
    /// These images, of which only what their names say is known.
    pub fn named(images: Vec<String>) -> Self {
        let digest = |image: &String| image.split_once('@').map(|(_, digest)| digest.to_owned());
        let identities: Vec<String> = images.iter().filter_map(digest).collect();
        let identities = if identities.len() == images.len() { identities } else { Vec::new() };
        Self { images, identities }
    }
}

pub(crate) fn resource(kind: WorkloadKind) -> ApiResource {
    let (kind, plural) = match kind {
        WorkloadKind::Deployment => ("Deployment", "deployments"),
        WorkloadKind::StatefulSet => ("StatefulSet", "statefulsets"),
        WorkloadKind::DaemonSet => ("DaemonSet", "daemonsets"),
    };
    ApiResource { group: "apps".into(), version: "v1".into(), api_version: "apps/v1".into(), kind: kind.into(), plural: plural.into() }
}

pub(crate) fn api(cluster: &Cluster<'_>, kind: WorkloadKind) -> Api<DynamicObject> {
    Api::namespaced_with(cluster.client.clone(), &cluster.work.namespace, &resource(kind))
}

impl Found {
    /// Reads the workload and decides which of its containers take the image.
    pub async fn read(cluster: &Cluster<'_>, workload: &Workload) -> Result<Self> {
        let what = format!("{workload} in {} cannot be read", cluster.work.namespace);
        let api = api(cluster, workload.kind);
        let object = reading(|| api.get(&workload.name), &what).await?;
        Self::of(cluster, workload, object).await
    }

    async fn of(cluster: &Cluster<'_>, workload: &Workload, object: DynamicObject) -> Result<Self> {
        let refuse = |why: &str, hint: &str| Err(Error::new(Reason::TargetFailed, format!("{workload} {why}")).hint(hint.to_owned()));
        if object.data.pointer("/spec/paused").and_then(Value::as_bool) == Some(true) {
            return refuse("is paused, so a rollout would never end", "kubectl rollout resume it first");
        }
        if is_on_delete(&object) && cluster.work.target.on_delete == OnDelete::Refuse {
            return refuse(
                "has the update strategy OnDelete: changing the image replaces no pod",
                "use RollingUpdate, or write `on-delete: replace`: tidegate then deletes the old pods one after another",
            );
        }
        let number = |pointer: &str| object.data.pointer(pointer).and_then(Value::as_i64);
        let partition = number("/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0);
        if workload.kind == WorkloadKind::StatefulSet && partition > 0 && partition >= number("/spec/replicas").unwrap_or(1) {
            return refuse(
                "has a partition that keeps every pod as it is: changing the image replaces none",
                "lower spec.updateStrategy.rollingUpdate.partition",
            );
        }
        if selector(&object).is_empty() {
            return refuse("selects its pods by expressions only, so they cannot be identified", "give its selector `matchLabels`");
        }
        let containers = pick(&object, workload, cluster)?;
        Ok(Self { workload: workload.clone(), containers, object, known_events: known_events(cluster).await })
    }

    /// The object as the API gave it.
    pub fn object(&self) -> &DynamicObject {
        &self.object
    }

    /// The lease under which it was last changed.
    pub fn held(&self) -> String {
        self.object.metadata.annotations.as_ref().and_then(|all| all.get(LEASE)).cloned().unwrap_or_default()
    }

    /// What is followed after its manifest was applied: the cluster must have kept what was asked for.
    pub fn applied(
        cluster: &Cluster<'_>,
        workload: &Workload,
        object: DynamicObject,
        before: Option<&Self>,
    ) -> Result<(Change, Result<()>)> {
        let containers = pick(&object, workload, cluster)?;
        let known_events = before.map(|found| found.known_events.clone()).unwrap_or_default();
        let generation_before = before.and_then(|found| found.object.metadata.generation);
        let found = Self { workload: workload.clone(), containers, object, known_events };
        let change = found.change(cluster, &found.object, true);
        let changed = generation_before != Some(change.generation);
        let confirmed = found.confirmed(&found.object, &cluster.image.reference());
        Ok((Change { changed, ..change }, confirmed))
    }

    /// Whether the image is set already.
    fn is_same(&self, wanted: &str) -> bool {
        self.containers.iter().all(|container| container.image == wanted)
    }

    /// What a deploy would follow if it had nothing to change; nothing when it would change something.
    pub fn unchanged(&self, cluster: &Cluster<'_>) -> Option<Change> {
        let still = cluster.work.target.restart == Restart::Never && self.is_same(&cluster.image.reference());
        still.then(|| self.change(cluster, &self.object, true))
    }

    /// Starts the rollout, if anything has to change. What the API confirms must be what was asked for.
    pub async fn start(&mut self, cluster: &Cluster<'_>, watched: &mut Vec<(Workload, Change)>) -> Result<()> {
        let fence = cluster.site.fence;
        let mut lost = 0;
        let wanted = cluster.image.reference();
        for _try in 0..CONFLICTS {
            let restart = match cluster.work.target.restart {
                Restart::Never => false,
                Restart::WhenUnchanged => self.is_same(&wanted),
                Restart::Always => true,
            };
            let held = self.held();
            fence.check(&self.workload.to_string(), &held)?;
            let changes = !self.is_same(&wanted) || restart;
            if held == fence.to_string() && (!changes || (lost > 0 && self.is_same(&wanted))) {
                watched.push((self.workload.clone(), self.change(cluster, &self.object, lost > 0)));
                return Ok(());
            }
            match self.send(cluster, &self.patch(changes.then_some(wanted.as_str()), restart, fence)).await? {
                Sent::Taken(object) => {
                    watched.push((self.workload.clone(), self.change(cluster, &object, changes)));
                    return if changes { self.confirmed(&object, &wanted) } else { Ok(()) };
                }
                Sent::Changed => {}
                Sent::Lost if lost == LOST => {
                    let sentence =
                        format!("{} in {} cannot be changed: the cluster does not answer", self.workload, cluster.work.namespace);
                    return Err(Error::new(Reason::TargetFailed, sentence));
                }
                Sent::Lost => {
                    lost += 1; // it may have been taken: what is there now tells
                    cluster.world.clock.sleep(std::time::Duration::from_secs(1)).await;
                }
            }
            *self = Self { known_events: std::mem::take(&mut self.known_events), ..Self::read(cluster, &self.workload).await? };
        }
        let sentence = format!("{} in {} keeps changing while it is changed", self.workload, cluster.work.namespace);
        Err(Error::new(Reason::TargetFailed, sentence).hint("does an operator or another tool write to it all the time?"))
    }

    async fn send(&self, cluster: &Cluster<'_>, patch: &Value) -> Result<Sent> {
        let what = format!("{} in {} cannot be changed", self.workload, cluster.work.namespace);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let api = api(cluster, self.workload.kind);
        let sent = tokio::time::timeout(LIMIT, api.patch(&self.workload.name, &params, &Patch::Strategic(patch))).await;
        match sent {
            Ok(Ok(object)) => Ok(Sent::Taken(Box::new(object))),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(Sent::Changed),
            Ok(Err(error)) if is_passing(&error) => Ok(Sent::Lost),
            Ok(Err(error)) => Err(failure(&what, &error)),
            Err(_elapsed) => Ok(Sent::Lost),
        }
    }

    fn confirmed(&self, object: &DynamicObject, wanted: &str) -> Result<()> {
        for container in &self.containers {
            let image = containers_of(object, container.list).find(|(name, _)| *name == container.name).map(|(_, image)| image.to_owned());
            if image.as_deref() != Some(wanted) {
                let there = image.unwrap_or_else(|| "nothing".into());
                let sentence = format!("{} was to run {wanted} in {} but the cluster kept {there}", self.workload, container.name);
                return Err(Error::new(Reason::TargetWrongDigest, sentence).hint("an admission webhook or an operator may own this image"));
            }
        }
        Ok(())
    }

    /// The image where it changes, and under which lease; taken only if the workload is still what was read.
    fn patch(&self, image: Option<&str>, restart: bool, fence: &Fence) -> Value {
        let metadata = json!({"resourceVersion": self.object.metadata.resource_version, "annotations": {LEASE: fence.to_string()}});
        let Some(wanted) = image else { return json!({"metadata": metadata}) };
        let mut spec = Map::new();
        for list in ["containers", "initContainers"] {
            let named = self.containers.iter().filter(|container| container.list == list);
            let entries: Vec<Value> = named.map(|container| json!({"name": container.name, "image": wanted})).collect();
            if !entries.is_empty() {
                spec.insert(list.to_owned(), Value::Array(entries));
            }
        }
        let mut template = json!({"spec": spec});
        if let (true, Some(template)) = (restart, template.as_object_mut()) {
            let now = jiff::Timestamp::now().to_string();
            template.insert("metadata".into(), json!({"annotations": {RESTARTED_AT: now}}));
        }
        json!({"metadata": metadata, "spec": {"template": template}})
    }

    fn change(&self, cluster: &Cluster<'_>, object: &DynamicObject, changed: bool) -> Change {
        let expect = Expect { images: vec![cluster.image.reference()], identities: cluster.image.identities.clone() };
        self.expecting(object, expect, changed)
    }

    /// What is followed when this object's pods are to run something.
    pub fn expecting(&self, object: &DynamicObject, expect: Expect, changed: bool) -> Change {
        Change {
            generation: object.metadata.generation.unwrap_or_default(),
            changed,
            containers: self.containers.clone(),
            selector: selector(object),
            known_events: self.known_events.clone(),
            expect,
            on_delete: is_on_delete(object),
        }
    }
}

/// Whether only deleting a pod replaces it.
pub(crate) fn is_on_delete(object: &DynamicObject) -> bool {
    object.data.pointer("/spec/updateStrategy/type").and_then(Value::as_str) == Some("OnDelete")
}

/// The labels of its pods, as the API takes them.
pub(crate) fn selector(object: &DynamicObject) -> String {
    let labels = object.data.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let pairs = labels.into_iter().flatten().filter_map(|(name, value)| Some(format!("{name}={}", value.as_str()?)));
    pairs.collect::<Vec<_>>().join(",")
}

/// The warnings in the namespace as they are now. Without the right to read them there are none later either.
async fn known_events(cluster: &Cluster<'_>) -> BTreeMap<String, i32> {
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), &cluster.work.namespace);
    let warnings = ListParams::default().fields("type=Warning").limit(500);
    let listed = reading(|| events.list(&warnings), "events").await;
    let items = listed.map(|list| list.items).unwrap_or_default();
    items.into_iter().filter_map(|event| Some((event.metadata.name?, event.count.unwrap_or(1)))).collect()
}

/// The container named in the configuration; else those that run this repository; else the only one.
pub(crate) fn pick(object: &DynamicObject, workload: &Workload, cluster: &Cluster<'_>) -> Result<Vec<Container>> {
    let of = |list: &'static str| {
        containers_of(object, list).map(move |(name, image)| Container { list, name: name.to_owned(), image: image.to_owned() })
    };
    let main: Vec<Container> = of("containers").collect();
    let all: Vec<Container> = main.iter().cloned().chain(of("initContainers")).collect();
    let names = || all.iter().map(|container| container.name.clone()).collect::<Vec<_>>().join(", ");
    if let Some(name) = &cluster.work.target.container {
        let picked: Vec<Container> = all.iter().filter(|container| container.name == *name).cloned().collect();
        if picked.is_empty() {
            let sentence = format!("{workload} has no container {name}");
            return Err(Error::new(Reason::TargetMissing, sentence).hint(format!("it has: {}", names())));
        }
        return Ok(picked);
    }
    let repository = &cluster.image.repository;
    let ours: Vec<Container> = all.iter().filter(|container| repository.owns(&container.image)).cloned().collect();
    match (ours.is_empty(), main.as_slice()) {
        (false, _) => Ok(ours),
        (true, [only]) => Ok(vec![only.clone()]),
        (true, _) => {
            let sentence = format!("{workload} has several containers and none runs {repository}");
            Err(Error::new(Reason::TargetMissing, sentence).hint(format!("name one with `container:`: {}", names())))
        }
    }
}

fn containers_of<'a>(object: &'a DynamicObject, list: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let entries = object.data.pointer(&format!("/spec/template/spec/{list}")).and_then(Value::as_array);
    entries.into_iter().flatten().filter_map(|entry| Some((entry.pointer("/name")?.as_str()?, entry.pointer("/image")?.as_str()?)))
}

/// Reads something, again where the answer was lost on its way or the API server is busy.
pub(crate) async fn reading<T, F: Future<Output = kube::Result<T>>>(request: impl Fn() -> F, what: &str) -> Result<T> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    for _try in 1..READS {
        match tokio::time::timeout(LIMIT, request()).await {
            Ok(Err(error)) if is_passing(&error) => Clock::real().sleep(backoff.pause()).await,
            Ok(answer) => return answer.map_err(|error| failure(what, &error)),
            Err(_elapsed) => break,
        }
    }
    bounded(request(), what).await
}

fn is_passing(error: &kube::Error) -> bool {
    if let kube::Error::Api(status) = error {
        return matches!(status.code, 429 | 500 | 502 | 503 | 504);
    }
    let on_its_way = matches!(error, kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::SerdeError(_));
    on_its_way && !is_login_failure(error)
}

/// A request with a time limit: kube's own client waits for ever.
pub(crate) async fn bounded<T>(request: impl Future<Output = kube::Result<T>>, what: &str) -> Result<T> {
    match tokio::time::timeout(LIMIT, request).await {
        Ok(answer) => answer.map_err(|error| failure(what, &error)),
        Err(_elapsed) => Err(Error::new(Reason::TargetFailed, format!("{what}: the cluster does not answer within 30s"))),
    }
}
