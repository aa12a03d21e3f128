//! `tidegate.yml` as types. The JSON Schema is generated from them, and the checks in `load` walk that schema.

use crate::tools::glob::Glob;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod app_deploy;
mod backup;
mod check;
mod check_app_deploy;
mod check_backup;
mod check_ecs;
mod check_gates;
mod check_heroku;
mod check_targets;
mod check_trigger;
mod ecs;
mod environments;
mod heroku;
mod images;
pub mod load;
mod migrate;
pub mod problem;
pub mod schema;
mod secrets;
mod steps;
mod support;
mod targets;
pub mod template;
pub(crate) mod tree;
mod trigger;
mod values;
mod walk;

pub use app_deploy::*;
pub use backup::*;
pub use check_targets::is_loopback;
pub use check_trigger::check_alone;
pub use ecs::*;
pub use environments::*;
pub use heroku::*;
pub use images::*;
pub use load::{Loaded, load, parse};
pub use migrate::*;
pub use secrets::secret_of;
pub use steps::*;
pub use support::refuse_unsupported;
pub use targets::*;
pub use trigger::*;
pub use values::*;

/// The file's name at the root of the repository.
pub const FILE_NAME: &str = "tidegate.yml";

/// tidegate.yml: what to build and where to deploy it. Keys that start with `x-` are yours.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The version of this grammar; always 1.
    #[schemars(range(min = 1, max = 1))]
    pub schema: u32,
    /// The project's short name: lower-case letters, digits and dashes.
    #[schemars(regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"))]
    pub project: String,
    /// What may vary from run to run: value = `--set` or action input, then environment variable, then default.
    #[serde(default)]
    pub variables: IndexMap<String, Variable>,
    /// The AWS region and role; an environment may override both.
    #[serde(default)]
    pub aws: Aws,
    /// Where leases and records are kept: auto (the forge; files on a laptop), forge, s3://bucket/prefix, redis://host:port or file:folder.
    #[serde(default = "auto")]
    #[schemars(regex(pattern = r"^(auto|forge|s3://.+|rediss?://.+|file:.+)$"))]
    pub state: String,
    /// What builds images: auto (the Docker engine at hand) or a remote BuildKit address.
    #[serde(default = "auto")]
    pub builder: String,
    /// Whose pull requests and directives are trusted.
    #[serde(default)]
    pub trust: Trust,
    /// The images this project builds, by name.
    #[serde(default)]
    pub images: IndexMap<String, Image>,
    /// The places versions go to, by name.
    #[serde(default)]
    pub environments: IndexMap<String, Environment>,
    /// The lane for fixes of a released version, or forbid.
    pub hotfix: Option<HotfixRule>,
    /// What the tags of this project begin with, as release/ or svc-a/; a v after it is optional.
    #[serde(default)]
    #[schemars(regex(pattern = r"^([A-Za-z0-9._-]+[/@-])?$"))]
    pub tag_prefix: String,
    /// The comment on the pull request.
    #[serde(default)]
    pub comment: CommentRules,
}

/// The regular expression of a tag, which has to fit as a whole; or why it is none.
pub fn tag_pattern(pattern: &str) -> Result<regex::Regex, String> {
    const LENGTH_LIMIT: usize = 1000;
    if pattern.len() > LENGTH_LIMIT {
        return Err(format!("it is longer than {LENGTH_LIMIT} bytes"));
    }
    // Alone first, so that what it lacks is said of what was written.
    let built =
        [pattern.to_owned(), format!("^(?:{pattern})$")].map(|text| regex::RegexBuilder::new(&text).size_limit(1024 * 1024).build());
    let [alone, whole] = built.map(|built| built.map_err(|error| error.to_string().lines().last().unwrap_or_default().trim().to_owned()));
    alone.and(whole)
}

/// Whether a text fits a glob in which `*` stands for anything. Globs are looked at when the file is read; one that is none fits nothing.
pub fn is_match(glob: &str, text: &str) -> bool {
    Glob::of_text(glob).is_ok_and(|glob| glob.is_match(text))
}

fn auto() -> String {
    "auto".into()
}

fn yes() -> bool {
    true
}

/// One value that may vary.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Variable {
    /// The environment variable to read.
    pub env: Option<String>,
    /// The value when nothing else gives one.
    pub default: Option<String>,
}

/// A secret, named by the environment variable that holds it; its value never stands in this file.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SecretName {
    /// The environment variable that holds the secret.
    pub env: String,
}

/// AWS access.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Aws {
    /// The region, as eu-central-1.
    #[schemars(regex(pattern = r"^[a-z]{2}(-[a-z]+)+-\d$"))]
    pub region: Option<String>,
    /// The role to assume, as arn:aws:iam::123456789012:role/ci.
    #[schemars(regex(pattern = r"^arn:aws[a-z-]*:iam::\d{12}:role/.+$"))]
    pub role: Option<String>,
}

/// Whose pull requests and directives are trusted.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Trust {
    /// Bots whose runs have the secrets that they need: Dependabot, which has some of its own.
    #[serde(default)]
    pub bots: Vec<String>,
    /// Who may give directives in commit messages and pull requests, as `[tidegate skip]`.
    #[serde(default)]
    pub directives: Vec<Association>,
}

/// How a person belongs to the repository, as GitHub says it.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Association {
    Owner,
    Member,
    Collaborator,
    Contributor,
}

impl Association {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Owner, Self::Member, Self::Collaborator, Self::Contributor];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Owner => "OWNER",
            Self::Member => "MEMBER",
            Self::Collaborator => "COLLABORATOR",
            Self::Contributor => "CONTRIBUTOR",
        }
    }
}

impl Trust {
    /// Whether this is one of the bots, with or without the `[bot]` that GitHub adds to its login.
    pub fn is_trusted_bot(&self, login: &str) -> bool {
        let bare = login.strip_suffix("[bot]").unwrap_or(login);
        self.bots.iter().any(|bot| bot.strip_suffix("[bot]").unwrap_or(bot) == bare)
    }
}

/// The lane for fixes of a released version, or that there is none.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum HotfixRule {
    /// `forbid`: nothing is released beside the default branch.
    Word(Forbid),
    /// Where they come from, and where they go.
    Lane(Hotfix),
}

/// That something is forbidden.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Forbid {
    /// It is.
    Forbid,
}

/// The lane for fixes of a released version.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hotfix {
    /// Globs of branches that may hold hot fixes.
    #[serde(default)]
    pub branches: Vec<String>,
    /// The environment a hot fix goes to.
    pub to: String,
}

/// The comment on the pull request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CommentRules {
    /// When to comment.
    #[serde(default)]
    pub mode: CommentMode,
    /// A preview is of the test merge rather than of the head.
    #[serde(default = "yes")]
    pub preview_of_merge: bool,
}

impl Default for CommentRules {
    fn default() -> Self {
        Self { mode: CommentMode::Always, preview_of_merge: true }
    }
}

/// When to comment.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum CommentMode {
    /// After every delivery.
    #[default]
    Always,
    /// Only when something failed.
    OnFailure,
    /// Not at all.
    Never,
}

impl Config {
    /// A tag without what the tags of this project begin with; nothing when it is another project's.
    pub fn bare_tag<'t>(&self, tag: &'t str) -> Option<&'t str> {
        tag.strip_prefix(self.tag_prefix.as_str())
    }
}
