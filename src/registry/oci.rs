//! The registry protocol: manifests as exact bytes, blobs, tags, uploads; with Basic or Bearer authorization.
//!
//! <https://github.com/opencontainers/distribution-spec/blob/main/spec.md>. reqwest directly rather than a client
//! crate: promotion rests on the very bytes that were pushed, which client crates parse and print again.

use super::Repository;
use crate::error::{Error, Reason, Result};
use crate::tools::http;
use crate::tools::secret::Secret;
use crate::tools::wait::Clock;
use crate::vars::Vars;
use crate::version::{check_image_tag, hex};
use reqwest::{RequestBuilder, Response, StatusCode, header};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// Every kind of manifest that is understood, in the order of preference.
pub const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// How long the upload of one blob may take.
const UPLOAD_LIMIT: Duration = Duration::from_secs(1800);
/// Registries refuse manifests above 4 MiB.
const MANIFEST_LIMIT: usize = 4 * 1024 * 1024;
/// A page of tags; some registries send all of them at once.
const TAGS_LIMIT: usize = 64 * 1024 * 1024;
const TOKEN_LIMIT: usize = 1024 * 1024;

/// A user and a password or token for a registry.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password or token.
    pub password: Secret,
}

/// A manifest, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The bytes that the digest is of.
    pub bytes: bytes::Bytes,
    /// Their media type.
    pub media_type: String,
    /// sha256:… of the bytes.
    pub digest: String,
}

impl Manifest {
    /// Wraps bytes; the digest is computed, never believed.
    pub fn new(bytes: bytes::Bytes, media_type: impl Into<String>) -> Self {
        let digest = digest_of(&bytes);
        Self { bytes, media_type: media_type.into(), digest }
    }

    /// The content.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.bytes)
            .map_err(|error| Error::new(Reason::PushFailed, format!("the manifest {} is not JSON: {error}", self.digest)))
    }

    /// The digests of what it is on each platform; its own where it is of one.
    pub fn platforms(&self) -> Result<Vec<String>> {
        if !self.is_index() {
            return Ok(vec![self.digest.clone()]);
        }
        let json = self.json()?;
        let listed = json.pointer("/manifests").and_then(Value::as_array).into_iter().flatten();
        let is_image = |entry: &&Value| entry.pointer("/platform/os").and_then(Value::as_str) != Some("unknown"); // attestations
        let digest = |entry: &Value| entry.pointer("/digest").and_then(Value::as_str).filter(|digest| is_digest(digest)).map(str::to_owned);
        let digests: Option<Vec<String>> = listed.filter(is_image).map(digest).collect();
        digests.ok_or_else(|| Error::new(Reason::PushFailed, format!("the index {} names something that is no digest", self.digest)))
    }

    /// Whether it lists manifests for several platforms.
    pub fn is_index(&self) -> bool {
        self.media_type.contains("index") || self.media_type.contains("manifest.list")
    }
}

/// Whether this is `sha256:` and 64 hexadecimal digits, so that it can stand in an address.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// sha256:… of these bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// A repository as this process reaches it.
#[derive(Clone)]
pub struct Oci {
    client: reqwest::Client,
    /// For layers, which take their time.
    patient: reqwest::Client,
    clock: Clock,
    base: String,
    repository: Repository,
    login: Option<Login>,
    bearer: Arc<Mutex<Option<Secret>>>,
}

