//! State in an S3 bucket, by conditional writes: `If-None-Match: *` creates an object or fails.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html>

use super::{Entry, unreadable};
use crate::error::{Error, Reason, Result};
use crate::tools::aws::{self, Access};
use crate::tools::wait::Clock;
use crate::vars::Vars;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// An object is small; a larger one is not ours.
const OBJECT_LIMIT: i64 = 1024 * 1024;

/// A bucket and a prefix in it.
#[derive(Clone)]
pub struct Bucket {
    vars: Vars,
    access: Access,
    bucket: String,
    prefix: String,
    /// And whether it talks to another maker's server than AWS.
    connection: Arc<OnceCell<(Client, bool)>>,
}

impl std::fmt::Display for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

impl Bucket {
    /// Connects when it is first used.
    pub fn new(vars: &Vars, access: Access, bucket: String, prefix: String) -> Self {
        Self { vars: vars.clone(), access, bucket, prefix, connection: Arc::default() }
    }

    async fn client(&self) -> Result<&Client> {
        self.connection().await.map(|(client, _)| client)
    }

    async fn connection(&self) -> Result<&(Client, bool)> {
        self.connection
            .get_or_try_init(|| async {
                let config = aws::config(&self.vars, &self.access, "S3").await?;
                // Other makers' servers have no host name for every bucket.
                let other = config.endpoint_url().is_some();
                Ok((Client::from_conf(aws_sdk_s3::config::Builder::from(&config).force_path_style(other).build()), other))
            })
            .await
    }

    /// Whether this is not AWS itself. Other makers' servers may look for an object and write it in two steps, so that two
    /// writers who each want to be the first are both told that they were; the later one's object stays.
    pub async fn may_tell_two(&self) -> Result<bool> {
        self.connection().await.map(|(_, other)| *other)
    }

