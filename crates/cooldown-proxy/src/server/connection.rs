//! One client's connection.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::watch::Watched;
use super::worker::Connections;
use crate::proxy::{self, Peer, Worker};

/// The longest request head, and how much of a body is read at once, in bytes.
const READ_BUFFER: usize = 128 * 1024;
/// The longest request head, in bytes.
const LONGEST_HEAD: usize = 64 * 1024;

/// How connections are served.
#[derive(Debug, Clone)]
pub(super) struct Http(http1::Builder);

impl Http {
    /// `header_timeout` bounds the time for a head, and the time between two requests.
    pub(super) fn new(header_timeout: Duration) -> Self {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(READ_BUFFER)
            .max_header_size(LONGEST_HEAD)
            // A client that has gone must leave the line: an end of its stream means that it has.
            .half_close(false);
        Self(builder)
    }

    /// Serves a connection until one side closes it.
    pub(super) async fn serve(
        &self,
        worker: Rc<Worker>,
        connections: Rc<Connections>,
        stream: TcpStream,
        address: SocketAddr,
    ) {
        let _open = connections.opened();
        let (stream, ambiguous) = Watched::new(stream);
        let peer = Peer::new(address);
        let service = service_fn(move |request| proxy::serve(&worker, &peer, ambiguous.load(Relaxed), request));
        let mut connection = pin!(self.0.serve_connection(TokioIo::new(stream), service).with_upgrades());
        let mut closing = pin!(connections.closing());
        let mut told = false;
        let served = std::future::poll_fn(|cx| {
            if !told && closing.as_mut().poll(cx).is_ready() {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            match connection.as_mut().poll(cx) {
                Poll::Ready(served) => Poll::Ready(served),
                Poll::Pending => Poll::Pending,
            }
        });
        if let Err(error) = served.await {
            tracing::debug!(%error, client = %address.ip(), "a client's connection broke off");
        }
    }
}
