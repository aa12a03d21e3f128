//! The pretend API of Heroku's databases: backups that are captured at the second look, and an address that gives them out.
//!
//! Its shapes are those that Heroku's command line reads:
//! <https://github.com/heroku/cli/tree/main/packages/cli/src/lib/pg>.

use super::{App, Platform, error, id, not_found};
use crate::rehearse::sandbox::{Asked, json_answer};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Heroku's side of backups.
#[derive(Clone, Debug, Default)]
pub struct Data {
    /// What a backup holds.
    pub dump: Vec<u8>,
    /// Whether captures fail.
    pub fails: bool,
    /// How many bytes less come than there are.
    pub cuts: usize,
    /// The transfers: looks at each, and whether it was stopped.
    pub transfers: Vec<(u32, bool)>,
    /// Whether they never end.
    pub hangs: bool,
}

/// The add-ons of an app as it is attached to them.
pub(super) fn attachments(name: &str, app: &App) -> Response {
    let of = |plan: &String| {
        let (service, addon) = (plan.split(':').next().unwrap_or_default(), format!("{name} {plan}"));
        let label = if service == "heroku-postgresql" { "DATABASE".to_owned() } else { service.to_uppercase().replace('-', "_") };
        json!({
            "id": id(&format!("attachment {addon}")), "name": label, "namespace": null, "created_at": super::TIME, "updated_at": super::TIME,
            "addon": {"id": id(&addon), "name": format!("{service}-round-1234"), "app": {"id": id(name), "name": name}},
            "app": {"id": id(name), "name": name}, "web_url": null, "log_input_url": null,
        })
    };
    json_answer(200, &Value::Array(app.addons.iter().map(|(plan, _)| of(plan)).collect()))
}

/// Answers a request below /client/v11.
pub(super) fn answer(heroku: &mut Platform, asked: &Asked, parts: &[&str]) -> Response {
    let data = &mut heroku.data;
    match (asked.method.as_str(), parts) {
        ("POST", ["databases", _id, "backups"]) => {
            data.transfers.push((0, false));
            json_answer(201, &transfer(data, data.transfers.len()))
        }
        ("GET", ["apps", _app, "transfers", which]) => {
            match which.strip_prefix("transfer-").and_then(|number| number.parse::<usize>().ok()) {
                Some(number) if (1..=data.transfers.len()).contains(&number) => {
                    if let Some((looks, _)) = data.transfers.get_mut(number - 1) {
                        *looks += 1;
                    }
                    json_answer(200, &transfer(data, number))
                }
                Some(_) | None => not_found("transfer"),
            }
        }
        ("POST", ["apps", _app, "transfers", which, "actions", "cancel"]) => {
            let number: usize = which.trim_start_matches("transfer-").parse().unwrap_or(0);
            if let Some((_, stopped)) = data.transfers.get_mut(number.saturating_sub(1)) {
                *stopped = true;
            }
            json_answer(200, &json!({"message": "canceled"}))
        }
        ("POST", ["apps", _app, "transfers", number, "actions", "public-url"]) => {
            let host = asked.header("host");
            json_answer(
                201,
                &json!({"url": format!("http://{host}/heroku/download/{number}?signature=download-secret"), "expires_at": super::TIME}),
            )
        }
        (_, _) => error(404, "not_found", "Not found."),
    }
}

/// A backup's bytes, for whoever has its address.
pub(super) fn download(heroku: &Platform) -> Response {
    let whole = &heroku.data.dump;
    whole.get(..whole.len().saturating_sub(heroku.data.cuts)).unwrap_or_default().to_vec().into_response()
}

fn transfer(data: &Data, number: usize) -> Value {
    let (looks, stopped) = number.checked_sub(1).and_then(|index| data.transfers.get(index)).copied().unwrap_or_default();
    let is_over = looks >= 2 && !data.hangs;
    json!({
        "uuid": format!("transfer-{number}"), "num": number, "from_name": "DATABASE", "from_type": "pg_dump", "to_type": "gof3r",
        "created_at": super::TIME, "started_at": super::TIME, "finished_at": is_over.then_some(super::TIME), "canceled_at": stopped.then_some(super::TIME),
        "succeeded": is_over.then_some(!data.fails), "source_bytes": 0, "processed_bytes": if is_over { data.dump.len() } else { 0 },
        "logs": [{"created_at": super::TIME, "message": "pg_dump: dumping contents of table \"public.users\""}], "warnings": 0,
    })
}
