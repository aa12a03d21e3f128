//! Aliases such as `latest` or `1.4` move forward only: never to a lower version, never to a pre-release.

use super::image::Job;
use crate::checkout::{Ancestry, Checkout};
use crate::error::{Reason, Result};
use crate::event::short;
use crate::registry::oci::Manifest;
use crate::registry::store::{REVISION_LABEL, Store};
use crate::version::Version;
use std::cmp::Ordering;

/// Whether an alias may move, and why not.
enum Move {
    Yes,
    Already,
    No(String),
}

/// Whether an alias has to be moved to this manifest. Changes nothing.
pub async fn is_needed(job: &Job<'_>, store: &Store, manifest: &Manifest) -> Result<bool> {
    Ok(decide(job, store, manifest).await?.iter().any(|(_, decision)| matches!(decision, Move::Yes)))
}

/// What became of an image's aliases.
pub struct Advanced<'a> {
    /// In one line.
    pub said: String,
    /// Those that are this manifest's now.
    pub ours: Vec<&'a String>,
}

/// Moves the image's aliases to this manifest where that is forward.
pub async fn advance<'a>(job: &Job<'a>, store: &Store, manifest: &Manifest) -> Result<Advanced<'a>> {
    let (mut said, mut ours) = (Vec::new(), Vec::new());
    for (alias, decision) in decide(job, store, manifest).await? {
        let (is_ours, words) = match decision {
            Move::Already => (true, format!("{alias} is there already")),
            Move::No(why) => (false, format!("{alias} stays where it is: {why}")),
            Move::Yes if put(job, store, manifest, alias).await? => (true, format!("{alias} → {}", job.image.build.version)),
            Move::Yes => (false, format!("{alias} stays where it is: it cannot be moved")),
        };
        ours.extend(is_ours.then_some(alias));
        said.push(words);
    }
    Ok(Advanced { said: said.join("; "), ours })
}

/// Gives the manifest an alias; whether the registry lets it be moved. The deploy does not need it: that is said, and it goes on.
pub async fn put(job: &Job<'_>, store: &Store, manifest: &Manifest, alias: &str) -> Result<bool> {
    match store.tag(manifest, alias).await {
        Ok(()) => Ok(true),
        Err(error) if error.reason == Reason::VersionConflict => {
            job.world.console.warning(&error.to_string());
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn decide<'a>(job: &Job<'a>, store: &Store, manifest: &Manifest) -> Result<Vec<(&'a String, Move)>> {
    let aliases: Vec<&String> = job.image.tags.iter().skip(1).collect();
    let version = &job.image.build.version;
    let released = if version.is_semver() && !aliases.is_empty() { store.tags().await? } else { Vec::new() };
    let mut decided = Vec::new();
    for alias in aliases {
        let decision = match version.is_semver() {
            true => match by_version(version, alias, &released) {
                // A run that is repeated writes nothing.
                Move::Yes
                    if released.contains(alias) && store.manifest(alias).await?.is_some_and(|there| there.digest == manifest.digest) =>
                {
                    Move::Already
                }
                decision @ (Move::Yes | Move::Already | Move::No(_)) => decision,
            },
            false => by_ancestry(job, store, manifest, alias).await?,
        };
        decided.push((alias, decision));
    }
    Ok(decided)
}

fn by_version(version: &Version, alias: &str, released: &[String]) -> Move {
    if version.is_prerelease() {
        return Move::No(format!("{version} is a pre-release"));
    }
    let same_series = |other: &Version| other.claims_alias(alias) && !other.is_prerelease();
    let others = released.iter().filter_map(|tag| Version::parse(tag).ok()).filter(same_series);
    let higher =
        others.filter(|other| other.order(version) == Some(Ordering::Greater)).max_by(|a, b| a.order(b).unwrap_or(Ordering::Equal));
    match higher {
        Some(higher) => Move::No(format!("{higher} is released and higher than {version}")),
        None => Move::Yes,
    }
}

/// A merge has no number: what the alias points to must be contained in the new commit.
async fn by_ancestry(job: &Job<'_>, store: &Store, manifest: &Manifest, alias: &str) -> Result<Move> {
    let Some(current) = store.manifest(alias).await? else { return Ok(Move::Yes) };
    if current.digest == manifest.digest {
        return Ok(Move::Already);
    }
    let about = store.about(&current).await?;
    let (Some(old), Some(new)) = (about.labels.get(REVISION_LABEL), &job.image.build.commit) else {
        return Ok(Move::No("it cannot be said which commit it points to".into()));
    };
    let by_git = Checkout::at(job.folder).ancestry(new, old);
    let relation = match by_git {
        Some(relation) => Some(relation),
        None => job.forge.compare(old, new).await?,
    };
    Ok(match relation {
        Some(Ancestry::Newer | Ancestry::Same) => Move::Yes,
        Some(Ancestry::Diverged) if job.forced => Move::Yes,
        Some(Ancestry::Older) => Move::No(format!("it points to {}, which is newer than {}", short(old), short(new))),
        Some(Ancestry::Diverged) => Move::No(format!("it points to {}, which is on another branch", short(old))),
        None => Move::No(format!(
            "it cannot be said whether {} is newer than {} (a token or `fetch-depth: 0` would tell)",
            short(new),
            short(old)
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moves(version: &str, alias: &str, released: &[&str]) -> bool {
        let released: Vec<String> = released.iter().map(|tag| (*tag).to_owned()).collect();
        matches!(by_version(&Version::parse(version).unwrap(), alias, &released), Move::Yes)
    }

    #[test]
    fn aliases_never_go_back() {
        assert!(moves("1.4.2", "latest", &["1.4.1", "1.4.2", "366701f"]));
        assert!(!moves("1.4.3", "latest", &["1.5.0"]), "a backport is not the latest");
        assert!(moves("1.4.3", "1.4", &["1.5.0"]), "but it is the newest 1.4");
        assert!(!moves("1.4.3", "1", &["1.5.0"]));
        assert!(!moves("2.0.0-rc.1", "latest", &["1.5.0"]), "never to a pre-release");
        assert!(moves("1.5.0", "latest", &["2.0.0-rc.1"]), "a pre-release does not hold it back");
        assert!(moves("1.10.0", "latest", &["1.9.0"]), "numbers, not letters");
    }
}
