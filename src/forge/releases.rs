//! Tags and releases of the forge, the branches that hold a commit, and the pull request that brings a fix back.
//!
//! <https://docs.github.com/rest/releases/releases>, <https://docs.gitlab.com/api/releases/>

use super::Forge;
use super::github::encode;
use super::gitlab::{Plain, text};
use crate::error::{Error, Reason, Result};
use http::Method;
use serde_json::{Value, json};

const WRITE: &str = "contents: write";

/// A release to make.
pub struct NewRelease<'a> {
    /// The tag, which is made when it is not there.
    pub tag: &'a str,
    /// The commit.
    pub sha: &'a str,
    /// What it says.
    pub body: &'a str,
    /// Whether it is marked as a pre-release.
    pub prerelease: bool,
}

impl Forge {
    /// The names of the tags that begin so. Only these are asked for: there may be many thousands.
    pub async fn tags_like(&self, beginning: &str) -> Result<Vec<String>> {
        match self {
            Self::GitHub(github) => {
                let refs = github.matching_refs(&format!("tags/{beginning}")).await?;
                Ok(refs.into_iter().filter_map(|(name, _)| name.strip_prefix("refs/tags/").map(str::to_owned)).collect())
            }
            Self::GitLab(gitlab) => {
                let mut found = Vec::new();
                for page in 1.. {
                    let query = vec![("search", format!("^{beginning}")), ("per_page", "100".into()), ("page", page.to_string())];
                    let answer = gitlab.ask(&Plain { query, ..Plain::get(gitlab.at("repository/tags")) }, "list tags").await?;
                    let names: Vec<String> = answer.as_array().into_iter().flatten().filter_map(|tag| text(tag, "/name")).collect();
                    let is_last = names.len() < 100;
                    found.extend(names);
                    if is_last {
                        break;
                    }
                }
                Ok(found)
            }
            Self::Absent { .. } => Ok(Vec::new()),
        }
    }

    /// The branches that end with this commit (GitHub), or hold it (GitLab).
    pub async fn branches_of(&self, sha: &str) -> Result<Vec<String>> {
        let answer = match self {
            Self::GitHub(github) => {
                github.expect(Method::GET, &format!("/commits/{sha}/branches-where-head"), None, "contents: read").await?.body
            }
            Self::GitLab(gitlab) => {
                let query = vec![("type", "branch".to_owned()), ("per_page", "100".to_owned())];
                let endpoint = Plain { query, ..Plain::get(gitlab.at(&format!("repository/commits/{sha}/refs"))) };
                gitlab.ask(&endpoint, "list the branches of a commit").await?
            }
            Self::Absent { .. } => return Ok(Vec::new()),
        };
        Ok(answer.as_array().into_iter().flatten().filter_map(|branch| text(branch, "/name")).collect())
    }

    /// Makes a release, and its tag with it, unless it is there; whether it was not. A lost answer is looked after.
    pub async fn release(&self, new: &NewRelease<'_>) -> Result<bool> {
        if self.has_release(new.tag).await? {
            return Ok(false);
        }
        match self.create_release(new).await {
            Ok(()) => Ok(true),
            // Somebody was faster, or it was made and the answer was lost.
            Err(_why) if self.has_release(new.tag).await? => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A release needs a forge, which is known before anything is built.
    pub fn releases(&self) -> Result<()> {
        match self {
            Self::GitHub(_) | Self::GitLab(_) => Ok(()),
            Self::Absent { why } => Err(no_forge(why)),
        }
    }

    async fn has_release(&self, tag: &str) -> Result<bool> {
        match self {
            Self::GitHub(github) => {
                let answer = github.call(Method::GET, &format!("/releases/tags/{}", encode(tag)), None).await?;
                match answer.status {
                    404 => Ok(false),
                    _other => github.judge(answer, &Method::GET, "/releases/tags", "contents: read").map(|_found| true),
                }
            }
            Self::GitLab(gitlab) => Ok(gitlab.release(tag).await?.is_some()),
            Self::Absent { why } => Err(no_forge(why)),
        }
    }

    async fn create_release(&self, new: &NewRelease<'_>) -> Result<()> {
        match self {
            Self::GitHub(github) => {
                // "legacy": the latest release goes by number and date, so a fix of an older one does not become it.
                let body = json!({
                    "tag_name": new.tag, "target_commitish": new.sha, "name": new.tag, "body": new.body,
                    "prerelease": new.prerelease, "make_latest": "legacy",
                });
                github.expect(Method::POST, "/releases", Some(&body), WRITE).await.map(drop)
            }
            Self::GitLab(gitlab) => {
                let body = json!({"tag_name": new.tag, "ref": new.sha, "name": new.tag, "description": new.body});
                let endpoint = Plain { method: Method::POST, json: Some(body), ..Plain::get(gitlab.at("releases")) };
                gitlab.ask(&endpoint, "make a release").await.map(drop)
            }
            Self::Absent { why } => Err(no_forge(why)),
        }
    }

    /// The pull request that brings a branch back to the default branch: the open one, or a new one. Its address.
    pub async fn back_merge(&self, branch: &str, base: &str, title: &str, body: &str) -> Result<String> {
        if let Some(open) = self.open_pull_request(branch, base).await? {
            return Ok(open);
        }
        let answer = match self {
            Self::GitHub(github) => {
                let request = json!({"title": title, "body": body, "head": branch, "base": base});
                github.expect(Method::POST, "/pulls", Some(&request), "pull-requests: write").await.map(|answer| answer.body)
            }
            Self::GitLab(gitlab) => {
                let request = json!({"title": title, "description": body, "source_branch": branch, "target_branch": base});
                let endpoint = Plain { method: Method::POST, json: Some(request), ..Plain::get(gitlab.at("merge_requests")) };
                gitlab.ask(&endpoint, "open a merge request").await
            }
            Self::Absent { why } => Err(no_forge(why)),
        };
        match answer {
            Ok(opened) => Ok(url_of(&opened)),
            Err(error) => self.open_pull_request(branch, base).await?.ok_or(error),
        }
    }

    async fn open_pull_request(&self, branch: &str, base: &str) -> Result<Option<String>> {
        let answer = match self {
            Self::GitHub(github) => {
                let owner = github.repository().split('/').next().unwrap_or_default();
                let path = format!("/pulls?state=open&head={}&base={}", encode(&format!("{owner}:{branch}")), encode(base));
                github.expect(Method::GET, &path, None, "pull-requests: read").await?.body
            }
            Self::GitLab(gitlab) => {
                let query = [("state", "opened"), ("source_branch", branch), ("target_branch", base)];
                let query = query.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
                gitlab.ask(&Plain { query, ..Plain::get(gitlab.at("merge_requests")) }, "list merge requests").await?
            }
            Self::Absent { why } => return Err(no_forge(why)),
        };
        Ok(answer.get(0).map(url_of))
    }
}

fn url_of(pull: &Value) -> String {
    text(pull, "/html_url").or_else(|| text(pull, "/web_url")).unwrap_or_default()
}

fn no_forge(why: &str) -> Error {
    Error::new(Reason::AuthMissing, format!("a release is made on the forge, and there is {why}"))
        .hint("give a token that may write contents; on GitLab a job has one")
}
