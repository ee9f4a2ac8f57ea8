//! Messages of HTTP/1.1 (RFC 9112) on a byte stream: heads, how a body ends, and bodies in both directions.
//!
//! Whoever holds the stream polls what it needs; there is no task, no channel and no buffer that outlives its use. What a
//! library does well, it does: httparse reads heads and the sizes of chunks. What is ours is the framing,
//! with every rule of RFC 9112 §6.3 in one place, and the way of bytes.

mod answer;
mod chunks;
mod decoder;
mod reader;
mod request;
mod response;
mod side;
mod stated;
mod writer;

use std::io;

pub(crate) use answer::{Question, write_answer, write_refusal};
pub use decoder::Decoder;
pub use reader::Reader;
pub(crate) use request::Asked;
pub(crate) use response::read_answer;
pub use side::ClientBody;
pub(crate) use side::Side;
pub(crate) use stated::length_in;
pub use writer::{Coding, Filled, WriteError, Writer};

/// What most heads take when they are written, in bytes.
pub(crate) const USUAL_HEAD: usize = 512;
/// The longest head of a message, in bytes.
pub(crate) const LONGEST_HEAD: usize = 64 * 1024;
/// The most fields in one head or in trailers.
pub(crate) const MOST_FIELDS: usize = 100;

/// Why a message cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Connection(#[from] io::Error),
    /// The other side closed the connection in the middle of it.
    #[error("the connection ended in the middle of a message")]
    Ended,
    /// It is no HTTP/1.1.
    #[error("what came is no HTTP/1.1: {0}")]
    Malformed(&'static str),
    /// Its head is longer than any should be, or has more fields.
    #[error("its head is too long")]
    TooLong,
    /// It broke off in a stream of HTTP/2.
    #[error("its stream broke off: {0}")]
    Http2(#[from] hyper::Error),
}

impl From<httparse::Error> for MessageError {
    fn from(error: httparse::Error) -> Self {
        use httparse::Error;
        if matches!(error, Error::TooManyHeaders) {
            return Self::TooLong;
        }
        Self::Malformed(match error {
            Error::HeaderName => "the name of a field",
            Error::HeaderValue => "the value of a field",
            Error::NewLine => "the end of a line",
            Error::Status => "its status",
            Error::Token => "its first line",
            Error::TooManyHeaders => "its fields",
            Error::Version => "its version",
        })
    }
}
