//! MariaDB and MySQL: the login in a file that only we can read, the programs at hand, what the server holds, and its dumps.

use super::inspect::Shape;
use super::postgres::percent;
use super::programs::{self, Asked};
use super::{Dump, Survey};
use crate::config;
use crate::error::{Error, Reason, Result};
use crate::tools::secret::Secret;
use crate::world::World;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use url::Url;

/// What is asked of a server before anything else.
const SURVEY: &str = "select version(), coalesce((select sum(data_length + index_length) from information_schema.tables \
    where table_schema = database()), 0), (select count(*) from information_schema.tables where table_schema = database() \
    and table_type in ('BASE TABLE', 'SYSTEM VERSIONED')), (select count(*) from information_schema.tables where table_schema = database())";
/// Tells one database from all others, whatever address it is reached by.
const IDENTITY: &str = "select concat(@@hostname, ':', @@port, ':', @@datadir, '/', database())";
/// Every table and view of the database, as statements that take them away.
const CLEAR: &str = "select concat('DROP ', case table_type when 'VIEW' then 'VIEW' when 'SEQUENCE' then 'SEQUENCE' else 'TABLE' end, \
    ' IF EXISTS `', replace(table_name, '`', '``'), '`;') from information_schema.tables where table_schema = database()";

/// A server of either kind that can be reached, with its programs.
pub struct Mysql {
    env: Vec<(String, String)>,
    place: String,
    database: String,
    args: Vec<String>,
    /// The login, which the programs read; it goes with this.
    login: tempfile::NamedTempFile,
    /// The folders where the programs may be.
    folders: Vec<PathBuf>,
}

/// Whose server it is: each side's dump program knows arguments that the other one refuses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Maker {
    MariaDb,
    Oracle,
}

impl Maker {
    fn of(version: &str) -> Self {
        if version.contains("MariaDB") { Self::MariaDb } else { Self::Oracle }
    }

    /// The names of a program, that of its own side first.
    fn names(self, what: &str) -> [String; 2] {
        let (maria, mysql) = match what {
            "dump" => ("mariadb-dump", "mysqldump"),
            _client => ("mariadb", "mysql"),
        };
        let names = [maria.to_owned(), mysql.to_owned()];
        match self {
            Self::MariaDb => names,
            Self::Oracle => [mysql.to_owned(), maria.to_owned()],
        }
    }
}

/// The folders where the programs may be, one of which has a dump program. Connects to nothing.
pub fn folders(world: &World, named: Option<&str>) -> Result<Vec<PathBuf>> {
    let folders = named.map_or_else(|| programs::path(world), |named| vec![PathBuf::from(named)]);
    let has = |folder: &PathBuf| Maker::MariaDb.names("dump").iter().any(|name| folder.join(name).is_file());
    if folders.iter().any(has) {
        return Ok(folders);
    }
    Err(Error::new(Reason::ToolMissing, format!("there is neither mariadb-dump nor mysqldump in {}", named.unwrap_or("PATH"))).hint(
        "install mariadb-client (or mysql-client), or name its folder with `bin:`; tidegate's image has none: build your own FROM it",
    ))
}

impl Mysql {
    /// Reads the address. Connects to nothing.
    pub fn of(world: &World, source: &config::Mysql) -> Result<Self> {
        let secret = crate::targets::secret(world, &source.url.env, "the address of the database")?;
        Self::at(world, &secret, &source.url.env, source)
    }

    /// The same for an address that comes from elsewhere.
    pub fn at(world: &World, address: &Secret, from: &str, source: &config::Mysql) -> Result<Self> {
        let folders = folders(world, source.bin.as_deref())?;
        let (text, place, database) = login(world, address.expose(), from)?;
        let broken = |error: std::io::Error| Error::new(Reason::Internal, format!("the login cannot be handed to the program: {error}"));
        let mut file = tempfile::NamedTempFile::new().map_err(broken)?; // mode 600
        file.write_all(text.as_bytes()).map_err(broken)?;
        Ok(Self { env: programs::surroundings(world), place, database, args: source.args.clone(), login: file, folders })
    }

