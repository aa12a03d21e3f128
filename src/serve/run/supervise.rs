//! `tidegate serve-job`: the small process between the server and a job's program, which goes on when the server does not.
//!
//! It is the parent of the program, so it knows how it ended; it cleans and keeps what the program says, holds to its time
//! limit, and writes the end down. The server only looks at the files, so it may be killed and started again meanwhile:
//!
//! - `lock` is held by the supervisor while it lives; the kernel lets go of it when it dies.
//! - `begun` is made once, by whoever comes first: the supervisor before it starts the program, or a server that takes the
//!   job back. So a program never runs twice.
//! - `child` says which process the program is; `cancel` is made by the server to end it; `alive` says until when a shared
//!   store keeps the job for this server; `end` says how it ended.

use crate::error::{Error, Reason, Result};
use crate::serve::output::{Keep, Writer};
use crate::tools::process;
use crate::tools::redact::{Stream, Utf8};
use crate::tools::secret::Secret;
use crate::tools::wait::nap;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How often the files of the server are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long a program may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);
/// How long the last words of an ended program are waited for while others hold its pipe.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What a server writes into `begun` when it takes an attempt back.
const TAKEN: &[u8] = b"taken back";
/// Room for the end, so that a full disk does not keep a job from ending.
const ROOM: usize = 2048;

/// What the supervisor is told on its standard input. It holds secrets, so it stands nowhere else.
#[derive(Serialize, Deserialize)]
pub struct Spec {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The working directory.
    pub folder: PathBuf,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// What must not be shown.
    pub secrets: Vec<String>,
    /// The time limit, in milliseconds.
    pub timeout: u64,
    /// How much of the output is kept.
    pub keep: Keep,
    /// The folder of the output.
    pub output: PathBuf,
    /// With a shared store: how long the program may take to end when `alive` says that the job is given up, in milliseconds.
    pub lease_grace: Option<u64>,
}

/// How a program ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct End {
    /// Its exit code.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Why it was ended, if it was: cancelled, timed-out, abandoned.
    pub cut: Option<Cut>,
    /// Why it could not be started.
    pub refused: Option<String>,
}

/// Why a program was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cut {
    /// Somebody asked for it.
    Cancelled,
    /// It took too long.
    TimedOut,
    /// No server looked after it any more, and another one may take over.
    Abandoned,
}

/// Which process the program is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Program {
    /// Its number.
    pub process: u32,
    /// When it began, in the kernel's ticks.
    pub began: Option<u64>,
}

/// Supervises one program; `folder` is where the files of this attempt are.
pub fn supervise(folder: &Path) -> Result<()> {
    let _leader_already = rustix::process::setsid();
    let mut input = Vec::new();
    std::io::stdin().take(16 * 1024 * 1024).read_to_end(&mut input).map_err(|error| failed(folder, &error))?;
    // A server that was killed while it wrote this leaves half of it: then nothing runs.
    let spec: Spec =
        serde_json::from_slice(&input).map_err(|error| Error::new(Reason::InputInvalid, format!("no job was given: {error}")))?;
    drop(input);
    let lock = File::create(folder.join("lock")).map_err(|error| failed(folder, &error))?;
    lock.lock().map_err(|error| failed(folder, &error))?; // a server that looks holds it for a moment
    let room = reserve(folder).map_err(|error| failed(folder, &error))?;
    if let Err(error) = File::create_new(folder.join("begun")).and_then(|file| file.sync_all()).and_then(|()| flush(folder)) {
        return Err(failed(folder, &error)); // a server took the job back
    }
    let end = match process::merged(&spec.argv, &spec.folder, &spec.env) {
        Ok((child, pipe)) => watch(folder, &spec, child, pipe),
        Err(error) => End { refused: Some(refusal(&spec, &error)), ..End::default() },
    };
    write_end(folder, room, &end).map_err(|error| failed(folder, &error))
}

