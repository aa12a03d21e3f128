//! What the pod of a Job says: followed while it runs, read to its end afterwards, shown as it comes.

use super::job::{Runner, status_of};
use futures::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

const TAIL: usize = 20;
/// How much is shown in all, in bytes.
const SHOWN_LIMIT: usize = 8 * 1024 * 1024;
/// The longest piece of a line, in bytes.
const LINE_LIMIT: u64 = 64 * 1024;
const LOG_LIMIT: Duration = Duration::from_secs(20);

type Lines = Pin<Box<dyn Stream<Item = std::io::Result<String>> + Send>>;

/// Lines, whatever bytes they are made of; one that is too long comes in pieces.
fn lines(stream: impl AsyncBufRead + Send + 'static) -> impl Stream<Item = std::io::Result<String>> + Send {
    futures::stream::unfold(Some(Box::pin(stream)), |stream| async move {
        let mut stream = stream?;
        let mut line = Vec::new();
        match (&mut stream).take(LINE_LIMIT).read_until(b'\n', &mut line).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned()), Some(stream))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    Yes,
    No,
}

/// What a pod said so far.
#[derive(Default)]
pub(super) struct Heard {
    marker: Option<String>,
    pub(super) marked: bool,
    pub(super) stream: Option<Lines>,
    /// Whether the log was read to its end after the pod had ended.
    pub(super) ended: bool,
    /// How many lines were heard, and how many of them a new stream will repeat.
    lines: usize,
    repeated: usize,
    shown: usize,
    tail: VecDeque<String>,
}

impl Heard {
    /// Nothing yet. A text may mean failure.
    pub(super) fn watching(marker: Option<String>) -> Self {
        Self { marker, ..Self::default() }
    }

    /// The log from its beginning: what was heard already is left out. Best effort: the exit code decides.
    pub(super) async fn open(&mut self, runner: &Runner<'_>, pod: &Pod, follow: Follow) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let container = status_of(pod).map(|status| status.name.clone());
        let params = LogParams { container, follow: follow == Follow::Yes, ..LogParams::default() };
        let opened = tokio::time::timeout(LOG_LIMIT, runner.pods().log_stream(&name, &params)).await;
        if let Ok(Ok(stream)) = opened {
            self.repeated = self.lines;
            self.stream = Some(Box::pin(lines(stream)));
        }
    }

    /// The next line; never, while no log is open.
    pub(super) async fn next(&mut self) -> Option<std::io::Result<String>> {
        match &mut self.stream {
            Some(stream) => stream.next().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn take(&mut self, runner: &Runner<'_>, line: Option<std::io::Result<String>>) {
        match line {
            Some(Ok(_)) if self.repeated > 0 => self.repeated -= 1,
            Some(Ok(line)) => self.line(runner, &line),
            // It ended, or was cut off: the next look opens it again.
            Some(Err(_)) => self.stream = None,
            None => (self.stream, self.ended) = (None, true),
        }
    }

    /// What is left once the pod has ended.
    pub(super) async fn rest(&mut self, runner: &Runner<'_>, pod: &Pod) {
        self.ended = false;
        let read = async {
            self.open(runner, pod, Follow::No).await;
            while self.stream.is_some() {
                let line = self.next().await;
                self.take(runner, line);
            }
        };
        let _too_slow = tokio::time::timeout(LOG_LIMIT, read).await;
    }

    fn line(&mut self, runner: &Runner<'_>, line: &str) {
        self.lines += 1;
        self.marked |= self.marker.as_ref().is_some_and(|marker| line.contains(marker.as_str()));
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(crate::tools::console::cut(line, 1000));
        let before = self.shown;
        self.shown = before.saturating_add(line.len() + 1);
        if self.shown <= SHOWN_LIMIT {
            runner.site.world.console.relay("job", line);
        } else if before <= SHOWN_LIMIT {
            runner.site.say("the rest of the job's output is not shown here");
        }
    }

    pub(super) fn tail(&self) -> Vec<String> {
        if self.tail.is_empty() {
            return Vec::new();
        }
        std::iter::once("last lines of the job:".to_owned()).chain(self.tail.iter().map(|line| format!("  {line}"))).collect()
    }
}
