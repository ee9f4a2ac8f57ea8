//! Bytes that have come and were not used yet.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::stream::Stream;

/// What is read at once of what is mostly short, in bytes.
const SHORT: usize = 16 * 1024;
/// The most that is read at once, in bytes.
const LONG: usize = 128 * 1024;

thread_local! {
    /// Where short messages are read to. Each is then copied, at its own length: a connection that waits holds what came and
    /// no more, and all of them share memory that the processor has at hand.
    static SCRATCH: RefCell<[u8; SHORT]> = const { RefCell::new([0; SHORT]) };
}

/// What was read of a stream.
#[derive(Debug)]
pub struct Reader {
    held: BytesMut,
    /// How much is read at once.
    room: usize,
    /// How much of it was searched for the end of a line.
    searched: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self { held: BytesMut::new(), room: SHORT, searched: 0 }
    }
}

impl Reader {
    /// What has come and was not taken.
    pub fn bytes(&self) -> &[u8] {
        &self.held
    }

    /// Whether nothing is left of what has come.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether a line has ended in what has come since this was asked last. A head is read anew only then: one that comes byte
    /// by byte would take as much work as a hundred thousand.
    pub fn has_line(&mut self) -> bool {
        let new = &self.held[self.searched..];
        let has_line = memchr::memchr(b'\n', new).is_some();
        self.searched = self.held.len();
        has_line
    }

    /// Takes the first `count` bytes.
    pub fn take(&mut self, count: usize) -> Bytes {
        self.searched = 0;
        if count == self.held.len() && self.room == SHORT {
            return std::mem::take(&mut self.held).freeze();
        }
        self.held.split_to(count).freeze()
    }

    /// Takes the first `count` bytes, which are a head, in memory of its own.
    pub(super) fn take_head(&mut self, count: usize) -> Vec<u8> {
        self.searched = 0;
        if count == self.held.len() && self.room == SHORT {
            return std::mem::take(&mut self.held).into();
        }
        let head = self.held[..count].to_vec();
        self.held.advance(count);
        head
    }

    /// Leaves the first `count` bytes out.
    pub fn skip(&mut self, count: usize) {
        drop(self.take(count));
    }

    /// Leaves all that has come out.
    pub fn clear(&mut self) {
        self.held.clear();
        self.searched = 0;
    }

    /// Says that so many bytes are still to come, so that many can be read at once.
    pub fn expects(&mut self, bytes: u64) {
        if bytes > SHORT as u64 {
            self.room = usize::try_from(bytes).unwrap_or(LONG).min(LONG);
        }
    }

    /// A message is over: the room for long ones is given back.
    pub fn rests(&mut self) {
        if self.room > SHORT {
            self.room = SHORT;
            self.held = BytesMut::from(&self.held[..]);
        }
    }

    /// Reads more; how many bytes came, which is none at the stream's end.
    pub fn poll_read(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.room > SHORT {
            return self.poll_read_long(stream, cx);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut piece = ReadBuf::new(scratch);
            ready!(Pin::new(stream).poll_read(cx, &mut piece))?;
            let piece = piece.filled();
            if piece.len() == SHORT {
                self.room = LONG / 2;
            }
            self.held.extend_from_slice(piece);
            Poll::Ready(Ok(piece.len()))
        })
    }

    /// Long bodies are not copied.
    fn poll_read_long(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.held.reserve(self.room);
        let count = ready!(pin!(stream.read_buf(&mut self.held)).poll(cx))?;
        if count < SHORT / 2 {
            self.room = SHORT;
        }
        Poll::Ready(Ok(count))
    }
}

#[cfg(test)]
impl Reader {
    /// Adds what a test lets come.
    pub fn add(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }
}
