//! Bytes that have come and were not used yet.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
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
}

impl Default for Reader {
    fn default() -> Self {
        Self { held: BytesMut::new(), room: SHORT }
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

    /// Takes the first `count` bytes.
    pub fn take(&mut self, count: usize) -> Bytes {
        if count == self.held.len() && self.room == SHORT {
            return std::mem::take(&mut self.held).freeze();
        }
        self.held.split_to(count).freeze()
    }

    /// Leaves the first `count` bytes out.
    pub fn skip(&mut self, count: usize) {
        drop(self.take(count));
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
        use std::future::Future;
        self.held.reserve(self.room);
        let count = ready!(pin!(stream.read_buf(&mut self.held)).poll(cx))?;
        if count < SHORT / 2 {
            self.room = SHORT;
        }
        Poll::Ready(Ok(count))
    }
}
