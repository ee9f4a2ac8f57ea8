//! How many tokens a prompt has: counted where it is short, and by samples where it is long.

use std::collections::HashSet;

use memchr::{memchr, memrchr2};
use tiktoken_rs::CoreBPE;

use super::field::Fields;
use super::prompt::{Part, parts};

/// An image or another file in the body counts as this many tokens.
const MEDIA_TOKENS: u64 = 1_000;
/// The marks around a message: where it begins, where its text begins, and where it ends.
const MARKS: u64 = 3;
/// About this much of a prompt is counted, in bytes, so that a worker is never held up for long. Of a longer prompt samples
/// are taken all over it, and the rest is taken to be like them.
const MOST_COUNTED: u64 = 16 * 1024;
/// Text is counted in chunks of this many bytes. Of a text in one piece, a long word takes the library more than its share of
/// time, and on a million blanks it gives up.
const CHUNK: usize = 512;
/// To count a chunk takes as long as for so many bytes more.
const CALL: u64 = 16;
/// A chunk ends where a word does, if there is an end so close to its own.
const LONGEST_WORD: usize = 64;

/// Tokens of prompt.
pub(super) fn prompt_tokens(fields: &Fields<'_>, vocabulary: &CoreBPE) -> u64 {
    let texts = parts(fields).map(Part::text).filter(|text| !text.is_empty());
    let mut count = Count::new(texts.map(weight).sum(), vocabulary);
    for part in parts(fields) {
        match part {
            Part::Role(_) => count.others += MARKS,
            Part::Number(_) => count.others += 1,
            Part::Media => count.others += MEDIA_TOKENS,
            Part::Text(..) | Part::Written(_) => {}
        }
        let mut rest = part.text();
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(end_of_chunk(rest));
            count.pass(chunk, matches!(part, Part::Written(_)));
            rest = behind;
        }
    }
    count.tokens()
}

/// The count of a prompt whose text passes chunk by chunk.
struct Count<'a> {
    vocabulary: &'a CoreBPE,
    /// One chunk in so many is counted, by weight.
    every: u64,
    /// The weight of the text that has passed, and of that which was counted.
    passed: u64,
    counted: u64,
    /// Tokens in what was counted.
    found: u64,
    /// Tokens beside the text.
    others: u64,
}

impl<'a> Count<'a> {
    /// For text of this weight.
    fn new(all: u64, vocabulary: &'a CoreBPE) -> Self {
        let every = all.div_ceil(MOST_COUNTED).max(1);
        Self { vocabulary, every, passed: 0, counted: 0, found: 0, others: 0 }
    }

    /// Counts a chunk if it is the turn of one. In text `as_written`, a backslash is a backslash.
    fn pass(&mut self, chunk: &[u8], as_written: bool) {
        if self.counted.saturating_mul(self.every) <= self.passed {
            let text = String::from_utf8_lossy(chunk);
            let resolved = if as_written { None } else { resolved(&text) };
            let text = resolved.as_deref().unwrap_or(&text);
            if let Ok(tokens) = self.vocabulary.count(text, &HashSet::new()) {
                self.found += tokens as u64;
                self.counted += weight(chunk);
            }
        }
        self.passed += weight(chunk);
    }

    fn tokens(&self) -> u64 {
        let all = self.found as f64 * (self.passed as f64 / self.counted.max(1) as f64);
        self.others.saturating_add(all.round() as u64)
    }
}

/// What it takes to count a text, in bytes.
fn weight(text: &[u8]) -> u64 {
    text.len() as u64 + CALL
}

/// Where the first chunk of `text` ends: in front of a blank or an escape, else between two characters.
fn end_of_chunk(text: &[u8]) -> usize {
    if text.len() <= CHUNK {
        return text.len();
    }
    let from = CHUNK - LONGEST_WORD;
    let is_inside = |at: &usize| text[*at] & 0b1100_0000 == 0b1000_0000;
    match memrchr2(b' ', b'\\', &text[from..CHUNK]) {
        Some(at) => from + at,
        None => (from..=CHUNK).rev().find(|at| !is_inside(at)).unwrap_or(CHUNK),
    }
}

/// Text whose escapes are resolved; `None` if it has none, or if one of them was cut.
fn resolved(text: &str) -> Option<String> {
    memchr(b'\\', text.as_bytes())?;
    serde_json::from_str(&format!("\"{text}\"")).ok()
}
