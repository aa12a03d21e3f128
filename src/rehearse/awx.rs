//! The pretend AWX: templates with prompts and surveys, jobs that go on at each look, their lines, and cancelling.
//!
//! Its shapes are those that the real `awx` command line (awxkit 24.6.1) needs, which drives it in the tests.

use super::sandbox::{Asked, Shared, World, json_answer};
use crate::targets::set;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Tokens and logins that it knows.
pub const TOKEN: &str = "awx-sandbox-token";
/// The user `admin`'s password.
pub const PASSWORD: &str = "awx-sandbox-password";
/// Prompts: what is sent, and the flag that lets it through.
const PROMPTS: [(&str, &str); 8] = [
    ("extra_vars", "ask_variables_on_launch"),
    ("limit", "ask_limit_on_launch"),
    ("job_tags", "ask_tags_on_launch"),
    ("skip_tags", "ask_skip_tags_on_launch"),
    ("inventory", "ask_inventory_on_launch"),
    ("credentials", "ask_credential_on_launch"),
    ("scm_branch", "ask_scm_branch_on_launch"),
    ("job_type", "ask_job_type_on_launch"),
];

/// How a template's jobs go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// They end well.
    #[default]
    Successful,
    /// A task fails.
    Failed,
    /// AWX itself fails; the events never end.
    Error,
    /// A person cancels them.
    Canceled,
    /// They wait for ever.
    Pending,
    /// They run for ever.
    Running,
    /// They end well, with other values than were sent.
    OtherValues,
    /// The launch is confirmed with values left out.
    Ignores,
}

/// A job or workflow template.
#[derive(Clone, Debug)]
pub struct Template {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its organization.
    pub organization: String,
    /// Whether it is a workflow template.
    pub is_workflow: bool,
    /// Whether everything may be given at a launch.
    pub asks: bool,
    /// The variables of its survey.
    pub survey: Vec<String>,
    /// How its jobs go.
    pub fate: Fate,
}

impl Template {
    /// A job template that takes everything.
    pub fn new(id: u64, name: &str, fate: Fate) -> Self {
        Self { id, name: name.into(), organization: "Default".into(), is_workflow: false, asks: true, survey: Vec::new(), fate }
    }
}

/// A job.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its number.
    pub id: u64,
    /// Its template's number.
    pub template: u64,
    /// What was sent.
    pub request: Value,
    /// How often it was looked at.
    looks: u32,
    /// Whether somebody asked to cancel it.
    pub canceled: bool,
    fate: Fate,
    is_workflow: bool,
    name: String,
}

/// AWX's side of the sandbox.
#[derive(Clone, Debug, Default)]
pub struct Controller {
    /// The templates.
    pub templates: Vec<Template>,
    /// The jobs, by number.
    pub jobs: BTreeMap<u64, Job>,
    /// Lines that every job says, besides its own.
    pub lines: Vec<String>,
}

