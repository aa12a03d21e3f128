//! `tidegate restore`: a backup comes back, into its own database or another one; and the plan of that.

use super::backup::{saved, variables};
use super::lock::At;
use super::place::Place;
use crate::backup::bucket::Bucket;
use crate::backup::restore::{self, Found, Into, Target, Wanted};
use crate::backup::{self, Database, Maker};
use crate::cli::Format;
use crate::config::{Clean, Source, Span};
use crate::error::{Error, Reason, Result};
use crate::plan::{self, Databases, SeedWork};
use crate::report::outputs::random;
use crate::run::lease::{self, Wanted as Lease};
use crate::run::ledger::holder;
use crate::tools::secret::Secret;
use crate::world::World;
use serde_json::json;

/// `restore`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The environment's key in tidegate.yml
    #[arg(value_name = "ENV")]
    pub environment: String,
    #[command(flatten)]
    pub which: Which,
    /// What is left out of the backup, over `restore: {clean: …}`: ownership, privileges, extensions
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WHAT")]
    pub clean: Vec<Clean>,
    /// The environment's name once more, where people work with what would be replaced
    #[arg(long, value_name = "ENV")]
    pub yes_restore: Vec<String>,
    /// Replace what is there without saving it first
    #[arg(long)]
    pub no_backup: bool,
    /// How long to wait for the lease of the environment
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = super::drain::span)]
    pub lock_timeout: Span,
    /// A variable of tidegate.yml; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// What stdout gets
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    #[command(flatten)]
    pub at: At,
}

/// Which backup goes where.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Which {
    /// With `restore`: the environment whose backup is taken (default: `restore: {from: …}`, or its own)
    #[arg(long, value_name = "ENV")]
    pub from: Option<String>,
    /// With `restore`: the backup: latest, its name or s3:// address, or a time (the newest that is not younger)
    #[arg(long, value_name = "BACKUP")]
    pub backup: Option<String>,
    /// With `restore`, where an environment has several databases: the `app` of the one that is meant
    #[arg(long, value_name = "APP")]
    pub app: Option<String>,
    /// With `restore`: the database that it goes into instead: env:NAME for the address in a variable, or an address without a password
    #[arg(long, value_name = "URL")]
    pub into: Option<String>,
}

/// Whether it is done or only shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is done.
    Restore,
    /// It is shown.
    Plan,
}

/// Does it; what stdout gets.
pub async fn run(world: &World, args: &Args, mode: Mode) -> Result<Option<String>> {
    let place = Place::of(world, &args.at.file, &args.at.facts)?;
    let variables = variables(world, &place, &args.set)?;
    let asked =
        Databases::Restored { from: args.which.from.as_deref(), app: args.which.app.as_deref(), elsewhere: args.which.into.is_some() };
    let (own, work) = plan::databases(&place.event, &place.loaded, &args.environment, &variables, asked)?;
    let work = work.ok_or_else(|| Error::new(Reason::Internal, "a restore without a plan"))?;
    let job = Job { world, args, place: &place, work: &work, own: &own };
    job.run(mode).await
}

/// Whether two databases are one.
enum Likeness {
    Same,
    Other,
    Unknown,
}

struct Job<'a> {
    world: &'a World,
    args: &'a Args,
    place: &'a Place,
    work: &'a SeedWork,
    /// What is saved of the environment.
    own: &'a [backup::Work],
}

