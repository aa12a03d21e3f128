//! What a run does around the switch: migrations, pipelines elsewhere, and the removal of a preview.

use super::{Answer, Runner};
use crate::error::{Error, Reason, Result};
use crate::event::short;
use crate::forge::releases::NewRelease;
use crate::plan::{BackMergeWork, MigrateRun, MigrateWork, ReleaseWork, TriggerWork, kept_tag};
use crate::state::records::Did;
use crate::steps::image::Ready;
use crate::steps::trigger;
use crate::targets::{self, Memory, System, kubernetes};
use crate::version::Version;
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
            MigrateRun::EcsTask(task) => targets::ecs::run_off(&site, &work.values, task).await,
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

    /// The release of a hot fix, with its tag.
    pub(super) async fn release(&self, work: &ReleaseWork) -> Result<Answer> {
        let version = self.prepared.decision.version.as_ref();
        let prerelease = version.is_some_and(Version::is_prerelease);
        let new = NewRelease { tag: &work.tag, sha: &work.commit, body: &work.body, prerelease };
        let forge = &self.prepared.forge;
        let made = forge.release(&new).await?;
        let there = forge.tag(&work.tag).await?;
        if there.as_ref() != Some(&work.commit) {
            let there = there.map_or("is not there".to_owned(), |sha| format!("is of {}", short(&sha)));
            let sentence = format!("{} was released, but its tag {there} and not of {}", work.tag, short(&work.commit));
            return Err(Error::new(Reason::TagMoved, sentence).hint("somebody made this tag at the same time: take the next number"));
        }
        Ok(Answer::Note(if made { format!("{} is released", work.tag) } else { format!("{} was released before", work.tag) }))
    }

    /// Everything runs already: that the pull request could not be opened is said, and changes no verdict.
    pub(super) async fn back_merge(&self, work: &BackMergeWork) -> Result<Answer> {
        let (title, body) = (
            format!("Bring {} to {}", work.version, work.base),
            format!("{} was released from {} as a hot fix, and {} does not have it yet.", work.version, work.branch, work.base),
        );
        match self.prepared.forge.back_merge(&work.branch, &work.base, &title, &body).await {
            Ok(url) => Ok(Answer::Note(url)),
            Err(error) => {
                let said = format!("the pull request from {} to {} is not opened: {error}", work.branch, work.base);
                self.world.console.warning(&said);
                Ok(Answer::Note("not opened: open it by hand".into()))
            }
        }
    }

    /// What runs here now, and what ran before, keep a tag of their own. Everything runs already: a registry that refuses is
    /// said, and changes no verdict.
    /// `number` is that of the lease under which it was delivered.
    pub(super) async fn keep(&self, number: u64) -> Result<Answer> {
        let plan = &self.prepared.plan;
        let tag = kept_tag(plan.environment.as_deref().unwrap_or_default());
        let mut said = Vec::new();
        for image in &plan.images {
            let ready = self.made(&image.name)?;
            let prefix = if plan.images.len() == 1 { String::new() } else { format!("{}: ", image.name) };
            match self.keep_image(&ready, (&tag, number)).await {
                Ok(tag) => said.push(format!("{prefix}{tag}")),
                Err(error) => {
                    self.world.console.warning(&format!(
                        "{prefix}{} gets no tag {tag}, so a lifecycle rule may remove it: {error}",
                        ready.pushed.reference()
                    ));
                    said.push(format!("{prefix}not kept"));
                }
            }
        }
        Ok(Answer::Note(said.join("; ")))
    }

    /// Where tags cannot be moved, each delivery has one with its number.
    async fn keep_image(&self, ready: &Ready, (tag, number): (&str, u64)) -> Result<String> {
        let Ready { registry, manifest, .. } = ready;
        let before = registry.manifest(tag).await?;
        if before.as_ref().is_some_and(|before| before.digest == manifest.digest) {
            return Ok(format!("{tag} is there already"));
        }
        if let Some(before) = &before {
            match registry.tag(before, &format!("{tag}-prev")).await {
                Err(error) if error.reason != Reason::VersionConflict => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        match registry.tag(manifest, tag).await {
            Ok(()) => Ok(format!("{tag} → {}", self.prepared.plan.version.as_deref().unwrap_or_default())),
            Err(error) if error.reason == Reason::VersionConflict => {
                let numbered = format!("{tag}-{number}");
                registry.tag(manifest, &numbered).await.map(|()| format!("{numbered} (tags cannot be moved here)"))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn remove_target(&self, id: &str, work: &targets::Work) -> Result<Answer> {
        self.ledger.confirm_lease().await?;
        let (images, memory, fence) = (BTreeMap::new(), self.ledger.memory(id), self.ledger.fence()?);
        let site = self.site(id, &images, &fence, &memory);
        let is_recorded = self.ledger.newest().await.is_some();
        if !is_recorded && matches!(work.system, System::Command(_)) {
            return Ok(Answer::Removed(None)); // a program cannot be asked, and nothing was made by it
        }
        match targets::remove(&site, work).await {
            Err(error) if error.gone && !is_recorded => {
                site.say(&error.sentence); // a namesake of another repository's
                Ok(Answer::Removed(None))
            }
            removed => removed.map(Answer::Removed),
        }
    }
}
