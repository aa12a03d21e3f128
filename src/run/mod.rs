//! Carries a plan out: the step graph, times, cancelling, and the report. Wall time is the critical path.

use crate::backup::Taken;
use crate::config::OnPartial;
use crate::context::{Outcome, Request, Sweep, SweepCause};
use crate::delivery::Prepared;
use crate::error::{Error, Reason, Result, Verdict};
use crate::event::Kind;
use crate::plan::{Step, Work};
use crate::registry::Pushed;
use crate::report::forks;
use crate::report::tell::Teller;
use crate::report::{Report, ReportedBackup, ReportedImage, ReportedStep, ReportedTarget, StepOutcome, size};
use crate::state::records::{Did, RecordedImage};
use crate::steps::aliases::{self, Advanced};
use crate::steps::copies;
use crate::steps::image::{self, How, Job, Ready};
use crate::steps::trigger::Started;
use crate::targets::{self, Settled, Site};
use crate::tools::wait::{Cancel, spoken};
use crate::world::World;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

mod around;
pub mod back;
mod conclude;
mod early;
pub mod lease;
pub mod ledger;
pub mod look;
mod saved;
mod waiter;
mod waits;

use crate::targets::Fence;
use conclude::{conclude, ended_after, note_url, print};
use ledger::{Ledger, StepMemory};

/// How long cancelled steps may take to stop by themselves.
const CANCEL_GRACE: Duration = Duration::from_millis(500);
/// How long the telling of the beginning may outlast the work.
const TELLING_GRACE: Duration = Duration::from_secs(10);

/// What a step answers.
enum Answer {
    Image(String, Box<Ready>),
    Target(Settled),
    /// What is gone, if anything of ours was there.
    Removed(Option<String>),
    /// A pipeline elsewhere.
    Triggered(Started),
    /// A backup.
    Saved(Box<Taken>),
    Note(String),
}

/// Carries out what was prepared, and tells. The report decides the exit code.
pub async fn run(world: &World, prepared: &Prepared) -> (Report, Option<u64>) {
    let plan = &prepared.plan;
    plan.lines().iter().for_each(|line| world.console.line(line));
    let mut report = Report::of(plan);
    prepared.gone_because().clone_into(&mut report.gone_because);
    let rules = &prepared.loaded.config;
    let teller_of = || Teller::new(world, &prepared.forge, &prepared.event, &rules.project, rules.comment.mode);
    let mut teller = teller_of();
    if matches!(plan.outcome, Outcome::Skip | Outcome::Refuse) {
        forks::tell(world, &prepared.forge, &prepared.event, rules).await;
        return (report, teller.pull_request());
    }
    let started = Instant::now();
    let (begun, finished) = (teller.begin(plan, &prepared.event), Cancel::new());
    let ledger = Ledger::new(world, prepared);
    let runner = Runner::new(world, prepared, &ledger);
    let carried = async {
        let outcome = runner.carry_out(&mut report).await;
        conclude(&mut report, plan, outcome);
        note_url(&mut report, plan);
        teller_of().close(&report).await;
        ledger.end(report.verdict, (&report.headline(), report.urls.get("environment"))).await;
        report.deployment_id = ledger.deployment().await.or(report.deployment_id);
        finished.cancel();
    };
    let ((), ()) = tokio::join!(while_useful(world, &finished, begun), carried);
    teller.end(&mut report).await;
    print(world, &report, started.elapsed());
    (report, teller.pull_request())
}

/// Telling that the delivery begins ends with the run, and shortly after the work is done: nobody waits for a slow forge.
async fn while_useful(world: &World, finished: &Cancel, telling: impl Future<Output = ()>) {
    let too_late = async {
        finished.cancelled().await;
        world.clock.sleep(TELLING_GRACE).await;
    };
    tokio::select! {
        () = telling => {}
        () = too_late => world.console.warning("the forge was too slow to be told that the delivery began"),
        () = world.cancel.cancelled() => {}
    }
}

struct Runner<'a> {
    world: &'a World,
    prepared: &'a Prepared,
    /// The lease and the record.
    ledger: &'a Ledger<'a>,
    /// Images that are in their registries, by key.
    images: Mutex<BTreeMap<String, Ready>>,
    /// What gates remember.
    waits: Mutex<waits::Waits>,
    /// Whether the queues were quiet right before the switch.
    ready: OnceCell<Result<()>>,
}

