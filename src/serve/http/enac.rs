//! The ENAC server's API, in both dialects, as its original clients speak it: errors come with status 200.
//!
//! <https://github.com/EPFL-ENAC/enac-cd-app>

use super::{Answered, Asked, authenticated, closing, json_answer, may_monitor, may_try, only, redirect, replace_apps, unavailable};
use crate::serve::apps::App;
use crate::serve::asking::{Asking, wanted};
use crate::serve::config::{Busy, Dialect};
use crate::serve::jobs::{self, Accepted, Job, Status, now};
use crate::serve::server::Server;
use crate::serve::store::Batch;
use axum::body::Body;
use axum::http::{Method, Response, StatusCode};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The first parts of its paths.
pub const ROUTES: [&str; 7] =
    ["app-deploy", "job-status", "set-available-apps", "inject-apps", "get-available-apps", "set-job-status", "load"];

/// Answers a request. The original sends paths without their last slash on to those with it.
pub async fn answer(server: &Arc<Server>, mut asked: Asked, route: &'static str, has_slash: bool) -> Answered {
    let method = if matches!(route, "load" | "get-available-apps") { Method::GET } else { Method::POST };
    if !has_slash {
        let query = if asked.query.is_empty() { String::new() } else { format!("?{}", asked.query) };
        return Ok(closing(redirect(StatusCode::TEMPORARY_REDIRECT, &format!("/{route}/{query}"))));
    }
    if asked.path.trim_matches('/') != route {
        return Err(closing(json_answer(StatusCode::NOT_FOUND, &json!({"detail": "Not Found"}))));
    }
    only(&asked, &[method])?;
    match route {
        "app-deploy" => app_deploy(server, asked).await,
        "job-status" => job_status(server, asked).await,
        "set-available-apps" | "inject-apps" => Ok(match replace_apps(server, &mut asked).await? {
            Ok(()) => json_answer(StatusCode::OK, &json!({"status": "ok"})),
            Err(wrong) => error(&wrong),
        }),
        "get-available-apps" => available_apps(server, &asked).await,
        // Containers of the old generation told their own state; this server looks itself, so it needs no word of theirs.
        "set-job-status" => {
            asked.read().await?;
            Ok(json_answer(StatusCode::OK, &json!({"status": "ok"})))
        }
        _load => load(server, &asked).await,
    }
}

fn error(words: &str) -> Response<Body> {
    json_answer(StatusCode::OK, &json!({"status": "error", "error": words}))
}

/// The ids that a request names.
struct Named {
    id: String,
    job: Option<String>,
}

/// What a request names, and the app if its secret fits. FastAPI answers 422 to what is no object; the value itself, which
/// may hold a secret, is not sent back.
async fn named(server: &Server, asked: &mut Asked) -> std::result::Result<(Named, Option<App>), Response<Body>> {
    may_try(server, asked, "")?;
    let bytes = asked.read().await?;
    let unprocessable = |kind: &str, message: &str| {
        json_answer(StatusCode::UNPROCESSABLE_ENTITY, &json!({"detail": [{"type": kind, "loc": ["body"], "msg": message}]}))
    };
    let value: Value = serde_json::from_slice(&bytes).map_err(|_error| unprocessable("json_invalid", "JSON decode error"))?;
    let Value::Object(map) = value else { return Err(unprocessable("dict_type", "Input should be a valid dictionary")) };
    let text = |name: &str| map.get(name).and_then(Value::as_str).map(str::to_owned);
    let (Some(id), Some(secret)) = (text("deployment_id"), text("deployment_secret")) else {
        return Err(error("deployment_id and deployment_secret are needed, both as text"));
    };
    let app = authenticated(server, asked, &id, &secret).await?;
    Ok((Named { id, job: text("job_id") }, app))
}

async fn app_deploy(server: &Arc<Server>, mut asked: Asked) -> Answered {
    let (named, app) = named(server, &mut asked).await?;
    let Some(app) = app else { return Ok(error("App not found")) };
    let config = server.config();
    let dialect = config.serve.enac;
    let asking = Asking {
        by: format!("{} ({})", named.id, asked.source),
        traceparent: asked.header("traceparent").map(str::to_owned),
        busy: (dialect == Dialect::Old).then_some(Busy::Reject),
        ..Asking::default()
    };
    let wanted = match wanted(&config.serve, &app, asking) {
        Ok(wanted) => wanted,
        Err(problem) => return Ok(error(&problem.sentence)),
    };
    match server.accept(&wanted).await.map_err(|problem| unavailable(server, &problem))? {
        Accepted::New(job, _) => Ok(json_answer(StatusCode::OK, &json!({"status": "starting", "job_id": job.id, "output": ""}))),
        Accepted::Joined(job) => told(server, &job, dialect).await,
        Accepted::Before(_) | Accepted::Busy => Ok(error("App deployment is already running")),
        Accepted::Full(waiting) => Ok(error(&format!("{waiting} deployments of it wait already"))),
    }
}

