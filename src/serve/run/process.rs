//! Jobs as processes of this machine. The program's parent is a supervisor, which goes on when the server does not.

use super::supervise::{self, Cut, End, Found, Spec};
use super::{Begun, Ran, Standing, asked_to_end, cut_short, lost, not_begun, standing, told, too_long};
use crate::error::{Error, Reason, Result};
use crate::serve::config::ProcessRunner;
use crate::serve::jobs::{self, Job, Status, now};
use crate::serve::output::{Sink, read_files};
use crate::serve::server::{RESERVED, Server};
use crate::tools::process;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often the supervisor's files are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How many pieces of output are brought to a shared store before other things are looked at.
const PIECES: usize = 4;
/// How often the store is asked whether the job is to end.
const ASK: Duration = Duration::from_millis(500);

/// Runs a job, or goes on with one that was begun.
pub async fn run(server: &Server, job: &Job, runner: &ProcessRunner, begun: Begun) -> Ran {
    let place = Place::of(server, job);
    if begun == Begun::Now {
        return match begin(server, job, runner, &place).await {
            Ok(child) => place.follow(server, job, Some(child)).await,
            Err(error) if error.reason == Reason::LockLost => Ran::Fenced,
            Err(error) => not_begun(&error),
        };
    }
    if job.place.as_ref() != Some(&place.machine) {
        // Whatever ran there has ended by now: its supervisor ends it when its server is silent for less than a lease.
        return lost(format!("it ran on {}, whose server is gone", job.place.as_deref().unwrap_or("another machine")));
    }
    let attempt = place.attempt.clone();
    let found = tokio::task::spawn_blocking(move || supervise::look(&attempt, true)).await;
    match found {
        Ok(Found::NotBegun) if job.status == Status::Starting => Ran::NotBegun,
        Ok(Found::NotBegun | Found::Gone) | Err(_) => place.gone(),
        Ok(Found::Alive | Found::Ended(_)) => place.follow(server, job, None).await,
    }
}

/// Where a job runs.
struct Place {
    machine: String,
    output: PathBuf,
    attempt: PathBuf,
}

impl Place {
    fn of(server: &Server, job: &Job) -> Self {
        let output = server.output.folder(&job.id);
        Self { machine: jobs::place_of(&server.replica), attempt: output.join(format!("run-{}", job.attempt)), output }
    }

    fn gone(&self) -> Ran {
        supervise::end_orphans(&self.attempt);
        lost("its supervisor is gone (ended by somebody, or the machine was started again), so how it went is not known")
    }

    /// Follows the supervisor to the end, and lets the kernel forget it.
    async fn follow(&self, server: &Server, job: &Job, mut child: Option<std::process::Child>) -> Ran {
        let ran = self.watch(server, job, child.as_mut()).await;
        if let (Some(mut child), false) = (child, matches!(ran, Ran::Left)) {
            tokio::task::spawn_blocking(move || child.wait());
        }
        ran
    }

    async fn watch(&self, server: &Server, job: &Job, mut child: Option<&mut std::process::Child>) -> Ran {
        let mut relay = match Relay::new(server, job, &self.output).await {
            Ok(relay) => relay,
            Err(_fenced) => return Ran::Fenced,
        };
        let mut is_running = job.status == Status::Running;
        let mut asked: Option<Instant> = None;
        loop {
            if server.store.is_shared() {
                supervise::keep_alive(&self.attempt, held(server));
            }
            if asked.is_none_or(|asked| asked.elapsed() > ASK) {
                asked = Some(Instant::now());
                if !self.is_ours(server, job).await {
                    return Ran::Fenced;
                }
            }
            let exited = child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))));
            let take_back = exited || child.is_none();
            let found = tokio::task::block_in_place(|| supervise::look(&self.attempt, take_back));
            if !is_running && self.attempt.join("child").exists() {
                is_running = self.note_running(server, job).await;
            }
            let pieces = if matches!(found, Found::Alive) { PIECES } else { usize::MAX };
            if relay.go_on(server, job, pieces).await.is_err_and(|error| error.reason == Reason::LockLost) {
                return Ran::Fenced;
            }
            match found {
                Found::Ended(end) => return self.ended(server, job, &end).await,
                Found::Gone => return self.gone(),
                Found::NotBegun if child.is_none() => return Ran::NotBegun,
                Found::NotBegun => {
                    return not_begun(&Error::new(Reason::HookFailed, "its supervisor could not be started; is the disk full?"));
                }
                Found::Alive => {}
            }
            tokio::select! {
                () = server.world.clock.sleep(LOOK) => {}
                () = server.world.cancel.cancelled() => return self.leave(server).await,
            }
        }
    }

    /// It goes on without us; others wait for our return as long as they promised.
    async fn leave(&self, server: &Server) -> Ran {
        if server.store.is_shared() && server.reserved().await {
            supervise::keep_alive(&self.attempt, RESERVED * 8 / 10);
        }
        Ran::Left
    }

    /// Whether the job is still ours; what is not, or is to end, ends.
    async fn is_ours(&self, server: &Server, job: &Job) -> bool {
        let standing = standing(server, job).await;
        if !matches!(standing, Standing::Ours) {
            self.end(); // whoever took it has said that it is lost
        }
        !matches!(standing, Standing::Taken)
    }

    /// Asks the supervisor to end the program.
    fn end(&self) {
        let _next_time = std::fs::write(self.attempt.join("cancel"), b"");
    }

    async fn note_running(&self, server: &Server, job: &Job) -> bool {
        let noted = jobs::change(&server.store, &job.id, &server.replica, |job| {
            job.status = Status::Running;
            job.started = job.started.or(Some(now()));
        });
        let noted = noted.await.is_ok(); // also when it is another replica's: the next look at its words says so
        server.hub.touch(&job.id);
        noted
    }

    async fn ended(&self, server: &Server, job: &Job, end: &End) -> Ran {
        let code = end.code.or(end.signal.map(|signal| 128 + signal));
        match (end.cut, &end.refused) {
            (_, Some(refused)) => cut_short(Status::Error, Some(127), refused.clone()),
            (Some(Cut::Cancelled), _) => {
                let by = asked_to_end(server, job).await.unwrap_or_else(|| "somebody".into());
                cut_short(Status::Cancelled, code, format!("cancelled by {by}"))
            }
            (Some(Cut::TimedOut), _) => cut_short(Status::TimedOut, code, too_long(job)),
            (Some(Cut::Abandoned), _) => {
                lost("its server could not reach the store, so it was ended before another server could take over")
            }
            (None, None) => match (code, end.signal) {
                (Some(0), _) => cut_short(Status::Success, code, "return code 0".into()),
                (_, Some(signal)) => cut_short(Status::Error, code, format!("it was ended by signal {signal}")),
                (Some(other), None) => cut_short(Status::Error, code, format!("return code {other}")),
                (None, None) => lost("its end was not seen"),
            },
        }
    }
}

