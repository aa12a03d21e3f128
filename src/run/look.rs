//! Whether targets still run what the records say: asked by `tidegate status --targets`. Changes nothing.

use super::Runner;
use super::ledger::Ledger;
use crate::delivery::Prepared;
use crate::error::{Error, Reason, Result};
use crate::plan::Work;
use crate::registry::store::Store;
use crate::registry::{Pushed, Repository};
use crate::state::records::Record;
use crate::targets::{self, Fence, Settled};
use crate::world::World;
use std::collections::BTreeMap;

/// What one target answers: the proof that it runs that, nothing when it does not, or why it cannot be said.
pub struct Seen {
    /// The step's id.
    pub id: String,
    /// The answer.
    pub answer: Result<Option<Settled>>,
}

/// Asks every target of a plan about the images of a record.
pub async fn look(world: &World, prepared: &Prepared, record: &Record) -> Vec<Seen> {
    let ledger = Ledger::new(world, prepared);
    let runner = Runner::new(world, prepared, &ledger);
    let images = runner.recorded(record).await;
    let fence = Fence { place: String::new(), number: 0 }; // nothing is changed under it
    let mut seen = Vec::new();
    for step in &prepared.plan.steps {
        let Work::Target(work) = &step.work else { continue };
        let answer = match &images {
            Ok(images) => {
                let memory = ledger.memory_of(&step.id, record);
                targets::runs(&runner.site(&step.id, images, &fence, &memory), work).await
            }
            Err(error) => Err(error.clone()),
        };
        seen.push(Seen { id: step.id.clone(), answer });
    }
    seen
}

impl Runner<'_> {
    /// The images of a record, by their digests, as the registry has them.
    async fn recorded(&self, record: &Record) -> Result<BTreeMap<String, Pushed>> {
        let mut images = BTreeMap::new();
        for image in &record.images {
            let (name, _) = image.r#ref.split_once('@').unwrap_or((&image.r#ref, ""));
            let (repository, tag) = name.rsplit_once(':').unwrap_or((name, ""));
            let config = &self.prepared.loaded.config;
            let rules = self.prepared.plan.environment.as_ref().and_then(|name| config.environments.get(name));
            let store = Store::open(self.world, &Repository::parse(repository)?, config.role(rules).cloned()).await?;
            let manifest = store
                .by_digest(&image.digest)
                .await?
                .ok_or_else(|| Error::new(Reason::InputVersion, format!("{} is not in {repository} any more", image.digest)))?;
            let about = store.about(&manifest).await?;
            images.insert(image.name.clone(), store.pushed(tag, &manifest, &about));
        }
        Ok(images)
    }
}
