//! A pretend manifest repository, acme/manifests, on GitHub and GitLab, and what follows it in the cluster, as Argo CD would.

use super::github::percent_decode;
use super::kubernetes_rollout::roll_out;
use super::sandbox::{Asked, Shared, World, json_answer};
use crate::targets::kubernetes::edit;
use crate::targets::set;
use crate::version::hex;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Paths and contents.
type Files = BTreeMap<String, String>;

/// The repository.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// Branches and their commits.
    pub branches: BTreeMap<String, String>,
    /// Commits and trees.
    objects: BTreeMap<String, Files>,
    parents: BTreeMap<String, String>,
    /// The messages of commits, oldest first.
    pub messages: Vec<String>,
    /// Pull requests: title, and whether they were closed without being merged.
    pub pulls: Vec<(String, bool)>,
    /// Commits by others that come right before ours, so that ours has to be made anew.
    pub others: usize,
    /// What is followed: file, key, namespace and name of a Deployment, and the repository whose tag the value is.
    pub followed: Option<(String, String, (String, String), String)>,
    /// The token that may write.
    pub token: String,
}

impl Manifests {
    /// Puts a file on main.
    pub fn write(&mut self, path: &str, text: &str) {
        let mut files = self.files("main");
        files.insert(path.into(), text.into());
        let sha = self.keep(files, "by hand");
        self.branches.insert("main".into(), sha);
    }

    /// A file on a branch.
    pub fn read(&self, branch: &str, path: &str) -> String {
        self.files(branch).get(path).cloned().unwrap_or_default()
    }

    fn files(&self, branch: &str) -> Files {
        let at = self.branches.get(branch).map_or(branch, String::as_str);
        self.objects.get(at).cloned().unwrap_or_default()
    }

    fn keep(&mut self, files: Files, message: &str) -> String {
        let text = format!("{files:?}{message}{}", self.objects.len());
        let sha: String = hex(&Sha256::digest(text.as_bytes())).chars().take(40).collect();
        self.objects.insert(sha.clone(), files);
        sha
    }

    /// Somebody else commits to main.
    fn other_commits(&mut self) -> bool {
        if self.others == 0 {
            return false;
        }
        self.others -= 1;
        let count = self.others;
        self.write("OTHER.md", &format!("{count}\n"));
        true
    }
}

/// The answer to a request about the repository, if it is about that.
pub fn answer(shared: &Arc<Shared>, asked: &Asked) -> Option<Response> {
    let path = percent_decode(&asked.path);
    let answer = if let Some(rest) = path.strip_prefix("/github/repos/acme/manifests/") {
        on_github(&mut shared.world(), asked, &rest.split('/').collect::<Vec<_>>())
    } else {
        let rest = path.strip_prefix("/gitlab/api/v4/projects/acme/manifests/")?;
        on_gitlab(&mut shared.world(), asked, rest)
    };
    sync(shared);
    Some(answer)
}

fn not_found() -> Response {
    json_answer(404, &json!({"message": "Not Found"}))
}

fn on_github(world: &mut World, asked: &Asked, parts: &[&str]) -> Response {
    let repository = &mut world.manifests;
    let body = asked.json();
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if asked.method != "GET" && !asked.header("authorization").contains(&repository.token) {
        return json_answer(403, &json!({"message": "Resource not accessible by integration"}));
    }
    match (asked.method.as_str(), parts) {
        ("GET", ["commits", "heads", branch @ ..]) => match repository.branches.get(&branch.join("/")) {
            Some(sha) => json_answer(200, &json!({"sha": sha})),
            None => not_found(),
        },
        ("GET", ["contents", path @ ..]) => match repository.files(&asked.parameter("ref").unwrap_or_default()).get(&path.join("/")) {
            Some(text) => {
                json_answer(200, &json!({"type": "file", "encoding": "base64", "content": format!("{}\n", STANDARD.encode(text))}))
            }
            None => not_found(),
        },
        ("GET", ["git", "commits", sha]) => json_answer(200, &json!({"sha": sha, "tree": {"sha": sha}, "message": ""})),
        ("POST", ["git", "trees"]) => {
            let mut files = repository.files(&text("base_tree"));
            for entry in body.get("tree").and_then(Value::as_array).into_iter().flatten() {
                let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                files.insert(text("path"), text("content"));
            }
            let sha = repository.keep(files, "tree");
            json_answer(201, &json!({"sha": sha}))
        }
        ("POST", ["git", "commits"]) => {
            let files = repository.files(&text("tree"));
            let sha = repository.keep(files, &text("message"));
            let parent = body.pointer("/parents/0").and_then(Value::as_str).unwrap_or_default().to_owned();
            repository.parents.insert(sha.clone(), parent);
            repository.messages.push(text("message"));
            json_answer(201, &json!({"sha": sha}))
        }
        ("POST", ["git", "refs"]) => {
            let name = text("ref").trim_start_matches("refs/heads/").to_owned();
            repository.branches.insert(name, text("sha"));
            json_answer(201, &json!({"ref": text("ref"), "object": {"sha": text("sha")}}))
        }
        ("PATCH", ["git", "refs", "heads", branch @ ..]) => {
            let (branch, sha) = (branch.join("/"), text("sha"));
            repository.other_commits();
            if repository.parents.get(&sha) != repository.branches.get(&branch) && repository.branches.get(&branch) != Some(&sha) {
                return json_answer(422, &json!({"message": "Update is not a fast forward"}));
            }
            repository.branches.insert(branch, sha.clone());
            json_answer(200, &json!({"object": {"sha": sha}}))
        }
        ("POST", ["pulls"]) => {
            repository.pulls.push((text("title"), false));
            let number = repository.pulls.len();
            json_answer(201, &json!({"number": number, "html_url": format!("https://github.com/acme/manifests/pull/{number}")}))
        }
        ("GET", ["pulls", number]) => {
            let closed =
                number.parse::<usize>().ok().and_then(|number| repository.pulls.get(number - 1)).is_some_and(|(_, closed)| *closed);
            json_answer(200, &json!({"state": if closed { "closed" } else { "open" }, "merged": false}))
        }
        _other => not_found(),
    }
}

