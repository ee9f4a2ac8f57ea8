//! One client's connection.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::first::{self, Protocol};
use super::http1::Http1;
use super::streams::{BrokenOff, MOST_STREAMS, OnThisThread};
use super::tls::Tls;
use super::worker::{Connections, Open};
use crate::http1::LONGEST_HEAD;
use crate::proxy::{self, Current, Peer};
use crate::stream::Stream;

/// How much may be on its way to us in one stream before it is read, in bytes. A request that waits holds so much of its
/// body.
const STREAM_WINDOW: u32 = 128 * 1024;
/// How much of a response one stream may hold that its client has not made room for, in bytes.
const STREAM_BUFFER: usize = 64 * 1024;

/// How connections are served.
#[derive(Debug, Clone)]
pub struct Http {
    http2: http2::Builder<OnThisThread>,
    /// `None` where clients speak in the clear.
    tls: Option<Tls>,
    header_timeout: Duration,
    /// How many connections one worker may have open.
    most_connections: usize,
}

/// A client, and what its requests need.
pub(super) struct Client {
    pub current: Rc<Current>,
    pub connections: Rc<Connections>,
    pub peer: Rc<Peer>,
}

/// A worker's connections, and the place among them that this one has.
type Counted = (Rc<Connections>, Open);

/// Cuts a client that is slow with its head, or has nothing more to say.
///
/// The timer runs on while requests come, and looks only when it rings whether any has: setting one anew for every request
/// costs more than reading its head. So a first head has exactly the time-out, and a connection between
/// two requests is kept for that time at least, and at most for twice as long.
#[derive(Debug)]
pub(super) struct HeadTimeout {
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    /// How many requests had begun when the timer was set.
    seen: u64,
}

