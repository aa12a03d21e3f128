//! The places outside: AWS as whom, registries, queues, clusters. Each is tried once however many environments name it.

use super::Finding;
use crate::backup;
use crate::config::{Loaded, Source};
use crate::error::{Error, Reason, Result};
use crate::gates::drain::Drain;
use crate::plan::{DrainWork, Plan, Work};
use crate::registry::store::Store;
use crate::targets::{self, System, kubernetes};
use crate::tools::aws::{self, Access};
use crate::tools::identity::{Claims, Identity};
use crate::world::World;
use futures::stream::{self, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long one place may take.
const PATIENCE: Duration = Duration::from_secs(60);
const AT_ONCE: usize = 8;

/// A look at one place.
type Look<'a> = futures::future::BoxFuture<'a, Vec<Finding>>;

pub(super) async fn look(world: &World, loaded: &Loaded, plans: &[(String, Plan)]) -> Vec<Finding> {
    let role_of = |name: &str| loaded.config.role(loaded.config.environments.get(name)).cloned();
    // By a key that sorts them: who we are first, then registries, queues, clusters.
    let mut looks: BTreeMap<String, Look<'_>> = BTreeMap::new();
    for role in roles(loaded, plans, &role_of) {
        looks.insert(format!("1 {role:?}"), Box::pin(identity(world, loaded, role)));
    }
    for (name, plan) in plans {
        for image in &plan.images {
            for repository in std::iter::once(&image.build.repository).chain(&image.build.copies) {
                let role = role_of(name);
                let key = format!("2 {repository} {role:?}");
                looks.entry(key).or_insert_with(|| Box::pin(registry(world, repository, role)));
            }
        }
        for step in &plan.steps {
            if let Some(work) = step.work.drain() {
                let key = format!("3 {:?} {:?} {:?}", work.queues, work.regions, work.role);
                looks.entry(key).or_insert_with(|| Box::pin(queues(world, name, work)));
            }
            if let Some((key, look)) = saved(world, loaded, name, &step.work) {
                looks.entry(key).or_insert(look);
            }
            if let Some((key, look)) = step.work.target().and_then(|work| target(world, loaded, (name, plan), work)) {
                looks.entry(key).or_insert(look);
            }
        }
    }
    let found: Vec<Vec<Finding>> = stream::iter(looks.into_values()).buffered(AT_ONCE).collect().await;
    once(found.concat())
}

/// Places that fail for want of credentials repeat what AWS said already: they are named, without the remedy again.
fn once(mut found: Vec<Finding>) -> Vec<Finding> {
    let mut told: Vec<String> = Vec::new();
    for finding in &mut found {
        let Some(fix) = finding.fix.clone().filter(|_| finding.reason == Some(Reason::AuthMissing)) else { continue };
        if told.contains(&fix) {
            finding.fix = None;
        } else {
            told.push(fix);
        }
    }
    found
}

/// Which roles are assumed at all; `None` stands for the credentials at hand.
fn roles(loaded: &Loaded, plans: &[(String, Plan)], role_of: &dyn Fn(&str) -> Option<String>) -> BTreeSet<Option<String>> {
    let is_on_aws = |work: &targets::Work| match &work.system {
        System::Kubernetes(kubernetes) => kubernetes.target.cluster.is_some(),
        System::Ecs(_) => true,
        System::Swarm(_) | System::Heroku(_) | System::Awx(_) | System::AppDeploy(_) | System::Command(_) | System::Webhook(_) => false,
    };
    let uses_aws = |plan: &Plan| {
        plan.images.iter().any(|image| image.build.repository.ecr().is_some())
            || plan.steps.iter().any(|step| {
                let is_saved = matches!(step.work, Work::Backup(_) | Work::Archive(_) | Work::Seed(_));
                is_saved || step.work.drain().is_some() || step.work.target().is_some_and(is_on_aws)
            })
    };
    let mut roles: BTreeSet<Option<String>> = plans.iter().filter(|(_, plan)| uses_aws(plan)).map(|(name, _)| role_of(name)).collect();
    if loaded.config.state.starts_with("s3://") {
        roles.insert(loaded.config.aws.role.clone());
    }
    roles
}

/// A database and its bucket: whether both let us in, and the programs fit.
fn saved<'a>(world: &'a World, loaded: &'a Loaded, name: &'a str, work: &'a Work) -> Option<(String, Look<'a>)> {
    let Work::Backup(work) = work else { return None };
    let look = async move {
        let said = in_time(backup::look(world, &loaded.folder, work)).await;
        let named = |error: Error| Error { sentence: format!("{name}: {}", error.sentence), ..error };
        vec![Finding::of("backups", said.map(|said| format!("{name}: {said}")).map_err(named))]
    };
    let source = work.backup.source().map(Source::spoken).unwrap_or_default();
    Some((format!("6 {} {source}", work.place), Box::pin(look)))
}