/// How long the store keeps our jobs for us from now on, with room for their end.
fn held(server: &Server) -> Duration {
    (server.lease * 8 / 10).saturating_sub(server.silent_for())
}

/// Starts the supervisor.
async fn begin(server: &Server, job: &Job, runner: &ProcessRunner, place: &Place) -> Result<std::process::Child> {
    let told = told(server, job)?;
    let folder = server.config().folder.clone();
    let folder = std::path::absolute(folder.join(runner.folder.clone().unwrap_or_default())).unwrap_or(folder);
    let usual =
        ["PATH", "HOME", "LANG", "TZ"].into_iter().filter_map(|name| Some((name.to_owned(), server.world.vars.get(name)?.to_owned())));
    if !jobs::is_mine(&server.store, &job.id, &server.replica).await? {
        return Err(Error::new(Reason::LockLost, "another replica has the job")); // this one was held up too long
    }
    let grace = server.store.is_shared().then(|| server.lease / 10);
    let held = held(server);
    let spec = Spec {
        argv: absolute(&folder, told.command),
        folder,
        env: usual.chain(told.env).collect(),
        secrets: told.secrets.iter().map(|secret| secret.expose().to_owned()).collect(),
        timeout: job.timeout.saturating_mul(1000),
        keep: server.output.keep(),
        output: std::path::absolute(&place.output).unwrap_or_else(|_same| place.output.clone()),
        lease_grace: grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)),
    };
    let attempt = std::path::absolute(&place.attempt).unwrap_or_else(|_same| place.attempt.clone());
    let started = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&attempt)?;
        supervise::keep_alive(&attempt, held);
        process::again(&["serve-job".as_ref(), attempt.as_os_str()], &serde_json::to_vec(&spec)?)
    });
    let started = started.await.map_err(|error| Error::new(Reason::Internal, error.to_string()))?;
    started.map_err(|error| Error::new(Reason::HookFailed, format!("its supervisor cannot be started: {error}")))
}

/// A program with a slash in its name is relative to the working directory.
fn absolute(folder: &Path, mut command: Vec<String>) -> Vec<String> {
    if let Some(program) = command.first_mut().filter(|program| program.contains('/')) {
        *program = folder.join(&program).to_string_lossy().into_owned();
    }
    command
}

/// Brings what the supervisor keeps on this machine to where every replica reads it.
struct Relay {
    folder: PathBuf,
    shared: Option<Sink>,
    told: u64,
}

impl Relay {
    async fn new(server: &Server, job: &Job, folder: &Path) -> Result<Self> {
        let shared = if server.store.is_shared() { Some(server.output.sink(&job.id, &server.replica).await?) } else { None };
        Ok(Self { folder: folder.to_owned(), shared, told: u64::MAX })
    }

    async fn go_on(&mut self, server: &Server, job: &Job, pieces: usize) -> Result<()> {
        let total = crate::serve::output::total_of(&self.folder, server.output.keep()).unwrap_or_default();
        if let Some(sink) = &mut self.shared {
            // A few pieces at a time: what else there is to look at must not wait for a flood.
            for _piece in 0..pieces {
                if sink.total() >= total {
                    break;
                }
                let Ok(piece) = read_files(&self.folder, server.output.keep(), sink.total(), 256 * 1024) else { break };
                if piece.next <= sink.total() {
                    break;
                }
                if piece.from > sink.total() {
                    sink.skip(piece.from).await?; // it was dropped here before it could be brought over
                }
                sink.append(&piece.text).await?;
            }
        }
        if self.told != total {
            self.told = total;
            server.hub.touch(&job.id);
        }
        Ok(())
    }
}
