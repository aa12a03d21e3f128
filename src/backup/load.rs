//! The way of a backup into a database: read, proven, unpacked, cleaned and taken, all at once and in bounded memory.

use super::bucket::Bucket;
use super::clean::{Cleaner, Dialect};
use super::restore::{Found, Into, Target, TargetKind, Wanted};
use super::unpack::{Margins, unpack_all};
use super::{Database, Maker, command_line, postgres};
use crate::checkout::read_named;
use crate::config::{self, Scrub, Source};
use crate::error::{Error, Reason, Result};
use crate::report::{outputs::random, size};
use crate::tools::pipe::{Child, Ended, Ends, Start};
use crate::tools::process::{End, Program};
use crate::tools::secret::Secret;
use crate::version::hex;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// Keeps the client of MariaDB from running programs; older ones and MySQL's take it for a comment.
const SANDBOX: &[u8] = b"/*M!999999\\- enable the sandbox mode */\n";
/// How much SQL is moved at a time.
/// A scrub file is written by people.
const SCRUB_LIMIT: u64 = 16 * 1024 * 1024;
const CHUNK: usize = 256 * 1024;

/// A restore while it goes on.
pub(super) struct Restoring<'a> {
    pub(super) maker: &'a Maker<'a>,
    pub(super) bucket: &'a Bucket,
    pub(super) found: &'a Found,
    pub(super) target: &'a Target<'a>,
    pub(super) wanted: &'a Wanted<'a>,
}

