//! Records of deliveries, each with its journal: what was begun, what was done, how it ended.
//!
//! On the forge a record is a deployment: its payload holds the facts, its statuses are the journal. Elsewhere it is an
//! object. A record is written only by who holds its environment's lease, and before what it records is done.

use super::{Backend, Key, Store, forge_records, refuse, unreadable};
use crate::error::{Result, Verdict};
use crate::forge::DeploymentState;
use crate::forge::deployments::DeploymentStatus;
use crate::run::lease::RunRef;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How far back a look goes for something that was deployed.
const LOOK_BACK: usize = 100;
/// Says of a record that no older one has to be read.
pub type Enough<'a> = &'a (dyn Fn(&Record) -> bool + Sync);
/// How many records an environment keeps where they are objects.
const KEPT: u64 = 200;

/// A delivery.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The version of this shape; always 1.
    pub schema: u32,
    /// The project.
    pub project: String,
    /// Tells this record from all others.
    pub key: String,
    /// The number of the lease under which it was made.
    pub fence: u64,
    /// The environment's key in tidegate.yml.
    pub environment: String,
    /// The version.
    pub version: String,
    /// The commit.
    pub commit: Option<String>,
    /// The plan's hash.
    pub plan: String,
    /// The images.
    pub images: Vec<RecordedImage>,
    /// The repository, as the forge spells it: projects of the same name may share a store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Who caused it.
    pub who: String,
    /// The CI run.
    pub run: Option<RunRef>,
    /// When it began, by the clock of the run.
    pub begun: String,
    /// What ran before: where a rollback leads.
    pub replaces: Option<Replaced>,
    /// What a person went back from by this delivery: that is not good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Left>,
    /// Whether it migrates the database in a way that older versions cannot live with.
    #[serde(default, skip_serializing_if = "is_no")]
    pub breaks: bool,
    /// The steps that do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub breaking: Vec<String>,
    /// Gates that a person lifted for it, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lifted: Vec<String>,
    /// What was begun and done, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub journal: Vec<Line>,
    /// How it ended; nothing while it goes on, or when it ended without a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// Where what it delivered can be seen; told when it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The forge's id of it, where the forge keeps it.
    #[serde(skip)]
    pub deployment: Option<u64>,
}

/// An image of a record.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct RecordedImage {
    /// Its key in tidegate.yml.
    pub name: String,
    /// name:tag@digest.
    pub r#ref: String,
    /// The digest.
    pub digest: String,
}

/// What a delivery took the place of.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Replaced {
    /// The version.
    pub version: String,
    /// The commit.
    pub commit: Option<String>,
    /// The images' digests.
    pub digests: Vec<String>,
}

/// What somebody went back from.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Left {
    /// The version.
    pub version: String,
    /// The images.
    pub images: Vec<RecordedImage>,
}

impl Left {
    /// Whether a record is of the same. Deliveries of one version may name more or fewer images: those that both have count.
    pub fn is_of(&self, record: &Record) -> bool {
        let other = |image: &RecordedImage| record.images.iter().find(|other| other.name == image.name).map(|other| &other.digest);
        let both: Vec<(&String, &String)> = self.images.iter().filter_map(|image| Some((&image.digest, other(image)?))).collect();
        if both.is_empty() { self.version == record.version } else { both.iter().all(|(one, other)| one == other) }
    }
}

/// A line of a journal.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Line {
    /// When, by the clock of the run or of the forge.
    pub at: String,
    /// The step.
    pub step: String,
    /// What was begun or done.
    pub what: Did,
    /// What was started elsewhere, as "job 42".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
}

/// What a journal says of a step.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Did {
    /// The producers are about to be stopped.
    Pausing,
    /// They are stopped.
    Paused,
    /// They are started again.
    Resumed,
    /// What runs is about to change.
    Switching,
    /// Something was started elsewhere.
    Started,
    /// A step was done to its end.
    Done,
    /// Another run goes on with it.
    TakenUp,
}

