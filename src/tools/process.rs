//! Child processes: argument lists, never a shell; bounded in time and output; ended with all that they started.

use crate::error::{Error, Reason, Result};
use crate::tools::wait::Cancel;
use crate::vars::for_plain_programs;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// The longest line of a child that is passed on, in bytes.
const LINE_LIMIT: u64 = 64 * 1024;
/// How long a quick program may take to answer.
const ASK_LIMIT: Duration = Duration::from_secs(20);
/// How long the last lines of an ended child are waited for.
const LAST_LINES: Duration = Duration::from_millis(500);
/// How much of a child's output is passed on, in bytes; it is read to its end all the same.
const SHOWN_LIMIT: usize = 8 * 1024 * 1024;
/// How many of its last lines are kept to explain a failure.
const TAIL: usize = 20;
/// How long a child may take to end after it was asked to.
const END_GRACE: Duration = Duration::from_millis(1500);

/// The trimmed output of a quick command that reads local state, or nothing when it fails. Blocking.
#[allow(clippy::disallowed_methods)]
pub fn read<S: AsRef<OsStr>>(program: &str, args: &[S], folder: &Path) -> Option<String> {
    let mut command = std::process::Command::new(program);
    command.args(args).current_dir(folder).env_clear().envs(for_plain_programs()).env("LC_ALL", "C").env("GIT_TERMINAL_PROMPT", "0");
    let output = command.stdin(std::process::Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Asks a quick program with a line on its standard input, so that nothing stands on its argument list. Blocking.
#[allow(clippy::disallowed_methods)]
pub fn ask(program: &str, args: &[&str], input: &str) -> Option<String> {
    use std::io::Write;
    use std::process::Stdio;
    let mut command = std::process::Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    child.stdin.take()?.write_all(input.as_bytes()).ok()?;
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let output = receiver.recv_timeout(ASK_LIMIT).ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A program to run: its arguments, its surroundings and its limits.
pub struct Program<'a> {
    /// The program and its arguments.
    pub argv: &'a [String],
    /// The working directory.
    pub folder: &'a Path,
    /// Its whole environment; ours when nothing is said.
    pub env: Option<Vec<(String, String)>>,
    /// How long it may take.
    pub limit: Duration,
    /// Ends it, and all that it started.
    pub cancel: Option<&'a Cancel>,
    /// A text to look for in its output.
    pub marker: Option<&'a str>,
}

/// How a program ended.
#[derive(Debug)]
pub enum End {
    /// By itself.
    Exited(ExitStatus),
    /// It was ended at its limit.
    TimedOut,
    /// It was ended because the run was cancelled.
    Cancelled,
}

/// What is known of a program that ran.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub end: End,
    /// Whether the marker was in its output.
    pub marked: bool,
    /// Its last lines.
    pub tail: Vec<String>,
}

/// The group of a child: whatever it started ends with it, also when nobody waits any more.
pub(super) struct Group(Option<Pid>);

impl Group {
    pub(super) fn of(child: &tokio::process::Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    /// Ends all of it at once.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            let _gone = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

impl Program<'_> {
    /// Runs it to its end and hands every line of its output to `line`. Dropping the future ends it as well.
    #[allow(clippy::disallowed_methods)]
    pub async fn run(&self, line: &(dyn Fn(&str) + Sync)) -> Result<Ran> {
        let (program, args) = self.argv.split_first().ok_or_else(|| Error::new(Reason::ConfigInvalid, "an empty command cannot be run"))?;
        let mut command = tokio::process::Command::new(program);
        command.args(args).current_dir(self.folder).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(env) = &self.env {
            command.env_clear().envs(env.iter().map(|(name, value)| (name, value)));
        }
        let mut child = command.spawn().map_err(|error| {
            Error::new(Reason::HookFailed, format!("`{program}` cannot be started: {error}"))
                .hint("the path is relative to tidegate.yml; is it executable?")
        })?;
        let group = Group::of(&child);
        let heard = Heard::new(self.marker, line);
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let output = async { tokio::join!(heard.follow(out), heard.follow(err)) };
        tokio::pin!(output);
        let mut closed = false;
        let limit = tokio::time::sleep(self.limit);
        tokio::pin!(limit);
        let end = loop {
            tokio::select! {
                status = child.wait() => break End::Exited(status.map_err(|error| lost(program, &error))?),
                _both = &mut output, if !closed => closed = true,
                () = &mut limit => break self.stop(&group, &mut child, End::TimedOut).await,
                () = cancelled(self.cancel) => break self.stop(&group, &mut child, End::Cancelled).await,
            }
        };
        if !closed {
            // What it started in the background may keep the pipes open for ever.
            let _rest = tokio::time::timeout(LAST_LINES, output).await;
        }
        Ok(heard.told(end))
    }

    async fn stop(&self, group: &Group, child: &mut tokio::process::Child, end: End) -> End {
        group.signal(Signal::TERM);
        let _ended = tokio::time::timeout(END_GRACE, child.wait()).await;
        group.signal(Signal::KILL);
        end
    }
}

/// Runs a program that must succeed, in our own environment.
pub async fn run(command: &[String], folder: &Path, limit: Duration, line: &(dyn Fn(&str) + Sync)) -> Result<()> {
    let program = command.first().map(String::as_str).unwrap_or_default();
    let failed = |what: String| Error::new(Reason::HookFailed, format!("`{program}` {what}"));
    let ran = Program { argv: command, folder, env: None, limit, cancel: None, marker: None }.run(line).await?;
    match ran.end {
        End::Exited(status) if status.success() => Ok(()),
        End::Exited(status) => Err(failed(format!("ended with {status}"))),
        End::TimedOut | End::Cancelled => Err(failed(format!("did not end within {}", humantime::format_duration(limit)))),
    }
}

fn lost(program: &str, error: &std::io::Error) -> Error {
    Error::new(Reason::HookFailed, format!("`{program}` was lost: {error}"))
}

async fn cancelled(cancel: Option<&Cancel>) {
    match cancel {
        Some(cancel) => cancel.cancelled().await,
        None => std::future::pending().await,
    }
}

/// What was heard of a child.
struct Heard<'a> {
    marker: Option<&'a [u8]>,
    line: &'a (dyn Fn(&str) + Sync),
    state: Mutex<HeardState>,
}

#[derive(Default)]
struct HeardState {
    marked: bool,
    shown: usize,
    tail: VecDeque<String>,
}

impl<'a> Heard<'a> {
    fn new(marker: Option<&'a str>, line: &'a (dyn Fn(&str) + Sync)) -> Self {
        Self { marker: marker.map(str::as_bytes), line, state: Mutex::default() }
    }

    fn told(&self, end: End) -> Ran {
        let state = std::mem::take(&mut *self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        Ran { end, marked: state.marked, tail: state.tail.into() }
    }

    /// Reads to the end. Of a line that is too long only the beginning is passed on: the rest of a secret would not be known.
    async fn follow(&self, stream: Option<impl AsyncRead + Unpin>) {
        let Some(stream) = stream else { return };
        let mut reader = BufReader::new(stream);
        let mut buffer = Vec::new();
        let mut carried: Vec<u8> = Vec::new();
        let mut goes_on = false;
        loop {
            buffer.clear();
            match (&mut reader).take(LINE_LIMIT).read_until(b'\n', &mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            self.look_for_marker(&mut carried, &buffer);
            if !goes_on {
                self.pass_on(String::from_utf8_lossy(&buffer).trim_end());
            }
            goes_on = buffer.last() != Some(&b'\n');
        }
    }

    fn look_for_marker(&self, carried: &mut Vec<u8>, piece: &[u8]) {
        let Some(marker) = self.marker else { return };
        carried.extend_from_slice(piece);
        if carried.windows(marker.len()).any(|window| window == marker)
            && let Ok(mut state) = self.state.lock()
        {
            state.marked = true;
        }
        let rest = carried.len().saturating_sub(marker.len().saturating_sub(1));
        carried.drain(..rest);
    }

    fn pass_on(&self, text: &str) {
        let Ok(mut state) = self.state.lock() else { return };
        if state.tail.len() == TAIL {
            state.tail.pop_front();
        }
        state.tail.push_back(crate::tools::console::cut(text, 1000));
        let before = state.shown;
        state.shown = before.saturating_add(text.len() + 1);
        let after = state.shown;
        drop(state);
        if after <= SHOWN_LIMIT {
            (self.line)(text);
        } else if before <= SHOWN_LIMIT {
            (self.line)("… the rest of the output is not shown");
        }
    }
}

/// A program that runs beside us and ends with us.
pub struct Background {
    child: tokio::process::Child,
    _group: Group,
    words: std::sync::Arc<Mutex<String>>,
}

impl Background {
    /// Starts it; what it says on stderr is kept.
    #[allow(clippy::disallowed_methods)]
    pub fn start(argv: &[String]) -> std::io::Result<Self> {
        let (program, args) = argv.split_first().ok_or_else(|| std::io::Error::other("an empty command"))?;
        let mut command = tokio::process::Command::new(program);
        command.args(args).env_clear().envs(for_plain_programs()).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let group = Group::of(&child);
        let words = std::sync::Arc::new(Mutex::new(String::new()));
        if let Some(stderr) = child.stderr.take() {
            let words = words.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(stderr.take(LINE_LIMIT)).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if let Ok(mut words) = words.lock() {
                        words.push_str(&line);
                        words.push('\n');
                    }
                }
            });
        }
        Ok(Self { child, _group: group, words })
    }

    /// What it said, if it has ended.
    #[allow(clippy::disallowed_methods)]
    pub async fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten()?;
        tokio::time::sleep(Duration::from_millis(50)).await; // its last words may be on their way
        Some(self.words.lock().map(|words| words.clone()).unwrap_or_default())
    }
}

