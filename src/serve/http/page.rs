//! The page at /ui: what runs, what waits, what was said, who asked for it; and to deploy and cancel, for those who may.

use super::api::News;
use super::look;
use super::session::{self, Person};
use super::{Answered, Asked, closing, may_try, only, problem, redirect, text_answer, unavailable, with_header, wrong};
use crate::error::Result;
use crate::serve::asking::{Asking, again, announcing, wanted};
use crate::serve::config::{ANNOUNCE, Role};
use crate::serve::guard::Knew;
use crate::serve::jobs::{self, Accepted, Entry, Wanted};
use crate::serve::server::Server;
use crate::serve::store::Page;
use axum::body::Body;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, Method, Response, StatusCode};
use maud::Markup;
use std::collections::HashMap;
use std::sync::Arc;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// What a page may do: nothing but what it is made of.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
/// How much of a log a page begins with, in bytes.
const LOG_END: u64 = 64 * 1024;
/// How long a page waits for news, in seconds.
const NEWS: u64 = 25;

/// Answers a request below /ui.
pub async fn answer(server: &Arc<Server>, mut asked: Asked, rest: &[&str]) -> Answered {
    if server.config().serve.users.is_empty() {
        return Err(problem(StatusCode::NOT_FOUND, "nobody may look at the page: `users:` of tidegate-serve.yml is empty"));
    }
    match rest {
        ["style.css"] => return fixed(&asked, "text/css; charset=utf-8", STYLE),
        ["live.js"] => return fixed(&asked, "text/javascript; charset=utf-8", SCRIPT),
        ["login"] => return login(server, asked).await,
        _other => {}
    }
    let person = session::person(server, &asked).await.map_err(|error| unavailable(server, &error))?;
    let Some(person) = person else {
        return if rest.last() == Some(&"news") {
            Err(problem(StatusCode::UNAUTHORIZED, "the session is over"))
        } else {
            Ok(redirect(StatusCode::SEE_OTHER, "/ui/login"))
        };
    };
    if asked.method == Method::POST {
        return act(server, &mut asked, rest, &person).await;
    }
    only(&asked, &[Method::GET])?;
    match rest {
        [] | [""] => overview(server, &person).await,
        ["apps", app] => app_page(server, &asked, &person, app).await,
        ["jobs", job] => job_page(server, &person, job).await,
        ["jobs", job, "news"] => news(server, &asked, job).await,
        ["jobs", job, "log.txt"] => whole_log(server, job).await,
        ["audit"] => audit(server, &asked, &person).await,
        _other => Err(not_found(&person)),
    }
}

fn fixed(asked: &Asked, kind: &'static str, text: &'static str) -> Answered {
    only(asked, &[Method::GET])?;
    let mut answer = text_answer(kind, text.into());
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    Ok(answer)
}

fn page(status: StatusCode, markup: Markup) -> Response<Body> {
    let mut answer = text_answer("text/html; charset=utf-8", markup.into_string().into());
    *answer.status_mut() = status;
    let answer = with_header(answer, "content-security-policy", POLICY);
    with_header(answer, "referrer-policy", "same-origin")
}

fn not_found(person: &Person) -> Response<Body> {
    page(StatusCode::NOT_FOUND, look::message(Some(person), "Not here", "There is no such page. A job is forgotten after a while."))
}

/// Whether a form comes from our own page: <https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Site>
fn is_own(asked: &Asked) -> bool {
    match (asked.header("sec-fetch-site"), asked.header("origin")) {
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => {
            let host = asked.header("host").unwrap_or_default();
            origin.split_once("://").is_some_and(|(_scheme, from)| from.eq_ignore_ascii_case(host))
        }
        (None, None) => true, // a client without a browser's rules has no session to be misused
    }
}

/// The fields of a form.
async fn form(asked: &mut Asked) -> std::result::Result<HashMap<String, String>, Response<Body>> {
    let body = asked.read().await?;
    Ok(url::form_urlencoded::parse(&body).into_owned().collect())
}

