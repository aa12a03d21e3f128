//! Runs something to its end as a Job: a migration with the version's image, its output, and its true exit code.

use super::connect::Reach;
use super::job_log::{Follow, Heard};
use super::manifest;
use super::resource::{FIELD_MANAGER, reading, resource};
use super::{Workload, failure};
use crate::config::{self, KubernetesJob, OnCancel, template::Values};
use crate::error::{Error, Reason, Result};
use crate::registry::Pushed;
use crate::targets::{Lost, STOP_LIMIT, Site, set};
use crate::tools::wait::spoken;
use crate::version::slug;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams};
use serde_json::{Value, json};
use std::time::Duration;

const LOOK: Duration = Duration::from_secs(1);
/// How long a finished Job stays to be looked at.
const KEPT_SECONDS: u64 = 86_400;
/// How long the pod of a failed Job is waited for, to learn its exit code.
const POD_LAG: Duration = Duration::from_secs(10);
const PATIENCE: u32 = 20;

/// What is run where, with all placeholders filled that are known before the images are.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Work {
    /// The configuration's own part.
    pub target: KubernetesJob,
    /// The namespace.
    pub namespace: String,
    /// The workload that is the pattern.
    pub from: Option<Workload>,
    /// The image's key.
    pub image: String,
    /// The AWS region and role, for EKS.
    pub aws: config::Aws,
}

impl Work {
    fn reach(&self) -> Reach<'_> {
        Reach { context: self.target.context.as_deref(), cluster: self.target.cluster.as_deref(), aws: &self.aws }
    }
}

pub(super) struct Runner<'a> {
    pub(super) site: &'a Site<'a>,
    work: &'a Work,
    client: Client,
    image: &'a Pushed,
    values: &'a Values,
}

/// Runs it and says how it ended; anything but exit code 0 is an error.
pub async fn run(site: &Site<'_>, work: &Work, image: &Pushed, values: &Values) -> Result<String> {
    let client = super::client(site.world, &work.reach(), work.target.timeout.0).await?;
    let runner = Runner { site, work, client, image, values };
    let job = runner.start().await?;
    let mut error = match runner.follow(&job).await {
        Ok(said) => return Ok(said),
        Err(error) => error,
    };
    if runner.may_go_on(&job).await {
        // It could begin later, when nobody looks any more.
        let stopped = tokio::time::timeout(STOP_LIMIT, runner.stop(&job)).await;
        error.detail.push(stopped.unwrap_or_else(|_elapsed| format!("job/{job} may go on: it could not be deleted in time")));
    }
    Err(error)
}

