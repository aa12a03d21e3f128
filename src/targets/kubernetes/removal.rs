//! The removal of what `apply:` has made of a preview.

use super::Work;
use super::apply::{LIMIT, OWNER, REPOSITORY, api_of, delete, inventory, inventory_name, known_kind, objects, owner};
use super::resource::{bounded, reading};
use crate::error::{Error, Reason, Result};
use crate::targets::Site;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, DynamicObject, Preconditions};
use kube::core::ApiResource;
use kube::{Client, ResourceExt};
use std::time::Duration;

/// Removes a preview: its namespace, if it was made by us, else what was applied. Nothing when there is nothing of ours.
pub async fn remove(site: &Site<'_>, client: &Client, work: &Work) -> Result<Option<String>> {
    let deadline = site.world.clock.now().saturating_add(work.target.timeout.0);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let what = format!("the namespace {} cannot be read", work.namespace);
    let namespace = reading(|| namespaces.get_opt(&work.namespace), &what).await?;
    let Some(namespace) = namespace else { return Ok(None) };
    if namespace.labels().get(OWNER) == Some(&owner(site)) {
        // Objects of ours in a namespace of somebody else go one by one; a namespace of another repository's same preview stays.
        crate::targets::previews::check_repository(
            site,
            namespace.annotations().get(REPOSITORY).map(String::as_str),
            &format!("the namespace {} (annotation {REPOSITORY})", work.namespace),
        )?;
        if namespace.metadata.deletion_timestamp.is_none() {
            let what = format!("the namespace {} cannot be deleted", work.namespace);
            let preconditions = Some(Preconditions { uid: namespace.uid(), resource_version: None });
            bounded(namespaces.delete(&work.namespace, &DeleteParams { preconditions, ..DeleteParams::default() }), &what).await?;
        }
        let all = api_of(client, &ApiResource::erase::<Namespace>(&()), None);
        let uid = namespace.uid();
        wait_gone(site, deadline, (&all, &work.namespace, &format!("the namespace {}", work.namespace)), &|now| now.uid() == uid).await?;
        return Ok(Some(format!("the namespace {} is gone", work.namespace)));
    }
    let mut entries = inventory(site, client, &work.namespace).await?;
    if entries.is_empty() {
        return Ok(None);
    }
    entries.reverse();
    let mut gone = Vec::new();
    for entry in &entries {
        if delete(site, client, entry).await? {
            gone.push(entry);
        }
    }
    for entry in &gone {
        let Some(resource) = known_kind(client, entry).await? else { continue };
        let api = api_of(client, &resource, entry.namespace.as_deref());
        let label = owner(site);
        wait_gone(site, deadline, (&api, &entry.name, &entry.shown()), &|now| now.labels().get(OWNER) == Some(&label)).await?;
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &work.namespace);
    let _inventory = tokio::time::timeout(LIMIT, maps.delete(&inventory_name(site), &DeleteParams::default())).await;
    Ok(Some(format!("{} in {}: gone", objects(gone.len()), work.namespace)))
}

/// Gone is what the cluster does not have any more, not what it has taken a request for.
async fn wait_gone(
    site: &Site<'_>,
    deadline: Duration,
    (api, name, shown): (&Api<DynamicObject>, &str, &str),
    is_it: &(dyn Fn(&DynamicObject) -> bool + Sync),
) -> Result<()> {
    let clock = &site.world.clock;
    let what = format!("{shown} cannot be read");
    while reading(|| api.get_opt(name), &what).await?.is_some_and(|now| is_it(&now)) {
        if clock.now() >= deadline {
            return Err(Error::new(Reason::TargetTimeout, format!("{shown} was deleted and is still there"))
                .hint("a finalizer may hold it back: kubectl get … -o yaml shows `metadata.finalizers` and conditions"));
        }
        tokio::select! {
            () = clock.sleep(Duration::from_secs(1)) => {}
            () = site.world.cancel.cancelled() => return Err(Error::new(Reason::Cancelled, format!("cancelled while {shown} was deleted"))),
        }
    }
    Ok(())
}