impl Job<'_> {
    async fn run(&self, mode: Mode) -> Result<Option<String>> {
        let bucket = self.work.from.bucket(self.world).await?;
        let found = restore::find(&self.work.from, &bucket, self.args.which.backup.as_deref()).await?;
        let maker = self.maker();
        let clean = if self.args.clean.is_empty() { &self.work.restore.clean } else { &self.args.clean };
        let wanted = Wanted { into: self.into()?, clean, scrub: &self.work.restore.scrub };
        let target = Target::open(&maker, &wanted.into).await?;
        self.show((&bucket, &found), &target, clean);
        self.guard(&target, mode).await?;
        if mode == Mode::Plan {
            return Ok(self.json((&bucket, &found), &target, "planned"));
        }
        let lease = self.lease().await?;
        let done = async {
            self.save(&target).await?;
            restore::restore(&maker, &self.work.limited(), (&bucket, &found), (&target, &wanted)).await
        };
        let done = match &lease {
            Some(lease) => tokio::select! {
                done = done => done,
                () = lease.lost() => Err(lease.taken().await),
            },
            None => done.await,
        };
        if let Some(lease) = lease {
            lease.release().await?;
        }
        self.world.console.good(&format!("{} is restored from the backup of {}: {}", target.place, found.taken(), done?));
        Ok(self.json((&bucket, &found), &target, "restored"))
    }

    fn maker(&self) -> Maker<'_> {
        let event = &self.place.event;
        let by = event.more.run.url.clone().or_else(|| event.actor.clone()).unwrap_or_else(|| "by hand".into());
        Maker { world: self.world, folder: &self.place.loaded.folder, own: format!("by-hand-{}", random()), ended: Vec::new(), by }
    }

    /// A password on a command line can be read by everybody on the machine, and stays in the shell's history.
    fn into(&self) -> Result<Into<'_>> {
        let Some(given) = &self.args.which.into else { return Ok(Into::Configured(self.work.into.source())) };
        if let Some(name) = given.strip_prefix("env:") {
            let address = crate::targets::secret(self.world, name, "the address of the database")?;
            return Ok(Into::Address(address, name.to_owned()));
        }
        let url = url::Url::parse(given).map_err(|error| {
            Error::new(Reason::InputInvalid, format!("--into is no address of a database: {error}"))
                .hint("write postgres://user@host:5432/name, or env:NAME")
        })?;
        if url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password") {
            self.world.console.mask(&Secret::new(url.password().unwrap_or_default()));
            return Err(Error::new(Reason::InputInvalid, "a password stands in --into, where everybody on this machine can read it")
                .hint("put the address into a variable and write --into env:NAME"));
        }
        Ok(Into::Address(Secret::new(given), "--into".to_owned()))
    }

    fn show(&self, (bucket, found): (&Bucket, &Found), target: &Target<'_>, clean: &[Clean]) {
        let console = &self.world.console;
        console.bold(&format!("restore {} from {}", self.args.environment, self.work.environment));
        console.line(&format!("  from    {}", found.sentence()));
        console.line(&format!("          {}", bucket.url(&found.key)));
        console.line(&format!("  into    {}: all of it is replaced", target.sentence()));
        if !clean.is_empty() {
            let names: Vec<String> = clean.iter().map(|what| format!("{what:?}").to_lowercase()).collect();
            console.line(&format!("  without {}", names.join(", ")));
        }
        for scrub in &self.work.restore.scrub {
            let what = match scrub {
                crate::config::Scrub::Sql(file) => file.clone(),
                crate::config::Scrub::Command(command) => command.run.join(" "),
            };
            console.line(&format!("  scrub   {what}"));
        }
        let saves = match (self.saves(target), target.is_empty()) {
            (Some(work), _) => format!("first, what is there is saved to {}", work.place),
            (None, true) => "what is there is empty".to_owned(),
            (None, false) => "what is there is NOT saved first".to_owned(),
        };
        console.line(&format!("  save    {saves}"));
    }

    /// The backup that is made of what would be replaced: only the environment's own database has one.
    fn saves(&self, target: &Target<'_>) -> Option<&backup::Work> {
        let is_own = self.args.which.into.is_none() && self.work.restore.into.is_none();
        let own = match &self.args.which.app {
            Some(app) => self.own.iter().find(|work| work.app() == app),
            None => self.own.first(),
        };
        own.filter(|_| is_own && !self.args.no_backup && !target.is_empty())
    }

    /// Whoever replaces what people work with says its name.
    async fn guard(&self, target: &Target<'_>, mode: Mode) -> Result<()> {
        let config = &self.place.loaded.config;
        let own = target.identity(self.world).await;
        let guarded = config.environments.iter().filter(|(name, rules)| rules.is_guarded(name) && !rules.is_preview());
        for (name, _) in guarded {
            let why = match self.is_of(name, target, own.as_deref()).await {
                Likeness::Same => "is the database of",
                Likeness::Unknown => "is not empty, and cannot be told from the database of",
                Likeness::Other => continue,
            };
            if self.args.yes_restore.contains(name) {
                continue;
            }
            if mode == Mode::Plan {
                self.world.console.line(&format!("  guard   {} {why} {name}: needs --yes-restore {name}", target.place));
                continue;
            }
            let given = if self.args.yes_restore.is_empty() {
                String::new()
            } else {
                format!(" (--yes-restore says {})", self.args.yes_restore.join(", "))
            };
            let sentence = format!("{} {why} {name}, and all of it would be replaced{given}", target.place);
            return Err(Error::new(Reason::RestoreRefused, sentence)
                .hint(format!("look at it first: tidegate plan restore …; then repeat it with --yes-restore {name}")));
        }
        Ok(())
    }

    /// Whether the target is the database of a guarded environment, whatever address it is reached by. Where that environment's
    /// own address is not known here, an address by hand must lead to something empty; what tidegate.yml names is believed.
    async fn is_of(&self, name: &str, target: &Target<'_>, own: Option<&str>) -> Likeness {
        let by_hand = self.args.which.into.is_some();
        if !by_hand && name == self.args.environment {
            return Likeness::Same;
        }
        let unknown = || if by_hand && !target.is_empty() { Likeness::Unknown } else { Likeness::Other };
        let works = saved(self.world, self.place, name, &self.args.set).unwrap_or_default();
        let mut likeness = if works.is_empty() { unknown() } else { Likeness::Other };
        for work in works {
            let Some(source) = work.backup.source().filter(|source| !matches!(source, Source::Command(_))) else {
                likeness = unknown();
                continue;
            };
            let known = Database::of(self.world, source).await.ok().flatten();
            let is_same_place = known.as_ref().is_some_and(|known| known.place() == target.place);
            let identity = match &known {
                Some(known) => known.identity(self.world).await,
                None => None,
            };
            match (is_same_place, own, identity.as_deref()) {
                (true, _, _) => return Likeness::Same,
                // A server that was made of a copy of another one's disk says the same; what tidegate.yml names is believed.
                (false, Some(own), Some(other)) if own == other && by_hand => return Likeness::Same,
                (false, Some(_), Some(_)) => {}
                (false, _, _) => likeness = unknown(),
            }
        }
        likeness
    }

    /// No delivery goes on meanwhile. What is restored elsewhere is nobody's business.
    async fn lease(&self) -> Result<Option<lease::Lease>> {
        if self.args.which.into.is_some() {
            return Ok(None);
        }
        let Place { store, forge, event, .. } = self.place;
        let key = self.place.key(&self.args.environment)?;
        store.confirm().await?;
        let history = store.history(&key).await?;
        let floor = history.iter().map(|record| record.fence).max().unwrap_or(0);
        let timeout = self.args.lock_timeout.0;
        let wanted = Lease { world: self.world, store, forge, key: &key, holder: holder(event, "a restore".into()), timeout, floor };
        lease::acquire(&wanted).await.map(Some)
    }

    async fn save(&self, target: &Target<'_>) -> Result<()> {
        let Some(work) = self.saves(target) else { return Ok(()) };
        let mut work = work.clone();
        work.backup.keep = None; // the one that is restored may be the next to go
        if let Some(taken) = backup::take(&self.maker(), &work).await.map_err(|error| {
            let hint = error.hint.clone().map_or(String::new(), |hint| format!("{hint}\n"));
            error.hint(format!("{hint}nothing was restored; to replace what is there without saving it: --no-backup"))
        })? {
            self.world.console.line(&format!("  saved   {}", taken.sentence()));
        }
        Ok(())
    }

    fn json(&self, (bucket, found): (&Bucket, &Found), target: &Target<'_>, verdict: &str) -> Option<String> {
        let shown = json!({
            "schema": 1, "environment": self.args.environment, "from": self.work.environment, "into": target.place, "verdict": verdict,
            "backup": {"location": bucket.url(&found.key), "taken": found.taken(), "bytes": found.object.bytes, "metadata": found.object.metadata},
        });
        (self.args.format == Format::Json).then(|| format!("{shown:#}\n"))
    }
}