    /// What is in a folder. Some makers' lists do not say ETags: then every object is asked.
    pub async fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let mut entries = self.names(folder).await?;
        for entry in entries.iter_mut().filter(|entry| entry.mark.is_empty()) {
            let key = self.key(folder, &entry.name);
            let answer = self.client().await?.head_object().bucket(&self.bucket).key(&key).send().await;
            match answer {
                Ok(answer) => entry.mark = self.mark(&key, answer.e_tag())?,
                Err(error) if error.raw_response().is_some_and(|raw| raw.status().as_u16() == 404) => {} // gone meanwhile
                Err(error) => return Err(self.failed(&key, &error)),
            }
        }
        entries.retain(|entry| !entry.mark.is_empty());
        Ok(entries)
    }

    /// The same without marks where they would cost requests.
    pub async fn names(&self, folder: &str) -> Result<Vec<Entry>> {
        let prefix = self.key(folder, "");
        let request = self.client().await?.list_objects_v2().bucket(&self.bucket).prefix(&prefix);
        let mut pages = request.into_paginator().send();
        let mut entries = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed(&prefix, &error))?;
            for object in page.contents() {
                let name = object.key().and_then(|key| key.strip_prefix(&prefix)?.strip_suffix(".json"));
                let Some(name) = name else { continue };
                let mark = object.e_tag().unwrap_or_default();
                let stamp = object.last_modified().map(aws_smithy_types::DateTime::as_secs_f64);
                entries.push(Entry { name: name.to_owned(), mark: mark.to_owned(), stamp });
            }
        }
        Ok(entries)
    }

    /// What an object holds. An answer that breaks off in the middle is asked for again.
    pub async fn read(&self, folder: &str, name: &str) -> Result<Option<Value>> {
        let mut tries = 1;
        loop {
            match self.read_once(folder, name).await {
                Err(error) if error.lost && tries < 8 => {
                    Clock::real().sleep(Duration::from_millis(50 * tries)).await; // it is being written at this moment
                    tries += 1;
                }
                answer => return answer,
            }
        }
    }

    async fn read_once(&self, folder: &str, name: &str) -> Result<Option<Value>> {
        let key = self.key(folder, name);
        let answer = match self.client().await?.get_object().bucket(&self.bucket).key(&key).send().await {
            Err(error) if error.as_service_error().is_some_and(aws_sdk_s3::operation::get_object::GetObjectError::is_no_such_key) => {
                return Ok(None);
            }
            answer => answer.map_err(|error| self.failed(&key, &error))?,
        };
        let place = format!("s3://{}/{key}", self.bucket);
        if answer.content_length().is_some_and(|length| length > OBJECT_LIMIT) {
            return Err(unreadable(&place, "it is too large"));
        }
        let broken = |error| Error { lost: true, ..Error::new(Reason::ForgeFailed, format!("{place} cannot be read: {error}")) };
        let bytes = answer.body.collect().await.map_err(broken)?.into_bytes();
        serde_json::from_slice(&bytes).map(Some).map_err(|error| unreadable(&place, &error.to_string()))
    }

    /// Creates an object, unless it exists.
    pub async fn create(&self, folder: &str, name: &str, value: &Value) -> Result<Option<String>> {
        let key = self.key(folder, name);
        let body = ByteStream::from(value.to_string().into_bytes());
        let request = self.client().await?.put_object().bucket(&self.bucket).key(&key).if_none_match("*");
        match request.content_type("application/json").body(body).send().await {
            Ok(answer) => self.mark(&key, answer.e_tag()).map(Some),
            // 412: it exists. 409: another one is creating it at this moment.
            Err(error) if error.raw_response().is_some_and(|raw| matches!(raw.status().as_u16(), 409 | 412)) => {
                // An answer that was lost makes the client send again what it has created itself.
                // What another run is writing at this moment may not be readable yet, and is not ours.
                let ours = self.read(folder, name).await.is_ok_and(|there| there.as_ref() == Some(value));
                Ok(if ours { self.list(folder).await?.into_iter().find(|entry| entry.name == name).map(|entry| entry.mark) } else { None })
            }
            Err(error) => Err(self.failed(&key, &error)),
        }
    }

    /// Writes an object.
    pub async fn put(&self, folder: &str, name: &str, value: &Value) -> Result<String> {
        let key = self.key(folder, name);
        let body = ByteStream::from(value.to_string().into_bytes());
        let request = self.client().await?.put_object().bucket(&self.bucket).key(&key).content_type("application/json");
        let answer = request.body(body).send().await.map_err(|error| self.failed(&key, &error))?;
        self.mark(&key, answer.e_tag())
    }

    /// Removes an object.
    pub async fn delete(&self, folder: &str, name: &str) -> Result<()> {
        let key = self.key(folder, name);
        let request = self.client().await?.delete_object().bucket(&self.bucket).key(&key);
        request.send().await.map(drop).map_err(|error| self.failed(&key, &error))
    }

    /// The folders in a folder.
    pub async fn folders(&self, parent: &str) -> Result<Vec<String>> {
        let prefix = self.key(parent, "");
        let request = self.client().await?.list_objects_v2().bucket(&self.bucket).prefix(&prefix).delimiter("/");
        let mut pages = request.into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed(&prefix, &error))?;
            let inside = page.common_prefixes().iter().filter_map(|common| common.prefix()?.strip_prefix(&prefix)?.strip_suffix('/'));
            found.extend(inside.map(str::to_owned));
        }
        Ok(found)
    }

    fn key(&self, folder: &str, name: &str) -> String {
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        if name.is_empty() { format!("{prefix}{folder}/") } else { format!("{prefix}{folder}/{name}.json") }
    }

    fn mark(&self, key: &str, tag: Option<&str>) -> Result<String> {
        let sentence = || Error::new(Reason::LockUnreachable, format!("s3://{}/{key} was written, but no ETag came back", self.bucket));
        tag.map(str::to_owned).ok_or_else(sentence)
    }

    fn failed<E>(&self, key: &str, error: &SdkError<E>) -> Error
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let missing = error.as_service_error().and_then(ProvideErrorMetadata::code) == Some("NoSuchBucket");
        let failure = aws::failure(&format!("the state in s3://{}/{key} cannot be used", self.bucket), Reason::ForgeFailed, error);
        match (missing, failure.hint.is_some()) {
            (true, _) => failure.hint("create the bucket; tidegate does not"),
            (false, true) => {
                failure.hint("needed: s3:ListBucket on the bucket; s3:GetObject, s3:PutObject, s3:DeleteObject on its objects")
            }
            (false, false) => failure,
        }
    }
}
