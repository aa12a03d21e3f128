//! The drain gate: waits until every SQS queue is quiet in every region, by AWS's own rule.
//!
//! Counts are approximate and "empty" can only be believed when visible, in-flight and delayed stay zero for several
//! minutes: <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/confirm-queue-is-empty.html>

use crate::config::OnTimeout;
use crate::error::{Error, Reason, Result};
use crate::plan::DrainWork;
use crate::tools::aws::{self, Access};
use crate::tools::wait::spoken;
use crate::world::World;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use futures::{StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::VecDeque;
use std::time::Duration;

/// How many queues are asked at once.
const AT_ONCE: usize = 32;
/// Rows of the live table; more queues are summed up.
const ROWS: usize = 12;
/// In a log, busy queues get at most one line in this time; becoming quiet or busy is always said.
const CALM: Duration = Duration::from_secs(15);
/// Sweeps in a row that may fail for passing reasons before the gate gives up.
const PATIENCE: u32 = 5;

/// A queue's three counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages waiting.
    pub visible: u64,
    /// Messages that a consumer works on.
    pub in_flight: u64,
    /// Messages that become visible later.
    pub delayed: u64,
}

impl Counts {
    /// All three together.
    pub fn total(&self) -> u64 {
        self.visible.saturating_add(self.in_flight).saturating_add(self.delayed)
    }

    fn add(self, other: Self) -> Self {
        Self {
            visible: self.visible.saturating_add(other.visible),
            in_flight: self.in_flight.saturating_add(other.in_flight),
            delayed: self.delayed.saturating_add(other.delayed),
        }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} visible, {} in flight, {} delayed", self.visible, self.in_flight, self.delayed)
    }
}

/// Queues that were found and can be watched.
pub struct Drain<'a> {
    world: &'a World,
    work: &'a DrainWork,
    queues: Vec<Queue>,
    deadline: Duration,
}

struct Queue {
    region: String,
    name: String,
    url: String,
    client: Client,
}

impl Queue {
    fn shown(&self) -> String {
        format!("{}/{}", self.region, self.name)
    }
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quiet {
    /// One sentence for the report.
    pub sentence: String,
    /// Whether the deadline passed and `on-timeout: warn` let it go on.
    pub timed_out: bool,
    /// Whether it took more than one look.
    pub waited: bool,
}

impl<'a> Drain<'a> {
    /// Finds every queue in every region. A queue that is missing or may not be read is an error, never "quiet".
    pub async fn open(world: &'a World, work: &'a DrainWork) -> Result<Self> {
        let opened = Self::find_all(world, work);
        tokio::select! {
            drain = opened => drain,
            () = world.cancel.cancelled() => Err(Error::new(Reason::Cancelled, "cancelled while the queues were looked up")),
        }
    }

    /// The same with a deadline that began earlier.
    pub fn until(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// When waiting ends.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    async fn find_all(world: &'a World, work: &'a DrainWork) -> Result<Self> {
        let deadline = world.clock.now().saturating_add(work.timeout);
        let default = Access { region: None, role: work.role.clone() };
        let regions = if work.regions.is_empty() { vec![default.region(&world.vars)?] } else { work.regions.clone() };
        let mut queues: Vec<Queue> = Vec::new();
        for region in &regions {
            let access = Access { region: Some(region.clone()), role: work.role.clone() };
            let client = Client::new(&aws::config(&world.vars, &access, "SQS").await?);
            for wanted in &work.queues {
                if region_of(wanted).is_some_and(|own| own != *region && regions.contains(&own)) {
                    continue; // its own region is in the list
                }
                let client = match region_of(wanted).filter(|own| own != region) {
                    Some(own) => Client::new(&aws::config(&world.vars, &Access { region: Some(own), ..access.clone() }, "SQS").await?),
                    None => client.clone(),
                };
                let region = region_of(wanted).unwrap_or_else(|| region.clone());
                for queue in find(&client, &region, wanted).await? {
                    if !queues.iter().any(|known| known.url == queue.url && known.region == queue.region) {
                        queues.push(queue);
                    }
                }
            }
        }
        Ok(Self { world, work, queues, deadline })
    }

