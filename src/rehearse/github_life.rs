//! The pretend GitHub's releases, branches and pull requests; its history may be that of a real repository of git.

use super::github::{Forge, not_found, shape};
use super::sandbox::{Asked, json_answer};
use crate::checkout::{Ancestry, Checkout};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

impl Forge {
    /// The repository whose history this is, where it is a real one.
    pub(super) fn checkout(&self) -> Option<Checkout> {
        self.git.as_deref().map(Checkout::at)
    }

    /// The commit that a name stands for in a real repository.
    pub(super) fn commit_in(&self, checkout: &Checkout, name: &str) -> Option<String> {
        let made = |tag: &str| self.tags.iter().rev().find(|(known, _)| known == tag).map(|(_, sha)| sha.clone());
        if let Some(tag) = name.strip_prefix("tags/") {
            return made(tag).or_else(|| checkout.tag(tag));
        }
        if name == "HEAD" {
            return checkout.tip(&self.default_branch);
        }
        let branch = name.strip_prefix("heads/").unwrap_or(name);
        checkout.tip(branch).or_else(|| if name == branch { made(name).or_else(|| checkout.resolve(name)) } else { None })
    }

    /// How `head` relates to `base` in a real repository.
    pub(super) fn relation(&self, checkout: &Checkout, base: &str, head: &str) -> Option<&'static str> {
        Some(match checkout.ancestry(&self.commit_in(checkout, head)?, &self.commit_in(checkout, base)?)? {
            Ancestry::Same => "identical",
            Ancestry::Newer => "ahead",
            Ancestry::Older => "behind",
            Ancestry::Diverged => "diverged",
        })
    }

    /// The names of the tags that begin so, with their commits.
    pub(super) fn tags_like(&self, beginning: &str) -> Vec<(String, String)> {
        let own = self.tags.iter().filter(|(tag, _)| tag.starts_with(beginning)).cloned();
        let real = self.checkout().map(|checkout| {
            let tags = checkout.tags_like(beginning).into_iter();
            tags.filter_map(|tag| checkout.tag(&tag).map(|sha| (tag, sha))).collect::<Vec<_>>()
        });
        let mut all: Vec<(String, String)> = own.chain(real.unwrap_or_default()).collect();
        all.sort();
        all.dedup_by(|a, b| a.0 == b.0);
        all
    }

    /// The branches that end with a commit.
    pub(super) fn branches_at(&self, sha: &str) -> Vec<&String> {
        let checkout = self.checkout();
        let at = |branch: &&String| checkout.as_ref().and_then(|checkout| checkout.tip(branch)).as_deref() == Some(sha);
        self.branches.iter().filter(at).collect()
    }

    /// Makes a tag by a release, unless this outside only says so.
    pub(super) fn release(&mut self, tag: &str, target: &str) {
        self.releases.push(tag.to_owned());
        let sha = self.commit(target);
        if let Some(sha) = sha.filter(|_| !self.forgets_tags && self.commit(&format!("tags/{tag}")).is_none()) {
            self.tags.push((tag.to_owned(), sha));
        }
    }
}

/// Answers what is asked about releases, branches of a commit and pull requests; `None` when that is not what is asked.
pub fn answer(forge: &mut Forge, asked: &Asked, (method, parts): (&str, &[&str])) -> Option<Response> {
    let body = asked.json();
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(match (method, parts) {
        ("POST", ["releases"]) => {
            forge.release(&text("tag_name"), &text("target_commitish"));
            json_answer(201, &json!({"id": 1, "tag_name": text("tag_name"), "target_commitish": text("target_commitish"), "draft": false}))
        }
        ("GET", ["releases", "tags", tag]) => match forge.releases.iter().any(|known| known == tag) {
            true => json_answer(200, &json!({"id": 1, "tag_name": tag, "draft": false})),
            false => not_found(),
        },
        ("GET", ["commits", sha, "branches-where-head"]) => {
            let found = forge.branches_at(sha);
            json_answer(200, &found.iter().map(|name| json!({"name": name, "commit": {"sha": sha}, "protected": false})).collect())
        }
        ("GET", ["pulls"]) if asked.parameter("head").is_some() => {
            let head = asked.parameter("head").unwrap_or_default();
            let branch = head.split_once(':').map_or(head.as_str(), |(_, branch)| branch);
            if let Some(pull) = forge.of_forks.iter().find(|pull| pull.pointer("/head/label").and_then(Value::as_str) == Some(&head)) {
                return Some(json_answer(200, &json!([shape("pull", pull)])));
            }
            let found = forge.opened.iter().filter(|opened| opened.get("head").and_then(Value::as_str) == Some(branch));
            json_answer(200, &found.enumerate().map(|(n, _)| opened(n)).collect())
        }
        ("GET", ["collaborators", login, "permission"]) => match forge.permissions.get(*login) {
            Some(permission) => json_answer(200, &json!({"permission": permission, "role_name": permission, "user": null})),
            None => not_found(),
        },
        ("GET", ["contents", path @ ..]) => match forge.files.get(&path.join("/")) {
            Some(text) => json_answer(200, &json!({"type": "file", "encoding": "base64", "content": STANDARD.encode(text)})),
            None => not_found(),
        },
        ("GET", ["environments", name]) => match forge.environment(name) {
            Some(environment) => json_answer(200, &environment),
            None => not_found(),
        },
        ("DELETE", ["environments", _name]) if forge.person.is_none() => {
            json_answer(403, &json!({"message": "Resource not accessible by integration"}))
        }
        ("DELETE", ["environments", name]) => {
            forge.deleted.push((*name).to_owned());
            json_answer(204, &Value::Null)
        }
        ("POST", ["pulls"]) => {
            forge.opened.push(body);
            json_answer(201, &opened(forge.opened.len() - 1))
        }
        _other => return None,
    })
}

fn opened(index: usize) -> Value {
    let number = 100 + index;
    let facts = json!({"number": number, "state": "open", "html_url": format!("https://github.com/acme/demo/pull/{number}")});
    shape("pull-request", &facts)
}
