//! What a connection speaks, seen from its first bytes: clients may begin with HTTP/2 without having asked (RFC 9113 §3.3).

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::stream::Stream;

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// With what HTTP/2 begins. It reads as a request that HTTP/1.1 does not have (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Waits for the first bytes of a connection. Almost always they are there and tell all, and stay where they are.
///
/// # Errors
/// When it breaks off.
pub(super) async fn protocol(stream: TcpStream) -> io::Result<(Stream, Protocol)> {
    let mut seen = [0; PREFACE.len()];
    let length = stream.peek(&mut seen).await?;
    match told(&seen[..length]) {
        // The end of a stream that never began is HTTP/1.1's to deal with.
        Some(protocol) => Ok((Stream::Plain(stream), protocol)),
        None if length == 0 => Ok((Stream::Plain(stream), Protocol::Http1)),
        None => slowly(stream).await,
    }
}

/// The same for a beginning that comes in pieces.
async fn slowly(mut stream: TcpStream) -> io::Result<(Stream, Protocol)> {
    let mut first = BytesMut::with_capacity(PREFACE.len());
    loop {
        let missing = PREFACE.len() - first.len();
        let length = (&mut stream).take(missing as u64).read_buf(&mut first).await?;
        match told(&first) {
            Some(protocol) => return Ok((Stream::begun(first.freeze(), stream), protocol)),
            None if length == 0 => return Ok((Stream::begun(Bytes::from(first), stream), Protocol::Http1)),
            None => {}
        }
    }
}

/// What speaks so; `None` as long as it could be both.
fn told(first: &[u8]) -> Option<Protocol> {
    match first {
        _ if !PREFACE.starts_with(first) => Some(Protocol::Http1),
        _ if first.len() == PREFACE.len() => Some(Protocol::Http2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_preface_is_http2() {
        assert_eq!(told(PREFACE), Some(Protocol::Http2));
        assert_eq!(told(&PREFACE[..16]), None);
        for first in [&b"P"[..], b"PR"] {
            assert_eq!(told(first), None);
        }
        for first in [&b"GET / HTTP/1.1\r\n"[..], b"PO", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rx", b"\x16\x03\x01"] {
            assert_eq!(told(first), Some(Protocol::Http1), "{first:?}");
        }
    }
}
