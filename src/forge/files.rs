//! Files of another repository on the same forge, changed by a commit that nobody else's can be lost under.

use super::Forge;
use super::github::{GitHub, encode};
use super::gitlab::{GitLab, Plain};
use crate::error::{Error, Reason, Result};
use crate::tools::secret::Secret;
use crate::world::World;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

const WRITE: &str = "contents: write";

/// A repository that is not the one of this run.
pub enum Elsewhere {
    /// On GitHub.
    GitHub(Box<GitHub>),
    /// On GitLab.
    GitLab(Box<GitLab>),
}

/// A change of files.
pub struct Change<'a> {
    /// The branch that it starts from and, unless there is another, goes to.
    pub branch: &'a str,
    /// The commit that the files were read at.
    pub base: &'a str,
    /// Another branch to make, for a pull request.
    pub new_branch: Option<&'a str>,
    /// Paths and whole contents.
    pub files: &'a [(String, String)],
    /// The commit's message.
    pub message: &'a str,
}

/// A pull request that was opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Its number.
    pub number: u64,
    /// Where people see it.
    pub url: String,
}

impl Forge {
    /// Another repository, with this token or the run's own.
    pub fn elsewhere(&self, world: &World, repository: &str, token: Option<&Secret>) -> Result<Elsewhere> {
        match self {
            Self::GitHub(_) => {
                let own = super::github::token(&world.vars).map(Secret::new);
                let token = token.or(own.as_ref()).ok_or_else(|| no_token(repository))?;
                let github = GitHub::new(&world.vars, super::github::api(&world.vars), token, repository, world.clock)?;
                Ok(Elsewhere::GitHub(Box::new(github)))
            }
            Self::GitLab(gitlab) => Ok(Elsewhere::GitLab(Box::new(gitlab.elsewhere(repository, token)))),
            Self::Absent { why } => Err(Error::new(Reason::AuthMissing, format!("the forge cannot be asked for {repository}: {why}"))),
        }
    }
}

impl Forge {
    /// The text of a file of this repository, on a branch; nothing where there is no forge to ask.
    pub async fn file(&self, path: &str, branch: &str) -> Result<Option<String>> {
        let own = match self {
            Self::GitHub(github) => Elsewhere::GitHub(github.clone()),
            Self::GitLab(gitlab) => Elsewhere::GitLab(gitlab.clone()),
            Self::Absent { .. } => return Ok(None),
        };
        own.file(path, branch).await.map(Some)
    }
}

fn no_token(repository: &str) -> Error {
    Error::new(Reason::AuthMissing, format!("there is no token for {repository}")).hint("name one: `token: {env: MANIFEST_TOKEN}`")
}

impl Elsewhere {
    /// The commit that a branch is at.
    pub async fn tip(&self, branch: &str) -> Result<String> {
        let tip = match self {
            Self::GitHub(github) => github.commit_of_ref(&format!("heads/{branch}")).await?,
            Self::GitLab(gitlab) => {
                let path = gitlab.at(&format!("repository/branches/{}", encode(branch)));
                gitlab.find(&Plain::get(path), "read a branch").await?.and_then(|found| super::gitlab::text(&found, "/commit/id"))
            }
        };
        tip.ok_or_else(|| {
            Error::new(Reason::TargetMissing, format!("{} has no branch {branch} that this token sees", self.name()))
                .hint("the run's own token sees only its own repository: name another with `token: {env: …}`")
        })
    }

    /// owner/name.
    pub fn name(&self) -> &str {
        match self {
            Self::GitHub(github) => github.repository(),
            Self::GitLab(gitlab) => gitlab.repository(),
        }
    }

    /// The text of a file at a commit.
    pub async fn file(&self, path: &str, commit: &str) -> Result<String> {
        let found = match self {
            Self::GitHub(github) => {
                let inside: Vec<String> = path.split('/').map(encode).collect();
                let route = format!("/contents/{}?ref={}", inside.join("/"), encode(commit));
                match github.expect(Method::GET, &route, None, "contents: read").await {
                    Ok(answer) => answer.text("/content"),
                    Err(error) if error.gone => None,
                    Err(error) => return Err(error),
                }
            }
            Self::GitLab(gitlab) => {
                let route = gitlab.at(&format!("repository/files/{}", encode(path)));
                let endpoint = Plain { query: vec![("ref", commit.to_owned())], ..Plain::get(route) };
                gitlab.find(&endpoint, "read a file").await?.and_then(|found| super::gitlab::text(&found, "/content"))
            }
        };
        let encoded: String = found.unwrap_or_default().split_whitespace().collect();
        let text = STANDARD.decode(&encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).filter(|text| !text.is_empty());
        text.ok_or_else(|| {
            Error::new(Reason::TargetMissing, format!("{} has no text file {path}", self.name())).hint("paths are relative to its root")
        })
    }

    /// Commits; the new commit, or nothing when the branch has moved since it was read.
    pub async fn commit(&self, change: &Change<'_>) -> Result<Option<String>> {
        match self {
            Self::GitHub(github) => commit_on_github(github, change).await,
            Self::GitLab(gitlab) => commit_on_gitlab(gitlab, change).await,
        }
    }

