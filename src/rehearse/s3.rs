//! The pretend S3: buckets in memory, uploads in parts, copies, checksums; in its XML, and with lies of its own.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/Welcome.html>

use super::sandbox::{Asked, Shared};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// How it behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// It does what it says.
    #[default]
    Honest,
    /// It says yes to every part, and stores the last one without its last byte.
    Truncates,
    /// It stores other bytes than it was sent, of the same length, and says their checksum.
    Garbles,
    /// The same, and it says no checksum.
    GarblesSilently,
    /// It knows no checksums, as older servers of other makers do.
    NoChecksums,
    /// It says yes to a copy, and copies nothing.
    NoCopy,
    /// It encrypts nothing, whatever it is asked.
    Plain,
}

/// A stored object.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its bytes.
    pub body: Bytes,
    /// What stands beside it.
    pub metadata: BTreeMap<String, String>,
    /// The key that it is encrypted with.
    pub kms_key: Option<String>,
    /// When, in seconds since 1970.
    pub modified: i64,
    sha256: String,
}

/// An upload that was begun.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The bucket and the key.
    pub at: (String, String),
    kms_key: Option<String>,
    metadata: BTreeMap<String, String>,
    parts: BTreeMap<u32, Bytes>,
}

/// S3's side of the sandbox.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    /// The buckets that there are; a rehearsal has every one.
    pub buckets: Vec<String>,
    /// Objects by bucket and key.
    pub objects: BTreeMap<(String, String), Stored>,
    /// Uploads by id.
    pub uploads: BTreeMap<String, Upload>,
    /// How it behaves.
    pub mood: Mood,
    made: u64,
}

impl Storage {
    /// The keys of a bucket.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.objects.keys().filter(|(name, _)| name == bucket).map(|(_, key)| key.clone()).collect()
    }

    fn store(&mut self, at: (String, String), stored: Stored) {
        self.objects.insert(at, stored);
    }
}

/// Whether a request is for S3: the region's scope of its signature says the service.
pub fn is_about(asked: &Asked) -> bool {
    asked.header("authorization").split("Credential=").nth(1).and_then(|scope| scope.split('/').nth(3)) == Some("s3")
}

