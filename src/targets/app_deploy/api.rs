//! The protocol of CD servers: two requests, one answer for both, and errors that come with status 200.

use crate::config::{AppDeploy, TextOrSecret, template::Values};
use crate::error::{Error, Reason, Result};
use crate::targets::{Site, proof, secret, set};
use crate::tools::http::{self, chain, retry_after};
use crate::tools::secret::Secret;
use crate::tools::wait::Clock;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

/// How much of an answer is read: the whole log comes each time.
const ANSWER_LIMIT: usize = 32 * 1024 * 1024;
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// How long an answer may take when the time is over: the last look must not look like a server that is away.
const LAST_LOOK: Duration = Duration::from_secs(5);
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A client for one deployment on one CD server.
pub(super) struct Api {
    client: reqwest::Client,
    clock: Clock,
    /// The address without a slash at its end.
    pub(super) url: String,
    id: String,
    secret: Secret,
}

/// What a request brought, as far as one may go on after it.
pub(super) enum Answer {
    /// A job.
    Job(Seen),
    /// The server said no, in these words.
    No(String),
    /// The server did not answer; a gateway may have done so in its place.
    Away(Away),
}

impl Answer {
    /// Whether it is known that no job runs for us.
    pub(super) fn is_certain(&self) -> bool {
        match self {
            Self::Job(_) => false,
            Self::No(_) => true,
            Self::Away(away) => !away.may_have_arrived,
        }
    }
}

/// A job as the server told it.
pub(super) struct Seen {
    pub(super) id: Option<String>,
    pub(super) state: String,
    pub(super) output: String,
    /// The server's clock when it answered, in milliseconds since 1970.
    pub(super) date: Option<i64>,
}

/// Nobody answered.
pub(super) struct Away {
    pub(super) why: String,
    /// The status, where there was one.
    status: Option<StatusCode>,
    /// Whether the server may have got the request all the same.
    pub(super) may_have_arrived: bool,
    /// How long it asks to wait.
    pub(super) pause: Option<Duration>,
}

impl Api {
    pub(super) fn open(site: &Site<'_>, values: &Values, target: &AppDeploy) -> Result<Self> {
        let fill = |text: &str| site.fill(values, text);
        let configured = fill(&target.url)?;
        let url = site.world.detour.as_ref().map_or(configured, |sandbox| format!("{sandbox}/cd"));
        proof::safe(&url, &proof::shown(&url))?;
        let id = match &target.deployment_id {
            TextOrSecret::Text(text) => fill(text)?,
            TextOrSecret::Secret(name) => secret(site.world, &name.env, "the id of the deployment")?.expose().to_owned(),
        };
        let secret = secret(site.world, &target.deployment_secret.env, "the secret of the deployment")?;
        Ok(Self { client: http::client(&site.world.vars)?, clock: site.world.clock, url: url.trim_end_matches('/').to_owned(), id, secret })
    }

    /// Asks for a job.
    pub(super) async fn deploy(&self, limit: Duration) -> Result<Answer> {
        let answer = self.post("app-deploy", json!({}), limit).await?;
        match answer {
            Answer::Job(seen) if !seen.id.as_deref().is_some_and(is_id) => {
                let error = Error::new(Reason::TargetFailed, format!("{}/app-deploy/ took the request and names no job", self.url));
                Err(Error { lost: true, ..error }.hint("a job may run there: look at the server's log"))
            }
            // A gateway cannot say whether it passed the request on; an error of the server itself may come after the deed.
            Answer::Away(away) if away.status == Some(StatusCode::INTERNAL_SERVER_ERROR) => {
                let error = Error::new(Reason::TargetFailed, format!("{}/app-deploy/ answers {}", self.url, away.why));
                Err(Error { lost: true, ..error }.hint("a job may run there all the same: look at the server's log"))
            }
            answer @ (Answer::Job(_) | Answer::No(_) | Answer::Away(_)) => Ok(answer),
        }
    }

    /// Asks for the state of a job and what it has said.
    pub(super) async fn status(&self, job: &str, limit: Duration) -> Result<Answer> {
        let answer = self.post("job-status", json!({"job_id": job}), limit).await?;
        match &answer {
            Answer::Job(Seen { id: Some(other), .. }) if other != job => {
                let sentence = format!("{} was asked for job {job} and answers about job {}", self.url, cut(other));
                Err(Error { lost: true, ..Error::new(Reason::TargetFailed, sentence) }.hint("look at the server: it mixes jobs up"))
            }
            Answer::Job(_) | Answer::No(_) | Answer::Away(_) => Ok(answer),
        }
    }

    /// The secret travels in the body only. Without the slash at the end the server redirects, and nobody follows.
    async fn post(&self, path: &str, mut body: Value, limit: Duration) -> Result<Answer> {
        set(&mut body, &["deployment_id"], json!(self.id));
        set(&mut body, &["deployment_secret"], json!(self.secret.expose()));
        let place = format!("{}/{path}/", self.url);
        let limit = self.clock.real_length(limit).clamp(LAST_LOOK, REQUEST_LIMIT);
        let asked = async {
            let answer = self.client.post(&place).json(&body).send().await;
            let answer = answer.map_err(|error| (!error.is_connect(), chain(&error.without_url())))?;
            let (status, date, pause) = (answer.status(), date(&answer), retry_after(&answer));
            let location = location(&answer);
            let bytes = http::limited(answer, ANSWER_LIMIT).await.map_err(|why| (true, why))?;
            Ok((Got { status, date, pause, location }, bytes))
        };
        let away = |(may_have_arrived, why)| Ok(Answer::Away(Away { why, status: None, may_have_arrived, pause: None }));
        match tokio::time::timeout(limit, asked).await {
            Ok(Ok((got, bytes))) => got.understood(&place, &bytes),
            Ok(Err(failed)) => away(failed),
            Err(_elapsed) => away((true, format!("no answer within {}", crate::tools::wait::spoken(limit)))),
        }
    }
}

