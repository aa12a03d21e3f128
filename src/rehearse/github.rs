//! The pretend GitHub: comments, deployments and a linear history, with answers in the shape of its own description.

use super::sandbox::{Asked, Shared, json_answer};
use axum::response::Response;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;

const TIME: &str = "2026-01-01T00:00:00Z";

/// The examples of GitHub's own description (npm @octokit/openapi, MIT licence): what is not ours to say stays as it is there.
static SHAPES: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(include_str!("github_shapes.json")).unwrap_or_default());

/// An example with our facts put over it.
pub(super) fn shape(name: &str, facts: &Value) -> Value {
    let mut shape = SHAPES.get(name).cloned().unwrap_or_default();
    put_over(&mut shape, facts);
    shape
}

fn put_over(shape: &mut Value, facts: &Value) {
    match (shape, facts) {
        (Value::Object(shape), Value::Object(facts)) => {
            for (name, fact) in facts {
                put_over(shape.entry(name.clone()).or_insert(Value::Null), fact);
            }
        }
        (shape, fact) => *shape = fact.clone(),
    }
}

/// The state of one repository.
#[derive(Clone, Debug)]
pub struct Forge {
    /// owner/name.
    pub repository: String,
    /// The default branch's name.
    pub default_branch: String,
    /// The default branch's commits, oldest first.
    pub history: Vec<String>,
    /// Other commits: they have diverged from the default branch.
    pub others: Vec<String>,
    /// Tags and their commits.
    pub tags: Vec<(String, String)>,
    /// The merged pull request of a commit.
    pub pulls: Vec<(String, u64)>,
    /// Open pull requests of forks: what is special to each.
    pub of_forks: Vec<Value>,
    /// Pull requests that are closed.
    pub closed: Vec<u64>,
    /// Comments, oldest first.
    pub comments: Vec<Comment>,
    /// Deployments with their statuses.
    pub deployments: Vec<Deployment>,
    /// Refs below refs/tidegate/ and their commits.
    pub refs: BTreeMap<String, String>,
    /// Messages of commits that were made through the API.
    pub messages: BTreeMap<String, String>,
    /// Runs: id, the latest try, and whether that has ended.
    pub runs: BTreeMap<String, (u32, bool)>,
    /// A real repository of git, whose history this is in place of the lists.
    pub git: Option<std::path::PathBuf>,
    /// Branches beside the default one, where the history is real.
    pub branches: Vec<String>,
    /// Tags that have a release.
    pub releases: Vec<String>,
    /// Whether a release is confirmed, and its tag is not made.
    pub forgets_tags: bool,
    /// Pull requests that were opened through the API, as they were asked for.
    pub opened: Vec<Value>,
    /// The time at which statuses are made.
    pub time: String,
    /// How the authors of merged pull requests belong here, by number; MEMBER when nothing is said.
    pub associations: BTreeMap<u64, String>,
    /// What people may do, by login.
    pub permissions: BTreeMap<String, String>,
    /// Files on every branch, by path.
    pub files: BTreeMap<String, String>,
    /// A pull request that is opened again after it was asked about so often.
    pub reopens: Option<(u64, u32)>,
    /// Pull requests about which it says nothing.
    pub silent_about: Vec<u64>,
    /// Environments that are deleted.
    pub deleted: Vec<String>,
    /// Environments that somebody has given rules.
    pub guarded: Vec<String>,
    /// Whether a new ref is confirmed and forgotten.
    pub forgets_refs: bool,
    /// Whether a new deployment is confirmed and forgotten.
    pub forgets_deployments: bool,
    /// Whether the token belongs to a person with this login; an installation token otherwise.
    pub person: Option<String>,
    next_id: u64,
}

