//! What carries a request: a connection of its own, or a stream beside others.

use std::future::Future;
use std::task::{Context, Poll};

use futures_util::future::Either;
use hyper::body::{Bytes, Frame, SizeHint};
use tokio::time::Instant;

use super::connection::{Connection, ExchangeError};
use super::multiplexed::StreamPlace;
use super::sending::Sending;
use crate::head::ResponseHead;
use crate::http1::MessageError;

/// What carries one request at a time.
#[derive(Debug)]
pub enum Carrier {
    /// A connection of HTTP/1.1.
    Http1(Box<Connection>),
    /// A place on one of HTTP/2.
    Http2(Box<StreamPlace>),
}

impl Carrier {
    /// Sends a request and waits for the response head until `deadline`. Its body stays with the carrier.
    ///
    /// # Errors
    /// When no response head comes.
    pub fn exchange(
        &mut self,
        sending: Box<Sending>,
        deadline: Instant,
    ) -> impl Future<Output = Result<ResponseHead, ExchangeError>> {
        match self {
            Self::Http1(connection) => Either::Left(connection.exchange(sending, deadline)),
            Self::Http2(place) => Either::Right(Box::pin(place.exchange(sending, deadline))),
        }
    }

    /// Polls the body of the response; `None` when it is over.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, MessageError>>> {
        match self {
            Self::Http1(connection) => connection.poll_body(cx),
            Self::Http2(place) => place.poll_body(cx),
        }
    }

    /// Whether it is known that nothing more will come of the response's body.
    pub fn is_body_over(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_body_over(),
            Self::Http2(place) => place.is_body_over(),
        }
    }

    /// How much is left of the response's body, as far as that is known.
    pub fn body_size(&self) -> SizeHint {
        match self {
            Self::Http1(connection) => connection.body_size(),
            Self::Http2(place) => place.body_size(),
        }
    }

    /// Goes on with sending a request's body. Wakes whoever polls when something has happened.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Http1(connection) => connection.drive(cx),
            // Its connection's task does so; what is left is to be told.
            Self::Http2(place) => _ = place.poll_sent(cx),
        }
    }

    /// Whether a request can be sent now: looks whether the upstream has closed it.
    pub fn is_usable(&mut self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_usable(),
            // Its connection's task sees to that.
            Self::Http2(_) => true,
        }
    }

    /// Whether it stands ready for another request, as far as is known.
    pub fn is_reusable(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_reusable(),
            Self::Http2(_) => false,
        }
    }

    /// Whether nothing more can be sent on it.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_over(),
            Self::Http2(place) => place.is_sent(),
        }
    }
}
