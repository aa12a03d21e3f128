//! The part of a plan around the switch: targets, what happens when one fails, and what a closed pull request
//! leaves behind. Pure.

use super::recipes::Builder;
use super::{Rollback, TargetRollback, TriggerWork, Work};
use crate::config::{self, Kubernetes, Migrate, MigrateWhen, Target, TextOrSecret, template};
use crate::context::Outcome;
use crate::error::{Error, Reason, Result};
use crate::targets::kubernetes::{self, Workload, is_dns_label};
use crate::targets::{self, System};
use serde_json::Value;

/// Placeholders that programs and webhooks are told of in any case.
pub(super) const ALWAYS: &str = "{project} {environment} {version} {tag} {sha}";

impl Builder<'_> {
    /// Backups and migrations before the switch, the targets one after another, migrations after it, then pipelines elsewhere.
    pub(super) fn switch(&mut self) -> Result<()> {
        let before = self.step_ids();
        let mut previous = self.before_the_switch(&before)?;
        let mut policies = Vec::new();
        for (index, target) in self.rules.deploy.iter().enumerate() {
            let Some((work, place)) = self.target(index, target)? else { continue }; // refused by config::refuse_unsupported
            let id = self.step_id("deploy", work.system.name());
            let (work, why) = self.with_rollback(work);
            policies.push(TargetRollback { id: id.clone(), policy: work.rollback, why });
            let title = format!("{} {place}", work.system.name());
            let after = before.iter().cloned().chain(previous.take()).collect();
            self.step(&id, title, after, Work::Target(Box::new(work)));
            previous = Some(id);
        }
        self.after_the_switch()?;
        if !policies.is_empty() && !self.plan.is_preview && !self.plan.images.is_empty() {
            let title =
                format!("spare {} from lifecycle rules, as {}", self.plan.version.as_deref().unwrap_or_default(), kept_tag(self.name));
            self.step("keep", title, self.step_ids(), Work::Keep);
        }
        if !policies.is_empty() {
            let goes_back = policies.iter().any(|policy| policy.policy == config::Rollback::Auto);
            let to = if goes_back { "what each target ran before" } else { "nowhere" };
            self.plan.rollback = Some(Rollback { to, targets: policies });
        }
        self.note_left_out();
        self.triggers()
    }

    /// Whoever wonders why something was not deployed finds the variable that was not set.
    fn note_left_out(&mut self) {
        let targets = self.rules.deploy.iter().map(|target| (format!("the target {}", target.name()), target.condition()));
        let triggers =
            self.rules.trigger.iter().map(|trigger| (format!("the trigger {}", self.shown(&[trigger.place()])), trigger.condition()));
        let unmet = targets.chain(triggers).filter(|(_, condition)| !self.is_met(*condition));
        let told = unmet.filter_map(|(what, condition)| Some(format!("{what}: the variable {}", condition?.unmet())));
        self.plan.left_out = told.collect();
    }

    /// Pipelines elsewhere are started side by side when everything here is done.
    fn triggers(&mut self) -> Result<()> {
        let after = self.step_ids();
        let rules = self.rules;
        for trigger in &rules.trigger {
            if !self.is_met(trigger.condition()) {
                continue;
            }
            let mut texts = every_text(trigger);
            self.check_filled(&texts)?;
            texts.push(ALWAYS.into());
            let id = self.step_id("trigger", trigger.name());
            let title = format!("start {}", self.shown(&[trigger.place()]));
            let values = self.values.used_by(texts.iter().map(String::as_str));
            self.step(&id, title, after.clone(), Work::Trigger(Box::new(TriggerWork { trigger: trigger.clone(), values })));
        }
        Ok(())
    }

    /// What each target of a closed pull request's preview has of it.
    pub(super) fn removals(&mut self) -> Result<()> {
        for (_index, work, place) in self.removable()? {
            self.removal(work, &place);
        }
        Ok(())
    }

    fn removal(&mut self, work: targets::Work, place: &str) {
        let id = self.step_id("remove", work.system.name());
        self.step(&id, format!("remove {place}"), vec!["lock".into()], Work::Remove(Box::new(work)));
    }

    /// The targets that have something of their own of a preview: each with its index among all, and where it is for people.
    pub(super) fn removable(&self) -> Result<Vec<(usize, targets::Work, String)>> {
        let mut found = Vec::new();
        for (index, target) in self.rules.deploy.iter().enumerate().filter(|(_, target)| target.is_removable()) {
            found.extend(self.target(index, target)?.map(|(work, place)| (index, work, place)));
        }
        Ok(found)
    }

    /// What targets have under names that tidegate.yml does not give any more.
    pub(super) fn removals_by_mark(&mut self, found: &[(usize, String)]) -> Result<()> {
        for (index, place) in found {
            let Some(target) = self.rules.deploy.get(*index) else { continue };
            let Some((work, _)) = self.target(*index, target)? else { continue };
            let Some(work) = targets::previews::at(&work, place) else { continue }; // the one that removals() names
            self.removal(work, place);
        }
        Ok(())
    }

    /// deploy.awx, then deploy.awx.2.
    fn step_id(&self, verb: &str, system: &str) -> String {
        let base = format!("{verb}.{system}");
        let is_free = |id: &String| self.plan.steps.iter().all(|step| step.id != *id);
        let numbered = (2..).map(|number| format!("{base}.{number}"));
        std::iter::once(base.clone()).chain(numbered).find(is_free).unwrap_or(base)
    }

    /// Resolves `rollback`: asked for, possible, and not forbidden by a migration.
    fn with_rollback(&self, work: targets::Work) -> (targets::Work, String) {
        let asked = work.rollback == config::Rollback::Auto;
        let breaks = |migrate: &Migrate| migrate.when == MigrateWhen::Before && !migrate.backward_compatible;
        let (policy, why) = match (&work.system, asked, self.rules.migrations().iter().any(breaks)) {
            (System::Awx(_), _, _) => (config::Rollback::Never, "only a playbook undoes what a playbook did"),
            (System::AppDeploy(_), _, _) => (config::Rollback::Never, "what the server did is its own"),
            (System::Webhook(_), _, _) => (config::Rollback::Never, "what the receiver did is its own"),
            (System::Command(command), _, _) if command.undo.is_empty() => (config::Rollback::Never, "no `undo` is given"),
            (_, false, _) => (config::Rollback::Never, "the default"),
            (_, true, true) => (config::Rollback::Never, "the version before may not work with the migrated database"),
            (System::Command(_), true, false) => (config::Rollback::Auto, "by its `undo`"),
            (System::Kubernetes(_) | System::Swarm(_) | System::Heroku(_) | System::Ecs(_), true, false) => {
                (config::Rollback::Auto, "to what ran before")
            }
        };
        (targets::Work { rollback: policy, ..work }, why.to_owned())
    }

    /// A target with its placeholders, and where it is for people.
    fn target(&self, index: usize, target: &Target) -> Result<Option<(targets::Work, String)>> {
        if !self.is_wanted(target) {
            return Ok(None);
        }
        let auto = |rollback: Option<config::Rollback>| rollback.unwrap_or(config::Rollback::Never);
        let (system, rollback, image, mut texts, place) = match target {
            Target::Kubernetes(kubernetes) => {
                let (work, place) = self.kubernetes(index, kubernetes)?;
                let edits = kubernetes.gitops.iter().flat_map(|gitops| {
                    let edits = gitops.edit.iter().flat_map(|edit| [edit.file.as_str(), edit.value.as_str()]);
                    edits.chain(std::iter::once(gitops.branch.as_str()))
                });
                let texts: Vec<String> = edits.map(str::to_owned).collect();
                (System::Kubernetes(Box::new(work)), auto(kubernetes.rollback), self.image_name(kubernetes.image.as_deref()), texts, place)
            }
            Target::Swarm(swarm) => {
                let texts: Vec<String> =
                    swarm.services.iter().chain(&swarm.host).chain(swarm.configs.values().map(|source| &source.file)).cloned().collect();
                let services = swarm.services.iter().map(|name| self.fill("deploy", name)).collect::<Result<Vec<_>>>()?;
                let at = swarm.host.as_ref().map(|host| self.fill("deploy", host)).transpose()?;
                let place = format!("{}: {}", at.unwrap_or_else(|| "at the engine at hand".into()), services.join(", "));
                let image = self.image_name(swarm.image.as_deref());
                (System::Swarm(swarm.clone()), auto(swarm.rollback), image, texts, place)
            }
            Target::Awx(awx) => {
                let host = self.fill("deploy", &awx.host)?;
                let place = format!("{host}: {}", self.fill("deploy", &awx.template.to_string())?);
                (System::Awx(awx.clone()), config::Rollback::Never, None, every_text(awx.as_ref()), place)
            }
            Target::Command(command) => {
                let command =
                    if self.removes() { Box::new(command.removal(|text| self.values.fill(text).is_ok())) } else { command.clone() };
                let (texts, shown) = (every_text(command.as_ref()), self.shown(&command.run));
                (System::Command(command), config::Rollback::Auto, None, texts, shown)
            }
            Target::Webhook(webhook) => {
                let texts = every_text(webhook.as_ref());
                let place = match &webhook.url {
                    TextOrSecret::Text(url) => targets::proof::shown(&self.values.fill(url).unwrap_or_else(|_later| url.clone())),
                    TextOrSecret::Secret(secret) => format!("the address in {}", secret.env),
                };
                (System::Webhook(webhook.clone()), config::Rollback::Never, None, texts, place)
            }
            Target::Heroku(heroku) => {
                let app = targets::heroku::app_name(&self.fill("deploy", &heroku.app)?);
                let processes = self.processes(heroku);
                let work = targets::heroku::Work { target: heroku.as_ref().clone(), app: app.clone(), processes, aws: self.aws() };
                (System::Heroku(Box::new(work)), auto(heroku.rollback), None, names_but_app(heroku.as_ref()), app)
            }
            Target::Ecs(ecs) => {
                let place = format!("{}/{}", self.fill("deploy", &ecs.cluster)?, self.fill("deploy", &ecs.service)?);
                (System::Ecs(ecs.clone()), auto(ecs.rollback), self.image_name(ecs.image.as_deref()), every_text(ecs.as_ref()), place)
            }
            Target::AppDeploy(app) => {
                let place = targets::proof::shown(&self.fill("deploy", &app.url)?);
                (System::AppDeploy(app.clone()), config::Rollback::Never, None, every_text(app.as_ref()), place)
            }
        };
        self.check_filled(&texts)?;
        match &system {
            System::Kubernetes(work) if !work.apply.is_empty() => texts.push(every_name(self.config)),
            System::Command(_) | System::Webhook(_) | System::AppDeploy(_) => texts.push(ALWAYS.into()),
            System::Heroku(_) => texts.push("{environment} {branch}".into()), // which layers of config vars are meant
            System::Ecs(ecs) if ecs.task_definition.is_some() => texts.push(every_name(self.config)),
            System::Kubernetes(_) | System::Swarm(_) | System::Awx(_) | System::Ecs(_) => {}
        }
        let mut values = self.values.used_by(texts.iter().map(String::as_str));
        if let System::Heroku(work) = &system {
            values.set("app", Some(work.app.clone()));
        }
        Ok(Some((targets::Work { system, rollback, image, values, aws: self.aws() }, place)))
    }

    fn removes(&self) -> bool {
        self.decision.outcome == Outcome::Remove
    }

    /// Whether anything of this environment runs anywhere.
    pub(super) fn has_targets(&self) -> bool {
        self.rules.deploy.iter().any(|target| self.is_wanted(target))
    }

    /// Whether the target's condition is met in this run.
    pub(super) fn is_wanted(&self, target: &Target) -> bool {
        self.is_met(target.condition())
    }

    /// Whether a pipeline elsewhere is told of an image.
    pub(super) fn is_sent(&self, image: &str) -> bool {
        let wanted = self.rules.trigger.iter().filter(|trigger| self.is_met(trigger.condition()));
        let names = [format!("image.{image}"), format!("digest.{image}")];
        wanted.flat_map(every_text).flat_map(|text| template::names(&text)).any(|name| names.contains(&name))
    }

    /// Whether a condition is met in this run.
    pub(super) fn is_met(&self, condition: Option<&config::Condition>) -> bool {
        condition.is_none_or(|condition| condition.is_met(self.values.get(&format!("var.{}", condition.var))))
    }

    /// A placeholder without a value is known before anything is built. Images get theirs later.
    /// What is over has no version: what only a delivery needs is not asked for.
    pub(super) fn check_filled(&self, texts: &[String]) -> Result<()> {
        if self.removes() {
            return Ok(());
        }
        let later = |name: &String| name.starts_with("image.") || name.starts_with("digest.");
        for name in texts.iter().flat_map(|text| template::names(text)).filter(|name| !later(name)) {
            self.fill("deploy", &format!("{{{name}}}"))?;
        }
        Ok(())
    }

    /// A command for people; what is not known yet stays as it is written.
    pub(super) fn shown(&self, argv: &[String]) -> String {
        let words: Vec<String> = argv.iter().map(|word| self.values.fill(word).unwrap_or_else(|_later| word.clone())).collect();
        crate::tools::console::cut(&words.join(" "), 80)
    }

    /// Process types and the images they run: `web` runs the only one when nothing is said.
    pub(super) fn processes(&self, heroku: &config::Heroku) -> Vec<(String, String)> {
        if heroku.processes.is_empty() {
            return self.config.images.keys().next().map(|image| ("web".to_owned(), image.clone())).into_iter().collect();
        }
        heroku.processes.iter().map(|(process, image)| (process.clone(), image.clone())).collect()
    }

    pub(super) fn image_name(&self, named: Option<&str>) -> Option<String> {
        named.map(str::to_owned).or_else(|| self.config.images.keys().next().cloned())
    }

    fn kubernetes(&self, index: usize, target: &Kubernetes) -> Result<(kubernetes::Work, String)> {
        let namespace = self.namespace(&format!("deploy[{index}].kubernetes"), &target.namespace)?;
        let workloads = target.workloads.iter().map(|workload| self.workload(workload)).collect::<Result<Vec<_>>>()?;
        let apply = target.apply.iter().map(|glob| self.fill("deploy", glob)).collect::<Result<Vec<_>>>()?;
        let place = match (&target.context, &target.cluster) {
            (Some(place), _) | (None, Some(place)) => format!("{place}/{namespace}"),
            (None, None) => namespace.clone(),
        };
        let named: Vec<String> = workloads.iter().map(Workload::to_string).collect();
        let how = match (&target.gitops, apply.as_slice()) {
            (Some(gitops), _) => format!(" by a {} to {}", if gitops.pull_request { "pull request" } else { "commit" }, gitops.repository),
            (None, []) => String::new(),
            (None, globs) => format!(" with {}", globs.join(", ")),
        };
        let work = kubernetes::Work { target: target.clone(), namespace, workloads, apply, aws: self.aws() };
        Ok((work, format!("{place}: {}{how}", named.join(", "))))
    }

    pub(super) fn workload(&self, text: &str) -> Result<Workload> {
        Workload::parse(&self.fill("deploy", text)?).map_err(|why| Error::new(Reason::InputInvalid, why))
    }

    pub(super) fn namespace(&self, path: &str, text: &str) -> Result<String> {
        let namespace = self.fill("deploy", text)?;
        if is_dns_label(&namespace) {
            return Ok(namespace);
        }
        // A preview is named after a branch, which may be longer: cut, with a hash. Other names are mistakes.
        let cut = crate::version::slug(&namespace, 63);
        if self.plan.is_preview && is_dns_label(&cut) {
            return Ok(cut);
        }
        let path = format!("environments.{}.{path}.namespace", self.name);
        let message = format!("{namespace:?} cannot be a namespace");
        let hint = "at most 63 lower-case letters, digits and dashes: look at the values of this run";
        Err(self.loaded.error(Reason::InputInvalid, vec![(path, message, hint.into())]))
    }
}

/// The tag of what runs in an environment.
pub fn kept_tag(environment: &str) -> String {
    format!("env-{environment}")
}

/// Every text of a part of the configuration.
pub(super) fn every_text(part: &impl serde::Serialize) -> Vec<String> {
    let value = serde_json::to_value(part).unwrap_or(Value::Null);
    template::texts(&value).into_iter().map(str::to_owned).collect()
}

/// Every placeholder of a part of the configuration but `{app}`, which gets its value there.
fn names_but_app(part: &impl serde::Serialize) -> Vec<String> {
    let names = every_text(part).into_iter().flat_map(|text| template::names(&text));
    names.filter(|name| name != "app").map(|name| format!("{{{name}}}")).collect()
}

/// A text that uses every placeholder that a manifest may use: not those that differ from run to run of the same delivery.
pub(super) fn every_name(config: &config::Config) -> String {
    let variables = config.variables.keys().map(|name| format!("{{var.{name}}}"));
    let fixed = template::NAMES.iter().filter(|name| !matches!(**name, "actor" | "run_url")).map(|name| format!("{{{name}}}"));
    fixed.chain(variables).collect()
}