/// The head of an answer.
struct Got {
    status: StatusCode,
    date: Option<i64>,
    pause: Option<Duration>,
    location: Option<String>,
}

impl Away {
    /// What stands in front of the server answered in its place, as a proxy does while the server is replaced.
    pub(super) fn in_its_place(error: &Error) -> Self {
        Self { why: error.sentence.clone(), status: None, may_have_arrived: false, pause: None }
    }
}

impl Got {
    fn understood(self, place: &str, bytes: &[u8]) -> Result<Answer> {
        let body: Option<Value> = serde_json::from_slice(bytes).ok();
        if !self.status.is_success() {
            return self.no_success(place, body.as_ref(), bytes);
        }
        let text = |name: &str| body.as_ref().and_then(|body| body.get(name)).and_then(Value::as_str).map(str::to_owned);
        match (text("status"), text("error")) {
            (Some(state), Some(words)) if state == "error" && text("job_id").is_none() => Ok(Answer::No(cut(&words))),
            (Some(state), _) => {
                Ok(Answer::Job(Seen { id: text("job_id"), state, output: text("output").unwrap_or_default(), date: self.date }))
            }
            (None, _) => {
                let what = if body.is_some() { "JSON without a `status`" } else { "something else than JSON" };
                let sentence = format!("{place} answers {what}: {:?}", proof::beginning(&String::from_utf8_lossy(bytes)));
                Err(Error { lost: true, ..Error::new(Reason::TargetInput, sentence) }.hint(IS_IT_THERE))
            }
        }
    }

    fn no_success(self, place: &str, body: Option<&Value>, bytes: &[u8]) -> Result<Answer> {
        let own = words(body);
        let is_own = own.is_some();
        let words = own.unwrap_or_else(|| proof::beginning(&String::from_utf8_lossy(bytes)));
        let sentence = format!("{place} answers {}: {words}", self.status.as_u16());
        let failed = |reason: Reason, hint: &str| Err(Error::new(reason, sentence.clone()).hint(hint));
        // While it redeploys itself, what stands in front answers in its place: without the `detail` of the server.
        let not_its_own = |error: Error| Error { gone: !is_own, ..error };
        match self.status.as_u16() {
            429 | 500 | 502 | 503 | 504 => {
                let why = format!("{}{}", self.status, if words.is_empty() { String::new() } else { format!(": {words}") });
                let may_have_arrived = self.status != StatusCode::TOO_MANY_REQUESTS;
                let pause = self.pause.map(|pause| pause.min(LONGEST_PAUSE));
                Ok(Answer::Away(Away { why, status: Some(self.status), may_have_arrived, pause }))
            }
            401 => failed(Reason::AuthMissing, "something in front of the server wants a login: the deployment's secret is not one"),
            403 => failed(Reason::AuthDenied, "may this runner reach the server from where it is?").map_err(not_its_own),
            404 | 405 => failed(Reason::TargetInput, IS_IT_THERE).map_err(not_its_own),
            422 => failed(Reason::TargetInput, "the server does not take the request's shape: is it a CD server of another version?"),
            300..=399 => {
                let to = self.location.map_or("another place".to_owned(), |location| proof::shown(&location));
                let sentence = format!("{place} answers {} and leads to {to}: a secret is not taken there", self.status.as_u16());
                Err(Error::new(Reason::TargetInput, sentence)
                    .hint("write the address that it leads to as `url:`, if that is the CD server"))
            }
            _other => failed(Reason::TargetFailed, IS_IT_THERE),
        }
    }
}

const IS_IT_THERE: &str = "is a CD server there? `url:` is the address without /app-deploy/";

/// What FastAPI says: `detail` as a text, or a list of what is wrong where. Its `input` holds the secret and is left out.
fn words(body: Option<&Value>) -> Option<String> {
    let one = |entry: &Value| {
        let place = entry.get("loc")?.as_array()?.iter().map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned));
        Some(format!("{}: {}", place.collect::<Vec<_>>().join("."), entry.get("msg")?.as_str()?))
    };
    let detail = body?.get("detail")?;
    let text = match detail.as_array() {
        Some(entries) => entries.iter().filter_map(one).collect::<Vec<_>>().join("; "),
        None => detail.as_str()?.to_owned(),
    };
    Some(cut(&text))
}

/// At most so much of foreign text, on one line.
fn cut(text: &str) -> String {
    crate::tools::console::cut(&text.split_whitespace().collect::<Vec<_>>().join(" "), 300)
}

fn location(answer: &Response) -> Option<String> {
    answer.headers().get(reqwest::header::LOCATION)?.to_str().ok().map(str::to_owned)
}

/// The server's clock, to the second.
fn date(answer: &Response) -> Option<i64> {
    let text = answer.headers().get(reqwest::header::DATE)?.to_str().ok()?;
    Some(jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?.as_millisecond())
}

/// Whether a text can name a job: it is said, sent back and written down.
fn is_id(text: &str) -> bool {
    (1..=100).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FastAPI gives back what it was sent, the secret too.
    #[test]
    fn what_is_wrong_is_said_without_what_was_sent() {
        let body = json!({"detail": [{"type": "dict_type", "loc": ["body", 0], "msg": "Input should be a dict", "input": "hunter2"}]});
        assert_eq!(words(Some(&body)).unwrap(), "body.0: Input should be a dict");
        assert_eq!(words(Some(&json!({"detail": "Not Found"}))).unwrap(), "Not Found");
        assert_eq!(words(Some(&json!([]))), None);
    }
}
