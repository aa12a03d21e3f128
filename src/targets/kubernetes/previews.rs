//! Namespaces that tidegate made, or applied manifests to, for pull requests, found by their inventories and labels.

use super::apply::{OWNER, REPOSITORY};
use super::resource::reading;
use super::{Work, client};
use crate::error::{Reason, Result};
use crate::targets::previews::Mark;
use crate::world::World;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

/// What the cluster has of this project: inventories say the whole owner; a namespace without one says it in its label.
pub async fn marks(world: &World, project: &str, work: &Work) -> Result<Vec<Mark>> {
    let client = client(world, &work.reach(), work.target.timeout.0).await?;
    let labelled = ListParams::default().labels(OWNER);
    let everywhere = work.target.namespace.contains('{');
    let maps: Api<ConfigMap> = if everywhere { Api::all(client.clone()) } else { Api::namespaced(client.clone(), &work.namespace) };
    let maps = reading(|| maps.list(&labelled), "the inventories of previews cannot be listed").await?;
    let mut found: Vec<Mark> = maps.items.iter().filter_map(|map| of_inventory(map, project)).collect();
    if everywhere {
        for mark in of_namespaces(&client, &labelled, project).await? {
            if found.iter().all(|known| known.place != mark.place) {
                found.push(mark);
            }
        }
    }
    Ok(found)
}

fn of_inventory(map: &ConfigMap, project: &str) -> Option<Mark> {
    let data = map.data.as_ref()?;
    let repository = data.get("repository").map(String::as_str);
    Mark::of(data.get("owner")?, project, repository, &map.namespace()?, None)
}

/// A run that was killed between making the namespace and writing down what is in it leaves only the label. Who may not
/// list namespaces sees the inventories all the same.
async fn of_namespaces(client: &Client, labelled: &ListParams, project: &str) -> Result<Vec<Mark>> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let listed = match reading(|| namespaces.list(labelled), "namespaces cannot be listed").await {
        Err(error) if error.reason == Reason::AuthDenied => return Ok(Vec::new()),
        listed => listed?,
    };
    let mark = |namespace: &Namespace| {
        let label = namespace.labels().get(OWNER)?;
        let repository = namespace.annotations().get(REPOSITORY).map(String::as_str);
        Mark::of(&label.replacen('.', "/", 1), project, repository, &namespace.name_any(), None)
    };
    Ok(listed.items.iter().filter_map(mark).collect())
}
