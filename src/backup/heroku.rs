//! Heroku Postgres by Heroku's own backups: captured there, followed to their end, and fetched.
//!
//! The calls are those of Heroku's command line: <https://github.com/heroku/cli/tree/main/packages/cli/src/commands/pg/backups>.

use super::Survey;
use super::inspect::Shape;
use crate::config::{self, OnMissing};
use crate::error::{Error, Reason, Result};
use crate::targets::heroku::api::{Api, Request};
use crate::tools::http::{self, chain};
use crate::tools::secret::Secret;
use crate::tools::wait::Backoff;
use crate::world::World;
use futures::TryStreamExt;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::AsyncRead;

/// A database of an app.
pub struct Heroku<'a> {
    world: &'a World,
    source: &'a config::HerokuPostgres,
    app: String,
}

/// An add-on: its id, and the app that owns it, which may be another one than it is attached to.
struct Addon {
    id: String,
    owner: String,
}

/// What Heroku has captured.
pub struct Captured {
    /// Its bytes, as Heroku counts them.
    pub bytes: u64,
    /// Its name there, as b012.
    pub name: String,
    url: Secret,
}

impl<'a> Heroku<'a> {
    /// Connects to nothing.
    pub fn of(world: &'a World, source: &'a config::HerokuPostgres) -> Self {
        Self { world, source, app: source.app.clone() }
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        format!("{} of {} on Heroku", self.source.database, self.app)
    }

    async fn addon(&self, api: &Api<'_>) -> Result<Option<Addon>> {
        let Some(answer) = api.find(&format!("/apps/{}/addon-attachments", self.app)).await? else { return Ok(None) };
        let wanted = self.source.database.strip_suffix("_URL").unwrap_or(&self.source.database);
        let text = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let found = answer.list().iter().find(|attachment| text(attachment, "/name").as_deref() == Some(wanted));
        Ok(found.and_then(|attachment| {
            let owner = text(attachment, "/addon/app/name").unwrap_or_else(|| self.app.clone());
            Some(Addon { id: text(attachment, "/addon/id")?, owner })
        }))
    }

    /// Captures a backup and waits for its end; nothing where there is no database and that is fine.
    pub async fn capture(&self) -> Result<Option<Captured>> {
        let api = Api::open(self.world, &self.source.token.env)?;
        let Some(addon) = self.addon(&api).await? else {
            if self.source.on_missing == OnMissing::Skip {
                return Ok(None);
            }
            let sentence = format!("the Heroku app {} is not there, or has no database {}", self.app, self.source.database);
            return Err(Error::new(Reason::BackupFailed, sentence)
                .hint("look at `heroku addons -a APP`; where having none is fine, as in a first deploy: `on-missing: skip`"));
        };
        let data = Api::of_data(self.world, &self.source.token.env)?;
        let none = json!({});
        let begun = data.expect(&Request::post(&format!("/client/v11/databases/{}/backups", addon.id), &none)).await?;
        let id = begun.text("/uuid").unwrap_or_default().to_owned();
        if id.is_empty() {
            return Err(Error::new(Reason::BackupFailed, format!("Heroku began a backup of {}, and it has no id", self.place())));
        }
        let path = format!("/client/v11/apps/{}/transfers/{id}", addon.owner);
        let done = match self.follow(&data, &path).await {
            Err(error) if error.reason == Reason::Cancelled => {
                let stop = format!("{path}/actions/cancel");
                let stopped = tokio::time::timeout(Duration::from_millis(800), data.once_more(&Request::post(&stop, &none))).await;
                let said = if stopped.is_ok_and(|stopped| stopped.is_ok()) { "it was told to stop it" } else { "the backup goes on there" };
                return Err(Error { detail: vec![said.into()], ..error });
            }
            done => done?,
        };
        let number = done.pointer("/num").and_then(Value::as_u64).unwrap_or_default();
        let public = format!("/client/v11/apps/{}/transfers/{number}/actions/public-url", addon.owner);
        let answer = data.expect(&Request::post(&public, &none)).await?;
        let url = Secret::new(answer.text("/url").unwrap_or_default());
        self.world.console.mask(&url); // whoever has it can read the backup
        if !url.expose().starts_with("https://") && !crate::config::is_loopback(url.expose()) {
            return Err(Error::new(Reason::BackupFailed, "Heroku gives no https address of its backup"));
        }
        let bytes = done.pointer("/processed_bytes").and_then(Value::as_u64).unwrap_or_default();
        Ok(Some(Captured { bytes, name: format!("b{number:03}"), url }))
    }

    async fn follow(&self, data: &Api<'_>, path: &str) -> Result<Value> {
        let mut pauses = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        loop {
            let answer = data.read(path).await?;
            if answer.text("/finished_at").is_some_and(|at| !at.is_empty()) {
                if answer.body.pointer("/succeeded").and_then(Value::as_bool) == Some(true) {
                    return Ok(answer.body);
                }
                let logs = answer.body.pointer("/logs").and_then(Value::as_array).into_iter().flatten();
                let lines: Vec<String> = logs.filter_map(|line| Some(line.pointer("/message")?.as_str()?.to_owned())).collect();
                let tail = lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().to_vec();
                return Err(Error::new(Reason::BackupFailed, format!("Heroku's backup of {} failed", self.place())).detail(tail));
            }
            data.sleep(data.pause(pauses.pause())).await?;
        }
    }

    /// The backup's bytes.
    pub async fn fetch(&self, captured: &Captured) -> Result<impl AsyncRead + Unpin + use<>> {
        let lost = |why: String| Error::new(Reason::BackupFailed, format!("Heroku's backup {} cannot be fetched: {why}", captured.name));
        let client = http::client(&self.world.vars)?;
        let url = http::led_to(captured.url.expose()).map_err(lost)?;
        let answer = client.get(url).send().await.map_err(|error| lost(chain(&error.without_url())))?;
        if !answer.status().is_success() {
            return Err(lost(format!("its address answers {}", answer.status())));
        }
        let bytes = answer.bytes_stream().map_err(|error| std::io::Error::other(chain(&error.without_url())));
        Ok(tokio_util::io::StreamReader::new(Box::pin(bytes)))
    }

    /// The address of the database itself, out of the app's config vars: what a restore writes to.
    pub async fn address(&self) -> Result<Secret> {
        let api = Api::open(self.world, &self.source.token.env)?;
        let vars = api.read(&format!("/apps/{}/config-vars", self.app)).await?;
        let address = vars.body.get(&self.source.database).and_then(Value::as_str).filter(|text| !text.is_empty());
        let address = address.ok_or_else(|| {
            Error::new(Reason::RestoreFailed, format!("the Heroku app {} has no config var {}", self.app, self.source.database))
                .hint("look at `heroku config -a APP`")
        })?;
        let secret = Secret::new(address);
        self.world.console.mask(&secret);
        Ok(secret)
    }
}

/// How Heroku's backups look: archives of pg_dump.
pub fn shape() -> Shape {
    Shape { begins_with: vec!["PGDMP".into()], ..Shape::default() }
}

/// What is known of the database before it is captured.
pub fn survey() -> Survey {
    Survey { engine: "Heroku Postgres", major: 0, version: String::new(), bytes: 0, tables: None, relations: 0, migration: None }
}
