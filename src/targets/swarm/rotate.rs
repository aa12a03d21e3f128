//! Swarm configs and secrets cannot be changed: a new one is made under the next number, services are pointed at it, and
//! the old ones are deleted when nothing uses them any more.

use super::engine::Manager;
use crate::error::{Error, Reason, Result};
use crate::report::outputs::random;
use crate::targets::set;
use crate::tools::secret::Secret;
use crate::version::hex;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A salted hash of a secret's content: only managers see labels, and they can mount the secret itself.
const CONTENT: &str = "tidegate.dev/content";
/// On what was made here: the name that it was made for. Others may have numbers at the end of their names too.
const ROTATED: &str = "tidegate.dev/rotated";

/// Which list of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Config,
    Secret,
}

impl Kind {
    fn path(self) -> &'static str {
        match self {
            Self::Config => "/configs",
            Self::Secret => "/secrets",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Secret => "secret",
        }
    }

    /// Where a service's specification lists them, and how it calls their name and id.
    fn fields(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Config => ("/TaskTemplate/ContainerSpec/Configs", "ConfigName", "ConfigID"),
            Self::Secret => ("/TaskTemplate/ContainerSpec/Secrets", "SecretName", "SecretID"),
        }
    }
}

/// A config or secret whose content has to be what it is here.
pub struct Rotation {
    pub kind: Kind,
    /// The name that services know, without a number.
    pub base: String,
    pub content: Secret,
}

/// One that is in the swarm.
#[derive(Clone, Debug)]
pub struct Held {
    id: String,
    name: String,
    number: u64,
    spec: Value,
}

impl Rotation {
    /// The number of a name of this family: app-config is 0, app-config-3 is 3.
    fn number(&self, name: &str) -> Option<u64> {
        let rest = name.strip_prefix(&self.base)?;
        if rest.is_empty() {
            return Some(0);
        }
        let digits = rest.strip_prefix('-')?;
        (!digits.starts_with('+')).then(|| digits.parse().ok()).flatten()
    }

    /// Those of the family, the newest first.
    pub async fn family(&self, manager: &Manager) -> Result<Vec<Held>> {
        let listed = manager.get(self.kind.path()).await?;
        let held = listed.as_array().into_iter().flatten().filter_map(|entry| {
            let name = entry.pointer("/Spec/Name")?.as_str()?;
            let id = entry.get("ID")?.as_str()?.to_owned();
            Some(Held { id, name: name.to_owned(), number: self.number(name)?, spec: entry.get("Spec")?.clone() })
        });
        let mut family: Vec<Held> = held.filter(|held| self.is_ours(held)).collect();
        family.sort_by_key(|held| std::cmp::Reverse(held.number));
        Ok(family)
    }

    /// The one of exactly this name, and those that were made for it.
    fn is_ours(&self, held: &Held) -> bool {
        held.name == self.base
            || held.spec.get("Labels").and_then(|labels| labels.get(ROTATED)).and_then(Value::as_str) == Some(self.base.as_str())
    }

    /// Whether one that is held has this content already.
    pub fn is_same(&self, held: &Held) -> bool {
        let content = self.content.expose();
        match self.kind {
            Kind::Config => held.spec.get("Data").and_then(Value::as_str) == Some(STANDARD.encode(content).as_str()),
            Kind::Secret => {
                let label = held.spec.get("Labels").and_then(|labels| labels.get(CONTENT)).and_then(Value::as_str);
                label.and_then(|label| label.split_once(':')).is_some_and(|(salt, hash)| salted(salt, content) == hash)
            }
        }
    }

    /// The newest one with this content; made, if there is none.
    pub async fn current(&self, manager: &Manager, family: &[Held]) -> Result<(Held, bool)> {
        if let Some(same) = family.first().filter(|held| self.is_same(held)) {
            return Ok((same.clone(), false));
        }
        let salt = random();
        let mut number = family.first().map_or(0, |held| held.number);
        for _taken in 0..50 {
            number += 1;
            let name = format!("{}-{number}", self.base);
            let mut labels =
                family.first().and_then(|held| held.spec.get("Labels").cloned()).filter(Value::is_object).unwrap_or_else(|| json!({}));
            if let Some(labels) = labels.as_object_mut() {
                labels.insert(ROTATED.into(), json!(self.base));
            }
            if let (Some(labels), Kind::Secret) = (labels.as_object_mut(), self.kind) {
                labels.insert(CONTENT.into(), json!(format!("{salt}:{}", salted(&salt, self.content.expose()))));
            }
            let spec = json!({"Name": name, "Labels": labels, "Data": STANDARD.encode(self.content.expose())});
            let path = format!("{}/create", self.kind.path());
            let answer = manager.call("POST", &path, None, Some(&spec)).await?;
            if answer.status == 409 {
                continue; // somebody else has this number
            }
            let answer = manager.judge(answer, &format!("the new {} {name}", self.kind.word()))?.json();
            let id = answer.get("ID").and_then(Value::as_str).unwrap_or_default().to_owned();
            return Ok((Held { id, name, number, spec }, true));
        }
        Err(Error::new(Reason::TargetFailed, format!("no free number is found for the {} {}", self.kind.word(), self.base)))
    }

