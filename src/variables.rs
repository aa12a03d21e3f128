//! What may vary from run to run, and the values that placeholders get from it.

use crate::config::{Config, template::Values};
use crate::context::Decision;
use crate::error::{Error, Reason, Result};
use crate::event::directives::Directive;
use crate::event::{Event, Kind, short};
use crate::vars::Vars;
use crate::version::{Version, slug};
use std::collections::BTreeMap;

/// The values of `variables:` in this run.
#[derive(Clone, Debug, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Value = `--set`, then the environment variable, then the default; empty counts as not given.
    pub fn resolve(config: &Config, set: &[(String, String)], vars: &Vars) -> Result<Self> {
        for (name, _) in set {
            if !config.variables.contains_key(name) {
                let known: Vec<&str> = config.variables.keys().map(String::as_str).collect();
                return Err(Error::new(Reason::InputInvalid, format!("--set {name}=…: there is no variable {name:?} in tidegate.yml"))
                    .hint(if known.is_empty() { "none are declared".to_owned() } else { format!("declared: {}", known.join(", ")) }));
            }
        }
        let value = |name: &str, variable: &crate::config::Variable| {
            let by_hand = set.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.clone());
            let from_environment = || variable.env.as_deref().and_then(|env| vars.get(env)).map(str::to_owned);
            by_hand.or_else(from_environment).or_else(|| variable.default.clone()).filter(|value| !value.is_empty())
        };
        let pairs = config.variables.iter().filter_map(|(name, variable)| Some((name.clone(), value(name, variable)?)));
        let resolved: BTreeMap<String, String> = pairs.collect();
        for (name, value) in &resolved {
            if value.chars().any(char::is_control) {
                let sentence = format!("the variable {name:?} holds a control character");
                return Err(Error::new(Reason::InputInvalid, sentence).hint("variables are single lines of text"));
            }
        }
        Ok(Self(resolved))
    }

    /// With what directives of a pull request set for its preview, where `--set` says nothing; and what cannot be set so.
    pub fn directed(mut self, config: &Config, set: &[(String, String)], event: &Event, directives: &[Directive]) -> (Self, Vec<String>) {
        let mut notes = Vec::new();
        for directive in directives {
            let Directive::Set(name, value) = directive else { continue };
            if event.pr.is_none() {
                notes.push(format!("{directive} is for pull requests, and this is none"));
            } else if !config.variables.contains_key(name) {
                notes.push(format!("{directive}: there is no variable {name:?} in tidegate.yml"));
            } else if !value.chars().any(char::is_control) && set.iter().all(|(given, _)| given != name) {
                self.0.insert(name.clone(), value.clone());
            }
        }
        (self, notes)
    }

    /// The value of a variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// The values of placeholders in this run, without the images' own.
pub fn values(event: &Event, config: &Config, decision: &Decision, variables: &Variables) -> Values {
    let mut values = Values::default();
    values.set("project", Some(config.project.clone()));
    values.set("environment", decision.environment.clone());
    values.set("version", decision.version.as_ref().map(Version::to_string));
    // The tag of the run's ref, where that is what is delivered.
    let is_delivered = |tag: &String| {
        let bare = config.bare_tag(tag).unwrap_or(tag);
        decision.version.as_ref().is_none_or(|version| Version::parse(bare).is_ok_and(|tagged| tagged == *version))
    };
    values.set("tag", decision.fix.as_ref().map(|fix| fix.tag.clone()).or_else(|| event.tag.clone().filter(is_delivered)));
    values.set("sha", decision.commit.clone());
    values.set("short_sha", decision.commit.as_deref().map(short));
    // Whoever names a pull request by hand stands on any branch.
    let of_pull_request = event.head_ref.as_deref().filter(|_| event.pr.is_some());
    let pushed = event.branch.as_deref().filter(|_| event.pr.is_none() || event.kind == Kind::PushBranch);
    let branch = of_pull_request.or(pushed).or(event.head_ref.as_deref()).filter(|_| !decision.by_hand);
    values.set("branch", branch.map(str::to_owned));
    values.set("branch_slug", branch.map(|branch| slug(branch, 63)));
    values.set("pr", event.pr.map(|number| number.to_string()));
    values.set("actor", event.actor.clone());
    values.set("run_url", event.more.run.url.clone());
    for (name, value) in &variables.0 {
        values.set(format!("var.{name}"), Some(value.clone()));
    }
    values
}
