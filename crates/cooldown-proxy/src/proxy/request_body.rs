//! Request bodies on their way to the upstream: streamed frame by frame, and kept for another attempt as far as memory
//! allows.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};

use super::arriving::Arriving;
use super::body::BodyError;
use super::body_memory::{BodyMemory, Held};
use super::idle::Idle;

/// The most that is read of a body while its request waits, in bytes.
const MOST_AHEAD: usize = 64 * 1024;
/// A body of at most so many bytes is sent whole.
const SHORT: usize = 16 * 1024;
/// The most that is kept of a body that only passes, in bytes: a larger one can be sent once.
const MOST_KEPT: usize = 1024 * 1024;
/// Pieces below this are copied together, so that they do not hold the much larger buffer that they were read into, in bytes.
const SHORT_PIECE: usize = 4096;

/// A request's body, as one attempt sends it.
#[derive(Debug)]
pub enum RequestBody {
    /// There is none.
    Empty,
    /// It comes from the client; another attempt may need it again.
    Passing(Passing),
    /// It is known whole.
    Whole(Whole),
}

/// A body that comes from the client. Clones share it: one is sent, the other waits for what comes of that.
#[derive(Debug, Clone)]
pub struct Passing(Rc<RefCell<Source>>);

/// A body that is known whole, as far as it has not been sent.
#[derive(Debug, Clone)]
pub struct Whole {
    pieces: VecDeque<Bytes>,
    /// What comes after it, where it is sent in chunks.
    trailers: Option<Box<HeaderMap>>,
}

/// A body that was read whole.
#[derive(Debug)]
pub(super) struct Read {
    pub bytes: Bytes,
    pub trailers: Option<Box<HeaderMap>>,
    /// The memory that it holds.
    pub held: Option<Held>,
}

/// Why a body cannot be read whole.
#[derive(Debug)]
pub(super) enum WholeError {
    /// It is longer than it may be.
    TooLarge,
    /// Too many others are being held.
    NoMemory,
    /// It broke off.
    Broken,
}

/// Where a passing body comes from, and what is kept of it.
#[derive(Debug)]
struct Source {
    /// Pieces that were read: all of them for as long as [`lost`](Source::lost) is false, then those not sent yet.
    kept: VecDeque<Bytes>,
    /// Short pieces behind them, together: one that comes byte by byte would take forty times its length otherwise.
    short_ones: BytesMut,
    /// Those were sent.
    sent_short_ones: bool,
    /// The next of the pieces to be sent.
    next: usize,
    /// How many pieces were sent, over all attempts.
    sent: u64,
    /// Something was sent that is not kept.
    lost: bool,
    /// A piece was read that there was no memory for.
    short: bool,
    trailers: Option<HeaderMap>,
    /// `None` once its end has been read.
    rest: Option<Arriving>,
    held: Held,
    idle: Idle,
}

impl RequestBody {
    /// The body of a request, of which nothing has been read yet.
    pub(super) fn new(arriving: Arriving, idle_limit: Duration, memory: &Arc<BodyMemory>) -> Self {
        if arriving.is_end_stream() {
            return Self::Empty;
        }
        Self::Passing(Passing(Rc::new(RefCell::new(Source {
            kept: VecDeque::new(),
            short_ones: BytesMut::new(),
            sent_short_ones: false,
            next: 0,
            sent: 0,
            lost: false,
            short: false,
            trailers: None,
            rest: Some(arriving),
            held: Held::none(memory),
            idle: Idle::new(idle_limit),
        }))))
    }

    /// A body that is known whole, with the trailers that follow it.
    pub(super) fn of(pieces: impl IntoIterator<Item = Bytes>, trailers: Option<Box<HeaderMap>>) -> Self {
        Self::Whole(Whole { pieces: pieces.into_iter().collect(), trailers })
    }

