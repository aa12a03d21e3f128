//! `apply:`: server-side apply of manifests, an inventory of what is ours, and the pruning of what is ours no more.
//!
//! The inventory is a ConfigMap in the target's namespace. Everything that was applied also has our label; nothing without
//! it is ever deleted.

use super::manifest::{self, Manifest};
use super::resource::{FIELD_MANAGER, LEASE, RESTARTED_AT, bounded, pick, reading};
use super::{Cluster, Workload, WorkloadKind, failure};
use crate::config::Restart;
use crate::error::{Error, Reason, Result};
use crate::targets::{Site, set};
use crate::version::slug;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::{self, Scope};
use kube::{Client, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Says whose an object is.
pub(super) const OWNER: &str = "tidegate.dev/owner";
/// The annotation that says which repository's run made a namespace.
pub(super) const REPOSITORY: &str = "tidegate.dev/repository";
/// What is never pruned: it holds data, or much more than what was applied.
const KEPT: [&str; 4] = ["PersistentVolumeClaim", "PersistentVolume", "Namespace", "CustomResourceDefinition"];
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// An object that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Entry {
    group: String,
    version: String,
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
    pub(super) name: String,
}

impl Entry {
    pub(super) fn shown(&self) -> String {
        format!("{}/{}", self.kind.to_lowercase(), self.name)
    }

    /// The same thing, whatever the version of its API.
    fn is(&self, other: &Self) -> bool {
        (&self.group, &self.kind, &self.namespace, &self.name) == (&other.group, &other.kind, &other.namespace, &other.name)
    }
}

/// The manifests of a target, ready to be sent.
pub(crate) struct Manifests {
    items: Vec<Item>,
    has_namespace: bool,
}

struct Item {
    manifest: Manifest,
    resource: ApiResource,
    namespace: Option<String>,
    workload: Option<Workload>,
}

impl Item {
    fn entry(&self) -> Entry {
        Entry {
            group: self.resource.group.clone(),
            version: self.resource.version.clone(),
            kind: self.resource.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.manifest.text("/metadata/name").to_owned(),
        }
    }

    fn api(&self, client: &Client) -> Api<DynamicObject> {
        api_of(client, &self.resource, self.namespace.as_deref())
    }
}

pub(super) fn api_of(client: &Client, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}

/// The label's value: at most 63 letters, digits, dots and dashes.
pub(super) fn owner(site: &Site<'_>) -> String {
    let plain = site.owner.replace('/', ".");
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    if plain.len() <= 54 && plain.chars().all(fine) { plain } else { slug(&plain, 54) }
}

pub(super) fn inventory_name(site: &Site<'_>) -> String {
    format!("tidegate-{}", owner(site))
}

impl Manifests {
    /// Reads the files, sets the image in the workloads, and asks the cluster what the kinds are.
    pub async fn load(cluster: &Cluster<'_>) -> Result<Self> {
        let console = &cluster.world.console;
        let loaded = manifest::load(cluster.site.folder, &cluster.work.apply, &cluster.values, &mut |odd| console.warning(&odd))?;
        let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
        let has_namespace = match tokio::time::timeout(LIMIT, namespaces.get_opt(&cluster.work.namespace)).await {
            Ok(Ok(found)) => found.is_some(),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => true, // it may not look; applying tells
            Ok(Err(error)) => return Err(failure(&format!("the namespace {} cannot be read", cluster.work.namespace), &error)),
            Err(_elapsed) => return Err(Error::new(Reason::TargetFailed, "the cluster does not answer within 30s")),
        };
        if !has_namespace && !cluster.site.is_preview {
            let sentence = format!("there is no namespace {}", cluster.work.namespace);
            return Err(
                Error::new(Reason::TargetMissing, sentence).hint("tidegate makes namespaces for previews only: kubectl create namespace")
            );
        }
        let mut known: BTreeMap<(String, String, String), (ApiResource, Scope)> = BTreeMap::new();
        let mut items = Vec::new();
        for manifest in loaded {
            let (group, version) = manifest.group_version();
            let key = (group.to_owned(), version.to_owned(), manifest.text("/kind").to_owned());
            if !known.contains_key(&key) {
                known.insert(key.clone(), kind_of(&cluster.client, &key, &manifest.file).await?);
            }
            let Some((resource, scope)) = known.get(&key).cloned() else { continue };
            items.push(prepared(cluster, manifest, resource, scope)?);
        }
        Ok(Self { items, has_namespace })
    }

