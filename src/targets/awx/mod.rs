//! AWX: launches a job or workflow template once, follows it to its end, and takes its word only for what it was told to do.

use super::{Life, Settled, Site, Work, live};
use crate::config::{Awx, AwxKind, NameOrId, OnCancel, Rollback, secret_of, template::Values};
use crate::error::{Error, Reason, Result};
use crate::world::World;
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::time::Duration;

mod api;
mod job;
mod output;

#[cfg(any(test, fuzzing))]
pub(crate) use output::Heard;

use api::{Answer, Api, Paths};
use job::Job;

/// What the journal says before a launch.
const INTENT: &str = "launch after ";
/// How often a job whose launch was not answered is looked for, 2 s apart.
const LOOKS: u32 = 10;
/// The prompts that a template must have for what is sent, as AWX names them: field, prompt.
const PROMPTS: [(&str, &str); 7] = [
    ("limit", "ask_limit_on_launch"),
    ("job_tags", "ask_tags_on_launch"),
    ("skip_tags", "ask_skip_tags_on_launch"),
    ("inventory", "ask_inventory_on_launch"),
    ("credentials", "ask_credential_on_launch"),
    ("scm_branch", "ask_scm_branch_on_launch"),
    ("job_type", "ask_job_type_on_launch"),
];

/// Refuses a login that is not there, before anything is built.
pub fn check(world: &World, awx: &Awx) -> Result<()> {
    for name in crate::config::Target::Awx(Box::new(awx.clone())).secret_names() {
        super::secret(world, name, "a secret for AWX")?;
    }
    Ok(())
}

/// Launches, follows, and judges.
pub async fn deploy(site: &Site<'_>, work: &Work, awx: &Awx) -> Result<Settled> {
    live(&Launch::new(site, work, awx)?, Rollback::Never, site.world).await
}

/// The job of the delivery before, if it went well: what AWX deployed cannot be looked at.
pub async fn runs(site: &Site<'_>, work: &Work, awx: &Awx) -> Result<Option<Settled>> {
    let Some(launched) = Launched::parse(site.memory.started().await) else { return Ok(None) };
    let launch = Launch::new(site, work, awx)?;
    let job = launch.job(launched);
    let answer = job.read().await?;
    Ok((answer.text("/status") == Some("successful")).then(|| job.success()))
}

/// Whether the template is there and takes what it would be given. Launches nothing.
pub async fn look(site: &Site<'_>, work: &Work, awx: &Awx) -> Result<String> {
    // The image is nobody's yet.
    let values = super::with_images(&work.values, site.images.keys().map(|name| (name.as_str(), String::new(), String::new())));
    let launch = Launch { values, ..Launch::new(site, work, awx)? };
    let before = launch.read().await?;
    Ok(format!("the AWX {} template {} (number {}) takes what it would be given", launch.paths.word, launch.template, before.template))
}

/// What AWX made of a launch. A job template that is sliced becomes a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Launched {
    kind: AwxKind,
    id: u64,
}

impl Launched {
    /// From "job 42" or "workflow 50", as the journal has it.
    fn parse(handle: Option<String>) -> Option<Self> {
        let handle = handle?;
        let (word, id) = handle.split_once(' ')?;
        let kind = [AwxKind::Job, AwxKind::Workflow].into_iter().find(|kind| Paths::of(*kind).word == word)?;
        Some(Self { kind, id: id.parse().ok()? })
    }

    /// From the answer to a launch.
    fn of(answer: &Answer) -> Option<Self> {
        let of = |kind: AwxKind| Some(Self { kind, id: answer.number(&format!("/{}", Paths::of(kind).id))? });
        of(AwxKind::Workflow).or_else(|| of(AwxKind::Job))
    }
}

impl std::fmt::Display for Launched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", Paths::of(self.kind).word, self.id)
    }
}

struct Launch<'a> {
    site: &'a Site<'a>,
    awx: &'a Awx,
    values: Values,
    api: Api,
    paths: Paths,
    /// The template's name or number, with its placeholders filled.
    template: NameOrId,
}

/// What is launched, and what there was before.
struct Before {
    template: u64,
    request: Map<String, Value>,
    /// The number of the template's newest job.
    newest: u64,
}

