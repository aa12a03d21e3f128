//! Heroku's Platform API: <https://devcenter.heroku.com/articles/platform-api-reference>.

use crate::error::{Error, Reason, Result};
use crate::targets::secret;
use crate::tools::http::{self, chain, is_passing, retry_after};
use crate::tools::secret::Secret;
use crate::tools::wait::{Backoff, Clock, spoken};
use crate::world::World;
use reqwest::Method;
use serde_json::Value;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
const TRIES: u32 = 5;
/// How long a used-up rate limit is waited for in all. 4,500 requests an hour flow in at 75 a minute.
const LIMIT_PATIENCE: Duration = Duration::from_secs(600);
/// Below so many requests left, looks are made less often: others use the same account.
const SCARCE: u64 = 300;

/// What is asked for.
pub struct Request<'a> {
    pub method: Method,
    pub path: &'a str,
    pub body: Option<&'a Value>,
    /// A variant of the API, as `.docker-releases`.
    pub variant: &'a str,
    /// A `Range` header.
    pub range: Option<&'a str>,
    /// Whether doing it twice is the same as doing it once.
    pub repeats: Repeats,
}

/// Whether a request may be repeated when its answer was lost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Repeats {
    Yes,
    No,
}

impl<'a> Request<'a> {
    pub fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, body: None, variant: "", range: None, repeats: Repeats::Yes }
    }

    /// A change that is the same when it is made twice.
    pub fn patch(path: &'a str, body: &'a Value) -> Self {
        Self { method: Method::PATCH, body: Some(body), ..Self::get(path) }
    }

    /// Something new.
    pub fn post(path: &'a str, body: &'a Value) -> Self {
        Self { method: Method::POST, body: Some(body), repeats: Repeats::No, ..Self::get(path) }
    }
}

/// An answer.
pub struct Answer {
    pub status: u16,
    pub body: Value,
    /// The `Range` of the next part of a list.
    pub next: Option<String>,
}

impl Answer {
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.body.pointer(pointer).and_then(Value::as_str)
    }

    pub fn list(&self) -> &[Value] {
        self.body.as_array().map(Vec::as_slice).unwrap_or_default()
    }
}

/// A client for one account.
pub struct Api<'a> {
    client: reqwest::Client,
    world: &'a World,
    clock: Clock,
    base: String,
    /// The API key.
    pub token: Secret,
    /// The requests left in this hour, as Heroku said last.
    left: AtomicU64,
}

impl<'a> Api<'a> {
    pub fn open(world: &'a World, token: &str) -> Result<Self> {
        Self::at(world, token, ("HEROKU_API_URL", "https://api.heroku.com"))
    }

    /// The API of Heroku's databases, which takes the same key: <https://github.com/heroku/cli/tree/main/packages/cli/src/lib/pg>.
    pub fn of_data(world: &'a World, token: &str) -> Result<Self> {
        Self::at(world, token, ("HEROKU_DATA_URL", "https://api.data.heroku.com"))
    }

    fn at(world: &'a World, token: &str, (variable, usual): (&str, &str)) -> Result<Self> {
        let base = match &world.detour {
            Some(sandbox) => format!("{sandbox}/heroku"),
            None => world.vars.get(variable).unwrap_or(usual).trim_end_matches('/').to_owned(),
        };
        if !base.starts_with("https://") && !crate::config::is_loopback(&base) {
            return Err(Error::new(Reason::InputInvalid, format!("{variable} is {base}, which is not https: the key would be read")));
        }
        let token = secret(world, token, "the API key of Heroku")?;
        Ok(Self { client: http::client(&world.vars)?, world, clock: world.clock, base, token, left: AtomicU64::new(u64::MAX) })
    }

    /// Whether this is reached by TLS, as attached dynos then are too.
    pub fn is_encrypted(&self) -> bool {
        self.base.starts_with("https://")
    }

    /// The pause until the next look: longer where requests have become scarce.
    pub fn pause(&self, usual: Duration) -> Duration {
        if self.left.load(Ordering::Relaxed) < SCARCE { usual.max(Duration::from_secs(15)) } else { usual }
    }

    /// What is there.
    pub async fn read(&self, path: &str) -> Result<Answer> {
        self.expect(&Request::get(path)).await
    }

    /// What is there, or nothing.
    pub async fn find(&self, path: &str) -> Result<Option<Answer>> {
        let answer = self.send(&Request::get(path)).await?;
        if answer.status == 404 { Ok(None) } else { judge(answer, &Request::get(path)).map(Some) }
    }

    /// A success, or what is wrong in words.
    pub async fn expect(&self, request: &Request<'_>) -> Result<Answer> {
        judge(self.send(request).await?, request)
    }

