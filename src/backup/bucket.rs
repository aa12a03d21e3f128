//! Backups as objects in S3, or in a server that speaks its language: uploads in parts, a proof of what arrived, and the final name.

use crate::error::{Error, Reason, Result};
use crate::tools::aws::{self, Access};
use crate::vars::Vars;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::{ByteStream, DateTimeFormat};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, CompletedMultipartUpload, CompletedPart, ServerSideEncryption};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::timeout::TimeoutConfig;
use base64::Engine;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// The largest object that one request copies: <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html>.
pub const COPY_LIMIT: u64 = 5 * 1024 * 1024 * 1024;
/// How much is read back at a time.
const RANGE: u64 = 8 * 1024 * 1024;

/// `s3://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Place {
    /// The bucket.
    pub bucket: String,
    /// What keys begin with: empty, or with a slash at its end.
    pub prefix: String,
}

impl Place {
    /// Reads `s3://bucket/prefix`; a prefix is a folder.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let (bucket, prefix) =
            text.strip_prefix("s3://").map(|rest| rest.split_once('/').unwrap_or((rest, ""))).ok_or("it is no s3:// address")?;
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_') || c.is_ascii_uppercase();
        if bucket.len() < 3 || bucket.len() > 63 || !bucket.chars().all(fine) {
            return Err(format!("{bucket:?} cannot be a bucket"));
        }
        let parts: Vec<&str> = prefix.split('/').filter(|part| !part.is_empty()).collect();
        if parts.iter().any(|part| matches!(*part, "." | "..")) || prefix.chars().any(char::is_control) {
            return Err(format!("{prefix:?} cannot be a prefix"));
        }
        let prefix = if parts.is_empty() { String::new() } else { format!("{}/", parts.join("/")) };
        Ok(Self { bucket: bucket.to_owned(), prefix })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

/// A bucket to keep backups in.
#[derive(Clone)]
pub struct Bucket {
    pub(super) client: Client,
    /// Its name.
    pub name: String,
    pub(super) kms_key: Option<String>,
    /// The largest object that is copied in one request.
    pub copy_limit: u64,
}

/// How a bucket is reached.
pub struct Reach<'a> {
    /// Region and role.
    pub access: Access,
    /// Another server than AWS.
    pub endpoint: Option<&'a str>,
    /// The key that it encrypts with.
    pub kms_key: Option<&'a str>,
}

/// A part that was stored.
#[derive(Clone, Debug)]
pub struct Part {
    /// From 1.
    pub number: i32,
    /// The server's mark of it.
    pub etag: String,
    /// Its SHA-256, as we counted it.
    pub sha256: [u8; 32],
    /// Its bytes.
    pub bytes: u64,
}

/// What was sent: counted on our side.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// The parts, in order.
    pub parts: Vec<Part>,
    /// All bytes of them.
    pub bytes: u64,
    /// SHA-256 over all of them.
    pub sha256: [u8; 32],
}

impl Sent {
    /// Whether this is its SHA-256 as a server says it: of all bytes, or the SHA-256 of the parts' own and, with S3 itself, how
    /// many there are.
    pub(super) fn is(&self, said: &str) -> bool {
        let mut hash = Sha256::new();
        self.parts.iter().for_each(|part| hash.update(part.sha256));
        let (of_parts, count) = (base64_of(&hash.finalize()), self.parts.len());
        said == base64_of(&self.sha256) || said == of_parts || said == format!("{of_parts}-{count}")
    }
}

/// An object as the server describes it.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its bytes.
    pub bytes: u64,
    /// The server's mark of it.
    pub etag: String,
    /// What we wrote beside it.
    pub metadata: BTreeMap<String, String>,
    /// Its SHA-256, if the server keeps one.
    pub sha256: Option<String>,
    /// Its version, where the bucket keeps versions.
    pub version: Option<String>,
    /// The key that it is encrypted with.
    pub kms_key: Option<String>,
    /// When it was written, in seconds since 1970, by the server's clock.
    pub modified: i64,
}

/// An object of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub bytes: u64,
    /// When it was written, in seconds since 1970, by the server's clock.
    pub modified: i64,
    /// When what it holds was made: as its name says, where that says it; copies are written later.
    pub made: i64,
}

/// An upload that was begun and not ended.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The key.
    pub key: String,
    /// Its id.
    pub id: String,
    /// When, in seconds since 1970.
    pub begun: i64,
}

