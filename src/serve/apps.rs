//! Who may ask for what: the apps and their secrets, from the file and as they were announced; tokens and people.
//!
//! Secrets are kept as HMAC-SHA256 of their SHA-256 under a key of the store, and compared in constant time. What is not
//! there is compared as well, so that an unknown app and a wrong secret take the same time.

use super::config::{AppSecret, Busy, Hook, HookSecret, Loaded, Role, Serve};
use super::jobs::{Callback, Entry, Wanted, now};
use super::store::{Batch, Store};
use crate::config::SecretName;
use crate::error::{Error, Reason, Result};
use crate::tools::secret::Secret;
use crate::version::hex;
use crate::world::World;
use aws_lc_rs::{constant_time, digest, hmac};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// The document of the announced apps.
const ANNOUNCED: &str = "apps";
/// The document of the key that secrets are hashed with.
const KEY: &str = "key";
/// How old a list may be that another replica may have replaced.
const FRESH: Duration = Duration::from_secs(1);
/// Machines' tokens and people's passwords are at least so long.
const TOKEN_LENGTH: usize = 16;
const PASSWORD_LENGTH: usize = 12;
const WEBHOOK_LENGTH: usize = 8;

/// The key of the store that secrets are hashed with: made once, by whichever replica comes first.
pub async fn key(store: &Store) -> Result<Secret> {
    loop {
        if let Some((key, _mark)) = store.read::<String>(KEY).await? {
            return Ok(Secret::new(key));
        }
        let fresh = format!("{}{}", crate::report::outputs::random(), crate::report::outputs::random());
        store.commit(Batch::new().when(KEY, None).put(KEY, &fresh)).await?;
    }
}

/// An app, as far as it matters who asks.
#[derive(Clone, Debug)]
pub struct App {
    /// Its id.
    pub id: String,
    /// What it changes.
    pub inventory: String,
    /// Where it comes from.
    pub announced: bool,
}