fn failed(folder: &Path, error: &std::io::Error) -> Error {
    Error::new(Reason::HookFailed, format!("the job in {} cannot be supervised: {error}", folder.display()))
}

fn refusal(spec: &Spec, error: &std::io::Error) -> String {
    let program = spec.argv.first().map(String::as_str).unwrap_or_default();
    let folder = if spec.folder.is_dir() { String::new() } else { format!(" (the folder {} is not there)", spec.folder.display()) };
    format!("`{program}` cannot be started: {error}{folder}")
}

/// Follows a program to its end.
fn watch(folder: &Path, spec: &Spec, mut child: Child, pipe: std::io::PipeReader) -> End {
    let leader = child.id();
    let about = Program { process: leader, began: process::began(leader) };
    let _for_later = std::fs::write(folder.join("child"), serde_json::to_vec(&about).unwrap_or_default());
    let said = relay(spec, pipe);
    let (sender, ended) = channel();
    let waiter = std::thread::spawn(move || {
        let status = child.wait();
        let _gone = sender.send(status);
    });
    let (status, cut) = wait(folder, spec, leader, &ended);
    let _joined = waiter.join();
    // What it left in the background may hold the pipe for ever: it ends with its program.
    if said.recv_timeout(LAST_WORDS).is_err() {
        process::signal_group(leader, Signal::KILL);
        let _last = said.recv_timeout(LAST_WORDS);
    }
    process::signal_group(leader, Signal::KILL);
    End { code: status.as_ref().and_then(ExitStatus::code), signal: status.as_ref().and_then(ExitStatusExt::signal), cut, refused: None }
}

/// Waits for the end of the program, or for a reason to end it.
fn wait(folder: &Path, spec: &Spec, leader: u32, ended: &Receiver<std::io::Result<ExitStatus>>) -> (Option<ExitStatus>, Option<Cut>) {
    let began = Instant::now();
    let mut cut = None;
    let mut asked = None;
    loop {
        match ended.recv_timeout(LOOK) {
            Ok(status) => return (status.ok(), cut),
            Err(RecvTimeoutError::Disconnected) => return (None, cut),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if cut.is_none() {
            cut = reason_to_end(folder, spec, began.elapsed());
            if cut.is_some() {
                process::signal_group(leader, Signal::TERM);
                asked = Some(Instant::now());
            }
        }
        if asked.is_some_and(|asked| asked.elapsed() > grace(spec)) {
            process::signal_group(leader, Signal::KILL);
        }
    }
}

/// With a shared store the program has to be gone before another replica takes over.
fn grace(spec: &Spec) -> Duration {
    spec.lease_grace.map_or(GRACE, |grace| GRACE.min(Duration::from_millis(grace)))
}

fn reason_to_end(folder: &Path, spec: &Spec, elapsed: Duration) -> Option<Cut> {
    if folder.join("cancel").exists() {
        return Some(Cut::Cancelled);
    }
    if elapsed > Duration::from_millis(spec.timeout) {
        return Some(Cut::TimedOut);
    }
    spec.lease_grace?;
    // What is half written says nothing; it is read again in a moment.
    let until: u64 = std::fs::read_to_string(folder.join("alive")).ok()?.trim().parse().ok()?;
    (process::uptime()? > until).then_some(Cut::Abandoned)
}

/// Says until when a shared store keeps a job for its server.
pub fn keep_alive(folder: &Path, length: Duration) {
    let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    if let Some(now) = process::uptime() {
        let _next_time = std::fs::write(folder.join("alive"), now.saturating_add(length).to_string());
    }
}

/// Keeps what the program says; the channel ends when all of it is kept.
fn relay(spec: &Spec, mut pipe: std::io::PipeReader) -> Receiver<()> {
    let secrets: Vec<Secret> = spec.secrets.iter().map(Secret::new).collect();
    let (output, keep) = (spec.output.clone(), spec.keep);
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut stream = Stream::new(&secrets);
        let mut utf8 = Utf8::default();
        let mut writer = Writer::open(&output, keep).ok();
        let (mut piece, mut clean, mut text) = (vec![0_u8; 64 * 1024], Vec::new(), String::new());
        loop {
            let count = match pipe.read(&mut piece) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_broken) => 0,
            };
            match piece.get(..count).filter(|piece| !piece.is_empty()) {
                Some(piece) => stream.push(piece, &mut clean),
                None => stream.finish(&mut clean),
            }
            utf8.push(&clean, &mut text);
            if count == 0 {
                utf8.finish(&mut text);
            }
            // A full disk loses words, not the job: the program goes on, and so does reading.
            writer = writer.or_else(|| Writer::open(&output, keep).ok());
            let _lost = writer.as_mut().map(|writer| writer.append(&text));
            clean.clear();
            text.clear();
            if count == 0 {
                let _nobody = sender.send(());
                return;
            }
        }
    });
    receiver
}