async fn login(server: &Arc<Server>, mut asked: Asked) -> Answered {
    only(&asked, &[Method::GET, Method::POST])?;
    if asked.method == Method::GET {
        return Ok(page(StatusCode::OK, look::login(None)));
    }
    if !is_own(&asked) {
        return Err(closing(problem(StatusCode::FORBIDDEN, "this form came from another site")));
    }
    let form = form(&mut asked).await?;
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let name = field("name").to_owned();
    let guarded = format!("user:{name}");
    if may_try(server, &asked, &guarded).is_err() {
        return Err(page(StatusCode::TOO_MANY_REQUESTS, look::login(Some("Too many wrong passwords. Wait a minute, then try again."))));
    }
    if server.apps.person(&name, field("password")).is_none() {
        wrong(server, &asked, &guarded);
        return Err(page(StatusCode::UNAUTHORIZED, look::login(Some("The name or the password is not right."))));
    }
    server.guard.tried(super::bucket(asked.source), &guarded, server.limits().wrong_secrets, Knew::It);
    let cookie = session::begin(server, &asked, &name).await.map_err(|error| unavailable(server, &error))?;
    server.note(Entry::new(&name, "login").detail(asked.source.to_string())).await.map_err(|error| unavailable(server, &error))?;
    Ok(with_header(redirect(StatusCode::SEE_OTHER, "/ui/"), "set-cookie", &cookie))
}

/// What a form asks for.
async fn act(server: &Arc<Server>, asked: &mut Asked, rest: &[&str], person: &Person) -> Answered {
    let form = form(asked).await?;
    let token = form.get("token").map(String::as_str).unwrap_or_default();
    if !is_own(asked) || aws_lc_rs::constant_time::verify_slices_are_equal(token.as_bytes(), person.token.as_bytes()).is_err() {
        return Err(page(
            StatusCode::FORBIDDEN,
            look::message(Some(person), "Not done", "This form is too old, or came from another site. Load the page again."),
        ));
    }
    if rest == ["logout"] {
        let cookie = session::end(server, asked, person).await.map_err(|error| unavailable(server, &error))?;
        return Ok(with_header(redirect(StatusCode::SEE_OTHER, "/ui/login"), "set-cookie", &cookie));
    }
    if person.role != Role::Operator {
        return Err(page(
            StatusCode::FORBIDDEN,
            look::message(Some(person), "Not done", "You may look, and nothing else: your role is viewer."),
        ));
    }
    match rest {
        ["apps", app, "deploy"] => deploy(server, app, person).await,
        ["announce"] => {
            let asking = Asking { by: person.name.clone(), ..Asking::default() };
            begin(server, person, announcing(&server.config().serve, ANNOUNCE, asking)).await
        }
        ["jobs", id, "cancel"] => {
            let job = jobs::cancel(&server.store, id, &person.name).await.map_err(|error| unavailable(server, &error))?;
            job.iter().for_each(|job| crate::serve::run::cancelled(server, job));
            Ok(redirect(StatusCode::SEE_OTHER, &format!("/ui/jobs/{id}")))
        }
        ["jobs", id, "redeploy"] => {
            let job = jobs::job(&server.store, id).await.map_err(|error| unavailable(server, &error))?;
            let job = job.ok_or_else(|| not_found(person))?;
            begin(server, person, again(server, &job, person.name.clone()).await).await
        }
        _other => Err(not_found(person)),
    }
}

async fn deploy(server: &Arc<Server>, id: &str, person: &Person) -> Answered {
    let app = server.apps.get(&server.store, id).await.map_err(|error| unavailable(server, &error))?;
    let app = app.ok_or_else(|| not_found(person))?;
    let asking = Asking { by: person.name.clone(), ..Asking::default() };
    begin(server, person, wanted(&server.config().serve, &app, asking)).await
}

/// Begins a job and shows it.
async fn begin(server: &Arc<Server>, person: &Person, wanted: Result<Wanted>) -> Answered {
    let refused = |why: &str| page(StatusCode::CONFLICT, look::message(Some(person), "Not begun", why));
    let wanted = wanted.map_err(|error| refused(&error.sentence))?;
    let accepted = server.accept(&wanted).await.map_err(|error| unavailable(server, &error))?;
    match accepted {
        Accepted::New(job, _) | Accepted::Joined(job) => Ok(redirect(StatusCode::SEE_OTHER, &format!("/ui/jobs/{}", job.id))),
        Accepted::Before(_) | Accepted::Busy => Err(refused("A job of the same inventory runs or waits.")),
        Accepted::Full(waiting) => Err(refused(&format!("{waiting} jobs of the same inventory wait already."))),
    }
}

