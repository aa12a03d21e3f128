//! The pretend registry: the distribution protocol over memory, with ECR's habits.

use super::heroku;
use super::sandbox::{Asked, Shared, json_answer};
use crate::registry::oci::digest_of;
use axum::body::Body;
use axum::http::{HeaderValue, Response as Raw};
use axum::response::Response;
use serde_json::json;
use std::collections::BTreeMap;

/// An image repository.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    /// Digests by tag.
    pub tags: BTreeMap<String, String>,
    /// Manifests by digest: bytes and media type.
    pub manifests: BTreeMap<String, (bytes::Bytes, String)>,
    /// Blobs by digest.
    pub blobs: BTreeMap<String, bytes::Bytes>,
    /// Whether tags stay.
    pub immutable: bool,
    uploads: BTreeMap<String, bytes::BytesMut>,
}

/// The password of the pretend ECR login.
pub const PASSWORD: &str = "sandbox-registry-token";

/// Answers a request below /v2/.
pub fn answer(shared: &Shared, asked: &Asked) -> Response {
    use base64::Engine;
    let login = base64::engine::general_purpose::STANDARD.encode(format!("AWS:{PASSWORD}"));
    if let Some(login) = asked.header("authorization").strip_prefix("Basic ")
        && heroku::is_login(login)
    {
        return heroku::registry(shared, asked);
    }
    if asked.header("authorization") != format!("Basic {login}") {
        let mut response = error(401, "UNAUTHORIZED", "Not Authorized");
        response
            .headers_mut()
            .insert("www-authenticate", HeaderValue::from_static("Basic realm=\"sandbox\",service=\"ecr.amazonaws.com\""));
        return response;
    }
    serve(shared, asked)
}

/// The same for somebody who is let in.
pub(super) fn serve(shared: &Shared, asked: &Asked) -> Response {
    let rest = asked.path.strip_prefix("/v2/").unwrap_or_default();
    if rest.is_empty() {
        return json_answer(200, &json!({}));
    }
    let Some((name, kind, reference)) = split(rest) else { return error(404, "UNSUPPORTED", "no such route") };
    let mut world = shared.world();
    let (generous, forgets) = (world.generous, world.registry_forgets);
    if generous {
        world.repositories.entry(name.to_owned()).or_default();
    }
    let mounted = asked.parameter("mount").and_then(|digest| {
        let from = world.repositories.get(&asked.parameter("from")?)?;
        from.blobs.get(&digest).cloned()
    });
    let Some(repository) = world.repositories.get_mut(name) else {
        return error(404, "NAME_UNKNOWN", &format!("The repository with name '{name}' does not exist"));
    };
    match (kind, asked.method.as_str()) {
        ("manifests", "GET" | "HEAD") => manifest(repository, reference, asked.method == "HEAD"),
        ("manifests", "PUT") => put_manifest(repository, asked, reference, forgets),
        ("blobs/uploads", _) => upload(repository, asked, (name, reference), mounted),
        ("blobs", "GET" | "HEAD") => match repository.blobs.get(reference) {
            Some(blob) => bytes_answer(200, blob.clone(), "application/octet-stream", reference, asked.method == "HEAD"),
            None => error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
        },
        ("tags", "GET") => json_answer(200, &json!({"name": name, "tags": repository.tags.keys().collect::<Vec<_>>()})),
        _other => error(405, "UNSUPPORTED", "The operation is unsupported."),
    }
}

pub(super) fn split(rest: &str) -> Option<(&str, &str, &str)> {
    for kind in ["blobs/uploads", "manifests", "blobs", "tags"] {
        if let Some((name, reference)) = rest.split_once(&format!("/{kind}/")) {
            return Some((name, kind, reference));
        }
    }
    None
}

fn manifest(repository: &Repository, reference: &str, head: bool) -> Response {
    let digest = repository.tags.get(reference).map_or(reference, String::as_str);
    match repository.manifests.get(digest) {
        Some((bytes, media_type)) => bytes_answer(200, bytes.clone(), media_type, digest, head),
        None => error(404, "MANIFEST_UNKNOWN", "Requested image not found"),
    }
}

fn put_manifest(repository: &mut Repository, asked: &Asked, reference: &str, forgets: bool) -> Response {
    let digest = digest_of(&asked.body);
    let is_tag = !reference.starts_with("sha256:");
    if is_tag && repository.immutable && repository.tags.get(reference).is_some_and(|old| *old != digest) {
        let message = format!("The image tag '{reference}' already exists and cannot be overwritten because the repository is immutable.");
        return error(400, "TAG_INVALID", &message);
    }
    let media_type = asked.header("content-type").to_owned();
    if !forgets {
        repository.manifests.insert(digest.clone(), (asked.body.clone(), media_type));
        if is_tag {
            repository.tags.insert(reference.to_owned(), digest.clone());
        }
    }
    bytes_answer(201, bytes::Bytes::new(), "application/json", &digest, false)
}

fn upload(repository: &mut Repository, asked: &Asked, (name, reference): (&str, &str), mounted: Option<bytes::Bytes>) -> Response {
    if let Some(bytes) = mounted {
        let digest = digest_of(&bytes);
        repository.blobs.insert(digest.clone(), bytes);
        return bytes_answer(201, bytes::Bytes::new(), "application/json", &digest, false);
    }
    let id = if reference.is_empty() { format!("u{}", repository.uploads.len()) } else { reference.to_owned() };
    let received = {
        let buffer = repository.uploads.entry(id.clone()).or_default();
        buffer.extend_from_slice(&asked.body);
        buffer.len()
    };
    match (asked.method.as_str(), asked.parameter("digest")) {
        ("PUT" | "POST", Some(digest)) => {
            let bytes = repository.uploads.remove(&id).unwrap_or_default().freeze();
            if digest_of(&bytes) != digest {
                return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
            }
            repository.blobs.insert(digest.clone(), bytes);
            bytes_answer(201, bytes::Bytes::new(), "application/json", &digest, false)
        }
        _more => {
            let mut response = json_answer(202, &json!({}));
            let location = format!("/v2/{name}/blobs/uploads/{id}");
            let range = format!("0-{}", received.saturating_sub(1));
            for (header, value) in [("location", location), ("range", range), ("docker-upload-uuid", id)] {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    response.headers_mut().insert(header, value);
                }
            }
            response
        }
    }
}

fn bytes_answer(status: u16, bytes: bytes::Bytes, media_type: &str, digest: &str, head: bool) -> Response {
    let builder = Raw::builder().status(status).header("content-type", media_type).header("docker-content-digest", digest);
    let builder = builder.header("docker-distribution-api-version", "registry/2.0");
    let response = match head {
        true => builder.header("content-length", bytes.len()).body(Body::empty()),
        false => builder.body(Body::from(bytes)),
    };
    response.unwrap_or_else(|_invalid| error(500, "UNKNOWN", "unknown"))
}

pub(super) fn error(status: u16, code: &str, message: &str) -> Response {
    json_answer(status, &json!({"errors": [{"code": code, "message": message}]}))
}
