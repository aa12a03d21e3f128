//! GitLab's REST API through the `gitlab` crate: its endpoints, sent over our own connection.
//!
//! The crate's own client follows redirects with its token and knows no certificates but the system's.
//! <https://docs.gitlab.com/api/rest/>, <https://docs.gitlab.com/ci/jobs/ci_job_token/>

use crate::checkout::Ancestry;
use crate::error::{Error, Reason, Result};
use crate::event::{Event, is_full_sha};
use crate::inputs::Inputs;
use crate::tools::http::{chain, client as http_client, is_passing, is_repeatable, retry_after};
use crate::tools::secret::Secret;
use crate::tools::wait::{Backoff, Clock};
use crate::vars::Vars;
use async_trait::async_trait;
use bytes::Bytes;
use gitlab::api::endpoint_prelude::{BodyError, Cow, Endpoint, FormParams, Method, QueryParams};
use gitlab::api::projects::merge_requests::MergeRequest;
use gitlab::api::projects::repository::{branches, commits, tags};
use gitlab::api::projects::{Project, jobs};
use gitlab::api::{ApiError, AsyncClient, AsyncQuery, RestClient};
use serde_json::Value;
use std::time::Duration;
use url::Url;

const TRIES: u32 = 5;
/// The longest that GitLab may ask us to wait before we stop asking.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
const ANSWER_LIMIT: usize = 32 * 1024 * 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A project on GitLab.
#[derive(Clone)]
pub struct GitLab {
    pub(super) client: Client,
    /// Its number, or its path.
    pub(super) project: String,
    path: String,
    /// The CI job we are.
    pub(super) job: Option<Job>,
    /// The deployment that GitLab keeps for this job.
    pub(super) own: std::sync::Arc<std::sync::OnceLock<u64>>,
}

/// The CI job that this process is.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its id.
    pub id: u64,
    /// The environment that its `environment:` names: GitLab keeps a deployment for it by itself.
    pub environment: Option<String>,
}

/// What a token may do.
#[derive(Clone)]
enum Token {
    /// `CI_JOB_TOKEN`: reads, deployments, environments, releases, triggers. No notes, no commit statuses.
    Job(Secret),
    /// A project, group or personal access token.
    Access(Secret),
}

/// Our connection, as the crate's endpoints use it.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Token,
    pub(super) clock: Clock,
}

/// A request that got no answer.
#[derive(Debug)]
pub struct Lost(String);

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Lost {}

impl RestClient for Client {
    type Error = Lost;

    fn rest_endpoint(&self, endpoint: &str) -> std::result::Result<Url, ApiError<Lost>> {
        Ok(self.base.join(endpoint)?)
    }
}

#[async_trait]
impl AsyncClient for Client {
    async fn rest_async(
        &self,
        request: http::request::Builder,
        body: Vec<u8>,
    ) -> std::result::Result<http::Response<Bytes>, ApiError<Lost>> {
        let lost = |why: String| ApiError::client(Lost(why));
        let request = request.body(body).map_err(|error| lost(error.to_string()))?;
        let request = reqwest::Request::try_from(request).map_err(|error| lost(error.to_string()))?;
        self.patiently(request).await.map_err(lost)
    }
}

