//! Runs jobs: takes the next one, follows it wherever it runs, writes its end down once, and tells whoever asked to know.

mod docker;
mod process;
pub mod supervise;

use super::config::Runner;
use super::jobs::{self, Job, Outcome, Status, now};
use super::server::Server;
use super::store::Batch;
use super::{callback, slack};
use crate::config::TextOrSecret;
use crate::config::template;
use crate::error::Result;
use crate::tools::secret::Secret;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often the store is looked at for jobs that others accepted.
const LOOK: Duration = Duration::from_secs(1);
/// How often what is old is forgotten.
const FORGET: Duration = Duration::from_secs(60);
/// How long the name of a request is known: forges deliver again for three days.
const SEEN: Duration = Duration::from_secs(72 * 3600);

/// After how many milliseconds an end that was not told is told by whoever finds it.
const UNTOLD: u64 = 60_000;

/// What came of running a job.
enum Ran {
    /// It has ended so.
    Ended(Outcome),
    /// Nothing of it ran; it may be begun again.
    NotBegun,
    /// Another replica looks after it now.
    Fenced,
    /// The server stops; it goes on alone.
    Left,
}

/// The jobs that this server follows.
type Mine = Arc<Mutex<HashSet<String>>>;

/// Runs jobs until the server stops; those that run then go on without it.
pub async fn work(server: Arc<Server>) {
    let mine = Mine::default();
    tokio::spawn(beat(server.clone()));
    tokio::spawn(forget(server.clone()));
    let mut was_reachable = true;
    loop {
        let worked = async {
            adopt(&server, &mine).await?;
            while let Some(job) = jobs::claim(&server.store, &server.replica, &server.limits()).await? {
                follow(&server, &mine, job, Begun::Now);
            }
            Ok::<(), crate::error::Error>(())
        };
        let reachable = match worked.await {
            Ok(()) => true,
            Err(error) => {
                if was_reachable {
                    server.say(&format!("no job can be begun: {}", error.sentence));
                }
                false
            }
        };
        if reachable && !was_reachable {
            server.say("the store can be used again");
        }
        was_reachable = reachable;
        tokio::select! {
            () = server.wake.notified() => {}
            () = server.world.clock.sleep(LOOK) => {}
            () = server.world.cancel.cancelled() => return,
        }
    }
}

/// Whether a job is begun now, or was begun before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begun {
    Now,
    Before,
}

fn follow(server: &Arc<Server>, mine: &Mine, job: Job, begun: Begun) {
    if !mine.lock().unwrap_or_else(PoisonError::into_inner).insert(job.id.clone()) {
        return;
    }
    let (server, mine) = (server.clone(), mine.clone());
    server.clone().running.spawn(async move {
        run(&server, &job, begun).await;
        mine.lock().unwrap_or_else(PoisonError::into_inner).remove(&job.id);
        server.wake.notify_one();
    });
}

/// Looks after the jobs of replicas that are gone, and after those that it had itself before it was started again.
async fn adopt(server: &Arc<Server>, mine: &Mine) -> Result<()> {
    for job in jobs::running(&server.store).await? {
        if mine.lock().unwrap_or_else(PoisonError::into_inner).contains(&job.id) || job.holder.is_none() {
            continue;
        }
        let holder = job.holder.clone().unwrap_or_default();
        if holder != server.replica && server.store.is_alive(&holder).await? {
            continue;
        }
        if matches!(job.runner, Runner::Docker(_)) && holder != server.replica && !docker::may_adopt(server, &job).await {
            continue;
        }
        if let Some(job) = jobs::take_over(&server.store, &job.id, job.holder.as_deref(), &server.replica).await? {
            server.say(&format!(
                "job {} of {} was {} when its server went away: it is looked after again",
                job.id,
                job.app,
                job.status.name()
            ));
            follow(server, mine, job, Begun::Before);
        }
    }
    Ok(())
}

async fn run(server: &Server, job: &Job, begun: Begun) {
    if begun == Begun::Now {
        server.say(&format!("job {} of {} begins (asked for by {})", job.id, job.app, job.by));
        server.hub.touch(&job.id);
    }
    let ran = match &job.runner {
        Runner::Process(process) => process::run(server, job, process, begun).await,
        Runner::Docker(docker) => docker::run(server, job, docker, begun).await,
    };
    match ran {
        Ran::Ended(outcome) => conclude(server, job, &outcome).await,
        Ran::NotBegun => until_kept(server, || jobs::put_back(&server.store, &job.id, &server.replica)).await.map_or((), |_job| {
            server.say(&format!("job {} of {} had not begun when its server went away: it is begun again", job.id, job.app));
        }),
        Ran::Left => {}
        Ran::Fenced => server.say(&format!("job {} of {} is another replica's now", job.id, job.app)),
    }
}

