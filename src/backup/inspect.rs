//! What a dump is, seen while it goes by: how it begins and ends, how much it holds, and what its own tools list of it.

use crate::error::{Error, Reason, Result};
use crate::tools::pipe::Child;
use crate::tools::wait::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How much of its end is kept.
const END: usize = 4096;
/// How long the listing may take to end when all of the dump is there.
const LIST_LIMIT: Duration = Duration::from_secs(60);
/// The longest list that is read, in bytes.
const LIST_SIZE: u64 = 256 * 1024 * 1024;

/// How a dump has to look.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// One of these stands at its beginning, after what `skip` says; anything when empty.
    pub begins_with: Vec<String>,
    /// How far from its beginning that may stand, in bytes.
    pub within: usize,
    /// This stands in its last 4 KiB.
    pub ends_with: Option<String>,
    /// Lines that begin so are counted.
    pub counts: Option<&'static str>,
}

/// What was seen of a dump.
pub struct Inspector {
    shape: Shape,
    /// A program that is given the same bytes and lists what they hold.
    lister: Option<Lister>,
    bytes: Arc<AtomicU64>,
    start: Vec<u8>,
    end: Vec<u8>,
    counted: u64,
}

/// What a dump holds, once it is known to be whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its bytes, before it is compressed.
    pub bytes: u64,
    /// How many tables it holds, where that can be said.
    pub tables: Option<u64>,
}

struct Lister {
    input: Option<tokio::process::ChildStdin>,
    listing: tokio::task::JoinHandle<std::result::Result<u64, String>>,
}

impl Inspector {
    /// Nothing was seen yet. `lister` reads the dump on its standard input and lists it, as `pg_restore --list` does.
    pub fn new(shape: Shape, lister: Option<Child>) -> Self {
        let lister = lister.map(|mut child| {
            let input = child.input.take();
            Lister { input, listing: tokio::spawn(listed(child)) }
        });
        Self { shape, lister, bytes: Arc::default(), start: Vec::new(), end: vec![b'\n'], counted: 0 }
    }

    /// The next bytes.
    pub async fn see(&mut self, chunk: &[u8]) {
        let wanted = self.shape.within.saturating_add(256).saturating_sub(self.start.len());
        self.start.extend(chunk.iter().take(wanted));
        if let Some(mark) = self.shape.counts {
            self.counted += count(&self.end, chunk, mark.as_bytes());
        }
        self.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        self.end.extend_from_slice(chunk.get(chunk.len().saturating_sub(END)..).unwrap_or_default());
        let surplus = self.end.len().saturating_sub(END);
        self.end.drain(..surplus);
        if let Some(lister) = &mut self.lister
            && let Some(input) = &mut lister.input
            && input.write_all(chunk).await.is_err()
        {
            lister.input = None; // it has read as much as it needs
        }
    }

    /// How many bytes have gone by.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The same, for whoever looks while it goes on.
    pub fn counter(&self) -> Arc<AtomicU64> {
        self.bytes.clone()
    }

    /// Judges what was seen, when all of it was.
    pub async fn judge(self) -> Result<Seen> {
        let unlike = |what: String| Error::new(Reason::BackupFailed, format!("the dump is not whole: {what}"));
        let has = |place: &[u8], text: &str| place.windows(text.len().max(1)).any(|window| window == text.as_bytes());
        let begins = self.shape.begins_with.iter().any(|text| {
            let reach = self.start.len().min(self.shape.within.saturating_add(text.len()));
            has(self.start.get(..reach).unwrap_or_default(), text)
        });
        if !self.shape.begins_with.is_empty() && !begins {
            let start = String::from_utf8_lossy(&self.start).chars().take(40).collect::<String>();
            return Err(unlike(format!("it begins with {start:?} instead of {:?}", self.shape.begins_with.join("\" or \""))));
        }
        if let Some(text) = &self.shape.ends_with
            && !has(&self.end, text)
        {
            return Err(unlike(format!("{text:?} does not stand at its end ({} bytes)", self.bytes())));
        }
        let bytes = self.bytes();
        let tables = match self.lister {
            Some(lister) => Some(lister.end().await.map_err(|why| unlike(format!("it cannot be listed: {why}")))?),
            None => self.shape.counts.map(|_| self.counted),
        };
        Ok(Seen { bytes, tables })
    }
}

