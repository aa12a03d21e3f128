//! Pretend pipelines of other projects: GitHub workflows, GitLab pipelines, Travis builds, which go on at each look.

use super::github::{percent_decode, shape};
use super::sandbox::{Asked, Shared, json_answer};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Tokens that it knows.
pub const GITHUB_TOKEN: &str = "downstream-github-token";
/// GitLab's trigger token.
pub const TRIGGER_TOKEN: &str = "downstream-trigger-token";
/// GitLab's token that reads.
pub const READ_TOKEN: &str = "downstream-read-token";
/// Travis's token.
pub const TRAVIS_TOKEN: &str = "downstream-travis-token";
const TIME: &str = "2026-01-01T00:00:00Z";

/// A workflow.
#[derive(Clone, Debug)]
pub struct Workflow {
    /// owner/name.
    pub repository: String,
    /// Its name.
    pub name: String,
    /// Its file's name.
    pub file: String,
    /// `active`, `disabled_manually`, …
    pub state: String,
    /// The inputs it declares; `None`: it has no `workflow_dispatch`.
    pub inputs: Option<Vec<String>>,
    /// The input or key of the payload that its runs show.
    pub shows: Option<String>,
}

/// A run, a pipeline or a request.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its number.
    pub id: u64,
    /// The project.
    pub project: String,
    /// What was sent.
    pub request: Value,
    /// Whether somebody asked to cancel it.
    pub cancelled: bool,
    /// How it ends, as its server says it; empty: never.
    pub end: String,
    workflow: String,
    event: String,
    branch: String,
    title: String,
    looks: u32,
}

/// What servers do wrong, or are too old to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// Everything is as it should be.
    #[default]
    Honest,
    /// GitHub answers a dispatch with nothing but 204.
    Silent,
    /// GitHub does not know `return_run_details`.
    Old,
    /// The start is confirmed, and nothing starts.
    Forgets,
    /// Somebody else starts the same right before us.
    Crowded,
}

/// Other projects and their pipelines.
#[derive(Clone, Debug, Default)]
pub struct Pipelines {
    /// The projects there are, by owner/name.
    pub projects: Vec<String>,
    /// GitHub's workflows.
    pub workflows: Vec<Workflow>,
    /// Everything that was started.
    pub runs: Vec<Run>,
    /// How the next ones end: `success`, `failed`, … as their server says it; empty: never.
    pub end: Option<String>,
    /// What goes wrong.
    pub mood: Mood,
    /// Requests that Travis still takes in this hour.
    pub left: Option<u32>,
}

impl Workflow {
    /// A workflow that takes these inputs.
    pub fn new(repository: &str, name: &str, file: &str, inputs: &[&str]) -> Self {
        let inputs = Some(inputs.iter().map(|name| (*name).to_owned()).collect());
        Self { repository: repository.into(), name: name.into(), file: file.into(), state: "active".into(), inputs, shows: None }
    }
}

impl Run {
    fn new(id: u64, project: &str, request: Value, end: &str) -> Self {
        let none = String::new;
        Self {
            id,
            project: project.into(),
            request,
            cancelled: false,
            end: end.into(),
            workflow: none(),
            event: none(),
            branch: none(),
            title: none(),
            looks: 0,
        }
    }

    /// Whether it has ended at this look: waiting, running, then its end.
    fn is_over(&self) -> bool {
        self.cancelled || (self.looks > 2 && !self.end.is_empty())
    }
}

impl Pipelines {
    fn next(&self, project: &str, request: Value) -> Run {
        Run::new(500 + self.runs.len() as u64, project, request, self.end.as_deref().unwrap_or("success"))
    }

    fn keep(&mut self, run: Run) {
        if self.mood != Mood::Forgets {
            self.runs.push(run);
        }
    }

    fn look(&mut self, project: &str, id: &str) -> Option<Run> {
        let run = self.runs.iter_mut().find(|run| run.project == project && run.id.to_string() == id)?;
        run.looks += 1;
        Some(run.clone())
    }
}

/// owner/name of the project that a request is about, and the rest of its path.
fn project(asked: &Asked) -> Option<(String, String)> {
    let path = percent_decode(&asked.path);
    if let Some(rest) = path.strip_prefix("/github/repos/") {
        let mut parts = rest.splitn(3, '/');
        return Some((format!("{}/{}", parts.next()?, parts.next()?), parts.next().unwrap_or_default().to_owned()));
    }
    if let Some(rest) = asked.path.strip_prefix("/gitlab/api/v4/projects/") {
        let (name, rest) = rest.split_once('/')?;
        return Some((percent_decode(name), rest.to_owned()));
    }
    let rest = asked.path.strip_prefix("/travis/")?;
    Some(match rest.strip_prefix("repo/").and_then(|rest| rest.split_once('/')) {
        Some((name, rest)) => (percent_decode(name), rest.to_owned()),
        None => (String::new(), rest.to_owned()),
    })
}

