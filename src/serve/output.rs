//! What jobs say. Their beginning and their end are kept; what lies between is dropped when it is too much.
//!
//! Offsets count every byte since the job began, dropped or not, so a reader goes on where it was.

use super::store::{Said, Server, Store};
use crate::error::{Error, Reason, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// How old what belongs to no job may get.
const OLD: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
/// How many files the kept end is made of.
const SEGMENTS: u64 = 4;

/// How much is kept, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Keep {
    /// Of the beginning.
    pub head: u64,
    /// Of the end.
    pub tail: u64,
}

impl Keep {
    /// Half for the beginning, half for the end.
    pub fn of(mebibytes: u64) -> Self {
        let half = mebibytes.saturating_mul(1024 * 1024) / 2;
        Self { head: half, tail: half }
    }

    /// Whether a beginning of this length is all there is: nothing comes after it before it is full, but for a character.
    fn has_room(self, head: u64) -> bool {
        head + 4 <= self.head
    }
}

/// A piece of what a job said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins: later than asked for when what was there is dropped.
    pub from: u64,
    /// The text.
    pub text: String,
    /// Where the next piece begins.
    pub next: u64,
    /// How long all of it is so far.
    pub total: u64,
}

/// The writer of a job's files. There is one at a time.
pub struct Writer {
    folder: PathBuf,
    keep: Keep,
    head: u64,
    total: u64,
    file: Option<File>,
    segments: Vec<u64>,
}

impl Writer {
    /// Goes on where the files end.
    pub fn open(folder: &Path, keep: Keep) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let sizes = Sizes::of(folder)?;
        let segments = sizes.tail.iter().map(|(start, _length)| *start).collect();
        Ok(Self { folder: folder.to_owned(), keep, head: sizes.head, total: sizes.total(), file: None, segments })
    }

    /// How long all of it was.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Appends. After a failure it goes on where the files really end: half of a write may be there.
    pub fn append(&mut self, text: &str) -> std::io::Result<()> {
        let appended = self.append_all(text);
        if appended.is_err()
            && let Ok(fresh) = Self::open(&self.folder, self.keep)
        {
            *self = fresh;
        }
        appended
    }

    fn append_all(&mut self, text: &str) -> std::io::Result<()> {
        let room = usize::try_from(self.keep.head.saturating_sub(self.head)).unwrap_or(usize::MAX);
        let (first, rest) = if self.segments.is_empty() { text.split_at(boundary(text, room)) } else { ("", text) };
        if !first.is_empty() {
            let mut file = self.open_file(&self.folder.join("head"))?;
            file.write_all(first.as_bytes())?;
            self.file = Some(file);
            self.head += first.len() as u64;
            self.total += first.len() as u64;
        }
        if rest.is_empty() { Ok(()) } else { self.append_to_tail(rest) }
    }

    fn append_to_tail(&mut self, text: &str) -> std::io::Result<()> {
        let size = (self.keep.tail / SEGMENTS).max(1);
        let start = match self.segments.last() {
            Some(start) if self.total - start < size => *start,
            Some(_) | None => {
                self.file = None;
                self.segments.push(self.total);
                self.total
            }
        };
        let mut file = self.open_file(&segment(&self.folder, start))?;
        file.write_all(text.as_bytes())?;
        self.file = Some(file);
        self.total += text.len() as u64;
        while self.segments.len() as u64 > SEGMENTS + 1 {
            let _gone = std::fs::remove_file(segment(&self.folder, self.segments.remove(0)));
        }
        Ok(())
    }

    fn open_file(&mut self, path: &Path) -> std::io::Result<File> {
        match self.file.take() {
            Some(file) => Ok(file),
            None => File::options().create(true).append(true).open(path),
        }
    }
}

/// The last place at or before this one that is between characters.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default()
}

fn segment(folder: &Path, start: u64) -> PathBuf {
    folder.join(format!("tail.{start:020}"))
}

/// How much is there.
#[derive(Debug, Default)]
struct Sizes {
    head: u64,
    tail: Vec<(u64, u64)>,
}

