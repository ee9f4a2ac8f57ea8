//! JSON as it is written: its strings and numbers one by one, and its members, without building it.

use memchr::memchr2;
use serde::Deserialize;
use serde::de::Deserializer;
use serde_json::value::RawValue;

/// What a walk meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A string that is a value, as it is written: escapes are not resolved.
    Text {
        /// The key that was met last, as it is written; empty if there was none.
        key: &'a [u8],
        /// Between the quotes.
        text: &'a [u8],
        /// How many bytes of UTF-8 it has once its escapes are resolved; for characters beyond the basic plane a little
        /// too many.
        length: u64,
    },
    /// A number of this many characters.
    Number(usize),
    /// An object or array has ended, and this many are still open.
    Close(u32),
}

/// A walk over JSON. On any other bytes it yields nonsense, but ends and does not panic.
pub(super) struct Pieces<'a> {
    json: &'a [u8],
    at: usize,
    depth: u32,
    key: &'a [u8],
}

/// Walks `json`.
pub(super) fn pieces(json: &[u8]) -> Pieces<'_> {
    Pieces { json, at: 0, depth: 0, key: &[] }
}

impl<'a> Pieces<'a> {
    /// Reads the string whose opening quote has just been passed, and its length without escapes.
    fn string(&mut self) -> (&'a [u8], u64) {
        let start = self.at;
        let mut escaped = 0;
        while let Some(found) = memchr2(b'"', b'\\', &self.json[self.at..]) {
            let at = self.at + found;
            if self.json[at] == b'"' {
                self.at = at + 1;
                return (&self.json[start..at], (at - start).saturating_sub(escaped) as u64);
            }
            // `\u00e9` is six characters for two or three bytes, `\n` two for one.
            escaped += if self.json.get(at + 1) == Some(&b'u') { 3 } else { 1 };
            self.at = (at + 2).min(self.json.len());
        }
        self.at = self.json.len();
        let text = &self.json[start..];
        (text, text.len() as u64)
    }

    /// Whether a colon follows, so that the string before it was a key.
    fn takes_colon(&mut self) -> bool {
        let rest = &self.json[self.at..];
        let blank = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let colon = rest.get(blank) == Some(&b':');
        if colon {
            self.at += blank + 1;
        }
        colon
    }

    fn number(&mut self) -> usize {
        let rest = &self.json[self.at..];
        let length =
            rest.iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')).count();
        self.at += length;
        length
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        while let Some(&byte) = self.json.get(self.at) {
            match byte {
                b'"' => {
                    self.at += 1;
                    let (text, length) = self.string();
                    if !self.takes_colon() {
                        return Some(Piece::Text { key: self.key, text, length });
                    }
                    self.key = text;
                }
                b'0'..=b'9' | b'-' => return Some(Piece::Number(self.number())),
                b'{' | b'[' => {
                    self.at += 1;
                    self.depth += 1;
                }
                b'}' | b']' => {
                    self.at += 1;
                    self.depth = self.depth.saturating_sub(1);
                    return Some(Piece::Close(self.depth));
                }
                _ => self.at += 1,
            }
        }
        None
    }
}

/// Reads a member as it is written. serde alone takes `null` for a member that is not there.
pub(super) fn even_null<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_come_with_their_keys() {
        let json = br#"{"a": "x\"y", "b" :[1, -2.5e3, {"c":"z"}], "d": null}"#;
        let text = |key, text, length| Piece::Text { key, text, length };
        let expected = [
            text(b"a", br#"x\"y"#, 3),
            Piece::Number(1),
            Piece::Number(6),
            text(b"c", b"z", 1),
            Piece::Close(2),
            Piece::Close(1),
            Piece::Close(0),
        ];
        assert_eq!(pieces(json).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn escapes_count_as_what_they_stand_for() {
        for (text, expected) in [("ab\\n", 3), ("\\\\n", 2), ("\\u4f60", 3), ("\\u", 0), ("", 0), ("\u{e9}", 2)] {
            let json = format!("\"{text}\"");
            let Some(Piece::Text { length, .. }) = pieces(json.as_bytes()).next() else { panic!("{json} is a string") };
            assert_eq!(length, expected, "{json}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_a_panic(bytes: Vec<u8>, json in r#"["\\:{}\[\]a1, u]{0,60}"#) {
            for input in [&bytes[..], json.as_bytes()] {
                let lengths: u64 = pieces(input).map(|piece| match piece {
                    Piece::Text { length, .. } => length,
                    Piece::Number(_) | Piece::Close(_) => 0,
                }).sum();
                prop_assert!(lengths <= input.len() as u64);
            }
        }
    }
}
