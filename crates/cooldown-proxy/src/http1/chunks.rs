//! Bodies in chunks (RFC 9112 §7.1).

use httparse::{EMPTY_HEADER, Status};
use hyper::body::{Bytes, Frame};

use super::{MOST_FIELDS, MessageError, Reader};
use crate::fields::{Fields, Lines};

/// The longest line that tells the size of a chunk, the most that all of them may say beside that, and the longest trailers, in
/// bytes.
const LONGEST_ASIDE: usize = 16 * 1024;

/// Where in a body in chunks the next byte belongs.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    place: Place,
    /// What the lines with sizes have said beside them, in bytes.
    aside: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The line that tells a chunk's size.
    #[default]
    Size,
    /// So many bytes of a chunk are left.
    Data(u64),
    /// The end of the line behind a chunk.
    End,
    /// The trailers.
    Trailers,
    /// Behind the end.
    Over,
}

impl Chunks {
    /// Whether all of it has been read.
    pub(super) fn is_over(&self) -> bool {
        self.place == Place::Over
    }

    /// The next piece, or the trailers, as far as they have come; `None` if more must come first, or it is over.
    pub(super) fn decode(&mut self, reader: &mut Reader) -> Result<Option<Frame<Bytes>>, MessageError> {
        loop {
            match self.place {
                Place::Over => return Ok(None),
                Place::Data(left) => return Ok(self.piece(left, reader)),
                Place::Trailers => return self.trailers(reader),
                Place::Size => {
                    let Some(size) = self.size(reader)? else { return Ok(None) };
                    self.place = if size == 0 { Place::Trailers } else { Place::Data(size) };
                }
                Place::End => match reader.bytes() {
                    [b'\r', b'\n', ..] => {
                        reader.skip(2);
                        self.place = Place::Size;
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(MessageError::Malformed("a chunk is longer than it says")),
                },
            }
        }
    }

    fn piece(&mut self, left: u64, reader: &mut Reader) -> Option<Frame<Bytes>> {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(reader.bytes().len());
        if count == 0 {
            reader.expects(left);
            return None;
        }
        let left = left - count as u64;
        self.place = if left == 0 { Place::End } else { Place::Data(left) };
        Some(Frame::data(reader.take(count)))
    }

    /// The size of the next chunk, and the end of its line.
    fn size(&mut self, reader: &mut Reader) -> Result<Option<u64>, MessageError> {
        const MALFORMED: MessageError = MessageError::Malformed("the size of a chunk");
        let bytes = reader.bytes();
        // An empty size is none, though the library takes it for zero.
        match bytes.first() {
            None => return Ok(None),
            Some(first) if !first.is_ascii_hexdigit() => return Err(MALFORMED),
            Some(_) => {}
        }
        let (line, size) = match httparse::parse_chunk_size(bytes).map_err(|_| MALFORMED)? {
            Status::Complete(read) => read,
            Status::Partial if bytes.len() > LONGEST_ASIDE => return Err(MALFORMED),
            Status::Partial => return Ok(None),
        };
        // A line that ends earlier for others than for us is how requests are smuggled.
        if memchr::memchr(b'\n', bytes).is_none_or(|end| end + 1 != line) {
            return Err(MALFORMED);
        }
        // Sixteen digits and the line's end are what a size may take.
        self.aside += line.saturating_sub(18);
        if self.aside > LONGEST_ASIDE {
            return Err(MALFORMED);
        }
        reader.skip(line);
        Ok(Some(size))
    }

    fn trailers(&mut self, reader: &mut Reader) -> Result<Option<Frame<Bytes>>, MessageError> {
        const TOO_LONG: MessageError = MessageError::Malformed("its trailers are too long");
        let bytes = reader.bytes();
        let mut fields = [EMPTY_HEADER; MOST_FIELDS];
        let (length, lines) = match httparse::parse_headers(bytes, &mut fields)? {
            Status::Complete((length, _)) if length > LONGEST_ASIDE => return Err(TOO_LONG),
            Status::Complete((length, fields)) => (length, Lines::of(fields, bytes)),
            Status::Partial if bytes.len() > LONGEST_ASIDE => return Err(TOO_LONG),
            Status::Partial => return Ok(None),
        };
        let trailers = Fields::of_head(reader.take_head(length), lines);
        self.place = Place::Over;
        Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers.to_map())))
    }
}
