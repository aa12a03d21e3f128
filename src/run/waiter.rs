//! A run that wants a lease: it keeps its place in the queue, watches the holder, and takes the lease when it is its turn.

use super::lease::{Held, Holder, Lease, Process, RunRef, SIGNS, Seen, Sheet, Times, Wanted, lease_name, look};
use crate::error::{Error, Reason, Result};
use crate::state::Entry;
use crate::tools::wait::spoken;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the forge may take to say whether a run has ended.
const ASK: Duration = Duration::from_secs(5);
/// How often, and how far apart, a lease that was just created is looked for.
const LAG_LOOKS: u32 = 3;
const LAG: Duration = Duration::from_millis(700);

pub(super) struct Ticket {
    pub(super) name: String,
    sign: u32,
    written: Duration,
}

/// A run that wants the lease.
pub(super) struct Waiter<'a> {
    wanted: &'a Wanted<'a>,
    pub(super) folder: String,
    times: Times,
    pub(super) ticket: Option<Ticket>,
    /// Since when each object has had its present mark, by our own clock.
    marks: BTreeMap<String, (String, Duration)>,
    /// When the store was looked at last.
    looked: Option<Duration>,
    /// The lease that was seen last.
    sheet: Option<Sheet>,
    /// Every lease that was read, by its mark.
    read: BTreeMap<String, Sheet>,
    /// When the holder's run was last asked about, and how it stood.
    asked: Option<(String, Duration, bool)>,
    free_since: Option<Duration>,
    said: Option<(String, Duration)>,
}

impl<'a> Waiter<'a> {
    pub(super) fn new(wanted: &'a Wanted<'a>) -> Self {
        Self {
            wanted,
            folder: wanted.key.folder("lock"),
            times: Times::of(wanted.world, wanted.store),
            ticket: None,
            marks: BTreeMap::new(),
            looked: None,
            sheet: None,
            read: BTreeMap::new(),
            asked: None,
            free_since: None,
            said: None,
        }
    }

    pub(super) async fn wait(&mut self) -> Result<Lease> {
        let clock = self.wanted.world.clock;
        let started = clock.now();
        let deadline = started.saturating_add(self.wanted.timeout);
        loop {
            let seen = look(self.wanted.store, self.wanted.key).await?;
            let now = clock.now();
            self.remember(&seen, now);
            let ahead = self.ahead(&seen, now);
            match self.why_free(&seen, now).await? {
                Some(why) => {
                    let since = *self.free_since.get_or_insert(now);
                    // Who is first may have died just now: then the next one does not wait for ever.
                    if (ahead == 0 || now.saturating_sub(since) > self.times.beat())
                        && let Some(lease) = self.claim(seen.fence(), why).await?
                    {
                        self.forget_dead(&seen, now).await;
                        return Ok(lease);
                    }
                }
                None => self.free_since = None,
            }
            if now >= deadline {
                return Err(self.too_late(now.saturating_sub(started)));
            }
            self.stay(&seen, now).await?;
            self.say(ahead, deadline.saturating_sub(now), now);
            let pause = self.times.poll(now.saturating_sub(started)).min(deadline.saturating_sub(now));
            clock.sleep(pause.max(Duration::from_millis(50))).await;
        }
    }

    fn remember(&mut self, seen: &Seen, now: Duration) {
        // Marks come back after four signs: what was not watched all the time may have changed and changed back.
        if self.looked.is_some_and(|last| now.saturating_sub(last) > self.times.beat() * 2) {
            self.marks.clear();
        }
        self.looked = Some(now);
        let entries = seen.top.iter().map(|(_, entry)| entry).chain(&seen.waiting);
        for entry in entries {
            let known = self.marks.entry(entry.name.clone()).or_insert_with(|| (entry.mark.clone(), now));
            if known.0 != entry.mark {
                *known = (entry.mark.clone(), now);
            }
        }
    }

    /// Since when an object has not changed: as long as we watched, or as the store's own clock says.
    fn silence(&self, seen: &Seen, entry: &Entry, now: Duration) -> Duration {
        let watched = self.marks.get(&entry.name).map_or(Duration::ZERO, |(_, since)| now.saturating_sub(*since));
        let own = self.ticket.as_ref().and_then(|ticket| seen.waiting.iter().find(|entry| entry.name == ticket.name));
        // Our own ticket was written a moment ago: its stamp is the store's "now".
        let stamped = own.and_then(|own| Some(own.stamp? - entry.stamp?)).unwrap_or_default();
        watched.max(Duration::try_from_secs_f64(stamped - 1.0).unwrap_or_default())
    }

