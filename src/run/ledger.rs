//! What a run holds and writes down: the lease of its environment, and the record of its delivery.

use super::lease::{self, Holder, Lease, Process, RunRef, Wanted};
use crate::delivery::Prepared;
use crate::error::{Error, Reason, Result, Verdict};
use crate::event::Event;
use crate::forge::DeploymentState;
use crate::forge::Forge;
use crate::forge::deployments::DeploymentStatus;
use crate::gates::order;
use crate::plan::{Step, Work};
use crate::report::ReportedTarget;
use crate::report::outputs::random;
use crate::state::forge_records;
use crate::state::records::{Did, Record, RecordedImage, Replaced, Shown, is_open, is_removed, paused, state_of};
use crate::state::{Key, Kind};
use crate::targets::{Fence, Memory};
use crate::world::World;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell};

/// How long it may take to show a record to people: others wait for the lease.
const COPY: Duration = Duration::from_secs(10);
/// How a record ends whose run was killed.
const LOST: &str = "ended without a word; a later run found it";
/// How long the end may take to be written when the run was cancelled: the CI system kills us soon.
const CANCELLED: Duration = Duration::from_millis(1200);

/// The ledger of one run.
pub struct Ledger<'a> {
    world: &'a World,
    prepared: &'a Prepared,
    lease: OnceCell<Lease>,
    /// The number of the newest lease that records know.
    floor: AtomicU64,
    /// The record that said what runs before the lease was taken.
    deployed: Mutex<Option<String>>,
    /// Held while the lease is taken: two steps may ask for it at once.
    taking: Mutex<()>,
    pub(super) record: Mutex<Option<Record>>,
    /// The newest records as they were when the lease was taken.
    pub(super) history: Mutex<Vec<Record>>,
    /// A copy of the record on a forge that is not the store.
    mirror: OnceCell<u64>,
}

/// This run, as others see it.
pub fn holder(event: &Event, doing: String) -> Holder {
    let run = &event.more.run;
    let repository = event.more.repository.clone();
    Holder {
        who: event.actor.clone().unwrap_or_else(|| "somebody".into()),
        doing,
        run: run.id.clone().map(|id| RunRef { repository, id, attempt: run.attempt.max(1), url: run.url.clone() }),
        process: Process::own(),
    }
}

impl<'a> Ledger<'a> {
    /// Nothing is held yet.
    pub fn new(world: &'a World, prepared: &'a Prepared) -> Self {
        Self {
            world,
            prepared,
            lease: OnceCell::new(),
            floor: AtomicU64::new(0),
            deployed: Mutex::default(),
            taking: Mutex::default(),
            record: Mutex::default(),
            history: Mutex::default(),
            mirror: OnceCell::new(),
        }
    }

