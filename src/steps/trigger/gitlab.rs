//! GitLab: a pipeline by a trigger token or the job's own. <https://docs.gitlab.com/api/pipeline_triggers/>

use super::follow::{Limits, Pipeline, Seen, follow};
use super::{Answer, Api, INTENT, LOOKING, MAYBE, Started, begun, lost, number_in, unbroken};
use crate::config::{TextOrSecret, TriggerGitlab, template::Values};
use crate::error::{Error, Reason, Result};
use crate::forge::github::encode;
use crate::targets::{Site, secret};
use crate::tools::http;
use crate::tools::secret::Secret;
use crate::world::World;
use serde_json::Value;
use std::time::Duration;

const PIPELINE: &str = "pipeline ";

/// Refuses tokens that are not there.
pub fn check(world: &World, trigger: &TriggerGitlab) -> Result<()> {
    start_token(world, trigger)?;
    match reader(world, trigger)? {
        Some(_) => Ok(()),
        None if trigger.wait => Err(Error::new(
            Reason::AuthMissing,
            format!("there is no token to follow the pipeline of {} with", trigger.project),
        )
        .hint(
            "a trigger token only starts: give `read-token: {env: NAME}` with the scope `read_api` (or GITLAB_TOKEN), or leave `wait` out",
        )),
        None => Ok(()),
    }
}

fn start_token(world: &World, trigger: &TriggerGitlab) -> Result<Secret> {
    if let Some(named) = &trigger.token {
        return secret(world, &named.env, "the trigger token of the project downstream");
    }
    let own = world.vars.get("CI_JOB_TOKEN").filter(|_| is_own(world, trigger)).or(in_rehearsal(world)).map(Secret::new);
    own.ok_or_else(|| {
        Error::new(Reason::AuthMissing, format!("there is no token to start the pipeline of {} with", trigger.project))
            .hint("give `token: {env: NAME}`: a pipeline trigger token of that project (Settings > CI/CD > Pipeline trigger tokens)")
    })
}

/// Whether the server is this job's own: its tokens go nowhere else.
fn is_own(world: &World, trigger: &TriggerGitlab) -> bool {
    let own = world.vars.get("CI_SERVER_URL");
    trigger.host.as_deref().is_none_or(|host| own.is_some_and(|own| own.trim_end_matches('/') == host.trim_end_matches('/')))
}

/// The sandbox takes any token.
fn in_rehearsal(world: &World) -> Option<&'static str> {
    world.rehearsal.then_some("rehearsal-secret")
}

fn reader(world: &World, trigger: &TriggerGitlab) -> Result<Option<Secret>> {
    match &trigger.read_token {
        Some(named) => secret(world, &named.env, "the token that follows the pipeline").map(Some),
        // It may be a token of this project only: where nothing has to be followed it is left out.
        None => {
            Ok(world.vars.get("GITLAB_TOKEN").filter(|_| trigger.wait && is_own(world, trigger)).or(in_rehearsal(world)).map(Secret::new))
        }
    }
}