/// Whether a request is about another project than the one that is delivered, or about a pipeline of whichever.
pub fn is_about(shared: &Shared, asked: &Asked) -> bool {
    let world = shared.world();
    let Some((name, rest)) = project(asked) else { return false };
    let names_itself = rest.is_empty() && name == "acme/manifests"; // nobody else says what its default branch is
    let starts = names_itself || rest.starts_with("actions/workflows") || rest == "dispatches" || rest == "trigger/pipeline";
    let known = world.downstream.runs.iter().any(|run| run.project == name && rest.starts_with(&format!("actions/runs/{}", run.id)));
    let own = [world.github.repository.as_str(), &super::gitlab::PROJECT.to_string(), "acme/manifests"].contains(&name.as_str());
    let has_pipelines = world.generous || !world.downstream.projects.is_empty();
    has_pipelines && (starts || known || !own || world.downstream.projects.contains(&name))
}

/// Answers a request below /github, /gitlab or /travis.
pub fn answer(shared: &Shared, asked: &Asked) -> Response {
    let mut world = shared.world();
    let Some((name, rest)) = project(asked) else { return refused(404, "Not Found") };
    let generous = world.generous;
    let pipelines = &mut world.downstream;
    let system = asked.path.split('/').nth(1).unwrap_or_default();
    if !generous && !name.is_empty() && !pipelines.projects.contains(&name) {
        return refused(404, "Not Found");
    }
    let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
    match system {
        "github" => github(pipelines, asked, (&name, &parts, generous)),
        "gitlab" => gitlab(pipelines, asked, (&name, &parts, generous)),
        _travis => travis(pipelines, asked, (&name, &parts, generous)),
    }
}

fn refused(status: u16, message: &str) -> Response {
    json_answer(status, &json!({"message": message}))
}

fn github(pipelines: &mut Pipelines, asked: &Asked, (name, parts, generous): (&str, &[&str], bool)) -> Response {
    let known = asked.header("authorization") == format!("Bearer {GITHUB_TOKEN}");
    if !known && !generous {
        return refused(404, "Not Found"); // as GitHub answers who may not see it
    }
    match (asked.method.as_str(), parts) {
        ("GET", []) => json_answer(200, &shape("repository", &json!({"full_name": name, "default_branch": "main"}))),
        ("GET", ["actions", "workflows"]) => workflows(pipelines, asked, name),
        ("GET", ["actions", "workflows", wanted]) => match workflow(pipelines, name, wanted, generous) {
            Some(at) => json_answer(200, &shown_workflow(&at)),
            None => refused(404, "Not Found"),
        },
        ("GET", ["actions", "workflows", wanted, "runs"]) => {
            let Some(at) = workflow(pipelines, name, wanted, generous) else { return refused(404, "Not Found") };
            let event = asked.parameter("event").unwrap_or_default();
            let count: usize = asked.parameter("per_page").and_then(|text| text.parse().ok()).unwrap_or(30);
            let found = pipelines.runs.iter().rev().filter(|run| run.project == name && run.workflow == at.file && run.event == event);
            let found: Vec<Value> = found.take(count).map(shown_run).collect();
            json_answer(200, &json!({"total_count": found.len(), "workflow_runs": found}))
        }
        ("POST", ["actions", "workflows", wanted, "dispatches"]) => match workflow(pipelines, name, wanted, generous) {
            Some(at) => dispatch(pipelines, &asked.json(), &at, generous),
            None => refused(404, "Not Found"),
        },
        ("POST", ["dispatches"]) => event(pipelines, &asked.json(), name, generous),
        ("GET", ["actions", "runs", id]) => match pipelines.look(name, id) {
            Some(run) => json_answer(200, &shown_run(&run)),
            None => refused(404, "Not Found"),
        },
        ("GET", ["actions", "runs", id, "jobs"]) => jobs(pipelines, name, id),
        ("POST", ["actions", "runs", id, "cancel"]) => {
            pipelines.runs.iter_mut().filter(|run| run.project == name && run.id.to_string() == *id).for_each(|run| run.cancelled = true);
            json_answer(202, &json!({}))
        }
        _other => refused(404, "Not Found"),
    }
}

