//! The honest API under /api/v1: statuses that mean what they say, logs by offset, waiting for news, cancel, lists, audit.

use super::{Answered, Asked, authenticated, json_answer, machine, only, only_machine, problem, replace_apps, unavailable, with_header};
use crate::serve::apps::App;
use crate::serve::asking::{Asking, again, announcing, wanted};
use crate::serve::config::{ANNOUNCE, Role};
use crate::serve::jobs::{self, Accepted, Job, Status, Wanted};
use crate::serve::server::Server;
use crate::serve::store::Page;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest that a request waits for news.
const LONGEST_WAIT: u64 = 60;
/// How much of a log one answer holds, in bytes.
const LOG_PIECE: usize = 256 * 1024;
/// How often a shared store is asked whether another replica has news; an own store says so by itself.
const ASK_SHARED: Duration = Duration::from_millis(300);
const ASK_OWN: Duration = Duration::from_secs(2);

/// Answers a request; the route's name is for metrics.
pub async fn answer(server: &Arc<Server>, asked: Asked, rest: &[&str]) -> (&'static str, Answered) {
    match rest {
        ["apps"] => ("/api/v1/apps", apps(server, asked).await),
        ["apps", app, "jobs"] => ("/api/v1/apps/APP/jobs", app_jobs(server, asked, app).await),
        ["apps", app, "jobs", job] => ("/api/v1/apps/APP/jobs/JOB", one_job(server, asked, app, job).await),
        ["apps", app, "jobs", job, "log"] => ("/api/v1/apps/APP/jobs/JOB/log", log(server, asked, app, job).await),
        ["apps", app, "jobs", job, "redeploy"] => ("/api/v1/apps/APP/jobs/JOB/redeploy", redeploy(server, asked, app, job).await),
        ["apps", app, "jobs", job, "cancel"] => ("/api/v1/apps/APP/jobs/JOB/cancel", cancel(server, asked, app, job).await),
        ["jobs"] => ("/api/v1/jobs", all_jobs(server, asked).await),
        ["audit"] => ("/api/v1/audit", audit(server, asked).await),
        ["announce"] => ("/api/v1/announce", announce(server, asked).await),
        _other => ("other", Err(problem(StatusCode::NOT_FOUND, "there is no such address"))),
    }
}

/// Who asks for something of an app.
struct Caller {
    app: App,
    name: String,
    /// The role of a machine; an app's own secret may do everything with the app.
    role: Option<Role>,
}

fn unauthorized() -> Response<Body> {
    with_header(problem(StatusCode::UNAUTHORIZED, "the app or its secret is not right"), "www-authenticate", "Bearer realm=\"tidegate\"")
}

fn forbidden() -> Response<Body> {
    problem(StatusCode::FORBIDDEN, "this token may not do that")
}

/// The app with its secret or a machine's token. An unknown app and a wrong secret have the same answer.
async fn caller(server: &Server, asked: &Asked, id: &str) -> std::result::Result<Caller, Response<Body>> {
    let Some(token) = asked.bearer() else { return Err(unauthorized()) };
    if let Some((name, role)) = machine(server, asked)? {
        let app = server.apps.get(&server.store, id).await.map_err(|error| unavailable(server, &error))?;
        // Commands of webhooks and the announcing job belong to no app.
        let is_own = id == ANNOUNCE || id.starts_with("webhook:");
        let app = app.or_else(|| is_own.then(|| App { id: id.to_owned(), inventory: String::new(), announced: false }));
        let app = app.ok_or_else(|| problem(StatusCode::NOT_FOUND, "there is no such app or job"))?;
        return match role {
            Role::Viewer | Role::Operator => Ok(Caller { app, name, role: Some(role) }),
            Role::Announcer | Role::Monitor => Err(forbidden()),
        };
    }
    let app = authenticated(server, asked, id, &token).await?.ok_or_else(unauthorized)?;
    Ok(Caller { name: format!("{id} ({})", asked.source), app, role: None })
}

/// A machine that may look (or do, as an operator) everywhere.
fn viewer(server: &Server, asked: &Asked) -> std::result::Result<(String, Role), Response<Body>> {
    let found = only_machine(server, asked)?;
    match found {
        Some((name, role @ (Role::Viewer | Role::Operator))) => Ok((name, role)),
        Some((_, Role::Announcer | Role::Monitor)) => Err(forbidden()),
        None => Err(unauthorized()),
    }
}

