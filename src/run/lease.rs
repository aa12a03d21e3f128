//! The lease of an environment: one run at a time, visible to those who wait, and gone when its holder is.
//!
//! Every lease has a number, its fence. Taking one means creating the object `lease-NUMBER+1`, which a store does for one
//! run only; the highest number holds. Its holder rewrites it every few seconds. Who waits measures with the own monotonic
//! clock, or with the store's, whether it still changes: no run goes by the time of day. Only a lease
//! that a person took for a while ends by it.

use super::waiter::Waiter;
use crate::error::{Error, Reason, Result};
use crate::forge::Forge;
use crate::report::outputs::random;
use crate::state::{Entry, Key, Kind, Store, unreadable};
use crate::tools::wait::{Cancel, Clock};
use crate::vars::Vars;
use crate::world::World;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How long a lease lives without a sign of its holder.
const EXPIRY: Duration = Duration::from_secs(60);
/// How long a run waits for its turn.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long a run whose lease is gone looks for who has it.
const LAST_LOOK: Duration = Duration::from_secs(3);
/// A sign of life changes the object; so many different ones follow each other.
pub(super) const SIGNS: u32 = 4;

/// Who holds a lease, or waits for one.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Holder {
    /// A login or user name.
    pub who: String,
    /// What for.
    pub doing: String,
    /// The CI run.
    pub run: Option<RunRef>,
    /// The process, where it can be looked for.
    pub process: Option<Process>,
}

/// A CI run.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct RunRef {
    /// The repository it belongs to.
    pub repository: Option<String>,
    /// The CI system's id.
    pub id: String,
    /// 1 for the first try.
    pub attempt: u32,
    /// Its log.
    pub url: Option<String>,
}

/// A process of this or another machine.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Process {
    host: String,
    space: String,
    id: u32,
}

impl Process {
    /// This process; nothing off Linux, where it could not be looked for.
    pub fn own() -> Option<Self> {
        let host = crate::state::file::boot()?;
        let space = std::fs::read_link("/proc/self/ns/pid").ok()?.to_string_lossy().into_owned();
        Some(Self { host, space, id: std::process::id() })
    }

    /// Whether it is certain that it runs no more: same machine, same process numbers, no such process.
    pub(super) fn is_gone(&self) -> bool {
        let here = Self::own().is_some_and(|own| own.host == self.host && own.space == self.space);
        here && !std::path::Path::new(&format!("/proc/{}", self.id)).exists()
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.run {
            Some(run) if run.attempt > 1 => write!(f, "run {} attempt {} ({}, {})", run.id, run.attempt, self.who, self.doing),
            Some(run) => write!(f, "run {} ({}, {})", run.id, self.who, self.doing),
            None => write!(f, "{} ({})", self.who, self.doing),
        }
    }
}

/// A lease as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sheet {
    schema: u32,
    /// Its number.
    pub fence: u64,
    nonce: String,
    /// Nobody when it was released.
    pub holder: Option<Holder>,
    /// When it was taken, by the holder's clock: for people only.
    pub since: String,
    /// How long it lives without a sign of its holder, in seconds.
    pub seconds: u64,
    sign: u32,
    /// Why it was taken by hand.
    pub reason: Option<String>,
}

impl Sheet {
    pub(super) fn new(fence: u64, holder: Holder, seconds: u64) -> Self {
        let since = jiff::Timestamp::now().to_string();
        Self { schema: 1, fence, nonce: random(), holder: Some(holder), since, seconds, sign: 0, reason: None }
    }

    pub(super) fn json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// How long ago it was taken, as far as the clocks agree.
    pub fn age(&self) -> Duration {
        let since: Option<jiff::Timestamp> = self.since.parse().ok();
        let age = since.map(|since| jiff::Timestamp::now().duration_since(since).as_secs()).unwrap_or_default();
        Duration::from_secs(u64::try_from(age).unwrap_or(0))
    }
}