/// What a wrong clock is told.
pub(super) fn too_skewed() -> Response {
    error(403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.")
}

/// Answers a request below /aws.
pub fn answer(shared: &Shared, asked: &Asked) -> Response {
    let mut world = shared.world();
    let generous = world.generous;
    let path = asked.path.strip_prefix("/aws/").unwrap_or_default();
    let path = percent(path);
    let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
    let storage = &mut world.s3;
    if generous && !storage.buckets.iter().any(|known| known == bucket) {
        storage.buckets.push(bucket.to_owned());
    }
    if !storage.buckets.iter().any(|known| known == bucket) {
        return error(404, "NoSuchBucket", "The specified bucket does not exist");
    }
    let at = (bucket.to_owned(), key.to_owned());
    let has = |name: &str| asked.query.split('&').any(|pair| pair.split('=').next() == Some(name));
    match (asked.method.as_str(), key.is_empty()) {
        ("HEAD", true) => empty(200),
        ("GET", true) if has("uploads") => list_uploads(storage, bucket, asked),
        ("GET", true) => list(storage, bucket, asked),
        ("POST", false) if has("uploads") => begin(storage, at, asked),
        ("POST", false) => complete(storage, &at, asked),
        ("PUT", false) if has("partNumber") => part(storage, asked),
        ("PUT", false) if !asked.header("x-amz-copy-source").is_empty() => copy(storage, at, asked),
        ("PUT", false) => put(storage, at, asked),
        ("DELETE", false) if has("uploadId") => abort(storage, asked),
        ("DELETE", false) => {
            storage.objects.remove(&at);
            empty(204)
        }
        ("HEAD" | "GET", false) => get(storage, &at, asked),
        (_, _) => error(405, "MethodNotAllowed", "The specified method is not allowed against this resource."),
    }
}

fn begin(storage: &mut Storage, at: (String, String), asked: &Asked) -> Response {
    storage.made += 1;
    let id = format!("upload-{}", storage.made);
    let upload = Upload { at: at.clone(), kms_key: kms_key(storage.mood, asked), metadata: metadata(asked), parts: BTreeMap::new() };
    storage.uploads.insert(id.clone(), upload);
    xml(
        200,
        &format!(
            "<InitiateMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
            at.0, at.1
        ),
    )
}

fn part(storage: &mut Storage, asked: &Asked) -> Response {
    let (id, number) = (asked.parameter("uploadId").unwrap_or_default(), asked.parameter("partNumber").and_then(|text| text.parse().ok()));
    let source = asked.header("x-amz-copy-source").to_owned();
    let body = if source.is_empty() { asked.body.clone() } else { copied_range(storage, &source, asked.header("x-amz-copy-source-range")) };
    let told = asked.header("x-amz-checksum-sha256");
    if !told.is_empty() && told != sha256(&body) {
        return error(400, "BadDigest", "The SHA256 you specified did not match the calculated checksum.");
    }
    let (mood, made) = (storage.mood, sha256(&body));
    let Some(upload) = storage.uploads.get_mut(&id) else { return no_upload() };
    upload.parts.insert(number.unwrap_or_default(), body.clone());
    if !source.is_empty() {
        return xml(
            200,
            &format!("<CopyPartResult><ETag>\"{}\"</ETag><ChecksumSHA256>{made}</ChecksumSHA256></CopyPartResult>", etag(&body)),
        );
    }
    let mut response = empty(200);
    set(&mut response, "etag", &format!("\"{}\"", etag(&body)));
    if !matches!(mood, Mood::NoChecksums | Mood::GarblesSilently) {
        set(&mut response, "x-amz-checksum-sha256", &made);
    }
    response
}

fn copied_range(storage: &Storage, source: &str, range: &str) -> Bytes {
    let body = source_of(storage, source).map(|stored| stored.body.clone()).unwrap_or_default();
    match bounds(range, body.len()) {
        Some((from, to)) => body.slice(from..to),
        None => body,
    }
}

fn complete(storage: &mut Storage, at: &(String, String), asked: &Asked) -> Response {
    let id = asked.parameter("uploadId").unwrap_or_default();
    let Some(upload) = storage.uploads.remove(&id) else { return no_upload() };
    let small = upload.parts.values().rev().skip(1).any(|part| part.len() < 5 * 1024 * 1024);
    if small {
        return error(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size");
    }
    let mut whole: Vec<u8> = upload.parts.values().flat_map(|part| part.iter().copied()).collect();
    let mut hash = Sha256::new();
    upload.parts.values().for_each(|part| hash.update(Sha256::digest(part)));
    let mut composite = format!("{}-{}", encode(&hash.finalize()), upload.parts.len());
    match storage.mood {
        Mood::Truncates => drop(whole.pop()),
        Mood::Garbles | Mood::GarblesSilently => {
            if let Some(byte) = whole.last_mut() {
                *byte ^= 1;
            }
            composite = format!("{}-{}", sha256(&whole), upload.parts.len());
        }
        Mood::Honest | Mood::NoChecksums | Mood::NoCopy | Mood::Plain => {}
    }
    let stored = Stored { body: whole.into(), metadata: upload.metadata, kms_key: upload.kms_key, modified: now(), sha256: composite };
    let tag = etag(&stored.body);
    storage.store(at.clone(), stored);
    xml(200, &format!("<CompleteMultipartUploadResult><Key>{}</Key><ETag>\"{tag}\"</ETag></CompleteMultipartUploadResult>", at.1))
}

fn abort(storage: &mut Storage, asked: &Asked) -> Response {
    match storage.uploads.remove(&asked.parameter("uploadId").unwrap_or_default()) {
        Some(_) => empty(204),
        None => no_upload(),
    }
}

fn copy(storage: &mut Storage, at: (String, String), asked: &Asked) -> Response {
    let Some(source) = source_of(storage, asked.header("x-amz-copy-source")).cloned() else {
        return error(404, "NoSuchKey", "The specified key does not exist.");
    };
    let (whole, tag) = (sha256(&source.body), etag(&source.body));
    let stored =
        Stored { metadata: metadata(asked), kms_key: kms_key(storage.mood, asked), modified: now(), sha256: whole.clone(), ..source };
    let silent = matches!(storage.mood, Mood::NoChecksums | Mood::GarblesSilently);
    if storage.mood != Mood::NoCopy {
        storage.store(at, stored);
    }
    let checksum = if silent { String::new() } else { format!("<ChecksumSHA256>{whole}</ChecksumSHA256>") };
    xml(200, &format!("<CopyObjectResult><ETag>\"{tag}\"</ETag>{checksum}</CopyObjectResult>"))
}

fn put(storage: &mut Storage, at: (String, String), asked: &Asked) -> Response {
    let (body, made) = (asked.body.clone(), sha256(&asked.body));
    let tag = etag(&body);
    let stored = Stored { body, metadata: metadata(asked), kms_key: kms_key(storage.mood, asked), modified: now(), sha256: made };
    storage.store(at, stored);
    let mut response = empty(200);
    set(&mut response, "etag", &format!("\"{tag}\""));
    response
}

fn get(storage: &Storage, at: &(String, String), asked: &Asked) -> Response {
    let Some(stored) = storage.objects.get(at) else {
        return if asked.method == "HEAD" { empty(404) } else { error(404, "NoSuchKey", "The specified key does not exist.") };
    };
    let range = bounds(asked.header("range"), stored.body.len());
    let body = range.map_or_else(|| stored.body.clone(), |(from, to)| stored.body.slice(from..to));
    let length = body.len();
    let shown = if asked.method == "HEAD" { Body::empty() } else { Body::from(body) };
    let mut response = shown.into_response();
    *response.status_mut() = if range.is_some() { axum::http::StatusCode::PARTIAL_CONTENT } else { axum::http::StatusCode::OK };
    set(&mut response, "content-length", &length.to_string());
    set(&mut response, "etag", &format!("\"{}\"", etag(&stored.body)));
    set(&mut response, "last-modified", &http_date(stored.modified));
    stored.metadata.iter().for_each(|(name, value)| set(&mut response, &format!("x-amz-meta-{name}"), value));
    if asked.header("x-amz-checksum-mode") == "ENABLED" && !matches!(storage.mood, Mood::NoChecksums | Mood::GarblesSilently) {
        set(&mut response, "x-amz-checksum-sha256", &stored.sha256);
    }
    if let Some(key) = &stored.kms_key {
        set(&mut response, "x-amz-server-side-encryption", "aws:kms");
        set(&mut response, "x-amz-server-side-encryption-aws-kms-key-id", key);
    }
    response
}

fn list(storage: &Storage, bucket: &str, asked: &Asked) -> Response {
    let prefix = asked.parameter("prefix").unwrap_or_default();
    let found = storage.objects.iter().filter(|((name, key), _)| name == bucket && key.starts_with(&prefix));
    let rows: String = found
        .map(|((_, key), stored)| {
            let (size, time, tag) = (stored.body.len(), iso(stored.modified), etag(&stored.body));
            format!("<Contents><Key>{key}</Key><LastModified>{time}</LastModified><ETag>\"{tag}\"</ETag><Size>{size}</Size></Contents>")
        })
        .collect();
    xml(200, &format!("<ListBucketResult><Name>{bucket}</Name><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"))
}

fn list_uploads(storage: &Storage, bucket: &str, asked: &Asked) -> Response {
    let prefix = asked.parameter("prefix").unwrap_or_default();
    let found = storage.uploads.iter().filter(|(_, upload)| upload.at.0 == bucket && upload.at.1.starts_with(&prefix));
    let rows: String = found
        .map(|(id, upload)| {
            format!("<Upload><Key>{}</Key><UploadId>{id}</UploadId><Initiated>{}</Initiated></Upload>", upload.at.1, iso(now()))
        })
        .collect();
    xml(
        200,
        &format!(
            "<ListMultipartUploadsResult><Bucket>{bucket}</Bucket><IsTruncated>false</IsTruncated>{rows}</ListMultipartUploadsResult>"
        ),
    )
}

fn source_of<'s>(storage: &'s Storage, source: &str) -> Option<&'s Stored> {
    let source = percent(source.trim_start_matches('/'));
    let (bucket, key) = source.split_once('/')?;
    storage.objects.get(&(bucket.to_owned(), key.to_owned()))
}

