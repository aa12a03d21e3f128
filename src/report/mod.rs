//! What happened, as a value, and every word that people read about it.

use crate::backup::Taken;
use crate::context::Outcome;
use crate::error::{Error, Reason, Verdict};
use crate::plan::Plan;
use crate::registry::Pushed;
use crate::tools::redact::Redactor;
use serde::Serialize;
use std::collections::BTreeMap;

pub mod forks;
pub mod markdown;
pub mod outputs;
mod plan;
pub mod tell;

/// What happened. `--report FILE` writes it as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of this shape; always 1.
    pub schema: u32,
    /// What was to be done.
    pub outcome: Outcome,
    /// The reason code; it decides the exit code.
    pub reason: Reason,
    /// The environment's key.
    pub environment: Option<String>,
    /// The version.
    pub version: Option<String>,
    /// What is true now.
    pub verdict: Verdict,
    /// The images.
    pub images: Vec<ReportedImage>,
    /// The targets.
    pub targets: Vec<ReportedTarget>,
    /// The steps.
    pub steps: Vec<ReportedStep>,
    /// The backups that were made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<ReportedBackup>,
    /// Where more can be seen: run, comment, deployment.
    pub urls: BTreeMap<String, String>,
    /// One sentence for a person.
    #[serde(skip)]
    pub sentence: String,
    /// What went wrong.
    #[serde(skip)]
    pub error: Option<Error>,
    /// The plan's hash.
    #[serde(skip)]
    pub plan_hash: String,
    /// The commit.
    #[serde(skip)]
    pub commit: Option<String>,
    /// The environment as people know it; a preview has its own name.
    #[serde(skip)]
    pub place: String,
    /// The forge's record.
    #[serde(skip)]
    pub deployment_id: Option<u64>,
    /// All of it was done, and told, before.
    #[serde(skip)]
    pub repeats: bool,
    /// Why a preview is removed.
    #[serde(skip)]
    pub gone_because: String,
}

/// An image of the report.
#[derive(Clone, Debug, Serialize)]
pub struct ReportedImage {
    /// Its key.
    pub name: String,
    /// name:tag@digest.
    pub r#ref: String,
    /// The digest.
    pub digest: String,
    /// The compressed size in bytes.
    pub size: u64,
    /// How it came to be there: built, promoted or reused.
    pub how: &'static str,
}