/// Writes the end of a job down, once, and tells whoever asked to know.
async fn conclude(server: &Server, job: &Job, outcome: &Outcome) {
    let is_mine = until_kept(server, || async { jobs::is_mine(&server.store, &job.id, &server.replica).await.map(Some) }).await;
    if is_mine != Some(true) {
        server.say(&format!("job {} of {} is another replica's now", job.id, job.app));
        return;
    }
    if let Err(error) = last_words(server, job, outcome).await {
        server.say(&format!("the last lines of job {} are lost: {}", job.id, error.sentence));
    }
    let ended = until_kept(server, || jobs::finish(&server.store, &job.id, &server.replica, outcome)).await;
    let Some(ended) = ended else {
        server.hub.touch(&job.id);
        return; // it had ended before
    };
    server.hub.touch(&job.id);
    server.metrics.job_ended(&ended);
    server.say(&format!("job {} of {} ended: {} ({})", ended.id, ended.app, ended.status.name(), ended.detail));
    if matches!(ended.runner, Runner::Docker(_)) {
        docker::remove(server, &ended.id).await;
    }
    server.wake.notify_one();
    tell(server, &ended).await;
}

/// Tells whoever asked to know how a job ended. The store remembers that until it is done.
pub async fn tell(server: &Server, job: &Job) {
    server.traces.job(job).await;
    slack::tell(server, job).await;
    callback::tell(server, job).await;
    let _again_later = server.store.commit(Batch::new().delete(jobs::tell_key(&job.id))).await;
}

/// Somebody asked for the end of a job. One that waited has ended by that.
pub fn cancelled(server: &Arc<Server>, job: &Job) {
    server.hub.touch(&job.id);
    server.wake.notify_one();
    if !job.status.is_active() {
        server.metrics.job_ended(job);
        server.say(&format!("job {} of {} ended: {} ({})", job.id, job.app, job.status.name(), job.detail));
        let (server, job) = (server.clone(), job.clone());
        tokio::spawn(async move { tell(&server, &job).await });
    }
}

/// Tells what a server that was killed meanwhile could not.
async fn tell_again(server: &Server) -> Result<()> {
    for (id, mark) in jobs::untold(&server.store, now().saturating_sub(UNTOLD)).await? {
        let claimed = Batch::new().when(jobs::tell_key(&id), Some(&mark)).put(jobs::tell_key(&id), &now());
        if let (true, Some(job)) = (server.store.commit(claimed).await?, jobs::job(&server.store, &id).await?) {
            tell(server, &job).await;
        }
    }
    Ok(())
}

/// Tries until the store takes it: a full disk or a server that is away must not lose the end of a job.
async fn until_kept<T, F: Future<Output = Result<Option<T>>>>(server: &Server, mut work: impl FnMut() -> F) -> Option<T> {
    let mut told = false;
    loop {
        match work().await {
            Ok(done) => return done,
            Err(error) if !told => {
                server.say(&format!("the store does not take the end of a job; it is tried again: {}", error.sentence));
                told = true;
            }
            Err(_again) => {}
        }
        tokio::select! {
            () = server.world.clock.sleep(Duration::from_secs(1)) => {}
            () = server.world.cancel.cancelled() => return None,
        }
    }
}

/// The line that clients of the ENAC server look for at the end.
pub fn return_line(code: i32) -> String {
    format!("Process terminated with return code: {code}")
}

async fn last_words(server: &Server, job: &Job, outcome: &Outcome) -> Result<()> {
    let end = server.output.end(&job.id, 512).await?.text;
    let last = end.lines().next_back().unwrap_or_default();
    let mut words = String::new();
    if !end.is_empty() && !end.ends_with('\n') {
        words.push('\n');
    }
    let said = format!("tidegate: {}", outcome.detail);
    let wanted = outcome.code.map(return_line);
    let is_said = wanted.as_deref() == Some(last) || end.lines().any(|line| line == said);
    if !is_said && outcome.status != Status::Success {
        words.push_str(&format!("{said}\n"));
    }
    if let Some(line) = wanted.filter(|line| line != last) {
        words.push_str(&format!("{line}\n"));
    }
    if words.trim().is_empty() {
        return Ok(());
    }
    server.output.sink(&job.id, &server.replica).await?.append(&words).await
}

