//! Rules of `trigger:` that go across keys.

use super::check::Checker;
use super::{Condition, TextOrSecret, Trigger, TriggerGithub, TriggerGitlab, TriggerTravis};

/// GitHub takes so many inputs, and so many keys of a payload.
const INPUTS: usize = 25;
const PAYLOAD: usize = 10;

impl Checker<'_> {
    pub(super) fn trigger(&mut self, path: &str, trigger: &Trigger) {
        if let Some(condition) = trigger.condition() {
            self.variable_named(&format!("{path}.{}.if.var", trigger.name()), &condition.var);
        }
        match trigger {
            Trigger::Github(github) => self.trigger_github(&format!("{path}.github"), github),
            Trigger::Gitlab(gitlab) => self.trigger_gitlab(&format!("{path}.gitlab"), gitlab),
            Trigger::Travis(travis) => self.trigger_travis(&format!("{path}.travis"), travis),
        }
    }

    fn trigger_github(&mut self, path: &str, github: &TriggerGithub) {
        self.repository(&format!("{path}.repository"), &github.repository);
        self.timeout(path, github.timeout);
        for (key, text) in [("workflow", &github.workflow), ("ref", &github.r#ref), ("event", &github.event)] {
            self.late_placeholders(&format!("{path}.{key}"), text.as_deref().unwrap_or_default());
        }
        for (name, value) in &github.inputs {
            self.late_placeholders(&format!("{path}.inputs.{name}"), value);
        }
        for (name, value) in &github.payload {
            self.json(&format!("{path}.payload.{name}"), value);
        }
        let (kind, fields, limit) = match (&github.event, &github.workflow) {
            (None, None) => {
                self.report(path, "nothing says what is started", "add `workflow:` (its file, name or number), or `event:`");
                return;
            }
            (Some(_), _) => ("payload", github.payload.len(), PAYLOAD),
            (None, Some(_)) => ("inputs", github.inputs.len(), INPUTS),
        };
        let fields = fields + usize::from(github.correlate.is_some());
        if fields > limit {
            self.report(
                &format!("{path}.{kind}"),
                format!("{fields} are more than GitHub takes"),
                format!("at most {limit}, `correlate` included"),
            );
        }
        match &github.event {
            Some(_) if !github.inputs.is_empty() => {
                self.report(&format!("{path}.inputs"), "an event has no inputs", "write them under `payload:`")
            }
            Some(_) if github.r#ref.is_some() => self.report(&format!("{path}.ref"), "an event runs on the default branch", "remove it"),
            Some(event) if event.chars().count() > 100 => {
                self.report(&format!("{path}.event"), "GitHub takes 100 characters", "use a shorter one")
            }
            Some(_) if github.wait && github.workflow.is_none() => {
                let hint = "add `workflow:` with the file of the workflow that the event starts";
                self.report(&format!("{path}.wait"), "an event names no run, so none can be followed", hint);
            }
            None if !github.payload.is_empty() => {
                self.report(&format!("{path}.payload"), "a workflow has no payload", "write it under `inputs:`")
            }
            Some(_) | None => {}
        }
        let by_hand = |name: &String| github.inputs.contains_key(name) || github.payload.contains_key(name);
        if let Some(name) = github.correlate.as_ref().filter(|name| by_hand(name)) {
            self.report(
                &format!("{path}.correlate"),
                format!("{name:?} has a value already, and tidegate sets it"),
                "take it out of the others",
            );
        }
    }

    fn trigger_gitlab(&mut self, path: &str, gitlab: &TriggerGitlab) {
        if let Some(host) = &gitlab.host {
            self.address(&format!("{path}.host"), host);
        }
        self.timeout(path, gitlab.timeout);
        for (key, text) in [("project", &gitlab.project), ("ref", &gitlab.r#ref)] {
            self.late_placeholders(&format!("{path}.{key}"), text);
            if text.trim().is_empty() {
                self.report(&format!("{path}.{key}"), "it is empty", "name the project by its path, and a branch or tag of it");
            }
        }
        for (name, value) in &gitlab.inputs {
            self.late_placeholders(&format!("{path}.inputs.{name}"), value);
        }
        let variables = gitlab.variables.iter().map(|(name, value)| (name, value.text()));
        self.started_with(&format!("{path}.variables"), variables);
    }

    fn trigger_travis(&mut self, path: &str, travis: &TriggerTravis) {
        if let Some(host) = &travis.host {
            self.address(&format!("{path}.host"), host);
        }
        self.timeout(path, travis.timeout);
        self.repository(&format!("{path}.repository"), &travis.repository);
        for (key, text) in [("branch", Some(&travis.branch)), ("sha", travis.sha.as_ref()), ("message", travis.message.as_ref())] {
            self.late_placeholders(&format!("{path}.{key}"), text.map_or("", String::as_str));
        }
        self.started_with(&format!("{path}.env"), travis.env.iter().map(|(name, text)| (name, text.as_str())));
    }

    fn repository(&mut self, path: &str, repository: &str) {
        self.late_placeholders(path, repository);
        let parts: Vec<&str> = repository.split('/').collect();
        let is_whole = repository.starts_with('{') && parts.len() == 1;
        if !is_whole && (parts.len() != 2 || parts.iter().any(|part| part.is_empty())) {
            self.report(path, format!("{repository:?} is not a repository"), "write it as owner/name");
        }
    }

    /// Variables of something that is started.
    fn started_with<'v>(&mut self, path: &str, variables: impl Iterator<Item = (&'v String, &'v str)>) {
        for (name, text) in variables {
            self.late_placeholders(&format!("{path}.{name}"), text);
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                self.report(&format!("{path}.{name}"), format!("{name:?} cannot name a variable"), "use letters, digits and _");
            }
        }
    }
}