async fn apps(server: &Server, mut asked: Asked) -> Answered {
    only(&asked, &[Method::GET, Method::PUT])?;
    if asked.method == Method::PUT {
        return Ok(match replace_apps(server, &mut asked).await? {
            Ok(()) => json_answer(StatusCode::OK, &json!({"status": "ok"})),
            Err(wrong) => problem(StatusCode::BAD_REQUEST, &wrong),
        });
    }
    viewer(server, &asked)?;
    let apps = server.apps.all(&server.store).await.map_err(|error| unavailable(server, &error))?;
    let apps: Vec<Value> = apps.iter().map(|app| json!({"id": app.id, "inventory": app.inventory, "announced": app.announced})).collect();
    Ok(json_answer(StatusCode::OK, &json!({"apps": apps})))
}

async fn app_jobs(server: &Arc<Server>, mut asked: Asked, id: &str) -> Answered {
    only(&asked, &[Method::GET, Method::POST])?;
    let caller = caller(server, &asked, id).await?;
    if asked.method == Method::GET {
        return list(server, &asked, Some(&caller.app.id)).await;
    }
    if caller.role == Some(Role::Viewer) {
        return Err(forbidden());
    }
    let body = asked.read().await?;
    if !body.trim_ascii().is_empty() && serde_json::from_slice::<serde_json::Map<String, Value>>(&body).map_or(true, |map| !map.is_empty())
    {
        return Err(problem(StatusCode::BAD_REQUEST, "the body has to be empty, or {}"));
    }
    let once = once(&asked, &caller.app.id)?;
    let asking = Asking { by: caller.name, traceparent: asked.header("traceparent").map(str::to_owned), once, ..Asking::default() };
    let wanted = wanted(&server.config().serve, &caller.app, asking).map_err(|error| problem(StatusCode::CONFLICT, &error.sentence))?;
    accepted(server, &wanted).await
}

/// The name of a request that is sent again after its answer was lost.
fn once(asked: &Asked, app: &str) -> std::result::Result<Vec<String>, Response<Body>> {
    if !asked.headers.contains_key("idempotency-key") {
        return Ok(Vec::new());
    }
    let fits = |key: &&str| (1..=128).contains(&key.len()) && key.chars().all(|c| c.is_ascii_alphanumeric() || "_.:-".contains(c));
    let key = asked.header("idempotency-key").filter(fits);
    let key = key.ok_or_else(|| problem(StatusCode::BAD_REQUEST, "an Idempotency-Key has 1 to 128 of A-Z a-z 0-9 _ . : -"))?;
    Ok(vec![format!("api:{app}:{key}")])
}

/// Starts what is wanted, and says what came of it.
pub async fn accepted(server: &Arc<Server>, wanted: &Wanted) -> Answered {
    let accepted = server.accept(wanted).await.map_err(|error| unavailable(server, &error))?;
    let (status, job) = match accepted {
        Accepted::New(job, _ahead) => (StatusCode::ACCEPTED, job),
        Accepted::Joined(job) => (StatusCode::OK, job),
        Accepted::Before(id) => match jobs::job(&server.store, &id).await.map_err(|error| unavailable(server, &error))? {
            Some(job) => (StatusCode::OK, job),
            None => return Ok(json_answer(StatusCode::OK, &json!({"status": "forgotten", "id": id}))),
        },
        Accepted::Busy => return Err(problem(StatusCode::CONFLICT, "a job of the same inventory runs or waits")),
        Accepted::Full(waiting) => {
            let full = problem(StatusCode::TOO_MANY_REQUESTS, &format!("{waiting} jobs of the same inventory wait already"));
            return Err(with_header(full, "retry-after", "30"));
        }
    };
    let at = format!("/api/v1/apps/{}/jobs/{}", job.app, job.id);
    let body = shown(server, &job).await?;
    Ok(with_header(json_answer(status, &body), "location", &at))
}

/// A job as it is told.
async fn shown(server: &Server, job: &Job) -> std::result::Result<Value, Response<Body>> {
    let time = |millis: Option<u64>| {
        millis.and_then(|millis| jiff::Timestamp::from_millisecond(i64::try_from(millis).ok()?).ok()).map(|at| at.to_string())
    };
    let position = match job.status == Status::Queued {
        true => jobs::position(&server.store, job).await.map_err(|error| unavailable(server, &error))?,
        false => None,
    };
    let log = server.output.total(&job.id).await.map_err(|error| unavailable(server, &error))?;
    Ok(json!({
        "id": job.id, "app": job.app, "inventory": job.inventory, "status": job.status.name(), "by": job.by, "runner": job.runner_name,
        "values": job.values, "accepted": time(Some(job.accepted)), "started": time(job.started), "ended": time(job.ended),
        "position": position, "code": job.code, "detail": job.detail, "cancelled_by": job.cancelled_by, "log": log,
    }))
}

