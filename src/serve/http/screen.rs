//! Looks at the raw head of each request before it is parsed: what two parsers may read differently is refused.
//!
//! Refused are a line end without its carriage return, a header line that goes on in the next one, a header name with white
//! space before its colon, both Content-Length and Transfer-Encoding, and several different lengths: the means of
//! request smuggling. <https://www.rfc-editor.org/rfc/rfc9112#name-message-parsing>
//!
//! The body is not looked at: its length is counted to know where the next head begins. After a chunked body the connection
//! is closed, so nothing comes after it.

use crate::tools::wait::{Nap, nap_of};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest head, in bytes. What is longer is handed on as it is: the parser says 431.
pub const HEAD: usize = 16 * 1024;
/// How long a client may take none of its answer.
const WRITE: Duration = Duration::from_secs(30);
/// What stands for a head that is refused. No parser takes it, so the answer is 400.
const REFUSED: &[u8] = b"\0 \0\r\n\r\n";

/// A connection whose heads are looked at.
pub struct Screen<T> {
    inner: T,
    state: State,
    /// What was read and not handed on yet.
    held: Vec<u8>,
    /// How much of `held` may be handed on.
    ready: usize,
    /// When a client that does not read its answer is given up.
    patience: Option<Nap>,
}

enum State {
    /// A head is being collected.
    Head,
    /// So much of a body is to come.
    Body(u64),
    /// Everything is handed on: the last request of the connection.
    Last,
}

/// What a head says about what comes after it.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Length(u64),
    Chunked,
    Refused,
}

impl<T> Screen<T> {
    /// A connection at its beginning.
    pub fn new(inner: T) -> Self {
        Self { inner, state: State::Head, held: Vec::new(), ready: 0, patience: None }
    }

    /// A write that is not taken for too long fails.
    fn patient(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.patience = None;
            return written;
        }
        let patience = self.patience.get_or_insert_with(|| nap_of(WRITE));
        match patience.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Decides what of the held bytes may go on.
    fn decide(&mut self) {
        while self.ready < self.held.len() {
            match self.state {
                State::Last => self.ready = self.held.len(),
                State::Body(left) => {
                    let here = u64::try_from(self.held.len() - self.ready).unwrap_or(u64::MAX).min(left);
                    self.ready += usize::try_from(here).unwrap_or(usize::MAX);
                    self.state = if here == left { State::Head } else { State::Body(left - here) };
                }
                State::Head => {
                    let rest = self.held.get(self.ready..).unwrap_or_default();
                    match end_of_head(rest) {
                        None if rest.len() < HEAD => return,
                        None => self.state = State::Last,
                        Some(end) => match judge(rest.get(..end).unwrap_or_default()) {
                            Verdict::Length(0) => self.ready += end,
                            Verdict::Length(length) => {
                                self.ready += end;
                                self.state = State::Body(length);
                            }
                            Verdict::Chunked => self.state = State::Last,
                            Verdict::Refused => {
                                self.held.truncate(self.ready);
                                self.held.extend_from_slice(REFUSED);
                                self.state = State::Last;
                            }
                        },
                    }
                }
            }
        }
    }
}

/// Where a head ends: after an empty line. A bare line feed ends it as well, to be refused at once.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let proper = memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4);
    let bare = memchr::memmem::find(bytes, b"\n\n").map(|at| at + 2);
    let mixed = memchr::memmem::find(bytes, b"\n\r\n").map(|at| at + 3);
    [proper, bare, mixed].into_iter().flatten().min()
}

