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
    ownership: Option<Regex>,
    /// Statements that are left out, by how their first line looks.
    drops: Vec<Regex>,
    schema: Option<Regex>,
    definer: Option<Regex>,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// The rest of this line is data.
    is_long: bool,
    /// How many quotes a long line has so far.
    quotes: usize,
    state: State,
    dropped: u64,
}

enum State {
    Statements,
    /// Rows, until `\.`.
    Copy,
    /// A text between dollar signs, until this mark.
    Body(Vec<u8>),
    /// A text between quotes that goes on over several lines.
    Literal,
    /// A statement that is left out goes on over several lines.
    Dropping,
}

impl Cleaner {
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
                drops.extend(pattern(r"^SET SESSION AUTHORIZATION "));
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
            ownership,
            drops,
            schema,
            definer,
            line: Vec::new(),
            is_long: false,
            quotes: 0,
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
            self.quotes += quotes(piece);
            out.extend_from_slice(piece);
            return Ok(());
        }
        self.line.extend_from_slice(piece);
        if self.line.len() > LINE_LIMIT {
            self.is_long = true;
            let line = std::mem::take(&mut self.line);
            self.must_be_harmless(&line)?;
            self.quotes = quotes(&line);
            out.extend(line);
        }
        Ok(())
    }

    /// An odd number of quotes opens a text, or closes one.
    fn end_long_line(&mut self) {
        let is_odd = self.quotes % 2 == 1;
        match self.state {
            State::Statements if is_odd => self.state = State::Literal,
            State::Literal if is_odd => self.state = State::Statements,
            State::Statements | State::Literal | State::Copy | State::Body(_) | State::Dropping => {}
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
            State::Body(mark) => {
                let after = memchr::memmem::find(bare, mark).and_then(|at| bare.get(at + mark.len()..));
                if let Some(after) = after {
                    self.state = opened(after).map_or(State::Statements, State::Body);
                }
                out.extend_from_slice(line);
            }
            State::Literal => {
                if quotes(bare) % 2 == 1 {
                    self.state = State::Statements;
                }
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
            if !bare.ends_with(b";") {
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
        if self.dialect == Dialect::Postgres && !bare.starts_with(b"--") {
            if bare.starts_with(b"COPY ") && bare.ends_with(b" FROM stdin;") {
                self.state = State::Copy;
            } else if let Some(mark) = opened(bare) {
                self.state = State::Body(mark);
            } else if quotes(bare) % 2 == 1 {
                self.state = State::Literal;
            }
        }
        out.extend_from_slice(line);
        Ok(())
    }

    /// The clients run programs when they are told so, and a dump is somebody else's text.
    fn must_be_harmless(&self, line: &[u8]) -> Result<()> {
        let Some(b'\\') = line.first() else { return Ok(()) };
        if !matches!(self.state, State::Statements) {
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

fn quotes(text: &[u8]) -> usize {
    memchr::memchr_iter(b'\'', text).count()
}

/// The mark of a text between dollar signs that begins on this line and does not end on it.
fn opened(line: &[u8]) -> Option<Vec<u8>> {
    let mut rest = line;
    loop {
        let start = memchr::memchr(b'$', rest)?;
        let after = rest.get(start + 1..)?;
        let length = after.iter().position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80))?;
        let is_parameter = after.first().is_some_and(u8::is_ascii_digit);
        if after.get(length) != Some(&b'$') || is_parameter {
            rest = after;
            continue;
        }
        let mark = rest.get(start..start + length + 2)?;
        let body = rest.get(start + length + 2..)?;
        match memchr::memmem::find(body, mark) {
            Some(end) => rest = body.get(end + mark.len()..)?,
            None => return Some(mark.to_vec()),
        }
    }
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
        let restricted = cleaned(Dialect::Postgres, &[], "\\restrict abc\nBEGIN;\nSELECT 1;\nCOMMIT;\n\\unrestrict abc\n", 3).unwrap();
        assert_eq!(restricted, "SELECT 1;\n", "what is one transaction, and what psql may do, is ours to say");
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
