//! What the page looks like. Everything that comes from elsewhere is escaped by the template.

use super::session::Person;
use crate::serve::apps::App;
use crate::serve::config::Role;
use crate::serve::jobs::{Entry, Job, Status, now};
use crate::serve::output::Piece;
use crate::tools::console::count;
use maud::{DOCTYPE, Markup, html};
use std::time::Duration;

fn frame(person: Option<&Person>, title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · tidegate" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/ui/style.css";
            }
            body {
                a.skip href="#content" { "Skip to content" }
                header {
                    strong { a href="/ui/" { "tidegate" } }
                    @if let Some(person) = person {
                        nav aria-label="Pages" { a href="/ui/" { "Apps and jobs" } a href="/ui/audit" { "Audit" } }
                        form method="post" action="/ui/logout" {
                            input type="hidden" name="token" value=(person.token);
                            span { (person.name) }
                            button { "Log out" }
                        }
                    }
                }
                main #content { h1 { (title) } (body) }
            }
        }
    }
}

/// A page with one sentence.
pub fn message(person: Option<&Person>, title: &str, words: &str) -> Markup {
    frame(person, title, &html! { p role="alert" { (words) } p { a href="/ui/" { "Back to apps and jobs" } } })
}

/// The form to log in.
pub fn login(wrong: Option<&str>) -> Markup {
    let body = html! {
        @if let Some(wrong) = wrong { p.problem role="alert" { (wrong) } }
        form.login method="post" action="/ui/login" {
            label for="name" { "Name" }
            input #name name="name" autocomplete="username" required autofocus;
            label for="password" { "Password" }
            input #password name="password" type="password" autocomplete="current-password" required;
            button { "Log in" }
        }
    };
    frame(None, "Log in", &body)
}

/// What the first page shows.
pub struct Overview {
    /// All apps.
    pub apps: Vec<App>,
    /// The newest jobs.
    pub recent: Vec<Job>,
    /// Those that run, then those that wait, first come first.
    pub active: Vec<Job>,
    /// How many wait.
    pub waiting: usize,
    /// Whether a job announces the apps.
    pub announces: bool,
}