fn workflow(pipelines: &mut Pipelines, name: &str, wanted: &str, generous: bool) -> Option<Workflow> {
    let mine = |workflow: &&Workflow| workflow.repository == name;
    let found = pipelines.workflows.iter().filter(mine).find(|workflow| workflow.file == wanted || number(workflow).to_string() == wanted);
    let made = || Workflow { inputs: Some(Vec::new()), ..Workflow::new(name, wanted, wanted, &[]) };
    found.cloned().or_else(|| generous.then(made))
}

fn number(workflow: &Workflow) -> u64 {
    workflow.file.bytes().fold(7, |sum, byte| (sum * 31 + u64::from(byte)) % 900_000) + 100_000
}

fn shown_workflow(workflow: &Workflow) -> Value {
    let (id, path) = (number(workflow), format!(".github/workflows/{}", workflow.file));
    let url = format!("https://api.github.com/repos/{}/actions/workflows/{id}", workflow.repository);
    json!({
        "id": id, "node_id": "W_x", "name": workflow.name, "path": path, "state": workflow.state, "created_at": TIME, "updated_at": TIME, "url": url,
        "html_url": format!("https://github.com/{}/blob/main/{path}", workflow.repository), "badge_url": "https://github.com/x/badge.svg",
    })
}

fn workflows(pipelines: &Pipelines, asked: &Asked, name: &str) -> Response {
    let read = |name: &str, otherwise: usize| asked.parameter(name).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let (page, size) = (read("page", 1), read("per_page", 30).min(100));
    let all: Vec<Value> = pipelines.workflows.iter().filter(|workflow| workflow.repository == name).map(shown_workflow).collect();
    let shown: Vec<Value> = all.iter().skip((page - 1) * size).take(size).cloned().collect();
    let mut response = json_answer(200, &json!({"total_count": all.len(), "workflows": shown}));
    if page * size < all.len()
        && let Ok(value) = format!("<{}?page={}>; rel=\"next\"", asked.path, page + 1).parse()
    {
        response.headers_mut().insert("link", value);
    }
    response
}

fn shown_run(run: &Run) -> Value {
    let (status, conclusion) = match (run.is_over(), run.looks) {
        (true, _) => ("completed", json!(if run.cancelled { "cancelled" } else { &run.end })),
        (false, 0..=1) => ("queued", Value::Null),
        (false, _) => ("in_progress", Value::Null),
    };
    let facts = json!({
        "id": run.id, "name": run.workflow, "display_title": run.title, "event": run.event, "status": status, "conclusion": conclusion,
        "head_branch": run.branch, "html_url": format!("https://github.com/{}/actions/runs/{}", run.project, run.id), "run_attempt": 1,
    });
    shape("run", &facts)
}

/// <https://docs.github.com/rest/actions/workflows#create-a-workflow-dispatch-event>
fn dispatch(pipelines: &mut Pipelines, body: &Value, at: &Workflow, generous: bool) -> Response {
    if pipelines.mood == Mood::Old && body.get("return_run_details").is_some() {
        return refused(422, "Invalid request.\n\n\"return_run_details\" is not a permitted key.");
    }
    let Some(declared) = &at.inputs else { return refused(422, "Workflow does not have 'workflow_dispatch' trigger") };
    let inputs = body.get("inputs").and_then(Value::as_object).cloned().unwrap_or_default();
    let unknown: Vec<&String> = inputs.keys().filter(|name| !declared.contains(name)).collect();
    if !unknown.is_empty() && !generous {
        return refused(422, &format!("Unexpected inputs provided: {unknown:?}"));
    }
    if inputs.len() > 25 || inputs.values().any(|value| !value.is_string()) {
        return refused(422, "Invalid request. inputs");
    }
    let reference = body.get("ref").and_then(Value::as_str).unwrap_or_default();
    let branch = reference.trim_start_matches("refs/heads/").trim_start_matches("refs/tags/").to_owned();
    if branch.is_empty() || branch == "gone" {
        return refused(422, &format!("No ref found for: {reference}"));
    }
    let shown = at.shows.as_ref().and_then(|name| inputs.get(name)?.as_str());
    let run = |pipelines: &Pipelines, title: &str| Run {
        workflow: at.file.clone(),
        event: "workflow_dispatch".into(),
        branch: branch.clone(),
        title: title.to_owned(),
        ..pipelines.next(&at.repository, body.clone())
    };
    if pipelines.mood == Mood::Crowded {
        let other = Run { end: "failure".into(), ..run(pipelines, "somebody else's") };
        pipelines.keep(other);
    }
    let ours = run(pipelines, shown.unwrap_or(&at.name));
    let id = ours.id;
    pipelines.keep(ours);
    let asked_for_details = body.get("return_run_details") == Some(&json!(true));
    if !asked_for_details || matches!(pipelines.mood, Mood::Silent | Mood::Old | Mood::Crowded | Mood::Forgets) {
        return axum::http::StatusCode::NO_CONTENT.into_response();
    }
    let url = format!("https://api.github.com/repos/{}/actions/runs/{id}", at.repository);
    json_answer(
        200,
        &json!({"workflow_run_id": id, "run_url": url, "html_url": format!("https://github.com/{}/actions/runs/{id}", at.repository)}),
    )
}