    /// One look at every queue.
    async fn sweep(&self) -> Result<Vec<Counts>> {
        let looks = futures::stream::iter(self.queues.iter().map(counts)).buffered(AT_ONCE);
        tokio::select! {
            counts = looks.try_collect() => counts,
            () = self.world.cancel.cancelled() => Err(Error::new(Reason::Cancelled, "cancelled while waiting for quiet queues")),
        }
    }

    /// Waits until all counts were zero without a break for the quiet time.
    pub async fn wait(&self) -> Result<Quiet> {
        let clock = &self.world.clock;
        let interval = (self.work.quiet / 4).clamp(Duration::from_millis(200), Duration::from_secs(5));
        let mut view = View::new(self);
        let mut quiet_since: Option<Duration> = None;
        let mut failures = 0;
        loop {
            let before = clock.now();
            let limit = clock.real_length(self.deadline.saturating_sub(before));
            let Ok(swept) = tokio::time::timeout(limit, self.sweep()).await else { return self.timed_out(&view.last) };
            match swept {
                Ok(counts) => {
                    failures = 0;
                    let busy = counts.iter().any(|counts| counts.total() > 0);
                    // From the end of the first look to the beginning of the last: a slow look proves nothing by itself.
                    quiet_since = if busy { None } else { quiet_since.or(Some(clock.now())) };
                    let quiet_for = quiet_since.map(|since| before.saturating_sub(since));
                    view.show(&counts, quiet_for, clock.now());
                    if quiet_for.is_some_and(|length| length >= self.work.quiet) {
                        view.close();
                        return Ok(Quiet { sentence: self.done(), timed_out: false, waited: true });
                    }
                }
                Err(error) if error.reason != Reason::DrainFailed || failures >= PATIENCE => return Err(error),
                Err(error) => {
                    failures += 1;
                    quiet_since = None; // what was not seen was not quiet
                    self.world.console.warning(&format!("a look at the queues failed and is repeated: {}", error.sentence));
                }
            }
            if clock.now() >= self.deadline {
                view.close();
                return self.timed_out(&view.last);
            }
            tokio::select! {
                () = clock.sleep(interval) => {}
                () = self.world.cancel.cancelled() => return Err(Error::new(Reason::Cancelled, "cancelled while waiting for quiet queues")),
            }
        }
    }

    /// One look: the queues that are not at zero.
    pub async fn look(&self) -> Result<Vec<String>> {
        self.sweep().await.map(|counts| self.named(&counts))
    }

    /// Looks once more right before the switch; when something came in meanwhile, waits again.
    pub async fn recheck(&self) -> Result<Quiet> {
        let why = match self.sweep().await {
            Ok(counts) if counts.iter().all(|counts| counts.total() == 0) => {
                return Ok(Quiet { sentence: self.done(), timed_out: false, waited: false });
            }
            Ok(counts) => self.named(&counts).join("; "),
            Err(error) if error.reason != Reason::DrainFailed => return Err(error),
            Err(error) => error.sentence,
        };
        self.world.console.line(&format!("  right before the switch: {why}; waiting again"));
        self.wait().await
    }

    fn named(&self, counts: &[Counts]) -> Vec<String> {
        let both = self.queues.iter().zip(counts).filter(|(_, counts)| counts.total() > 0);
        both.map(|(queue, counts)| format!("{}: {counts}", queue.shown())).collect()
    }

    /// "1 queue", "2 queues".
    pub fn counted(&self) -> String {
        if self.queues.len() == 1 { "1 queue".to_owned() } else { format!("{} queues", self.queues.len()) }
    }

    fn done(&self) -> String {
        let queues = self.counted();
        format!("{queues} quiet for {}", humantime::format_duration(self.work.quiet))
    }

