//! State where there is nothing but GitLab: the job's resource group is the lock, a generic package holds the records.
//!
//! GitLab starts one job of a resource group at a time, so a lease is only a number here, kept in this process. Its own
//! deployments are for people only: they say "success" also of a job that had nothing to do.
//! <https://docs.gitlab.com/ci/resource_groups/>, <https://docs.gitlab.com/user/packages/generic_packages/>

use super::{Entry, plain, unplain, unreadable};
use crate::error::{Error, Reason, Result};
use crate::forge::gitlab::GitLab;
use crate::forge::gitlab_records::Holder;
use crate::vars::Vars;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The one file of a package.
const FILE: &str = "records.json";
/// How many records an environment keeps, unless more of them count: the file is written as a whole.
const KEPT: usize = 40;

/// The job we are.
#[derive(Clone)]
pub struct Job {
    gitlab: GitLab,
    resource_group: Option<String>,
    /// Seconds since 1970 at which the job started: jobs of a resource group follow each other.
    started: u64,
    /// Leases, which nobody else has to see, and records as they were last read.
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

    /// The environment that the job's `environment:` names.
    pub fn environment(&self) -> Option<&str> {
        self.gitlab.job().and_then(|job| job.environment.as_deref())
    }

    /// The number below that of our lease.
    pub fn floor(&self) -> u64 {
        self.started.saturating_sub(1)
    }

    /// Whether the resource group is held by this job, as far as GitLab says.
    pub async fn confirm(&self) -> Result<()> {
        let (Some(group), Some(own)) = (&self.resource_group, self.gitlab.job()) else { return Ok(()) };
        let sentence = match self.gitlab.holder_of(group).await? {
            Holder::Job(holder) if holder == own.id => return Ok(()),
            Holder::Untold => return Ok(()),
            Holder::Job(holder) => format!("this job ({}) does not hold the resource group {group}: job {holder} does", own.id),
            Holder::Nobody => format!("this job ({}) does not hold the resource group {group}: nobody does", own.id),
            Holder::NoGroup => format!("there is no resource group {group}"),
        };
        Err(Error::new(Reason::LockLost, sentence)
            .hint("write `resource_group: ` with this very name into the job, or take TIDEGATE_RESOURCE_GROUP out of its variables"))
    }

    /// Why a merge request's preview must not be touched now: a job in its own resource group, which is named as the component
    /// names it, beside ours. What GitLab does not tell holds nothing back.
    pub async fn busy(&self, number: u64) -> Option<String> {
        let (base, _) = self.resource_group.as_deref()?.rsplit_once('/')?;
        let group = format!("{base}/mr-{number}");
        match self.gitlab.holder_of(&group).await {
            Ok(Holder::Job(job)) if self.gitlab.job().is_some_and(|own| own.id == job) => None,
            Ok(Holder::Job(job)) => Some(format!("job {job} is at work on it (resource group {group}): its preview stays for now")),
            Ok(Holder::Nobody | Holder::Untold | Holder::NoGroup) => None,
            Err(error) => Some(format!("whether a job is at work on it cannot be said ({}): its preview stays for now", error.sentence)),
        }
    }

