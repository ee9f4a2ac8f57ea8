//! Removes from a stream what `stream_options.include_usage` has added to it, where only the proxy asked for that.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::sse::SseScanner;
use super::strings::even_null;

use crate::fields::{Fields, Kind};

/// Removes the chunk that has usage and no choices, and `"usage":null` from all others; everything else passes byte for
/// byte. Only an event that is not whole yet is held back.
#[derive(Debug, Default)]
pub struct UsageHider {
    scanner: SseScanner,
    /// The beginning of an event.
    held: Vec<u8>,
    /// The event was too long to hold; what follows of it passes as it comes.
    is_passing: bool,
    /// The last chunk ended with a carriage return that ended an event: whether that event was kept. A line feed at the
    /// start of the next chunk shares its fate.
    after_return: Option<bool>,
}

/// The most that is held back, in bytes.
const MOST_HELD: usize = 1 << 20;

/// What is done with an event.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Remove,
    /// This part of its data goes.
    Cut(Range<usize>),
}

/// The members of a chat chunk that matter.
#[derive(Deserialize)]
struct ChatChunk<'a> {
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    usage: Option<&'a RawValue>,
}

impl UsageHider {
    /// For a response with these fields; `None` if it is no stream of events, or is compressed.
    pub fn for_response(headers: &Fields) -> Option<Self> {
        let is_plain = headers.first(Kind::ContentEncoding).is_none_or(|coding| coding == "identity");
        let content_type = headers.first(Kind::ContentType)?.as_bytes();
        let essence = content_type.split(|byte| *byte == b';').next()?.trim_ascii();
        (is_plain && essence.eq_ignore_ascii_case(b"text/event-stream")).then(Self::default)
    }

    /// What goes on in the place of `chunk`; it may be empty.
    pub fn filter(&mut self, chunk: Bytes) -> Bytes {
        if chunk.is_empty() {
            return chunk;
        }
        if self.is_untouched(&chunk) {
            self.scanner.pass_events();
            return chunk;
        }
        let mut out = BytesMut::with_capacity(self.held.len() + chunk.len());
        let mut start = 0;
        if let Some(kept) = self.after_return.take().filter(|_| chunk.first() == Some(&b'\n')) {
            start = 1;
            out.extend_from_slice(if kept { b"\n" } else { b"" });
        }
        let Self { scanner, held, is_passing, after_return } = self;
        scanner.read(&chunk, |block| {
            let is_whole = !std::mem::take(is_passing);
            let verdict = block.data.filter(|_| is_whole).map_or(Verdict::Keep, judge);
            let event = &chunk[start..block.end];
            if block.end == chunk.len() && chunk.last() == Some(&b'\r') {
                *after_return = Some(verdict != Verdict::Remove);
            }
            match verdict {
                Verdict::Keep => {
                    out.extend_from_slice(held);
                    out.extend_from_slice(event);
                }
                Verdict::Remove => {}
                Verdict::Cut(range) => {
                    held.extend_from_slice(event);
                    push_without(&mut out, held, block.data.unwrap_or_default(), range);
                }
            }
            held.clear();
            start = block.end;
        });
        self.hold(&chunk[start..], &mut out);
        out.freeze()
    }

    /// What has been held back when the stream ends.
    pub fn finish(&mut self) -> Bytes {
        std::mem::take(&mut self.held).into()
    }

    /// Whether the chunk consists of whole events that do not mention usage, so that nothing need be looked for.
    fn is_untouched(&self, chunk: &[u8]) -> bool {
        let between_events = self.held.is_empty() && !self.is_passing && self.after_return.is_none();
        between_events
            && (chunk.ends_with(b"\n\n") || chunk.ends_with(b"\n\r\n"))
            && memmem::find(chunk, b"\"usage\"").is_none()
    }

    fn hold(&mut self, rest: &[u8], out: &mut BytesMut) {
        if self.is_passing {
            out.extend_from_slice(rest);
        } else if self.held.len() + rest.len() > MOST_HELD {
            self.is_passing = true;
            out.extend_from_slice(&std::mem::take(&mut self.held));
            out.extend_from_slice(rest);
        } else {
            self.held.extend_from_slice(rest);
        }
    }
}

/// Decides about an event by its data.
fn judge(data: &[u8]) -> Verdict {
    if memmem::find(data, b"\"usage\"").is_none() {
        return Verdict::Keep;
    }
    let Ok(ChatChunk { choices, usage: Some(usage) }) = serde_json::from_slice(data) else { return Verdict::Keep };
    let start = usage.get().as_ptr().addr() - data.as_ptr().addr();
    if usage.get() == "null" {
        return member_range(data, start..start + usage.get().len()).map_or(Verdict::Keep, Verdict::Cut);
    }
    let has_no_choices =
        choices.is_some_and(|choices| choices.get().bytes().filter(|b| !b.is_ascii_whitespace()).eq(*b"[]"));
    if has_no_choices { Verdict::Remove } else { Verdict::Keep }
}