    fn wanted(&self) -> Wanted<'_> {
        let Prepared { store, key, forge, event, plan, lock_timeout, .. } = self.prepared;
        let holder = holder(event, plan.version.clone().unwrap_or_else(|| "removal".into()));
        Wanted { world: self.world, store, forge, key, holder, timeout: *lock_timeout, floor: self.floor.load(Ordering::SeqCst) }
    }

    /// A run that was killed after all was done may have left its lease.
    pub async fn clear(&self) -> Result<()> {
        lease::clear(&self.wanted()).await
    }

    /// What records said before the lease was taken.
    pub async fn saw(&self, history: &[Record]) {
        self.floor.store(history.iter().map(|record| record.fence).max().unwrap_or(0), Ordering::SeqCst);
        *self.deployed.lock().await = history.iter().find(|record| record.is_deployed()).map(|record| record.key.clone());
    }

    /// The record of another run that delivered the very same while this one waited.
    pub async fn delivered_meanwhile(&self) -> Option<Record> {
        let newest = self.history.lock().await.first().cloned()?;
        let before = self.deployed.lock().await.clone();
        (newest.is_deployed() && before.as_ref() != Some(&newest.key) && self.is_ours(&newest)).then_some(newest)
    }

    /// Takes the lease, if it is not ours already, and looks at what happened before.
    /// Gives the steps whose producers an earlier run left stopped.
    pub async fn lock(&self) -> Result<Vec<(String, bool)>> {
        let Prepared { store, key, .. } = self.prepared;
        let _taking = self.taking.lock().await;
        if self.lease.get().is_some() {
            return Ok(Vec::new());
        }
        store.confirm().await?;
        let lease = lease::acquire(&self.wanted()).await?;
        if self.lease.set(lease).is_err() {
            return Err(Error::new(Reason::Internal, "the lease was taken twice"));
        }
        let history = store.history(key).await?;
        let paused = self.recover(&history).await?;
        *self.history.lock().await = history;
        Ok(paused)
    }

    /// Ends what earlier runs left open: they hold no lease, so they are gone.
    async fn recover(&self, history: &[Record]) -> Result<Vec<(String, bool)>> {
        let Prepared { store, key, .. } = self.prepared;
        let paused = paused(history);
        for open in history.iter().filter(|record| record.ended.is_none()) {
            let by = open.by();
            let last = open.journal.last().map_or("before anything was switched".into(), |line| format!("at {}", line.step));
            self.world.console.line(&format!("  {by} ended without a word {last}, with {}", open.version));
            let mut open = open.clone();
            if self.is_ours(&open) {
                *self.record.lock().await = Some(open); // the same delivery: this run goes on with it
            } else {
                store.end(key, &mut open, Verdict::Cancelled, LOST).await?;
                self.end_lost_copy(&open).await;
            }
        }
        Ok(paused)
    }

    /// The forge, where it only gets a copy of the record for people.
    fn copied(&self) -> Option<(&Forge, &Key)> {
        match &self.prepared.forge {
            forge @ (Forge::GitHub(_) | Forge::GitLab(_)) if self.prepared.store.kind() != Kind::Forge => Some((forge, &self.prepared.key)),
            Forge::GitHub(_) | Forge::GitLab(_) | Forge::Absent { .. } => None,
        }
    }

    /// The deployment that shows a record, where that has not ended.
    async fn unended(&self, forge: &Forge, key: &Key, record: &Record) -> Result<Option<u64>> {
        forge.unended(key.environment(), &record.key, record.commit.as_deref()).await
    }

    /// What people see of a record of another run, where the forge is not the store. Best effort.
    async fn end_lost_copy(&self, record: &Record) {
        let Some((forge, key)) = self.copied() else { return };
        let ended = async {
            match self.unended(forge, key, record).await? {
                Some(id) => self.tell(forge, id, (DeploymentState::Error, &format!("cancelled: {LOST}")), None).await,
                None => Ok(()),
            }
        };
        if let Err(error) = in_time(ended).await {
            self.world.console.warning(&format!("the deployment of {} on the forge is not ended: {error}", record.version));
        }
    }

    /// The same thing to the same place.
    pub fn is_ours(&self, record: &Record) -> bool {
        record.plan == self.prepared.plan.hash && record.commit == self.prepared.plan.commit
    }

    /// Never backwards: what runs must be older than what is switched.
    pub async fn order(&self) -> Result<()> {
        if let Some(notice) = order::judge(self.prepared, &self.history.lock().await).await? {
            self.world.console.warning(&notice);
        }
        Ok(())
    }

    /// Right before the switch: the lease is still ours, and nothing newer runs.
    pub async fn confirm(&self) -> Result<()> {
        let Some(lease) = self.lease.get() else {
            return Err(Error::new(Reason::Internal, "a switch without a lease"));
        };
        lease.confirm().await?;
        let Prepared { store, key, .. } = self.prepared;
        store.confirm().await?;
        *self.history.lock().await = store.history(key).await?;
        self.order().await
    }

    /// The lease is still ours.
    pub async fn confirm_lease(&self) -> Result<()> {
        match self.lease.get() {
            Some(lease) => lease.confirm().await,
            None => Err(Error::new(Reason::Internal, "a removal without a lease")),
        }
    }

    /// Writes down that the delivery begins, with what it is about to switch to.
    pub async fn begin(&self, images: Vec<RecordedImage>) -> Result<String> {
        let Prepared { store, key, event, plan, loaded, .. } = self.prepared;
        let mut slot = self.record.lock().await;
        if let Some(record) = slot.as_mut() {
            store.note(key, record, "run", (Did::TakenUp, None)).await?;
            drop(slot);
            self.mirror().await;
            return Ok("goes on with the record of the run before".into());
        }
        let history = self.history.lock().await;
        let live = history.iter().find(|record| record.is_deployed());
        let replaces = live.map(|live| Replaced { version: live.version.clone(), commit: live.commit.clone(), digests: live.digests() });
        let who = holder(event, String::new());
        let mut record = Record {
            schema: 1,
            project: loaded.config.project.clone(),
            key: random(),
            fence: self.lease.get().map_or(0, Lease::fence),
            environment: plan.environment.clone().unwrap_or_default(),
            version: plan.version.clone().unwrap_or_default(),
            commit: plan.commit.clone(),
            plan: plan.hash.clone(),
            images,
            repository: self.prepared.forge.repository().map(str::to_owned),
            who: who.who,
            run: who.run,
            begun: jiff::Timestamp::now().to_string(),
            replaces,
            left: self.prepared.decision.left.clone(),
            breaks: !self.breaking().is_empty(),
            breaking: self.breaking(),
            lifted: plan.lifted.clone(),
            journal: Vec::new(),
            ended: None,
            url: None,
            deployment: None,
        };
        store.begin(key, &mut record, &self.shown()).await?;
        let said = record.replaces.as_ref().map_or("the first one here".into(), |before| format!("in place of {}", before.version));
        *slot = Some(record);
        drop((slot, history));
        self.mirror().await;
        Ok(said)
    }

    /// The migrations of this delivery that older versions cannot live with.
    fn breaking(&self) -> Vec<String> {
        let breaks = |step: &&Step| matches!(&step.work, Work::Migrate(work) if work.breaks);
        self.prepared.plan.steps.iter().filter(breaks).map(|step| step.id.clone()).collect()
    }

    fn shown(&self) -> Shown {
        let plan = &self.prepared.plan;
        let event = &self.prepared.event;
        let branch = event.default_branch.clone().unwrap_or_else(|| "main".into());
        let on = event.branch.clone().or_else(|| event.head_ref.clone()).unwrap_or_else(|| branch.clone());
        let reference = event.tag.clone().map_or((on, false), |tag| (tag, true));
        Shown { branch, reference, transient: plan.is_preview, production: plan.environment.as_deref() == Some("production") }
    }

    /// The copy of the record that people see, where the forge is not the store. Best effort.
    async fn mirror(&self) {
        let Some((forge, key)) = self.copied() else { return };
        let Some(record) = self.record.lock().await.clone() else { return };
        let shown = async {
            // The run that began this record may have shown it already.
            let taken_up = record.journal.iter().any(|line| line.what == Did::TakenUp);
            let known = if taken_up { self.unended(forge, key, &record).await? } else { None };
            let shown = self.shown();
            let (name, is_tag) = (shown.reference.0.as_str(), shown.reference.1);
            let id = match known {
                Some(id) => Some(id),
                None => forge_records::make(key, &record, &shown, async |new| forge.show(new, (name, is_tag)).await).await?,
            };
            if let Some(id) = id {
                self.tell(forge, id, (DeploymentState::InProgress, &format!("{} by tidegate", record.version)), None).await?;
            }
            Ok::<Option<u64>, Error>(id)
        };
        match in_time(shown).await {
            Ok(id) => _ = id.map(|id| self.mirror.set(id)),
            Err(error) => self.world.console.warning(&format!("the deployment is not shown on the forge: {error}")),
        }
    }

    /// The forge's record of this delivery, or its copy.
    pub async fn deployment(&self) -> Option<u64> {
        self.mirror.get().copied().or(self.record.lock().await.as_ref().and_then(|record| record.deployment))
    }

    /// A line of the journal.
    pub async fn note(&self, step: &str, what: Did) -> Result<()> {
        self.note_handle(step, what, None).await
    }

    async fn note_handle(&self, step: &str, what: Did, handle: Option<&str>) -> Result<()> {
        if let Some(lease) = self.lease.get().filter(|lease| lease.is_lost()) {
            return Err(lease.taken().await); // not ours to write, nor to do, any more
        }
        match self.record.lock().await.as_mut() {
            Some(record) => self.prepared.store.note(&self.prepared.key, record, step, (what, handle)).await,
            None => Ok(()),
        }
    }

    /// The number of the lease, for targets that can hold it.
    pub fn fence(&self) -> Result<Fence> {
        let lease = self.lease.get().ok_or_else(|| Error::new(Reason::Internal, "a switch without a lease"))?;
        Ok(Fence { place: self.prepared.store.name(&self.prepared.key), number: lease.fence() })
    }

    /// Ends with an error when the lease was taken away.
    pub async fn lost(&self) -> Error {
        match self.lease.get() {
            Some(lease) => {
                lease.lost().await;
                lease.taken().await
            }
            None => std::future::pending().await,
        }
    }

    /// Targets that were being switched when the lease was lost: nobody knows what runs there.
    pub async fn left_targets(&self, known: &[ReportedTarget]) -> Vec<ReportedTarget> {
        let record = self.record.lock().await;
        let Some(record) = record.as_ref() else { return Vec::new() };
        let begun = record.journal.iter().filter(|line| line.what == Did::Switching && known.iter().all(|target| target.id != line.step));
        let detail = "its switch had begun when the lease was lost";
        begun.map(|line| ReportedTarget { id: line.step.clone(), verdict: Verdict::Unknown, detail: detail.into(), url: None }).collect()
    }

    /// Adds what this run started elsewhere and leaves behind: whoever has the lease now must know that it goes on.
    pub async fn left(&self, mut error: Error) -> Error {
        if let Some(record) = self.record.lock().await.as_ref() {
            let steps = self.prepared.plan.steps.iter().filter(|step| !record.is_done(&step.id));
            let started = steps.filter_map(|step| Some((&step.id, record.started(&step.id)?)));
            error.detail.extend(started.map(|(step, handle)| format!("{step} may go on by itself; what it started there: {handle}")));
        }
        error
    }

    /// The key of the newest record, as it was when the lease was taken.
    pub async fn newest(&self) -> Option<String> {
        self.history.lock().await.first().map(|record| record.key.clone())
    }

    /// A closed pull request has nothing that runs any more.
    pub async fn close(&self, why: &str) -> Result<()> {
        let Prepared { store, key, .. } = self.prepared;
        for (index, record) in self.history.lock().await.iter_mut().enumerate() {
            let newest = index == 0; // also one that failed: something of it may have been made, and is gone now
            if is_removed(record) {
                break;
            }
            if !newest && !is_open(record) {
                continue;
            }
            store.end(key, record, Verdict::Removed, why).await?;
        }
        Ok(())
    }

    /// Writes down how it ended, then lets the next run in. What cannot be written is said, and heals with the next run.
    pub async fn end(&self, verdict: Verdict, (sentence, url): (&str, Option<&String>)) {
        let Some(lease) = self.lease.get().filter(|lease| !lease.is_lost()) else { return };
        let sentence = &self.world.console.redactor().clean(sentence);
        let Prepared { store, key, .. } = self.prepared;
        if let Some(record) = self.record.lock().await.as_mut() {
            record.url = url.cloned();
        }
        self.end_copy(verdict, sentence).await; // first: a run that is killed here is gone on with, copy and all
        let ended = async {
            let noted = match self.record.lock().await.as_mut() {
                Some(record) if verdict != Verdict::Unknown => match lease.confirm().await {
                    Ok(()) => store.end(key, record, verdict, sentence).await,
                    Err(lost) => Err(lost),
                },
                Some(_) | None => Ok(()),
            };
            noted.and(lease.release().await) // in any case: others wait
        };
        let ended = tokio::select! {
            ended = ended => ended,
            () = self.world.cancelled_for(CANCELLED) => Err(Error::new(Reason::ForgeFailed, "no answer in time after the cancel")),
        };
        if let Err(error) = ended {
            let then = "the lease runs out by itself, and the next run ends the record";
            self.world.console.warning(&format!("the end of this delivery is not written down ({then}): {}", error.sentence));
        }
    }

    /// Ends what people see of this run's record. A cancel may have come between making the copy and hearing its id.
    async fn end_copy(&self, verdict: Verdict, sentence: &str) {
        let Some((forge, key)) = self.copied() else { return };
        let Some(record) = self.record.lock().await.clone() else { return };
        let description = format!("{}: {sentence}", verdict.name());
        let ended = async {
            let id = match self.mirror.get() {
                Some(id) => Some(*id),
                None if self.world.cancel.is_cancelled() => self.unended(forge, key, &record).await?,
                None => None,
            };
            match id {
                Some(id) => self.tell(forge, id, (state_of(verdict), &description), record.url.as_deref()).await,
                None => Ok(()),
            }
        };
        let ended = tokio::select! {
            ended = in_time(ended) => ended,
            () = self.world.cancelled_for(CANCELLED) => Err(Error::new(Reason::ForgeFailed, "no answer in time after the cancel")),
        };
        if let Err(error) = ended {
            self.world.console.warning(&format!("the deployment on the forge is not ended: {error}"));
        }
    }

    /// A run that could not end its copy, although all was done, leaves that to the next one.
    pub async fn mend_copy(&self, record: &Record) {
        let (Some((forge, key)), Some(ended)) = (self.copied(), &record.ended) else { return };
        let mended = async {
            let Some(id) = self.unended(forge, key, record).await? else { return Ok(()) };
            let description = format!("{}: {}", ended.verdict.name(), ended.sentence);
            self.tell(forge, id, (state_of(ended.verdict), &description), record.url.as_deref()).await
        };
        if let Err(error) = in_time(mended).await {
            self.world.console.warning(&format!("the deployment on the forge is not ended: {error}"));
        }
    }

    async fn tell(&self, forge: &Forge, id: u64, (state, description): (DeploymentState, &str), url: Option<&str>) -> Result<()> {
        let log_url = self.prepared.event.more.run.url.as_deref();
        forge.set_shown(&DeploymentStatus { id, state, description, log_url, environment_url: url }).await
    }
}

