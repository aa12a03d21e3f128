//! SQL on its way into another place: what only the old place had is left out, and what would run programs here is refused.
//!
//! Only statements are looked at. Data is passed on as it is, whatever it says: rows of `COPY`, bodies of functions, and lines
//! that are too long to be anything else. (The scripts before this one deleted every line with "OWNER TO" in it, data too.)

use crate::config::Clean;
use crate::error::{Error, Reason, Result};
use regex::bytes::Regex;

/// The longest line that can be a statement of interest, in bytes.
const LINE_LIMIT: usize = 64 * 1024;

/// Whose SQL it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL, as psql reads it.
    Postgres,
    /// MariaDB and MySQL, as their clients read it.
    Mysql,
}

/// Reads SQL in pieces, line by line.
pub struct Cleaner {
    dialect: Dialect,
    /// Whether a client will run it.
    is_played: bool,
    ownership: Option<Regex>,
    /// Statements that are left out, by how their first line looks.
    drops: Vec<Regex>,
    schema: Option<Regex>,
    definer: Option<Regex>,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// The rest of this line is data.
    is_long: bool,
    /// What the statement of a long line has open so far.
    open: Open,
    state: State,
    dropped: u64,
}

enum State {
    Statements,
    /// Rows, until `\.`.
    Copy,
    /// A text or a body that goes on over several lines.
    Inside(Open),
    /// A statement that is left out goes on over several lines.
    Dropping,
}

impl State {
    fn of(open: Open) -> Self {
        if open == Open::Nothing { Self::Statements } else { Self::Inside(open) }
    }
}

impl Cleaner {
    /// For files that are only kept: nothing is refused, and nothing is left out but this.
    pub fn of_files(clean: &[Clean]) -> Self {
        let only = |cleaner: Self| Self { schema: None, is_played: false, ..cleaner };
        let mut cleaner = only(Self::new(Dialect::Postgres, clean));
        cleaner.drops.remove(0); // what is ours to say where it is played
        cleaner
    }

    /// Leaves these out.
    pub fn new(dialect: Dialect, clean: &[Clean]) -> Self {
        let has = |what: Clean| clean.contains(&what);
        let pattern = |text: &str| Regex::new(text).ok();
        let mut drops: Vec<Regex> = Vec::new();
        let mut ownership = None;
        let (mut definer, mut schema) = (None, None);
        if dialect == Dialect::Postgres {
            // 0 is what it is anyway, and servers before 17 do not know it. Where it is one transaction is ours to say, and
            // what psql may do as well.
            drops.extend(pattern(r"^(SET transaction_timeout = 0;|(BEGIN|COMMIT);$|\\(un)?restrict )"));
            schema = pattern(r"^CREATE SCHEMA ([^I]|I[^F])"); // one that holds an extension is still there
            if has(Clean::Ownership) {
                ownership = pattern(r"^ALTER [^;']* OWNER TO [^;]*;\s*$");
                drops.extend(pattern(r"^(SET SESSION AUTHORIZATION |(CREATE|ALTER|COMMENT ON) EVENT TRIGGER )")); // only administrators may
            }
            if has(Clean::Privileges) {
                drops.extend(pattern(r"^(GRANT|REVOKE|ALTER DEFAULT PRIVILEGES) "));
            }
            if has(Clean::Extensions) {
                drops.extend(pattern(r"^(CREATE|DROP|ALTER|COMMENT ON) EXTENSION "));
            }
        } else if has(Clean::Ownership) {
            definer = pattern(r"(?-u)DEFINER ?= ?(`[^`]*`@`[^`]*`|'[^']*'@'[^']*'|CURRENT_USER(\(\))?) ?");
        }
        Self {
            dialect,
            is_played: true,
            ownership,
            drops,
            schema,
            definer,
            line: Vec::new(),
            is_long: false,
            open: Open::Nothing,
            state: State::Statements,
            dropped: 0,
        }
    }

