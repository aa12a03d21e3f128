//! The waiting of a run: queues, and the producers that are stopped meanwhile.

use super::{Answer, Runner};
use crate::context::{self, Request};
use crate::delivery::Prepared;
use crate::error::{Error, Reason, Result};
use crate::gates::Gate;
use crate::gates::after::{self, After};
use crate::gates::drain::Drain;
use crate::gates::quarantine;
use crate::gates::scan::{self, Scan};
use crate::gather;
use crate::plan::{DrainWork, Step, Work};
use crate::state::records::Did;
use crate::tools::process;
use std::collections::BTreeMap;
use std::sync::MutexGuard;
use std::time::Duration;

/// How long a pause or resume command may take.
const HOOK_LIMIT: Duration = Duration::from_secs(300);
/// The same when the run was cancelled: the CI system kills us soon.
const HOOK_LIMIT_CANCELLED: Duration = Duration::from_millis(1500);
/// How long it may take then to write down that the producers run again.
const NOTE_LIMIT_CANCELLED: Duration = Duration::from_millis(500);

/// What a gate remembers.
#[derive(Default)]
pub(super) struct Waits {
    /// Producers that were stopped, by step id, and whether the command is known to have ended: they are started again
    /// whatever happens.
    paused: BTreeMap<String, bool>,
    /// When each drain's waiting ends; `None` once it has timed out with `on-timeout: warn`.
    deadlines: BTreeMap<String, Option<Duration>>,
}