impl Life for Launch<'_> {
    type Before = Before;
    type Started = Option<Launched>;

    async fn read(&self) -> Result<Before> {
        let request = self.request().await?;
        let organization = self.optional(self.awx.organization.as_deref())?;
        let template = self.api.id_of(self.paths.templates, &self.template, organization.as_deref()).await?;
        let path = format!("/api/v2/{}/{template}/launch/", self.paths.templates);
        let asks = self.api.get(&path).await?;
        self.preflight(template, &asks, &request).await?;
        let newest = self.newest(template, 1).await?.first().and_then(|job| job.get("id")?.as_u64()).unwrap_or(0);
        Ok(Before { template, request, newest })
    }

    async fn start(&self, before: &mut Before, started: &mut Option<Launched>) -> Result<()> {
        if let Some(launched) = Launched::parse(self.site.memory.started().await) {
            let state = self.job(launched).read().await?.text("/status").unwrap_or_default().to_owned();
            if !matches!(state.as_str(), "failed" | "error" | "canceled") {
                self.site.say(&format!("the run before started AWX {launched}: it is followed"));
                *started = Some(launched);
                return Ok(());
            }
        }
        if let Some(newest) = intent(self.site.memory.started().await) {
            // The run before was killed while it launched: whether AWX took it is seen by what is newer than all before.
            self.site.say("the run before may have launched it; looking");
            if let Some(id) = self.find(before, newest).await? {
                *started = Some(Launched { kind: self.awx.kind, id });
                return self.site.note_started(&format!("{} {id}", self.paths.word)).await;
            }
        }
        self.site.memory.note_started(&format!("{INTENT}{}", before.newest)).await?; // without a journal nothing is launched
        let (launched, ignored) = self.launch(before).await?;
        *started = Some(launched);
        let job = self.job(launched);
        self.site.say(&format!("AWX {launched} is launched: {}", job.page()));
        self.site.note_started(&launched.to_string()).await?;
        if !ignored.is_empty() {
            let what = format!("AWX ignored what it was given: {}; {launched} would deploy something else", ignored.join(", "));
            let stopped = job.cancel().await;
            return Err(Error::new(Reason::TargetInput, what).detail(vec![stopped]).hint(PROMPT_HINT));
        }
        Ok(())
    }

    async fn settle(&self, before: &Before, started: &Option<Launched>) -> Result<Settled> {
        let launched = started.ok_or_else(|| Error::new(Reason::Internal, "an AWX job that was not launched"))?;
        let job = self.job(launched);
        let answer = job.follow().await?;
        job.did_what_was_asked(&answer, &before.request)?;
        Ok(job.success())
    }

    fn has_changed(&self, _started: &Option<Launched>) -> bool {
        false // what a playbook did, only a playbook can undo
    }

    async fn back(&self, _before: &Before, _started: &Option<Launched>) -> Result<String> {
        Err(Error::new(Reason::Internal, "an AWX job cannot be taken back"))
    }

    async fn stop(&self, started: &Option<Launched>) -> Option<String> {
        let job = self.job((*started)?);
        Some(match self.awx.on_cancel {
            OnCancel::Cancel => job.cancel().await,
            OnCancel::Leave => format!("AWX {} goes on by itself (`on-cancel: leave`)", job.launched),
        })
    }
}

const PROMPT_HINT: &str = "switch `Prompt on launch` on for it in the template";

impl<'a> Launch<'a> {
    fn new(site: &'a Site<'a>, work: &Work, awx: &'a Awx) -> Result<Self> {
        let values = site.values(&work.values);
        let api = Api::open(site, &values, awx)?;
        let template = named(&values, site, &awx.template)?;
        Ok(Self { site, awx, values, api, paths: Paths::of(awx.kind), template })
    }