/// The job of this app. One of another app, one that never was and one that is no id have the same answer.
async fn job_of(server: &Server, app: &App, id: &str) -> std::result::Result<Job, Response<Body>> {
    let job = jobs::job(&server.store, id).await.map_err(|error| unavailable(server, &error))?;
    job.filter(|job| job.app == app.id).ok_or_else(|| problem(StatusCode::NOT_FOUND, "there is no such app or job"))
}

/// A number of the query, within its bounds.
fn number(asked: &Asked, name: &str, most: u64) -> std::result::Result<Option<u64>, Response<Body>> {
    let Some(text) = asked.query(name) else { return Ok(None) };
    let number = text.parse::<u64>().ok().filter(|number| *number <= most && text.bytes().all(|byte| byte.is_ascii_digit()));
    number.map(Some).ok_or_else(|| problem(StatusCode::BAD_REQUEST, &format!("`{name}` is a number from 0 to {most}")))
}

async fn one_job(server: &Arc<Server>, asked: Asked, app: &str, id: &str) -> Answered {
    only(&asked, &[Method::GET])?;
    let caller = caller(server, &asked, app).await?;
    let wait = number(&asked, "wait", LONGEST_WAIT)?.unwrap_or(0);
    let known = asked.query("status");
    if known.as_deref().is_some_and(|known| !Status::ALL.iter().any(|status| status.name() == known)) {
        return Err(problem(StatusCode::BAD_REQUEST, "`status` is a status of a job"));
    }
    let mut job = job_of(server, &caller.app, id).await?;
    if wait > 0 {
        let known = known.unwrap_or_else(|| job.status.name().to_owned());
        let mut news = News::of(server, id, wait);
        while job.status.is_active() && job.status.name() == known && news.comes().await {
            job = job_of(server, &caller.app, id).await?;
        }
    }
    Ok(json_answer(StatusCode::OK, &shown(server, &job).await?))
}

/// Waits for news of a job until its time is over.
pub struct News<'a> {
    server: &'a Server,
    job: String,
    heard: tokio::sync::watch::Receiver<u64>,
    until: Instant,
}

impl Drop for News<'_> {
    fn drop(&mut self) {
        self.server.hub.forget(&self.job);
    }
}

impl<'a> News<'a> {
    /// Hears of news from now on, for so many seconds.
    pub fn of(server: &'a Server, job: &str, seconds: u64) -> Self {
        Self { server, job: job.to_owned(), heard: server.hub.subscribe(job), until: Instant::now() + Duration::from_secs(seconds) }
    }

    /// Whether it is worth looking again: there may be news. No when the time is over, or the server stops.
    pub async fn comes(&mut self) -> bool {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() || self.server.world.cancel.is_cancelled() {
            return false;
        }
        let look = if self.server.store.is_shared() { ASK_SHARED } else { ASK_OWN };
        tokio::select! {
            _changed = self.heard.changed() => {}
            () = self.server.world.clock.sleep(left.min(look)) => {}
            () = self.server.world.cancel.cancelled() => {}
        }
        true
    }
}

async fn log(server: &Arc<Server>, asked: Asked, app: &str, id: &str) -> Answered {
    only(&asked, &[Method::GET])?;
    let caller = caller(server, &asked, app).await?;
    let wait = number(&asked, "wait", LONGEST_WAIT)?.unwrap_or(0);
    let from = number(&asked, "from", u64::MAX >> 1)?.unwrap_or(0);
    let mut job = job_of(server, &caller.app, id).await?;
    let mut news = News::of(server, id, wait);
    let piece = loop {
        let piece = server.output.read(id, from, LOG_PIECE).await.map_err(|error| unavailable(server, &error))?;
        if !piece.text.is_empty() || !job.status.is_active() || !news.comes().await {
            break piece;
        }
        job = job_of(server, &caller.app, id).await?;
    };
    let mut answer = Response::new(Body::from(piece.text));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    for (name, value) in [("tidegate-log-from", piece.from), ("tidegate-log-next", piece.next), ("tidegate-log-total", piece.total)] {
        answer = with_header(answer, name, &value.to_string());
    }
    Ok(with_header(answer, "tidegate-job-status", job.status.name()))
}