/// The member whose value is given, with one of the commas around it.
fn member_range(json: &[u8], value: Range<usize>) -> Option<Range<usize>> {
    let before = json[..value.start].trim_ascii_end().strip_suffix(b":")?.trim_ascii_end();
    let before = before.strip_suffix(b"\"usage\"")?;
    let after = json[value.end..].trim_ascii_start();
    if let Some(others) = before.trim_ascii_end().strip_suffix(b",") {
        return Some(others.len()..value.end);
    }
    let end = after.strip_prefix(b",").map_or(value.end, |others| json.len() - others.len());
    Some(before.len()..end)
}

/// Pushes an event without a part of its data. Data of several lines is left whole: no API sends that.
fn push_without(out: &mut BytesMut, event: &[u8], data: &[u8], range: Range<usize>) {
    let Some(at) = memmem::find(event, data) else { return out.extend_from_slice(event) };
    out.extend_from_slice(&event[..at + range.start]);
    out.extend_from_slice(&event[at + range.end..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filtered(stream: &str, sizes: &[usize]) -> String {
        let mut hider = UsageHider::default();
        let mut rest = Bytes::copy_from_slice(stream.as_bytes());
        let mut out = Vec::new();
        let mut sizes = sizes.iter().cycle();
        while !rest.is_empty() {
            let size = sizes.next().copied().unwrap_or(rest.len()).clamp(1, rest.len());
            out.extend_from_slice(&hider.filter(rest.split_to(size)));
        }
        out.extend_from_slice(&hider.finish());
        String::from_utf8(out).expect("what came in")
    }

    const ASKED: &str = concat!(
        "data: {\"id\":1,\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\"\"}}],\"usage\":null}\n\n",
        ": comment\n\n",
        "data: {\"usage\" : null , \"choices\":[]}\n\n",
        "data: {\"choices\":[{\"usage\":null}],\"usage\":{\"total_tokens\":1}}\n\n",
        "data: {\"choices\": [ ],\"usage\":{\"total_tokens\":7}}\n\n",
        "data: [DONE]\n\n",
    );
    const UNASKED: &str = concat!(
        "data: {\"id\":1,\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\"\"}}]}\n\n",
        ": comment\n\n",
        "data: { \"choices\":[]}\n\n",
        "data: {\"choices\":[{\"usage\":null}],\"usage\":{\"total_tokens\":1}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn what_was_not_asked_for_is_removed_and_nothing_else() {
        for end in ["\n", "\r\n", "\r"] {
            let (asked, unasked) = (ASKED.replace('\n', end), UNASKED.replace('\n', end));
            for size in 1..asked.len() {
                assert_eq!(filtered(&asked, &[size]), unasked, "{end:?}, {size}");
            }
        }
    }

    #[test]
    fn an_empty_chunk_changes_nothing() {
        let mut hider = UsageHider::default();
        let chunks = ["data: {\"choices\":[],\"usage\":{}}\r\n\r", "", "\n", ": comment\r\n\r\n"];
        let out: Vec<u8> = chunks.iter().flat_map(|chunk| hider.filter(Bytes::from_static(chunk.as_bytes()))).collect();
        assert_eq!(out, b": comment\r\n\r\n");
    }

    #[test]
    fn whole_events_pass_without_a_copy() {
        let chunk = Bytes::from_static(b"data: {\"choices\":[]}\n\n");
        assert_eq!(UsageHider::default().filter(chunk.clone()).as_ptr(), chunk.as_ptr());
    }

    #[test]
    fn a_byte_order_mark_is_one_at_the_start_of_the_stream_only() {
        let marked = "\u{feff}data: {\"choices\":[1],\"usage\":null}\n\n";
        let first = "data: 1\n\n";
        let stream = format!("{first}{marked}");
        assert_eq!(filtered(&stream, &[first.len()]), stream);
        assert_eq!(filtered(&stream, &[stream.len()]), stream);
        assert_eq!(filtered(marked, &[5]), "\u{feff}data: {\"choices\":[1]}\n\n");
    }

    #[test]
    fn an_event_that_is_too_long_to_hold_passes() {
        let long = format!("data: {{\"usage\":null,\"x\":\"{}\"}}\n\n", "x".repeat(2 * MOST_HELD));
        let stream = format!("{long}{ASKED}");
        assert_eq!(filtered(&stream, &[10_000]), format!("{long}{UNASKED}"));
    }

    proptest! {
        #[test]
        fn other_streams_pass_byte_for_byte(
            stream in "(data: \\{\"usage\":1\\}|data: x|event|:|\"usage\"|\r|\n|\r\n){0,30}",
            sizes in prop::collection::vec(1usize..9, 1..5),
        ) {
            prop_assert_eq!(filtered(&stream, &sizes), stream);
        }
    }
}
