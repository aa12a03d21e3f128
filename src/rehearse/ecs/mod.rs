//! The pretend ECS: revisions, services whose deployments go on at each look, tasks that run to their end, and ways to lie.

use crate::targets::set;
use serde_json::{Value, json};
use std::collections::BTreeMap;

mod answers;

pub use answers::{answer, lines};

const ARN: &str = "arn:aws:ecs:us-west-2:123456789012";

/// How the cluster treats a new deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EcsMood {
    /// It rolls out.
    #[default]
    Honest,
    /// It is called completed, and the old tasks keep running.
    KeepsOld,
    /// It is completed, and its tasks run another digest.
    OtherDigest,
    /// The update is confirmed and forgotten.
    Ignores,
    /// Tasks die, the circuit breaker goes back, and the service ends steady.
    CircuitBreaker,
    /// Tasks die, the circuit breaker gives up, and nothing goes back.
    GivesUp,
    /// Tasks cannot pull.
    Pull,
    /// Tasks start and die.
    Crash,
    /// Tasks run and fail the load balancer's health check.
    Unhealthy,
    /// Tasks cannot be started: a secret is not there.
    NoSecret,
    /// No instance takes tasks.
    Unplaceable,
    /// Nothing happens.
    Stuck,
    /// Somebody else deploys a third revision.
    Taken,
}

/// An answer to give instead, or after the deed.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The action.
    pub action: &'static str,
    /// How often.
    pub times: usize,
    /// The status.
    pub status: u16,
    /// The code, as `AccessDeniedException`.
    pub code: &'static str,
    /// Whether the request takes effect all the same.
    pub after_effect: bool,
}

/// A deployment of a service.
#[derive(Clone, Debug)]
struct Deployment {
    id: String,
    revision: String,
    looks: u64,
    state: &'static str,
    why: String,
    running: u64,
    failed: u64,
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// How many tasks are wanted.
    pub desired: u64,
    /// What stands in it besides.
    pub more: Value,
    /// The newest first.
    deployments: Vec<Deployment>,
    events: Vec<Value>,
    /// The revision it ran in the beginning: with it everything goes well.
    first: String,
}

/// The clusters of the sandbox: their services by name.
#[derive(Clone, Debug, Default)]
pub struct Clusters {
    /// The services, by cluster and name.
    pub services: BTreeMap<(String, String), Service>,
    /// All revisions: the task definition, with its tags.
    pub definitions: Vec<Value>,
    /// All tasks.
    pub tasks: Vec<Value>,
    /// What was asked of RunTask.
    pub runs: Vec<Value>,
    /// How new deployments go.
    pub mood: EcsMood,
    /// The exit code of tasks that run to their end; none where they never end.
    pub task_exit: Option<i64>,
    /// What tasks that run to their end say; each look at CloudWatch Logs shows one line more.
    pub lines: Vec<String>,
    /// The containers, with their images, of services that appear when they are first asked for.
    pub containers: Vec<(String, String)>,
    /// Answers to give instead.
    pub refusals: Vec<Refusal>,
    next: u64,
}

impl Clusters {
    /// Adds a service that runs this image on two tasks, beside a proxy, from a definition with fields that nobody here knows.
    pub fn add_service(&mut self, cluster: &str, name: &str, image: &str) {
        self.add_service_of(cluster, name, &[("web".to_owned(), image.to_owned()), ("proxy".to_owned(), "envoy:1".to_owned())]);
    }

