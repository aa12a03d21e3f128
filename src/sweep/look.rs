//! Which previews there are: by the records, and by the marks at the targets.

use super::Scene;
use super::judge::Preview;
use crate::config::Environment;
use crate::error::{Error, Result};
use crate::plan;
use crate::state::records::{Record, may_be_there};
use crate::state::{Key, Kind};
use crate::targets::previews::{Mark, marks};
use crate::variables::Variables;
use crate::world::World;
use futures::stream::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// How many environments are asked about at the same time.
const AT_ONCE: usize = 4;

/// How far a look goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The newest records only: one list, and one question for each preview in it.
    Records,
    /// All that records tell, and what targets have.
    Targets,
}

/// The previews that there are, and what could not be looked at.
pub async fn look(world: &World, scene: &Scene<'_>, variables: &Variables, depth: Depth) -> Result<(Vec<Preview>, Vec<(String, Error)>)> {
    let mut previews = by_records(scene, depth).await?;
    let mut unseen = Vec::new();
    if depth == Depth::Targets {
        for (name, rules) in scene.environments() {
            for (index, work) in plan::removable(scene.event, scene.loaded, name, variables)? {
                match marks(world, &scene.loaded.config.project, &work).await {
                    Ok(found) => found.into_iter().for_each(|mark| add(&mut previews, scene, (name, rules), (index, mark))),
                    Err(error) => unseen.push((format!("{name}, {}", work.system.name()), error)),
                }
            }
        }
    }
    let mut previews: Vec<Preview> = previews.into_values().collect();
    let open = previews.iter().map(|preview| scene.forge.is_open(preview.number));
    let open: Vec<Option<bool>> = futures::stream::iter(open).buffered(AT_ONCE).collect().await;
    previews.iter_mut().zip(open).for_each(|(preview, is_open)| preview.is_open = is_open);
    previews.sort_by_key(|preview| (preview.environment.clone(), preview.number));
    Ok((previews, unseen))
}

/// Those of which a record says that they are there, or may be.
async fn by_records(scene: &Scene<'_>, depth: Depth) -> Result<BTreeMap<String, Preview>> {
    let pages = if depth == Depth::Targets { 10 } else { 1 };
    let places = scene.store.places(&scene.loaded.config.project, pages).await?;
    let could_be = |name: &String| scene.environments().any(|(_, rules)| scene.number_of(rules, name).is_some());
    let looks = places.into_iter().filter(could_be).map(|name| async move {
        let key = Key::new(&scene.loaded.config.project, &name);
        scene.store.history(&key).await.map(|history| of_history(scene, name, &history))
    });
    let found: Vec<Option<Preview>> = futures::stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().map(|preview| (preview.name.clone(), preview)).collect())
}

fn of_history(scene: &Scene<'_>, name: String, history: &[Record]) -> Option<Preview> {
    let newest = history.first().filter(|_| may_be_there(history))?;
    // What the forge keeps is this repository's, whatever it was called.
    let is_shared = matches!(scene.store.kind(), Kind::S3 | Kind::Redis | Kind::File);
    let elsewhere = newest.repository.as_deref().is_some_and(|repository| Some(repository) != scene.forge.repository());
    if is_shared && elsewhere {
        return None; // a project of the same name keeps its records in the same store
    }
    // An environment may have another key by now: then the name tells.
    let named = scene.environments().find(|(key, _)| *key == newest.environment.as_str());
    let fits = || scene.environments().find(|(_, rules)| scene.number_of(rules, &name).is_some());
    let (environment, rules) = named.or_else(fits)?;
    let number = scene.number_of(rules, &name)?;
    let at = newest.ended.as_ref().map_or(&newest.begun, |ended| &ended.at);
    Some(Preview { since: at.parse().ok(), newest: Some(newest.key.clone()), ..scene.preview(environment, &name, number) })
}

/// A mark counts when it names a preview of this file, and a record or the mark itself says that it is of this repository.
fn add(
    previews: &mut BTreeMap<String, Preview>,
    scene: &Scene<'_>,
    (environment, rules): (&str, &Environment),
    (index, mark): (usize, Mark),
) {
    let Mark { environment: name, repository, place, since } = mark;
    let Some(number) = scene.number_of(rules, &name) else { return };
    let ours = match &repository {
        Some(repository) => scene.forge.repository().is_some_and(|here| repository.eq_ignore_ascii_case(here)),
        None => previews.contains_key(&name),
    };
    if !ours {
        return;
    }
    let known = previews.entry(name.clone()).or_insert_with(|| scene.preview(environment, &name, number));
    if known.environment == environment {
        let later = |one: Option<Timestamp>, other: Option<Timestamp>| one.max(other);
        known.since = if known.newest.is_some() { known.since } else { later(known.since, since) };
        known.found.push((index, place));
    }
}
