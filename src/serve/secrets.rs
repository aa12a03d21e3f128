//! The secrets that a configuration names: read, and looked at, before anything is served.

use super::apps::{App, Apps, unhex};
use super::config::{AppSecret, Hook, HookSecret, Loaded, Role, Serve};
use crate::config::SecretName;
use crate::error::{Reason, Result};
use crate::tools::secret::Secret;
use crate::world::World;
use std::collections::HashMap;

/// Machines' tokens and people's passwords are at least so long.
const TOKEN_LENGTH: usize = 16;
const PASSWORD_LENGTH: usize = 12;
const WEBHOOK_LENGTH: usize = 8;
/// What to do about a secret that is not there.
const HINT: &str = "set it where the server is started; one that runs has to be started again for it, a `file` is read again";

/// What the configuration says.
#[derive(Default)]
pub struct Known {
    /// The apps, and their secrets as they are kept; none where an app is only started by others.
    pub apps: HashMap<String, (App, Option<Vec<u8>>)>,
    /// The tokens of machines.
    pub tokens: Vec<(String, Vec<u8>, Role)>,
    /// The passwords of people.
    pub users: HashMap<String, (Vec<u8>, Role)>,
    /// The secrets of webhooks, in the order of their keys.
    pub hooks: HashMap<String, Vec<Secret>>,
    /// All of them.
    pub secrets: Vec<Secret>,
}

/// Reads the secrets that a configuration names.
struct Reader<'a> {
    apps: &'a Apps,
    world: &'a World,
    config: &'a Loaded,
    secrets: Vec<Secret>,
    problems: Vec<(String, String, String)>,
}

/// Reads all that a configuration names, or says everything that is wrong with it.
pub fn known(apps: &Apps, world: &World, config: &Loaded) -> Result<Known> {
    Reader { apps, world, config, secrets: Vec::new(), problems: Vec::new() }.known(&config.serve)
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
