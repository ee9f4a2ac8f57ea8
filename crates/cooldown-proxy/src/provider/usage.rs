//! Reads beside a response how many tokens it took, and how it began.

use super::decode::Decoder;
use super::document::DocumentScanner;
use super::event::{Count, Counts, Opening, Told};
use super::frames::FrameScanner;
use super::sse::{LineScanner, SseScanner, Text};

use crate::fields::{Fields, Kind};

/// The tokens that a response took, in one shape for all APIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub input: u64,
    /// The part of the input that came from the provider's cache. Some providers do not count it.
    pub cached_input: u64,
    /// Tokens of the answer, thoughts included.
    pub output: u64,
    /// Input and output together, as the provider says it.
    pub total: u64,
}

/// What is known of a response that broke off before it told its usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Partial {
    /// Tokens of the prompt, if the beginning of the stream told them; cached ones included.
    pub input: Option<u64>,
    /// The part of the input that came from the provider's cache.
    pub cached_input: u64,
    /// Bytes of text of the answer that came so far, thoughts included.
    pub output_bytes: u64,
}

/// How a response with status 200 began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstEvent<'a> {
    /// Events that carry no text: a role, `message_start`, `response.created`, `ping`. An error may still come first.
    Preamble,
    /// Text has come.
    Token,
    /// An error has come before any text. The JSON is `{"error":…}` with the provider's own words, whatever shape the
    /// event had.
    Error(&'a [u8]),
}

/// Reads a response as it passes. It holds at most a few megabytes, whatever passes, and never changes a byte.
pub struct UsageReader {
    decoder: Decoder,
    format: Format,
    told: Told,
}

/// How a body is divided.
enum Format {
    /// `text/event-stream`
    Events(SseScanner),
    /// One JSON object a line.
    Lines(LineScanner),
    /// Amazon's frames.
    Frames(FrameScanner),
    /// One JSON object, or an array of them.
    Document(DocumentScanner),
}

impl UsageReader {
    /// For a response with these fields; `None` if its body is of a kind, or has a coding, in which no usage is found.
    pub fn for_response(headers: &Fields) -> Option<Self> {
        let text = |kind| headers.first(kind).map_or(Some(""), |value| value.to_str().ok());
        let format = Format::of(text(Kind::ContentType)?)?;
        let decoder = Decoder::new(text(Kind::ContentEncoding)?)?;
        Some(Self { decoder, format, told: Told::default() })
    }

    /// Reads the next bytes of the body, as they came.
    pub fn read(&mut self, chunk: &[u8]) {
        let Self { decoder, format, told } = self;
        decoder.read(chunk, &mut |decoded| format.read(decoded, told));
    }

    /// Whether the body is a stream of events, so that there can be a first one.
    pub const fn is_stream(&self) -> bool {
        !matches!(self.format, Format::Document(_))
    }

    /// How the response began; `None` before the first whole event. Once it is a token or an error it stays that.
    pub fn first_event(&self) -> Option<FirstEvent<'_>> {
        match &self.told.opening {
            Opening::Silent => None,
            Opening::Preamble => Some(FirstEvent::Preamble),
            Opening::Text => Some(FirstEvent::Token),
            Opening::Error(json) => Some(FirstEvent::Error(json)),
        }
    }

    /// The body has ended: what it took, or `None` if it did not say. It may be asked when the body broke off, too: what
    /// has been said by then counts if it covers the output.
    pub fn finish(&mut self) -> Option<Usage> {
        self.format.finish(&mut self.told);
        let input = self.told.counts.input();
        let output = self.told.counts.output().or_else(|| (self.told.text_bytes == 0).then_some(0));
        if input.is_none() && self.told.counts.output().is_none() {
            return None;
        }
        let (input, output) = (input.unwrap_or(0), output?);
        let counts = &self.told.counts;
        let total = counts.total_tokens.0.unwrap_or(0).max(input + output);
        Some(Usage { input, cached_input: counts.cached_input().min(input), output, total })
    }

    /// What is known if nothing more comes.
    pub fn partial(&self) -> Partial {
        let counts = &self.told.counts;
        Partial { input: counts.input(), cached_input: counts.cached_input(), output_bytes: self.told.text_bytes }
    }
}

impl Format {
    fn of(content_type: &str) -> Option<Self> {
        // As nearly all that is in one piece has it.
        if content_type == "application/json" {
            return Some(Self::Document(DocumentScanner::default()));
        }
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "text/event-stream" => Some(Self::Events(SseScanner::default())),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
                Some(Self::Lines(LineScanner::default()))
            }
            "application/vnd.amazon.eventstream" => Some(Self::Frames(FrameScanner::default())),
            "application/json" => Some(Self::Document(DocumentScanner::default())),
            other if other.ends_with("+json") => Some(Self::Document(DocumentScanner::default())),
            _ => None,
        }
    }

    fn read(&mut self, chunk: &[u8], told: &mut Told) {
        match self {
            Self::Events(scanner) => scanner.read(chunk, |block| {
                if let Some(data) = block.data {
                    told.event(block.name, data);
                }
            }),
            Self::Lines(scanner) => scanner.read(chunk, |line| read_line(line.text, told)),
            Self::Frames(scanner) => scanner.read(chunk, |frame| {
                let name = if frame.is_error { b"error" } else { frame.name };
                told.event(name, frame.payload);
            }),
            Self::Document(scanner) => {
                scanner.read(chunk, &Told::MEMBERS, |name, value| told.member(name, value));
            }
        }
    }

    fn finish(&mut self, told: &mut Told) {
        match self {
            Self::Events(scanner) => scanner.finish(|block| told.event(block.name, block.data.unwrap_or_default())),
            Self::Lines(scanner) => scanner.finish(|text| read_line(text, told)),
            Self::Frames(_) | Self::Document(_) => {}
        }
    }
}

fn read_line(line: Text<'_, '_>, told: &mut Told) {
    match line {
        Text::Here(line) | Text::Carried(line) => told.event(b"", line),
        Text::TooLong => {}
    }
}

impl Counts {
    fn input(&self) -> Option<u64> {
        // Anthropic's and Bedrock's `input_tokens` is the rest that has nothing to do with the cache.
        let beside = self.cache_creation_input_tokens.or_zero() + self.cache_read_input_tokens.or_zero();
        let whole = self.prompt_tokens.0.map(|prompt| prompt + self.tool_use_tokens.or_zero());
        // Some gateways say the same under both names, and leave one of them at 0.
        whole.max(self.input_tokens.0.map(|input| input + beside))
    }

    fn output(&self) -> Option<u64> {
        let completion = match (self.completion_tokens.0, self.thought_tokens.0) {
            (None, None) => None,
            (said, thoughts) => Some(said.unwrap_or(0) + thoughts.unwrap_or(0)),
        };
        completion.max(self.output_tokens.0)
    }

    fn cached_input(&self) -> u64 {
        let detailed = [self.prompt_tokens_details, self.input_tokens_details].into_iter().flatten();
        detailed
            .map(|details| details.cached_tokens)
            .chain([self.prompt_cache_hit_tokens, self.cache_read_input_tokens])
            .map(Count::or_zero)
            .fold(0, u64::max)
    }
}

#[cfg(test)]
mod tests;
