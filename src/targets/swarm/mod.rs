//! Docker Swarm: one update per service with the image by digest, followed past "converged" to tasks that run that digest.
//!
//! The docker CLI ends with exit code 0 when an update was rolled back (<https://github.com/docker/cli/issues/6752>); the
//! state of the update and the tasks themselves are what counts here.

use super::{Life, Settled, Site, Work, live, rolled_back, set};
use crate::checkout::read_named;
use crate::config::{Restart, Rollback, Swarm};
use crate::error::{Error, Reason, Result};
use crate::registry::Pushed;
use crate::registry::store::Store;
use crate::world::World;
use futures::stream::{FuturesUnordered, Stream, StreamExt};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

mod engine;
mod follow;
mod rotate;
mod tasks;

use engine::Manager;
use rotate::{Held, Kind, Rotation};

/// The lease under which a service was last changed.
/// Docker takes configs of at most 1 MB.
const CONFIG_LIMIT: u64 = 1024 * 1024;
const LEASE: &str = "tidegate.dev/lease";
/// How often an update is made anew because the service changed since it was read.
const CONFLICTS: usize = 8;
const IMAGE: &str = "/TaskTemplate/ContainerSpec/Image";

/// Refuses secrets and files that are not there, before anything is built.
pub fn check(world: &World, folder: &Path, swarm: &Swarm) -> Result<()> {
    for name in crate::config::Target::Swarm(Box::new(swarm.clone())).secret_names() {
        super::secret(world, name, "a secret for the swarm")?;
    }
    for (name, source) in &swarm.configs {
        if !source.file.contains('{') && !folder.join(&source.file).is_file() {
            let sentence = format!("there is no file {} for the swarm config {name}", source.file);
            return Err(Error::new(Reason::ConfigInvalid, sentence).hint("files are named relative to tidegate.yml"));
        }
    }
    Ok(())
}

/// Updates every service, all at once, and proves that they run the image.
pub async fn deploy(site: &Site<'_>, work: &Work, swarm: &Swarm) -> Result<Settled> {
    live(&Services::open(site, work, swarm).await?, work.rollback, site.world).await
}

/// The proof that every service runs the image already, with the content that its configs and secrets are to have.
pub async fn runs(site: &Site<'_>, work: &Work, swarm: &Swarm) -> Result<Option<Settled>> {
    let services = Services::open(site, work, swarm).await?;
    let before = services.read().await?;
    let rotated = before.rotations.iter().any(|(rotation, family)| family.first().is_none_or(|held| !rotation.is_same(held)));
    if rotated || swarm.restart != Restart::Never {
        return Ok(None);
    }
    let mut proofs = Vec::new();
    for found in &before.services {
        if found.listed && found.image() != services.wanted {
            return Ok(None);
        }
        let change = services.unchanged(found);
        let Some(proof) = services.look(&change).await? else { return Ok(None) };
        proofs.push(proof);
    }
    Ok(Some(Settled::deployed(proofs.join("; "), None)))
}

/// Whether the engine is a manager that has the services. Changes nothing.
pub async fn look(site: &Site<'_>, work: &Work, swarm: &Swarm) -> Result<String> {
    let manager = Manager::open(site, &site.values(&work.values), swarm).await?;
    own_node(&manager).await?;
    let mut names = Vec::new();
    for name in &swarm.services {
        let name = site.fill(&work.values, name)?;
        find(&manager, &name, true).await?;
        names.push(name);
    }
    Ok(format!("{} is a manager of a swarm that has {}", manager.place, names.join(", ")))
}

/// The node that is asked, which must be a manager.
async fn own_node(manager: &Manager) -> Result<String> {
    let info = manager.get("/info").await?;
    if info.pointer("/Swarm/ControlAvailable").and_then(Value::as_bool) != Some(true) {
        return Err(Error::new(Reason::TargetInput, format!("the engine at {} is not a manager of a swarm", manager.place))
            .hint("`host:` must be a manager (`docker node ls` works there); `docker swarm init` makes the first one"));
    }
    Ok(info.pointer("/Swarm/NodeID").and_then(Value::as_str).unwrap_or_default().to_owned())
}

async fn find(manager: &Manager, name: &str, listed: bool) -> Result<Found> {
    let plain: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
    let service = manager.get(&format!("/services/{plain}")).await.map_err(|error| match error.gone {
        true => Error::new(Reason::TargetMissing, format!("the swarm at {} has no service {name}", manager.place))
            .hint("services of a stack are named stack_service; `docker service ls` lists them; tidegate does not create them"),
        false => error,
    })?;
    let found = Found { name: name.to_owned(), listed, service };
    let mode = found.spec().get("Mode").and_then(Value::as_object);
    if mode.is_some_and(|mode| mode.keys().any(|kind| kind.ends_with("Job"))) {
        return Err(Error::new(Reason::TargetInput, format!("the service {name} is a job: it has no version that keeps running")));
    }
    Ok(found)
}

