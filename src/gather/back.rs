//! Where a rollback leads: what the records of an environment say ran there before, and was good.

use crate::config::Config;
use crate::context::Back;
use crate::error::{Error, Reason, Result};
use crate::event::{Event, is_full_sha, short};
use crate::gates::quarantine::Quarantined;
use crate::state::records::{Left, Record};
use crate::state::{Key, Store};
use crate::version::Version;
use jiff::Timestamp;
use std::sync::Mutex;

/// The last good delivery before what runs now, or the one of a version.
pub async fn back(store: &Store, (config, event): (&Config, &Event), environment: &str, to: Option<&str>) -> Result<Back> {
    let to = to.map(|to| named(config, to)).transpose()?;
    let now = Timestamp::now();
    let quarantined = store.quarantined(&config.project).await?.into_iter().filter(|entry| entry.holds(now)).collect();
    let search = Mutex::new(Search { to, quarantined, run: event.more.run.id.clone(), ..Search::default() });
    let enough = |record: &Record| search.lock().is_ok_and(|mut search| search.see(record));
    store.history_until(&Key::new(&config.project, environment), &enough).await?;
    search.into_inner().unwrap_or_default().end(environment)
}

/// A version as `deploy` takes it: a tag, a version, or a whole commit, which stands for its first digits.
pub fn named(config: &Config, said: &str) -> Result<Version> {
    let said = said.trim();
    match is_full_sha(said) {
        true => Version::parse(&short(said)),
        false => Version::parse(config.bare_tag(said).unwrap_or(said)),
    }
}

/// A look through records, newest first.
#[derive(Default)]
struct Search {
    to: Option<Version>,
    quarantined: Vec<Quarantined>,
    /// The run that asks.
    run: Option<String>,
    /// What runs, or may run.
    live: Option<Record>,
    found: Option<Record>,
    /// What somebody went back from: that is not good.
    left: Vec<Left>,
    /// A delivery since the one that is looked for, after which older versions cannot live with the database.
    migrated: Option<String>,
    /// Versions that would do but for the quarantine.
    held: Vec<Quarantined>,
    /// Versions that were delivered, for a person who asks for another one.
    known: Vec<String>,
}

impl Search {
    /// Whether this is the one.
    fn see(&mut self, record: &Record) -> bool {
        let is_live = self.live.is_none() && record.may_run();
        self.left.extend(record.went_back().cloned());
        if is_live {
            self.live = Some(record.clone());
            if record.left.is_none() || record.is_deployed() {
                self.left.push(Left { version: record.version.clone(), images: record.images.clone() });
            } // else a rollback did not get to its end: it leads where it led
            let same_run = record.run.as_ref().is_some_and(|run| Some(&run.id) == self.run.as_ref());
            let same_wish = self.to.as_ref().is_none_or(|to| to.as_str() == record.version);
            if record.left.is_some() && record.is_deployed() && same_run && same_wish {
                self.found = Some(record.clone()); // this very run, tried again
                return true;
            }
        }
        let fits = self.live.is_some() && !is_live && record.is_deployed() && self.is_wanted(record);
        if fits {
            self.found = Some(record.clone());
            return true;
        }
        if record.is_deployed() && !self.known.contains(&record.version) {
            self.known.push(record.version.clone());
        }
        if self.migrated.is_none() && record.has_broken() {
            self.migrated = Some(record.version.clone());
        }
        false
    }

    fn is_wanted(&mut self, record: &Record) -> bool {
        let wanted = match &self.to {
            Some(to) => record.version == to.as_str(),
            None => !self.left.iter().any(|left| left.is_of(record)),
        };
        let digests = record.digests();
        let held = self.quarantined.iter().find(|entry| digests.contains(&entry.digest));
        if let (true, Some(held)) = (wanted, held) {
            self.held.push(held.clone());
            return false;
        }
        wanted
    }

    fn end(self, environment: &str) -> Result<Back> {
        let Self { to, live, found, migrated, held, known, .. } = self;
        let Some(live) = live else {
            return Err(Error::new(Reason::InputVersion, format!("nothing was ever delivered to {environment}, so there is no way back"))
                .hint("is this the right project, and the right store (`state:`)? `tidegate status` shows what is known"));
        };
        if let Some(to) = to.as_ref().filter(|to| to.as_str() == live.version && live.is_deployed()) {
            return Err(Error::new(Reason::InputVersion, format!("{to} is what runs on {environment}")).hint("`tidegate status` shows it"));
        }
        if let Some(to) = found {
            // A rollback that is gone on with leaves what it left.
            let left = live.left.clone().filter(|_| !live.is_deployed() || to.key == live.key);
            let left = left.unwrap_or_else(|| Left { version: live.version.clone(), images: live.images.clone() });
            return Ok(Back { to, live: live.key, left, migrated });
        }
        if let Some(held) = held.first() {
            let hint = format!("to take it out: tidegate quarantine {} --lift --reason TEXT", held.digest);
            return Err(Error::new(Reason::GateQuarantined, held.sentence()).hint(hint));
        }
        let by_name = to.is_some();
        let sentence = match to {
            Some(to) => format!("{to} was not delivered to {environment}, as far back as its records go"),
            None => {
                let why = if known.len() > 1 { ": what else was delivered there was gone back from" } else { "" };
                format!("there is nothing good before {} on {environment}{why}", live.version)
            }
        };
        let hint = match (known.is_empty(), by_name) {
            (true, _) => "no delivery there has ended well".to_owned(),
            (false, false) if known.len() > 1 => {
                format!(
                    "delivered there: {}; `tidegate rollback {environment} --to VERSION` takes one of them all the same",
                    known.join(", ")
                )
            }
            (false, _) => {
                format!("delivered there: {}; any other version goes by `tidegate deploy {environment} VERSION`", known.join(", "))
            }
        };
        Err(Error::new(Reason::InputVersion, sentence).hint(hint))
    }
}