impl Restoring<'_> {
    /// What a failure leaves behind.
    pub(super) fn told(&self, error: Error) -> Error {
        let left = match &self.target.kind {
            TargetKind::Server(Database::Postgres(_)) => "nothing was changed: PostgreSQL took all of it back",
            TargetKind::Server(Database::Mysql(_)) => {
                "MariaDB and MySQL take no such change back: the database holds a part of the backup. Restore once more"
            }
            TargetKind::Program(_) => "what the program did with the part that it got is its own",
        };
        let hint = error.hint.clone().map_or_else(|| left.to_owned(), |hint| format!("{left}\n{hint}"));
        let reason = if error.reason == Reason::BackupFailed { Reason::RestoreFailed } else { error.reason };
        Error { reason, ..error }.hint(hint)
    }

    /// Reads all of it into the database; the bytes that were read.
    pub(super) async fn run(&self) -> Result<u64> {
        let (pieces, to_unpack) = mpsc::channel::<Bytes>(1);
        let (unpacked, mut chunks) = mpsc::channel::<Bytes>(4);
        // Set before whoever takes it sees an end that is none.
        let broken_off = Arc::new(AtomicBool::new(false));
        let unpacking = tokio::task::spawn_blocking({
            let broken_off = broken_off.clone();
            move || {
                let ended = unpack_all(to_unpack, &unpacked);
                broken_off.fetch_or(ended.is_err(), Ordering::SeqCst);
                ended
            }
        });
        let taking = async {
            let first = chunks.recv().await.unwrap_or_default();
            self.must_be_a_dump(&first)?;
            match &self.target.kind {
                TargetKind::Server(Database::Postgres(database)) => self.to_postgres(database, (first, chunks)).await,
                TargetKind::Server(Database::Mysql(database)) => self.to_mysql(database, (first, chunks)).await,
                TargetKind::Program(command) => self.to_program(command, (first, chunks)).await,
            }
        };
        // Whoever takes it waits for the word of whoever reads it before the end is given on.
        let (said, heard) = tokio::sync::oneshot::channel();
        let reading = async {
            let read = self.read_all(&pieces, &broken_off).await;
            broken_off.fetch_or(read.is_err(), Ordering::SeqCst);
            drop(pieces);
            let unpacked = unpacking.await;
            let whole = read.and_then(|read| {
                let broken = |why: String| {
                    Error::new(Reason::RestoreFailed, format!("{} cannot be unpacked: {why}", self.bucket.url(&self.found.key)))
                };
                match unpacked.map_err(|error| broken(error.to_string()))? {
                    Ok(()) => Ok(read),
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Error { gone: true, ..broken(error.to_string()) }),
                    Err(error) => Err(broken(error.to_string())),
                }
            });
            let _nobody = said.send(whole.is_ok());
            whole
        };
        let taking = async {
            let waiting = taking.await?;
            match heard.await {
                Ok(true) => waiting.finish(&self.target.place).await,
                Ok(false) | Err(_) => Ok(()), // the other half says why; what was taken is dropped, and taken back with it
            }
        };
        tokio::pin!(reading, taking);
        // What takes it says best why it took no more; what reads it, why there was no more.
        tokio::select! {
            taken = &mut taking => match taken {
                Ok(()) => reading.await,
                // It took no more for it broke off: why, the other half says.
                Err(error) if broken_off.load(Ordering::SeqCst) => match reading.await {
                    Err(cause) if !cause.gone => Err(cause),
                    Err(_) | Ok(_) => Err(error),
                },
                Err(error) => Err(error),
            },
            read = &mut reading => match read {
                // It was taken no more: why, the other half says.
                Err(error) if error.gone => taking.await.and(Err(error)),
                Err(error) => Err(error),
                Ok(read) => taking.await.map(|()| read),
            }
        }
    }

    /// Reads the object piece by piece, and sees that it is what was stored.
    async fn read_all(&self, pieces: &mpsc::Sender<Bytes>, broken_off: &AtomicBool) -> Result<u64> {
        let (object, key) = (&self.found.object, &self.found.key);
        let (mut hash, mut at, mut told, mut is_taken) = (Sha256::new(), 0, Instant::now(), true);
        while at < object.bytes {
            let piece = self.bucket.read(key, &object.etag, at).await?;
            if piece.is_empty() {
                let sentence = format!("{} ends after {at} of {} bytes", self.bucket.url(key), object.bytes);
                return Err(Error::new(Reason::RestoreFailed, sentence));
            }
            at += piece.len() as u64;
            hash.update(&piece);
            // Whoever takes no more says why. If it has enough, the rest is proven all the same.
            is_taken = is_taken && pieces.send(piece).await.is_ok();
            if !is_taken && broken_off.load(Ordering::SeqCst) {
                return Ok(at); // it cannot be unpacked
            }
            if told.elapsed() >= super::SAY_EVERY {
                told = Instant::now();
                self.maker.world.console.line(&format!("  restore: {} of {} read", size(at), size(object.bytes)));
            }
        }
        let (is, was) = (hex(&hash.finalize()), self.found.says("sha256"));
        match was {
            Some(was) if was != is => Err(Error::new(
                Reason::RestoreFailed,
                format!("{} is not what was stored: its SHA-256 is {is}, and was {was} when the backup was made", self.bucket.url(key)),
            )
            .hint("take another one: `tidegate backup ENV --list`")),
            Some(_) | None => Ok(at),
        }
    }

    /// An empty backup would empty the database. One that we made was proven; of others the beginning must be known.
    fn must_be_a_dump(&self, first: &Bytes) -> Result<()> {
        let odd = |what: &str| {
            let sentence = format!("{} {what}", self.bucket.url(&self.found.key));
            Err(Error::new(Reason::RestoreFailed, sentence).hint("take another one: `tidegate backup ENV --list`"))
        };
        if first.is_empty() {
            return odd("is empty: there is nothing to restore");
        }
        let known = ["PGDMP", "-- PostgreSQL database dump", "-- MariaDB dump", "-- MySQL dump"];
        let start = first.get(..first.len().min(Margins::WIDTH)).unwrap_or_default();
        let is_known = known.iter().any(|known| memchr::memmem::find(start, known.as_bytes()).is_some());
        let is_free = matches!(self.target.kind, TargetKind::Program(_)) || self.found.says("tidegate").is_some();
        if is_known || is_free { Ok(()) } else { odd("is no dump that tidegate knows, nor a backup that it made") }
    }

    fn cleaner(&self, dialect: Dialect) -> Cleaner {
        Cleaner::new(dialect, self.wanted.clean)
    }

    /// SQL goes through the cleaner into psql; an archive is made SQL first.
    async fn to_postgres(&self, database: &postgres::Postgres, (first, chunks): (Bytes, mpsc::Receiver<Bytes>)) -> Result<Taking> {
        let scrub = self.scrub_sql()?;
        let mut psql = self.start(&database.takes_sql()?, database.env(), Ends::Input)?;
        // A key of our own: what the dump says cannot end it. It ends before our own SQL comes.
        let key = database.restricts().then(random);
        let (open, close) = key.map_or_else(Default::default, |key| (format!("\\restrict {key}\n"), format!("\\unrestrict {key}\n")));
        let preamble = format!(
            "BEGIN;\nSET client_min_messages = warning;\nSET statement_timeout = 0;\nSET lock_timeout = '60s';\n{}{open}",
            postgres::CLEAR
        );
        let mut cleaner = self.cleaner(Dialect::Postgres);
        let fed = async {
            let input = &mut psql.input; // it stays there: whoever drops the child ends it before its input ends
            write(input, preamble.as_bytes()).await?;
            if first.starts_with(b"PGDMP") {
                self.archive(database, (first, chunks), (input, &mut cleaner)).await?;
            } else {
                feed((first, chunks), (input, &mut cleaner)).await?;
            }
            write(input, format!("{close}RESET ALL;\nSET statement_timeout = 0;\n").as_bytes()).await?;
            for text in &scrub {
                write(input, text.as_bytes()).await?;
            }
            Ok(())
        };
        let fed = fed.await;
        self.fed(fed, Taking { child: psql, end: "COMMIT;\n" }).await
    }

    async fn archive(
        &self,
        database: &postgres::Postgres,
        (first, chunks): (Bytes, mpsc::Receiver<Bytes>),
        (input, cleaner): (&mut Option<tokio::process::ChildStdin>, &mut Cleaner),
    ) -> std::result::Result<(), Broken> {
        let mut reader = self.start(&database.archive_to_sql(self.wanted.clean)?, database.env(), Ends::Both)?;
        let (mut archive, mut sql) = (reader.input.take(), reader.output.take());
        let filling = async {
            let mut next = Some(first);
            let mut chunks = chunks;
            while let Some(chunk) = next {
                if write(&mut archive, &chunk).await.is_err() {
                    break; // it says itself why it reads no more
                }
                next = chunks.recv().await;
            }
            archive = None;
            while chunks.recv().await.is_some() {} // what follows the end of an archive is read all the same
            Ok::<(), Broken>(())
        };
        let emptying = async {
            let Some(sql) = &mut sql else { return Ok(()) };
            let mut buffer = vec![0; CHUNK];
            loop {
                let read = sql
                    .read(&mut buffer)
                    .await
                    .map_err(|error| Error::new(Reason::RestoreFailed, format!("pg_restore broke off: {error}")))?;
                if read == 0 {
                    return Ok(());
                }
                let kept = cleaner.feed(buffer.get(..read).unwrap_or_default())?;
                write(input, &kept).await?;
            }
        };
        let ((), ()) = tokio::try_join!(filling, emptying)?;
        let ended = reader.ended().await?;
        if !ended.status.success() {
            return Err(Broken::Own(badly(&ended, "the archive cannot be read")));
        }
        let rest = cleaner.end()?;
        write(input, &rest).await
    }

    async fn to_mysql(&self, database: &super::Mysql, (first, chunks): (Bytes, mpsc::Receiver<Bytes>)) -> Result<Taking> {
        let scrub = self.scrub_sql()?; // before anything is replaced: there is no way back here
        let clear = database.clear(self.maker.world).await?;
        let mut client = self.start(&database.takes_sql()?, database.env(), Ends::Input)?;
        let mut cleaner = self.cleaner(Dialect::Mysql);
        let fed = async {
            let input = &mut client.input;
            write(input, SANDBOX).await?;
            write(input, clear.as_bytes()).await?;
            feed((first, chunks), (input, &mut cleaner)).await?;
            for text in &scrub {
                write(input, text.as_bytes()).await?;
            }
            Ok(())
        };
        let fed = fed.await;
        self.fed(fed, Taking { child: client, end: "" }).await
    }

    /// A client that closed its input says itself why.
    async fn fed(&self, fed: std::result::Result<(), Broken>, taking: Taking) -> Result<Taking> {
        match fed {
            Ok(()) => Ok(taking),
            Err(Broken::Own(error)) => Err(error),
            Err(Broken::Closed) => Err(refused(taking.child, &self.target.place).await),
        }
    }

    async fn to_program(&self, command: &config::BackupCommand, (first, mut chunks): (Bytes, mpsc::Receiver<Bytes>)) -> Result<Taking> {
        let (argv, env) = command_line(self.maker, command, &command.restore)?;
        let mut child = Start { argv: &argv, folder: self.maker.folder, env: &env, ends: Ends::Input }.start()?;
        let mut next = Some(first);
        while let Some(chunk) = next {
            if write(&mut child.input, &chunk).await.is_err() {
                return Err(refused(child, &self.target.place).await);
            }
            next = chunks.recv().await;
        }
        Ok(Taking { child, end: "" })
    }

    fn start(&self, argv: &[String], env: &[(String, String)], ends: Ends) -> Result<Child> {
        Start { argv, folder: Path::new("/"), env, ends }.start()
    }

    fn scrub_sql(&self) -> Result<Vec<String>> {
        let files = self.wanted.scrub.iter().filter_map(|scrub| match scrub {
            Scrub::Sql(file) => Some(file),
            Scrub::Command(_) => None,
        });
        let read = |file: &String| {
            let text = read_named(self.maker.folder, file, SCRUB_LIMIT);
            text.map(|text| format!("{text}\n"))
                .map_err(|why| Error::new(Reason::ConfigInvalid, format!("the scrub file {file} cannot be read: {why}")))
        };
        let control = regex::Regex::new(r"(?im)^\s*(BEGIN|COMMIT|ROLLBACK|START\s+TRANSACTION)(\s+(WORK|TRANSACTION))?\s*;");
        let own = |text: &String| control.as_ref().is_ok_and(|control| control.is_match(text));
        let texts = files.map(read).collect::<Result<Vec<String>>>()?;
        if texts.iter().any(own) {
            return Err(Error::new(Reason::ConfigInvalid, "a scrub file begins or ends a transaction of its own")
                .hint("leave BEGIN and COMMIT out: it runs in that of the restore"));
        }
        Ok(texts)
    }

    /// Programs that run over the data, once it is there.
    pub(super) async fn scrub(&self) -> Result<()> {
        for scrub in self.wanted.scrub {
            let Scrub::Command(command) = scrub else { continue };
            self.maker.world.console.line(&format!("  scrub: {}", command.run.join(" ")));
            let mut env = match &self.target.kind {
                TargetKind::Server(Database::Postgres(database)) => database.env().to_vec(),
                TargetKind::Server(Database::Mysql(database)) => database.env().to_vec(),
                TargetKind::Program(_) => super::programs::surroundings(self.maker.world),
            };
            env.push(("DATABASE_URL".into(), self.address().await?.expose().to_owned()));
            let mut argv = command.run.clone();
            if let Some(first) = argv.first_mut().filter(|first| first.contains('/')) {
                *first = self.maker.folder.join(&first).display().to_string();
            }
            let world = self.maker.world;
            let program = Program {
                argv: &argv,
                folder: self.maker.folder,
                env: Some(env),
                limit: command.timeout.0,
                cancel: Some(&world.cancel),
                marker: None,
            };
            let ran = program.run(&|line| world.console.relay("scrub", line)).await?;
            if !matches!(&ran.end, End::Exited(status) if status.success()) {
                let sentence =
                    format!("`{}` did not end well, so the data may not be scrubbed", argv.first().map(String::as_str).unwrap_or_default());
                return Err(Error::new(Reason::RestoreFailed, sentence)
                    .detail(ran.tail)
                    .hint("nobody should use this database before it is"));
            }
        }
        Ok(())
    }

    async fn address(&self) -> Result<Secret> {
        let world = self.maker.world;
        let named = |name: &str| crate::targets::secret(world, name, "the address of the database");
        match &self.wanted.into {
            Into::Address(address, _) => Ok(address.clone()),
            Into::Configured(Source::Postgres(postgres)) => named(&postgres.url.env),
            Into::Configured(Source::Mysql(mysql)) => named(&mysql.url.env),
            Into::Configured(Source::HerokuPostgres(heroku)) => super::heroku::Heroku::of(world, heroku).address().await,
            Into::Configured(Source::Command(_)) => Ok(Secret::new(String::new())),
        }
    }

    /// What is there afterwards must be what was saved.
    pub(super) async fn look(&self) -> Result<String> {
        let TargetKind::Server(database) = &self.target.kind else { return Ok("its program ended with exit code 0".into()) };
        let now = database.survey(self.maker.world, None).await?;
        let (has, had) = (now.tables.unwrap_or_default(), self.found.says("tables").and_then(|tables| tables.parse::<u64>().ok()));
        // A list of Heroku's archive names tables of extensions too.
        let is_counted = self.wanted.scrub.is_empty() && self.found.says("source") != Some("heroku-postgres");
        if let Some(had) = had.filter(|had| *had != has && is_counted) {
            let sentence = format!("{} has {has} tables after the restore, and had {had} when it was saved", self.target.place);
            return Err(Error::new(Reason::RestoreFailed, sentence).hint("does somebody else change it meanwhile?"));
        }
        Ok(format!("{has} tables, {}", size(now.bytes)))
    }
}