impl Http {
    /// `header_timeout` bounds the time for a handshake, for a head, and the time between two requests; a worker has at most
    /// `most_connections` open.
    pub fn new(header_timeout: Duration, most_connections: usize, tls: Option<Tls>) -> Self {
        let mut http2 = http2::Builder::new(OnThisThread);
        http2
            .max_concurrent_streams(MOST_STREAMS)
            .max_header_list_size(LONGEST_HEAD as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            // No stream whose body is not read yet may stand in the way of another one's.
            .initial_connection_window_size(MOST_STREAMS * STREAM_WINDOW)
            .max_send_buf_size(STREAM_BUFFER)
            .enable_connect_protocol();
        Self { http2, tls, header_timeout, most_connections }
    }

    pub(super) fn most_connections(&self) -> usize {
        self.most_connections
    }

    /// Serves a connection until one side closes it.
    ///
    /// What few connections take, or only once, is boxed, and what is known before there is a future is not part of it: what
    /// stays is small.
    pub(super) fn serve(
        &self,
        current: Rc<Current>,
        (connections, open): Counted,
        stream: TcpStream,
        address: SocketAddr,
    ) -> impl Future<Output = ()> {
        let peer = Rc::new(Peer::new(address, self.tls.is_some()));
        let begun = Box::pin(self.begin(Client { current, connections, peer }, stream));
        async move {
            let Some((client, stream, protocol, timeout)) = begun.await else { return };
            match protocol {
                Protocol::Http1 => Http1::new(client, stream, timeout).serve().await,
                Protocol::Http2 => Box::pin(self.serve_http2(client, stream, timeout)).await,
            }
            drop(open);
        }
    }

    /// Shakes hands where TLS is spoken, and sees what follows; `None` if the client does not come so far in time.
    async fn begin(&self, client: Client, stream: TcpStream) -> Option<(Client, Stream, Protocol, HeadTimeout)> {
        let mut timeout = HeadTimeout::new(self.header_timeout);
        let begun = match &self.tls {
            None => timeout.bound(first::protocol(stream)).await?,
            Some(tls) => {
                let begun = timeout.bound(secured(tls, stream)).await?;
                // A first head has its own time.
                timeout = HeadTimeout::new(self.header_timeout);
                begun
            }
        };
        let told = |error: &io::Error| {
            tracing::debug!(%error, client = client.peer.ip(), "a client's connection did not begin");
        };
        let (stream, protocol) = begun.inspect_err(told).ok()?;
        Some((client, stream, protocol, timeout))
    }

    async fn serve_http2(&self, client: Client, stream: Stream, mut timeout: HeadTimeout) {
        let Client { current, connections, peer } = client;
        let (of_requests, broken_off) = (Rc::clone(&peer), BrokenOff::new());
        let counted = broken_off.clone();
        let service = service_fn(move |request| {
            let unanswered = counted.begin();
            let answered = current.with(|worker| proxy::serve_stream(worker, &of_requests, request));
            async move { answered.await.inspect(|_| unanswered.answered()) }
        });
        let mut connection = pin!(self.http2.serve_connection(TokioIo::new(stream), service));
        let mut leaving = pin!(connections.leaving());
        let mut told = false;
        let served = std::future::poll_fn(|cx| {
            // What is under way goes on; what is new goes to another connection, or to another instance.
            if !told && (connections.is_leaving() || leaving.as_mut().poll(cx).is_ready()) {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            if !told && broken_off.is_too_often() {
                tracing::info!(client = peer.ip(), "a client that breaks off all that it asks for is asked to go");
                told = true;
                connection.as_mut().graceful_shutdown();
                timeout = HeadTimeout::new(self.header_timeout);
            }
            loop {
                match connection.as_mut().poll(cx) {
                    Poll::Pending if timeout.poll(&peer, cx).is_pending() => return Poll::Pending,
                    // It may be asking for something just now: it is told which of its requests will not be looked at.
                    Poll::Pending if !told => {
                        told = true;
                        connection.as_mut().graceful_shutdown();
                        timeout = HeadTimeout::new(self.header_timeout);
                    }
                    Poll::Pending => return Poll::Ready(Ok(())),
                    served => return served,
                }
            }
        });
        tell(&peer, served.await);
    }
}

/// Tells how a connection ended, if that was not in order.
fn tell(peer: &Peer, served: hyper::Result<()>) {
    if let Err(error) = served {
        tracing::debug!(%error, client = peer.ip(), "a client's connection broke off");
    }
}

/// Shakes hands, and sees what both have agreed on.
async fn secured(tls: &Tls, stream: TcpStream) -> io::Result<(Stream, Protocol)> {
    let stream = tls.accept(stream).await?;
    let protocol = if stream.is_http2_agreed() { Protocol::Http2 } else { Protocol::Http1 };
    Ok((stream, protocol))
}

impl HeadTimeout {
    fn new(limit: Duration) -> Self {
        Self { limit, timer: Box::pin(sleep(limit)), seen: 0 }
    }

    /// The outcome of a step that comes before the first head; `None` if it takes too long.
    async fn bound<R>(&mut self, step: impl Future<Output = R>) -> Option<R> {
        let mut step = pin!(step);
        std::future::poll_fn(|cx| match step.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending => self.timer.as_mut().poll(cx).map(|()| None),
        })
        .await
    }

    /// Ready when the connection has waited for a request for too long. While long responses pass it looks now and then
    /// whether the client still takes them.
    pub(super) fn poll(&mut self, peer: &Peer, cx: &mut Context<'_>) -> Poll<()> {
        if peer.is_busy() && !peer.takes_pieces() {
            return Poll::Pending;
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            peer.let_go_of_stalled();
            if peer.requests() == self.seen && !peer.is_busy() {
                return Poll::Ready(());
            }
            self.seen = peer.requests();
            self.timer.as_mut().reset(Instant::now() + self.limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// The size of what a function returns, without calling it.
    fn size_of_answer<F: Future>(_: &dyn Fn(&'static Http, Rc<Current>, Counted, TcpStream, SocketAddr) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_a_connection_holds_is_small() {
        let sizes = [
            // The future of a request is beside it, while there is one.
            ("its task", size_of_answer(&Http::serve), 1100),
            ("what it shares with its requests", size_of::<Peer>(), 216),
            ("its timer", size_of::<Sleep>(), 128),
        ];
        for (what, size, most) in sizes {
            println!("{what}: {size} of {most} bytes");
            assert!(size <= most, "{what}: {size} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_sends_a_head_is_cut_in_time() {
        let peer = Peer::new(SocketAddr::from(([127, 0, 0, 1], 1)), false);
        let mut timeout = HeadTimeout::new(Duration::from_secs(10));
        let began = Instant::now();
        poll_fn(|cx| timeout.poll(&peer, cx)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(10));
    }
}
