//! Task definitions as raw JSON: read, copied with another image, and loaded from a file.

use super::{list, short, text};
use crate::checkout::read_named;
use crate::config::template::Values;
use crate::error::{Error, Reason, Result};
use crate::registry::{Repository, oci::digest_of};
use serde_json::{Value, json};
use std::path::Path;

/// The label with the lease under which a revision was made.
pub const LEASE: &str = "dev.tidegate.lease";
/// The label with the digest of the file from which a revision was made.
pub const SOURCE: &str = "dev.tidegate.task-definition";
/// The label with the revision that ran before: one can go back to it also after a run that was killed.
pub const BEFORE: &str = "dev.tidegate.before";
/// What ECS adds to a task definition and does not take back.
const READ_ONLY: [&str; 8] =
    ["taskDefinitionArn", "revision", "status", "requiresAttributes", "compatibilities", "registeredAt", "registeredBy", "deregisteredAt"];
const FILE_LIMIT: u64 = 3 * 1024 * 1024;

/// A task definition, as ECS or a file has it.
#[derive(Clone, Debug)]
pub struct Definition {
    value: Value,
    /// Where it comes from, for people.
    shown: String,
    /// The digest of the file, where it comes from one.
    pub source: Option<String>,
}

/// What a copy has of its own.
pub struct Change<'a> {
    pub container: &'a str,
    pub image: &'a str,
    pub lease: String,
    /// The revision that ran before.
    pub before: &'a str,
}

impl Definition {
    /// From the answer to `DescribeTaskDefinition`. Its tags stand beside it.
    pub fn of(mut answer: Value) -> Result<Self> {
        let tags = answer.get("tags").cloned();
        let mut value = answer.get_mut("taskDefinition").map(Value::take).unwrap_or_default();
        let Some(map) = value.as_object_mut() else {
            return Err(Error::new(Reason::TargetFailed, "ECS describes a task definition without saying what it is"));
        };
        if let Some(tags) = tags.filter(|tags| tags.as_array().is_some_and(|tags| !tags.is_empty())) {
            map.insert("tags".into(), tags);
        }
        let shown = short(text(&value, "/taskDefinitionArn")).to_owned();
        Ok(Self { value, shown, source: None })
    }

    /// From a file: a task definition, or what `aws ecs describe-task-definition` prints. `odd` hears what looks like a misspelt
    /// placeholder.
    pub fn load(folder: &Path, file: &str, values: &Values, odd: &mut dyn FnMut(String)) -> Result<Self> {
        let mut value = values.fill_known_json(&read(folder, file)?, odd).map_err(|why| wrong(file, why))?;
        if value.get("taskDefinition").is_some() {
            value = Self::of(value)?.value;
        }
        if list(&value, "/containerDefinitions").next().is_none() {
            return Err(wrong(file, "it has no containerDefinitions").hint("`aws ecs describe-task-definition` prints one"));
        }
        let source = digest_of(value.to_string().as_bytes());
        Ok(Self { value, shown: file.to_owned(), source: Some(source) })
    }

    /// Its full name.
    pub fn arn(&self) -> &str {
        text(&self.value, "/taskDefinitionArn")
    }

    /// Its number in its family.
    pub fn number(&self) -> u64 {
        super::number(&self.value, "/revision")
    }

    /// Its family.
    pub fn family(&self) -> &str {
        text(&self.value, "/family")
    }

    /// Whether tasks can be made of it.
    pub fn is_active(&self) -> bool {
        text(&self.value, "/status") == "ACTIVE"
    }

    /// A file need not name the family: it is that of the service then.
    pub fn with_family_of(mut self, other: &Self) -> Self {
        if let Some(map) = self.value.as_object_mut() {
            map.entry("family").or_insert_with(|| json!(other.family()));
        }
        self
    }

    /// The names of its containers.
    pub fn containers(&self) -> Vec<&str> {
        list(&self.value, "/containerDefinitions").map(|container| text(container, "/name")).collect()
    }

    /// The container that is meant: named, the only one, or the only one whose image is of the same repository.
    pub fn container(&self, named: Option<&str>, repository: Option<&Repository>) -> Result<String> {
        let all = self.containers();
        let unclear = |what: String| {
            Error::new(Reason::TargetInput, format!("the task definition {} {what}: it has {}", self.shown, all.join(", ")))
                .hint("name one of them with `container:`")
        };
        if let Some(named) = named {
            let found = all.iter().find(|name| **name == named);
            return found.map(|name| (*name).to_owned()).ok_or_else(|| unclear(format!("has no container {named}")));
        }
        if let [only] = all.as_slice() {
            return Ok((*only).to_owned());
        }
        let Some(repository) = repository else { return Err(unclear("has several containers".into())) };
        let ours: Vec<&&str> = all.iter().filter(|name| repository.owns(self.image(name))).collect();
        match ours.as_slice() {
            [one] => Ok((**one).to_owned()),
            [] => Err(unclear(format!("has no container whose image is of {repository}"))),
            _several => Err(unclear(format!("has several containers whose image is of {repository}"))),
        }
    }

