//! Copies an image to another registry: as it is, or in the media types of Docker's own manifests where no others are taken.
//!
//! There the configuration keeps its bytes, so its digest, which says what the image is, stays. The manifest gets another one.
//! <https://distribution.github.io/distribution/spec/manifest-v2-2/>

use super::oci::{Manifest, Oci};
use super::store::Store;
use crate::error::{Error, Reason, Result};
use crate::tools::http::chain;
use crate::tools::wait::Clock;
use futures::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;

/// The manifest's media type there.
pub const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// What an index may list, in all its levels.
const MOST_MANIFESTS: usize = 500;
/// How often the copy of one layer is begun.
const TRIES: u32 = 4;

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The digest of the image's configuration, the same on both sides.
    pub config: String,
    /// Layers that had to be sent, and their bytes.
    pub sent: (usize, u64),
    /// Layers that were there already.
    pub there: usize,
}

/// Where an image goes.
pub struct Destination<'a> {
    /// The repository.
    pub oci: &'a Oci,
    /// The tag.
    pub tag: &'a str,
    /// Another repository of the same registry that may have the layers.
    pub near: Option<&'a super::Repository>,
}

/// One blob of an image.
struct Blob {
    digest: String,
    size: u64,
}

/// Copies the image for linux/amd64. Reads back what the tag names there.
pub async fn copy(clock: &Clock, from: &Store, digest: &str, to: &Destination<'_>) -> Result<Copied> {
    let single = single(from, digest).await?;
    let (manifest, blobs, config) = in_dockers_types(from, &single)?;
    let (mut sent, mut there) = ((0, 0), 0);
    for blob in &blobs {
        let known = to.oci.has_blob(&blob.digest).await? || mounted(to, &blob.digest).await;
        if known {
            there += 1;
            continue;
        }
        send(clock, from, to, blob).await?;
        sent = (sent.0 + 1, sent.1 + blob.size);
    }
    to.oci.put_manifest(&manifest, to.tag).await?;
    match config_of(to.oci, to.tag).await? {
        Some(there) if there == config => {}
        other => {
            let sentence =
                format!("the tag {} was written, but names {} instead of {config}", to.tag, other.as_deref().unwrap_or("nothing"));
            return Err(Error::new(Reason::PushFailed, sentence).hint("does somebody else push there at the same time?"));
        }
    }
    Ok(Copied { config, sent, there })
}

/// Copies an image as it is, with every platform and attestation, so that its digest stays. Blobs that were sent, and their bytes.
pub async fn whole(clock: &Clock, from: &Store, manifest: &Manifest, to: &Destination<'_>) -> Result<(usize, u64)> {
    let mut all = vec![manifest.clone()];
    let (mut sent, mut at) = ((0, 0), 0);
    while let Some(one) = all.get(at).cloned() {
        at += 1;
        let json = one.json()?;
        if one.is_index() {
            let listed = json.pointer("/manifests").and_then(Value::as_array).into_iter().flatten();
            for digest in listed.filter_map(|entry| entry.pointer("/digest")?.as_str()) {
                if all.len() >= MOST_MANIFESTS {
                    let sentence = format!("{}@{} lists more than {MOST_MANIFESTS} manifests", from.repository(), manifest.digest);
                    return Err(Error::new(Reason::PushFailed, sentence));
                }
                let missing = || Error::new(Reason::PushFailed, format!("{}@{digest} is listed but not there", from.repository()));
                all.push(from.oci().manifest(digest).await?.ok_or_else(missing)?);
            }
            continue;
        }
        let layers = json.pointer("/layers").and_then(Value::as_array).into_iter().flatten();
        for blob in layers.chain(json.pointer("/config")).filter_map(blob_of) {
            if !to.oci.has_blob(&blob.digest).await? && !mounted(to, &blob.digest).await {
                send(clock, from, to, &blob).await?;
                sent = (sent.0 + 1, sent.1 + blob.size);
            }
        }
    }
    // What an index lists has to be there before it.
    for child in all.iter().skip(1).rev() {
        to.oci.put_manifest(child, &child.digest).await?;
    }
    to.oci.put_manifest(manifest, to.tag).await?;
    match to.oci.digest(to.tag).await? {
        Some(there) if there == manifest.digest => Ok(sent),
        other => {
            let there = other.as_deref().unwrap_or("nothing");
            let sentence = format!("the tag {} was written, but names {there} instead of {}", to.tag, manifest.digest);
            Err(Error::new(Reason::PushFailed, sentence).hint("does somebody else push there at the same time?"))
        }
    }
}

fn blob_of(value: &Value) -> Option<Blob> {
    let digest = value.get("digest").and_then(Value::as_str)?.to_owned();
    Some(Blob { digest, size: value.get("size").and_then(Value::as_u64)? })
}