impl ReportedImage {
    /// Reports an image that is in its registry.
    pub fn of(name: &str, pushed: &Pushed, how: &'static str) -> Self {
        Self { name: name.to_owned(), r#ref: pushed.reference(), digest: pushed.digest.clone(), size: pushed.size, how }
    }
}

/// A target of the report.
#[derive(Clone, Debug, Serialize)]
pub struct ReportedTarget {
    /// The step's id.
    pub id: String,
    /// What is true there.
    pub verdict: Verdict,
    /// What was identified, or why not.
    pub detail: String,
    /// Where it can be seen.
    pub url: Option<String>,
}

/// A step of the report.
#[derive(Clone, Debug, Serialize)]
pub struct ReportedStep {
    /// Its id.
    pub id: String,
    /// How it ended.
    pub outcome: StepOutcome,
    /// How long it took.
    pub seconds: f64,
    /// One sentence.
    pub note: String,
}

/// A backup of the report.
#[derive(Clone, Debug, Serialize)]
pub struct ReportedBackup {
    /// The step's id.
    pub id: String,
    /// Where it is, and how large.
    #[serde(flatten)]
    pub taken: Taken,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepOutcome {
    /// It did its work.
    Done,
    /// It did not.
    Failed,
    /// It was not its turn any more.
    Skipped,
    /// The run was cancelled.
    Cancelled,
}

impl Report {
    /// The same without secrets. Markup comes afterwards: what it escapes would not be found any more.
    #[must_use]
    pub fn cleaned(&self, redactor: &Redactor) -> Self {
        let mut report = self.clone();
        let clean = |text: &mut String| *text = redactor.clean(text);
        [&mut report.sentence, &mut report.gone_because, &mut report.place].into_iter().for_each(clean);
        report.version.iter_mut().for_each(clean);
        report.urls.values_mut().for_each(clean);
        report.images.iter_mut().for_each(|image| clean(&mut image.r#ref));
        report.steps.iter_mut().for_each(|step| clean(&mut step.note));
        for target in &mut report.targets {
            clean(&mut target.detail);
            target.url.iter_mut().for_each(clean);
        }
        if let Some(error) = &mut report.error {
            clean(&mut error.sentence);
            error.hint.iter_mut().for_each(clean);
            error.detail.iter_mut().for_each(clean);
        }
        report
    }

    /// Where the first target that knows says that it can be seen.
    pub fn target_url(&self) -> Option<String> {
        self.targets.iter().find_map(|target| target.url.clone())
    }

    /// The report of a plan before anything was done.
    pub fn of(plan: &Plan) -> Self {
        Self {
            schema: 1,
            outcome: plan.outcome,
            reason: plan.reason,
            environment: plan.environment.clone(),
            version: plan.version.clone(),
            verdict: match plan.outcome {
                Outcome::Refuse => Verdict::Refused,
                Outcome::Skip => Verdict::Skipped,
                Outcome::Deploy | Outcome::Remove => Verdict::Unknown,
            },
            images: Vec::new(),
            targets: Vec::new(),
            steps: Vec::new(),
            backups: Vec::new(),
            urls: BTreeMap::new(),
            sentence: plan.sentence.clone(),
            error: None,
            plan_hash: plan.hash.clone(),
            commit: plan.commit.clone(),
            place: plan.display_environment.clone(),
            deployment_id: None,
            repeats: false,
            gone_because: String::new(),
        }
    }

    /// The report of a run that failed before there was a plan.
    pub fn of_error(error: &Error) -> Self {
        Self {
            schema: 1,
            outcome: Outcome::Refuse,
            reason: error.reason,
            environment: None,
            version: None,
            verdict: Verdict::of(error),
            images: Vec::new(),
            targets: Vec::new(),
            steps: Vec::new(),
            backups: Vec::new(),
            urls: BTreeMap::new(),
            sentence: error.sentence.clone(),
            error: Some(error.clone()),
            plan_hash: String::new(),
            commit: None,
            place: String::new(),
            deployment_id: None,
            repeats: false,
            gone_because: String::new(),
        }
    }

    /// Whether every target was deployed, so that what failed came afterwards.
    fn all_deployed(&self) -> bool {
        !self.targets.is_empty() && self.targets.iter().all(|target| target.verdict == Verdict::Deployed)
    }

    /// No target was reached. What ran around the targets may have changed something all the same.
    fn untouched_or_begun(&self, version: &str) -> String {
        let any = |kind: &str, is: fn(StepOutcome) -> bool| self.steps.iter().any(|step| step.id.starts_with(kind) && is(step.outcome));
        if any("trigger.", |outcome| matches!(outcome, StepOutcome::Done | StepOutcome::Failed)) {
            return format!("the pipelines of {} are not all done for {version}", self.place);
        }
        let migrated = any("migrate", |outcome| outcome != StepOutcome::Skipped);
        let what = if migrated { "its migration is not proven to have ended well" } else { "nothing was switched" };
        format!("{version} was not deployed to {}: {what}", self.place)
    }

    /// The run in one line.
    pub fn headline(&self) -> String {
        let version = self.version.as_deref().unwrap_or("?");
        match self.verdict {
            Verdict::Deployed if self.reason == Reason::Built => format!("{version} is built and tagged for {}", self.place),
            Verdict::Deployed if self.reason == Reason::Triggered => format!("the pipelines of {} were started for {version}", self.place),
            Verdict::Deployed => format!("{version} runs on {}", self.place),
            Verdict::Removed => format!("{} is removed: {}", self.place, self.gone_because),
            Verdict::Skipped if self.reason == Reason::PreviewKept => self.sentence.clone(),
            Verdict::Skipped => format!("nothing to do: {}", self.sentence),
            Verdict::Superseded => format!("superseded: {}", self.sentence),
            Verdict::Refused => format!("refused: {}", self.sentence),
            Verdict::Cancelled => format!("the deploy of {version} to {} was cancelled", self.place),
            Verdict::Failed if self.all_deployed() => format!("{version} runs on {}, but: {}", self.place, self.sentence),
            Verdict::Failed | Verdict::RolledBack | Verdict::Unknown | Verdict::TimedOut if self.place.is_empty() => {
                format!("failed: {}", self.sentence)
            }
            Verdict::Failed | Verdict::RolledBack | Verdict::Unknown | Verdict::TimedOut => match self.targets.is_empty() {
                true => self.untouched_or_begun(version),
                false => format!("{version} is not proven to run on {}: {}", self.place, self.verdict.name()),
            },
        }
    }
}

/// Bytes as people read them.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _large => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