    /// The image of a container.
    pub fn image(&self, container: &str) -> &str {
        text(self.part(container), "/image")
    }

    /// A label of a container.
    pub fn label(&self, container: &str, name: &str) -> &str {
        self.part(container).pointer("/dockerLabels").and_then(|labels| labels.get(name)).and_then(Value::as_str).unwrap_or_default()
    }

    /// Where a container's lines can be read.
    pub fn stream(&self, container: &str) -> Option<super::lines::Stream> {
        super::lines::stream_of(self.part(container).get("logConfiguration")?)
    }

    /// Where a container's lines go, for people.
    pub fn log(&self, container: &str) -> Option<String> {
        let log = self.part(container).get("logConfiguration")?;
        let group = log.pointer("/options/awslogs-group").and_then(Value::as_str);
        Some(match group {
            Some(group) => format!("its lines are in the CloudWatch log group {group}"),
            None => format!("its lines go where the log driver {} sends them", text(log, "/logDriver")),
        })
    }

    /// What is registered: everything that is there, known to us or not, with another image.
    pub fn copy(&self, change: &Change<'_>) -> Value {
        let mut copy = self.value.clone();
        if let Some(map) = copy.as_object_mut() {
            READ_ONLY.iter().for_each(|name| drop(map.shift_remove(*name)));
        }
        let containers = copy.get_mut("containerDefinitions").and_then(Value::as_array_mut).into_iter().flatten();
        for container in containers.filter(|container| text(container, "/name") == change.container) {
            super::super::set(container, &["image"], json!(change.image));
            super::super::set(container, &["dockerLabels", LEASE], json!(change.lease));
            super::super::set(container, &["dockerLabels", BEFORE], json!(short(change.before)));
            match &self.source {
                Some(source) => super::super::set(container, &["dockerLabels", SOURCE], json!(source)),
                None => forget_source(container),
            }
        }
        copy
    }

    fn part(&self, container: &str) -> &Value {
        list(&self.value, "/containerDefinitions").find(|part| text(part, "/name") == container).unwrap_or(&Value::Null)
    }
}

/// A copy of a revision that was made from a file is not made from it any more.
fn forget_source(container: &mut Value) {
    if let Some(labels) = container.get_mut("dockerLabels").and_then(Value::as_object_mut) {
        labels.shift_remove(SOURCE);
    }
}

/// The JSON of a file, as it is written.
pub fn read(folder: &Path, file: &str) -> Result<Value> {
    let text = read_named(folder, file, FILE_LIMIT).map_err(|why| {
        wrong(file, format!("the task definition cannot be read: {why}")).hint("files are named relative to tidegate.yml")
    })?;
    let value: Value = serde_json::from_str(&text).map_err(|error| wrong(file, format!("this is not JSON: {error}")))?;
    if !value.is_object() {
        return Err(wrong(file, "a task definition is a JSON object"));
    }
    Ok(value)
}

fn wrong(file: &str, why: impl std::fmt::Display) -> Error {
    Error::new(Reason::ConfigInvalid, format!("{file}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Definition {
        let containers = json!([
            {"name": "web", "image": "localhost:5000/acme/web:1", "newField": [1]}, {"name": "proxy", "image": "envoy:1"},
        ]);
        let value = json!({"taskDefinitionArn": "arn:x/demo:7", "revision": 7, "family": "demo", "futureField": true, "containerDefinitions": containers});
        Definition::of(json!({"taskDefinition": value, "tags": [{"key": "team", "value": "web"}]})).unwrap()
    }

    #[test]
    fn a_copy_keeps_what_it_does_not_know() {
        let copy = definition().copy(&Change { container: "web", image: "new", lease: "a#1".into(), before: "arn:x/demo:7" });
        let web = json!({"name": "web", "image": "new", "newField": [1], "dockerLabels": {"dev.tidegate.lease": "a#1", "dev.tidegate.before": "demo:7"}});
        let proxy = json!({"name": "proxy", "image": "envoy:1"});
        let tags = json!([{"key": "team", "value": "web"}]);
        assert_eq!(copy, json!({"family": "demo", "futureField": true, "containerDefinitions": [web, proxy], "tags": tags}));
    }

    #[test]
    fn a_container_is_found_or_all_are_named() {
        let definition = definition();
        let repository = |name: &str| Repository::parse(name).unwrap();
        assert_eq!(definition.container(None, Some(&repository("localhost:5000/acme/web"))).unwrap(), "web");
        assert_eq!(definition.container(Some("proxy"), None).unwrap(), "proxy");
        for error in [definition.container(Some("wep"), None), definition.container(None, Some(&repository("localhost:5000/other")))] {
            assert!(error.unwrap_err().sentence.ends_with("it has web, proxy"));
        }
    }
}
