//! The image step: is it there? Can it be promoted? Only then is it built. An image is known by its recipe.

use super::engine;
use super::recipe::{Of, Recipe};
use crate::checkout::{Ancestry, Checkout};
use crate::config::{EnsureMode, EnsureRepository};
use crate::error::{Error, Reason, Result};
use crate::event::short;
use crate::forge::Forge;
use crate::plan::{Action, Build, PlannedImage};
use crate::registry::Pushed;
use crate::registry::oci::Manifest;
use crate::registry::store::{About, RECIPE_LABEL, REVISION_LABEL, Store};
use crate::world::World;
use std::path::Path;

/// How the image came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It was there.
    Reused,
    /// The digest of the merge got this version's tag.
    Promoted,
    /// It was built and pushed.
    Built,
}

/// An image that is in its registry.
#[derive(Clone)]
pub struct Ready {
    /// The image.
    pub pushed: Pushed,
    /// How it came to be there.
    pub how: How,
    /// One sentence for the report.
    pub note: String,
    /// Its manifest, for more tags.
    pub manifest: Manifest,
    /// Its registry, with the login that was used.
    pub registry: Store,
}

/// What the step works on.
pub struct Job<'a> {
    /// The surroundings.
    pub world: &'a World,
    /// The folder of tidegate.yml.
    pub folder: &'a Path,
    /// The image.
    pub image: &'a PlannedImage,
    /// The forge, for ancestry.
    pub forge: &'a Forge,
    /// The AWS role.
    pub role: Option<String>,
    /// Whether the branch was force-pushed: its tip counts as newer.
    pub forced: bool,
    /// Whether no other image is built at the same time: folds in a job's log do not nest.
    pub alone: bool,
}

/// The image as it was delivered before, if the registry still has it under its version. Changes nothing.
pub async fn known(job: &Job<'_>, digest: &str) -> Result<Option<Ready>> {
    let store = Store::open(job.world, &job.image.build.repository, job.role.clone()).await?;
    let version = job.image.build.version.as_str();
    let Some(manifest) = store.manifest(version).await?.filter(|manifest| manifest.digest == digest) else { return Ok(None) };
    let about = store.about(&manifest).await?;
    let pushed = pushed(job, &store, &manifest, &about);
    Ok(Some(Ready { pushed, how: How::Reused, note: "delivered before".into(), manifest, registry: store }))
}

/// Makes sure that the image is in its registry under its version.
pub async fn ensure(job: &Job<'_>) -> Result<Ready> {
    let build = &job.image.build;
    let store = Store::open(job.world, &build.repository, job.role.clone()).await?;
    if let Some(digest) = &job.image.digest {
        return delivered(job, &store, digest).await;
    }
    ensure_repository(job, &store).await?;
    let recipe = Recipe::of(job)?;
    for glob in &recipe.idle {
        job.world.console.warning(&format!("images.{}.paths: {glob:?} names no file of {}", job.image.name, build.version));
    }
    if recipe.of == Of::Unknown {
        let commit = build.commit.as_deref().map_or_else(|| "the commit".into(), short);
        job.world.console.line(&format!("  {}: git does not have {commit} here, so `paths` says nothing", job.image.name));
    }
    let version = build.version.as_str();
    let found = match (&build.source_tag, job.image.action) {
        (Some(source), Action::Promote) => promote(job, &store, &recipe, source).await?,
        (source, action) => match store.manifest(version).await? {
            Some(manifest) => Some(reuse(job, &store, &recipe, &manifest, action).await?),
            None => match source {
                Some(source) => promote(job, &store, &recipe, source).await?,
                None => None,
            },
        },
    };
    if let Some(found) = found {
        return Ok(found);
    }
    match unchanged(job, &store, &recipe).await? {
        Some(unchanged) => Ok(unchanged),
        None => make(job, &store, &recipe).await,
    }
}

/// The image as it is deployed. One that is older than its version, as nothing in it changed since, goes by the name of the
/// commit that it was built from: what is the same is called the same, and restarts nothing.
fn pushed(job: &Job<'_>, store: &Store, manifest: &Manifest, about: &About) -> Pushed {
    let build = &job.image.build;
    let from = about.labels.get(REVISION_LABEL).filter(|from| !build.image.paths.is_empty() && Some(*from) != build.commit.as_ref());
    let tag = from.map_or_else(|| build.version.to_string(), |commit| short(commit));
    store.pushed(&tag, manifest, about)
}