struct Services<'a> {
    site: &'a Site<'a>,
    swarm: &'a Swarm,
    manager: Manager,
    image: &'a Pushed,
    /// name:tag@digest.
    wanted: String,
    /// The registry login that nodes pull with.
    login: Option<String>,
    values: crate::config::template::Values,
    /// The node that is asked.
    own_node: String,
    rollback: Rollback,
}

/// A service as it was found.
struct Found {
    name: String,
    /// Named in the configuration; otherwise it only uses a config or secret that is rotated.
    listed: bool,
    service: Value,
}

impl Found {
    fn spec(&self) -> &Value {
        self.service.get("Spec").unwrap_or(&Value::Null)
    }

    fn image(&self) -> &str {
        self.spec().pointer(IMAGE).and_then(Value::as_str).unwrap_or_default()
    }

    fn id(&self) -> &str {
        self.service.get("ID").and_then(Value::as_str).unwrap_or_default()
    }

    fn force(&self) -> u64 {
        self.spec().pointer("/TaskTemplate/ForceUpdate").and_then(Value::as_u64).unwrap_or(0)
    }

    fn update_began(&self) -> Option<String> {
        self.service.pointer("/UpdateStatus/StartedAt").and_then(Value::as_str).map(str::to_owned)
    }
}

/// A rotation, what there was of it, and what services are to use now.
struct Pointed<'a> {
    rotation: &'a Rotation,
    family: &'a [Held],
    to: &'a Held,
}

struct Before {
    services: Vec<Found>,
    rotations: Vec<(Rotation, Vec<Held>)>,
}

/// A service that was updated, or needs no update.
#[derive(Clone)]
struct Change {
    id: String,
    name: String,
    /// The image that it is to run.
    wanted: String,
    /// The image that it ran before.
    before: String,
    force: u64,
    /// When the update before ours began.
    update_before: Option<String>,
    changed: bool,
}

#[derive(Default)]
struct Started {
    changes: Vec<Change>,
    current: Vec<Held>,
}

impl Life for Services<'_> {
    type Before = Before;
    type Started = Started;

    async fn read(&self) -> Result<Before> {
        let mut services = Vec::new();
        for name in &self.swarm.services {
            let name = self.fill(name)?;
            services.push(self.find(&name, true).await?);
        }
        let mut rotations = Vec::new();
        for rotation in self.rotations()? {
            let family = rotation.family(&self.manager).await?;
            rotations.push((rotation, family));
        }
        if !rotations.is_empty() {
            self.find_users(&mut services, &rotations).await?;
        }
        Ok(Before { services, rotations })
    }

    async fn start(&self, before: &mut Before, started: &mut Started) -> Result<()> {
        for (rotation, family) in &before.rotations {
            let (held, is_new) = rotation.current(&self.manager, family).await?;
            if is_new {
                self.site.say(&format!("{} has new content: {}", rotation.shown(), held.name()));
            }
            started.current.push(held);
        }
        for found in &mut before.services {
            let pointed: Vec<Pointed<'_>> =
                before.rotations.iter().zip(&started.current).map(|((rotation, family), to)| Pointed { rotation, family, to }).collect();
            let change = self.update(found, &pointed).await?;
            started.changes.push(change);
        }
        Ok(())
    }

    async fn settle(&self, before: &Before, started: &Started) -> Result<Settled> {
        let deadline = self.site.world.clock.now().saturating_add(self.swarm.timeout.0);
        let mut followed: FuturesUnordered<_> = started.changes.iter().map(|change| self.follow(change, deadline)).collect();
        let mut proofs = Vec::new();
        while let Some(proof) = followed.next().await {
            match proof {
                Ok(proof) => proofs.push(proof),
                Err(error) => return Err(self.also_changed(error, proofs, followed, started).await),
            }
        }
        proofs.sort();
        for ((rotation, _), current) in before.rotations.iter().zip(&started.current) {
            for kept in rotation.clean(&self.manager, current).await {
                self.site.world.console.warning(&kept);
            }
        }
        Ok(Settled::deployed(proofs.join("; "), None))
    }

    fn has_changed(&self, started: &Started) -> bool {
        started.changes.iter().any(|change| change.changed)
    }

    async fn back(&self, _before: &Before, started: &Started) -> Result<String> {
        let mut went = Vec::new();
        for change in started.changes.iter().filter(|change| change.changed) {
            went.extend(self.go_back(change).await?);
        }
        Ok(went.join("; "))
    }

    async fn stop(&self, started: &Started) -> Option<String> {
        let names: Vec<&str> = started.changes.iter().filter(|change| change.changed).map(|change| change.name.as_str()).collect();
        (!names.is_empty()).then(|| format!("the swarm goes on with the update of {}", names.join(", ")))
    }
}

