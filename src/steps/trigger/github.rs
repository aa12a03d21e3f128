//! GitHub: a workflow by `workflow_dispatch`, or an event by `repository_dispatch`.
//!
//! Newer servers answer a dispatch with its run; where they do not, the run is told from others by an id that it shows, or by
//! being the only new one. <https://docs.github.com/rest/actions/workflows#create-a-workflow-dispatch-event>

use super::follow::{Limits, Pipeline, follow};
use super::github_run::Run;
use super::{INTENT, LOOKING, MAYBE, Started, begun, id_of, lost, number_in, unbroken};
use crate::config::{TriggerGithub, template::Values};
use crate::error::{Error, Reason, Result};
use crate::forge::github::{self, Answer, GitHub, encode};
use crate::targets::{Site, secret};
use crate::tools::secret::Secret;
use crate::tools::wait::Backoff;
use crate::world::World;
use http::Method;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// GitHub takes no more characters of inputs, and no more bytes of payload.
const SIZE_LIMIT: usize = 65_535;
/// How many pages of workflows or runs are read.
const PAGES: u32 = 50;
const RUN: &str = "run ";

/// Refuses a token that is not there.
pub fn check(world: &World, trigger: &TriggerGithub) -> Result<()> {
    token(world, trigger).map(drop)
}

fn token(world: &World, trigger: &TriggerGithub) -> Result<Secret> {
    if let Some(named) = &trigger.token {
        return secret(world, &named.env, "the token for the repository downstream");
    }
    let own = github::token(&world.vars).map(Secret::new);
    own.ok_or_else(|| {
        Error::new(Reason::AuthMissing, format!("there is no token to start {} with", trigger.repository))
            .hint("give `token: {env: NAME}` in the trigger: it needs `actions: write` there (for an event `contents: write`)")
    })
}

/// Starts it, and follows it where that was asked for.
pub async fn run(site: &Site<'_>, values: &Values, trigger: &TriggerGithub) -> Result<Started> {
    let repository = site.fill(values, &trigger.repository)?;
    let token = token(site.world, trigger)?;
    site.world.console.mask(&token);
    let vars = &site.world.vars;
    let api = site.world.detour.as_ref().map_or_else(|| github::api(vars).to_owned(), |sandbox| format!("{sandbox}/github"));
    let github = GitHub::new(vars, &api, &token, &repository, site.world.clock)?;
    let id = id_of(site.memory, site.step).await;
    let dispatch = Dispatch { site, values, trigger, github, repository, id };
    match &trigger.event {
        Some(event) => dispatch.event(event).await,
        None => dispatch.workflow(trigger.workflow.as_deref().unwrap_or_default()).await,
    }
}

/// One start.
struct Dispatch<'a> {
    site: &'a Site<'a>,
    values: &'a Values,
    trigger: &'a TriggerGithub,
    github: GitHub,
    repository: String,
    /// What tells this start from all others.
    id: String,
}

/// A workflow as GitHub addresses it.
struct Workflow {
    /// Its file's name, or its number.
    address: String,
    name: String,
}

/// The runs that may be ours.
enum Found {
    Nothing,
    One(u64),
    Several(usize),
}

/// What came of a start.
enum Begun<'a> {
    Run(Run<'a>),
    /// A run whose number nobody has to know; one sentence.
    Some(String),
}

/// Where a run is looked for.
struct Place<'a> {
    workflow: &'a Workflow,
    event: &'static str,
    /// The branch or tag.
    branch: Option<String>,
    /// The newest run before.
    before: u64,
}