/// Starts it, and follows it where that was asked for.
pub async fn run(site: &Site<'_>, values: &Values, trigger: &TriggerGitlab) -> Result<Started> {
    let (vars, token) = (&site.world.vars, start_token(site.world, trigger)?);
    let reader = reader(site.world, trigger)?;
    for secret in reader.iter().chain([&token]) {
        site.world.console.mask(secret);
    }
    let host = match &trigger.host {
        Some(host) => site.fill(values, host)?,
        None => vars.get("CI_SERVER_URL").unwrap_or("https://gitlab.com").to_owned(),
    };
    let own = vars.get("CI_API_V4_URL").filter(|_| trigger.host.is_none()).map(str::to_owned);
    let base = own.unwrap_or_else(|| format!("{}/api/v4", host.trim_end_matches('/')));
    let base = site.world.detour.as_ref().map_or(base, |sandbox| format!("{sandbox}/gitlab/api/v4"));
    crate::targets::proof::safe(&base, "the address of GitLab")?;
    let header = reader.map(|token| ("private-token", token));
    let starter = Api { client: http::client(vars)?, clock: site.world.clock, base, name: "GitLab", header: None, more: &[] };
    let api = Api { client: starter.client.clone(), base: starter.base.clone(), header, ..starter };
    let (project, reference) = (site.fill(values, &trigger.project)?, site.fill(values, &trigger.r#ref)?);
    let is_job = vars.get("CI_JOB_TOKEN").is_some_and(|own| own == token.expose());
    let source = if is_job { "pipeline" } else { "trigger" };
    let start = Start { site, values, trigger, api, starter, project, reference, source };
    let pipeline = match start.resumed().await? {
        Some(pipeline) => pipeline,
        None => start.start(&token).await?,
    };
    start.followed(&pipeline).await
}

/// One start.
struct Start<'a> {
    site: &'a Site<'a>,
    values: &'a Values,
    trigger: &'a TriggerGitlab,
    api: Api,
    /// Starting is the trigger token's business alone.
    starter: Api,
    project: String,
    reference: String,
    /// How GitLab says who started it.
    source: &'static str,
}

impl Start<'_> {
    fn path(&self, rest: &str) -> String {
        format!("/projects/{}/{rest}", encode(&self.project))
    }

    fn can_read(&self) -> bool {
        self.api.header.is_some()
    }

    async fn resumed(&self) -> Result<Option<Going<'_>>> {
        let handle = self.site.memory.started().await;
        if let Some(id) = number_in(handle.as_deref(), PIPELINE) {
            self.site.say(&format!("the run before started pipeline {id} of {}", self.project));
            return Ok(Some(self.going(id, None)));
        }
        if number_in(handle.as_deref(), INTENT).is_some() {
            let sentence = format!("the run before was killed while it started the pipeline of {}: it may have been taken", self.project);
            return Err(lost(sentence).hint(MAYBE));
        }
        Ok(None)
    }

    /// Sends it once. A start whose answer was lost is looked for, never sent again.
    async fn start(&self, token: &Secret) -> Result<Going<'_>> {
        let before =
            if self.can_read() { self.newest().await?.first().and_then(|known| known.get("id")?.as_u64()).unwrap_or(0) } else { 0 };
        let mut form = vec![("token".to_owned(), token.expose().to_owned()), ("ref".to_owned(), self.reference.clone())];
        for (name, value) in &self.trigger.variables {
            let value = match value {
                TextOrSecret::Text(text) => self.site.fill(self.values, text)?,
                TextOrSecret::Secret(named) => secret(self.site.world, &named.env, &format!("the variable {name}"))?.expose().to_owned(),
            };
            form.push((format!("variables[{name}]"), value));
        }
        for (name, value) in &self.trigger.inputs {
            form.push((format!("inputs[{name}]"), self.site.fill(self.values, value)?));
        }
        self.site.memory.note_started(&format!("{INTENT}{before}")).await?; // without a journal nothing is started
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&form).finish();
        let typed = |request: reqwest::RequestBuilder| request.header("content-type", "application/x-www-form-urlencoded").body(body);
        let path = self.path("trigger/pipeline");
        let going = match unbroken(self.site, &self.project, self.starter.post(&path, typed)).await {
            Ok(answer) => {
                let answer = self.judge(answer)?;
                let id =
                    answer.number("/id").ok_or_else(|| Error::new(Reason::TriggerFailed, "GitLab took the start and names no pipeline"))?;
                self.going(id, answer.text("/web_url").map(str::to_owned))
            }
            Err(error) if error.lost && self.can_read() => {
                self.site.say("the answer was lost; looking whether a pipeline came of it");
                self.find(before).await?.ok_or_else(|| error.hint(MAYBE))?
            }
            Err(error) if error.lost => return Err(error.hint(MAYBE)),
            Err(error) => return Err(error),
        };
        self.site.note_started(&format!("{PIPELINE}{}", going.id)).await?;
        Ok(going)
    }

    async fn newest(&self) -> Result<Vec<Value>> {
        let path =
            self.path(&format!("pipelines?ref={}&source={}&order_by=id&sort=desc&per_page=20", encode(&self.reference), self.source));
        Ok(self.judge(self.api.get(&path).await?)?.body.as_array().cloned().unwrap_or_default())
    }

    /// The only new pipeline on that ref that was started as ours was.
    async fn find(&self, before: u64) -> Result<Option<Going<'_>>> {
        let clock = &self.site.world.clock;
        let (until, mut only) = (clock.now().saturating_add(LOOKING), None);
        loop {
            let listed = self.newest().await?;
            let new: Vec<u64> = listed.iter().filter_map(|known| known.get("id")?.as_u64()).filter(|id| *id > before).collect();
            match new.as_slice() {
                [one] if only == Some(*one) => return Ok(Some(self.going(*one, None))),
                [one] => only = Some(*one), // a second one may be on its way
                [] if clock.now() >= until => return Ok(None),
                [] => {}
                several => {
                    let sentence = format!(
                        "{} has {} new pipelines on {}: it cannot be said which is ours",
                        self.project,
                        several.len(),
                        self.reference
                    );
                    return Err(lost(sentence).hint("look at them, then run this again"));
                }
            }
            tokio::select! {
                () = clock.sleep(Duration::from_secs(2)) => {}
                () = self.site.world.cancel.cancelled() => return Err(begun(&self.project)),
            }
        }
    }

    fn going(&self, id: u64, url: Option<String>) -> Going<'_> {
        Going { start: self, id, url }
    }

    async fn followed(&self, pipeline: &Going<'_>) -> Result<Started> {
        let (run, url) = (Some(pipeline.id), pipeline.url.clone());
        if !self.trigger.wait {
            return Ok(Started { said: format!("{} is started", pipeline.name()), run, url });
        }
        self.site.say(&format!("{}{}", pipeline.name(), url.as_ref().map(|url| format!(": {url}")).unwrap_or_default()));
        let limits = Limits { timeout: self.trigger.timeout.0, on_cancel: self.trigger.on_cancel };
        Ok(Started { said: follow(self.site, pipeline, &limits).await?, run, url })
    }

    fn judge(&self, answer: Answer) -> Result<Answer> {
        let sentence = format!("GitLab answers {} about {}: {}", answer.status, self.project, answer.words);
        match answer.status {
            200..=299 => Ok(answer),
            400 | 422 => Err(Error::new(Reason::TriggerInput, sentence).hint(
                "is the ref there, do `workflow: rules` let triggered pipelines in, and does the pipeline know these inputs and variables?",
            )),
            401 | 403 => Err(Error::new(Reason::AuthDenied, sentence)
                .hint("a token that reads needs `read_api` and the role Reporter there, one that cancels `api`")),
            404 => Err(Error { gone: true, ..Error::new(Reason::AuthDenied, sentence) }.hint(
                "no such project, or the token is no pipeline trigger token of it (a personal access token is answered like this); \
                 a job's own token has to be let in: Settings > CI/CD > Job token permissions there",
            )),
            300..=399 => Err(Error::new(Reason::TriggerInput, format!("GitLab has {} at another place", self.project)).hint(
                "was the project moved or renamed? write its new path (its number never changes), and the server's own https address",
            )),
            status => Err(Error { lost: status >= 500 || status == 429, ..Error::new(Reason::TriggerFailed, sentence) }),
        }
    }
}

