//! PostgreSQL: its address as variables of its own programs, the programs that fit its server, what it holds, and its dumps.

use super::Survey;
use super::inspect::Shape;
use super::programs::{self, Asked, Tool};
use crate::config::{self, PostgresFormat};
use crate::error::{Error, Reason, Result};
use crate::tools::secret::Secret;
use crate::world::World;
use std::path::PathBuf;
use url::Url;

/// Query parameters of an address and the variables of libpq: <https://www.postgresql.org/docs/current/libpq-envars.html>.
/// Others, as Prisma's `schema`, are not for libpq.
const PARAMETERS: [(&str, &str); 16] = [
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslcrl", "PGSSLCRL"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("options", "PGOPTIONS"),
];

/// What is asked of a server before anything else: version, size, tables of people (not of extensions), and everything like one.
const SURVEY: &str = "select current_setting('server_version_num'), current_setting('server_version'), \
    pg_database_size(current_database()), (select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace \
    where c.relkind = 'r' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and not exists (select 1 from pg_depend d \
    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')), (select count(*) from pg_class c \
    join pg_namespace n on n.oid = c.relnamespace where c.relkind in ('r', 'p', 'f', 'm', 'v') and n.nspname !~ '^pg_' \
    and n.nspname <> 'information_schema' and not exists (select 1 from pg_depend d where d.classid = 'pg_class'::regclass \
    and d.objid = c.oid and d.deptype = 'e'))";

/// Tells one database from all others, whatever address it is reached by.
const IDENTITY: &str = "select system_identifier::text || '/' || current_database() from pg_control_system()";

