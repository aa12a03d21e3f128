//! GitOps: the version is written into a manifest repository, something in the cluster (Argo CD, Flux) follows it, and what
//! counts is still what the cluster shows.

use super::edit::{self, Path};
use super::resource::{Change, Expect, Found};
use super::{Cluster, Workload, rollout};
use crate::config::{Gitops, GitopsEdit};
use crate::error::{Error, Reason, Result};
use crate::forge::files::{self, Elsewhere, Opened};
use crate::targets::Settled;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a commit is made anew because others commit too.
const CONFLICTS: usize = 6;
const LOOK: Duration = Duration::from_secs(2);
/// How many answers in a row may be lost.
const PATIENCE: u32 = 30;
/// How often the forge is asked about a pull request: its limits are per hour.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// One value of one file.
#[derive(Clone, Debug)]
struct Edit {
    file: String,
    key: Path,
    value: String,
}

/// The repository, and what it is to say.
pub(crate) struct Edited {
    repository: Elsewhere,
    branch: String,
    wanted: Vec<Edit>,
    /// What stood there before.
    before: Vec<Edit>,
    title: String,
    pull_request: bool,
}

/// What was committed.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    commit: String,
    opened: Option<Opened>,
}

impl Edited {
    /// Reads the files: a key that is not there is known before anything is changed.
    pub async fn open(cluster: &Cluster<'_>, gitops: &Gitops) -> Result<Self> {
        let site = cluster.site;
        let fill = |text: &str| site.fill(&cluster.values, text);
        let token = match &gitops.token {
            Some(token) => Some(crate::targets::secret(site.world, &token.env, "the token of the manifest repository")?),
            None => None,
        };
        let repository = site.forge.elsewhere(site.world, &gitops.repository, token.as_ref())?;
        let mut wanted = Vec::new();
        for GitopsEdit { file, key, value } in &gitops.edit {
            let key = Path::parse(key).map_err(|why| Error::new(Reason::ConfigInvalid, why))?;
            wanted.push(Edit { file: fill(file)?, key, value: fill(value)? });
        }
        let title = format!("Deploy {} {} to {}", cluster.image.repository.path, cluster.image.tag, site.owner);
        let mut edited =
            Self { repository, branch: fill(&gitops.branch)?, wanted, before: Vec::new(), title, pull_request: gitops.pull_request };
        let (_, texts) = edited.texts().await?;
        let mut before = Vec::new();
        for edit in &edited.wanted {
            let value = edit::read(texts.get(&edit.file).map(String::as_str).unwrap_or_default(), &edit.key);
            let value = value.map_err(|why| edited.wrong(&edit.file, &why))?;
            before.push(Edit { value, ..edit.clone() });
        }
        edited.before = before;
        Ok(edited)
    }

    fn wrong(&self, file: &str, why: &str) -> Error {
        let sentence = format!("{file} in {} on {}: {why}", self.repository.name(), self.branch);
        Error::new(Reason::TargetInput, sentence).hint("`edit:` names keys that are there already; tidegate adds none")
    }

    /// The files as they are at the branch's tip, and that tip.
    async fn texts(&self) -> Result<(String, BTreeMap<String, String>)> {
        let tip = self.repository.tip(&self.branch).await?;
        let mut texts = BTreeMap::new();
        for edit in &self.wanted {
            if !texts.contains_key(&edit.file) {
                texts.insert(edit.file.clone(), self.repository.file(&edit.file, &tip).await?);
            }
        }
        Ok((tip, texts))
    }

    /// Writes the new values; nothing when they stand there already.
    pub async fn write(&self, cluster: &Cluster<'_>) -> Result<Option<Committed>> {
        let shown: Vec<String> = self
            .wanted
            .iter()
            .zip(&self.before)
            .filter(|(new, old)| new.value != old.value)
            .map(|(new, old)| format!("{} {}: {} → {}", new.file, new.key, old.value, new.value))
            .collect();
        if shown.is_empty() {
            cluster.site.say(&format!("{} says so already", self.repository.name()));
            return Ok(None);
        }
        shown.iter().for_each(|line| cluster.site.say(line));
        self.commit(cluster, &self.wanted, &self.title, self.pull_request).await
    }

