//! The pretend GitLab: one project with merge requests, notes, deployments and environments. Its git is the one of `github`.
//!
//! It tells the job's token from an access token, and takes a line that begins with a slash for a quick action, as GitLab does.

use super::github;
use super::sandbox::{Asked, Shared, World, json_answer};
use crate::checkout::Ancestry;
use axum::response::Response;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(super) const TIME: &str = "2026-01-01T00:00:00.000Z";
/// The project's number.
pub const PROJECT: u64 = 7;
/// The token of the job.
pub const JOB_TOKEN: &str = "sandbox-job-token";
/// An access token with the scope `api`.
pub const ACCESS_TOKEN: &str = "sandbox-access-token";

/// The state of one project.
#[derive(Clone, Debug, Default)]
pub struct Project {
    /// Merge requests by number.
    pub merge_requests: BTreeMap<u64, MergeRequest>,
    /// Levels of members, by login.
    pub members: BTreeMap<String, u64>,
    /// Notes, oldest first.
    pub notes: Vec<Note>,
    /// Deployments, oldest first.
    pub deployments: Vec<Deployment>,
    /// Environments: name and whether it is stopped.
    pub environments: Vec<(String, bool)>,
    /// Commit statuses: the commit and what was sent.
    pub statuses: Vec<(String, BTreeMap<String, String>)>,
    /// The job that holds each resource group; 0 when nobody does.
    pub resource_groups: BTreeMap<String, u64>,
    /// Jobs and their statuses.
    pub jobs: BTreeMap<u64, String>,
    /// Tags whose release is announced for a later day.
    pub upcoming: Vec<String>,
    /// Tags with a release.
    pub releases: Vec<String>,
    /// Merge requests that were opened through the API, as they were asked for.
    pub opened: Vec<Value>,
    /// Files of generic packages, by path.
    pub packages: BTreeMap<(String, String, String), String>,
    /// Where downloads of packages are: another server's address, instead of GitLab itself.
    pub store: Option<String>,
    /// Whether the package registry is off.
    pub no_packages: bool,
    /// Commands that were found in notes: each of them would have been carried out.
    pub quick_actions: Vec<String>,
    /// The scopes of the access token; `api` when nothing is said.
    pub scopes: Option<Vec<String>>,
    /// The day it ends.
    pub expires: Option<String>,
    /// The level of its user; Developer when nothing is said.
    pub level: Option<u64>,
    /// Whether a new note is confirmed and forgotten.
    pub forgets_notes: bool,
    /// Whether a new deployment is confirmed and forgotten.
    pub forgets_deployments: bool,
    next_id: u64,
}

/// A merge request.
#[derive(Clone, Debug)]
pub struct MergeRequest {
    /// opened, merged or closed.
    pub state: String,
    /// Its head.
    pub sha: String,
    /// The merge commit.
    pub merge_commit: Option<String>,
    /// The project it comes from.
    pub source_project: u64,
}

/// A note.
#[derive(Clone, Debug)]
pub struct Note {
    /// Its id.
    pub id: u64,
    /// The merge request.
    pub merge_request: u64,
    /// Who wrote it.
    pub author: String,
    /// Whether GitLab wrote it.
    pub system: bool,
    /// Markdown.
    pub body: String,
}

/// A deployment.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Its id.
    pub id: u64,
    /// The environment.
    pub environment: String,
    /// The commit.
    pub sha: String,
    /// The branch or tag.
    pub reference: String,
    /// running, success, failed or canceled.
    pub status: String,
    /// The job that it belongs to, unless it was made through the API.
    pub job: Option<u64>,
}

impl Project {
    pub(super) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// What GitLab does when a job with `environment:` starts.
    pub fn start_job(&mut self, job: u64, environment: &str, sha: &str) {
        self.jobs.insert(job, "running".into());
        let id = self.id();
        let (environment, sha) = (environment.to_owned(), sha.to_owned());
        self.make_environment(&environment);
        self.deployments.push(Deployment { id, environment, sha, reference: "main".into(), status: "running".into(), job: Some(job) });
    }

