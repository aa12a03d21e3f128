//! An app on a CD server: asks for a job, follows the job that began after this version was there, and judges it by what it says.
//!
//! Servers of both generations are understood: those that merge a second request into the job that runs and tell the whole log
//! each time, and those that refuse it and tell each line once.

use super::{Life, Settled, Site, Work, live, proof};
use crate::config::{AppDeploy, Busy, Rollback, template::Values};
use crate::error::{Error, Reason, Result};
use crate::tools::wait::spoken;
use crate::world::World;
use std::path::Path;
use std::time::Duration;

mod api;
mod job;
mod output;

use api::{Answer, Api, Away, Seen};
use job::{End, Job, Over, Patience, Whose};

/// What the journal says before a job is asked for.
const INTENT: &str = "a request for a job";
/// How far the server's clock, told to the second, may be off.
const TOLERANCE: i64 = 2000;
/// How often an app that is not there is asked for again after the server was away: it learns its apps after it has started.
const LEARNING: u32 = 5;

/// Refuses what is not there, before anything is built.
pub fn check(world: &World, folder: &Path, target: &AppDeploy) -> Result<()> {
    for name in target.secret_names() {
        super::secret(world, name, "a secret of the deployment")?;
    }
    target.proof.as_ref().map_or(Ok(()), |proof| super::command::check_proof(world, folder, proof))
}

/// Deploys, and proves that it runs.
pub async fn deploy(site: &Site<'_>, work: &Work, target: &AppDeploy) -> Result<Settled> {
    live(&Deploy::new(site, work, target)?, Rollback::Never, site.world).await
}

/// What the proof says; without one, how the job of the delivery before ended.
pub async fn runs(site: &Site<'_>, work: &Work, target: &AppDeploy) -> Result<Option<Settled>> {
    if let Some(proof) = &target.proof {
        let said = proof::holds(site, &site.values(&work.values), proof).await?;
        return Ok(said.map(|said| Settled::deployed(said, None)));
    }
    let Some(id) = job_of(site.memory.started().await) else { return Ok(None) };
    let deploy = Deploy::new(site, work, target)?;
    let Answer::Job(seen) = deploy.api.status(&id, deploy.left()).await? else { return Ok(None) };
    if !matches!(seen.state.as_str(), "success" | "finished") {
        return Ok(None);
    }
    if seen.state == "finished" && site.memory.is_done().await {
        // Its log was told to the run that saw it end.
        return Ok(Some(Settled::deployed(format!("job {id} ended with success"), None)));
    }
    let silent = AppDeploy { output: crate::config::Output::Hide, ..target.clone() };
    let deploy = Deploy { target: &silent, ..deploy };
    let mut job = Job::new(&deploy, id, Whose::RunBefore);
    let end = job.take(&seen)?.unwrap_or(End::Gone);
    Ok(job.judge(end).ok().map(|said| Settled::deployed(said, None)))
}

struct Deploy<'a> {
    site: &'a Site<'a>,
    target: &'a AppDeploy,
    values: Values,
    api: Api,
    /// When it began. All images were there then, so a job that is younger found this version.
    begun: Duration,
}

/// How far it has come.
#[derive(Default)]
enum Started {
    /// Nothing runs there for us.
    #[default]
    Nothing,
    /// A job was asked for; whether there is one is not known.
    Asked,
    /// This job goes on.
    Going(String),
    /// A job ended with success, as this sentence says.
    Over(String),
}

impl Life for Deploy<'_> {
    type Before = ();
    type Started = Started;

    /// The server tells nothing about apps: a wrong id or secret is known when a job is asked for.
    async fn read(&self) -> Result<()> {
        Ok(())
    }

    /// The job is followed here too, for one that ran already has to end before ours can begin.
    async fn start(&self, _before: &mut (), started: &mut Started) -> Result<()> {
        if self.site.memory.is_done().await {
            self.site.say("the run before saw its job end with success");
            *started = Started::Over("the job of the run before ended with success".into());
            return Ok(());
        }
        let mut job = match self.of_the_run_before(started).await? {
            Some(job) => job,
            None => self.ask(started).await?,
        };
        loop {
            *started = Started::Going(job.id.clone());
            let end = job.follow().await?;
            let judged = job.judge(end);
            *started = Started::Nothing;
            if job.whose != Whose::Others || self.target.busy == Busy::Merge {
                return self.take_the_word_of(&job, judged, started).await;
            }
            let how = judged.unwrap_or_else(|error| error.sentence);
            self.site.say(&format!("{how}; it may have begun before this version was there"));
            if let Some(said) = self.proven().await? {
                *started = Started::Over(format!("nothing more was asked for: {said}"));
                return self.site.note_done().await;
            }
            self.site.say("asking once more");
            job = self.ask(started).await?;
        }
    }

    async fn settle(&self, _before: &(), started: &Started) -> Result<Settled> {
        let Started::Over(said) = started else { return Err(Error::new(Reason::Internal, "a job that has not ended")) };
        let Some(proof) = &self.target.proof else { return Ok(Settled::deployed(said, None)) };
        let proven = proof::wait(self.site, &self.values, proof, self.deadline()).await?;
        Ok(Settled::deployed(format!("{said}; {proven}"), None))
    }

    fn has_changed(&self, _started: &Started) -> bool {
        false // what a server did is its own
    }

    async fn back(&self, _before: &(), _started: &Started) -> Result<String> {
        Err(Error::new(Reason::Internal, "what a CD server did cannot be taken back"))
    }

    async fn stop(&self, started: &Started) -> Option<String> {
        match started {
            Started::Nothing | Started::Over(_) => None,
            Started::Asked => Some("a job may have begun there all the same; it goes on: a CD server takes no cancel".into()),
            Started::Going(id) => Some(format!("job {id} goes on there: a CD server takes no cancel")),
        }
    }
}

