//! How people belong to a repository: whose words count.
//!
//! A commit says who made it, and anybody can write anything there. So a message counts as that of the pull request's author where
//! one brought the commit (squashing copies title and text), and as that of who pushed it otherwise: that person may write.

use super::github::GitHub;
use super::gitlab::{GitLab, Plain, text};
use crate::config::Association;
use crate::error::{Reason, Result};
use crate::event::Event;
use crate::gather::of_name;
use http::Method;
use serde_json::Value;

impl GitHub {
    /// Of the author of the pull request that brought the commit, or of who pushed it.
    pub async fn association(&self, event: &Event) -> Result<Vec<Association>> {
        let Some(sha) = &event.sha else { return Ok(Vec::new()) };
        let brought = is_of_pull_request(event.more.text.as_deref().unwrap_or_default());
        let tries = if brought { 3 } else { 1 };
        if let Some(pull) = self.pull_request_of(sha, None, tries).await? {
            return Ok(of_name(&pull.association));
        }
        let Some(login) = event.actor.as_ref().filter(|_| !brought) else { return Ok(Vec::new()) };
        let answer = self.call(Method::GET, &format!("/collaborators/{}/permission", super::github::encode(login)), None).await?;
        Ok(match answer.text("/permission").as_deref() {
            Some("admin") => vec![Association::Owner, Association::Member, Association::Collaborator],
            Some("write") => vec![Association::Member, Association::Collaborator],
            _less => Vec::new(),
        })
    }
}

/// Whether a message says that a pull request brought the commit: GitHub's index may not know that yet.
fn is_of_pull_request(message: &str) -> bool {
    let subject = message.lines().next().unwrap_or_default();
    let number = |text: &str| text.chars().next().is_some_and(|c| c.is_ascii_digit());
    let squashed = subject.rsplit_once("(#").is_some_and(|(_, rest)| number(rest) && rest.ends_with(')'));
    squashed || subject.strip_prefix("Merge pull request #").is_some_and(number)
}

impl GitLab {
    /// Of the author of the merge request, or of who started the pipeline: Owners, and members from Developer on.
    pub async fn association(&self, event: &Event) -> Result<Vec<Association>> {
        let number = match (event.pr, &event.sha) {
            (None, Some(sha)) => self.merge_request_of(sha, event.branch.as_deref()).await,
            (number, _) => Ok(number),
        };
        let author = match number {
            Ok(Some(number)) => {
                let path = self.at(&format!("merge_requests/{number}"));
                self.find(&Plain::get(path), "read the merge request")
                    .await
                    .map(|found| found.and_then(|found| text(&found, "/author/username")))
            }
            Ok(None) => Ok(event.actor.clone()),
            Err(error) => Err(error),
        };
        let member = match author {
            Ok(Some(login)) => self.member(&login).await,
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        match member {
            Ok(Some(50..)) => Ok(vec![Association::Owner, Association::Member, Association::Collaborator]),
            Ok(Some(30..50)) => Ok(vec![Association::Member, Association::Collaborator]),
            Ok(Some(_) | None) => Ok(Vec::new()),
            Err(error) if error.reason == Reason::AuthDenied => Ok(Vec::new()), // a job's own token may not ask
            Err(error) => Err(error),
        }
    }

    /// The level of a user in the project, inherited or not.
    async fn member(&self, login: &str) -> Result<Option<u64>> {
        let query = vec![("query", login.to_owned())];
        let found = self.find(&Plain { query, ..Plain::get(self.at("members/all")) }, "list members").await?;
        let members = found.iter().filter_map(Value::as_array).flatten();
        let is_it = |member: &&Value| member.get("username").and_then(Value::as_str) == Some(login);
        Ok(members.filter(is_it).filter_map(|member| member.get("access_level")?.as_u64()).max())
    }
}
