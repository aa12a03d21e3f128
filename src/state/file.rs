//! State in files of this machine: written to the disk before it is believed, one writer at a time.

use super::{Entry, unreadable};
use crate::error::{Error, Reason, Result};
use crate::vars::Vars;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A folder of objects.
#[derive(Clone)]
pub struct Folder {
    root: PathBuf,
}

/// A file: the object, and when it was written by the machine's own running time, which no clock jump changes.
#[derive(Serialize, Deserialize)]
struct Sheet {
    mark: String,
    boot: Option<String>,
    uptime: Option<f64>,
    value: Value,
}

/// Where a laptop keeps its state. <https://specifications.freedesktop.org/basedir-spec/latest/>
pub fn default_folder(vars: &Vars) -> PathBuf {
    match (vars.get("XDG_STATE_HOME"), vars.get("HOME")) {
        (Some(state), _) => Path::new(state).join("tidegate"),
        (None, Some(home)) => Path::new(home).join(".local/state/tidegate"),
        (None, None) => PathBuf::from(".tidegate/state"),
    }
}

impl std::fmt::Display for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "file:{}", self.root.display())
    }
}

impl Folder {
    /// The folder is made when something is first written.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// What is in a folder.
    pub async fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let path = self.root.join(folder);
        self.locked(move || {
            let files = match std::fs::read_dir(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
                files => files.map_err(|error| failed(&path, &error))?,
            };
            let boot = boot();
            let mut entries = Vec::new();
            for file in files.filter_map(std::result::Result::ok) {
                let name = file.file_name().to_string_lossy().into_owned();
                let Some(stem) = name.strip_suffix(".json") else { continue };
                // A damaged file is there all the same; reading it says what is wrong.
                let (mark, stamp) = match open(&file.path()) {
                    Ok(Some(sheet)) => (sheet.mark, sheet.uptime.filter(|_| sheet.boot.is_some() && sheet.boot == boot)),
                    Ok(None) => continue,
                    Err(_damaged) => ("damaged".to_owned(), None),
                };
                entries.push(Entry { name: stem.to_owned(), mark, stamp });
            }
            Ok(entries)
        })
        .await
    }

    /// What an object holds.
    pub async fn read(&self, folder: &str, name: &str) -> Result<Option<Value>> {
        let path = self.path(folder, name);
        self.locked(move || Ok(open(&path)?.map(|sheet| sheet.value))).await
    }

    /// Creates an object, unless it exists.
    pub async fn create(&self, folder: &str, name: &str, value: &Value) -> Result<Option<String>> {
        let (path, value) = (self.path(folder, name), value.clone());
        self.locked(move || if path.exists() { Ok(None) } else { write(&path, value).map(Some) }).await
    }

    /// Writes an object.
    pub async fn put(&self, folder: &str, name: &str, value: &Value) -> Result<String> {
        let (path, value) = (self.path(folder, name), value.clone());
        self.locked(move || write(&path, value)).await
    }

    /// Removes an object.
    pub async fn delete(&self, folder: &str, name: &str) -> Result<()> {
        let path = self.path(folder, name);
        self.locked(move || match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(&path, &error)),
            Ok(()) | Err(_) => Ok(()),
        })
        .await
    }

    /// The folders in a folder.
    pub async fn folders(&self, parent: &str) -> Result<Vec<String>> {
        let path = self.root.join(parent);
        self.locked(move || match std::fs::read_dir(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed(&path, &error)),
            Ok(files) => Ok(files.filter_map(|file| Some(file.ok()?.file_name().to_string_lossy().into_owned())).collect()),
        })
        .await
    }

    fn path(&self, folder: &str, name: &str) -> PathBuf {
        self.root.join(folder).join(format!("{name}.json"))
    }

    /// One process at a time; the kernel lets go of the lock when its holder dies.
    async fn locked<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let root = self.root.clone();
        let done = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&root).map_err(|error| failed(&root, &error))?;
            let path = root.join(".lock");
            let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(|error| failed(&path, &error))?;
            lock.lock().map_err(|error| failed(&path, &error))?;
            work()
        });
        done.await.map_err(|error| Error::new(Reason::Internal, format!("the work on the state folder ended early: {error}")))?
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Reason::LockUnreachable, format!("the state in {} cannot be used: {error}", path.display()))
        .hint("is the disk full, or the folder not yours? `state:` and XDG_STATE_HOME say where it is")
}

fn open(path: &Path) -> Result<Option<Sheet>> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| failed(path, &error))?,
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| unreadable(&path.display().to_string(), &error.to_string()))
}

/// A whole file or none: a new file is flushed to the disk, then takes the old one's place.
fn write(path: &Path, value: Value) -> Result<String> {
    let mark = crate::report::outputs::random();
    let sheet = Sheet { mark: mark.clone(), boot: boot(), uptime: uptime(), value };
    let folder = path.parent().unwrap_or(path);
    let whole = || {
        std::fs::create_dir_all(folder)?;
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(&sheet)?)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        File::open(folder)?.sync_all()
    };
    whole().map_err(|error| failed(path, &error))?;
    Ok(mark)
}

/// Which start of the machine this is; unknown off Linux.
pub fn boot() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|text| text.trim().to_owned())
}

fn uptime() -> Option<f64> {
    std::fs::read_to_string("/proc/uptime").ok()?.split(' ').next()?.parse().ok()
}
