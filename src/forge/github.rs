//! GitHub's REST API through octocrab: one request function that honours rate limits, and the calls tidegate makes.
//!
//! octocrab's own retries are off: they repeat POSTs at once. <https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api>

use crate::checkout::Ancestry;
use crate::error::{Error, Reason, Result};
use crate::event::Event;
use crate::inputs::Inputs;
use crate::tools::http::{chain, client as http_client, is_repeatable};
use crate::tools::secret::Secret;
use crate::tools::wait::{Backoff, Clock};
use crate::vars::Vars;
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use octocrab::service::middleware::retry::RetryConfig;
use serde_json::Value;
use std::time::Duration;

const TRIES: u32 = 6;
/// The longest that GitHub may ask us to wait before we stop asking.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
const ANSWER_LIMIT: usize = 32 * 1024 * 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The address of the API: the runner's word, or github.com's.
pub fn api(vars: &Vars) -> &str {
    vars.get("GITHUB_API_URL").unwrap_or("https://api.github.com")
}

/// The token for the API: the step's input, or the usual variables.
pub fn token(vars: &Vars) -> Option<&str> {
    Inputs::of(vars).text("token").or_else(|| vars.get("GITHUB_TOKEN")).or_else(|| vars.get("GH_TOKEN"))
}

/// A repository on GitHub.
#[derive(Clone)]
pub struct GitHub {
    client: octocrab::Octocrab,
    repository: String,
    clock: Clock,
    pub(super) identity: std::sync::Arc<std::sync::OnceLock<String>>,
}

/// An answer of the API.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body, or null.
    pub body: Value,
    headers: HeaderMap,
}

impl Answer {
    /// Whether there is another page.
    pub fn has_next_page(&self) -> bool {
        let link = self.headers.get("link").and_then(|value| value.to_str().ok()).unwrap_or_default();
        link.contains("rel=\"next\"")
    }

    /// A text of the body.
    pub fn text(&self, pointer: &str) -> Option<String> {
        self.body.pointer(pointer)?.as_str().map(str::to_owned)
    }

    pub(super) fn message(&self) -> String {
        self.text("/message").unwrap_or_else(|| format!("status {}", self.status))
    }

    fn header_seconds(&self, name: &str) -> Option<u64> {
        self.headers.get(name)?.to_str().ok()?.trim().parse().ok()
    }

    /// A rate limit: how long to wait. A 403 for lack of permission is none.
    pub(crate) fn rate_limited(&self) -> Option<Duration> {
        if !matches!(self.status, 403 | 429) {
            return None;
        }
        if let Some(seconds) = self.header_seconds("retry-after") {
            return Some(Duration::from_secs(seconds));
        }
        if self.header_seconds("x-ratelimit-remaining") == Some(0) {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs());
            let reset = self.header_seconds("x-ratelimit-reset").unwrap_or(now + 60);
            return Some(Duration::from_secs(reset.saturating_sub(now).max(1)));
        }
        let secondary = self.status == 429 || self.message().contains("secondary rate limit");
        secondary.then_some(Duration::from_secs(60))
    }
}

/// A pull request that a commit came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRequest {
    /// Its number.
    pub number: u64,
    /// How its author belongs to the repository, as GitHub says it.
    pub association: String,
}

impl GitHub {
    /// A client for one repository. Needs a Tokio runtime.
    pub fn new(vars: &Vars, url: &str, token: &Secret, repository: &str, clock: Clock) -> Result<Self> {
        let broken = |error: octocrab::Error| {
            Error::new(Reason::InputInvalid, format!("the GitHub API at {url} cannot be used: {}", chain(&error)))
                .hint("GITHUB_API_URL is set by the runner; on a laptop leave it unset for github.com")
        };
        let token = token.expose().trim();
        if http::HeaderValue::from_str(token).is_err() {
            return Err(Error::new(Reason::AuthMissing, "the GitHub token has characters that no token has")
                .hint("it was probably pasted with a line break: set the secret again"));
        }
        // octocrab's own connection knows no proxies, and no certificates but the system's: it gets ours.
        let builder = octocrab::Octocrab::builder().base_uri(url).map_err(broken)?;
        let builder = if token.is_empty() { builder } else { builder.personal_token(token.to_owned()) };
        let client = builder
            .add_retry_config(RetryConfig::None)
            .add_header(http::header::ACCEPT, "application/vnd.github+json".to_owned())
            .build_with_reqwest(http_client(vars)?)
            .map_err(broken)?;
        Ok(Self { client, repository: repository.to_owned(), clock, identity: std::sync::Arc::default() })
    }

