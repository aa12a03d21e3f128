//! Webhooks over HTTP: who sends them is proven over the raw bytes, before anything of them is read.

use super::{Answered, Asked, json_answer, may_try, only, problem, unavailable, with_header, wrong};
use crate::error::Reason;
use crate::serve::apps::is_secret;
use crate::serve::config::Hook;
use crate::serve::hooks::{self, Taken, payload::Said, take_or_keep};
use crate::serve::jobs::now;
use crate::serve::server::Server;
use crate::targets::webhook::signature;
use crate::tools::secret::Secret;
use crate::version::hex;
use aws_lc_rs::hmac;
use axum::body::Body;
use axum::http::{Method, Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// Docker Hub's webhook at /autodock/v1/, with a login or with the secret as the last part of the path.
pub async fn docker_hub(server: &Server, mut asked: Asked, rest: &[&str]) -> Answered {
    let config = server.config();
    let found = config.serve.webhooks.iter().find_map(|(name, hook)| match hook {
        Hook::DockerHub(hub) => Some((name, hub, hook)),
        Hook::Github(_) | Hook::Gitlab(_) | Hook::Signed(_) | Hook::Ecr(_) => None,
    });
    let Some((name, hub, hook)) = found else { return Err(problem(StatusCode::NOT_FOUND, "there is no such address")) };
    may_try(server, &asked, "")?;
    let mut secrets = server.apps.hook_secrets(name).into_iter();
    let in_path = hub.secret_path.as_ref().and_then(|_| secrets.next());
    let login = hub.login.as_ref().and_then(|_| secrets.next());
    let given_path = rest.first().copied().unwrap_or_default();
    let given_login = asked.header("authorization").and_then(|value| {
        let (scheme, encoded) = value.split_once(' ')?;
        STANDARD.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))
    });
    let knows_path = in_path.is_some_and(|secret| is_secret(given_path.as_bytes(), &secret)) && rest.len() <= 2;
    let knows_login = login.is_some_and(|secret| given_login.is_some_and(|given| is_secret(&given, &secret))) && given_path.is_empty();
    if !knows_path && !knows_login {
        wrong(server, &asked, "");
        return Err(with_header(unauthorized(), "www-authenticate", "Basic realm=\"PRIVATE AREA\""));
    }
    only(&asked, &[Method::POST])?;
    let body = asked.read().await?;
    taken(server, name, hook, hooks::docker_hub(&body, &hub.callback_hosts)).await
}

fn unauthorized() -> Response<Body> {
    super::closing(problem(StatusCode::UNAUTHORIZED, "the delivery is not signed as it has to be"))
}

/// A webhook at /hooks/NAME. One that is not there and one that is not signed right have the same answer.
pub async fn named(server: &Server, mut asked: Asked, name: &str) -> Answered {
    only(&asked, &[Method::POST])?;
    may_try(server, &asked, "")?;
    let config = server.config();
    let body = asked.read().await?;
    may_try(server, &asked, "")?; // many that were held back come at once
    let secret = server.apps.hook_secrets(name).into_iter().next();
    let found = config.serve.webhooks.get(name).zip(secret).filter(|(hook, secret)| is_signed(hook, secret, &asked, &body));
    let Some((hook, _secret)) = found else {
        wrong(server, &asked, "");
        return Err(unauthorized());
    };
    let said = match hook {
        Hook::Github(_) => match asked.header("x-github-event") {
            Some(event) => hooks::github(&unpacked(&asked, &body), event, asked.header("x-github-delivery")),
            None => Said::Broken,
        },
        Hook::Gitlab(_) => hooks::gitlab(&body, asked.header("x-gitlab-event-uuid")),
        Hook::Signed(_) => hooks::plain(&body, asked.header("webhook-id").unwrap_or_default()),
        Hook::DockerHub(_) | Hook::Ecr(_) => Said::Broken,
    };
    taken(server, name, hook, said).await
}

