//! Whether a deploy would be let in: reads the workloads, and asks the cluster what this user may do. Changes nothing.

use super::connect::connect;
use super::{Work, WorkloadKind, failure};
use crate::error::{Error, Reason, Result};
use crate::world::World;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::{Api, DynamicObject, PostParams};
use std::collections::BTreeSet;

/// What is missing, as "patch deployments"; nothing when all is there. A workload that is not there is an error.
pub async fn look(world: &World, work: &Work) -> Result<Vec<String>> {
    let client = connect(world, &work.reach()).await?;
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let kinds: BTreeSet<&str> = work.workloads.iter().map(|workload| plural(workload.kind)).collect();
    let mut wanted: Vec<(&str, &str, &str, &str)> = Vec::new();
    for kind in kinds {
        wanted.extend(["get", "list", "watch", "patch"].map(|verb| (verb, "apps", kind, "")));
    }
    wanted.extend(["list", "watch"].map(|verb| (verb, "", "pods", "")));
    wanted.extend([("get", "", "pods", "log"), ("list", "", "events", "")]);
    let mut missing = Vec::new();
    for (verb, group, resource, part) in wanted {
        if !allowed(&reviews, work, (verb, group, resource, part)).await? {
            missing.push(format!("{verb} {resource}{}", if part.is_empty() { String::new() } else { format!("/{part}") }));
        }
    }
    if missing.iter().any(|line| line.starts_with("get ") && !line.ends_with("log")) {
        return Ok(missing);
    }
    for workload in &work.workloads {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &work.namespace, &super::resource::resource(workload.kind));
        api.get(&workload.name).await.map_err(|error| failure(&format!("{workload} in {} cannot be read", work.namespace), &error))?;
    }
    Ok(missing)
}

async fn allowed(
    reviews: &Api<SelfSubjectAccessReview>,
    work: &Work,
    (verb, group, resource, part): (&str, &str, &str, &str),
) -> Result<bool> {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let attributes = ResourceAttributes {
        namespace: text(&work.namespace),
        verb: text(verb),
        group: text(group),
        resource: text(resource),
        subresource: text(part),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..SelfSubjectAccessReviewSpec::default() };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let answer = reviews.create(&PostParams::default(), &review).await;
    let answer = answer.map_err(|error| failure("the cluster does not say what this user may do", &error))?;
    answer
        .status
        .map(|status| status.allowed)
        .ok_or_else(|| Error::new(Reason::TargetFailed, "the cluster answered a review without a verdict"))
}

fn plural(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::Deployment => "deployments",
        WorkloadKind::StatefulSet => "statefulsets",
        WorkloadKind::DaemonSet => "daemonsets",
    }
}
