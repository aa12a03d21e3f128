//! Copies of an image in further registries: the same bytes, the same digest, the same tags.

use super::aliases;
use super::image::{Job, Ready};
use crate::error::{Error, Reason, Result};
use crate::registry::Repository;
use crate::registry::copy::{self, Destination};
use crate::registry::store::Store;
use crate::report::size;

/// Sends the image to each further repository under its version; one sentence for each.
pub async fn send(job: &Job<'_>, ready: &Ready) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for repository in &job.image.build.copies {
        said.push(one(job, ready, repository).await.map_err(|error| told(error, repository))?);
    }
    Ok(said)
}

async fn one(job: &Job<'_>, ready: &Ready, repository: &Repository) -> Result<String> {
    let version = job.image.build.version.as_str();
    let store = Store::open(job.world, repository, job.role.clone()).await?;
    let digest = &ready.manifest.digest;
    match store.oci().digest(version).await? {
        Some(there) if there == *digest => return Ok(format!("{repository} has it already")),
        Some(there) => {
            let sentence = format!("{} exists already with another digest", repository.tagged(version));
            return Err(Error::new(Reason::VersionConflict, sentence)
                .detail(vec![format!("there:  {there}"), format!("wanted: {digest}")])
                .hint("a version never changes: if the tag is a mistake, delete it from that registry by hand"));
        }
        None => {}
    }
    let near = (repository.host == ready.pushed.repository.host).then_some(&ready.pushed.repository);
    let to = Destination { oci: store.oci(), tag: version, near };
    let (blobs, bytes) = copy::whole(&job.world.clock, &ready.registry, &ready.manifest, &to).await?;
    Ok(format!("copied to {repository}: {blobs} blobs sent, {}", size(bytes)))
}

/// Gives the further repositories the aliases that are the image's in the first one.
pub async fn follow_aliases(job: &Job<'_>, ready: &Ready, ours: &[&String]) -> Result<()> {
    for repository in &job.image.build.copies {
        let store = Store::open(job.world, repository, job.role.clone()).await?;
        for alias in ours {
            let there = store.oci().digest(alias).await.map_err(|error| told(error, repository))?;
            if there.as_deref() != Some(&ready.manifest.digest) {
                aliases::put(job, &store, &ready.manifest, alias).await.map_err(|error| told(error, repository))?;
            }
        }
    }
    Ok(())
}

/// Which of several registries it was.
fn told(error: Error, repository: &Repository) -> Error {
    let named = error.sentence.contains(&repository.path) || error.sentence.contains(&repository.host);
    let sentence = if named { error.sentence.clone() } else { format!("{repository}: {}", error.sentence) };
    Error { sentence, ..error }
}