    /// Adds a service with these containers.
    fn add_service_of(&mut self, cluster: &str, name: &str, containers: &[(String, String)]) {
        let containers = containers.iter().map(|(name, image)| {
            json!({
                "name": name, "image": image, "essential": true, "environment": [{"name": "KEEP", "value": "me"}], "futureField": {"deep": [1]},
                "logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": "/ecs/web", "awslogs-stream-prefix": "web"}}, "dockerLabels": {"team": "web"},
            })
        });
        let containers: Vec<Value> = containers.collect();
        let definition = json!({
            "family": name, "containerDefinitions": containers, "networkMode": "awsvpc", "cpu": "256", "memory": "512", "notOfOurs": true,
            "tags": [{"key": "team", "value": "web"}],
        });
        let revision = self.register(definition);
        let network = json!({"awsvpcConfiguration": {"subnets": ["subnet-1"], "securityGroups": ["sg-1"]}});
        let more = json!({"launchType": "FARGATE", "platformVersion": "LATEST", "networkConfiguration": network});
        let mut service = Service { desired: 2, more, deployments: Vec::new(), events: Vec::new(), first: revision.clone() };
        let deployment = self.begin(&revision);
        service.deployments.push(Deployment { state: "COMPLETED", running: 2, ..deployment });
        self.fill(name, &service, "");
        self.services.insert((cluster.to_owned(), name.to_owned()), service);
    }

    /// The images that the running tasks of a service run, by container.
    pub fn runs(&self, name: &str, container: &str) -> Vec<String> {
        let ours =
            self.tasks.iter().filter(|task| text(task, "/group") == format!("service:{name}") && text(task, "/desiredStatus") == "RUNNING");
        let parts = ours.flat_map(|task| list(task, "/containers")).filter(|part| text(part, "/name") == container);
        parts.map(|part| text(part, "/image").to_owned()).collect()
    }

    /// The circuit breaker of a service, without which ECS never gives up.
    pub fn set_breaker(&mut self, name: &str, rollback: &Value) {
        for ((_, _), service) in self.services.iter_mut().filter(|((_, known), _)| known == name) {
            set(&mut service.more, &["deploymentConfiguration", "deploymentCircuitBreaker"], json!({"enable": true, "rollback": rollback}));
        }
    }

    fn register(&mut self, mut definition: Value) -> String {
        let family = text(&definition, "/family").to_owned();
        let number = self.definitions.iter().filter(|known| text(known, "/family") == family).count() + 7;
        let arn = format!("{ARN}:task-definition/{family}:{number}");
        for (field, value) in [
            ("taskDefinitionArn", json!(arn)),
            ("revision", json!(number)),
            ("status", json!("ACTIVE")),
            ("requiresAttributes", json!([{"name": "ecs.capability.task-eni"}])),
            ("compatibilities", json!(["EC2", "FARGATE"])),
            ("registeredAt", json!(1_700_000_000.5)),
        ] {
            set(&mut definition, &[field], value);
        }
        self.definitions.push(definition);
        arn
    }

    fn definition(&self, name: &str) -> Option<&Value> {
        let is = |known: &&Value| {
            let arn = text(known, "/taskDefinitionArn");
            arn == name || arn.rsplit('/').next() == Some(name)
        };
        self.definitions.iter().rev().find(is)
    }

    fn begin(&mut self, revision: &str) -> Deployment {
        self.next += 1;
        let id = format!("ecs-svc/{:019}", self.next);
        let why = format!("ECS deployment {id} in progress.");
        Deployment { id, revision: revision.to_owned(), looks: 0, state: "IN_PROGRESS", why, running: 0, failed: 0 }
    }

    fn task(&mut self, revision: &str, digest: &str) -> Value {
        self.next += 1;
        let arn = format!("{ARN}:task/demo/{:032x}", self.next);
        let definition = self.definition(revision).cloned().unwrap_or_default();
        let parts = list(&definition, "/containerDefinitions").map(|part| {
            let image = text(part, "/image");
            let own = image.split_once('@').map_or("", |(_, digest)| digest);
            let shown = if digest.is_empty() { own } else { digest };
            json!({"name": text(part, "/name"), "image": image, "imageDigest": shown, "lastStatus": "RUNNING"})
        });
        let parts: Vec<Value> = parts.collect();
        json!({"taskArn": arn, "taskDefinitionArn": revision, "lastStatus": "RUNNING", "desiredStatus": "RUNNING", "containers": parts})
    }

    /// Replaces the tasks of a service by those of its newest deployment.
    fn fill(&mut self, name: &str, service: &Service, digest: &str) {
        let group = format!("service:{name}");
        self.tasks.retain(|task| text(task, "/group") != group || text(task, "/desiredStatus") == "STOPPED");
        let Some(newest) = service.deployments.first() else { return };
        for _task in 0..service.desired {
            let mut task = self.task(&newest.revision, digest);
            set(&mut task, &["group"], json!(group));
            set(&mut task, &["startedBy"], json!(newest.id));
            self.tasks.push(task);
        }
    }

    /// A task of a deployment that stopped.
    fn stop(&mut self, name: &str, deployment: &Deployment, mood: EcsMood) {
        let mut task = self.task(&deployment.revision, "");
        let (code, why) = match mood {
            EcsMood::Pull => ("TaskFailedToStart", "CannotPullContainerError: pull image manifest has been retried 1 time(s): not found"),
            EcsMood::Unhealthy => ("ServiceSchedulerInitiated", "Task failed ELB health checks in (target-group arn:aws:x)"),
            EcsMood::NoSecret => {
                ("TaskFailedToStart", "ResourceInitializationError: unable to pull secrets or registry auth: AccessDenied")
            }
            EcsMood::Honest
            | EcsMood::KeepsOld
            | EcsMood::OtherDigest
            | EcsMood::Ignores
            | EcsMood::CircuitBreaker
            | EcsMood::GivesUp
            | EcsMood::Crash
            | EcsMood::Unplaceable
            | EcsMood::Stuck
            | EcsMood::Taken => ("EssentialContainerExited", "Essential container in task exited"),
        };
        if code == "EssentialContainerExited" {
            set_first(&mut task, "exitCode", json!(3));
        }
        for (field, value) in [
            ("group", json!(format!("service:{name}"))),
            ("startedBy", json!(deployment.id)),
            ("lastStatus", json!("STOPPED")),
            ("desiredStatus", json!("STOPPED")),
            ("stopCode", json!(code)),
            ("stoppedReason", json!(why)),
        ] {
            set(&mut task, &[field], value);
        }
        self.tasks.push(task);
    }

    /// One look later.
    fn go_on(&mut self, name: &str, service: &mut Service) {
        let Some(newest) = service.deployments.first_mut() else { return };
        if newest.state != "IN_PROGRESS" {
            return;
        }
        newest.looks += 1;
        let mood = if newest.revision == service.first { EcsMood::Honest } else { self.mood };
        match mood {
            EcsMood::Honest | EcsMood::KeepsOld | EcsMood::OtherDigest | EcsMood::Ignores => {
                newest.running = newest.looks.saturating_sub(1).min(service.desired);
                if newest.looks > service.desired {
                    self.complete(name, service, mood);
                }
            }
            EcsMood::Pull | EcsMood::Crash | EcsMood::Unhealthy | EcsMood::NoSecret | EcsMood::CircuitBreaker | EcsMood::GivesUp => {
                newest.failed += 1;
                let newest = newest.clone();
                self.stop(name, &newest, mood);
                if newest.failed >= 3 {
                    self.break_circuit(service, mood);
                }
            }
            EcsMood::Unplaceable => {
                let message =
                    format!("(service {name}) was unable to place a task because no container instance met all of its requirements.");
                service.events = vec![json!({"id": "1", "createdAt": 1_800_000_000.5, "message": message})];
            }
            EcsMood::Stuck => newest.running = 1,
            EcsMood::Taken if newest.looks == 2 => {
                let copy = self.definitions.last().cloned().unwrap_or_default();
                let third = self.register(copy);
                let deployment = self.begin(&third);
                service.deployments.insert(0, deployment);
            }
            EcsMood::Taken => {}
        }
    }

    fn complete(&mut self, name: &str, service: &mut Service, mood: EcsMood) {
        service.deployments.truncate(1);
        if let Some(newest) = service.deployments.first_mut() {
            newest.state = "COMPLETED";
            newest.why = format!("ECS deployment {} completed.", newest.id);
        }
        let other = format!("sha256:{}", "9".repeat(64));
        if mood != EcsMood::KeepsOld {
            self.fill(name, service, if mood == EcsMood::OtherDigest { &other } else { "" });
        }
    }

    fn break_circuit(&mut self, service: &mut Service, mood: EcsMood) {
        if !matches!(mood, EcsMood::CircuitBreaker | EcsMood::GivesUp) {
            return;
        }
        if let Some(newest) = service.deployments.first_mut() {
            newest.state = "FAILED";
            newest.why = "ECS deployment circuit breaker: tasks failed to start.".into();
        }
        if mood == EcsMood::CircuitBreaker {
            let first = service.first.clone();
            let deployment = self.begin(&first);
            service.deployments.insert(0, deployment);
        }
    }
}

