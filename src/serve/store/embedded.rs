//! Documents in one file of this machine. Writers share an fsync: what comes in while one is under way goes with the next.

use super::{Batch, Doc, Page};
use crate::error::{Error, Reason, Result};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, RwLock};
use tokio::sync::oneshot;

const DOCS: TableDefinition<&str, (&str, &str)> = TableDefinition::new("docs");
/// How many batches share one fsync.
const SHARED: usize = 512;

type Answer = oneshot::Sender<Result<bool>>;

/// The file, and its one writer.
#[derive(Clone)]
pub struct Embedded {
    file: Arc<File>,
    writer: Sender<(Batch, Answer)>,
}

struct File {
    path: PathBuf,
    /// Nothing after the disk failed, until it is opened again: what is in memory is not believed any more.
    database: RwLock<Option<Database>>,
}

impl Embedded {
    /// Opens the file, or makes it. Another server that has it open is an error.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Arc::new(File { path: path.to_owned(), database: RwLock::new(None) });
        file.reopen()?;
        let (writer, batches) = channel();
        let kept = file.clone();
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || write_all(&kept, &batches))
            .map_err(|error| Error::new(Reason::Internal, format!("no thread for the store: {error}")))?;
        Ok(Self { file, writer })
    }

    /// One document.
    pub fn get(&self, key: &str) -> Result<Option<Doc>> {
        self.file.with(|database| {
            let table = match database.begin_read()?.open_table(DOCS) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?,
            };
            let found = table.get(key)?;
            Ok(found.map(|value| doc(key, value.value())))
        })
    }

    /// The documents of a kind.
    pub fn list(&self, page: &Page) -> Result<Vec<Doc>> {
        self.file.with(|database| {
            let table = match database.begin_read()?.open_table(DOCS) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let (low, high) = page.bounds();
            if low >= high {
                return Ok(Vec::new());
            }
            let range = table.range(low.as_str()..high.as_str())?;
            let mut found = Vec::new();
            if page.newest_first {
                for entry in range.rev().take(page.limit) {
                    let (key, value) = entry?;
                    found.push(doc(key.value(), value.value()));
                }
                return Ok(found);
            }
            for entry in range.take(page.limit) {
                let (key, value) = entry?;
                found.push(doc(key.value(), value.value()));
            }
            Ok(found)
        })
    }

    /// Makes changes; answers after the fsync.
    pub async fn commit(&self, batch: Batch) -> Result<bool> {
        let (answer, answered) = oneshot::channel();
        let gone = |_gone: ()| Error::new(Reason::LockUnreachable, "the store's writer has ended");
        self.writer.send((batch, answer)).map_err(|_gone| gone(()))?;
        answered.await.map_err(|_gone| gone(()))?
    }
}

fn doc(key: &str, (mark, json): (&str, &str)) -> Doc {
    Doc { key: key.to_owned(), mark: mark.to_owned(), json: json.to_owned() }
}

impl File {
    fn reopen(&self) -> Result<()> {
        let mut database = self.database.write().map_err(|_poisoned| self.failed("a reader has panicked"))?;
        if database.is_none() {
            let mut builder = redb::Builder::new();
            builder.set_cache_size(8 * 1024 * 1024);
            *database = Some(builder.create(&self.path).map_err(|error| self.cannot_open(&error))?);
        }
        Ok(())
    }

    fn cannot_open(&self, error: &redb::DatabaseError) -> Error {
        if matches!(error, redb::DatabaseError::DatabaseAlreadyOpen) {
            return Error::new(Reason::LockUnreachable, format!("another server has {} open", self.path.display()))
                .hint("stop it, name another folder with `data:`, or let several replicas share a Redis server with `store:`");
        }
        self.failed(&error.to_string())
    }

    fn failed(&self, why: &str) -> Error {
        Error::new(Reason::LockUnreachable, format!("the store {} cannot be used: {why}", self.path.display()))
            .hint("is the disk full or read-only, or the folder not the server's? `data:` says where it is")
    }