fn reserve(folder: &Path) -> std::io::Result<File> {
    let mut file = File::create(folder.join("end.room"))?;
    file.write_all(&[b' '; ROOM])?;
    file.sync_all()?;
    Ok(file)
}

fn write_end(folder: &Path, mut room: File, end: &End) -> std::io::Result<()> {
    use std::io::{Seek, SeekFrom};
    let text = serde_json::to_vec(end)?;
    room.seek(SeekFrom::Start(0))?;
    room.write_all(&text)?; // the rest of the room is white space, which JSON allows
    room.sync_all()?;
    std::fs::rename(folder.join("end.room"), folder.join("end"))?;
    flush(folder)
}

fn flush(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// What a server finds of an attempt.
#[derive(Debug)]
pub enum Found {
    /// The supervisor lives.
    Alive,
    /// It has ended so.
    Ended(End),
    /// Nothing had run, and nothing will.
    NotBegun,
    /// The supervisor is gone and has left no end.
    Gone,
}

/// Looks at an attempt. With `take_back` an attempt that has not begun never will.
pub fn look(folder: &Path, take_back: bool) -> Found {
    if let Some(end) = read_end(folder) {
        return Found::Ended(end);
    }
    if is_locked(folder) {
        return Found::Alive;
    }
    // It may have written its end and gone between the two looks.
    if let Some(end) = read_end(folder) {
        return Found::Ended(end);
    }
    let begun = folder.join("begun");
    if let Ok(words) = std::fs::read(&begun) {
        // A server that took the attempt back and was killed before the store knew.
        return if words == TAKEN { Found::NotBegun } else { Found::Gone };
    }
    if take_back {
        return if take(folder, &begun).is_ok() { Found::NotBegun } else { look_again(folder) };
    }
    Found::Alive // it is on its way
}

/// Makes `begun` with its words in it, or not at all.
fn take(folder: &Path, begun: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let fresh = folder.join("taken");
    let mut file = File::create(&fresh)?;
    file.write_all(TAKEN)?;
    file.sync_all()?;
    std::fs::hard_link(&fresh, begun)?;
    flush(folder)
}

fn look_again(folder: &Path) -> Found {
    for _look in 0..100 {
        if let Some(end) = read_end(folder) {
            return Found::Ended(end);
        }
        if is_locked(folder) {
            return Found::Alive;
        }
        nap(Duration::from_millis(10));
    }
    Found::Gone
}

fn read_end(folder: &Path) -> Option<End> {
    serde_json::from_slice(&std::fs::read(folder.join("end")).ok()?).ok()
}

fn is_locked(folder: &Path) -> bool {
    File::open(folder.join("lock")).is_ok_and(|lock| matches!(lock.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}

/// Ends what a dead supervisor left behind, if it is still the same process.
pub fn end_orphans(folder: &Path) {
    let about = std::fs::read(folder.join("child")).ok().and_then(|text| serde_json::from_slice::<Program>(&text).ok());
    if let Some(about) = about.filter(|about| about.began.is_some() && process::began(about.process) == about.began) {
        process::signal_group(about.process, Signal::KILL);
    }
}