fn is_signed(hook: &Hook, secret: &Secret, asked: &Asked, body: &[u8]) -> bool {
    match hook {
        // <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>
        Hook::Github(_) => {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
            let wanted = Secret::new(format!("sha256={}", hex(hmac::sign(&key, body).as_ref())));
            asked.header("x-hub-signature-256").is_some_and(|given| is_secret(given.as_bytes(), &wanted))
        }
        // <https://docs.gitlab.com/user/project/integrations/webhooks/#validate-payloads-by-using-a-secret-token>
        Hook::Gitlab(_) => asked.header("x-gitlab-token").is_some_and(|given| is_secret(given.as_bytes(), secret)),
        // <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
        Hook::Signed(signed) => {
            let (Some(id), Some(time), Some(given)) =
                (asked.header("webhook-id"), asked.header("webhook-timestamp"), asked.header("webhook-signature"))
            else {
                return false;
            };
            let Ok(text) = std::str::from_utf8(body) else { return false };
            let wanted = Secret::new(signature(secret, id, time, text));
            let is_right = given.split(' ').any(|given| is_secret(given.as_bytes(), &wanted));
            let off = time.parse::<u64>().map_or(u64::MAX, |time| (now() / 1000).abs_diff(time));
            is_right && !id.is_empty() && off <= signed.tolerance.0.as_secs()
        }
        Hook::DockerHub(_) | Hook::Ecr(_) => false,
    }
}

async fn taken(server: &Server, name: &str, hook: &Hook, said: Said) -> Answered {
    let taken = match said {
        Said::Broken => {
            server.say(&format!("webhook {name}: a delivery that cannot be read"));
            return Err(problem(StatusCode::BAD_REQUEST, "the payload is not what this webhook sends, as JSON"));
        }
        Said::Nothing(why) => Ok(Taken::Ignored(why.into())),
        Said::Delivery(delivery) => take_or_keep(server, name, hook.rules(), &delivery).await,
    };
    match taken {
        Ok(taken) => {
            server.say(&format!("webhook {name}: {}", words(&taken)));
            let (status, body) = match taken {
                Taken::Jobs(jobs) => (StatusCode::ACCEPTED, json!({"status": "accepted", "jobs": jobs})),
                Taken::Kept => (StatusCode::ACCEPTED, json!({"status": "kept"})),
                Taken::Before => (StatusCode::OK, json!({"status": "duplicate"})),
                Taken::Ignored(why) => (StatusCode::OK, json!({"status": "ignored", "why": why})),
            };
            Ok(json_answer(status, &body))
        }
        Err(error) if error.reason == Reason::InputInvalid => {
            server.say(&format!("webhook {name}: a delivery is refused: {}", error.sentence));
            Err(problem(StatusCode::BAD_REQUEST, &error.sentence))
        }
        // It could not even be kept.
        Err(error) => Err(unavailable(server, &error)),
    }
}

/// A path as it may be shown: Docker Hub's holds a secret.
pub fn shown(path: &str) -> String {
    if path.starts_with("/autodock/") { "/autodock/v1/…".into() } else { path.chars().filter(|c| !c.is_control()).take(100).collect() }
}

/// The JSON of a delivery of GitHub, which may come as a form.
fn unpacked(asked: &Asked, body: &[u8]) -> Vec<u8> {
    let is_form = asked.header("content-type").is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let payload = url::form_urlencoded::parse(body).find(|(name, _)| name == "payload").filter(|_| is_form);
    payload.map_or_else(|| body.to_vec(), |(_, payload)| payload.into_owned().into_bytes())
}

/// What came of a delivery, for the log.
pub fn words(taken: &Taken) -> String {
    match taken {
        Taken::Jobs(jobs) => format!("job {}", jobs.join(", ")),
        Taken::Before => "a delivery that came before".into(),
        Taken::Kept => "a delivery that is tried again".into(),
        Taken::Ignored(why) => format!("a delivery that starts nothing: {why}"),
    }
}
