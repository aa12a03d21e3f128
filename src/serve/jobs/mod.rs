//! The rules of jobs, for both stores: one job per inventory, first come first served, and exactly one end for each.

mod list;
mod turn;

pub use list::*;
pub use turn::*;

use super::config::{Busy, Runner};
use super::store::{Batch, Store};
use crate::error::{Error, Reason, Result};
use crate::tools::ulid::ulid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// How often a change is tried again that met another one.
const TRIES: usize = 200;

const RUNNING: &str = "running";

/// What is known of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Its id, which sorts by time.
    pub id: String,
    /// The app it deploys, or `webhook:NAME` for a command.
    pub app: String,
    /// What it changes: one job at a time.
    pub inventory: String,
    /// Where it stands.
    pub status: Status,
    /// Who asked for it.
    pub by: String,
    /// The name of its runner.
    pub runner_name: String,
    /// How it is run; secrets are only named.
    pub runner: Runner,
    /// What it is told: repository, tag, digest, pusher.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// How long it may take, in seconds.
    pub timeout: u64,
    /// Where the sender of the webhook wants to be told.
    #[serde(default)]
    pub callback: Option<Callback>,
    /// The trace it belongs to, as <https://www.w3.org/TR/trace-context/> has it.
    #[serde(default)]
    pub traceparent: Option<String>,
    /// When it was accepted, in milliseconds since 1970.
    pub accepted: u64,
    /// When it began.
    pub started: Option<u64>,
    /// When it ended.
    pub ended: Option<u64>,
    /// The replica that looks after it.
    pub holder: Option<String>,
    /// How often it was begun: more than once only when nothing had run yet.
    #[serde(default)]
    pub attempt: u32,
    /// Where it runs: a machine's folder, or an engine.
    #[serde(default)]
    pub place: Option<String>,
    /// Who asked for its end.
    #[serde(default)]
    pub cancelled_by: Option<String>,
    /// The return code of what it ran.
    #[serde(default)]
    pub code: Option<i32>,
    /// Why it ended so, in a sentence.
    #[serde(default)]
    pub detail: String,
}

/// Where the sender of a webhook wants to be told how it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callback {
    /// The address.
    pub url: String,
    /// Hosts that it may name.
    pub hosts: Vec<String>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It waits for its turn.
    Queued,
    /// It is being begun.
    Starting,
    /// It runs.
    Running,
    /// It went well.
    Success,
    /// It did not.
    Error,
    /// Somebody ended it.
    Cancelled,
    /// It was ended at its limit.
    TimedOut,
    /// How it went will never be known.
    Lost,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Queued, Self::Starting, Self::Running, Self::Success, Self::Error, Self::Cancelled, Self::TimedOut, Self::Lost];

    /// Whether there is more to come.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Queued | Self::Starting | Self::Running)
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Success => "success",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed-out",
            Self::Lost => "lost",
        }
    }
}

/// The jobs of one inventory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Lane {
    /// The one whose turn it is.
    active: Option<String>,
    /// Those that wait, first come first.
    queue: Vec<String>,
}

/// A job that takes one of the places.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Taken {
    job: String,
    runner: String,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The app, or `webhook:NAME`.
    pub app: String,
    /// What it changes.
    pub inventory: String,
    /// Who asks.
    pub by: String,
    /// The runner's name.
    pub runner_name: String,
    /// The runner.
    pub runner: Runner,
    /// What it is told.
    pub values: BTreeMap<String, String>,
    /// How long it may take, in seconds.
    pub timeout: u64,
    /// What happens while another one is active.
    pub busy: Busy,
    /// How many of the same inventory may wait.
    pub queue: usize,
    /// Where the sender wants to be told.
    pub callback: Option<Callback>,
    /// The trace of the sender; the job is a span of it, or of one of its own.
    pub traceparent: Option<String>,
    /// The names of the request: the same one twice is one job.
    pub once: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Accepted {
    /// A new job, and how many are before it.
    New(Job, usize),
    /// It joined this one.
    Joined(Job),
    /// The same request came before; its job.
    Before(String),
    /// Another job is active.
    Busy,
    /// Too many wait.
    Full(usize),
}

/// One line of what has happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// Who.
    pub by: String,
    /// What: accepted, joined, cancelled, ended, apps, login, …
    pub what: String,
    /// The app.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub app: String,
    /// The job.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub job: String,
    /// More, in a few words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// The name of a job's document.
pub fn job_key(id: &str) -> String {
    format!("jobs/{id}")
}

/// The name of the note that a job is of an app.
fn of_app(app: &str, id: &str) -> String {
    format!("of/{app}/{id}")
}

/// The name of the note that the end of a job is still to be told.
pub fn tell_key(id: &str) -> String {
    format!("tell/{id}")
}