    /// Opens a pull request.
    pub async fn open(&self, change: &Change<'_>, title: &str, body: &str) -> Result<Opened> {
        let head = change.new_branch.unwrap_or_default();
        let opened = match self {
            Self::GitHub(github) => {
                let request = json!({"title": title, "body": body, "head": head, "base": change.branch});
                let answer = github.expect(Method::POST, "/pulls", Some(&request), "pull-requests: write").await?;
                answer.body.get("number").and_then(Value::as_u64).zip(answer.text("/html_url"))
            }
            Self::GitLab(gitlab) => {
                let request = json!({
                    "title": title, "description": body, "source_branch": head, "target_branch": change.branch, "remove_source_branch": true,
                });
                let endpoint = Plain { method: Method::POST, json: Some(request), ..Plain::get(gitlab.at("merge_requests")) };
                let answer = gitlab.ask(&endpoint, "open a merge request").await?;
                answer.get("iid").and_then(Value::as_u64).zip(super::gitlab::text(&answer, "/web_url"))
            }
        };
        let (number, url) =
            opened.ok_or_else(|| Error::new(Reason::ForgeFailed, format!("{} opened a pull request without a number", self.name())))?;
        Ok(Opened { number, url })
    }

    /// Whether a pull request was closed without being merged.
    pub async fn was_refused(&self, number: u64) -> Result<bool> {
        Ok(match self {
            Self::GitHub(github) => {
                let answer = github.expect(Method::GET, &format!("/pulls/{number}"), None, "pull-requests: read").await?;
                let merged = answer.body.get("merged").and_then(Value::as_bool).unwrap_or(false);
                answer.text("/state").as_deref() == Some("closed") && !merged
            }
            Self::GitLab(gitlab) => {
                let answer = gitlab.ask(&Plain::get(gitlab.at(&format!("merge_requests/{number}"))), "read a merge request").await?;
                super::gitlab::text(&answer, "/state").as_deref() == Some("closed")
            }
        })
    }
}

async fn commit_on_github(github: &GitHub, change: &Change<'_>) -> Result<Option<String>> {
    let base = github.expect(Method::GET, &format!("/git/commits/{}", encode(change.base)), None, "contents: read").await?;
    let tree: Vec<Value> =
        change.files.iter().map(|(path, text)| json!({"path": path, "mode": "100644", "type": "blob", "content": text})).collect();
    let tree = json!({"base_tree": base.text("/tree/sha"), "tree": tree});
    let tree = id(&github.expect(Method::POST, "/git/trees", Some(&tree), WRITE).await?.body)?;
    let commit = json!({"message": change.message, "tree": tree, "parents": [change.base]});
    let commit = id(&github.expect(Method::POST, "/git/commits", Some(&commit), WRITE).await?.body)?;
    if let Some(branch) = change.new_branch {
        // The same delivery may have made it before it was killed.
        if !github.create_ref(&format!("refs/heads/{branch}"), &commit).await?
            && !github.update_ref(&format!("heads/{branch}"), &commit).await?
        {
            return Ok(None);
        }
        return Ok(Some(commit));
    }
    let path = format!("/git/refs/heads/{}", change.branch.split('/').map(encode).collect::<Vec<_>>().join("/"));
    let answer = github.call(Method::PATCH, &path, Some(&json!({"sha": commit, "force": false}))).await?;
    if answer.status == 422 && answer.message().to_lowercase().contains("fast forward") {
        return Ok(None); // somebody was faster
    }
    github.judge(answer, &Method::PATCH, &path, WRITE).map(|_moved| Some(commit))
}

fn id(body: &Value) -> Result<String> {
    let id = body.get("sha").and_then(Value::as_str).map(str::to_owned);
    id.ok_or_else(|| Error::new(Reason::ForgeFailed, "GitHub made an object of git and does not name it"))
}

async fn commit_on_gitlab(gitlab: &GitLab, change: &Change<'_>) -> Result<Option<String>> {
    let mut actions = Vec::new();
    for (path, text) in change.files {
        let route = gitlab.at(&format!("repository/files/{}", encode(path)));
        let endpoint = Plain { query: vec![("ref", change.base.to_owned())], ..Plain::get(route) };
        let last = gitlab.ask(&endpoint, "read a file").await?;
        let last = super::gitlab::text(&last, "/last_commit_id");
        actions.push(json!({"action": "update", "file_path": path, "content": text, "last_commit_id": last}));
    }
    let mut request = json!({
        "branch": change.new_branch.unwrap_or(change.branch), "commit_message": change.message, "actions": actions,
    });
    if change.new_branch.is_some() {
        let more = [("start_sha".to_owned(), json!(change.base)), ("force".to_owned(), json!(true))];
        request.as_object_mut().into_iter().for_each(|request| request.extend(more.clone()));
    }
    let endpoint = Plain { method: Method::POST, json: Some(request), ..Plain::get(gitlab.at("repository/commits")) };
    match gitlab.ask(&endpoint, "commit files").await {
        Ok(answer) => super::gitlab::text(&answer, "/id")
            .map(Some)
            .ok_or_else(|| Error::new(Reason::ForgeFailed, "GitLab made a commit and does not name it")),
        Err(error) if error.sentence.contains("has changed since you started editing it") => Ok(None),
        Err(error) => Err(error),
    }
}
