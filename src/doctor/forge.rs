//! The forge: whether there is a token, whether it is alive, and what it may do. And the clock, by the forge's.

use super::Finding;
use crate::commands::place::Place;
use crate::config::CommentMode;
use crate::error::{Error, Reason, Result};
use crate::forge::Forge;
use crate::forge::github::GitHub;
use crate::forge::gitlab::GitLab;
use crate::state::Kind;
use crate::tools::http;
use crate::world::World;
use ::http::Method;
use http::client;
use serde_json::{Value, json};
use std::time::Duration;

const TOPIC: &str = "forge";
/// AWS refuses signatures that are further off than five minutes.
const SKEW_LIMIT: i64 = 240;
/// An access token that ends sooner is told.
const SOON: i64 = 14;

pub(super) async fn look(world: &World, place: &Place) -> Vec<Finding> {
    let mut found = match &place.forge {
        Forge::GitHub(github) => on_github(place, github).await,
        Forge::GitLab(gitlab) => on_gitlab(place, gitlab).await,
        Forge::Absent { why } => {
            let fix =
                "GitHub: the input `token` (its default is the job's own), or GITHUB_TOKEN; GitLab: GITLAB_TOKEN, a job has CI_JOB_TOKEN";
            vec![Finding::note(TOPIC, format!("nobody is told and no forge keeps the state: {why}"), fix)]
        }
    };
    found.extend(clock(world, place).await);
    found
}

async fn on_github(place: &Place, github: &GitHub) -> Vec<Finding> {
    let repository = github.repository();
    let alive = github.expect(Method::GET, "", None, "contents: read").await;
    if let Err(error) = alive {
        return vec![Finding::bad(TOPIC, &error)];
    }
    let mut found = vec![Finding::good(TOPIC, format!("the token reads {repository} (contents: read)"))];
    // GitHub looks at the permission first, and then finds no such commit, no such text.
    let nothing = "0".repeat(40);
    let deployment =
        json!({"ref": nothing, "task": "tidegate:doctor", "environment": "tidegate-doctor", "auto_merge": false, "required_contexts": []});
    found.push(may(github, "/deployments", &deployment, "deployments: write", "records of deliveries").await);
    if place.store.kind() == Kind::Forge {
        let reference = json!({"ref": "refs/tidegate/doctor", "sha": nothing});
        found.push(may(github, "/git/refs", &reference, "contents: write", "leases").await);
    }
    if place.loaded.config.comment.mode != CommentMode::Never {
        found.push(match pull_request(place, github).await {
            Ok(Some(number)) => {
                may(github, &format!("/issues/{number}/comments"), &json!({"body": ""}), "pull-requests: write", "comments").await
            }
            Ok(None) => {
                Finding::note(TOPIC, "whether comments may be written was not tried: there is no pull request yet", "nothing to do")
            }
            Err(error) => Finding::bad(TOPIC, &error),
        });
    }
    found.push(match github.expect(Method::GET, "/actions/runs?per_page=1", None, "actions: read").await {
        Ok(_runs) => Finding::good(TOPIC, "actions: read, for leases of runs that have ended"),
        Err(_denied) => Finding::note(
            TOPIC,
            "the token may not read runs: the lease of a run that was killed is free only after a minute",
            "add `actions: read` under `permissions:` of the job",
        ),
    });
    found
}

async fn may(github: &GitHub, path: &str, body: &Value, permission: &str, what: &str) -> Finding {
    let answer = match github.call(Method::POST, path, Some(body)).await {
        Ok(answer) => answer,
        Err(error) => return Finding::bad(TOPIC, &error),
    };
    match answer.status {
        // Refused for what it says, as it was meant to be.
        409 | 422 => Finding::good(TOPIC, format!("{permission}, for {what}")),
        201 => Finding::bad(TOPIC, &Error::new(Reason::ForgeFailed, format!("GitHub took a request to {path} that it should refuse"))),
        _denied => match github.judge(answer, &Method::POST, path, permission) {
            Ok(_never) => Finding::good(TOPIC, permission),
            Err(error) => Finding::bad(TOPIC, &error),
        },
    }
}

/// A pull request to try comments on; any will do.
async fn pull_request(place: &Place, github: &GitHub) -> Result<Option<u64>> {
    if let Some(number) = place.event.pr {
        return Ok(Some(number));
    }
    let answer = github.expect(Method::GET, "/pulls?state=all&per_page=1", None, "pull-requests: read").await?;
    Ok(answer.body.pointer("/0/number").and_then(Value::as_u64))
}

