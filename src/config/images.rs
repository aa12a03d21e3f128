//! `images:` of `tidegate.yml`: what is built, from what, and where it is pushed.

use super::SecretName;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An image: what it is built from and where it is pushed.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Image {
    /// Registry host and repository, without a tag.
    pub repository: String,
    /// The folder sent to the builder.
    #[serde(default = "dot")]
    pub context: String,
    /// The Dockerfile inside the context, perhaps with a fallback.
    #[serde(default)]
    pub dockerfile: Dockerfile,
    /// The stage to build; the last one when not given.
    pub target: Option<String>,
    /// Build arguments. They stand in the image's history: never put a secret here.
    #[serde(default)]
    pub args: IndexMap<String, String>,
    /// Build secrets, mounted for single RUN steps (`--mount=type=secret,id=NAME`).
    #[serde(default)]
    pub secrets: IndexMap<String, SecretName>,
    /// Lets RUN steps use the SSH agent (`--mount=type=ssh`).
    #[serde(default)]
    pub ssh: bool,
    /// Platforms, as linux/amd64; the engine's own when empty.
    #[serde(default)]
    pub platforms: Vec<String>,
    /// Where build layers are cached between runs.
    #[serde(default)]
    pub cache: Cache,
    /// In a monorepo: globs from the root of the repository, `!` takes out; the image is built only when one of these files changed.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Labels to add to the image.
    #[serde(default)]
    pub labels: IndexMap<String, String>,
    /// Attach a provenance attestation.
    #[serde(default)]
    pub provenance: bool,
    /// What to do about the ECR repository itself.
    #[serde(default)]
    pub ensure_repository: EnsureRepository,
    /// Further repositories that get the same bytes, and so the same digest, under the same tags.
    #[serde(default)]
    pub copies: Vec<String>,
    /// How a release gets its image: by copying the digest that was built at merge, or by a new build.
    #[serde(default)]
    pub promote: Promote,
}

fn dot() -> String {
    ".".into()
}

/// Which Dockerfile.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum Dockerfile {
    /// One path; placeholders are allowed.
    Path(String),
    /// A path, and another one for when the first does not exist.
    WithFallback(DockerfileChoice),
}

impl Default for Dockerfile {
    fn default() -> Self {
        Self::Path("Dockerfile".into())
    }
}

/// A Dockerfile with a fallback.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DockerfileChoice {
    /// The first choice, as "Dockerfile.{environment}".
    pub file: String,
    /// Used when the first choice does not exist.
    pub fallback: String,
}

/// Where build layers are cached between runs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum Cache {
    /// A named kind.
    Kind(CacheKind),
    /// A registry reference of its own.
    At(CacheAt),
    #[default]
    /// The engine's own cache only.
    Engine,
}

/// A kind of build cache.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CacheKind {
    /// No cache at all: every step runs.
    None,
    /// Layers of the images already in the repository.
    Registry,
    /// GitHub's cache service.
    Gha,
}

/// A cache reference.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CacheAt {
    /// An image reference that holds the cache.
    pub registry: String,
}

/// What to do about the ECR repository itself.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum EnsureRepository {
    /// Leave it alone, or only check that it exists.
    Mode(EnsureMode),
    /// Create it like this when it does not exist.
    Create(RepositoryTemplate),
}

impl Default for EnsureRepository {
    fn default() -> Self {
        Self::Mode(EnsureMode::Check)
    }
}

/// Leave the repository alone, or check it.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum EnsureMode {
    /// Do not look.
    Off,
    /// Fail early, with the command to create it, when it does not exist.
    Check,
}

/// How a new ECR repository is made.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RepositoryTemplate {
    /// Whether tags can be overwritten.
    pub mutability: Option<Mutability>,
    /// Scan images when they are pushed.
    #[serde(default)]
    pub scan_on_push: bool,
    /// A lifecycle policy: the path of a JSON file in the repository.
    pub lifecycle: Option<String>,
    /// The KMS key for encryption; AES-256 when not given.
    pub kms: Option<String>,
    /// AWS tags of the repository.
    #[serde(default)]
    pub tags: IndexMap<String, String>,
}

/// Whether tags of an ECR repository can be overwritten.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum Mutability {
    /// All or none.
    Mode(MutabilityMode),
    /// None but these (wildcards).
    ImmutableExcept(ImmutableExcept),
}

/// All tags or none.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MutabilityMode {
    /// Tags can be overwritten.
    Mutable,
    /// Tags stay.
    Immutable,
}

/// Immutable but for these tags.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ImmutableExcept {
    /// Wildcards of tags that may move, as latest or env-*.
    pub immutable_except: Vec<String>,
}

/// How a release gets its image.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Promote {
    /// The same manifest bytes get the new tag.
    #[default]
    Digest,
    /// A new build.
    Rebuild,
}