/// One of the announced apps, as the original server takes it.
#[derive(Deserialize)]
pub struct Announced {
    /// What is deployed.
    pub inventory: String,
    /// The id that clients send.
    pub deployment_id: String,
    /// The secret that clients send.
    pub deployment_secret: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct List {
    at: u64,
    apps: Vec<Kept>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    inventory: String,
    id: String,
    digest: String,
}

/// The apps, and everybody who may ask.
pub struct Apps {
    key: hmac::Key,
    session_key: hmac::Key,
    known: RwLock<Arc<Known>>,
    announced: RwLock<Arc<Cached>>,
}

/// What the configuration says.
#[derive(Default)]
struct Known {
    apps: HashMap<String, (App, Option<Vec<u8>>)>,
    tokens: Vec<(String, Vec<u8>, Role)>,
    users: HashMap<String, (Vec<u8>, Role)>,
    hooks: HashMap<String, Vec<Secret>>,
    secrets: Vec<Secret>,
}

#[derive(Default)]
struct Cached {
    read: Option<Instant>,
    apps: HashMap<String, (App, Vec<u8>)>,
}

impl Apps {
    /// The apps of the file. A secret that is not there is said before anything is served.
    pub fn new(world: &World, config: &Loaded, key: Secret) -> Result<Self> {
        let apps = Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes()),
            session_key: hmac::Key::new(hmac::HMAC_SHA256, format!("session {}", key.expose()).as_bytes()),
            known: RwLock::default(),
            announced: RwLock::default(),
        };
        apps.reconfigure(world, config)?;
        Ok(apps)
    }

    /// Takes the apps of another configuration, all at once.
    pub fn reconfigure(&self, world: &World, config: &Loaded) -> Result<()> {
        let known = Reader { apps: self, world, config, secrets: Vec::new(), problems: Vec::new() }.known(&config.serve)?;
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
        Ok(())
    }

    fn known(&self) -> Arc<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every secret that this server knows: none of them may be in what jobs say.
    pub fn secrets(&self) -> Vec<Secret> {
        self.known().secrets.clone()
    }

    /// The key that signs sessions and forms.
    pub fn session_key(&self) -> &hmac::Key {
        &self.session_key
    }

    fn hash(&self, secret: &str) -> Vec<u8> {
        self.hash_of(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref())
    }

    fn hash_of(&self, sha256: &[u8]) -> Vec<u8> {
        hmac::sign(&self.key, sha256).as_ref().to_vec()
    }

    async fn announced(&self, store: &Store) -> Result<Arc<Cached>> {
        let cached = self.announced.read().unwrap_or_else(PoisonError::into_inner).clone();
        if cached.read.is_some_and(|read| !store.is_shared() || read.elapsed() < FRESH) {
            return Ok(cached);
        }
        let list = store.read::<List>(ANNOUNCED).await?.map(|(list, _mark)| list).unwrap_or_default();
        Ok(self.cache(&list))
    }

    fn cache(&self, list: &List) -> Arc<Cached> {
        let app = |kept: &Kept| App { id: kept.id.clone(), inventory: kept.inventory.clone(), announced: true };
        let apps = list.apps.iter().map(|kept| (kept.id.clone(), (app(kept), unhex(&kept.digest)))).collect();
        let cached = Arc::new(Cached { read: Some(Instant::now()), apps });
        *self.announced.write().unwrap_or_else(PoisonError::into_inner) = cached.clone();
        cached
    }

    /// The app with this id and this secret. Whether the id or the secret is wrong nobody can tell.
    pub async fn authenticated(&self, store: &Store, id: &str, secret: &str) -> Result<Option<App>> {
        let announced = self.announced(store).await?;
        let known = self.known();
        let found = match known.apps.get(id) {
            Some((app, digest)) => Some((app, digest.as_deref())),
            None => announced.apps.get(id).map(|(app, digest)| (app, Some(digest.as_slice()))),
        };
        let (app, digest) = found.map_or((None, None), |(app, digest)| (Some(app), digest));
        let given = self.hash(secret);
        let is_equal = constant_time::verify_slices_are_equal(&given, digest.unwrap_or(&[0; 32])).is_ok();
        Ok(app.filter(|_| is_equal && digest.is_some()).cloned())
    }

    /// An app, for those who need no secret of it.
    pub async fn get(&self, store: &Store, id: &str) -> Result<Option<App>> {
        let known = self.known();
        if let Some((app, _digest)) = known.apps.get(id) {
            return Ok(Some(app.clone()));
        }
        Ok(self.announced(store).await?.apps.get(id).map(|(app, _digest)| app.clone()))
    }

    /// All apps, by id.
    pub async fn all(&self, store: &Store) -> Result<Vec<App>> {
        let mut all: BTreeMap<String, App> =
            self.announced(store).await?.apps.values().map(|(app, _)| (app.id.clone(), app.clone())).collect();
        all.extend(self.known().apps.values().map(|(app, _)| (app.id.clone(), app.clone())));
        Ok(all.into_values().collect())
    }

    /// Replaces the announced apps, all at once or not at all. What is wrong with the list, in a sentence.
    pub async fn replace(&self, store: &Store, list: &[Announced], by: &str) -> Result<std::result::Result<(), String>> {
        if let Err(wrong) = fits(list) {
            return Ok(Err(wrong));
        }
        let kept = |app: &Announced| Kept {
            inventory: app.inventory.clone(),
            id: app.deployment_id.clone(),
            digest: hex(&self.hash(&app.deployment_secret)),
        };
        let list = List { at: now(), apps: list.iter().map(kept).collect() };
        let entry = Entry::new(by, "apps").detail(format!("{} apps announced", list.apps.len()));
        store.commit(entry.add_to(Batch::new().put(ANNOUNCED, &list))).await?;
        self.cache(&list);
        Ok(Ok(()))
    }

    /// The machine that has this token.
    pub fn machine(&self, token: &str) -> Option<(String, Role)> {
        let given = self.hash(token);
        let mut found = None;
        for (name, digest, role) in &self.known().tokens {
            // All of them are compared: how many there are before the right one does not show.
            if constant_time::verify_slices_are_equal(&given, digest).is_ok() {
                found = Some((name.clone(), *role));
            }
        }
        found
    }

    /// What the person with this name and password may do.
    pub fn person(&self, name: &str, password: &str) -> Option<Role> {
        let known = self.known();
        let given = self.hash(password);
        let found = known.users.get(name);
        let digest = found.map_or(&[0_u8; 32][..], |(digest, _role)| digest.as_slice());
        let is_equal = constant_time::verify_slices_are_equal(&given, digest).is_ok();
        found.filter(|_| is_equal).map(|(_digest, role)| *role)
    }

    /// What a person may do now, and the mark of their password: a session outlives neither of them.
    pub fn role_of(&self, name: &str) -> Option<(Role, String)> {
        let known = self.known();
        let (digest, role) = known.users.get(name)?;
        Some((*role, hex(hmac::sign(&self.session_key, digest).as_ref())))
    }

    /// The secrets of a webhook, in the order of its keys.
    pub fn hook_secrets(&self, name: &str) -> Vec<Secret> {
        self.known().hooks.get(name).cloned().unwrap_or_default()
    }
}