    /// Host, port and name.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The environment of its programs.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    fn program(&self, maker: Maker, what: &str) -> Result<(PathBuf, String)> {
        let names = maker.names(what);
        let found = names
            .iter()
            .find_map(|name| Some((self.folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file())?, name.clone())));
        found.ok_or_else(|| {
            Error::new(Reason::ToolMissing, format!("there is neither {} nor {}", names[0], names[1])).hint("install mariadb-client")
        })
    }

    fn client(&self, maker: Maker, more: &[&str]) -> Result<Vec<String>> {
        let (program, _) = self.program(maker, "client")?;
        let head = [program.display().to_string(), self.defaults(), "--default-character-set=utf8mb4".to_owned()];
        Ok(head.into_iter().chain(more.iter().map(|word| (*word).to_owned())).chain([self.database.clone()]).collect())
    }

    fn defaults(&self) -> String {
        // Nothing else is read: a file of the user's would lead to another server.
        format!("--defaults-file={}", self.login.path().display())
    }

    async fn ask(&self, world: &World, query: &str) -> Result<String> {
        let argv = self.client(Maker::MariaDb, &["--batch", "--skip-column-names"])?;
        let asked = Asked { argv: &argv, env: &self.env, input: Some(query), place: &self.place };
        programs::ask(world, &asked).await.map_err(|error| explained(error, &self.place))
    }

    /// What the server says of itself and of the database.
    pub async fn survey(&self, world: &World, migration: Option<&str>) -> Result<Survey> {
        let row = self.ask(world, SURVEY).await?;
        let fields: Vec<&str> = row.split('\t').collect();
        let number = |at: usize| fields.get(at).and_then(|text| text.trim().split('.').next()?.parse::<u64>().ok());
        let (Some(version), Some(bytes), Some(tables), Some(relations)) = (fields.first(), number(1), number(2), number(3)) else {
            return Err(Error::new(Reason::BackupFailed, format!("{} does not say what it is: {row:?}", self.place)));
        };
        let migration = match migration {
            Some(query) => self.ask(world, query).await?.lines().next().and_then(|line| line.split('\t').next()).map(str::to_owned),
            None => None,
        };
        let engine = if Maker::of(version) == Maker::MariaDb { "MariaDB" } else { "MySQL" };
        let plain = version.split('-').next().unwrap_or(version).to_owned();
        let major = plain.split('.').next().and_then(|number| number.parse().ok()).unwrap_or_default();
        Ok(Survey { engine, major, version: plain, bytes, tables: Some(tables), relations, migration })
    }

    /// The program that dumps it, and how its dump has to look.
    pub fn dump(&self, survey: &Survey) -> Result<Dump> {
        let maker = if survey.engine == "MariaDB" { Maker::MariaDb } else { Maker::Oracle };
        let (program, name) = self.program(maker, "dump")?;
        let mut argv = vec![program.display().to_string(), self.defaults()];
        // One consistent state without locks (InnoDB), row by row, with all that belongs to the database.
        let words = [
            "--single-transaction",
            "--quick",
            "--routines",
            "--triggers",
            "--events",
            "--hex-blob",
            "--max-allowed-packet=1G",
            "--default-character-set=utf8mb4",
        ];
        argv.extend(words.iter().map(|word| (*word).to_owned()));
        if name == "mysqldump" && maker == Maker::Oracle {
            argv.extend(["--set-gtid-purged=OFF".to_owned(), "--no-tablespaces".to_owned()]);
        }
        argv.extend(self.args.iter().cloned());
        argv.push(self.database.clone());
        let shape = Shape {
            begins_with: vec!["-- MariaDB dump".into(), "-- MySQL dump".into()],
            within: 256, // a line that keeps the client from running programs comes first
            ends_with: Some("-- Dump completed".into()),
            counts: Some("-- Dumping data for table "), // a table that may not be read has none
        };
        let folder = program.parent().map(std::path::Path::to_path_buf).unwrap_or_default();
        let version = programs::find(&[folder], &name).first().map_or(String::new(), |tool| format!(" {}", tool.version));
        let counts_all = !self.args.iter().any(|arg| {
            ["--ignore-table", "--no-data", "--where", "--skip-comments", "--compact"].iter().any(|known| arg.starts_with(known))
                || arg == "-d"
                || arg == "-i"
        });
        Ok(Dump { argv, env: self.env.clone(), shape, lister: None, ext: "sql", tool: format!("{name}{version}"), counts_all })
    }

    /// The program that takes SQL. It stops at the first error; what came before stays, for its tables know no transaction.
    pub fn takes_sql(&self) -> Result<Vec<String>> {
        self.client(Maker::MariaDb, &["--batch", "--skip-column-names", "--max-allowed-packet=1G"])
    }

    /// What tells this database from all others.
    pub async fn identity(&self, world: &World) -> Option<String> {
        self.ask(world, IDENTITY).await.ok().filter(|identity| !identity.is_empty())
    }

    /// Takes everything out of the database.
    pub async fn empty(&self, world: &World) -> Result<()> {
        let clear = self.clear(world).await?;
        self.ask(world, &clear).await.map(drop)
    }

    /// What takes everything out of the database.
    pub async fn clear(&self, world: &World) -> Result<String> {
        let drops = self.ask(world, CLEAR).await?;
        Ok(format!("SET FOREIGN_KEY_CHECKS=0;\n{drops}\nSET FOREIGN_KEY_CHECKS=1;\n"))
    }
}

