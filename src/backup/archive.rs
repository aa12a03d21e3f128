//! Files of the repository that are kept in a bucket: restore points, fixtures. Each is stored once, and again when it differs.

use super::bucket::{Bucket, Place, Reach};
use super::clean::Cleaner;
use super::inspect::{Inspector, Shape};
use super::stream;
use crate::config::{self, Compress};
use crate::error::{Error, Reason, Result};
use crate::report::size;
use crate::tools::aws::Access;
use crate::version::hex;
use crate::world::World;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most files that are taken.
const FILES: usize = 10_000;
/// Smaller ones are stored by one request.
const SMALL: u64 = 5 * 1024 * 1024;

/// A folder to keep, with everything filled.
#[derive(Clone, Debug, Serialize)]
pub struct Work {
    /// The configuration's part.
    pub archive: config::Archive,
    /// The folder, relative to tidegate.yml.
    pub folder: String,
    /// Bucket and prefix.
    pub place: Place,
    /// Region and role.
    pub aws: config::Aws,
}

/// Refuses a folder that is not there, or holds what leads out of it.
pub fn check(root: &Path, work: &Work) -> Result<()> {
    files(root, &work.folder).map(drop)
}

/// Stores what the bucket does not have, or has otherwise; what was done, in words.
pub async fn keep(world: &World, root: &Path, work: &Work) -> Result<String> {
    let access = Access { region: work.aws.region.clone(), role: work.aws.role.clone() };
    let endpoint = work.archive.endpoint.as_deref().filter(|_| world.detour.is_none());
    let reach = Reach { access, endpoint, kms_key: work.archive.kms_key.as_deref() };
    let bucket = Bucket::open(&world.vars, &work.place.bucket, &reach).await?;
    let (mut stored, mut bytes, mut known) = (0, 0, 0);
    for (path, name) in files(root, &work.folder)? {
        if world.cancel.is_cancelled() {
            return Err(Error::new(Reason::Cancelled, format!("cancelled before {name} was kept")));
        }
        match keep_one(world, (&bucket, work), &path, &name).await? {
            Some(length) => {
                stored += 1;
                bytes += length;
            }
            None => known += 1,
        }
    }
    Ok(format!("{stored} stored ({}), {known} there already, in {}", size(bytes), work.place))
}

/// The bytes that were stored; nothing where it is there already.
async fn keep_one(world: &World, (bucket, work): (&Bucket, &Work), path: &Path, name: &str) -> Result<Option<u64>> {
    let broken = |error: std::io::Error| Error::new(Reason::BackupFailed, format!("{name} cannot be read: {error}"));
    let cleaned = cleaned(work, path, name)?;
    let path = cleaned.as_ref().map_or(path, |file| file.path());
    let (sha256, length) = hash(path).map_err(broken)?;
    let key = format!("{}{name}", work.place.prefix);
    if bucket.head(&key).await?.is_some_and(|there| there.bytes == length && there.metadata.get("sha256") == Some(&sha256)) {
        return Ok(None);
    }
    let metadata = BTreeMap::from([("tidegate".to_owned(), "1".to_owned()), ("sha256".to_owned(), sha256)]);
    if length < SMALL {
        let body = std::fs::read(path).map_err(broken)?;
        bucket.put(&key, body.into(), &metadata).await?;
        return Ok(Some(length));
    }
    // It appears when its upload is completed: until then what was there stays.
    let upload = bucket.begin_with(&key, &metadata).await?;
    let sent = async {
        let file = tokio::fs::File::open(path).await.map_err(broken)?;
        let sent = stream::send(file, &mut Inspector::new(Shape::default(), None), Compress::None, (bucket, &upload)).await?;
        bucket.complete(&upload, &sent.parts).await?;
        bucket.prove(&key, &sent).await
    };
    let sent = tokio::select! {
        sent = sent => sent,
        () = world.cancel.cancelled() => Err(Error::new(Reason::Cancelled, format!("cancelled while {name} was kept"))),
    };
    match sent {
        Ok(_) => Ok(Some(length)),
        Err(error) => {
            bucket.abort(&upload).await?;
            Err(error)
        }
    }
}

/// SQL without what only its old place had.
fn cleaned(work: &Work, path: &Path, name: &str) -> Result<Option<tempfile::NamedTempFile>> {
    let is_sql = name.ends_with(".sql") || name.ends_with(".psql");
    if work.archive.clean.is_empty() || !is_sql {
        return Ok(None);
    }
    let broken = |error: std::io::Error| Error::new(Reason::BackupFailed, format!("{name} cannot be cleaned: {error}"));
    let mut cleaner = Cleaner::of_files(&work.archive.clean);
    let (mut from, mut to) = (std::fs::File::open(path).map_err(broken)?, tempfile::NamedTempFile::new().map_err(broken)?);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = from.read(&mut buffer).map_err(broken)?;
        let kept = if read == 0 { cleaner.end()? } else { cleaner.feed(buffer.get(..read).unwrap_or_default())? };
        std::io::Write::write_all(&mut to, &kept).map_err(broken)?;
        if read == 0 {
            return Ok(Some(to));
        }
    }
}

fn hash(path: &Path) -> std::io::Result<(String, u64)> {
    let (mut file, mut hash) = (std::fs::File::open(path)?, Sha256::new());
    let length = std::io::copy(&mut file, &mut hash)?;
    Ok((hex(&hash.finalize()), length))
}

/// Every file below a folder, with its name from there. Links and devices are refused: they lead elsewhere.
fn files(root: &Path, folder: &str) -> Result<Vec<(PathBuf, String)>> {
    let start = root.join(folder);
    let refused = |path: &Path, what: &str| {
        let shown = path.strip_prefix(root).unwrap_or(path).display().to_string();
        Error::new(Reason::ConfigInvalid, format!("{shown} {what}"))
    };
    let mut step = root.to_owned();
    for part in Path::new(folder).components() {
        step.push(part);
        if std::fs::symlink_metadata(&step).is_ok_and(|found| found.is_symlink()) {
            return Err(refused(&step, "is a link, and would lead elsewhere").hint("name the folder itself"));
        }
    }
    if !start.is_dir() {
        return Err(refused(&start, "is no folder").hint("`archive: {folder: …}` is relative to tidegate.yml"));
    }
    let (mut found, mut open) = (Vec::new(), vec![start.clone()]);
    while let Some(place) = open.pop() {
        let entries = std::fs::read_dir(&place).map_err(|error| refused(&place, &format!("cannot be read: {error}")))?;
        for entry in entries {
            let entry = entry.map_err(|error| refused(&place, &format!("cannot be read: {error}")))?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(|error| refused(&place, &error.to_string()))?);
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                let name = path.strip_prefix(&start).ok().and_then(Path::to_str).map(str::to_owned);
                let name = name.ok_or_else(|| refused(&path, "has a name that is no text"))?;
                found.push((path, name));
            } else {
                return Err(refused(&path, "is a link or a device, and would lead out of the folder").hint("keep plain files there"));
            }
            if found.len() > FILES {
                return Err(refused(&start, &format!("has more than {FILES} files")).hint("name a smaller folder"));
            }
        }
    }
    found.sort();
    Ok(found)
}