/// Starts this very program with another subcommand, so that it goes on when we end. It is given `input`, and no environment.
#[allow(clippy::disallowed_methods)]
pub fn again(args: &[&OsStr], input: &[u8]) -> std::io::Result<std::process::Child> {
    use std::io::Write;
    use std::os::unix::process::CommandExt;
    // The file itself, also when an upgrade has put another one in its place.
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0("tidegate").args(args).env_clear().current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let given = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input));
    given.map(|()| child)
}

/// Starts a program in a group of its own, with its output and its errors in one pipe, in the order in which it said them.
#[allow(clippy::disallowed_methods)]
pub fn merged(argv: &[String], folder: &Path, env: &[(String, String)]) -> std::io::Result<(std::process::Child, std::io::PipeReader)> {
    use std::os::unix::process::CommandExt;
    let (program, args) = argv.split_first().ok_or_else(|| std::io::Error::other("an empty command"))?;
    let (reader, writer) = std::io::pipe()?;
    let mut command = std::process::Command::new(program);
    command.args(args).current_dir(folder).env_clear().envs(env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let child = command.spawn()?;
    Ok((child, reader)) // the command, and with it our end of the pipe, is gone here
}

/// Signals a whole group of processes.
pub fn signal_group(leader: u32, signal: Signal) {
    if let Some(group) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        let _gone = kill_process_group(group, signal);
    }
}

/// How long the machine has been up, in milliseconds: the same for all processes, whatever is done to the clock.
pub fn uptime() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    Some(seconds.parse::<u64>().ok()? * 1000 + hundredths.parse::<u64>().ok()? * 10)
}

/// When a process began, in the kernel's ticks: with its number it is one process for certain.
pub fn began(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
