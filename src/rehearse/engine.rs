//! The pretend Docker engine, for machines without one: it takes a build, runs nothing, and pushes a tiny image with
//! the labels that were asked for: real manifest, configuration and layer, no program.

use super::registry::Repository;
use super::sandbox::{Asked, Shared, json_answer};
use crate::registry::oci::digest_of;
use axum::body::Body;
use axum::http::Response as Raw;
use axum::response::Response;
use serde_json::{Value, json};

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// What it answers for a version.
pub const VERSION: &str = "stand-in";

/// Answers /version, /session, /build and /images/NAME/push.
pub fn answer(shared: &Shared, asked: &Asked) -> Response {
    let parts: Vec<&str> = asked.path.trim_start_matches('/').split('/').collect();
    match (asked.method.as_str(), parts.as_slice()) {
        ("GET", ["version"]) => json_answer(200, &json!({"Version": VERSION, "ApiVersion": "1.41", "MinAPIVersion": "1.12"})),
        ("POST", ["session"]) => switching_protocols(),
        ("POST", ["build"]) => build(shared, asked),
        ("POST", ["images", name @ .., "push"]) => push(shared, asked, &name.join("/")),
        _other => json_answer(404, &json!({"message": "page not found"})),
    }
}

/// The session is opened and never used: nothing is built, so nothing is asked for.
fn switching_protocols() -> Response {
    let builder = Raw::builder().status(101).header("connection", "Upgrade").header("upgrade", "h2c");
    builder.body(Body::empty()).unwrap_or_else(|_invalid| json_answer(500, &Value::Null))
}

fn build(shared: &Shared, asked: &Asked) -> Response {
    let labels = asked.parameter("labels").and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_else(|| json!({}));
    let id = digest_of(asked.query.as_bytes());
    if let Some(name) = asked.parameter("t") {
        shared.world().built.insert(name, labels);
    }
    lines(&[json!({"stream": "a stand-in: nothing is run"}), json!({"id": "moby.image.id", "aux": {"ID": id}})])
}

fn push(shared: &Shared, asked: &Asked, name: &str) -> Response {
    let tag = asked.parameter("tag").unwrap_or_else(|| "latest".into());
    let mut world = shared.world();
    let failed = |message: &str| lines(&[json!({"errorDetail": {"message": message}, "error": message})]);
    let Some(labels) = world.built.get(&format!("{name}:{tag}")).cloned() else {
        return failed(&format!("tag does not exist: {name}:{tag}"));
    };
    let (generous, forgets) = (world.generous, world.registry_forgets);
    let path = name.split_once('/').map_or(name, |(_host, path)| path).to_owned();
    if generous {
        world.repositories.entry(path.clone()).or_default();
    }
    let Some(repository) = world.repositories.get_mut(&path) else {
        return failed(&format!("name unknown: The repository with name '{path}' does not exist"));
    };
    let digest = if forgets { digest_of(b"forgotten") } else { store(repository, &tag, &labels) };
    lines(&[json!({"status": format!("{tag}: digest: {digest} size: 400")})])
}

/// Puts a small image under a tag; its digest.
pub fn store(repository: &mut Repository, tag: &str, labels: &Value) -> String {
    let tar = layer().unwrap_or_default();
    let layer = gzip(&tar);
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(&tar)]},
    });
    let config = bytes::Bytes::from(config.to_string());
    let (config_digest, layer_digest) = (digest_of(&config), digest_of(&layer));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer_digest, "size": layer.len()}],
    });
    let manifest = bytes::Bytes::from(manifest.to_string());
    let digest = digest_of(&manifest);
    repository.blobs.insert(config_digest, config);
    repository.blobs.insert(layer_digest, layer);
    repository.manifests.insert(digest.clone(), (manifest, MANIFEST_TYPE.into()));
    repository.tags.insert(tag.to_owned(), digest.clone());
    digest
}

fn layer() -> std::io::Result<bytes::Bytes> {
    let text = b"A stand-in image, pushed by `tidegate rehearse` because there is no Docker engine here.\n";
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "README", text.as_slice())?;
    archive.into_inner().map(bytes::Bytes::from)
}

/// As an engine pushes it: in gzip's frame, here around one stored block. <https://www.rfc-editor.org/rfc/rfc1952>
fn gzip(bytes: &[u8]) -> bytes::Bytes {
    let length = u16::try_from(bytes.len()).unwrap_or_default();
    let mut framed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    framed.extend(length.to_le_bytes());
    framed.extend((!length).to_le_bytes());
    framed.extend(bytes);
    let step = |sum: u32| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
    let sum = bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum)));
    framed.extend((!sum).to_le_bytes());
    framed.extend(u32::from(length).to_le_bytes());
    framed.into()
}

fn lines(values: &[Value]) -> Response {
    let text: String = values.iter().map(|value| format!("{value}\r\n")).collect();
    let builder = Raw::builder().status(200).header("content-type", "application/json");
    builder.body(Body::from(text)).unwrap_or_else(|_invalid| json_answer(500, &Value::Null))
}

#[cfg(test)]
mod tests {
    /// The check sum of the specification's own example text, as every gzip writes it.
    #[test]
    fn the_frame_is_gzips() {
        let framed = super::gzip(b"123456789");
        assert_eq!(framed.get(framed.len() - 8..framed.len() - 4), Some(0xcbf4_3926_u32.to_le_bytes().as_slice()));
    }
}