impl Job {
    /// The state at this look: pending, running, then its fate.
    fn state(&self) -> &'static str {
        if self.canceled {
            return "canceled";
        }
        match (self.looks, self.fate) {
            (0..=1, _) | (_, Fate::Pending) => "pending",
            (2, _) | (_, Fate::Running) => "running",
            (_, Fate::Successful | Fate::OtherValues | Fate::Ignores) => "successful",
            (_, Fate::Failed) => "failed",
            (_, Fate::Error) => "error",
            (_, Fate::Canceled) => "canceled",
        }
    }

    fn is_over(&self) -> bool {
        !matches!(self.state(), "pending" | "running")
    }

    fn kind(&self) -> &'static str {
        if self.is_workflow { "workflow_job" } else { "job" }
    }

    fn shown(&self) -> Value {
        let (state, kind) = (self.state(), self.kind());
        let base = format!("/api/v2/{kind}s/{}/", self.id);
        let mut extra = self.request.get("extra_vars").cloned().unwrap_or_else(|| json!({}));
        if let Value::String(text) = &extra {
            extra = serde_json::from_str(text).unwrap_or_else(|_yaml| json!({}));
        }
        if self.fate == Fate::OtherValues {
            extra.as_object_mut().into_iter().flat_map(Map::values_mut).for_each(|value| *value = json!("another"));
        }
        let finished = self.is_over().then_some("2026-01-01T00:00:00Z");
        let mut shown = json!({
            "id": self.id, "type": kind, "url": base, "name": self.name, "status": state, "failed": matches!(state, "failed" | "error" | "canceled"),
            "started": Value::Null, "finished": finished, "elapsed": 1.5, "launch_type": "manual", "extra_vars": extra.to_string(),
            "job_explanation": if state == "error" { "Task was marked as running at system start up." } else { "" },
            "result_traceback": "", "summary_fields": {}, "inventory": self.request.get("inventory"), "limit": self.request.get("limit"),
            "related": {
                "cancel": format!("{base}cancel/"), "stdout": format!("{base}stdout/"), "job_events": format!("{base}job_events/"),
                "workflow_nodes": format!("{base}workflow_nodes/"),
            },
        });
        if !self.is_workflow {
            set(&mut shown, &["event_processing_finished"], json!(self.is_over() && state != "error"));
        }
        shown
    }

    /// Its lines so far: start, end and text. One comes out of its order at first.
    fn events(&self, more: &[String]) -> Vec<Value> {
        let mut lines = vec!["PLAY [all] ****".to_owned(), "\u{1b}[0;32mok: [web1]\u{1b}[0m".to_owned()];
        lines.extend(more.iter().cloned());
        if self.is_over() {
            let last = match self.state() {
                "failed" => "fatal: [web1]: FAILED! => {\"msg\": \"no such image\"}",
                _well => "PLAY RECAP ****",
            };
            lines.push(last.to_owned());
        }
        let events = lines.iter().zip(0_u64..).map(|(line, at)| {
            json!({"id": self.id * 1000 + at, "counter": at + 1, "event": "verbose", "start_line": at, "end_line": at + 1, "stdout": line})
        });
        let mut events: Vec<Value> = events.collect();
        if self.state() == "running" {
            events.remove(0); // the second one is faster than the first
        }
        events
    }
}

/// Answers a request below /awx, or below /api for clients that know no other root.
pub fn answer(shared: &Shared, asked: &Asked) -> Response {
    let path = asked.path.strip_prefix("/awx").unwrap_or(&asked.path);
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (asked.method.as_str(), parts.as_slice()) {
        (_, ["api"]) => root(),
        (_, ["api", "v2"]) => {
            let lists =
                ["job_templates", "workflow_job_templates", "jobs", "workflow_jobs", "unified_jobs", "credentials", "organizations"];
            let mut links: Map<String, Value> = lists.iter().map(|name| ((*name).to_owned(), json!(format!("/api/v2/{name}/")))).collect();
            links.insert("inventory".into(), json!("/api/v2/inventories/"));
            json_answer(200, &Value::Object(links))
        }
        ("POST", ["api", "login"]) => login(asked),
        (_, ["api", "v2", rest @ ..]) => match is_known(asked) {
            true => inside(&mut shared.world(), asked, rest),
            false => json_answer(
                401,
                &json!({"detail": "Authentication credentials were not provided. To establish a login session, visit /api/login/."}),
            ),
        },
        _other => not_found(),
    }
}

fn not_found() -> Response {
    json_answer(404, &json!({"detail": "Not found."}))
}

fn root() -> Response {
    let mut answer =
        json_answer(200, &json!({"description": "AWX REST API", "current_version": "/api/v2/", "available_versions": {"v2": "/api/v2/"}}));
    header(&mut answer, "set-cookie", "csrftoken=sandbox; Path=/");
    answer
}

fn header(answer: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = value.parse() {
        answer.headers_mut().append(name, value);
    }
}

/// The command line logs in with a session rather than with HTTP Basic.
fn login(asked: &Asked) -> Response {
    let form = asked.form();
    if form.get("username").map(String::as_str) != Some("admin") || form.get("password").map(String::as_str) != Some(PASSWORD) {
        return json_answer(401, &json!({"detail": "Invalid username/password."}));
    }
    let mut answer = json_answer(302, &Value::Null);
    header(&mut answer, "location", "/api/");
    header(&mut answer, "set-cookie", "awx_sessionid=sandbox-session; Path=/");
    header(&mut answer, "x-api-session-cookie-name", "awx_sessionid");
    answer
}

fn is_known(asked: &Asked) -> bool {
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("admin:{PASSWORD}"));
    let authorization = asked.header("authorization");
    authorization == format!("Bearer {TOKEN}")
        || authorization == format!("Basic {basic}")
        || asked.header("cookie").contains("sandbox-session")
}