    /// Whether a workload is one of them.
    pub fn hold(&self, workload: &Workload) -> bool {
        self.items.iter().any(|item| item.workload.as_ref() == Some(workload))
    }

    /// Sends everything as a dry run: what the cluster will not take is known before anything is changed.
    pub async fn try_out(&self, cluster: &Cluster<'_>) -> Result<()> {
        if !self.has_namespace {
            return Ok(()); // there is nothing yet that it could be tried in
        }
        for item in &self.items {
            send(cluster, item, DryRun::Yes).await?;
        }
        Ok(())
    }

    /// Whether the cluster has all of it already.
    pub async fn are_unchanged(&self, cluster: &Cluster<'_>) -> Result<bool> {
        if !self.has_namespace {
            return Ok(false);
        }
        for item in &self.items {
            let api = item.api(&cluster.client);
            let now = api.get_opt(item.manifest.text("/metadata/name"));
            let Some(now) = bounded(now, &format!("{} cannot be read", item.manifest.shown())).await? else { return Ok(false) };
            let then = send(cluster, item, DryRun::Yes).await?;
            if essence(now) != essence(then) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes down what is and what will be ours, before anything is ours: a run that is killed in between forgets nothing.
    /// Gives what is in no manifest any more.
    pub async fn begin(&self, cluster: &Cluster<'_>) -> Result<Vec<Entry>> {
        let (site, work) = (cluster.site, cluster.work);
        if !self.has_namespace {
            make_namespace(site, &cluster.client, &work.namespace).await?;
        }
        let before = inventory(site, &cluster.client, &work.namespace).await?;
        let ours: Vec<Entry> = self.items.iter().map(Item::entry).collect();
        let stale: Vec<Entry> = before.iter().filter(|old| !ours.iter().any(|new| new.is(old))).cloned().collect();
        write_inventory(site, &cluster.client, &work.namespace, ours.iter().chain(&stale)).await?;
        Ok(stale)
    }

    /// Applies everything; each workload is given as soon as it was sent.
    pub async fn apply(&self, cluster: &Cluster<'_>, mut sent: impl FnMut(&Workload, DynamicObject) -> Result<()> + Send) -> Result<()> {
        for item in &self.items {
            let object = send(cluster, item, DryRun::No).await?;
            if let Some(workload) = &item.workload {
                sent(workload, object)?;
            }
        }
        cluster.site.say(&format!("{} applied in {}", objects(self.items.len()), cluster.work.namespace));
        Ok(())
    }

    /// Removes what is in no manifest any more: when the new version is proven, since the old one may need it until then.
    pub async fn prune(&self, cluster: &Cluster<'_>, stale: &[Entry]) -> Result<()> {
        let (site, work) = (cluster.site, cluster.work);
        let mut kept = Vec::new();
        for old in stale {
            if KEPT.contains(&old.kind.as_str()) && !site.is_preview {
                site.world.console.warning(&format!("{} is in no manifest any more; it is kept, since it may hold data", old.shown()));
                kept.push(old);
            } else if delete(site, &cluster.client, old).await? {
                site.say(&format!("{} was in no manifest any more and is deleted", old.shown()));
            }
        }
        if stale.is_empty() {
            return Ok(());
        }
        let ours: Vec<Entry> = self.items.iter().map(Item::entry).collect();
        write_inventory(site, &cluster.client, &work.namespace, ours.iter().chain(kept)).await
    }
}

pub(super) fn objects(count: usize) -> String {
    if count == 1 { "1 object".into() } else { format!("{count} objects") }
}

/// What an object is apart from the API's own bookkeeping.
fn essence(object: DynamicObject) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or(Value::Null);
    if let Some(map) = value.as_object_mut() {
        map.remove("status");
    }
    if let Some(metadata) = value.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        for name in ["managedFields", "resourceVersion", "generation"] {
            metadata.remove(name);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LEASE);
        }
    }
    value
}

