//! From what somebody asks for to the job that is wanted: which runner, how long, what happens while another one is active.

use super::apps::App;
use super::config::{ANNOUNCE, Busy, Runner, Serve};
use super::jobs::{Callback, Job, Wanted};
use super::server::Server;
use crate::error::{Error, Reason, Result};
use std::collections::BTreeMap;

/// How somebody asks.
#[derive(Clone, Debug, Default)]
pub struct Asking {
    /// Who.
    pub by: String,
    /// What the job is told.
    pub values: BTreeMap<String, String>,
    /// Where the sender wants to be told.
    pub callback: Option<Callback>,
    /// The trace of the sender.
    pub traceparent: Option<String>,
    /// The names of the request.
    pub once: Vec<String>,
    /// What happens while another job is active, where it is not the app's own rule.
    pub busy: Option<Busy>,
}

impl Asking {
    /// A job by this runner, with the limits that hold where nothing else is said.
    pub fn by_runner(self, serve: &Serve, app: &str, inventory: &str, (runner_name, runner): (String, Runner)) -> Wanted {
        Wanted {
            app: app.to_owned(),
            inventory: inventory.to_owned(),
            by: self.by,
            runner_name,
            runner,
            values: self.values,
            timeout: serve.defaults.timeout.0.as_secs().max(1),
            busy: self.busy.unwrap_or(serve.defaults.busy),
            queue: serve.limits.queue,
            callback: self.callback,
            traceparent: self.traceparent,
            once: self.once,
        }
    }
}

/// The job of an app, as the configuration has it now.
pub fn wanted(serve: &Serve, app: &App, mut asking: Asking) -> Result<Wanted> {
    if serve.announce.as_ref().is_some_and(|announce| announce.inventory.as_deref() == Some(app.inventory.as_str())) {
        return announcing(serve, &app.id, asking);
    }
    let about = serve.apps.get(&app.id);
    let only = || serve.runners.keys().next().filter(|_| serve.runners.len() == 1);
    let named = about.and_then(|about| about.runner.as_ref()).or(serve.defaults.runner.as_ref()).or_else(only);
    let runner = named.and_then(|name| Some((name.clone(), serve.runners.get(name)?.clone()))).ok_or_else(|| {
        Error::new(Reason::ConfigInvalid, format!("it is not said which runner runs {}", app.id))
            .hint("write `defaults: {runner: …}` in tidegate-serve.yml")
    })?;
    asking.busy = asking.busy.or(about.and_then(|about| about.busy));
    let mut wanted = asking.by_runner(serve, &app.id, &app.inventory, runner);
    if let Some(timeout) = about.and_then(|about| about.timeout) {
        wanted.timeout = timeout.0.as_secs().max(1);
    }
    if let Some(queue) = about.and_then(|about| about.queue) {
        wanted.queue = queue;
    }
    Ok(wanted)
}

/// The same as a job again, with what it was told: its tag, its digest. The app's runner is the one of the configuration now.
pub async fn again(server: &Server, job: &Job, by: String) -> Result<Wanted> {
    let config = server.config();
    let asking = Asking { by, values: job.values.clone(), busy: Some(Busy::Queue), ..Asking::default() };
    if job.app == ANNOUNCE {
        return announcing(&config.serve, &job.app, asking);
    }
    if let Some(app) = server.apps.get(&server.store, &job.app).await? {
        return wanted(&config.serve, &app, asking);
    }
    if !job.app.starts_with("webhook:") {
        return Err(Error::new(Reason::ConfigInvalid, format!("the app {} is not there any more", job.app)));
    }
    let runner = (job.runner_name.clone(), job.runner.clone());
    Ok(Wanted { timeout: job.timeout, ..asking.by_runner(&config.serve, &job.app, &job.inventory, runner) })
}

/// The job that announces the apps. It is told nothing, and one at a time is enough.
pub fn announcing(serve: &Serve, app: &str, asking: Asking) -> Result<Wanted> {
    let missing = || Error::new(Reason::ConfigInvalid, "there is no `announce:` in tidegate-serve.yml");
    let announce = serve.announce.as_ref().ok_or_else(missing)?;
    let runner = serve.runners.get(&announce.runner).ok_or_else(missing)?.with_command(&announce.command);
    let asking = Asking { values: BTreeMap::new(), callback: None, busy: Some(Busy::Merge), ..asking };
    let inventory = announce.inventory.as_deref().unwrap_or("announce");
    let timeout = announce.timeout.0.as_secs().max(1);
    Ok(Wanted { timeout, ..asking.by_runner(serve, app, inventory, (announce.runner.clone(), runner)) })
}
