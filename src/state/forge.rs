//! State on the forge: an object is a git ref below `refs/tidegate/` that points to a commit whose message holds it.
//!
//! GitHub creates a ref or fails, which is the one promise a store needs. Such refs are neither branches nor tags: no
//! clone fetches them and no workflow starts for them.

use super::{Entry, unreadable};
use crate::error::Result;
use crate::forge::github::GitHub;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::OnceCell;

/// What the one file of our commits says.
const README: &str = "This commit is a lease of tidegate, see docs/state.md. Its message is the lease.\n";
/// Where our refs are.
const ROOT: &str = "refs/tidegate";

/// The refs of a repository.
#[derive(Clone)]
pub struct Refs {
    github: GitHub,
    /// The tree of our commits: a commit needs one.
    tree: Arc<OnceCell<String>>,
    /// Commits by the text they hold: a heartbeat says the same few things again and again.
    written: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Refs {
    /// Asks nothing yet.
    pub fn new(github: GitHub) -> Self {
        Self { github, tree: Arc::default(), written: Arc::default() }
    }

    /// The API.
    pub fn github(&self) -> &GitHub {
        &self.github
    }

    /// What is in a folder.
    pub async fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let prefix = format!("{ROOT}/{folder}/");
        let refs = self.github.matching_refs(&format!("tidegate/{folder}")).await?;
        let inside = refs.into_iter().filter_map(|(name, sha)| Some((name.strip_prefix(&prefix)?.to_owned(), sha)));
        Ok(inside.map(|(name, mark)| Entry { name, mark, stamp: None }).collect())
    }

    /// What an entry holds.
    pub async fn read(&self, folder: &str, entry: &Entry) -> Result<Option<Value>> {
        let Some(message) = self.github.commit_message(&entry.mark).await? else { return Ok(None) };
        let place = format!("{ROOT}/{folder}/{} of {}", entry.name, self.github.repository());
        serde_json::from_str(&message).map(Some).map_err(|error| unreadable(&place, &error.to_string()))
    }

    /// Creates an object, unless it exists.
    pub async fn create(&self, folder: &str, name: &str, value: &Value) -> Result<Option<String>> {
        let sha = self.commit(value).await?;
        let created = self.github.create_ref(&format!("{ROOT}/{folder}/{name}"), &sha).await?;
        Ok(created.then_some(sha))
    }

    /// Writes an object that exists.
    pub async fn put(&self, folder: &str, name: &str, value: &Value) -> Result<Option<String>> {
        let sha = self.commit(value).await?;
        let moved = self.github.update_ref(&format!("tidegate/{folder}/{name}"), &sha).await?;
        Ok(moved.then_some(sha))
    }

    /// Removes an object.
    pub async fn delete(&self, folder: &str, name: &str) -> Result<()> {
        self.github.delete_ref(&format!("tidegate/{folder}/{name}")).await
    }

    /// A commit that holds this.
    async fn commit(&self, value: &Value) -> Result<String> {
        let text = value.to_string();
        if let Some(known) = self.written.lock().ok().and_then(|written| written.get(&text).cloned()) {
            return Ok(known);
        }
        // A tree of our own: with the repository's, workflow files among them, GitHub may ask for more permissions.
        let tree = self.tree.get_or_try_init(|| self.github.create_tree("README", README));
        let sha = self.github.create_commit(tree.await?, &text).await?;
        if let Ok(mut written) = self.written.lock() {
            written.insert(text, sha.clone());
        }
        Ok(sha)
    }
}