/// Whether a text is this secret, in constant time.
pub fn is_secret(given: &[u8], secret: &Secret) -> bool {
    let hash = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes);
    constant_time::verify_slices_are_equal(hash(given).as_ref(), hash(secret.expose().as_bytes()).as_ref()).is_ok()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).filter_map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// What is wrong with a list of apps. No secret is repeated.
fn fits(list: &[Announced]) -> std::result::Result<(), String> {
    let mut seen = std::collections::HashSet::new();
    for (index, app) in list.iter().enumerate() {
        for (key, text) in [("inventory", &app.inventory), ("deployment_id", &app.deployment_id)] {
            if !super::config::is_id(text) || (key == "deployment_id" && text == super::config::ANNOUNCE) {
                return Err(format!("apps[{index}].{key} is not usable: it has 1 to 128 of A-Z a-z 0-9 . _ -"));
            }
        }
        if app.deployment_secret.trim().is_empty() {
            return Err(format!("apps[{index}].deployment_secret is empty, so anybody could deploy {}", app.deployment_id));
        }
        if !seen.insert(&app.deployment_id) {
            return Err(format!("apps[{index}].deployment_id {} stands there twice", app.deployment_id));
        }
    }
    Ok(())
}

/// Reads the secrets that a configuration names.
struct Reader<'a> {
    apps: &'a Apps,
    world: &'a World,
    config: &'a Loaded,
    secrets: Vec<Secret>,
    problems: Vec<(String, String, String)>,
}