impl Client {
    /// Sends what may be sent again until there is an answer that counts.
    async fn patiently(&self, mut request: reqwest::Request) -> std::result::Result<http::Response<Bytes>, String> {
        let repeatable = is_repeatable(request.method());
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(8));
        let mut attempt = 1;
        loop {
            let copy = request.try_clone().ok_or("a request that cannot be repeated")?;
            let last = attempt >= TRIES;
            attempt += 1;
            let pause = match tokio::time::timeout(REQUEST_TIMEOUT, self.once(copy)).await {
                Ok(Ok(Sent::Moved(to))) if !last => {
                    *request.url_mut() = to; // a project that was renamed, or a file elsewhere
                    continue;
                }
                Ok(Ok(Sent::Moved(to))) => return Err(format!("it moved to {}, and on", to.host_str().unwrap_or("?"))),
                Ok(Ok(Sent::Passing(answer, Some(asked))))
                    if asked <= LONGEST_WAIT && !last && (repeatable || answer.status() == http::StatusCode::TOO_MANY_REQUESTS) =>
                {
                    asked
                }
                Ok(Ok(Sent::Passing(_, None))) if repeatable && !last => backoff.pause(),
                Ok(Ok(Sent::Passing(answer, _) | Sent::Answer(answer))) => return Ok(answer),
                Ok(Err(why)) if !repeatable || last => return Err(why),
                Err(_elapsed) if !repeatable || last => return Err("no answer within 60s".into()),
                Ok(Err(_)) | Err(_) => backoff.pause(),
            };
            self.clock.sleep(pause).await;
        }
    }

    async fn once(&self, mut request: reqwest::Request) -> std::result::Result<Sent, String> {
        let (name, secret) = match &self.token {
            Token::Job(secret) => ("job-token", secret),
            Token::Access(secret) => ("private-token", secret),
        };
        let mut value = http::HeaderValue::from_str(secret.expose()).map_err(|_invalid| "the token has characters that no token has")?;
        value.set_sensitive(true);
        if request.url().origin() == self.base.origin() {
            request.headers_mut().insert(http::HeaderName::from_static(name), value);
        }
        let asked = request.url().clone();
        let is_download = request.method() == Method::GET && asked.path().contains("/packages/generic/");
        let mut response = self.http.execute(request).await.map_err(|error| chain(&error.without_url()))?;
        if response.status().is_redirection() {
            let location = response.headers().get(http::header::LOCATION).and_then(|value| value.to_str().ok());
            let to = location.and_then(|location| asked.join(location).ok()).ok_or("a redirect to nowhere")?;
            crate::tools::http::leads_astray(&to).map_or(Ok(()), Err)?;
            // Files of packages may lie in an object store, behind an address that is signed for one download.
            let download = is_download && (to.scheme() == "https" || asked.scheme() == "http");
            return match to.origin() == asked.origin() || download {
                true => Ok(Sent::Moved(to)),
                false => Err(format!("it redirects to another host ({}), which does not get our token", to.host_str().unwrap_or("?"))),
            };
        }
        let (status, wait) = (response.status(), retry_after(&response));
        let mut answer = http::Response::builder().status(status);
        if let Some(headers) = answer.headers_mut() {
            *headers = response.headers().clone();
        }
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| chain(&error.without_url()))? {
            body.extend_from_slice(&piece);
            if body.len() > ANSWER_LIMIT {
                return Err(format!("its answer is longer than {ANSWER_LIMIT} bytes"));
            }
        }
        let answer = answer.body(body.into()).map_err(|error| error.to_string())?;
        Ok(match (is_passing(status), status.as_u16()) {
            (true, 429) => Sent::Passing(answer, Some(wait.unwrap_or(Duration::from_secs(10)))),
            (true, _) => Sent::Passing(answer, wait),
            (false, _) => Sent::Answer(answer),
        })
    }
}

enum Sent {
    Answer(http::Response<Bytes>),
    /// A failure that is likely to pass, and how long the server asks to wait.
    Passing(http::Response<Bytes>, Option<Duration>),
    Moved(Url),
}

/// An endpoint that the crate does not have.
pub(super) struct Plain<'a> {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Vec<(&'a str, String)>,
    pub(super) form: Vec<(String, String)>,
    /// A file.
    pub(super) raw: Option<String>,
    /// A body that a form cannot say.
    pub(super) json: Option<Value>,
}

impl Plain<'_> {
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::GET, path, query: Vec::new(), form: Vec::new(), raw: None, json: None }
    }
}

impl Endpoint for Plain<'_> {
    fn method(&self) -> Method {
        self.method.clone()
    }

    fn endpoint(&self) -> Cow<'static, str> {
        self.path.clone().into()
    }

    fn parameters(&self) -> QueryParams<'_> {
        let mut params = QueryParams::default();
        params.extend(self.query.iter().map(|(name, value)| (*name, value.as_str())));
        params
    }

    fn body(&self) -> std::result::Result<Option<(&'static str, Vec<u8>)>, BodyError> {
        if let Some(text) = &self.raw {
            return Ok(Some(("application/octet-stream", text.clone().into_bytes())));
        }
        if let Some(json) = &self.json {
            return Ok(Some(("application/json", json.to_string().into_bytes())));
        }
        if self.form.is_empty() {
            return Ok(None);
        }
        let mut params = FormParams::default();
        params.extend(self.form.iter().map(|(name, value)| (name.clone(), value.as_str())));
        params.into_body()
    }
}

