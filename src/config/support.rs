//! Keys that the grammar knows and this version cannot act on yet: they are refused, never ignored.

use super::{Environment, Loaded};
use crate::error::{Reason, Result};

/// Refuses keys without an implementation. `environment` limits the look to one environment and the keys above all;
/// `None` looks at the whole file, as `tidegate check` does.
pub fn refuse_unsupported(loaded: &Loaded, environment: Option<&str>) -> Result<()> {
    let config = &loaded.config;
    let mut found: Vec<String> = Vec::new();
    found.extend((config.builder != "auto").then(|| "builder".to_owned()));
    for (name, image) in &config.images {
        found.extend(image.provenance.then(|| format!("images.{name}.provenance")));
        found.extend(matches!(image.cache, super::Cache::At(_)).then(|| format!("images.{name}.cache")));
        let gha = matches!(image.cache, super::Cache::Kind(super::CacheKind::Gha));
        found.extend(gha.then(|| format!("images.{name}.cache")));
    }
    let wanted = config.environments.iter().filter(|(name, _)| environment.is_none_or(|only| only == name.as_str()));
    for (name, rules) in wanted {
        found.extend(in_environment(rules).into_iter().map(|key| format!("environments.{name}.{key}")));
    }
    if found.is_empty() {
        return Ok(());
    }
    let hint = "take it out for now; `tidegate schema` describes what is planned";
    let message = |path: &String| format!("`{}` is not supported yet", path.rsplit('.').next().unwrap_or(path));
    let problems = found.iter().map(|path| (path.clone(), message(path), hint.to_owned()));
    Err(loaded.error(Reason::ConfigUnsupported, problems.collect()))
}

fn in_environment(rules: &Environment) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut add = |present: bool, key: &str| found.extend(present.then(|| key.to_owned()));
    add(!rules.verify.is_empty(), "verify");
    add(!rules.notify.is_empty(), "notify");
    found
}