    fn job(&self, launched: Launched) -> Job<'_> {
        Job { site: self.site, awx: self.awx, api: &self.api, paths: Paths::of(launched.kind), template: &self.template, launched }
    }

    fn fill(&self, text: &str) -> Result<String> {
        self.site.fill(&self.values, text)
    }

    fn optional(&self, text: Option<&str>) -> Result<Option<String>> {
        text.map(|text| self.fill(text)).transpose()
    }

    fn name(&self, name: &NameOrId) -> Result<NameOrId> {
        named(&self.values, self.site, name)
    }

    /// What is sent: only what the configuration names, so that the template's own settings stay.
    async fn request(&self) -> Result<Map<String, Value>> {
        let awx = self.awx;
        let mut request = Map::new();
        if !awx.extra_vars.is_empty() {
            let mut extra = Map::new();
            for (name, value) in &awx.extra_vars {
                let value = match secret_of(value) {
                    Some(env) => json!(super::secret(self.site.world, env, &format!("the secret {name} for AWX"))?.expose()),
                    None => self.site.fill_json(&self.values, value)?,
                };
                extra.insert(name.clone(), value);
            }
            request.insert("extra_vars".into(), Value::Object(extra));
        }
        let lists = [("job_tags", &awx.tags), ("skip_tags", &awx.skip_tags)];
        for (field, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            let filled = list.iter().map(|text| self.fill(text)).collect::<Result<Vec<_>>>()?;
            request.insert(field.into(), json!(filled.join(",")));
        }
        for (field, text) in [("limit", &awx.limit), ("scm_branch", &awx.scm_branch)] {
            request.extend(self.optional(text.as_deref())?.map(|text| (field.to_owned(), json!(text))));
        }
        request.extend(awx.job_type.map(|kind| ("job_type".to_owned(), json!(kind.name()))));
        let organization = self.optional(awx.organization.as_deref())?;
        if let Some(inventory) = &awx.inventory {
            let id = self.api.id_of("inventories", &self.name(inventory)?, organization.as_deref()).await?;
            request.insert("inventory".into(), json!(id));
        }
        if !awx.credentials.is_empty() {
            let mut ids = Vec::new();
            for credential in &awx.credentials {
                ids.push(self.api.id_of("credentials", &self.name(credential)?, None).await?);
            }
            request.insert("credentials".into(), json!(ids));
        }
        Ok(request)
    }

    /// AWX drops what a template does not ask for, and deploys the old version without a word: refused before it is launched.
    async fn preflight(&self, template: u64, asks: &Answer, request: &Map<String, Value>) -> Result<()> {
        let name = format!("the AWX {} template {}", self.paths.word, self.template);
        let mut dropped: Vec<String> = Vec::new();
        for (field, prompt) in PROMPTS {
            if request.contains_key(field) && !asks.is(prompt) {
                dropped.push(field.to_owned());
            }
        }
        let own: Vec<&String> = request.get("extra_vars").and_then(Value::as_object).into_iter().flat_map(Map::keys).collect();
        if !own.is_empty() && !asks.is("ask_variables_on_launch") {
            let asked = if asks.is("survey_enabled") { self.survey(template).await? } else { Some(Vec::new()) };
            let unknown = |name: &&&String| asked.as_ref().is_some_and(|asked| !asked.contains(name));
            dropped.extend(own.iter().filter(unknown).map(|name| format!("extra_vars.{name}")));
        }
        if !dropped.is_empty() {
            return Err(Error::new(Reason::TargetInput, format!("{name} would ignore {}", dropped.join(", "))).hint(PROMPT_HINT));
        }
        let names = |field: &str| -> Vec<String> {
            let list = asks.body.get(field).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let missing: Vec<String> = names("variables_needed_to_start").into_iter().filter(|name| !own.contains(&name)).collect();
        if !missing.is_empty() {
            let sentence = format!("{name} needs the variables {}", missing.join(", "));
            return Err(Error::new(Reason::TargetInput, sentence).hint("give them under `extra-vars:`"));
        }
        let passwords = names("passwords_needed_to_start");
        if !passwords.is_empty() {
            let sentence = format!("{name} asks a person for {}", passwords.join(", "));
            return Err(Error::new(Reason::TargetInput, sentence).hint("store them in the credential instead of `Prompt on launch`"));
        }
        for (field, needed) in [("inventory", "inventory_needed_to_start"), ("credentials", "credential_needed_to_start")] {
            if asks.is(needed) && !request.contains_key(field) {
                return Err(Error::new(Reason::TargetInput, format!("{name} has no {field}")).hint(format!("give `{field}:`")));
            }
        }
        Ok(())
    }

    /// The variables of the survey; nothing where this user may not read it: then `ignored_fields` tells.
    async fn survey(&self, template: u64) -> Result<Option<Vec<String>>> {
        let answer = match self.api.get(&format!("/api/v2/{}/{template}/survey_spec/", self.paths.templates)).await {
            Err(error) if matches!(error.reason, Reason::AuthDenied | Reason::TargetMissing) => return Ok(None),
            answer => answer?,
        };
        let spec = answer.body.get("spec").and_then(Value::as_array).into_iter().flatten();
        Ok(Some(spec.filter_map(|question| question.get("variable")?.as_str().map(str::to_owned)).collect()))
    }

    /// The template's newest jobs, newest first.
    async fn newest(&self, template: u64, count: usize) -> Result<Vec<Value>> {
        let path = format!("/api/v2/{}/{template}/{}/?order_by=-id&page_size={count}", self.paths.templates, self.paths.jobs);
        Ok(self.api.get(&path).await?.body.pointer("/results").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// Launches once: where the answer was lost, the job is looked for, and nothing is launched a second time.
    async fn launch(&self, before: &Before) -> Result<(Launched, Vec<String>)> {
        let path = format!("/api/v2/{}/{}/launch/", self.paths.templates, before.template);
        let answer = self.api.once(Method::POST, &path, Some(&Value::Object(before.request.clone()))).await;
        let error = match answer {
            Ok(answer) if answer.status.is_server_error() => {
                let sentence = format!("AWX answers {} to the launch: {}", answer.status.as_u16(), answer.words());
                Error { lost: true, ..Error::new(Reason::TargetFailed, sentence) }
            }
            Ok(answer) => {
                let answer = self.api.judge(answer, &format!("POST {path}"))?;
                let launched = Launched::of(&answer);
                let launched = launched.ok_or_else(|| Error::new(Reason::TargetFailed, "AWX took the launch and names no job"))?;
                return Ok((launched, ignored(&answer)));
            }
            Err(error) => error,
        };
        if !error.lost {
            return Err(error);
        }
        self.site.say("the answer to the launch was lost; looking whether it was taken");
        match self.find(before, before.newest).await? {
            Some(id) => Ok((Launched { kind: self.awx.kind, id }, Vec::new())),
            None => Err(error.hint("no such job came within 20s: look at the template's jobs, then run this again")),
        }
    }

    /// The job of a launch whose answer was lost: newer than all before, with the very values that were sent.
    async fn find(&self, before: &Before, newest: u64) -> Result<Option<u64>> {
        for _look in 0..LOOKS {
            self.site.world.clock.sleep(Duration::from_secs(2)).await;
            let jobs = self.newest(before.template, 20).await?;
            let ours = jobs.iter().filter_map(|job| {
                let id = job.get("id")?.as_u64().filter(|id| *id > newest)?;
                is_of(job, &before.request).then_some(id)
            });
            match ours.collect::<Vec<_>>().as_slice() {
                [] => {}
                [one] => return Ok(Some(*one)),
                several => {
                    let sentence = format!("AWX has several new jobs with the same values ({several:?}): it cannot be said which is ours");
                    return Err(
                        Error { lost: true, ..Error::new(Reason::TargetFailed, sentence) }.hint("look at them, then run this again")
                    );
                }
            }
        }
        Ok(None)
    }
}

/// The number in "launch after 41", which is written down before a launch.
fn intent(handle: Option<String>) -> Option<u64> {
    handle?.strip_prefix(INTENT)?.parse().ok()
}

/// Whether a job was launched with all that was sent.
fn is_of(job: &Value, request: &Map<String, Value>) -> bool {
    let variables = request.get("extra_vars").cloned().unwrap_or_else(|| json!({}));
    let same = |field: &str| request.get(field).is_none_or(|sent| job.get(field) == Some(sent));
    differences(job, &variables).is_empty() && ["limit", "job_tags", "skip_tags", "inventory", "scm_branch"].into_iter().all(same)
}

fn named(values: &Values, site: &Site<'_>, name: &NameOrId) -> Result<NameOrId> {
    Ok(match name {
        NameOrId::Id(id) => NameOrId::Id(*id),
        NameOrId::Name(name) => NameOrId::Name(site.fill(values, name)?),
    })
}

/// What AWX was sent and did not take.
fn ignored(answer: &Answer) -> Vec<String> {
    let fields = answer.body.get("ignored_fields").and_then(Value::as_object).into_iter().flatten();
    let named = fields.filter(|(_, value)| !matches!(value, Value::Null) && value.as_object().is_none_or(|map| !map.is_empty()));
    named
        .flat_map(|(name, value)| match value.as_object() {
            Some(map) => map.keys().map(|key| format!("{name}.{key}")).collect(),
            None => vec![name.clone()],
        })
        .collect()
}

/// The names of extra variables that a job has with other values than were sent. AWX hides the values of secrets.
fn differences(job: &Value, wanted: &Value) -> Vec<String> {
    let has: Value = match job.get("extra_vars") {
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or(Value::Null),
        Some(other) => other.clone(),
        None => Value::Null,
    };
    let wanted = wanted.as_object().into_iter().flatten();
    let other = |name: &&String, value: &Value| {
        let there = has.get(name.as_str());
        there != Some(value) && there.and_then(Value::as_str) != Some("$encrypted$")
    };
    wanted.filter(|(name, value)| other(name, value)).map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_values_are_found_whatever_their_type() {
        let wanted = json!({"tag": "1.10", "secret": "x"});
        let job = |text: &str| json!({"extra_vars": text});
        assert!(differences(&job(r#"{"tag": "1.10", "secret": "$encrypted$", "more": 1}"#), &wanted).is_empty());
        assert_eq!(differences(&job(r#"{"tag": 1.1, "secret": "x"}"#), &wanted), ["tag"]);
        assert_eq!(differences(&job(""), &wanted), ["tag", "secret"]);
    }
}
