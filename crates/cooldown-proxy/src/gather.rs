//! Short messages in one plain write. HTTP/2 is handed over in pieces, heads and bodies apart; gathering them in the kernel takes
//! more time there than copying them together takes here.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

/// What is at most so long is copied together, in bytes.
const SHORT: usize = 4096;

/// Writes some of these pieces.
///
/// # Errors
/// As the stream's own write.
pub(crate) fn poll_write_pieces(
    stream: Pin<&mut TcpStream>,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [piece] = pieces {
        return stream.poll_write(cx, piece);
    }
    if pieces.iter().map(|piece| piece.len()).sum::<usize>() > SHORT {
        return stream.poll_write_vectored(cx, pieces);
    }
    let mut together: SmallVec<[u8; SHORT]> = SmallVec::new();
    pieces.iter().for_each(|piece| together.extend_from_slice(piece));
    stream.poll_write(cx, &together)
}
