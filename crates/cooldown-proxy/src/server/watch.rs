//! Sees in the raw bytes what the HTTP parser silently repairs: a body whose length is stated more than once.
//!
//! hyper drops `content-length` beside `transfer-encoding`, and folds equal lengths into one, before anybody can look.
//! What it forwards then is unambiguous, but whoever sent it may be smuggling past something that stands in front of
//! us (RFC 9112 §6.3, §11.2), so such requests are refused. This scanner follows the framing just far enough to know
//! heads from bodies; it decides nothing else.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Stream;

/// Of a line that arrives in pieces, this much is kept: enough for the names and lengths that matter.
const KEPT: usize = 64;

/// A client's stream, watched.
#[derive(Debug)]
pub(super) struct Watched {
    stream: Stream,
    scanner: Scanner,
    ambiguous: Arc<AtomicBool>,
}

/// Where in the stream of messages the next byte belongs.
#[derive(Debug, Default)]
struct Scanner {
    place: Place,
    /// The beginning of a line whose end has not arrived.
    line: Vec<u8>,
    /// What the present head has said.
    head: Head,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A line of a head; the first is the request line.
    #[default]
    Head,
    /// This many bytes of a body, or of a chunk and its line end.
    Body(u64),
    /// The line that states a chunk's size.
    ChunkSize,
    /// This many bytes of a chunk and the line end behind it.
    Chunk(u64),
    /// A line of the trailers.
    Trailers,
    /// No longer HTTP, or not to be followed.
    Lost,
}

#[derive(Debug, Default)]
struct Head {
    begun: bool,
    lengths: u32,
    length: u64,
    codings: u32,
}

impl Watched {
    /// Watches a stream. The flag is set for good once a length was stated more than once.
    pub(super) fn new(stream: Stream) -> (Self, Arc<AtomicBool>) {
        let ambiguous = Arc::new(AtomicBool::new(false));
        let watched = Self { stream, scanner: Scanner::default(), ambiguous: Arc::clone(&ambiguous) };
        (watched, ambiguous)
    }
}

impl Scanner {
    /// Follows the stream over these bytes. False once a head has stated its body's length more than once.
    fn follow(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self.place {
                Place::Lost => return true,
                Place::Body(left) => {
                    let (rest, left) = skip(bytes, left);
                    bytes = rest;
                    self.place = if left == 0 { Place::Head } else { Place::Body(left) };
                }
                Place::Chunk(left) => {
                    let (rest, left) = skip(bytes, left);
                    bytes = rest;
                    self.place = if left == 0 { Place::ChunkSize } else { Place::Chunk(left) };
                }
                Place::Head | Place::ChunkSize | Place::Trailers => {
                    let Some(end) = memchr::memchr(b'\n', bytes) else {
                        self.keep(bytes);
                        return true;
                    };
                    let (line, rest) = bytes.split_at(end);
                    bytes = &rest[1..];
                    if self.line.is_empty() {
                        self.read_line(line);
                    } else {
                        self.keep(line);
                        let whole = std::mem::take(&mut self.line);
                        self.read_line(&whole);
                    }
                    if self.head.lengths > 1 || (self.head.lengths > 0 && self.head.codings > 0) {
                        self.place = Place::Lost;
                        return false;
                    }
                }
            }
        }
        true
    }

    fn keep(&mut self, piece: &[u8]) {
        let room = KEPT.saturating_sub(self.line.len());
        self.line.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn read_line(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.place {
            Place::Head if line.is_empty() => self.end_head(),
            Place::Head => self.head.read(line),
            Place::ChunkSize => self.place = chunk(line),
            Place::Trailers if line.is_empty() => self.place = Place::Head,
            _ => {}
        }
    }

    fn end_head(&mut self) {
        // Empty lines in front of a request line are allowed.
        if !self.head.begun {
            return;
        }
        let head = std::mem::take(&mut self.head);
        self.place = match head {
            Head { codings: 1.., .. } => Place::ChunkSize,
            Head { length: 1.., .. } => Place::Body(head.length),
            _ => Place::Head,
        };
    }
}

impl Head {
    fn read(&mut self, line: &[u8]) {
        if !std::mem::replace(&mut self.begun, true) {
            return;
        }
        if let Some(value) = field(line, b"content-length") {
            self.lengths += 1;
            // A malformed one is refused by the parser.
            self.length = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        } else if field(line, b"transfer-encoding").is_some() {
            self.codings += 1;
        }
    }
}

fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (given, value) = line.split_at_checked(name.len())?;
    let value = value.strip_prefix(b":")?;
    given.eq_ignore_ascii_case(name).then_some(value)
}

fn chunk(line: &[u8]) -> Place {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let size = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    match size {
        Some(0) => Place::Trailers,
        // The chunk's own line end comes behind it.
        Some(size) => size.checked_add(2).map_or(Place::Lost, Place::Chunk),
        None => Place::Lost,
    }
}

fn skip(bytes: &[u8], left: u64) -> (&[u8], u64) {
    let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (&bytes[skipped..], left - skipped as u64)
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if !self.scanner.follow(&buf.filled()[before..]) {
            self.ambiguous.store(true, Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the scanner accepts these bytes however they are cut into pieces, and where it stands then.
    fn accepts(bytes: &str) -> bool {
        let whole = Scanner::default().follow(bytes.as_bytes());
        for size in [1, 2, 3, 7, 50] {
            let mut scanner = Scanner::default();
            let pieces = bytes.as_bytes().chunks(size).all(|piece| scanner.follow(piece));
            assert_eq!(pieces, whole, "in pieces of {size}: {bytes:?}");
        }
        whole
    }

    #[test]
    fn a_length_that_is_stated_twice_is_seen() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\n";
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "transfer-encoding: chunked\r\nX: y\r\ncontent-length: 5\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\nContent-Length: 6\n",
        ] {
            assert!(!accepts(&format!("{head}{fields}\r\nhello")), "{fields}");
            assert!(!accepts(&format!("GET /first HTTP/1.1\r\nHost: a\r\n\r\n{head}{fields}\r\n")), "{fields}");
        }
    }

    #[test]
    fn bodies_may_say_what_they_like() {
        let twice = "Content-Length: 1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let length = twice.len();
        let sized = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{twice}");
        assert!(accepts(&format!("{sized}{sized}GET / HTTP/1.1\r\n\r\n")));
        let chunked =
            format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{length:x};x=y\r\n{twice}\r\n0\r\n{twice}");
        assert!(accepts(&format!("{chunked}{chunked}{sized}")));
        assert!(!accepts(&format!("{chunked}POST / HTTP/1.1\r\n{twice}")), "the head behind a body counts again");
    }

    #[test]
    fn empty_lines_in_front_of_a_head_are_no_head() {
        assert!(accepts("\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"));
        assert!(!accepts("\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"));
    }
}
