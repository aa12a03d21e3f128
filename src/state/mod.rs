//! Where leases and records are kept: one place that says what runs where, who put it there, and who may go now.
//!
//! A store keeps small JSON objects and needs one promise from what is below it: creating an object that exists already
//! fails, also when two try at once. Leases (`run/lease.rs`) and records (`records.rs`) are built on that alone.

use crate::config::Config;
use crate::error::{Error, Reason, Result};
use crate::forge::Forge;
use crate::tools::aws::Access;
use crate::vars::Vars;
use crate::world::World;
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

pub mod file;
pub mod forge;
pub mod forge_records;
pub mod job;
pub mod records;
pub mod redis;
pub mod s3;

/// One lease and its records: an environment of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    project: String,
    environment: String,
}

impl Key {
    /// The environment's name is the one on the forge: every preview has its own.
    pub fn new(project: &str, environment: &str) -> Self {
        Self { project: project.to_owned(), environment: environment.to_owned() }
    }

    /// The environment.
    pub fn environment(&self) -> &str {
        &self.environment
    }

    /// The folder of its objects of one kind (`lock`, `records`).
    pub fn folder(&self, kind: &str) -> String {
        format!("{}/{}/{kind}", plain(&self.project), plain(&self.environment))
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.project, self.environment)
    }
}

/// A name that is a file name, an S3 key, a Redis key and a part of a git ref, and still says what it is.
pub(crate) fn plain(name: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    name.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("={byte:02X}") }).collect()
}

/// The folder of what is in quarantine, among those of environments, none of which can have this name.
pub(crate) const QUARANTINE: &str = "=Q";

/// The name that was made plain.
fn unplain(plain: &str) -> String {
    let mut parts = plain.split('=');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        bytes.extend(u8::from_str_radix(code, 16).ok());
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An object in a folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name inside the folder.
    pub name: String,
    /// Changes whenever it is written.
    pub mark: String,
    /// When it was written, in seconds of the store's own clock. Only differences mean something.
    pub stamp: Option<f64>,
}

/// Which stores there are, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Git refs and deployments of the forge.
    Forge,
    /// Objects of an S3 bucket.
    S3,
    /// Keys of a Redis server.
    Redis,
    /// Files of this machine.
    File,
    /// The resource group of a GitLab job, and a generic package.
    Job,
}

/// What `state:` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The forge where there is one to ask; else files on a laptop.
    Auto,
    /// The forge.
    Forge,
    /// Bucket and prefix.
    S3(String, String),
    /// The address.
    Redis(String),
    /// The folder.
    File(PathBuf),
}

impl Rule {
    /// Parses `state:`. An error is a sentence and a hint.
    pub fn parse(text: &str) -> std::result::Result<Self, (String, String)> {
        let wrong = |sentence: String| (sentence, "write auto, forge, s3://bucket/prefix, redis://host:6379 or file:folder".to_owned());
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let fine =
                bucket.len() >= 3 && bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'));
            return match fine {
                true => Ok(Self::S3(bucket.to_owned(), prefix.trim_matches('/').to_owned())),
                false => Err(wrong(format!("{bucket:?} is not a bucket"))),
            };
        }
        if text.starts_with("redis://") || text.starts_with("rediss://") {
            let url = url::Url::parse(text).map_err(|error| wrong(format!("{text:?} is not an address: {error}")))?;
            if url.password().is_some() || !url.username().is_empty() {
                let hint = "set TIDEGATE_REDIS_PASSWORD (and TIDEGATE_REDIS_USERNAME) in the job; secrets never stand in this file";
                return Err(("the address of the Redis server holds a login".into(), hint.into()));
            }
            return match url.host_str() {
                Some(_) => Ok(Self::Redis(text.to_owned())),
                None => Err(wrong(format!("{text:?} names no host"))),
            };
        }
        match (text, text.strip_prefix("file:")) {
            ("auto", _) => Ok(Self::Auto),
            ("forge", _) => Ok(Self::Forge),
            (_, Some(folder)) if !folder.is_empty() => Ok(Self::File(PathBuf::from(folder))),
            _other => Err(wrong(format!("{text:?} is not a store"))),
        }
    }
}

/// A store, reached or not.
#[derive(Clone)]
pub struct Store {
    backend: Backend,
    /// Whom its leases hold back, for a person.
    pub scope: String,
}