/// What is asked for.
pub struct Wanted<'a> {
    /// The surroundings.
    pub world: &'a World,
    /// Where the lease is kept.
    pub store: &'a Store,
    /// Who knows whether a run has ended.
    pub forge: &'a Forge,
    /// Which lease.
    pub key: &'a Key,
    /// Who asks.
    pub holder: Holder,
    /// How long to wait.
    pub timeout: Duration,
    /// The number of the newest lease that records know: numbers never fall, even when the lease itself was deleted.
    pub floor: u64,
}

/// What is in a lease's folder.
pub struct Seen {
    pub(super) top: Option<(u64, Entry)>,
    pub(super) older: Vec<Entry>,
    pub(super) waiting: Vec<Entry>,
}

/// Looks at a lease.
pub async fn look(store: &Store, key: &Key) -> Result<Seen> {
    let mut seen = Seen { top: None, older: Vec::new(), waiting: Vec::new() };
    for entry in store.list(&key.folder("lock")).await? {
        if let Some(fence) = entry.name.strip_prefix("lease-").and_then(|number| number.parse().ok()) {
            seen.older.extend(seen.top.replace((fence, entry)).map(|(_, older)| older)); // the list is in order
        } else if entry.name.starts_with("wait-") {
            seen.waiting.push(entry);
        }
    }
    Ok(seen)
}

impl Seen {
    /// The present lease, if there ever was one.
    pub async fn sheet(&self, store: &Store, key: &Key) -> Result<Option<Sheet>> {
        let Some((_, entry)) = &self.top else { return Ok(None) };
        let folder = key.folder("lock");
        let Some(value) = store.read(&folder, entry).await? else { return Ok(None) };
        serde_json::from_value(value).map(Some).map_err(|error| unreadable(&format!("the lease {key}"), &error.to_string()))
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn fence(&self) -> u64 {
        self.top.as_ref().map_or(0, |(fence, _)| *fence)
    }
}

/// Takes the lease, waiting for its turn.
pub async fn acquire(wanted: &Wanted<'_>) -> Result<Lease> {
    let mut waiter = Waiter::new(wanted);
    let lease = tokio::select! {
        lease = waiter.wait() => lease,
        () = wanted.world.cancel.cancelled() => Err(Error::new(Reason::Cancelled, format!("cancelled while waiting for the lease {}", wanted.key))),
    };
    if let Some(ticket) = waiter.ticket.take() {
        let left = wanted.store.delete(&waiter.folder, &ticket.name);
        let patience = if wanted.world.cancel.is_cancelled() { Duration::from_secs(1) } else { Duration::from_secs(10) };
        let _expires = tokio::time::timeout(patience, left).await;
    }
    lease
}

/// Lets go of a lease whose holder is known to have ended, such as an earlier try of this run.
pub async fn clear(wanted: &Wanted<'_>) -> Result<()> {
    let mut waiter = Waiter::new(wanted);
    let seen = look(wanted.store, wanted.key).await?;
    match waiter.why_free(&seen, wanted.world.clock.now()).await? {
        Some(why) if !why.is_empty() => match waiter.claim(seen.fence(), why).await? {
            Some(lease) => lease.release().await,
            None => Ok(()),
        },
        Some(_) | None => Ok(()),
    }
}

/// How long a lease lives without a sign of its holder.
pub fn expiry(vars: &Vars) -> Result<Duration> {
    let Some(text) = vars.get("TIDEGATE_LEASE_EXPIRY") else { return Ok(EXPIRY) };
    let length = humantime::parse_duration(text).ok().filter(|length| *length >= Duration::from_secs(1));
    let wrong = || {
        Error::new(Reason::InputInvalid, format!("TIDEGATE_LEASE_EXPIRY is {text:?}")).hint("write a length of time of at least 1s, as 60s")
    };
    length.ok_or_else(wrong)
}

/// The lease's own times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) expiry: Duration,
    /// How many looks fit into the life of a lease.
    pub(super) looks: u32,
}