impl GitLab {
    /// The project of this event, if there is a token. Sends nothing yet.
    pub fn of(vars: &Vars, event: &Event, clock: Clock) -> Result<std::result::Result<(Self, Secret), String>> {
        let (Some(api), Some(path)) = (&event.more.gitlab, &event.more.repository) else {
            return Ok(Err("no project (CI_PROJECT_PATH, --repository)".into()));
        };
        let given = Inputs::of(vars).text("token").or_else(|| vars.get("GITLAB_TOKEN"));
        // Whoever hands the job's own token on means just that.
        let access = given.filter(|text| vars.get("CI_JOB_TOKEN") != Some(text)).map(|text| Token::Access(Secret::new(text)));
        let Some(token) = access.or_else(|| vars.get("CI_JOB_TOKEN").map(|text| Token::Job(Secret::new(text)))) else {
            return Ok(Err("no token (GITLAB_TOKEN: an access token with the scope `api`; a CI job has CI_JOB_TOKEN as well)".into()));
        };
        let base = Url::parse(&format!("{}/", api.trim_end_matches('/'))).map_err(|error| {
            Error::new(Reason::InputInvalid, format!("GitLab's API at {api} cannot be used: {error}"))
                .hint("CI_API_V4_URL is set by the runner; elsewhere name the server with GITLAB_HOST")
        })?;
        let own = vars.get("CI_PROJECT_PATH") == Some(path.as_str());
        let number = vars.get("CI_PROJECT_ID").filter(|_| own).map(str::to_owned);
        let job = vars.get("CI_JOB_ID").and_then(|id| id.parse().ok()).filter(|_| own);
        let job = job.map(|id| Job { id, environment: vars.get("CI_ENVIRONMENT_NAME").map(str::to_owned) });
        let secret = match &token {
            Token::Job(secret) | Token::Access(secret) => secret.clone(),
        };
        let client = Client { http: http_client(vars)?, base, token, clock };
        Ok(Ok((
            Self { client, project: number.unwrap_or_else(|| path.clone()), path: path.clone(), job, own: std::sync::Arc::default() },
            secret,
        )))
    }

    /// Another project of the same server, with this token or the same one.
    pub(super) fn elsewhere(&self, path: &str, token: Option<&Secret>) -> Self {
        let token = token.map_or_else(|| self.client.token.clone(), |token| Token::Access(token.clone()));
        let client = Client { token, ..self.client.clone() };
        Self { client, project: path.to_owned(), path: path.to_owned(), job: None, own: std::sync::Arc::default() }
    }

    /// group/name.
    pub fn repository(&self) -> &str {
        &self.path
    }

    /// The job we are, if we are one.
    pub fn job(&self) -> Option<&Job> {
        self.job.as_ref()
    }

    /// Whether the token is an access token; the job's own may do less.
    pub fn has_access_token(&self) -> bool {
        matches!(self.client.token, Token::Access(_))
    }

    /// An access token, or an error that says how to get one. `what` it is for, as "write a note".
    pub(super) fn needs_access_token(&self, what: &str) -> Result<()> {
        if self.has_access_token() {
            return Ok(());
        }
        Err(Error::new(Reason::AuthDenied, format!("the job's own token (CI_JOB_TOKEN) may not {what}")).hint(
            "make a project access token (scope `api`, role Developer) under Settings > Access tokens, and give it to the job as the masked variable GITLAB_TOKEN",
        ))
    }

    /// The project's part of a path.
    pub(super) fn at(&self, rest: &str) -> String {
        format!("projects/{}/{rest}", super::github::encode(&self.project))
    }

