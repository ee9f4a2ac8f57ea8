//! The reader of usage, and what hides usage that nobody asked for, at any borders between chunks.

use std::io::Write as _;

use bytes::Bytes;
use cooldown_proxy::fields::Fields;
use cooldown_proxy::provider::{FirstEvent, Partial, Usage, UsageHider, UsageReader};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderValue;
use http::header::CONTENT_ENCODING;

use super::response::Response;

/// What was read of a body.
#[derive(Debug, PartialEq)]
struct Read {
    usage: Option<Usage>,
    partial: Partial,
    opening: Option<Opening>,
}

/// How it began.
#[derive(Debug, Clone, PartialEq)]
enum Opening {
    Preamble,
    Token,
    Error(Vec<u8>),
}

/// Reads a body in several divisions.
pub fn run(data: &[u8]) {
    let Response { mut headers, body, .. } = Response::read(data);
    if headers.contains_key(CONTENT_ENCODING) {
        // What is damaged is read as far as it goes, which depends on the borders.
        divisions(body).for_each(|chunks| drop(read(&headers, &chunks)));
        headers.remove(CONTENT_ENCODING);
    }
    let whole = read(&headers, &[body]);
    for chunks in divisions(body) {
        assert_eq!(read(&headers, &chunks), whole, "in chunks of {:?}", lengths(&chunks));
    }
    let zipped = gzip(body);
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    for chunks in divisions(&zipped) {
        assert_eq!(read(&headers, &chunks), whole, "compressed, in chunks of {:?}", lengths(&chunks));
    }
    hide(body);
}

fn read(headers: &Fields, chunks: &[&[u8]]) -> Option<Read> {
    let mut reader = UsageReader::for_response(headers)?;
    let mut opening = None;
    for chunk in chunks {
        reader.read(chunk);
        let now = begun(&reader);
        let decided = matches!(opening, Some(Opening::Token | Opening::Error(_)));
        assert!(!decided || now == opening, "{opening:?} became {now:?}");
        opening = now;
    }
    let usage = reader.finish();
    if let Some(Usage { input, cached_input, output, total }) = usage {
        assert!(cached_input <= input && input + output <= total, "{usage:?}");
    }
    Some(Read { usage, partial: reader.partial(), opening: begun(&reader) })
}

fn begun(reader: &UsageReader) -> Option<Opening> {
    Some(match reader.first_event()? {
        FirstEvent::Preamble => Opening::Preamble,
        FirstEvent::Token => Opening::Token,
        FirstEvent::Error(json) => Opening::Error(json.to_vec()),
    })
}

/// The stream without its usage is the same in any division, and the same again when it passes once more.
fn hide(body: &[u8]) {
    let whole = hidden(&[body]);
    for chunks in divisions(body) {
        let hidden = hidden(&chunks);
        assert!(
            hidden == whole,
            "\"{}\", not \"{}\", in chunks of {:?}",
            hidden.escape_ascii(),
            whole.escape_ascii(),
            lengths(&chunks)
        );
    }
    assert!(whole.len() <= body.len());
    if !body.windows(7).any(|word| word == b"\"usage\"") {
        assert!(whole == body, "a stream without usage passes as it is");
    }
}

fn hidden(chunks: &[&[u8]]) -> Vec<u8> {
    let mut hider = UsageHider::default();
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend_from_slice(&hider.filter(Bytes::copy_from_slice(chunk)));
    }
    out.extend_from_slice(&hider.finish());
    out
}

/// Divisions of a body: into single bytes if it is short, into equal pieces, and at places that follow from its content.
fn divisions(body: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let shortest = 1 + body.len() / 4096;
    let equal = [1, 2, 3, 7, 64].map(|size| body.chunks(size * shortest).collect());
    let seed = body
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let uneven = [seed, seed.rotate_left(32)].map(|seed| at_random(body, seed));
    equal.into_iter().chain(uneven)
}

fn at_random(mut body: &[u8], mut seed: u64) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    while !body.is_empty() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Empty chunks too.
        let length = ((seed >> 33) as usize % 40).min(body.len());
        let (chunk, rest) = body.split_at(length);
        chunks.push(chunk);
        body = rest;
    }
    chunks
}

fn lengths(chunks: &[&[u8]]) -> Vec<usize> {
    chunks.iter().map(|chunk| chunk.len()).collect()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("a vector takes everything")
}