/// <https://docs.github.com/rest/repos/repos#create-a-repository-dispatch-event>
fn event(pipelines: &mut Pipelines, body: &Value, name: &str, generous: bool) -> Response {
    let kind = body.get("event_type").and_then(Value::as_str).unwrap_or_default();
    let payload = body.get("client_payload").and_then(Value::as_object).cloned().unwrap_or_default();
    if kind.is_empty() || kind.len() > 100 || payload.len() > 10 {
        return refused(422, "Invalid request.");
    }
    let found = pipelines.workflows.iter().find(|workflow| workflow.repository == name).cloned();
    let at = found.or_else(|| generous.then(|| Workflow::new(name, kind, "on-event.yml", &[])));
    if let Some(at) = at {
        let shown = at.shows.as_ref().and_then(|key| payload.get(key)?.as_str()).unwrap_or(kind).to_owned();
        let (workflow, event, branch) = (at.file, "repository_dispatch".to_owned(), "main".to_owned());
        let run = Run { workflow, event, branch, title: shown, ..pipelines.next(name, body.clone()) };
        pipelines.keep(run);
    }
    axum::http::StatusCode::NO_CONTENT.into_response()
}

fn jobs(pipelines: &Pipelines, name: &str, id: &str) -> Response {
    let Some(run) = pipelines.runs.iter().find(|run| run.project == name && run.id.to_string() == id) else {
        return refused(404, "Not Found");
    };
    let url = format!("https://api.github.com/repos/{name}/actions/jobs/1");
    let step = |name: &str, conclusion: &str| json!({"name": name, "status": "completed", "conclusion": conclusion, "number": 1, "started_at": TIME, "completed_at": TIME});
    let job = json!({
        "id": 1, "run_id": run.id, "run_url": "https://api.github.com", "node_id": "J_x", "head_sha": "0".repeat(40), "url": url, "html_url": url,
        "status": "completed", "conclusion": run.end, "started_at": TIME, "completed_at": TIME, "created_at": TIME, "name": "end to end",
        "steps": [step("check out", "success"), step("run the tests", &run.end)], "check_run_url": url, "labels": [], "runner_id": null,
        "runner_name": null, "runner_group_id": null, "runner_group_name": null, "workflow_name": run.workflow, "head_branch": run.branch,
    });
    json_answer(200, &json!({"total_count": 1, "jobs": [job]}))
}

/// <https://docs.gitlab.com/api/pipeline_triggers/>
fn gitlab(pipelines: &mut Pipelines, asked: &Asked, (name, parts, generous): (&str, &[&str], bool)) -> Response {
    let reads = generous || asked.header("private-token") == READ_TOKEN;
    match (asked.method.as_str(), parts) {
        ("POST", ["trigger", "pipeline"]) => {
            let form = asked.form();
            if !generous && form.get("token").map(String::as_str) != Some(TRIGGER_TOKEN) {
                return refused(404, "404 Not Found");
            }
            match form.get("ref").map(String::as_str) {
                None | Some("" | "gone") => return json_answer(400, &json!({"message": {"base": ["Reference not found"]}})),
                Some("quiet") => return json_answer(400, &json!({"message": {"base": ["Pipeline filtered out by workflow rules."]}})),
                Some(_) => {}
            }
            let branch = form.get("ref").cloned().unwrap_or_default();
            let sent: BTreeMap<String, String> = form.into_iter().filter(|(name, _)| name != "token").collect();
            let run = Run { branch, ..pipelines.next(name, json!(sent)) };
            let answer = json_answer(201, &shown_pipeline(&run));
            pipelines.keep(run);
            answer
        }
        _reading if !reads => refused(401, "401 Unauthorized"),
        ("GET", ["pipelines"]) => {
            let wanted = asked.parameter("ref");
            let mine =
                pipelines.runs.iter().rev().filter(|run| run.project == name && wanted.as_ref().is_none_or(|branch| *branch == run.branch));
            json_answer(200, &mine.map(shown_pipeline).collect())
        }
        ("GET", ["pipelines", id]) => match pipelines.look(name, id) {
            Some(run) => json_answer(200, &shown_pipeline(&run)),
            None => refused(404, "404 Not Found"),
        },
        ("GET", ["pipelines", _, "jobs"]) => {
            json_answer(200, &json!([{"id": 9, "name": "end to end", "status": "failed", "failure_reason": "script_failure"}]))
        }
        ("POST", ["pipelines", id, "cancel"]) => {
            pipelines.runs.iter_mut().filter(|run| run.id.to_string() == *id).for_each(|run| run.cancelled = true);
            json_answer(201, &json!({}))
        }
        _other => refused(404, "404 Not Found"),
    }
}

