//! An image repository as the steps see it: ECR through its API where that saves requests, the registry protocol elsewhere.

use super::ecr::Ecr;
use super::oci::{Login, Manifest, Oci};
use super::{Pushed, Repository};
use crate::error::{Error, Reason, Result};
use crate::tools::process;
use crate::tools::secret::Secret;
use crate::world::World;
use base64::Engine;
use serde_json::Value;
use std::collections::BTreeMap;

/// The label that says what an image was made from.
pub const RECIPE_LABEL: &str = "dev.tidegate.recipe";
/// The tag under which `cache: registry` finds the layers of the last build.
pub const CACHE_TAG: &str = "buildcache";
/// The label with the commit. <https://github.com/opencontainers/image-spec/blob/main/annotations.md>
pub const REVISION_LABEL: &str = "org.opencontainers.image.revision";

/// A repository.
#[derive(Clone)]
pub struct Store {
    oci: Oci,
    ecr: Option<Ecr>,
    repository: Repository,
}

/// What an image says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its configuration's digest, and its platforms' manifests and configurations.
    pub identities: Vec<String>,
    /// Its compressed size in bytes, all platforms together.
    pub size: u64,
}

impl Store {
    /// Opens a repository with the login that belongs to its host.
    pub async fn open(world: &World, repository: &Repository, role: Option<String>) -> Result<Self> {
        let ecr = match repository.ecr() {
            Some(host) => Some(Ecr::new(&world.vars, repository, host, role).await?),
            None => None,
        };
        let login = match &ecr {
            Some(ecr) => Some(ecr.login().await?),
            None => login(world, &repository.host)?,
        };
        if let Some(login) = &login {
            world.console.mask(&login.password);
        }
        let oci = Oci::new(&world.vars, world.clock, repository, login)?;
        Ok(Self { oci, ecr, repository: repository.clone() })
    }

    /// ECR's own API, if this is on ECR.
    pub fn ecr(&self) -> Option<&Ecr> {
        self.ecr.as_ref()
    }

    /// The plain protocol.
    pub fn oci(&self) -> &Oci {
        &self.oci
    }

    /// Where it is.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The manifest of a tag.
    pub async fn manifest(&self, tag: &str) -> Result<Option<Manifest>> {
        match &self.ecr {
            Some(ecr) => Ok(ecr.manifests(&[tag]).await?.into_iter().next().map(|(_, manifest)| manifest)),
            None => self.oci.manifest(tag).await,
        }
    }

    /// The manifest with this digest, whatever tags it has.
    pub async fn by_digest(&self, digest: &str) -> Result<Option<Manifest>> {
        Ok(self.oci.manifest(digest).await?.filter(|manifest| manifest.digest == digest))
    }

    /// The manifest of `source` and the digest of `target`, with as few requests as the registry allows.
    pub async fn promotion(&self, source: &str, target: &str) -> Result<(Option<Manifest>, Option<String>)> {
        let Some(ecr) = &self.ecr else {
            return Ok((self.oci.manifest(source).await?, self.oci.digest(target).await?));
        };
        let mut found: BTreeMap<String, Manifest> = ecr.manifests(&[source, target]).await?.into_iter().collect();
        Ok((found.remove(source), found.remove(target).map(|manifest| manifest.digest)))
    }

    /// Gives a manifest a tag.
    pub async fn tag(&self, manifest: &Manifest, tag: &str) -> Result<()> {
        match &self.ecr {
            Some(ecr) => ecr.put_manifest(manifest, tag).await,
            None => self.oci.put_manifest(manifest, tag).await,
        }
    }

    /// Every tag.
    pub async fn tags(&self) -> Result<Vec<String>> {
        match &self.ecr {
            Some(ecr) => ecr.tags().await,
            None => self.oci.tags().await,
        }
    }

    /// What an image says about itself. An index is answered by its first platform's labels.
    pub async fn about(&self, manifest: &Manifest) -> Result<About> {
        let mut about = About { identities: vec![manifest.digest.clone()], ..About::default() };
        let json = manifest.json()?;
        let annotations = json.pointer("/annotations").and_then(Value::as_object);
        let pairs = annotations.into_iter().flatten().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        about.labels = pairs.filter(|(name, _)| name == RECIPE_LABEL || name == REVISION_LABEL).collect();
        let singles = if manifest.is_index() { self.platforms(manifest, &mut about).await? } else { vec![json] };
        for single in &singles {
            let config = single.pointer("/config/digest").and_then(Value::as_str).unwrap_or_default().to_owned();
            let sizes = single.pointer("/layers").and_then(Value::as_array).into_iter().flatten().chain(single.pointer("/config"));
            let bytes = sizes.filter_map(|part| part.pointer("/size")?.as_u64());
            about.size = bytes.fold(about.size, u64::saturating_add);
            if about.labels.is_empty() && !config.is_empty() {
                let json: Value = serde_json::from_slice(&self.oci.blob(&config).await?).unwrap_or(Value::Null);
                let labels = json.pointer("/config/Labels").and_then(Value::as_object);
                let pairs = labels.into_iter().flatten().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
                about.labels = pairs.collect();
            }
            about.identities.push(config);
        }
        Ok(about)
    }