impl Service {
    fn shown(&self, (cluster, name): &(String, String)) -> Value {
        let deployments = self.deployments.iter().enumerate().map(|(index, deployment)| {
            let status = if index == 0 { "PRIMARY" } else { "ACTIVE" };
            json!({
                "id": deployment.id, "status": status, "taskDefinition": deployment.revision, "desiredCount": self.desired,
                "runningCount": deployment.running, "pendingCount": self.desired.saturating_sub(deployment.running),
                "failedTasks": deployment.failed, "rolloutState": deployment.state, "rolloutStateReason": deployment.why,
                "createdAt": 1_790_000_000.25,
            })
        });
        let deployments: Vec<Value> = deployments.collect();
        let revision = self.deployments.first().map(|newest| newest.revision.clone());
        let mut shown = json!({
            "serviceName": name, "serviceArn": format!("{ARN}:service/{cluster}/{name}"), "status": "ACTIVE", "desiredCount": self.desired,
            "taskDefinition": revision, "deployments": deployments, "events": self.events, "deploymentController": {"type": "ECS"},
        });
        for (field, value) in self.more.as_object().into_iter().flatten() {
            set(&mut shown, &[field], value.clone());
        }
        shown
    }
}

fn set_first(task: &mut Value, field: &str, value: Value) {
    if let Some(part) = task.pointer_mut("/containers/0") {
        set(part, &[field], value);
    }
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = &'v Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}
