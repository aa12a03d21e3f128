//! Kubernetes without kubectl: sets the image by digest, follows the rollout through watches, and compares image ids.

use crate::error::{Error, Reason, Result, Verdict};
use crate::plan::KubernetesWork;
use crate::registry::Pushed;
use crate::targets::{Fence, Settled};
use crate::world::World;
use futures::stream::{FuturesUnordered, StreamExt};
use kube::Client;

mod cause;
mod connect;
pub(crate) mod may;
mod resource;
mod rollout;

/// How long reaching the cluster may take, credential plugins included.
const CONNECT_LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

/// What a rollout gets at least in a rehearsal, on its clock.
const REHEARSED_ROLLOUT: std::time::Duration = std::time::Duration::from_secs(600);

/// The kinds of workload that have rollouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum WorkloadKind {
    /// A Deployment.
    Deployment,
    /// A StatefulSet.
    StatefulSet,
    /// A DaemonSet.
    DaemonSet,
}

/// A workload, as deployment/web.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Workload {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
}

impl Workload {
    /// Parses kind/name; kubectl's short forms are understood.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let (kind, name) = text.split_once('/').ok_or_else(|| format!("{text:?} has no kind"))?;
        let kind = match kind {
            "deployment" | "deployments" | "deploy" => WorkloadKind::Deployment,
            "statefulset" | "statefulsets" | "sts" => WorkloadKind::StatefulSet,
            "daemonset" | "daemonsets" | "ds" => WorkloadKind::DaemonSet,
            other => return Err(format!("{other:?} is not a kind of workload")),
        };
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        let is_template = name.contains('{');
        if name.is_empty() || name.len() > 253 || (!is_template && !name.chars().all(plain)) {
            return Err(format!("{name:?} cannot be the name of a workload"));
        }
        Ok(Self { kind, name: name.to_owned() })
    }
}

/// Whether this can be a namespace. <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>
pub fn is_dns_label(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.len() <= 63 && text.chars().all(fine) && !text.starts_with('-') && !text.ends_with('-')
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            WorkloadKind::Deployment => "deployment",
            WorkloadKind::StatefulSet => "statefulset",
            WorkloadKind::DaemonSet => "daemonset",
        };
        write!(f, "{kind}/{}", self.name)
    }
}

/// The cluster as this deploy reaches it.
pub(crate) struct Cluster<'a> {
    pub world: &'a World,
    pub work: &'a KubernetesWork,
    pub client: Client,
    pub image: &'a Pushed,
}

async fn reach<'a>(world: &'a World, work: &'a KubernetesWork, image: &'a Pushed) -> Result<Cluster<'a>> {
    let limit = CONNECT_LIMIT.min(work.target.timeout.0);
    let client = tokio::time::timeout(limit, connect::connect(world, work)).await.map_err(|_elapsed| {
        Error::new(Reason::TargetTimeout, format!("the cluster could not be reached within {}", humantime::format_duration(limit)))
            .hint("is a credential plugin of the kubeconfig waiting for something?")
    })??;
    Ok(Cluster { world, work, client, image })
}

/// The proof that everything runs the image already; nothing when something would have to be changed. Changes nothing.
pub async fn runs(world: &World, work: &KubernetesWork, image: &Pushed) -> Result<Option<Settled>> {
    let cluster = reach(world, work, image).await?;
    let mut proofs = Vec::new();
    for workload in &work.workloads {
        let Some(change) = resource::Found::read(&cluster, workload).await?.unchanged(&cluster) else { return Ok(None) };
        let Some(proof) = rollout::proof(&cluster, workload, &change).await? else { return Ok(None) };
        proofs.push(proof);
    }
    proofs.sort();
    Ok(Some(Settled { verdict: Verdict::Deployed, detail: proofs.join("; "), url: None }))
}

/// Deploys the image to every workload of the target, all at once, and proves that it runs.
pub async fn deploy(world: &World, work: &KubernetesWork, image: &Pushed, fence: &Fence) -> Result<Settled> {
    let started = world.clock.now();
    let cluster = reach(world, work, image).await?;
    // Everything is looked at before anything is changed: a typo in the second workload must not half-deploy.
    let mut before = Vec::new();
    for workload in &work.workloads {
        before.push(resource::Found::read(&cluster, workload).await?);
    }
    let mut watched = Vec::new();
    for found in &mut before {
        let change = found.start(&cluster, fence).await.map_err(|error| also_changed(error, &watched))?;
        watched.push((found.workload.clone(), change));
    }
    // A rehearsal's clock runs fast, its pretend cluster does not: short limits would end what works.
    let least = if world.rehearsal { REHEARSED_ROLLOUT } else { std::time::Duration::ZERO };
    let deadline = started.saturating_add(work.target.timeout.0.max(least));
    let mut rollouts: FuturesUnordered<_> =
        watched.iter().map(|(workload, change)| rollout::follow(&cluster, workload, change, deadline)).collect();
    let mut proofs = Vec::new();
    // The first failure is told at once; the other rollouts go on in the cluster, unobserved.
    while let Some(proof) = rollouts.next().await {
        proofs.push(proof.map_err(|error| if watched.len() > 1 { also_changed(error, &watched) } else { error })?);
    }
    proofs.sort();
    Ok(Settled { verdict: Verdict::Deployed, detail: proofs.join("; "), url: None })
}

/// Adds which workloads have the new image already, proven or not.
fn also_changed(mut error: Error, watched: &[(Workload, resource::Change)]) -> Error {
    if !watched.is_empty() {
        let names: Vec<String> = watched.iter().map(|(workload, _)| workload.to_string()).collect();
        error.detail.push(format!("the image was set on: {}", names.join(", ")));
    }
    error
}

fn is_login_failure(error: &kube::Error) -> bool {
    if let kube::Error::Service(inner) = error {
        return inner.downcast_ref::<kube::client::AuthError>().is_some();
    }
    matches!(error, kube::Error::Auth(_))
}

/// A Kubernetes error in plain words.
pub(crate) fn failure(what: &str, error: &kube::Error) -> Error {
    let kube::Error::Api(status) = error else {
        if is_login_failure(error) {
            // The plugin's own words may hold what it was given: they are not repeated.
            return Error::new(Reason::AuthMissing, format!("{what}: the login of the kubeconfig failed"))
                .hint("run the credential plugin of the kubeconfig's user by hand to see why");
        }
        let why = crate::tools::http::chain(error);
        let reason = Reason::TargetFailed;
        return Error::new(reason, format!("{what}: {why}")).hint("is the cluster reachable from this runner, and its certificate known?");
    };
    let sentence = format!("{what}: {}", status.message);
    match status.code {
        401 => Error::new(Reason::AuthMissing, sentence).hint("the cluster does not know these credentials"),
        403 => Error::new(Reason::AuthDenied, sentence)
            .hint("the role needs get, list, watch, patch on the workloads and get, list, watch on pods, replicasets, events"),
        404 => {
            Error::new(Reason::TargetMissing, sentence).hint("look at the namespace, the kind and the name; tidegate does not create them")
        }
        _other => Error::new(Reason::TargetFailed, sentence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_parsed_with_kubectls_short_forms() {
        assert_eq!(Workload::parse("deploy/web").unwrap().to_string(), "deployment/web");
        assert_eq!(Workload::parse("sts/worker").unwrap().to_string(), "statefulset/worker");
        for wrong in ["web", "pod/web", "deployment/", "deployment/We b", "deployment/../x"] {
            assert!(Workload::parse(wrong).is_err(), "{wrong}");
        }
    }
}