/// The image that was made from the very same files, whichever commit they came with: it gets this version's tag, too.
async fn unchanged(job: &Job<'_>, store: &Store, recipe: &Recipe) -> Result<Option<Ready>> {
    let Some(tag) = recipe.tag() else { return Ok(None) };
    let Some(manifest) = store.manifest(&tag).await? else { return Ok(None) };
    let about = store.about(&manifest).await?;
    if about.labels.get(RECIPE_LABEL) != Some(&recipe.hash) {
        job.world.console.warning(&format!(
            "{}: the tag {tag} is of something else ({}): it is built",
            store.repository(),
            describe(&about)
        ));
        return Ok(None);
    }
    store.tag(&manifest, job.image.build.version.as_str()).await?;
    let from = about.labels.get(REVISION_LABEL).map_or_else(|| "it was built".to_owned(), |commit| short(commit));
    let note = format!("nothing in its `paths` changed since {from}: same digest, nothing built");
    let pushed = pushed(job, store, &manifest, &about);
    Ok(Some(Ready { pushed, how: How::Promoted, note, manifest, registry: store.clone() }))
}

/// Lets later commits find it by what it was made from. What a pull request built is for that pull request alone.
async fn remember(job: &Job<'_>, store: &Store, recipe: &Recipe, manifest: &Manifest) {
    let Some(tag) = recipe.tag().filter(|_| job.image.build.is_trusted) else { return };
    if let Some(file) = Checkout::at(job.folder).first_change(&job.image.build.image.context).filter(|_| !job.world.rehearsal) {
        let then = "so the image may hold what no commit has, and later versions build their own (`.gitignore` what does not matter)";
        return job.world.console.warning(&format!("{}: {file} is changed or not committed, {then}", job.image.name));
    }
    match store.tag(manifest, &tag).await {
        Err(error) if error.reason != Reason::VersionConflict => job.world.console.warning(&format!(
            "{}: the tag {tag} cannot be written, so the next version is built again although nothing may have changed: {}",
            store.repository(),
            error.sentence
        )),
        Ok(()) | Err(_) => {} // another run was faster
    }
}

/// The very image that records name, whatever its tag stands for by now.
async fn delivered(job: &Job<'_>, store: &Store, digest: &str) -> Result<Ready> {
    let version = job.image.build.version.as_str();
    let tagged = store.manifest(version).await?.filter(|manifest| manifest.digest == digest);
    let manifest = match tagged {
        Some(manifest) => Some(manifest),
        None => store.by_digest(digest).await?,
    };
    let manifest = manifest.ok_or_else(|| {
        Error::new(Reason::InputVersion, format!("{version} ({digest}) is not in {} any more", store.repository()))
            .hint("a lifecycle rule may have removed it (spare the tags env-*); go back to another version with --to, or deploy a new one")
    })?;
    let about = store.about(&manifest).await?;
    let pushed = pushed(job, store, &manifest, &about);
    Ok(Ready { pushed, how: How::Reused, note: "as it was delivered before".into(), manifest, registry: store.clone() })
}

async fn ensure_repository(job: &Job<'_>, store: &Store) -> Result<()> {
    let rule = &job.image.build.image.ensure_repository;
    if matches!(rule, EnsureRepository::Mode(EnsureMode::Off)) {
        return Ok(());
    }
    if let Some(ecr) = store.ecr()
        && ecr.ensure(rule, job.folder).await?
    {
        job.world.console.line(&format!("  {}: the repository was created", job.image.repository));
    }
    Ok(())
}

/// The version's tag exists: it must have been made from the same recipe. By hand a version is taken as it is.
async fn reuse(job: &Job<'_>, store: &Store, recipe: &Recipe, manifest: &Manifest, action: Action) -> Result<Ready> {
    let about = store.about(manifest).await?;
    match (action, about.labels.get(REVISION_LABEL), &job.image.build.commit) {
        // By hand a version is taken as it is, but not when its tag stands for another commit by now.
        (Action::Reuse, Some(there), Some(wanted)) if there == wanted => {}
        (Action::Reuse, None, _) | (Action::Reuse, _, None) => {}
        // It may be older than its version, and tidegate.yml may have changed since; but a tag may have been moved, too.
        (Action::Reuse, Some(there), Some(wanted)) if !job.image.build.image.paths.is_empty() && may_be_of(job, there, wanted).await? => {}
        (Action::Reuse | Action::Build | Action::Promote, _, _) => same_recipe(job, recipe, manifest, &about)?,
    }
    let pushed = pushed(job, store, manifest, &about);
    let note = "already in the registry; not built".to_owned();
    Ok(Ready { pushed, how: How::Reused, note, manifest: manifest.clone(), registry: store.clone() })
}

