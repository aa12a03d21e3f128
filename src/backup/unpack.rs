//! What is stored becomes a dump again: unpacked by a thread of its own, and seen to be whole.

use crate::error::{Error, Reason, Result};
use bytes::Bytes;
use std::io::Read;
use tokio::sync::mpsc;

/// How much is given on at a time.
const CHUNK: usize = 256 * 1024;

/// How SQL begins and ends: what a dump program began it also ends.
#[derive(Default)]
pub(super) struct Margins {
    start: Vec<u8>,
    end: Vec<u8>,
}

impl Margins {
    pub(super) const WIDTH: usize = 4096;

    pub(super) fn see(&mut self, chunk: &[u8]) {
        self.start.extend(chunk.iter().take(Self::WIDTH.saturating_sub(self.start.len())));
        self.end.extend_from_slice(chunk.get(chunk.len().saturating_sub(Self::WIDTH)..).unwrap_or_default());
        let surplus = self.end.len().saturating_sub(Self::WIDTH);
        self.end.drain(..surplus);
    }

    pub(super) fn judge(&self) -> Result<()> {
        let has = |place: &[u8], text: &str| memchr::memmem::find(place, text.as_bytes()).is_some();
        for (begins, ends) in [
            ("-- PostgreSQL database dump", "-- PostgreSQL database dump complete"),
            ("-- MariaDB dump", "-- Dump completed"),
            ("-- MySQL dump", "-- Dump completed"),
        ] {
            if has(&self.start, begins) && !has(&self.end, ends) {
                let sentence = format!("the backup is not whole: it begins with {begins:?}, and {ends:?} does not stand at its end");
                return Err(Error::new(Reason::RestoreFailed, sentence).hint("take another one: `tidegate backup ENV --list`"));
            }
        }
        Ok(())
    }
}

/// The thread between: what is stored in, the dump out. How it was compressed its first bytes say; one that breaks off is told.
pub(super) fn unpack_all(mut pieces: mpsc::Receiver<Bytes>, chunks: &mpsc::Sender<Bytes>) -> std::io::Result<()> {
    let Some(first) = pieces.blocking_recv() else { return Ok(()) };
    let (is_zstd, is_gzip) = (first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]), first.starts_with(&[0x1f, 0x8b]));
    let stored = Stored { pieces, piece: first };
    if is_zstd {
        give(zstd::stream::read::Decoder::new(stored)?, chunks)
    } else if is_gzip {
        give(flate2::read::MultiGzDecoder::new(stored), chunks)
    } else {
        give(stored, chunks)
    }
}

fn give(mut from: impl Read, chunks: &mpsc::Sender<Bytes>) -> std::io::Result<()> {
    loop {
        let mut chunk = vec![0; CHUNK];
        let read = from.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        chunk.truncate(read);
        chunks.blocking_send(chunk.into()).map_err(|_closed| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
    }
}

/// What is stored, piece by piece.
struct Stored {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.piece.is_empty() {
            self.piece = self.pieces.blocking_recv().unwrap_or_default();
        }
        let length = self.piece.len().min(buffer.len());
        let now = self.piece.split_to(length);
        if let Some(place) = buffer.get_mut(..length) {
            place.copy_from_slice(&now);
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(stored: &[u8]) -> std::io::Result<Vec<u8>> {
        let (send, pieces) = mpsc::channel(10_000);
        let (chunks, mut received) = mpsc::channel(10_000);
        stored.chunks(1000).for_each(|piece| send.blocking_send(Bytes::copy_from_slice(piece)).unwrap());
        drop(send);
        unpack_all(pieces, &chunks)?;
        drop(chunks);
        let mut whole = Vec::new();
        while let Some(chunk) = received.blocking_recv() {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    }

    #[test]
    fn what_breaks_off_is_told_however_it_was_compressed() {
        let text: Vec<u8> = (0..40_000u32).flat_map(|n| n.to_string().into_bytes()).collect();
        let zstd = zstd::stream::encode_all(text.as_slice(), 3).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &text).unwrap();
        for stored in [zstd, gzip.finish().unwrap()] {
            assert!(unpacked(&stored).unwrap() == text);
            for cut in [1, 9, stored.len() / 2] {
                assert!(unpacked(&stored[..stored.len() - cut]).is_err(), "without its last {cut} bytes");
            }
        }
        assert!(unpacked(&text).unwrap() == text);
    }

    #[test]
    fn sql_that_breaks_off_is_told() {
        let whole = b"--\n-- PostgreSQL database dump\n--\nSELECT 1;\n--\n-- PostgreSQL database dump complete\n--\n".to_vec();
        let seen = |text: &[u8]| {
            let mut margins = Margins::default();
            text.chunks(7).for_each(|chunk| margins.see(chunk));
            margins.judge()
        };
        assert!(seen(&whole).is_ok() && seen(b"SELECT 1;").is_ok());
        assert!(seen(&whole[..60]).is_err());
        assert!(seen(b"/*M!999999\\- enable the sandbox mode */\n-- MariaDB dump 10.19\nINSERT").is_err());
    }
}
