//! The pretend CD server: apps with secrets, jobs that go on at each look, in both dialects of the ENAC server.
//!
//! Its shapes satisfy the original client, which drives it in the tests.

use super::sandbox::{Asked, Shared, json_answer};
use crate::tools::ulid;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many looks a job takes to its end.
const LOOKS: usize = 4;

/// Which generation of the server it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// A second request is merged into the job that runs, and the whole log is told each time.
    #[default]
    Current,
    /// A second request is refused, each line is told once, and jobs end as `finished`.
    Old,
}

/// How the jobs of a server go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// They end well.
    #[default]
    Success,
    /// The process ends with return code 2.
    Error,
    /// The server says that it went well, and the log says return code 2.
    SuccessWithBadCode,
    /// The process ends without a word about how.
    NoCode,
    /// They run for ever.
    NeverEnds,
    /// They never leave `starting`, as after a crash of the server.
    NeverStarts,
    /// The server forgets them in the middle.
    Vanishes,
    /// The log loses its first lines in the middle.
    Shrinks,
    /// The server is away for three requests in the middle.
    Redeploys,
    /// They come to a state that nobody knows.
    UnknownStatus,
    /// The answer is about another app's job.
    OtherJob,
}

/// An app that can be deployed.
#[derive(Clone, Debug)]
pub struct App {
    /// The deployment's id.
    pub id: String,
    /// The deployment's secret.
    pub secret: String,
    /// What is deployed: one job at a time.
    pub inventory: String,
}

/// A job.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its app's inventory.
    pub inventory: String,
    /// How often it was looked at.
    pub looks: usize,
    /// How it goes.
    pub fate: Fate,
    /// How much of its log was told, in bytes.
    told: usize,
    /// How often the server has been away.
    away: usize,
}

/// The CD server's side of the sandbox.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// The apps.
    pub apps: Vec<App>,
    /// The jobs by id, oldest first.
    pub jobs: BTreeMap<String, Job>,
    /// Which generation it is.
    pub dialect: Dialect,
    /// How new jobs go.
    pub fate: Fate,
    /// A line that every job says.
    pub line: Option<String>,
}

impl Server {
    /// A server with one app.
    pub fn with(id: &str, secret: &str) -> Self {
        Self { apps: vec![App { id: id.into(), secret: secret.into(), inventory: format!("{id}-inventory") }], ..Self::default() }
    }

    /// Begins a job of the first app for somebody else, so long ago; its id.
    pub fn another(&mut self, age: Duration, fate: Fate) -> String {
        let inventory = self.apps.first().map(|app| app.inventory.clone()).unwrap_or_default();
        let id = self.begin(inventory, age, fate);
        self.jobs.get_mut(&id).into_iter().for_each(|job| job.looks = 1);
        id
    }

    /// A job that runs for ever ends well all the same.
    pub fn end_well(&mut self) {
        self.jobs.values_mut().for_each(|job| job.fate = Fate::Success);
    }

    fn begin(&mut self, inventory: String, age: Duration, fate: Fate) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = ulid::at(now.saturating_sub(age).as_millis(), self.jobs.len() as u128);
        self.jobs.insert(id.clone(), Job { inventory, looks: 0, fate, told: 0, away: 0 });
        id
    }
}

impl Job {
    fn is_over(&self) -> bool {
        self.looks >= LOOKS && !matches!(self.fate, Fate::NeverEnds | Fate::NeverStarts)
    }

    fn state(&self, dialect: Dialect) -> &'static str {
        match (self.looks, self.fate) {
            (0, _) | (_, Fate::NeverStarts) => "starting",
            (3.., Fate::UnknownStatus) => "paused",
            (_, _) if !self.is_over() => "running",
            (_, _) if dialect == Dialect::Old => "finished",
            (_, Fate::Error | Fate::NoCode) => "error",
            (_, _) => "success",
        }
    }

    /// The whole log so far. Looks come in the middle of lines.
    fn log(&self, line: Option<&str>) -> String {
        let code = match self.fate {
            Fate::Error | Fate::SuccessWithBadCode => "Process terminated with return code: 2\n",
            Fate::NoCode => "Killed\n",
            Fate::Success
            | Fate::NeverEnds
            | Fate::NeverStarts
            | Fate::Vanishes
            | Fate::Shrinks
            | Fate::Redeploys
            | Fate::UnknownStatus
            | Fate::OtherJob => "Process terminated with return code: 0\n",
        };
        let said = line.map(|line| format!("{line}\n")).unwrap_or_default();
        let pieces = ["PLAY [web] ****\n", "\u{1b}[0;32mok: [we", &format!("b1]\u{1b}[0m\n{said}"), &format!("PLAY RECAP ****\n{code}")];
        let count = if self.is_over() { LOOKS } else { self.looks.min(LOOKS - 1) };
        let log: String = pieces.into_iter().take(count).collect();
        if self.fate == Fate::NeverStarts {
            return String::new();
        }
        if self.fate == Fate::Shrinks && self.looks >= 3 {
            return log.split_once('\n').map_or(String::new(), |(_, rest)| rest.to_owned());
        }
        log
    }

    /// What it is said to be now.
    fn told(&mut self, id: &str, dialect: Dialect, line: Option<&str>) -> Value {
        let log = self.log(line);
        let from = if dialect == Dialect::Old { self.told } else { 0 };
        self.told = log.len();
        json!({"status": self.state(dialect), "job_id": id, "output": log.get(from..).unwrap_or_default()})
    }
}