    /// The commit, made anew on top of what others commit meanwhile.
    async fn commit(&self, cluster: &Cluster<'_>, edits: &[Edit], title: &str, pull_request: bool) -> Result<Option<Committed>> {
        let delivery = cluster.site.memory.delivery().await;
        let new_branch = pull_request.then(|| format!("tidegate/{}-{}", cluster.site.owner.replace('/', "-"), delivery));
        let message = format!("{title}\n\nImage: {}\nDelivery: {delivery}", cluster.image.reference());
        let mut lost: Option<Error> = None;
        for _try in 0..CONFLICTS {
            let (base, mut texts) = self.texts().await?;
            let before = texts.clone();
            for edit in edits {
                let Some(text) = texts.get_mut(&edit.file) else { continue };
                *text = edit::write(text, &edit.key, &edit.value).map_err(|why| self.wrong(&edit.file, &why))?;
            }
            let files: Vec<(String, String)> = texts.into_iter().filter(|(path, text)| before.get(path) != Some(text)).collect();
            if files.is_empty() {
                // Somebody else wrote the same; or our own commit, whose answer was lost.
                return Ok(Some(Committed { commit: base, opened: None }).filter(|_| lost.is_some()));
            }
            let change =
                files::Change { branch: &self.branch, base: &base, new_branch: new_branch.as_deref(), files: &files, message: &message };
            match self.repository.commit(&change).await {
                Ok(Some(commit)) => {
                    let opened = match pull_request {
                        true => Some(self.repository.open(&change, title, &message).await?),
                        false => None,
                    };
                    let seen = opened.as_ref().map_or_else(|| commit.get(..7).unwrap_or(&commit).to_owned(), |opened| opened.url.clone());
                    cluster.site.say(&format!("committed to {}: {seen}", self.repository.name()));
                    return Ok(Some(Committed { commit, opened }));
                }
                Ok(None) => cluster.site.say(&format!("{} moved on; the change is made anew on top of it", self.branch)),
                Err(error) if error.lost => {
                    cluster.site.say(&format!("{}; looking whether it was taken", error.sentence));
                    cluster.world.clock.sleep(Duration::from_secs(1)).await;
                    lost = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(lost.unwrap_or_else(|| {
            Error::new(Reason::TargetFailed, format!("{} moves on all the time: the change could not be committed", self.repository.name()))
        }))
    }

    /// Waits until the cluster shows the image, and follows its rollout.
    pub async fn wait(&self, cluster: &Cluster<'_>, committed: Option<&Committed>, deadline: Duration) -> Result<Settled> {
        let mut proofs = Vec::new();
        for workload in &cluster.work.workloads {
            let change = self.until_shown(cluster, workload, committed, deadline).await?;
            proofs.push(rollout::follow(cluster, workload, &change, deadline).await?);
        }
        proofs.sort();
        let url = committed.and_then(|committed| committed.opened.as_ref()).map(|opened| opened.url.clone());
        Ok(Settled::deployed(proofs.join("; "), url))
    }

    async fn until_shown(
        &self,
        cluster: &Cluster<'_>,
        workload: &Workload,
        committed: Option<&Committed>,
        deadline: Duration,
    ) -> Result<Change> {
        let clock = &cluster.world.clock;
        let (mut said, mut lost, mut ask_at) = (String::new(), 0, clock.now());
        loop {
            let found = match Found::read(cluster, workload).await {
                Err(error) if error.reason == Reason::TargetFailed && lost < PATIENCE && clock.now() < deadline => {
                    lost += 1;
                    clock.sleep(LOOK).await;
                    continue;
                }
                found => found?,
            };
            lost = 0;
            if let Some(change) = shown(cluster, &found) {
                return Ok(change);
            }
            let opened = committed.and_then(|committed| committed.opened.as_ref()).filter(|_| clock.now() >= ask_at);
            ask_at = if opened.is_some() { clock.now().saturating_add(ASK_AGAIN) } else { ask_at };
            if let Some(opened) = opened
                && self.repository.was_refused(opened.number).await.unwrap_or(false)
            {
                let sentence = format!("the pull request {} was closed without being merged", opened.url);
                return Err(Error::new(Reason::TargetFailed, sentence));
            }
            let images = found.containers.iter().map(|container| container.image.clone()).collect::<Vec<_>>().join(", ");
            let waits = format!("{workload} still shows {images}");
            if clock.now() >= deadline {
                let commit = committed.map_or("the values".to_owned(), |committed| match &committed.opened {
                    Some(opened) => opened.url.clone(),
                    None => format!("commit {}", committed.commit.get(..7).unwrap_or(&committed.commit)),
                });
                let sentence = format!("{} is in {}, but {waits} after {}", commit, self.repository.name(), cluster.work.target.timeout);
                return Err(Error::new(Reason::TargetTimeout, sentence)
                    .hint("does Argo CD or Flux follow this branch, and is its last sync healthy? Was the pull request merged?"));
            }
            if waits != said {
                cluster.site.say(&waits);
                said.clone_from(&waits);
            }
            tokio::select! {
                () = clock.sleep(LOOK.min(deadline.saturating_sub(clock.now()))) => {}
                () = cluster.world.cancel.cancelled() => return Err(Error::new(Reason::Cancelled, format!("cancelled while {waits}"))),
            }
        }
    }

    /// Writes the old values again, and waits until the cluster shows them.
    pub async fn take_back(&self, cluster: &Cluster<'_>, committed: &Committed, deadline: Duration) -> Result<String> {
        if let Some(opened) = &committed.opened {
            return Err(Error::new(Reason::TargetFailed, format!("{} is a pull request: revert it there", opened.url)));
        }
        let (_, texts) = self.texts().await?;
        for edit in &self.wanted {
            let now = edit::read(texts.get(&edit.file).map(String::as_str).unwrap_or_default(), &edit.key).unwrap_or_default();
            if now != edit.value {
                let sentence = format!("somebody set {} in {} to {now} meanwhile: it is left so", edit.key, edit.file);
                return Err(Error::new(Reason::TargetFailed, sentence));
            }
        }
        self.commit(cluster, &self.before, &format!("Revert \"{}\"", self.title), false).await?;
        let clock = &cluster.world.clock;
        let mut proofs = Vec::new();
        for workload in &cluster.work.workloads {
            loop {
                let found = Found::read(cluster, workload).await?;
                if shown(cluster, &found).is_none() {
                    let images = found.containers.iter().map(|container| container.image.clone()).collect();
                    let change = found.expecting(found.object(), Expect::named(images), true);
                    proofs.push(rollout::follow(cluster, workload, &change, deadline).await?);
                    break;
                }
                if clock.now() >= deadline {
                    return Err(Error::new(
                        Reason::TargetTimeout,
                        format!("the old values are committed, but {workload} still shows the new image"),
                    ));
                }
                clock.sleep(LOOK).await;
            }
        }
        Ok(proofs.join("; "))
    }
}

/// What is followed once the workload's template names our image: by its digest, or by its tag where it has no digest.
pub(crate) fn shown(cluster: &Cluster<'_>, found: &Found) -> Option<Change> {
    let image = cluster.image;
    let is_ours = |name: &str| {
        image.repository.owns(name)
            && match name.split_once('@') {
                Some((_, digest)) => image.identities.iter().any(|known| known == digest),
                None => name.ends_with(&format!(":{}", image.tag)),
            }
    };
    let images: Vec<String> = found.containers.iter().map(|container| container.image.clone()).collect();
    if !images.iter().all(|name| is_ours(name)) {
        return None;
    }
    let expect = Expect { images, identities: image.identities.clone() };
    Some(found.expecting(found.object(), expect, true))
}
