//! The pretend swarm: services whose updates go on at each look, their tasks, configs and secrets, behind an engine's API.

use super::sandbox::{Asked, Shared, World, json_answer};
use crate::targets::set;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The node that is asked.
const NODE: &str = "node1sandbox";

/// How the swarm treats an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SwarmMood {
    /// It rolls out.
    #[default]
    Honest,
    /// The update is answered with success, and nothing is changed.
    Forgets,
    /// It calls the update completed, and the old tasks keep running.
    KeepsTasks,
    /// New tasks say they run the image; their containers run another.
    OtherContainer,
    /// New tasks die, and the update is paused.
    Paused,
    /// New tasks die, and the swarm goes back by itself.
    RollsBack,
    /// The same, but only for services named …worker; the others run the new image.
    WorkerRollsBack,
    /// The image cannot be pulled, and the update is paused.
    NoImage,
    /// It never ends.
    Stuck,
}

/// The swarm's side of the sandbox.
#[derive(Clone, Debug, Default)]
pub struct Swarm {
    /// Services by name.
    pub services: BTreeMap<String, Service>,
    /// Configs and secrets by id: list, specification.
    pub held: BTreeMap<String, (String, Value)>,
    /// How it behaves.
    pub mood: SwarmMood,
    /// Whether the engine is no manager.
    pub is_worker: bool,
    /// The registry login of the last update.
    pub auth: String,
    next: u64,
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    id: String,
    index: u64,
    /// Its specification.
    pub spec: Value,
    previous: Option<Value>,
    update: Option<Value>,
    tasks: Vec<Value>,
    looks: u32,
}

impl Swarm {
    /// Adds a service that runs this image in two tasks.
    pub fn add_service(&mut self, name: &str, image: &str) {
        self.next += 1;
        let id = format!("service{}sandbox", self.next);
        let spec = json!({
            "Name": name, "Labels": {"com.docker.stack.namespace": "demo"},
            "TaskTemplate": {"ContainerSpec": {"Image": image, "Env": ["KEEP=me"]}, "ForceUpdate": 0, "NotOfOurs": {"newer": "engine"}},
            "Mode": {"Replicated": {"Replicas": 2}},
        });
        let mut service = Service { id, index: 10, spec, previous: None, update: None, tasks: Vec::new(), looks: 0 };
        self.next += 1;
        service.run_tasks(&mut self.next, "running", "");
        self.services.insert(name.to_owned(), service);
    }

    /// Adds a config or secret.
    pub fn add_held(&mut self, list: &str, name: &str, data: &str) -> String {
        self.next += 1;
        let id = format!("held{}sandbox", self.next);
        self.held.insert(id.clone(), (list.to_owned(), json!({"Name": name, "Data": data, "Labels": {}})));
        id
    }

    /// The image that a service's running tasks have.
    pub fn runs(&self, name: &str) -> Vec<String> {
        let service = self.services.get(name);
        let running = service.into_iter().flat_map(|service| &service.tasks).filter(|task| text(task, "/DesiredState") == "running");
        running.map(|task| text(task, "/Spec/ContainerSpec/Image").to_owned()).collect()
    }
}

impl Service {
    /// New tasks of the present specification; the old ones end.
    fn run_tasks(&mut self, next: &mut u64, state: &str, error: &str) {
        let desired = if state == "running" { "running" } else { "shutdown" };
        if state == "running" {
            self.tasks.iter_mut().for_each(|task| task["DesiredState"] = json!("shutdown"));
        }
        for slot in 1..=2 {
            *next += 1;
            self.tasks.push(json!({
                "ID": format!("task{next}sandbox"), "Version": {"Index": *next}, "Slot": slot, "NodeID": NODE, "ServiceID": self.id,
                "Spec": self.spec.pointer("/TaskTemplate"), "DesiredState": desired,
                "Status": {"State": state, "Err": error, "ContainerStatus": {"ContainerID": format!("container{next}"), "ExitCode": if error.is_empty() { 0 } else { 3 }}},
            }));
        }
    }

    fn shown(&self) -> Value {
        let mut shown = json!({
            "ID": self.id, "Version": {"Index": self.index}, "Spec": self.spec, "UpdateStatus": self.update,
            "ServiceStatus": {"RunningTasks": 2, "DesiredTasks": 2},
        });
        if let Some(previous) = &self.previous {
            set(&mut shown, &["PreviousSpec"], previous.clone());
        }
        shown
    }