/// Takes everything out of a database but what belongs to extensions: then a dump of another state fits in. Objects go by the
/// names that PostgreSQL itself gives them; what went with another one is left out. Parts of others (`i`, of the whole object)
/// and what belongs to a column (`a`) go with those. What belongs to the platform stays, and rows that people gave to tables of
/// extensions go, as the dump brings them again.
pub const CLEAR: &str = r"DO $tidegate$
DECLARE r record; o record; is_there boolean;
BEGIN
  FOR r IN SELECT oid FROM pg_largeobject_metadata WHERE pg_has_role(lomowner, 'USAGE') LOOP PERFORM lo_unlink(r.oid); END LOOP;
  FOR r IN SELECT unnest(extconfig)::regclass AS name, unnest(extcondition) AS rows FROM pg_extension LOOP
    BEGIN
      EXECUTE format('DELETE FROM %s %s', r.name, r.rows);
    EXCEPTION WHEN insufficient_privilege THEN NULL;
    END;
  END LOOP;
  FOR r IN SELECT n.nspname, n.oid FROM pg_namespace n WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
      AND pg_has_role(n.nspowner, 'USAGE')
      AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e')
      AND NOT EXISTS (SELECT 1 FROM pg_extension e WHERE e.extnamespace = n.oid) LOOP
    EXECUTE format('DROP SCHEMA %I CASCADE', r.nspname);
  END LOOP;
  FOR r IN SELECT all_of.class, all_of.oid FROM (
      SELECT 'pg_publication'::regclass AS class, oid, NULL::oid AS space, pubowner AS owner FROM pg_publication
      UNION ALL SELECT 'pg_foreign_server'::regclass, oid, NULL, srvowner FROM pg_foreign_server
      UNION ALL SELECT 'pg_class'::regclass, oid, relnamespace, relowner FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      UNION ALL SELECT 'pg_operator'::regclass, oid, oprnamespace, oprowner FROM pg_operator
      UNION ALL SELECT 'pg_opclass'::regclass, oid, opcnamespace, opcowner FROM pg_opclass
      UNION ALL SELECT 'pg_opfamily'::regclass, oid, opfnamespace, opfowner FROM pg_opfamily
      UNION ALL SELECT 'pg_proc'::regclass, oid, pronamespace, proowner FROM pg_proc
      UNION ALL SELECT 'pg_type'::regclass, t.oid, t.typnamespace, t.typowner FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
        WHERE t.typtype IN ('e', 'd', 'r') OR (t.typtype = 'c' AND c.relkind = 'c')
      UNION ALL SELECT 'pg_collation'::regclass, oid, collnamespace, collowner FROM pg_collation
      UNION ALL SELECT 'pg_conversion'::regclass, oid, connamespace, conowner FROM pg_conversion
      UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgnamespace, cfgowner FROM pg_ts_config
      UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictnamespace, dictowner FROM pg_ts_dict) all_of
    LEFT JOIN pg_namespace n ON n.oid = all_of.space
    WHERE (all_of.space IS NULL OR (n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')) AND pg_has_role(all_of.owner, 'USAGE')
      AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = all_of.class AND d.objid = all_of.oid AND d.objsubid = 0
        AND d.deptype IN ('e', 'i', 'a')) LOOP
    EXECUTE format('SELECT true FROM %s WHERE oid = $1', r.class) INTO is_there USING r.oid;
    CONTINUE WHEN is_there IS NULL;
    SELECT * INTO o FROM pg_identify_object(r.class, r.oid, 0);
    EXECUTE format('DROP %s IF EXISTS %s CASCADE', CASE WHEN r.class = 'pg_proc'::regclass AND
      current_setting('server_version_num')::int >= 110000 THEN 'routine' ELSE o.type END, o.identity);
  END LOOP;
END $tidegate$;
";

/// A PostgreSQL server that can be reached, with the programs for it.
pub struct Postgres {
    /// The variables of its programs.
    env: Vec<(String, String)>,
    /// Its address without the login, for people.
    place: String,
    format: PostgresFormat,
    args: Vec<String>,
    tools: Vec<Tool>,
    /// The folder that was named.
    named: Option<String>,
}

/// The folders where PostgreSQL's programs are: that which is named, or PATH and where distributions put every major version.
fn folders(world: &World, named: Option<&str>) -> Vec<PathBuf> {
    if let Some(named) = named {
        return vec![PathBuf::from(named)];
    }
    let mut folders = programs::path(world);
    for parent in ["/usr/lib/postgresql", "/usr/pgsql", "/opt/homebrew/opt"] {
        let inside = std::fs::read_dir(parent).into_iter().flatten().filter_map(std::result::Result::ok);
        folders.extend(inside.map(|entry| entry.path().join("bin")).filter(|path| path.join("pg_dump").is_file()));
    }
    folders
}

/// Its programs, which must be there at all. Connects to nothing.
pub fn tools(world: &World, named: Option<&str>) -> Result<Vec<Tool>> {
    let tools = programs::find(&folders(world, named), "pg_dump");
    if tools.is_empty() {
        let place = named.map_or("PATH or /usr/lib/postgresql".to_owned(), str::to_owned);
        return Err(Error::new(Reason::ToolMissing, format!("there is no pg_dump in {place}"))
            .hint("install postgresql-client of the server's major version or a newer one (the image of tidegate has one), or name its folder with `bin:`"));
    }
    Ok(tools)
}

impl Postgres {
    /// Reads the address. Connects to nothing.
    pub fn of(world: &World, source: &config::Postgres) -> Result<Self> {
        let secret = crate::targets::secret(world, &source.url.env, "the address of the database")?;
        Self::at(world, &secret, &source.url.env, source)
    }

    /// The same for an address that comes from elsewhere.
    pub fn at(world: &World, address: &Secret, from: &str, source: &config::Postgres) -> Result<Self> {
        let (env, place) = variables(world, address.expose(), from)?;
        let tools = tools(world, source.bin.as_deref())?;
        Ok(Self { env, place, format: source.format, args: source.args.clone(), tools, named: source.bin.clone() })
    }

    /// Host, port and name: what tells one database from another.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Its variables, for programs that work on it.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// The newest of a program: for questions, which any server understands.
    fn any(&self, program: &str) -> Result<PathBuf> {
        let newest = self.tools.iter().filter(|tool| tool.folder.join(program).is_file()).max_by_key(|tool| tool.major);
        let tool = newest.ok_or_else(|| {
            Error::new(Reason::ToolMissing, format!("there is no {program} beside pg_dump"))
                .hint("install postgresql-client, or name its folder with `bin:`")
        })?;
        Ok(tool.folder.join(program))
    }

    /// The oldest programs that the server lets in: what they write, most others can read.
    fn fitting(&self, survey: &Survey) -> Result<&Tool> {
        let fits = self.tools.iter().filter(|tool| tool.major >= survey.major).min_by_key(|tool| tool.major);
        fits.ok_or_else(|| {
            let newest = self.tools.iter().max_by_key(|tool| tool.major).map_or(String::new(), |tool| tool.version.clone());
            let place = self.named.as_deref().map_or(String::new(), |named| format!(" in {named}"));
            let sentence = format!(
                "the server of {} is PostgreSQL {}, and pg_dump here{place} is {newest}: it dumps no newer server",
                self.place, survey.version
            );
            Error::new(Reason::ToolVersion, sentence).hint(format!(
                "install postgresql-client-{0}, name its folder with `bin:`, or build your own image FROM tidegate's with it",
                survey.major
            ))
        })
    }

    /// What the server says of itself and of the database.
    pub async fn survey(&self, world: &World, migration: Option<&str>) -> Result<Survey> {
        let row = self.ask(world, SURVEY).await?;
        let fields: Vec<&str> = row.split('|').collect();
        let number = |at: usize| fields.get(at).and_then(|text| text.trim().parse::<u64>().ok());
        let (Some(version), Some(bytes), Some(tables), Some(relations)) = (number(0), number(2), number(3), number(4)) else {
            return Err(Error::new(Reason::BackupFailed, format!("{} does not say what it is: {row:?}", self.place)));
        };
        let migration = match migration {
            Some(query) => self.ask(world, query).await?.lines().next().and_then(|line| line.split('|').next()).map(str::to_owned),
            None => None,
        };
        let said = fields.get(1).copied().unwrap_or_default();
        let version_text = said.split_whitespace().next().unwrap_or_default().to_owned();
        Ok(Survey {
            engine: "PostgreSQL",
            major: version / 10_000,
            version: version_text,
            bytes,
            tables: Some(tables),
            relations,
            migration,
        })
    }

    /// What tells this database from all others, where the server says it.
    pub async fn identity(&self, world: &World) -> Option<String> {
        self.ask(world, IDENTITY).await.ok().filter(|identity| !identity.is_empty())
    }

    /// Takes everything out of it.
    pub async fn clear(&self, world: &World) -> Result<()> {
        self.ask(world, CLEAR).await.map(drop)
    }

    /// A question with one short answer.
    async fn ask(&self, world: &World, query: &str) -> Result<String> {
        let psql = self.any("psql")?;
        let words = ["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-c", query];
        let argv: Vec<String> = std::iter::once(psql.display().to_string()).chain(words.iter().map(|word| (*word).to_owned())).collect();
        programs::ask(world, &Asked { argv: &argv, env: &self.env, input: None, place: &self.place })
            .await
            .map_err(|error| explained(error, &self.place))
    }

    /// The program that dumps it, and how its dump has to look. `lists` is the program that reads the list of a dump.
    pub fn dump(&self, survey: &Survey) -> Result<super::Dump> {
        let tool = self.fitting(survey)?;
        let program = |name: &str| tool.folder.join(name).display().to_string();
        // Not compressed by pg_dump itself, which would use one processor: that is done beside it.
        let format = match self.format {
            PostgresFormat::Custom => vec!["--format=custom", "--compress=0"],
            PostgresFormat::Plain => vec!["--format=plain"],
        };
        let argv = std::iter::once(program("pg_dump")).chain(format.into_iter().map(str::to_owned));
        let argv = argv.chain(["--no-password".to_owned()]).chain(self.args.iter().cloned()).collect();
        let (shape, lister) = match self.format {
            PostgresFormat::Custom => {
                (Shape { begins_with: vec!["PGDMP".into()], ..Shape::default() }, Some(vec![program("pg_restore"), "--list".to_owned()]))
            }
            PostgresFormat::Plain => (
                Shape {
                    begins_with: vec!["-- PostgreSQL database dump".into()],
                    within: 64,
                    ends_with: Some("-- PostgreSQL database dump complete".into()),
                    counts: Some("COPY "), // one for each table that can hold rows, also for an empty one
                },
                None,
            ),
        };
        let ext = if self.format == PostgresFormat::Custom { "dump" } else { "sql" };
        let tool = format!("pg_dump {}", tool.version);
        Ok(super::Dump { argv, env: self.env.clone(), shape, lister, ext, tool, counts_all: self.counts_all() })
    }

    /// Whether every table has to be in the dump: not where arguments leave some out.
    fn counts_all(&self) -> bool {
        let picks = [
            "-t",
            "-T",
            "-n",
            "-N",
            "-s",
            "-e",
            "--table",
            "--exclude-table",
            "--schema",
            "--exclude-schema",
            "--filter",
            "--extension",
            "--exclude-extension",
            "--schema-only",
            "--no-unlogged-table-data",
        ];
        !self.args.iter().any(|arg| {
            let name = arg.split('=').next().unwrap_or_default();
            picks.contains(&name)
                || (!arg.starts_with("--") && picks.iter().any(|pick| pick.len() == 2 && arg.starts_with(pick)))
                || name == "--exclude-table-data"
                || name == "--exclude-table-and-children"
                || name == "--exclude-table-data-and-children"
        })
    }

    /// The program that turns an archive into SQL.
    pub fn archive_to_sql(&self, clean: &[config::Clean]) -> Result<Vec<String>> {
        let newest = self.any("pg_restore")?.display().to_string();
        let mut argv = vec![newest, "--file=-".to_owned()];
        argv.extend(clean.contains(&config::Clean::Ownership).then(|| "--no-owner".to_owned()));
        argv.extend(clean.contains(&config::Clean::Privileges).then(|| "--no-privileges".to_owned()));
        Ok(argv)
    }

    /// The program that takes SQL. It commits only what it is told to: whoever goes away before that has changed nothing.
    pub fn takes_sql(&self) -> Result<Vec<String>> {
        let psql = self.any("psql")?.display().to_string();
        let words = ["-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-f", "-"];
        Ok(std::iter::once(psql).chain(words.iter().map(|word| (*word).to_owned())).collect())
    }

    /// Whether psql can be kept from running programs: <https://www.postgresql.org/support/security/CVE-2025-8714/>.
    pub fn restricts(&self) -> bool {
        let newest = self.tools.iter().max_by_key(|tool| tool.major);
        newest.is_some_and(|tool| {
            let minor = tool.version.split('.').nth(1).and_then(|minor| minor.parse::<u64>().ok()).unwrap_or_default();
            match tool.major {
                ..=12 => false,
                13 => minor >= 22,
                14 => minor >= 19,
                15 => minor >= 14,
                16 => minor >= 10,
                17 => minor >= 6,
                _newer => true,
            }
        })
    }
}

/// The address as variables of libpq: nothing of it ever stands on a command line.
fn variables(world: &World, address: &str, from: &str) -> Result<(Vec<(String, String)>, String)> {
    let wrong = |what: &str| {
        Error::new(Reason::InputInvalid, format!("{from} is no address of a PostgreSQL database: {what}"))
            .hint("write it as postgres://user:password@host:5432/name; signs as @ : / % in a password are escaped, as %40")
    };
    let url = Url::parse(address.trim()).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(wrong(&format!("it begins with {}:", url.scheme())));
    }
    let decoded = |text: &str| percent(text).ok_or_else(|| wrong("an escaped sign in it is no text"));
    let mut env = programs::surroundings(world);
    let mut set = |name: &str, value: String| {
        env.retain(|(known, _)| known != name);
        if !value.is_empty() {
            env.push((name.to_owned(), value));
        }
    };
    set("PGCONNECT_TIMEOUT", "20".into());
    if let Some(host) = url.host_str() {
        set("PGHOST", decoded(host.trim_start_matches('[').trim_end_matches(']'))?);
    }
    set("PGPORT", url.port().map(|port| port.to_string()).unwrap_or_default());
    set("PGUSER", decoded(url.username())?);
    let password = url.password().map(decoded).transpose()?.unwrap_or_default();
    set("PGDATABASE", decoded(url.path().trim_start_matches('/'))?);
    let mut secrets = vec![password.clone()];
    set("PGPASSWORD", password);
    for (name, value) in url.query_pairs() {
        if let Some((name, variable)) = PARAMETERS.iter().find(|(known, _)| *known == name) {
            secrets.extend((*name == "password").then(|| value.to_string()));
            set(variable, value.into_owned());
        }
    }
    secrets.into_iter().filter(|secret| !secret.is_empty()).for_each(|secret| world.console.mask(&Secret::new(secret)));
    let known = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let Some(database) = known("PGDATABASE") else { return Err(wrong("it names no database")) };
    let host = known("PGHOST").or(known("PGHOSTADDR")).unwrap_or("the local socket");
    let place = format!("{host}:{}/{database}", known("PGPORT").unwrap_or("5432"));
    Ok((env, place))
}