#[derive(Clone)]
enum Backend {
    Forge(forge::Refs),
    Job(job::Job),
    S3(s3::Bucket),
    Redis(redis::Server),
    File(file::Folder),
    /// There is none, and this is why: every use refuses.
    Absent(Box<Error>),
}

impl Store {
    /// The store of this configuration. Connects only when it is used.
    pub fn of(world: &World, config: &Config, folder: &Path, forge: &Forge) -> Result<Self> {
        let rule = Rule::parse(&config.state).map_err(|(sentence, hint)| Error::new(Reason::ConfigInvalid, sentence).hint(hint))?;
        let in_ci = is_ci(&world.vars);
        let rule = if world.rehearsal { Rule::Forge } else { rule }; // the pretend one: a rehearsal leaves nothing behind
        Ok(match rule {
            Rule::Forge => Self::on_forge(world, forge),
            Rule::Auto if in_ci || matches!(forge, Forge::GitHub(_) | Forge::GitLab(_)) => Self::on_forge(world, forge),
            Rule::Auto => Self::in_folder(&file::default_folder(&world.vars)),
            Rule::File(path) => Self::in_folder(&folder.join(path)),
            Rule::S3(bucket, prefix) => {
                let access = Access { region: config.aws.region.clone(), role: config.aws.role.clone() };
                let scope = format!("every run that keeps its state in s3://{bucket}/{prefix}");
                Self { backend: Backend::S3(s3::Bucket::new(&world.vars, access, bucket, prefix)), scope }
            }
            Rule::Redis(address) => {
                let scope = format!("every run that keeps its state in {address}");
                Self { backend: Backend::Redis(redis::Server::new(&world.vars, &world.console, &address)), scope }
            }
        })
    }

    fn on_forge(world: &World, forge: &Forge) -> Self {
        match forge {
            Forge::GitHub(github) => {
                let scope = format!("every run of {}", github.repository());
                Self { backend: Backend::Forge(forge::Refs::new((**github).clone())), scope }
            }
            Forge::GitLab(gitlab) if gitlab.job().is_some() => {
                let job = job::Job::of(&world.vars, (**gitlab).clone());
                let scope = match job.resource_group() {
                    Some(group) => format!("jobs of {} in the resource group {group}", gitlab.repository()),
                    None => "nobody: this job is in no resource group".to_owned(),
                };
                Self { backend: Backend::Job(job), scope }
            }
            Forge::GitLab(gitlab) => {
                let sentence = format!("{} is on GitLab, which keeps no leases for runs outside its jobs", gitlab.repository());
                let hint = "run it as a job of a pipeline, or keep the state where both can reach it: `state: s3://bucket/prefix`, `state: redis://host`";
                let error = Error::new(Reason::LockUnreachable, sentence).hint(hint);
                Self { backend: Backend::Absent(Box::new(error)), scope: "nobody".into() }
            }
            Forge::Absent { why } => {
                let sentence = format!("leases and records are kept on the forge (`state: auto`), but there is {why}");
                let hint = "GitHub: give the step a token with `contents: write` and `deployments: write`; GitLab: a job has CI_JOB_TOKEN; \
                            or keep the state elsewhere: `state: s3://bucket/prefix`, `state: redis://host`";
                let error = Error::new(Reason::LockUnreachable, sentence).hint(hint);
                Self { backend: Backend::Absent(Box::new(error)), scope: "nobody".into() }
            }
        }
    }

    fn in_folder(path: &Path) -> Self {
        let scope = format!("this machine only ({})", path.display());
        Self { backend: Backend::File(file::Folder::new(path)), scope }
    }

    /// Which kind of store this is.
    pub fn kind(&self) -> Kind {
        match &self.backend {
            Backend::Forge(_) | Backend::Absent(_) => Kind::Forge,
            Backend::Job(_) => Kind::Job,
            Backend::S3(_) => Kind::S3,
            Backend::Redis(_) => Kind::Redis,
            Backend::File(_) => Kind::File,
        }
    }

    /// A lease's full name: numbers of leases are compared only within one.
    pub fn name(&self, key: &Key) -> String {
        match &self.backend {
            Backend::Forge(refs) => format!("forge:{}:{key}", refs.github().repository()),
            Backend::Job(job) => format!("gitlab:{}:{key}", job.repository()),
            Backend::S3(bucket) => format!("{bucket}:{key}"),
            Backend::Redis(server) => format!("{server}:{key}"),
            Backend::File(files) => format!("{files}:{key}"),
            Backend::Absent(_) => key.to_string(),
        }
    }