async fn kind_of(client: &Client, (group, version, kind): &(String, String, String), file: &str) -> Result<(ApiResource, Scope)> {
    let gvk = GroupVersionKind::gvk(group, version, kind);
    let what = format!("{file}: the cluster does not know {kind} of {}", gvk.api_version());
    match tokio::time::timeout(LIMIT, discovery::pinned_kind(client, &gvk)).await {
        Ok(Ok((resource, capabilities))) => Ok((resource, capabilities.scope)),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => Err(failure(&what, &kube::Error::Api(status))),
        Ok(Err(kube::Error::Discovery(_) | kube::Error::Api(_))) => Err(Error::new(Reason::TargetInput, what)
            .hint("is the apiVersion right, and the CustomResourceDefinition there? (kubectl api-resources)")),
        Ok(Err(error)) => Err(failure(&what, &error)),
        Err(_elapsed) => Err(Error::new(Reason::TargetFailed, format!("{what}: no answer within 30s"))),
    }
}

/// Puts an object into its namespace, with our label; a workload of the target gets the image.
fn prepared(cluster: &Cluster<'_>, mut manifest: Manifest, resource: ApiResource, scope: Scope) -> Result<Item> {
    let target = &cluster.work.namespace;
    let refused =
        |why: String, hint: &str| Err(Error::new(Reason::ConfigInvalid, format!("{}: {why}", manifest.file)).hint(hint.to_owned()));
    let own = manifest.text("/metadata/namespace").to_owned();
    let namespace = match scope {
        Scope::Cluster if cluster.site.is_preview => {
            let hint = "a preview owns its namespace and what is in it; what the whole cluster shares belongs elsewhere";
            return refused(format!("{} is not in any namespace", manifest.shown()), hint);
        }
        Scope::Cluster => None,
        Scope::Namespaced if !own.is_empty() && own != *target => {
            let hint = "leave `metadata.namespace` out: the target's namespace is used";
            return refused(format!("{} is in the namespace {own}, and the target's is {target}", manifest.shown()), hint);
        }
        Scope::Namespaced => Some(target.clone()),
    };
    let label = owner(cluster.site);
    let kinds =
        [("Deployment", WorkloadKind::Deployment), ("StatefulSet", WorkloadKind::StatefulSet), ("DaemonSet", WorkloadKind::DaemonSet)];
    let kind = kinds.into_iter().find(|(name, _)| resource.group == "apps" && resource.kind == *name).map(|(_, kind)| kind);
    let name = manifest.text("/metadata/name").to_owned();
    let workload = kind.map(|kind| Workload { kind, name }).filter(|workload| cluster.work.workloads.contains(workload));
    set(&mut manifest.value, &["metadata", "labels", OWNER], json!(label));
    if let Some(namespace) = &namespace {
        set(&mut manifest.value, &["metadata", "namespace"], json!(namespace));
    }
    if let Some(workload) = &workload {
        set_image(cluster, &mut manifest, workload)?;
        set(&mut manifest.value, &["metadata", "annotations", LEASE], json!(cluster.site.fence.to_string()));
        if cluster.work.target.restart == Restart::Always {
            let now = jiff::Timestamp::now().to_string();
            set(&mut manifest.value, &["spec", "template", "metadata", "annotations", RESTARTED_AT], json!(now));
        }
    }
    Ok(Item { manifest, resource, namespace, workload })
}

