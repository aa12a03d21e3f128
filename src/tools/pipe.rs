//! Child processes whose bytes are streamed: a dump that is read, a restore that is written to. Bounded in memory; ended with
//! all that they started.

use super::process::Group;
use crate::error::{Error, Reason, Result};
use std::collections::VecDeque;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::task::JoinHandle;

/// The longest line of its complaints that is kept, in bytes.
const LINE_LIMIT: u64 = 16 * 1024;
/// How many of its last lines are kept to explain a failure.
const TAIL: usize = 20;
/// How long the last lines of an ended child are waited for.
const LAST_LINES: Duration = Duration::from_millis(500);

/// A program to stream to or from, with its whole environment.
pub struct Start<'a> {
    /// The program and its arguments.
    pub argv: &'a [String],
    /// The working directory.
    pub folder: &'a Path,
    /// Its whole environment.
    pub env: &'a [(String, String)],
    /// Which of its ends are ours.
    pub ends: Ends,
}

/// Which ends of a child are ours.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// What it writes is read.
    Output,
    /// It is written to, and what it writes is thrown away.
    Input,
    /// Both.
    Both,
}

/// A child whose bytes are streamed. Dropping it ends it, before its input is closed: a program that is given up must not take
/// the end of its input for the end of the work.
pub struct Child {
    /// What it writes.
    pub output: Option<ChildStdout>,
    /// What is written to it.
    pub input: Option<ChildStdin>,
    program: String,
    process: tokio::process::Child,
    words: JoinHandle<Vec<String>>,
    group: Group,
}

impl Drop for Child {
    fn drop(&mut self) {
        self.group.kill(); // before the fields are dropped
    }
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// The program.
    pub program: String,
    /// Its status.
    pub status: ExitStatus,
    /// The last lines of what it said on standard error.
    pub words: Vec<String>,
}

impl Start<'_> {
    /// Starts it.
    #[allow(clippy::disallowed_methods)]
    pub fn start(&self) -> Result<Child> {
        let (program, args) = self.argv.split_first().ok_or_else(|| Error::new(Reason::ConfigInvalid, "an empty command cannot be run"))?;
        let mut command = tokio::process::Command::new(program);
        command.args(args).current_dir(self.folder).process_group(0).kill_on_drop(true);
        command.env_clear().envs(self.env.iter().map(|(name, value)| (name, value))).stderr(Stdio::piped());
        command.stdin(if self.ends == Ends::Output { Stdio::null() } else { Stdio::piped() });
        command.stdout(if self.ends == Ends::Input { Stdio::null() } else { Stdio::piped() });
        let mut process = command.spawn().map_err(|error| {
            Error::new(Reason::ToolMissing, format!("`{program}` cannot be started: {error}")).hint("is it installed, and executable?")
        })?;
        let group = Group::of(&process);
        let stderr = process.stderr.take();
        let words = tokio::spawn(async move {
            match stderr {
                Some(stderr) => tail(stderr).await,
                None => Vec::new(),
            }
        });
        Ok(Child { output: process.stdout.take(), input: process.stdin.take(), program: program.clone(), process, words, group })
    }
}

impl Child {
    /// Waits for its end.
    pub async fn ended(mut self) -> Result<Ended> {
        let status = self.process.wait().await.map_err(|error| {
            Error::new(Reason::Internal, format!("`{}` was lost: {error}", self.program)) // waitpid fails on no child of ours
        })?;
        // What it started in the background may keep the pipe open for ever.
        let words = tokio::time::timeout(LAST_LINES, &mut self.words).await;
        let words = words.ok().and_then(std::result::Result::ok).unwrap_or_default();
        Ok(Ended { program: self.program.clone(), status, words })
    }
}

impl Ended {
    /// How it ended, for a sentence.
    pub fn how(&self) -> String {
        use std::os::unix::process::ExitStatusExt;
        let name = self.program.rsplit('/').next().unwrap_or(&self.program);
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("{name} ended with exit code {code}"),
            (None, Some(signal)) => format!("{name} was ended by signal {signal}"),
            (None, None) => format!("{name} ended with {}", self.status),
        }
    }

    /// What it said that says most: the first line that calls itself an error, or the last one.
    pub fn last(&self) -> Option<&str> {
        let is_error = |line: &&String| ["error:", "ERROR", "FATAL"].iter().any(|word| line.contains(word));
        let last = || self.words.iter().rev().find(|line| !line.trim().is_empty());
        self.words.iter().find(is_error).or_else(last).map(|line| line.trim())
    }
}

/// The last lines of a stream, which is read to its end.
async fn tail(stream: impl AsyncRead + Unpin) -> Vec<String> {
    let mut reader = BufReader::new(stream);
    let mut kept: VecDeque<String> = VecDeque::new();
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        match (&mut reader).take(LINE_LIMIT).read_until(b'\n', &mut buffer).await {
            Ok(0) | Err(_) => return kept.into(),
            Ok(_) => {}
        }
        if kept.len() == TAIL {
            kept.pop_front();
        }
        kept.push_back(crate::tools::console::cut(String::from_utf8_lossy(&buffer).trim_end(), 1000));
    }
}
