//! The comments of one pull request, on either forge: list, create, edit, delete. Which are ours is said in `comments.rs`.

use super::Forge;
use super::github::GitHub;
use super::gitlab::{GitLab, Plain, built, text};
use crate::error::Result;
use gitlab::api::Pagination;
use gitlab::api::common::SortOrder;
use gitlab::api::projects::merge_requests::notes::{CreateMergeRequestNote, EditMergeRequestNote, MergeRequestNotes, NoteOrderBy};
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

const WRITE: &str = "pull-requests: write";
/// More notes than this are not looked through: 10,000 is where GitLab stops counting.
const NOTES: usize = 10_000;

/// The comments of a pull request, or the notes of a merge request.
pub enum Thread<'a> {
    /// GitHub.
    GitHub(&'a GitHub, u64),
    /// GitLab.
    GitLab(&'a GitLab, u64),
}

/// A comment.
pub struct Found {
    /// Its id.
    pub id: u64,
    /// Markdown.
    pub body: String,
}

/// Who a token writes as. GitHub's installation tokens (`github.token`) may not ask; they write as a bot.
pub enum Author {
    /// A user, or GitLab's bot of an access token.
    User(String),
    /// A bot of GitHub's, by its login where that is known.
    Bot(Option<String>),
}

impl Forge {
    /// The comments of a pull request; none without a forge.
    pub fn thread(&self, number: u64) -> Option<Thread<'_>> {
        match self {
            Self::GitHub(github) => Some(Thread::GitHub(github, number)),
            Self::GitLab(gitlab) => Some(Thread::GitLab(gitlab, number)),
            Self::Absent { .. } => None,
        }
    }
}

impl Thread<'_> {
    /// Who we write as.
    pub async fn author(&self) -> Result<Author> {
        match self {
            Self::GitHub(github, _) => Ok(match github.viewer().await? {
                Some(login) => Author::User(login),
                None => Author::Bot(github.identity()),
            }),
            Self::GitLab(gitlab, _) => {
                gitlab.needs_access_token("write notes on merge requests")?;
                Ok(Author::User(gitlab.viewer().await?.unwrap_or_default()))
            }
        }
    }

    /// What this author wrote.
    pub async fn list(&self, author: &Author) -> Result<Vec<Found>> {
        let all = match self {
            Self::GitHub(github, number) => comments(github, *number).await?,
            Self::GitLab(gitlab, number) => notes(gitlab, *number).await?,
        };
        let of = |comment: &Value| {
            let found = Found { id: comment.pointer("/id")?.as_u64()?, body: text(comment, "/body").unwrap_or_default() };
            self.wrote(author, comment).then_some(found)
        };
        Ok(all.iter().filter_map(of).collect())
    }

    fn wrote(&self, author: &Author, comment: &Value) -> bool {
        let login = match self {
            Self::GitHub(..) => text(comment, "/user/login"),
            Self::GitLab(..) => text(comment, "/author/username").filter(|_| comment.pointer("/system") != Some(&Value::Bool(true))),
        };
        match author {
            Author::User(me) | Author::Bot(Some(me)) => login.as_ref() == Some(me),
            Author::Bot(None) => text(comment, "/user/type").as_deref() == Some("Bot"),
        }
    }

    /// Writes a new one.
    pub async fn create(&self, body: &str) -> Result<()> {
        match self {
            Self::GitHub(github, number) => {
                let path = format!("/issues/{number}/comments");
                github.expect(Method::POST, &path, Some(&json!({"body": body})), WRITE).await.map(drop)
            }
            Self::GitLab(gitlab, number) => {
                let mut builder = CreateMergeRequestNote::builder();
                builder.project(&gitlab.project).merge_request(*number).body(body);
                gitlab.ask(&built(builder.build())?, "write a note").await.map(drop)
            }
        }
    }

    /// Writes one anew.
    pub async fn edit(&self, id: u64, body: &str) -> Result<()> {
        match self {
            Self::GitHub(github, _) => {
                let path = format!("/issues/comments/{id}");
                github.expect(Method::PATCH, &path, Some(&json!({"body": body})), WRITE).await.map(drop)
            }
            Self::GitLab(gitlab, number) => {
                let mut builder = EditMergeRequestNote::builder();
                builder.project(&gitlab.project).merge_request(*number).note(id).body(body);
                gitlab.ask(&built(builder.build())?, "edit a note").await.map(drop)
            }
        }
    }

    /// Removes one.
    pub async fn delete(&self, id: u64) -> Result<()> {
        match self {
            Self::GitHub(github, _) => github.expect(Method::DELETE, &format!("/issues/comments/{id}"), None, WRITE).await.map(drop),
            Self::GitLab(gitlab, number) => {
                let path = gitlab.at(&format!("merge_requests/{number}/notes/{id}"));
                gitlab.ask(&Plain { method: Method::DELETE, ..Plain::get(path) }, "delete a note").await.map(drop)
            }
        }
    }

    /// Waits on the forge's clock before something is looked at again.
    pub async fn pause(&self) {
        match self {
            Self::GitHub(github, _) => github.pause().await,
            Self::GitLab(gitlab, _) => gitlab.client.clock.sleep(Duration::from_secs(1)).await,
        }
    }
}

async fn comments(github: &GitHub, number: u64) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for page in 1..=100 {
        let path = format!("/issues/{number}/comments?per_page=100&page={page}");
        let answer = github.expect(Method::GET, &path, None, "pull-requests: read").await?;
        all.extend(answer.body.as_array().into_iter().flatten().cloned());
        if !answer.has_next_page() {
            break;
        }
    }
    Ok(all)
}

/// Notes know pages by number only. Oldest first: what is written meanwhile does not move what was listed.
async fn notes(gitlab: &GitLab, number: u64) -> Result<Vec<Value>> {
    let mut builder = MergeRequestNotes::builder();
    builder.project(&gitlab.project).merge_request(number).order_by(NoteOrderBy::CreatedAt).sort(SortOrder::Ascending);
    gitlab.pages(built(builder.build())?, Pagination::Limit(NOTES), "list the notes").await
}