impl Lister {
    async fn end(mut self) -> std::result::Result<u64, String> {
        self.input = None;
        let clock = Clock::real();
        tokio::select! {
            listed = self.listing => listed.map_err(|error| error.to_string())?,
            () = clock.sleep(LIST_LIMIT) => Err("its list did not end".into()),
        }
    }
}

/// Reads a list to its end; the number of tables whose data it names.
async fn listed(mut child: Child) -> std::result::Result<u64, String> {
    let mut text = Vec::new();
    if let Some(output) = child.output.take() {
        output.take(LIST_SIZE).read_to_end(&mut text).await.map_err(|error| error.to_string())?;
    }
    let ended = child.ended().await.map_err(|error| error.sentence)?;
    if !ended.status.success() {
        return Err(format!("{}: {}", ended.how(), ended.last().unwrap_or("it says nothing")));
    }
    let text = String::from_utf8_lossy(&text);
    if !text.contains("TOC Entries:") {
        return Err("it has no table of contents".into());
    }
    Ok(text.lines().filter(|line| !line.starts_with(';') && line.contains(" TABLE DATA ")).count() as u64)
}

/// How often a mark stands at the beginning of a line of this chunk, also where it began in the one before.
fn count(before: &[u8], chunk: &[u8], mark: &[u8]) -> u64 {
    let keep = before.len().min(mark.len());
    let mut seam: Vec<u8> = before.get(before.len() - keep..).unwrap_or_default().to_vec();
    let seam_length = seam.len();
    seam.extend(chunk.iter().take(mark.len()));
    let line: Vec<u8> = std::iter::once(b'\n').chain(mark.iter().copied()).collect();
    // What begins before the chunk, and ends in it.
    let over = seam.windows(line.len()).take(seam_length).filter(|window| *window == line).count();
    let finder = memchr::memmem::Finder::new(&line);
    (over + finder.find_iter(chunk).count()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn seen(text: &str, shape: Shape, size: usize) -> Result<Seen> {
        let mut inspector = Inspector::new(shape, None);
        for chunk in text.as_bytes().chunks(size) {
            inspector.see(chunk).await;
        }
        inspector.judge().await
    }

    #[tokio::test]
    async fn lines_are_counted_wherever_the_chunks_end() {
        let text = "CREATE TABLE a\nxCREATE TABLE no\nCREATE TABLE b\n\nCREATE TABLE c";
        for size in 1..text.len() + 1 {
            let shape = Shape { counts: Some("CREATE TABLE "), ..Shape::default() };
            assert_eq!(seen(text, shape, size).await.unwrap(), Seen { bytes: text.len() as u64, tables: Some(3) }, "{size}");
        }
    }

    #[tokio::test]
    async fn a_dump_without_its_beginning_or_end_is_refused() {
        let shape = || Shape { begins_with: vec!["-- dump".into()], within: 10, ends_with: Some("-- complete".into()), ..Shape::default() };
        let fine = format!("-- dump\n{}\n-- complete\n", "x".repeat(9000));
        for size in [1, 7, 5000, 10_000] {
            assert!(seen(&fine, shape(), size).await.is_ok());
            let (half, late) = (fine.chars().take(5000).collect::<String>(), fine.chars().skip(1).collect::<String>());
            for (wrong, part) in [(half, "-- complete"), (late, "it begins with"), (String::new(), "it begins with")] {
                let error = seen(&wrong, shape(), size).await.unwrap_err();
                assert!(error.sentence.contains(part), "{}", error.sentence);
            }
        }
    }
}