/// Answers a request below /cd.
pub fn answer(shared: &Shared, asked: &Asked) -> Response {
    let mut world = shared.world();
    let generous = world.generous;
    let path = asked.path.strip_prefix("/cd").unwrap_or_default();
    match (asked.method.as_str(), path) {
        ("GET", "/") => json_answer(200, &json!({"app": "enac-cd-app", "version": "sandbox"})),
        ("POST", "/app-deploy" | "/job-status") => {
            let to = format!("http://{}{}/", asked.header("host"), asked.path);
            (axum::http::StatusCode::TEMPORARY_REDIRECT, [("location", to)]).into_response()
        }
        ("POST", "/app-deploy/" | "/job-status/") => {
            let body = asked.json();
            if !body.is_object() {
                return json_answer(422, &unprocessable(&body));
            }
            let said = |name: &str| body.get(name).and_then(Value::as_str);
            let (Some(id), Some(secret)) = (said("deployment_id"), said("deployment_secret")) else {
                return error("argument of type 'NoneType' is not iterable"); // as the original leaks it
            };
            if generous && world.cd.apps.iter().all(|app| app.id != id) {
                world.cd.apps.push(App { id: id.into(), secret: secret.into(), inventory: id.into() });
            }
            let app = world.cd.apps.iter().find(|app| app.id == id && app.secret == secret).cloned();
            match path {
                "/app-deploy/" => app.map_or_else(|| error("App not found"), |app| deploy(&mut world.cd, &app)),
                _status => status(&mut world.cd, app, said("job_id").unwrap_or_default()),
            }
        }
        (_, "/app-deploy/" | "/job-status/") => json_answer(405, &json!({"detail": "Method Not Allowed"})),
        _other => json_answer(404, &json!({"detail": "Not Found"})),
    }
}

/// FastAPI tells what it was sent.
fn unprocessable(body: &Value) -> Value {
    json!({"detail": [{"type": "dict_type", "loc": ["body"], "msg": "Input should be a valid dictionary", "input": body}]})
}

/// Errors of the server come with status 200.
fn error(words: &str) -> Response {
    json_answer(200, &json!({"status": "error", "error": words}))
}

fn deploy(server: &mut Server, app: &App) -> Response {
    let dialect = server.dialect;
    let line = server.line.clone();
    let going = server.jobs.iter_mut().rev().find(|(_, job)| job.inventory == app.inventory && !job.is_over());
    if let Some((id, job)) = going {
        if dialect == Dialect::Old {
            job.looks += 1; // it goes on while others wait
            return error("App deployment is already running");
        }
        return json_answer(200, &job.told(id, dialect, line.as_deref()));
    }
    let id = server.begin(app.inventory.clone(), Duration::ZERO, server.fate);
    json_answer(200, &json!({"status": "starting", "job_id": id, "output": ""}))
}

fn status(server: &mut Server, app: Option<App>, id: &str) -> Response {
    let (dialect, line) = (server.dialect, server.line.clone());
    let job = server.jobs.get_mut(id).filter(|job| app.is_some_and(|app| app.inventory == job.inventory));
    let Some(job) = job else { return error("App deployment not found") };
    if job.fate == Fate::Redeploys && job.looks == 2 && job.away < 3 {
        job.away += 1;
        return (axum::http::StatusCode::BAD_GATEWAY, "Bad Gateway").into_response();
    }
    job.looks += 1;
    if job.fate == Fate::Vanishes && job.looks >= 3 {
        return error("App deployment not found");
    }
    let is_other = job.fate == Fate::OtherJob && job.looks >= 3;
    let about = if is_other { ulid::at(1000, 0) } else { id.to_owned() };
    json_answer(200, &job.told(&about, dialect, line.as_deref()))
}