impl Default for Forge {
    fn default() -> Self {
        Self {
            repository: "acme/demo".into(),
            default_branch: "main".into(),
            history: Vec::new(),
            others: Vec::new(),
            tags: Vec::new(),
            pulls: Vec::new(),
            of_forks: Vec::new(),
            closed: Vec::new(),
            comments: Vec::new(),
            deployments: Vec::new(),
            refs: BTreeMap::new(),
            messages: BTreeMap::new(),
            runs: BTreeMap::new(),
            git: None,
            branches: Vec::new(),
            releases: Vec::new(),
            forgets_tags: false,
            opened: Vec::new(),
            time: TIME.into(),
            associations: BTreeMap::new(),
            permissions: BTreeMap::new(),
            files: BTreeMap::new(),
            reopens: None,
            silent_about: Vec::new(),
            deleted: Vec::new(),
            guarded: Vec::new(),
            forgets_refs: false,
            forgets_deployments: false,
            person: None,
            next_id: 1000,
        }
    }
}

/// A comment on a pull request.
#[derive(Clone, Debug)]
pub struct Comment {
    /// Its id.
    pub id: u64,
    /// The pull request.
    pub pr: u64,
    /// Who wrote it, and whether that is a bot.
    pub author: (String, bool),
    /// Markdown.
    pub body: String,
}

/// A deployment record.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Its id.
    pub id: u64,
    /// What was asked for.
    pub request: Value,
    /// The states, oldest first.
    pub states: Vec<String>,
    /// The statuses as they were sent, with their ids.
    pub statuses: Vec<(u64, Value)>,
}

impl Forge {
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn me(&self) -> (String, bool) {
        match &self.person {
            Some(login) => (login.clone(), false),
            None => ("github-actions[bot]".into(), true),
        }
    }

    /// An environment: deployments make them.
    pub(super) fn environment(&self, name: &str) -> Option<Value> {
        let is_it = |deployment: &Deployment| deployment.request.get("environment").and_then(Value::as_str) == Some(name);
        if self.deleted.iter().any(|deleted| deleted == name) || !self.deployments.iter().any(is_it) {
            return None;
        }
        let guarded = self.guarded.iter().any(|guarded| guarded == name);
        let rules = if guarded { json!([{"id": 1, "node_id": "GA_x", "type": "wait_timer", "wait_timer": 30}]) } else { json!([]) };
        let url = format!("https://api.github.com/repos/{}/environments/{name}", self.repository);
        Some(json!({
            "id": 1, "node_id": "EN_x", "name": name, "url": url, "html_url": url, "created_at": TIME, "updated_at": TIME,
            "protection_rules": rules, "deployment_branch_policy": null,
        }))
    }

    /// The commit that a name stands for.
    pub(super) fn commit(&self, name: &str) -> Option<String> {
        if let Some(checkout) = self.checkout() {
            return self.commit_in(&checkout, name);
        }
        let bare = name.strip_prefix("heads/").unwrap_or(name);
        if bare == self.default_branch || bare == "HEAD" {
            return self.history.last().cloned();
        }
        if let Some(tag) = name.strip_prefix("tags/") {
            return self.tags.iter().find(|(known, _)| known == tag).map(|(_, sha)| sha.clone());
        }
        let all = self.history.iter().chain(&self.others);
        let exact = all.clone().find(|sha| name.len() >= 7 && sha.starts_with(name)).cloned();
        exact.or_else(|| self.tags.iter().find(|(known, _)| known == name).map(|(_, sha)| sha.clone()))
    }

    fn compare(&self, base: &str, head: &str) -> Option<&'static str> {
        if let Some(checkout) = self.checkout() {
            return self.relation(&checkout, base, head);
        }
        let (base, head) = (self.commit(base)?, self.commit(head)?);
        let position = |sha: &String| self.history.iter().position(|known| known == sha);
        Some(match (position(&base), position(&head)) {
            _same if base == head => "identical",
            (Some(base), Some(head)) if head > base => "ahead",
            (Some(_), Some(_)) => "behind",
            _other => "diverged",
        })
    }
}

