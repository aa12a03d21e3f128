//! `backup:` and `restore:` of an environment: what is saved before anything changes, and how it comes back.

use super::{SecretName, Span, TextOrSecret};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A database backup: what is dumped, where it goes, and when it counts as good.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Backup {
    /// A PostgreSQL database, by pg_dump.
    pub postgres: Option<Postgres>,
    /// A MariaDB or MySQL database, by mariadb-dump or mysqldump.
    pub mysql: Option<Mysql>,
    /// A Heroku Postgres database, by Heroku's own backups.
    pub heroku_postgres: Option<HerokuPostgres>,
    /// A program whose standard output is the backup.
    pub command: Option<BackupCommand>,
    /// Where backups are kept, as s3://bucket/prefix/.
    #[schemars(regex(pattern = r"^s3://[^/]+(/.*)?$"))]
    pub to: String,
    /// The object's name below `to`; "{project}/{app}/{app}.{branch_slug}.{time}.{commit}.{migration}.{ext}" when not given.
    pub name: Option<String>,
    /// What `{app}` is: the Heroku app's name, or project and environment, when not given. It tells one database's backups from another's.
    pub app: Option<String>,
    /// How the dump is compressed; zstd when not given. Heroku's backups are compressed already.
    pub compress: Option<Compress>,
    /// Which migration the database is at, for the object's name and its metadata.
    pub migration: Option<MigrationId>,
    /// Which backups are kept; all when not given.
    pub keep: Option<Keep>,
    /// What a backup must be to count as good.
    #[serde(default)]
    pub check: BackupCheck,
    /// The KMS key (id, ARN or alias) that the bucket encrypts it with (SSE-KMS); the bucket's own rule when not given.
    pub kms_key: Option<String>,
    /// The address of an S3-compatible server; AWS when not given.
    pub endpoint: Option<String>,
    /// How long it may take in all.
    #[serde(default = "two_hours")]
    pub timeout: Span,
}

fn two_hours() -> Span {
    Span(Duration::from_secs(7200))
}

/// A PostgreSQL database.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Postgres {
    /// The secret that holds its address, as postgres://user:password@host:5432/name.
    pub url: SecretName,
    /// The dump's format: custom (restored by pg_restore) or plain (SQL).
    #[serde(default)]
    pub format: PostgresFormat,
    /// The folder with pg_dump, pg_restore and psql; the oldest that fits the server, of PATH and /usr/lib/postgresql, when not given.
    pub bin: Option<String>,
    /// Further arguments of pg_dump, as --exclude-table-data=sessions.
    #[serde(default)]
    pub args: Vec<String>,
}

/// The format of a PostgreSQL dump.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PostgresFormat {
    /// An archive that pg_restore reads.
    #[default]
    Custom,
    /// SQL.
    Plain,
}

/// A MariaDB or MySQL database.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Mysql {
    /// The secret that holds its address, as mysql://user:password@host:3306/name.
    pub url: SecretName,
    /// The folder with the programs; PATH when not given.
    pub bin: Option<String>,
    /// Further arguments of the dump program, as --ignore-table=shop.sessions.
    #[serde(default)]
    pub args: Vec<String>,
}

/// A Heroku Postgres database.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HerokuPostgres {
    /// The app.
    pub app: String,
    /// The config var of the database.
    #[serde(default = "database_url")]
    pub database: String,
    /// The API key.
    #[serde(default = "super::heroku::heroku_key")]
    pub token: SecretName,
    /// What it means that the app, or its database, is not there.
    #[serde(default)]
    pub on_missing: OnMissing,
}

fn database_url() -> String {
    "DATABASE_URL".into()
}

/// What it means that there is no database.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OnMissing {
    /// The deploy stops.
    #[default]
    Fail,
    /// There is nothing to save; the deploy goes on.
    Skip,
}

