//! AWX's REST API, as far as a launch needs it: <https://ansible.readthedocs.io/projects/awx/en/latest/rest_api/>.

use crate::config::{Awx, AwxKind, NameOrId, template::Values};
use crate::error::{Error, Reason, Result};
use crate::targets::{Site, secret};
use crate::tools::http::{self, chain};
use crate::tools::secret::Secret;
use crate::tools::wait::Clock;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::time::Duration;

/// How much of an answer is read.
const ANSWER_LIMIT: usize = 32 * 1024 * 1024;
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// Who we are to AWX.
enum Who {
    Token(Secret),
    User(Secret, Secret),
}

/// A client for one AWX.
pub struct Api {
    client: reqwest::Client,
    clock: Clock,
    /// The address without a slash at its end.
    pub host: String,
    who: Who,
}

/// An answer.
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Answer {
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.body.pointer(pointer).and_then(Value::as_str)
    }

    pub fn number(&self, pointer: &str) -> Option<u64> {
        self.body.pointer(pointer).and_then(Value::as_u64)
    }

    /// Whether a flag is set.
    pub fn is(&self, name: &str) -> bool {
        self.body.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// What AWX says about it: `detail`, or the fields it complains about.
    pub fn words(&self) -> String {
        if let Some(detail) = self.text("/detail") {
            return detail.to_owned();
        }
        let fields = self.body.as_object().into_iter().flatten().map(|(name, why)| match why {
            Value::Array(lines) => format!("{name}: {}", lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
            Value::String(line) => format!("{name}: {line}"),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => format!("{name}: {why}"),
        });
        let fields: Vec<String> = fields.collect();
        if fields.is_empty() { self.status.to_string() } else { crate::tools::console::cut(&fields.join("; "), 500) }
    }
}

impl Api {
    pub fn open(site: &Site<'_>, values: &Values, awx: &Awx) -> Result<Self> {
        let host = site.fill(values, &awx.host)?;
        let host = site.world.detour.as_ref().map_or(host, |sandbox| format!("{sandbox}/awx"));
        let who = match (&awx.token, &awx.login) {
            (Some(token), _) => Who::Token(secret(site.world, &token.env, "the token of AWX")?),
            (None, Some(login)) => Who::User(
                secret(site.world, &login.username.env, "the user of AWX")?,
                secret(site.world, &login.password.env, "the password of AWX")?,
            ),
            (None, None) => return Err(Error::new(Reason::Internal, "AWX without a login")),
        };
        if !host.starts_with("https://") && !crate::config::is_loopback(&host) {
            return Err(Error::new(Reason::InputInvalid, format!("{host} is not https: the login would be read on the way")));
        }
        Ok(Self { client: http::client(&site.world.vars)?, clock: site.world.clock, host: host.trim_end_matches('/').to_owned(), who })
    }

    /// Asks once, without judging. What is lost says so.
    pub async fn once(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let answer = self.request(method.clone(), path, body).send();
        let answer = tokio::time::timeout(REQUEST_LIMIT, answer).await;
        let lost =
            |why: String| Error { lost: true, ..Error::new(Reason::TargetFailed, format!("AWX did not answer {method} {path}: {why}")) };
        match answer {
            Ok(Ok(answer)) => self.read(answer).await.map_err(lost),
            Ok(Err(error)) => {
                let arrived = !error.is_connect();
                Err(Error { lost: arrived, ..lost(chain(&error.without_url())) }.hint(format!("is {} right, and up?", self.host)))
            }
            Err(_elapsed) => Err(lost(format!("nothing within {}", humantime::format_duration(REQUEST_LIMIT)))),
        }
    }

    /// Reads something: again after passing failures.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        let answer = http::send(&self.clock, self.request(Method::GET, path, None)).await;
        let failed = |why: String| {
            Error::new(Reason::TargetFailed, format!("AWX did not answer GET {path}: {why}"))
                .hint(format!("is {} right, and up?", self.host))
        };
        let answer = self.read(answer.map_err(failed)?).await.map_err(failed)?;
        self.judge(answer, &format!("GET {path}"))
    }

    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.host)).header("accept", "application/json");
        let request = match &self.who {
            Who::Token(token) => request.bearer_auth(token.expose()),
            Who::User(name, password) => request.basic_auth(name.expose(), Some(password.expose())),
        };
        match body {
            Some(body) => request.json(body),
            None => request,
        }
    }

    async fn read(&self, answer: reqwest::Response) -> std::result::Result<Answer, String> {
        let status = answer.status();
        let bytes = http::limited(answer, ANSWER_LIMIT).await?;
        match serde_json::from_slice(&bytes) {
            Ok(body) => Ok(Answer { status, body }),
            Err(_) if bytes.is_empty() || !status.is_success() => Ok(Answer { status, body: Value::Null }),
            Err(_) => Err(format!("{} answers something else than JSON: is AWX there?", self.host)),
        }
    }

    /// A success, or what is wrong in words.
    pub fn judge(&self, answer: Answer, what: &str) -> Result<Answer> {
        let sentence = format!("AWX answers {} to {what}: {}", answer.status.as_u16(), answer.words());
        match answer.status.as_u16() {
            200..=299 => Ok(answer),
            401 => Err(Error::new(Reason::AuthMissing, sentence).hint("AWX does not know this login: has the token expired?")),
            403 => Err(Error::new(Reason::AuthDenied, sentence).hint("the user needs the role Execute on the template")),
            404 => Err(Error { gone: true, ..Error::new(Reason::TargetMissing, sentence) }),
            400 => Err(Error::new(Reason::TargetInput, sentence)),
            _other => Err(Error::new(Reason::TargetFailed, sentence)),
        }
    }

    /// The number of something with this exact name.
    pub async fn id_of(&self, list: &str, name: &NameOrId, organization: Option<&str>) -> Result<u64> {
        let name = match name {
            NameOrId::Id(id) => return Ok(*id),
            NameOrId::Name(name) => name,
        };
        let query = {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair("name", name).append_pair("page_size", "20");
            organization.into_iter().for_each(|organization| _ = query.append_pair("organization__name", organization));
            query.finish()
        };
        let answer = self.get(&format!("/api/v2/{list}/?{query}")).await?;
        let results = answer.body.pointer("/results").and_then(Value::as_array).cloned().unwrap_or_default();
        let exact = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some(name.as_str());
        let found: Vec<&Value> = results.iter().filter(exact).collect();
        let what = list.trim_end_matches('s').replace("inventorie", "inventory").replace('_', " ");
        let id = |entry: &Value| entry.get("id").and_then(Value::as_u64);
        match found.as_slice() {
            [one] => id(one).ok_or_else(|| Error::new(Reason::TargetFailed, format!("AWX names the {what} {name:?} without its number"))),
            [] => {
                let place = organization.map(|organization| format!(" in the organization {organization}")).unwrap_or_default();
                Err(Error::new(Reason::TargetMissing, format!("AWX has no {what} {name:?}{place} that this user sees"))
                    .hint("names are exact, upper and lower case too; the user needs a role on it"))
            }
            several => {
                let organization = |entry: &&Value| {
                    let named = entry.pointer("/summary_fields/organization/name").and_then(Value::as_str).unwrap_or("no organization");
                    format!("{} ({named})", id(entry).unwrap_or_default())
                };
                let places: Vec<String> = several.iter().map(organization).collect();
                Err(Error::new(Reason::TargetInput, format!("AWX has {} {what}s named {name:?}: {}", several.len(), places.join(", ")))
                    .hint("add `organization:`, or name it by its number"))
            }
        }
    }
}

/// The parts of paths that differ between jobs and workflows.
pub struct Paths {
    /// The list of templates.
    pub templates: &'static str,
    /// The list of what was launched, also below a template.
    pub jobs: &'static str,
    /// What the answer to a launch calls the new number.
    pub id: &'static str,
    /// What people call it.
    pub word: &'static str,
    /// The page of a job.
    page: &'static str,
}

impl Paths {
    pub fn of(kind: AwxKind) -> Self {
        match kind {
            AwxKind::Job => Self { templates: "job_templates", jobs: "jobs", id: "job", word: "job", page: "playbook" },
            AwxKind::Workflow => {
                Self { templates: "workflow_job_templates", jobs: "workflow_jobs", id: "workflow_job", word: "workflow", page: "workflow" }
            }
        }
    }

    /// Where a person sees the job.
    pub fn page(&self, host: &str, id: u64) -> String {
        format!("{host}/#/jobs/{}/{id}/output", self.page)
    }
}