    /// How many live runs came before us.
    fn ahead(&self, seen: &Seen, now: Duration) -> usize {
        let alive = |entry: &&Entry| self.silence(seen, entry, now) < self.times.expiry;
        let before = |entry: &&Entry| self.ticket.as_ref().is_none_or(|own| entry.name < own.name);
        seen.waiting.iter().filter(before).filter(alive).count()
    }

    /// Why nobody holds the lease; nothing while somebody does. The text is empty when it was simply free.
    pub(super) async fn why_free(&mut self, seen: &Seen, now: Duration) -> Result<Option<String>> {
        let Some((_, entry)) = &seen.top else { return Ok(Some(String::new())) };
        let sheet = match self.read.get(&entry.mark) {
            Some(known) => known.clone(),
            None => match seen.sheet(self.wanted.store, self.wanted.key).await? {
                Some(sheet) => self.read.entry(entry.mark.clone()).or_insert(sheet).clone(),
                None => return Ok(None),
            },
        };
        self.sheet = Some(sheet.clone());
        let Some(holder) = sheet.holder.clone() else { return Ok(Some(String::new())) };
        let silence = self.silence(seen, entry, now);
        if silence >= Duration::from_secs(sheet.seconds) {
            return Ok(Some(format!("{holder} gave no sign of life for {}", spoken(silence))));
        }
        if sheet.reason.is_some() {
            // Taken by hand for a time that people agreed on: theirs is the time of day, and the process may be gone.
            let over = sheet.age() >= Duration::from_secs(sheet.seconds);
            return Ok(over.then(|| format!("the time of {holder} is over")));
        }
        Ok(self.has_ended(&holder, now).await.then(|| format!("{holder} has ended without releasing it")))
    }

    /// Whether the holder is known to have ended: by its process, by a later try of the same run, or by the forge.
    async fn has_ended(&mut self, holder: &Holder, now: Duration) -> bool {
        if holder.process.as_ref().is_some_and(Process::is_gone) {
            return true;
        }
        let Some(run) = &holder.run else { return false };
        let same = |own: &RunRef| own.id == run.id && own.repository == run.repository;
        if self.wanted.holder.run.as_ref().is_some_and(|own| same(own) && own.attempt > run.attempt) {
            return true; // GitHub starts a run again only when it has ended
        }
        if self.wanted.holder.run.as_ref().is_some_and(same) {
            return false; // our own run still goes on
        }
        let name = format!("{}/{}", run.id, run.attempt);
        if let Some((known, at, ended)) = &self.asked
            && *known == name
            && (*ended || now.saturating_sub(*at) < self.times.expiry)
        {
            return *ended;
        }
        let own = run.repository.is_some() && run.repository.as_deref() == self.wanted.forge.repository();
        let asked = tokio::time::timeout(ASK, self.wanted.forge.run_ended(&run.id, run.attempt));
        let ended = own && matches!(asked.await, Ok(Ok(Some(true))));
        self.asked = Some((name, now, ended));
        ended
    }

    /// Tries to be the one who takes the lease. Nothing when another one was faster.
    pub(super) async fn claim(&mut self, last: u64, why: String) -> Result<Option<Lease>> {
        let Wanted { world, store, key, holder, .. } = self.wanted;
        let began = world.clock.now();
        let sheet = Sheet::new(last.max(self.wanted.floor).max(store.floor()) + 1, holder.clone(), self.times.expiry.as_secs().max(1));
        let name = lease_name(sheet.fence);
        let Some(mark) = store.create(&self.folder, &name, &sheet.json()).await? else { return Ok(None) };
        if store.may_tell_two().await? {
            world.clock.sleep(LAG).await; // the write of another one that looked when we did is done by then
        }
        // A number that was free only because it is long past holds nothing.
        let Some(seen) = self.see_own(&sheet, &mark).await? else { return Ok(None) };
        // Whoever held it before notices at once; what cannot be removed now goes with the next lease.
        for older in &seen.older {
            let _next_time = store.delete(&self.folder, &older.name).await;
        }
        if !why.is_empty() {
            world.console.line(&format!("  the lease {key} is taken over: {why}"));
        }
        let held = Held { store: (*store).clone(), key: (*key).clone(), sheet, mark, renewed: began };
        Ok(Some(Lease::start(held, world, self.times)))
    }