impl Times {
    pub(super) fn of(world: &World, store: &Store) -> Self {
        let asked = expiry(&world.vars).ok();
        let looks = match store.kind() {
            Kind::Forge => 12, // a token has a thousand requests an hour for everything
            Kind::S3 | Kind::Redis | Kind::File | Kind::Job => 60,
        };
        Self { expiry: asked.unwrap_or(EXPIRY), looks }
    }

    pub(super) fn beat(self) -> Duration {
        self.expiry / 4
    }

    /// Often at first; a long wait is a calm one. Never slower than the holder's heart.
    pub(super) fn poll(self, waited: Duration) -> Duration {
        if waited < self.expiry * 2 { self.expiry / self.looks } else { self.expiry / 4 }
    }
}

pub(super) fn lease_name(fence: u64) -> String {
    format!("lease-{fence:010}")
}

/// Takes the lease at once and for some time, whoever holds it, and lets the process end.
pub async fn take(wanted: &Wanted<'_>, reason: &str, length: Duration) -> Result<Sheet> {
    by_hand(wanted, reason, Some(length)).await
}

/// Lets go of a lease by hand, whoever holds it and whatever state it is in; `false` when it was free.
pub async fn break_(wanted: &Wanted<'_>, reason: &str) -> Result<bool> {
    let seen = look(wanted.store, wanted.key).await?;
    let is_free = matches!(seen.sheet(wanted.store, wanted.key).await, Ok(None | Some(Sheet { holder: None, .. })));
    if is_free {
        return Ok(false);
    }
    by_hand(wanted, reason, None).await.map(|_released| true)
}

/// A next lease, held by hand for some time or by nobody. Whoever had the one before finds it gone.
async fn by_hand(wanted: &Wanted<'_>, reason: &str, length: Option<Duration>) -> Result<Sheet> {
    let folder = wanted.key.folder("lock");
    for _try in 0..10 {
        let seen = look(wanted.store, wanted.key).await?;
        let seconds = length.map_or(1, |length| length.as_secs().max(1));
        let mut sheet = Sheet::new(seen.fence() + 1, wanted.holder.clone(), seconds);
        (sheet.holder, sheet.reason) = (sheet.holder.filter(|_| length.is_some()), Some(reason.to_owned()));
        if wanted.store.create(&folder, &lease_name(sheet.fence), &sheet.json()).await?.is_some() {
            if let Some((_, entry)) = &seen.top {
                wanted.store.delete(&folder, &entry.name).await?;
            }
            return Ok(sheet);
        }
    }
    Err(Error::new(Reason::LockTimeout, format!("the lease {} changes hands too fast to be taken", wanted.key)).hint("try again"))
}

/// A lease that is held, and renewed in the background.
pub struct Lease {
    fence: u64,
    held: Arc<Mutex<Held>>,
    clock: Clock,
    expiry: Duration,
    lost: Cancel,
    stop: Cancel,
}

pub(super) struct Held {
    pub(super) store: Store,
    pub(super) key: Key,
    pub(super) sheet: Sheet,
    pub(super) mark: String,
    /// When the last renewal that worked was begun.
    pub(super) renewed: Duration,
}

impl Held {
    /// Whether the store still says that it is ours.
    async fn look(&mut self) -> Result<bool> {
        let seen = look(&self.store, &self.key).await?;
        let Some((_, entry)) = seen.top.as_ref().filter(|(fence, _)| *fence == self.sheet.fence) else { return Ok(false) };
        if entry.mark == self.mark {
            return Ok(true);
        }
        // A sign of ours whose answer was lost, or somebody who was given the same number?
        let ours = seen.sheet(&self.store, &self.key).await?.is_some_and(|there| there.nonce == self.sheet.nonce);
        if ours {
            self.mark.clone_from(&entry.mark);
        }
        Ok(ours)
    }