    fn say(&mut self, state: &str, message: &str, began: u64) {
        self.update = Some(json!({"State": state, "StartedAt": format!("2026-01-01T00:00:{began:02}Z"), "Message": message}));
    }

    fn began(&self) -> u64 {
        self.index % 60
    }

    /// What a real swarm does in time goes on here at each look.
    fn go_on(&mut self, mood: SwarmMood, next: &mut u64) {
        let is_worker = self.spec.pointer("/Name").and_then(Value::as_str).is_some_and(|name| name.ends_with("worker"));
        let one_goes_back = if is_worker { SwarmMood::RollsBack } else { SwarmMood::Honest };
        let mood = if mood == SwarmMood::WorkerRollsBack { one_goes_back } else { mood };
        let state = self.update.as_ref().and_then(|update| update.get("State")?.as_str()).unwrap_or_default().to_owned();
        self.looks += 1;
        let began = self.began();
        match (state.as_str(), mood, self.looks) {
            ("rollback_started", _, 3..) => {
                self.run_tasks(next, "running", "");
                self.say("rollback_completed", "rollback completed", began);
            }
            ("updating", SwarmMood::Stuck, _) | ("updating", _, 0..=1) => {}
            ("updating", SwarmMood::Paused, _) => {
                self.run_tasks(next, "failed", "task: non-zero exit (3)");
                self.say("paused", "update paused due to failure or early termination of task", began);
            }
            ("updating", SwarmMood::NoImage, _) => {
                self.run_tasks(next, "rejected", "No such image: demo");
                self.say("paused", "update paused due to failure or early termination of task", began);
            }
            ("updating", SwarmMood::RollsBack, _) => {
                self.run_tasks(next, "failed", "task: non-zero exit (3)");
                self.spec = self.previous.take().unwrap_or(Value::Null);
                self.looks = 0;
                self.say("rollback_started", "update rolled back due to failure or early termination of task", began);
            }
            ("updating", SwarmMood::KeepsTasks, _) => self.say("completed", "update completed", began),
            ("updating", _, _) => {
                self.run_tasks(next, "running", "");
                self.say("completed", "update completed", began);
            }
            _settled => {}
        }
    }
}