impl Bucket {
    /// Connects when it is first used.
    pub async fn open(vars: &Vars, name: &str, reach: &Reach<'_>) -> Result<Self> {
        let config = aws::config(vars, &reach.access, "S3").await?;
        // Other makers' servers have no host name for every bucket.
        let by_path = config.endpoint_url().is_some() || reach.endpoint.is_some();
        let mut builder = aws_sdk_s3::config::Builder::from(&config).force_path_style(by_path);
        // The SDK writes the bucket right behind the address: a path in it needs its slash.
        if let Some(endpoint) = reach.endpoint.or(config.endpoint_url()) {
            builder = builder.endpoint_url(format!("{}/", endpoint.trim_end_matches('/')));
        }
        // Parts may take minutes on a slow line, and a restore reads as slowly as the database writes. Checksums are ours to
        // give: older servers do not know those that the SDK would add.
        let patience = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(10))
            .operation_attempt_timeout(Duration::from_secs(300))
            .operation_timeout(Duration::from_secs(1200));
        builder = builder
            .timeout_config(patience.build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        let client = Client::from_conf(builder.build());
        Ok(Self { client, name: name.to_owned(), kms_key: reach.kms_key.map(str::to_owned), copy_limit: COPY_LIMIT })
    }

    /// The address of a key.
    pub fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }

    /// Whether the bucket is there and may be used.
    pub async fn look(&self) -> Result<()> {
        let asked = self.client.head_bucket().bucket(&self.name).send().await;
        asked.map(drop).map_err(|error| match error.raw_response().map(|raw| raw.status().as_u16()) {
            Some(404) => self.no_bucket(),
            Some(403) => Error::new(Reason::AuthDenied, format!("the bucket {} cannot be used: access denied", self.name)).hint(NEEDED),
            _other => self.failed("", &error),
        })
    }

    fn no_bucket(&self) -> Error {
        Error::new(Reason::BackupFailed, format!("there is no bucket {}", self.name))
            .hint("create it, or mend `to:`; tidegate creates no buckets")
    }

    /// Begins an upload.
    pub async fn begin(&self, key: &str) -> Result<Upload> {
        self.begin_with(key, &BTreeMap::new()).await
    }

    /// The same with what stands beside the object.
    pub async fn begin_with(&self, key: &str, metadata: &BTreeMap<String, String>) -> Result<Upload> {
        let mut request = self.client.create_multipart_upload().bucket(&self.name).key(key).checksum_algorithm(ChecksumAlgorithm::Sha256);
        if !metadata.is_empty() {
            request = request.set_metadata(Some(metadata.clone().into_iter().collect()));
        }
        if let Some(kms) = &self.kms_key {
            request = request.server_side_encryption(ServerSideEncryption::AwsKms).ssekms_key_id(kms);
        }
        let answer = request.send().await.map_err(|error| self.failed(key, &error))?;
        let id = answer.upload_id().ok_or_else(|| self.odd(key, "an upload was begun, and has no id"))?;
        Ok(Upload { key: key.to_owned(), id: id.to_owned(), begun: 0 })
    }

    /// Stores a part. The server refuses what arrives with another SHA-256.
    pub async fn part(&self, upload: &Upload, number: i32, body: Bytes) -> Result<Part> {
        let (sha256, bytes): ([u8; 32], u64) = (Sha256::digest(&body).into(), body.len() as u64);
        let request = self.client.upload_part().bucket(&self.name).key(&upload.key).upload_id(&upload.id).part_number(number);
        let request = request.checksum_sha256(base64_of(&sha256)).body(ByteStream::from(body));
        let answer = request.send().await.map_err(|error| self.failed(&upload.key, &error))?;
        if answer.checksum_sha256().is_some_and(|said| said != base64_of(&sha256)) {
            return Err(self.odd(&upload.key, &format!("part {number} was stored with another checksum than it was sent with")));
        }
        let etag = answer.e_tag().ok_or_else(|| self.odd(&upload.key, &format!("part {number} was stored, and has no ETag")))?;
        Ok(Part { number, etag: etag.to_owned(), sha256, bytes })
    }

    /// Makes the parts one object.
    pub async fn complete(&self, upload: &Upload, parts: &[Part]) -> Result<()> {
        let done = parts.iter().map(|part| {
            CompletedPart::builder().part_number(part.number).e_tag(&part.etag).checksum_sha256(base64_of(&part.sha256)).build()
        });
        let done = CompletedMultipartUpload::builder().set_parts(Some(done.collect())).build();
        let request = self.client.complete_multipart_upload().bucket(&self.name).key(&upload.key).upload_id(&upload.id);
        request.multipart_upload(done).send().await.map(drop).map_err(|error| self.failed(&upload.key, &error))
    }

    /// Gives an upload up: its parts cost nothing any more.
    pub async fn abort(&self, upload: &Upload) -> Result<()> {
        let request = self.client.abort_multipart_upload().bucket(&self.name).key(&upload.key).upload_id(&upload.id);
        match request.send().await {
            Err(error) if is_404(&error) => Ok(()), // it is gone
            aborted => aborted.map(drop).map_err(|error| self.failed(&upload.key, &error)),
        }
    }

    /// What is there, if anything is.
    pub async fn head(&self, key: &str) -> Result<Option<Object>> {
        let request = self.client.head_object().bucket(&self.name).key(key).checksum_mode(ChecksumMode::Enabled);
        let answer = match request.send().await {
            Err(error) if is_404(&error) => return Ok(None),
            answer => answer.map_err(|error| self.failed(key, &error))?,
        };
        Ok(Some(Object {
            bytes: answer.content_length().and_then(|length| u64::try_from(length).ok()).unwrap_or_default(),
            etag: answer.e_tag().unwrap_or_default().to_owned(),
            metadata: answer.metadata().into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect(),
            sha256: answer.checksum_sha256().map(str::to_owned),
            version: answer.version_id().filter(|version| *version != "null").map(str::to_owned),
            kms_key: answer.ssekms_key_id().map(str::to_owned),
            modified: answer.last_modified().map_or(0, aws_smithy_types::DateTime::secs),
        }))
    }

    /// Proves that what is there is what was sent: its length, and its SHA-256 as the server counted it; where the server keeps
    /// none, it is read back. What was proven, for a person.
    pub async fn prove(&self, key: &str, sent: &Sent) -> Result<&'static str> {
        let Some(there) = self.head(key).await? else {
            return Err(self.odd(key, "it was stored, and is not there"));
        };
        if there.bytes != sent.bytes {
            return Err(self.odd(key, &format!("{} bytes were sent, and {} are there", sent.bytes, there.bytes)));
        }
        self.is_encrypted(key, &there)?;
        match &there.sha256 {
            Some(said) if sent.is(said) => Ok("the server's SHA-256 is ours"),
            Some(said) => Err(self.odd(key, &format!("the server has another SHA-256 of it ({said}) than was sent"))),
            None => self.read_back(key, (&there, sent)).await.map(|()| "read back, its SHA-256 is ours"),
        }
    }

    pub(super) fn is_encrypted(&self, key: &str, there: &Object) -> Result<()> {
        match (&self.kms_key, &there.kms_key) {
            (Some(_), None) => Err(self.odd(key, "it was to be encrypted with a KMS key, and is not")),
            (Some(_) | None, _) => Ok(()),
        }
    }

    async fn read_back(&self, key: &str, (there, sent): (&Object, &Sent)) -> Result<()> {
        let (mut hash, mut at) = (Sha256::new(), 0);
        while at < sent.bytes {
            let piece = self.read(key, &there.etag, at).await?;
            if piece.is_empty() {
                return Err(self.odd(key, &format!("it ends after {at} of {} bytes", sent.bytes)));
            }
            at += piece.len() as u64;
            hash.update(&piece);
        }
        let same = hash.finalize().as_slice() == sent.sha256;
        if same { Ok(()) } else { Err(self.odd(key, "read back, it has another SHA-256 than was sent")) }
    }

    /// Some megabytes of an object from here on; it must still be the same.
    pub async fn read(&self, key: &str, etag: &str, at: u64) -> Result<Bytes> {
        let range = format!("bytes={at}-{}", at + RANGE - 1);
        let mut request = self.client.get_object().bucket(&self.name).key(key).range(range);
        if !etag.is_empty() {
            request = request.if_match(etag);
        }
        let mut lost = None;
        for _ in 0..5 {
            let answer = request.clone().send().await.map_err(|error| self.failed(key, &error))?;
            match answer.body.collect().await {
                Ok(body) => return Ok(body.into_bytes()),
                Err(error) => lost = Some(error), // it broke off in the midst
            }
        }
        Err(self.odd(key, &format!("it cannot be read from byte {at} on: {}", lost.map(|error| error.to_string()).unwrap_or_default())))
    }

    /// Stores a small object whole.
    pub async fn put(&self, key: &str, body: Bytes, metadata: &BTreeMap<String, String>) -> Result<()> {
        let sha256: [u8; 32] = Sha256::digest(&body).into();
        let mut request = self.client.put_object().bucket(&self.name).key(key).checksum_sha256(base64_of(&sha256));
        request = request.set_metadata(Some(metadata.clone().into_iter().collect()));
        if let Some(kms) = &self.kms_key {
            request = request.server_side_encryption(ServerSideEncryption::AwsKms).ssekms_key_id(kms);
        }
        request.body(ByteStream::from(body)).send().await.map(drop).map_err(|error| self.failed(key, &error))
    }

    /// Removes an object.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let request = self.client.delete_object().bucket(&self.name).key(key);
        request.send().await.map(drop).map_err(|error| self.failed(key, &error))
    }

    /// Everything whose key begins so.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let mut pages = self.client.list_objects_v2().bucket(&self.name).prefix(prefix).into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed(prefix, &error))?;
            found.extend(page.contents().iter().filter_map(|object| {
                Some(Listed {
                    key: object.key()?.to_owned(),
                    bytes: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
                    modified: object.last_modified().map_or(0, aws_smithy_types::DateTime::secs),
                    made: object.last_modified().map_or(0, aws_smithy_types::DateTime::secs),
                })
            }));
        }
        Ok(found)
    }

    /// Uploads that were begun under keys that begin so, and not ended.
    pub async fn uploads(&self, prefix: &str) -> Result<Vec<Upload>> {
        let asked = self.client.list_multipart_uploads().bucket(&self.name).prefix(prefix).send().await;
        let answer = asked.map_err(|error| self.failed(prefix, &error))?;
        let known = |upload: &aws_sdk_s3::types::MultipartUpload| {
            let begun = upload.initiated().map_or(0, aws_smithy_types::DateTime::secs);
            let key = upload.key().filter(|key| key.starts_with(prefix))?; // some servers list all
            Some(Upload { key: key.to_owned(), id: upload.upload_id()?.to_owned(), begun })
        };
        Ok(answer.uploads().iter().filter_map(known).collect())
    }

    pub(super) fn odd(&self, key: &str, what: &str) -> Error {
        Error::new(Reason::BackupFailed, format!("{}: {what}", self.url(key)))
    }

    pub(super) fn failed<E>(&self, key: &str, error: &SdkError<E>) -> Error
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
        if code == Some("NoSuchBucket") {
            return self.no_bucket();
        }
        let failure = aws::failure(&format!("{} cannot be used", self.url(key)), Reason::BackupFailed, error);
        match (failure.reason, code) {
            (Reason::AuthDenied, _) => failure.hint(NEEDED),
            (_, Some("PermanentRedirect" | "AuthorizationHeaderMalformed")) => {
                failure.hint("the bucket is in another region: `aws: {region: …}`")
            }
            (_, Some("NoSuchUpload")) => failure.hint("another run, or a rule of the bucket, gave the upload up"),
            (_, _) => failure,
        }
    }
}