    /// How many statements were left out.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The next bytes; what is to be passed on.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(chunk.len() + 64);
        let mut rest = chunk;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, later) = rest.split_at(end + 1);
            rest = later;
            self.piece(line, &mut out)?;
            if self.is_long {
                self.end_long_line();
            } else {
                let line = std::mem::take(&mut self.line);
                self.judge(&line, &mut out)?;
            }
            self.is_long = false;
        }
        self.piece(rest, &mut out)?;
        Ok(out)
    }

    /// What is left when no more comes.
    pub fn end(&mut self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.judge(&line, &mut out)?;
        }
        Ok(out)
    }

    fn piece(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if self.is_long {
            self.open = scan(piece, std::mem::replace(&mut self.open, Open::Nothing));
            out.extend_from_slice(piece);
            return Ok(());
        }
        self.line.extend_from_slice(piece);
        if self.line.len() > LINE_LIMIT {
            self.is_long = true;
            let line = std::mem::take(&mut self.line);
            self.must_be_harmless(&line)?;
            self.open = scan(&line, self.opened());
            out.extend(line);
        }
        Ok(())
    }

    /// MariaDB and MySQL escape quotes, and end texts on their line: there nothing is followed.
    fn end_long_line(&mut self) {
        let open = std::mem::replace(&mut self.open, Open::Nothing);
        if self.dialect == Dialect::Postgres && matches!(self.state, State::Statements | State::Inside(_)) {
            self.state = State::of(open);
        }
    }

    /// What is open where a line begins.
    fn opened(&self) -> Open {
        match &self.state {
            State::Inside(open) => open.clone(),
            State::Statements | State::Copy | State::Dropping => Open::Nothing,
        }
    }

    fn judge(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let bare = line.strip_suffix(b"\n").unwrap_or(line);
        let bare = bare.strip_suffix(b"\r").unwrap_or(bare);
        match &self.state {
            State::Copy => {
                if bare == b"\\." {
                    self.state = State::Statements;
                }
                out.extend_from_slice(line);
            }
            State::Inside(open) => {
                self.state = State::of(scan(bare, open.clone()));
                out.extend_from_slice(line);
            }
            State::Dropping => {
                if bare.ends_with(b";") {
                    self.state = State::Statements;
                }
            }
            State::Statements => self.statement(line, bare, out)?,
        }
        Ok(())
    }

    fn statement(&mut self, line: &[u8], bare: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.must_be_harmless(bare)?;
        if self.ownership.as_ref().is_some_and(|pattern| pattern.is_match(bare)) {
            self.dropped += 1;
            return Ok(());
        }
        if self.drops.iter().any(|pattern| pattern.is_match(bare)) {
            self.dropped += 1;
            if !bare.ends_with(b";") && !bare.starts_with(b"\\") {
                self.state = State::Dropping;
            }
            return Ok(());
        }
        if let Some(pattern) = &self.definer
            && !bare.starts_with(b"INSERT ")
            && pattern.is_match(bare)
        {
            self.dropped += 1;
            out.extend(pattern.replace_all(line, &b""[..]).into_owned());
            return Ok(());
        }
        if let Some(pattern) = &self.schema
            && pattern.is_match(bare)
        {
            out.extend_from_slice(b"CREATE SCHEMA IF NOT EXISTS");
            out.extend_from_slice(line.get("CREATE SCHEMA".len()..).unwrap_or_default());
            return Ok(());
        }
        if self.dialect == Dialect::Postgres {
            let is_copy = bare.starts_with(b"COPY ") && bare.ends_with(b" FROM stdin;");
            self.state = if is_copy { State::Copy } else { State::of(scan(bare, Open::Nothing)) };
        }
        out.extend_from_slice(line);
        Ok(())
    }

    /// The clients run programs when they are told so, and a dump is somebody else's text.
    fn must_be_harmless(&self, line: &[u8]) -> Result<()> {
        let Some(b'\\') = line.first() else { return Ok(()) };
        if !self.is_played || !matches!(self.state, State::Statements) {
            return Ok(());
        }
        let known: &[&[u8]] = match self.dialect {
            Dialect::Postgres => &[b"\\restrict ", b"\\unrestrict ", b"\\."],
            Dialect::Mysql => &[b"\\-"],
        };
        if known.iter().any(|start| line.starts_with(start)) {
            return Ok(());
        }
        let shown: String = String::from_utf8_lossy(line).chars().take(40).collect();
        Err(Error::new(
            Reason::RestoreFailed,
            format!("the backup holds a command of the client, {shown:?}, which could run programs on this machine"),
        )
        .hint("no dump program writes such a line: who made this backup?"))
    }
}

