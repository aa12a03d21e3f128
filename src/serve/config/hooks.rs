//! Webhooks: who sends them, how they prove it, and what they start.

use super::SecretFile;
use crate::config::{OneOrMany, SecretName, Span};
use schemars::JsonSchema;
use serde::Deserialize;

/// A webhook.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Hook {
    /// Pushes to Docker Hub, at /autodock/v1/ or with the secret in the path.
    DockerHub(DockerHub),
    /// Deliveries of GitHub, at /hooks/NAME, signed with X-Hub-Signature-256.
    Github(Forge),
    /// Deliveries of GitLab, at /hooks/NAME, with X-Gitlab-Token.
    Gitlab(Forge),
    /// Requests signed as standard-webhooks has it, with their time, at /hooks/NAME.
    Signed(Signed),
    /// Pushes to ECR, as EventBridge puts them into an SQS queue.
    Ecr(EcrQueue),
}

/// Docker Hub signs nothing: the path or a login is the proof, and the registry is asked for what is there.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DockerHub {
    /// A login: https://USER:PASSWORD@host/autodock/v1/.
    pub login: Option<HookLogin>,
    /// A secret in the path: https://host/autodock/v1/SECRET.
    pub secret_path: Option<SecretName>,
    /// Hosts that a `callback_url` may name.
    #[serde(default = "docker_hub")]
    pub callback_hosts: Vec<String>,
    /// What starts what.
    pub rules: Vec<Rule>,
}

fn docker_hub() -> Vec<String> {
    vec!["registry.hub.docker.com".into(), "hub.docker.com".into()]
}

/// A login of a webhook.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HookLogin {
    /// The user's name.
    #[serde(default = "user")]
    pub username: String,
    /// The password.
    pub password: HookSecret,
}

fn user() -> String {
    "user".into()
}

/// A secret of a webhook.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum HookSecret {
    /// The environment variable that holds it.
    Env(SecretName),
    /// The file that holds it; a `user:` before it and white space after it do not count.
    File(SecretFile),
}

/// A forge's deliveries.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Forge {
    /// The webhook's secret.
    pub secret: SecretName,
    /// What starts what.
    pub rules: Vec<Rule>,
}

/// Signed requests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Signed {
    /// The key: whsec_ and base64, or any text.
    pub secret: SecretName,
    /// How far the request's time may be off.
    #[serde(default = "five_minutes")]
    pub tolerance: Span,
    /// What starts what.
    pub rules: Vec<Rule>,
}

fn five_minutes() -> Span {
    Span(std::time::Duration::from_secs(300))
}

/// A queue with EventBridge's `ECR Image Action` events.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EcrQueue {
    /// The queue's name.
    pub queue: String,
    /// Its region.
    #[schemars(regex(pattern = r"^[a-z]{2}(-[a-z]+)+-\d$"))]
    pub region: String,
    /// The role to assume.
    pub role: Option<String>,
    /// What starts what.
    pub rules: Vec<Rule>,
}

/// What starts what: all that is said must fit.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    /// The events of a forge, as push or release.
    pub events: Option<OneOrMany<String>>,
    /// The repository, as jincor/frontend; a glob.
    pub repository: Option<String>,
    /// The tags; globs.
    pub tags: Option<OneOrMany<String>>,
    /// The branches; globs.
    pub branches: Option<OneOrMany<String>>,
    /// The image whose tag is looked up at its registry before anything starts (default: what a registry's event names).
    pub image: Option<String>,
    /// The app to deploy.
    pub app: Option<String>,
    /// Or a command: the program and its arguments, without a shell.
    pub command: Option<Vec<String>>,
    /// The runner whose surroundings a command has (default: a process with nothing more than its variables).
    pub runner: Option<String>,
    /// What a command's jobs are one at a time for (default: the repository).
    pub inventory: Option<String>,
    /// How long a command may take.
    pub timeout: Option<Span>,
}

impl Hook {
    /// Its rules.
    pub fn rules(&self) -> &[Rule] {
        match self {
            Self::DockerHub(hub) => &hub.rules,
            Self::Github(forge) | Self::Gitlab(forge) => &forge.rules,
            Self::Signed(signed) => &signed.rules,
            Self::Ecr(queue) => &queue.rules,
        }
    }

    /// Its key in the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::DockerHub(_) => "docker-hub",
            Self::Github(_) => "github",
            Self::Gitlab(_) => "gitlab",
            Self::Signed(_) => "signed",
            Self::Ecr(_) => "ecr",
        }
    }
}