    /// What is in a folder, in the order of the names.
    pub async fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let mut entries = match &self.backend {
            Backend::Forge(refs) => refs.list(folder).await,
            Backend::Job(job) => job.list(folder).await,
            Backend::S3(bucket) => bucket.list(folder).await,
            Backend::Redis(server) => server.list(folder).await,
            Backend::File(files) => files.list(folder).await,
            Backend::Absent(error) => Err((**error).clone()),
        }
        .map_err(refuse)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The same, where the marks do not matter.
    pub async fn names(&self, folder: &str) -> Result<Vec<Entry>> {
        let Backend::S3(bucket) = &self.backend else { return self.list(folder).await };
        let mut entries = bucket.names(folder).await.map_err(refuse)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// What an entry of a list holds; `None` when it is gone.
    pub async fn read(&self, folder: &str, entry: &Entry) -> Result<Option<Value>> {
        match &self.backend {
            Backend::Forge(refs) => refs.read(folder, entry).await,
            Backend::Job(job) => Ok(job.read(folder, &entry.name)),
            Backend::S3(bucket) => bucket.read(folder, &entry.name).await,
            Backend::Redis(server) => server.read(folder, &entry.name).await,
            Backend::File(files) => files.read(folder, &entry.name).await,
            Backend::Absent(error) => Err((**error).clone()),
        }
        .map_err(refuse)
    }

    /// Creates an object, unless it exists: its mark, or nothing when somebody else was first.
    pub async fn create(&self, folder: &str, name: &str, value: &Value) -> Result<Option<String>> {
        match &self.backend {
            Backend::Forge(refs) => refs.create(folder, name, value).await,
            Backend::Job(job) => job.put(folder, name, value).await, // only leases are created, and nobody else sees those
            Backend::S3(bucket) => bucket.create(folder, name, value).await,
            Backend::Redis(server) => server.create(folder, name, value).await,
            Backend::File(files) => files.create(folder, name, value).await,
            Backend::Absent(error) => Err((**error).clone()),
        }
        .map_err(refuse)
    }

    /// Writes an object that is ours alone; its new mark, or nothing when it was taken away.
    pub async fn put(&self, folder: &str, name: &str, value: &Value) -> Result<Option<String>> {
        match &self.backend {
            Backend::Forge(refs) => refs.put(folder, name, value).await,
            Backend::Job(job) => job.put(folder, name, value).await,
            Backend::S3(bucket) => bucket.put(folder, name, value).await.map(Some),
            Backend::Redis(server) => server.put(folder, name, value).await.map(Some),
            Backend::File(files) => files.put(folder, name, value).await.map(Some),
            Backend::Absent(error) => Err((**error).clone()),
        }
        .map_err(refuse)
    }

    /// Removes an object; one that is gone already is fine.
    pub async fn delete(&self, folder: &str, name: &str) -> Result<()> {
        match &self.backend {
            Backend::Forge(refs) => refs.delete(folder, name).await,
            Backend::Job(job) => {
                job.delete(folder, name);
                Ok(())
            }
            Backend::S3(bucket) => bucket.delete(folder, name).await,
            Backend::Redis(server) => server.delete(folder, name).await,
            Backend::File(files) => files.delete(folder, name).await,
            Backend::Absent(error) => Err((**error).clone()),
        }
        .map_err(refuse)
    }

    /// The number that the next lease must exceed whatever the leases say: jobs of a resource group know no other ones.
    pub fn floor(&self) -> u64 {
        match &self.backend {
            Backend::Job(job) => job.floor(),
            Backend::Forge(_) | Backend::S3(_) | Backend::Redis(_) | Backend::File(_) | Backend::Absent(_) => 0,
        }
    }

    /// Whether two runs may both be told that they created one object. The later one's stays, a moment after.
    pub async fn may_tell_two(&self) -> Result<bool> {
        match &self.backend {
            Backend::S3(bucket) => bucket.may_tell_two().await.map_err(refuse),
            Backend::Forge(_) | Backend::Job(_) | Backend::Redis(_) | Backend::File(_) | Backend::Absent(_) => Ok(false),
        }
    }

    /// Whether what stands in for a lease is really held. Where a lease is an object, the lease itself is asked.
    pub async fn confirm(&self) -> Result<()> {
        match &self.backend {
            Backend::Job(job) => job.confirm().await.map_err(refuse),
            Backend::Forge(_) | Backend::S3(_) | Backend::Redis(_) | Backend::File(_) | Backend::Absent(_) => Ok(()),
        }
    }

    /// The environment whose lock and approvals the job has, where it says so.
    pub fn declared(&self) -> Option<&str> {
        match &self.backend {
            Backend::Job(job) => job.environment(),
            Backend::Forge(_) | Backend::S3(_) | Backend::Redis(_) | Backend::File(_) | Backend::Absent(_) => None,
        }
    }

    /// Why there is no store at all.
    pub fn absent(&self) -> Option<String> {
        match &self.backend {
            Backend::Absent(error) => Some(error.sentence.clone()),
            Backend::Forge(_) | Backend::Job(_) | Backend::S3(_) | Backend::Redis(_) | Backend::File(_) => None,
        }
    }

    /// Why a merge request's preview must not be touched now: where leases are resource groups, a job of its own may be at work.
    pub async fn busy(&self, number: u64) -> Option<String> {
        match &self.backend {
            Backend::Job(job) => job.busy(number).await,
            Backend::Forge(_) | Backend::S3(_) | Backend::Redis(_) | Backend::File(_) | Backend::Absent(_) => None,
        }
    }

    /// Whether runs elsewhere are held back at all.
    pub fn protects(&self, in_ci: bool) -> bool {
        match &self.backend {
            Backend::File(_) => !in_ci, // a runner is thrown away
            Backend::Job(job) => job.resource_group().is_some(),
            Backend::Forge(_) | Backend::S3(_) | Backend::Redis(_) | Backend::Absent(_) => true,
        }
    }
}

/// A store that cannot be asked holds everything back: going on without it is how two runs deploy at once.
fn refuse(error: Error) -> Error {
    if matches!(error.reason, Reason::LockUnreachable | Reason::LockLost | Reason::ConfigInvalid | Reason::InputInvalid | Reason::Cancelled)
    {
        return error;
    }
    let hint = match &error.hint {
        Some(hint) => format!("{hint}\n{GO_ON}"),
        None => GO_ON.to_owned(),
    };
    Error { reason: Reason::LockUnreachable, hint: Some(hint), ..error }
}

const GO_ON: &str = "nothing was switched; run the job again when the store of leases and records answers (`state:` says where it is)";

/// Whether this is a CI job rather than somebody's machine.
pub fn is_ci(vars: &Vars) -> bool {
    ["CI", "GITHUB_ACTIONS", "GITLAB_CI"].iter().any(|name| vars.is_true(name))
}

/// An object whose text is not what tidegate writes.
pub(crate) fn unreadable(place: &str, why: &str) -> Error {
    Error::new(Reason::LockUnreachable, format!("{place} cannot be read: {why}")).hint(
        "it was damaged, or written by something else or a newer tidegate: look at it. A lease goes with `tidegate lock release ENV --reason TEXT`, \
         a record when its object or deployment is deleted",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_named_in_one_way_each() {
        assert_eq!(Rule::parse("auto"), Ok(Rule::Auto));
        assert_eq!(Rule::parse("s3://acme-state/tide/"), Ok(Rule::S3("acme-state".into(), "tide".into())));
        assert_eq!(Rule::parse("file:.state"), Ok(Rule::File(".state".into())));
        assert_eq!(Rule::parse("redis://cache:6379/1"), Ok(Rule::Redis("redis://cache:6379/1".into())));
        for wrong in ["", "s3://", "s3://A B", "redis://", "file:", "etcd://x", "/tmp/x"] {
            assert!(Rule::parse(wrong).is_err(), "{wrong}");
        }
        let (sentence, hint) = Rule::parse("redis://:hunter2@cache").unwrap_err();
        assert!(!sentence.contains("hunter2") && hint.contains("TIDEGATE_REDIS_PASSWORD"));
    }

    #[test]
    fn every_name_is_a_ref_and_a_file_name_and_none_is_two() {
        assert_eq!(Key::new("demo", "review/pr-12").folder("lock"), "demo/review=2Fpr-12/lock");
        assert_eq!(plain("a..b.lock"), "a=2E=2Eb=2Elock");
        assert_ne!(plain("a/b"), plain("a=2Fb"));
        assert_eq!(unplain(&plain("rück/a=2Fb.x")), "rück/a=2Fb.x");
    }
}