/// What is open at the end of a piece of SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Open {
    Nothing,
    /// `'…`
    Text,
    /// `$mark$…`
    Body(Vec<u8>),
}

/// Reads a piece of statements: texts in quotes, names in double quotes, bodies between dollar signs, and comments to the line's
/// end hold each other's signs as they are.
fn scan(line: &[u8], mut open: Open) -> Open {
    let mut rest = line;
    loop {
        rest = match &open {
            Open::Text => match memchr::memchr(b'\'', rest) {
                Some(end) => rest.get(end + 1..).unwrap_or_default(),
                None => return open,
            },
            Open::Body(mark) => match memchr::memmem::find(rest, mark) {
                Some(end) => rest.get(end + mark.len()..).unwrap_or_default(),
                None => return open,
            },
            Open::Nothing => rest,
        };
        open = Open::Nothing;
        let Some(at) = memchr::memchr3(b'\'', b'"', b'$', rest) else { return open };
        if memchr::memmem::find(rest.get(..at).unwrap_or_default(), b"--").is_some() {
            return open;
        }
        let (before, after) = (rest.get(..at).and_then(<[u8]>::last).copied(), rest.get(at + 1..).unwrap_or_default());
        match rest.get(at) {
            Some(b'\'') => {
                (open, rest) = (Open::Text, after);
            }
            Some(b'"') => match memchr::memchr(b'"', after) {
                Some(end) => rest = after.get(end + 1..).unwrap_or_default(),
                None => return open, // a name ends on its line
            },
            _dollar => match mark_of(before, after) {
                Some(length) => {
                    open = Open::Body(rest.get(at..at + length + 2).unwrap_or_default().to_vec());
                    rest = after.get(length + 1..).unwrap_or_default();
                }
                None => rest = after,
            },
        }
    }
}

