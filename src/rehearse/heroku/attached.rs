//! One-off dynos: asked for, attached to, and stopped.

use super::super::sandbox::{Asked, Shared, json_answer};
use super::{Fate, Platform, Run, TIME, id, release_id};
use crate::targets::set;
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

pub(super) fn run(heroku: &mut Platform, asked: &Asked, app: &str, rest: &[&str]) -> Response {
    if let [_, dyno, "actions", "stop"] = rest {
        let at: usize = dyno.trim_start_matches("run.").parse().unwrap_or(0);
        heroku.runs.get_mut(at.saturating_sub(1)).into_iter().for_each(|run| run.stopped = true);
        return json_answer(202, &json!({}));
    }
    let request = asked.json();
    heroku.runs.push(Run { request: request.clone(), stopped: false, app: app.to_owned(), fate: heroku.fate });
    let number = heroku.runs.len();
    let version = heroku.run_release.unwrap_or_else(|| heroku.apps.get(app).map_or(0, |app| app.current));
    let mut dyno = json!({
        "id": id(&format!("{app} run.{number}")), "name": format!("run.{number}"), "type": "run", "state": "starting", "size": "Basic",
        "attach_url": format!("rendezvous://{}/{}", heroku.rendezvous, id(&format!("secret {number}"))), "app": {"id": id(app), "name": app},
        "release": {"id": release_id(app, version), "version": version}, "created_at": TIME, "updated_at": TIME,
    });
    set(&mut dyno, &["command"], request.get("command").cloned().unwrap_or_default());
    json_answer(201, &dyno)
}

/// Opens the door for attached dynos.
pub async fn attach(shared: &Arc<Shared>) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    shared.world().heroku.rendezvous = listener.local_addr()?.to_string();
    let shared = shared.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(speak(shared.clone(), stream));
        }
    });
    Ok(())
}

/// What an attached dyno says: the banner, its lines, and what its shell makes of `echo "…$?"`.
async fn speak(shared: Arc<Shared>, stream: tokio::net::TcpStream) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut secret = String::new();
    BufReader::new(reader).read_line(&mut secret).await?;
    let found = {
        let world = shared.world();
        let numbered = world.heroku.runs.iter().zip(1_usize..);
        let ours = |number: usize| id(&format!("secret {number}")) == secret.trim_end();
        numbered.clone().find(|(_, number)| ours(*number)).map(|(run, _)| run.clone())
    };
    let Some(run) = found else { return Ok(()) };
    let command = run.request.get("command").and_then(Value::as_str).unwrap_or_default();
    let echoed = command.rsplit_once("echo \"").and_then(|(_, rest)| rest.split_once("$?")).map_or("", |(text, _)| text);
    writer.write_all(b"rendezvous\r\n").await?;
    writer.write_all(format!("migrating {}\n", run.app).as_bytes()).await?;
    match run.fate {
        Fate::Exits(code) => writer.write_all(format!("done\n{echoed}{code}\n").as_bytes()).await?,
        Fate::Pieces(code) => {
            for byte in format!("done\n{echoed}{code}\n").as_bytes() {
                writer.write_all(&[*byte]).await?;
                writer.flush().await?;
                tokio::task::yield_now().await;
            }
        }
        Fate::Breaks => {}
        Fate::Hangs => return std::future::pending().await,
    }
    writer.shutdown().await
}