impl<'a> Deploy<'a> {
    fn new(site: &'a Site<'a>, work: &Work, target: &'a AppDeploy) -> Result<Self> {
        let values = site.values(&work.values);
        let api = Api::open(site, &values, target)?;
        Ok(Self { site, target, values, api, begun: site.world.clock.now() })
    }

    fn deadline(&self) -> Duration {
        self.begun.saturating_add(self.target.timeout.0)
    }

    /// How much time is left.
    fn left(&self) -> Duration {
        self.deadline().saturating_sub(self.site.world.clock.now())
    }

    fn waited(&self) -> Duration {
        self.site.world.clock.now().saturating_sub(self.begun)
    }

    /// Waits, but not beyond the deadline or a cancel.
    async fn pause(&self, length: Duration) -> std::result::Result<(), Over> {
        let left = self.left();
        if left.is_zero() {
            return Err(Over::Late);
        }
        tokio::select! {
            () = self.site.world.clock.sleep(length.min(left)) => Ok(()),
            () = self.site.world.cancel.cancelled() => Err(Over::Cancelled),
        }
    }

    /// The job in the journal, unless it has ended badly: then another one is asked for.
    async fn of_the_run_before(&self, started: &mut Started) -> Result<Option<Job<'_>>> {
        let journal = self.site.memory.started().await;
        let Some(id) = job_of(journal.clone()) else {
            if journal.is_some() {
                self.site.say("the run before may have asked for a job: one that runs may be that one");
            }
            return Ok(None);
        };
        *started = Started::Going(id.clone());
        self.site.say(&format!("the run before started job {id}: it is followed"));
        let mut job = Job::new(self, id, Whose::RunBefore);
        let Some(end) = job.look().await? else { return Ok(Some(job)) };
        *started = Started::Nothing;
        match job.judge(end) {
            Ok(_success) => Ok(Some(job)),
            Err(error) => {
                self.site.say(&format!("{}; asking for another job", error.sentence));
                Ok(None)
            }
        }
    }

    /// Asks until a job is named. Asking again begins no second one while the first runs.
    async fn ask(&self, started: &mut Started) -> Result<Job<'_>> {
        self.site.memory.note_started(INTENT).await?; // without a journal nothing is asked for
        self.site.say(&format!("POST {}/app-deploy/", self.api.url));
        let (mut patience, mut learning, mut is_lost, mut is_busy) = (Patience::default(), 0, false, false);
        loop {
            *started = Started::Asked;
            let answer = tokio::select! {
                answer = self.api.deploy(self.left()) => answer,
                () = self.site.world.cancel.cancelled() => return Err(self.cancelled()),
            };
            if !is_lost && answer.as_ref().map_or_else(|error| !error.lost, Answer::is_certain) {
                *started = Started::Nothing;
            }
            let answer = match answer {
                Err(error) if error.gone && patience.was_needed && learning < LEARNING => {
                    learning += 1;
                    Answer::Away(Away::in_its_place(&error))
                }
                answer => answer?,
            };
            let pause = match answer {
                Answer::Job(seen) => {
                    patience.over(self.site);
                    return self.taken(seen, is_lost, started).await;
                }
                Answer::No(words) if words == "App deployment is already running" => {
                    patience.over(self.site);
                    if !is_busy {
                        self.site.say("a job of this app runs already, and the server does not say which: asking until ours is taken");
                    }
                    is_busy = true;
                    self.target.interval.0
                }
                Answer::No(words) if words == "App not found" && patience.was_needed && learning < LEARNING => {
                    learning += 1;
                    self.target.interval.0
                }
                Answer::No(words) => return Err(self.refused(&words)),
                Answer::Away(away) => {
                    if away.may_have_arrived && !is_lost {
                        self.site.say("the answer to the request was lost: if it began a job, asking again joins that");
                    }
                    is_lost |= away.may_have_arrived;
                    patience.with(&away, self.site)
                }
            };
            match self.pause(pause).await {
                Ok(()) => {}
                Err(Over::Cancelled) => return Err(self.cancelled()),
                Err(Over::Late) => return Err(self.never_taken(&patience, is_busy)),
            }
        }
    }

    /// The job that a request brought: a new one, or one that ran already.
    async fn taken(&self, seen: Seen, is_lost: bool, started: &mut Started) -> Result<Job<'_>> {
        let Some(id) = seen.id.clone() else { return Err(Error::new(Reason::Internal, "a job without an id")) };
        *started = Started::Going(id.clone());
        let younger = self.younger(&seen);
        let ran_already = match younger {
            Some(by) if by < -TOLERANCE => true,
            Some(by) if by > TOLERANCE => false,
            Some(_near) => seen.state != "starting" && !is_lost,
            None => seen.state != "starting",
        };
        let whose = if ran_already { Whose::Others } else { Whose::Ours };
        if ran_already {
            let age = younger
                .filter(|by| *by < 0)
                .map(|by| format!(", begun {} before this step", spoken(Duration::from_millis(by.unsigned_abs()))));
            self.site.say(&format!("job {id} of this app ran already{}: it is followed to its end", age.unwrap_or_default()));
        } else {
            self.site.say(&format!("job {id} is ours"));
            self.site.note_started(&format!("job {id}")).await?;
        }
        let mut job = Job::new(self, id, whose);
        // Its words are taken now: a server that tells each line once does not repeat them. An end is seen again by following.
        job.take(&seen)?;
        Ok(job)
    }

    /// By how many milliseconds a job is younger than this step, by the server's own clock.
    fn younger(&self, seen: &Seen) -> Option<i64> {
        let clock = &self.site.world.clock;
        let waited = i64::try_from(clock.real_length(self.waited()).as_millis()).ok()?;
        Some(crate::tools::ulid::millis(seen.id.as_deref()?)? - seen.date?.saturating_sub(waited))
    }

    async fn take_the_word_of(&self, job: &Job<'_>, judged: Result<String>, started: &mut Started) -> Result<()> {
        let said = judged?;
        *started = Started::Over(said);
        if job.whose == Whose::Others {
            self.site.note_started(&format!("job {}", job.id)).await?;
        }
        self.site.note_done().await
    }

    /// What the proof says now, if there is one and it holds.
    async fn proven(&self) -> Result<Option<String>> {
        let Some(proof) = &self.target.proof else { return Ok(None) };
        tokio::select! {
            held = proof::holds(self.site, &self.values, proof) => held,
            () = self.site.world.cancel.cancelled() => Err(self.cancelled()),
        }
    }

    fn refused(&self, words: &str) -> Error {
        if words == "App not found" {
            let secret = &self.target.deployment_secret.env;
            let names = std::iter::once(secret.as_str()).chain(self.target.deployment_id.secret_name());
            let sentence =
                format!("{} knows no such deployment: its id or its secret is wrong, and the server does not say which", self.api.url);
            return Error::new(Reason::AuthDenied, sentence).hint(format!(
                "look at `deployment-id:` and at {}; is the app in the server's list?",
                names.collect::<Vec<_>>().join(", ")
            ));
        }
        Error::new(Reason::TargetFailed, format!("{} refuses the deployment: {words}", self.api.url)).hint("look at the server's log")
    }

    fn never_taken(&self, patience: &Patience, is_busy: bool) -> Error {
        let waited = spoken(self.waited());
        let url = &self.api.url;
        let error = |sentence: String, hint: &str| Error::new(Reason::TargetTimeout, sentence).hint(hint);
        match &patience.why {
            Some(why) => error(format!("{url} did not answer within {waited}: {why}"), "is `url:` right, and the server up?"),
            None if is_busy => {
                let sentence = format!("another job of this app was still running after {waited}; ours was never taken by {url}");
                error(sentence, "look at that job, or give more `timeout:`")
            }
            None => error(format!("{url} did not take the request within {waited}"), "look at the server's log"),
        }
    }

    fn cancelled(&self) -> Error {
        Error::new(Reason::Cancelled, format!("cancelled while {} was asked for a job", self.api.url))
    }
}

/// The job in "job 01J…", as the journal has it.
fn job_of(handle: Option<String>) -> Option<String> {
    handle?.strip_prefix("job ").map(str::to_owned)
}
