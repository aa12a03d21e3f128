//! Database backups that are proven before anything changes: dumped, stored under a temporary key, proven, and only then named.
//!
//! A dump that broke off looks like a dump. So nothing gets its final name before every program ended well, the dump has its
//! beginning and end, its own tools can list it, it holds the database's tables, it is not far smaller than the one before, and
//! the bucket says the same SHA-256 as we do.

use crate::config::{self, Source, template::Values};
use crate::error::{Error, Reason, Result};
use crate::tools::aws::Access;
use crate::world::World;
use bucket::{Bucket, Listed, Place, Reach};
use inspect::Shape;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

pub mod archive;
pub mod bucket;
pub mod clean;
pub mod heroku;
mod inspect;
mod keep;
mod load;
mod mysql;
pub mod name;
mod postgres;
mod programs;
mod proof;
mod rename;
pub mod restore;
mod stream;
mod take;
mod unpack;

use mysql::Mysql;
use postgres::Postgres;
pub use take::take;

/// Where backups stand that are not proven yet, below `to`.
pub const UNPROVEN: &str = ".unproven/";
/// How often it is said how far a long backup is.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// The environment of a program.
type Environment = Vec<(String, String)>;

/// A backup with everything filled that is known beforehand.
#[derive(Clone, Debug, Serialize)]
pub struct Work {
    /// The configuration's part.
    pub backup: config::Backup,
    /// Bucket and folder.
    pub place: Place,
    /// The template of its name.
    pub name: String,
    /// The values of the name's placeholders that are known.
    pub values: Values,
    /// Region and role.
    pub aws: config::Aws,
}

/// Who makes a backup.
pub struct Maker<'a> {
    /// The surroundings.
    pub world: &'a World,
    /// The folder of tidegate.yml.
    pub folder: &'a Path,
    /// Tells this backup from others that are made now: the delivery's own key, and the step.
    pub own: String,
    /// Keys of deliveries that have ended: what they left unproven is taken away.
    pub ended: Vec<String>,
    /// The run's address and who caused it, for the metadata.
    pub by: String,
}

/// A backup that is proven.
#[derive(Clone, Debug, Serialize)]
pub struct Taken {
    /// Where it is, as s3://bucket/key.
    pub location: String,
    /// Its version, where the bucket keeps versions.
    pub version_id: Option<String>,
    /// Its bytes in the bucket.
    pub bytes: u64,
    /// The dump's bytes before they were compressed.
    pub raw_bytes: u64,
    /// SHA-256 of what is in the bucket.
    pub sha256: String,
    /// How many tables it holds, where that can be said.
    pub tables: Option<u64>,
    /// The migration that the database is at.
    pub migration: Option<String>,
    /// How it was proven.
    #[serde(skip)]
    pub proof: String,
    /// Older ones that went.
    pub removed: Vec<String>,
}

impl Taken {
    /// What was made, in one line.
    pub fn sentence(&self) -> String {
        let tables = self.tables.map_or(String::new(), |tables| format!("{tables} tables, "));
        let version = self.version_id.as_ref().map_or(String::new(), |version| format!(", version {version}"));
        format!(
            "{tables}{} in {} (of {} dumped; {}{version})",
            crate::report::size(self.bytes),
            self.location,
            crate::report::size(self.raw_bytes),
            self.proof
        )
    }
}

/// What a server says of itself and of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// PostgreSQL, MariaDB, …
    pub engine: &'static str,
    /// The server's major version.
    pub major: u64,
    /// Its whole version.
    pub version: String,
    /// The size of the database, in bytes.
    pub bytes: u64,
    /// How many tables it has, where that can be asked.
    pub tables: Option<u64>,
    /// How many tables, views and the like it has: none means that nothing would be lost.
    pub relations: u64,
    /// The migration that it is at, where that is asked.
    pub migration: Option<String>,
}

/// A program that writes a dump, and how the dump has to look.
pub struct Dump {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    shape: Shape,
    /// What lists a dump that it reads.
    lister: Option<Vec<String>>,
    ext: &'static str,
    /// Its name and version.
    tool: String,
    /// Whether all tables have to be in it.
    counts_all: bool,
}

/// A database server that is spoken to directly.
pub(crate) enum Database {
    Postgres(Box<Postgres>),
    Mysql(Box<Mysql>),
}

impl Database {
    /// Reads its address; connects to nothing. Heroku's databases are asked for theirs.
    pub(crate) async fn of(world: &World, source: Source<'_>) -> Result<Option<Self>> {
        Ok(match source {
            Source::Postgres(postgres) => Some(Self::Postgres(Box::new(Postgres::of(world, postgres)?))),
            Source::Mysql(mysql) => Some(Self::Mysql(Box::new(Mysql::of(world, mysql)?))),
            Source::HerokuPostgres(heroku) => {
                let address = heroku::Heroku::of(world, heroku).address().await?;
                let like =
                    config::Postgres { url: heroku.token.clone(), format: config::PostgresFormat::Custom, bin: None, args: Vec::new() };
                Some(Self::Postgres(Box::new(Postgres::at(world, &address, &heroku.database, &like)?)))
            }
            Source::Command(_) => None,
        })
    }

    pub(crate) fn place(&self) -> &str {
        match self {
            Self::Postgres(postgres) => postgres.place(),
            Self::Mysql(mysql) => mysql.place(),
        }
    }