const NEEDED: &str = "needed: s3:ListBucket and s3:ListBucketMultipartUploads on the bucket; s3:PutObject, s3:GetObject, s3:DeleteObject and \
                      s3:AbortMultipartUpload on its objects; with `kms-key:` kms:GenerateDataKey and kms:Decrypt";

fn is_404<E>(error: &SdkError<E>) -> bool
where
    E: ProvideErrorMetadata,
{
    let no_bucket = error.as_service_error().and_then(ProvideErrorMetadata::code) == Some("NoSuchBucket");
    !no_bucket && error.raw_response().is_some_and(|raw| raw.status().as_u16() == 404)
}

pub(super) fn base64_of(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A time of a server, for people: 2026-11-27T03:26:34Z.
pub fn spoken_time(seconds: i64) -> String {
    aws_smithy_types::DateTime::from_secs(seconds).fmt(DateTimeFormat::DateTime).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_bucket_and_a_folder() {
        let place = |text: &str| Place::parse(text).map(|place| (place.bucket, place.prefix));
        assert_eq!(place("s3://acme-backups"), Ok(("acme-backups".into(), String::new())));
        assert_eq!(place("s3://acme-backups//a/b"), Ok(("acme-backups".into(), "a/b/".into())));
        for wrong in ["acme", "s3://", "s3://a/../b", "s3://bu cket/x", "s3://acme/../x", "s3://acme/a\nb"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    /// The worked example of AWS's documentation has the same rule: the hash of the parts' hashes, and how many there are.
    #[test]
    fn a_composite_is_the_hash_of_hashes() {
        let part =
            |text: &[u8], number| Part { number, etag: String::new(), sha256: Sha256::digest(text).into(), bytes: text.len() as u64 };
        let sent = Sent { parts: vec![part(b"a", 1), part(b"b", 2)], bytes: 2, sha256: Sha256::digest(b"ab").into() };
        let mut both = Sha256::digest(b"a").to_vec();
        both.extend(Sha256::digest(b"b"));
        let of_parts = base64_of(&Sha256::digest(both));
        assert!(sent.is(&format!("{of_parts}-2")) && sent.is(&of_parts) && sent.is(&base64_of(&Sha256::digest(b"ab"))));
        assert!(!sent.is(&format!("{of_parts}-3")) && !sent.is(&base64_of(&Sha256::digest(b"b"))) && !sent.is(""));
    }
}
