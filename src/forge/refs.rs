//! Git refs and commits through GitHub's API, and whether a run has ended: what leases are made of.
//!
//! <https://docs.github.com/rest/git/refs>

use super::github::{Answer, GitHub, encode};
use crate::error::{Error, Reason, Result};
use http::Method;
use serde_json::{Value, json};

const READ: &str = "contents: read";
const WRITE: &str = "contents: write";

impl GitHub {
    /// Full names and commits of the refs that begin so (`tidegate/demo`, without `refs/`).
    pub async fn matching_refs(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        let answer = self.expect(Method::GET, &format!("/git/matching-refs/{}", encode(prefix)), None, READ).await?;
        let text = |entry: &Value, pointer: &str| entry.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let refs = answer.body.as_array().into_iter().flatten();
        Ok(refs.filter_map(|entry| Some((text(entry, "/ref")?, text(entry, "/object/sha")?))).collect())
    }

    /// The message of a commit.
    pub async fn commit_message(&self, sha: &str) -> Result<Option<String>> {
        match self.expect(Method::GET, &format!("/git/commits/{}", encode(sha)), None, READ).await {
            Ok(answer) => Ok(answer.text("/message")),
            Err(error) if error.gone => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A tree with one small file; the same file makes the same tree.
    pub async fn create_tree(&self, path: &str, content: &str) -> Result<String> {
        let body = json!({"tree": [{"path": path, "mode": "100644", "type": "blob", "content": content}]});
        self.create_object("/git/trees", &body).await
    }

    /// A commit without parents. The time is given, so that a request that is sent again makes the same commit.
    pub async fn create_commit(&self, tree: &str, message: &str) -> Result<String> {
        let person = json!({"name": "tidegate", "email": "tidegate@users.noreply.github.com", "date": jiff::Timestamp::now().to_string()});
        let body = json!({"message": message, "tree": tree, "parents": [], "author": person, "committer": person});
        self.create_object("/git/commits", &body).await
    }

    /// The id of an object of git. Made twice from the same text it is the same one.
    async fn create_object(&self, path: &str, body: &Value) -> Result<String> {
        let create = || async {
            let answer = self.expect(Method::POST, path, Some(body), WRITE).await?;
            answer.text("/sha").ok_or_else(|| Error::new(Reason::ForgeFailed, format!("GitHub answered POST {path} without an id")))
        };
        self.once_only(create, || async { Ok(None) }).await
    }

    /// Creates a ref; `false` when there is one of this name.
    pub async fn create_ref(&self, name: &str, sha: &str) -> Result<bool> {
        let body = json!({"ref": name, "sha": sha});
        let create = || async {
            let answer = self.call(Method::POST, "/git/refs", Some(&body)).await?;
            match answer.status {
                422 if answer.message().contains("already exists") => Ok(false),
                _other => self.judge(answer, &Method::POST, "/git/refs", WRITE).map(|_created| true),
            }
        };
        let bare = name.strip_prefix("refs/").unwrap_or(name);
        let find = || async {
            let there = self.matching_refs(bare).await?.into_iter().find(|(known, _)| known == name);
            Ok(there.map(|(_, known)| known == sha))
        };
        self.once_only(create, find).await
    }

    /// Points a ref elsewhere; `false` when there is no such ref any more.
    pub async fn update_ref(&self, name: &str, sha: &str) -> Result<bool> {
        let path = format!("/git/refs/{}", encode(name));
        let answer = self.call(Method::PATCH, &path, Some(&json!({"sha": sha, "force": true}))).await?;
        if is_absent(&answer) {
            return Ok(false);
        }
        self.judge(answer, &Method::PATCH, &path, WRITE).map(|_moved| true)
    }

    /// Removes a ref; one that is gone already is fine.
    pub async fn delete_ref(&self, name: &str) -> Result<()> {
        let path = format!("/git/refs/{}", encode(name));
        let answer = self.call(Method::DELETE, &path, None).await?;
        if is_absent(&answer) {
            return Ok(());
        }
        self.judge(answer, &Method::DELETE, &path, WRITE).map(drop)
    }

    /// Whether this try of a run has ended; `None` when GitHub does not say.
    pub async fn run_ended(&self, id: &str, attempt: u32) -> Result<Option<bool>> {
        let answer = self.call(Method::GET, &format!("/actions/runs/{}", encode(id)), None).await?;
        if answer.status != 200 {
            return Ok(None); // without `actions: read` the lease's own time decides
        }
        let newer = answer.body.pointer("/run_attempt").and_then(Value::as_u64).is_some_and(|now| now > u64::from(attempt));
        Ok(Some(newer || answer.text("/status").as_deref() == Some("completed")))
    }
}

fn is_absent(answer: &Answer) -> bool {
    answer.status == 404 || (answer.status == 422 && answer.message().contains("Reference does not exist"))
}
