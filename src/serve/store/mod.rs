//! What the server knows: small documents, changed all at once or not at all, and only when they are as they were read.
//!
//! The rules of jobs are written once, in [`super::jobs`]; the stores only keep. An answer is given after the store has
//! kept what it says: the embedded one after an fsync, Redis when it says so.

mod embedded;
mod redis;

use crate::error::{Error, Reason, Result};
use crate::tools::console::Console;
use crate::vars::Vars;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::Duration;

pub use embedded::Embedded;
pub use redis::{Said, Server};

/// Where documents are kept.
#[derive(Clone)]
pub enum Store {
    /// A file of this machine, for one server.
    Embedded(Embedded),
    /// A Redis server, for several replicas.
    Redis(Server),
}

/// Which store it is.
#[derive(Clone, Debug)]
pub struct Place {
    /// `embedded`, or the address of a Redis server.
    pub address: String,
    /// What its keys begin with on that server.
    pub prefix: String,
    /// How long a silent replica is believed to live.
    pub lease: Duration,
}

/// A document and the mark of its last change.
#[derive(Clone, Debug)]
pub struct Doc {
    /// Its name.
    pub key: String,
    /// It changes with every change of the document.
    pub mark: String,
    /// What it says, as JSON.
    pub json: String,
}

impl Doc {
    /// What it says, as a type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.json)
            .map_err(|error| Error::new(Reason::LockUnreachable, format!("the document {} of the store is damaged: {error}", self.key)))
    }
}

/// Changes that happen together, when what they rest on is as it was read.
#[derive(Debug, Default)]
pub struct Batch {
    checks: Vec<(String, Option<String>)>,
    puts: Vec<(String, String)>,
    deletes: Vec<String>,
}

impl Batch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only when this document still has this mark, or is still not there.
    #[must_use]
    pub fn when(mut self, key: impl Into<String>, mark: Option<&str>) -> Self {
        self.checks.push((key.into(), mark.map(str::to_owned)));
        self
    }

    /// Writes a document.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: &impl Serialize) -> Self {
        self.puts.push((key.into(), serde_json::to_string(value).unwrap_or_default()));
        self
    }

    /// Removes a document.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.deletes.push(key.into());
        self
    }
}

/// Which documents of a kind are listed.
#[derive(Clone, Debug)]
pub struct Page {
    /// What their keys begin with.
    pub prefix: String,
    /// Only those before (newest first) or after this key.
    pub from: Option<String>,
    /// Whether the highest keys come first.
    pub newest_first: bool,
    /// How many.
    pub limit: usize,
}

impl Page {
    /// All of a kind, lowest first.
    pub fn all(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), from: None, newest_first: false, limit: usize::MAX }
    }

    /// The newest of a kind.
    pub fn newest(prefix: &str, limit: usize) -> Self {
        Self { prefix: prefix.to_owned(), from: None, newest_first: true, limit }
    }

    /// The lowest key, and the one before which it ends.
    fn bounds(&self) -> (String, String) {
        let end = format!("{}\u{10ffff}", self.prefix);
        match (&self.from, self.newest_first) {
            (Some(from), true) => (self.prefix.clone(), from.clone()),
            (Some(from), false) => (format!("{from}\0"), end),
            (None, _) => (self.prefix.clone(), end),
        }
    }
}

impl Store {
    /// Opens the store that the configuration names.
    pub fn open(vars: &Vars, console: &Console, place: &Place, data: &Path) -> Result<Self> {
        if place.address == "embedded" {
            return Embedded::open(&data.join("store.redb")).map(Self::Embedded);
        }
        Ok(Self::Redis(Server::new(vars, console, place)))
    }

    /// One document.
    pub async fn get(&self, key: &str) -> Result<Option<Doc>> {
        match self {
            Self::Embedded(store) => store.get(key),
            Self::Redis(server) => server.get(key).await,
        }
    }

    /// One document as a type, with its mark.
    pub async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<(T, String)>> {
        let doc = self.get(key).await?;
        doc.map(|doc| Ok((doc.parse()?, doc.mark))).transpose()
    }

    /// The documents of a kind.
    pub async fn list(&self, page: Page) -> Result<Vec<Doc>> {
        match self {
            // Long lists keep no other request from being answered.
            Self::Embedded(store) if page.limit > 100 => tokio::task::block_in_place(|| store.list(&page)),
            Self::Embedded(store) => store.list(&page),
            Self::Redis(server) => server.list(&page).await,
        }
    }

    /// Makes changes; says whether what they rest on held. They are kept when this answers.
    pub async fn commit(&self, batch: Batch) -> Result<bool> {
        match self {
            Self::Embedded(store) => store.commit(batch).await,
            Self::Redis(server) => server.commit(&batch).await,
        }
    }

    /// Says that this replica lives, for the length of a lease.
    pub async fn beat(&self, replica: &str) -> Result<()> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Redis(server) => server.live(replica, server.lease()).await,
        }
    }

    /// Says that this replica goes, and comes back within this time.
    pub async fn reserve(&self, replica: &str, length: Duration) -> Result<()> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Redis(server) => server.live(replica, length).await,
        }
    }

    /// Whether another replica lives. An embedded store has one server only: its file is locked.
    pub async fn is_alive(&self, replica: &str) -> Result<bool> {
        match self {
            Self::Embedded(_) => Ok(false),
            Self::Redis(server) => server.is_alive(replica).await,
        }
    }

    /// Whether several replicas may share it.
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Embedded(_) => false,
            Self::Redis(_) => true,
        }
    }
}