/// How long the mark is that begins behind a dollar sign: not behind a letter, and not a parameter as `$1`.
fn mark_of(before: Option<u8>, after: &[u8]) -> Option<usize> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
    let length = after.iter().position(|byte| !is_name(*byte))?;
    let is_mark = after.get(length) == Some(&b'$') && !after.first().is_some_and(u8::is_ascii_digit);
    (is_mark && !before.is_some_and(|byte| is_name(byte) || byte == b'$')).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cleaned(dialect: Dialect, clean: &[Clean], text: &str, size: usize) -> Result<String> {
        let mut cleaner = Cleaner::new(dialect, clean);
        let mut out = Vec::new();
        for chunk in text.as_bytes().chunks(size) {
            out.extend(cleaner.feed(chunk)?);
        }
        out.extend(cleaner.end()?);
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    const ALL: [Clean; 3] = [Clean::Ownership, Clean::Privileges, Clean::Extensions];

    #[test]
    fn statements_go_and_data_stays() {
        let text = "SET transaction_timeout = 0;\nCREATE EXTENSION IF NOT EXISTS plpgsql WITH SCHEMA pg_catalog;\n\
            COMMENT ON EXTENSION plpgsql IS 'PL/pgSQL\nprocedural language';\nCREATE TABLE a (t text);\nALTER TABLE a OWNER TO bob;\n\
            GRANT ALL ON a TO eve;\nCOPY a (t) FROM stdin;\nALTER TABLE a OWNER TO bob;\nGRANT ALL ON a TO eve;\n\\! not a command\n\\.\n\
            CREATE FUNCTION f() RETURNS void AS $_$\nALTER TABLE a OWNER TO bob;\n$_$;\nALTER FUNCTION f() OWNER TO bob;\nend";
        let kept = "CREATE TABLE a (t text);\nCOPY a (t) FROM stdin;\nALTER TABLE a OWNER TO bob;\nGRANT ALL ON a TO eve;\n\\! not a command\n\\.\n\
            CREATE FUNCTION f() RETURNS void AS $_$\nALTER TABLE a OWNER TO bob;\n$_$;\nend";
        for size in 1..80 {
            assert_eq!(cleaned(Dialect::Postgres, &ALL, text, size).unwrap(), kept, "{size}");
        }
        let only_timeout = text.split_once('\n').unwrap().1;
        assert_eq!(cleaned(Dialect::Postgres, &[], text, 7).unwrap(), only_timeout);
    }

    /// Texts over several lines are data, whatever their lines look like; schemas may be there already.
    #[test]
    fn texts_over_several_lines_stay() {
        let text = "COMMENT ON TABLE a IS 'it''s\nGRANT ALL ON a TO eve;\n\\begin{doc}\nend';\n-- it's a comment $a$\nGRANT ALL ON a TO eve;\n\
            CREATE SCHEMA other;\nCREATE SCHEMA IF NOT EXISTS more;\n";
        let kept = "COMMENT ON TABLE a IS 'it''s\nGRANT ALL ON a TO eve;\n\\begin{doc}\nend';\n-- it's a comment $a$\n\
            CREATE SCHEMA IF NOT EXISTS other;\nCREATE SCHEMA IF NOT EXISTS more;\n";
        for size in 1..60 {
            assert_eq!(cleaned(Dialect::Postgres, &ALL, text, size).unwrap(), kept, "{size}");
        }
    }

    /// Signs of one kind inside another are no signs.
    #[test]
    fn odd_names_and_texts_hide_nothing() {
        let text = "CREATE TABLE public.t (\"Customer's name\" text, a$b$ int);\nCOPY public.t (\"Customer's name\") FROM stdin;\nGRANT ALL ON x TO y\n\\N\nit's\n\\.\n\
            COMMENT ON TABLE t IS 'price in $$';\nGRANT ALL ON t TO eve;\nSELECT $1, 'a' -- it's $x$\n;\nGRANT ALL ON t TO eve;\n";
        let kept = text.replace("GRANT ALL ON t TO eve;\n", "");
        for size in 1..90 {
            assert_eq!(cleaned(Dialect::Postgres, &ALL, text, size).unwrap(), kept, "{size}");
        }
    }

    #[test]
    fn definers_go_and_rows_stay() {
        let text = "CREATE DEFINER=`root`@`%` PROCEDURE p()\n/*!50017 DEFINER=`root`@`localhost`*/ /*!50003 TRIGGER t */;\n\
            INSERT INTO a VALUES ('DEFINER=`root`@`%` ');\n";
        let kept = "CREATE PROCEDURE p()\n/*!50017 */ /*!50003 TRIGGER t */;\nINSERT INTO a VALUES ('DEFINER=`root`@`%` ');\n";
        for size in 1..60 {
            assert_eq!(cleaned(Dialect::Mysql, &[Clean::Ownership], text, size).unwrap(), kept, "{size}");
        }
    }

    #[test]
    fn commands_of_the_client_are_refused() {
        for text in ["\\! touch /tmp/x\n", "SELECT 1;\n\\copy a from program 'x'\n", "\\o |sh\n"] {
            assert!(cleaned(Dialect::Postgres, &[], text, 3).is_err(), "{text}");
        }
        let long = format!("\\! {}\n", "x".repeat(LINE_LIMIT * 2));
        assert!(cleaned(Dialect::Postgres, &[], &long, 4096).is_err());
        assert!(cleaned(Dialect::Mysql, &[], "\\! touch x\n", 3).is_err());
        let restricted = cleaned(
            Dialect::Postgres,
            &[],
            "\\restrict abc\n\nSET statement_timeout = 0;\nBEGIN;\nSELECT 1;\nCOMMIT;\n\\unrestrict abc\n",
            3,
        )
        .unwrap();
        assert_eq!(
            restricted, "\nSET statement_timeout = 0;\nSELECT 1;\n",
            "what is one transaction, and what psql may do, is ours to say"
        );
    }

    proptest! {
        /// Rows pass unchanged, whatever stands in them and wherever the pieces end.
        #[test]
        fn rows_are_never_touched(rows in proptest::collection::vec("[A-Z \\\\;$!a-z]{0,60}", 0..20), size in 1usize..50) {
            let rows: Vec<String> = rows.into_iter().filter(|row| row != "\\.").collect();
            let text = format!("COPY a (t) FROM stdin;\n{}\n\\.\n", rows.join("\n"));
            prop_assert_eq!(cleaned(Dialect::Postgres, &ALL, &text, size).unwrap(), text);
        }
    }
}
