//! Amazon ECR's own API: the token, the repository, and tags without pulling anything.

use super::oci::{Login, MANIFEST_TYPES, Manifest};
use super::{EcrHost, Repository};
use crate::checkout::read_named;
use crate::config::{EnsureMode, EnsureRepository, Mutability, MutabilityMode, RepositoryTemplate};
use crate::error::{Error, Reason, Result};
use crate::tools::aws::{self, Access};
use crate::tools::secret::Secret;
use crate::vars::Vars;
use aws_sdk_ecr::Client;
use aws_sdk_ecr::error::ProvideErrorMetadata;
use aws_sdk_ecr::types::{
    EncryptionConfiguration, EncryptionType, Image, ImageFailure, ImageIdentifier, ImageScanningConfiguration, ImageTagMutability,
    ImageTagMutabilityExclusionFilter, ImageTagMutabilityExclusionFilterType, Tag,
};
use base64::Engine;

/// ECR takes at most 30,720 characters.
const POLICY_LIMIT: u64 = 128 * 1024;

/// A repository on ECR.
#[derive(Clone)]
pub struct Ecr {
    pub(super) client: Client,
    pub(super) host: EcrHost,
    pub(super) repository: Repository,
}

impl Ecr {
    /// A client for the repository, in the region that its host name says.
    pub async fn new(vars: &Vars, repository: &Repository, host: EcrHost, role: Option<String>) -> Result<Self> {
        let access = Access { region: Some(host.region.clone()), role };
        let client = Client::new(&aws::config(vars, &access, "ECR").await?);
        Ok(Self { client, host, repository: repository.clone() })
    }

    /// The registry login, good for 12 hours.
    pub async fn login(&self) -> Result<Login> {
        let answer = self.client.get_authorization_token().send().await;
        let answer =
            answer.map_err(|error| aws::failure(&format!("cannot log in to ECR in {}", self.host.region), Reason::AuthDenied, &error))?;
        let broken = || Error::new(Reason::AuthDenied, format!("ECR in {} sends a login that cannot be read", self.host.region));
        let token = answer.authorization_data().first().and_then(|data| data.authorization_token()).ok_or_else(broken)?;
        let decoded = base64::engine::general_purpose::STANDARD.decode(token).map_err(|_bytes| broken())?;
        let text = String::from_utf8(decoded).map_err(|_bytes| broken())?;
        let (user, password) = text.split_once(':').ok_or_else(broken)?;
        Ok(Login { user: user.to_owned(), password: Secret::new(password) })
    }

    /// The manifests of these tags, in one request; a missing tag is left out.
    pub async fn manifests(&self, tags: &[&str]) -> Result<Vec<(String, Manifest)>> {
        let mut request = self.client.batch_get_image().registry_id(&self.host.account).repository_name(&self.repository.path);
        for tag in tags {
            request = request.image_ids(ImageIdentifier::builder().image_tag(*tag).build());
        }
        for media_type in MANIFEST_TYPES {
            request = request.accepted_media_types(media_type);
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Err(self.failure("its images cannot be read", "ecr:BatchGetImage", &error)),
        };
        let code = |failure: &ImageFailure| failure.failure_code().map(|code| code.as_str().to_owned()).unwrap_or_default();
        if let Some(failure) = answer.failures().iter().find(|failure| code(failure) != "ImageNotFound") {
            let why = failure.failure_reason().unwrap_or_default();
            return Err(Error::new(Reason::PushFailed, format!("{}: ECR cannot read an image: {} {why}", self.repository, code(failure))));
        }
        let is_missing = |tag: &str| answer.failures().iter().any(|failure| failure.image_id().and_then(|id| id.image_tag()) == Some(tag));
        let exact = |tag: &str| answer.images().iter().find(|image| image.image_id().and_then(|id| id.image_tag()) == Some(tag));
        let mut found = Vec::new();
        for tag in tags.iter().filter(|tag| !is_missing(tag)) {
            let image = match exact(tag) {
                Some(image) => Some(image),
                // An image with several tags may be answered under another of them: asked for alone, it is no riddle.
                None if tags.len() == 1 && answer.failures().is_empty() => answer.images().first(),
                None if tags.len() == 1 => None,
                None => {
                    found.extend(Box::pin(self.manifests(&[tag])).await?);
                    continue;
                }
            };
            found.extend(image.and_then(manifest_of).map(|manifest| ((*tag).to_owned(), manifest)));
        }
        Ok(found)
    }

