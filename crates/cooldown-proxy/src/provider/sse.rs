//! Server-sent events (WHATWG HTML, section 9.2) and lines, found in chunks that may end anywhere.
//!
//! Whole lines are read where they lie; only what a chunk breaks off is copied, and never more than [`LONGEST`] bytes.

use memchr::memchr2;

/// The longest line, and the most data of one event, that is read, in bytes. What is longer is passed over.
const LONGEST: usize = 1 << 20;

/// Finds events.
#[derive(Debug, Default)]
pub struct SseScanner {
    lines: LineScanner,
    block: OpenBlock,
}

/// What lies between two blank lines: mostly one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block<'a> {
    /// The value of `event`; empty if it is not there.
    pub name: &'a [u8],
    /// The values of `data`, joined by line feeds; `None` if there are none, or more than can be kept.
    pub data: Option<&'a [u8]>,
    /// How much of the chunk has been read at its end. When that is all of the chunk and its last byte is a carriage
    /// return, a line feed at the start of the next chunk belongs to this block still.
    pub end: usize,
}

/// A block that has not ended.
#[derive(Debug, Default)]
struct OpenBlock {
    name: Vec<u8>,
    /// Of earlier chunks, or of several lines.
    data: Vec<u8>,
    has_data: bool,
    too_long: bool,
}

impl SseScanner {
    /// Reads on, and hands over each block that ends in this chunk.
    pub fn read(&mut self, chunk: &[u8], mut each: impl FnMut(Block<'_>)) {
        let Self { lines, block } = self;
        // The data of the block so far, as long as it is one line of this chunk.
        let mut here: Option<&[u8]> = None;
        lines.read(chunk, |line| {
            if !line.text.is_empty() {
                block.add(line.text, &mut here);
                return;
            }
            let data = here.take().unwrap_or(&block.data);
            let data = (block.has_data && !block.too_long).then_some(data);
            each(Block { name: &block.name, data, end: line.end });
            block.clear();
        });
        if let Some(data) = here {
            block.data.extend_from_slice(data);
        }
    }

    /// Whole events have passed that were not read, and no part of one before them was.
    pub(super) fn pass_events(&mut self) {
        self.lines.started = true;
    }

    /// Hands over the event that the end of the stream cut off, if there is one with data.
    pub fn finish(&mut self, each: impl FnOnce(Block<'_>)) {
        let Self { lines, block } = self;
        lines.finish(|text| block.add(text, &mut None));
        if block.has_data && !block.too_long {
            each(Block { name: &block.name, data: Some(&block.data), end: 0 });
        }
        block.clear();
    }
}

impl OpenBlock {
    fn add<'c>(&mut self, line: Text<'c, '_>, here: &mut Option<&'c [u8]>) {
        let bytes = match line {
            Text::Here(bytes) | Text::Carried(bytes) => bytes,
            Text::TooLong => {
                self.too_long = true;
                return;
            }
        };
        let (field, value) = match memchr::memchr(b':', bytes) {
            Some(colon) => (&bytes[..colon], &bytes[colon + 1..]),
            None => (bytes, &bytes[..0]),
        };
        let skipped = usize::from(value.first() == Some(&b' '));
        match field {
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(&value[skipped..]);
            }
            b"data" => match line {
                Text::Here(bytes) if !self.has_data => {
                    *here = Some(&bytes[bytes.len() - value.len() + skipped..]);
                    self.has_data = true;
                }
                _ => self.append(&value[skipped..], here),
            },
            _ => {}
        }
    }

    fn append(&mut self, value: &[u8], here: &mut Option<&[u8]>) {
        if let Some(first) = here.take() {
            self.data.extend_from_slice(first);
        }
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.too_long |= self.data.len() + value.len() > LONGEST;
        if self.too_long {
            self.data = Vec::new();
        } else {
            self.data.extend_from_slice(value);
        }
    }

    fn clear(&mut self) {
        self.name.clear();
        self.data.clear();
        (self.has_data, self.too_long) = (false, false);
    }
}

/// Finds lines that end with LF, CRLF or CR.
#[derive(Debug, Default)]
pub(super) struct LineScanner {
    partial: Vec<u8>,
    /// How long the line is that the last chunk broke off, kept or not.
    length: usize,
    after_return: bool,
    /// Whether a byte order mark may still come: nothing has been read but what may be its start.
    started: bool,
}

/// A line without its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'c, 'p> {
    /// What it says.
    pub(super) text: Text<'c, 'p>,
    /// How much of the chunk has been read at its end.
    pub(super) end: usize,
}