    /// What is in a folder.
    pub async fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        if let Some(package) = Package::of(folder) {
            let found = self.fetch(&package).await?;
            self.keep(folder, &found);
        }
        let prefix = format!("{folder}/");
        let Ok(objects) = self.objects.lock() else { return Ok(Vec::new()) };
        let inside = objects.iter().filter_map(|(path, (_, mark))| Some((path.strip_prefix(&prefix)?, mark)));
        Ok(inside.map(|(name, mark)| Entry { name: name.to_owned(), mark: mark.to_string(), stamp: None }).collect())
    }

    /// What an object of a list holds.
    pub fn read(&self, folder: &str, name: &str) -> Option<Value> {
        self.objects.lock().ok()?.get(&format!("{folder}/{name}")).map(|(value, _)| value.clone())
    }

    /// Writes an object; its mark.
    pub async fn put(&self, folder: &str, name: &str, value: &Value) -> Result<Option<String>> {
        if let Some(package) = Package::of(folder) {
            let mut records = self.fetch(&package).await?;
            records.insert(name.to_owned(), value.clone());
            forget_old(&mut records);
            let text = json!({"schema": 1, "records": records}).to_string();
            self.gitlab.put_package((&package.name, &package.version, FILE), text).await?;
            self.keep(folder, &records);
        }
        let Ok(mut objects) = self.objects.lock() else { return Ok(None) };
        let mark = objects.values().map(|(_, mark)| *mark).max().unwrap_or(0) + 1;
        objects.insert(format!("{folder}/{name}"), (value.clone(), mark));
        Ok(Some(mark.to_string()))
    }

    /// Removes a lease; old records go when new ones come.
    pub fn delete(&self, folder: &str, name: &str) {
        if let (None, Ok(mut objects)) = (Package::of(folder), self.objects.lock()) {
            objects.remove(&format!("{folder}/{name}"));
        }
    }

    /// The environments of a project that have records, as they are called in folders.
    pub async fn folders(&self, project: &str) -> Result<Vec<String>> {
        let versions = self.gitlab.package_versions(&package_name(project)).await?;
        Ok(versions.into_iter().map(|version| version.replace('+', "=")).collect())
    }

    async fn fetch(&self, package: &Package) -> Result<Map<String, Value>> {
        let Some(found) = self.gitlab.package((&package.name, &package.version, FILE)).await? else { return Ok(Map::new()) };
        let place = format!("the package {} {} of {}", package.name, package.version, self.repository());
        match found.get("records") {
            Some(Value::Object(records)) => Ok(records.clone()),
            Some(_) | None => Err(unreadable(&place, "it holds no records")),
        }
    }

    fn keep(&self, folder: &str, records: &Map<String, Value>) {
        let Ok(mut objects) = self.objects.lock() else { return };
        let prefix = format!("{folder}/");
        objects.retain(|path, _| !path.starts_with(&prefix));
        for (name, value) in records {
            objects.insert(format!("{prefix}{name}"), (value.clone(), 0));
        }
    }
}

/// Drops what lies before the newest delivery that ended well, when there is too much: what came after it still counts.
fn forget_old(records: &mut Map<String, Value>) {
    let mut names: Vec<String> = records.keys().cloned().collect();
    names.sort();
    let deployed =
        |name: &String| records.get(name).and_then(|record| record.pointer("/ended/verdict")).is_some_and(|verdict| verdict == "deployed");
    let settled = names.iter().rposition(deployed).unwrap_or(0);
    let surplus = names.len().saturating_sub(KEPT).min(settled);
    names.iter().take(surplus).for_each(|name| _ = records.remove(name));
}

/// Where the records of an environment are: a package of the project, whose versions are the environments.
struct Package {
    name: String,
    version: String,
}

impl Package {
    fn of(folder: &str) -> Option<Self> {
        let (project, environment) = folder.strip_suffix("/records")?.split_once('/')?;
        Some(Self { name: package_name(project), version: environment.replace('=', "+") })
    }
}

/// Letters, digits, dots, hyphens and underscores are all that GitLab takes.
fn package_name(project: &str) -> String {
    format!("tidegate-{}", plain(&unplain(project)).replace('=', "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_still_counts_is_not_forgotten() {
        let record = |verdict: &str| json!({"ended": {"verdict": verdict}});
        let mut records: Map<String, Value> = (0..50).map(|n| (format!("record-{n:010}"), record("deployed"))).collect();
        forget_old(&mut records);
        assert_eq!(records.len(), KEPT);
        let mut failed: Map<String, Value> = (1..60).map(|n| (format!("record-{n:010}"), record("failed"))).collect();
        failed.insert("record-0000000000".into(), record("deployed"));
        forget_old(&mut failed);
        assert!(failed.contains_key("record-0000000000") && failed.len() == 60, "the one that runs is the oldest");
    }

    #[test]
    fn packages_are_named_as_gitlab_takes_it() {
        let package = Package::of("my-app/review=2Fpr-12/records").unwrap();
        assert_eq!((package.name.as_str(), package.version.as_str()), ("tidegate-my-app", "review+2Fpr-12"));
        assert!(Package::of("my-app/dev/lock").is_none());
    }
}
