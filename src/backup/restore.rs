//! A backup comes back: found, read, proven while it is read, cleaned, and taken by the database as a whole or not at all.
//!
//! PostgreSQL gets everything in one transaction, which ends well only when its input ends: that happens after the last byte was
//! read, the SHA-256 is that of the day the backup was made, and every program on the way ended well.

use super::bucket::{Bucket, Listed, Object, spoken_time};
use super::load::Restoring;
use super::{Database, Maker, Survey, Work};
use crate::config::{self, Clean, Scrub, Source};
use crate::error::{Error, Reason, Result};
use crate::report::size;
use crate::tools::secret::Secret;
use crate::tools::wait::spoken;
use std::time::Instant;

/// A backup that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its key.
    pub key: String,
    /// As the bucket describes it.
    pub object: Object,
}

/// What a backup is restored into, and how.
pub struct Wanted<'a> {
    /// The database, as the configuration or the command line names it.
    pub into: Into<'a>,
    /// What is left out.
    pub clean: &'a [Clean],
    /// What runs over the data.
    pub scrub: &'a [Scrub],
}

/// Where a backup goes.
pub enum Into<'a> {
    /// What the configuration says.
    Configured(Source<'a>),
    /// An address by hand, and where it stands.
    Address(Secret, String),
}

/// What a restore replaces.
pub(crate) struct Target<'a> {
    pub(super) kind: TargetKind<'a>,
    /// Where it is, for people.
    pub(crate) place: String,
    /// What is there now.
    pub(crate) now: Option<Survey>,
}

pub(super) enum TargetKind<'a> {
    Server(Database),
    Program(&'a config::BackupCommand),
}

/// Which backup is meant: the newest one, one by its name or address, or the newest one of a moment. It must be of this database.
pub async fn find(work: &Work, bucket: &Bucket, which: Option<&str>) -> Result<Found> {
    let family = work.family(bucket).await?;
    let missing = |what: String| Error::new(Reason::InputBackup, what).hint("`tidegate backup ENV --list` shows those that there are");
    let Some(which) = which.filter(|which| *which != "latest") else { return newest(work, bucket, &family).await };
    let key = named(&family, bucket, which).ok_or_else(|| missing(format!("there is no backup {which}")))?;
    let object = bucket.head(&key).await?.ok_or_else(|| missing(format!("there is no object {}", bucket.url(&key))))?;
    let found = Found { key, object };
    match found.other(work) {
        Some(other) => {
            let sentence = format!("{} is a backup of {other}, not of {}", bucket.url(&found.key), work.app());
            Err(Error::new(Reason::InputBackup, sentence)
                .hint("name the environment that it is of with --from ENV, and with several databases the one with --app APP"))
        }
        None => Ok(found),
    }
}

/// What looks like one of ours may be of another database.
async fn newest(work: &Work, bucket: &Bucket, family: &[Listed]) -> Result<Found> {
    for listed in family {
        let Some(object) = bucket.head(&listed.key).await? else { continue }; // gone meanwhile
        let found = Found { key: listed.key.clone(), object };
        if found.other(work).is_none() {
            return Ok(found);
        }
    }
    let sentence = format!("there is no backup of {} yet in {}", work.app(), work.place);
    Err(Error::new(Reason::InputBackup, sentence)
        .hint("`tidegate backup ENV` makes one; is the environment that you mean another one (--from ENV)?"))
}

/// By its address, its key, the end of its key, or a moment: then the newest one that is not younger.
fn named(family: &[Listed], bucket: &Bucket, which: &str) -> Option<String> {
    if let Some(rest) = which.strip_prefix("s3://") {
        let (name, key) = rest.split_once('/')?;
        return (name == bucket.name).then(|| key.to_owned());
    }
    let by_name = family.iter().find(|listed| listed.key == which || listed.key.ends_with(&format!("/{which}")));
    let moment = moment(which);
    let by_time = || family.iter().find(|listed| moment.is_some_and(|moment| listed.made <= moment));
    by_name.or_else(by_time).map(|listed| listed.key.clone())
}

/// 2026-11-27 (the end of that day, UTC), 2026-11-27T03:26 or with seconds and zone.
fn moment(text: &str) -> Option<i64> {
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Some(moment.as_second());
    }
    let utc = |moment: jiff::civil::DateTime| moment.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp().as_second());
    if text.contains('T') {
        return text.parse::<jiff::civil::DateTime>().ok().and_then(utc);
    }
    text.parse::<jiff::civil::Date>().ok().and_then(|day| utc(day.at(23, 59, 59, 0)))
}

impl Found {
    /// The database that it is of, if it is another one.
    fn other(&self, work: &Work) -> Option<String> {
        let project = work.values.get("project").unwrap_or_default();
        let (app, of) = (self.says("app")?, self.says("project").unwrap_or(project));
        (app != work.app() || of != project).then(|| if of == project { app.to_owned() } else { format!("{app} of {of}") })
    }

    pub(super) fn says(&self, name: &str) -> Option<&str> {
        self.object.metadata.get(name).map(String::as_str)
    }

    /// What it is, in one line.
    pub fn sentence(&self) -> String {
        let of = match (self.says("app"), self.says("version")) {
            (Some(app), Some(version)) => format!(" of {app}, before {version} was delivered"),
            (Some(app), None) => format!(" of {app}"),
            (None, _) => " (not made by tidegate, so nothing is known of it)".to_owned(),
        };
        let migration = self.says("migration").map_or(String::new(), |migration| format!(", migration {migration}"));
        let tables = self.says("tables").map_or(String::new(), |tables| format!(", {tables} tables"));
        let engine = self.says("engine").map_or(String::new(), |engine| format!(", {engine}"));
        format!("the backup of {}{of}{migration}{tables}{engine}, {}", self.taken(), size(self.object.bytes))
    }

