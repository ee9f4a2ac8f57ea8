//! Undoes a content coding (RFC 9110, section 8.4.1) beside a stream, so that what passes can be read.

use std::borrow::Cow;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};
use memchr::memchr;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::fields::{Fields, Kind};

/// The most that is decoded of one body, in bytes: a small body can hold gigabytes of nothing.
const MOST_OUTPUT: usize = 64 << 20;
/// How much is handed over at once, in bytes.
const PIECE: usize = 8 << 10;
/// No gzip header that a server sends is longer.
const LONGEST_GZIP_HEADER: usize = 1 << 10;
/// A larger window is refused (RFC 9659), in bytes.
const LARGEST_ZSTD_WINDOW: u64 = 8 << 20;
/// A frame header is at most this long (RFC 8878, section 3.1.1.1), in bytes.
const LONGEST_ZSTD_HEADER: usize = 18;

type Brotli = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

/// Decodes a body chunk by chunk.
pub struct Decoder {
    coding: Coding,
    /// How much may still come out, in bytes.
    room: usize,
}

enum Coding {
    Identity,
    Gzip {
        header: Vec<u8>,
    },
    Deflate,
    Inflate(Box<Decompress>),
    Brotli(Box<Brotli>),
    Zstd(Box<Zstd>),
    /// The end was found: the rest is not read.
    Over,
    /// Something was found that cannot be decoded: the rest is not read.
    Damaged,
}

/// Why nothing more can be read.
enum Stop {
    End,
    Fault,
}

/// What a whole body with these fields says, as far as it can be decoded; what has an unknown coding says nothing.
pub fn decoded<'a>(headers: &Fields, body: Cow<'a, [u8]>) -> Cow<'a, [u8]> {
    let mut plain = Vec::new();
    match Decoder::of(headers) {
        Some(decoder) if decoder.is_identity() => return body,
        Some(mut decoder) => decoder.read(&body, &mut |piece| plain.extend_from_slice(piece)),
        None => {}
    }
    Cow::Owned(plain)
}

impl Decoder {
    /// For a body with these fields. `None` if its coding is not known.
    pub fn of(headers: &Fields) -> Option<Self> {
        Self::new(headers.first(Kind::ContentEncoding).map_or("", |coding| coding.to_str().unwrap_or("unknown")))
    }

    /// For the value of `content-encoding`, empty if there is none. `None` if it is not known.
    pub(super) fn new(content_encoding: &str) -> Option<Self> {
        if content_encoding.is_empty() {
            return Some(Self { coding: Coding::Identity, room: MOST_OUTPUT });
        }
        let coding = match content_encoding.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Coding::Identity,
            "gzip" | "x-gzip" => Coding::Gzip { header: Vec::new() },
            "deflate" => Coding::Deflate,
            "br" => Coding::Brotli(Box::new(BrotliState::new(<_>::default(), <_>::default(), <_>::default()))),
            "zstd" => Coding::Zstd(Box::new(Zstd::new())),
            _ => return None,
        };
        Some(Self { coding, room: MOST_OUTPUT })
    }

    /// Hands over what `chunk` decodes to, in pieces. What is damaged ends it.
    pub fn read(&mut self, chunk: &[u8], out: &mut dyn FnMut(&[u8])) {
        if matches!(self.coding, Coding::Identity) {
            return out(chunk);
        }
        let room = &mut self.room;
        let mut bounded = |piece: &[u8]| {
            *room = room.checked_sub(piece.len()).ok_or(Stop::Fault)?;
            out(piece);
            Ok(())
        };
        match self.coding.read(chunk, &mut bounded) {
            Ok(()) => {}
            Err(Stop::End) => self.coding = Coding::Over,
            Err(Stop::Fault) => self.coding = Coding::Damaged,
        }
    }

    /// Whether there is nothing to decode.
    pub fn is_identity(&self) -> bool {
        matches!(self.coding, Coding::Identity)
    }

    /// Whether something was found that cannot be decoded.
    pub fn is_damaged(&self) -> bool {
        matches!(self.coding, Coding::Damaged)
    }
}

impl Coding {
    fn read(&mut self, chunk: &[u8], out: &mut dyn FnMut(&[u8]) -> Result<(), Stop>) -> Result<(), Stop> {
        match self {
            Self::Identity => out(chunk),
            Self::Over | Self::Damaged => Ok(()),
            Self::Gzip { header } => {
                header.extend_from_slice(&chunk[..chunk.len().min(LONGEST_GZIP_HEADER)]);
                let Some(length) = gzip_header_length(header)? else {
                    return if header.len() < LONGEST_GZIP_HEADER { Ok(()) } else { Err(Stop::Fault) };
                };
                let in_chunk = chunk.len().min(LONGEST_GZIP_HEADER);
                let body = &chunk[(length + in_chunk).saturating_sub(header.len())..];
                *self = Self::Inflate(Box::new(Decompress::new(false)));
                self.read(body, out)
            }
            Self::Deflate => {
                let Some(first) = chunk.first() else { return Ok(()) };
                // By the standard it is zlib's format, whose first byte ends in 8; some servers leave the header out.
                *self = Self::Inflate(Box::new(Decompress::new(first & 0x0f == 8)));
                self.read(chunk, out)
            }
            Self::Inflate(inflate) => read_deflate(inflate, chunk, out),
            Self::Brotli(state) => read_brotli(state, chunk, out),
            Self::Zstd(zstd) => zstd.read(chunk, out),
        }
    }
}

