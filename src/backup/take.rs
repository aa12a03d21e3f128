//! A backup while it is made: what is asked, dumped and stored, and taken back when something is not as it should be.

use super::bucket::{Bucket, Object, Sent, Upload};
use super::inspect::{Inspector, Seen, Shape};
use super::{
    Database, Dump, Maker, SAY_EVERY, Survey, Taken, UNPROVEN, Work, command_line, heroku, name, postgres, programs, stream, without_source,
};
use crate::config::{self, MigrationId, Source};
use crate::error::{Error, Reason, Result};
use crate::report::size;
use crate::tools::pipe::{Ends, Start};
use crate::tools::wait::spoken;
use crate::version::hex;
use crate::world::World;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

/// How old an unproven backup of an unknown run is when it counts as left behind.
const LEFT_BEHIND: i64 = 86_400;
/// How long taking back may last when the run was cancelled: the CI system kills us soon.
const CANCELLED: Duration = Duration::from_millis(1500);
/// How long it may last otherwise.
const TAKING_BACK: Duration = Duration::from_secs(60);

/// Makes a backup and proves it. Nothing is left behind when it fails.
pub async fn take(maker: &Maker<'_>, work: &Work) -> Result<Option<Taken>> {
    let begun: OnceCell<Begun> = OnceCell::new();
    let limit = work.backup.timeout.0;
    let outcome = tokio::select! {
        taken = make(maker, work, &begun) => taken,
        () = maker.world.clock.sleep(limit) => {
            let sentence = format!("the backup did not end within {}", spoken(limit));
            Err(Error::new(Reason::BackupTimeout, sentence).hint("give it more time: `timeout:` of the backup"))
        }
    };
    let mut error = match outcome {
        Ok(taken) => return Ok(taken),
        Err(error) => error,
    };
    if let Some(begun) = begun.get() {
        error.detail.extend(take_back(maker.world, begun).await);
        if error.reason == Reason::BackupFailed && error.hint.is_none() {
            error = error.hint("nothing was switched, and nothing of this backup is kept; mend the cause, then run this again");
        }
    }
    Err(error)
}

async fn make(maker: &Maker<'_>, work: &Work, begun: &OnceCell<Begun>) -> Result<Option<Taken>> {
    let source = work.backup.source().ok_or_else(without_source)?;
    let Some(origin) = Origin::open(maker, work, source).await? else {
        maker.say(&format!("{} is not there: nothing to save", source.spoken()));
        return Ok(None);
    };
    let stored = async {
        let bucket = work.bucket(maker.world).await?;
        tidy(maker, work, &bucket).await?;
        let before = match work.family(&bucket).await?.first() {
            Some(newest) => bucket.head(&newest.key).await?,
            None => None,
        };
        let upload = bucket.begin(&format!("{}{UNPROVEN}{}", work.place.prefix, maker.own)).await?;
        let begun = begun.get_or_init(async || Begun { bucket, upload, naming: Mutex::default() }).await;
        let job = Job { maker, work, origin: &origin, begun, before };
        let taken = job.fill().await?;
        Ok(Some(Taken { removed: job.forget().await, ..taken }))
    };
    tokio::select! {
        stored = stored => stored,
        () = maker.world.cancel.cancelled() => Err(Error::new(Reason::Cancelled, "cancelled while the backup was made")),
    }
}

/// What has to be taken back when it does not end well.
pub(super) struct Begun {
    pub(super) bucket: Bucket,
    pub(super) upload: Upload,
    /// The final name, while it is given and not proven yet.
    pub(super) naming: Mutex<Option<String>>,
}