    fn timed_out(&self, last: &[Counts]) -> Result<Quiet> {
        let after = humantime::format_duration(self.work.timeout);
        let sentence = format!("the queues did not stay quiet for {} within {after}", humantime::format_duration(self.work.quiet));
        match self.work.on_timeout {
            OnTimeout::Warn => Ok(Quiet { sentence: format!("{sentence}; going on (`on-timeout: warn`)"), timed_out: true, waited: true }),
            OnTimeout::Fail => Err(Error::new(Reason::DrainTimeout, sentence)
                .detail(self.named(last))
                .hint("nothing was deployed; stop the producers (`pause:`), or give it more time (`timeout:`)")),
        }
    }
}

/// The region in a queue's address, as https://sqs.us-west-2.amazonaws.com/123456789012/jobs.
fn region_of(queue: &str) -> Option<String> {
    let host = url::Url::parse(queue).ok()?.host_str()?.to_owned();
    let (service, rest) = host.split_once('.')?;
    (service == "sqs" && rest.contains("amazonaws.com")).then(|| rest.split('.').next().unwrap_or_default().to_owned())
}

/// The queues that a name, an address or a prefix with `*` stands for.
async fn find(client: &Client, region: &str, wanted: &str) -> Result<Vec<Queue>> {
    let queue =
        |name: &str, url: &str| Queue { region: region.to_owned(), name: name.to_owned(), url: url.to_owned(), client: client.clone() };
    let last = |url: &str| url.rsplit('/').next().unwrap_or(url).to_owned();
    if let Some(prefix) = wanted.strip_suffix('*') {
        // Without max_results SQS stops at 1,000 queues and sends no token for more.
        let mut pages = client.list_queues().queue_name_prefix(prefix).max_results(1000).into_paginator().items().send();
        let mut found = Vec::new();
        while let Some(url) = pages.next().await {
            let url = url.map_err(|error| failure(region, wanted, "cannot be listed", "sqs:ListQueues", &error))?;
            found.push(queue(&last(&url), &url));
        }
        if found.is_empty() {
            return Err(missing(region, wanted, "no queue's name starts so"));
        }
        return Ok(found);
    }
    if wanted.starts_with("https://") || wanted.starts_with("http://") {
        let found = queue(&last(wanted), wanted);
        counts(&found).await?; // an address is believed only after it was read
        return Ok(vec![found]);
    }
    match client.get_queue_url().queue_name(wanted).send().await {
        Ok(answer) => match answer.queue_url() {
            Some(url) => Ok(vec![queue(wanted, url)]),
            None => Err(missing(region, wanted, "SQS answers without an address")),
        },
        Err(error) => Err(failure(region, wanted, "cannot be found", "sqs:GetQueueUrl", &error)),
    }
}

async fn counts(queue: &Queue) -> Result<Counts> {
    let request = queue.client.get_queue_attributes().queue_url(&queue.url);
    let request = request
        .attribute_names(Attribute::ApproximateNumberOfMessages)
        .attribute_names(Attribute::ApproximateNumberOfMessagesNotVisible)
        .attribute_names(Attribute::ApproximateNumberOfMessagesDelayed);
    let answer = request.send().await;
    let answer = answer.map_err(|error| failure(&queue.region, &queue.name, "cannot be read", "sqs:GetQueueAttributes", &error))?;
    let number = |name: &Attribute| -> Result<u64> {
        let text = answer.attributes().and_then(|all| all.get(name));
        text.and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::new(Reason::DrainFailed, format!("the queue {} does not tell its {}", queue.shown(), name.as_str())))
    };
    Ok(Counts {
        visible: number(&Attribute::ApproximateNumberOfMessages)?,
        in_flight: number(&Attribute::ApproximateNumberOfMessagesNotVisible)?,
        delayed: number(&Attribute::ApproximateNumberOfMessagesDelayed)?,
    })
}

fn missing(region: &str, queue: &str, why: &str) -> Error {
    Error::new(Reason::TargetMissing, format!("there is no queue {queue} in {region}: {why}"))
        .hint("look at the name, the region and the account; a queue that is missing is never called quiet")
}