async fn overview(server: &Server, person: &Person) -> Answered {
    let read = async {
        let apps = server.apps.all(&server.store).await?;
        let recent = jobs::newest(&server.store, None, None, 50).await?;
        let mut active = jobs::running(&server.store).await?;
        let (queued, waiting) = jobs::queued(&server.store, 100).await?;
        active.extend(queued);
        let announces = server.config().serve.announce.is_some();
        Ok::<_, crate::error::Error>(look::overview(person, &look::Overview { apps, recent, active, waiting, announces }))
    };
    Ok(page(StatusCode::OK, read.await.map_err(|error| unavailable(server, &error))?))
}

async fn app_page(server: &Server, asked: &Asked, person: &Person, id: &str) -> Answered {
    let before = asked.query("before").filter(|id| crate::tools::ulid::is_ulid(id));
    let read = async {
        let app = server.apps.get(&server.store, id).await?;
        let jobs = jobs::newest(&server.store, Some(id), before.as_deref(), 50).await?;
        Ok::<_, crate::error::Error>((app, jobs))
    };
    let (app, jobs) = read.await.map_err(|error| unavailable(server, &error))?;
    if app.is_none() && jobs.is_empty() {
        return Err(not_found(person));
    }
    Ok(page(StatusCode::OK, look::app(person, id, app.as_ref(), &jobs)))
}

async fn job_page(server: &Server, person: &Person, id: &str) -> Answered {
    let read = async {
        let Some(job) = jobs::job(&server.store, id).await? else { return Ok(None) };
        let end = server.output.end(id, LOG_END).await?;
        let position = jobs::position(&server.store, &job).await?;
        Ok::<_, crate::error::Error>(Some((job, end, position)))
    };
    let Some((job, end, position)) = read.await.map_err(|error| unavailable(server, &error))? else { return Err(not_found(person)) };
    Ok(page(StatusCode::OK, look::job(person, &job, &end, position)))
}

/// What is new of a job, as soon as there is something.
async fn news(server: &Server, asked: &Asked, id: &str) -> Answered {
    let from = asked.query("from").and_then(|from| from.parse().ok()).unwrap_or(0);
    let known = asked.query("status").unwrap_or_default();
    let mut news = News::of(server, id, NEWS);
    loop {
        let job = jobs::job(&server.store, id).await.map_err(|error| unavailable(server, &error))?;
        let job = job.ok_or_else(|| problem(StatusCode::NOT_FOUND, "there is no such job"))?;
        let piece = server.output.read(id, from, 256 * 1024).await.map_err(|error| unavailable(server, &error))?;
        if !piece.text.is_empty() || job.status.name() != known || !job.status.is_active() || !news.comes().await {
            let text = console::strip_ansi_codes(&piece.text).into_owned();
            let body = serde_json::json!({"status": job.status.name(), "active": job.status.is_active(), "text": text, "next": piece.next});
            return Ok(super::json_answer(StatusCode::OK, &body));
        }
    }
}

async fn whole_log(server: &Server, id: &str) -> Answered {
    let read = async {
        let Some(job) = jobs::job(&server.store, id).await? else { return Ok(None) };
        server.output.whole(id, !job.status.is_active()).await.map(Some)
    };
    let text = read.await.map_err(|error| unavailable(server, &error))?;
    let text = text.ok_or_else(|| problem(StatusCode::NOT_FOUND, "there is no such job"))?;
    Ok(text_answer("text/plain; charset=utf-8", text.into()))
}

async fn audit(server: &Server, asked: &Asked, person: &Person) -> Answered {
    let before = asked.query("before").filter(|id| crate::tools::ulid::is_ulid(id));
    let page_of = Page { from: before.map(|id| format!("audit/{id}")), ..Page::newest("audit/", 100) };
    let docs = server.store.list(page_of).await.map_err(|error| unavailable(server, &error))?;
    let entries: Vec<(String, Entry)> =
        docs.iter().filter_map(|doc| Some((doc.key.trim_start_matches("audit/").to_owned(), doc.parse::<Entry>().ok()?))).collect();
    Ok(page(StatusCode::OK, look::audit(person, &entries)))
}
