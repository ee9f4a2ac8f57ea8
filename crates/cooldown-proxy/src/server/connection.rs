//! One client's connection.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::watch::Watched;
use super::worker::Connections;
use crate::proxy::{self, Current, Peer};

/// The longest request head, and how much of a body is read at once, in bytes.
const READ_BUFFER: usize = 128 * 1024;
/// The longest request head, in bytes.
const LONGEST_HEAD: usize = 64 * 1024;

/// How connections are served.
#[derive(Debug, Clone)]
pub(super) struct Http {
    builder: http1::Builder,
    header_timeout: Duration,
}

/// Cuts a client that is slow with its head, or has nothing more to say.
///
/// The timer runs on while requests come, and looks only when it rings whether any has: hyper's own is set anew for every
/// request, which costs more than reading its head. So a first head has exactly the time-out, and a connection between
/// two requests is kept for that time at least, and at most for twice as long.
#[derive(Debug)]
struct HeadTimeout {
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    /// How many requests had begun when the timer was set.
    seen: u64,
}

impl Http {
    /// `header_timeout` bounds the time for a head, and the time between two requests.
    pub(super) fn new(header_timeout: Duration) -> Self {
        let mut builder = http1::Builder::new();
        builder
            .header_read_timeout(None)
            .max_buf_size(READ_BUFFER)
            .max_header_size(LONGEST_HEAD)
            // A client that has gone must leave the line: an end of its stream means that it has.
            .half_close(false);
        Self { builder, header_timeout }
    }

    /// Serves a connection until one side closes it.
    pub(super) async fn serve(
        &self,
        current: Rc<Current>,
        connections: Rc<Connections>,
        stream: TcpStream,
        address: SocketAddr,
    ) {
        let _open = connections.opened();
        let (stream, ambiguous) = Watched::new(stream);
        let peer = Rc::new(Peer::new(address));
        let of_requests = Rc::clone(&peer);
        let service = service_fn(move |request| {
            current.with(|worker| proxy::serve(worker, &of_requests, ambiguous.load(Relaxed), request))
        });
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
        let mut closing = pin!(connections.closing());
        let (mut listens, mut told) = (false, false);
        let mut timeout = HeadTimeout::new(self.header_timeout);
        let served = std::future::poll_fn(|cx| {
            // Once it listens, the task is woken when connections shall close; until then there is nothing to ask.
            if !told && (!listens || connections.is_closing()) {
                (listens, told) = (true, closing.as_mut().poll(cx).is_ready());
                if told {
                    connection.as_mut().graceful_shutdown();
                }
            }
            match connection.as_mut().poll(cx) {
                Poll::Pending => timeout.poll(&peer, cx).map(Ok),
                served => served,
            }
        });
        if let Err(error) = served.await {
            tracing::debug!(%error, client = %address.ip(), "a client's connection broke off");
        }
    }
}

impl HeadTimeout {
    fn new(limit: Duration) -> Self {
        Self { limit, timer: Box::pin(sleep(limit)), seen: 0 }
    }

    /// Ready when the connection has waited for a request for too long.
    fn poll(&mut self, peer: &Peer, cx: &mut Context<'_>) -> Poll<()> {
        if peer.is_busy() {
            return Poll::Pending;
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if peer.requests() == self.seen {
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
    fn size_of_answer<F: Future>(
        _: &dyn Fn(&'static Http, Rc<Current>, Rc<Connections>, TcpStream, SocketAddr) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_a_connection_holds_is_small() {
        let sizes = [
            // The future of a request is beside it, while there is one.
            ("its task", size_of_answer(&Http::serve), 1100),
            ("what it shares with its requests", size_of::<Peer>(), 192),
            ("its timer", size_of::<Sleep>(), 128),
        ];
        for (what, size, most) in sizes {
            println!("{what}: {size} of {most} bytes");
            assert!(size <= most, "{what}: {size} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_sends_a_head_is_cut_in_time() {
        let peer = Peer::new(SocketAddr::from(([127, 0, 0, 1], 1)));
        let mut timeout = HeadTimeout::new(Duration::from_secs(10));
        let began = Instant::now();
        poll_fn(|cx| timeout.poll(&peer, cx)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(10));
    }
}
