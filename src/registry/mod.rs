//! Registries: names of repositories, what an image is, and which registry has an API of its own.

use crate::error::{Error, Reason, Result};
use std::sync::LazyLock;

pub mod copy;
pub mod ecr;
pub mod oci;
pub mod scans;
pub mod store;

/// A registry host and a repository on it, without a tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Repository {
    /// The host, with a port where there is one.
    pub host: String,
    /// The path on the host.
    pub path: String,
}

/// An ECR registry, told by its host name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EcrHost {
    /// The AWS account.
    pub account: String,
    /// The region.
    pub region: String,
}

#[allow(clippy::expect_used)]
static ECR_HOST: LazyLock<regex::Regex> = LazyLock::new(|| {
    let pattern = r"^(\d{12})\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|on\.aws)$";
    regex::Regex::new(pattern).expect("a fixed pattern")
});

#[allow(clippy::expect_used)]
static PATH: LazyLock<regex::Regex> = LazyLock::new(|| {
    // https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests
    let pattern = r"^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$";
    regex::Regex::new(pattern).expect("a fixed pattern")
});

/// Whether this repository is on ECR.
pub fn is_ecr(repository: &str) -> bool {
    Repository::parse(repository).is_ok_and(|repository| repository.ecr().is_some())
}

impl Repository {
    /// Parses host/path. A name without a host is on Docker Hub, as everywhere else.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid =
            |why: &str, hint: &str| Err(Error::new(Reason::ConfigInvalid, format!("{text:?} is not a repository: {why}")).hint(hint));
        let (first, rest) = text.split_once('/').unwrap_or(("", text));
        let is_host = first.contains(['.', ':']) || first == "localhost";
        let (host, path) = if is_host { (first, rest) } else { ("docker.io", text) };
        let path = if host == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        if path.contains('@') || path.rsplit('/').next().is_some_and(|last| last.contains(':')) {
            return invalid("it has a tag or digest", "leave the tag out: tidegate adds the version");
        }
        if path.chars().any(|c| c.is_ascii_uppercase()) {
            return invalid("it has upper-case letters", "registries take lower case only");
        }
        if !PATH.is_match(&path) || path.len() > 255 || host.len() > 253 {
            return invalid(
                "registries do not take such a name",
                "as ghcr.io/acme/web or 123456789012.dkr.ecr.eu-central-1.amazonaws.com/web",
            );
        }
        Ok(Self { host: host.to_owned(), path })
    }

    /// The ECR registry that this is on, if it is.
    pub fn ecr(&self) -> Option<EcrHost> {
        let parts = ECR_HOST.captures(&self.host)?;
        Some(EcrHost { account: parts.get(1)?.as_str().to_owned(), region: parts.get(2)?.as_str().to_owned() })
    }

    /// The name with a tag.
    pub fn tagged(&self, tag: &str) -> String {
        format!("{self}:{tag}")
    }

    /// Whether an image reference, as a cluster shows it, is of this repository.
    pub fn owns(&self, reference: &str) -> bool {
        let name = reference.split('@').next().unwrap_or(reference);
        let name = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => name,
            Some(_) | None => name,
        };
        Self::parse(name).is_ok_and(|other| other == *self)
    }
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

/// An image in a registry: what is deployed and reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Where it is.
    pub repository: Repository,
    /// The version's tag.
    pub tag: String,
    /// The digest of its manifest or index.
    pub digest: String,
    /// Every digest under which a platform may report that it runs this image: index, manifests, configs.
    pub identities: Vec<String>,
    /// The compressed size in bytes: layers and configuration.
    pub size: u64,
}

impl Pushed {
    /// name:tag@digest.
    pub fn reference(&self) -> String {
        format!("{}:{}@{}", self.repository, self.tag, self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_told_from_tags_and_hosts() {
        let parse = |text| Repository::parse(text).map(|repository| repository.to_string());
        assert_eq!(parse("nginx").unwrap(), "docker.io/library/nginx");
        assert_eq!(parse("acme/web").unwrap(), "docker.io/acme/web");
        assert_eq!(parse("127.0.0.1:5000/web").unwrap(), "127.0.0.1:5000/web");
        for wrong in ["", "ghcr.io/Acme/web", "ghcr.io/acme/web:1", "ghcr.io/acme/web@sha256:00", "ghcr.io/a b", "ghcr.io/"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        let ecr = Repository::parse("123456789012.dkr.ecr.us-west-2.amazonaws.com/a").unwrap().ecr().unwrap();
        assert_eq!((ecr.account.as_str(), ecr.region.as_str()), ("123456789012", "us-west-2"));
    }

    #[test]
    fn a_cluster_reference_belongs_to_its_repository() {
        let repository = Repository::parse("localhost:5000/acme/web").unwrap();
        assert!(repository.owns("localhost:5000/acme/web:1@sha256:00") && repository.owns("localhost:5000/acme/web"));
        assert!(!repository.owns("localhost:5000/acme/website:1") && !repository.owns("acme/web:1"));
    }
}
