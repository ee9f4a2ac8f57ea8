//! Messages on their way out: a head and a body, in as few writes as they need.

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST, MAX_FORWARDS,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName};
use hyper::body::{Body, Bytes, Frame};
use tokio::io::AsyncWrite;

use crate::fields::{Fields, write_field};
use crate::stream::Stream;

/// A piece of at most so many bytes is copied behind what is to be written before it, in bytes: one plain write takes less time
/// than one that gathers.
const SHORT: usize = 4096;
/// How much is collected before it is written, in bytes.
const COLLECTED: usize = 8192;

/// One message after another on its way to a stream.
#[derive(Debug)]
pub struct Writer<B> {
    /// What is written next.
    out: Vec<u8>,
    /// How much of it has been written.
    written: usize,
    /// A long piece behind it.
    piece: Bytes,
    /// What ends the piece.
    end: Vec<u8>,
    /// What is to come; `None` once its end has been taken.
    body: Option<B>,
    coding: Coding,
    /// Something was written that the stream may still hold.
    flushes: bool,
}

/// How the body's end is told.
#[derive(Debug)]
pub enum Coding {
    /// So many bytes are left.
    Length(u64),
    /// In chunks, with these fields behind them if there are any.
    Chunked(Vec<HeaderName>),
    /// The connection ends.
    Close,
}

/// Why a message was not written to its end.
#[derive(Debug)]
pub enum WriteError {
    /// The connection takes no more.
    Connection(io::Error),
    /// Its body broke off.
    Body,
}

/// What the body has given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// As much as is written at once.
    Enough,
    /// All that has come so far.
    Pending,
    /// All.
    Over,
}

impl<B> Default for Writer<B> {
    fn default() -> Self {
        let (out, piece) = (Vec::new(), Bytes::new());
        Self { out, written: 0, piece, end: Vec::new(), body: None, coding: Coding::Length(0), flushes: false }
    }
}

impl Coding {
    /// How much a body takes behind its head, in bytes: a short one leaves with it.
    pub fn room(&self) -> usize {
        match self {
            Self::Length(length) if *length <= SHORT as u64 => *length as usize,
            _ => 0,
        }
    }

    /// Chunks, with the trailers that a head announces.
    pub fn chunked(headers: &Fields) -> Self {
        let names = headers.get_all(TRAILER).filter_map(|value| value.to_str().ok());
        let names = names.flat_map(|names| names.split(',')).filter_map(|name| name.trim().parse().ok());
        Self::Chunked(names.filter(may_trail).collect())
    }
}

impl<B: Body<Data = Bytes> + Unpin> Writer<B> {
    /// Whether there is nothing left to be written.
    pub fn is_idle(&self) -> bool {
        self.body.is_none() && self.out.is_empty() && self.piece.is_empty() && !self.flushes
    }

    /// Begins a message: its head, and what follows.
    pub fn begin(&mut self, head: Vec<u8>, body: Option<B>, coding: Coding) {
        (self.out, self.written, self.body, self.coding) = (head, 0, body, coding);
    }

    /// Leaves the rest unwritten.
    pub fn give_up(&mut self) {
        *self = Self::default();
    }