    /// Gives a manifest another tag: the same bytes, so the same digest, which ECR must confirm.
    pub async fn put_manifest(&self, manifest: &Manifest, tag: &str) -> Result<()> {
        let text = String::from_utf8(manifest.bytes.to_vec())
            .map_err(|_bytes| Error::new(Reason::PushFailed, format!("the manifest {} is not text", manifest.digest)))?;
        let request = self.client.put_image().registry_id(&self.host.account).repository_name(&self.repository.path);
        let request = request.image_manifest(text).image_manifest_media_type(&manifest.media_type).image_tag(tag);
        match request.image_digest(&manifest.digest).send().await {
            Ok(answer) => {
                let confirmed = answer.image().and_then(|image| image.image_id()).and_then(|id| id.image_digest());
                match confirmed {
                    Some(digest) if digest != manifest.digest => {
                        let sentence = format!("{}: {tag} was to be {} but ECR says {digest}", self.repository, manifest.digest);
                        Err(Error::new(Reason::PushFailed, sentence))
                    }
                    Some(_) | None => Ok(()),
                }
            }
            // The same image under the same tag: done before. The other exception may mean the same on older servers.
            Err(error) if error.code() == Some("ImageAlreadyExistsException") => self.confirm(manifest, tag).await,
            Err(error) if error.code() == Some("ImageTagAlreadyExistsException") => self.confirm(manifest, tag).await,
            Err(error) => Err(self.failure(&format!("the tag {tag} cannot be written"), "ecr:PutImage", &error)),
        }
    }

    async fn confirm(&self, manifest: &Manifest, tag: &str) -> Result<()> {
        let existing = self.manifests(&[tag]).await?;
        match existing.first() {
            Some((_, existing)) if existing.digest == manifest.digest => Ok(()),
            other => {
                let there = other.map(|(_, existing)| existing.digest.clone()).unwrap_or_else(|| "another image".into());
                let sentence = format!(
                    "{}:{tag} exists as {there} and the repository is immutable; it cannot become {}",
                    self.repository, manifest.digest
                );
                Err(Error::new(Reason::VersionConflict, sentence)
                    .hint("release a new version; for aliases such as latest use mutability with exclusions"))
            }
        }
    }

    /// Asks for a layer that nobody has: whoever may ask is meant to push.
    pub async fn can_push(&self) -> Result<()> {
        let request = self.client.batch_check_layer_availability().registry_id(&self.host.account).repository_name(&self.repository.path);
        let answer = request.layer_digests(format!("sha256:{}", "0".repeat(64))).send().await;
        answer.map_err(|error| self.failure("its layers cannot be asked for", "ecr:BatchCheckLayerAvailability", &error)).map(drop)
    }

    /// Every tag of the repository.
    pub async fn tags(&self) -> Result<Vec<String>> {
        let pages = self.client.list_images().registry_id(&self.host.account).repository_name(&self.repository.path);
        let mut pages = pages.max_results(1000).into_paginator().items().send();
        let mut tags = Vec::new();
        while let Some(image) = pages.next().await {
            let image = image.map_err(|error| self.failure("its tags cannot be listed", "ecr:ListImages", &error))?;
            tags.extend(image.image_tag().map(str::to_owned));
        }
        Ok(tags)
    }

    /// Does what `ensure-repository` says. Tells whether the repository was created.
    pub async fn ensure(&self, rule: &EnsureRepository, folder: &std::path::Path) -> Result<bool> {
        let template = match rule {
            EnsureRepository::Mode(EnsureMode::Off) => return Ok(false),
            EnsureRepository::Mode(EnsureMode::Check) => None,
            EnsureRepository::Create(template) => Some(template),
        };
        let request = self.client.describe_repositories().registry_id(&self.host.account).repository_names(&self.repository.path);
        let error = match request.send().await {
            Ok(_there) => return Ok(false),
            Err(error) => error,
        };
        match (error.code(), template) {
            (Some("RepositoryNotFoundException"), Some(template)) => self.create(template, folder).await.map(|()| true),
            // Many roles may push but not describe: then the push itself will tell.
            (Some(code), None) if code.contains("AccessDenied") => Ok(false),
            _other => Err(self.failure("it cannot be looked up", "ecr:DescribeRepositories", &error)),
        }
    }