/// Takes back what was begun; what cannot be taken back is told.
async fn take_back(world: &World, begun: &Begun) -> Option<String> {
    let Begun { bucket, upload, naming } = begun;
    let naming = naming.lock().ok().and_then(|mut naming| naming.take());
    let back = async {
        if let Some(key) = naming {
            bucket.delete(&key).await?;
        }
        bucket.abort(upload).await?;
        bucket.delete(&upload.key).await
    };
    let back = tokio::select! {
        back = back => back,
        () = world.cancelled_for(CANCELLED) => Err(Error::new(Reason::Cancelled, "there was no time")),
        () = world.clock.sleep(TAKING_BACK) => Err(Error::new(Reason::BackupTimeout, "the bucket did not answer")),
    };
    back.err().map(|error| format!("left behind, and taken away by the next backup: {} ({})", bucket.url(&upload.key), error.sentence))
}

/// What runs before this one left unproven is taken away: those that are known to have ended, and what is older than a day.
async fn tidy(maker: &Maker<'_>, work: &Work, bucket: &Bucket) -> Result<()> {
    let folder = format!("{}{UNPROVEN}", work.place.prefix);
    let now = jiff::Timestamp::now().as_second();
    let is_left = |key: &str, begun: i64| {
        let name = key.strip_prefix(&folder).unwrap_or_default();
        name == maker.own || maker.ended.iter().any(|run| !run.is_empty() && name.starts_with(run.as_str())) || now - begun > LEFT_BEHIND
    };
    // Not every server can list them, and not every role may: a rule of the bucket can end them as well.
    let uploads = bucket.uploads(&folder).await.unwrap_or_else(|error| {
        maker.say(&format!("uploads that earlier runs left cannot be looked for: {}", error.sentence));
        Vec::new()
    });
    for upload in uploads.iter().filter(|upload| is_left(&upload.key, upload.begun)) {
        bucket.abort(upload).await?;
        maker.say(&format!("gave up what an earlier run left: {}", bucket.url(&upload.key)));
    }
    for left in bucket.list(&folder).await?.iter().filter(|left| is_left(&left.key, left.modified)) {
        bucket.delete(&left.key).await?;
        maker.say(&format!("removed what an earlier run left: {}", bucket.url(&left.key)));
    }
    Ok(())
}

/// What is saved, found and asked about.
pub(super) struct Origin<'a> {
    kind: Kind<'a>,
    pub(super) survey: Survey,
    /// Where it is, for people.
    pub(super) place: String,
    /// Its login, which the dump program reads, goes with this.
    _database: Option<Database>,
}

pub(super) enum Kind<'a> {
    Server(Box<Dump>),
    Heroku(heroku::Heroku<'a>, heroku::Captured),
    Command(&'a config::BackupCommand),
    /// In a rehearsal nothing is dumped.
    Pretend,
}

impl<'a> Origin<'a> {
    /// Connects, and refuses what is not worth saving.
    async fn open(maker: &Maker<'a>, work: &'a Work, source: Source<'a>) -> Result<Option<Self>> {
        let world = maker.world;
        let unknown = |engine| Survey { engine, major: 0, version: String::new(), bytes: 0, tables: None, relations: 0, migration: None };
        let query = match &work.backup.migration {
            Some(MigrationId::Query(query)) => Some(query.as_str()),
            Some(MigrationId::Folder(_)) | None => None,
        };
        let mut origin = match source {
            _any if world.rehearsal => {
                Self { kind: Kind::Pretend, survey: unknown("a rehearsal"), place: source.spoken(), _database: None }
            }
            Source::Postgres(_) | Source::Mysql(_) => {
                let Some(database) = Database::of(world, source).await? else { return Ok(None) };
                let survey = database.survey(world, query).await?;
                let place = database.place().to_owned();
                let dump = Box::new(database.dump(&survey)?);
                Self { kind: Kind::Server(dump), survey, place, _database: Some(database) }
            }
            Source::HerokuPostgres(config) => {
                let heroku = heroku::Heroku::of(world, config);
                let place = heroku.place();
                let Some(captured) = heroku.capture().await? else { return Ok(None) };
                maker.say(&format!("Heroku captured {}: {}", captured.name, size(captured.bytes)));
                Self { kind: Kind::Heroku(heroku, captured), survey: heroku::survey(), place, _database: None }
            }
            Source::Command(command) => {
                Self { kind: Kind::Command(command), survey: unknown("a program"), place: source.spoken(), _database: None }
            }
        };
        if origin.survey.migration.is_none()
            && let Some(id) = &work.backup.migration
            && !world.rehearsal
        {
            origin.survey.migration = name::newest_migration(maker.folder, id)?;
        }
        if origin.survey.tables == Some(0) && !work.backup.check.allow_empty {
            return Err(Error::new(
                Reason::BackupFailed,
                format!("the database at {} has no tables: there is nothing to save", origin.place),
            )
            .hint("is it the right one? Where it is new, and this is its first deploy: `check: {allow-empty: true}`"));
        }
        Ok(Some(origin))
    }
}

/// A backup that is being made.
pub(super) struct Job<'a> {
    pub(super) maker: &'a Maker<'a>,
    pub(super) work: &'a Work,
    pub(super) origin: &'a Origin<'a>,
    pub(super) begun: &'a Begun,
    /// The newest one before it.
    pub(super) before: Option<Object>,
}