/// Whether an image that was built at a commit may be that of a later one. What nobody knows is not held against it.
async fn may_be_of(job: &Job<'_>, built_at: &str, wanted: &str) -> Result<bool> {
    if let Some(contained) = Checkout::at(job.folder).contains(wanted, built_at) {
        return Ok(contained);
    }
    let relation = job.forge.compare(built_at, wanted).await?;
    Ok(relation.is_none_or(|relation| matches!(relation, Ancestry::Same | Ancestry::Newer)))
}

fn same_recipe(job: &Job<'_>, recipe: &Recipe, manifest: &Manifest, about: &About) -> Result<()> {
    if recipe.of == Of::Unknown || about.labels.get(RECIPE_LABEL) == Some(&recipe.hash) {
        return Ok(());
    }
    let there = describe(about);
    let ours = job.image.build.commit.as_deref().map(short).unwrap_or_else(|| "unknown".into());
    let tagged = job.image.build.repository.tagged(job.image.build.version.as_str());
    let sentence = format!("{tagged} exists already and was made from something else");
    Err(Error::new(Reason::VersionConflict, sentence)
        .detail(vec![
            format!("there:  {there}, {}", manifest.digest),
            format!("wanted: commit {ours}, recipe {}, {}", head(&recipe.hash), recipe.dockerfile),
        ])
        .hint("a version never changes: release a new one; if the tag is a mistake, delete it from the registry by hand"))
}

fn describe(about: &About) -> String {
    let commit = about.labels.get(REVISION_LABEL).map(|sha| short(sha));
    match (about.labels.get(RECIPE_LABEL), commit) {
        (Some(recipe), commit) => format!("commit {}, recipe {}", commit.unwrap_or_else(|| "unknown".into()), head(recipe)),
        (None, Some(commit)) => format!("commit {commit}, not made by tidegate"),
        (None, None) => "not made by tidegate".into(),
    }
}