    async fn create(&self, template: &RepositoryTemplate, folder: &std::path::Path) -> Result<()> {
        let invalid = |error: aws_smithy_types::error::operation::BuildError| Error::new(Reason::ConfigInvalid, error.to_string());
        let mut request = self.client.create_repository().registry_id(&self.host.account).repository_name(&self.repository.path);
        request = request.image_scanning_configuration(ImageScanningConfiguration::builder().scan_on_push(template.scan_on_push).build());
        match &template.mutability {
            None | Some(Mutability::Mode(MutabilityMode::Mutable)) => {}
            Some(Mutability::Mode(MutabilityMode::Immutable)) => request = request.image_tag_mutability(ImageTagMutability::Immutable),
            Some(Mutability::ImmutableExcept(except)) => {
                request = request.image_tag_mutability(ImageTagMutability::ImmutableWithExclusion);
                for wildcard in &except.immutable_except {
                    let filter = ImageTagMutabilityExclusionFilter::builder().filter_type(ImageTagMutabilityExclusionFilterType::Wildcard);
                    request = request.image_tag_mutability_exclusion_filters(filter.filter(wildcard).build().map_err(invalid)?);
                }
            }
        }
        if let Some(key) = &template.kms {
            let encryption = EncryptionConfiguration::builder().encryption_type(EncryptionType::Kms).kms_key(key);
            request = request.encryption_configuration(encryption.build().map_err(invalid)?);
        }
        for (key, value) in &template.tags {
            request = request.tags(Tag::builder().key(key).value(value).build().map_err(invalid)?);
        }
        match request.send().await {
            Ok(_created) => {}
            Err(error) if error.code() == Some("RepositoryAlreadyExistsException") => {} // another run was faster
            Err(error) => return Err(self.failure("it cannot be created", "ecr:CreateRepository", &error)),
        }
        if let Some(path) = &template.lifecycle {
            let policy = read_named(folder, path, POLICY_LIMIT)
                .map_err(|why| Error::new(Reason::ConfigInvalid, format!("the lifecycle policy {path} cannot be read: {why}")))?;
            let request = self.client.put_lifecycle_policy().registry_id(&self.host.account).repository_name(&self.repository.path);
            let sent = request.lifecycle_policy_text(policy).send().await;
            sent.map_err(|error| self.failure("its lifecycle policy cannot be set", "ecr:PutLifecyclePolicy", &error))?;
        }
        Ok(())
    }

    pub(super) fn failure<E>(&self, what: &str, action: &str, error: &aws_sdk_ecr::error::SdkError<E>) -> Error
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let failure = aws::failure(&format!("the ECR repository {}: {what}", self.repository), Reason::PushFailed, error);
        if error.code() == Some("RepositoryNotFoundException") {
            let (region, path) = (&self.host.region, &self.repository.path);
            let command = format!("aws ecr create-repository --region {region} --repository-name {path}");
            return failure
                .hint(format!("create it (`{command}`), or let tidegate do it with `ensure-repository: {{mutability: immutable}}`"));
        }
        if failure.reason == Reason::AuthDenied {
            failure.hint(format!("allow {action} on this repository for the role that the job runs as"))
        } else {
            failure
        }
    }
}

fn manifest_of(image: &Image) -> Option<Manifest> {
    let text = image.image_manifest()?;
    let media_type = image.image_manifest_media_type().map(str::to_owned).or_else(|| media_type_in(text));
    Some(Manifest::new(bytes::Bytes::copy_from_slice(text.as_bytes()), media_type.unwrap_or_default()))
}

fn media_type_in(text: &str) -> Option<String> {
    let manifest: serde_json::Value = serde_json::from_str(text).ok()?;
    manifest.pointer("/mediaType")?.as_str().map(str::to_owned)
}