/// A target: what it needs here, and whether it lets us in.
fn target<'a>(
    world: &'a World,
    loaded: &'a Loaded,
    (name, plan): (&'a str, &'a Plan),
    work: &'a targets::Work,
) -> Option<(String, Look<'a>)> {
    match &work.system {
        System::Kubernetes(_) if plan.is_preview => None,
        System::Kubernetes(work) => {
            let key = format!("4 {name} {} {:?} {:?}", work.namespace, work.target.cluster, work.target.context);
            Some((key, Box::pin(cluster(world, name, work))))
        }
        System::Heroku(_) if plan.is_preview => None,
        System::Awx(_)
        | System::Swarm(_)
        | System::Heroku(_)
        | System::Ecs(_)
        | System::AppDeploy(_)
        | System::Command(_)
        | System::Webhook(_) => {
            let look = async move {
                let said = in_time(targets::look(world, &loaded.folder, work)).await;
                let named = |error: Error| Error { sentence: format!("{name}: {}", error.sentence), ..error };
                vec![Finding::of("targets", said.map(|said| format!("{name}: {said}")).map_err(named))]
            };
            let what = serde_json::to_string(&work.system).unwrap_or_default();
            Some((format!("5 {name} {what}"), Box::pin(look)))
        }
    }
}

/// Who AWS takes us for.
async fn identity(world: &World, loaded: &Loaded, role: Option<String>) -> Vec<Finding> {
    let topic = "AWS";
    let mut found = Vec::new();
    if let (Some(role), Ok(None)) = (&role, Identity::of(&world.vars)) {
        let keys = world.vars.get("AWS_ACCESS_KEY_ID").is_some() || world.vars.get("AWS_PROFILE").is_some();
        let fix = if world.vars.is_true("GITLAB_CI") {
            "GitLab: `id_tokens: {TIDEGATE_ID_TOKEN: {aud: sts.amazonaws.com}}` in the job (the component has it)"
        } else {
            "GitHub: `id-token: write` under `permissions:` of the job; it is not given to pull requests of forks"
        };
        if !keys && crate::state::is_ci(&world.vars) {
            let sentence = format!("this job has no identity token, which {role} is assumed with");
            return vec![Finding::bad(topic, &Error::new(Reason::AuthMissing, sentence).hint(fix))];
        }
    }
    if let Ok(Some(identity)) = Identity::of(&world.vars)
        && let Ok(token) = identity.token().await
        && let Some(Claims { subject, audience, .. }) = Claims::of(&token)
    {
        found.push(Finding::good(topic, format!("this job's identity token: sub = {subject}, aud = {}", audience.join(", "))));
    }
    let asked = async {
        let access = Access { region: loaded.config.aws.region.clone(), role: role.clone() };
        let client = aws_sdk_sts::Client::new(&aws::config(&world.vars, &access, "STS").await?);
        let who = match &role {
            Some(role) => format!("the role {role}"),
            None => "the credentials at hand".to_owned(),
        };
        let answer = client.get_caller_identity().send().await;
        let answer = answer.map_err(|error| aws::failure(&format!("{who} cannot be used"), Reason::AuthDenied, &error))?;
        Ok(format!("AWS takes this job for {}", answer.arn().unwrap_or("somebody")))
    };
    found.push(Finding::of(topic, in_time(asked).await));
    found
}

async fn registry(world: &World, repository: &crate::registry::Repository, role: Option<String>) -> Vec<Finding> {
    let asked = async {
        let store = Store::open(world, repository, role).await?;
        store.manifest("tidegate-doctor").await?;
        match store.ecr() {
            Some(ecr) => {
                ecr.can_push().await?;
                Ok(format!(
                    "{repository}: login, ecr:BatchGetImage, ecr:BatchCheckLayerAvailability (ecr:PutImage and uploads are not tried)"
                ))
            }
            None => Ok(format!("{repository}: can be read (pushing is not tried)")),
        }
    };
    vec![Finding::of("registry", in_time(asked).await)]
}

async fn queues(world: &World, environment: &str, work: &DrainWork) -> Vec<Finding> {
    let asked = async {
        let drain = Drain::open(world, work).await?;
        let busy = drain.look().await?;
        let now = if busy.is_empty() { "all at zero now".to_owned() } else { format!("now {}", busy.join("; ")) };
        Ok(format!("{environment}: {} can be read, {now}", drain.counted()))
    };
    vec![Finding::of("queues", in_time(asked).await)]
}

async fn cluster(world: &World, environment: &str, work: &kubernetes::Work) -> Vec<Finding> {
    let topic = "clusters";
    match in_time(kubernetes::may::look(world, work)).await {
        Ok(missing) if missing.is_empty() => {
            let names: Vec<String> = work.workloads.iter().map(ToString::to_string).collect();
            vec![Finding::good(topic, format!("{environment}: {} in {} can be read and updated", names.join(", "), work.namespace))]
        }
        Ok(missing) => {
            let sentence = format!("{environment}: in the namespace {} this job may not: {}", work.namespace, missing.join(", "));
            let fix = "add these verbs to the Role that its user or service account is bound to there";
            vec![Finding::bad(topic, &Error::new(Reason::AuthDenied, sentence).hint(fix))]
        }
        Err(error) => vec![Finding::bad(topic, &Error { sentence: format!("{environment}: {}", error.sentence), ..error })],
    }
}

async fn in_time<T>(look: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_elapsed| Err(Error::new(Reason::TargetTimeout, format!("no answer within {}", humantime::format_duration(PATIENCE))));
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(late)
}
