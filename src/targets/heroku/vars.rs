//! Config vars: layers become one set, and only what differs is sent.

use crate::config::{HerokuConfig, TextOrSecret, is_match, template::Values};
use crate::error::{Error, Reason, Result};
use crate::targets::{Site, secret};
use indexmap::IndexMap;
use serde_json::{Map, Value, json};

/// The config var that says whose app it is. An app without it was made by hand, and is never deleted.
pub const OWNER: &str = "TIDEGATE_OWNER";

/// The config var that says which repository's run made it: projects of the same name may share an account.
pub const REPOSITORY: &str = "TIDEGATE_REPOSITORY";

/// What is to be: a value, or nothing.
pub type Wanted = IndexMap<String, Option<String>>;

/// What is written: a value, or that there is to be none.
type Layer = IndexMap<String, Option<TextOrSecret>>;

/// The layers that count here, in their order: every app's, the environment's, the branch's.
pub fn layers<'a>(values: &Values, config: &'a HerokuConfig) -> Vec<&'a Layer> {
    let environment = values.get("environment").unwrap_or_default();
    let branch = values.get("branch").unwrap_or_default();
    let matching = config.per_branch.iter().filter(|(glob, _)| !branch.is_empty() && is_match(glob, branch)).map(|(_, layer)| layer);
    std::iter::once(&config.vars).chain(config.per_environment.get(environment)).chain(matching).collect()
}

/// What is to be. Later layers go over earlier ones.
pub fn wanted(site: &Site<'_>, values: &Values, config: &HerokuConfig) -> Result<Wanted> {
    let mut wanted = Wanted::new();
    for layer in layers(values, config) {
        for (name, value) in layer {
            let value = match value {
                None => None,
                Some(TextOrSecret::Text(text)) => Some(site.fill(values, text)?),
                Some(TextOrSecret::Secret(named)) => {
                    Some(secret(site.world, &named.env, &format!("the config var {name}"))?.expose().to_owned())
                }
            };
            wanted.insert(name.clone(), value);
        }
    }
    Ok(wanted)
}

/// The request that makes one set of the other, and what it does in words. Values are never said.
pub fn difference(has: &Value, wanted: &Wanted) -> Option<(Value, String)> {
    let mut patch = Map::new();
    let (mut sets, mut removes) = (Vec::new(), Vec::new());
    for (name, value) in wanted {
        let there = has.get(name).and_then(Value::as_str);
        match value {
            Some(value) if there != Some(value) => {
                patch.insert(name.clone(), json!(value));
                sets.push(name.as_str());
            }
            None if there.is_some() => {
                patch.insert(name.clone(), Value::Null);
                removes.push(name.as_str());
            }
            Some(_) | None => {}
        }
    }
    let named = |verb: &str, names: &[&str]| (!names.is_empty()).then(|| format!("{verb} {}", names.join(", ")));
    let said: Vec<String> = named("sets", &sets).into_iter().chain(named("removes", &removes)).collect();
    (!patch.is_empty()).then(|| (Value::Object(patch), said.join("; ")))
}

/// Whether a config var is one that nobody should read in a log.
pub fn is_secret(name: &str, value: &str) -> bool {
    let name = name.to_uppercase();
    let says_so = ["KEY", "SECRET", "PASSWORD", "TOKEN", "DSN"].iter().any(|word| name.contains(word));
    value.len() >= 8 && (says_so || (value.contains("://") && value.contains('@')))
}

/// Refuses an app that tidegate made for something else.
pub fn check_owner(has: &Value, app: &str, owner: &str) -> Result<()> {
    match has.get(OWNER).and_then(Value::as_str) {
        Some(other) if other != owner => {
            let sentence = format!("the app {app} belongs to {other}, not to {owner} (its config var {OWNER})");
            Err(Error::new(Reason::TargetInput, sentence)
                .hint("two names that were cut to the same 30 characters? choose a shorter `app:`"))
        }
        Some(_) | None => Ok(()),
    }
}