    /// What GitLab does when it ends.
    pub fn end_job(&mut self, job: u64, status: &str) {
        self.jobs.insert(job, status.to_owned());
        for deployment in self.deployments.iter_mut().filter(|deployment| deployment.job == Some(job)) {
            deployment.status = status.to_owned();
        }
    }

    pub(super) fn make_environment(&mut self, name: &str) {
        match self.environments.iter_mut().find(|(known, _)| known == name) {
            Some((_, stopped)) => *stopped = false,
            None => self.environments.push((name.to_owned(), false)),
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    Job,
    Access,
}

/// Answers a request below /gitlab.
pub fn answer(shared: &Shared, asked: &Asked) -> Response {
    let mut world = shared.world();
    let path = asked.path.strip_prefix("/gitlab/api/v4").unwrap_or_default();
    let caller = match (asked.header("private-token"), asked.header("job-token")) {
        (ACCESS_TOKEN, _) => Caller::Access,
        (_, JOB_TOKEN) => Caller::Job,
        _other => return refused(401, "401 Unauthorized"),
    };
    // Slashes inside a name are encoded, so the path is cut before it is decoded.
    let parts: Vec<String> = path.trim_start_matches('/').split('/').map(github::percent_decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    if caller == Caller::Job && !job_may(&asked.method, &parts) {
        return refused(401, "401 Unauthorized");
    }
    if parts.as_slice() == ["personal_access_tokens", "self"] {
        let scopes = world.gitlab.scopes.clone().unwrap_or_else(|| vec!["api".into()]);
        return json_answer(
            200,
            &json!({"id": 1, "name": "tidegate", "scopes": scopes, "active": true, "expires_at": world.gitlab.expires}),
        );
    }
    if parts.as_slice() == ["user"] {
        return json_answer(200, &user("project_7_bot"));
    }
    let Some(["projects", id, rest @ ..]) = parts.get(..) else { return refused(404, "404 Not Found") };
    if *id != PROJECT.to_string() && *id != world.github.repository {
        return refused(404, "404 Project Not Found");
    }
    in_project(&mut world, asked, rest)
}

/// <https://docs.gitlab.com/ci/jobs/ci_job_token/#job-token-access>
fn job_may(method: &str, parts: &[&str]) -> bool {
    match parts {
        ["projects", _, "deployments" | "environments" | "releases" | "packages", ..] => true,
        ["projects", _, "repository", "tags" | "branches" | "commits", ..] => method == "GET",
        ["projects", _, "merge_requests", ..] => method == "GET",
        _other => false,
    }
}

fn in_project(world: &mut World, asked: &Asked, rest: &[&str]) -> Response {
    let World { gitlab, github, .. } = world;
    match (asked.method.as_str(), rest) {
        ("GET", []) => json_answer(
            200,
            &json!({
                "id": PROJECT, "path_with_namespace": github.repository, "default_branch": github.default_branch,
                "permissions": {"project_access": {"access_level": gitlab.level.unwrap_or(30)}, "group_access": null},
            }),
        ),
        ("GET", ["repository", rest @ ..]) => repository(github, gitlab, asked, rest),
        ("GET", ["members", "all"]) => {
            let wanted = asked.parameter("query").unwrap_or_default();
            let found = gitlab.members.iter().filter(|(login, _)| login.contains(&wanted));
            let member = |(login, level): (&String, &u64)| json!({"id": 1, "username": login, "name": login, "state": "active", "access_level": level});
            json_answer(200, &found.map(member).collect())
        }
        ("GET", ["merge_requests", number]) => {
            let number = number.parse().unwrap_or(0);
            match gitlab.merge_requests.get(&number) {
                Some(merge) => json_answer(200, &merge_request(github, number, merge)),
                None => refused(404, "404 Not found"),
            }
        }
        (method, ["merge_requests", number, "notes", rest @ ..]) => notes(gitlab, asked, method, (number.parse().unwrap_or(0), rest)),
        (method, ["deployments", rest @ ..]) => super::gitlab_places::deployments(gitlab, asked, method, rest),
        (method, ["environments", rest @ ..]) => super::gitlab_places::environments(gitlab, asked, method, rest),
        ("POST", ["statuses", sha]) => {
            gitlab.statuses.push(((*sha).to_owned(), asked.form()));
            let sent = asked.form();
            let text = |name: &str| sent.get(name).cloned();
            let status = text("state").unwrap_or_default();
            json_answer(
                201,
                &json!({"id": gitlab.id(), "sha": sha, "status": status, "name": text("name"), "author": user("project_7_bot"),
                "created_at": TIME, "allow_failure": false, "target_url": text("target_url"), "description": text("description")}),
            )
        }
        ("POST", ["releases"]) => {
            let sent = asked.json();
            let text = |name: &str| sent.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            gitlab.releases.push(text("tag_name"));
            github.release(&text("tag_name"), &text("ref"));
            json_answer(201, &json!({"tag_name": text("tag_name"), "name": text("name"), "description": text("description")}))
        }
        ("POST", ["merge_requests"]) => {
            gitlab.opened.push(asked.json());
            json_answer(201, &opened(github, gitlab.opened.len()))
        }
        ("GET", ["merge_requests"]) => {
            let branch = asked.parameter("source_branch");
            let from = |opened: &&Value| opened.get("source_branch").and_then(Value::as_str) == branch.as_deref();
            json_answer(200, &gitlab.opened.iter().filter(from).enumerate().map(|(n, _)| opened(github, n + 1)).collect())
        }
        ("GET", ["releases", tag]) if gitlab.upcoming.iter().any(|known| known == tag) => {
            json_answer(200, &json!({"tag_name": tag, "upcoming_release": true}))
        }
        ("GET", ["releases", tag]) => match gitlab.releases.iter().any(|known| known == tag) {
            true => json_answer(200, &json!({"tag_name": tag, "upcoming_release": false})),
            false => refused(404, "404 Not Found"),
        },
        ("GET", ["jobs", id]) => match id.parse().ok().and_then(|id: u64| Some((id, gitlab.jobs.get(&id)?))) {
            Some((id, status)) => json_answer(200, &json!({"id": id, "status": status})),
            None => refused(404, "404 Not found"),
        },
        (method, ["packages", rest @ ..]) => packages(gitlab, asked, method, rest),
        ("GET", ["resource_groups", key, rest @ ..]) => match (gitlab.resource_groups.get(*key), rest) {
            (Some(0), ["current_job"]) => json_answer(200, &Value::Null),
            (Some(job), ["current_job"]) => json_answer(200, &json!({"id": job, "status": "running"})),
            (Some(_), []) => json_answer(200, &json!({"id": 1, "key": key, "process_mode": "unordered"})),
            _other => refused(404, "404 Not Found"),
        },
        _other => refused(404, "404 Not Found"),
    }
}

/// What the project's git says.
fn repository(github: &github::Forge, gitlab: &Project, asked: &Asked, rest: &[&str]) -> Response {
    match rest {
        ["tags"] => {
            let beginning = asked.parameter("search").unwrap_or_default();
            let found = github.tags_like(beginning.trim_start_matches('^'));
            json_answer(200, &found.iter().map(|(name, sha)| json!({"name": name, "commit": commit(sha)})).collect())
        }
        ["commits", sha, "refs"] => {
            json_answer(200, &github.branches_at(sha).iter().map(|name| json!({"type": "branch", "name": name})).collect())
        }
        ["tags", name] => commit_of(github.commit(&format!("tags/{name}")), name),
        ["branches", name] => commit_of(github.commit(&format!("heads/{name}")), name),
        ["commits", sha] => match github.commit(sha) {
            Some(sha) => json_answer(200, &commit(&sha)),
            None => refused(404, "404 Commit Not Found"),
        },
        ["commits", sha, "merge_requests"] => {
            let of = |merge: &MergeRequest| merge.merge_commit.as_deref() == Some(*sha) || merge.sha == *sha;
            let found = gitlab.merge_requests.iter().filter(|(_, merge)| of(merge));
            json_answer(200, &found.map(|(number, merge)| merge_request(github, *number, merge)).collect())
        }
        ["merge_base"] => match merge_base(github, &asked.parameters("refs[]")) {
            Some(sha) => json_answer(200, &commit(&sha)),
            None => refused(404, "404 Merge Base Not Found"),
        },
        _other => refused(404, "404 Not Found"),
    }
}

/// Generic packages: the newest file of a name is the one that is read.
fn packages(gitlab: &mut Project, asked: &Asked, method: &str, rest: &[&str]) -> Response {
    if gitlab.no_packages {
        return refused(403, "403 Forbidden");
    }
    match (method, rest) {
        ("GET", []) => {
            let name = asked.parameter("package_name").unwrap_or_default();
            let found = gitlab.packages.keys().filter(|(package, _, _)| *package == name);
            page(
                asked,
                found.map(|(name, version, _)| json!({"id": 1, "name": name, "version": version, "package_type": "generic"})).collect(),
            )
        }
        ("GET", ["generic", name, version, file])
            if gitlab.store.is_some() && gitlab.packages.contains_key(&((*name).to_owned(), (*version).to_owned(), (*file).to_owned())) =>
        {
            let mut response = refused(302, "moved");
            if let Some(value) = gitlab.store.as_ref().and_then(|store| format!("{store}?signature=once").parse().ok()) {
                response.headers_mut().insert("location", value);
            }
            response
        }
        ("GET", ["generic", name, version, file]) => {
            match gitlab.packages.get(&((*name).to_owned(), (*version).to_owned(), (*file).to_owned())) {
                Some(text) => json_answer(200, &serde_json::from_str(text).unwrap_or(Value::Null)),
                None => refused(404, "404 Not Found"),
            }
        }
        ("PUT", ["generic", name, version, file]) => {
            let text = String::from_utf8_lossy(&asked.body).into_owned();
            gitlab.packages.insert(((*name).to_owned(), (*version).to_owned(), (*file).to_owned()), text);
            json_answer(201, &json!({"message": "201 Created"}))
        }
        _other => refused(404, "404 Not Found"),
    }
}

pub(super) fn refused(status: u16, message: &str) -> Response {
    json_answer(status, &json!({"message": message}))
}

pub(super) fn user(name: &str) -> Value {
    json!({"id": 1, "username": name, "name": name, "state": "active", "web_url": format!("https://gitlab.com/{name}")})
}

fn commit(sha: &str) -> Value {
    json!({"id": sha, "short_id": sha.get(..8), "title": "a commit"})
}

fn commit_of(sha: Option<String>, name: &str) -> Response {
    match sha {
        Some(sha) => json_answer(200, &json!({"name": name, "commit": commit(&sha)})),
        None => refused(404, "404 Not Found"),
    }
}

/// The newest commit that all of them contain; commits beside the default branch share its first one.
fn merge_base(github: &github::Forge, refs: &[String]) -> Option<String> {
    if let (Some(checkout), [base, head]) = (github.checkout(), refs) {
        let (base, head) = (github.commit(base)?, github.commit(head)?);
        return Some(match checkout.ancestry(&head, &base)? {
            Ancestry::Same | Ancestry::Newer => base,
            Ancestry::Older => head,
            Ancestry::Diverged => github.history.first()?.clone(),
        });
    }
    let mut newest = usize::MAX;
    for name in refs {
        let sha = github.commit(name)?;
        newest = newest.min(github.history.iter().position(|known| *known == sha).unwrap_or(0));
    }
    github.history.get(newest).cloned()
}

fn merge_request(github: &github::Forge, number: u64, merge: &MergeRequest) -> Value {
    json!({
        "id": 1000 + number, "iid": number, "project_id": PROJECT, "title": "A change", "state": merge.state, "sha": merge.sha,
        "source_branch": "change", "target_branch": github.default_branch, "source_project_id": merge.source_project,
        "target_project_id": PROJECT, "merge_commit_sha": merge.merge_commit, "draft": false, "labels": [], "author": user("ada"),
        "created_at": TIME, "updated_at": TIME, "web_url": format!("https://gitlab.com/{}/-/merge_requests/{number}", github.repository),
    })
}

fn opened(github: &github::Forge, number: usize) -> Value {
    let url = format!("https://gitlab.com/{}/-/merge_requests/{}", github.repository, 100 + number);
    json!({"iid": 100 + number, "state": "opened", "web_url": url})
}

fn note_answer(note: &Note) -> Value {
    json!({"id": note.id, "body": note.body, "system": note.system, "author": user(&note.author), "created_at": TIME, "updated_at": TIME,
        "noteable_id": note.merge_request, "noteable_type": "MergeRequest", "noteable_iid": note.merge_request, "resolvable": false})
}

fn notes(gitlab: &mut Project, asked: &Asked, method: &str, (merge_request, rest): (u64, &[&str])) -> Response {
    let body = asked.form().remove("body").unwrap_or_default().trim_end().to_owned(); // GitLab stores it so
    if matches!(method, "POST" | "PUT") {
        gitlab.quick_actions.extend(body.lines().filter(|line| line.starts_with('/')).map(str::to_owned));
        if body.chars().count() > 1_000_000 {
            return refused(400, "400 Bad request - Note {:note=>[\"is too long\"]}");
        }
    }
    let id: u64 = rest.first().and_then(|id| id.parse().ok()).unwrap_or(0);
    match (method, rest) {
        ("GET", []) => {
            let mut all: Vec<&Note> = gitlab.notes.iter().filter(|note| note.merge_request == merge_request).collect();
            if asked.parameter("sort").as_deref() != Some("asc") {
                all.reverse();
            }
            page(asked, all.into_iter().map(note_answer).collect())
        }
        ("POST", []) => {
            let note = Note { id: gitlab.id(), merge_request, author: "project_7_bot".into(), system: false, body };
            let answer = note_answer(&note);
            if !gitlab.forgets_notes {
                gitlab.notes.push(note);
            }
            json_answer(201, &answer)
        }
        ("PUT", [_]) => match gitlab.notes.iter_mut().find(|note| note.id == id) {
            Some(note) if note.author != "project_7_bot" => refused(403, "403 Forbidden"),
            Some(note) => {
                note.body = body;
                json_answer(200, &note_answer(note))
            }
            None => refused(404, "404 Not found"),
        },
        ("DELETE", [_]) => {
            gitlab.notes.retain(|note| note.id != id);
            json_answer(204, &Value::Null)
        }
        _other => refused(404, "404 Not Found"),
    }
}

/// A page by its number, with the headers that say whether there are more.
pub(super) fn page(asked: &Asked, all: Vec<Value>) -> Response {
    let number = |name: &str, otherwise: usize| asked.parameter(name).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let (page, size) = (number("page", 1).max(1), number("per_page", 20).clamp(1, 100));
    let total = all.len();
    let shown: Vec<Value> = all.into_iter().skip((page - 1) * size).take(size).collect();
    let next = if page * size < total { (page + 1).to_string() } else { String::new() };
    let mut response = json_answer(200, &Value::Array(shown));
    for (name, value) in
        [("x-next-page", next), ("x-page", page.to_string()), ("x-per-page", size.to_string()), ("x-total", total.to_string())]
    {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