impl Sizes {
    fn of(folder: &Path) -> std::io::Result<Self> {
        let head = match std::fs::metadata(folder.join("head")) {
            Ok(about) => about.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let mut tail = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(start) = name.strip_prefix("tail.").and_then(|start| start.parse().ok()) {
                // One that is dropped at this moment is not there any more.
                tail.extend(entry.metadata().ok().map(|about| (start, about.len())));
            }
        }
        tail.sort_unstable();
        Ok(Self { head, tail })
    }

    fn total(&self) -> u64 {
        self.tail.last().map_or(self.head, |(start, length)| start + length)
    }
}

/// How long what is in a folder was in all.
pub fn total_of(folder: &Path, keep: Keep) -> std::io::Result<u64> {
    match std::fs::metadata(folder.join("head")) {
        Ok(about) if keep.has_room(about.len()) => Ok(about.len()),
        Ok(_) => Sizes::of(folder).map(|sizes| sizes.total()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// A piece of what is in a folder.
pub fn read_files(folder: &Path, keep: Keep, from: u64, limit: usize) -> std::io::Result<Piece> {
    let mut file = match File::open(folder.join("head")) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Piece::default()),
        Err(error) => return Err(error),
    };
    let head = file.metadata()?.len();
    let sizes = if keep.has_room(head) { Sizes { head, tail: Vec::new() } } else { Sizes::of(folder)? };
    let total = sizes.total();
    if from < sizes.head || sizes.tail.is_empty() {
        let start = from.min(sizes.head);
        file.seek(SeekFrom::Start(start))?;
        return piece(&file, start, sizes.head, limit, total);
    }
    let inside = sizes.tail.iter().find(|(start, length)| from < start + length).copied();
    let Some((first, size)) = inside else { return Ok(Piece { from: total, next: total, total, ..Piece::default() }) };
    let mut file = File::open(segment(folder, first))?;
    let start = from.max(first);
    file.seek(SeekFrom::Start(start - first))?;
    piece(&file, start, first + size, limit, total)
}

fn piece(file: &File, from: u64, end: u64, limit: usize, total: u64) -> std::io::Result<Piece> {
    let length = end.saturating_sub(from).min(limit as u64);
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(length).read_to_end(&mut bytes)?;
    Ok(text_of(from, bytes, total))
}

/// A piece that begins and ends between characters.
fn text_of(from: u64, bytes: Vec<u8>, total: u64) -> Piece {
    let cut_begin = bytes.iter().take(3).take_while(|byte| **byte & 0b1100_0000 == 0b1000_0000).count();
    let from = from + cut_begin as u64;
    let bytes = bytes.get(cut_begin..).unwrap_or_default();
    let end = match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => bytes.len(),
    };
    let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned();
    Piece { from, text, next: from + end as u64, total }
}

/// What jobs say, wherever it is kept.
#[derive(Clone)]
pub struct Output {
    folder: PathBuf,
    server: Option<Server>,
    keep: Keep,
}

impl Output {
    /// Beside an embedded store in files, else on the Redis server.
    pub fn new(store: &Store, data: &Path, keep: Keep) -> Self {
        let server = match store {
            Store::Embedded(_) => None,
            Store::Redis(server) => Some(server.clone()),
        };
        Self { folder: data.join("jobs"), server, keep }
    }

    /// How much is kept of each.
    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// The folder of a job on this machine.
    pub fn folder(&self, job: &str) -> PathBuf {
        self.folder.join(job)
    }

    /// How long what a job said is so far.
    pub async fn total(&self, job: &str) -> Result<u64> {
        match &self.server {
            None => total_of(&self.folder(job), self.keep).map_err(|error| unreadable(job, &error)),
            Some(server) => server.total(job).await,
        }
    }

    /// A piece of it, from this offset on.
    pub async fn read(&self, job: &str, from: u64, limit: usize) -> Result<Piece> {
        let Some(server) = &self.server else {
            let folder = self.folder(job);
            // A piece of the end may be dropped just when it is opened: then there is a later one.
            let piece = read_files(&folder, self.keep, from, limit).or_else(|_dropped| read_files(&folder, self.keep, from, limit));
            return piece.map_err(|error| unreadable(job, &error));
        };
        let (total, from, bytes) = server.read(job, from, limit as u64).await?;
        Ok(text_of(from, bytes, total))
    }