fn judge(head: &[u8]) -> Verdict {
    let mut length: Option<u64> = None;
    let mut chunked = false;
    let lines: Vec<&[u8]> = head.split_inclusive(|byte| *byte == b'\n').collect();
    for (index, line) in lines.iter().enumerate() {
        let Some(line) = line.strip_suffix(b"\r\n") else { return Verdict::Refused };
        if line.contains(&b'\r') || line.contains(&0) {
            return Verdict::Refused;
        }
        if index == 0 || line.is_empty() {
            continue;
        }
        if line.first().is_some_and(u8::is_ascii_whitespace) {
            return Verdict::Refused;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Verdict::Refused };
        let (name, value) = line.split_at(colon);
        if name.iter().any(u8::is_ascii_whitespace) {
            return Verdict::Refused;
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            match number(value) {
                Some(said) if length.is_none_or(|before| before == said) => length = Some(said),
                Some(_) | None => return Verdict::Refused,
            }
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Verdict::Refused;
            }
            chunked = true;
        }
    }
    match (chunked, length) {
        (true, Some(_)) => Verdict::Refused,
        (true, None) => Verdict::Chunked,
        (false, length) => Verdict::Length(length.unwrap_or(0)),
    }
}

/// Digits and nothing else.
fn number(value: &[u8]) -> Option<u64> {
    let is_digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_digits)?.parse().ok()
}

impl<T: AsyncRead + Unpin> AsyncRead for Screen<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.ready > 0 {
                let count = self.ready.min(buffer.remaining());
                buffer.put_slice(self.held.get(..count).unwrap_or_default());
                self.held.drain(..count);
                self.ready -= count;
                return Poll::Ready(Ok(()));
            }
            // Bodies go straight through: nothing of them is held.
            if self.held.is_empty()
                && let State::Last = self.state
            {
                return Pin::new(&mut self.inner).poll_read(context, buffer);
            }
            let mut piece = [0_u8; 8 * 1024];
            let mut fresh = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.inner).poll_read(context, &mut fresh) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) if fresh.filled().is_empty() => {
                    // The end. Half a head is handed on for the parser to refuse.
                    self.state = State::Last;
                    self.ready = self.held.len();
                    if self.ready == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(Ok(())) => {
                    let bytes = fresh.filled().to_vec();
                    self.held.extend_from_slice(&bytes);
                    self.decide();
                }
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Screen<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.patient(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        self.patient(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[test]
    fn heads_that_may_be_read_in_two_ways_are_refused() {
        let with = |lines: &str| judge(format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").as_bytes());
        assert_eq!(with("Content-Length: 5\r\n"), Verdict::Length(5));
        assert_eq!(with("content-length: 5\r\nContent-Length: 5\r\n"), Verdict::Length(5));
        assert_eq!(with("Transfer-Encoding: Chunked\r\n"), Verdict::Chunked);
        assert_eq!(with(""), Verdict::Length(0));
        for lines in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length:\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "X: a\r\n folded\r\n",
            "X: a\n",
            "X: a\rb\r\n",
            "X\r\n",
        ] {
            assert_eq!(with(lines), Verdict::Refused, "{lines:?}");
        }
    }

    async fn passed(sent: &[u8], cut: usize) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let sent = sent.to_vec();
        tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            for piece in sent.chunks(cut) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut passed = Vec::new();
        Screen::new(server).read_to_end(&mut passed).await.unwrap();
        passed
    }

    #[tokio::test]
    async fn good_requests_pass_unchanged_and_a_bad_one_ends_the_connection() {
        let good = b"POST /a HTTP/1.1\r\nContent-Length: 6\r\n\r\n\n\nabcdGET /b HTTP/1.1\r\nHost: x\r\n\r\n";
        let bad = b"GET /c HTTP/1.1\nHost: x\n\nGET /smuggled HTTP/1.1\r\n\r\n";
        for cut in [1, 7, 4096] {
            assert_eq!(passed(good, cut).await, good, "cut {cut}");
            let all = [&good[..], &bad[..]].concat();
            let through = passed(&all, cut).await;
            let ended = [&good[..], REFUSED].concat();
            assert!(
                through.starts_with(&ended) && !through.windows(8).any(|window| window == b"GET /c H"),
                "cut {cut}: {}",
                String::from_utf8_lossy(&through)
            );
        }
        let long = [&b"GET / HTTP/1.1\r\nX: "[..], &vec![b'a'; 2 * HEAD]].concat();
        assert_eq!(passed(&long, 4096).await.len(), long.len(), "the parser says that it is too long");
    }
}