    fn with<T>(&self, work: impl FnOnce(&Database) -> std::result::Result<T, redb::Error>) -> Result<T> {
        if self.database.read().is_ok_and(|database| database.is_none()) {
            self.reopen()?;
        }
        let database = self.database.read().map_err(|_poisoned| self.failed("its writer has panicked"))?;
        let database = database.as_ref().ok_or_else(|| self.failed("the disk failed, and it could not be opened again yet"))?;
        work(database).map_err(|error| self.failed(&error.to_string()))
    }

    /// Applies these batches and keeps them with one fsync.
    fn write(&self, batches: &[(Batch, Answer)]) -> Result<Vec<bool>> {
        let written = self.with(|database| {
            let transaction = database.begin_write()?;
            let mut answers = Vec::with_capacity(batches.len());
            {
                let mut table = transaction.open_table(DOCS)?;
                for (batch, _answer) in batches {
                    answers.push(apply(&mut table, batch)?);
                }
            }
            transaction.commit()?;
            Ok(answers)
        });
        if written.is_err()
            && let Ok(mut database) = self.database.write()
        {
            // A failed fsync leaves nobody knowing what the disk holds: the file is read anew before it is used again.
            *database = None;
        }
        written
    }
}

fn apply(table: &mut redb::Table<'_, &str, (&str, &str)>, batch: &Batch) -> std::result::Result<bool, redb::Error> {
    for (key, mark) in &batch.checks {
        let found = table.get(key.as_str())?;
        if found.as_ref().map(|value| value.value().0) != mark.as_deref() {
            return Ok(false);
        }
    }
    for (key, json) in &batch.puts {
        table.insert(key.as_str(), (crate::report::outputs::random().as_str(), json.as_str()))?;
    }
    for key in &batch.deletes {
        table.remove(key.as_str())?;
    }
    Ok(true)
}

fn write_all(file: &File, batches: &Receiver<(Batch, Answer)>) {
    while let Ok(first) = batches.recv() {
        let mut together = vec![first];
        while together.len() < SHARED {
            match batches.try_recv() {
                Ok(next) => together.push(next),
                Err(_none) => break,
            }
        }
        let written = file.write(&together);
        for (index, (_batch, answer)) in together.into_iter().enumerate() {
            let told = match &written {
                Ok(answers) => Ok(answers.get(index).copied().unwrap_or_default()),
                Err(error) => Err(error.clone()),
            };
            let _gone = answer.send(told);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_are_made_together_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let store = Embedded::open(&path).unwrap();
        assert!(store.get("a/1").unwrap().is_none() && store.list(&Page::all("a/")).unwrap().is_empty());
        assert!(store.commit(Batch::new().when("a/1", None).put("a/1", &1).put("a/2", &2).put("b/1", &3)).await.unwrap());
        assert!(!store.commit(Batch::new().when("a/1", None).put("a/3", &9)).await.unwrap());
        let one = store.get("a/1").unwrap().unwrap();
        assert!(!store.commit(Batch::new().when("a/1", Some("other")).delete("a/1")).await.unwrap());
        assert!(store.commit(Batch::new().when("a/1", Some(&one.mark)).put("a/1", &"new")).await.unwrap());
        assert!(!store.commit(Batch::new().when("a/1", Some(&one.mark)).put("a/1", &"newer")).await.unwrap());
        let keys = |page: Page| store.list(&page).unwrap().into_iter().map(|doc| doc.key).collect::<Vec<_>>();
        assert_eq!(keys(Page::all("a/")), ["a/1", "a/2"]);
        assert_eq!(keys(Page::newest("a/", 1)), ["a/2"]);
        assert_eq!(keys(Page { from: Some("a/2".into()), ..Page::newest("a/", 9) }), ["a/1"]);
        assert_eq!(keys(Page { from: Some("a/1".into()), ..Page::all("a/") }), ["a/2"]);
        let refused = Embedded::open(&path).err().unwrap();
        assert!(refused.sentence.contains("another server"), "{refused}");
    }
}
