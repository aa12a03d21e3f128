//! Pretend receivers of webhooks, and pages that say which version runs.

use super::sandbox::{Asked, Shared, json_answer};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// What receivers saw and say.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    /// Requests: headers that matter, and the body.
    pub received: Vec<Received>,
    /// What the page below /hooks/running says; `{}` stands for the body of the last webhook.
    pub running: String,
    /// What a receiver answers; nothing means an empty 200.
    pub answer: Option<String>,
    /// Whether requests change nothing: the page keeps saying what it said.
    pub forgets: bool,
}

/// A webhook that came.
#[derive(Clone, Debug)]
pub struct Received {
    /// `webhook-id`.
    pub id: String,
    /// `webhook-timestamp`.
    pub timestamp: String,
    /// `webhook-signature`.
    pub signature: String,
    /// `authorization`.
    pub authorization: String,
    /// The body.
    pub body: String,
}

/// Answers /hooks/deploy and /hooks/running.
pub fn answer(shared: &Shared, asked: &Asked) -> Response {
    let hooks = &mut shared.world().hooks;
    match (asked.method.as_str(), asked.path.as_str()) {
        ("POST", _) => {
            let header = |name: &str| asked.header(name).to_owned();
            let body = String::from_utf8_lossy(&asked.body).into_owned();
            if !hooks.forgets {
                hooks.running.clone_from(&body);
            }
            hooks.received.push(Received {
                id: header("webhook-id"),
                timestamp: header("webhook-timestamp"),
                signature: header("webhook-signature"),
                authorization: header("authorization"),
                body,
            });
            hooks.answer.clone().unwrap_or_default().into_response()
        }
        ("GET", "/hooks/running") => hooks.running.clone().into_response(),
        _other => json_answer(404, &json!({"message": "Not Found"})),
    }
}