    /// The same body from its beginning, for another attempt; `None` if a part of it is gone.
    pub(super) fn again(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Passing(passing) => passing.0.borrow_mut().rewind().then(|| Self::Passing(passing.clone())),
            Self::Whole(whole) => Some(Self::Whole(whole.clone())),
        }
    }

    /// Whether another attempt could send it from its beginning. Changes nothing: the present one may still be sending.
    pub(super) fn is_kept(&self) -> bool {
        match self {
            Self::Passing(passing) => !passing.0.borrow().lost,
            Self::Empty | Self::Whole(_) => true,
        }
    }

    /// Whether an attempt has sent it to its end, as far as that is known.
    pub(super) fn was_sent(&self) -> bool {
        match self {
            Self::Passing(passing) => passing.0.borrow().is_end_stream(),
            Self::Empty | Self::Whole(_) => true,
        }
    }

    /// Waits for a body that is known to be short, so that head and body leave in one write, as they mostly came. What cannot
    /// be kept is left to be streamed.
    ///
    /// # Errors
    /// When it breaks off.
    pub(super) async fn arrive(&self) -> Result<(), BodyError> {
        let Self::Passing(passing) = self else { return Ok(()) };
        if passing.0.borrow().size_hint().exact().is_none_or(|length| length > SHORT as u64) {
            return Ok(());
        }
        match std::future::poll_fn(|cx| passing.0.borrow_mut().poll_whole(SHORT, cx)).await {
            Ok(()) | Err(WholeError::TooLarge | WholeError::NoMemory) => Ok(()),
            Err(WholeError::Broken) => Err(BodyError::Idle),
        }
    }

    /// Reads on while the request waits, as far as the memory for that allows. Without it the end of a client that hangs
    /// up would stay hidden behind its unread body. Ready when no more will be read.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        match self {
            Self::Passing(passing) => passing.0.borrow_mut().poll_ahead(cx),
            Self::Empty | Self::Whole(_) => Poll::Ready(Ok(())),
        }
    }

    /// Reads all of it, at most `most` bytes.
    ///
    /// # Errors
    /// When it is longer, there is no memory for it, or it breaks off.
    pub(super) async fn whole(&self, most: usize) -> Result<Read, WholeError> {
        let Self::Passing(passing) = self else { return Ok(Read { bytes: Bytes::new(), trailers: None, held: None }) };
        std::future::poll_fn(|cx| passing.0.borrow_mut().poll_whole(most, cx)).await?;
        let mut source = passing.0.borrow_mut();
        let held = Held::none(source.held.memory());
        let bytes = source.joined();
        // It is the reader's now: nothing is left to be sent from here.
        source.forget();
        Ok(Read {
            bytes,
            trailers: source.trailers.take().map(Box::new),
            held: Some(std::mem::replace(&mut source.held, held)),
        })
    }
}

impl Passing {
    /// Keeps nothing of it any more: no attempt will send it.
    pub(super) fn give_up(&self) {
        let mut source = self.0.borrow_mut();
        source.lost = true;
        source.forget();
        let held = source.held.bytes();
        source.held.release(held);
    }

    /// How many pieces were taken to be sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.0.borrow().sent
    }

    /// Whether nothing is left to be sent, as far as that is known.
    pub(super) fn is_end_stream(&self) -> bool {
        self.0.borrow().is_end_stream()
    }
}