    /// When it was taken.
    pub fn taken(&self) -> String {
        self.says("taken").map_or_else(|| spoken_time(self.object.modified), str::to_owned)
    }

    /// What kind of database it is of, where it says so.
    fn kind(&self) -> Option<&str> {
        self.says("source").map(|source| if source == "heroku-postgres" { "postgres" } else { source })
    }
}

impl<'a> Target<'a> {
    /// Connects, and says what is there now.
    pub(crate) async fn open(maker: &Maker<'a>, into: &Into<'a>) -> Result<Self> {
        let world = maker.world;
        let database = match into {
            Into::Configured(Source::Command(command)) => {
                let place = format!("what `{}` writes to", command.restore.first().map(String::as_str).unwrap_or_default());
                return Ok(Self { kind: TargetKind::Program(command), place, now: None });
            }
            Into::Configured(source) => Database::of(world, *source).await?,
            Into::Address(address, from) => Some(Database::at(world, address, from)?),
        };
        let database = database.ok_or_else(|| Error::new(Reason::Internal, "a restore into nothing"))?;
        let now = database.survey(world, None).await.map_err(|error| {
            let reason = if error.reason == Reason::BackupFailed { Reason::RestoreFailed } else { error.reason };
            Error { reason, ..error }
        })?;
        Ok(Self { place: database.place().to_owned(), kind: TargetKind::Server(database), now: Some(now) })
    }

    /// What is there now, in words.
    pub(crate) fn sentence(&self) -> String {
        match &self.now {
            Some(Survey { engine, version, tables, bytes, .. }) => {
                format!("{engine} {version} at {}, now with {} tables, {}", self.place, tables.unwrap_or_default(), size(*bytes))
            }
            None => self.place.clone(),
        }
    }

    /// Whether nothing would be lost.
    pub(crate) fn is_empty(&self) -> bool {
        self.now.as_ref().is_some_and(|now| now.relations == 0)
    }

    /// What tells it from all others.
    pub(crate) async fn identity(&self, world: &crate::world::World) -> Option<String> {
        match &self.kind {
            TargetKind::Server(database) => database.identity(world).await,
            TargetKind::Program(_) => None,
        }
    }

    /// Takes everything out of it again.
    pub(crate) async fn clear(&self, world: &crate::world::World) -> Result<()> {
        match &self.kind {
            TargetKind::Server(Database::Postgres(postgres)) => postgres.clear(world).await,
            TargetKind::Server(Database::Mysql(mysql)) => mysql.empty(world).await,
            TargetKind::Program(_) => Ok(()),
        }
    }

    fn name(&self) -> &'static str {
        match self.kind {
            TargetKind::Server(Database::Postgres(_)) => "postgres",
            TargetKind::Server(Database::Mysql(_)) => "mysql",
            TargetKind::Program(_) => "command",
        }
    }
}

impl Database {
    /// The database of an address: its scheme says which kind it is.
    fn at(world: &crate::world::World, address: &Secret, from: &str) -> Result<Self> {
        let scheme = address.expose().split(':').next().unwrap_or_default();
        let url = config::SecretName { env: from.to_owned() };
        match scheme {
            "postgres" | "postgresql" => {
                let like = config::Postgres { url, format: config::PostgresFormat::Custom, bin: None, args: Vec::new() };
                Ok(Self::Postgres(Box::new(super::Postgres::at(world, address, from, &like)?)))
            }
            "mysql" | "mariadb" | "mysql2" => {
                let like = config::Mysql { url, bin: None, args: Vec::new() };
                Ok(Self::Mysql(Box::new(super::Mysql::at(world, address, from, &like)?)))
            }
            other => {
                Err(Error::new(Reason::InputInvalid, format!("{from} begins with {other:?}, which is no database that tidegate knows"))
                    .hint("write postgres://… or mysql://…"))
            }
        }
    }
}

/// Restores it; what was done, in words.
pub(crate) async fn restore(
    maker: &Maker<'_>,
    work: &Work,
    (bucket, found): (&Bucket, &Found),
    (target, wanted): (&Target<'_>, &Wanted<'_>),
) -> Result<String> {
    if let Some(kind) = found.kind()
        && kind != target.name()
    {
        let sentence = format!("{} is of {kind}, and {} is {}", bucket.url(&found.key), target.place, target.name());
        return Err(Error::new(Reason::InputBackup, sentence).hint("restore it into a database of its own kind"));
    }
    let limit = work.backup.timeout.0;
    let begun = Instant::now();
    let job = Restoring { maker, bucket, found, target, wanted };
    let done = tokio::select! {
        done = job.run() => done,
        () = maker.world.cancel.cancelled() => Err(Error::new(Reason::Cancelled, "cancelled while the backup was restored")),
        () = maker.world.clock.sleep(limit) => Err(Error::new(Reason::BackupTimeout, format!("the restore did not end within {}", spoken(limit)))),
    };
    let read = done.map_err(|error| job.told(error))?;
    job.scrub().await?;
    let after = job.look().await?;
    Ok(format!("{} read, {after} in {}", size(read), spoken(begun.elapsed())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_day_or_a_time() {
        assert_eq!(moment("2026-11-27"), moment("2026-11-27T23:59:59Z"));
        assert_eq!(moment("2026-11-27T03:26"), moment("2026-11-27T03:26:00Z"));
        assert_eq!(moment("2026-11-27T04:26:00+01:00"), moment("2026-11-27T03:26:00Z"));
        assert_eq!(moment("yesterday"), None);
    }
}
