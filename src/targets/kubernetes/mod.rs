//! Kubernetes without kubectl: sets the image by digest, follows the rollout through watches, and compares image ids.

use super::{Life, Settled, Site, live};
use crate::config::{self, Rollback, template::Values};
use crate::error::{Error, Reason, Result};
use crate::registry::Pushed;
use crate::world::World;
use futures::stream::{FuturesUnordered, StreamExt};
use kube::Client;
use std::path::Path;
use std::time::Duration;

mod apply;
mod cause;
pub(crate) mod connect;
pub mod edit;
mod gitops;
pub mod job;
mod job_log;
pub mod manifest;
pub(crate) mod may;
pub(super) mod previews;
mod removal;
mod resource;
mod revisions;
mod rollout;

/// How long reaching the cluster may take, credential plugins included.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// What a rollout gets at least in a rehearsal, on its clock.
const REHEARSED_ROLLOUT: Duration = Duration::from_secs(600);

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

/// Workloads in a cluster, with all placeholders filled.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Work {
    /// The configuration's own part.
    pub target: config::Kubernetes,
    /// The namespace.
    pub namespace: String,
    /// The workloads.
    pub workloads: Vec<Workload>,
    /// Globs of manifests.
    pub apply: Vec<String>,
    /// The AWS region and role, for EKS.
    pub aws: config::Aws,
}

impl Work {
    fn reach(&self) -> connect::Reach<'_> {
        connect::Reach { context: self.target.context.as_deref(), cluster: self.target.cluster.as_deref(), aws: &self.aws }
    }
}

/// The cluster as this deploy reaches it.
pub(crate) struct Cluster<'a> {
    pub site: &'a Site<'a>,
    pub world: &'a World,
    pub work: &'a Work,
    pub client: Client,
    pub image: &'a Pushed,
    pub rollback: Rollback,
    pub values: Values,
}

/// Refuses manifests that are not there or cannot be read, before anything is built.
pub fn check(world: &World, folder: &Path, work: &super::Work, kubernetes: &Work) -> Result<()> {
    if let Some(token) = kubernetes.target.gitops.as_ref().and_then(|gitops| gitops.token.as_ref()) {
        super::secret(world, &token.env, "the token of the manifest repository")?;
    }
    if kubernetes.apply.is_empty() {
        return Ok(());
    }
    // The images are not there yet: any text stands for them.
    let values = super::with_images(&work.values, work.image.iter().map(|name| (name.as_str(), "image".into(), "digest".into())));
    manifest::load(folder, &kubernetes.apply, &values, &mut |_odd| {}).map(drop)
}

async fn reach<'a>(site: &'a Site<'a>, work: &super::Work, kubernetes: &'a Work) -> Result<Cluster<'a>> {
    let client = client(site.world, &kubernetes.reach(), kubernetes.target.timeout.0).await?;
    let (image, values) = (site.image(work)?, site.values(&work.values));
    Ok(Cluster { site, world: site.world, work: kubernetes, client, image, rollback: work.rollback, values })
}

pub(crate) async fn client(world: &World, reach: &connect::Reach<'_>, timeout: Duration) -> Result<Client> {
    let limit = CONNECT_LIMIT.min(timeout);
    tokio::time::timeout(limit, connect::connect(world, reach)).await.map_err(|_elapsed| {
        Error::new(Reason::TargetTimeout, format!("the cluster could not be reached within {}", humantime::format_duration(limit)))
            .hint("is a credential plugin of the kubeconfig waiting for something?")
    })?
}

/// The proof that everything runs the image already; nothing when something would have to be changed. Changes nothing.
pub async fn runs(site: &Site<'_>, work: &super::Work, kubernetes: &Work) -> Result<Option<Settled>> {
    let cluster = reach(site, work, kubernetes).await?;
    if !kubernetes.apply.is_empty() && !apply::Manifests::load(&cluster).await?.are_unchanged(&cluster).await? {
        return Ok(None);
    }
    let mut proofs = Vec::new();
    for workload in &kubernetes.workloads {
        let found = resource::Found::read(&cluster, workload).await?;
        let change = match kubernetes.target.gitops {
            Some(_) => gitops::shown(&cluster, &found),
            None => found.unchanged(&cluster),
        };
        let Some(change) = change else { return Ok(None) };
        let Some(proof) = rollout::proof(&cluster, workload, &change).await? else { return Ok(None) };
        proofs.push(proof);
    }
    proofs.sort();
    Ok(Some(Settled::deployed(proofs.join("; "), None)))
}

/// Deploys the image to every workload of the target, all at once, and proves that it runs.
pub async fn deploy(site: &Site<'_>, work: &super::Work, kubernetes: &Work) -> Result<Settled> {
    let cluster = reach(site, work, kubernetes).await?;
    live(&cluster, work.rollback, site.world).await
}

/// Removes what was applied for a preview, and waits until it is gone.
pub async fn remove(site: &Site<'_>, kubernetes: &Work) -> Result<Option<String>> {
    let client = client(site.world, &kubernetes.reach(), kubernetes.target.timeout.0).await?;
    removal::remove(site, &client, kubernetes).await
}

/// What was there before.
pub(crate) struct Before {
    found: Vec<resource::Found>,
    /// Where a rollback would lead, as far as there is something.
    previous: Vec<(Workload, revisions::Previous)>,
    manifests: Option<apply::Manifests>,
    /// The texts that a manifest repository had.
    edited: Option<gitops::Edited>,
}

/// What was begun.
#[derive(Default)]
pub(crate) struct Started {
    watched: Vec<(Workload, resource::Change)>,
    /// What is in no manifest any more.
    stale: Vec<apply::Entry>,
    committed: Option<gitops::Committed>,
}