    /// All that is kept, with a word where something was dropped. While the job runs, it is the beginning alone when that is
    /// full: clients go on after what they were told before, so it must not change.
    pub async fn whole(&self, job: &str, is_over: bool) -> Result<String> {
        let mut text = String::new();
        let mut from = 0;
        loop {
            let piece = self.read(job, from, 4 * 1024 * 1024).await?;
            if !is_over && !self.keep.has_room(piece.from) {
                return Ok(text);
            }
            if piece.from > from && piece.next > from {
                text.push_str(&format!("\n… {} bytes are not kept …\n", piece.from - from));
            }
            if piece.next <= from {
                return Ok(text);
            }
            if text.is_empty() && piece.next >= piece.total {
                return Ok(piece.text); // the usual case: one look is enough
            }
            text.push_str(&piece.text);
            from = piece.next;
        }
    }

    /// The end of it, and where that ends: what is said meanwhile is neither left out nor told twice.
    pub async fn end(&self, job: &str, length: u64) -> Result<Piece> {
        let begin = self.total(job).await?.saturating_sub(length);
        let mut end = self.read(job, begin, 64 * 1024).await?;
        while end.next < end.total {
            let piece = self.read(job, end.next, 64 * 1024).await?;
            if piece.next <= end.next {
                break;
            }
            end.text.push_str(&piece.text);
            (end.next, end.total) = (piece.next, piece.total);
        }
        Ok(end)
    }

    /// Where a job's text is written by this replica.
    pub async fn sink(&self, job: &str, holder: &str) -> Result<Sink> {
        match &self.server {
            None => Writer::open(&self.folder(job), self.keep).map(Sink::Files).map_err(|error| unreadable(job, &error)),
            Some(server) => {
                let Some(total) = server.hold(job, holder).await? else { return Err(taken(job)) };
                Ok(Sink::Redis { server: server.clone(), job: job.to_owned(), holder: holder.to_owned(), total, keep: self.keep })
            }
        }
    }

    /// Removes the folders of jobs that are forgotten: another replica may have forgotten them.
    pub async fn tidy(&self, store: &Store) -> Result<()> {
        let folders = std::fs::read_dir(&self.folder).into_iter().flatten().filter_map(std::result::Result::ok);
        let names: Vec<String> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        for name in names {
            let folder = self.folder(&name);
            let age = std::fs::metadata(&folder).and_then(|about| about.modified()).ok().and_then(|at| at.elapsed().ok());
            // A store that was emptied by mistake may come back from a copy.
            if crate::tools::ulid::is_ulid(&name) && age.is_some_and(|age| age > OLD) && super::jobs::job(store, &name).await?.is_none() {
                let _next_time = std::fs::remove_dir_all(folder);
            }
        }
        Ok(())
    }

    /// Forgets what a job said, and everything else of it on this machine.
    pub async fn forget(&self, job: &str) -> Result<()> {
        let _not_here = std::fs::remove_dir_all(self.folder(job));
        match &self.server {
            None => Ok(()),
            Some(server) => server.forget(job).await,
        }
    }
}

/// Where a job's text is written.
pub enum Sink {
    /// Files of this machine.
    Files(Writer),
    /// A Redis server, as long as no other replica writes it.
    Redis {
        /// The server.
        server: Server,
        /// The job.
        job: String,
        /// Who writes.
        holder: String,
        /// How long it is so far.
        total: u64,
        /// How much is kept.
        keep: Keep,
    },
}

impl Sink {
    /// How long it is so far.
    pub fn total(&self) -> u64 {
        match self {
            Self::Files(writer) => writer.total(),
            Self::Redis { total, .. } => *total,
        }
    }

