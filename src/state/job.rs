//! State where there is nothing but GitLab: its resource group is the lock, its deployments are the records.
//!
//! GitLab starts one job of a resource group at a time, so a lease is only a number here, kept in this process. What it
//! has no place for is a journal: producers that a killed run left stopped are not known to the next one.
//! <https://docs.gitlab.com/ci/resource_groups/>

use super::records::{Ended, Record, Shown, on_forge};
use super::{Entry, Key};
use crate::error::{Error, Reason, Result, Verdict};
use crate::forge::deployments::DeploymentStatus;
use crate::forge::gitlab::GitLab;
use crate::forge::gitlab_records::Deployed;
use crate::run::lease::RunRef;
use crate::vars::Vars;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// How far back a look goes.
const LOOK_BACK: usize = 50;

/// The job we are.
#[derive(Clone)]
pub struct Job {
    gitlab: GitLab,
    resource_group: Option<String>,
    /// Seconds since 1970 at which the job started: jobs of a resource group follow each other.
    started: u64,
    objects: Arc<Mutex<BTreeMap<String, (Value, u64)>>>,
}

impl Job {
    /// The resource group is what the job says of itself: GitLab tells it in no variable of its own.
    pub fn of(vars: &Vars, gitlab: GitLab) -> Self {
        let started = vars.get("CI_JOB_STARTED_AT").and_then(|at| at.parse::<jiff::Timestamp>().ok());
        let started = started.unwrap_or_else(jiff::Timestamp::now).as_second();
        let resource_group = vars.get("TIDEGATE_RESOURCE_GROUP").map(str::to_owned);
        Self { gitlab, resource_group, started: u64::try_from(started).unwrap_or(0), objects: Arc::default() }
    }

    /// The project.
    pub fn repository(&self) -> &str {
        self.gitlab.repository()
    }

    /// The resource group, if the job is in one.
    pub fn resource_group(&self) -> Option<&str> {
        self.resource_group.as_deref()
    }

    /// The number below that of our lease.
    pub fn floor(&self) -> u64 {
        self.started.saturating_sub(1)
    }

    /// Whether the resource group is held by this job, as far as GitLab says.
    pub async fn confirm(&self) -> Result<()> {
        let (Some(group), Some(own)) = (&self.resource_group, self.gitlab.job()) else { return Ok(()) };
        match self.gitlab.holder_of(group).await? {
            Some(holder) if holder != own.id => {
                let sentence = format!("this job ({}) does not hold the resource group {group}: job {holder} does", own.id);
                Err(Error::new(Reason::LockLost, sentence).hint(
                    "write `resource_group: ` with this very name into the job, or take TIDEGATE_RESOURCE_GROUP out of its variables",
                ))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What is in a folder of this process.
    pub fn list(&self, folder: &str) -> Vec<Entry> {
        let prefix = format!("{folder}/");
        let Ok(objects) = self.objects.lock() else { return Vec::new() };
        let inside = objects.iter().filter_map(|(path, (_, mark))| Some((path.strip_prefix(&prefix)?, mark)));
        inside.map(|(name, mark)| Entry { name: name.to_owned(), mark: mark.to_string(), stamp: None }).collect()
    }

    /// What an object holds.
    pub fn read(&self, folder: &str, name: &str) -> Option<Value> {
        self.objects.lock().ok()?.get(&format!("{folder}/{name}")).map(|(value, _)| value.clone())
    }

    /// Writes an object; its mark.
    pub fn put(&self, folder: &str, name: &str, value: &Value) -> Option<String> {
        let mut objects = self.objects.lock().ok()?;
        let mark = objects.values().map(|(_, mark)| *mark).max().unwrap_or(0) + 1;
        objects.insert(format!("{folder}/{name}"), (value.clone(), mark));
        Some(mark.to_string())
    }

    /// Removes an object.
    pub fn delete(&self, folder: &str, name: &str) {
        if let Ok(mut objects) = self.objects.lock() {
            objects.remove(&format!("{folder}/{name}"));
        }
    }

    /// What GitLab's deployments say of an environment, newest first, up to the one that runs. Our own is not history.
    pub async fn history(&self, key: &Key) -> Result<Vec<Record>> {
        let place = self.gitlab.place(key.environment());
        let own = self.gitlab.job().map(|job| job.id);
        let mut history = Vec::new();
        for deployment in self.gitlab.deployments_of(place, LOOK_BACK).await? {
            let waits = matches!(deployment.status.as_str(), "created" | "blocked" | "skipped");
            if waits || deployment.job.as_ref().is_some_and(|(id, _)| Some(*id) == own) {
                continue;
            }
            let settled = deployment.status == "success";
            history.push(self.record(key, deployment));
            if settled {
                break;
            }
        }
        Ok(history)
    }

    fn record(&self, key: &Key, deployment: Deployed) -> Record {
        let Deployed { id, status, sha, reference, created_at, who, job } = deployment;
        let verdict = match status.as_str() {
            "success" => Some(Verdict::Deployed),
            "failed" => Some(Verdict::Failed),
            "running" => None,
            _canceled => Some(Verdict::Cancelled),
        };
        let repository = Some(self.repository().to_owned());
        let run = job.map(|(id, url)| RunRef { repository, id: id.to_string(), attempt: 1, url });
        let is_version = crate::version::Version::parse(&reference).is_ok_and(|version| version.is_semver());
        let version = if is_version { reference.trim_start_matches('v').to_owned() } else { crate::event::short(&sha) };
        let created: Option<jiff::Timestamp> = created_at.parse().ok();
        let fence = created.and_then(|at| u64::try_from(at.as_second()).ok()).unwrap_or(0);
        Record {
            schema: 1,
            project: key.project.clone(),
            key: id.to_string(),
            fence: fence.min(self.floor()),
            environment: key.environment().to_owned(),
            version,
            commit: Some(sha),
            plan: String::new(),
            images: Vec::new(),
            who,
            run,
            begun: created_at.clone(),
            replaces: None,
            journal: Vec::new(),
            ended: verdict.map(|verdict| Ended { at: created_at, verdict, sentence: format!("GitLab's deployment {id}: {status}") }),
            deployment: Some(id),
        }
    }

    /// Records that a delivery begins.
    pub async fn begin(&self, key: &Key, record: &Record, shown: &Shown) -> Result<u64> {
        let (name, is_tag) = &shown.reference;
        on_forge(key, record, shown, async |new| self.gitlab.begin_deployment(new, (name, *is_tag)).await).await
    }

    /// Ends a record.
    pub async fn end(&self, status: &DeploymentStatus<'_>) -> Result<()> {
        self.gitlab.end_deployment(status).await
    }

    /// The environments there are.
    pub async fn environments(&self) -> Result<Vec<String>> {
        self.gitlab.environments().await
    }
}
