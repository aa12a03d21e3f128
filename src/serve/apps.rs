//! Who may ask for what: the apps and their secrets, from the file and as they were announced; tokens and people.
//!
//! Secrets are kept as HMAC-SHA256 of their SHA-256 under a key of the store, and compared in constant time. What is not
//! there is compared as well, so that an unknown app and a wrong secret take the same time.

use super::config::{Loaded, Role};
use super::jobs::{Entry, now};
use super::secrets::{self, Known};
use super::store::{Batch, Store};
use crate::error::Result;
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
        let known = secrets::known(self, world, config)?;
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

    /// A secret as it is kept.
    pub fn hash(&self, secret: &str) -> Vec<u8> {
        self.hash_of(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref())
    }

    /// The same for one of which only the SHA-256 is known.
    pub fn hash_of(&self, sha256: &[u8]) -> Vec<u8> {
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

/// The bytes of hexadecimal digits.
pub fn unhex(text: &str) -> Vec<u8> {
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
