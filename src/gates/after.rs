//! `after:` and `soak:`: the very same images must have been delivered elsewhere before, and have run there for long enough.

use crate::error::{Error, Reason, Result};
use crate::state::records::Record;
use crate::state::{Key, Store};
use crate::tools::wait::spoken;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// What must have happened elsewhere.
#[derive(Clone, Debug, Serialize)]
pub struct After {
    /// The environment.
    pub environment: String,
    /// How long they must have run there.
    pub soak: Option<Duration>,
}

/// What runs there, and for how long it has.
struct Found<'a> {
    record: &'a Record,
    since: Timestamp,
    /// A rollback that left it.
    taken_back: Option<&'a Record>,
    /// When something else took its place, and what.
    replaced: Option<(Timestamp, &'a Record)>,
}

/// Asks the records of the other environment. `digests` are the images of this delivery, by key; `(version, here)` are for people.
pub async fn check(
    store: &Store,
    project: &str,
    after: &After,
    digests: &BTreeMap<String, String>,
    (version, here): (&str, &str),
) -> Result<String> {
    let there = &after.environment;
    let wanted = |record: &Record| record.is_deployed() && is_same(record, digests, version);
    let history = store.history_until(&Key::new(project, there), &wanted).await?;
    let Some(found) = find(&history, &wanted) else {
        return Err(Error::new(Reason::GateAfter, missing(&history, version, there))
            .hint(format!("deliver it there first (tidegate deploy {there} {version}); in an emergency: --override after --reason TEXT")));
    };
    let by = format!("delivered to {there} by {} on {}", found.record.who, day(found.since));
    if let Some(back) = found.taken_back {
        let sentence = format!(
            "{version} was taken back from {there} by {} on {}, so it is not good",
            back.who,
            back.begun.chars().take(10).collect::<String>()
        );
        return Err(Error::new(Reason::GateAfter, sentence).hint(format!(
            "deliver another version; if it was good all the same, deliver it to {there} again: tidegate deploy {there} {version}"
        )));
    }
    let Some(soak) = after.soak else { return Ok(by) };
    let now = Timestamp::now();
    let until = found.replaced.map_or(now, |(at, _)| at);
    let ran = Duration::try_from(until.duration_since(found.since)).unwrap_or_default();
    if ran >= soak {
        return Ok(format!("{by}; it ran there for {}", spoken(ran)));
    }
    let (sentence, then) = match found.replaced {
        Some((_, other)) => (
            format!(
                "{version} ran on {there} for {} only, until {} took its place; {here} wants {}",
                spoken(ran),
                other.version,
                spoken(soak)
            ),
            "deliver it there again, and wait".to_owned(),
        ),
        None => (
            format!("{version} has run on {there} for {} by now, and {here} wants {}", spoken(ran), spoken(soak)),
            format!("run this again after {}", minute(found.since.checked_add(soak).unwrap_or(found.since))),
        ),
    };
    Err(Error::new(Reason::GateSoak, sentence).hint(format!("{then}; in an emergency: --override after --reason TEXT")))
}

/// Whether a record is of the very same images; of the same version where there are none.
fn is_same(record: &Record, digests: &BTreeMap<String, String>, version: &str) -> bool {
    let has = |(name, digest): (&String, &String)| record.images.iter().any(|image| image.name == *name && image.digest == *digest);
    if digests.is_empty() { record.version == version } else { digests.iter().all(has) }
}

/// The newest record that is wanted, and what came after it. `history` is newest first.
fn find<'a>(history: &'a [Record], wanted: &dyn Fn(&Record) -> bool) -> Option<Found<'a>> {
    let index = history.iter().position(wanted)?;
    let record = history.get(index)?;
    let ended = |record: &Record| record.ended.as_ref().and_then(|ended| ended.at.parse().ok());
    let newer = history.get(..index).unwrap_or_default();
    // Whatever may run there since then, it is not known that this one does.
    let replaced = newer.iter().rev().find(|record| record.may_run()).and_then(|other| {
        let at = other.journal.iter().find_map(|line| line.at.parse().ok()).or_else(|| other.begun.parse().ok());
        Some((at.or_else(|| ended(other))?, other))
    });
    let taken_back = newer.iter().find(|newer| newer.went_back().is_some_and(|left| left.is_of(record)));
    Some(Found { record, since: ended(record)?, taken_back, replaced })
}

fn missing(history: &[Record], version: &str, there: &str) -> String {
    if let Some(other) = history.iter().find(|record| record.is_deployed() && record.version == version) {
        let digests: Vec<String> = other.digests().iter().map(|digest| head(digest)).collect();
        return format!("{there} had {version} as another image ({}), so this one has not been tried there", digests.join(", "));
    }
    if let Some(tried) = history.iter().find(|record| record.version == version) {
        let how = tried.ended.as_ref().map_or("has not ended".to_owned(), |ended| format!("ended as {}", ended.verdict.name()));
        return format!("{version} has not succeeded on {there}: its delivery by {} {how}", tried.by());
    }
    match history.iter().find(|record| record.is_deployed()) {
        Some(live) => format!("{version} has never been delivered to {there}; {} runs there", live.version),
        None => format!("{version} has never been delivered to {there}; nothing has"),
    }
}

fn head(digest: &str) -> String {
    format!("{}…", digest.chars().take(19).collect::<String>())
}

fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

fn minute(at: Timestamp) -> String {
    at.strftime("%H:%M UTC on %Y-%m-%d").to_string()
}
