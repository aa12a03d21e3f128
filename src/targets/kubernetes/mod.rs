//! Kubernetes without kubectl: sets the image by digest, follows the rollout through watches, and compares image ids.

use crate::error::{Error, Reason, Result, Verdict};
use crate::plan::KubernetesWork;
use crate::registry::Pushed;
use crate::targets::Settled;
use crate::world::World;
use kube::Client;

mod cause;
mod connect;
mod resource;
mod rollout;

/// The kinds of workload that have rollouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkloadKind {
    /// A Deployment.
    Deployment,
    /// A StatefulSet.
    StatefulSet,
    /// A DaemonSet.
    DaemonSet,
}

/// A workload, as deployment/web.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

/// Deploys the image to every workload of the target, all at once, and proves that it runs.
pub async fn deploy(world: &World, work: &KubernetesWork, image: &Pushed) -> Result<Settled> {
    let client = connect::connect(world, work).await?;
    let cluster = Cluster { world, work, client, image };
    // Everything is looked at before anything is changed: a typo in the second workload must not half-deploy.
    let mut before = Vec::new();
    for workload in &work.workloads {
        before.push(resource::Found::read(&cluster, workload).await?);
    }
    let started = world.clock.now();
    let mut watched = Vec::new();
    for found in &before {
        watched.push((found.workload.clone(), found.start(&cluster).await?));
    }
    let deadline = started.saturating_add(work.target.timeout.0);
    let rollouts = watched.iter().map(|(workload, change)| rollout::follow(&cluster, workload, change, deadline));
    let results = futures::future::join_all(rollouts).await;
    let mut proofs = Vec::new();
    let mut failure: Option<Error> = None;
    for result in results {
        match result {
            Ok(proof) => proofs.push(proof),
            Err(error) if failure.is_none() => failure = Some(error),
            Err(error) => world.console.warning(&error.to_string()),
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(Settled { verdict: Verdict::Deployed, detail: proofs.join("; "), url: None }),
    }
}

/// A Kubernetes error in plain words.
pub(crate) fn failure(what: &str, error: &kube::Error) -> Error {
    let kube::Error::Api(status) = error else {
        let why = crate::tools::http::chain(error);
        let reason = if why.to_lowercase().contains("auth") { Reason::AuthMissing } else { Reason::TargetFailed };
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
