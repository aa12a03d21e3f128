//! Travis CI, API version 3: a request for a build. <https://docs.travis-ci.com/user/triggering-builds/>

use super::follow::{Limits, Pipeline, Seen, follow};
use super::{Answer, Api, INTENT, MAYBE, Started, lost, number_in, unbroken};
use crate::config::{MergeMode, TriggerTravis, template::Values};
use crate::error::{Error, Reason, Result};
use crate::forge::github::encode;
use crate::targets::{Site, secret};
use crate::tools::http;
use crate::tools::secret::Secret;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};

const REQUEST: &str = "request ";
/// How often a request may be finished before its builds show.
const BARE: u32 = 7;

/// Starts it, and follows it where that was asked for.
pub async fn run(site: &Site<'_>, values: &Values, trigger: &TriggerTravis) -> Result<Started> {
    let token = secret(site.world, &trigger.token.env, "the token of Travis CI")?;
    let header = Secret::new(format!("token {}", token.expose()));
    site.world.console.mask(&header);
    let base = trigger.host.as_deref().map_or_else(|| Ok("https://api.travis-ci.com".to_owned()), |host| site.fill(values, host))?;
    let base = site.world.detour.as_ref().map_or(base, |sandbox| format!("{sandbox}/travis")).trim_end_matches('/').to_owned();
    crate::targets::proof::safe(&base, "the address of Travis CI")?;
    let more = &[("travis-api-version", "3")];
    let api = Api {
        client: http::client(&site.world.vars)?,
        clock: site.world.clock,
        base,
        name: "Travis CI",
        header: Some(("authorization", header)),
        more,
    };
    let repository = site.fill(values, &trigger.repository)?;
    let start = Start { site, values, trigger, api, repository };
    let number = match start.resumed().await? {
        Some(number) => number,
        None => start.start().await?,
    };
    start.followed(number).await
}

/// One start.
struct Start<'a> {
    site: &'a Site<'a>,
    values: &'a Values,
    trigger: &'a TriggerTravis,
    api: Api,
    repository: String,
}

impl Start<'_> {
    fn path(&self, rest: &str) -> String {
        format!("/repo/{}/{rest}", encode(&self.repository))
    }

    async fn resumed(&self) -> Result<Option<u64>> {
        let handle = self.site.memory.started().await;
        if handle.as_deref().is_some_and(|handle| handle.starts_with(INTENT)) {
            let sentence =
                format!("the run before was killed while it asked Travis CI for a build of {}: it may have been taken", self.repository);
            return Err(lost(sentence).hint("look at the repository's requests, then run this again"));
        }
        Ok(number_in(handle.as_deref(), REQUEST))
    }

    /// Sends it once: Travis does not tell which request was whose.
    async fn start(&self) -> Result<u64> {
        let mut variables = Vec::new();
        for (name, value) in &self.trigger.env {
            let value = self.site.fill(self.values, value)?;
            if value.ends_with('\\') || value.contains('\n') {
                let sentence = format!("Travis CI cannot take the variable {name}: it reads no line breaks, and no \\ at the end");
                return Err(Error::new(Reason::TriggerInput, sentence).hint("send it encoded, as base64"));
            }
            variables.push(assignment(name, &value));
        }
        let version = self.values.get("version").unwrap_or_default();
        let message = match &self.trigger.message {
            Some(message) => self.site.fill(self.values, message)?,
            None => format!("started by {} {version}", self.values.get("project").unwrap_or("tidegate")).trim_end().to_owned(),
        };
        let branch = self.site.fill(self.values, &self.trigger.branch)?;
        let mut body = json!({"request": {
            "branch": branch, "message": message, "merge_mode": self.trigger.merge_mode.name(), "config": {"env": {"global": variables}},
        }});
        if let Some(sha) = &self.trigger.sha {
            crate::targets::set(&mut body, &["request", "sha"], json!(self.site.fill(self.values, sha)?));
        }
        self.site.memory.note_started(&format!("{INTENT}nothing")).await?; // without a journal nothing is started
        let path = self.path("requests");
        let asked = unbroken(self.site, &self.repository, self.api.post(&path, |request| request.json(&body)));
        let answer = asked.await.map_err(|error| if error.lost { error.hint(MAYBE) } else { error })?;
        let answer = self.judge(answer)?;
        let id = answer.number("/request/id").filter(|_| answer.status == 202);
        let id =
            id.ok_or_else(|| Error::new(Reason::TriggerFailed, format!("Travis CI answers {} and names no request", answer.status)))?;
        self.site.note_started(&format!("{REQUEST}{id}")).await?;
        if let Some(left) = answer.number("/remaining_requests") {
            self.site.say(&format!("Travis CI takes {left} more requests for {} in this hour", self.repository));
        }
        Ok(id)
    }

    async fn followed(&self, id: u64) -> Result<Started> {
        let request = Request { start: self, id, bare: AtomicU32::new(0) };
        if !self.trigger.wait {
            return Ok(Started { said: format!("{} is taken", request.name()), run: Some(id), url: request.url() });
        }
        let limits = Limits { timeout: self.trigger.timeout.0, on_cancel: self.trigger.on_cancel };
        Ok(Started { said: follow(self.site, &request, &limits).await?, run: Some(id), url: request.url() })
    }

    fn judge(&self, answer: Answer) -> Result<Answer> {
        let sentence = format!("Travis CI answers {} about {}: {}", answer.status, self.repository, answer.words);
        match answer.status {
            200..=299 => Ok(answer),
            401 | 403 => {
                Err(Error::new(Reason::AuthDenied, sentence)
                    .hint("is the token one of this server, and may its user push to the repository?"))
            }
            404 => {
                Err(Error { gone: true, ..Error::new(Reason::AuthDenied, sentence) }
                    .hint("no such repository, or its user does not see it"))
            }
            429 => Err(Error::new(Reason::TriggerFailed, sentence).hint("Travis CI takes 10 requests per repository and hour")),
            400 | 422 => Err(Error::new(Reason::TriggerInput, sentence)),
            status => Err(Error { lost: status >= 500, ..Error::new(Reason::TriggerFailed, sentence) }),
        }
    }
}