impl Life for Cluster<'_> {
    type Before = Before;
    type Started = Started;

    /// Everything is looked at before anything is changed: a typo in the second workload must not half-deploy.
    async fn read(&self) -> Result<Before> {
        let manifests = match self.work.apply.is_empty() {
            true => None,
            false => Some(apply::Manifests::load(self).await?),
        };
        let mut found = Vec::new();
        for workload in &self.work.workloads {
            match resource::Found::read(self, workload).await {
                Err(error) if error.gone && manifests.as_ref().is_some_and(|manifests| manifests.hold(workload)) => {}
                answer => found.push(answer?),
            }
        }
        let mut previous = Vec::new();
        if self.rollback == Rollback::Auto {
            for found in &found {
                let Some(before) = revisions::previous(self, found).await? else { continue };
                self.site.say(&format!("{}: on failure back to {}", found.workload, before.shown()));
                previous.push((found.workload.clone(), before));
            }
        }
        if let Some(manifests) = &manifests {
            manifests.try_out(self).await?;
        }
        let edited = match &self.work.target.gitops {
            // A rehearsal knows no manifest repository: the cluster is changed as that would change it.
            Some(gitops) if self.world.rehearsal => {
                gitops
                    .edit
                    .iter()
                    .for_each(|edit| self.site.say(&format!("would set {} in {} of {}", edit.key, edit.file, gitops.repository)));
                None
            }
            Some(gitops) => Some(gitops::Edited::open(self, gitops).await?),
            None => None,
        };
        Ok(Before { found, previous, manifests, edited })
    }

    async fn start(&self, before: &mut Before, started: &mut Started) -> Result<()> {
        if let Some(edited) = &mut before.edited {
            started.committed = edited.write(self).await?;
            return Ok(());
        }
        if let Some(manifests) = &before.manifests {
            for found in &before.found {
                self.site.fence.check(&found.workload.to_string(), &found.held())?;
            }
            started.stale = manifests.begin(self).await?;
            let (found, watched) = (&before.found, &mut started.watched);
            let mut unconfirmed = None;
            manifests
                .apply(self, |workload, object| {
                    let known = found.iter().find(|found| found.workload == *workload);
                    let (change, confirmed) = resource::Found::applied(self, workload, object, known)?;
                    watched.push((workload.clone(), change)); // it is there, whatever the cluster made of it
                    unconfirmed = unconfirmed.take().or(confirmed.err());
                    Ok(())
                })
                .await?;
            unconfirmed.map_or(Ok(()), Err)?;
        }
        for found in &mut before.found {
            if started.watched.iter().all(|(workload, _)| *workload != found.workload) {
                found.start(self, &mut started.watched).await.map_err(|error| also_changed(error, &started.watched))?;
            }
        }
        Ok(())
    }

    async fn settle(&self, before: &Before, started: &Started) -> Result<Settled> {
        // A rehearsal's clock runs fast, its pretend cluster does not: short limits would end what works.
        let least = if self.world.rehearsal { REHEARSED_ROLLOUT } else { Duration::ZERO };
        let deadline = self.world.clock.now().saturating_add(self.work.target.timeout.0.max(least));
        if let Some(edited) = &before.edited {
            return edited.wait(self, started.committed.as_ref(), deadline).await;
        }
        let watched = &started.watched;
        let mut rollouts: FuturesUnordered<_> =
            watched.iter().map(|(workload, change)| rollout::follow(self, workload, change, deadline)).collect();
        let mut proofs = Vec::new();
        // The first failure is told at once; the other rollouts go on in the cluster, unobserved.
        while let Some(proof) = rollouts.next().await {
            proofs.push(proof.map_err(|error| if watched.len() > 1 { also_changed(error, watched) } else { error })?);
        }
        proofs.sort();
        if let Some(manifests) = &before.manifests
            && let Err(error) = manifests.prune(self, &started.stale).await
        {
            // What runs is proven; what is left over is found again by the next run.
            self.world.console.warning(&format!("what is in no manifest any more is not all deleted yet: {}", error.sentence));
        }
        Ok(Settled::deployed(proofs.join("; "), None))
    }

    fn has_changed(&self, started: &Started) -> bool {
        started.committed.is_some() || started.watched.iter().any(|(_, change)| change.changed)
    }

    async fn back(&self, before: &Before, started: &Started) -> Result<String> {
        let deadline = self.world.clock.now().saturating_add(self.work.target.timeout.0);
        if let (Some(edited), Some(committed)) = (&before.edited, &started.committed) {
            return edited.take_back(self, committed, deadline).await;
        }
        let changed = |workload: &Workload| started.watched.iter().any(|(known, change)| known == workload && change.changed);
        let mut to = Vec::new();
        for (workload, previous) in before.previous.iter().filter(|(workload, _)| changed(workload)) {
            to.push(revisions::go_back(self, workload, previous, deadline).await?);
        }
        let new: Vec<String> = started
            .watched
            .iter()
            .filter(|(workload, change)| change.changed && before.previous.iter().all(|(known, _)| known != workload))
            .map(|(workload, _)| workload.to_string())
            .collect();
        if !new.is_empty() {
            return Err(Error::new(Reason::TargetFailed, format!("there is nothing to go back to: {} ran nothing before", new.join(", "))));
        }
        Ok(to.join("; "))
    }

    async fn stop(&self, started: &Started) -> Option<String> {
        let names: Vec<String> =
            started.watched.iter().filter(|(_, change)| change.changed).map(|(workload, _)| workload.to_string()).collect();
        (!names.is_empty()).then(|| format!("the cluster goes on with the rollout of {}", names.join(", ")))
    }
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
        404 => Error { gone: true, ..Error::new(Reason::TargetMissing, sentence) }
            .hint("look at the namespace, the kind and the name; tidegate creates only what `apply:` names"),
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
