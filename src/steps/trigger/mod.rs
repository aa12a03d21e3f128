//! Pipelines elsewhere: started once, and followed to their end where that was asked for.

use crate::config::{Trigger, template::Values};
use crate::error::{Error, Reason, Result};
use crate::targets::{Memory, Site};
use crate::tools::http::{self, chain};
use crate::tools::secret::Secret;
use crate::tools::wait::Clock;
use crate::version::hex;
use crate::world::World;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::time::Duration;

mod follow;
mod github;
mod github_run;
mod gitlab;
mod travis;

const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// How long a pipeline is looked for whose start was not answered with its number.
const LOOKING: Duration = Duration::from_secs(20);
/// What to do when a start was not answered.
const MAYBE: &str = "it may have been taken all the same: look there, then run this again, which starts it once more";
/// What the journal says before something is started.
const INTENT: &str = "start after ";

/// A pipeline that was started.
#[derive(Clone, Debug)]
pub struct Started {
    /// One sentence: what was started, and how it ended where it was followed.
    pub said: String,
    /// Its number, where it is known.
    pub run: Option<u64>,
    /// Where a person sees it.
    pub url: Option<String>,
}

/// Refuses a secret that is not there, and a repository that is none, before anything is built.
pub fn check(world: &World, values: &Values, trigger: &Trigger) -> Result<()> {
    trigger.secret_names().into_iter().try_for_each(|name| crate::targets::secret(world, name, "a secret of the trigger").map(drop))?;
    match trigger {
        Trigger::Github(github) => is_repository(values, &github.repository)?,
        Trigger::Travis(travis) => is_repository(values, &travis.repository)?,
        Trigger::Gitlab(_) => {}
    }
    match trigger {
        Trigger::Github(github) => github::check(world, github),
        Trigger::Gitlab(gitlab) => gitlab::check(world, gitlab),
        Trigger::Travis(_) => Ok(()),
    }
}

/// A name that came from a variable is looked at too. What has no value yet is met again later.
fn is_repository(values: &Values, text: &str) -> Result<()> {
    let Ok(name) = values.fill(text) else { return Ok(()) };
    let fine =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) && part != "..";
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [owner, project] if fine(owner) && fine(project) => Ok(()),
        _other => {
            Err(Error::new(Reason::TriggerInput, format!("{name:?} is not a repository")).hint(format!("write it as owner/name ({text})")))
        }
    }
}

/// Sends something that must happen once. A cancel does not wait for the answer, and says what that means.
async fn unbroken<T>(site: &Site<'_>, what: &str, asked: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        answer = asked => answer,
        () = site.world.cancel.cancelled() => Err(begun(what)),
    }
}

/// Cancelled between a start and its number.
fn begun(what: &str) -> Error {
    Error::new(
        Reason::Cancelled,
        format!("cancelled while a pipeline of {what} was started: it may have been taken, and goes on there then"),
    )
}

/// Starts it, and follows it where that was asked for.
pub async fn run(site: &Site<'_>, values: &Values, trigger: &Trigger) -> Result<Started> {
    match trigger {
        Trigger::Github(github) => github::run(site, values, github).await,
        Trigger::Gitlab(gitlab) => gitlab::run(site, values, gitlab).await,
        Trigger::Travis(travis) => travis::run(site, values, travis).await,
    }
}

/// An id of this start: the same when a killed run is gone on with, another for every delivery.
async fn id_of(memory: &dyn Memory, step: &str) -> String {
    let seed = format!("{}/{step}", memory.delivery().await);
    format!("tidegate-{}", hex(&Sha256::digest(seed.as_bytes())).chars().take(16).collect::<String>())
}

/// It cannot be said whether it was started.
fn lost(sentence: String) -> Error {
    Error { lost: true, ..Error::new(Reason::TriggerFailed, sentence) }
}

/// The number in a line of the journal that begins with these words.
fn number_in(handle: Option<&str>, words: &str) -> Option<u64> {
    handle?.strip_prefix(words)?.parse().ok()
}

/// A plain API: one address, one way to sign in.
struct Api {
    client: reqwest::Client,
    clock: Clock,
    base: String,
    /// The server, for people.
    name: &'static str,
    header: Option<(&'static str, Secret)>,
    more: &'static [(&'static str, &'static str)],
}

/// An answer.
struct Answer {
    status: u16,
    body: Value,
    /// What the server says, on one line.
    words: String,
}

impl Answer {
    fn text(&self, pointer: &str) -> Option<&str> {
        self.body.pointer(pointer).and_then(Value::as_str)
    }

    fn number(&self, pointer: &str) -> Option<u64> {
        self.body.pointer(pointer).and_then(Value::as_u64)
    }

    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Api {
    async fn get(&self, path: &str) -> Result<Answer> {
        let whole = async { self.read(http::send(&self.clock, self.request(Method::GET, path)).await?).await };
        let answer = tokio::time::timeout(REQUEST_LIMIT, whole).await.unwrap_or_else(|_elapsed| Err("nothing within a minute".into()));
        answer.map_err(|why| self.lost(&format!("GET {path}"), &why))
    }

    /// Once: what was lost may have been done.
    async fn post(&self, path: &str, fill: impl FnOnce(RequestBuilder) -> RequestBuilder) -> Result<Answer> {
        let what = format!("POST {path}");
        let asked = async {
            let answer =
                fill(self.request(Method::POST, path)).send().await.map_err(|error| (error.is_connect(), chain(&error.without_url())))?;
            self.read(answer).await.map_err(|why| (false, why))
        };
        match tokio::time::timeout(REQUEST_LIMIT, asked).await {
            Ok(Ok(answer)) if answer.status >= 500 => Err(self.lost(&what, &format!("it answers {}: {}", answer.status, answer.words))),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err((never_arrived, why))) => Err(Error { lost: !never_arrived, ..self.lost(&what, &why) }),
            Err(_elapsed) => Err(self.lost(&what, "nothing within a minute")),
        }
    }

    fn lost(&self, what: &str, why: &str) -> Error {
        let sentence = format!("{} did not answer {what}: {why}", self.name);
        Error { lost: true, ..Error::new(Reason::TriggerFailed, sentence) }.hint(format!("is {} right, and up?", self.base))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).header("accept", "application/json");
        if let Some((name, value)) = &self.header {
            request = request.header(*name, value.expose());
        }
        self.more.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    }

    async fn read(&self, answer: reqwest::Response) -> std::result::Result<Answer, String> {
        let status = answer.status().as_u16();
        let bytes = http::limited(answer, ANSWER_LIMIT).await?;
        let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let said = ["/error_message", "/message", "/error"].into_iter().filter_map(|pointer| body.pointer(pointer));
        let said = said.map(|said| said.as_str().map_or_else(|| said.to_string(), str::to_owned)).next();
        let words = crate::targets::proof::beginning(&said.unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned()));
        Ok(Answer { status, body, words })
    }
}