    /// What the store shows after we created a lease, if that is the one that counts. A list may lag behind a moment.
    async fn see_own(&self, sheet: &Sheet, mark: &str) -> Result<Option<Seen>> {
        let Wanted { world, store, key, .. } = self.wanted;
        for _look in 0..LAG_LOOKS {
            let seen = look(store, key).await?;
            match &seen.top {
                Some((fence, entry)) if *fence == sheet.fence => {
                    let ours = entry.mark == mark;
                    return Ok(Some(seen).filter(|_| ours));
                }
                Some((fence, _)) if *fence > sheet.fence => return Ok(None),
                Some(_) | None => world.clock.sleep(LAG).await,
            }
        }
        Ok(None)
    }

    /// Who came before us and did not take a lease that was free is gone; so is who gives no sign of life.
    async fn forget_dead(&self, seen: &Seen, now: Duration) {
        for entry in &seen.waiting {
            let before = self.ticket.as_ref().is_none_or(|own| entry.name < own.name);
            if before || self.silence(seen, entry, now) >= self.times.expiry {
                let _next_time = self.wanted.store.delete(&self.folder, &entry.name).await;
            }
        }
    }

    /// Keeps our place in the queue.
    async fn stay(&mut self, seen: &Seen, now: Duration) -> Result<()> {
        let Wanted { store, holder, .. } = self.wanted;
        let sheet = |sign: u32| json!({"schema": 1, "holder": holder, "sign": sign});
        if let Some(ticket) = &mut self.ticket {
            if now.saturating_sub(ticket.written) < self.times.expiry / 3 {
                return Ok(());
            }
            ticket.sign = (ticket.sign + 1) % SIGNS;
            ticket.written = now;
            if store.put(&self.folder, &ticket.name, &sheet(ticket.sign)).await?.is_none() {
                self.ticket = None; // somebody took us for dead: at the end of the queue again
            }
            return Ok(());
        }
        let last = seen.waiting.last().and_then(|entry| entry.name.strip_prefix("wait-")?.parse::<u64>().ok()).unwrap_or(0);
        for number in last + 1..last + 100 {
            let name = format!("wait-{number:010}");
            if store.create(&self.folder, &name, &sheet(0)).await?.is_some() {
                self.ticket = Some(Ticket { name, sign: 0, written: now });
                break;
            }
        }
        Ok(())
    }

    fn say(&mut self, ahead: usize, left: Duration, now: Duration) {
        let Some(sheet @ Sheet { holder: Some(holder), .. }) = &self.sheet else { return };
        let what = format!("{holder}{ahead}");
        if self.said.as_ref().is_some_and(|(said, at)| *said == what && now.saturating_sub(*at) < self.times.expiry) {
            return;
        }
        let seconds = |length: Duration| humantime::format_duration(Duration::from_secs(length.as_secs())).to_string();
        self.wanted.world.console.line(&format!(
            "  waiting for the lease {}: held by {holder} for {}; position {}; giving up in {}",
            self.wanted.key,
            seconds(sheet.age()),
            ahead + 1,
            seconds(left)
        ));
        self.said = Some((what, now));
    }

    fn too_late(&self, waited: Duration) -> Error {
        let holder = self.sheet.as_ref().and_then(|sheet| Some((sheet.holder.as_ref()?, sheet)));
        let (by, log) = match holder {
            Some((holder, sheet)) => {
                let log = holder.run.as_ref().and_then(|run| run.url.clone()).map(|url| format!("its log: {url}\n")).unwrap_or_default();
                (format!("it is held by {holder} for {}", spoken(sheet.age())), log)
            }
            None => ("others were first".to_owned(), String::new()),
        };
        let environment = self.wanted.key.environment();
        Error::new(Reason::LockTimeout, format!("the lease {} was not free within {}: {by}", self.wanted.key, spoken(waited))).hint(
            format!("{log}wait longer with --lock-timeout; if the holder is stuck: tidegate lock release {environment} --reason TEXT"),
        )
    }
}
