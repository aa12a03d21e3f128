//! Child processes: argument lists, never a shell; bounded in time and output; killed when no longer wanted.

use crate::error::{Error, Reason, Result};
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// The longest line of a child that is passed on, in bytes.
const LINE_LIMIT: u64 = 64 * 1024;
/// How long a quick program may take to answer.
const ASK_LIMIT: Duration = Duration::from_secs(20);
/// How long the last lines of an ended child are waited for.
const LAST_LINES: Duration = Duration::from_millis(500);

/// The trimmed output of a quick command that reads local state, or nothing when it fails. Blocking.
#[allow(clippy::disallowed_methods)]
pub fn read<S: AsRef<OsStr>>(program: &str, args: &[S], folder: &Path) -> Option<String> {
    let mut command = std::process::Command::new(program);
    command.args(args).current_dir(folder).env("LC_ALL", "C").env("GIT_TERMINAL_PROMPT", "0");
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

/// Runs a program to its end and hands every line of its output to `line`. Dropping the future kills the program.
#[allow(clippy::disallowed_methods)]
pub async fn run(command: &[String], folder: &Path, limit: Duration, line: &(dyn Fn(&str) + Sync)) -> Result<()> {
    let (program, args) = command.split_first().ok_or_else(|| Error::new(Reason::ConfigInvalid, "an empty command cannot be run"))?;
    let failed = |what: String| Error::new(Reason::HookFailed, format!("`{program}` {what}"));
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .current_dir(folder)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("cannot be started: {error}")).hint("the path is relative to tidegate.yml; is it executable?"))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let followed = async {
        let output = async { tokio::join!(follow(out, line), follow(err, line)) };
        tokio::pin!(output);
        let status = tokio::select! {
            status = child.wait() => status,
            _closed = &mut output => return child.wait().await,
        };
        // What it started in the background may keep the pipes open for ever.
        let _rest = tokio::time::timeout(LAST_LINES, output).await;
        status
    };
    match tokio::time::timeout(limit, followed).await {
        Err(_elapsed) => Err(failed(format!("did not end within {}", humantime::format_duration(limit)))),
        Ok(Err(error)) => Err(failed(format!("was lost: {error}"))),
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(format!("ended with {status}"))),
    }
}

async fn follow(stream: Option<impl AsyncRead + Unpin>, line: &(dyn Fn(&str) + Sync)) {
    let Some(stream) = stream else { return };
    let mut reader = BufReader::new(stream);
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        match (&mut reader).take(LINE_LIMIT).read_until(b'\n', &mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => line(String::from_utf8_lossy(&buffer).trim_end()),
        }
    }
}
