//! Records on the forge: each is a deployment, whose payload holds the facts and whose statuses are the journal.

use super::Key;
use super::records::{Did, Ended, Enough, Line, Record, Shown};
use crate::error::Result;
use crate::forge::deployments::{Deployment, NewDeployment, Status};
use crate::forge::github::GitHub;
use serde_json::Value;

/// How far the first look at the forge goes, and how many pages of a hundred after it.
const FEW: usize = 10;
const PAGES: usize = 5;

/// The environments of a project that have records; so many pages of a hundred deployments are read, the newest first.
pub(super) async fn places(github: &GitHub, project: &str, pages: usize) -> Result<Vec<String>> {
    let mut places = Vec::new();
    for page in 1..=pages {
        let known = github.deployments_page(None, (page, 100)).await?;
        let is_last = known.len() < 100;
        let ours = |record: &Deployment| record.payload.get("project").and_then(Value::as_str) == Some(project);
        places.extend(known.into_iter().filter(ours).map(|record| record.environment));
        if is_last {
            break;
        }
    }
    Ok(places)
}

/// The newest records of an environment, newest first, up to the first one that is enough.
pub(super) async fn history(github: &GitHub, key: &Key, enough: Enough<'_>) -> Result<Vec<Record>> {
    let mut history = Vec::new();
    for (page, size) in std::iter::once((1, FEW)).chain((1..=PAGES).map(|page| (page, 100))) {
        if size != FEW && page == 1 {
            history.clear(); // the same again, and more
        }
        let (listed, settled) = page_of_history((github, key, enough), (page, size), &mut history).await?;
        if settled || listed < size {
            break;
        }
    }
    Ok(history)
}

/// Adds a page of deployments; how many there were, ours or not, and whether what came before matters no more.
async fn page_of_history(
    (github, key, enough): (&GitHub, &Key, Enough<'_>),
    (page, size): (usize, usize),
    history: &mut Vec<Record>,
) -> Result<(usize, bool)> {
    let deployments = github.deployments_page(Some(key.environment()), (page, size)).await?;
    let listed = deployments.len();
    for deployment in deployments {
        if deployment.payload.get("project").and_then(Value::as_str) != Some(key.project.as_str()) {
            continue; // another project of this repository, or a record of before there were leases
        }
        let statuses = github.deployment_statuses(deployment.id).await?;
        let record = from_forge(deployment, &statuses)?;
        let done = enough(&record);
        history.push(record);
        if done {
            return Ok((listed, true));
        }
    }
    Ok((listed, false))
}

fn from_forge(deployment: Deployment, statuses: &[Status]) -> Result<Record> {
    let Deployment { id, payload, created_at, .. } = deployment;
    let mut record = Record::of(payload, &format!("the deployment {id}"))?;
    (record.deployment, record.begun) = (Some(id), created_at);
    for status in statuses.iter().rev() {
        let Some((head, rest)) = status.description.split_once(": ") else { continue };
        let (said, handle) = match rest.strip_prefix("started ") {
            Some(handle) => ("started", Some(handle.to_owned())),
            None => (rest, None),
        };
        if let Some(what) = Did::ALL.into_iter().find(|did| did.name() == said) {
            record.journal.push(Line { at: status.created_at.clone(), step: head.to_owned(), what, handle });
            record.ended = None; // it was taken up again
        } else if let Ok(verdict) = serde_json::from_value(Value::from(head)) {
            record.ended = Some(Ended { at: status.created_at.clone(), verdict, sentence: rest.to_owned() });
        }
    }
    Ok(record)
}

/// Makes the record a deployment of the forge: the record itself, or a copy of it for people.
pub async fn make<'a, T, F>(key: &'a Key, record: &'a Record, shown: &'a Shown, create: F) -> Result<T>
where
    F: AsyncFnOnce(&NewDeployment<'_>) -> Result<T>,
{
    let sha = record.commit.as_deref().unwrap_or(&shown.branch);
    let description = format!("{} by tidegate", record.version);
    let Shown { transient, production, .. } = *shown;
    let new =
        NewDeployment { sha, environment: key.environment(), description: &description, transient, production, payload: record.payload() };
    create(&new).await
}