/// Answers /info, /services, /tasks, /configs, /secrets, /containers and /images/ID/json.
pub fn answer(shared: &Shared, asked: &Asked) -> Response {
    let mut world = shared.world();
    let parts: Vec<&str> = asked.path.trim_start_matches('/').split('/').collect();
    if world.swarm.is_worker && !matches!(parts.as_slice(), ["info"]) {
        return failed(
            503,
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
        );
    }
    match (asked.method.as_str(), parts.as_slice()) {
        ("GET", ["info"]) => json_answer(200, &json!({"Swarm": {"ControlAvailable": !world.swarm.is_worker, "NodeID": NODE}})),
        ("GET", ["services"]) => services(&mut world, asked),
        ("GET", ["services", name]) => service(&mut world, name),
        ("POST", ["services", id, "update"]) => update(&mut world, asked, id),
        ("GET", ["tasks"]) => {
            let wanted = filter(asked, "service");
            let services = world.swarm.services.values().filter(|service| wanted.as_ref().is_none_or(|id| *id == service.id));
            json_answer(200, &json!(services.flat_map(|service| service.tasks.clone()).collect::<Vec<_>>()))
        }
        ("GET", ["tasks", _, "logs"]) => {
            let line = b"panic: no database\n";
            let frame = [&[2, 0, 0, 0, 0, 0, 0, 19][..], line].concat();
            ([("content-type", "application/vnd.docker.raw-stream")], Body::from(frame)).into_response()
        }
        ("GET", [list @ ("configs" | "secrets")]) => {
            let own = world.swarm.held.iter().filter(|(_, (known, _))| known == list);
            json_answer(200, &own.map(|(id, (_, spec))| json!({"ID": id, "Spec": without_secret(list, spec)})).collect())
        }
        ("POST", [list @ ("configs" | "secrets"), "create"]) => create(&mut world, asked, list),
        ("DELETE", ["configs" | "secrets", id]) => delete(&mut world, id),
        ("GET", ["containers", id, "json"]) => container(&world, id),
        ("GET", ["images", .., "json"]) => json_answer(200, &json!({"RepoDigests": []})),
        _other => failed(404, "page not found"),
    }
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn failed(status: u16, message: &str) -> Response {
    json_answer(status, &json!({"message": message}))
}

fn filter(asked: &Asked, name: &str) -> Option<String> {
    let filters: Value = serde_json::from_str(&asked.parameter("filters")?).ok()?;
    filters.pointer(&format!("/{name}/0"))?.as_str().map(str::to_owned)
}

/// The content of a secret is never told again.
fn without_secret(list: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let (true, Some(map)) = (list == "secrets", spec.as_object_mut()) {
        map.remove("Data");
    }
    spec
}

fn services(world: &mut World, asked: &Asked) -> Response {
    let (mood, wanted) = (world.swarm.mood, filter(asked, "id"));
    let swarm = &mut world.swarm;
    let mut shown = Vec::new();
    for service in swarm.services.values_mut() {
        if wanted.as_ref().is_none_or(|id| *id == service.id) {
            service.go_on(mood, &mut swarm.next);
            shown.push(service.shown());
        }
    }
    json_answer(200, &json!(shown))
}

fn service(world: &mut World, name: &str) -> Response {
    let image = world.cluster.first_image.clone();
    if world.generous && !world.swarm.services.contains_key(name) {
        world.swarm.add_service(name, &image);
    }
    let found = world.swarm.services.iter().find(|(known, service)| *known == name || service.id == name);
    match found {
        Some((_, service)) => json_answer(200, &service.shown()),
        None => failed(404, &format!("service {name} not found")),
    }
}

fn update(world: &mut World, asked: &Asked, id: &str) -> Response {
    let swarm = &mut world.swarm;
    swarm.auth = asked.header("x-registry-auth").to_owned();
    let (mood, version) = (swarm.mood, asked.parameter("version").and_then(|text| text.parse::<u64>().ok()));
    let Some(service) = swarm.services.values_mut().find(|service| service.id == id) else { return failed(404, "service not found") };
    if version != Some(service.index) {
        return failed(500, "rpc error: code = Unknown desc = update out of sequence");
    }
    service.index += 1;
    if mood == SwarmMood::Forgets {
        return json_answer(200, &json!({"Warnings": []}));
    }
    let began = service.began();
    let before = service.spec.clone();
    service.looks = 0;
    if asked.parameter("rollback").as_deref() == Some("previous") {
        let Some(previous) = service.previous.take() else { return failed(400, "service does not have a previous spec") };
        service.spec = previous;
        service.say("rollback_started", "rolling back", began);
    } else {
        service.spec = asked.json();
        service.say("updating", "update in progress", began);
    }
    service.previous = Some(before);
    json_answer(200, &json!({"Warnings": []}))
}

fn create(world: &mut World, asked: &Asked, list: &str) -> Response {
    let spec = asked.json();
    let name = text(&spec, "/Name").to_owned();
    if world.swarm.held.values().any(|(known, spec)| known == list && text(spec, "/Name") == name) {
        return failed(409, &format!("only updates to Labels are allowed; name conflicts with an existing object: {name}"));
    }
    let id = world.swarm.add_held(list, "", "");
    world.swarm.held.insert(id.clone(), (list.to_owned(), spec));
    json_answer(201, &json!({"ID": id}))
}

fn delete(world: &mut World, id: &str) -> Response {
    let used = world.swarm.services.iter().find(|(_, service)| service.spec.to_string().contains(&format!("\"{id}\"")));
    if let Some((name, _)) = used {
        return failed(400, &format!("rpc error: code = InvalidArgument desc = it is in use by the following service: {name}"));
    }
    match world.swarm.held.remove(id) {
        Some(_) => json_answer(204, &Value::Null),
        None => failed(404, "not found"),
    }
}

/// The container of a task: the digest that its image names, unless the swarm lies.
fn container(world: &World, id: &str) -> Response {
    let tasks = world.swarm.services.values().flat_map(|service| &service.tasks);
    let task = tasks.into_iter().find(|task| text(task, "/Status/ContainerStatus/ContainerID") == id);
    let Some(task) = task else { return failed(404, "No such container") };
    let image = text(task, "/Spec/ContainerSpec/Image");
    let digest = image.split_once('@').map_or("", |(_, digest)| digest);
    let other = format!("sha256:{}", "9".repeat(64));
    let shown = if world.swarm.mood == SwarmMood::OtherContainer { other.as_str() } else { digest };
    json_answer(200, &json!({"Id": id, "Image": shown}))
}