impl Dispatch<'_> {
    async fn workflow(&self, named: &str) -> Result<Started> {
        let named = self.site.fill(self.values, named)?;
        let default = self.default_branch().await?;
        let workflow = self.resolve(&named).await?;
        let reference = match &self.trigger.r#ref {
            Some(reference) => self.site.fill(self.values, reference)?,
            None => default,
        };
        let mut inputs = Map::new();
        for (name, value) in &self.trigger.inputs {
            inputs.insert(name.clone(), json!(self.site.fill(self.values, value)?));
        }
        inputs.extend(self.trigger.correlate.clone().map(|name| (name, json!(self.id))));
        let size: usize = inputs.iter().map(|(name, value)| name.len() + value.as_str().map_or(0, |text| text.chars().count())).sum();
        if size > SIZE_LIMIT {
            return Err(self.input(format!("the inputs for {} have {size} characters, and GitHub takes {SIZE_LIMIT}", workflow.name)));
        }
        let bare = ["refs/heads/", "refs/tags/"].iter().find_map(|prefix| reference.strip_prefix(prefix)).unwrap_or(&reference).to_owned();
        let mut place = Place { workflow: &workflow, event: "workflow_dispatch", branch: Some(bare), before: 0 };
        let body = json!({"ref": reference, "inputs": inputs, "return_run_details": true});
        let path = format!("/actions/workflows/{}/dispatches", encode(&workflow.address));
        let run = match self.resumed(&mut place).await? {
            Some(run) => Begun::Run(run),
            None => self.start(&path, body, &mut place).await?,
        };
        self.followed(&run).await
    }

    /// The answer names no run, and what it starts is the other repository's business.
    async fn event(&self, event: &str) -> Result<Started> {
        let event = self.site.fill(self.values, event)?;
        self.default_branch().await?;
        let mut payload = Map::new();
        for (name, value) in &self.trigger.payload {
            payload.insert(name.clone(), self.site.fill_json(self.values, value)?);
        }
        payload.extend(self.trigger.correlate.clone().map(|name| (name, json!(self.id))));
        let size = Value::Object(payload.clone()).to_string().len();
        if size > SIZE_LIMIT || event.chars().count() > 100 {
            let what = if size > SIZE_LIMIT {
                format!("its payload has {size} bytes, and GitHub takes {SIZE_LIMIT}")
            } else {
                "its type is longer than 100 characters".into()
            };
            return Err(self.input(format!("the event for {} cannot be sent: {what}", self.repository)));
        }
        let body = json!({"event_type": event, "client_payload": payload});
        let Some(named) = &self.trigger.workflow else {
            if self.site.memory.started().await.is_some() {
                let sentence =
                    format!("the run before was killed while it sent the event {event} to {}: it may have been taken", self.repository);
                return Err(lost(sentence).hint("look at the runs there, then run this again, which sends it once more"));
            }
            self.site.memory.note_started(&format!("{INTENT}an event")).await?;
            self.send("/dispatches", &body, "contents: write").await?;
            let said = format!("{} took the event {event}; which workflows it starts is not known here", self.repository);
            return Ok(Started { said, run: None, url: None });
        };
        let workflow = self.resolve(&self.site.fill(self.values, named)?).await?;
        let mut place = Place { workflow: &workflow, event: "repository_dispatch", branch: None, before: 0 };
        let run = match self.resumed(&mut place).await? {
            Some(run) => Begun::Run(run),
            None => self.start("/dispatches", body, &mut place).await?,
        };
        self.followed(&run).await
    }

    fn input(&self, sentence: String) -> Error {
        Error::new(Reason::TriggerInput, sentence)
    }

    /// Whether the token reaches the repository at all is known before anything is started.
    async fn default_branch(&self) -> Result<String> {
        let answer = self.github.call(Method::GET, "", None).await?;
        let answer = self.judge(answer, "metadata: read")?;
        Ok(answer.text("/default_branch").unwrap_or_else(|| "main".into()))
    }

    /// By file, number or exact name.
    async fn resolve(&self, named: &str) -> Result<Workflow> {
        let file = named.rsplit('/').next().unwrap_or(named);
        let is_file = [".yml", ".yaml"].iter().any(|ending| file.ends_with(ending));
        let is_number = !named.is_empty() && named.bytes().all(|byte| byte.is_ascii_digit());
        if is_file || is_number {
            let address = if is_file { file } else { named };
            let answer = self.github.call(Method::GET, &format!("/actions/workflows/{}", encode(address)), None).await?;
            if answer.status != 404 {
                return self.usable(&self.judge(answer, "actions: read")?.body);
            }
        }
        let all = self.workflows().await?;
        let name = |workflow: &Value| workflow.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let found: Vec<&Value> = all.iter().filter(|workflow| !is_file && name(workflow) == named).collect();
        match found.as_slice() {
            [one] => self.usable(one),
            [] => {
                let names: Vec<String> = all.iter().map(name).collect();
                let near = crate::config::problem::did_you_mean(named, names.iter().map(String::as_str));
                let hint = near.map_or_else(
                    || format!("it has {}", crate::tools::console::cut(&names.join(", "), 300)),
                    |near| format!("did you mean {near:?}?"),
                );
                Err(self.input(format!("{} has no workflow {named:?}", self.repository)).hint(hint))
            }
            several => {
                let sentence = format!("{} has {} workflows named {named:?}", self.repository, several.len());
                Err(self.input(sentence).hint("name it by its file"))
            }
        }
    }

    async fn workflows(&self) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        for page in 1..=PAGES {
            let answer = self.github.call(Method::GET, &format!("/actions/workflows?per_page=100&page={page}"), None).await?;
            let answer = self.judge(answer, "actions: read")?;
            all.extend(answer.body.pointer("/workflows").and_then(Value::as_array).into_iter().flatten().cloned());
            if !answer.has_next_page() {
                break;
            }
        }
        Ok(all)
    }

    fn usable(&self, workflow: &Value) -> Result<Workflow> {
        let text = |name: &str| workflow.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = workflow.get("id").and_then(Value::as_u64).unwrap_or_default().to_string();
        let file = text("path").strip_prefix(".github/workflows/").map(str::to_owned);
        if text("state") != "active" {
            let sentence = format!("the workflow {} of {} is {}", text("name"), self.repository, text("state").replace('_', " "));
            return Err(self.input(sentence).hint("somebody with write access has to enable it, on its page under Actions"));
        }
        Ok(Workflow { address: file.unwrap_or(number), name: text("name") })
    }

    /// What the run before started, or may have started.
    async fn resumed(&self, place: &mut Place<'_>) -> Result<Option<Run<'_>>> {
        let handle = self.site.memory.started().await;
        if let Some(id) = number_in(handle.as_deref(), RUN) {
            self.site.say(&format!("the run before started run {id} of {}: it is followed", self.repository));
            return Ok(Some(self.found(id)));
        }
        if let Some(before) = number_in(handle.as_deref(), INTENT) {
            self.site.say("the run before may have started it; looking");
            place.before = before;
            // Much may have been started since: only an id tells which is ours.
            let found = if self.trigger.correlate.is_some() { self.one(place).await? } else { None };
            let sentence = format!(
                "the run before was killed while it started {} of {}: it may have been taken",
                place.workflow.name, self.repository
            );
            return found.map(|id| Some(self.found(id))).ok_or_else(|| lost(sentence).hint(MAYBE));
        }
        place.before = self.runs(place, 1).await?.first().and_then(|run| run.get("id")?.as_u64()).unwrap_or(0);
        Ok(None)
    }

    /// Sends it once. A start whose answer was lost is looked for, never sent again.
    async fn start(&self, path: &str, mut body: Value, place: &mut Place<'_>) -> Result<Begun<'_>> {
        self.site.memory.note_started(&format!("{INTENT}{}", place.before)).await?; // without a journal nothing is started
        let permission = if place.event == "repository_dispatch" { "contents: write" } else { "actions: write" };
        let mut sent = self.send(path, &body, permission).await;
        if sent.as_ref().is_err_and(|error| error.reason == Reason::TriggerInput && error.sentence.contains("return_run_details"))
            && let Some(fields) = body.as_object_mut()
        {
            fields.remove("return_run_details"); // a server that does not know it yet
            sent = self.send(path, &body, permission).await;
        }
        let unanswered = match sent {
            Ok(answer) => match answer.body.pointer("/workflow_run_id").and_then(Value::as_u64) {
                Some(id) => return self.noted(self.found(id)).await.map(Begun::Run),
                None => None,
            },
            Err(error) if error.lost => {
                self.site.say("the answer was lost; looking whether a run came of it");
                Some(error)
            }
            Err(error) => return Err(error),
        };
        match self.find(place).await? {
            Found::One(id) => self.noted(self.found(id)).await.map(Begun::Run),
            // It was taken and runs came of it: nobody has to know which is ours.
            Found::Several(count) if !self.trigger.wait && unanswered.is_none() => {
                Ok(Begun::Some(format!("{} of {} is started; it is one of {count} new runs", place.workflow.name, self.repository)))
            }
            Found::Several(count) => Err(self.undecided(place, count)),
            Found::Nothing => Err(unanswered.unwrap_or_else(|| {
                let sentence = format!("GitHub took the start of {} in {}, and no run came of it", place.workflow.name, self.repository);
                Error::new(Reason::TriggerFailed, sentence)
                    .hint("look at the repository's runs: does something filter it, as `if:` or a concurrency group?")
            })),
        }
    }

    async fn noted<'r>(&self, run: Run<'r>) -> Result<Run<'r>> {
        self.site.note_started(&format!("{RUN}{}", run.id)).await?;
        Ok(run)
    }

    async fn send(&self, path: &str, body: &Value, permission: &str) -> Result<Answer> {
        let asked = self.github.call(Method::POST, path, Some(body));
        let answer = unbroken(self.site, &self.repository, asked).await.map_err(|error| {
            let reason = if error.reason == Reason::ForgeFailed { Reason::TriggerFailed } else { error.reason };
            let error = Error { reason, ..error };
            if error.lost { error.hint(MAYBE) } else { error }
        })?;
        self.judge(answer, permission)
    }

    /// A run that is ours: by the id that it shows, or as the only new one at two looks.
    async fn find(&self, place: &Place<'_>) -> Result<Found> {
        let clock = &self.site.world.clock;
        let until = clock.now().saturating_add(LOOKING);
        let mut pauses = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let mut only: Option<u64> = None;
        loop {
            let mut found = Vec::new();
            for run in self.runs(place, 100).await? {
                let id = run.get("id").and_then(Value::as_u64).unwrap_or(0);
                if id > place.before && self.is_ours(&run, place) {
                    found.push(id);
                }
            }
            match found.as_slice() {
                [] => {}
                [one] if self.trigger.correlate.is_some() || only == Some(*one) => return Ok(Found::One(*one)),
                [one] => only = Some(*one), // a second one may be on its way
                several => return Ok(Found::Several(several.len())),
            }
            if clock.now() >= until {
                return Ok(only.map_or(Found::Nothing, Found::One));
            }
            tokio::select! {
                () = clock.sleep(pauses.pause()) => {}
                () = self.site.world.cancel.cancelled() => return Err(begun(&self.repository)),
            }
        }
    }

    /// The only run that is ours, if there is one.
    async fn one(&self, place: &Place<'_>) -> Result<Option<u64>> {
        match self.find(place).await? {
            Found::Nothing => Ok(None),
            Found::One(id) => Ok(Some(id)),
            Found::Several(count) => Err(self.undecided(place, count)),
        }
    }

    fn undecided(&self, place: &Place<'_>, count: usize) -> Error {
        let sentence = format!("{} has {count} new runs of {}: it cannot be said which is ours", self.repository, place.workflow.name);
        lost(sentence).hint("let the workflow show an id in its `run-name:`, and name the input that takes it by `correlate:`")
    }

    fn is_ours(&self, run: &Value, place: &Place<'_>) -> bool {
        let text = |name: &str| run.get(name).and_then(Value::as_str).unwrap_or_default();
        match &self.trigger.correlate {
            Some(_) => text("display_title").contains(&self.id) || text("name").contains(&self.id),
            None => place.branch.as_deref().is_none_or(|branch| text("head_branch") == branch),
        }
    }

    async fn runs(&self, place: &Place<'_>, count: u32) -> Result<Vec<Value>> {
        let path = format!("/actions/workflows/{}/runs?event={}&per_page={count}", encode(&place.workflow.address), place.event);
        let answer = self.judge(self.github.call(Method::GET, &path, None).await?, "actions: read")?;
        Ok(answer.body.pointer("/workflow_runs").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    fn found(&self, id: u64) -> Run<'_> {
        let event = if self.trigger.event.is_some() { "repository_dispatch" } else { "workflow_dispatch" };
        Run { github: &self.github, id, url: self.page(id), name: self.repository.clone(), event }
    }

    fn page(&self, id: u64) -> String {
        let server = self.site.world.vars.get("GITHUB_SERVER_URL").unwrap_or("https://github.com");
        format!("{server}/{}/actions/runs/{id}", self.repository)
    }

    async fn followed(&self, begun: &Begun<'_>) -> Result<Started> {
        let run = match begun {
            Begun::Run(run) => run,
            Begun::Some(said) => return Ok(Started { said: said.clone(), run: None, url: None }),
        };
        let (id, url) = (Some(run.id), Some(run.url.clone()));
        if !self.trigger.wait {
            return Ok(Started { said: format!("{} is started", run.name()), run: id, url });
        }
        self.site.say(&format!("{}: {}", run.name(), run.url));
        let limits = Limits { timeout: self.trigger.timeout.0, on_cancel: self.trigger.on_cancel };
        Ok(Started { said: follow(self.site, run, &limits).await?, run: id, url })
    }

    /// A success, or what is wrong: the run's own token reaches its own repository only.
    fn judge(&self, answer: Answer, permission: &str) -> Result<Answer> {
        let said = answer.text("/message").unwrap_or_else(|| format!("status {}", answer.status));
        let sentence = format!("GitHub answers {} about {}: {said}", answer.status, self.repository);
        match answer.status {
            200..=299 => Ok(answer),
            403 | 429 if answer.rate_limited().is_some() => Err(limited(sentence)),
            401 => Err(Error::new(Reason::AuthExpired, sentence).hint("the token for the repository downstream has expired, or is none")),
            403 | 404 => {
                let own = if self.trigger.token.is_none() {
                    "the run's own token reaches its own repository only: give `token: {env: NAME}`; it"
                } else {
                    "the token"
                };
                Err(Error { gone: answer.status == 404, ..Error::new(Reason::AuthDenied, sentence) }
                    .hint(format!("{own} needs `{permission}` there")))
            }
            422 => {
                let hint = if said.contains("workflow_dispatch") {
                    "add `on: {workflow_dispatch: {inputs: …}}` to it, on the branch that is named"
                } else {
                    "look at the workflow's `inputs:` and at the branch (GitHub Enterprise Server takes 10 inputs)"
                };
                Err(self.input(sentence).hint(hint))
            }
            status => Err(Error { lost: status >= 500, ..Error::new(Reason::TriggerFailed, sentence) }),
        }
    }
}

/// A limit passes by itself.
fn limited(sentence: String) -> Error {
    lost(sentence).hint("GitHub limits requests per token and hour")
}
