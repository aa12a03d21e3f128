//! What a run does around the switch: migrations, pipelines elsewhere, and the removal of a preview.

use super::{Answer, Runner};
use crate::error::{Error, Reason, Result};
use crate::plan::{MigrateRun, MigrateWork, TriggerWork};
use crate::state::records::Did;
use crate::steps::trigger;
use crate::targets::{self, Memory, System, kubernetes};
use std::collections::BTreeMap;

impl Runner<'_> {
    pub(super) async fn migrate(&self, id: &str, work: &MigrateWork) -> Result<Answer> {
        let fence = self.may_switch(id).await?;
        let (images, memory) = (self.pushed(), self.ledger.memory(id));
        let site = self.site(id, &images, &fence, &memory);
        if memory.is_done().await {
            return Ok(Answer::Note("the run before did it to the end".into()));
        }
        let values = site.values(&work.values);
        let said = match &work.run {
            MigrateRun::KubernetesJob(job) => {
                let image = images.get(&job.image).ok_or_else(|| Error::new(Reason::Internal, "a migration without an image"))?;
                kubernetes::job::run(&site, job, image, &values).await
            }
            MigrateRun::HerokuRun(run) => {
                let released = self.released_to(&run.app).await;
                targets::heroku::run_off(&site, &values, run, released).await
            }
            MigrateRun::Command(command) => {
                targets::command::run(&site, &values, command, "migrate").await.map(|()| "it ended with exit code 0".to_owned())
            }
        };
        let said = said.map_err(|error| {
            let reason = if error.reason == Reason::TargetFailed { Reason::MigrationFailed } else { error.reason };
            Error { reason, ..error }
        })?;
        memory.note_done().await?;
        Ok(Answer::Note(said))
    }

    /// The release that this delivery made of a Heroku app, by the journal of its step.
    async fn released_to(&self, app: &str) -> Option<u64> {
        let is_there = |work: &targets::Work| matches!(&work.system, System::Heroku(heroku) if heroku.app == app);
        let step = self.prepared.plan.steps.iter().rev().find(|step| step.work.target().is_some_and(is_there))?;
        targets::heroku::version_in(self.ledger.memory(&step.id).started().await.as_deref())
    }

    pub(super) async fn trigger(&self, id: &str, work: &TriggerWork) -> Result<Answer> {
        self.ready.get_or_init(|| self.last_looks()).await.clone()?;
        self.ledger.confirm().await?; // nothing older is sent over what is newer
        self.ledger.note(id, Did::Switching).await?;
        let (images, memory, fence) = (self.pushed(), self.ledger.memory(id), self.ledger.fence()?);
        if memory.is_done().await {
            return Ok(Answer::Note("the run before did it to the end".into()));
        }
        let site = self.site(id, &images, &fence, &memory);
        let values = site.values(&work.values);
        let started = trigger::run(&site, &values, &work.trigger).await?;
        site.note_done().await?;
        Ok(Answer::Triggered(started))
    }

    pub(super) async fn remove_target(&self, id: &str, work: &targets::Work) -> Result<Answer> {
        self.ledger.confirm_lease().await?;
        let (images, memory, fence) = (BTreeMap::new(), self.ledger.memory(id), self.ledger.fence()?);
        let site = self.site(id, &images, &fence, &memory);
        Ok(Answer::Removed(targets::remove(&site, work).await?))
    }
}