fn inside(world: &mut World, asked: &Asked, parts: &[&str]) -> Response {
    let generous = world.generous;
    let awx = &mut world.awx;
    if asked.method == "OPTIONS" {
        return options(parts);
    }
    match (asked.method.as_str(), parts) {
        ("GET", [list @ ("job_templates" | "workflow_job_templates")]) => {
            let is_workflow = *list == "workflow_job_templates";
            if generous && let Some(name) = asked.parameter("name") {
                awx.appear(&name, is_workflow);
            }
            let found = awx
                .templates
                .iter()
                .filter(|template| template.is_workflow == is_workflow && fits(asked, &template.name, &template.organization));
            page(found.map(shown_template).collect())
        }
        (_, ["job_templates" | "workflow_job_templates", id, rest @ ..]) => {
            let template = awx.templates.iter().find(|template| template.id.to_string() == **id).cloned();
            match template {
                Some(template) => of_template(awx, asked, &template, rest),
                None => not_found(),
            }
        }
        ("GET", ["inventories"]) => named(asked, &[(3, "Production"), (5, "Staging")]),
        ("GET", ["credentials"]) => named(asked, &[(4, "ssh key"), (6, "vault")]),
        ("GET", ["unified_jobs"]) => page(Vec::new()),
        ("GET", ["jobs" | "workflow_jobs"]) => page(awx.jobs.values().map(Job::shown).collect()),
        (_, ["jobs" | "workflow_jobs", id, rest @ ..]) => of_job(awx, asked, id, rest),
        _other => not_found(),
    }
}

fn fits(asked: &Asked, name: &str, organization: &str) -> bool {
    asked.parameter("name").is_none_or(|wanted| wanted == name)
        && asked.parameter("organization__name").is_none_or(|wanted| wanted == organization)
}

fn named(asked: &Asked, known: &[(u64, &str)]) -> Response {
    page(known.iter().filter(|(_, name)| fits(asked, name, "Default")).map(|(id, name)| json!({"id": id, "name": name})).collect())
}

fn page(results: Vec<Value>) -> Response {
    json_answer(200, &json!({"count": results.len(), "next": Value::Null, "previous": Value::Null, "results": results}))
}

/// What the command line makes its flags of.
fn options(parts: &[&str]) -> Response {
    let launch = json!({
        "extra_vars": {"type": "json"}, "limit": {"type": "string"}, "job_tags": {"type": "string"}, "skip_tags": {"type": "string"},
        "scm_branch": {"type": "string"}, "inventory": {"type": "id"}, "credentials": {"type": "list_of_ids"},
    });
    let list = json!({"name": {"type": "string"}});
    let actions = match parts {
        [_, _, "launch"] => json!({"POST": launch}),
        [_] => json!({"GET": list, "POST": list}),
        _other => json!({}),
    };
    let mut answer = json_answer(200, &json!({"name": "sandbox", "actions": actions}));
    header(&mut answer, "allow", "GET, PUT, PATCH, POST, DELETE, HEAD, OPTIONS");
    answer
}

fn shown_template(template: &Template) -> Value {
    let kind = if template.is_workflow { "workflow_job_template" } else { "job_template" };
    let base = format!("/api/v2/{kind}s/{}/", template.id);
    json!({
        "id": template.id, "type": kind, "url": base, "name": template.name, "organization": 1, "related": {"launch": format!("{base}launch/")},
        "summary_fields": {"organization": {"id": 1, "name": template.organization}}, "survey_enabled": !template.survey.is_empty(),
    })
}

fn of_template(awx: &mut Controller, asked: &Asked, template: &Template, rest: &[&str]) -> Response {
    match (asked.method.as_str(), rest) {
        ("GET", []) => json_answer(200, &shown_template(template)),
        ("GET", ["launch"]) => {
            let mut asks: Map<String, Value> = PROMPTS.iter().map(|(_, prompt)| ((*prompt).to_owned(), json!(template.asks))).collect();
            asks.extend([
                ("survey_enabled".to_owned(), json!(!template.survey.is_empty())),
                ("variables_needed_to_start".to_owned(), json!(template.survey)),
                ("passwords_needed_to_start".to_owned(), json!([])),
                ("inventory_needed_to_start".to_owned(), json!(false)),
                ("credential_needed_to_start".to_owned(), json!(false)),
                ("can_start_without_user_input".to_owned(), json!(template.survey.is_empty())),
            ]);
            json_answer(200, &Value::Object(asks))
        }
        ("GET", ["survey_spec"]) => {
            let spec: Vec<Value> = template.survey.iter().map(|name| json!({"variable": name, "type": "text", "required": true})).collect();
            json_answer(200, &json!({"name": "", "description": "", "spec": spec}))
        }
        ("GET", ["jobs" | "workflow_jobs"]) => {
            page(awx.jobs.values().rev().filter(|job| job.template == template.id).map(Job::shown).collect())
        }
        ("POST", ["launch"]) => launch(awx, asked, template),
        _other => not_found(),
    }
}