    async fn platforms(&self, index: &Manifest, about: &mut About) -> Result<Vec<Value>> {
        let mut singles = Vec::new();
        for digest in index.platforms()? {
            let missing = || Error::new(Reason::PushFailed, format!("{}@{digest} is listed but not there", self.repository));
            singles.push(self.oci.manifest(&digest).await?.ok_or_else(missing)?.json()?);
            about.identities.push(digest);
        }
        Ok(singles)
    }

    /// An image that is in the registry, as it is deployed and reported.
    pub fn pushed(&self, tag: &str, manifest: &Manifest, about: &About) -> Pushed {
        Pushed {
            repository: self.repository.clone(),
            tag: tag.to_owned(),
            digest: manifest.digest.clone(),
            identities: about.identities.clone(),
            size: about.size,
        }
    }
}

/// The login for a host: the CI system's own registry, `DOCKER_AUTH_CONFIG`, then the Docker configuration file.
fn login(world: &World, host: &str) -> Result<Option<Login>> {
    let vars = &world.vars;
    let named = |user: Option<&str>, password: Option<&str>| Some(Login { user: user?.to_owned(), password: Secret::new(password?) });
    if let Some(text) = vars.get("DOCKER_AUTH_CONFIG")
        && let Some(login) = from_docker_config(text, host)?
    {
        return Ok(Some(login));
    }
    if host == "ghcr.io" {
        let token = crate::inputs::Inputs::of(vars).text("token").or_else(|| vars.get("GITHUB_TOKEN"));
        if let Some(login) = named(vars.get("GITHUB_ACTOR").or(Some("tidegate")), token) {
            return Ok(Some(login));
        }
    }
    if vars.get("CI_REGISTRY") == Some(host) {
        return Ok(named(vars.get("CI_REGISTRY_USER"), vars.get("CI_REGISTRY_PASSWORD")));
    }
    let folder = match (vars.get("DOCKER_CONFIG"), vars.get("HOME")) {
        (Some(folder), _) => std::path::PathBuf::from(folder),
        (None, Some(home)) => std::path::Path::new(home).join(".docker"),
        (None, None) => return Ok(None),
    };
    match std::fs::read_to_string(folder.join("config.json")) {
        Ok(text) => from_docker_config(&text, host),
        Err(_absent) => Ok(None),
    }
}

fn from_docker_config(text: &str, host: &str) -> Result<Option<Login>> {
    let broken = |why: &str| Error::new(Reason::AuthMissing, format!("the Docker configuration cannot be used for {host}: {why}"));
    let config: Value = serde_json::from_str(text).map_err(|error| broken(&error.to_string()))?;
    let keys = if host == "docker.io" { vec!["https://index.docker.io/v1/", "docker.io", "index.docker.io"] } else { vec![host] };
    for key in keys {
        let entry = config.get("auths").and_then(|auths| auths.get(key).or_else(|| auths.get(format!("https://{key}"))));
        if let Some(encoded) = entry.and_then(|entry| entry.get("auth")).and_then(Value::as_str).filter(|text| !text.is_empty()) {
            let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|_bytes| broken("its auth is not base64"))?;
            let text = String::from_utf8(decoded).map_err(|_bytes| broken("its auth is not text"))?;
            let (user, password) = text.split_once(':').ok_or_else(|| broken("its auth has no colon"))?;
            return Ok(Some(Login { user: user.to_owned(), password: Secret::new(password) }));
        }
        let helper = config.pointer("/credHelpers").and_then(|helpers| helpers.get(key)).or_else(|| entry.and(config.get("credsStore")));
        if let Some(helper) = helper.and_then(Value::as_str) {
            return from_helper(helper, key).map(Some);
        }
    }
    Ok(None)
}

/// <https://github.com/docker/docker-credential-helpers#development>
fn from_helper(helper: &str, host: &str) -> Result<Login> {
    let program = format!("docker-credential-{helper}");
    let failed = || Error::new(Reason::AuthMissing, format!("`{program} get` gives no login for {host}")).hint("run docker login again");
    let answer = process::ask(&program, &["get"], host).ok_or_else(failed)?;
    let answer: Value = serde_json::from_str(&answer).map_err(|_error| failed())?;
    let text = |name: &str| answer.get(name).and_then(Value::as_str).map(str::to_owned);
    Ok(Login { user: text("Username").ok_or_else(failed)?, password: Secret::new(text("Secret").ok_or_else(failed)?) })
}