/// A program whose standard output is the backup.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BackupCommand {
    /// The program and its arguments.
    #[schemars(length(min = 1))]
    pub run: Vec<String>,
    /// The program that takes the backup on its standard input and restores it.
    #[serde(default)]
    pub restore: Vec<String>,
    /// What the name ends with, before the compression's own ending.
    #[serde(default = "dump")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9.]{0,15}$"))]
    pub ext: String,
    /// The text that the backup must begin with.
    pub begins_with: Option<String>,
    /// The text that must stand in its last 4 KiB.
    pub ends_with: Option<String>,
    /// Variables of the program: texts, or `{env: NAME}` for a secret.
    #[serde(default)]
    pub env: IndexMap<String, TextOrSecret>,
    /// Names of our own variables that it sees besides PATH, HOME and the like.
    #[serde(default)]
    pub pass: Vec<String>,
}

fn dump() -> String {
    "dump".into()
}

/// How a dump is compressed.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Compress {
    #[default]
    Zstd,
    Gzip,
    None,
}

impl Compress {
    /// What a name ends with.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
            Self::None => "",
        }
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::None => "none",
        }
    }
}

/// Which migration a database is at.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationId {
    /// The first column of the first row of this query.
    Query(String),
    /// The newest file of this folder of the repository, by the number at the beginning of its name: Django, Rails, Prisma, sqlx,
    /// Flyway. Of Alembic the revision that no other one follows.
    Folder(String),
}

/// Which backups are kept. One is kept if either rule keeps it, and the newest one always is.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// So many of the newest.
    #[schemars(range(min = 1, max = 100_000))]
    pub last: Option<u32>,
    /// Those that are not older than so many days.
    #[schemars(range(min = 1, max = 36_500))]
    pub days: Option<u32>,
}

/// What a backup must be to count as good.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BackupCheck {
    /// How many bytes it must have at least, before it is compressed.
    #[serde(default = "a_little")]
    pub min_bytes: u64,
    /// How large it must be at least, in percent of the one before.
    #[serde(default = "half")]
    #[schemars(range(min = 0, max = 100))]
    pub min_share: u8,
    /// Whether a database without tables is saved and goes on: the first deploy to a new place.
    #[serde(default)]
    pub allow_empty: bool,
}

fn a_little() -> u64 {
    512
}

fn half() -> u8 {
    50
}

impl Default for BackupCheck {
    fn default() -> Self {
        Self { min_bytes: a_little(), min_share: half(), allow_empty: false }
    }
}

/// How a database comes back.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Restore {
    /// Whose backups are taken; this environment's own when not given.
    pub from: Option<String>,
    /// The database that they go into; that of `backup:` when not given.
    pub into: Option<RestoreInto>,
    /// What is left out of them.
    #[serde(default)]
    pub clean: Vec<Clean>,
    /// What runs before anybody else sees the data, in order: names, addresses and the like are taken out.
    #[serde(default)]
    pub scrub: Vec<Scrub>,
    /// A delivery fills the database from there when it is empty: before or after the switch.
    pub seed: Option<super::MigrateWhen>,
    /// How long it may take in all.
    #[serde(default = "two_hours")]
    pub timeout: Span,
}

impl Default for Restore {
    fn default() -> Self {
        Self { from: None, into: None, clean: Vec::new(), scrub: Vec::new(), seed: None, timeout: two_hours() }
    }
}

/// The database that a backup goes into.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreInto {
    /// A PostgreSQL database.
    Postgres(Postgres),
    /// A MariaDB or MySQL database.
    Mysql(Mysql),
    /// A Heroku Postgres database, by its own address in the app's config vars.
    HerokuPostgres(HerokuPostgres),
    /// A program that takes the backup on its standard input.
    Command(BackupCommand),
}

/// What is left out of a backup that is restored elsewhere.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Clean {
    /// Whose the objects are: they belong to whoever restores
    Ownership,
    /// Who may do what with them
    Privileges,
    /// CREATE EXTENSION and its comments: for places where only an administrator may
    Extensions,
}

/// Something that runs over restored data.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scrub {
    /// A file with SQL; with PostgreSQL in the same transaction as the data.
    Sql(String),
    /// A program; it is told the database in DATABASE_URL.
    Command(ScrubCommand),
}

/// A program that runs over restored data.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ScrubCommand {
    /// The program and its arguments.
    #[schemars(length(min = 1))]
    pub run: Vec<String>,
    /// How long it may take.
    #[serde(default = "super::targets::half_an_hour")]
    pub timeout: Span,
}