/// All apps, what runs and waits, and the newest jobs.
pub fn overview(person: &Person, shown: &Overview) -> Markup {
    let running = shown.active.iter().filter(|job| job.status != Status::Queued).count();
    let body = html! {
        section aria-labelledby="active" {
            h2 #active { (count(running, "job runs", "jobs run")) ", " (count(shown.waiting, "waits", "wait")) }
            @if !shown.active.is_empty() { (jobs_table(&shown.active)) }
        }
        section aria-labelledby="apps" { h2 #apps { "Apps" } (apps_table(person, shown)) }
        section aria-labelledby="jobs" { h2 #jobs { "Newest jobs" } (jobs_table(&shown.recent)) }
    };
    frame(Some(person), "Apps and jobs", &body)
}

fn apps_table(person: &Person, shown: &Overview) -> Markup {
    html! {
        @if shown.announces && may_act(person) { (act(person, "/ui/announce", "Ask for the list of apps")) }
        @if shown.apps.is_empty() {
            p { "There are no apps: none is in tidegate-serve.yml, and none was announced." }
        } @else {
            table {
                thead { tr { th scope="col" { "App" } th scope="col" { "Inventory" } th scope="col" { "Last job" } @if may_act(person) { th scope="col" { "Action" } } } }
                tbody {
                    @for app in &shown.apps {
                        tr {
                            th scope="row" { a href={ "/ui/apps/" (app.id) } { (app.id) } }
                            td { (app.inventory) }
                            td { @if let Some(job) = shown.recent.iter().find(|job| job.app == app.id) { (badge(job.status)) " " a href={ "/ui/jobs/" (job.id) } { (ago(job.accepted)) } " by " (job.by) } @else { "none of late" } }
                            @if may_act(person) { td { (deploy(person, &app.id)) } }
                        }
                    }
                }
            }
        }
    }
}

/// A form of one button.
fn act(person: &Person, to: &str, words: &str) -> Markup {
    html! {
        form method="post" action=(to) {
            input type="hidden" name="token" value=(person.token);
            button { (words) }
        }
    }
}

fn may_act(person: &Person) -> bool {
    person.role == Role::Operator
}

fn deploy(person: &Person, app: &str) -> Markup {
    html! {
        form method="post" action={ "/ui/apps/" (app) "/deploy" } {
            input type="hidden" name="token" value=(person.token);
            button aria-label={ "Deploy " (app) } { "Deploy" }
        }
    }
}

fn jobs_table(jobs: &[Job]) -> Markup {
    html! {
        @if jobs.is_empty() { p { "There were none of late." } } @else {
            table {
                thead { tr { th scope="col" { "Job" } th scope="col" { "App" } th scope="col" { "Status" } th scope="col" { "Asked for by" } th scope="col" { "When" } th scope="col" { "Took" } } }
                tbody {
                    @for job in jobs {
                        tr {
                            th scope="row" { a href={ "/ui/jobs/" (job.id) } { code { (job.id) } } }
                            td { a href={ "/ui/apps/" (job.app) } { (job.app) } @if let Some(tag) = job.values.get("tag") { " " code { (tag) } } }
                            td { (badge(job.status)) }
                            td { (job.by) }
                            td { (time(job.accepted)) }
                            td { (took(job)) }
                        }
                    }
                }
            }
        }
    }
}

/// One app and its jobs.
pub fn app(person: &Person, id: &str, app: Option<&App>, jobs: &[Job]) -> Markup {
    let body = html! {
        @if let Some(app) = app {
            p { "Inventory " code { (app.inventory) } @if app.announced { ", as it was announced" } "." }
            @if may_act(person) { (deploy(person, id)) }
        } @else if id.starts_with("webhook:") { p { "Commands that a webhook starts." } } @else { p { "This app is not there any more." } }
        h2 { "Jobs" }
        (jobs_table(jobs))
        @if jobs.len() == 50 { @if let Some(last) = jobs.last() { p { a href={ "?before=" (last.id) } { "Older jobs" } } } }
    };
    frame(Some(person), id, &body)
}

/// One job and what it says.
pub fn job(person: &Person, job: &Job, end: &Piece, position: Option<usize>) -> Markup {
    let body = html! {
        dl {
            dt { "Status" } dd #status aria-live="polite" { (badge(job.status)) @if let Some(ahead) = position { " " (count(ahead, "job is before it", "jobs are before it")) } }
            @if !job.detail.is_empty() { dt { "Why" } dd { (job.detail) } }
            dt { "App" } dd { a href={ "/ui/apps/" (job.app) } { (job.app) } ", inventory " code { (job.inventory) } }
            dt { "Asked for by" } dd { (job.by) ", " (time(job.accepted)) }
            @if let Some(by) = &job.cancelled_by { dt { "Cancelled by" } dd { (by) } }
            dt { "Took" } dd { (took(job)) }
            dt { "Runner" } dd { (job.runner_name) @if let Some(place) = &job.place { ", " (place) } }
            @for (name, value) in &job.values { dt { (name) } dd { code { (value) } } }
        }
        @if may_act(person) && !job.status.is_active() { (act(person, &format!("/ui/jobs/{}/redeploy", job.id), "Deploy this again")) }
        @if may_act(person) && job.status.is_active() && job.cancelled_by.is_none() {
            form method="post" action={ "/ui/jobs/" (job.id) "/cancel" } {
                input type="hidden" name="token" value=(person.token);
                button.danger { "Cancel this job" }
            }
        }
        h2 #log-title { "Output" }
        p {
            @if end.from > 0 { "This is the end of it. " }
            a href={ "/ui/jobs/" (job.id) "/log.txt" } { "All of it" }
            @if job.status.is_active() { noscript { " · " a href={ "/ui/jobs/" (job.id) } { "Look again" } } }
        }
        pre #log role="log" aria-labelledby="log-title" tabindex="0" data-next=(end.next) data-status=(job.status.name()) data-active=(job.status.is_active()) {
            (console::strip_ansi_codes(&end.text))
        }
        script src="/ui/live.js" defer {}
    };
    frame(Some(person), &format!("Job {}", job.id), &body)
}

/// What has happened.
pub fn audit(person: &Person, entries: &[(String, Entry)]) -> Markup {
    let body = html! {
        table {
            thead { tr { th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "What" } th scope="col" { "App" } th scope="col" { "Job" } th scope="col" { "More" } } }
            tbody {
                @for (_id, entry) in entries {
                    tr {
                        td { (time(entry.at)) }
                        td { (entry.by) }
                        td { (entry.what) }
                        td { (entry.app) }
                        td { @if !entry.job.is_empty() { a href={ "/ui/jobs/" (entry.job) } { code { (entry.job) } } } }
                        td { (entry.detail) }
                    }
                }
            }
        }
        @if entries.len() == 100 { @if let Some((last, _)) = entries.last() { p { a href={ "?before=" (last) } { "Older" } } } }
    };
    frame(Some(person), "Audit", &body)
}

fn badge(status: Status) -> Markup {
    let sign = match status {
        Status::Queued => "…",
        Status::Starting | Status::Running => "▶",
        Status::Success => "✓",
        Status::Error | Status::TimedOut => "✗",
        Status::Cancelled => "⊘",
        Status::Lost => "?",
    };
    html! { span class={ "badge " (status.name()) } { span aria-hidden="true" { (sign) " " } (status.name()) } }
}

fn time(millis: u64) -> Markup {
    let at = i64::try_from(millis).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    let Some(at) = at else { return html! {} };
    html! { time datetime=(at.strftime("%Y-%m-%dT%H:%M:%SZ")) { (at.strftime("%Y-%m-%d %H:%M:%S UTC")) } }
}

fn ago(millis: u64) -> String {
    let age = Duration::from_secs(now().saturating_sub(millis) / 1000);
    let (number, unit) = match age.as_secs() {
        seconds @ 0..60 => (seconds, "second"),
        seconds @ 60..3600 => (seconds / 60, "minute"),
        seconds @ 3600..86_400 => (seconds / 3600, "hour"),
        seconds => (seconds / 86_400, "day"),
    };
    format!("{} ago", count(usize::try_from(number).unwrap_or_default(), unit, &format!("{unit}s")))
}

fn took(job: &Job) -> String {
    match (job.started, job.ended) {
        (Some(started), ended) => crate::tools::wait::spoken(Duration::from_millis(ended.unwrap_or_else(now).saturating_sub(started))),
        (None, Some(_)) => "did not begin".into(),
        (None, None) => "has not begun".into(),
    }
}
