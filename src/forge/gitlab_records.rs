//! What GitLab shows of deliveries: deployments, environments, commit statuses, releases; and pipelines elsewhere.
//!
//! <https://docs.gitlab.com/api/deployments/>. A job with `environment:` has a deployment already: it gets no second one.

use super::DeploymentState;
use super::deployments::{DeploymentStatus, NewDeployment};
use super::gitlab::{GitLab, Plain, built, text};
use crate::error::{Error, Reason, Result};
use gitlab::api::common::SortOrder;
use gitlab::api::endpoint_prelude::{Cow, Endpoint, Method, Pageable, QueryParams};
use gitlab::api::projects::deployments::{
    CreateDeployment, DeploymentOrderBy, DeploymentStatus as Status, DeploymentStatusFilter, Deployments, EditDeployment,
};
use gitlab::api::projects::environments::{EnvironmentState, Environments};
use gitlab::api::projects::releases::ProjectReleaseByTag;
use gitlab::api::projects::repository::commits::{CommitStatusState, CreateCommitStatus};
use gitlab::api::{AsyncQuery, Pagination, paged};
use serde_json::Value;

/// A deployment as GitLab keeps it.
#[derive(Clone, Debug)]
pub struct Deployed {
    /// Its id.
    pub id: u64,
    /// The commit.
    pub sha: String,
    /// The job that it belongs to; none when it was made through the API.
    pub job: Option<u64>,
}

/// An endpoint with pages by number; the crate does not know it of all that have them.
struct Listed<E>(E);

impl<E: Endpoint> Endpoint for Listed<E> {
    fn method(&self) -> Method {
        self.0.method()
    }

    fn endpoint(&self) -> Cow<'static, str> {
        self.0.endpoint()
    }

    fn parameters(&self) -> QueryParams<'_> {
        self.0.parameters()
    }
}

impl<E> Pageable for Listed<E> {}

impl Deployed {
    fn of(value: &Value) -> Option<Self> {
        let job = value.pointer("/deployable/id").and_then(Value::as_u64);
        Some(Self { id: value.pointer("/id")?.as_u64()?, sha: text(value, "/sha")?, job })
    }
}

impl GitLab {
    /// The environment on GitLab: the one that the job's `environment:` names, or else the delivery's own.
    pub fn place<'a>(&'a self, own: &'a str) -> &'a str {
        self.job.as_ref().and_then(|job| job.environment.as_deref()).unwrap_or(own)
    }

    /// An environment's deployments, newest first.
    async fn list(&self, environment: &str, status: Option<DeploymentStatusFilter>, limit: usize) -> Result<Vec<Deployed>> {
        let mut builder = Deployments::builder();
        builder.project(&self.project).environment(environment).order_by(DeploymentOrderBy::Id).sort(SortOrder::Descending);
        if let Some(status) = status {
            builder.status(status);
        }
        let endpoint = built(builder.build())?;
        let found = self.pages(endpoint, Pagination::Limit(limit), "list the deployments").await?;
        Ok(found.iter().filter_map(Deployed::of).collect())
    }

    /// All pages of a list.
    pub(super) async fn pages<E: Endpoint + Sync + Send>(&self, endpoint: E, limit: Pagination, what: &str) -> Result<Vec<Value>> {
        let found: std::result::Result<Vec<Value>, _> = paged(Listed(endpoint), limit).query_async(&self.client).await;
        found.map_err(|error| self.judge(&error, true, what))
    }