impl Runner<'_> {
    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), &self.work.namespace)
    }

    pub(super) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.work.namespace)
    }

    /// The Job's name tells the delivery: a run that goes on with a killed one finds its Job.
    async fn start(&self) -> Result<String> {
        let delivery = self.site.memory.delivery().await;
        let known = self.site.memory.started().await.and_then(|handle| handle.strip_prefix("job ").map(str::to_owned));
        if let Some(name) = known
            && let jobs = self.jobs()
            && let Some(job) = reading(|| jobs.get_opt(&name), &format!("job/{name} cannot be read")).await?
            && condition(&job, "Failed").is_none()
        {
            self.site.say(&format!("the run before started job/{name}: it is followed"));
            return Ok(name);
        }
        let base = slug(&format!("{}-{}", self.site.owner.replace(['/', '.', '_'], "-"), self.site.step).to_lowercase(), 45);
        let tail: String = delivery.to_lowercase().chars().filter(char::is_ascii_alphanumeric).take(10).collect();
        let name = format!("{base}-{tail}");
        let mut spec = self.spec().await?;
        for number in 1..=5 {
            let name = if number == 1 { name.clone() } else { format!("{name}-{number}") };
            let metadata = json!({
                "name": name, "namespace": self.work.namespace,
                "labels": {"app.kubernetes.io/managed-by": "tidegate", "tidegate.dev/delivery": tail},
                "annotations": {"tidegate.dev/image": self.image.reference()},
            });
            set(&mut spec, &["metadata"], metadata);
            if self.create(&name, &spec).await? {
                self.site.say(&format!("job/{name} in {} runs {}", self.work.namespace, self.image.reference()));
                self.site.note_started(&format!("job {name}")).await?;
                return Ok(name);
            }
        }
        Err(Error::new(Reason::TargetFailed, format!("job/{name} failed several times in this delivery")))
    }

    /// Whether the Job is there and may go on; not when one of this name failed before. A Job whose answer was lost is ours:
    /// its name tells the delivery.
    async fn create(&self, name: &str, spec: &Value) -> Result<bool> {
        let job: Job = serde_json::from_value(spec.clone())
            .map_err(|error| Error::new(Reason::ConfigInvalid, format!("this cannot be a Job: {error}")))?;
        let what = format!("job/{name} cannot be made");
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        for attempt in 1..=3 {
            let created = tokio::time::timeout(Duration::from_secs(30), self.jobs().create(&params, &job)).await;
            let error = match created {
                Ok(Ok(_)) => return Ok(true),
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                    let jobs = self.jobs();
                    let there = reading(|| jobs.get(name), &format!("job/{name} cannot be read")).await?;
                    return Ok(condition(&there, "Failed").is_none());
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 422 => {
                    return Err(Error::new(Reason::TargetInput, format!("{what}: {}", status.message)));
                }
                Ok(Err(kube::Error::Api(status))) if status.code < 500 => return Err(failure(&what, &kube::Error::Api(status))),
                Ok(Err(error)) => failure(&what, &error),
                Err(_elapsed) => Error::new(Reason::TargetFailed, format!("{what}: no answer within 30s")),
            };
            if attempt == 3 {
                return Err(error);
            }
            self.site.say(&format!("{}; trying again", error.sentence));
            self.site.world.clock.sleep(LOOK).await;
        }
        Ok(false)
    }

    /// One pod, tried once: a migration that failed half-way is not to be run again by itself.
    async fn spec(&self) -> Result<Value> {
        let mut job = match (&self.work.from, &self.work.target.manifest) {
            (Some(workload), _) => json!({"spec": {"template": self.template_of(workload).await?}}),
            (None, Some(file)) => self.manifest_in(file)?,
            (None, None) => return Err(Error::new(Reason::Internal, "a job without a pattern")),
        };
        let limit = self.work.target.timeout.0.as_secs().max(1);
        for (path, value) in [
            (&["apiVersion"][..], json!("batch/v1")),
            (&["kind"], json!("Job")),
            (&["spec", "backoffLimit"], json!(0)),
            (&["spec", "completions"], json!(1)),
            (&["spec", "parallelism"], json!(1)),
            (&["spec", "activeDeadlineSeconds"], json!(limit)),
            (&["spec", "template", "spec", "restartPolicy"], json!("Never")),
        ] {
            set(&mut job, path, value);
        }
        if job.pointer("/spec/ttlSecondsAfterFinished").is_none() {
            set(&mut job, &["spec", "ttlSecondsAfterFinished"], json!(KEPT_SECONDS));
        }
        self.set_container(&mut job)?;
        Ok(job)
    }

    /// The pods of a workload as the pattern: the same variables, volumes and service account; no probes, ports or hooks.
    async fn template_of(&self, workload: &Workload) -> Result<Value> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.work.namespace, &resource(workload.kind));
        let what = format!("{workload} in {} cannot be read", self.work.namespace);
        let object = reading(|| api.get(&workload.name), &what).await?;
        let mut template = object.data.pointer("/spec/template").cloned().unwrap_or_else(|| json!({}));
        // With the workload's labels its services would send requests to the migration.
        set(&mut template, &["metadata"], json!({}));
        let containers = template.pointer_mut("/spec/containers").and_then(Value::as_array_mut);
        let Some(containers) = containers else { return Err(Error::new(Reason::TargetMissing, format!("{workload} has no containers"))) };
        let repository = &self.image.repository;
        let image = |container: &Value| container.get("image").and_then(Value::as_str).unwrap_or_default().to_owned();
        let fits = |container: &Value| match &self.work.target.container {
            Some(name) => container.get("name").and_then(Value::as_str) == Some(name.as_str()),
            None => repository.owns(&image(container)),
        };
        if containers.len() > 1 || self.work.target.container.is_some() {
            containers.retain(fits);
        }
        if containers.is_empty() {
            let sentence = format!("{workload} has several containers, and it is unclear which one is the pattern");
            return Err(Error::new(Reason::TargetMissing, sentence).hint("name one with `container:`"));
        }
        containers.truncate(1);
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            for name in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "ports"] {
                container.remove(name);
            }
        }
        Ok(template)
    }

    fn manifest_in(&self, file: &str) -> Result<Value> {
        let file = self.site.fill(self.values, file)?;
        let console = &self.site.world.console;
        let manifests = manifest::load(self.site.folder, std::slice::from_ref(&file), self.values, &mut |odd| console.warning(&odd))?;
        match manifests.as_slice() {
            [one] if one.text("/kind") == "Job" => Ok(one.value.clone()),
            _other => Err(Error::new(Reason::ConfigInvalid, format!("{file} must hold one Job, and nothing else"))),
        }
    }

    fn set_container(&self, job: &mut Value) -> Result<()> {
        let fill = |text: &str| self.site.fill(self.values, text);
        let container = job
            .pointer_mut("/spec/template/spec/containers/0")
            .ok_or_else(|| Error::new(Reason::ConfigInvalid, "the Job has no container"))?;
        set(container, &["image"], json!(self.image.reference()));
        if !self.work.target.command.is_empty() {
            let words = self.work.target.command.iter().map(|word| fill(word)).collect::<Result<Vec<_>>>()?;
            set(container, &["command"], json!(words));
            if let Some(map) = container.as_object_mut() {
                map.remove("args");
            }
        }
        for (name, value) in &self.work.target.env {
            let entry = json!({"name": name, "value": fill(value)?});
            if !container.get("env").is_some_and(Value::is_array) {
                set(container, &["env"], json!([]));
            }
            let Some(list) = container.get_mut("env").and_then(Value::as_array_mut) else { continue };
            list.retain(|known| known.get("name").and_then(Value::as_str) != Some(name));
            list.push(entry);
        }
        Ok(())
    }

    async fn follow(&self, name: &str) -> Result<String> {
        let clock = &self.site.world.clock;
        let begun = clock.now();
        let deadline = begun.saturating_add(self.work.target.timeout.0);
        let mut heard = Heard::watching(self.work.target.failure_marker.clone());
        let (mut said, mut lost, mut next_look) = (String::new(), Lost::at_most(PATIENCE), begun);
        loop {
            tokio::select! {
                line = heard.next() => heard.take(self, line),
                () = clock.sleep(next_look.saturating_sub(clock.now())) => {
                    next_look = clock.now().saturating_add(LOOK);
                    match self.look(name, &mut heard, &mut said).await {
                        Ok(Some(job)) => return self.judge(name, &job, &mut heard, clock.now().saturating_sub(begun)).await,
                        Ok(None) => lost.over(),
                        Err(error) if error.reason == Reason::TargetFailed => {
                            lost.bear(error, self.site).map_err(|error| given_up(name, &heard, error))?;
                        }
                        Err(error) => return Err(given_up(name, &heard, error)),
                    }
                    if clock.now() >= deadline {
                        let sentence = format!("job/{name} did not end within {}: {said}", self.work.target.timeout);
                        return Err(Error::new(Reason::TargetTimeout, sentence).detail(heard.tail()));
                    }
                }
                () = self.site.world.cancel.cancelled() => return Err(self.cancelled(name)),
            }
        }
    }

    /// One look: the Job, once it is over.
    async fn look(&self, name: &str, heard: &mut Heard, said: &mut String) -> Result<Option<Job>> {
        let jobs = self.jobs();
        let job = reading(|| jobs.get(name), &format!("job/{name} cannot be read")).await?;
        if condition(&job, "Complete").is_some() || condition(&job, "Failed").is_some() {
            return Ok(Some(job));
        }
        let pod = self.pod(name).await?;
        let waits = pod.as_ref().map_or("no pod yet".to_owned(), waiting);
        if waits != *said {
            self.site.say(&format!("job/{name}: {waits}"));
            *said = waits;
        }
        let Some(pod) = pod else { return Ok(None) };
        if has_begun(&pod) && heard.stream.is_none() {
            heard.open(self, &pod, Follow::Yes).await;
        }
        match stuck(name, &pod) {
            Some(error) => Err(error),
            None => Ok(None),
        }
    }

    /// Whether the Job is not over, as far as can be known in a moment.
    async fn may_go_on(&self, name: &str) -> bool {
        let job = tokio::time::timeout(STOP_LIMIT / 2, self.jobs().get_opt(name)).await;
        match job {
            Ok(Ok(Some(job))) => condition(&job, "Complete").is_none() && condition(&job, "Failed").is_none(),
            Ok(Ok(None)) => false,
            Ok(Err(_)) | Err(_) => true,
        }
    }

    fn cancelled(&self, name: &str) -> Error {
        Error::new(Reason::Cancelled, format!("cancelled while job/{name} ran"))
    }

    async fn pod(&self, name: &str) -> Result<Option<Pod>> {
        let params = ListParams::default().labels(&format!("job-name={name}"));
        let pods = self.pods();
        let mut pods = reading(|| pods.list(&params), &format!("the pods of job/{name} cannot be listed")).await?.items;
        pods.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        Ok(pods.pop())
    }

    /// The Job's own word, and the exit code of its container.
    async fn judge(&self, name: &str, job: &Job, heard: &mut Heard, length: Duration) -> Result<String> {
        let clock = &self.site.world.clock;
        let until = clock.now().saturating_add(POD_LAG);
        let pod = loop {
            match self.pod(name).await? {
                Some(pod) if exit_code(&pod).is_some() || clock.now() >= until => break Some(pod),
                None if clock.now() >= until => break None,
                Some(_) | None => clock.sleep(LOOK).await,
            }
        };
        if let Some(pod) = &pod {
            heard.rest(self, pod).await;
        }
        let code = pod.as_ref().and_then(exit_code);
        let failed = |reason: Reason, sentence: String| Err(Error::new(reason, sentence).detail(heard.tail()));
        if let Some(failure) = condition(job, "Failed") {
            let (reason, message) = failure;
            if reason == "DeadlineExceeded" {
                return failed(Reason::TargetTimeout, format!("job/{name} did not end within {}", self.work.target.timeout));
            }
            return match code {
                Some(code) => failed(Reason::TargetFailed, format!("job/{name} ended with exit code {code}")),
                None => failed(
                    Reason::TargetFailed,
                    format!("job/{name} was lost before it ended ({reason}: {message}): it is not known what it did"),
                ),
            };
        }
        match code {
            Some(0) if heard.marked => {
                let marker = self.work.target.failure_marker.as_deref().unwrap_or_default();
                failed(Reason::TargetFailed, format!("job/{name} ended with exit code 0, but its output says {marker}"))
            }
            Some(0) if self.work.target.failure_marker.is_some() && !heard.ended => failed(
                Reason::TargetFailed,
                format!("job/{name} ended with exit code 0, but its output could not be read, so it may hold the failure marker"),
            ),
            Some(0) => Ok(format!("job/{name} ended with exit code 0 after {}", spoken(length))),
            Some(code) => {
                failed(Reason::TargetFailed, format!("job/{name} calls itself complete, but its container ended with exit code {code}"))
            }
            None => failed(Reason::TargetFailed, format!("job/{name} calls itself complete, but no pod shows its exit code")),
        }
    }

    async fn stop(&self, name: &str) -> String {
        if self.work.target.on_cancel == OnCancel::Leave {
            return format!("job/{name} goes on by itself (`on-cancel: leave`)");
        }
        match self.jobs().delete(name, &DeleteParams::background()).await {
            Ok(_) => format!("job/{name} was deleted, and its pod is being ended"),
            Err(kube::Error::Api(status)) if status.code == 404 => format!("job/{name} is gone"),
            Err(error) => format!("job/{name} may go on: {}", failure("it cannot be deleted", &error).sentence),
        }
    }
}