    /// What an endpoint answers; `None` when there is no such thing.
    pub(super) async fn find<E: Endpoint + Sync>(&self, endpoint: &E, what: &str) -> Result<Option<Value>> {
        match self.ask(endpoint, what).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.gone => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What an endpoint answers. `what` we do, as "list the deployments", for the error.
    pub(super) async fn ask<E: Endpoint + Sync>(&self, endpoint: &E, what: &str) -> Result<Value> {
        let answer = gitlab::api::raw(endpoint).query_async(&self.client).await;
        match answer {
            Ok(body) => Ok(serde_json::from_slice(&body).unwrap_or(Value::Null)),
            Err(error) => Err(self.judge(&error, endpoint.method() == Method::GET, what)),
        }
    }

    /// What is wrong, and what to do about it.
    pub(super) fn judge(&self, error: &ApiError<Lost>, reads: bool, what: &str) -> Error {
        let Some((status, said)) = status_of(error) else {
            let sentence = format!("GitLab does not answer ({what}): {}", chain(error));
            let error = Error::new(Reason::ForgeFailed, sentence);
            return Error { lost: true, ..error }
                .hint("https://status.gitlab.com shows incidents of gitlab.com; running the job again is safe");
        };
        let sentence = format!("GitLab answers {status} ({what} in {}): {said}", self.path);
        let role = "the token needs the scope `api`, and its user the role Developer (Maintainer for protected environments)";
        match (status, &self.client.token) {
            (401, Token::Access(_)) => Error::new(Reason::AuthExpired, sentence)
                .hint("GITLAB_TOKEN has expired or was revoked; access tokens are renewed under Settings > Access tokens"),
            (401 | 403, Token::Job(_)) => Error::new(Reason::AuthDenied, sentence).hint(
                "CI_JOB_TOKEN may not do this, or is over with its job: set GITLAB_TOKEN to a project access token (scope `api`, role Developer)",
            ),
            (403, Token::Access(_)) => Error::new(Reason::AuthDenied, sentence).hint(role),
            (404, _) => {
                let error = Error::new(Reason::AuthDenied, sentence);
                Error { gone: true, ..error }.hint("GitLab says 404 also for what a token may not see")
            }
            (status, _) => Error { lost: status >= 500 && !reads, ..Error::new(Reason::ForgeFailed, sentence) },
        }
    }

    /// The default branch's name.
    pub async fn default_branch(&self) -> Result<Option<String>> {
        let project = built(Project::builder().project(&self.project).build())?;
        Ok(text(&self.ask(&project, "read the project").await?, "/default_branch"))
    }

    /// The commit of a branch, a commit id or a ref such as tags/v1.0.0; `None` when there is none.
    pub async fn commit_of_ref(&self, name: &str) -> Result<Option<String>> {
        let found = if let Some(tag) = name.strip_prefix("tags/") {
            let tag = built(tags::Tag::builder().project(&self.project).tag_name(tag).build())?;
            self.find(&tag, "read a tag").await?.and_then(|tag| text(&tag, "/commit/id"))
        } else if let Some(branch) = name.strip_prefix("heads/") {
            let branch = built(branches::Branch::builder().project(&self.project).branch(branch).build())?;
            self.find(&branch, "read a branch").await?.and_then(|branch| text(&branch, "/commit/id"))
        } else {
            let path = self.at(&format!("repository/commits/{}", super::github::encode(name)));
            self.find(&Plain::get(path), "read a commit").await?.and_then(|commit| text(&commit, "/id"))
        };
        Ok(found.filter(|sha| is_full_sha(sha)))
    }

    /// How `head` relates to `base`, by their best common ancestor. The job's own token may not ask.
    pub async fn compare(&self, base: &str, head: &str) -> Result<Option<Ancestry>> {
        if !self.has_access_token() {
            return Ok(None);
        }
        let (Some(base), Some(head)) = (self.commit_of_ref(base).await?, self.commit_of_ref(head).await?) else { return Ok(None) };
        if base == head {
            return Ok(Some(Ancestry::Same));
        }
        let query = vec![("refs[]", base.clone()), ("refs[]", head.clone())];
        let endpoint = Plain { query, ..Plain::get(self.at("repository/merge_base")) };
        let common = self.find(&endpoint, "compare commits").await?.and_then(|commit| text(&commit, "/id"));
        Ok(Some(match common {
            Some(common) if common == base => Ancestry::Newer,
            Some(common) if common == head => Ancestry::Older,
            Some(_) | None => Ancestry::Diverged,
        }))
    }

    /// Head, target, labels and state of a merge request that was named by its number.
    pub async fn fill_merge_request(&self, event: &mut Event) -> Result<()> {
        let Some(number) = event.pr else { return Ok(()) };
        let found = self.ask(&self.merge_request(number)?, "read the merge request").await?;
        if event.sha.is_none() {
            event.set_sha(text(&found, "/sha"));
        }
        event.base = text(&found, "/target_branch");
        event.head_ref = text(&found, "/source_branch");
        let id = |pointer: &str| found.pointer(pointer).and_then(Value::as_u64);
        let same = id("/source_project_id").is_some() && id("/source_project_id") == id("/target_project_id");
        event.is_fork = Some(!same);
        event.head_repo = same.then(|| self.path.clone());
        event.more.closed = text(&found, "/state").is_some_and(|state| state != "opened");
        event.more.draft |= found.pointer("/draft").and_then(Value::as_bool).unwrap_or(false);
        let labels = found.pointer("/labels").and_then(Value::as_array);
        event.more.labels.extend(labels.into_iter().flatten().filter_map(|label| Some(label.as_str()?.to_owned())));
        event.more.author = text(&found, "/author/username");
        Ok(())
    }

    fn merge_request(&self, number: u64) -> Result<MergeRequest<'_>> {
        built(MergeRequest::builder().project(&self.project).merge_request(number).build())
    }