    /// Says that we live; `false` when the lease is not ours any more. On the forge the write itself tells: who takes a
    /// lease removes the one before, and a ref that is gone cannot be moved.
    async fn renew(&mut self, now: Duration) -> Result<bool> {
        if self.store.kind() != Kind::Forge && !self.look().await? {
            return Ok(false);
        }
        self.sheet.sign = (self.sheet.sign + 1) % SIGNS;
        let Some(mark) = self.store.put(&self.key.folder("lock"), &lease_name(self.sheet.fence), &self.sheet.json()).await? else {
            return Ok(false);
        };
        (self.mark, self.renewed) = (mark, now);
        Ok(true)
    }

    async fn release(&mut self) -> Result<()> {
        if !self.look().await? {
            return Ok(()); // it belongs to somebody else: not ours to give away
        }
        self.sheet.holder = None;
        self.store.put(&self.key.folder("lock"), &lease_name(self.sheet.fence), &self.sheet.json()).await.map(drop)
    }
}

impl Lease {
    pub(super) fn start(held: Held, world: &World, times: Times) -> Self {
        let (lost, stop) = (Cancel::new(), Cancel::new());
        let lease =
            Self { fence: held.sheet.fence, held: Arc::new(Mutex::new(held)), clock: world.clock, expiry: times.expiry, lost, stop };
        tokio::spawn(beat(lease.held.clone(), (lease.clock, times), (lease.lost.clone(), lease.stop.clone())));
        lease
    }

    /// Its number: higher than that of every lease before.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// Ends when the lease is known to be lost.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Whether the lease is known to be lost.
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Asks the store once more; right before something is changed that only the holder may change.
    pub async fn confirm(&self) -> Result<()> {
        let mut held = self.held.lock().await;
        let ours = held.look().await?;
        let fresh = self.clock.now().saturating_sub(held.renewed) < self.expiry;
        if ours && fresh && !self.lost.is_cancelled() {
            return Ok(());
        }
        drop(held);
        Err(self.taken().await)
    }

    /// The error of a run whose lease is gone.
    pub async fn taken(&self) -> Error {
        let held = self.held.lock().await;
        let asked = async { look(&held.store, &held.key).await.ok()?.sheet(&held.store, &held.key).await.ok().flatten() };
        let now = tokio::time::timeout(LAST_LOOK, asked).await.ok().flatten(); // a store that is away is why it was lost
        let taken = now.as_ref().is_some_and(|now| now.fence > self.fence && now.holder.is_some() && now.reason.is_none());
        let by = match now {
            Some(Sheet { holder: Some(holder), fence, reason, .. }) if fence > self.fence => {
                let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                format!("{holder} has it now{why}")
            }
            Some(Sheet { reason: Some(reason), .. }) => format!("it was released by hand: {reason}"),
            Some(Sheet { holder: Some(holder), nonce, .. }) if nonce != held.sheet.nonce => {
                format!("{holder} was given the same number, {}, by a store that does not write conditionally", self.fence)
            }
            Some(_) | None => "it could not be renewed in time".to_owned(),
        };
        let error = Error::new(Reason::LockLost, format!("the lease {} was lost: {by}", held.key));
        Error { gone: taken, ..error }
            .hint("this run stopped where it was, so as not to undo the other one's work; look at `tidegate status`, then run it again")
    }

    /// Lets the next one in.
    pub async fn release(&self) -> Result<()> {
        self.stop.cancel();
        self.held.lock().await.release().await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The holder's heart. A store that cannot be asked is asked again until the lease would have run out.
async fn beat(held: Arc<Mutex<Held>>, (clock, times): (Clock, Times), (lost, stop): (Cancel, Cancel)) {
    let mut pause = times.beat();
    loop {
        tokio::select! {
            () = clock.sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        let mut held = held.lock().await;
        let now = clock.now();
        let left = times.expiry.saturating_sub(now.saturating_sub(held.renewed));
        pause = match tokio::time::timeout(clock.real_length(left), held.renew(now)).await {
            Ok(Ok(true)) => times.beat(),
            Ok(Err(_passing)) if !left.is_zero() => times.beat() / 4,
            Ok(Ok(false) | Err(_)) | Err(_) => {
                lost.cancel();
                return;
            }
        };
    }
}
