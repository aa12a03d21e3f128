//! Carries a plan out: the step graph, times, cancelling, and the report. Wall time is the critical path.

use crate::config::OnPartial;
use crate::context::Outcome;
use crate::delivery::Prepared;
use crate::error::{Error, Reason, Result, Verdict};
use crate::gates::drain::Drain;
use crate::plan::{DrainWork, KubernetesWork, Plan, Step, Work};
use crate::report::tell::Teller;
use crate::report::{Report, ReportedImage, ReportedStep, ReportedTarget, StepOutcome, size};
use crate::steps::image::{self, How, Job, Ready};
use crate::targets::{Settled, kubernetes};
use crate::tools::process;
use crate::tools::wait::{Cancel, spoken};
use crate::world::World;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a pause or resume command may take.
const HOOK_LIMIT: Duration = Duration::from_secs(300);
/// The same when the run was cancelled: the CI system kills us soon.
const HOOK_LIMIT_CANCELLED: Duration = Duration::from_secs(2);
/// How long cancelled steps may take to stop by themselves.
const CANCEL_GRACE: Duration = Duration::from_millis(500);
/// How long the telling of the beginning may outlast the work.
const TELLING_GRACE: Duration = Duration::from_secs(10);

/// What a step answers.
enum Answer {
    Image(String, Ready),
    Target(Settled),
    Note(String),
}

/// Carries out what was prepared, and tells. The report decides the exit code.
pub async fn run(world: &World, prepared: &Prepared) -> (Report, Option<u64>) {
    let plan = &prepared.plan;
    plan.lines().iter().for_each(|line| world.console.line(line));
    let mut report = Report::of(plan);
    let rules = &prepared.loaded.config;
    let mut teller = Teller::new(world, &prepared.forge, &prepared.event, &rules.project, rules.comment.mode);
    if matches!(plan.outcome, Outcome::Skip | Outcome::Refuse) {
        return (report, teller.pull_request());
    }
    let started = Instant::now();
    let (begun, finished) = (teller.begin(plan, &prepared.event), Cancel::new());
    let runner = Runner::new(world, prepared);
    let carried = async {
        let outcome = runner.carry_out(&mut report).await;
        finished.cancel();
        outcome
    };
    let ((), outcome) = tokio::join!(while_useful(world, &finished, begun), carried);
    conclude(&mut report, plan, outcome);
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

fn conclude(report: &mut Report, plan: &Plan, outcome: Result<()>) {
    match outcome {
        Ok(()) if plan.outcome == Outcome::Remove => {
            // No target can remove what it did not make; once one can, this is `removed`.
            (report.verdict, report.reason) = (Verdict::Skipped, Reason::PreviewKept);
            report.sentence = format!("{} is closed; its workloads were not made by tidegate and keep running", plan.display_environment);
        }
        Ok(()) => {
            report.verdict = Verdict::Deployed;
            report.reason = if report.targets.is_empty() { Reason::Built } else { Reason::Deployed };
        }
        Err(error) => {
            report.verdict = Verdict::of(&error);
            report.reason = error.reason;
            report.sentence.clone_from(&error.sentence);
            report.error = Some(error);
        }
    }
}

fn print(world: &World, report: &Report, elapsed: Duration) {
    let line = format!("{} ({})", report.headline(), spoken(elapsed));
    match report.verdict {
        Verdict::Deployed | Verdict::Removed | Verdict::Skipped | Verdict::Superseded => world.console.good(&line),
        Verdict::Failed | Verdict::RolledBack | Verdict::Unknown | Verdict::TimedOut | Verdict::Refused | Verdict::Cancelled => {
            world.console.bad(&line);
        }
    }
}

struct Runner<'a> {
    world: &'a World,
    prepared: &'a Prepared,
    /// Images that are in their registries, by key.
    images: Mutex<BTreeMap<String, Ready>>,
    /// Whether producers were paused, by step id: they are resumed whatever happens.
    paused: Mutex<BTreeSet<String>>,
    /// Whether the queues were looked at right before the switch.
    rechecked: tokio::sync::OnceCell<Result<()>>,
    /// When each drain's waiting ends; `None` once it has timed out with `on-timeout: warn`.
    deadlines: Mutex<BTreeMap<String, Option<Duration>>>,
}