/// Where a registry is reached: normally https at its own host; loopback speaks plain HTTP, as the Docker engine does it.
/// `TIDEGATE_REGISTRY_ENDPOINTS` (host=url, separated by commas) leads elsewhere, for pull-through proxies and tests.
pub fn endpoint(vars: &Vars, host: &str) -> String {
    let listed = vars.get("TIDEGATE_REGISTRY_ENDPOINTS").unwrap_or_default();
    let mut pairs = listed.split(',').filter_map(|pair| pair.trim().split_once('='));
    if let Some((_, url)) = pairs.find(|(name, _)| *name == host) {
        return url.trim_end_matches('/').to_owned();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    match name {
        "docker.io" => "https://registry-1.docker.io".to_owned(),
        "localhost" | "127.0.0.1" | "[::1]" => format!("http://{host}"),
        _elsewhere => format!("https://{host}"),
    }
}

impl Oci {
    /// A client for one repository.
    pub fn new(vars: &Vars, clock: Clock, repository: &Repository, login: Option<Login>) -> Result<Self> {
        let base = endpoint(vars, &repository.host);
        let bearer = Arc::default();
        let (client, patient) = (http::client(vars)?, http::patient_client(vars)?);
        Ok(Self { client, patient, clock, base, repository: repository.clone(), login, bearer })
    }

    /// The name under which the Docker engine pushes here.
    pub fn push_name(&self) -> String {
        let own = format!("https://{}", self.repository.host);
        let hub = self.base == "https://registry-1.docker.io";
        let host = self.base.split_once("://").map_or(self.base.as_str(), |(_, host)| host);
        if self.base == own || hub { self.repository.to_string() } else { format!("{host}/{}", self.repository.path) }
    }

    /// The login that a push needs.
    pub fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    fn may_ask(&self, url: &url::Url) -> Result<()> {
        http::leads_astray(url).map_or(Ok(()), |why| Err(self.failure(why)))
    }

    /// What a registry names stands in an address next: `../../other/repository` is no digest.
    fn blob_url(&self, digest: &str) -> Result<String> {
        if !is_digest(digest) {
            return Err(self.failure(format!("it names {digest:?}, which is no digest")));
        }
        Ok(format!("{}/v2/{}/blobs/{digest}", self.base, self.repository.path))
    }

    fn manifest_url(&self, reference: &str) -> Result<String> {
        if !is_digest(reference) && check_image_tag(reference, reference).is_err() {
            return Err(self.failure(format!("it names {reference:?}, which is neither a tag nor a digest")));
        }
        Ok(format!("{}/v2/{}/manifests/{reference}", self.base, self.repository.path))
    }

    /// A manifest by tag or digest.
    pub async fn manifest(&self, reference: &str) -> Result<Option<Manifest>> {
        let url = self.manifest_url(reference)?;
        let request = self.client.get(&url).header(header::ACCEPT, MANIFEST_TYPES.join(", "));
        let response = self.send("pull", request).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = self.expect(response, &format!("the manifest {reference} cannot be read")).await?;
        let media_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        let bytes = limited(response, MANIFEST_LIMIT).await.map_err(|why| self.failure(why))?;
        let own = || serde_json::from_slice::<Value>(&bytes).ok()?.pointer("/mediaType")?.as_str().map(str::to_owned);
        let media_type = if MANIFEST_TYPES.contains(&media_type.as_str()) { media_type } else { own().unwrap_or(media_type) };
        let manifest = Manifest::new(bytes, media_type);
        if reference.starts_with("sha256:") && manifest.digest != reference {
            return Err(self.failure(format!("the registry sends {} for {reference}", manifest.digest)));
        }
        Ok(Some(manifest))
    }

    /// The digest of a tag, without its manifest.
    pub async fn digest(&self, tag: &str) -> Result<Option<String>> {
        let url = self.manifest_url(tag)?;
        let request = self.client.head(&url).header(header::ACCEPT, MANIFEST_TYPES.join(", "));
        let response = self.send("pull", request).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = self.expect(response, &format!("the tag {tag} cannot be looked up")).await?;
        let digest = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok()).map(str::to_owned);
        match digest {
            Some(digest) if is_digest(&digest) => Ok(Some(digest)),
            Some(digest) => Err(self.failure(format!("it says that {tag} is {digest:?}, which is no digest"))),
            None => Ok(self.manifest(tag).await?.map(|manifest| manifest.digest)), // an optional header
        }
    }

    /// Gives a manifest a tag. The registry must confirm the digest.
    pub async fn put_manifest(&self, manifest: &Manifest, reference: &str) -> Result<()> {
        let url = self.manifest_url(reference)?;
        let request = self.client.put(&url).header(header::CONTENT_TYPE, &manifest.media_type).body(manifest.bytes.clone());
        let response = self.send("pull,push", request).await?;
        let response = self.expect(response, &format!("the tag {reference} cannot be written")).await?;
        let confirmed = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        match confirmed {
            Some(digest) if digest != manifest.digest => {
                Err(self.failure(format!("{reference} was to be {} but the registry says {digest}", manifest.digest)))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A blob's bytes, checked against its digest. Used for configurations, which are small.
    pub async fn blob(&self, digest: &str) -> Result<bytes::Bytes> {
        let response = self.open_blob(digest).await?;
        let bytes = limited(response, MANIFEST_LIMIT).await.map_err(|why| self.failure(why))?;
        if digest_of(&bytes) != digest {
            return Err(self.failure(format!("the blob {digest} has other bytes: {}", digest_of(&bytes))));
        }
        Ok(bytes)
    }

    /// A blob that is about to be read, however large it is. Whoever reads it checks it.
    pub async fn open_blob(&self, digest: &str) -> Result<Response> {
        let url = self.blob_url(digest)?;
        let mut response = self.send("pull", self.client.get(&url)).await?;
        if response.status().is_redirection() {
            // Storage behind the registry has its own signed address: the authorization must not go there.
            let next = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let next = url::Url::parse(&url).and_then(|base| base.join(next)).map_err(|error| self.failure(error.to_string()))?;
            self.may_ask(&next)?;
            response = http::send(&self.clock, self.client.get(next)).await.map_err(|why| self.failure(why))?;
        }
        self.expect(response, &format!("the blob {digest} cannot be read")).await
    }

    /// Uploads a blob, unless it is there.
    pub async fn put_blob(&self, bytes: bytes::Bytes) -> Result<String> {
        let digest = digest_of(&bytes);
        if !self.has_blob(&digest).await? {
            let size = u64::try_from(bytes.len()).unwrap_or_default();
            self.upload(&digest, size, bytes.into()).await?;
        }
        Ok(digest)
    }

    /// Whether a blob is there.
    pub async fn has_blob(&self, digest: &str) -> Result<bool> {
        let head = self.client.head(self.blob_url(digest)?);
        Ok(self.send("pull,push", head).await?.status().is_success())
    }

    /// Takes a blob over from another repository of the same registry; whether the registry did.
    pub async fn mount(&self, digest: &str, from: &Repository) -> Result<bool> {
        let mut url = url::Url::parse(&format!("{}/v2/{}/blobs/uploads/", self.base, self.repository.path))
            .map_err(|error| self.failure(error.to_string()))?;
        url.query_pairs_mut().append_pair("mount", digest).append_pair("from", &from.path);
        Ok(self.send("pull,push", self.client.post(url)).await?.status() == StatusCode::CREATED)
    }

    /// Uploads a blob of a known size. The registry refuses bytes that do not fit the digest.
    pub async fn upload(&self, digest: &str, size: u64, body: reqwest::Body) -> Result<()> {
        let blobs = format!("{}/v2/{}/blobs", self.base, self.repository.path);
        let start = self.send("pull,push", self.client.post(format!("{blobs}/uploads/"))).await?;
        let start = self.expect(start, "an upload cannot be started").await?;
        let location = start.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut url =
            url::Url::parse(&format!("{blobs}/")).and_then(|base| base.join(location)).map_err(|error| self.failure(error.to_string()))?;
        url.query_pairs_mut().append_pair("digest", digest);
        let here = url::Url::parse(&self.base).map_err(|error| self.failure(error.to_string()))?;
        if here.scheme() == "https" && url.scheme() != "https" {
            return Err(self.failure("it wants uploads over plain HTTP".into()));
        }
        self.may_ask(&url)?;
        let is_own = url.origin() == here.origin();
        let put = self.patient.put(url).header(header::CONTENT_TYPE, "application/octet-stream").header(header::CONTENT_LENGTH, size);
        let put = put.body(body).timeout(UPLOAD_LIMIT);
        // Storage elsewhere has a signed address of its own: the authorization must not go there.
        let answer = if is_own {
            self.send("pull,push", put).await?
        } else {
            http::send(&self.clock, put).await.map_err(|why| self.failure(why))?
        };
        self.expect(answer, "an upload cannot be finished").await?;
        Ok(())
    }

    /// Every tag of the repository, all pages.
    pub async fn tags(&self) -> Result<Vec<String>> {
        let mut url = format!("{}/v2/{}/tags/list?n=1000", self.base, self.repository.path);
        let mut tags = Vec::new();
        for _page in 0..1000 {
            let response = self.send("pull", self.client.get(&url)).await?;
            if response.status() == StatusCode::NOT_FOUND {
                return Ok(tags);
            }
            let response = self.expect(response, "the tags cannot be listed").await?;
            let link = response.headers().get(header::LINK).and_then(|link| link.to_str().ok()).filter(|link| link.contains("next"));
            let next = link.map(|link| next_page(link, &url).ok_or_else(|| self.failure("its list of tags goes on elsewhere".into())));
            let next = next.transpose()?;
            let body = self.json(response, TAGS_LIMIT).await?;
            let listed = body.pointer("/tags").and_then(Value::as_array);
            tags.extend(listed.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
            match next {
                Some(next) => url = next,
                None => return Ok(tags),
            }
        }
        Err(self.failure("its list of tags does not end".into()))
    }

    async fn send(&self, actions: &str, request: RequestBuilder) -> Result<Response> {
        let again = request.try_clone();
        let first = self.authorized(request).await;
        let response = http::send(&self.clock, first).await.map_err(|why| self.failure(why))?;
        let (StatusCode::UNAUTHORIZED, Some(again)) = (response.status(), again) else { return Ok(response) };
        let challenge = response.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let Some(token) = self.token(challenge, actions).await? else { return Ok(response) };
        *self.bearer.lock().await = Some(token);
        http::send(&self.clock, self.authorized(again).await).await.map_err(|why| self.failure(why))
    }

    async fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match (&*self.bearer.lock().await, &self.login) {
            (Some(token), _) => request.bearer_auth(token.expose()),
            (None, Some(login)) => request.basic_auth(&login.user, Some(login.password.expose())),
            (None, None) => request,
        }
    }

    /// Answers a Bearer challenge. <https://distribution.github.io/distribution/spec/auth/token/>
    async fn token(&self, challenge: &str, actions: &str) -> Result<Option<Secret>> {
        let Some(fields) = challenge.strip_prefix("Bearer ").map(parameters) else { return Ok(None) };
        let Some(realm) = fields.get("realm") else { return Ok(None) };
        let scope = format!("repository:{}:{actions}", self.repository.path);
        let mut url = url::Url::parse(realm).map_err(|error| self.failure(format!("its token address {realm:?} is broken: {error}")))?;
        if url.scheme() != "https" && self.base.starts_with("https://") {
            return Err(self.failure("it asks for the password over plain HTTP".into()));
        }
        self.may_ask(&url)?;
        url.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = fields.get("service") {
            url.query_pairs_mut().append_pair("service", service);
        }
        let mut request = self.client.get(url);
        if let Some(login) = &self.login {
            request = request.basic_auth(&login.user, Some(login.password.expose()));
        }
        let response = http::send(&self.clock, request).await.map_err(|why| self.failure(why))?;
        if !response.status().is_success() {
            return Ok(None);
        }
        let body = self.json(response, TOKEN_LIMIT).await?;
        let text = |name: &str| body.pointer(name).and_then(Value::as_str);
        let token = text("/token").or_else(|| text("/access_token"));
        Ok(token.map(Secret::new))
    }

    async fn json(&self, response: Response, limit: usize) -> Result<Value> {
        let bytes = limited(response, limit).await.map_err(|why| self.failure(why))?;
        serde_json::from_slice(&bytes).map_err(|error| self.failure(format!("its answer is not JSON: {error}")))
    }

    async fn expect(&self, response: Response, what: &str) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = limited(response, 64 * 1024).await.unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let code = body.pointer("/errors/0/code").and_then(Value::as_str).unwrap_or_default();
        let message = body.pointer("/errors/0/message").and_then(Value::as_str).unwrap_or_default();
        let said = format!("{} {code} {message}", status.as_u16()).trim().to_owned();
        let sentence = format!("{}: {what}: {said}", self.repository);
        Err(match status.as_u16() {
            401 | 403 if self.login.is_none() => Error::new(Reason::AuthMissing, sentence)
                .hint(format!("log in to {} (docker login, or DOCKER_AUTH_CONFIG in the environment)", self.repository.host)),
            401 | 403 => Error::new(Reason::AuthDenied, sentence).hint("the login may not read or write this repository"),
            400 if code == "TAG_INVALID" => Error::new(Reason::VersionConflict, sentence)
                .hint("the repository is immutable and this tag exists with another image: release a new version"),
            404 if code == "NAME_UNKNOWN" => {
                Error::new(Reason::PushFailed, sentence).hint("create the repository first, or set `ensure-repository:` to a template")
            }
            _other => Error::new(Reason::PushFailed, sentence),
        })
    }

    fn failure(&self, why: String) -> Error {
        Error::new(Reason::PushFailed, format!("the registry of {} cannot be used: {why}", self.repository))
    }
}

/// A body of at most `limit` bytes.
async fn limited(mut response: Response, limit: usize) -> std::result::Result<bytes::Bytes, String> {
    let mut body = bytes::BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| http::chain(&error))? {
        if body.len() + chunk.len() > limit {
            return Err(format!("the answer is larger than {limit} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The next page, on the same host only.
pub(crate) fn next_page(link: &str, current: &str) -> Option<String> {
    let target = link.split_once('<')?.1.split_once('>')?.0;
    let (current, next) = (url::Url::parse(current).ok()?, url::Url::parse(current).ok()?.join(target).ok()?);
    (current.origin() == next.origin()).then(|| next.to_string())
}

/// The fields of a challenge.
pub(crate) fn parameters(text: &str) -> HashMap<String, String> {
    let pair = |field: &str| {
        let (name, value) = field.split_once('=')?;
        Some((name.trim().to_lowercase(), value.trim().trim_matches('"').to_owned()))
    };
    // A scope may hold commas inside its quotes; it is not needed, the rest has none.
    text.split(',').filter_map(pair).collect()
}