fn on_gitlab(world: &mut World, asked: &Asked, rest: &str) -> Response {
    let repository = &mut world.manifests;
    let body = asked.json();
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if let ("GET", Some(branch)) = (asked.method.as_str(), rest.strip_prefix("repository/branches/")) {
        return match repository.branches.get(branch) {
            Some(sha) => json_answer(200, &json!({"name": branch, "commit": {"id": sha}})),
            None => not_found(),
        };
    }
    if let ("GET", Some(path)) = (asked.method.as_str(), rest.strip_prefix("repository/files/")) {
        let at = asked.parameter("ref").unwrap_or_default();
        return match repository.files(&at).get(path) {
            Some(text) => {
                json_answer(200, &json!({"file_path": path, "encoding": "base64", "content": STANDARD.encode(text), "last_commit_id": at}))
            }
            None => not_found(),
        };
    }
    match (asked.method.as_str(), rest) {
        ("POST", "repository/commits") => {
            let raced = repository.other_commits();
            let branch = text("branch");
            let mut files = repository.files(&text("start_sha"));
            if files.is_empty() {
                files = repository.files(&branch);
            }
            if raced {
                return json_answer(
                    400,
                    &json!({"message": "You are attempting to update a file that has changed since you started editing it."}),
                );
            }
            for action in body.get("actions").and_then(Value::as_array).into_iter().flatten() {
                let text = |name: &str| action.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                files.insert(text("file_path"), text("content"));
            }
            let sha = repository.keep(files, &text("commit_message"));
            repository.messages.push(text("commit_message"));
            repository.branches.insert(branch, sha.clone());
            json_answer(201, &json!({"id": sha}))
        }
        ("POST", "merge_requests") => {
            repository.pulls.push((text("title"), false));
            let number = repository.pulls.len();
            json_answer(201, &json!({"iid": number, "web_url": format!("https://gitlab.com/acme/manifests/-/merge_requests/{number}")}))
        }
        ("GET", _merge_request) => json_answer(200, &json!({"state": "opened"})),
        _other => not_found(),
    }
}

/// What the value on main says is what runs, a moment later.
fn sync(shared: &Arc<Shared>) {
    let mut world = shared.world();
    let Some((file, key, (namespace, name), repository)) = world.manifests.followed.clone() else { return };
    let Ok(path) = edit::Path::parse(&key) else { return };
    let Ok(value) = edit::read(&world.manifests.read("main", &file), &path) else { return };
    let image = if value.contains('/') { value } else { format!("{repository}:{value}") };
    let path = repository.split_once('/').map_or(repository.as_str(), |(_, path)| path);
    let tag = image.rsplit(':').next().unwrap_or_default();
    if let Some(digest) = world.repositories.get(path).and_then(|known| known.tags.get(tag)).cloned() {
        world.cluster.digests.insert(image.clone(), digest);
    }
    let key = ("deployments".to_owned(), namespace.clone(), name);
    let Some(mut object) = world.cluster.objects.get(&key).cloned() else { return };
    let Some(now) = object.pointer_mut("/spec/template/spec/containers/0/image") else { return };
    if *now == json!(image) {
        return;
    }
    *now = json!(image);
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(1) + 1;
    set(&mut object, &["metadata", "generation"], json!(generation));
    world.cluster.put("deployments", &namespace, object);
    let mood = world.mood;
    drop(world);
    shared.changed.notify_waiters();
    tokio::spawn(roll_out(shared.clone(), mood, key));
}