impl<'a> Runner<'a> {
    fn new(world: &'a World, prepared: &'a Prepared, ledger: &'a Ledger<'a>) -> Self {
        Self { world, prepared, ledger, images: Mutex::default(), waits: Mutex::default(), ready: OnceCell::new() }
    }
}

impl Runner<'_> {
    async fn carry_out(&self, report: &mut Report) -> Result<()> {
        let early = tokio::select! {
            early = self.early(report) => early,
            () = self.world.cancel.cancelled() => Err(Error::new(Reason::Cancelled, "the run was cancelled before anything was done")),
        };
        if early? {
            return Ok(()); // all of it was done before
        }
        let outcome = match self.graph(report).await {
            Err(error) if error.reason == Reason::LockLost => {
                report.targets.extend(self.ledger.left_targets(&report.targets).await);
                Err(self.ledger.left(error).await)
            }
            outcome => outcome,
        };
        self.note_unfinished(report, &outcome);
        let order = |image: &ReportedImage| self.prepared.plan.images.iter().position(|planned| planned.name == image.name);
        report.images.sort_by_key(order); // as declared, not as they ended
        if outcome.as_ref().is_err_and(|error| error.reason == Reason::LockLost && error.gone) {
            return outcome; // who has the lease now starts again what we stopped
        }
        let resumed = self.resume().await;
        if let (Err(_), Err(error)) = (&outcome, &resumed) {
            self.world.console.warning(&error.to_string());
        }
        outcome.and(resumed)
    }

    /// Starts every step whose predecessors are done; the first failure stops the rest.
    async fn graph(&self, report: &mut Report) -> Result<()> {
        let mut waiting: Vec<&Step> = self.prepared.plan.steps.iter().collect();
        let mut ended: BTreeSet<String> = BTreeSet::new();
        let mut running: FuturesUnordered<BoxFuture<'_, (&Step, Duration, Result<Answer>)>> = FuturesUnordered::new();
        let mut failure: Option<Error> = None;
        loop {
            let ready = |step: &&Step| step.after.iter().all(|before| ended.contains(before));
            let (start, later): (Vec<&Step>, Vec<&Step>) = waiting.into_iter().partition(ready);
            waiting = later;
            for step in start {
                if failure.is_none() || self.goes_on_after_failure(step) {
                    running.push(self.timed(step).boxed());
                } else {
                    report.steps.push(skipped(step));
                    ended.insert(step.id.clone());
                }
            }
            let (step, length, answer) = match self.next(&mut running).await {
                Ok(Some(ended)) => ended,
                Ok(None) => break,
                Err(end) => return Err(ended_after(failure, end)),
            };
            ended.insert(step.id.clone());
            let fails = answer.is_err();
            if let Err(error) = self.note(report, step, length, answer) {
                failure.get_or_insert(error);
            }
            let lost = failure.as_ref().is_some_and(|error| error.reason == Reason::LockLost);
            // Pipelines elsewhere that were started beside this one are followed to their end all the same.
            let alone = !matches!(step.work, Work::Trigger(_)) && !self.goes_on_after_failure(step);
            if fails && (lost || alone) {
                waiting.iter().for_each(|step| report.steps.push(skipped(step)));
                break; // what still runs (a drain, another build) is dropped
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Steps that were dropped while they ran are part of the story too.
    fn note_unfinished(&self, report: &mut Report, outcome: &Result<()>) {
        let cancelled = outcome.as_ref().is_err_and(|error| error.reason == Reason::Cancelled);
        for step in &self.prepared.plan.steps {
            if report.steps.iter().all(|known| known.id != step.id) {
                let is_done = |id: &String| report.steps.iter().any(|known| known.id == *id && known.outcome == StepOutcome::Done);
                let begun = step.after.iter().all(is_done);
                let outcome = if begun { StepOutcome::Cancelled } else { StepOutcome::Skipped };
                let note = if cancelled { "the run was cancelled" } else { "another step failed" };
                report.steps.push(ReportedStep { id: step.id.clone(), outcome, seconds: 0.0, note: note.into() });
            }
        }
    }

    /// `on-partial: continue`: the other targets are deployed although one failed.
    fn goes_on_after_failure(&self, step: &Step) -> bool {
        self.prepared.plan.on_partial == OnPartial::Continue && matches!(step.work, Work::Target(_))
    }

    async fn next<'s>(
        &self,
        running: &mut FuturesUnordered<BoxFuture<'s, (&'s Step, Duration, Result<Answer>)>>,
    ) -> Result<Option<(&'s Step, Duration, Result<Answer>)>> {
        tokio::select! {
            biased;
            () = self.world.cancel.cancelled() => Err(self.stopped(running).await),
            lost = self.ledger.lost() => Err(lost),
            next = running.next() => Ok(next),
        }
    }

    /// A moment for the steps to say where they stopped, then they are dropped. Targets may have to stop something elsewhere.
    async fn stopped<'s>(&self, running: &mut FuturesUnordered<BoxFuture<'s, (&'s Step, Duration, Result<Answer>)>>) -> Error {
        let reaches_out =
            |step: &Step| matches!(step.work, Work::Target(_) | Work::Migrate(_) | Work::Trigger(_) | Work::Backup(_) | Work::Seed(_));
        let begun = self.prepared.plan.steps.iter().any(reaches_out);
        let grace = if begun { targets::STOP_LIMIT + CANCEL_GRACE } else { CANCEL_GRACE };
        let mut told: Option<Error> = None;
        let told_all = async {
            while let Some((step, _, answer)) = running.next().await {
                let error = answer.err().filter(|error| error.reason == Reason::Cancelled);
                told = match (told.take(), error) {
                    (Some(mut first), Some(next)) if reaches_out(step) && !first.detail.is_empty() => {
                        first.detail.push(next.sentence);
                        first.detail.extend(next.detail);
                        Some(first)
                    }
                    (first, next) if first.is_none() || reaches_out(step) => next.or(first),
                    (first, _) => first,
                };
                if told.is_some() && !begun {
                    break;
                }
            }
        };
        let _dropped = tokio::time::timeout(grace, told_all).await;
        told.unwrap_or_else(|| Error::new(Reason::Cancelled, "the run was cancelled"))
    }

    async fn timed<'s>(&'s self, step: &'s Step) -> (&'s Step, Duration, Result<Answer>) {
        let started = Instant::now();
        let answer = match &step.work {
            Work::Lock => self.lock().await,
            Work::Image(index) => self.image(*index).await,
            Work::Tags(index) => self.tags(*index).await,
            Work::Record => self.record_delivery().await,
            Work::After(work) => self.after(work).await,
            Work::Release(work) => self.release(work).await,
            Work::BackMerge(work) => self.back_merge(work).await,
            Work::Keep => match self.ledger.fence() {
                Ok(fence) => self.keep(fence.number).await,
                Err(error) => Err(error),
            },
            Work::Scan(work) => self.scan(work).await,
            Work::Drain(work) => self.drain(&step.id, work).await,
            Work::Archive(work) => self.archive(work).await,
            Work::Seed(work) => self.seed(&step.id, work).await,
            Work::Backup(work) => self.backup(&step.id, work).await,
            Work::Migrate(work) => self.migrate(&step.id, work).await,
            Work::Trigger(work) => self.trigger(&step.id, work).await,
            Work::Target(work) => self.target(&step.id, work).await,
            Work::Remove(work) => self.remove_target(&step.id, work).await,
            Work::RemovePreview => self.remove_preview().await,
        };
        (step, started.elapsed(), answer)
    }

    async fn lock(&self) -> Result<Answer> {
        self.inherit(self.ledger.lock().await?); // also by a run that is late itself
        self.ledger.order().await?;
        self.still_wanted().await?;
        self.same_way_back().await?;
        self.quarantine().await?;
        self.not_frozen()?;
        Ok(Answer::Note(format!("lease {} of {}", self.ledger.fence()?.number, self.prepared.key)))
    }

    /// After a wait: another run may have delivered the same, or the pull request may have been closed.
    async fn still_wanted(&self) -> Result<()> {
        if let Some(same) = self.ledger.delivered_meanwhile().await {
            let sentence = format!("{} was delivered by {} while this run waited", same.version, same.by());
            return Err(Error::new(Reason::Superseded, sentence));
        }
        let Prepared { plan, event, forge, request, .. } = self.prepared;
        if let Request::Sweep(sweep) = request {
            return self.still_surplus(sweep).await;
        }
        // A stop job stops its environment, whatever becomes of the merge request.
        if let (Outcome::Remove, Some(number)) = (plan.outcome, event.pr.filter(|_| event.kind != Kind::PreviewStop))
            && forge.is_open(number).await == Some(true)
        {
            let sentence = format!("{} is open: its preview stays", forge.pull_request_name(number));
            return Err(Error::new(Reason::EventIgnored, sentence));
        }
        if let (true, Outcome::Deploy, Some(number)) = (plan.is_preview, plan.outcome, event.pr)
            && forge.is_open(number).await == Some(false)
        {
            return Err(Error::new(
                Reason::EventIgnored,
                format!("pull request {number} was closed meanwhile: it gets no preview any more"),
            ));
        }
        Ok(())
    }

    /// Whether a preview still has to go: its pull request may have been opened again, or delivered once more.
    async fn still_surplus(&self, sweep: &Sweep) -> Result<()> {
        let forge = &self.prepared.forge;
        let name = forge.pull_request_name(sweep.number);
        let stays = |why: String| Err(Error::new(Reason::EventIgnored, why));
        match &sweep.cause {
            SweepCause::Closed => match forge.is_open(sweep.number).await {
                Some(false) => Ok(()),
                Some(true) => stays(format!("{name} is open: its preview stays")),
                None => stays(format!("whether {name} is open cannot be said now: its preview stays")),
            },
            SweepCause::Surplus(newest) if self.ledger.newest().await == *newest => Ok(()),
            SweepCause::Surplus(_) => stays(format!("{name} was delivered meanwhile: its preview stays")),
        }
    }

    /// A job for the image with this index.
    fn job(&self, index: usize) -> Result<Job<'_>> {
        let plan = &self.prepared.plan;
        let planned = plan.images.get(index).ok_or_else(|| Error::new(Reason::Internal, "a step for an image that is not in the plan"))?;
        let config = &self.prepared.loaded.config;
        let rules = plan.environment.as_ref().and_then(|name| config.environments.get(name));
        let role = config.role(rules).cloned();
        Ok(Job {
            world: self.world,
            folder: &self.prepared.loaded.folder,
            image: planned,
            forge: &self.prepared.forge,
            role,
            forced: self.prepared.event.more.forced,
            alone: plan.images.len() == 1,
        })
    }

    async fn image(&self, index: usize) -> Result<Answer> {
        let job = self.job(index)?;
        let mut ready = image::ensure(&job).await?;
        for said in copies::send(&job, &ready).await? {
            ready.note.push_str(&format!("; {said}"));
        }
        Ok(Answer::Image(job.image.name.clone(), Box::new(ready)))
    }

    /// The image that a step made ready.
    fn made(&self, name: &str) -> Result<Ready> {
        let ready = self.images.lock().ok().and_then(|images| images.get(name).cloned());
        ready.ok_or_else(|| Error::new(Reason::Internal, format!("the image {name} is not there yet")))
    }

    /// Aliases move under the lease: two runs must not overtake each other between looking and writing.
    async fn tags(&self, index: usize) -> Result<Answer> {
        let job = self.job(index)?;
        let ready = self.made(&job.image.name)?;
        if self.prepared.plan.steps.iter().all(|step| !matches!(step.work, Work::Lock))
            && aliases::is_needed(&job, &ready.registry, &ready.manifest).await?
        {
            self.ledger.lock().await?;
        }
        let Advanced { said, ours } = aliases::advance(&job, &ready.registry, &ready.manifest).await?;
        copies::follow_aliases(&job, &ready, &ours).await?;
        Ok(Answer::Note(said))
    }

    async fn record_delivery(&self) -> Result<Answer> {
        let mut images = Vec::new();
        for planned in &self.prepared.plan.images {
            let pushed = self.made(&planned.name)?.pushed;
            images.push(RecordedImage { name: planned.name.clone(), r#ref: pushed.reference(), digest: pushed.digest });
        }
        self.ledger.begin(images).await.map(Answer::Note)
    }

    async fn remove_preview(&self) -> Result<Answer> {
        self.ledger.close(self.prepared.gone_because()).await?;
        Ok(Answer::Note("its records are closed".into()))
    }

    /// The images that are ready, by key.
    fn pushed(&self) -> BTreeMap<String, Pushed> {
        let images = self.images.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        images.iter().map(|(name, ready)| (name.clone(), ready.pushed.clone())).collect()
    }

    /// What a target is given.
    fn site<'s>(&'s self, step: &'s str, images: &'s BTreeMap<String, Pushed>, fence: &'s Fence, memory: &'s StepMemory<'s>) -> Site<'s> {
        let Prepared { loaded, forge, plan, key, .. } = self.prepared;
        let owner = key.to_string();
        Site { world: self.world, folder: &loaded.folder, step, images, fence, memory, forge, is_preview: plan.is_preview, owner }
    }

    /// The last looks before something changes.
    async fn may_switch(&self, id: &str) -> Result<Fence> {
        self.ready.get_or_init(|| self.last_looks()).await.clone()?; // a no is a no for every target
        self.ledger.confirm().await?; // time has passed since the target before
        self.ledger.note(id, Did::Switching).await?;
        self.ledger.fence()
    }

    async fn target(&self, id: &str, work: &targets::Work) -> Result<Answer> {
        let fence = self.may_switch(id).await?;
        let (images, memory) = (self.pushed(), self.ledger.memory(id));
        Ok(Answer::Target(targets::deploy(&self.site(id, &images, &fence, &memory), work).await?))
    }

    /// Writes a step's end into report and log. Returns the error of a failed step.
    fn note(&self, report: &mut Report, step: &Step, length: Duration, answer: Result<Answer>) -> Result<()> {
        let console = &self.world.console;
        let (outcome, note, result) = match answer {
            Ok(answer) => (StepOutcome::Done, self.record(report, step, answer), Ok(())),
            Err(error) => {
                let outcome = if error.reason == Reason::Cancelled { StepOutcome::Cancelled } else { StepOutcome::Failed };
                if matches!(step.work, Work::Target(_)) {
                    let target =
                        ReportedTarget { id: step.id.clone(), verdict: Verdict::of(&error), detail: error.sentence.clone(), url: None };
                    report.targets.push(target);
                }
                (outcome, error.sentence.clone(), Err(error))
            }
        };
        let first = format!("{:<20} {:>8}", step.id, spoken(length));
        match outcome {
            StepOutcome::Done => console.good(&format!("{first}  {note}")),
            StepOutcome::Failed | StepOutcome::Skipped | StepOutcome::Cancelled => console.bad(&first),
        }
        report.steps.push(ReportedStep { id: step.id.clone(), outcome, seconds: length.as_secs_f64(), note });
        result
    }

    fn record(&self, report: &mut Report, step: &Step, answer: Answer) -> String {
        match answer {
            Answer::Note(note) => note,
            Answer::Triggered(Started { said, url, run: _ }) => {
                report.urls.extend(url.map(|url| (step.id.clone(), url)));
                said
            }
            Answer::Saved(taken) => {
                let note = taken.sentence();
                report.backups.push(ReportedBackup { id: step.id.clone(), taken: *taken });
                note
            }
            Answer::Removed(None) => "nothing of ours is there".to_owned(),
            Answer::Removed(Some(detail)) => {
                let target = ReportedTarget { id: step.id.clone(), verdict: Verdict::Removed, detail: detail.clone(), url: None };
                report.targets.push(target);
                detail
            }
            Answer::Target(settled) => {
                let Settled { verdict, detail, url } = settled;
                report.targets.push(ReportedTarget { id: step.id.clone(), verdict, detail: detail.clone(), url });
                detail
            }
            Answer::Image(name, ready) => {
                let how = match ready.how {
                    How::Reused => "reused",
                    How::Promoted => "promoted",
                    How::Built => "built",
                };
                report.images.push(ReportedImage::of(&name, &ready.pushed, how));
                let note = format!("{}, {}\n    {}", ready.note, size(ready.pushed.size), ready.pushed.reference());
                if let Ok(mut images) = self.images.lock() {
                    images.insert(name, *ready);
                }
                note
            }
        }
    }
}

fn skipped(step: &Step) -> ReportedStep {
    ReportedStep { id: step.id.clone(), outcome: StepOutcome::Skipped, seconds: 0.0, note: "an earlier step failed".into() }
}