/// A program that has got all of it, and waits for the end of its input.
struct Taking {
    child: Child,
    /// What makes it keep what it got.
    end: &'static str,
}

impl Taking {
    /// Gives it the end: now it may keep what it got.
    async fn finish(mut self, place: &str) -> Result<()> {
        if let Some(mut input) = self.child.input.take() {
            let _closed = input.write_all(self.end.as_bytes()).await; // its end says why
            let _closed = input.shutdown().await;
        }
        let ended = self.child.ended().await?;
        if ended.status.success() { Ok(()) } else { Err(badly(&ended, &format!("{place} did not take it"))) }
    }
}

/// Why nothing more could be written.
enum Broken {
    /// Something of our own.
    Own(Error),
    /// The program reads no more: it says itself why.
    Closed,
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Own(error)
    }
}

async fn write(input: &mut Option<tokio::process::ChildStdin>, bytes: &[u8]) -> std::result::Result<(), Broken> {
    let Some(open) = input else { return Err(Broken::Closed) };
    open.write_all(bytes).await.map_err(|_closed| Broken::Closed)
}

async fn feed(
    (first, mut chunks): (Bytes, mpsc::Receiver<Bytes>),
    (input, cleaner): (&mut Option<tokio::process::ChildStdin>, &mut Cleaner),
) -> std::result::Result<(), Broken> {
    let mut next = Some(first);
    let mut margins = Margins::default();
    while let Some(chunk) = next {
        margins.see(&chunk);
        let kept = cleaner.feed(&chunk)?;
        write(input, &kept).await?;
        next = chunks.recv().await;
    }
    margins.judge()?;
    let rest = cleaner.end()?;
    write(input, &rest).await
}

async fn refused(child: Child, place: &str) -> Error {
    match child.ended().await {
        Ok(ended) => badly(&ended, &format!("{place} did not take it")),
        Err(error) => error,
    }
}

fn badly(ended: &Ended, what: &str) -> Error {
    let why = ended.last().map(|line| format!(": {line}")).unwrap_or_default();
    // Clients repeat the row or the statement that failed: people's data has no place in a log.
    let is_plain = |line: &&String| ["ERROR", "error:", "FATAL", "HINT"].iter().any(|word| line.contains(word));
    let words: Vec<String> = ended.words.iter().filter(is_plain).cloned().collect();
    let said = words.join(" ");
    let error = Error::new(Reason::RestoreFailed, format!("{what}: {}{why}", ended.how())).detail(words);
    match (said.contains("must be owner") || said.contains("permission denied"), said.contains("lock timeout")) {
        (true, _) => error.hint(
            "restore as the owner of the database, and leave out what only the old place had: --clean ownership,privileges,extensions",
        ),
        (_, true) => error.hint("somebody works with the database: stop the app first"),
        (false, false) => error,
    }
}
