//! Changes a few bytes of a body and shares the rest.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

/// Bytes of a body that are to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    range: Range<usize>,
    text: Bytes,
}

impl Edit {
    /// Puts `model` where the value of `model` is: `range` is a [`ModelName`](super::ModelName)'s.
    pub fn model(range: Range<usize>, model: &str) -> Self {
        Self { range, text: serde_json::Value::from(model).to_string().into() }
    }

    /// Puts `text` in the place of `range`.
    pub(super) const fn fixed(range: Range<usize>, text: &'static str) -> Self {
        Self { range, text: Bytes::from_static(text.as_bytes()) }
    }
}

/// The body with the edits made, as parts in order; everything else is byte for byte what it was, and is not copied.
/// An edit that lies outside of the body or overlaps an earlier one is not made.
pub fn rewrite(body: &Bytes, edits: impl IntoIterator<Item = Edit>) -> SmallVec<[Bytes; 5]> {
    let mut edits: SmallVec<[Edit; 2]> = edits.into_iter().collect();
    edits.sort_by_key(|edit| edit.range.start);
    let mut parts = SmallVec::<[Bytes; 5]>::new();
    let mut done = 0;
    for Edit { range, text } in edits {
        if range.start < done || range.end < range.start || range.end > body.len() {
            continue;
        }
        parts.push(body.slice(done..range.start));
        parts.push(text);
        done = range.end;
    }
    parts.push(body.slice(done..));
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_leave_all_else_as_it_was() {
        let body = Bytes::from_static(br#"{ "model" : "a", "x":1.0 }"#);
        let edits = [Edit::fixed(1..1, r#""y":2,"#), Edit::model(12..15, "b\"c")];
        assert_eq!(rewrite(&body, edits).concat(), br#"{"y":2, "model" : "b\"c", "x":1.0 }"#);
        assert_eq!(rewrite(&body, []).concat(), body);
    }

    #[test]
    fn an_impossible_edit_is_not_made() {
        let body = Bytes::from_static(b"abc");
        let edits = [Edit::fixed(0..2, "x"), Edit::fixed(1..3, "y"), Edit::fixed(7..9, "z")];
        assert_eq!(rewrite(&body, edits).concat(), b"xc");
    }
}