/// Reason and message of a condition that is true.
/// A look that failed for good, with what was heard until then.
fn given_up(name: &str, heard: &Heard, error: Error) -> Error {
    if error.gone {
        return Error::new(Reason::TargetMissing, format!("job/{name} was deleted while it ran"));
    }
    Error { detail: heard.tail(), ..error }
}

fn condition(job: &Job, kind: &str) -> Option<(String, String)> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")?;
    Some((found.reason.clone().unwrap_or_default(), found.message.clone().unwrap_or_default()))
}

/// The status of the first container of the specification: statuses are sorted by name.
pub(super) fn status_of(pod: &Pod) -> Option<&ContainerStatus> {
    let name = &pod.spec.as_ref()?.containers.first()?.name;
    pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|status| status.name == *name)
}

fn exit_code(pod: &Pod) -> Option<i32> {
    Some(status_of(pod)?.state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn has_begun(pod: &Pod) -> bool {
    let state = status_of(pod).and_then(|status| status.state.as_ref());
    state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

fn waiting(pod: &Pod) -> String {
    let reason = status_of(pod).and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone());
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_else(|| "Pending".into());
    reason.unwrap_or(phase)
}

/// A pod that will never begin.
fn stuck(name: &str, pod: &Pod) -> Option<Error> {
    let waiting = status_of(pod)?.state.as_ref()?.waiting.as_ref()?;
    let message = waiting.message.clone().unwrap_or_default();
    let reason = match waiting.reason.as_deref()? {
        "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => Reason::TargetImagePull,
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => Reason::TargetConfig,
        _passing => return None,
    };
    Some(Error::new(reason, format!("job/{name} cannot begin: {message}")))
}