impl Source {
    fn rewind(&mut self) -> bool {
        if !self.lost {
            self.close();
            self.next = 0;
            self.idle.restart();
        }
        !self.lost
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        while let Some(rest) = self.rest.as_mut() {
            if self.short || self.held.bytes() >= MOST_AHEAD || self.held.memory().is_spent() {
                return Poll::Ready(Ok(()));
            }
            match ready!(rest.poll_frame(cx)) {
                // The last piece may exceed what is left: it has been read already.
                Some(Ok(frame)) => self.short |= !self.keep(frame),
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => self.rest = None,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_whole(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<Result<(), WholeError>> {
        while let Some(rest) = self.rest.as_mut() {
            if rest.size_hint().lower() > most.saturating_sub(self.held.bytes()) as u64 {
                return Poll::Ready(Err(WholeError::TooLarge));
            }
            let polled = rest.poll_frame(cx);
            match ready!(self.idle.watch(polled, cx)) {
                Some(Ok(frame)) => {
                    if !self.keep(frame) {
                        return Poll::Ready(Err(WholeError::NoMemory));
                    }
                }
                Some(Err(_)) => return Poll::Ready(Err(WholeError::Broken)),
                None => self.rest = None,
            }
        }
        let is_too_large = self.held.bytes() > most;
        Poll::Ready(if is_too_large { Err(WholeError::TooLarge) } else { Ok(()) })
    }

    /// Keeps a piece that was read; false if there is no memory for it, although it is kept.
    fn keep(&mut self, frame: Frame<Bytes>) -> bool {
        let mut counted = true;
        match frame.into_data() {
            Ok(data) => {
                counted = self.held.take(data.len());
                self.add(data, false);
            }
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
        if self.rest.as_ref().is_some_and(Arriving::is_end_stream) {
            self.rest = None;
        }
        counted
    }

    /// What was kept, in one piece.
    fn joined(&mut self) -> Bytes {
        self.close();
        if self.kept.len() == 1 {
            return self.kept[0].clone();
        }
        let mut whole = BytesMut::with_capacity(self.held.bytes());
        self.kept.drain(..).for_each(|piece| whole.extend_from_slice(&piece));
        whole.freeze()
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(piece) = self.next_kept() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let Some(rest) = self.rest.as_mut() else {
            let trailers = if self.lost { self.trailers.take() } else { self.trailers.clone() };
            // They are sent once in each attempt.
            let trailers = trailers.filter(|_| std::mem::replace(&mut self.next, usize::MAX) != usize::MAX);
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        };
        let polled = rest.poll_frame(cx);
        let polled = self.idle.watch(polled, cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.sent += 1;
            if let Some(data) = frame.data_ref() {
                self.pass(data.clone());
            } else if let Some(trailers) = frame.trailers_ref() {
                self.trailers = Some(trailers.clone());
                self.next = usize::MAX;
            }
        }
        // Another attempt then finds its end, and the trailers behind it.
        if matches!(&polled, Poll::Ready(None)) || self.next == usize::MAX {
            self.rest = None;
        }
        polled
    }

    fn next_kept(&mut self) -> Option<Bytes> {
        self.sent += 1;
        if !self.sent_short_ones {
            self.close();
        }
        if self.lost {
            let piece = self.kept.pop_front()?;
            self.held.release(piece.len());
            return Some(piece);
        }
        let piece = self.kept.get(self.next)?.clone();
        self.next += 1;
        Some(piece)
    }

    /// Keeps a piece that is sent, if what is sent can still be kept.
    fn pass(&mut self, data: Bytes) {
        if self.lost {
            return;
        }
        if self.held.bytes() + data.len() <= MOST_KEPT && self.held.take(data.len()) {
            self.add(data, true);
        } else {
            // All that was kept has been sent: the rest is read only after it.
            self.lost = true;
            self.forget();
            self.held.release(self.held.bytes());
        }
    }

    /// Adds a piece to those that are kept, behind all others.
    fn add(&mut self, data: Bytes, was_sent: bool) {
        if self.sent_short_ones != was_sent || data.len() >= SHORT_PIECE {
            self.close();
        }
        self.sent_short_ones = was_sent;
        if data.len() >= SHORT_PIECE {
            self.kept.push_back(data);
            self.next = self.next.saturating_add(usize::from(was_sent));
            return;
        }
        self.short_ones.extend_from_slice(&data);
        if self.short_ones.len() >= SHORT_PIECE {
            self.close();
        }
    }

    /// The short pieces become one of the others.
    fn close(&mut self) {
        if !self.short_ones.is_empty() {
            self.kept.push_back(std::mem::take(&mut self.short_ones).freeze());
            self.next = self.next.saturating_add(usize::from(self.sent_short_ones));
        }
    }

    fn forget(&mut self) {
        self.kept.clear();
        self.short_ones = BytesMut::new();
    }

    /// How many bytes that are kept are still to be sent.
    fn left(&self) -> u64 {
        let pieces = self.kept.iter().skip(if self.lost { 0 } else { self.next });
        let short_ones = if self.sent_short_ones { 0 } else { self.short_ones.len() };
        pieces.map(|piece| piece.len() as u64).sum::<u64>() + short_ones as u64
    }

    fn is_end_stream(&self) -> bool {
        let trailers = self.trailers.is_some() && self.next != usize::MAX;
        self.left() == 0 && !trailers && self.rest.as_ref().is_none_or(Arriving::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.left();
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Arriving::size_hint);
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint.set_lower(rest.lower().saturating_add(kept));
        hint
    }
}

impl Whole {
    fn next(&mut self) -> Option<Frame<Bytes>> {
        let piece = self.pieces.pop_front().map(Frame::data);
        piece.or_else(|| self.trailers.take().map(|trailers| Frame::trailers(*trailers)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Passing(passing) => passing.0.borrow_mut().poll_frame(cx),
            Self::Whole(whole) => Poll::Ready(whole.next().map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Passing(passing) => passing.0.borrow().is_end_stream(),
            Self::Whole(whole) => whole.pieces.is_empty() && whole.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Passing(passing) => passing.0.borrow().size_hint(),
            Self::Whole(whole) => SizeHint::with_exact(whole.pieces.iter().map(|piece| piece.len() as u64).sum()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{IntoFuture, pending, poll_fn};

    use http_body_util::{BodyExt, Empty};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use parking_lot::Mutex;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::oneshot;

    use super::*;

    /// How much of a body is read at once, in bytes.
    const FRAME: usize = 16 * 1024;

    /// The body of a request that says that it has this length, and where its bytes are written.
    async fn incoming(length: usize) -> (Arriving, DuplexStream) {
        let (mut client, server) = duplex(FRAME);
        let (hand, handed) = oneshot::channel();
        let hand = Mutex::new(Some(hand));
        let service = service_fn(move |request: Request<Incoming>| {
            if let Some(hand) = hand.lock().take() {
                hand.send(request.into_body()).expect("the test waits for it");
            }
            pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        });
        let mut builder = http1::Builder::new();
        builder.max_buf_size(FRAME);
        tokio::spawn(builder.serve_connection(TokioIo::new(server), service).into_future());
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
        client.write_all(head.as_bytes()).await.expect("the head is sent");
        (Arriving::Http2(handed.await.expect("a request")), client)
    }

    /// Writes so many bytes, and then stands still.
    fn write(mut client: DuplexStream, bytes: usize) {
        tokio::spawn(async move {
            client.write_all(&vec![b'x'; bytes]).await.expect("it is read");
            pending::<()>().await;
        });
    }

    fn kept(body: &RequestBody) -> usize {
        let RequestBody::Passing(passing) = body else { return 0 };
        let source = passing.0.borrow();
        source.kept.iter().map(Bytes::len).sum::<usize>() + source.short_ones.len()
    }

    #[tokio::test]
    async fn a_waiting_body_is_read_as_far_as_there_is_memory_and_no_further() {
        const LENGTH: usize = 1 << 20;
        for room in [0, 100, 3 * FRAME, 1 << 30] {
            let (incoming, client) = incoming(LENGTH).await;
            write(client, LENGTH);
            let memory = Arc::new(BodyMemory::new(room));
            let mut body = RequestBody::new(incoming, Duration::from_secs(60), &memory);
            for _ in 0..100 {
                poll_fn(|cx| body.poll_ahead(cx)).await.expect("it does not break off");
            }
            let most = room.min(MOST_AHEAD) + FRAME;
            assert!(kept(&body) <= most, "{} bytes were read with memory for {}", kept(&body), room);
            let whole = body.again().expect("nothing has been sent").collect().await.expect("a whole body");
            assert_eq!(whole.to_bytes().len(), LENGTH, "what comes later is not lost");
        }
    }

    #[tokio::test]
    async fn a_body_that_comes_byte_by_byte_takes_no_more_than_another() {
        const BYTES: usize = 3 * SHORT_PIECE;
        let (mut client, server) = duplex(FRAME);
        let (hand, handed) = oneshot::channel();
        let hand = Mutex::new(Some(hand));
        let service = service_fn(move |request: Request<Incoming>| {
            hand.lock().take().expect("one request").send(request.into_body()).expect("the test waits for it");
            pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), service).into_future());
        client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await.expect("sent");
        let arriving = Arriving::Http2(handed.await.expect("a request"));
        tokio::spawn(async move { client.write_all(&[&b"1\r\nx\r\n".repeat(BYTES)[..], b"0\r\n\r\n"].concat()).await });

        let body = RequestBody::new(arriving, Duration::from_secs(60), &Arc::new(BodyMemory::new(1 << 30)));
        for _ in 0..2 {
            let attempt = body.again().expect("it is kept");
            assert_eq!(attempt.collect().await.expect("a whole body").to_bytes(), vec![b'x'; BYTES]);
        }
        let RequestBody::Passing(passing) = &body else { panic!("it came from a client") };
        let pieces = passing.0.borrow().kept.len();
        assert!(pieces <= BYTES / SHORT_PIECE + 1, "{pieces} pieces");
    }

    #[tokio::test]
    async fn the_time_between_two_attempts_is_not_the_clients() {
        let idle = Duration::from_millis(50);
        let (incoming, _client) = incoming(1).await;
        let body = RequestBody::new(incoming, idle, &Arc::new(BodyMemory::new(1000)));
        let mut first = body.again().expect("nothing has been sent");
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut first).poll_frame(cx))).await.is_pending());
        drop(first);
        tokio::time::sleep(2 * idle).await;
        let mut second = body.again().expect("nothing has been sent");
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut second).poll_frame(cx))).await.is_pending());
        let cut = second.frame().await.expect("the clock runs");
        assert!(matches!(cut, Err(BodyError::Idle)), "{cut:?}");
    }
}