impl Runner<'_> {
    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What an earlier run left stopped is started again by this one.
    pub(super) fn inherit(&self, paused: Vec<(String, bool)>) {
        for (step, certain) in paused {
            let resumes = |known: &Step| matches!(&known.work, Work::Drain(drain) if known.id == step && drain.resume.is_some());
            if self.prepared.plan.steps.iter().any(resumes) {
                self.waits().paused.insert(step, certain);
            } else {
                self.world.console.warning(&format!(
                    "an earlier run stopped the producers for its step {step} and never started them; this plan has no `resume` for it: start them by hand"
                ));
            }
        }
    }

    pub(super) async fn drain(&self, id: &str, work: &DrainWork) -> Result<Answer> {
        let drain = Drain::open(self.world, work).await?;
        if let Some(command) = &work.pause {
            self.pause(id, command).await?;
        }
        let quiet = drain.wait().await?;
        if quiet.timed_out {
            self.world.console.warning(&quiet.sentence);
        }
        self.waits().deadlines.insert(id.to_owned(), Some(drain.deadline()).filter(|_| !quiet.timed_out));
        Ok(Answer::Note(quiet.sentence))
    }

    /// Written down before it is done: a half-done pause is resumed as well, by whomever.
    async fn pause(&self, id: &str, command: &[String]) -> Result<()> {
        if self.waits().paused.get(id) == Some(&true) {
            self.world.console.line("  pause: the run before stopped the producers already");
            return Ok(());
        }
        self.waits().paused.insert(id.to_owned(), false);
        self.ledger.note(id, Did::Pausing).await?;
        self.hook("pause", command, HOOK_LIMIT).await?;
        self.ledger.note(id, Did::Paused).await?;
        self.waits().paused.insert(id.to_owned(), true);
        Ok(())
    }

    async fn hook(&self, what: &str, command: &[String], limit: Duration) -> Result<()> {
        if self.world.rehearsal {
            self.world.console.line(&format!("  {what}: would run {}", command.join(" ")));
            return Ok(());
        }
        self.world.console.line(&format!("  {what}: {}", command.join(" ")));
        let console = &self.world.console;
        let result = process::run(command, &self.prepared.loaded.folder, limit, &|line| console.relay(what, line)).await;
        result.map_err(|error| Error { sentence: format!("{what}: {}", error.sentence), ..error })
    }

    /// Producers that were paused are started again, also after a failure or a cancel.
    pub(super) async fn resume(&self) -> Result<()> {
        let paused = self.waits().paused.clone();
        let mut result = Ok(());
        for step in &self.prepared.plan.steps {
            let Work::Drain(DrainWork { resume: Some(command), .. }) = &step.work else { continue };
            if paused.contains_key(&step.id) {
                let resumed = tokio::select! {
                    resumed = self.hook("resume", command, HOOK_LIMIT) => resumed,
                    () = self.world.cancelled_for(HOOK_LIMIT_CANCELLED) => Err(Error::new(Reason::HookFailed, "resume: did not end in time after the cancel")),
                };
                if resumed.is_ok() {
                    self.note_resumed(&step.id).await;
                }
                result = result.and(resumed.map_err(|error| error.hint("the producers may still be stopped: start them by hand")));
            }
        }
        result
    }

    /// They run again, whether or not that can be written down: at worst the next run starts them once more.
    async fn note_resumed(&self, id: &str) {
        let noted = tokio::select! {
            noted = self.ledger.note(id, Did::Resumed) => noted,
            () = self.world.cancelled_for(NOTE_LIMIT_CANCELLED) => Err(Error::new(Reason::LockUnreachable, "no answer in time after the cancel")),
        };
        if let Err(error) = noted {
            self.world.console.warning(&format!("it is not written down that the producers run again: {}", error.sentence));
        }
    }

    /// What was true when the run began may have changed while it waited.
    pub(super) async fn last_looks(&self) -> Result<()> {
        self.recheck().await?;
        self.quarantine().await?;
        for step in &self.prepared.plan.steps {
            if let Work::After(after) = &step.work {
                self.after(after).await?; // it may have been taken back there while this run waited
            }
        }
        self.not_frozen()
    }

    /// While a rollback waited for the lease, what it goes back from may have become something else.
    pub(super) async fn same_way_back(&self) -> Result<()> {
        let Prepared { store, loaded, event, request, back, .. } = self.prepared;
        let (Request::Rollback { environment, to }, Some(before)) = (request, back) else { return Ok(()) };
        let now = gather::back(store, (&loaded.config, event), environment, to.as_deref()).await?;
        if (&now.live, &now.to.key, &now.migrated) == (&before.live, &before.to.key, &before.migrated) {
            return Ok(());
        }
        let sentence = format!("{} was delivered to {environment} while this rollback waited, so it leads elsewhere now", now.left.version);
        Err(Error::new(Reason::OrderChanged, sentence).hint(format!("look at it (tidegate plan rollback {environment}), and ask again")))
    }

    /// No freeze has begun, unless a person lifts it.
    pub(super) fn not_frozen(&self) -> Result<()> {
        let Prepared { plan, loaded, event, decision, .. } = self.prepared;
        let lifted = plan.is_back || plan.is_preview || decision.overrides.lifts(Gate::Freeze);
        let rules = plan.environment.as_ref().and_then(|name| loaded.config.environments.get(name));
        match rules.filter(|_| !lifted).and_then(|rules| context::frozen(rules, event, jiff::Timestamp::now())) {
            Some(freeze) => {
                Err(Error::new(Reason::GateFreeze, format!("`freeze:` {freeze}; it began while this run waited, and nothing was switched"))
                    .hint("run this again when it is over; in an emergency by hand: --override freeze --reason TEXT"))
            }
            None => Ok(()),
        }
    }

    /// None of the images may be in quarantine.
    pub(super) async fn quarantine(&self) -> Result<()> {
        let digests: Vec<String> = self.pushed().into_values().map(|pushed| pushed.digest).collect();
        quarantine::check(&self.prepared.store, &self.prepared.loaded.config.project, &digests).await
    }

    pub(super) async fn after(&self, after: &After) -> Result<Answer> {
        let Prepared { store, loaded, plan, .. } = self.prepared;
        let digests = self.pushed().into_iter().map(|(name, pushed)| (name, pushed.digest)).collect();
        // What came before a rehearsal was played a moment ago.
        let after = &After { soak: after.soak.filter(|_| !self.world.rehearsal), ..after.clone() };
        let names = (plan.version.as_deref().unwrap_or_default(), plan.display_environment.as_str());
        after::check(store, &loaded.config.project, after, &digests, names).await.map(Answer::Note)
    }

    /// An image for several platforms is scanned as each of them.
    pub(super) async fn scan(&self, scan: &Scan) -> Result<Answer> {
        let ready = self.made(&scan.image)?;
        let name = format!("{}:{}", ready.pushed.repository, ready.pushed.tag);
        let Some(ecr) = ready.registry.ecr() else {
            return Err(Error::new(Reason::GateScan, format!("{name} is not on ECR, whose scans are asked")));
        };
        let digests = ready.manifest.platforms()?;
        scan::wait(self.world, ecr, (&name, &digests), scan).await.map(Answer::Note)
    }

    /// Right before the switch: whatever came into the queues since they were quiet is waited for.
    pub(super) async fn recheck(&self) -> Result<()> {
        // While one gate was waited for, another may have got messages: until one pass finds all quiet.
        while self.recheck_all().await? {}
        Ok(())
    }

    /// One pass over all gates; whether any of them had to be waited for.
    async fn recheck_all(&self) -> Result<bool> {
        let mut waited = false;
        for step in &self.prepared.plan.steps {
            if let Work::Drain(work) = &step.work {
                let deadline = self.waits().deadlines.get(&step.id).copied().flatten();
                let Some(deadline) = deadline else { continue }; // let through by `on-timeout: warn`: not waited for twice
                // A message that comes late gets at least one more quiet time to pass.
                let deadline = deadline.max(self.world.clock.now().saturating_add(work.quiet.saturating_mul(2)));
                let quiet = Drain::open(self.world, work).await?.until(deadline).recheck().await?;
                if quiet.timed_out {
                    self.world.console.warning(&quiet.sentence);
                }
                waited |= quiet.waited && !quiet.timed_out;
            }
        }
        Ok(waited)
    }
}
