//! A dump on its way into a bucket: looked at, compressed, cut into parts, hashed and sent, in bounded memory.
//!
//! The dump is read and the parts are sent by tasks; a thread of its own compresses between them, so that a database, a
//! processor and a network work at once. What is slowest holds the others back: nothing piles up.

use super::bucket::{Bucket, Part, Sent, Upload};
use super::inspect::Inspector;
use crate::config::Compress;
use crate::error::{Error, Reason, Result};
use bytes::{Bytes, BytesMut};
use futures::stream::{FuturesUnordered, StreamExt};
use sha2::{Digest, Sha256};
use std::io::Write;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

/// How much of a dump is read at a time.
const CHUNK: usize = 256 * 1024;
/// How many chunks wait for the compressor.
const WAITING: usize = 4;
/// How many parts are sent at once.
const AT_ONCE: usize = 2;
/// zstd's own default: three times as fast as gzip, and smaller.
const ZSTD_LEVEL: i32 = 3;
/// The most parts that an upload may have: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>.
const MOST_PARTS: i32 = 10_000;

/// How many bytes a part has. Nobody knows how long a dump will be: small ones need little memory, and together they hold more
/// than a terabyte.
fn part_size(number: i32) -> usize {
    const MIB: usize = 1024 * 1024;
    match number {
        ..=1000 => 5 * MIB,
        1001..=3000 => 16 * MIB,
        3001..=6000 => 64 * MIB,
        _more => 256 * MIB,
    }
}

/// Sends all of a source. The upload is neither completed nor given up here.
pub async fn send(source: impl AsyncRead + Unpin, inspector: &mut Inspector, compress: Compress, to: (&Bucket, &Upload)) -> Result<Sent> {
    let (chunks, to_compress) = mpsc::channel::<Bytes>(WAITING);
    let (to_send, pieces) = mpsc::channel::<Bytes>(1);
    let compressing = tokio::task::spawn_blocking(move || compress_all(to_compress, compress, to_send));
    let reading = read_all(source, inspector, chunks);
    let sending = send_all(pieces, to);
    let ((), sent) = tokio::try_join!(reading, sending)?;
    let broken = |why: String| Error::new(Reason::BackupFailed, format!("the dump cannot be compressed: {why}"));
    let whole = compressing.await.map_err(|error| broken(error.to_string()))?.map_err(|error| broken(error.to_string()))?;
    Ok(Sent { sha256: whole, ..sent })
}

async fn read_all(mut source: impl AsyncRead + Unpin, inspector: &mut Inspector, chunks: mpsc::Sender<Bytes>) -> Result<()> {
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        while chunk.len() < CHUNK {
            // A pipe gives 64 KiB at a time.
            let read = source.read_buf(&mut chunk).await;
            match read {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(Error::new(Reason::BackupFailed, format!("the dump broke off: {error}"))),
            }
        }
        if chunk.is_empty() {
            return Ok(());
        }
        let chunk = chunk.freeze();
        inspector.see(&chunk).await;
        if chunks.send(chunk).await.is_err() {
            return Ok(()); // the compressing or the sending ended, and says why
        }
    }
}

async fn send_all(mut pieces: mpsc::Receiver<Bytes>, (bucket, upload): (&Bucket, &Upload)) -> Result<Sent> {
    let (mut sent, mut number) = (Sent::default(), 0);
    let mut going = FuturesUnordered::new();
    while let Some(piece) = pieces.recv().await {
        number += 1;
        if number > MOST_PARTS {
            return Err(Error::new(Reason::BackupFailed, format!("the dump has more than {MOST_PARTS} parts, {} bytes", sent.bytes))
                .hint("leave out what need not be saved (`args:`), or use the snapshots of the database's own provider"));
        }
        going.push(bucket.part(upload, number, piece));
        if going.len() >= AT_ONCE
            && let Some(part) = going.next().await
        {
            note(&mut sent, part?);
        }
    }
    while let Some(part) = going.next().await {
        note(&mut sent, part?);
    }
    sent.parts.sort_by_key(|part| part.number);
    Ok(sent)
}

fn note(sent: &mut Sent, part: Part) {
    sent.bytes += part.bytes;
    sent.parts.push(part);
}

