//! Where a rollback leads: what the records of an environment say ran there before, and was good.

use crate::context::Back;
use crate::error::{Error, Reason, Result};
use crate::gates::quarantine::Quarantined;
use crate::state::records::Record;
use crate::state::{Key, Store};
use crate::version::Version;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::sync::Mutex;

/// The last good delivery before what runs now, or the one of a version.
pub async fn back(store: &Store, project: &str, environment: &str, to: Option<&str>) -> Result<Back> {
    let to = to.map(|to| Version::parse(to.trim())).transpose()?;
    let now = Timestamp::now();
    let quarantined = store.quarantined(project).await?.into_iter().filter(|entry| entry.holds(now)).collect();
    let search = Mutex::new(Search { to, quarantined, ..Search::default() });
    let enough = |record: &Record| search.lock().is_ok_and(|mut search| search.see(record));
    store.history_until(&Key::new(project, environment), &enough).await?;
    search.into_inner().unwrap_or_default().end(environment)
}

/// A look through records, newest first.
#[derive(Default)]
struct Search {
    to: Option<Version>,
    quarantined: Vec<Quarantined>,
    /// What runs, or may run.
    live: Option<Record>,
    found: Option<Record>,
    /// What somebody went back from: that is not good.
    left: BTreeSet<String>,
    /// A delivery that migrated the database since the one that is looked for.
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
        if is_live {
            self.left.insert(identity(record));
            self.live = Some(record.clone());
        }
        if let Some(before) = record.replaces.as_ref().filter(|_| record.back) {
            self.left.insert(if before.digests.is_empty() { before.version.clone() } else { before.digests.join(" ") });
        }
        let fits = self.live.is_some() && !is_live && record.is_deployed() && self.is_wanted(record);
        if fits {
            self.found = Some(record.clone());
            return true;
        }
        if record.is_deployed() && !self.known.contains(&record.version) {
            self.known.push(record.version.clone());
        }
        if self.migrated.is_none() && record.journal.iter().any(|line| line.step == "migrate") {
            self.migrated = Some(record.version.clone());
        }
        false
    }

    fn is_wanted(&mut self, record: &Record) -> bool {
        let wanted = match &self.to {
            Some(to) => record.version == to.as_str(),
            None => !self.left.contains(&identity(record)),
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
            return Ok(Back { to, from: live.version, migrated });
        }
        if let Some(held) = held.first() {
            let hint = format!("to take it out: tidegate quarantine {} --lift --reason TEXT", held.digest);
            return Err(Error::new(Reason::GateQuarantined, held.sentence()).hint(hint));
        }
        let sentence = match to {
            Some(to) => format!("{to} was not delivered to {environment}, as far back as its records go"),
            None => format!("there is nothing good before {} on {environment}", live.version),
        };
        let hint = match known.is_empty() {
            true => "no delivery there has ended well".to_owned(),
            false => format!("delivered there: {}; any other version goes by `tidegate deploy {environment} VERSION`", known.join(", ")),
        };
        Err(Error::new(Reason::InputVersion, sentence).hint(hint))
    }
}

/// What is deployed, whatever it is called.
fn identity(record: &Record) -> String {
    let digests = record.digests();
    if digests.is_empty() { record.version.clone() } else { digests.join(" ") }
}
