//! How much text a model is given, and which conversation it belongs to.

use std::hash::{BuildHasher as _, Hasher as _};

use foldhash::fast::{FixedState, FoldHasher};

use super::field::{Fields, PeekField};
use crate::provider::strings::{Piece, pieces};

/// An image or another file in the body counts as this many bytes of text: about a thousand tokens.
pub(super) const MEDIA_BYTES: u64 = 4_000;
/// Shorter strings are text, whatever their key.
const SHORTEST_MEDIA: usize = 512;
/// A number is about one token, however short.
const LEAST_NUMBER_BYTES: u64 = 4;
/// The text of this many messages at most tells a conversation.
const MOST_OPENING_MESSAGES: u32 = 8;

/// What a model is given to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Who speaks, at the beginning of a message.
    Role(&'a [u8]),
    /// A string as it is written, and how long it is once its escapes are resolved.
    Text(&'a [u8], u64),
    /// JSON that is read as it is written.
    Written(&'a [u8]),
    /// A number of this many characters.
    Number(usize),
    /// An image or another file.
    Media,
}

/// Bytes of prompt.
pub(super) fn prompt_bytes(fields: &Fields<'_>) -> u64 {
    parts(fields).map(Part::bytes).sum()
}

/// The prompt, part by part.
pub(super) fn parts<'a>(fields: &Fields<'a>) -> impl Iterator<Item = Part<'a>> {
    const SPOKEN: [PeekField; 7] = [
        PeekField::Messages,
        PeekField::Contents,
        PeekField::Input,
        PeekField::Prompt,
        PeekField::System,
        PeekField::SystemInstruction,
        PeekField::Instructions,
    ];
    // The keys of a tool's schema are read by the model as well.
    const DEFINED: [PeekField; 2] = [PeekField::Tools, PeekField::Functions];
    let spoken = SPOKEN.iter().filter_map(|field| fields.get(*field)).flat_map(spoken);
    spoken.chain(DEFINED.iter().filter_map(|field| fields.get(*field)).map(Part::Written))
}

/// What tells the conversation.
pub(super) fn conversation(fields: &Fields<'_>) -> Option<u64> {
    if let Some(key) = fields.get(PeekField::PromptCacheKey) {
        return Some(hash_of(key));
    }
    [PeekField::Messages, PeekField::Contents, PeekField::Input, PeekField::Prompt]
        .into_iter()
        .find_map(|field| fields.get(field))
        .map(opening_hash)
}

/// What a model is given by `raw`.
fn spoken(raw: &[u8]) -> impl Iterator<Item = Part<'_>> {
    // These are for the server, not for the model.
    const UNREAD: [&[u8]; 8] = [
        b"type",
        b"id",
        b"tool_use_id",
        b"tool_call_id",
        b"call_id",
        b"signature",
        b"encrypted_content",
        b"thoughtSignature",
    ];
    pieces(raw).filter_map(|piece| match piece {
        Piece::Text { key, .. } if UNREAD.contains(&key) => None,
        Piece::Text { key, text, .. } if is_media(key, text) => Some(Part::Media),
        Piece::Text { key: b"role", text, .. } => Some(Part::Role(text)),
        Piece::Text { text, length, .. } => Some(Part::Text(text, length)),
        Piece::Number(length) => Some(Part::Number(length)),
        Piece::Close(_) => None,
    })
}

impl<'a> Part<'a> {
    /// Its text as it is written; empty if it is none.
    pub(super) fn text(self) -> &'a [u8] {
        match self {
            Self::Role(text) | Self::Text(text, _) | Self::Written(text) => text,
            Self::Number(_) | Self::Media => b"",
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Self::Role(text) | Self::Written(text) => text.len() as u64,
            Self::Text(_, length) => length,
            Self::Number(length) => LEAST_NUMBER_BYTES.max(length as u64),
            Self::Media => MEDIA_BYTES,
        }
    }
}

fn is_media(key: &[u8], text: &[u8]) -> bool {
    const KEYS: [&[u8]; 7] = [b"data", b"url", b"image_url", b"file_data", b"file_url", b"image", b"bytes"];
    text.len() >= SHORTEST_MEDIA
        && (text.starts_with(b"data:")
            || KEYS.contains(&key) && !text[..SHORTEST_MEDIA].iter().any(u8::is_ascii_whitespace))
}

/// A hash of the text up to the first message of the user: what all requests of a conversation start with. Marks that
/// clients move about, such as `cache_control`, do not matter.
fn opening_hash(raw: &[u8]) -> u64 {
    let mut hasher = new_hasher();
    let (mut user_spoke, mut has_role, mut messages) = (false, false, 0);
    for piece in pieces(raw) {
        match piece {
            Piece::Text { key: b"role", text, .. } => {
                has_role = true;
                user_spoke |= text == b"user";
            }
            Piece::Text { key: b"text" | b"content" | b"", text, .. } => hasher.write(text),
            Piece::Close(1) => {
                messages += 1;
                if user_spoke || !has_role || messages == MOST_OPENING_MESSAGES {
                    break;
                }
                has_role = false;
            }
            Piece::Text { .. } | Piece::Number(_) | Piece::Close(_) => {}
        }
    }
    hasher.finish()
}

fn hash_of(bytes: &[u8]) -> u64 {
    let mut hasher = new_hasher();
    hasher.write(bytes);
    hasher.finish()
}

fn new_hasher() -> FoldHasher<'static> {
    FixedState::default().build_hasher()
}