impl Reader<'_> {
    fn known(mut self, serve: &Serve) -> Result<Known> {
        let mut known = Known::default();
        for (id, app) in &serve.apps {
            let digest = match &app.secret {
                None => None,
                Some(AppSecret::Hash(hash)) => Some(self.apps.hash_of(&unhex(&hash.sha256))),
                Some(AppSecret::Env(name)) => Some(self.hashed(name, &format!("apps.{id}.secret"), 1)),
                Some(AppSecret::File(file)) => Some(self.hashed_file(&file.file, &format!("apps.{id}.secret.file"), 1)),
            };
            let inventory = app.inventory.clone().unwrap_or_else(|| id.clone());
            known.apps.insert(id.clone(), (App { id: id.clone(), inventory, announced: false }, digest));
        }
        for (name, token) in &serve.tokens {
            let digest = self.hashed(&token.secret, &format!("tokens.{name}.secret"), TOKEN_LENGTH);
            known.tokens.push((name.clone(), digest, token.role));
        }
        for (name, user) in &serve.users {
            let digest = self.hashed(&user.password, &format!("users.{name}.password"), PASSWORD_LENGTH);
            known.users.insert(name.clone(), (digest, user.role));
        }
        for (name, hook) in &serve.webhooks {
            let secrets = self.of_hook(name, hook);
            known.hooks.insert(name.clone(), secrets);
        }
        if let Some(slack) = &serve.slack {
            self.named(&slack.webhook, "slack.webhook", 1);
        }
        for (name, runner) in &serve.runners {
            for secret in runner.secret_names() {
                self.named(&SecretName { env: secret.to_owned() }, &format!("runners.{name}"), 1);
            }
        }
        if !self.problems.is_empty() {
            return Err(self.config.error(Reason::AuthMissing, self.problems));
        }
        known.secrets = self.secrets;
        Ok(known)
    }

    fn of_hook(&mut self, name: &str, hook: &Hook) -> Vec<Secret> {
        let path = |key: &str| format!("webhooks.{name}.{}.{key}", hook.kind());
        match hook {
            Hook::DockerHub(hub) => {
                let mut secrets = Vec::new();
                if let Some(secret) = &hub.secret_path {
                    secrets.push(self.named(secret, &path("secret-path"), WEBHOOK_LENGTH));
                }
                if let Some(login) = &hub.login {
                    let password = match &login.password {
                        HookSecret::Env(secret) => self.named(secret, &path("login.password"), WEBHOOK_LENGTH),
                        HookSecret::File(file) => {
                            let text = self.file_text(&file.file, &path("login.password.file"));
                            let bare = text.strip_prefix(&format!("{}:", login.username)).unwrap_or(&text).to_owned();
                            self.learned(bare, &path("login.password.file"), WEBHOOK_LENGTH)
                        }
                    };
                    secrets.push(Secret::new(format!("{}:{}", login.username, password.expose())));
                }
                secrets
            }
            Hook::Github(forge) | Hook::Gitlab(forge) => vec![self.named(&forge.secret, &path("secret"), WEBHOOK_LENGTH)],
            Hook::Signed(signed) => vec![self.named(&signed.secret, &path("secret"), WEBHOOK_LENGTH)],
            Hook::Ecr(_) => Vec::new(),
        }
    }

    fn hashed(&mut self, name: &SecretName, path: &str, least: usize) -> Vec<u8> {
        let secret = self.named(name, path, least);
        self.apps.hash(secret.expose())
    }

    fn hashed_file(&mut self, file: &std::path::Path, path: &str, least: usize) -> Vec<u8> {
        let text = self.file_text(file, path);
        let secret = self.learned(text, path, least);
        self.apps.hash(secret.expose())
    }

    fn file_text(&mut self, file: &std::path::Path, path: &str) -> String {
        let file = self.config.folder.join(file);
        match std::fs::read_to_string(&file) {
            Ok(text) => text.trim_end().to_owned(),
            Err(error) => {
                self.problem(path, format!("{} cannot be read: {error}", file.display()), "name a file that the server may read");
                "-".repeat(TOKEN_LENGTH) // so that it is told once
            }
        }
    }

    fn named(&mut self, name: &SecretName, path: &str, least: usize) -> Secret {
        match self.world.vars.get(&name.env) {
            Some(value) => self.learned(value.to_owned(), path, least),
            None => {
                self.problem(path, format!("the environment variable {} is not set, or empty", name.env), HINT);
                Secret::new("")
            }
        }
    }

    fn learned(&mut self, value: String, path: &str, least: usize) -> Secret {
        let secret = Secret::new(value);
        match secret.expose().trim().len() {
            0 => self.problem(path, "the secret is empty".into(), HINT),
            length if length < least => {
                self.problem(path, format!("the secret has less than {least} characters"), "make one with: openssl rand -hex 24")
            }
            _long_enough => {
                self.world.console.mask(&secret);
                self.secrets.push(secret.clone());
            }
        }
        secret
    }

    fn problem(&mut self, path: &str, why: String, hint: &str) {
        self.problems.push((path.to_owned(), why, hint.to_owned()));
    }
}

/// What to do about a secret that is not there.
const HINT: &str = "set it where the server is started; one that runs has to be started again for it, a `file` is read again";

/// How somebody asks.
#[derive(Clone, Debug, Default)]
pub struct Asking {
    /// Who.
    pub by: String,
    /// What the job is told.
    pub values: BTreeMap<String, String>,
    /// Where the sender wants to be told.
    pub callback: Option<Callback>,
    /// The trace it belongs to.
    pub traceparent: Option<String>,
    /// The names of the request.
    pub once: Vec<String>,
    /// What happens while another job is active, where it is not the app's own rule.
    pub busy: Option<Busy>,
}