    /// Records that a delivery begins; its id. The job's own deployment counts as that.
    pub async fn begin_deployment(&self, new: &NewDeployment<'_>, reference: (&str, bool)) -> Result<u64> {
        let place = self.place(new.environment);
        // A preview has one in any case: with merged results the job is about a test merge.
        let sha = Some(new.sha).filter(|_| !new.transient);
        if let Some(own) = self.own_deployment(place, sha).await? {
            return Ok(own);
        }
        let (name, tag) = reference;
        let mut builder = CreateDeployment::builder();
        builder.project(&self.project).environment(place).sha(new.sha).ref_(name).tag(tag).status(Status::Running);
        let answer = self.ask(&built(builder.build())?, "create a deployment").await;
        let made = match answer {
            Ok(answer) => answer.pointer("/id").and_then(Value::as_u64),
            // The answer was lost: what was asked for may be there.
            Err(error) if error.lost => self.unended(place, new.sha).await?.map(|found| found.id),
            Err(error) => return Err(error),
        };
        made.ok_or_else(|| Error::new(Reason::ForgeFailed, "GitLab did not record the deployment"))
    }

    /// The deployment that GitLab made for this job, if it is about this commit: that of a version by hand is another one.
    async fn own_deployment(&self, place: &str, sha: Option<&str>) -> Result<Option<u64>> {
        let Some(job) = self.job.as_ref().filter(|job| job.environment.is_some()) else { return Ok(None) };
        let newest = self.list(place, None, 20).await?;
        let own = newest
            .iter()
            .find(|deployment| deployment.job == Some(job.id) && sha.is_none_or(|sha| sha == deployment.sha))
            .map(|own| own.id);
        if let Some(own) = own {
            let _known = self.own.set(own);
        }
        Ok(own)
    }

    /// A deployment of this commit that we made through the API and that has not ended.
    pub async fn unended(&self, environment: &str, sha: &str) -> Result<Option<Deployed>> {
        let running = self.list(environment, Some(DeploymentStatusFilter::Running), 20).await?;
        Ok(running.into_iter().find(|deployment| deployment.sha == sha && deployment.job.is_none()))
    }

    /// Ends a deployment. That of a job ends with the job: GitLab refuses to change it, and nothing is lost.
    pub async fn end_deployment(&self, status: &DeploymentStatus<'_>) -> Result<()> {
        if status.state == DeploymentState::InProgress {
            return Ok(()); // it was made so
        }
        let said = match status.state {
            DeploymentState::InProgress => Status::Running,
            DeploymentState::Success => Status::Success,
            DeploymentState::Failure => Status::Failed,
            DeploymentState::Error | DeploymentState::Inactive => Status::Canceled,
        };
        if self.own.get() == Some(&status.id) {
            return Ok(());
        }
        let endpoint = built(EditDeployment::builder().project(&self.project).deployment_id(status.id).status(said).build())?;
        self.ask(&endpoint, "end a deployment").await.map(drop)
    }

    /// The names of the environments that are there.
    pub async fn environments(&self) -> Result<Vec<String>> {
        let endpoint = built(Environments::builder().project(&self.project).states(EnvironmentState::Available).build())?;
        let found = self.pages(endpoint, Pagination::Limit(500), "list the environments").await?;
        Ok(found.iter().filter_map(|environment| text(environment, "/name")).collect())
    }

    /// Marks an environment as stopped. GitLab does that by itself when a stop job ends well.
    pub async fn stop_environment(&self, name: &str) -> Result<bool> {
        let query = vec![("name", name.to_owned())];
        let found = self.ask(&Plain { query, ..Plain::get(self.at("environments")) }, "find an environment").await?;
        let there = found.as_array().into_iter().flatten().find(|there| text(there, "/state").as_deref() != Some("stopped"));
        let Some(id) = there.and_then(|environment| environment.pointer("/id")).and_then(Value::as_u64) else { return Ok(false) };
        // Without `force` GitLab would start the stop job, which is us.
        let form = vec![("force".to_owned(), "true".to_owned())];
        let endpoint = Plain { method: Method::POST, form, ..Plain::get(self.at(&format!("environments/{id}/stop"))) };
        self.ask(&endpoint, "stop an environment").await.map(|_stopped| true)
    }