    pub(crate) async fn survey(&self, world: &World, migration: Option<&str>) -> Result<Survey> {
        match self {
            Self::Postgres(postgres) => postgres.survey(world, migration).await,
            Self::Mysql(mysql) => mysql.survey(world, migration).await,
        }
    }

    /// What tells this database from all others, where the server says it.
    pub(crate) async fn identity(&self, world: &World) -> Option<String> {
        match self {
            Self::Postgres(postgres) => postgres.identity(world).await,
            Self::Mysql(mysql) => mysql.identity(world).await,
        }
    }

    fn dump(&self, survey: &Survey) -> Result<Dump> {
        match self {
            Self::Postgres(postgres) => postgres.dump(survey),
            Self::Mysql(mysql) => mysql.dump(survey),
        }
    }
}

/// Refuses what cannot work here: programs or secrets that are not there. Connects to nothing.
pub fn check(world: &World, folder: &Path, work: &Work) -> Result<()> {
    if world.rehearsal {
        return Ok(());
    }
    if let Some(id) = &work.backup.migration {
        name::newest_migration(folder, id)?;
    }
    let Some(source) = work.backup.source() else { return Err(without_source()) };
    match source {
        Source::Postgres(postgres) => Postgres::of(world, postgres).map(drop),
        Source::Mysql(mysql) => Mysql::of(world, mysql).map(drop),
        Source::HerokuPostgres(heroku) => crate::targets::secret(world, &heroku.token.env, "the API key of Heroku").map(drop),
        Source::Command(command) => {
            for name in source.secret_names() {
                crate::targets::secret(world, name, "a secret of the backup's command")?;
            }
            command.run.first().map_or(Ok(()), |program| crate::targets::command::is_there(world, folder, program))
        }
    }
}

/// Whether the database and the bucket let us in, and the programs fit. Changes nothing.
pub async fn look(world: &World, folder: &Path, work: &Work) -> Result<String> {
    check(world, folder, work)?;
    let source = work.backup.source().ok_or_else(without_source)?;
    let said = match source {
        Source::Postgres(_) | Source::Mysql(_) => match Database::of(world, source).await? {
            Some(database) => {
                let survey = database.survey(world, None).await?;
                let tool = database.dump(&survey)?.tool;
                format!(
                    "{} {} at {}, {} tables; {tool}",
                    survey.engine,
                    survey.version,
                    database.place(),
                    survey.tables.unwrap_or_default()
                )
            }
            None => source.spoken(),
        },
        Source::HerokuPostgres(_) | Source::Command(_) => source.spoken(),
    };
    work.bucket(world).await?.look().await?;
    Ok(format!("{said}; {} is there", work.place))
}

/// The same for a database that is filled.
pub fn check_seed(world: &World, folder: &Path, work: &crate::plan::SeedWork) -> Result<()> {
    if world.rehearsal {
        return Ok(());
    }
    let like = config::Backup { migration: None, ..work.into.as_backup(&work.from.backup) };
    check(world, folder, &Work { backup: like, ..work.from.clone() })
}

fn without_source() -> Error {
    Error::new(Reason::ConfigInvalid, "a backup of nothing").hint("write one of postgres, mysql, heroku-postgres or command")
}

impl Work {
    /// The bucket.
    pub async fn bucket(&self, world: &World) -> Result<Bucket> {
        let access = Access { region: self.aws.region.clone(), role: self.aws.role.clone() };
        let endpoint = self.backup.endpoint.as_deref().filter(|_| world.detour.is_none());
        Bucket::open(&world.vars, &self.place.bucket, &Reach { access, endpoint, kms_key: self.backup.kms_key.as_deref() }).await
    }

    /// All proven backups of this database, the newest first.
    pub async fn family(&self, bucket: &Bucket) -> Result<Vec<Listed>> {
        let (prefix, pattern) = name::family(&self.name, &self.values)?;
        let folder = &self.place.prefix;
        let mut found = bucket.list(&format!("{folder}{prefix}")).await?;
        found.retain(|listed| listed.key.strip_prefix(folder.as_str()).is_some_and(|name| pattern.is_match(name)));
        for listed in &mut found {
            let name = listed.key.strip_prefix(folder.as_str()).unwrap_or_default();
            listed.made = name::moment(&pattern, name).unwrap_or(listed.modified);
        }
        found.sort_by(|one, other| (other.made, other.modified, &other.key).cmp(&(one.made, one.modified, &one.key)));
        Ok(found)
    }

    /// What tells this database from others.
    pub fn app(&self) -> &str {
        self.values.get("app").unwrap_or_default()
    }
}

impl Maker<'_> {
    fn say(&self, text: &str) {
        self.world.console.line(&format!("  backup: {text}"));
    }
}

/// A program of the configuration with its own environment.
fn command_line(maker: &Maker<'_>, command: &config::BackupCommand, argv: &[String]) -> Result<(Vec<String>, Environment)> {
    let mut argv = argv.to_vec();
    if let Some(first) = argv.first_mut().filter(|first| first.contains('/')) {
        *first = maker.folder.join(&first).display().to_string();
    }
    let mut env = programs::surroundings(maker.world);
    let passed = command.pass.iter().filter_map(|name| Some((name.clone(), maker.world.vars.get(name)?.to_owned())));
    env.extend(passed);
    for (name, value) in &command.env {
        let value = match value {
            config::TextOrSecret::Text(text) => text.clone(),
            config::TextOrSecret::Secret(secret) => crate::targets::secret(maker.world, &secret.env, name)?.expose().to_owned(),
        };
        env.push((name.clone(), value));
    }
    Ok((argv, env))
}