/// Answers a request below /github.
pub fn answer(shared: &Shared, asked: &Asked) -> Response {
    let mut world = shared.world();
    let forge = &mut world.github;
    let path = asked.path.strip_prefix("/github").unwrap_or_default();
    let path = percent_decode(path);
    if path == "/user" {
        return match &forge.person {
            Some(login) => json_answer(200, &shape("user", &json!({"login": login}))),
            None => json_answer(403, &json!({"message": "Resource not accessible by integration"})),
        };
    }
    if !asked.header("authorization").starts_with("Bearer ") {
        return json_answer(401, &json!({"message": "Bad credentials"}));
    }
    let Some(rest) = path.strip_prefix(&format!("/repos/{}", forge.repository)) else { return not_found() };
    let parts: Vec<&str> = rest.trim_start_matches('/').splitn(3, '/').collect();
    if let Some(answer) = super::github_life::answer(forge, asked, (asked.method.as_str(), parts.as_slice())) {
        return answer;
    }
    match (asked.method.as_str(), parts.as_slice()) {
        ("GET", [""]) => {
            json_answer(200, &shape("repository", &json!({"full_name": forge.repository, "default_branch": forge.default_branch})))
        }
        ("GET", ["commits", sha, "pulls"]) => pulls(forge, sha),
        ("GET", ["commits", first, rest @ ..]) => {
            let name = std::iter::once(*first).chain(rest.iter().copied()).collect::<Vec<_>>().join("/");
            match forge.commit(&name) {
                Some(sha) => json_answer(200, &shape("commit", &json!({"sha": sha}))),
                None => {
                    let message = format!("No commit found for SHA: {name}");
                    json_answer(422, &json!({"message": message, "documentation_url": "https://docs.github.com/rest"}))
                }
            }
        }
        ("GET", ["compare", range]) => match range.split_once("...").and_then(|(base, head)| forge.compare(base, head)) {
            Some(status) => json_answer(200, &shape("compare", &json!({"status": status}))),
            None => not_found(),
        },
        (method, ["issues", number, "comments"]) => comments_of(forge, asked, method, number.parse().unwrap_or(0)),
        (method, ["issues", "comments", id]) => comment(forge, asked, method, id.parse().unwrap_or(0)),
        ("POST", ["deployments"]) if asked.json().get("ref").and_then(Value::as_str).is_some_and(|name| name.chars().all(|c| c == '0')) => {
            json_answer(422, &json!({"message": "No ref found for: 0000000000000000000000000000000000000000"}))
        }
        ("POST", ["deployments"]) => {
            let deployment = Deployment { id: forge.id(), request: asked.json(), states: Vec::new(), statuses: Vec::new() };
            let answer = deployment_answer(forge, &deployment);
            if !forge.forgets_deployments {
                forge.deployments.push(deployment);
            }
            json_answer(201, &answer)
        }
        ("GET", ["deployments"]) => {
            let wanted = asked.parameter("environment");
            let place = |deployment: &Deployment| deployment.request.get("environment").and_then(Value::as_str).map(str::to_owned);
            let number = |name: &str, otherwise: usize| asked.parameter(name).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
            let (page, size) = (number("page", 1), number("per_page", 30).min(100));
            let found = forge.deployments.iter().rev().filter(|deployment| wanted.is_none() || place(deployment) == wanted);
            let found = found.skip((page - 1) * size).take(size);
            json_answer(200, &Value::Array(found.map(|deployment| deployment_answer(forge, deployment)).collect()))
        }
        ("POST", ["deployments", id, "statuses"]) => {
            let mut body = asked.json();
            if let Some(fields) = body.as_object_mut() {
                fields.insert("created_at".into(), json!(forge.time));
            }
            let state = body.get("state").and_then(Value::as_str).unwrap_or_default().to_owned();
            let id: u64 = id.parse().unwrap_or(0);
            let new_id = forge.id();
            let answer = status_answer(forge, id, new_id, &body);
            match forge.deployments.iter_mut().find(|deployment| deployment.id == id) {
                Some(deployment) => {
                    deployment.states.push(state);
                    deployment.statuses.push((new_id, body));
                }
                None => return not_found(),
            }
            json_answer(201, &answer)
        }
        ("GET", ["deployments", id, statuses]) if statuses.starts_with("statuses") => {
            let id: u64 = id.parse().unwrap_or(0);
            let Some(deployment) = forge.deployments.iter().find(|deployment| deployment.id == id) else { return not_found() };
            let newest_first = deployment.statuses.iter().rev();
            json_answer(200, &newest_first.map(|(status, body)| status_answer(forge, id, *status, body)).collect())
        }
        ("GET", ["pulls"]) => json_answer(200, &forge.pulls.iter().map(|(sha, number)| pull(forge, sha, *number)).collect()),
        ("GET", ["actions", "runs"]) => json_answer(200, &json!({"total_count": 0, "workflow_runs": []})),
        ("GET", ["pulls", number]) => {
            let number: u64 = number.parse().unwrap_or(0);
            if forge.silent_about.contains(&number) {
                return json_answer(502, &json!({"message": "Server Error"}));
            }
            if let Some((_, left)) = forge.reopens.as_mut().filter(|(reopens, _)| *reopens == number) {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    forge.closed.retain(|closed| *closed != number);
                }
            }
            let state = if forge.closed.contains(&number) { "closed" } else { "open" };
            json_answer(200, &shape("pull-request", &json!({"number": number, "state": state})))
        }
        (method, ["git", part, rest @ ..]) => super::github_git::answer(forge, asked, method, (part, rest.first().copied())),
        ("GET", ["actions", "runs", id]) => match forge.runs.get(*id) {
            Some((attempt, ended)) => {
                let status = if *ended { "completed" } else { "in_progress" };
                json_answer(200, &shape("run", &json!({"id": id.parse().unwrap_or(0), "run_attempt": attempt, "status": status})))
            }
            None => not_found(),
        },
        _other => not_found(),
    }
}