/// A pipeline that was started.
struct Going<'a> {
    start: &'a Start<'a>,
    id: u64,
    url: Option<String>,
}

#[async_trait::async_trait]
impl Pipeline for Going<'_> {
    fn name(&self) -> String {
        format!("pipeline {} of {}", self.id, self.start.project)
    }

    fn url(&self) -> Option<String> {
        self.url.clone()
    }

    async fn look(&self) -> Result<Seen> {
        let answer = self.start.judge(self.start.api.get(&self.start.path(&format!("pipelines/{}", self.id))).await?)?;
        let status = answer.text("/status").unwrap_or_default().to_owned();
        Ok(match status.as_str() {
            "success" => Seen::Well(format!("{} ended with success", self.name())),
            "failed" | "canceled" | "skipped" => {
                let sentence = format!("{} ended as {status}", self.name());
                Seen::Badly(Error::new(Reason::TriggerFailed, sentence).detail(self.failed_jobs().await))
            }
            "manual" => Seen::Going("waiting for somebody to start a manual job".into()),
            _going => Seen::Going(status.replace('_', " ")),
        })
    }

    async fn cancel(&self) -> bool {
        let path = self.start.path(&format!("pipelines/{}/cancel", self.id));
        self.start.api.post(&path, |request| request).await.is_ok_and(|answer| answer.is_success())
    }
}

impl Going<'_> {
    async fn failed_jobs(&self) -> Vec<String> {
        let path = self.start.path(&format!("pipelines/{}/jobs?scope[]=failed&per_page=20", self.id));
        let Ok(answer) = self.start.api.get(&path).await else { return Vec::new() };
        let text = |job: &Value, name: &str| job.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let named = |job: &Value| format!("job {:?}: {}", text(job, "name"), text(job, "failure_reason").replace('_', " "));
        answer.body.as_array().into_iter().flatten().map(named).collect()
    }
}
