//! What can be said before anything is done: it was done before, something newer runs, or the store protects nothing.

use super::Runner;
use crate::backup::{self, archive};
use crate::config::{When, WhenEvent};
use crate::context::{Outcome, Request};
use crate::delivery::Prepared;
use crate::error::{Error, Reason, Result, Verdict};
use crate::gates::order;
use crate::plan::{MigrateRun, Work};
use crate::report::{Report, ReportedImage, ReportedStep, ReportedTarget, StepOutcome};
use crate::state::records::{Record, may_be_there, paused};
use crate::state::{self, Kind};
use crate::steps::image;
use crate::targets::{self, Fence, System};
use std::collections::BTreeMap;

impl Runner<'_> {
    /// Whether there is nothing left to do. Reads only.
    pub(super) async fn early(&self, report: &mut Report) -> Result<bool> {
        self.scope()?;
        let plan = &self.prepared.plan;
        for step in &plan.steps {
            self.check(&step.work)?;
        }
        if plan.steps.iter().all(|step| !matches!(step.work, Work::Lock)) {
            return Ok(false); // nothing is deployed, so there are no records
        }
        let history = self.prepared.store.history(&self.prepared.key).await?;
        self.ledger.saw(&history).await;
        if plan.outcome == Outcome::Remove {
            if matches!(self.prepared.request, Request::Sweep(_)) {
                return Ok(false); // it has looked
            }
            // Where no record tells, the targets are asked for what may be left.
            let removes =
                plan.steps.iter().any(|step| matches!(&step.work, Work::Remove(work) if !matches!(work.system, System::Command(_))));
            let closed = !may_be_there(&history) && (!history.is_empty() || !removes);
            if closed {
                self.ledger.clear().await?;
                report.steps.push(done_before("remove", "nothing of it is open"));
            }
            return Ok(closed);
        }
        if let Some(newest) = history.first()
            && newest.is_deployed()
            && (self.ledger.is_ours(newest) || self.is_same_fix(newest))
            && self.still_runs(newest, report).await?
        {
            self.ledger.clear().await?;
            self.ledger.mend_copy(newest).await;
            for step in &plan.steps {
                if let Work::BackMerge(work) = &step.work {
                    self.back_merge(work).await?; // it is opened once, and may have been refused before
                }
                if matches!(step.work, Work::Keep) {
                    self.keep(newest.fence).await?; // the same
                }
            }
            return Ok(true);
        }
        if !paused(&history).is_empty() {
            return Ok(false); // somebody has to start the producers again: late or not, this run looks after them
        }
        order::judge(self.prepared, &history).await.map(|_notice| false)
    }

    /// A hot fix may come once by name and once more by the release that it made.
    fn is_same_fix(&self, newest: &Record) -> bool {
        let Prepared { plan, decision, .. } = self.prepared;
        decision.fix.is_some() && Some(&newest.version) == plan.version.as_ref() && newest.commit == plan.commit
    }

    /// What a step needs here is there before anything is built.
    fn check(&self, work: &Work) -> Result<()> {
        let folder = &self.prepared.loaded.folder;
        match work {
            Work::Target(work) => targets::check(self.world, folder, work),
            Work::Migrate(work) => match &work.run {
                MigrateRun::Command(command) => targets::command::check(self.world, folder, &work.values, command),
                MigrateRun::HerokuRun(run) => run
                    .secret_names()
                    .into_iter()
                    .try_for_each(|name| targets::secret(self.world, name, "a secret of the one-off dyno").map(drop)),
                MigrateRun::KubernetesJob(_) | MigrateRun::EcsTask(_) => Ok(()),
            },
            Work::Archive(work) => archive::check(folder, work),
            Work::Backup(work) => backup::check(self.world, folder, work),
            Work::Seed(work) => backup::check_seed(self.world, folder, work),
            Work::Trigger(work) => crate::steps::trigger::check(self.world, &work.values, &work.trigger),
            Work::Release(_) => self.prepared.forge.releases(),
            Work::Lock
            | Work::Tags(_)
            | Work::Record
            | Work::Image(_)
            | Work::After(_)
            | Work::Scan(_)
            | Work::BackMerge(_)
            | Work::Keep
            | Work::Drain(_)
            | Work::Remove(_)
            | Work::RemovePreview => Ok(()),
        }
    }

    /// On a runner that is thrown away, a file holds nobody back: good enough for some places, not for those that people guard.
    fn scope(&self) -> Result<()> {
        let Some(lock) = &self.prepared.plan.lock else { return Ok(()) };
        let plan = &self.prepared.plan;
        if let Some(declared) =
            self.prepared.store.declared().filter(|declared| {
                !plan.is_preview && *declared != plan.display_environment && Some(*declared) != plan.environment.as_deref()
            })
        {
            let sentence = format!(
                "this job has `environment: {declared}`, so its resource group and approvals are not those of {}, which it would deploy to",
                plan.display_environment
            );
            return Err(Error::new(Reason::LockScope, sentence)
                .hint("deploy to each environment in a job of its own; variables of a pipeline win over those of a job: was TIDEGATE_INPUT_ENVIRONMENT set there?"));
        }
        let config = &self.prepared.loaded.config;
        let rules = self.prepared.plan.environment.as_ref().and_then(|name| config.environments.get(name));
        let guarded = rules.is_some_and(|rules| rules.when.as_slice().iter().any(|when| matches!(when, When::Event(WhenEvent::Manual))));
        if guarded && !self.prepared.store.protects(state::is_ci(&self.world.vars)) {
            let (would, hint) = match lock.store {
                Kind::Job => (
                    "this job is in no resource group, which would be its lease",
                    "write `resource_group: NAME` into the job and TIDEGATE_RESOURCE_GROUP: NAME into its variables, as the component does; \
                     or keep the state in s3://bucket/prefix or redis://host",
                ),
                Kind::File | Kind::Forge | Kind::S3 | Kind::Redis => (
                    "its lease would be a file on this runner, which holds back no other run",
                    "write `state: auto` (the forge), s3://bucket/prefix or redis://host",
                ),
            };
            return Err(Error::new(Reason::LockScope, format!("{} is deployed by hand, and {would}", lock.key)).hint(hint));
        }
        Ok(())
    }

    /// Records may be wrong: the registry must still have the images, and every target must still run them.
    async fn still_runs(&self, newest: &Record, report: &mut Report) -> Result<bool> {
        let mut images = BTreeMap::new();
        for (index, planned) in self.prepared.plan.images.iter().enumerate() {
            let Some(recorded) = newest.images.iter().find(|image| image.name == planned.name) else { return Ok(false) };
            let Some(ready) = image::known(&self.job(index)?, &recorded.digest).await? else { return Ok(false) };
            images.insert(planned.name.clone(), ready.pushed.clone());
            if let Ok(mut known) = self.images.lock() {
                known.insert(planned.name.clone(), ready);
            }
        }
        let mut reported = Vec::new();
        let fence = Fence { place: String::new(), number: 0 }; // nothing is changed under it
        for step in &self.prepared.plan.steps {
            let Work::Target(work) = &step.work else { continue };
            let memory = self.ledger.memory_of(&step.id, newest);
            let site = self.site(&step.id, &images, &fence, &memory);
            // Whatever keeps us from looking is met again, and told, by the deploy itself.
            let Ok(Some(settled)) = targets::runs(&site, work).await else { return Ok(false) };
            reported.push(ReportedTarget { id: step.id.clone(), verdict: Verdict::Deployed, detail: settled.detail, url: settled.url });
        }
        report.images.extend(images.iter().map(|(name, pushed)| ReportedImage::of(name, pushed, "reused")));
        let by = newest.by();
        for target in &reported {
            let note = format!("{}; delivered before by {by}", target.detail);
            self.world.console.good(&format!("{:<20} {:>8}  {note}", target.id, ""));
            report.steps.push(done_before(&target.id, &note));
        }
        report.targets = reported;
        report.repeats = true;
        report.deployment_id = newest.deployment;
        Ok(true)
    }
}

fn done_before(id: &str, note: &str) -> ReportedStep {
    ReportedStep { id: id.to_owned(), outcome: StepOutcome::Done, seconds: 0.0, note: note.to_owned() }
}