fn head(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// The image of the merge gets this version's tag: one manifest read, one write, no bytes moved.
async fn promote(job: &Job<'_>, store: &Store, recipe: &Recipe, source: &str) -> Result<Option<Ready>> {
    let version = job.image.build.version.as_str();
    let (manifest, target) = store.promotion(source, version).await?;
    let Some(manifest) = manifest else {
        return match target {
            Some(_there) => match store.manifest(version).await? {
                Some(existing) => reuse(job, store, recipe, &existing, job.image.action).await.map(Some),
                None => Ok(None),
            },
            None => Ok(None), // never built: build it now
        };
    };
    let about = store.about(&manifest).await?;
    let from_same = recipe.of == Of::Unknown || about.labels.get(RECIPE_LABEL) == Some(&recipe.hash);
    match target {
        Some(digest) if digest == manifest.digest => {
            let pushed = pushed(job, store, &manifest, &about);
            let note = format!("same digest as {source}, promoted before");
            return Ok(Some(Ready { pushed, how: How::Reused, note, manifest, registry: store.clone() }));
        }
        Some(_other) => {
            let existing = store.manifest(version).await?;
            let existing =
                existing.ok_or_else(|| Error::new(Reason::PushFailed, format!("the tag {version} vanished while it was read")))?;
            return reuse(job, store, recipe, &existing, job.image.action).await.map(Some);
        }
        None if !from_same => {
            job.world.console.line(&format!("  {source} was made from another recipe ({}), so {version} is built", describe(&about)));
            return Ok(None);
        }
        None => {}
    }
    store.tag(&manifest, version).await?;
    let pushed = pushed(job, store, &manifest, &about);
    let note = format!("promoted from {source}: same digest, nothing built");
    Ok(Some(Ready { pushed, how: How::Promoted, note, manifest, registry: store.clone() }))
}

/// Builds, pushes, and reads back what the registry really holds.
async fn make(job: &Job<'_>, store: &Store, recipe: &Recipe) -> Result<Ready> {
    let build = &job.image.build;
    if let Some(after) = &build.after {
        let sentence =
            format!("{} was never built, so it cannot have succeeded on {after}", build.repository.tagged(build.version.as_str()));
        return Err(Error::new(Reason::GateAfter, sentence)
            .hint(format!("deliver it to {after} first; in an emergency: --override after --reason TEXT")));
    }
    if build.commit.is_none() {
        let sentence = format!(
            "there is no version {version}: {} has no such tag, and neither git nor the forge knows it",
            build.repository,
            version = build.version
        );
        return Err(Error::new(Reason::InputVersion, sentence).hint("name a release tag, an image tag or a whole commit id"));
    }
    if recipe.of == Of::Nothing {
        let sentence =
            format!("`paths` of the image {} names no file of {}: {}", job.image.name, build.version, build.image.paths.join(", "));
        return Err(Error::new(Reason::ConfigInvalid, sentence).hint("globs are relative to the root of the repository, as \"ui/**\""));
    }
    if !job.world.rehearsal {
        check_checkout(job)?;
    }
    check_args(job.world, build)?;
    let by = engine::build_and_push(job, store, recipe, labels(job, recipe)).await?;
    let version = build.version.as_str();
    let missing = || Error::new(Reason::PushFailed, format!("{version} was pushed, but the registry does not have it"));
    let manifest = store.manifest(version).await?.ok_or_else(missing)?;
    let about = store.about(&manifest).await?;
    if about.labels.get(RECIPE_LABEL) != Some(&recipe.hash) {
        let sentence = format!("{version} was pushed, but the registry holds something else: {}", describe(&about));
        return Err(
            Error::new(Reason::PushFailed, sentence).hint("another run pushed the same version at the same time; run this one again")
        );
    }
    remember(job, store, recipe, &manifest).await;
    let pushed = pushed(job, store, &manifest, &about);
    Ok(Ready { pushed, how: How::Built, note: by, manifest, registry: store.clone() })
}

/// What is built must be the commit that the version names.
fn check_checkout(job: &Job<'_>) -> Result<()> {
    let build = &job.image.build;
    let checkout = Checkout::at(job.folder);
    let (Some(head), Some(wanted)) = (checkout.head(), &build.checked_out) else {
        job.world.console.warning("there is no git checkout here, so it cannot be checked that the right commit is built");
        return Ok(());
    };
    if head == *wanted || Some(&head) == build.commit.as_ref() {
        if checkout.is_dirty() {
            job.world.console.warning("files are changed and not committed; the image will contain the changes");
        }
        return Ok(());
    }
    let sentence = format!("{} is checked out, but {} is of commit {}", short(&head), build.version, short(wanted));
    Err(Error::new(Reason::InputVersion, sentence).hint(format!("it was never built, so it must be built now: check out {wanted} first")))
}

/// Build arguments stand in the image's history: a secret must not be one.
fn check_args(world: &World, build: &Build) -> Result<()> {
    let leaked = build.args.iter().find(|(_, value)| world.console.redactor().clean(value) != *value);
    match leaked {
        Some((name, _)) => Err(Error::new(
            Reason::ConfigInvalid,
            format!("the build argument {name} holds a secret; arguments stand in the image for everyone to read"),
        )
        .hint("use `secrets:` and `RUN --mount=type=secret,id=…`")),
        None => Ok(()),
    }
}

/// Labels for the image. Nothing version-like is among them: the same image gets other versions later.
fn labels(job: &Job<'_>, recipe: &Recipe) -> Vec<(String, String)> {
    let build = &job.image.build;
    let mut labels: Vec<(String, String)> = build.image.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    labels.push((RECIPE_LABEL.into(), recipe.hash.clone()));
    if let Some(commit) = &build.commit {
        labels.push((REVISION_LABEL.into(), commit.clone()));
        if let Some(time) = Checkout::at(job.folder).commit_time(commit).and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()) {
            labels.push(("org.opencontainers.image.created".into(), time.to_string()));
        }
    }
    if let Some(merged) = build.checked_out.as_ref().filter(|merged| Some(*merged) != build.commit.as_ref()) {
        labels.push(("dev.tidegate.merge".into(), merged.clone()));
    }
    let (server, usual) = match job.forge {
        Forge::GitLab(_) => ("CI_SERVER_URL", "https://gitlab.com"),
        Forge::GitHub(_) | Forge::Absent { .. } => ("GITHUB_SERVER_URL", "https://github.com"),
    };
    if let Some(repository) = job.forge.repository() {
        labels.push(("org.opencontainers.image.source".into(), format!("{}/{repository}", job.world.vars.get(server).unwrap_or(usual))));
    }
    labels
}