/// The job of an app, as the configuration has it now.
pub fn wanted(serve: &Serve, app: &App, asking: Asking) -> Result<Wanted> {
    let about = serve.apps.get(&app.id);
    let only = || serve.runners.keys().next().filter(|_| serve.runners.len() == 1);
    let named = about.and_then(|about| about.runner.as_ref()).or(serve.defaults.runner.as_ref()).or_else(only);
    let runner = named.and_then(|name| Some((name.clone(), serve.runners.get(name)?.clone())));
    let announce = serve.announce.as_ref().filter(|announce| announce.inventory.as_deref() == Some(app.inventory.as_str()));
    let (runner_name, runner, timeout) = match (announce, runner) {
        (Some(announce), _) => {
            return announcing(serve, &app.id, asking).map(|wanted| Wanted { timeout: announce.timeout.0.as_secs(), ..wanted });
        }
        (None, Some((name, runner))) => (name, runner, about.and_then(|about| about.timeout).unwrap_or(serve.defaults.timeout)),
        (None, None) => {
            return Err(Error::new(Reason::ConfigInvalid, format!("it is not said which runner runs {}", app.id))
                .hint("write `defaults: {runner: …}` in tidegate-serve.yml"));
        }
    };
    Ok(Wanted {
        app: app.id.clone(),
        inventory: app.inventory.clone(),
        by: asking.by,
        runner_name,
        runner,
        values: asking.values,
        timeout: timeout.0.as_secs().max(1),
        busy: asking.busy.or(about.and_then(|about| about.busy)).unwrap_or(serve.defaults.busy),
        queue: about.and_then(|about| about.queue).unwrap_or(serve.limits.queue),
        callback: asking.callback,
        traceparent: asking.traceparent,
        once: asking.once,
    })
}

/// The same as a job again, with what it was told: its tag, its digest. The app's runner is the one of the configuration now.
pub async fn again(server: &super::server::Server, job: &super::jobs::Job, by: String) -> Result<Wanted> {
    let config = server.config();
    let asking = Asking {
        by,
        values: job.values.clone(),
        traceparent: Some(super::trace::child_of(None)),
        busy: Some(Busy::Queue),
        ..Asking::default()
    };
    if job.app == super::config::ANNOUNCE {
        return announcing(&config.serve, &job.app, asking);
    }
    if let Some(app) = server.apps.get(&server.store, &job.app).await? {
        return wanted(&config.serve, &app, asking);
    }
    if !job.app.starts_with("webhook:") {
        return Err(Error::new(Reason::ConfigInvalid, format!("the app {} is not there any more", job.app)));
    }
    Ok(Wanted {
        app: job.app.clone(),
        inventory: job.inventory.clone(),
        by: asking.by,
        runner_name: job.runner_name.clone(),
        runner: job.runner.clone(),
        values: asking.values,
        timeout: job.timeout,
        busy: Busy::Queue,
        queue: config.serve.limits.queue,
        callback: None,
        traceparent: asking.traceparent,
        once: Vec::new(),
    })
}

/// The job that announces the apps.
pub fn announcing(serve: &Serve, app: &str, asking: Asking) -> Result<Wanted> {
    let missing = || Error::new(Reason::ConfigInvalid, "there is no `announce:` in tidegate-serve.yml");
    let announce = serve.announce.as_ref().ok_or_else(missing)?;
    let runner = serve.runners.get(&announce.runner).ok_or_else(missing)?;
    Ok(Wanted {
        app: app.to_owned(),
        inventory: announce.inventory.clone().unwrap_or_else(|| "announce".into()),
        by: asking.by,
        runner_name: announce.runner.clone(),
        runner: runner.with_command(&announce.command),
        values: BTreeMap::new(),
        timeout: announce.timeout.0.as_secs().max(1),
        busy: Busy::Merge,
        queue: serve.limits.queue,
        callback: None,
        traceparent: asking.traceparent,
        once: asking.once,
    })
}
