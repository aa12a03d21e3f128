//! The databases' own programs: where they are, which version they have, and how they are asked.

use crate::error::{Error, Reason, Result};
use crate::tools::pipe::{Ends, Start};
use crate::tools::process;
use crate::world::World;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Variables of ours that every program may see.
const PASSED: [&str; 8] = ["PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "LD_LIBRARY_PATH"];
/// How long a question may take.
const ASK_LIMIT: Duration = Duration::from_secs(120);
/// The longest answer to a question.
const ANSWER_LIMIT: u64 = 1024 * 1024;

/// A dump program that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Its folder.
    pub folder: PathBuf,
    /// Its major version.
    pub major: u64,
    /// Its whole version.
    pub version: String,
}

/// The environment that a database's program begins with. Their messages are read, so they are English.
pub fn surroundings(world: &World) -> Vec<(String, String)> {
    let passed = PASSED.iter().filter_map(|name| Some(((*name).to_owned(), world.vars.get(name)?.to_owned())));
    passed.chain([("LC_ALL".to_owned(), "C".to_owned())]).collect()
}

/// The folders of PATH.
pub fn path(world: &World) -> Vec<PathBuf> {
    world.vars.get("PATH").unwrap_or_default().split(':').filter(|place| !place.is_empty()).map(PathBuf::from).collect()
}

/// Every version of a program in these folders, once each.
pub fn find(folders: &[PathBuf], program: &str) -> Vec<Tool> {
    let mut found: Vec<Tool> = Vec::new();
    for folder in folders {
        let Some(version) = version_of(folder, program) else { continue };
        let number: String = version.chars().take_while(char::is_ascii_digit).collect();
        let Ok(major) = number.parse() else { continue };
        if found.iter().all(|known| known.version != version) {
            found.push(Tool { folder: folder.clone(), major, version });
        }
    }
    found
}

/// What a program says of its version: the first word that begins with a digit and has a dot in it.
fn version_of(folder: &Path, program: &str) -> Option<String> {
    let path = folder.join(program);
    let said = path.is_file().then(|| process::read(&path.display().to_string(), &["--version"], Path::new("/")))??;
    version_in(&said)
}

fn version_in(said: &str) -> Option<String> {
    let said = said.split_once("Distrib ").map_or(said, |(_, rest)| rest); // of MariaDB; before it stands the program's own
    let words = said.split_whitespace().map(|word| word.trim_matches([',', '(', ')']));
    let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    words.filter(is_version).map(str::to_owned).next()
}

/// A question to a database's program.
pub struct Asked<'a> {
    /// The program and its arguments.
    pub argv: &'a [String],
    /// Its whole environment.
    pub env: &'a [(String, String)],
    /// What it reads.
    pub input: Option<&'a str>,
    /// The database, for people.
    pub place: &'a str,
}

/// Asks; the trimmed answer. What the program complains of is the error's detail.
pub async fn ask(world: &World, asked: &Asked<'_>) -> Result<String> {
    let mut child = Start { argv: asked.argv, folder: Path::new("/"), env: asked.env, ends: Ends::Both }.start()?;
    let answered = async {
        if let Some(mut input) = child.input.take() {
            let _closed = input.write_all(asked.input.unwrap_or_default().as_bytes()).await; // its end says why
        }
        let mut answer = Vec::new();
        if let Some(output) = child.output.take() {
            let _broken = output.take(ANSWER_LIMIT).read_to_end(&mut answer).await;
        }
        Ok::<_, Error>((answer, child.ended().await?))
    };
    let (answer, ended) = tokio::select! {
        answered = answered => answered?,
        () = world.clock.sleep(ASK_LIMIT) => {
            return Err(Error::new(Reason::BackupTimeout, format!("{} did not answer a question within {}", asked.place, humantime::format_duration(ASK_LIMIT))));
        }
        () = world.cancel.cancelled() => return Err(Error::new(Reason::Cancelled, format!("cancelled while {} was asked", asked.place))),
    };
    if !ended.status.success() {
        let why = ended.last().map_or_else(|| ended.how(), str::to_owned);
        return Err(Error::new(Reason::BackupFailed, format!("{} cannot be asked: {why}", asked.place)).detail(if ended.words.len() > 1 {
            ended.words
        } else {
            Vec::new()
        }));
    }
    Ok(String::from_utf8_lossy(&answer).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, version) in [
            ("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "15.18"),
            ("pg_dump (PostgreSQL) 18beta1", "18beta1"),
            ("mariadb-dump  Ver 10.19 Distrib 10.11.19-MariaDB, for debian-linux-gnu (x86_64)", "10.11.19-MariaDB"),
            ("mysqldump  Ver 8.4.2 for Linux on x86_64 (MySQL Community Server - GPL)", "8.4.2"),
        ] {
            assert_eq!(version_in(said).as_deref(), Some(version), "{said}");
        }
    }
}