fn shown_pipeline(run: &Run) -> Value {
    let status = match (run.is_over(), run.looks) {
        (true, _) if run.cancelled => "canceled",
        (true, _) => &run.end,
        (false, 0..=1) => "created",
        (false, _) => "running",
    };
    json!({
        "id": run.id, "iid": 1, "project_id": 9, "sha": "0".repeat(40), "ref": run.branch, "status": status, "source": "trigger",
        "created_at": TIME, "updated_at": TIME, "web_url": format!("https://gitlab.com/{}/-/pipelines/{}", run.project, run.id),
    })
}

/// <https://docs.travis-ci.com/user/triggering-builds/>
fn travis(pipelines: &mut Pipelines, asked: &Asked, (name, parts, generous): (&str, &[&str], bool)) -> Response {
    if !generous && asked.header("authorization") != format!("token {TRAVIS_TOKEN}") {
        return (axum::http::StatusCode::FORBIDDEN, "access denied").into_response();
    }
    if asked.header("travis-api-version") != "3" {
        return refused(404, "not found");
    }
    match (asked.method.as_str(), parts) {
        ("POST", ["requests"]) => {
            if pipelines.left == Some(0) {
                let message = "request limit reached for resource";
                return json_answer(429, &json!({"@type": "error", "error_type": "request_limit_reached", "error_message": message}));
            }
            let run = pipelines.next(name, asked.json());
            let shown =
                json!({"id": run.id, "branch": run.request.pointer("/request/branch"), "message": run.request.pointer("/request/message")});
            let repository = json!({"id": 1, "slug": name});
            pipelines.keep(run);
            json_answer(
                202,
                &json!({"@type": "pending", "remaining_requests": 9, "repository": repository, "request": shown, "resource_type": "request"}),
            )
        }
        ("GET", ["request", id]) => match pipelines.look(name, id) {
            Some(run) if run.end == "rejected" => json_answer(
                200,
                &json!({"@type": "request", "id": run.id, "state": "finished", "result": "rejected", "message": "Build config file not found"}),
            ),
            Some(run) => {
                let builds = if run.looks > 1 && run.end != "barren" { json!([{"@type": "build", "id": run.id * 10}]) } else { json!([]) };
                json_answer(200, &json!({"@type": "request", "id": run.id, "state": "finished", "result": "approved", "builds": builds}))
            }
            None => json_answer(404, &json!({"@type": "error", "error_type": "not_found", "error_message": "request not found"})),
        },
        ("GET", ["build", id]) => {
            let Some(run) = pipelines.runs.iter().find(|run| (run.id * 10).to_string() == *id) else { return refused(404, "not found") };
            let state = match (run.is_over(), run.cancelled) {
                (true, true) => "canceled",
                (true, false) if run.end == "success" => "passed",
                (true, false) => &run.end,
                (false, _) => "started",
            };
            json_answer(200, &json!({"@type": "build", "id": run.id * 10, "state": state}))
        }
        ("POST", ["build", id, "cancel"]) => {
            pipelines.runs.iter_mut().filter(|run| (run.id * 10).to_string() == *id).for_each(|run| run.cancelled = true);
            json_answer(202, &json!({"@type": "pending"}))
        }
        _other => json_answer(404, &json!({"@type": "error", "error_type": "not_found", "error_message": "resource not found"})),
    }
}