impl Did {
    pub(super) const ALL: [Self; 7] =
        [Self::Pausing, Self::Paused, Self::Resumed, Self::Switching, Self::Started, Self::Done, Self::TakenUp];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Switching => "switching",
            Self::Started => "started",
            Self::Done => "done",
            Self::TakenUp => "taken up",
        }
    }
}

/// The end of a record.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Ended {
    /// When.
    pub at: String,
    /// What is true.
    pub verdict: Verdict,
    /// The sentence of the report.
    pub sentence: String,
}

/// How the forge shows a record.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// What stands for the commit when that is not known.
    pub branch: String,
    /// The branch or tag, and whether it is a tag.
    pub reference: (String, bool),
    /// It goes away with a pull request.
    pub transient: bool,
    /// Users see it.
    pub production: bool,
}

impl Record {
    /// The run that made it, or the person where no CI system ran it.
    pub fn by(&self) -> String {
        self.run.as_ref().map_or(self.who.clone(), |run| format!("run {}", run.id))
    }

    /// Whether it went back, and what it went back from is not what runs since.
    pub fn went_back(&self) -> Option<&Left> {
        self.left.as_ref().filter(|_| self.may_run())
    }

    /// Whether it has migrated the database, or begun to, in a way that older versions cannot live with.
    pub fn has_broken(&self) -> bool {
        let breaks = |step: &String| if self.breaking.is_empty() { step == "migrate" } else { self.breaking.contains(step) };
        self.breaks && self.journal.iter().any(|line| breaks(&line.step))
    }

    /// The digests of its images.
    pub fn digests(&self) -> Vec<String> {
        self.images.iter().map(|image| image.digest.clone()).collect()
    }

    /// What a step started elsewhere, last.
    pub fn started(&self, step: &str) -> Option<String> {
        self.journal.iter().rev().find(|line| line.step == step && line.what == Did::Started).and_then(|line| line.handle.clone())
    }

    /// Whether a step was done to its end.
    pub fn is_done(&self, step: &str) -> bool {
        self.journal.iter().any(|line| line.step == step && line.what == Did::Done)
    }

    /// Whether this is what runs, as far as records say.
    pub fn is_deployed(&self) -> bool {
        self.ended.as_ref().is_some_and(|ended| ended.verdict == Verdict::Deployed)
    }

    /// Whether this may be what runs: it was deployed, or it was about to be and nobody knows what came of it.
    pub fn may_run(&self) -> bool {
        let switching = self.journal.iter().any(|line| line.what == Did::Switching);
        match self.ended.as_ref().map(|ended| ended.verdict) {
            Some(Verdict::Deployed) => true,
            None | Some(Verdict::Cancelled | Verdict::Unknown | Verdict::TimedOut | Verdict::Failed | Verdict::Refused) => switching,
            Some(Verdict::Removed | Verdict::Skipped | Verdict::Superseded | Verdict::RolledBack) => false,
        }
    }

    fn name(&self) -> String {
        format!("record-{:010}", self.fence)
    }

    fn json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// What the forge is told when the record is made.
    pub(super) fn payload(&self) -> Value {
        Self { journal: Vec::new(), ended: None, ..self.clone() }.json()
    }

    pub(super) fn of(value: Value, place: &str) -> Result<Self> {
        serde_json::from_value(value).map_err(|error| unreadable(place, &error.to_string()))
    }
}

