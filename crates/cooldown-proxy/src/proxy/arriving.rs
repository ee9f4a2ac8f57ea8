//! Bodies of requests as they come from clients.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::http1::{ClientBody, MessageError};

/// The body of a request, in whichever version of HTTP it comes.
#[derive(Debug)]
pub enum Arriving {
    /// On a connection of HTTP/1.1.
    Http1(ClientBody),
    /// In a stream of HTTP/2.
    Http2(Incoming),
}

impl Arriving {
    /// The next piece, or the trailers; `None` when it is over.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, MessageError>>> {
        match self {
            Self::Http1(body) => body.poll_frame(cx),
            Self::Http2(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    /// Whether all of it has been read.
    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    /// How much is left of it, as far as that is known.
    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