/// One rollout for manifest and image together.
fn set_image(cluster: &Cluster<'_>, manifest: &mut Manifest, workload: &Workload) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(manifest.value.clone())
        .map_err(|error| Error::new(Reason::ConfigInvalid, format!("{}: {workload} is not a workload: {error}", manifest.file)))?;
    for container in pick(&object, workload, cluster)? {
        let list = manifest.value.pointer_mut(&format!("/spec/template/spec/{}", container.list)).and_then(Value::as_array_mut);
        for entry in list.into_iter().flatten() {
            if entry.get("name").and_then(Value::as_str) == Some(container.name.as_str()) {
                set(entry, &["image"], json!(cluster.image.reference()));
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DryRun {
    Yes,
    No,
}

/// Server-side apply. Fields that others own are not taken from them without a word.
async fn send(cluster: &Cluster<'_>, item: &Item, dry_run: DryRun) -> Result<DynamicObject> {
    let name = item.manifest.text("/metadata/name");
    let api = item.api(&cluster.client);
    let what = format!("{}: {} cannot be applied", item.manifest.file, item.manifest.shown());
    let mut params = PatchParams::apply(FIELD_MANAGER);
    params.dry_run = dry_run == DryRun::Yes;
    for _try in 0..2 {
        let sent = tokio::time::timeout(LIMIT, api.patch(name, &params, &Patch::Apply(&item.manifest.value))).await;
        match sent {
            Ok(Ok(object)) => return Ok(object),
            // A switch of the image alone, or a rollback, was ours too.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 && !params.force && are_all_ours(&status.message) => {
                params.force = true
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                return Err(Error::new(Reason::TargetInput, format!("{what}: {}", status.message)).hint(format!(
                    "take these fields out of the manifest (an autoscaler owns `replicas`), or take them over once: \
                     kubectl apply --server-side --force-conflicts --field-manager={FIELD_MANAGER} -f {}",
                    item.manifest.file
                )));
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 422 => {
                return Err(Error::new(Reason::TargetInput, format!("{what}: {}", status.message)));
            }
            Ok(Err(error)) => return Err(failure(&what, &error)),
            Err(_elapsed) => return Err(Error::new(Reason::TargetFailed, format!("{what}: the cluster does not answer within 30s"))),
        }
    }
    Err(Error::new(Reason::TargetFailed, what))
}

/// Whether every manager that a conflict names is tidegate itself, by another way of writing.
/// The message is `Apply failed with 2 conflicts: conflicts with "tidegate" using apps/v1: …`.
fn are_all_ours(message: &str) -> bool {
    let mut managers = message.split("with \"").skip(1).filter_map(|rest| rest.split('"').next()).peekable();
    managers.peek().is_some() && managers.all(|manager| manager == FIELD_MANAGER)
}

async fn make_namespace(site: &Site<'_>, client: &Client, name: &str) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let annotations: BTreeMap<&str, &str> = site.forge.repository().map(|repository| (REPOSITORY, repository)).into_iter().collect();
    let metadata = json!({"name": name, "labels": {OWNER: owner(site)}, "annotations": annotations});
    let value = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
    let namespace: Namespace = serde_json::from_value(value).map_err(|error| Error::new(Reason::Internal, error.to_string()))?;
    match tokio::time::timeout(LIMIT, namespaces.create(&PostParams::default(), &namespace)).await {
        Ok(Ok(_)) => site.say(&format!("the namespace {name} is made")),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => {} // the answer to a first try was lost
        Ok(Err(error)) => return Err(failure(&format!("the namespace {name} cannot be made"), &error)),
        Err(_elapsed) => {
            return Err(Error::new(Reason::TargetFailed, format!("the namespace {name} cannot be made: no answer within 30s")));
        }
    }
    Ok(())
}

/// What was applied the time before.
pub(super) async fn inventory(site: &Site<'_>, client: &Client, namespace: &str) -> Result<Vec<Entry>> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let name = inventory_name(site);
    let Some(map) = reading(|| maps.get_opt(&name), "the inventory of what was applied cannot be read").await? else {
        return Ok(Vec::new());
    };
    if map.labels().get(OWNER) != Some(&owner(site)) {
        let sentence = format!("the ConfigMap {name} in {namespace} is not ours (its label {OWNER} says otherwise)");
        return Err(Error::new(Reason::TargetFailed, sentence).hint("rename or delete it"));
    }
    let text = map.data.as_ref().and_then(|data| data.get("inventory")).map(String::as_str).unwrap_or("[]");
    serde_json::from_str(text).map_err(|error| {
        Error::new(Reason::TargetFailed, format!("the ConfigMap {name} in {namespace} cannot be understood: {error}"))
            .hint("look at it; when it is deleted, what is in no manifest any more is left alone")
    })
}

async fn write_inventory<'a>(site: &Site<'_>, client: &Client, namespace: &str, entries: impl Iterator<Item = &'a Entry>) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let name = inventory_name(site);
    let entries: Vec<&Entry> = entries.collect();
    let mut data = BTreeMap::from([("inventory", serde_json::to_string(&entries).unwrap_or_default()), ("owner", site.owner.clone())]);
    data.extend(site.forge.repository().map(|repository| ("repository", repository.to_owned())));
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": {OWNER: owner(site)}},
        "data": data,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    bounded(maps.patch(&name, &params, &Patch::Apply(&map)), "the inventory of what is applied cannot be written").await.map(drop)
}

/// The kind of an entry; nothing when the cluster does not have it any more, which is not the same as no answer.
pub(super) async fn known_kind(client: &Client, entry: &Entry) -> Result<Option<ApiResource>> {
    let gvk = GroupVersionKind::gvk(&entry.group, &entry.version, &entry.kind);
    let what = format!("{} cannot be looked up", entry.shown());
    match tokio::time::timeout(LIMIT, discovery::pinned_kind(client, &gvk)).await {
        Ok(Ok((resource, _))) => Ok(Some(resource)),
        Ok(Err(kube::Error::Discovery(_))) => Ok(None),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(None),
        Ok(Err(error)) => Err(failure(&what, &error)),
        Err(_elapsed) => Err(Error::new(Reason::TargetFailed, format!("{what}: the cluster does not answer within 30s"))),
    }
}

/// Deletes what has our label; whether it was there and ours.
pub(super) async fn delete(site: &Site<'_>, client: &Client, entry: &Entry) -> Result<bool> {
    let Some(resource) = known_kind(client, entry).await? else {
        site.world.console.warning(&format!("the cluster does not know {} any more: {} is left out", entry.kind, entry.shown()));
        return Ok(false);
    };
    let api = api_of(client, &resource, entry.namespace.as_deref());
    let what = format!("{} cannot be deleted", entry.shown());
    let Some(object) = reading(|| api.get_opt(&entry.name), &what).await? else { return Ok(false) };
    if object.labels().get(OWNER) != Some(&owner(site)) {
        site.world.console.warning(&format!("{} is not ours any more (label {OWNER}): it is left alone", entry.shown()));
        return Ok(false);
    }
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions { uid: object.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    match tokio::time::timeout(LIMIT, api.delete(&entry.name, &params)).await {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(false),
        Ok(Err(error)) => Err(failure(&what, &error)),
        Err(_elapsed) => Err(Error::new(Reason::TargetFailed, format!("{what}: no answer within 30s"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_fields_are_taken_over() {
        assert!(are_all_ours(
            r#"Apply failed with 1 conflict: conflict with "tidegate" using apps/v1: .spec.template.spec.containers[name="web"].image"#
        ));
        assert!(!are_all_ours(
            r#"Apply failed with 2 conflicts: conflicts with "tidegate" using apps/v1: .a conflicts with "kubectl-edit": .spec.replicas"#
        ));
        assert!(!are_all_ours("something else"));
    }
}