    /// Sends it. A used-up rate limit and passing failures are waited out; what must happen once is not repeated.
    pub async fn send(&self, request: &Request<'_>) -> Result<Answer> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(8));
        let (mut limited, mut tries) = (Duration::ZERO, 0);
        loop {
            tries += 1;
            let asked = async {
                if request.method != Method::GET {
                    return Some(self.once(request).await); // a change is not broken off
                }
                tokio::select! {
                    answer = self.once(request) => Some(answer),
                    () = self.world.cancel.cancelled() => None,
                }
            };
            let Some(answer) = asked.await else { return Err(cancelled()) };
            let lost = match answer {
                Ok((answer, asked)) if answer.status == 429 => {
                    let pause = asked.unwrap_or(Duration::from_secs(15)).max(Duration::from_secs(1));
                    limited = limited.saturating_add(pause);
                    if limited > LIMIT_PATIENCE {
                        return Ok(answer);
                    }
                    let pause_said = spoken(pause);
                    self.world.console.line(&format!("  Heroku's limit of 4,500 requests an hour is used up; going on in {pause_said}"));
                    self.sleep(pause).await?;
                    tries -= 1; // nothing was done
                    continue;
                }
                Ok((answer, _)) if !is_passing(reqwest::StatusCode::from_u16(answer.status).unwrap_or_default()) => return Ok(answer),
                Ok((answer, _)) => format!("it answers {}: {}", answer.status, words(&answer)),
                Err(why) => why,
            };
            if request.repeats == Repeats::No || tries >= TRIES {
                let sentence = format!("Heroku did not answer {} {}: {lost}", request.method, request.path);
                return Err(
                    Error { lost: true, ..Error::new(Reason::TargetFailed, sentence) }.hint("https://status.heroku.com shows incidents")
                );
            }
            self.sleep(backoff.pause()).await?;
        }
    }

    /// Sends it once, also when the run is cancelled; the status.
    pub async fn once_more(&self, request: &Request<'_>) -> std::result::Result<u16, String> {
        self.once(request).await.map(|(answer, _)| answer.status)
    }

    /// Waits on the clock of the run, unless that is cancelled.
    pub async fn sleep(&self, length: Duration) -> Result<()> {
        tokio::select! {
            () = self.clock.sleep(length) => Ok(()),
            () = self.world.cancel.cancelled() => Err(cancelled()),
        }
    }

    async fn once(&self, request: &Request<'_>) -> std::result::Result<(Answer, Option<Duration>), String> {
        let accept = format!("application/vnd.heroku+json; version=3{}", request.variant);
        let mut ask = self.client.request(request.method.clone(), format!("{}{}", self.base, request.path)).header("accept", accept);
        ask = ask.bearer_auth(self.token.expose());
        if let Some(range) = request.range {
            ask = ask.header("range", range);
        }
        if let Some(body) = request.body {
            ask = ask.json(body);
        }
        let whole = async {
            let answer = ask.send().await.map_err(|error| chain(&error.without_url()))?;
            if let Some(left) = answer.headers().get("ratelimit-remaining").and_then(|value| value.to_str().ok()?.parse().ok()) {
                self.left.store(left, Ordering::Relaxed);
            }
            let (status, asked) = (answer.status().as_u16(), retry_after(&answer));
            let next = answer.headers().get("next-range").and_then(|value| Some(value.to_str().ok()?.to_owned()));
            let bytes = http::limited(answer, ANSWER_LIMIT).await?;
            let is_success = (200..300).contains(&status) && !bytes.is_empty();
            let body = match serde_json::from_slice(&bytes) {
                Err(_error) if is_success => return Err(format!("it answers {status} with something else than JSON")),
                body => body.unwrap_or(Value::Null),
            };
            Ok((Answer { status, body, next }, asked))
        };
        tokio::time::timeout(REQUEST_LIMIT, whole).await.unwrap_or_else(|_elapsed| Err("nothing within a minute".into()))
    }

    /// Opens something that Heroku streams: the output of a release phase, or log lines. These addresses know nobody.
    pub async fn stream(&self, url: &str) -> std::result::Result<reqwest::Response, String> {
        let url = match &self.world.detour {
            Some(sandbox) => format!("{sandbox}/heroku{}", url.split_once("/heroku").map_or("", |(_, rest)| rest)),
            None => url.to_owned(),
        };
        let answer = self.client.get(http::led_to(&url)?).send().await.map_err(|error| chain(&error.without_url()))?;
        if answer.status().is_success() { Ok(answer) } else { Err(format!("it answers {}", answer.status())) }
    }
}

fn cancelled() -> Error {
    Error::new(Reason::Cancelled, "cancelled while Heroku was waited for")
}

/// What Heroku says about an answer.
fn words(answer: &Answer) -> String {
    answer.text("/message").map_or_else(|| answer.status.to_string(), |text| crate::tools::console::cut(text.trim(), 300))
}

/// A success, or what is wrong.
pub fn judge(answer: Answer, request: &Request<'_>) -> Result<Answer> {
    let sentence = format!("Heroku answers {} to {} {}: {}", answer.status, request.method, request.path, words(&answer));
    Err(match answer.status {
        200..=299 => return Ok(answer),
        401 => Error::new(Reason::AuthMissing, sentence).hint("Heroku does not know this key: make one by `heroku authorizations:create`"),
        402 => Error::new(Reason::AuthDenied, sentence).hint("the account must be verified, or its bill paid"),
        403 => {
            Error::new(Reason::AuthDenied, sentence).hint("the key's account needs the permissions deploy, operate and manage on the app")
        }
        404 => Error { gone: true, ..Error::new(Reason::TargetMissing, sentence) },
        422 => Error::new(Reason::TargetInput, sentence),
        429 => Error::new(Reason::TargetFailed, sentence).hint("4,500 requests an hour for each account: what else uses this key?"),
        _other => Error::new(Reason::TargetFailed, sentence),
    })
}
