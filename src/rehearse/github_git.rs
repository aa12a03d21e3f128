//! The pretend GitHub's git data: commits that are made through the API, and refs that point to them.

use super::github::{Forge, not_found, shape};
use super::sandbox::{Asked, json_answer};
use crate::version::hex;
use axum::response::Response;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Answers a request below git/: `part` is refs, matching-refs or commits, with what stands after it.
pub fn answer(forge: &mut Forge, asked: &Asked, method: &str, (part, rest): (&str, Option<&str>)) -> Response {
    let body = asked.json();
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    match (method, part, rest) {
        ("POST", "commits", None) => {
            let sha: String = hex(&Sha256::digest(&asked.body)).chars().take(40).collect();
            forge.messages.insert(sha.clone(), text("message"));
            json_answer(201, &commit(&sha, &text("message")))
        }
        ("POST", "trees", None) => {
            let sha: String = hex(&Sha256::digest(&asked.body)).chars().take(40).collect();
            json_answer(201, &shape("git-tree", &json!({"sha": sha})))
        }
        ("GET", "commits", Some(sha)) => match forge.messages.get(sha) {
            Some(message) => json_answer(200, &commit(sha, message)),
            None => not_found(),
        },
        ("GET", "matching-refs", Some(prefix)) => {
            if let Some(beginning) = prefix.strip_prefix("tags/") {
                let found = forge.tags_like(beginning);
                return json_answer(200, &found.iter().map(|(tag, sha)| reference(&format!("refs/tags/{tag}"), sha)).collect());
            }
            let prefix = format!("refs/{prefix}");
            let found = forge.refs.iter().filter(|(name, _)| name.starts_with(&prefix));
            json_answer(200, &found.map(|(name, sha)| reference(name, sha)).collect())
        }
        ("POST", "refs", None) => match (forge.refs.contains_key(&text("ref")), forge.messages.contains_key(&text("sha"))) {
            (true, _) => unprocessable("Reference already exists"),
            (false, false) => unprocessable("Object does not exist"),
            (false, true) => {
                if !forge.forgets_refs {
                    forge.refs.insert(text("ref"), text("sha"));
                }
                json_answer(201, &reference(&text("ref"), &text("sha")))
            }
        },
        ("PATCH" | "DELETE", "refs", Some(name)) => {
            let name = format!("refs/{name}");
            if !forge.refs.contains_key(&name) {
                return unprocessable("Reference does not exist");
            }
            if method == "DELETE" {
                forge.refs.remove(&name);
                return json_answer(204, &Value::Null);
            }
            forge.refs.insert(name.clone(), text("sha"));
            json_answer(200, &reference(&name, &text("sha")))
        }
        _other => not_found(),
    }
}

fn commit(sha: &str, message: &str) -> Value {
    shape("git-commit", &json!({"sha": sha, "message": message}))
}

fn reference(name: &str, sha: &str) -> Value {
    shape("git-ref", &json!({"ref": name, "object": {"type": "commit", "sha": sha}}))
}

fn unprocessable(message: &str) -> Response {
    json_answer(422, &json!({"message": message, "documentation_url": "https://docs.github.com/rest/git/refs"}))
}
