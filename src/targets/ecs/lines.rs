//! The lines of a task, out of CloudWatch Logs: <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_GetLogEvents.html>.

use super::api::Api;
use super::{list, text};
use crate::config::Aws;
use crate::error::{Error, Reason, Result};
use crate::targets::Site;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::Duration;

/// How many of its last lines are kept to explain a failure.
const TAIL: usize = 15;
/// How many pages are read at one look: a task that floods is not followed line by line.
const PAGES: usize = 50;
/// How long the last lines of an ended task are looked for, which arrive late: to show them, and where a marker may be among them.
const LAST: u32 = 3;
const LAST_WITH_MARKER: u32 = 15;
const PAUSE: Duration = Duration::from_secs(1);

/// Where a container's lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The log group.
    pub group: String,
    /// What the names of its streams begin with.
    pub prefix: String,
    /// The region, where it is another one.
    pub region: Option<String>,
}

/// The lines of one task.
pub struct Lines<'a> {
    site: &'a Site<'a>,
    api: Api,
    group: String,
    stream: String,
    token: Option<String>,
    marker: Option<&'a str>,
    marked: bool,
    tail: VecDeque<String>,
    /// Whether the stream was ever there.
    is_there: bool,
    /// Why they cannot be read.
    closed: Option<Error>,
}

impl<'a> Lines<'a> {
    /// Reads nothing yet.
    pub async fn open(
        site: &'a Site<'a>,
        own: &Aws,
        stream: &Stream,
        (container, task): (&str, &str),
        marker: Option<&'a str>,
    ) -> Result<Self> {
        let own = Aws { region: stream.region.clone().or_else(|| own.region.clone()), role: own.role.clone() };
        let api = Api::of_logs(site.world, &own).await?;
        let name = format!("{}/{container}/{task}", stream.prefix);
        let (group, tail) = (stream.group.clone(), VecDeque::new());
        Ok(Self { site, api, group, stream: name, token: None, marker, marked: false, tail, is_there: false, closed: None })
    }

    /// Passes on what is new; how many lines.
    pub async fn look(&mut self) -> usize {
        let mut seen = 0;
        for _ in 0..PAGES {
            if self.closed.is_some() {
                break;
            }
            let mut body = json!({"logGroupName": self.group, "logStreamName": self.stream, "startFromHead": true});
            if let Some(token) = &self.token {
                crate::targets::set(&mut body, &["nextToken"], json!(token));
            }
            match self.api.call("GetLogEvents", &body).await {
                Ok(answer) => {
                    self.is_there = true;
                    let next = text(&answer, "/nextForwardToken").to_owned();
                    let lines: Vec<&str> = list(&answer, "/events").map(|event| text(event, "/message")).collect();
                    lines.iter().for_each(|line| self.pass_on(line));
                    seen += lines.len();
                    let is_last = self.token.as_deref() == Some(next.as_str()) || next.is_empty();
                    self.token = Some(next).filter(|next| !next.is_empty());
                    if is_last || lines.is_empty() {
                        break;
                    }
                }
                Err(error) if error.gone => break, // it has said nothing yet
                Err(error) => {
                    if self.marker.is_none() {
                        self.site.say(&format!("the task's lines cannot be shown: {}", error.sentence));
                    }
                    self.closed = Some(error);
                }
            }
        }
        seen
    }

    /// What is left when it has ended.
    pub async fn rest(&mut self) -> Result<()> {
        let (mut quiet, patience) = (0, if self.marker.is_some() { LAST_WITH_MARKER } else { LAST });
        while quiet < patience && !self.marked && self.closed.is_none() {
            quiet = if self.look().await > 0 { 0 } else { quiet + 1 };
            // Some lines, and then none for a while: that was the end.
            if quiet >= LAST && self.is_there && !self.tail.is_empty() {
                break;
            }
            self.site.world.clock.sleep(PAUSE).await;
        }
        if self.marker.is_none() || self.marked || (self.is_there && self.closed.is_none()) {
            return Ok(());
        }
        let why = self.closed.as_ref().map_or("CloudWatch Logs has no stream of it".to_owned(), |error| error.sentence.clone());
        let sentence = format!("the task's lines cannot be read, so nobody knows whether they hold the failure marker: {why}");
        let hint = self.closed.as_ref().and_then(|error| error.hint.clone());
        Err(Error { hint, ..Error::new(Reason::MigrationFailed, sentence) })
    }

    /// Whether the marker was among them.
    pub fn is_marked(&self) -> bool {
        self.marked
    }

    /// The last of them.
    pub fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }

    fn pass_on(&mut self, line: &str) {
        self.site.world.console.relay("task", line);
        self.marked |= self.marker.is_some_and(|marker| line.contains(marker));
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(crate::tools::console::cut(line, 1000));
    }
}

/// Where a container's lines go, by its log configuration; nothing when it is not CloudWatch.
pub fn stream_of(log: &Value) -> Option<Stream> {
    let option = |name: &str| log.pointer(&format!("/options/{name}")).and_then(Value::as_str).map(str::to_owned);
    (text(log, "/logDriver") == "awslogs").then_some(())?;
    Some(Stream { group: option("awslogs-group")?, prefix: option("awslogs-stream-prefix")?, region: option("awslogs-region") })
}
