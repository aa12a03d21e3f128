//! Jobs as containers of the Docker engine at hand. A container has its job's name, so there is never a second one of it.
//!
//! The engine keeps what the container says and how it ended, so the server may go away meanwhile: it is found again by
//! its name, and what was kept of its words is not kept twice.

use super::{Begun, Ran, Standing, asked_to_end, cut_short, lost, not_begun, return_line, standing, told, too_long};
use crate::error::{Error, Reason, Result};
use crate::serve::config::{DockerRunner, Pull, Success};
use crate::serve::jobs::{self, Job, Status, now};
use crate::serve::output::Sink;
use crate::serve::server::Server;
use crate::tools::http::chain;
use crate::tools::redact::{Stream, Utf8};
use crate::tools::secret::Secret;
use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::container::LogOutput;
use bollard::errors::Error as EngineError;
use bollard::models::{ContainerCreateBody, ContainerState, ContainerStateStatusEnum, HostConfig, HostConfigLogConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use futures::StreamExt;
use std::collections::HashMap;
use std::time::Duration;

/// The label with the job's id.
const LABEL: &str = "dev.tidegate.job";
/// How often the engine and the store are looked at while a container runs.
const LOOK: Duration = Duration::from_millis(500);
/// How long an engine may be away before its jobs are given up.
const AWAY: Duration = Duration::from_secs(300);
/// How long an engine may take to begin what a server asked for before it was killed.
const SETTLED: Duration = Duration::from_secs(3);
/// How long a container may take to end after it was asked to, in seconds.
const GRACE: i32 = 5;

fn name_of(job: &str) -> String {
    format!("tidegate-job-{}", job.to_ascii_lowercase())
}

/// Runs a job, or goes on with one that was begun.
pub async fn run(server: &Server, job: &Job, runner: &DockerRunner, begun: Begun) -> Ran {
    let engine = match server.engine().await {
        Ok(engine) => engine,
        Err(error) => return not_begun(&error),
    };
    let container = Container { server, engine, job, runner, name: name_of(&job.id) };
    match container.prepare(begun).await {
        Ok(Ready::Running) => container.follow().await,
        Ok(Ready::Gone(why)) => lost(why),
        Ok(Ready::Fenced) => Ran::Fenced,
        Ok(Ready::Cancelled(by)) => cut_short(Status::Cancelled, None, format!("cancelled by {by}")),
        // It ran when its server went away: what became of it cannot be seen.
        Err(error) if job.status == Status::Running => lost(error.sentence),
        Err(error) => not_begun(&error),
    }
}

/// The engine, as the place of a job.
async fn place(engine: &Docker) -> std::result::Result<String, EngineError> {
    Ok(format!("engine {}", engine.info().await?.id.unwrap_or_default()))
}

/// Whether this server may look after a job of another one. A container at an engine that it does not reach may still run:
/// then the job's inventory stays taken until the job's limit, or until somebody cancels it.
pub async fn may_adopt(server: &Server, job: &Job) -> bool {
    let Some(there) = job.place.as_ref().filter(|place| place.starts_with("engine ")) else { return true };
    let limit = job.started.unwrap_or(job.accepted).saturating_add(job.timeout.saturating_mul(1000));
    if job.cancelled_by.is_some() || now() > limit {
        return true;
    }
    match server.engine().await {
        Ok(engine) => place(engine).await.is_ok_and(|here| here == *there),
        Err(_none) => false,
    }
}

/// Removes the container of a job whose end is kept.
pub async fn remove(server: &Server, job: &str) {
    if let Ok(engine) = server.engine().await {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let _gone_already = engine.remove_container(&name_of(job), Some(options)).await;
    }
}

/// Removes containers of this kind whose jobs have ended: their server was gone for too long, or was killed before it removed them.
pub async fn sweep(server: &Server) {
    let runs_containers = server.config().serve.runners.values().any(|runner| matches!(runner, crate::serve::config::Runner::Docker(_)));
    if !runs_containers {
        return;
    }
    let Ok(engine) = server.engine().await else { return };
    let filters = HashMap::from([("label".to_owned(), vec![LABEL.to_owned()])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    for container in engine.list_containers(Some(options)).await.unwrap_or_default() {
        let Some(id) = container.labels.and_then(|mut labels| labels.remove(LABEL)) else { continue };
        if let Ok(Some(job)) = jobs::job(&server.store, &id).await
            && !job.status.is_active()
            && job.ended.is_some_and(|ended| now().saturating_sub(ended) > 60_000)
        {
            remove(server, &id).await;
        }
    }
}

struct Container<'a> {
    server: &'a Server,
    engine: &'a Docker,
    job: &'a Job,
    runner: &'a DockerRunner,
    name: String,
}

/// Whether there is a container to follow.
enum Ready {
    Running,
    Gone(String),
    Cancelled(String),
    Fenced,
}

impl Container<'_> {
    async fn prepare(&self, begun: Begun) -> Result<Ready> {
        let place = self.patiently(|| place(self.engine)).await?;
        if let Some(other) = self.job.place.as_ref().filter(|other| other.starts_with("engine ") && **other != place) {
            return Ok(Ready::Gone(format!("it ran on {other}, whose server is gone; this server has {place}")));
        }
        let state = self.state().await?;
        if state.is_none() && begun == Begun::Before && self.job.status == Status::Running {
            return Ok(Ready::Gone("its container is not there any more (removed by somebody), so how it went is not known".into()));
        }
        if state.is_some() && begun == Begun::Before && !state.as_ref().is_some_and(has_begun) {
            // The server that was killed may have asked for its start a moment ago.
            self.server.world.clock.sleep(SETTLED).await;
        }
        if state.is_none()
            && let Some(instead) = self.make(&place).await?
        {
            return Ok(instead);
        }
        // Starting one that has ended would run it again.
        if !self.state().await?.is_some_and(|state| has_begun(&state)) {
            match self.engine.start_container(&self.name, None).await {
                Ok(()) | Err(EngineError::DockerResponseServerError { status_code: 304, .. }) => {}
                Err(error) => return Err(self.failed("its container cannot be started", &error)),
            }
        }
        jobs::change(&self.server.store, &self.job.id, &self.server.replica, |job| {
            job.status = Status::Running;
            job.started = job.started.or(Some(now()));
        })
        .await?;
        self.server.hub.touch(&self.job.id);
        Ok(Ready::Running)
    }

    /// Pulls the image and makes the container; what became of the job if that was in vain.
    async fn make(&self, place: &str) -> Result<Option<Ready>> {
        let noted = jobs::change(&self.server.store, &self.job.id, &self.server.replica, |job| job.place = Some(place.to_owned()));
        if noted.await?.is_none() {
            return Ok(Some(Ready::Fenced));
        }
        if let Some(by) = self.pull().await? {
            return Ok(Some(Ready::Cancelled(by)));
        }
        self.create().await?;
        if !jobs::is_mine(&self.server.store, &self.job.id, &self.server.replica).await? {
            remove(self.server, &self.job.id).await; // pulling took so long that another replica took over
            return Ok(Some(Ready::Fenced));
        }
        Ok(None)
    }

    fn failed(&self, what: &str, error: &EngineError) -> Error {
        Error::new(Reason::HookFailed, format!("{what}: {}", chain(error)))
    }

    async fn state(&self) -> Result<Option<ContainerState>> {
        let inspected = self.patiently(|| async {
            match self.engine.inspect_container(&self.name, None).await {
                Ok(about) => Ok(Some(about.state.unwrap_or_default())),
                Err(EngineError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
                Err(error) => Err(error),
            }
        });
        inspected.await
    }

    /// Asks again while the engine is away: it may be restarting.
    async fn patiently<T, F: Future<Output = std::result::Result<T, EngineError>>>(&self, ask: impl Fn() -> F) -> Result<T> {
        let since = self.server.uptime();
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error @ EngineError::DockerResponseServerError { status_code: 400..500, .. }) => {
                    return Err(self.failed("the Docker engine refuses", &error));
                }
                Err(error) if self.server.uptime() - since > AWAY => return Err(self.failed("the Docker engine does not answer", &error)),
                Err(_away) => self.server.world.clock.sleep(Duration::from_secs(1)).await,
            }
        }
    }

    /// Pulls the image, if that is wanted; who cancelled the job meanwhile.
    async fn pull(&self) -> Result<Option<String>> {
        let image = tagged(&self.runner.image);
        let is_there = || async { self.engine.inspect_image(&image).await.is_ok() };
        if self.runner.pull == Pull::Never || (self.runner.pull == Pull::Missing && is_there().await) {
            return Ok(None);
        }
        let credentials = match &self.runner.registry {
            None => None,
            Some(login) => Some(DockerCredentials {
                username: Some(self.text(&login.username)?),
                password: Some(self.server.secret(&login.password.env)?.expose().to_owned()),
                ..DockerCredentials::default()
            }),
        };
        let options = CreateImageOptionsBuilder::new().from_image(&image).build();
        let mut progress = std::pin::pin!(self.engine.create_image(Some(options), None, credentials));
        loop {
            tokio::select! {
                step = progress.next() => match step {
                    None => return Ok(None),
                    Some(Ok(step)) => if let Some(error) = step.error_detail.and_then(|detail| detail.message) {
                        return Err(Error::new(Reason::HookFailed, format!("the image {image} cannot be pulled: {error}")));
                    },
                    Some(Err(error)) => return Err(self.failed(&format!("the image {image} cannot be pulled"), &error)),
                },
                () = self.server.world.clock.sleep(LOOK) => if let Some(by) = asked_to_end(self.server, self.job).await {
                    return Ok(Some(by));
                },
            }
        }
    }

    fn text(&self, value: &crate::config::TextOrSecret) -> Result<String> {
        match value {
            crate::config::TextOrSecret::Text(text) => Ok(text.clone()),
            crate::config::TextOrSecret::Secret(secret) => Ok(self.server.secret(&secret.env)?.expose().to_owned()),
        }
    }

    async fn create(&self) -> Result<()> {
        let told = told(self.server, self.job)?;
        let body = ContainerCreateBody {
            image: Some(tagged(&self.runner.image)),
            cmd: (!told.command.is_empty()).then_some(told.command),
            entrypoint: self.runner.entrypoint.clone(),
            env: Some(told.env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()),
            user: self.runner.user.clone(),
            labels: Some(HashMap::from([(LABEL.to_owned(), self.job.id.clone()), ("dev.tidegate.app".to_owned(), self.job.app.clone())])),
            host_config: Some(HostConfig {
                network_mode: self.runner.network.clone(),
                pid_mode: self.runner.pid.clone(),
                binds: (!self.runner.mounts.is_empty()).then(|| self.runner.mounts.clone()),
                // The engine keeps all words until the job ends, within bounds of its own.
                log_config: Some(HostConfigLogConfig {
                    typ: Some("json-file".into()),
                    config: Some(HashMap::from([("max-size".to_owned(), "512m".to_owned()), ("max-file".to_owned(), "2".to_owned())])),
                }),
                memory: self.runner.memory.and_then(|mebibytes| i64::try_from(mebibytes * 1024 * 1024).ok()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(&self.name).build();
        match self.engine.create_container(Some(options), body).await {
            Ok(_) | Err(EngineError::DockerResponseServerError { status_code: 409, .. }) => Ok(()), // it was made before
            Err(error) => Err(self.failed("its container cannot be made", &error)),
        }
    }

    /// Follows the container to its end.
    async fn follow(&self) -> Ran {
        let mut sink = match self.server.output.sink(&self.job.id, &self.server.replica).await {
            Ok(sink) => sink,
            Err(_fenced) => return Ran::Fenced,
        };
        let secrets = match told(self.server, self.job) {
            Ok(told) => told.secrets,
            Err(_gone) => self.server.apps.secrets(),
        };
        let mut last = String::new();
        let mut cut = None;
        let begun = self.job.started.unwrap_or_else(now);
        loop {
            tokio::select! {
                heard = self.listen(&mut sink, &secrets, &mut last) => if heard.is_err_and(|error| error.reason == Reason::LockLost) {
                    return Ran::Fenced;
                },
                reason = self.reason_to_end(begun), if cut.is_none() => match reason {
                    Some(reason) => cut = Some(reason),
                    None => {
                        self.let_go().await;
                        return Ran::Fenced;
                    }
                },
            }
            if cut.is_some() {
                self.stop().await;
                // Its words were cut off in the midst of a write: how long they are now is read anew.
                sink = match self.server.output.sink(&self.job.id, &self.server.replica).await {
                    Ok(sink) => sink,
                    Err(_fenced) => return Ran::Fenced,
                };
            }
            match self.state().await {
                Ok(None) => return lost("its container is not there any more (removed by somebody), so how it went is not known"),
                Ok(Some(state)) if has_run(&state) => {
                    let _rest = self.listen(&mut sink, &secrets, &mut last).await;
                    return self.judged(&state, cut, &last);
                }
                Ok(Some(_runs)) => self.server.world.clock.sleep(Duration::from_millis(100)).await, // its words broke off: again
                Err(error) => return lost(error.sentence),
            }
        }
    }

    async fn stop(&self) {
        let options = StopContainerOptionsBuilder::new().t(GRACE).build();
        let _stopped = self.engine.stop_container(&self.name, Some(options)).await;
    }

    /// Keeps what the container says, from its first word on; what is kept already is skipped.
    async fn listen(&self, sink: &mut Sink, secrets: &[Secret], last: &mut String) -> Result<()> {
        let options = LogsOptionsBuilder::new().follow(true).stdout(true).stderr(true).build();
        let mut words = std::pin::pin!(self.engine.logs(&self.name, Some(options)));
        let mut cleaner = Stream::new(secrets);
        let (mut utf8, mut clean, mut text) = (Utf8::default(), Vec::new(), String::new());
        last.clear(); // all of it comes again
        let mut at = 0;
        let mut is_over = false;
        while !is_over {
            match words.next().await {
                Some(Ok(LogOutput::StdOut { message } | LogOutput::StdErr { message } | LogOutput::Console { message })) => {
                    cleaner.push(&message, &mut clean);
                }
                Some(Ok(LogOutput::StdIn { .. })) => {}
                None => {
                    cleaner.finish(&mut clean);
                    is_over = true;
                }
                Some(Err(_broken)) => return Ok(()),
            }
            utf8.push(&clean, &mut text);
            if is_over {
                utf8.finish(&mut text);
            }
            note_last(last, &text);
            let known = usize::try_from(sink.total().saturating_sub(at)).unwrap_or(usize::MAX).min(text.len());
            at += text.len() as u64;
            if let Some(fresh) = text.get(known..).filter(|fresh| !fresh.is_empty()) {
                sink.append(fresh).await?;
                self.server.hub.touch(&self.job.id);
            }
            clean.clear();
            text.clear();
        }
        Ok(())
    }

    /// A container of a job that nobody has any more ends; one that another replica follows goes on.
    async fn let_go(&self) {
        if matches!(jobs::job(&self.server.store, &self.job.id).await, Ok(None)) {
            remove(self.server, &self.job.id).await;
        }
    }

    /// Why it is to end; nothing when it is not ours any more.
    async fn reason_to_end(&self, begun: u64) -> Option<(Status, String)> {
        loop {
            self.server.world.clock.sleep(LOOK).await;
            match standing(self.server, self.job).await {
                Standing::Ours => {}
                Standing::Cancelled(by) => return Some((Status::Cancelled, format!("cancelled by {by}"))),
                Standing::Taken => return None,
            }
            if now().saturating_sub(begun) > self.job.timeout.saturating_mul(1000) {
                return Some((Status::TimedOut, too_long(self.job)));
            }
        }
    }

    fn judged(&self, state: &ContainerState, cut: Option<(Status, String)>, last: &str) -> Ran {
        let code = state.exit_code.and_then(|code| i32::try_from(code).ok());
        if let Some((status, detail)) = cut {
            return cut_short(status, code, detail);
        }
        if state.oom_killed == Some(true) {
            return cut_short(Status::Error, code, "it used more memory than it may".into());
        }
        match (code, self.runner.success) {
            (Some(0), Success::LastLine) if last.trim_end() != return_line(0) => {
                let said: String = last.trim_end().chars().take(200).collect();
                let code = last.strip_prefix(return_line(0).trim_end_matches('0')).and_then(|code| code.trim().parse().ok()).or(Some(1));
                cut_short(Status::Error, code, format!("its last line is {said:?}, not {:?}", return_line(0)))
            }
            (Some(0), Success::ExitCode | Success::LastLine) => cut_short(Status::Success, code, "return code 0".into()),
            (Some(other), _) => {
                let why = state.error.as_deref().filter(|why| !why.is_empty()).map(|why| format!(": {why}")).unwrap_or_default();
                cut_short(Status::Error, code, format!("return code {other}{why}"))
            }
            (None, _) => lost("the engine does not say how its container ended"),
        }
    }
}

/// Keeps the last line, whole or not.
fn note_last(last: &mut String, text: &str) {
    for piece in text.split_inclusive('\n') {
        if last.ends_with('\n') {
            last.clear();
        }
        if last.len() + piece.len() <= 4096 {
            last.push_str(piece); // no line that is looked for is longer
        }
    }
}

fn has_begun(state: &ContainerState) -> bool {
    !matches!(state.status, Some(ContainerStateStatusEnum::CREATED | ContainerStateStatusEnum::EMPTY) | None)
}

fn has_run(state: &ContainerState) -> bool {
    matches!(state.status, Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::DEAD))
}

/// An image's name with a tag: without one the engine would pull all of them.
fn tagged(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') || name.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}
