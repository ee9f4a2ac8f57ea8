//! A connection that knows when what it reads arrived, whenever it is read.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection that remembers when the first byte of the request under way arrived.
///
/// On Linux the kernel says when: a thread that has to wait for a core reads late, and many requests that arrive at once
/// are read one after the other. Elsewhere it is when they were read.
pub struct Stamped {
    stream: TcpStream,
    arrival: Arrival,
}

/// When the request under way arrived, shared with whoever answers it.
#[derive(Debug, Clone, Default)]
pub struct Arrival(Rc<Cell<Option<Instant>>>);

impl Arrival {
    /// When the request under way arrived.
    pub fn get(&self) -> Instant {
        self.0.get().unwrap_or_else(Instant::now)
    }

    /// Whatever is read from now on belongs to the next request.
    pub fn forget(&self) {
        self.0.set(None);
    }
}

impl Stamped {
    /// A connection out of a listener that was [prepared](stamp_arrivals).
    pub fn new(stream: TcpStream) -> (Self, Arrival) {
        let arrival = Arrival::default();
        (Self { stream, arrival: arrival.clone() }, arrival)
    }
}

impl AsyncRead for Stamped {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            ready!(this.stream.poll_read_ready(cx))?;
            match receive(&this.stream, out.initialize_unfilled()) {
                Ok((bytes, arrived)) => {
                    out.advance(bytes);
                    if this.arrival.0.get().is_none() {
                        this.arrival.0.set(Some(arrived));
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Stamped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The kernel begins to stamp a moment after it was asked; what arrives before is stamped when it is read.
pub const BEGINS_WITHIN: Duration = Duration::from_millis(20);

/// Asks the kernel to stamp what arrives at connections of this listener.
#[cfg(target_os = "linux")]
pub fn stamp_arrivals(listener: &impl AsFd) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt::ReceiveTimestampns};

    Ok(setsockopt(listener, ReceiveTimestampns, &true)?)
}

/// What arrived, and when.
#[cfg(target_os = "linux")]
fn receive(stream: &TcpStream, into: &mut [u8]) -> io::Result<(usize, Instant)> {
    use std::os::fd::AsRawFd;
    use std::time::SystemTime;

    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

    stream.try_io(tokio::io::Interest::READABLE, || {
        let mut parts = [io::IoSliceMut::new(into)];
        let mut space = nix::cmsg_space!(nix::sys::time::TimeSpec);
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
        let now = Instant::now();
        let stamps = message.cmsgs()?.filter_map(|word| match word {
            ControlMessageOwned::ScmTimestampns(stamp) => Some(SystemTime::UNIX_EPOCH + Duration::from(stamp)),
            _ => None,
        });
        // The kernel stamps by the wall clock. Without a stamp (the end of the stream) nothing arrived.
        let age = stamps.last().and_then(|stamp| stamp.elapsed().ok()).unwrap_or_default();
        Ok((message.bytes, now.checked_sub(age).unwrap_or(now)))
    })
}

/// Only Linux stamps what arrives.
#[cfg(not(target_os = "linux"))]
pub fn stamp_arrivals(_: &impl AsFd) -> io::Result<()> {
    Ok(())
}

/// What arrived, and when it was read.
#[cfg(not(target_os = "linux"))]
fn receive(stream: &TcpStream, into: &mut [u8]) -> io::Result<(usize, Instant)> {
    stream.try_read(into).map(|bytes| (bytes, Instant::now()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_arrival_is_told_although_it_is_read_late() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        stamp_arrivals(&listener).expect("Linux stamps");
        // Nothing tells when the kernel begins, so only time can pass; and reading late is what is tested.
        std::thread::sleep(BEGINS_WITHIN * 5);
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let (mut stamped, arrival) = Stamped::new(listener.accept().await.expect("a connection").0);
        let before = Instant::now();
        client.write_all(b"hello").await.expect("it is sent");
        let sent = Instant::now();
        std::thread::sleep(Duration::from_millis(30));
        let mut bytes = [0; 5];
        stamped.read_exact(&mut bytes).await.expect("it is read");
        let slack = Duration::from_millis(5);
        assert!(arrival.get() + slack >= before && arrival.get() <= sent + slack, "{:?} late", arrival.get() - sent);
        arrival.forget();
        assert!(arrival.get() > sent, "the next request has its own arrival");
    }
}
