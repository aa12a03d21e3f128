//! Dynos: scaled as wanted, and looked at until every one of them is up and runs the release.

use super::Deploy;
use super::api::Request;
use crate::error::{Error, Reason, Result};
use crate::tools::http;
use crate::tools::wait::{Backoff, spoken};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How much of a dyno's log is read, and how many lines are shown.
const LOG_LIMIT: usize = 256 * 1024;
const LOG_LINES: usize = 15;

/// Dynos of one process type.
#[derive(Clone, Debug, Default)]
struct Kind {
    wanted: u64,
    /// Up, or asleep, with the release.
    up: u64,
    /// With another release.
    other: u64,
    /// Neither yet.
    starting: u64,
    /// The name of one that is down.
    crashed: Option<String>,
    /// Heroku does not know the process type (yet).
    is_missing: bool,
}

/// One look at the dynos.
#[derive(Clone, Debug, Default)]
pub struct Look(BTreeMap<String, Kind>);

impl Look {
    /// Whether every dyno runs the release, and there are as many as are wanted.
    pub fn are_up(&self) -> bool {
        self.0
            .values()
            .all(|kind| !kind.is_missing && kind.up == kind.wanted && kind.other == 0 && kind.starting == 0 && kind.crashed.is_none())
    }

    /// Whether all that runs is of another release.
    fn is_another(&self) -> bool {
        self.0.values().any(|kind| kind.other > 0 && kind.up == 0 && kind.starting == 0)
    }

    fn crashed(&self) -> Option<&str> {
        self.0.values().find_map(|kind| kind.crashed.as_deref())
    }
}

impl std::fmt::Display for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds = self.0.iter().map(|(name, kind)| {
            let more = [("of another release", kind.other), ("starting", kind.starting)];
            let more: Vec<String> = more.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}")).collect();
            let more = if more.is_empty() { String::new() } else { format!(" ({})", more.join(", ")) };
            format!("{name} {} of {} up{more}", kind.up, kind.wanted)
        });
        f.write_str(&kinds.collect::<Vec<_>>().join(", "))
    }
}

impl Deploy<'_> {
    /// Brings the process types to the wanted numbers and sizes.
    pub(super) async fn scale(&self) -> Result<()> {
        let app = &self.work.app;
        let formation = self.api.read(&format!("/apps/{app}/formation")).await?;
        let mut updates = Vec::new();
        for (process, dynos) in &self.work.target.dynos {
            let (quantity, size) = (dynos.quantity(), dynos.size());
            let there = formation.list().iter().find(|kind| kind.get("type").and_then(Value::as_str) == Some(process));
            let is = |pointer: &str| there.and_then(|kind| kind.pointer(pointer)).cloned().unwrap_or(Value::Null);
            let same_size = size.is_none_or(|size| is("/dyno_size/name").as_str().is_some_and(|name| name.eq_ignore_ascii_case(size)));
            if is("/quantity") == json!(quantity) && same_size {
                continue;
            }
            let mut update = json!({"type": process, "quantity": quantity});
            size.into_iter().for_each(|size| crate::targets::set(&mut update, &["dyno_size", "name"], json!(size)));
            updates.push(update);
            let of = size.map(|size| format!(" of the size {size}")).unwrap_or_default();
            self.site.say(&format!("{app}: {quantity} dynos for {process}{of}"));
        }
        if updates.is_empty() {
            return Ok(());
        }
        self.api.expect(&Request::patch(&format!("/apps/{app}/formation"), &json!({"updates": updates}))).await.map(drop)
    }

    /// How the dynos stand to a release.
    pub(super) async fn dynos(&self, version: u64) -> Result<Look> {
        let app = &self.work.app;
        let formation = self.api.read(&format!("/apps/{app}/formation")).await?;
        let dynos = self.api.read(&format!("/apps/{app}/dynos")).await?;
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut look = Look::default();
        for process in self.work.processes.iter().map(|(process, _)| process).filter(|process| *process != "release") {
            let kind = formation.list().iter().find(|kind| text(kind, "type") == *process);
            let there = kind.and_then(|kind| kind.get("quantity")?.as_u64());
            let asked = self.work.target.dynos.get(process).map(|dynos| u64::from(dynos.quantity()));
            let wanted = asked.or(there).unwrap_or(0);
            let mut seen = Kind { wanted, is_missing: there.is_none(), ..Kind::default() };
            for dyno in dynos.list().iter().filter(|dyno| text(dyno, "type") == *process) {
                let ours = dyno.pointer("/release/version").and_then(Value::as_u64) == Some(version);
                match (ours, text(dyno, "state").as_str()) {
                    (false, _) => seen.other += 1,
                    (true, "up" | "idle") => seen.up += 1,
                    (true, "crashed") => seen.crashed = Some(text(dyno, "name")),
                    (true, _starting) => seen.starting += 1,
                }
            }
            look.0.insert(process.clone(), seen);
        }
        Ok(look)
    }

    /// Waits until every dyno is up and runs the release.
    pub(super) async fn up(&self, version: u64) -> Result<Look> {
        let (clock, limit, app) = (&self.site.world.clock, self.work.target.timeout.0, &self.work.app);
        let (deadline, mut said, mut was_up) = (clock.now().saturating_add(limit), String::new(), false);
        let mut pauses = Backoff::new(super::PAUSES.0, super::PAUSES.1);
        loop {
            let look = self.dynos(version).await?;
            if look.are_up() && was_up {
                return Ok(look); // a program that dies at once is up at one look
            }
            was_up = look.are_up();
            if let Some(dyno) = look.crashed() {
                let sentence = format!("{dyno} of {app} crashed with v{version}");
                return Err(Error::new(Reason::TargetCrashLoop, sentence)
                    .detail(self.log(dyno).await)
                    .hint(format!("heroku logs -a {app}")));
            }
            if look.is_another() {
                self.is_current(version).await?; // somebody else's release is not waited for
            }
            if clock.now() >= deadline {
                let sentence = format!("{app} does not run v{version} after {}: {look}", spoken(limit));
                let reason = if look.is_another() { Reason::TargetWrongDigest } else { Reason::TargetTimeout };
                return Err(Error::new(reason, sentence).hint(format!("heroku ps -a {app}; heroku logs -a {app}")));
            }
            let now = look.to_string();
            if now != said {
                self.site.say(&format!("{app} v{version}: {now}"));
                said = now;
            }
            let left = deadline.saturating_sub(clock.now());
            self.api.sleep(self.api.pause(pauses.pause()).min(left)).await?;
        }
    }

    /// The last lines of a dyno's log, as far as they can be had.
    async fn log(&self, dyno: &str) -> Vec<String> {
        if self.work.target.output == crate::config::Output::Hide {
            return Vec::new();
        }
        let body = json!({"dyno": dyno, "lines": 100, "tail": false});
        let Ok(session) = self.api.expect(&Request::post(&format!("/apps/{}/log-sessions", self.work.app), &body)).await else {
            return Vec::new();
        };
        let Some(url) = session.text("/logplex_url") else { return Vec::new() };
        let read = async { http::limited(self.api.stream(url).await?, LOG_LIMIT).await };
        let Ok(Ok(bytes)) = tokio::time::timeout(Duration::from_secs(10), read).await else { return Vec::new() };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last =
            lines.iter().skip(lines.len().saturating_sub(LOG_LINES)).map(|line| format!("  {}", crate::tools::console::cut(line, 300)));
        std::iter::once(format!("last lines of {dyno}:")).chain(last).collect()
    }
}