/// A job template drops what it does not ask for; a workflow template refuses it.
fn launch(awx: &mut Controller, asked: &Asked, template: &Template) -> Response {
    let mut request = asked.json();
    if let Some(Value::String(text)) = request.get("extra_vars") {
        let parsed = serde_json::from_str(text).unwrap_or_else(|_yaml| json!({}));
        set(&mut request, &["extra_vars"], parsed);
    }
    let variables: Vec<String> = request.get("extra_vars").and_then(Value::as_object).into_iter().flat_map(Map::keys).cloned().collect();
    let missing: Vec<String> =
        template.survey.iter().filter(|name| !variables.contains(name)).map(|name| format!("'{name}' value missing")).collect();
    if !missing.is_empty() {
        return json_answer(400, &json!({"variables_needed_to_start": missing}));
    }
    let mut ignored = Map::new();
    if !template.asks {
        let fields: Vec<String> =
            request.as_object().into_iter().flat_map(Map::keys).filter(|name| *name != "extra_vars").cloned().collect();
        ignored.extend(fields.into_iter().map(|name| (name.clone(), request.get(&name).cloned().unwrap_or_default())));
    }
    if (!template.asks && template.survey.is_empty() || template.fate == Fate::Ignores) && !variables.is_empty() {
        ignored.insert("extra_vars".into(), request.get("extra_vars").cloned().unwrap_or_default());
    }
    if template.is_workflow
        && let Some(name) = ignored.keys().next()
    {
        return json_answer(400, &json!({name: ["Field is not configured to prompt on launch."]}));
    }
    let id = awx.jobs.keys().last().map_or(42, |last| last + 1);
    let Template { is_workflow, fate, name, .. } = template.clone();
    let job = Job { id, template: template.id, request, looks: 0, canceled: false, fate, is_workflow, name };
    let mut answer = job.shown();
    set(&mut answer, &[job.kind()], json!(id));
    set(&mut answer, &["ignored_fields"], Value::Object(ignored));
    awx.jobs.insert(id, job);
    json_answer(201, &answer)
}

fn of_job(awx: &mut Controller, asked: &Asked, id: &str, rest: &[&str]) -> Response {
    let lines = awx.lines.clone();
    let Some(job) = id.parse::<u64>().ok().and_then(|id| awx.jobs.get_mut(&id)) else { return not_found() };
    match (asked.method.as_str(), rest) {
        ("GET", []) => {
            job.looks += 1;
            json_answer(200, &job.shown())
        }
        ("GET", ["job_events"]) => {
            let from = asked.parameter("start_line__gte").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            let at = |event: &Value| event.get("start_line").and_then(Value::as_u64).unwrap_or(0);
            page(job.events(&lines).into_iter().filter(|event| at(event) >= from).collect())
        }
        ("GET", ["workflow_nodes"]) => {
            let node = json!({"id": id, "job": 7, "do_not_run": false, "summary_fields": {"job": {"id": 7, "name": "first node", "type": "job", "status": job.state()}}});
            page(if job.looks > 1 { vec![node] } else { Vec::new() })
        }
        ("GET", ["stdout"]) => {
            let events = job.events(&lines);
            let text: Vec<&str> = events.iter().filter_map(|event| event.get("stdout")?.as_str()).collect();
            ([("content-type", "text/plain")], text.join("\n")).into_response()
        }
        ("GET", ["cancel"]) => json_answer(200, &json!({"can_cancel": !job.is_over()})),
        ("POST", ["cancel"]) if job.is_over() => json_answer(405, &json!({"detail": "Method \"POST\" not allowed."})),
        ("POST", ["cancel"]) => {
            job.canceled = true;
            axum::http::StatusCode::ACCEPTED.into_response()
        }
        _other => not_found(),
    }
}

impl Controller {
    /// A job that runs for ever ends well all the same.
    pub fn end_well(&mut self, id: u64) {
        self.jobs.get_mut(&id).into_iter().for_each(|job| job.fate = Fate::Successful);
    }

    /// In a rehearsal every template is there.
    fn appear(&mut self, name: &str, is_workflow: bool) {
        if self.templates.iter().all(|template| template.name != name) {
            let id = 7 + self.templates.len() as u64;
            self.templates.push(Template { is_workflow, ..Template::new(id, name, Fate::Successful) });
        }
    }
}