async fn on_gitlab(place: &Place, gitlab: &GitLab) -> Vec<Finding> {
    if !gitlab.has_access_token() {
        let mut found =
            vec![Finding::of(TOPIC, gitlab.environments().await.map(|known| format!("CI_JOB_TOKEN works; environments: {}", known.len())))];
        let fix = "a project access token (scope `api`, role Developer) as the masked variable GITLAB_TOKEN";
        let said = "CI_JOB_TOKEN writes no notes and no commit statuses, and compares no commits: merge requests are not told";
        if place.loaded.config.comment.mode != CommentMode::Never {
            found.push(Finding::note(TOPIC, said, fix));
        }
        return found;
    }
    let mut found = vec![match gitlab.token().await {
        Ok(token) => scopes(&token),
        Err(error) => return vec![Finding::bad(TOPIC, &error)],
    }];
    found.push(match gitlab.role().await {
        Ok(Some(level)) if level < 30 => Finding::bad(
            TOPIC,
            &Error::new(Reason::AuthDenied, format!("the token's user has the level {level} in {}, and 30 is needed", gitlab.repository()))
                .hint("give it the role Developer (Maintainer where environments are protected)"),
        ),
        Ok(Some(level)) => Finding::good(TOPIC, format!("the token's level in {} is {level}", gitlab.repository())),
        Ok(None) => Finding::note(TOPIC, "the token's role is not told by GitLab", "it has to be Developer or higher"),
        Err(error) => Finding::bad(TOPIC, &error),
    });
    found
}

fn scopes(token: &Value) -> Finding {
    let scopes: Vec<&str> = token.pointer("/scopes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    if !scopes.contains(&"api") {
        return Finding::bad(
            TOPIC,
            &Error::new(Reason::AuthDenied, format!("GITLAB_TOKEN has the scopes {}, and `api` is needed", scopes.join(", ")))
                .hint("make a new project access token with the scope `api` (Settings > Access tokens)"),
        );
    }
    let expires = token.pointer("/expires_at").and_then(Value::as_str);
    let day: Option<jiff::civil::Date> = expires.and_then(|day| day.parse().ok());
    let left = day.and_then(|day| jiff::Zoned::now().date().until(day).ok()).map(|left| i64::from(left.get_days()));
    match (left, expires) {
        (Some(left), Some(day)) if left < SOON => Finding::note(
            TOPIC,
            format!("GITLAB_TOKEN ends on {day}"),
            "rotate it under Settings > Access tokens, and set the variable again",
        ),
        (_, day) => Finding::good(
            TOPIC,
            format!("GITLAB_TOKEN has the scope api and ends {}", day.map_or("never".into(), |day| format!("on {day}"))),
        ),
    }
}

/// How far this machine's clock is from the forge's: signatures and tokens go by it.
async fn clock(world: &World, place: &Place) -> Option<Finding> {
    let url = match &place.event.more.gitlab {
        Some(url) => url.clone(),
        None => crate::forge::github::api(&world.vars).to_owned(),
    };
    let request = client(&world.vars).ok()?.head(&url);
    let answer = tokio::time::timeout(Duration::from_secs(10), request.send()).await.ok()?.ok()?;
    let said = answer.headers().get(::http::header::DATE)?.to_str().ok()?;
    let there = seconds_of(said)?;
    let skew = jiff::Timestamp::now().as_second() - there;
    if skew.abs() > SKEW_LIMIT {
        let sentence =
            format!("this machine's clock is {} {} the forge's", spoken(skew.abs()), if skew > 0 { "ahead of" } else { "behind" });
        let error =
            Error::new(Reason::InputInvalid, sentence).hint("set the clock (NTP): AWS refuses signatures that are five minutes off");
        return Some(Finding::bad("clock", &error));
    }
    Some(Finding::good("clock", format!("{} from the forge's", spoken(skew.abs()))))
}

/// Seconds since 1970 of an HTTP date.
fn seconds_of(text: &str) -> Option<i64> {
    let parsed = jiff::fmt::rfc2822::parse(&text.replace("GMT", "+0000"));
    parsed.ok().map(|time| time.timestamp().as_second())
}

fn spoken(seconds: i64) -> String {
    humantime::format_duration(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))).to_string()
}