fn metadata(asked: &Asked) -> BTreeMap<String, String> {
    let named = asked
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().strip_prefix("x-amz-meta-")?.to_owned(), value.to_str().ok()?.to_owned())));
    named.collect()
}

fn kms_key(mood: Mood, asked: &Asked) -> Option<String> {
    let key = asked.header("x-amz-server-side-encryption-aws-kms-key-id");
    Some(key.to_owned()).filter(|key| !key.is_empty() && mood != Mood::Plain)
}

/// `bytes=5-9` as a half-open range within a length.
fn bounds(range: &str, length: usize) -> Option<(usize, usize)> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
    Some((from.min(length), to.saturating_add(1).min(length)))
}

fn percent(text: &str) -> String {
    let joined = format!("x={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(joined.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

fn encode(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn sha256(bytes: &[u8]) -> String {
    encode(&Sha256::digest(bytes))
}

fn etag(bytes: &[u8]) -> String {
    crate::version::hex(&Sha256::digest(bytes)).chars().take(32).collect()
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn iso(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

fn http_date(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn no_upload() -> Response {
    error(
        404,
        "NoSuchUpload",
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.",
    )
}

fn error(status: u16, code: &str, message: &str) -> Response {
    xml(status, &format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"))
}

fn empty(status: u16) -> Response {
    axum::http::StatusCode::from_u16(status).unwrap_or_default().into_response()
}

fn set(response: &mut Response, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (axum::http::HeaderName::try_from(name), value.parse()) {
        response.headers_mut().insert(name, value);
    }
}

fn xml(status: u16, xml: &str) -> Response {
    let status = axum::http::StatusCode::from_u16(status).unwrap_or(axum::http::StatusCode::INTERNAL_SERVER_ERROR);
    (status, [("content-type", "application/xml")], format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{xml}")).into_response()
}
