//! The admin listener's connections: few, and cut when nothing moves on them. `axum::serve` bounds neither.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// How many connections are open at once; more wait in the system's backlog.
const MOST: usize = 64;
/// A connection on which nothing moves for this long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Accepts at most [`MOST`] connections at a time.
pub(super) struct BoundedListener {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

/// A connection that holds its place, and breaks when it stands still.
pub(super) struct BoundedStream {
    stream: TcpStream,
    /// When it has stood still for too long; moved on by every byte.
    idle: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl BoundedListener {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(MOST)) }
    }
}

impl axum::serve::Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        // The library's own `accept` waits and tries again when it fails.
        let (stream, peer) = axum::serve::Listener::accept(&mut self.listener).await;
        (BoundedStream { stream, idle: Box::pin(sleep(IDLE)), _place: place }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl BoundedStream {
    /// What `polled` says, or an error when nothing has moved for too long.
    fn unless_idle<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE);
            return polled;
        }
        self.idle.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.unless_idle(cx, polled)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.unless_idle(cx, polled)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::serve::Listener;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn pair(listener: &mut BoundedListener) -> (TcpStream, BoundedStream) {
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).await.expect("a connection");
        (client, listener.accept().await.0)
    }

    #[tokio::test]
    async fn a_connection_is_cut_once_nothing_moves_on_it() {
        let mut listener = BoundedListener::new(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
        let (mut client, mut stream) = pair(&mut listener).await;
        client.write_all(b"ab").await.expect("written");
        assert_eq!(stream.read_u8().await.expect("a byte"), b'a');
        assert_eq!(stream.read_u8().await.expect("a byte"), b'b');
        // Time is stopped only now, since a stopped clock and a real socket would race.
        tokio::time::pause();
        let error = stream.read_u8().await.expect_err("nothing moves");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_closed_connection_gives_its_place_back() {
        let mut listener = BoundedListener::new(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
        let (client, stream) = pair(&mut listener).await;
        assert_eq!(listener.places.available_permits(), MOST - 1);
        drop((client, stream));
        assert_eq!(listener.places.available_permits(), MOST);
    }
}