/// What went into the upload.
pub(super) struct Filled {
    pub(super) sent: Sent,
    pub(super) seen: Seen,
    pub(super) ext: String,
    pub(super) tool: String,
    pub(super) counts_all: bool,
}

impl Job<'_> {
    async fn fill(&self) -> Result<Taken> {
        let begun = Instant::now();
        let filled = match &self.origin.kind {
            Kind::Server(dump) => self.dump(dump).await?,
            Kind::Heroku(heroku, captured) => self.fetch(heroku, captured).await?,
            Kind::Command(command) => self.command(command).await?,
            Kind::Pretend => self.pretend().await?,
        };
        self.worth(&filled)?;
        self.begun.bucket.complete(&self.begun.upload, &filled.sent.parts).await?;
        let proof = self.begun.bucket.prove(&self.begun.upload.key, &filled.sent).await?;
        let named = self.name(&filled).await?;
        let Filled { sent, seen, .. } = filled;
        self.maker.say(&format!("{} dumped and {} stored in {}; {proof}", size(seen.bytes), size(sent.bytes), spoken(begun.elapsed())));
        Ok(Taken {
            location: self.begun.bucket.url(&named.0),
            version_id: named.1.version,
            bytes: sent.bytes,
            raw_bytes: seen.bytes,
            sha256: hex(&sent.sha256),
            tables: seen.tables,
            migration: self.origin.survey.migration.clone(),
            proof: proof.to_owned(),
            removed: Vec::new(),
        })
    }

    /// By the database's own program.
    async fn dump(&self, dump: &Dump) -> Result<Filled> {
        let survey = &self.origin.survey;
        let tables = survey.tables.map_or(String::new(), |tables| format!(", {tables} table{}", if tables == 1 { "" } else { "s" }));
        self.maker.say(&format!(
            "{} {} at {}{tables}, {}; {}",
            survey.engine,
            survey.version,
            self.origin.place,
            size(survey.bytes),
            dump.tool
        ));
        let lister = match &dump.lister {
            Some(argv) => Some(Start { argv, folder: Path::new("/"), env: &dump.env, ends: Ends::Both }.start()?),
            None => None,
        };
        let inspector = Inspector::new(dump.shape.clone(), lister);
        let (sent, seen) =
            self.run(&Start { argv: &dump.argv, folder: Path::new("/"), env: &dump.env, ends: Ends::Output }, inspector).await?;
        Ok(Filled { sent, seen, ext: dump.ext.to_owned(), tool: dump.tool.clone(), counts_all: dump.counts_all })
    }

    /// Streams what a program writes. Its own word comes first: why it ended says more than what is missing.
    async fn run(&self, start: &Start<'_>, mut inspector: Inspector) -> Result<(Sent, Seen)> {
        let mut child = start.start()?;
        let output = child.output.take().ok_or_else(|| Error::new(Reason::Internal, "a dump program without an output"))?;
        let sent = self.send(output, &mut inspector).await?;
        let ended = child.ended().await?;
        if !ended.status.success() {
            let why = ended.last().map(|line| format!(": {line}")).unwrap_or_default();
            let sentence = format!("{}{why} (after {})", ended.how(), size(inspector.bytes()));
            let error = Error::new(Reason::BackupFailed, sentence).detail(ended.words);
            return Err(postgres::explained(error, &self.origin.place));
        }
        Ok((sent, inspector.judge().await?))
    }

    async fn send(&self, source: impl tokio::io::AsyncRead + Unpin, inspector: &mut Inspector) -> Result<Sent> {
        let counter = inspector.counter();
        let told = async {
            let begun = Instant::now();
            loop {
                self.maker.world.clock.sleep(SAY_EVERY).await;
                let so_far = counter.load(std::sync::atomic::Ordering::Relaxed);
                self.maker.say(&format!("{} dumped after {}", size(so_far), spoken(begun.elapsed())));
            }
        };
        tokio::select! {
            sent = stream::send(source, inspector, self.work.backup.compression(), (&self.begun.bucket, &self.begun.upload)) => sent,
            () = told => Err(Error::new(Reason::Internal, "the telling ended")),
        }
    }

    async fn fetch(&self, heroku: &heroku::Heroku<'_>, captured: &heroku::Captured) -> Result<Filled> {
        // Where its tools are at hand the archive is listed too.
        let tools = postgres::tools(self.maker.world, None).unwrap_or_default();
        let env = programs::surroundings(self.maker.world);
        let newest = tools.iter().max_by_key(|tool| tool.major).map(|tool| tool.folder.join("pg_restore")).filter(|path| path.is_file());
        let lister = match newest {
            Some(path) => {
                let argv = [path.display().to_string(), "--list".to_owned()];
                Some(Start { argv: &argv, folder: Path::new("/"), env: &env, ends: Ends::Both }.start()?)
            }
            None => None,
        };
        let mut inspector = Inspector::new(heroku::shape(), lister);
        let sent = self.send(heroku.fetch(captured).await?, &mut inspector).await?;
        let seen = inspector.judge().await?;
        if captured.bytes > 0 && captured.bytes != seen.bytes {
            let sentence = format!("Heroku's backup {} has {} bytes, and {} came", captured.name, captured.bytes, seen.bytes);
            return Err(Error::new(Reason::BackupFailed, sentence));
        }
        Ok(Filled { sent, seen, ext: "dump".into(), tool: format!("Heroku {}", captured.name), counts_all: false })
    }

    async fn command(&self, command: &config::BackupCommand) -> Result<Filled> {
        let (argv, env) = command_line(self.maker, command, &command.run)?;
        let begins_with = command.begins_with.clone().into_iter().collect();
        let shape = Shape { begins_with, ends_with: command.ends_with.clone(), ..Shape::default() };
        self.maker.say(&argv.join(" "));
        let start = Start { argv: &argv, folder: self.maker.folder, env: &env, ends: Ends::Output };
        let (sent, seen) = self.run(&start, Inspector::new(shape, None)).await?;
        let tool = command.run.first().cloned().unwrap_or_default();
        Ok(Filled { sent, seen, ext: command.ext.clone(), tool, counts_all: false })
    }

    /// A rehearsal has no database: a text stands for the dump, and goes the same way.
    async fn pretend(&self) -> Result<Filled> {
        let text = "-- a rehearsal stands for the database\n".repeat(64);
        let mut inspector = Inspector::new(Shape::default(), None);
        let sent = self.send(text.as_bytes(), &mut inspector).await?;
        self.maker.say(&format!("would dump {}", self.origin.place));
        Ok(Filled { sent, seen: inspector.judge().await?, ext: "dump".into(), tool: "rehearsal".into(), counts_all: false })
    }
}
