//! Frames of `application/vnd.amazon.eventstream`, in which Bedrock streams.
//!
//! A frame is: total length (4 bytes), length of the headers (4), checksum (4), headers, payload, checksum (4). The
//! checksums are left to the client: what is damaged is no JSON, and so it is not counted.

/// The longest frame that is read, in bytes. What is longer is passed over.
const LONGEST: usize = 1 << 20;
const PRELUDE: usize = 12;
const CHECKSUM: usize = 4;
/// The type of a header's value that is a string.
const TEXT: u8 = 7;

/// Finds frames in chunks that may end anywhere.
#[derive(Debug, Default)]
pub(super) struct FrameScanner {
    partial: Vec<u8>,
    /// What is still to come of a frame that is passed over.
    skip: usize,
    /// Nothing can be read any more, because a length made no sense.
    lost: bool,
}

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// `:event-type`, or empty.
    pub(super) name: &'a [u8],
    /// Whether `:message-type` says that it is an exception or an error.
    pub(super) is_error: bool,
    /// JSON, mostly.
    pub(super) payload: &'a [u8],
}

impl FrameScanner {
    /// Reads on, and hands over each frame that ends in this chunk.
    pub(super) fn read(&mut self, mut chunk: &[u8], mut each: impl FnMut(Frame<'_>)) {
        while !chunk.is_empty() && !self.lost {
            let skipped = self.skip.min(chunk.len());
            self.skip -= skipped;
            chunk = &chunk[skipped..];
            chunk = self.fill(chunk, PRELUDE);
            let Some(total) = length_at(&self.partial, 0).filter(|_| self.partial.len() >= PRELUDE) else { return };
            if total < PRELUDE + CHECKSUM {
                self.lost = true;
            } else if total > LONGEST {
                self.skip = total - self.partial.len();
                self.partial.clear();
            } else {
                chunk = self.fill(chunk, total);
                if self.partial.len() == total {
                    if let Some(frame) = parse(&self.partial) {
                        each(frame);
                    }
                    self.partial.clear();
                }
            }
        }
    }

    /// Takes bytes until `length` are kept; gives the rest.
    fn fill<'a>(&mut self, chunk: &'a [u8], length: usize) -> &'a [u8] {
        let (taken, rest) = chunk.split_at(length.saturating_sub(self.partial.len()).min(chunk.len()));
        self.partial.extend_from_slice(taken);
        rest
    }
}

fn length_at(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 4)?;
    bytes.try_into().ok().map(|bytes| u32::from_be_bytes(bytes) as usize)
}

fn parse(frame: &[u8]) -> Option<Frame<'_>> {
    let payload_at = PRELUDE.checked_add(length_at(frame, 4)?)?;
    let mut headers = frame.get(PRELUDE..payload_at)?;
    let payload = frame.get(payload_at..frame.len() - CHECKSUM)?;
    let (mut name, mut is_error) = (&[][..], false);
    while let Some((key, value)) = take_header(&mut headers) {
        match key {
            b":event-type" | b":exception-type" => name = value,
            b":message-type" => is_error = value != b"event",
            _ => {}
        }
    }
    Some(Frame { name, is_error, payload })
}

/// Takes one header: its name and, if it is a string, its value.
fn take_header<'a>(headers: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let name_length = usize::from(*headers.first()?);
    let name = headers.get(1..=name_length)?;
    let rest = headers.get(1 + name_length..)?;
    let (kind, rest) = rest.split_first()?;
    let (start, length) = match kind {
        0 | 1 => (0, 0),
        2 => (0, 1),
        3 => (0, 2),
        4 => (0, 4),
        5 | 8 => (0, 8),
        6 | &TEXT => (2, usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?))),
        9 => (0, 16),
        _ => return None,
    };
    let value = rest.get(start..start + length)?;
    *headers = &rest[start + length..];
    Some((name, if *kind == TEXT { value } else { &[] }))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as Bedrock sends it.
    pub(in crate::provider) fn frame(message: &str, name: &str, payload: &str) -> Vec<u8> {
        let mut headers = Vec::new();
        let kind = if message == "event" { ":event-type" } else { ":exception-type" };
        for (key, value) in [(kind, name), (":content-type", "application/json"), (":message-type", message)] {
            headers.push(key.len() as u8);
            headers.extend(key.bytes());
            headers.push(TEXT);
            headers.extend((value.len() as u16).to_be_bytes());
            headers.extend(value.bytes());
        }
        let total = PRELUDE + headers.len() + payload.len() + CHECKSUM;
        let lengths = [total as u32, headers.len() as u32, 0].map(u32::to_be_bytes).concat();
        [&lengths[..], &headers, payload.as_bytes(), &[0; CHECKSUM]].concat()
    }

    #[test]
    fn frames_are_found_wherever_a_chunk_ends() {
        let stream = [frame("event", "metadata", "{}"), frame("exception", "throttlingException", "[]")].concat();
        for size in 1..stream.len() {
            let mut scanner = FrameScanner::default();
            let mut found = Vec::new();
            for chunk in stream.chunks(size) {
                scanner.read(chunk, |frame| found.push((frame.name.to_vec(), frame.is_error, frame.payload.to_vec())));
            }
            let expected = [
                (b"metadata".to_vec(), false, b"{}".to_vec()),
                (b"throttlingException".to_vec(), true, b"[]".to_vec()),
            ];
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_passed_over() {
        let mut long = ((LONGEST + 100) as u32).to_be_bytes().to_vec();
        long.resize(LONGEST + 100, 0);
        let mut scanner = FrameScanner::default();
        let mut names = Vec::new();
        for chunk in [long, frame("event", "metadata", "{}")].concat().chunks(1000) {
            scanner.read(chunk, |frame| names.push(frame.name.to_vec()));
            assert!(scanner.partial.len() < 2000);
        }
        assert_eq!(names, [b"metadata"]);
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_a_panic(mut bytes: Vec<u8>, total in 0u8..100, headers in 0u8..100) {
            FrameScanner::default().read(&bytes, |_| {});
            let lengths = [0, 0, 0, total, 0, 0, 0, headers];
            bytes.splice(0..0, lengths);
            FrameScanner::default().read(&bytes, |_| {});
        }
    }
}