/// Files of the repository that are kept in a bucket: restore points, fixtures.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Archive {
    /// The folder, relative to tidegate.yml; all below it goes along.
    pub folder: String,
    /// Where it goes, as s3://bucket/prefix/{project}/.
    #[schemars(regex(pattern = r"^s3://[^/]+(/.*)?$"))]
    pub to: String,
    /// What is left out of the SQL files among them.
    #[serde(default)]
    pub clean: Vec<Clean>,
    /// The KMS key (id, ARN or alias) that the bucket encrypts it with.
    pub kms_key: Option<String>,
    /// The address of an S3-compatible server; AWS when not given.
    pub endpoint: Option<String>,
}

/// What kind of database a backup is of, with its part of the configuration.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Source<'a> {
    Postgres(&'a Postgres),
    Mysql(&'a Mysql),
    HerokuPostgres(&'a HerokuPostgres),
    Command(&'a BackupCommand),
}

impl Backup {
    /// The one that is given; `config/check` has seen that there is just one.
    pub fn source(&self) -> Option<Source<'_>> {
        let postgres = self.postgres.as_ref().map(Source::Postgres);
        let mysql = || self.mysql.as_ref().map(Source::Mysql);
        let heroku = || self.heroku_postgres.as_ref().map(Source::HerokuPostgres);
        let command = || self.command.as_ref().map(Source::Command);
        postgres.or_else(mysql).or_else(heroku).or_else(command)
    }

    /// How it is compressed.
    pub fn compression(&self) -> Compress {
        let inside = self.heroku_postgres.is_some();
        self.compress.unwrap_or(if inside { Compress::None } else { Compress::Zstd })
    }
}

impl RestoreInto {
    /// The database that a backup is of.
    pub fn of(backup: &Backup) -> Option<Self> {
        Some(match backup.source()? {
            Source::Postgres(postgres) => Self::Postgres(postgres.clone()),
            Source::Mysql(mysql) => Self::Mysql(mysql.clone()),
            Source::HerokuPostgres(heroku) => Self::HerokuPostgres(heroku.clone()),
            Source::Command(command) => Self::Command(command.clone()),
        })
    }

    /// A backup of the same database.
    pub fn as_backup(&self, like: &Backup) -> Backup {
        let mut backup = Backup { postgres: None, mysql: None, heroku_postgres: None, command: None, ..like.clone() };
        match self {
            Self::Postgres(postgres) => backup.postgres = Some(postgres.clone()),
            Self::Mysql(mysql) => backup.mysql = Some(mysql.clone()),
            Self::HerokuPostgres(heroku) => backup.heroku_postgres = Some(heroku.clone()),
            Self::Command(command) => backup.command = Some(command.clone()),
        }
        backup
    }

    /// The same as what a backup is of.
    pub fn source(&self) -> Source<'_> {
        match self {
            Self::Postgres(postgres) => Source::Postgres(postgres),
            Self::Mysql(mysql) => Source::Mysql(mysql),
            Self::HerokuPostgres(heroku) => Source::HerokuPostgres(heroku),
            Self::Command(command) => Source::Command(command),
        }
    }
}

impl<'a> Source<'a> {
    /// The key in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Mysql(_) => "mysql",
            Self::HerokuPostgres(_) => "heroku-postgres",
            Self::Command(_) => "command",
        }
    }

    /// What it is, for people: never an address, which may hold a login.
    pub fn spoken(self) -> String {
        match self {
            Self::Postgres(postgres) => format!("the PostgreSQL database in {}", postgres.url.env),
            Self::Mysql(mysql) => format!("the MySQL database in {}", mysql.url.env),
            Self::HerokuPostgres(heroku) => format!("{} of the Heroku app {}", heroku.database, heroku.app),
            Self::Command(command) => format!("what `{}` writes", command.run.first().map(String::as_str).unwrap_or_default()),
        }
    }

    /// The environment variables that hold its secrets.
    pub fn secret_names(self) -> Vec<&'a str> {
        match self {
            Self::Postgres(postgres) => vec![&postgres.url.env],
            Self::Mysql(mysql) => vec![&mysql.url.env],
            Self::HerokuPostgres(heroku) => vec![&heroku.token.env],
            Self::Command(command) => command.env.values().filter_map(TextOrSecret::secret_name).collect(),
        }
    }
}