/// Steps whose producers were stopped and not started again, by all that the newest records say; and whether the command
/// is known to have ended. A record that has ended may have been followed by a run that could write nothing down.
pub fn paused(history: &[Record]) -> Vec<(String, bool)> {
    let mut paused: Vec<(String, bool)> = Vec::new();
    for record in history.iter().rev() {
        for line in &record.journal {
            match line.what {
                Did::Pausing | Did::Paused => {
                    paused.retain(|(step, _)| *step != line.step);
                    paused.push((line.step.clone(), line.what == Did::Paused && record.ended.is_none()));
                }
                Did::Resumed => paused.retain(|(step, _)| *step != line.step),
                Did::Switching | Did::Started | Did::Done | Did::TakenUp => {}
            }
        }
    }
    paused
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks so
fn is_no(flag: &bool) -> bool {
    !flag
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

impl Store {
    /// The newest records, newest first, up to the one that says what runs now.
    pub async fn history(&self, key: &Key) -> Result<Vec<Record>> {
        self.history_until(key, &is_settled).await
    }

    /// The newest records, newest first, up to the first one that is enough. There is an end to how far back it looks.
    pub async fn history_until(&self, key: &Key, enough: Enough<'_>) -> Result<Vec<Record>> {
        match &self.backend {
            Backend::Forge(refs) => forge_records::history(refs.github(), key, enough).await.map_err(refuse),
            Backend::Job(_) | Backend::S3(_) | Backend::Redis(_) | Backend::File(_) | Backend::Absent(_) => {
                self.history_in_objects(key, enough).await
            }
        }
    }

    async fn history_in_objects(&self, key: &Key, enough: Enough<'_>) -> Result<Vec<Record>> {
        let folder = key.folder("records");
        let mut history = Vec::new();
        for entry in self.names(&folder).await?.iter().rev().take(LOOK_BACK) {
            let Some(value) = self.read(&folder, entry).await? else { continue };
            let record = Record::of(value, &format!("the record {folder}/{}", entry.name))?;
            let done = enough(&record);
            history.push(record);
            if done {
                break;
            }
        }
        Ok(history)
    }

    /// Writes down that a delivery begins.
    pub async fn begin(&self, key: &Key, record: &mut Record, shown: &Shown) -> Result<()> {
        match &self.backend {
            Backend::Forge(refs) => {
                record.deployment = Some(
                    forge_records::make(key, record, shown, async |new| refs.github().create_deployment(new).await)
                        .await
                        .map_err(refuse)?,
                );
                return Ok(());
            }
            Backend::Job(_) | Backend::S3(_) | Backend::Redis(_) | Backend::File(_) | Backend::Absent(_) => {}
        }
        let folder = key.folder("records");
        self.put(&folder, &record.name(), &record.json()).await?;
        match record.fence.checked_sub(KEPT) {
            Some(old) => self.delete(&folder, &format!("record-{old:010}")).await,
            None => Ok(()),
        }
    }

    /// Adds a line to the journal, before or after what it is about.
    pub async fn note(&self, key: &Key, record: &mut Record, step: &str, (what, handle): (Did, Option<&str>)) -> Result<()> {
        record.journal.push(Line { at: now(), step: step.to_owned(), what, handle: handle.map(str::to_owned) });
        let handle = handle.map(|handle| format!(" {handle}")).unwrap_or_default();
        self.rewrite(key, record, DeploymentState::InProgress, &format!("{step}: {}{handle}", what.name())).await
    }

    /// Writes down how it ended.
    pub async fn end(&self, key: &Key, record: &mut Record, verdict: Verdict, sentence: &str) -> Result<()> {
        record.ended = Some(Ended { at: now(), verdict, sentence: sentence.to_owned() });
        self.rewrite(key, record, state_of(verdict), &format!("{}: {sentence}", verdict.name())).await
    }

    /// The forge only ever adds a status; an object is written again as a whole.
    async fn rewrite(&self, key: &Key, record: &Record, state: DeploymentState, description: &str) -> Result<()> {
        let log_url = record.run.as_ref().and_then(|run| run.url.as_deref());
        let status =
            record.deployment.map(|id| DeploymentStatus { id, state, description, log_url, environment_url: record.url.as_deref() });
        match (&self.backend, status) {
            (Backend::Forge(refs), Some(status)) => refs.github().set_deployment(&status).await.map_err(refuse),
            _object => self.put(&key.folder("records"), &record.name(), &record.json()).await.map(drop),
        }
    }

    /// The environments of a project that have records, by their names on the forge. The forge is asked for so many pages
    /// of a hundred deployments, the newest first.
    pub async fn places(&self, project: &str, pages: usize) -> Result<Vec<String>> {
        let mut places = match &self.backend {
            Backend::Forge(refs) => forge_records::places(refs.github(), project, pages).await,
            Backend::Job(job) => job.folders(&super::plain(project)).await,
            Backend::S3(bucket) => bucket.folders(&super::plain(project)).await,
            Backend::Redis(server) => server.folders(&super::plain(project)).await,
            Backend::File(files) => files.folders(&super::plain(project)).await,
            Backend::Absent(error) => Err((**error).clone()),
        }
        .map_err(refuse)?;
        if !matches!(self.backend, Backend::Forge(_)) {
            places.retain(|place| place != super::QUARANTINE);
            places.iter_mut().for_each(|place| *place = super::unplain(place));
        }
        places.sort();
        places.dedup();
        Ok(places)
    }
}

/// What came before it does not matter any more.
pub fn is_settled(record: &Record) -> bool {
    record.ended.as_ref().is_some_and(|ended| matches!(ended.verdict, Verdict::Deployed | Verdict::Removed))
}

/// A record whose version still counts as there.
pub fn is_open(record: &Record) -> bool {
    record.ended.as_ref().is_none_or(|ended| ended.verdict == Verdict::Deployed)
}

/// A record after which nothing of a preview is left.
pub fn is_removed(record: &Record) -> bool {
    record.ended.as_ref().is_some_and(|ended| ended.verdict == Verdict::Removed)
}

/// Whether something of a preview may be there: also of one whose every delivery failed.
pub fn may_be_there(history: &[Record]) -> bool {
    history.first().is_some_and(|newest| !is_removed(newest))
}

/// How the forge shows a verdict.
pub fn state_of(verdict: Verdict) -> DeploymentState {
    match verdict {
        Verdict::Deployed => DeploymentState::Success,
        Verdict::Removed | Verdict::Skipped | Verdict::Superseded => DeploymentState::Inactive,
        Verdict::Failed | Verdict::RolledBack | Verdict::Unknown | Verdict::TimedOut | Verdict::Refused => DeploymentState::Failure,
        Verdict::Cancelled => DeploymentState::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fence: u64, journal: &[Did], verdict: Option<Verdict>) -> Record {
        let line = |what: &Did| Line { at: String::new(), step: "drain".into(), what: *what, handle: None };
        Record {
            schema: 1,
            project: "p".into(),
            key: fence.to_string(),
            fence,
            environment: "dev".into(),
            version: "1".into(),
            commit: None,
            plan: String::new(),
            images: Vec::new(),
            repository: None,
            who: String::new(),
            run: None,
            begun: String::new(),
            replaces: None,
            left: None,
            breaks: false,
            breaking: Vec::new(),
            lifted: Vec::new(),
            journal: journal.iter().map(line).collect(),
            url: None,
            ended: verdict.map(|verdict| Ended { at: String::new(), verdict, sentence: String::new() }),
            deployment: None,
        }
    }

    #[test]
    fn what_is_stopped_is_known_over_several_records() {
        let stopped = |history: &[Record]| paused(history).into_iter().map(|(_, certain)| certain).collect::<Vec<_>>();
        let killed = record(1, &[Did::Pausing, Did::Paused], None);
        assert_eq!(stopped(std::slice::from_ref(&killed)), [true], "killed while it waited: stopped for certain");
        assert_eq!(stopped(&[record(1, &[Did::Pausing], None)]), [false], "killed while it stopped them: not for certain");
        let ended = record(1, &[Did::Pausing, Did::Paused], Some(Verdict::Cancelled));
        assert_eq!(stopped(std::slice::from_ref(&ended)), [false], "ended, and never started again as far as it is written");
        let started = record(2, &[Did::Resumed], Some(Verdict::Failed));
        assert_eq!(stopped(&[started, ended]), [] as [bool; 0], "a later run started them");
    }

    #[test]
    fn what_may_have_been_switched_may_run() {
        assert!(record(1, &[], Some(Verdict::Deployed)).may_run());
        assert!(record(1, &[Did::Switching], Some(Verdict::Failed)).may_run());
        assert!(record(1, &[Did::Switching], None).may_run());
        assert!(!record(1, &[], Some(Verdict::Failed)).may_run());
        assert!(!record(1, &[Did::Switching], Some(Verdict::RolledBack)).may_run());
    }
}