impl<'a> Runner<'a> {
    fn new(world: &'a World, prepared: &'a Prepared) -> Self {
        let rechecked = tokio::sync::OnceCell::new();
        Self { world, prepared, images: Mutex::default(), paused: Mutex::default(), rechecked, deadlines: Mutex::default() }
    }

    async fn carry_out(&self, report: &mut Report) -> Result<()> {
        let outcome = self.graph(report).await;
        self.note_unfinished(report, &outcome);
        let order = |image: &ReportedImage| self.prepared.plan.images.iter().position(|planned| planned.name == image.name);
        report.images.sort_by_key(order); // as declared, not as they ended
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
            let Some((step, length, answer)) = self.next(&mut running).await? else { break };
            ended.insert(step.id.clone());
            let fails = answer.is_err();
            if let Err(error) = self.note(report, step, length, answer) {
                failure.get_or_insert(error);
            }
            if fails && !self.goes_on_after_failure(step) {
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
                let note = if cancelled { "the run was cancelled" } else { "another step failed" };
                report.steps.push(ReportedStep { id: step.id.clone(), outcome: StepOutcome::Cancelled, seconds: 0.0, note: note.into() });
            }
        }
    }

    /// `on-partial: continue`: the other targets are deployed although one failed.
    fn goes_on_after_failure(&self, step: &Step) -> bool {
        self.prepared.plan.on_partial == OnPartial::Continue && matches!(step.work, Work::Kubernetes(_))
    }

    async fn next<'s>(
        &self,
        running: &mut FuturesUnordered<BoxFuture<'s, (&'s Step, Duration, Result<Answer>)>>,
    ) -> Result<Option<(&'s Step, Duration, Result<Answer>)>> {
        tokio::select! {
            biased;
            () = self.world.cancel.cancelled() => {
                // A moment for the steps to say where they stopped, then they are dropped.
                let stopped = tokio::time::timeout(CANCEL_GRACE, running.next()).await;
                let told = stopped.ok().flatten().and_then(|(_, _, answer)| answer.err()).filter(|error| error.reason == Reason::Cancelled);
                Err(told.unwrap_or_else(|| Error::new(Reason::Cancelled, "the run was cancelled")))
            }
            next = running.next() => Ok(next),
        }
    }

    async fn timed<'s>(&'s self, step: &'s Step) -> (&'s Step, Duration, Result<Answer>) {
        let started = Instant::now();
        let answer = match &step.work {
            Work::Image(index) => self.image(*index).await,
            Work::Drain(work) => self.drain(&step.id, work).await,
            Work::Kubernetes(work) => self.kubernetes(work).await,
            Work::RemovePreview => {
                Ok(Answer::Note("its workloads were not made by tidegate and keep running; its records are closed".into()))
            }
        };
        (step, started.elapsed(), answer)
    }

    async fn image(&self, index: usize) -> Result<Answer> {
        let plan = &self.prepared.plan;
        let planned = plan.images.get(index).ok_or_else(|| Error::new(Reason::Internal, "a step for an image that is not in the plan"))?;
        let config = &self.prepared.loaded.config;
        let rules = plan.environment.as_ref().and_then(|name| config.environments.get(name));
        let role = rules.and_then(|rules| rules.aws.role.clone()).or_else(|| config.aws.role.clone());
        let job = Job {
            world: self.world,
            folder: &self.prepared.loaded.folder,
            image: planned,
            forge: &self.prepared.forge,
            role,
            forced: self.prepared.event.more.forced,
            alone: plan.images.len() == 1,
        };
        Ok(Answer::Image(planned.name.clone(), image::ensure(&job).await?))
    }

    async fn drain(&self, id: &str, work: &DrainWork) -> Result<Answer> {
        let drain = Drain::open(self.world, work).await?;
        if let Some(command) = &work.pause {
            if let Ok(mut paused) = self.paused.lock() {
                paused.insert(id.to_owned()); // noted before it runs: a half-done pause is resumed as well
            }
            self.hook("pause", command, HOOK_LIMIT).await?;
        }
        let quiet = drain.wait().await?;
        if quiet.timed_out {
            self.world.console.warning(&quiet.sentence);
        }
        if let Ok(mut deadlines) = self.deadlines.lock() {
            deadlines.insert(id.to_owned(), Some(drain.deadline()).filter(|_| !quiet.timed_out));
        }
        Ok(Answer::Note(quiet.sentence))
    }

    async fn hook(&self, what: &str, command: &[String], limit: Duration) -> Result<()> {
        if self.world.rehearsal {
            self.world.console.line(&format!("  {what}: would run {}", command.join(" ")));
            return Ok(());
        }
        self.world.console.line(&format!("  {what}: {}", command.join(" ")));
        let console = &self.world.console;
        let result = process::run(command, &self.prepared.loaded.folder, limit, &|line| console.relay(what, line)).await;
        result.map_err(|error| Error { sentence: format!("{what}: {}", error.sentence), ..error })
    }

    /// Producers that were paused are started again, also after a failure or a cancel.
    async fn resume(&self) -> Result<()> {
        let paused = self.paused.lock().map(|paused| paused.clone()).unwrap_or_default();
        let mut result = Ok(());
        for step in &self.prepared.plan.steps {
            let Work::Drain(DrainWork { resume: Some(command), .. }) = &step.work else { continue };
            if paused.contains(&step.id) {
                let resumed = tokio::select! {
                    resumed = self.hook("resume", command, HOOK_LIMIT) => resumed,
                    () = self.world.cancelled_for(HOOK_LIMIT_CANCELLED) => Err(Error::new(Reason::HookFailed, "resume: did not end in time after the cancel")),
                };
                result = result.and(resumed.map_err(|error| error.hint("the producers may still be stopped: start them by hand")));
            }
        }
        result
    }

    async fn kubernetes(&self, work: &KubernetesWork) -> Result<Answer> {
        self.rechecked.get_or_init(|| self.recheck()).await.clone()?; // a no is a no for every target
        let ready = self.images.lock().ok().and_then(|images| images.get(&work.image).cloned());
        let ready = ready.ok_or_else(|| Error::new(Reason::Internal, format!("the image {} is not there yet", work.image)))?;
        Ok(Answer::Target(kubernetes::deploy(self.world, work, &ready.pushed).await?))
    }

    /// Right before the switch: whatever came into the queues since they were quiet is waited for.
    async fn recheck(&self) -> Result<()> {
        // While one gate was waited for, another may have got messages: until one pass finds all quiet.
        while self.recheck_all().await? {}
        Ok(())
    }

    /// One pass over all gates; whether any of them had to be waited for.
    async fn recheck_all(&self) -> Result<bool> {
        let mut waited = false;
        for step in &self.prepared.plan.steps {
            if let Work::Drain(work) = &step.work {
                let deadline = self.deadlines.lock().ok().and_then(|deadlines| deadlines.get(&step.id).copied()).flatten();
                let Some(deadline) = deadline else { continue }; // let through by `on-timeout: warn`: not waited for twice
                // A message that comes late gets at least one more quiet time to pass.
                let deadline = deadline.max(self.world.clock.now().saturating_add(work.quiet.saturating_mul(2)));
                let quiet = Drain::open(self.world, work).await?.until(deadline).recheck().await?;
                if quiet.timed_out {
                    self.world.console.warning(&quiet.sentence);
                }
                waited |= quiet.waited && !quiet.timed_out;
            }
        }
        Ok(waited)
    }

    /// Writes a step's end into report and log. Returns the error of a failed step.
    fn note(&self, report: &mut Report, step: &Step, length: Duration, answer: Result<Answer>) -> Result<()> {
        let console = &self.world.console;
        let (outcome, note, result) = match answer {
            Ok(answer) => (StepOutcome::Done, self.record(report, step, answer), Ok(())),
            Err(error) => {
                let outcome = if error.reason == Reason::Cancelled { StepOutcome::Cancelled } else { StepOutcome::Failed };
                if matches!(step.work, Work::Kubernetes(_)) {
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
                    images.insert(name, ready);
                }
                note
            }
        }
    }
}

fn skipped(step: &Step) -> ReportedStep {
    ReportedStep { id: step.id.clone(), outcome: StepOutcome::Skipped, seconds: 0.0, note: "an earlier step failed".into() }
}