/// NAME=value as Travis reads it: like a shell, so what a shell would touch is quoted.
fn assignment(name: &str, value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,@+=%".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return format!("{name}={value}");
    }
    let escaped: String = value.chars().flat_map(|c| ['"', '\\', '$', '`'].contains(&c).then_some('\\').into_iter().chain([c])).collect();
    format!("{name}=\"{escaped}\"")
}

/// A request, and the builds that come of it.
struct Request<'a> {
    start: &'a Start<'a>,
    id: u64,
    /// How often it was seen finished without a build.
    bare: AtomicU32,
}

#[async_trait::async_trait]
impl Pipeline for Request<'_> {
    fn name(&self) -> String {
        format!("request {} of {}", self.id, self.start.repository)
    }

    fn url(&self) -> Option<String> {
        Some(format!("https://app.travis-ci.com/{}/requests", self.start.repository))
    }

    async fn look(&self) -> Result<Seen> {
        let answer = self.request().await?;
        let builds = builds(&answer.body);
        if answer.text("/result") == Some("rejected") {
            let why = answer.text("/message").unwrap_or("no reason given");
            return Ok(Seen::Badly(Error::new(Reason::TriggerFailed, format!("{} was rejected: {why}", self.name()))));
        }
        let state = answer.text("/state").unwrap_or("pending");
        if builds.is_empty() && state == "finished" && self.bare.fetch_add(1, Ordering::Relaxed) >= BARE {
            let sentence = format!("{} is finished, and no build came of it", self.name());
            let error = Error::new(Reason::TriggerFailed, sentence).hint("does the repository's .travis.yml leave this branch out?");
            return Ok(Seen::Badly(error));
        }
        if builds.is_empty() {
            return Ok(Seen::Going(state.to_owned()));
        }
        let mut states = Vec::new();
        for build in builds {
            let answer = self.start.judge(self.start.api.get(&format!("/build/{build}")).await?)?;
            let state = answer.text("/state").unwrap_or_default().to_owned();
            if matches!(state.as_str(), "failed" | "errored" | "canceled") {
                return Ok(Seen::Badly(Error::new(Reason::TriggerFailed, format!("build {build} of {} {state}", self.start.repository))));
            }
            states.push((build, state));
        }
        let said = |(build, state): &(u64, String)| format!("build {build} {state}");
        let all = states.iter().map(said).collect::<Vec<_>>().join(", ");
        let passed = states.iter().all(|(_, state)| state == "passed");
        Ok(if passed { Seen::Well(format!("{}: {all}", self.name())) } else { Seen::Going(all) })
    }

    async fn cancel(&self) -> bool {
        let Ok(answer) = self.request().await else { return false };
        let (builds, mut all) = (builds(&answer.body), true);
        for build in &builds {
            let asked = self.start.api.post(&format!("/build/{build}/cancel"), |request| request).await;
            all &= asked.is_ok_and(|answer| answer.is_success() || answer.status == 409); // 409: it has ended
        }
        all && !builds.is_empty()
    }
}

impl Request<'_> {
    async fn request(&self) -> Result<Answer> {
        self.start.judge(self.start.api.get(&self.start.path(&format!("request/{}", self.id))).await?)
    }
}

fn builds(request: &Value) -> Vec<u64> {
    request.get("builds").and_then(Value::as_array).into_iter().flatten().filter_map(|build| build.get("id")?.as_u64()).collect()
}

impl MergeMode {
    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::DeepMergeAppend => "deep_merge_append",
            Self::DeepMergePrepend => "deep_merge_prepend",
            Self::DeepMerge => "deep_merge",
            Self::Merge => "merge",
            Self::Replace => "replace",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::assignment;

    #[test]
    fn values_survive_commas_quotes_and_spaces() {
        assert_eq!(assignment("TAG", "1.10,2=b"), "TAG=1.10,2=b");
        assert_eq!(assignment("TITLE", "it's \"5 $\" `now`"), r#"TITLE="it's \"5 \$\" \`now\`""#);
        assert_eq!(assignment("EMPTY", ""), "EMPTY=\"\"");
        // As a shell reads it back.
        let script = format!("{}; printf %s \"$TITLE\"", assignment("TITLE", "it's \"5 $\" `now`"));
        let read = crate::tools::process::ask("sh", &["-c", &script], "").unwrap();
        assert_eq!(read.trim_end(), "it's \"5 $\" `now`");
    }
}
