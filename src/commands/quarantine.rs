//! `tidegate quarantine`: images that must not be deployed again, by digest or by the version that records know.

use super::lock::At;
use super::place::Place;
use crate::cli::Format;
use crate::config::Span;
use crate::error::{Error, Reason, Result};
use crate::gates::quarantine::{Lifted, Quarantined};
use crate::gather;
use crate::inputs::Inputs;
use crate::state::Key;
use crate::state::records::Record;
use crate::world::World;
use jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many records after the newest of a version are looked at for more of its images.
const FURTHER: usize = 20;

/// `quarantine`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A digest (sha256:…), or a version that was delivered; without one, what is in quarantine is shown
    #[arg(value_name = "DIGEST|VERSION")]
    what: Option<String>,
    /// Why, for those who want to deploy it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// How long, as 7d, or until when, as 2026-12-24 or 2026-12-24T12:00Z (default: until it is taken out)
    #[arg(long, value_name = "TIME", value_parser = until)]
    until: Option<Until>,
    /// Take it out
    #[arg(long)]
    lift: bool,
    /// What stdout gets
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    at: At,
}

/// The end of a quarantine.
#[derive(Clone, Copy, Debug)]
enum Until {
    After(Span),
    At(Timestamp),
}

fn until(text: &str) -> std::result::Result<Until, String> {
    let day = || jiff::civil::Date::strptime("%Y-%m-%d", text).ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let minute = || jiff::civil::DateTime::strptime("%Y-%m-%dT%H:%MZ", text).ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    if let Some(at) = day().or_else(minute) {
        return Ok(Until::At(at.timestamp()));
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(Until::At(at));
    }
    super::drain::span(text).map(Until::After).map_err(|_why| "write 7d, 2026-12-24 or 2026-12-24T12:00Z".into())
}

/// Does it; what stdout gets.
pub async fn run(world: &World, args: &Args) -> Result<Option<String>> {
    let place = Place::of(world, &args.at.file, &args.at.facts)?;
    let Some(what) = &args.what else { return list(world, &place, args).await };
    let reason =
        args.reason.as_deref().or_else(|| Inputs::of(&world.vars).text("reason")).map(str::trim).filter(|reason| !reason.is_empty());
    let reason = reason.ok_or_else(|| {
        Error::new(Reason::InputInvalid, "--reason is missing").hint("those who are held back by it want to know why: --reason TEXT")
    })?;
    let now = Timestamp::now();
    let until = match args.until {
        Some(Until::At(at)) => Some(at),
        Some(Until::After(span)) => now.checked_add(span.0).ok(),
        None => None,
    };
    if until.is_some_and(|until| until <= now) {
        return Err(Error::new(Reason::InputInvalid, "--until is over already").hint("name a time to come"));
    }
    let who = place.event.actor.clone().unwrap_or_else(|| "somebody".into());
    let (version, digests) = digests(&place, what).await?;
    let known = place.store.quarantined(&place.loaded.config.project).await?;
    for digest in digests {
        let held = known.iter().find(|entry| entry.digest == digest && entry.holds(now));
        let entry = match (args.lift, held) {
            (true, None) => {
                world.console.line(&format!("{digest} is in no quarantine"));
                continue;
            }
            (true, Some(held)) => {
                Quarantined { lifted: Some(Lifted { who: who.clone(), at: now, reason: reason.to_owned() }), ..held.clone() }
            }
            (false, _) => Quarantined {
                schema: 1,
                digest,
                version: version.clone(),
                reason: reason.to_owned(),
                who: who.clone(),
                at: now,
                until,
                lifted: None,
            },
        };
        place.store.quarantine(&place.loaded.config.project, &entry).await?;
        world.console.good(&match args.lift {
            true => format!("{} may be deployed again", entry.digest),
            false => format!("{}; every deploy of it is refused from now on", entry.sentence()),
        });
    }
    Ok(None)
}

/// The digests of a version that was delivered anywhere, or the one that is named.
async fn digests(place: &Place, what: &str) -> Result<(Option<String>, Vec<String>)> {
    let hex = what.strip_prefix("sha256:");
    if let Some(hex) = hex {
        let is_whole = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
        return match is_whole {
            true => Ok((None, vec![what.to_owned()])),
            false => {
                Err(Error::new(Reason::InputInvalid, format!("{what:?} is no digest")).hint("write all of it: sha256: and 64 hex digits"))
            }
        };
    }
    let version = gather::named(&place.loaded.config, what)?;
    let is_it = |record: &Record| record.version == version.as_str() && !record.images.is_empty();
    let (mut digests, mut imageless) = (BTreeSet::new(), false);
    for (_, name) in place.names().await? {
        let key = Key::new(&place.loaded.config.project, &name);
        // It may have been delivered as more than one image: a little further back than the newest of them.
        let further = AtomicUsize::new(0);
        let enough = |record: &Record| {
            let seen = further.load(Ordering::SeqCst);
            let seen = if seen > 0 || is_it(record) { further.fetch_add(1, Ordering::SeqCst) } else { 0 };
            seen >= FURTHER
        };
        let history = place.store.history_until(&key, &enough).await?;
        imageless |= history.iter().any(|record| record.version == version.as_str() && record.images.is_empty());
        digests.extend(history.iter().filter(|record| is_it(record)).flat_map(Record::digests));
    }
    if digests.is_empty() && imageless {
        let sentence = format!("{version} was delivered without an image, and a quarantine is about images");
        return Err(Error::new(Reason::InputVersion, sentence).hint("keep it out by a freeze, or by the program that deploys it"));
    }
    if digests.is_empty() {
        return Err(Error::new(Reason::InputVersion, format!("no record knows {version}"))
            .hint("name its digest (sha256:…): the comment, the report and the registry show it"));
    }
    Ok((Some(version.to_string()), digests.into_iter().collect()))
}

async fn list(world: &World, place: &Place, args: &Args) -> Result<Option<String>> {
    let now = Timestamp::now();
    let all = place.store.quarantined(&place.loaded.config.project).await?;
    let held: Vec<&Quarantined> = all.iter().filter(|entry| entry.holds(now)).collect();
    if args.format == Format::Json {
        return Ok(Some(format!("{:#}\n", json!({"schema": 1, "quarantine": held}))));
    }
    if held.is_empty() {
        world.console.line("nothing is in quarantine");
    }
    held.iter().for_each(|entry| world.console.line(&entry.sentence()));
    Ok(None)
}
