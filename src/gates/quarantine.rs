//! The quarantine: images that must not be deployed again, whoever asks, until somebody takes them out.

use crate::error::{Error, Reason, Result};
use crate::state::Store;
use crate::state::unreadable;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// An image in quarantine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Quarantined {
    /// The version of this shape; always 1.
    pub schema: u32,
    /// The digest.
    pub digest: String,
    /// The version that people know it by, if they named that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why.
    pub reason: String,
    /// Who put it there.
    pub who: String,
    /// When.
    pub at: Timestamp,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Who took it out, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifted: Option<Lifted>,
}

/// The end of a quarantine by hand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lifted {
    /// Who.
    pub who: String,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

impl Quarantined {
    /// Whether it holds at this time.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.lifted.is_none() && self.until.is_none_or(|until| now < until)
    }

    /// In one line.
    pub fn sentence(&self) -> String {
        let day = |at: Timestamp| at.strftime("%Y-%m-%d %H:%M UTC").to_string();
        let name = self.version.as_ref().map_or(self.digest.clone(), |version| format!("{version} ({})", self.digest));
        let until = self.until.map(|until| format!(" until {}", day(until))).unwrap_or_default();
        format!("{name} is in quarantine{until}, by {} on {}: {}", self.who, day(self.at), self.reason)
    }
}

impl Store {
    /// Writes down that an image is in quarantine, or that it is not any more.
    pub async fn quarantine(&self, project: &str, entry: &Quarantined) -> Result<()> {
        let (folder, name) = (folder(project), name(&entry.digest));
        let value = json!(entry);
        // A package of GitLab is written as a whole: who writes at the same time may win over us.
        for _attempt in 0..3 {
            if self.create(&folder, &name, &value).await?.is_none() {
                self.put(&folder, &name, &value).await?;
            }
            let written = self.quarantined_of(project, Some(std::slice::from_ref(&entry.digest))).await?;
            if written.iter().any(|there| json!(there) == value) {
                return Ok(());
            }
        }
        Err(Error::new(Reason::LockUnreachable, format!("{} was written into the quarantine, and is not there", entry.digest))
            .hint("does something else write there at the same time? Run it again"))
    }

    /// Everything that ever was in quarantine, as it stands now.
    pub async fn quarantined(&self, project: &str) -> Result<Vec<Quarantined>> {
        self.quarantined_of(project, None).await
    }

    async fn quarantined_of(&self, project: &str, digests: Option<&[String]>) -> Result<Vec<Quarantined>> {
        let folder = folder(project);
        let mut found = Vec::new();
        for entry in self.names(&folder).await? {
            if digests.is_some_and(|digests| !digests.iter().any(|digest| name(digest) == entry.name)) {
                continue;
            }
            let Some(value) = self.read(&folder, &entry).await? else { continue };
            let place = format!("{folder}/{}", entry.name);
            found.push(serde_json::from_value(value).map_err(|error| unreadable(&place, &error.to_string()))?);
        }
        Ok(found)
    }
}

/// Nothing of what is about to be deployed may be in quarantine.
pub async fn check(store: &Store, project: &str, digests: &[String]) -> Result<()> {
    if digests.is_empty() {
        return Ok(());
    }
    let held = store.quarantined_of(project, Some(digests)).await?;
    match held.into_iter().find(|entry| entry.holds(Timestamp::now())) {
        Some(entry) => {
            let hint = format!("deploy another version; to take it out: tidegate quarantine {} --lift --reason TEXT", entry.digest);
            Err(Error::new(Reason::GateQuarantined, entry.sentence()).hint(hint))
        }
        None => Ok(()),
    }
}

/// Beside the environments: no environment's folder is called so, for `=` begins the code of a byte.
fn folder(project: &str) -> String {
    format!("{}/{}/records", crate::state::plain(project), crate::state::QUARANTINE)
}

fn name(digest: &str) -> String {
    digest.replace(':', "-")
}
