//! A tiny image for rehearsals on machines without a Docker engine: real manifest, configuration and layer, no program.

use crate::error::{Error, Reason, Result};
use crate::registry::oci::{Manifest, digest_of};
use crate::registry::store::Store;
use serde_json::{Map, Value, json};

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Pushes an image with these labels and one small file.
pub async fn push(store: &Store, tag: &str, labels: &[(String, String)]) -> Result<()> {
    let layer = layer().map_err(|error| Error::new(Reason::Internal, format!("no stand-in layer: {error}")))?;
    let labels: Map<String, Value> = labels.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(&layer)]},
    });
    let config = bytes::Bytes::from(config.to_string());
    let (config_size, layer_size) = (config.len(), layer.len());
    let config_digest = store.oci().put_blob(config).await?;
    let layer_digest = store.oci().put_blob(layer).await?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config_size},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer_size}],
    });
    store.oci().put_manifest(&Manifest::new(bytes::Bytes::from(manifest.to_string()), MANIFEST_TYPE), tag).await
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
