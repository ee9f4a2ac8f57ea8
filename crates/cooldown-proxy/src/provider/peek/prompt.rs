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

/// Bytes of prompt.
pub(super) fn prompt_bytes(fields: &Fields<'_>) -> u64 {
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
    let spoken: u64 = SPOKEN.iter().filter_map(|field| fields.get(*field)).map(text_bytes).sum();
    let defined: u64 = DEFINED.iter().filter_map(|field| fields.get(*field)).map(|raw| raw.len() as u64).sum();
    spoken + defined
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

/// How much text a model is given by `raw`.
fn text_bytes(raw: &[u8]) -> u64 {
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
    pieces(raw)
        .map(|piece| match piece {
            Piece::Text { key, .. } if UNREAD.contains(&key) => 0,
            Piece::Text { key, text, .. } if is_media(key, text) => MEDIA_BYTES,
            Piece::Text { length, .. } => length,
            Piece::Number(length) => LEAST_NUMBER_BYTES.max(length as u64),
            Piece::Close(_) => 0,
        })
        .sum()
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
