//! GitHub's deployments: the record of every delivery, and what people see of it on the pull request.
//!
//! <https://docs.github.com/rest/deployments/deployments>

use super::DeploymentState;
use super::github::{GitHub, encode};
use crate::error::{Error, Reason, Result};
use crate::tools::console::cut;
use http::Method;
use serde_json::{Value, json};

const WRITE: &str = "deployments: write";

/// What a deployment record says.
pub struct NewDeployment<'a> {
    /// The commit.
    pub sha: &'a str,
    /// The environment's name on the forge.
    pub environment: &'a str,
    /// One sentence.
    pub description: &'a str,
    /// Whether it goes away with a pull request.
    pub transient: bool,
    /// Whether users see it.
    pub production: bool,
    /// Facts for later runs.
    pub payload: Value,
}

/// A change of a deployment record.
pub struct DeploymentStatus<'a> {
    /// The record.
    pub id: u64,
    /// How it stands.
    pub state: DeploymentState,
    /// One sentence.
    pub description: &'a str,
    /// Where the log is.
    pub log_url: Option<&'a str>,
    /// Where it can be seen.
    pub environment_url: Option<&'a str>,
}

/// A record as GitHub keeps it.
pub struct Deployment {
    /// Its id.
    pub id: u64,
    /// The environment's name on the forge.
    pub environment: String,
    /// The facts it was made with.
    pub payload: Value,
    /// When it was made, as GitHub says it.
    pub created_at: String,
}

/// One of a record's statuses.
#[derive(Clone, Debug)]
pub struct Status {
    /// How it stood.
    pub state: String,
    /// One sentence.
    pub description: String,
    /// When.
    pub created_at: String,
}

/// What became of an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It is deleted.
    Deleted,
    /// It was not there.
    Gone,
    /// Somebody has given it rules: it stays.
    Configured,
    /// This token must not.
    Denied,
}

impl GitHub {
    /// Deletes an environment that nobody has configured.
    /// <https://docs.github.com/rest/deployments/environments#delete-an-environment>
    pub async fn delete_environment(&self, name: &str) -> Result<Deletion> {
        let path = format!("/environments/{}", encode(name));
        let there = self.call(Method::GET, &path, None).await?;
        match there.status {
            200 => {}
            404 => return Ok(Deletion::Gone),
            401 | 403 => return Ok(Deletion::Denied),
            _other => return Err(Error::new(Reason::ForgeFailed, format!("GitHub does not show it: {}", there.message()))),
        }
        let rules = there.body.get("protection_rules").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        if rules || there.body.get("deployment_branch_policy").is_some_and(|policy| !policy.is_null()) {
            return Ok(Deletion::Configured);
        }
        let answer = self.call(Method::DELETE, &path, None).await?;
        match answer.status {
            204 => Ok(Deletion::Deleted),
            404 => Ok(Deletion::Gone),
            401 | 403 => Ok(Deletion::Denied),
            _other => Err(Error::new(Reason::ForgeFailed, answer.message())),
        }
    }

    /// Records that a delivery begins; the id of the record. `payload.key` tells it from others when the answer is lost.
    pub async fn create_deployment(&self, new: &NewDeployment<'_>) -> Result<u64> {
        let body = json!({
            "ref": new.sha,
            "task": super::DEPLOYMENT_TASK,
            "auto_merge": false,
            "required_contexts": [],
            "environment": new.environment,
            "description": cut(new.description, 140),
            "transient_environment": new.transient,
            "production_environment": new.production,
            "payload": new.payload,
        });
        let create = || async {
            let answer = self.expect(Method::POST, "/deployments", Some(&body), WRITE).await?;
            if let Some(login) = answer.text("/creator/login") {
                let _known = self.identity.set(login);
            }
            let id = answer.body.pointer("/id").and_then(Value::as_u64).filter(|_| answer.status == 201);
            id.ok_or_else(|| Error::new(Reason::ForgeFailed, format!("GitHub did not record the deployment: {}", answer.message())))
        };
        let key = new.payload.pointer("/key");
        let find = || async {
            let known = self.deployments(Some(new.environment), 10).await?;
            Ok(known.into_iter().find(|known| key.is_some() && known.payload.pointer("/key") == key).map(|known| known.id))
        };
        self.once_only(create, find).await
    }

    /// Changes how a deployment record stands.
    pub async fn set_deployment(&self, status: &DeploymentStatus<'_>) -> Result<()> {
        let state = match status.state {
            DeploymentState::InProgress => "in_progress",
            DeploymentState::Success => "success",
            DeploymentState::Failure => "failure",
            DeploymentState::Error => "error",
            DeploymentState::Inactive => "inactive",
        };
        let description = cut(status.description, 140);
        let mut body = json!({"state": state, "description": description});
        for (name, value) in [("log_url", status.log_url), ("environment_url", status.environment_url)] {
            if let (Some(value), Some(map)) = (value, body.as_object_mut()) {
                map.insert(name.to_owned(), json!(value));
            }
        }
        let path = format!("/deployments/{}/statuses", status.id);
        let write = || async { self.expect(Method::POST, &path, Some(&body), WRITE).await.map(drop) };
        let find = || async {
            let newest = self.deployment_statuses(status.id).await?.into_iter().next();
            Ok(newest.filter(|newest| newest.state == state && newest.description == description).map(drop))
        };
        self.once_only(write, find).await
    }

    /// Our records, of one environment or of all, newest first.
    pub async fn deployments(&self, environment: Option<&str>, limit: usize) -> Result<Vec<Deployment>> {
        self.deployments_page(environment, (1, limit)).await
    }

    /// A page of them: its number, from 1, and its size.
    pub async fn deployments_page(&self, environment: Option<&str>, (page, size): (usize, usize)) -> Result<Vec<Deployment>> {
        let task = encode(super::DEPLOYMENT_TASK);
        let place = environment.map(|name| format!("environment={}&", encode(name))).unwrap_or_default();
        let path = format!("/deployments?{place}task={task}&per_page={size}&page={page}");
        let answer = self.expect(Method::GET, &path, None, "deployments: read").await?;
        let text = |record: &Value, name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let records = answer.body.as_array().into_iter().flatten();
        let mut found: Vec<Deployment> = records
            .filter_map(|record| {
                Some(Deployment {
                    id: record.get("id")?.as_u64()?,
                    environment: text(record, "environment"),
                    payload: record.get("payload").cloned().unwrap_or_default(),
                    created_at: text(record, "created_at"),
                })
            })
            .collect();
        found.sort_by_key(|record| std::cmp::Reverse(record.id));
        Ok(found)
    }

    /// What a record said of itself, newest first.
    pub async fn deployment_statuses(&self, id: u64) -> Result<Vec<Status>> {
        let path = format!("/deployments/{id}/statuses?per_page=100");
        let answer = self.expect(Method::GET, &path, None, "deployments: read").await?;
        let mut listed: Vec<&Value> = answer.body.as_array().into_iter().flatten().collect();
        listed.sort_by_key(|status| std::cmp::Reverse(status.get("id").and_then(Value::as_u64)));
        let text = |status: &Value, name: &str| status.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let status = |value: &Value| Status {
            state: text(value, "state"),
            description: text(value, "description"),
            created_at: text(value, "created_at"),
        };
        Ok(listed.into_iter().map(status).collect())
    }
}