/// The text of a line.
#[derive(Debug, Clone, Copy)]
pub(super) enum Text<'c, 'p> {
    /// It lies in the chunk.
    Here(&'c [u8]),
    /// It began in an earlier chunk.
    Carried(&'p [u8]),
    /// It is longer than what can be kept.
    TooLong,
}

impl Text<'_, '_> {
    const fn is_empty(&self) -> bool {
        matches!(self, Self::Here([]) | Self::Carried([]))
    }
}

impl LineScanner {
    /// Reads on, and hands over each line that ends in this chunk.
    pub(super) fn read<'c>(&mut self, chunk: &'c [u8], mut each: impl FnMut(Line<'c, '_>)) {
        let mut at = 0;
        if !chunk.is_empty() && std::mem::take(&mut self.after_return) && chunk[0] == b'\n' {
            at = 1;
        }
        while let Some(found) = memchr2(b'\n', b'\r', &chunk[at..]) {
            let (piece, mut end) = (&chunk[at..at + found], at + found + 1);
            if chunk[end - 1] == b'\r' {
                match chunk.get(end) {
                    Some(b'\n') => end += 1,
                    Some(_) => {}
                    None => self.after_return = true,
                }
            }
            if self.length == 0 {
                let text = if piece.len() > LONGEST { Text::TooLong } else { Text::Here(self.without_mark(piece)) };
                each(Line { text, end });
            } else {
                self.keep(piece);
                self.hand_over(|text| each(Line { text, end }));
            }
            at = end;
        }
        self.keep(&chunk[at..]);
    }

    /// Hands over what the end of the stream cut off, if anything.
    pub(super) fn finish(&mut self, each: impl FnOnce(Text<'static, '_>)) {
        if self.length > 0 {
            self.hand_over(each);
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        self.length = self.length.saturating_add(piece.len());
        if self.length > LONGEST {
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(piece);
        }
    }

    fn hand_over(&mut self, each: impl FnOnce(Text<'static, '_>)) {
        let partial = std::mem::take(&mut self.partial);
        each(if self.length > LONGEST { Text::TooLong } else { Text::Carried(self.without_mark(&partial)) });
        self.partial = partial;
        self.partial.clear();
        self.length = 0;
    }

    /// A stream may begin with a byte order mark, which is no part of its first line.
    fn without_mark<'a>(&mut self, line: &'a [u8]) -> &'a [u8] {
        if std::mem::replace(&mut self.started, true) {
            return line;
        }
        line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Event = (Vec<u8>, Option<Vec<u8>>);

    fn events<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Event> {
        let mut scanner = SseScanner::default();
        let mut events = Vec::new();
        let mut keep = |block: Block<'_>| events.push((block.name.to_vec(), block.data.map(<[u8]>::to_vec)));
        for chunk in chunks {
            scanner.read(chunk, &mut keep);
        }
        scanner.finish(keep);
        events
    }

    fn event(name: &str, data: &str) -> Event {
        (name.into(), Some(data.into()))
    }

    #[test]
    fn events_are_read_with_any_line_end() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = "\u{feff}event: a\ndata: 1\n\n: comment\n\ndata:2\ndata:  3\nid: 7\n\ndata\n\ndata: cut";
            let stream = stream.replace('\n', end);
            let expected = vec![event("a", "1"), (vec![], None), event("", "2\n 3"), event("", ""), event("", "cut")];
            assert_eq!(events([stream.as_bytes()]), expected, "{end:?}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_costs_its_own_event_only() {
        let long = vec![b'x'; LONGEST + 10];
        let parts = [&b"event: a\ndata: "[..], &long, b"\ndata: 1\n\ndata: 2\n\n"];
        let expected = vec![(b"a".to_vec(), None), event("", "2")];
        assert_eq!(events(parts), expected);
        assert_eq!(events([&parts.concat()[..]]), expected);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut scanner = SseScanner::default();
        for _ in 0..40 {
            scanner.read(&[b'x'; 1 << 16], |_| {});
            assert!(scanner.lines.partial.capacity() <= 2 * LONGEST);
        }
        for _ in 0..40 {
            scanner.read(&b"data: y\n".repeat(1 << 13), |_| {});
            assert!(scanner.block.data.capacity() <= 2 * LONGEST);
        }
    }

    proptest! {
        #[test]
        fn borders_between_chunks_change_nothing(
            stream in r"((event: a|data: [xy]|data|:c|\xef\xbb\xbf|\r|\n){1,2}(\r\n|\n|\r)){0,20}(data: z)?",
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let stream = stream.as_bytes();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(stream.len());
            let mut start = 0;
            let chunks: Vec<_> = cuts.iter().map(|cut| &stream[std::mem::replace(&mut start, *cut)..*cut]).collect();
            prop_assert_eq!(events(chunks), events([stream]));
        }

        #[test]
        fn the_end_of_a_block_is_behind_its_blank_line(stream in r"((data: [xy])?(\r\n|\n)){0,20}") {
            let mut start = 0;
            let mut scanner = SseScanner::default();
            scanner.read(stream.as_bytes(), |block| {
                let text = &stream[start..block.end];
                assert!(text == "\n" || text == "\r\n" || text.ends_with("\n\n") || text.ends_with("\n\r\n"));
                start = block.end;
            });
        }
    }
}