/// The first rule that a trigger breaks which stands in no file: what is wrong, and what to do.
pub fn check_alone(trigger: &Trigger) -> Option<(String, String)> {
    super::check::alone(|checker| checker.trigger("", trigger))
}

impl Trigger {
    /// Its key in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Github(_) => "github",
            Self::Gitlab(_) => "gitlab",
            Self::Travis(_) => "travis",
        }
    }

    /// What is started, for people.
    pub fn place(&self) -> String {
        match self {
            Self::Github(github) => match (&github.event, &github.workflow) {
                (Some(event), _) => format!("{} by the event {event}", github.repository),
                (None, workflow) => format!("{} of {}", workflow.as_deref().unwrap_or("a workflow"), github.repository),
            },
            Self::Gitlab(gitlab) => format!("a pipeline of {} on {}", gitlab.project, gitlab.r#ref),
            Self::Travis(travis) => format!("a build of {} on {}", travis.repository, travis.branch),
        }
    }

    /// Whether it is followed to its end.
    pub fn waits(&self) -> bool {
        match self {
            Self::Github(github) => github.wait,
            Self::Gitlab(gitlab) => gitlab.wait,
            Self::Travis(travis) => travis.wait,
        }
    }

    /// What has to be so for it to be started.
    pub fn condition(&self) -> Option<&Condition> {
        match self {
            Self::Github(github) => github.r#if.as_ref(),
            Self::Gitlab(gitlab) => gitlab.r#if.as_ref(),
            Self::Travis(travis) => travis.r#if.as_ref(),
        }
    }

    /// The environment variables that hold its secrets.
    pub fn secret_names(&self) -> Vec<&str> {
        match self {
            Self::Github(github) => github.token.iter().map(|token| token.env.as_str()).collect(),
            Self::Gitlab(gitlab) => {
                let tokens = gitlab.token.iter().chain(&gitlab.read_token).map(|token| token.env.as_str());
                tokens.chain(gitlab.variables.values().filter_map(TextOrSecret::secret_name)).collect()
            }
            Self::Travis(travis) => vec![&travis.token.env],
        }
    }
}