fn lane_key(inventory: &str) -> String {
    format!("lanes/{inventory}")
}

impl Entry {
    /// Something that a person or a machine did.
    pub fn new(by: &str, what: &str) -> Self {
        Self { at: now(), by: by.into(), what: what.into(), app: String::new(), job: String::new(), detail: String::new() }
    }

    fn about(mut self, job: &Job, detail: impl Into<String>) -> Self {
        (self.app, self.job, self.detail) = (job.app.clone(), job.id.clone(), detail.into());
        self
    }

    /// With more words.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Adds it to changes.
    pub fn add_to(&self, batch: Batch) -> Batch {
        batch.put(format!("audit/{}", ulid()), self)
    }
}

fn too_busy() -> Error {
    Error::new(Reason::LockUnreachable, "the store changes too fast to be written")
}

/// Accepts what is asked for, or says why not. It is kept when this answers.
pub async fn accept(store: &Store, wanted: &Wanted) -> Result<Accepted> {
    for _try in 0..TRIES {
        for name in &wanted.once {
            if let Some((seen, _mark)) = store.read::<Seen>(&seen_key(name)).await? {
                return Ok(Accepted::Before(seen.job));
            }
        }
        let key = lane_key(&wanted.inventory);
        let (mut lane, mark) = store.read::<Lane>(&key).await?.map_or((Lane::default(), None), |(lane, mark)| (lane, Some(mark)));
        let mut batch = Batch::new().when(&key, mark.as_deref());
        match (wanted.busy, lane.active.iter().chain(&lane.queue).next()) {
            (Busy::Merge, Some(_)) => {
                if let Some(job) = joinable(store, &lane, &wanted.app).await? {
                    batch = Entry::new(&wanted.by, "joined").about(&job, "").add_to(batch);
                    if commit_once(store, batch, &wanted.once, &job.id).await? {
                        return Ok(Accepted::Joined(job));
                    }
                    continue;
                }
            }
            (Busy::Reject, Some(_)) => return Ok(Accepted::Busy),
            (Busy::Queue, _) | (_, None) => {}
        }
        if lane.queue.len() >= wanted.queue {
            return Ok(Accepted::Full(lane.queue.len()));
        }
        let job = wanted.job();
        let ahead = lane.queue.len() + usize::from(lane.active.is_some());
        lane.queue.push(job.id.clone());
        batch = batch.put(&key, &lane).put(job_key(&job.id), &job).put(of_app(&job.app, &job.id), &());
        batch = Entry::new(&wanted.by, "accepted").about(&job, "").add_to(batch);
        if commit_once(store, batch, &wanted.once, &job.id).await? {
            return Ok(Accepted::New(job, ahead));
        }
    }
    Err(too_busy())
}

/// The app's own job that is active. Another app's job of the same inventory is none of its business.
async fn joinable(store: &Store, lane: &Lane, app: &str) -> Result<Option<Job>> {
    for id in lane.active.iter().chain(&lane.queue) {
        let found = store.read::<Job>(&job_key(id)).await?;
        if let Some((job, _mark)) = found.filter(|(job, _)| job.app == app && job.status.is_active()) {
            return Ok(Some(job));
        }
    }
    Ok(None)
}

/// A request that was answered before.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    at: u64,
    job: String,
}

fn seen_key(name: &str) -> String {
    format!("seen/{name}")
}

async fn commit_once(store: &Store, mut batch: Batch, once: &[String], job: &str) -> Result<bool> {
    for name in once {
        batch = batch.when(seen_key(name), None).put(seen_key(name), &Seen { at: now(), job: job.to_owned() });
    }
    store.commit(batch).await
}

/// Notes that a request was seen to its end; whether it is the first of its names.
pub async fn see(store: &Store, names: &[String]) -> Result<bool> {
    commit_once(store, Batch::new(), names, "").await
}

/// Whether a request of this name was seen to its end.
pub async fn was_seen(store: &Store, name: &str) -> Result<bool> {
    Ok(store.get(&seen_key(name)).await?.is_some())
}

impl Wanted {
    fn job(&self) -> Job {
        Job {
            id: ulid(),
            app: self.app.clone(),
            inventory: self.inventory.clone(),
            status: Status::Queued,
            by: self.by.clone(),
            runner_name: self.runner_name.clone(),
            runner: self.runner.clone(),
            values: self.values.clone(),
            timeout: self.timeout,
            callback: self.callback.clone(),
            traceparent: Some(crate::serve::trace::child_of(self.traceparent.as_deref())),
            accepted: now(),
            started: None,
            ended: None,
            holder: None,
            attempt: 0,
            place: None,
            cancelled_by: None,
            code: None,
            detail: String::new(),
        }
    }
}
