//! `environments:` of `tidegate.yml`: where versions go, and which events lead there.

use super::{Archive, Aws, Backup, Drain, Gate, Migrate, Notify, OnPartial, OneOrMany, Restore, Scan, Span, Target, Trigger, Verify};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A place versions go to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Environment {
    /// Which events lead here.
    pub when: OneOrMany<When>,
    /// A condition on variables.
    pub r#if: Option<Condition>,
    /// The name of a preview, as "{project}-pr-{pr}".
    pub name: Option<String>,
    /// Where people see what runs here, as "https://pr-{pr}.example.com"; what a target says of itself when not given.
    pub url: Option<String>,
    /// Extra image tags, as latest; they only move forward.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Whether pre-releases come here (`when: release`).
    #[serde(default)]
    pub prereleases: bool,
    /// Whether draft pull requests come here (`when: pull-request`).
    #[serde(default)]
    pub drafts: bool,
    /// Only pull requests with one of these labels.
    #[serde(default)]
    pub labels: Vec<String>,
    /// How long a preview lives after its last change.
    pub ttl: Option<Span>,
    /// How many previews may live at once.
    #[schemars(range(min = 1, max = 1000))]
    pub max: Option<u32>,
    /// AWS access here, over the project's.
    #[serde(default)]
    pub aws: Aws,
    /// The same digest must have succeeded there before.
    pub after: Option<String>,
    /// How long it must have run there.
    pub soak: Option<Span>,
    /// Times in which nothing is deployed here.
    #[serde(default)]
    pub freeze: Vec<Freeze>,
    /// Conditions before the switch.
    #[serde(default)]
    pub gates: Vec<Gate>,
    /// Database backups before anything changes: one, or a list.
    pub backup: Option<OneOrMany<Backup>>,
    /// How the database comes back, or is filled.
    pub restore: Option<Restore>,
    /// Files of the repository that are kept in a bucket: one folder, or a list.
    pub archive: Option<OneOrMany<Archive>>,
    /// What runs once around the switch, in order: one, or a list.
    pub migrate: Option<OneOrMany<Migrate>>,
    /// The targets; without any, the images are only built and tagged.
    #[serde(default)]
    pub deploy: Vec<Target>,
    /// What happens to the other targets when one fails.
    #[serde(default)]
    pub on_partial: OnPartial,
    /// Pipelines to start elsewhere after the deploy.
    #[serde(default)]
    pub trigger: Vec<Trigger>,
    /// Checks after the deploy.
    #[serde(default)]
    pub verify: Vec<Verify>,
    /// Who is told, besides the pull request.
    #[serde(default)]
    pub notify: Vec<Notify>,
}

impl Environment {
    /// The pull request of a preview with this name; nothing when it is the name of something else.
    pub fn preview_number(&self, project: &str, name: &str) -> Option<u64> {
        let template = self.name.as_deref().unwrap_or("{project}-pr-{pr}").replace("{project}", project);
        let parts = template.split("{pr}").map(|part| {
            let literal = regex::escape(part);
            regex::Regex::new(r"\\\{[^}]*\\\}").map_or(literal.clone(), |other| other.replace_all(&literal, ".+").into_owned())
        });
        let pattern = format!("^{}$", parts.collect::<Vec<_>>().join(r"(\d+)"));
        let found = regex::Regex::new(&pattern).ok()?.captures(name)?;
        let mut numbers = found.iter().skip(1).flatten().map(|number| number.as_str());
        let first = numbers.next()?;
        if numbers.all(|other| other == first) { first.parse().ok() } else { None }
    }

    /// The backups before anything changes.
    pub fn backups(&self) -> &[Backup] {
        self.backup.as_ref().map(OneOrMany::as_slice).unwrap_or_default()
    }

    /// The folders that are kept.
    pub fn archives(&self) -> &[Archive] {
        self.archive.as_ref().map(OneOrMany::as_slice).unwrap_or_default()
    }

    /// What runs once around the switch.
    pub fn migrations(&self) -> &[Migrate] {
        self.migrate.as_ref().map(OneOrMany::as_slice).unwrap_or_default()
    }

    /// Whether people guard it: it is deployed by hand, or named production.
    pub fn is_guarded(&self, name: &str) -> bool {
        let by_hand = self.when.as_slice().iter().any(|when| matches!(when, When::Event(WhenEvent::Manual)));
        by_hand || matches!(name, "production" | "prod" | "live")
    }

    /// The gates that wait for queues.
    pub fn drains(&self) -> Vec<Drain> {
        let drain = |gate: &Gate| if let Gate::Drain(drain) = gate { Some(drain.clone()) } else { None };
        self.gates.iter().filter_map(drain).collect()
    }

    /// The gates that look at scans.
    pub fn scans(&self) -> Vec<Scan> {
        let scan = |gate: &Gate| if let Gate::Scan(scan) = gate { Some(scan.clone()) } else { None };
        self.gates.iter().filter_map(scan).collect()
    }

    /// Which previews go by themselves, for a person.
    pub fn limits(&self) -> Option<String> {
        let old = self.ttl.as_ref().map(|ttl| format!("not changed for {ttl}"));
        let many = self.max.map(|max| format!("more than {max}, the oldest first"));
        let parts: Vec<String> = old.into_iter().chain(many).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// An event, or a branch or tag, that leads to an environment.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum When {
    /// A kind of event.
    Event(WhenEvent),
    /// A push to branches that match.
    Branch(WhenBranch),
    /// A push of tags that match.
    Tag(WhenTag),
}

/// A kind of event that leads to an environment.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum WhenEvent {
    /// A push to the default branch.
    Merge,
    /// A published release, or a version tag, on the default branch.
    Release,
    /// A pull request is opened or changed; when it is closed, what was made is removed.
    PullRequest,
    /// Only by hand: `tidegate deploy ENV VERSION` or workflow_dispatch.
    Manual,
}

/// Branches that lead to an environment.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WhenBranch {
    /// A glob, as release/**.
    pub branch: String,
    /// Globs of branches that do not.
    #[serde(default)]
    pub except: Vec<String>,
}

/// Tags that lead to an environment.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WhenTag {
    /// A regular expression that the whole tag must match.
    pub tag: String,
}

/// A condition on a variable.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// The variable that must be set and not empty.
    pub var: String,
    /// The value that it must have; any when not given.
    pub is: Option<String>,
}

impl Condition {
    /// Whether the variable, which may have no value, meets it.
    pub fn is_met(&self, value: Option<&str>) -> bool {
        value.is_some_and(|value| !value.is_empty() && self.is.as_deref().is_none_or(|wanted| wanted == value))
    }

    /// Why it is not met, after the words "the variable".
    pub fn unmet(&self) -> String {
        match &self.is {
            Some(wanted) => format!("`{}` is not {wanted:?}", self.var),
            None => format!("`{}` is not set", self.var),
        }
    }
}

/// A time in which nothing is deployed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Freeze {
    /// The beginning, as "Fri 16:00" or "2026-12-24 12:00".
    pub from: String,
    /// The end.
    pub to: String,
    /// The time zone, as Europe/Zurich.
    pub zone: String,
}