/// The length of a gzip member's header (RFC 1952, section 2.3); `None` if more of it has to come.
fn gzip_header_length(bytes: &[u8]) -> Result<Option<usize>, Stop> {
    const FIXED: usize = 10;
    const CHECKSUM: u8 = 2;
    const EXTRA: u8 = 4;
    const ENDED_BY_ZERO: [u8; 2] = [8, 16]; // a file name, a comment
    let Some(flags) = bytes.get(3).copied().filter(|_| bytes.len() >= FIXED) else { return Ok(None) };
    if !bytes.starts_with(&[0x1f, 0x8b, 8]) {
        return Err(Stop::Fault);
    }
    let mut length = FIXED;
    if flags & EXTRA != 0 {
        let Some(&[low, high]) = bytes.get(length..length + 2) else { return Ok(None) };
        length += 2 + usize::from(u16::from_le_bytes([low, high]));
    }
    for flag in ENDED_BY_ZERO {
        if flags & flag != 0 {
            let Some(zero) = bytes.get(length..).and_then(|rest| memchr(0, rest)) else { return Ok(None) };
            length += zero + 1;
        }
    }
    length += if flags & CHECKSUM != 0 { 2 } else { 0 };
    Ok((length <= bytes.len()).then_some(length))
}

fn read_deflate(
    inflate: &mut Decompress,
    mut input: &[u8],
    out: &mut dyn FnMut(&[u8]) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut piece = [0; PIECE];
    loop {
        let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
        let status = inflate.decompress(input, &mut piece, FlushDecompress::None).map_err(|_| Stop::Fault)?;
        let (read, written) = (inflate.total_in() - before_in, inflate.total_out() - before_out);
        out(&piece[..written as usize])?;
        input = &input[read as usize..];
        match status {
            Status::StreamEnd => return Err(Stop::End),
            _ if (written as usize) < PIECE && (input.is_empty() || read == 0) => return Ok(()),
            _ => {}
        }
    }
}

fn read_brotli(state: &mut Brotli, input: &[u8], out: &mut dyn FnMut(&[u8]) -> Result<(), Stop>) -> Result<(), Stop> {
    let mut piece = [0; PIECE];
    let (mut left, mut at, mut total) = (input.len(), 0, 0);
    loop {
        let (mut free, mut written) = (PIECE, 0);
        let result =
            BrotliDecompressStream(&mut left, &mut at, input, &mut free, &mut written, &mut piece, &mut total, state);
        out(&piece[..written])?;
        match result {
            BrotliResult::NeedsMoreOutput => {}
            BrotliResult::NeedsMoreInput => return Ok(()),
            BrotliResult::ResultSuccess => return Err(Stop::End),
            BrotliResult::ResultFailure => return Err(Stop::Fault),
        }
    }
}

/// Zstandard (RFC 8878), decoded block by block. What lies within the window of a frame comes out at the frame's end only.
struct Zstd {
    frame: FrameDecoder,
    /// What is not decoded yet: less than a block, which has at most 128 KiB.
    pending: Vec<u8>,
    in_frame: bool,
    has_checksum: bool,
}

impl Zstd {
    fn new() -> Self {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(LARGEST_ZSTD_WINDOW);
        Self { frame, pending: Vec::new(), in_frame: false, has_checksum: false }
    }

    fn read(&mut self, chunk: &[u8], out: &mut dyn FnMut(&[u8]) -> Result<(), Stop>) -> Result<(), Stop> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(chunk);
        let mut rest = &pending[..];
        loop {
            let more = if self.in_frame { self.read_block(&mut rest)? } else { self.read_header(&mut rest)? };
            if !more {
                break;
            }
            out(&self.frame.collect().unwrap_or_default())?;
        }
        let done = pending.len() - rest.len();
        pending.drain(..done);
        self.pending = pending;
        Ok(())
    }

    /// Reads the header of a frame if all of it is there.
    fn read_header(&mut self, rest: &mut &[u8]) -> Result<bool, Stop> {
        const DESCRIPTOR: usize = 4;
        const CHECKSUM: u8 = 4;
        let mut source = *rest;
        if self.frame.reset(&mut source).is_err() {
            return if rest.len() < LONGEST_ZSTD_HEADER { Ok(false) } else { Err(Stop::Fault) };
        }
        self.has_checksum = rest.get(DESCRIPTOR).is_some_and(|descriptor| descriptor & CHECKSUM != 0);
        self.in_frame = true;
        *rest = source;
        Ok(true)
    }

    /// Reads a block if all of it is there.
    fn read_block(&mut self, rest: &mut &[u8]) -> Result<bool, Stop> {
        const HEADER: usize = 3;
        const LARGEST: usize = 128 << 10;
        const SAME_BYTE_REPEATED: usize = 1;
        let Some(&[low, middle, high]) = rest.get(..HEADER) else { return Ok(false) };
        let header = u32::from_le_bytes([low, middle, high, 0]) as usize;
        let (is_last, kind, size) = (header & 1 == 1, header >> 1 & 3, header >> 3);
        if size > LARGEST {
            return Err(Stop::Fault);
        }
        let content = if kind == SAME_BYTE_REPEATED { 1 } else { size };
        let checksum = if is_last && self.has_checksum { 4 } else { 0 };
        let Some((block, after)) = rest.split_at_checked(HEADER + content + checksum) else { return Ok(false) };
        let finished =
            self.frame.decode_blocks(block, BlockDecodingStrategy::UptoBlocks(1)).map_err(|_| Stop::Fault)?;
        self.in_frame = !finished;
        *rest = after;
        Ok(true)
    }
}
