//! Databases in a run: saved before anything changes, filled where they are empty.

use super::ledger::Ledger;
use super::{Answer, Runner};
use crate::backup::{self, Maker, archive, restore};
use crate::error::{Error, Reason, Result};
use crate::plan::SeedWork;
use crate::state::records::{Did, Record};
use crate::targets::Memory;
use crate::tools::wait::Cancel;
use crate::world::World;
use std::time::Duration;

/// How long it may take, after a cancel, to empty a database that was half filled.
const CLEAR_LIMIT_CANCELLED: Duration = Duration::from_millis(1500);
/// How old a backup may be that a run which was killed has made: people worked on since.
const FRESH: Duration = Duration::from_secs(3600);

impl Runner<'_> {
    /// Saves a database. What a run that was killed has proven is not made again. The last looks come after it, right before
    /// the switch: a backup may take an hour.
    pub(super) async fn backup(&self, id: &str, work: &backup::Work) -> Result<Answer> {
        self.ledger.confirm().await?;
        let memory = self.ledger.memory(id);
        if let Some(at) = self.saved_just_now(id, work).await? {
            return Ok(Answer::Note(format!("the run before made it: {at}")));
        }
        let maker = self.maker(id).await;
        let Some(taken) = backup::take(&maker, work).await? else { return Ok(Answer::Note("there is nothing to save".into())) };
        memory.note_started(&taken.location).await?; // without it in the journal nothing is switched
        memory.note_done().await?;
        Ok(Answer::Saved(Box::new(taken)))
    }

    /// What a run that was killed has proven, if that is fresh and still there.
    async fn saved_just_now(&self, id: &str, work: &backup::Work) -> Result<Option<String>> {
        let memory = self.ledger.memory(id);
        let is_fresh = self.ledger.done_since(id).await.is_some_and(|age| age <= FRESH);
        let Some(at) = memory.started().await.filter(|_| is_fresh) else { return Ok(None) };
        let bucket = work.bucket(self.world).await?;
        let key = at.strip_prefix(&bucket.url("")).map(str::to_owned).unwrap_or_default();
        Ok(bucket.head(&key).await?.map(|_there| at))
    }

    /// Keeps files of the repository.
    pub(super) async fn archive(&self, work: &archive::Work) -> Result<Answer> {
        archive::keep(self.world, &self.prepared.loaded.folder, work).await.map(Answer::Note)
    }

    /// Fills a database that is empty.
    pub(super) async fn seed(&self, id: &str, work: &SeedWork) -> Result<Answer> {
        if self.world.rehearsal {
            return Ok(Answer::Note(format!("would fill {} if it is empty", work.into.source().spoken())));
        }
        self.ledger.confirm().await?;
        let maker = self.maker(id).await;
        let wanted =
            restore::Wanted { into: restore::Into::Configured(work.into.source()), clean: &work.restore.clean, scrub: &work.restore.scrub };
        let target = restore::Target::open(&maker, &wanted.into).await?;
        let memory = self.ledger.memory(id);
        if self.ledger.is_left_begun(id).await && !target.is_empty() {
            self.world.console.line("  seed: a run before broke off while it filled the database, which is emptied first");
            target.clear(self.world).await?;
        } else if !target.is_empty() {
            return Ok(Answer::Note(format!("it is not empty, and stays as it is: {}", target.sentence())));
        }
        let bucket = work.from.bucket(self.world).await?;
        let found = restore::find(&work.from, &bucket, None).await?;
        self.world.console.line(&format!("  seed: {}", found.sentence()));
        memory.note_started("filling").await?;
        match restore::restore(&maker, &work.limited(), (&bucket, &found), (&target, &wanted)).await {
            Ok(said) => {
                memory.note_done().await?;
                Ok(Answer::Note(said))
            }
            Err(mut error) => {
                // It was empty: half of it, or data that is not scrubbed, must not be what the next delivery finds.
                let world = World { cancel: Cancel::new(), ..self.world.clone() }; // also after a cancel
                let cleared = tokio::select! {
                    cleared = target.clear(&world) => cleared,
                    () = self.world.cancelled_for(CLEAR_LIMIT_CANCELLED) => Err(Error::new(Reason::Cancelled, "there was no time")),
                };
                error.detail.push(match cleared {
                    Ok(()) => "the database was emptied again".to_owned(),
                    Err(left) => format!("the database could not be emptied again, which the next delivery does: {}", left.sentence),
                });
                Err(error)
            }
        }
    }

    async fn maker<'s>(&'s self, id: &str) -> Maker<'s> {
        let own = format!("{}.{id}", self.ledger.memory(id).delivery().await);
        let event = &self.prepared.event;
        let by = event.more.run.url.clone().or_else(|| event.actor.clone()).unwrap_or_default();
        Maker { world: self.world, folder: &self.prepared.loaded.folder, own, ended: self.ledger.others().await, by }
    }
}

impl SeedWork {
    /// The backup with the time that a restore may take.
    pub fn limited(&self) -> backup::Work {
        let mut work = self.from.clone();
        work.backup.timeout = self.restore.timeout;
        work
    }
}

impl Ledger<'_> {
    /// How long ago a step of this delivery was done to its end.
    async fn done_since(&self, step: &str) -> Option<Duration> {
        let record = self.record.lock().await;
        let line = record.as_ref()?.journal.iter().rev().find(|line| line.step == step && line.what == Did::Done)?;
        let at: jiff::Timestamp = line.at.parse().ok()?;
        Duration::try_from(jiff::Timestamp::now().duration_since(at)).ok().or(Some(Duration::ZERO))
    }

    /// Whether a step was begun and not done, by a run of this delivery or by the delivery right before it.
    async fn is_left_begun(&self, step: &str) -> bool {
        let is_left = |record: &Record| record.started(step).is_some() && !record.is_done(step);
        if self.record.lock().await.as_ref().is_some_and(is_left) {
            return true;
        }
        let own = self.record.lock().await.as_ref().map(|record| record.key.clone());
        self.history.lock().await.iter().find(|record| Some(&record.key) != own.as_ref()).is_some_and(is_left)
    }

    /// The keys of deliveries before this one: they hold no lease, so what they had begun is nobody's.
    async fn others(&self) -> Vec<String> {
        let own = self.record.lock().await.as_ref().map(|record| record.key.clone());
        let history = self.history.lock().await;
        history.iter().map(|record| record.key.clone()).filter(|key| Some(key) != own.as_ref()).collect()
    }
}
