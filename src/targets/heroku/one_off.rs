//! A one-off dyno: a program of the app, run to its end, with its own exit code.
//!
//! Heroku tells no exit codes. As its own command line does, the program is followed by an `echo` of `$?`; a connection that
//! ends without that line says nothing about the program, and is never a success.
//! <https://github.com/heroku/cli/blob/main/packages/cli/src/lib/run/dyno.ts>

use super::api::{Api, Request, judge};
use super::{release, rendezvous};
use crate::config::{HerokuRun, OnCancel, TextOrSecret, template::Values};
use crate::error::{Error, Reason, Result};
use crate::targets::{STOP_LIMIT, Site, secret};
use crate::tools::wait::spoken;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::Duration;

/// What stands before the exit code.
const MARKER: &str = "\u{FFFF} heroku-command-exit-status: ";
const TAIL: usize = 15;

/// What a dyno said so far.
#[derive(Default)]
struct Heard {
    tail: VecDeque<String>,
    exit: Option<i64>,
    marked: bool,
}

/// Runs the program and takes its exit code. Where this delivery released to the app, it is that release's program.
pub async fn run_off(site: &Site<'_>, values: &Values, run: &HerokuRun, released: Option<u64>) -> Result<String> {
    let api = Api::open(site.world, &run.token.env)?;
    if let Some(handle) = site.memory.started().await {
        let sentence = format!("the run before was killed while it ran {handle} of {}: how that ended is not known", run.app);
        return Err(Error { lost: true, ..Error::new(Reason::TargetFailed, sentence) }
            .hint(format!("heroku logs -a {} tells; then run this again, which runs it once more", run.app)));
    }
    if let Some(version) = released {
        release::expect_current(&api, &run.app, version).await?; // another version's migration is not run
    }
    let dyno = tokio::select! {
        dyno = create(site, values, (&api, run)) => dyno?,
        () = site.world.cancel.cancelled() => {
            let sentence = format!("cancelled while a dyno of {} was asked for: it may have been started, and goes on then", run.app);
            return Err(Error::new(Reason::Cancelled, sentence).hint(format!("heroku ps -a {}", run.app)));
        }
    };
    let name = dyno.get("name").and_then(Value::as_str).unwrap_or("run").to_owned();
    if let Err(mut error) = site.note_started(&format!("the dyno {name}")).await {
        error.detail.push(stop(&api, run, &name).await);
        return Err(error);
    }
    site.say(&format!("{name} of {} runs {}", run.app, run.command.join(" ")));
    let url = dyno.get("attach_url").and_then(Value::as_str).unwrap_or_default();
    let (mut heard, limit) = (Heard::default(), run.timeout.0);
    let listening = rendezvous::listen(site.world, url, api.is_encrypted(), |line| heard.line(site, run, line));
    let ended = tokio::select! {
        ended = listening => ended.map_err(|why| unknown(run, &name, &why)),
        () = site.world.clock.sleep(limit) => {
            let sentence = format!("{name} of {} did not end within {}", run.app, spoken(limit));
            Err(Error::new(Reason::TargetTimeout, sentence))
        }
        () = site.world.cancel.cancelled() => Err(Error::new(Reason::Cancelled, format!("cancelled while {name} of {} ran", run.app))),
    };
    let outcome = ended.and_then(|()| heard.judge(run, &name)).and_then(|said| of_release(&dyno, released, said));
    match outcome {
        Err(mut error) => {
            error.detail.splice(0..0, heard.detail());
            if matches!(error.reason, Reason::Cancelled | Reason::TargetTimeout) {
                error.detail.push(stop(&api, run, &name).await);
            }
            Err(error)
        }
        said => said,
    }
}

/// What ended well was the program of the release that this delivery made. It is not stopped in its midst for being another's.
fn of_release(dyno: &Value, released: Option<u64>, said: String) -> Result<String> {
    let ran = dyno.pointer("/release/version").and_then(Value::as_u64);
    match released {
        Some(ours) if ran != Some(ours) => {
            let ran = ran.map_or("of a release that Heroku does not name".to_owned(), |version| format!("of v{version}"));
            let sentence = format!("{said}, but it was the program {ran}, and this delivery released v{ours}");
            Err(Error::new(Reason::TargetWrongDigest, sentence).hint("somebody else released there meanwhile, or went back"))
        }
        _same => Ok(said),
    }
}