async fn cancel(server: &Arc<Server>, mut asked: Asked, app: &str, id: &str) -> Answered {
    only(&asked, &[Method::POST])?;
    let (caller, job) = for_change(server, &mut asked, app, id).await?;
    if !job.status.is_active() {
        return Err(problem(StatusCode::CONFLICT, &format!("the job has ended already: {}", job.status.name())));
    }
    let job = jobs::cancel(&server.store, id, &caller.name).await.map_err(|error| unavailable(server, &error))?;
    let job = job.ok_or_else(|| problem(StatusCode::NOT_FOUND, "there is no such app or job"))?;
    crate::serve::run::cancelled(server, &job);
    Ok(json_answer(StatusCode::ACCEPTED, &shown(server, &job).await?))
}

/// A job that somebody wants to do something about, and may.
async fn for_change(server: &Server, asked: &mut Asked, app: &str, id: &str) -> std::result::Result<(Caller, Job), Response<Body>> {
    let caller = caller(server, asked, app).await?;
    if caller.role == Some(Role::Viewer) {
        return Err(forbidden());
    }
    let _unused = asked.read().await?;
    let job = job_of(server, &caller.app, id).await?;
    Ok((caller, job))
}

async fn redeploy(server: &Arc<Server>, mut asked: Asked, app: &str, id: &str) -> Answered {
    only(&asked, &[Method::POST])?;
    let (caller, job) = for_change(server, &mut asked, app, id).await?;
    let mut wanted = again(server, &job, caller.name).await.map_err(|error| problem(StatusCode::CONFLICT, &error.sentence))?;
    wanted.once = once(&asked, &caller.app.id)?;
    accepted(server, &wanted).await
}

async fn list(server: &Server, asked: &Asked, app: Option<&str>) -> Answered {
    let limit = number(asked, "limit", 200)?.unwrap_or(50).max(1);
    let before = asked.query("before");
    if before.as_deref().is_some_and(|id| !crate::tools::ulid::is_ulid(id)) {
        return Err(problem(StatusCode::BAD_REQUEST, "`before` is the id of a job"));
    }
    let found = jobs::newest(&server.store, app, before.as_deref(), usize::try_from(limit).unwrap_or(50)).await;
    let found = found.map_err(|error| unavailable(server, &error))?;
    let mut told = Vec::with_capacity(found.len());
    for job in &found {
        told.push(shown(server, job).await?);
    }
    Ok(json_answer(StatusCode::OK, &json!({"jobs": told})))
}

async fn all_jobs(server: &Server, asked: Asked) -> Answered {
    only(&asked, &[Method::GET])?;
    viewer(server, &asked)?;
    list(server, &asked, None).await
}

async fn audit(server: &Server, asked: Asked) -> Answered {
    only(&asked, &[Method::GET])?;
    viewer(server, &asked)?;
    let limit = number(&asked, "limit", 500)?.unwrap_or(100).max(1);
    let before = asked.query("before");
    if before.as_deref().is_some_and(|id| !crate::tools::ulid::is_ulid(id)) {
        return Err(problem(StatusCode::BAD_REQUEST, "`before` is the id of an entry"));
    }
    let page = Page { from: before.map(|id| format!("audit/{id}")), ..Page::newest("audit/", usize::try_from(limit).unwrap_or(100)) };
    let docs = server.store.list(page).await.map_err(|error| unavailable(server, &error))?;
    let entry = |doc: &crate::serve::store::Doc| {
        let mut entry: Value = serde_json::from_str(&doc.json).unwrap_or_default();
        if let Some(map) = entry.as_object_mut() {
            map.insert("id".into(), json!(doc.key.trim_start_matches("audit/")));
        }
        entry
    };
    Ok(json_answer(StatusCode::OK, &json!({"entries": docs.iter().map(entry).collect::<Vec<_>>()})))
}

async fn announce(server: &Arc<Server>, mut asked: Asked) -> Answered {
    only(&asked, &[Method::POST])?;
    let (by, role) = viewer(server, &asked)?;
    if role != Role::Operator {
        return Err(forbidden());
    }
    let _unused = asked.read().await?;
    let asking = Asking { by, ..Asking::default() };
    let wanted = announcing(&server.config().serve, ANNOUNCE, asking).map_err(|error| problem(StatusCode::CONFLICT, &error.sentence))?;
    accepted(server, &wanted).await
}
