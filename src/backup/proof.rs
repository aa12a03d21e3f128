//! Whether a dump is worth its name; then the name, what stands beside it, and which older ones go.

use super::bucket::Object;
use super::take::{Filled, Job};
use super::{keep, name};
use crate::config::Source;
use crate::error::{Error, Reason, Result};
use crate::report::size;
use crate::version::hex;
use std::collections::BTreeMap;
use std::time::Duration;

impl Job<'_> {
    /// Whether the dump can be what the database is.
    pub(super) fn worth(&self, filled: &Filled) -> Result<()> {
        let (seen, check) = (&filled.seen, &self.work.backup.check);
        let small = |what: String| Error::new(Reason::BackupFailed, format!("the dump of {} is not whole: {what}", self.origin.place));
        if let (Some(has), Some(holds)) = (self.origin.survey.tables, seen.tables) {
            let lacks = if filled.counts_all { holds < has } else { holds == 0 && has > 0 };
            if lacks {
                return Err(small(format!("it holds {holds} tables, and the database has {has}"))
                    .hint("may the login read all of them? Tables that were made or dropped just now are counted right in the next run"));
            }
        }
        if seen.bytes < check.min_bytes {
            return Err(small(format!("it has {} bytes, less than {} (`min-bytes`)", seen.bytes, check.min_bytes)));
        }
        let before = self.before.as_ref().and_then(|before| before.metadata.get("raw-bytes")?.parse::<u64>().ok());
        if let Some(before) = before {
            let floor = before / 100 * u64::from(check.min_share);
            if seen.bytes < floor {
                let share = seen.bytes.saturating_mul(100) / before.max(1);
                let sizes = format!("{} now, {} before", size(seen.bytes), size(before));
                return Err(small(format!("it is {share} % of the one before ({sizes}), less than {} % (`min-share`)", check.min_share))
                    .hint(
                        "was so much removed on purpose? Then say so once: `check: {min-share: 0}`, or --override backup --reason TEXT",
                    ));
            }
        }
        Ok(())
    }

    /// The final name, with all that is known of it.
    pub(super) async fn name(&self, filled: &Filled) -> Result<(String, Object)> {
        let mut values = self.work.values.clone();
        let ext = format!("{}{}", filled.ext, self.work.backup.compression().ending());
        values.set("migration", self.origin.survey.migration.clone());
        values.set("ext", Some(ext.clone()));
        let (mut now, mut key) = (jiff::Timestamp::now(), String::new());
        for _ in 0..3 {
            now = jiff::Timestamp::now();
            values.set("time", Some(now.strftime("%Y-%m-%d--%H-%M-%S").to_string()));
            key = format!("{}{}", self.work.place.prefix, name::fill(&self.work.name, &values)?);
            if self.begun.bucket.head(&key).await?.is_none() {
                break;
            }
            self.maker.world.clock.sleep(Duration::from_secs(1)).await; // another one of this very second
        }
        if self.begun.bucket.head(&key).await?.is_some() {
            let sentence = format!("{}: there is an object of this name already", self.begun.bucket.url(&key));
            return Err(Error::new(Reason::BackupFailed, sentence).hint("names must differ: `name:` holds {time}"));
        }
        let metadata = self.metadata(filled, &now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let name = |key: Option<String>| self.begun.naming.lock().map(|mut naming| *naming = key).is_ok();
        name(Some(key.clone())); // whoever is broken off here takes it back
        let object = self.begun.bucket.rename(&self.begun.upload.key, &key, &filled.sent, &metadata).await?;
        name(None);
        Ok((key, object))
    }

    /// What stands beside the object: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html> (2 KB, ASCII).
    pub(super) fn metadata(&self, filled: &Filled, taken: &str) -> BTreeMap<String, String> {
        let Self { work, origin, maker, .. } = self;
        let value = |name: &str| work.values.get(name).unwrap_or_default().to_owned();
        // What comes back is compared with it: where arguments leave tables out nobody knows how many those are.
        let tables = if filled.counts_all || origin.survey.tables.is_none() { origin.survey.tables.or(filled.seen.tables) } else { None };
        let facts = [
            ("tidegate", "1".to_owned()),
            ("project", value("project")),
            ("environment", value("environment")),
            ("app", work.app().to_owned()),
            ("version", value("version")),
            ("commit", value("commit")),
            ("branch", value("branch_slug")),
            ("taken", taken.to_owned()),
            ("source", work.backup.source().map(Source::name).unwrap_or_default().to_owned()),
            ("engine", format!("{} {}", origin.survey.engine, origin.survey.version).trim().to_owned()),
            ("tool", filled.tool.clone()),
            ("format", filled.ext.clone()),
            ("compress", work.backup.compression().name().to_owned()),
            ("migration", origin.survey.migration.clone().unwrap_or_default()),
            ("tables", tables.map(|tables| tables.to_string()).unwrap_or_default()),
            ("raw-bytes", filled.seen.bytes.to_string()),
            ("bytes", filled.sent.bytes.to_string()),
            ("sha256", hex(&filled.sent.sha256)),
            ("by", maker.by.clone()),
        ];
        let plain = |text: &str| {
            text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(120).collect::<String>().trim().to_owned()
        };
        facts.into_iter().map(|(name, value)| (name.to_owned(), plain(&value))).filter(|(_, value)| !value.is_empty()).collect()
    }

    /// Removes those that neither rule keeps. The new one is good already: what cannot be removed is said, and no failure.
    pub(super) async fn forget(&self) -> Vec<String> {
        let Some(keep) = self.work.backup.keep else { return Vec::new() };
        let console = &self.maker.world.console;
        let family = self.work.family(&self.begun.bucket).await; // once more, with the new one: ages are by one clock
        let family = family.unwrap_or_else(|error| {
            console.warning(&format!("old backups are not looked at: {error}"));
            Vec::new()
        });
        let mut removed = Vec::new();
        for old in keep::surplus(&family, keep) {
            match self.remove(&old.key).await {
                Ok(true) => removed.push(self.begun.bucket.url(&old.key)),
                Ok(false) => {}
                Err(error) => console.warning(&format!("an old backup is not removed: {error}")),
            }
        }
        if !removed.is_empty() {
            self.maker.say(&format!("{} older one{} removed, as `keep:` says", removed.len(), if removed.len() == 1 { "" } else { "s" }));
        }
        removed
    }

    /// Only what we made of this very database: a name may look the same.
    pub(super) async fn remove(&self, key: &str) -> Result<bool> {
        let Some(there) = self.begun.bucket.head(key).await? else { return Ok(false) };
        let says = |name: &str, value: &str| there.metadata.get(name).map(String::as_str) == Some(value);
        let is_ours =
            says("tidegate", "1") && says("app", self.work.app()) && says("project", self.work.values.get("project").unwrap_or_default());
        if is_ours {
            self.begun.bucket.delete(key).await?;
        }
        Ok(is_ours)
    }
}