    /// Leaves out what never comes, up to this offset.
    pub async fn skip(&mut self, to: u64) -> Result<()> {
        match self {
            Self::Files(_) => Ok(()),
            Self::Redis { server, job, holder, total, keep } => {
                if !server.skip(job, &Said { holder, total: *total, keep: *keep }, to).await? {
                    return Err(taken(job));
                }
                *total = to;
                Ok(())
            }
        }
    }

    /// Appends.
    pub async fn append(&mut self, text: &str) -> Result<()> {
        match self {
            Self::Files(writer) => writer.append(text).map_err(|error| unreadable("a job", &error)),
            Self::Redis { server, job, holder, total, keep } => {
                let said = Said { holder, total: *total, keep: *keep };
                if !server.append(job, &said, text).await? {
                    return Err(taken(job));
                }
                *total += text.len() as u64;
                Ok(())
            }
        }
    }
}

fn taken(job: &str) -> Error {
    Error::new(Reason::LockLost, format!("another replica writes the output of job {job}"))
}

fn unreadable(job: &str, error: &std::io::Error) -> Error {
    Error::new(Reason::LockUnreachable, format!("the output of {job} cannot be read or written: {error}"))
        .hint("is the disk full, or the folder not the server's? `data:` says where it is")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Keep = Keep { head: 100, tail: 100 };

    fn all(folder: &Path, mut from: u64, limit: usize) -> (String, u64) {
        let mut text = String::new();
        let mut dropped = 0;
        loop {
            let piece = read_files(folder, KEEP, from, limit).unwrap();
            dropped += piece.from.saturating_sub(from);
            if piece.next <= from {
                return (text, dropped);
            }
            text.push_str(&piece.text);
            from = piece.next;
        }
    }

    #[test]
    fn beginning_and_end_are_kept_and_offsets_stay() {
        let folder = tempfile::tempdir().unwrap();
        let said: String = (0..500).map(|number| format!("line {number} \u{e9}\n")).collect();
        let mut writer = Writer::open(folder.path(), KEEP).unwrap();
        for (index, line) in said.split_inclusive('\n').enumerate() {
            writer.append(line).unwrap();
            if index == 250 {
                writer = Writer::open(folder.path(), KEEP).unwrap(); // another process goes on
            }
        }
        assert_eq!((writer.total(), total_of(folder.path(), KEEP).unwrap()), (said.len() as u64, said.len() as u64));
        for limit in [7, 64, 4096] {
            let (text, dropped) = all(folder.path(), 0, limit);
            assert_eq!(text.len() as u64 + dropped, said.len() as u64);
            assert!(text.starts_with(said.get(..90).unwrap()) && text.ends_with(said.get(said.len() - 100..).unwrap()), "{text}");
            assert!(text.len() < 100 + 100 + 60, "{}", text.len());
        }
        let near_end = all(folder.path(), said.len() as u64 - 13, 4096).0;
        assert_eq!(near_end, said.get(said.len() - 13..).unwrap());
        let after = read_files(folder.path(), KEEP, said.len() as u64 + 5, 10).unwrap();
        assert_eq!((after.text.as_str(), after.total), ("", said.len() as u64));
    }

    #[tokio::test]
    async fn the_end_says_where_it_ends() {
        let data = tempfile::tempdir().unwrap();
        let output = Output { folder: data.path().to_owned(), keep: Keep { head: 1 << 20, tail: 100 }, server: None };
        let said = "line\n".repeat(40_000); // more than one look
        Writer::open(&data.path().join("a"), output.keep).unwrap().append(&said).unwrap();
        let end = output.end("a", 150_000).await.unwrap();
        assert_eq!((end.from, end.next, end.total), (50_000, 200_000, 200_000));
        assert_eq!(end.text, said.get(50_000..).unwrap());
        assert_eq!(output.read("a", end.next, 10).await.unwrap().text, "", "what comes after it was not told before");
        assert_eq!(output.end("none", 10).await.unwrap(), Piece::default());
    }

    #[test]
    fn nothing_said_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_files(folder.path(), KEEP, 0, 10).unwrap(), Piece::default());
        assert_eq!(total_of(&folder.path().join("none"), KEEP).unwrap(), 0);
    }
}