impl<'a> Services<'a> {
    async fn open(site: &'a Site<'a>, work: &Work, swarm: &'a Swarm) -> Result<Self> {
        let image = site.image(work)?;
        let values = site.values(&work.values);
        let manager = Manager::open(site, &values, swarm).await?;
        let own_node = own_node(&manager).await?;
        let store = Store::open(site.world, &image.repository, work.aws.role.clone()).await?;
        let login = store.oci().login().map(|login| engine::registry_auth(&login.user, &login.password, &image.repository.host));
        Ok(Self { site, swarm, manager, image, wanted: image.reference(), login, values, own_node, rollback: work.rollback })
    }

    fn fill(&self, text: &str) -> Result<String> {
        self.site.fill(&self.values, text)
    }

    async fn find(&self, name: &str, listed: bool) -> Result<Found> {
        find(&self.manager, name, listed).await
    }

    fn rotations(&self) -> Result<Vec<Rotation>> {
        let mut rotations = Vec::new();
        for (base, source) in &self.swarm.configs {
            let file = self.fill(&source.file)?;
            let content = read_named(self.site.folder, &file, CONFIG_LIMIT)
                .map_err(|why| Error::new(Reason::ConfigInvalid, format!("{file}, the swarm config {base}, cannot be read: {why}")))?;
            rotations.push(Rotation { kind: Kind::Config, base: base.clone(), content: crate::tools::secret::Secret::new(content) });
        }
        for (base, source) in &self.swarm.secrets {
            let content = super::secret(self.site.world, &source.env, &format!("the swarm secret {base}"))?;
            rotations.push(Rotation { kind: Kind::Secret, base: base.clone(), content });
        }
        Ok(rotations)
    }

    /// Every service that uses what is rotated must follow, or the old content could never go.
    async fn find_users(&self, services: &mut Vec<Found>, rotations: &[(Rotation, Vec<Held>)]) -> Result<()> {
        let all = self.manager.get("/services").await?;
        let all: Vec<&Value> = all.as_array().into_iter().flatten().collect();
        for (rotation, family) in rotations {
            let users = all.iter().filter(|service| service.get("Spec").is_some_and(|spec| rotation.is_used_by(spec, family)));
            let names: Vec<String> = users.filter_map(|service| service.pointer("/Spec/Name")?.as_str().map(str::to_owned)).collect();
            if names.is_empty() {
                return Err(Error::new(Reason::TargetMissing, format!("no service of the swarm uses the {}", rotation.shown()))
                    .hint("give it to a service once (`docker service update --config-add …`); from then on tidegate rotates it"));
            }
            for name in names {
                if services.iter().all(|found| found.name != name) {
                    self.site.say(&format!("{name} uses the {} too", rotation.shown()));
                    services.push(self.find(&name, false).await?);
                }
            }
        }
        Ok(())
    }

    fn unchanged(&self, found: &Found) -> Change {
        Change {
            id: found.id().to_owned(),
            name: found.name.clone(),
            wanted: if found.listed { self.wanted.clone() } else { found.image().to_owned() },
            before: found.image().to_owned(),
            force: found.force(),
            update_before: found.update_began(),
            changed: false,
        }
    }