/// The login as an option file: <https://mariadb.com/kb/en/configuring-mariadb-with-option-files/>.
fn login(world: &World, address: &str, from: &str) -> Result<(String, String, String)> {
    let wrong = |what: &str| {
        Error::new(Reason::InputInvalid, format!("{from} is no address of a MariaDB or MySQL database: {what}"))
            .hint("write it as mysql://user:password@host:3306/name; signs as @ : / % in a password are escaped, as %40")
    };
    let url = Url::parse(address.trim()).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "mysql" | "mariadb" | "mysql2") {
        return Err(wrong(&format!("it begins with {}:", url.scheme())));
    }
    let decoded = |text: &str| {
        percent(text).filter(|text| !text.chars().any(char::is_control)).ok_or_else(|| wrong("an escaped sign in it is no text"))
    };
    let (host, port) = (decoded(url.host_str().unwrap_or("127.0.0.1"))?, url.port().unwrap_or(3306));
    let (user, password) = (decoded(url.username())?, url.password().map(decoded).transpose()?.unwrap_or_default());
    let database = decoded(url.path().trim_start_matches('/'))?;
    if database.is_empty() || database.starts_with('-') {
        return Err(wrong("it names no database"));
    }
    let mut text = String::from("[client]\n");
    let mut put = |name: &str, value: &str| {
        let escaped = value.replace('\\', "\\\\"); // quotes inside quotes are themselves
        let _infallible = writeln!(text, "{name}=\"{escaped}\"");
    };
    put("host", host.trim_start_matches('[').trim_end_matches(']'));
    put("port", &port.to_string());
    if !user.is_empty() {
        put("user", &user);
    }
    if !password.is_empty() {
        world.console.mask(&Secret::new(password.clone()));
        put("password", &password);
    }
    for (name, value) in url.query_pairs() {
        match (name.as_ref(), value.to_ascii_uppercase().as_str()) {
            ("socket", _) => put("socket", &value),
            ("ssl-ca" | "sslrootcert", _) => put("ssl-ca", &value),
            ("ssl-mode" | "sslmode", "REQUIRED" | "REQUIRE") => {
                put("loose-ssl-mode", "REQUIRED");
                put("loose-ssl", "1");
            }
            ("ssl-mode" | "sslmode", "VERIFY_CA" | "VERIFY-CA" | "VERIFY_IDENTITY" | "VERIFY-FULL") => {
                put("loose-ssl-mode", "VERIFY_IDENTITY");
                put("loose-ssl-verify-server-cert", "1");
            }
            ("ssl-mode" | "sslmode", "DISABLED" | "DISABLE") => {
                put("loose-ssl-mode", "DISABLED");
                put("loose-skip-ssl", "1");
            }
            _other => {}
        }
    }
    Ok((text, format!("{host}:{port}/{database}"), database))
}

fn explained(error: Error, place: &str) -> Error {
    let said = format!("{} {}", error.sentence, error.detail.join(" "));
    let has = |text: &str| said.contains(text);
    if has("Access denied") {
        return Error { reason: Reason::AuthDenied, ..error }
            .hint("look at the login in the address; the user needs SELECT, LOCK TABLES, SHOW VIEW, TRIGGER and EVENT on the database");
    }
    if has("Unknown database") {
        return error.hint("look at the name at the end of the address");
    }
    if has("Can't connect") || has("Unknown server host") || has("Unknown MySQL server host") {
        return error.hint(format!("{place} is not reached from here: is it private, or behind a firewall?"));
    }
    error
}