    /// Writes as much as can be. Ready when all of the message has been written.
    pub fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        loop {
            let filled = self.fill(cx)?;
            ready!(self.poll_out(stream, cx)).map_err(WriteError::Connection)?;
            match filled {
                Filled::Enough => {}
                Filled::Pending => return Poll::Pending,
                Filled::Over => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Takes of the body what has come, as much as is written at once; see [`poll_out`](Self::poll_out).
    ///
    /// # Errors
    /// When the body breaks off, or is not as long as was said.
    pub fn fill(&mut self, cx: &mut Context<'_>) -> Result<Filled, WriteError> {
        while self.piece.is_empty() && self.out.len() < COLLECTED {
            let Some(body) = &mut self.body else { return Ok(Filled::Over) };
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => return Ok(Filled::Pending),
                Poll::Ready(Some(Err(_))) => return Err(WriteError::Body),
                Poll::Ready(None) => self.finish(None)?,
                Poll::Ready(Some(Ok(frame))) => {
                    let is_over = body.is_end_stream();
                    self.take(frame)?;
                    if is_over && self.body.is_some() {
                        self.finish(None)?;
                    }
                }
            }
        }
        Ok(Filled::Enough)
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), WriteError> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.finish(frame.into_trailers().ok().as_ref()),
        };
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.coding {
            Coding::Length(left) => *left = left.checked_sub(data.len() as u64).ok_or(WriteError::Body)?,
            Coding::Chunked(_) => {
                write!(self.out, "{:X}\r\n", data.len()).map_err(WriteError::Connection)?;
            }
            Coding::Close => {}
        }
        if data.len() > SHORT {
            self.piece = data;
        } else {
            self.out.extend_from_slice(&data);
        }
        if let Coding::Chunked(_) = self.coding {
            self.last().extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    /// What is written last, so far.
    fn last(&mut self) -> &mut Vec<u8> {
        if self.piece.is_empty() { &mut self.out } else { &mut self.end }
    }

    /// The body is over, or nothing but trailers is left of it.
    fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), WriteError> {
        self.body = None;
        match std::mem::replace(&mut self.coding, Coding::Length(0)) {
            Coding::Length(0) | Coding::Close => Ok(()),
            Coding::Length(_) => Err(WriteError::Body),
            Coding::Chunked(announced) => {
                let last = self.last();
                last.extend_from_slice(b"0\r\n");
                let trailers = trailers.into_iter().flatten().filter(|(name, _)| announced.contains(name));
                trailers.for_each(|(name, value)| write_field(name, value, last));
                last.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }

    /// Writes all that was collected.
    pub fn poll_out(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() || !self.piece.is_empty() || !self.end.is_empty() {
            let out = &self.out[self.written..];
            let stream = Pin::new(&mut *stream);
            let count = if self.piece.is_empty() && self.end.is_empty() {
                ready!(stream.poll_write(cx, out))?
            } else {
                let pieces = [IoSlice::new(out), IoSlice::new(&self.piece), IoSlice::new(&self.end)];
                ready!(stream.poll_write_vectored(cx, &pieces))?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.flushes = true;
            self.advance(count);
        }
        if self.flushes {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.flushes = false;
        }
        // What waits holds no room for what it has sent.
        self.out = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, count: usize) {
        let of_out = count.min(self.out.len() - self.written);
        self.written += of_out;
        let of_piece = (count - of_out).min(self.piece.len());
        self.piece.advance(of_piece);
        if self.piece.is_empty() {
            self.piece = Bytes::new();
        }
        self.end.drain(..count - of_out - of_piece);
    }
}

/// Whether a field may come behind a body (RFC 9110 §6.5.1).
fn may_trail(name: &HeaderName) -> bool {
    !matches!(
        *name,
        AUTHORIZATION
            | CACHE_CONTROL
            | CONTENT_ENCODING
            | CONTENT_LENGTH
            | CONTENT_RANGE
            | CONTENT_TYPE
            | HOST
            | MAX_FORWARDS
            | SET_COOKIE
            | TE
            | TRAILER
            | TRANSFER_ENCODING
    )
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::http1::{Decoder, Reader};

    /// A body in pieces that come one at a time, or all at once.
    struct Pieces {
        pieces: VecDeque<Frame<Bytes>>,
        hesitates: bool,
        asked: bool,
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = ();

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
            self.asked = !self.asked;
            if self.hesitates && self.asked {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(self.pieces.pop_front().map(Ok))
        }

        fn is_end_stream(&self) -> bool {
            self.pieces.is_empty()
        }
    }

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it has one");
        let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Stream::Plain(one.expect("a connection")), other.expect("a connection").0)
    }

    /// What arrives of a message with this body: its head, its data, and the number of its trailers.
    async fn sent(body: Pieces, coding: Coding, mut decoder: Decoder) -> (Bytes, Vec<u8>, usize) {
        let (mut stream, other) = pair().await;
        let mut other = Stream::Plain(other);
        let mut writer = Writer::default();
        writer.begin(b"head".to_vec(), Some(body), coding);
        let written = async {
            poll_fn(|cx| writer.poll(&mut stream, cx)).await.expect("it is written");
            assert!(writer.is_idle());
        };
        let read = async {
            let (mut reader, mut data, mut trailers) = (Reader::default(), Vec::new(), 0);
            while reader.bytes().len() < 4 {
                poll_fn(|cx| reader.poll_read(&mut other, cx)).await.expect("it comes");
            }
            let head = reader.take(4);
            while let Some(frame) = poll_fn(|cx| decoder.poll_frame(&mut reader, &mut other, cx)).await {
                match frame.expect("a body").into_data() {
                    Ok(piece) => data.extend_from_slice(&piece),
                    Err(frame) => trailers += frame.into_trailers().map_or(0, |trailers| trailers.len()),
                }
            }
            assert!(reader.is_empty(), "nothing comes behind it");
            (head, data, trailers)
        };
        tokio::join!(written, read).1
    }

    fn body(lengths: &[usize], trailers: bool, hesitates: bool) -> (Pieces, Vec<u8>) {
        let pieces: Vec<Bytes> =
            lengths.iter().enumerate().map(|(index, length)| Bytes::from(vec![index as u8; *length])).collect();
        let whole = pieces.concat();
        let mut pieces: VecDeque<_> = pieces.into_iter().map(Frame::data).collect();
        if trailers {
            let fields =
                [("x-sum", "1"), ("x-other", "2")].map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            pieces.push_back(Frame::trailers(fields.into_iter().collect()));
        }
        (Pieces { pieces, hesitates, asked: false }, whole)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_written_is_what_is_read(
            lengths in prop::collection::vec(prop_oneof![0..20_usize, 4000..4200_usize, 0..100_000_usize], 0..8),
            trailers: bool, hesitates: bool, chunked: bool,
        ) {
            let (pieces, whole) = body(&lengths, trailers, hesitates);
            let length = whole.len() as u64;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let (head, data, found) = runtime.block_on(async {
                if chunked {
                    let announced = Coding::Chunked(vec![HeaderName::from_static("x-sum")]);
                    sent(pieces, announced, Decoder::of_chunks()).await
                } else {
                    sent(pieces, Coding::Length(length), Decoder::of_length(length)).await
                }
            });
            prop_assert_eq!(&head[..], b"head");
            prop_assert_eq!(data, whole);
            prop_assert_eq!(found, usize::from(chunked && trailers), "what was announced, and no more");
        }
    }

    #[tokio::test]
    async fn a_body_that_is_not_as_long_as_was_said_breaks_off() {
        for said in [5, 7] {
            let (mut stream, _other) = pair().await;
            let mut writer = Writer::default();
            writer.begin(Vec::new(), Some(body(&[3, 3], false, false).0), Coding::Length(said));
            let written = poll_fn(|cx| writer.poll(&mut stream, cx)).await;
            assert!(matches!(written, Err(WriteError::Body)), "{written:?}");
        }
    }
}