/// The journal of one step, as its target sees it.
pub struct StepMemory<'a> {
    ledger: &'a Ledger<'a>,
    step: &'a str,
    /// The record to look at, where it is not the one of this run.
    of: Option<&'a Record>,
}

impl<'a> Ledger<'a> {
    /// The journal of a step of this delivery.
    pub fn memory(&'a self, step: &'a str) -> StepMemory<'a> {
        StepMemory { ledger: self, step, of: None }
    }

    /// The journal of a step of a delivery before.
    pub fn memory_of(&'a self, step: &'a str, record: &'a Record) -> StepMemory<'a> {
        StepMemory { ledger: self, step, of: Some(record) }
    }
}

impl StepMemory<'_> {
    async fn ask<T>(&self, ask: impl Fn(&Record) -> T) -> Option<T> {
        match self.of {
            Some(record) => Some(ask(record)),
            None => self.ledger.record.lock().await.as_ref().map(ask),
        }
    }
}

#[async_trait::async_trait]
impl Memory for StepMemory<'_> {
    async fn delivery(&self) -> String {
        self.ask(|record| record.key.clone()).await.unwrap_or_default()
    }

    async fn started(&self) -> Option<String> {
        self.ask(|record| record.started(self.step)).await.flatten()
    }

    async fn is_done(&self) -> bool {
        self.ask(|record| record.is_done(self.step)).await.unwrap_or(false)
    }

    async fn note_started(&self, handle: &str) -> Result<()> {
        self.ledger.note_handle(self.step, Did::Started, Some(handle)).await
    }

    async fn note_done(&self) -> Result<()> {
        self.ledger.note(self.step, Did::Done).await
    }
}

/// What is only shown to people must not keep the lease.
async fn in_time<T>(telling: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_elapsed| Err(Error::new(Reason::ForgeFailed, "the forge did not answer in time"));
    tokio::time::timeout(COPY, telling).await.unwrap_or_else(late)
}