    /// Whether a service's specification uses one of the family.
    pub fn is_used_by(&self, spec: &Value, family: &[Held]) -> bool {
        let (list, _, id) = self.kind.fields();
        let entries = spec.pointer(list).and_then(Value::as_array).into_iter().flatten();
        entries.filter_map(|entry| entry.get(id)?.as_str()).any(|id| family.iter().any(|held| held.id == id))
    }

    /// Points every reference to the family at this one. Whether that changed anything.
    pub fn repoint(&self, spec: &mut Value, family: &[Held], to: &Held) -> bool {
        let (list, name, id) = self.kind.fields();
        let mut changed = false;
        for entry in spec.pointer_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let now = entry.get(id).and_then(Value::as_str).unwrap_or_default();
            if now != to.id && family.iter().any(|held| held.id == now) {
                set(entry, &[name], json!(to.name));
                set(entry, &[id], json!(to.id));
                changed = true;
            }
        }
        changed
    }

    /// Deletes the others of the family. What is still used stays, and is named.
    pub async fn clean(&self, manager: &Manager, current: &Held) -> Vec<String> {
        let mut kept = Vec::new();
        for old in self.family(manager).await.unwrap_or_default() {
            if old.id == current.id || old.number > current.number {
                continue;
            }
            match manager.call("DELETE", &format!("{}/{}", self.kind.path(), old.id), None, None).await {
                Ok(answer) if answer.status < 300 || answer.status == 404 => {}
                Ok(answer) => kept.push(format!("the old {} {} stays: {}", self.kind.word(), old.name, answer.words())),
                Err(error) => kept.push(format!("the old {} {} may stay: {}", self.kind.word(), old.name, error.sentence)),
            }
        }
        kept
    }

    pub fn shown(&self) -> String {
        format!("{} {}", self.kind.word(), self.base)
    }
}

impl Held {
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn salted(salt: &str, content: &str) -> String {
    hex(&Sha256::digest(format!("{salt}{content}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_a_name_and_its_numbers() {
        let rotation = Rotation { kind: Kind::Config, base: "app".into(), content: Secret::new("x") };
        assert_eq!(rotation.number("app"), Some(0));
        assert_eq!(rotation.number("app-12"), Some(12));
        for other in ["apple", "app-x", "app-", "app-1-2", "my-app", "app-+1"] {
            assert_eq!(rotation.number(other), None, "{other}");
        }
    }

    #[test]
    fn a_reference_keeps_everything_but_name_and_id() {
        let rotation = Rotation { kind: Kind::Secret, base: "db".into(), content: Secret::new("x") };
        let held = Held { id: "new".into(), name: "db-2".into(), number: 2, spec: Value::Null };
        let mut spec = json!({"TaskTemplate": {"ContainerSpec": {"Secrets": [
            {"File": {"Name": "password", "Mode": 256}, "SecretID": "old", "SecretName": "db"},
            {"File": {"Name": "other"}, "SecretID": "o", "SecretName": "dbx"},
        ]}}});
        let family = [Held { id: "old".into(), name: "db".into(), number: 0, spec: Value::Null }];
        assert!(rotation.is_used_by(&spec, &family));
        assert!(rotation.repoint(&mut spec, &family, &held) && !rotation.repoint(&mut spec, &family, &held));
        let entries = &spec["TaskTemplate"]["ContainerSpec"]["Secrets"];
        assert_eq!(entries[0], json!({"File": {"Name": "password", "Mode": 256}, "SecretID": "new", "SecretName": "db-2"}));
        assert_eq!(entries[1]["SecretID"], "o");
    }
}