    /// Says on a commit how its delivery went. A commit that this pipeline is not about shows nothing otherwise.
    pub async fn set_commit_status(&self, sha: &str, name: &str, status: &DeploymentStatus<'_>) -> Result<()> {
        self.needs_access_token("set commit statuses")?;
        let state = match status.state {
            DeploymentState::InProgress => CommitStatusState::Running,
            DeploymentState::Success => CommitStatusState::Success,
            DeploymentState::Failure => CommitStatusState::Failed,
            DeploymentState::Error | DeploymentState::Inactive => CommitStatusState::Canceled,
        };
        let description = crate::tools::console::cut(status.description, 255);
        let mut builder = CreateCommitStatus::builder();
        builder.project(&self.project).commit(sha).state(state).name(name).description(description.as_str());
        if let Some(url) = status.log_url {
            builder.target_url(url);
        }
        self.ask(&built(builder.build())?, "set a commit status").await.map(drop)
    }

    /// Whether there is a release of this tag, and whether its day is still to come.
    pub async fn release(&self, tag: &str) -> Result<Option<bool>> {
        let endpoint = built(ProjectReleaseByTag::builder().project(&self.project).tag(tag).build())?;
        let found = self.find(&endpoint, "read a release").await?;
        Ok(found.map(|release| release.pointer("/upcoming_release").and_then(Value::as_bool).unwrap_or(false)))
    }

    /// The job that holds a resource group now. Before 18.6, and to the job's own token, GitLab does not tell.
    pub async fn holder_of(&self, resource_group: &str) -> Result<Holder> {
        if !self.has_access_token() {
            return Ok(Holder::Untold);
        }
        let group = self.at(&format!("resource_groups/{}", super::github::encode(resource_group)));
        if let Some(found) = self.find(&Plain::get(format!("{group}/current_job")), "read the holder of the resource group").await? {
            return Ok(found.pointer("/id").and_then(Value::as_u64).map_or(Holder::Nobody, Holder::Job));
        }
        let known = self.find(&Plain::get(group), "read the resource group").await?;
        Ok(if known.is_some() { Holder::Untold } else { Holder::NoGroup })
    }

    /// A file of a generic package, the newest of its name; nothing when there is none.
    pub async fn package(&self, (name, version, file): (&str, &str, &str)) -> Result<Option<Value>> {
        self.find(&Plain::get(self.at(&package_path(name, version, file))), "read the records (package registry)").await
    }

    /// Writes a file of a generic package.
    pub async fn put_package(&self, (name, version, file): (&str, &str, &str), text: String) -> Result<()> {
        let endpoint = Plain { method: Method::PUT, raw: Some(text), ..Plain::get(self.at(&package_path(name, version, file))) };
        let written = self.ask(&endpoint, "write the records (package registry)").await;
        written.map(drop).map_err(|error| {
            error.hint(
                "records are kept in a generic package: the package registry has to be on (Settings > General > Visibility) and has to take \
                 duplicates (Settings > Packages and registries of the group); or keep them in S3 or Redis (`state:`)",
            )
        })
    }

    /// The versions of a generic package.
    pub async fn package_versions(&self, name: &str) -> Result<Vec<String>> {
        let query = vec![("package_type", "generic".to_owned()), ("package_name", name.to_owned())];
        let found = self.pages(Plain { query, ..Plain::get(self.at("packages")) }, Pagination::Limit(500), "list the packages").await?;
        let ours = found.iter().filter(|package| text(package, "/name").as_deref() == Some(name));
        Ok(ours.filter_map(|package| text(package, "/version")).collect())
    }
}

fn package_path(name: &str, version: &str, file: &str) -> String {
    format!("packages/generic/{name}/{}/{file}", super::github::encode(version))
}

/// Who holds a resource group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This job.
    Job(u64),
    /// Nobody, although there is such a group.
    Nobody,
    /// There is no such group.
    NoGroup,
    /// GitLab does not say.
    Untold,
}