pub(super) fn percent_decode(path: &str) -> String {
    url::form_urlencoded::parse(format!("p={}", path.replace('+', "%2B").replace('&', "%26")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

pub(super) fn not_found() -> Response {
    json_answer(404, &json!({"message": "Not Found", "documentation_url": "https://docs.github.com/rest", "status": "404"}))
}

fn pulls(forge: &Forge, sha: &str) -> Response {
    let found = forge.pulls.iter().filter(|(known, _)| known == sha);
    let pulls: Vec<Value> = found.map(|(sha, number)| pull(forge, sha, *number)).collect();
    json_answer(200, &Value::Array(pulls))
}

fn comments_of(forge: &mut Forge, asked: &Asked, method: &str, pr: u64) -> Response {
    if method == "POST" {
        let body = asked.json().get("body").and_then(Value::as_str).unwrap_or_default().to_owned();
        if body.is_empty() {
            return json_answer(422, &json!({"message": "Validation Failed"}));
        }
        if body.chars().count() > 65_536 {
            return json_answer(422, &json!({"message": "Body is too long (maximum is 65536 characters)"}));
        }
        let comment = Comment { id: forge.id(), pr, author: forge.me(), body };
        let answer = comment_answer(forge, &comment);
        forge.comments.push(comment);
        return json_answer(201, &answer);
    }
    let number = |name: &str, otherwise: usize| asked.parameter(name).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let (page, size) = (number("page", 1), number("per_page", 30).min(100));
    let all: Vec<&Comment> = forge.comments.iter().filter(|comment| comment.pr == pr).collect();
    let shown: Vec<Value> = all.iter().skip((page - 1) * size).take(size).map(|comment| comment_answer(forge, comment)).collect();
    let more = page * size < all.len();
    let mut response = json_answer(200, &Value::Array(shown));
    if more {
        let link = format!("<{}?per_page={size}&page={}>; rel=\"next\"", asked.path, page + 1);
        if let Ok(value) = link.parse() {
            response.headers_mut().insert("link", value);
        }
    }
    response
}

fn comment(forge: &mut Forge, asked: &Asked, method: &str, id: u64) -> Response {
    let me = forge.me();
    let Some(at) = forge.comments.iter().position(|comment| comment.id == id) else { return not_found() };
    if method == "DELETE" {
        forge.comments.remove(at);
        return json_answer(204, &Value::Null);
    }
    let Some(comment) = forge.comments.get_mut(at) else { return not_found() };
    if comment.author != me {
        return json_answer(403, &json!({"message": "Resource not accessible by integration"}));
    }
    comment.body = asked.json().get("body").and_then(Value::as_str).unwrap_or_default().to_owned();
    let comment = comment.clone();
    json_answer(200, &comment_answer(forge, &comment))
}

fn url_of(forge: &Forge, path: &str) -> String {
    format!("https://api.github.com/repos/{}{path}", forge.repository)
}

fn user(login: &str, bot: bool) -> Value {
    let url = |path: &str| format!("https://api.github.com/users/x{path}");
    json!({
        "login": login, "id": 41_898_282, "node_id": "MDM6Qm90", "avatar_url": "https://avatars.githubusercontent.com/in/15368",
        "gravatar_id": "", "url": url(""), "html_url": "https://github.com/apps/x", "followers_url": url("/followers"),
        "following_url": url("/following"), "gists_url": url("/gists"), "starred_url": url("/starred"),
        "subscriptions_url": url("/subscriptions"), "organizations_url": url("/orgs"), "repos_url": url("/repos"),
        "events_url": url("/events"), "received_events_url": url("/received_events"),
        "type": if bot { "Bot" } else { "User" }, "site_admin": false,
    })
}

fn comment_answer(forge: &Forge, comment: &Comment) -> Value {
    let (login, bot) = &comment.author;
    json!({
        "id": comment.id, "node_id": "IC_x", "url": url_of(forge, &format!("/issues/comments/{}", comment.id)), "body": comment.body,
        "html_url": format!("https://github.com/{}/pull/{}#issuecomment-{}", forge.repository, comment.pr, comment.id),
        "issue_url": url_of(forge, &format!("/issues/{}", comment.pr)), "user": user(login, *bot),
        "created_at": TIME, "updated_at": TIME, "author_association": "NONE", "performed_via_github_app": null,
    })
}

fn deployment_answer(forge: &Forge, deployment: &Deployment) -> Value {
    let text = |name: &str| deployment.request.get(name).cloned().unwrap_or_else(|| json!(""));
    json!({
        "url": url_of(forge, &format!("/deployments/{}", deployment.id)), "id": deployment.id, "node_id": "DE_x",
        "sha": text("ref"), "ref": text("ref"), "task": text("task"), "payload": text("payload"), "original_environment": text("environment"),
        "environment": text("environment"), "description": text("description"), "creator": user("github-actions[bot]", true),
        "created_at": TIME, "updated_at": TIME, "statuses_url": url_of(forge, &format!("/deployments/{}/statuses", deployment.id)),
        "repository_url": url_of(forge, ""), "transient_environment": deployment.request.get("transient_environment") == Some(&json!(true)),
        "production_environment": deployment.request.get("production_environment") == Some(&json!(true)),
    })
}

fn status_answer(forge: &Forge, deployment: u64, id: u64, body: &Value) -> Value {
    let text = |name: &str| body.get(name).cloned().unwrap_or_else(|| json!("https://github.com"));
    json!({
        "url": url_of(forge, &format!("/deployments/{deployment}/statuses/{id}")), "id": id, "node_id": "DS_x", "state": text("state"),
        "creator": user("github-actions[bot]", true), "description": text("description"), "environment": "x", "target_url": text("log_url"),
        "created_at": text("created_at"), "updated_at": text("created_at"), "deployment_url": url_of(forge, &format!("/deployments/{deployment}")),
        "repository_url": url_of(forge, ""), "environment_url": text("environment_url"), "log_url": text("log_url"),
    })
}

fn pull(forge: &Forge, sha: &str, number: u64) -> Value {
    let facts = json!({
        "number": number, "state": "closed", "merged_at": TIME, "merge_commit_sha": sha, "base": {"ref": forge.default_branch},
        "html_url": format!("https://github.com/{}/pull/{number}", forge.repository),
        "author_association": forge.associations.get(&number).map_or("MEMBER", String::as_str),
    });
    shape("pull", &facts)
}