async fn job_status(server: &Arc<Server>, mut asked: Asked) -> Answered {
    let (named, app) = named(server, &mut asked).await?;
    let unknown = || error("App deployment not found");
    let (Some(app), Some(id)) = (app, named.job) else { return Ok(unknown()) };
    let job = jobs::job(&server.store, &id).await.map_err(|problem| unavailable(server, &problem))?;
    match job.filter(|job| job.app == app.id) {
        Some(job) => told(server, &job, server.config().serve.enac).await,
        None => Ok(unknown()),
    }
}

/// What the client is told of a job: the whole log so far, or (old) what it was not told before.
async fn told(server: &Server, job: &Job, dialect: Dialect) -> Answered {
    let is_over = !job.status.is_active();
    let output = server.output.whole(&job.id, is_over).await.map_err(|problem| unavailable(server, &problem))?;
    let output = match dialect {
        Dialect::Old => fresh(server, &job.id, output).await.map_err(|problem| unavailable(server, &problem))?,
        Dialect::Current | Dialect::Off => output,
    };
    Ok(json_answer(StatusCode::OK, &json!({"status": status(job.status, dialect), "job_id": job.id, "output": output})))
}

fn status(status: Status, dialect: Dialect) -> &'static str {
    match status {
        Status::Queued | Status::Starting => "starting",
        Status::Running => "running",
        _over if dialect == Dialect::Old => "finished",
        Status::Success => "success",
        Status::Error | Status::Cancelled | Status::TimedOut | Status::Lost => "error",
    }
}

/// The part of a log that was not told yet. Two that ask at once are told it once.
async fn fresh(server: &Server, job: &str, output: String) -> crate::error::Result<String> {
    let key = format!("told/{job}");
    for _try in 0..50 {
        let before = server.store.read::<usize>(&key).await?;
        let (told, mark) = before.map_or((0, None), |(told, mark)| (told, Some(mark)));
        let batch = Batch::new().when(&key, mark.as_deref()).put(&key, &output.len().max(told));
        if server.store.commit(batch).await? {
            return Ok(output.get(told..).unwrap_or_default().to_owned());
        }
    }
    Ok(String::new())
}

/// The apps, without their secrets.
async fn available_apps(server: &Server, asked: &Asked) -> Answered {
    let role = super::only_machine(server, asked)?;
    let networks = server.config().serve.networks.clone();
    if role.is_none() && !super::is_in(&networks.announce, asked) && !super::is_in(&networks.monitoring, asked) {
        return Err(json_answer(StatusCode::FORBIDDEN, &json!({"detail": "Access denied"})));
    }
    let apps = server.apps.all(&server.store).await.map_err(|problem| unavailable(server, &problem))?;
    let apps: Vec<Value> = apps.iter().map(|app| json!({"inventory": app.inventory, "deployment_id": app.id})).collect();
    Ok(json_answer(StatusCode::OK, &json!({"status": "ok", "apps": apps})))
}

/// How many jobs stand where, of those that were accepted within each period.
async fn load(server: &Server, asked: &Asked) -> Answered {
    may_monitor(server, asked)?;
    let periods = asked.query("periods").unwrap_or_else(|| "1_hour:3600,1_day:86400,1_week:604800".into());
    let Some(periods) = parse_periods(&periods) else { return Ok(error("periods are written as NAME:SECONDS, with commas between them")) };
    let longest = periods.iter().map(|(_name, seconds)| *seconds).max().unwrap_or_default();
    let since = |seconds: u64| now().saturating_sub(seconds.saturating_mul(1000));
    let recent = jobs::since(&server.store, since(longest)).await.map_err(|problem| unavailable(server, &problem))?;
    let mut load = Map::new();
    for (name, seconds) in periods {
        let mut counts = [("starting", 0), ("running", 0), ("success", 0), ("error", 0)];
        for job in recent.iter().filter(|job| job.accepted >= since(seconds)) {
            let said = status(job.status, Dialect::Current);
            counts.iter_mut().filter(|(name, _)| *name == said).for_each(|(_name, count)| *count += 1);
        }
        load.insert(name, counts.into_iter().map(|(name, count)| (name.to_owned(), json!(count))).collect());
    }
    Ok(json_answer(StatusCode::OK, &json!({"status": "ok", "load": load})))
}

fn parse_periods(text: &str) -> Option<Vec<(String, u64)>> {
    let periods = text.split(',').map(|part| {
        let (name, seconds) = part.split_once(':')?;
        let is_name = !name.is_empty() && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
        Some((name.to_owned(), seconds.parse().ok().filter(|_| is_name)?))
    });
    periods.take(33).collect::<Option<Vec<_>>>().filter(|periods| periods.len() <= 32)
}