    /// Sends one update, if anything has to change; again when the service was changed meanwhile.
    async fn update(&self, found: &mut Found, pointed: &[Pointed<'_>]) -> Result<Change> {
        for _try in 0..CONFLICTS {
            let held = found.spec().pointer("/Labels").and_then(|labels| labels.get(LEASE)).and_then(Value::as_str).unwrap_or_default();
            self.site.fence.check(&found.name, held)?;
            let mut spec = found.spec().clone();
            let mut change = self.unchanged(found);
            for Pointed { rotation, family, to } in pointed {
                change.changed |= rotation.repoint(&mut spec, family, to);
            }
            change.changed |= change.wanted != found.image();
            if let Some(image) = spec.pointer_mut(IMAGE) {
                *image = json!(change.wanted);
            }
            let restart = match self.swarm.restart {
                Restart::Never => false,
                Restart::WhenUnchanged => !change.changed,
                Restart::Always => true,
            };
            if restart && found.listed {
                change.force += 1;
                change.changed = true;
                set(&mut spec, &["TaskTemplate", "ForceUpdate"], json!(change.force));
            }
            if !change.changed {
                return Ok(change); // an update of labels only would overwrite what a rollback leads to
            }
            set(&mut spec, &["Labels", LEASE], json!(self.site.fence.to_string()));
            if self.send(found, &spec).await? {
                self.site.say(&format!("{}: from {} to {}", found.name, change.before, change.wanted));
                return Ok(change);
            }
            *found = self.find(&found.name, found.listed).await?;
            let ours = found.image() == change.wanted && found.force() == change.force;
            if ours && found.spec().pointer("/Labels").and_then(|labels| labels.get(LEASE)) == Some(&json!(self.site.fence.to_string())) {
                return Ok(change); // the answer was lost, the update was not
            }
        }
        Err(Error::new(Reason::TargetFailed, format!("the service {} keeps changing while it is changed", found.name))
            .hint("does another tool write to it all the time?"))
    }

    /// Whether the update was taken; not when the service is not any more what was read, or when nobody knows.
    async fn send(&self, found: &Found, spec: &Value) -> Result<bool> {
        let index = found.service.pointer("/Version/Index").and_then(Value::as_u64).unwrap_or(0);
        let path = format!("/services/{}/update?version={index}&registryAuthFrom=spec", found.id());
        let answer = match self.manager.call("POST", &path, self.login.as_deref().filter(|_| found.listed), Some(spec)).await {
            Ok(answer) => answer,
            Err(error) if error.lost => {
                self.site.say(&format!("{}; looking whether it was taken", error.sentence));
                self.site.world.clock.sleep(Duration::from_millis(500)).await;
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        if matches!(answer.status, 409 | 500) && answer.words().contains("out of sequence") {
            return Ok(false);
        }
        let answer = self.manager.judge(answer, &format!("the update of {}", found.name))?;
        let warnings = answer.json();
        for warning in warnings.get("Warnings").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            self.site.world.console.warning(&format!("{}: {warning}", found.name));
        }
        Ok(true)
    }

    /// Adds which services the update was sent to. It was rolled back only when each of them was: where tidegate sends
    /// nothing back, the others are followed to their end, or this would be said of a service that has the new image.
    async fn also_changed(
        &self,
        mut error: Error,
        proofs: Vec<String>,
        others: impl Stream<Item = Result<String>>,
        started: &Started,
    ) -> Error {
        let names: Vec<&str> = started.changes.iter().filter(|change| change.changed).map(|change| change.name.as_str()).collect();
        if names.len() < 2 {
            return error;
        }
        error.detail.push(format!("the update was sent to: {}", names.join(", ")));
        if error.reason == Reason::TargetRolledBack && self.rollback == Rollback::Never {
            let others: Vec<Result<String>> = others.collect().await;
            let stayed: Vec<String> = others
                .into_iter()
                .chain(proofs.into_iter().map(Ok))
                .filter_map(|other| match other {
                    Err(other) if other.reason == Reason::TargetRolledBack => None,
                    Err(other) => Some(other.sentence),
                    Ok(proof) => Some(proof),
                })
                .collect();
            if !stayed.is_empty() {
                error.reason = Reason::TargetFailed;
                error.detail.push(format!("not all went back: {}", stayed.join("; ")));
            }
        }
        error
    }

    /// Sends a service back to its previous specification; nothing when the swarm did that already.
    async fn go_back(&self, change: &Change) -> Result<Option<String>> {
        for _try in 0..CONFLICTS {
            let found = self.find(&change.name, false).await?;
            if found.image() != change.wanted || found.force() != change.force {
                return Ok(None);
            }
            let index = found.service.pointer("/Version/Index").and_then(Value::as_u64).unwrap_or(0);
            let path = format!("/services/{}/update?version={index}&rollback=previous&registryAuthFrom=previous-spec", found.id());
            let answer = self.manager.call("POST", &path, None, Some(found.spec())).await?;
            if matches!(answer.status, 409 | 500) && answer.words().contains("out of sequence") {
                continue;
            }
            self.manager.judge(answer, &format!("the rollback of {}", change.name))?;
            let deadline = self.site.world.clock.now().saturating_add(self.swarm.timeout.0);
            return self.follow_back(change, deadline).await.map(Some);
        }
        Err(Error::new(Reason::TargetFailed, format!("the service {} keeps changing while it is sent back", change.name)))
    }
}
