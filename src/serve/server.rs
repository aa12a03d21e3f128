//! The server as a value: what every request and every job share.

use super::apps::Apps;
use super::config::{Limits, Loaded};
use super::guard::Guard;
use super::jobs::{self, Accepted, Entry, Wanted};
use super::metrics::Metrics;
use super::output::Output;
use super::store::{Batch, Store};
use super::trace::Traces;
use crate::error::{Error, Reason, Result};
use crate::steps::endpoint::Endpoint;
use crate::tools::secret::Secret;
use crate::world::World;
use bollard::Docker;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OnceCell, watch};
use tokio_util::task::TaskTracker;

/// How long the jobs of a server that stops in order are kept for it on a shared store.
pub const RESERVED: Duration = Duration::from_secs(60);

/// The server.
pub struct Server {
    /// Its surroundings: variables, console, clock, and when it is to stop.
    pub world: World,
    /// Where documents are.
    pub store: Store,
    /// Where the words of jobs are.
    pub output: Output,
    /// This server among those that share the store.
    pub replica: String,
    /// The apps and their secrets.
    pub apps: Apps,
    /// What keeps guesses and floods away.
    pub guard: Guard,
    /// Who waits for which job.
    pub hub: Hub,
    /// What is counted.
    pub metrics: Metrics,
    /// Where spans go.
    pub traces: Traces,
    /// There may be a job to begin.
    pub wake: Notify,
    /// The configuration that it was started with.
    pub started: Arc<Loaded>,
    config: RwLock<Arc<Loaded>>,
    engine: OnceCell<Docker>,
    born: Instant,
    /// When the store last heard of us, in milliseconds since `born`.
    heard: AtomicU64,
    reserved: OnceCell<bool>,
    /// How long a silent replica is believed to live, as it was at the start: all of them have to mean the same.
    pub lease: Duration,
    /// The jobs that are followed.
    pub running: TaskTracker,
}

/// What a server is made of.
pub struct Parts {
    /// Its surroundings.
    pub world: World,
    /// The configuration.
    pub config: Arc<Loaded>,
    /// The store.
    pub store: Store,
    /// The folder of this machine.
    pub data: PathBuf,
    /// Its name.
    pub replica: String,
    /// The key that hashes secrets.
    pub key: Secret,
}

impl Server {
    /// A server that does nothing yet.
    pub fn new(parts: Parts) -> Result<Self> {
        let Parts { world, config, store, data, replica, key } = parts;
        let keep = super::output::Keep::of(config.serve.limits.output);
        let output = Output::new(&store, &data, keep);
        let apps = Apps::new(&world, &config, key)?;
        let traces = Traces::new(&world)?;
        Ok(Self {
            store,
            output,
            replica,
            apps,
            guard: Guard::default(),
            hub: Hub::default(),
            metrics: Metrics::default(),
            traces,
            wake: Notify::new(),
            engine: OnceCell::new(),
            born: Instant::now(),
            heard: AtomicU64::new(0),
            reserved: OnceCell::new(),
            lease: config.serve.limits.lease.0,
            running: TaskTracker::new(),
            started: config.clone(),
            config: RwLock::new(config),
            world,
        })
    }

    /// The configuration as it is now.
    pub fn config(&self) -> Arc<Loaded> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its limits.
    pub fn limits(&self) -> Limits {
        self.config().serve.limits.clone()
    }

    /// Takes another configuration, all at once.
    pub fn reconfigure(&self, config: Arc<Loaded>) -> Result<()> {
        self.apps.reconfigure(&self.world, &config)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        self.wake.notify_one();
        Ok(())
    }

    /// A secret of the environment.
    pub fn secret(&self, name: &str) -> Result<Secret> {
        let value = self.world.vars.get(name).ok_or_else(|| {
            Error::new(
                Reason::AuthMissing,
                format!("the environment variable {name} is not set, and the configuration names it as a secret"),
            )
            .hint("set it where the server is started; it is never written into the file")
        })?;
        let secret = Secret::new(value);
        self.world.console.mask(&secret);
        Ok(secret)
    }

    /// The Docker engine at hand.
    pub async fn engine(&self) -> Result<&Docker> {
        self.engine
            .get_or_try_init(|| async {
                let endpoint = Endpoint::of(&self.world.vars)?;
                endpoint.connect().map_err(|error| {
                    Error::new(Reason::ToolMissing, format!("there is no Docker engine at hand: {error}"))
                        .hint("start it, or name it with DOCKER_HOST; the server needs its socket to run containers")
                })
            })
            .await
    }

    /// The store has heard of us since this much of our uptime.
    pub fn note_heard(&self, asked: Duration) {
        self.heard.store(u64::try_from(asked.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Before the server stops: whether the store keeps its jobs for it until it is back.
    pub async fn reserved(&self) -> bool {
        *self.reserved.get_or_init(|| async { self.store.reserve(&self.replica, RESERVED).await.is_ok() }).await
    }

    /// How long ago the store has heard of us.
    pub fn silent_for(&self) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_millis(self.heard.load(Ordering::Relaxed)))
    }

    /// How long it has been up.
    pub fn uptime(&self) -> Duration {
        self.born.elapsed()
    }

    /// Accepts what is asked for, or says why not; a job that is new is begun as soon as it may.
    pub async fn accept(&self, wanted: &Wanted) -> Result<Accepted> {
        let accepted = jobs::accept(&self.store, wanted).await?;
        if let Accepted::New(..) = accepted {
            self.wake.notify_one();
        }
        Ok(accepted)
    }

    /// Notes something in the audit that no job's change says.
    pub async fn note(&self, entry: Entry) -> Result<()> {
        self.store.commit(entry.add_to(Batch::new())).await.map(|_made| ())
    }

    /// A line about what happens, with its time: this is a log.
    pub fn say(&self, text: &str) {
        self.world.console.line(&format!("{} {text}", jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ")));
    }
}

/// Who waits for which job.
#[derive(Default)]
pub struct Hub(Mutex<HashMap<String, watch::Sender<u64>>>);

impl Hub {
    /// Hears of changes of a job from now on.
    pub fn subscribe(&self, job: &str) -> watch::Receiver<u64> {
        let mut topics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        topics.entry(job.to_owned()).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// Somebody waits no more: the last one takes the topic along.
    pub fn forget(&self, job: &str) {
        let mut topics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if topics.get(job).is_some_and(|topic| topic.receiver_count() <= 1) {
            topics.remove(job);
        }
    }

    /// A job has changed.
    pub fn touch(&self, job: &str) {
        let mut topics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = topics.get(job) {
            if topic.receiver_count() == 0 {
                topics.remove(job);
                return;
            }
            topic.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}