/// Asks for the dyno. Right after an app was made, Heroku may refuse the first one with 409.
async fn create(site: &Site<'_>, values: &Values, (api, run): (&Api<'_>, &HerokuRun)) -> Result<Value> {
    let fill = |text: &str| site.fill(values, text);
    let words = run.command.iter().map(|word| Ok(quoted(&fill(word)?))).collect::<Result<Vec<_>>>()?;
    let mut env = serde_json::Map::new();
    for (name, value) in &run.env {
        let value = match value {
            TextOrSecret::Text(text) => fill(text)?,
            TextOrSecret::Secret(named) => secret(site.world, &named.env, &format!("the variable {name}"))?.expose().to_owned(),
        };
        env.insert(name.clone(), json!(value));
    }
    // In a subshell: a program called `exit` must not swallow the line with the exit code.
    let command = format!("({}); echo \"{MARKER}$?\"", words.join(" "));
    let mut body = json!({"command": command, "attach": true, "force_no_tty": true, "env": env});
    if run.on_cancel == OnCancel::Cancel {
        // Somewhat more than we wait: should we be killed, it does not go on for ever.
        crate::targets::set(&mut body, &["time_to_live"], json!(run.timeout.0.as_secs().saturating_add(60)));
    }
    let fields = [("type", &run.r#type), ("size", &run.size)];
    for (field, value) in fields.into_iter().filter_map(|(field, value)| Some((field, value.as_ref()?))) {
        crate::targets::set(&mut body, &[field], json!(value));
    }
    let path = format!("/apps/{}/dynos", run.app);
    site.memory.note_started("a dyno").await?; // without a journal nothing is run
    for _again in 0..2 {
        let answer = api.send(&Request::post(&path, &body)).await?;
        if answer.status != 409 {
            return Ok(judge(answer, &Request::post(&path, &body))?.body);
        }
        api.sleep(Duration::from_secs(2)).await?;
    }
    Ok(api.expect(&Request::post(&path, &body)).await?.body)
}

/// A word as a shell takes it, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn unknown(run: &HerokuRun, name: &str, why: &str) -> Error {
    let sentence = format!("{name} of {} told no exit code: {why}", run.app);
    Error { lost: true, ..Error::new(Reason::TargetFailed, sentence) }
        .hint(format!("it may go on, or have ended well: heroku ps -a {app}; heroku logs -a {app}", app = run.app))
}

/// Stops the dyno, or says that it goes on.
async fn stop(api: &Api<'_>, run: &HerokuRun, name: &str) -> String {
    if run.on_cancel == OnCancel::Leave {
        return format!("{name} goes on by itself (`on-cancel: leave`)");
    }
    let path = format!("/apps/{}/dynos/{name}/actions/stop", run.app);
    let empty = json!({});
    match tokio::time::timeout(STOP_LIMIT, api.once_more(&Request::post(&path, &empty))).await {
        Ok(Ok(status)) if (200..300).contains(&status) => format!("{name} is stopped"),
        _lost => format!("{name} could not be stopped and may go on: heroku ps:stop {name} -a {}", run.app),
    }
}

impl Heard {
    fn line(&mut self, site: &Site<'_>, run: &HerokuRun, line: &str) {
        if let Some((before, code)) = line.split_once(MARKER) {
            self.exit = code.trim().parse().ok();
            if before.is_empty() {
                return;
            }
        }
        let plain = console::strip_ansi_codes(line.split(MARKER).next().unwrap_or_default()).trim_end().to_owned();
        self.marked |= run.failure_marker.as_ref().is_some_and(|marker| plain.contains(marker));
        if plain.is_empty() {
            return;
        }
        site.world.console.relay("run", &plain);
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(crate::tools::console::cut(&plain, 1000));
    }

    fn judge(&self, run: &HerokuRun, name: &str) -> Result<String> {
        let app = &run.app;
        match (self.exit, self.marked) {
            (Some(0), false) => Ok(format!("{name} of {app} ended with exit code 0")),
            (Some(0), true) => {
                let marker = run.failure_marker.as_deref().unwrap_or_default();
                Err(Error::new(Reason::TargetFailed, format!("{name} of {app} ended with exit code 0, but its output says {marker}")))
            }
            (Some(code), _) => Err(Error::new(Reason::TargetFailed, format!("{name} of {app} ended with exit code {code}"))),
            (None, _) => Err(unknown(run, name, "the connection ended before it")),
        }
    }

    fn detail(&self) -> Vec<String> {
        if self.tail.is_empty() {
            return Vec::new();
        }
        std::iter::once("its last lines:".to_owned()).chain(self.tail.iter().map(|line| format!("  {line}"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_stay_words_in_a_shell() {
        assert_eq!(quoted("it's $HOME; rm"), r"'it'\''s $HOME; rm'");
    }
}