/// The thread between: chunks in, parts out. Gives the SHA-256 of all that came out.
fn compress_all(mut chunks: mpsc::Receiver<Bytes>, compress: Compress, pieces: mpsc::Sender<Bytes>) -> std::io::Result<[u8; 32]> {
    let cutter = Cutter { pieces, number: 1, filling: Vec::new(), hash: Sha256::new() };
    let cutter = match compress {
        Compress::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(cutter, ZSTD_LEVEL)?;
            encoder.include_checksum(true)?; // `zstd -t` then tells a damaged file
            feed(&mut chunks, &mut encoder)?;
            encoder.finish()?
        }
        Compress::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(cutter, flate2::Compression::new(6));
            feed(&mut chunks, &mut encoder)?;
            encoder.finish()?
        }
        Compress::None => {
            let mut cutter = cutter;
            feed(&mut chunks, &mut cutter)?;
            cutter
        }
    };
    cutter.end()
}

fn feed(chunks: &mut mpsc::Receiver<Bytes>, to: &mut impl Write) -> std::io::Result<()> {
    while let Some(chunk) = chunks.blocking_recv() {
        to.write_all(&chunk)?;
    }
    Ok(())
}

/// Cuts what is written into parts.
struct Cutter {
    pieces: mpsc::Sender<Bytes>,
    number: i32,
    filling: Vec<u8>,
    hash: Sha256,
}

impl Cutter {
    fn give(&mut self) -> std::io::Result<()> {
        let piece = Bytes::from(std::mem::take(&mut self.filling));
        self.number += 1;
        self.pieces.blocking_send(piece).map_err(|_closed| std::io::Error::other("nobody sends it any more"))
    }

    fn end(mut self) -> std::io::Result<[u8; 32]> {
        if !self.filling.is_empty() || self.number == 1 {
            self.give()?; // an upload has one part at least
        }
        Ok(self.hash.finalize().into())
    }
}

impl Write for Cutter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let size = part_size(self.number);
        if self.filling.capacity() == 0 && bytes.len() < size {
            self.filling.reserve_exact(if self.number == 1 { bytes.len() } else { size }); // a small dump takes little
        }
        let (now, _later) = bytes.split_at(bytes.len().min(size - self.filling.len()));
        self.filling.extend_from_slice(now);
        self.hash.update(now);
        if self.filling.len() == size {
            self.give()?;
        }
        Ok(now.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_more_than_a_terabyte_and_begin_small() {
        assert!((1..=MOST_PARTS).map(|number| part_size(number) as u64).sum::<u64>() > 1 << 40);
        assert_eq!(part_size(1), 5 * 1024 * 1024, "the smallest that S3 takes");
    }

    /// All bytes come out again in order, in full parts but the last, whatever the pieces they went in with.
    #[test]
    fn what_is_cut_is_what_was_written() {
        let text: Vec<u8> = (0..12_000_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        for compress in [Compress::None, Compress::Zstd, Compress::Gzip] {
            let (chunks, to_compress) = mpsc::channel(1);
            let (to_send, mut pieces) = mpsc::channel(1);
            let thread = std::thread::spawn(move || compress_all(to_compress, compress, to_send));
            let writer = std::thread::spawn({
                let text = text.clone();
                move || text.chunks(77_777).for_each(|chunk| chunks.blocking_send(Bytes::copy_from_slice(chunk)).unwrap())
            });
            let mut whole = Vec::new();
            let mut sizes = Vec::new();
            while let Some(piece) = pieces.blocking_recv() {
                sizes.push(piece.len());
                whole.extend_from_slice(&piece);
            }
            writer.join().unwrap();
            let expected: [u8; 32] = Sha256::digest(&whole).into();
            assert_eq!(thread.join().unwrap().unwrap(), expected);
            assert!(sizes.iter().rev().skip(1).all(|size| *size == part_size(1)), "{sizes:?}");
            let back = match compress {
                Compress::None => whole,
                Compress::Zstd => zstd::stream::decode_all(whole.as_slice()).unwrap(),
                Compress::Gzip => {
                    let mut back = Vec::new();
                    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(whole.as_slice()), &mut back).unwrap();
                    back
                }
            };
            assert!(back == text, "{compress:?}");
        }
    }
}