/// The digest of the configuration of what a tag names.
pub async fn config_of(oci: &Oci, tag: &str) -> Result<Option<String>> {
    let Some(manifest) = oci.manifest(tag).await? else { return Ok(None) };
    Ok(manifest.json()?.pointer("/config/digest").and_then(Value::as_str).map(str::to_owned))
}

/// The manifest for linux/amd64.
async fn single(from: &Store, digest: &str) -> Result<Value> {
    let gone = |digest: &str| Error::new(Reason::PushFailed, format!("{}@{digest} is not there any more", from.repository()));
    let manifest = from.oci().manifest(digest).await?.ok_or_else(|| gone(digest))?;
    let json = manifest.json()?;
    if !manifest.is_index() {
        let config = json.pointer("/config/digest").and_then(Value::as_str).unwrap_or_default();
        let config: Value = serde_json::from_slice(&from.oci().blob(config).await?).unwrap_or(Value::Null);
        let architecture = config.get("architecture").and_then(Value::as_str).unwrap_or("amd64");
        return if architecture == "amd64" { Ok(json) } else { Err(other_platform(from, digest, architecture)) };
    }
    let text = |entry: &Value, pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let platform = |entry: &Value| format!("{}/{}", text(entry, "/platform/os"), text(entry, "/platform/architecture"));
    let entries: Vec<&Value> = json.pointer("/manifests").and_then(Value::as_array).into_iter().flatten().collect();
    let Some(entry) = entries.iter().find(|entry| platform(entry) == "linux/amd64") else {
        let there: Vec<String> = entries.iter().map(|entry| platform(entry)).filter(|name| name != "unknown/unknown").collect();
        return Err(other_platform(from, digest, &there.join(", ")));
    };
    let digest = text(entry, "/digest");
    from.oci().manifest(&digest).await?.ok_or_else(|| gone(&digest))?.json()
}

fn other_platform(from: &Store, digest: &str, there: &str) -> Error {
    let sentence = format!("{}@{digest} is for {there}, and linux/amd64 is needed there", from.repository());
    Error::new(Reason::TargetInput, sentence).hint("add linux/amd64 to the image's `platforms:`")
}

/// The manifest in Docker's types, every blob that it needs, and the configuration's digest.
fn in_dockers_types(from: &Store, single: &Value) -> Result<(Manifest, Vec<Blob>, String)> {
    let broken = || Error::new(Reason::PushFailed, format!("the manifest of {} lacks its configuration or a layer", from.repository()));
    let config = single.get("config").and_then(blob_of).ok_or_else(broken)?;
    let mut blobs = Vec::new();
    for layer in single.get("layers").and_then(Value::as_array).ok_or_else(broken)? {
        let media_type = layer.get("mediaType").and_then(Value::as_str).unwrap_or_default();
        if !media_type.ends_with("tar+gzip") && !media_type.ends_with("tar.gzip") {
            let sentence = format!("{} has a layer of the type {media_type:?}, and only gzip is taken there", from.repository());
            return Err(
                Error::new(Reason::TargetInput, sentence).hint("build it with gzip layers (`compression=gzip` of BuildKit, the default)")
            );
        }
        blobs.push(blob_of(layer).ok_or_else(broken)?);
    }
    let layers: Vec<Value> = blobs.iter().map(|blob| json!({"mediaType": LAYER, "size": blob.size, "digest": blob.digest})).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "size": config.size, "digest": config.digest}, "layers": layers,
    });
    let digest = config.digest.clone();
    blobs.push(config);
    Ok((Manifest::new(manifest.to_string().into(), MANIFEST), blobs, digest))
}

/// A registry that does not mount says so by starting an upload, which is nobody's then.
async fn mounted(to: &Destination<'_>, digest: &str) -> bool {
    match to.near {
        Some(near) => to.oci.mount(digest, near).await.unwrap_or(false),
        None => false,
    }
}

/// Streams one blob across: it is never whole in memory. A connection that breaks is begun anew.
async fn send(clock: &Clock, from: &Store, to: &Destination<'_>, blob: &Blob) -> Result<()> {
    let mut pause = Duration::from_secs(1);
    for attempt in 1..=TRIES {
        let response = from.oci().open_blob(&blob.digest).await?;
        let body = response.bytes_stream().map(|piece| piece.map_err(|error| chain(&error.without_url())));
        match to.oci.upload(&blob.digest, blob.size, reqwest::Body::wrap_stream(body)).await {
            Ok(()) => return Ok(()),
            Err(error) if attempt == TRIES || !matches!(error.reason, Reason::PushFailed) => return Err(error),
            Err(_broken) => clock.sleep(pause).await,
        }
        pause = pause.saturating_mul(2);
    }
    Ok(())
}
