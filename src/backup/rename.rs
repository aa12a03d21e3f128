//! The final name of what is proven: the bucket copies, and says of the copy what it said of the original.

use super::bucket::{Bucket, Object, Part, Sent, Upload, base64_of};
use crate::error::Result;
use aws_sdk_s3::types::{ChecksumAlgorithm, MetadataDirective, ServerSideEncryption};
use std::collections::BTreeMap;

impl Bucket {
    /// Gives an object its final name, with what is known of it; the server copies. What it says of the copy must be what was sent.
    pub async fn rename(&self, from: &str, to: &str, sent: &Sent, metadata: &BTreeMap<String, String>) -> Result<Object> {
        let there = match self.copy_proven((from, to), sent, metadata).await {
            Ok(there) => there,
            Err(mut error) => {
                // What is not proven has no name; what another run put there has.
                let ours = |there: &Object| ["sha256", "by", "taken"].iter().all(|name| there.metadata.get(*name) == metadata.get(*name));
                let left = match self.head(to).await {
                    Ok(Some(there)) if ours(&there) => self.delete(to).await,
                    Ok(_) => Ok(()),
                    Err(unknown) => Err(unknown),
                };
                error.detail.extend(left.err().map(|left| format!("left behind, and not proven: {} ({})", self.url(to), left.sentence)));
                return Err(error);
            }
        };
        self.delete(from).await?;
        Ok(there)
    }

    async fn copy_proven(&self, (from, to): (&str, &str), sent: &Sent, metadata: &BTreeMap<String, String>) -> Result<Object> {
        let source = format!("{}/{}", self.name, url_path(from));
        if sent.bytes > self.copy_limit {
            self.copy_parts((&source, to), sent, metadata).await?;
        } else {
            self.copy_whole((&source, to), sent, metadata).await?;
        }
        let there = self.head(to).await?.ok_or_else(|| self.odd(to, "it got its final name, and is not there"))?;
        if there.metadata.get("sha256") != metadata.get("sha256") {
            return Err(self.odd(to, "it got its final name, and another object is there"));
        }
        self.prove(to, sent).await?;
        Ok(there)
    }

    async fn copy_whole(&self, (source, to): (&str, &str), sent: &Sent, metadata: &BTreeMap<String, String>) -> Result<()> {
        let mut request = self.client.copy_object().bucket(&self.name).key(to).copy_source(source);
        request = request.metadata_directive(MetadataDirective::Replace).checksum_algorithm(ChecksumAlgorithm::Sha256);
        request = request.set_metadata(Some(metadata.clone().into_iter().collect()));
        if let Some(kms) = &self.kms_key {
            request = request.server_side_encryption(ServerSideEncryption::AwsKms).ssekms_key_id(kms);
        }
        let answer = request.send().await.map_err(|error| self.failed(to, &error))?;
        let said = answer.copy_object_result().and_then(|result| result.checksum_sha256());
        match said {
            Some(said) if !sent.is(said) => Err(self.odd(to, "the server's copy has another SHA-256 than was sent")),
            Some(_) | None => Ok(()),
        }
    }

    /// The same for what is too large for one request: part by part, each with the bounds and the SHA-256 that it was sent with.
    async fn copy_parts(&self, (source, to): (&str, &str), sent: &Sent, metadata: &BTreeMap<String, String>) -> Result<()> {
        let upload = self.begin_with(to, metadata).await?;
        let copied = self.copy_each(&upload, source, sent).await;
        let done = match copied {
            Ok(parts) => self.complete(&upload, &parts).await,
            Err(error) => Err(error),
        };
        if done.is_err() {
            self.abort(&upload).await?;
        }
        done
    }

    async fn copy_each(&self, upload: &Upload, source: &str, sent: &Sent) -> Result<Vec<Part>> {
        let (mut parts, mut at) = (Vec::new(), 0);
        for part in &sent.parts {
            let range = format!("bytes={at}-{}", at + part.bytes - 1);
            let request = self.client.upload_part_copy().bucket(&self.name).key(&upload.key).upload_id(&upload.id);
            let request = request.part_number(part.number).copy_source(source).copy_source_range(range);
            let answer = request.send().await.map_err(|error| self.failed(&upload.key, &error))?;
            let copied = answer.copy_part_result();
            if copied.and_then(|copied| copied.checksum_sha256()).is_some_and(|said| said != base64_of(&part.sha256)) {
                return Err(self.odd(&upload.key, &format!("the server's copy of part {} has another SHA-256 than was sent", part.number)));
            }
            let etag = copied.and_then(|copied| copied.e_tag()).ok_or_else(|| self.odd(&upload.key, "a copied part has no ETag"))?;
            parts.push(Part { etag: etag.to_owned(), ..part.clone() });
            at += part.bytes;
        }
        Ok(parts)
    }
}

/// A key as it stands in a header: everything but letters, digits and the marks of paths is escaped.
fn url_path(key: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => char::from(byte).to_string(),
        _other => format!("%{byte:02X}"),
    };
    key.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_escaped_in_headers() {
        assert_eq!(url_path("a b/ü+?.dump"), "a%20b/%C3%BC%2B%3F.dump");
    }
}