pub(super) fn percent(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escaped =
            (*byte == b'%').then(|| bytes.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()));
        match escaped.flatten() {
            Some(value) => {
                decoded.push(value);
                at += 3;
            }
            None => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

/// What libpq's complaints mean for us.
pub fn explained(error: Error, place: &str) -> Error {
    let said = format!("{} {}", error.sentence, error.detail.join(" "));
    let has = |text: &str| said.contains(text);
    if has("password authentication failed") || has("no password supplied") || has("pg_hba.conf") || has("permission denied") {
        let hint = match has("permission denied") {
            true => "give the user the right to read every table and sequence (role pg_read_all_data)",
            false => "look at the login in the address, and at who may connect from here",
        };
        return Error { reason: Reason::AuthDenied, ..error }.hint(hint);
    }
    if has("does not exist") && has("database") {
        return error.hint("look at the name at the end of the address");
    }
    if has("could not connect") || has("Connection refused") || has("could not translate host name") || has("timeout expired") {
        return error.hint(format!("{place} is not reached from here: is it private, or behind a firewall?"));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_signs_are_text_again() {
        assert_eq!(percent("p%40ss%3Aw%2Frd").as_deref(), Some("p@ss:w/rd"));
        assert_eq!(percent("100%").as_deref(), Some("100%"));
        assert_eq!(percent("%ff"), None);
    }
}