/// Says that this replica lives, for as long as it does.
async fn beat(server: Arc<Server>) {
    if !server.store.is_shared() {
        return;
    }
    loop {
        let asked = server.uptime();
        if server.store.beat(&server.replica).await.is_ok() {
            server.note_heard(asked);
        }
        let pause = server.lease / 4;
        tokio::select! {
            () = server.world.clock.sleep(pause) => {}
            () = server.world.cancel.cancelled() => return,
        }
    }
}

async fn forget(server: Arc<Server>) {
    let mut rounds = 0_u32;
    loop {
        let keep = server.limits().keep.0;
        let before = |age: Duration| now().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        if rounds.is_multiple_of(10) {
            let _next_time = jobs::forget_seen(&server.store, before(SEEN)).await;
        }
        rounds += 1;
        if let Ok(gone) = jobs::forget(&server.store, before(keep)).await {
            for job in gone {
                let _later = server.output.forget(&job).await;
            }
        }
        docker::sweep(&server).await;
        let _next_time = tell_again(&server).await;
        let _next_time = server.output.tidy(&server.store).await;
        tokio::select! {
            () = server.world.clock.sleep(FORGET) => {}
            () = server.world.cancel.cancelled() => return,
        }
    }
}

/// Everything that a job's program is told: its arguments, its environment, and what must not be shown.
struct Told {
    command: Vec<String>,
    env: Vec<(String, String)>,
    secrets: Vec<Secret>,
}

fn told(server: &Server, job: &Job) -> Result<Told> {
    let values = values(job);
    let fill = |text: &String| template::split(text).unwrap_or_default().into_iter().map(|part| filled(part, &values)).collect::<String>();
    let command = job.runner.command().iter().map(fill).collect();
    let mut env: Vec<(String, String)> = Vec::new();
    let mut secrets = server.apps.secrets();
    for (name, value) in job.runner.env() {
        match value {
            TextOrSecret::Text(text) => env.push((name.clone(), fill(text))),
            TextOrSecret::Secret(named) => {
                let secret = server.secret(&named.env)?;
                env.push((name.clone(), secret.expose().to_owned()));
                secrets.push(secret);
            }
        }
    }
    for name in job.runner.secret_names() {
        secrets.push(server.secret(name)?);
    }
    for (name, value) in &values {
        env.push((format!("TIDEGATE_{}", name.to_ascii_uppercase()), value.clone()));
    }
    env.extend(job.traceparent.iter().map(|parent| ("TRACEPARENT".to_owned(), parent.clone())));
    Ok(Told { command, env, secrets })
}

fn filled(part: template::Part, values: &BTreeMap<String, String>) -> String {
    match part {
        template::Part::Text(text) => text,
        template::Part::Name(name) => values.get(&name).cloned().unwrap_or_default(),
    }
}

/// What placeholders stand for.
fn values(job: &Job) -> BTreeMap<String, String> {
    let mut values = job.values.clone();
    for (name, value) in [("app", &job.app), ("inventory", &job.inventory), ("job", &job.id), ("actor", &job.by)] {
        values.insert(name.into(), value.clone());
    }
    values
}

/// Whose a job is that is followed here.
enum Standing {
    /// Still ours, as far as the store can be asked.
    Ours,
    /// Ours, and somebody has asked for its end.
    Cancelled(String),
    /// Another replica's, or it has ended, or the store has forgotten it.
    Taken,
}

async fn standing(server: &Server, job: &Job) -> Standing {
    match jobs::job(&server.store, &job.id).await {
        Err(_away) => Standing::Ours,
        Ok(Some(now)) if now.status.is_active() && now.holder.as_deref() == Some(&server.replica) => {
            now.cancelled_by.map_or(Standing::Ours, Standing::Cancelled)
        }
        Ok(_other) => Standing::Taken,
    }
}

/// Whether somebody has asked for the end of a job, and who.
async fn asked_to_end(server: &Server, job: &Job) -> Option<String> {
    jobs::job(&server.store, &job.id).await.ok().flatten().and_then(|job| job.cancelled_by)
}

/// How a job ended that somebody or something cut short.
fn cut_short(status: Status, code: Option<i32>, detail: String) -> Ran {
    Ran::Ended(Outcome { status, code, detail })
}

/// A job that could not be begun.
fn not_begun(why: &crate::error::Error) -> Ran {
    cut_short(Status::Error, None, why.sentence.clone())
}

fn lost(why: impl Into<String>) -> Ran {
    cut_short(Status::Lost, None, why.into())
}

fn too_long(job: &Job) -> String {
    format!("it was ended after {}, its limit", humantime::format_duration(Duration::from_secs(job.timeout)))
}