    /// owner/name.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Sends a request below the repository. Rate limits and passing failures are waited out; an ambiguous POST is not repeated.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let route = format!("/repos/{}{path}", self.repository);
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(8));
        let mut last = String::new();
        for attempt in 1..=TRIES {
            let (pause, repeat) = match self.once(&method, &route, body).await {
                Ok(answer) => match answer.rate_limited() {
                    Some(wait) if wait <= LONGEST_WAIT && attempt < TRIES => (wait, true),
                    _settled if answer.status < 500 || attempt == TRIES => return Ok(answer),
                    _passing => {
                        last = answer.message();
                        (backoff.pause(), is_repeatable(&method) || method == Method::PATCH)
                    }
                },
                Err(lost) => {
                    last = lost;
                    (backoff.pause(), is_repeatable(&method) || method == Method::PATCH)
                }
            };
            if !repeat || attempt == TRIES {
                break;
            }
            self.clock.sleep(pause).await;
        }
        let sentence = format!("GitHub did not answer {method} {route}: {last}");
        let error = Error::new(Reason::ForgeFailed, sentence);
        Err(Error { lost: true, ..error }.hint("https://www.githubstatus.com shows incidents; running the job again is safe"))
    }

    async fn once(&self, method: &Method, route: &str, body: Option<&Value>) -> std::result::Result<Answer, String> {
        let text = body.map(Value::to_string).unwrap_or_default();
        let mut request = http::Request::builder().method(method).uri(route).header("X-GitHub-Api-Version", "2022-11-28");
        if body.is_some() {
            request = request.header(http::header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(text).map_err(|error| error.to_string())?;
        let whole = async {
            let response = self.client.execute(request).await.map_err(|error| chain(&error))?;
            let (parts, body) = response.into_parts();
            let limited = http_body_util::Limited::new(body, ANSWER_LIMIT);
            let bytes = limited.collect().await.map_err(|error| error.to_string())?.to_bytes();
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            Ok(Answer { status: parts.status.as_u16(), body, headers: parts.headers })
        };
        tokio::time::timeout(REQUEST_TIMEOUT, whole).await.map_err(|_elapsed| "no answer within 60s".to_owned())?
    }

    fn refused(answer: &Answer) -> Error {
        let reason = if answer.status == 401 { Reason::AuthExpired } else { Reason::AuthDenied };
        Error::new(reason, format!("GitHub refuses the token: {}", answer.message())).hint(
            "pass `token: ${{ github.token }}` to the step, with `contents: read` under `permissions:`; a token lives as long as its job",
        )
    }

    /// Does what must happen once although its answer may be lost: looks for the deed before doing it again.
    pub(super) async fn once_only<T, A, F>(&self, act: impl Fn() -> A, find: impl Fn() -> F) -> Result<T>
    where
        A: Future<Output = Result<T>>,
        F: Future<Output = Result<Option<T>>>,
    {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(4));
        let mut tries = 1;
        loop {
            match act().await {
                Err(error) if error.lost && tries < 3 => {
                    self.clock.sleep(backoff.pause()).await;
                    if let Some(done) = find().await? {
                        return Ok(done);
                    }
                    tries += 1;
                }
                answer => return answer,
            }
        }
    }

    /// Waits on the forge's clock before something is looked at again.
    pub(super) async fn pause(&self) {
        self.clock.sleep(Duration::from_secs(1)).await;
    }

    /// The answer when it is a success, else an error that says which permission is missing.
    pub async fn expect(&self, method: Method, path: &str, body: Option<&Value>, permission: &str) -> Result<Answer> {
        let answer = self.call(method.clone(), path, body).await?;
        self.judge(answer, &method, path, permission)
    }

    /// A success, or what the answer says is wrong.
    pub(crate) fn judge(&self, answer: Answer, method: &Method, path: &str, permission: &str) -> Result<Answer> {
        match answer.status {
            200..=299 => Ok(answer),
            401 => Err(Self::refused(&answer)),
            403 | 429 if answer.rate_limited().is_some() => {
                let sentence = format!("GitHub limits the rate of requests: {}", answer.message());
                Err(Error::new(Reason::ForgeFailed, sentence).hint("the limit is per token and hour; try again later"))
            }
            403 | 404 => {
                let sentence = format!("GitHub refuses {method} {path} of {}: {}", self.repository, answer.message());
                let gone = answer.status == 404;
                Err(Error { gone, ..Error::new(Reason::AuthDenied, sentence) }
                    .hint(format!("add `{permission}` under `permissions:` of the job (naming one permission sets the others to none)")))
            }
            status => {
                let sentence = format!("GitHub answers {status} to {method} {path} of {}: {}", self.repository, answer.message());
                Err(Error { lost: status >= 500, ..Error::new(Reason::ForgeFailed, sentence) })
            }
        }
    }

    /// The default branch's name.
    pub async fn default_branch(&self) -> Result<Option<String>> {
        Ok(self.expect(Method::GET, "", None, "contents: read").await?.text("/default_branch"))
    }

    /// The commit of a branch, a commit id or a ref such as tags/v1.0.0; `None` when there is none. Tag objects are followed.
    pub async fn commit_of_ref(&self, name: &str) -> Result<Option<String>> {
        let answer = self.call(Method::GET, &format!("/commits/{}", encode(name)), None).await?;
        match answer.status {
            200 => Ok(answer.text("/sha")),
            404 | 422 => Ok(None),
            401 | 403 => Err(Self::refused(&answer)),
            _other => Err(Error::new(Reason::ForgeFailed, format!("GitHub cannot say which commit {name} is: {}", answer.message()))),
        }
    }

    /// The commit of a ref of a public repository, asked once and without much patience; an error is why it is not known.
    pub async fn look_up(&self, name: &str) -> std::result::Result<Option<String>, String> {
        let route = format!("/repos/{}/commits/{}", self.repository, encode(name));
        let answer = tokio::time::timeout(Duration::from_secs(15), self.once(&Method::GET, &route, None)).await;
        let answer = answer.map_err(|_elapsed| "GitHub did not answer within 15s".to_owned())??;
        match answer.status {
            200 => Ok(answer.text("/sha")),
            404 | 422 => Ok(None),
            _other => Err(format!("GitHub answers {}", answer.message())),
        }
    }

    /// Head, base, labels and state of a pull request that was named by its number.
    pub async fn fill_pull_request(&self, event: &mut Event) -> Result<()> {
        let Some(number) = event.pr else { return Ok(()) };
        let answer = self.expect(Method::GET, &format!("/pulls/{number}"), None, "pull-requests: read").await?;
        let id = |pointer: &str| answer.body.pointer(pointer).and_then(Value::as_u64);
        if event.sha.is_none() {
            event.set_sha(answer.text("/head/sha"));
        }
        event.base = answer.text("/base/ref");
        event.head_ref = answer.text("/head/ref");
        event.head_repo = answer.text("/head/repo/full_name");
        event.is_fork = Some(id("/head/repo/id").is_none() || id("/head/repo/id") != id("/base/repo/id"));
        event.more.closed = answer.text("/state").as_deref() == Some("closed");
        event.more.draft |= answer.body.pointer("/draft").and_then(Value::as_bool).unwrap_or(false);
        let labels = answer.body.pointer("/labels").and_then(Value::as_array);
        event.more.labels.extend(labels.into_iter().flatten().filter_map(|label| Some(label.pointer("/name")?.as_str()?.to_owned())));
        event.more.author = answer.text("/user/login");
        Ok(())
    }

    /// Whether a pull request is open; nothing when GitHub does not say.
    pub async fn is_open(&self, number: u64) -> Option<bool> {
        let answer = self.call(Method::GET, &format!("/pulls/{number}"), None).await.ok()?;
        answer.text("/state").filter(|_| answer.status == 200).map(|state| state == "open")
    }

    /// The open pull requests from this branch of a repository, whose head is this commit.
    pub async fn open_from(&self, repository: &str, branch: &str, sha: &str) -> Result<Vec<u64>> {
        let owner = repository.split('/').next().unwrap_or_default();
        let path = format!("/pulls?state=open&per_page=100&head={}:{}", encode(owner), encode(branch));
        let answer = self.expect(Method::GET, &path, None, "pull-requests: read").await?;
        let is_it = |pull: &&Value| {
            let text = |pointer: &str| pull.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            text("/head/sha") == sha && text("/head/repo/full_name").eq_ignore_ascii_case(repository)
        };
        let found = answer.body.as_array().into_iter().flatten().filter(is_it);
        Ok(found.filter_map(|pull| pull.pointer("/number")?.as_u64()).collect())
    }

    /// How `head` relates to `base`. Unknown commits have no answer.
    pub async fn compare(&self, base: &str, head: &str) -> Result<Option<Ancestry>> {
        let path = format!("/compare/{}...{}?per_page=1", encode(base), encode(head));
        let answer = self.call(Method::GET, &path, None).await?;
        if matches!(answer.status, 401 | 403) {
            return Err(Self::refused(&answer));
        }
        Ok(match answer.text("/status").as_deref() {
            Some("identical") => Some(Ancestry::Same),
            Some("ahead") => Some(Ancestry::Newer),
            Some("behind") => Some(Ancestry::Older),
            Some("diverged") => Some(Ancestry::Diverged),
            _unknown => None,
        })
    }

    /// The merged pull request that brought a commit to a branch. The index may lag behind a merge: then it is asked again.
    pub async fn pull_request_of(&self, sha: &str, branch: Option<&str>, tries: u64) -> Result<Option<PullRequest>> {
        for attempt in 0..tries {
            let path = format!("/commits/{sha}/pulls?per_page=100");
            let answer = self.expect(Method::GET, &path, None, "pull-requests: read").await?;
            let pulls = answer.body.as_array().cloned().unwrap_or_default();
            let fits = |pull: &&Value| {
                let merged = pull.pointer("/merged_at").is_some_and(|at| !at.is_null());
                let base = pull.pointer("/base/ref").and_then(Value::as_str);
                merged && (branch.is_none() || base == branch)
            };
            let exact = |pull: &&Value| pull.pointer("/merge_commit_sha").and_then(Value::as_str) == Some(sha);
            let found = pulls.iter().filter(fits).find(exact).or_else(|| pulls.iter().find(fits));
            if let Some((number, pull)) = found.and_then(|pull| Some((pull.pointer("/number")?.as_u64()?, pull))) {
                let association = pull.pointer("/author_association").and_then(Value::as_str).unwrap_or_default().to_owned();
                return Ok(Some(PullRequest { number, association }));
            }
            if attempt + 1 < tries {
                self.clock.sleep(Duration::from_secs(2 + 3 * attempt)).await;
            }
        }
        Ok(None)
    }

    /// The login that this token acts as; installation tokens may not ask.
    pub async fn viewer(&self) -> Result<Option<String>> {
        let mut last = String::new();
        for _attempt in 0..TRIES {
            match self.once(&Method::GET, "/user", None).await {
                Ok(answer) if answer.status == 200 => return Ok(answer.text("/login")),
                Ok(answer) if answer.rate_limited().is_none() && answer.status < 500 => return Ok(None),
                Ok(answer) => last = answer.message(),
                Err(lost) => last = lost,
            }
            self.clock.sleep(Duration::from_millis(500)).await;
        }
        Err(Error::new(Reason::ForgeFailed, format!("GitHub does not say whose token this is: {last}")))
    }

    /// The bot that this token writes as, once GitHub has told it.
    pub fn identity(&self) -> Option<String> {
        self.identity.get().cloned()
    }
}

pub(crate) fn encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}