    /// Whether a merge request is open; nothing when GitLab does not say.
    pub async fn is_open(&self, number: u64) -> Option<bool> {
        let found = self.ask(&self.merge_request(number).ok()?, "read the merge request").await.ok()?;
        text(&found, "/state").map(|state| state == "opened")
    }

    /// The merged merge request that brought a commit to a branch.
    pub async fn merge_request_of(&self, sha: &str, branch: Option<&str>) -> Result<Option<u64>> {
        let endpoint = built(commits::MergeRequests::builder().project(&self.project).sha(sha).build())?;
        let found = self.ask(&endpoint, "list the merge requests of a commit").await?;
        let all: Vec<&Value> = found.as_array().into_iter().flatten().collect();
        let fits = |merge: &&&Value| {
            let target = text(merge, "/target_branch");
            text(merge, "/state").as_deref() == Some("merged") && (branch.is_none() || target.as_deref() == branch)
        };
        let exact =
            |merge: &&&Value| ["/merge_commit_sha", "/squash_commit_sha", "/sha"].iter().any(|at| text(merge, at).as_deref() == Some(sha));
        let merge = all.iter().filter(fits).find(exact).or_else(|| all.iter().find(fits));
        Ok(merge.and_then(|merge| merge.pointer("/iid")).and_then(Value::as_u64))
    }

    /// Whether a job has ended, if GitLab says so. The job's own token may not ask about others.
    pub async fn job_ended(&self, id: &str) -> Result<Option<bool>> {
        let Some(id) = id.parse().ok().filter(|_| self.has_access_token()) else { return Ok(None) };
        let job = built(jobs::Job::builder().project(&self.project).job(id).build())?;
        let status = self.find(&job, "read a job").await?.and_then(|job| text(&job, "/status"));
        // GitLab says "canceled" while the runner still stops the job: then its lease's own time decides.
        Ok(status.filter(|status| status != "canceled").map(|status| matches!(status.as_str(), "success" | "failed" | "skipped")))
    }

    /// What an access token says of itself: scopes, and when it ends.
    pub async fn token(&self) -> Result<Value> {
        self.ask(&Plain::get("personal_access_tokens/self".into()), "ask what the token may do").await
    }

    /// The level of the token's user in the project: 30 is Developer, 40 Maintainer.
    pub async fn role(&self) -> Result<Option<u64>> {
        let project = built(Project::builder().project(&self.project).build())?;
        let found = self.ask(&project, "read the project").await?;
        let level = |pointer: &str| found.pointer(pointer).and_then(Value::as_u64);
        Ok(level("/permissions/project_access/access_level").max(level("/permissions/group_access/access_level")))
    }

    /// The user name that an access token acts as.
    pub async fn viewer(&self) -> Result<Option<String>> {
        Ok(text(&self.ask(&Plain::get("user".into()), "ask whose token this is").await?, "/username"))
    }
}

/// The status of an answer, and what it said.
fn status_of(error: &ApiError<Lost>) -> Option<(u16, String)> {
    if let ApiError::GitlabWithStatus { status, msg } = error {
        return Some((status.as_u16(), msg.clone()));
    }
    if let ApiError::GitlabObjectWithStatus { status, obj } | ApiError::GitlabUnrecognizedWithStatus { status, obj } = error {
        return Some((status.as_u16(), obj.to_string()));
    }
    if let ApiError::GitlabService { status, .. } = error {
        return Some((status.as_u16(), "no JSON".into()));
    }
    matches!(error, ApiError::GitlabRateLimited { .. }).then(|| (429, "the rate limit is reached".into()))
}

pub(super) fn text(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer)?.as_str().map(str::to_owned)
}

/// An endpoint that was built; the builders only fail when a field was forgotten.
pub(super) fn built<T, E: std::fmt::Display>(endpoint: std::result::Result<T, E>) -> Result<T> {
    endpoint.map_err(|error| Error::new(Reason::Internal, format!("a request to GitLab is incomplete: {error}")))
}