fn failure<E>(region: &str, queue: &str, what: &str, action: &str, error: &aws_sdk_sqs::error::SdkError<E>) -> Error
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default();
    if code.contains("QueueDoesNotExist") || code.contains("NonExistentQueue") {
        return missing(region, queue, code);
    }
    let failure = aws::failure(&format!("the queue {queue} in {region} {what}"), Reason::DrainFailed, error);
    if failure.reason == Reason::AuthDenied {
        failure.hint(format!("allow {action} on this queue for the role that the job runs as"))
    } else {
        failure
    }
}

/// What a person sees of the wait.
struct View<'a> {
    drain: &'a Drain<'a>,
    bars: Vec<ProgressBar>,
    last: Vec<Counts>,
    history: VecDeque<(Duration, u64)>,
    said: Option<(Duration, bool)>,
}

impl<'a> View<'a> {
    fn new(drain: &'a Drain<'a>) -> Self {
        let style = ProgressStyle::with_template("  {spinner} {msg}").unwrap_or_else(|_template| ProgressStyle::default_spinner());
        let rows = drain.queues.len().min(ROWS) + 1;
        let bar = |_row| drain.world.console.live().add(ProgressBar::new_spinner().with_style(style.clone()));
        Self { drain, bars: (0..rows).map(bar).collect(), last: Vec::new(), history: VecDeque::new(), said: None }
    }

    fn show(&mut self, counts: &[Counts], quiet_for: Option<Duration>, now: Duration) {
        let sum = counts.iter().fold(Counts::default(), |sum, counts| sum.add(*counts));
        self.history.push_back((now, sum.total()));
        if self.history.len() > 24 {
            self.history.pop_front();
        }
        let head = match quiet_for {
            Some(length) => {
                let wanted = humantime::format_duration(self.drain.work.quiet);
                format!("{} at zero, quiet for {} of {wanted}", self.drain.counted(), spoken(length))
            }
            None => format!("{sum} in {}{}", self.drain.counted(), self.trend()),
        };
        for ((bar, queue), counts) in self.bars.iter().skip(1).zip(&self.drain.queues).zip(counts) {
            bar.set_message(format!("{:<40} {counts}", queue.shown()));
            bar.tick();
        }
        if let Some(bar) = self.bars.first() {
            bar.set_message(head.clone());
            bar.tick();
        }
        self.log(counts, quiet_for.is_some(), now, &head);
        self.last = counts.to_vec();
    }

    fn log(&mut self, counts: &[Counts], quiet: bool, now: Duration, head: &str) {
        let console = &self.drain.world.console;
        if console.style() == crate::tools::console::Style::Terminal || counts == self.last {
            return;
        }
        let turned = self.said.is_none_or(|(_, was_quiet)| was_quiet != quiet);
        if !turned && self.said.is_some_and(|(at, _)| now.saturating_sub(at) < CALM) {
            return;
        }
        self.said = Some((now, quiet));
        let busy = self.drain.named(counts);
        if quiet || busy.len() > ROWS {
            console.line(&format!("  {head}"));
        } else {
            console.line(&format!("  {}{}", busy.join("; "), self.trend()));
        }
    }

    /// Rising, falling, and how long it takes at this rate.
    fn trend(&self) -> String {
        let (Some((start, first)), Some((end, last))) = (self.history.front(), self.history.back()) else { return String::new() };
        let elapsed = end.saturating_sub(*start).as_secs_f64();
        if elapsed < 1.0 || first == last {
            return String::new();
        }
        if last > first {
            return ", rising".to_owned();
        }
        let rate = (first - last) as f64 / elapsed;
        let left = Duration::from_secs_f64((*last as f64 / rate).clamp(0.0, 1e8));
        format!(", falling, about {} left", humantime::format_duration(Duration::from_secs(left.as_secs().max(1))))
    }

    fn close(&mut self) {
        self.bars.drain(..).for_each(|bar| bar.finish_and_clear());
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        self.close();
    }
}
