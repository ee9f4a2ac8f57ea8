//! Picks a few top-level values out of a JSON body as it passes, whatever its length.

use memchr::memchr2;
use smallvec::SmallVec;

use super::members::{Member, Members};

/// The longest value that is kept, in bytes. What is longer is passed over.
const LONGEST_VALUE: usize = 1 << 16;
/// Longer keys are none of ours.
const LONGEST_KEY: usize = 32;
/// The bytes outside of strings that divide a document.
const IS_MARK: [bool; 256] = {
    let mut is_mark = [false; 256];
    let marks = b"\"{}[],:";
    let mut at = 0;
    while at < marks.len() {
        is_mark[marks[at] as usize] = true;
        at += 1;
    }
    is_mark
};

/// Finds members of the top-level object, or of each object in a top-level array. It checks nothing: on what is no JSON
/// it finds nonsense or nothing.
#[derive(Debug, Default)]
pub(super) struct DocumentScanner {
    /// How many objects and arrays are open.
    depth: u32,
    /// The depth at which members lie: 1, or 2 in an array; 0 before the first bracket.
    level: u32,
    place: Place,
    in_string: bool,
    escaped: bool,
    key: Vec<u8>,
    value: Vec<u8>,
    value_too_long: bool,
}

/// Where in the top-level object.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In nothing that matters.
    #[default]
    Elsewhere,
    /// A key comes next, or its colon.
    BeforeColon,
    /// In a key.
    Key,
    /// In a value whose key is wanted.
    Value,
}

impl DocumentScanner {
    /// Reads on, and hands over the key and the value, as they are written, of each member that ends in this chunk and
    /// whose key is `wanted`.
    pub(super) fn read(&mut self, chunk: &[u8], wanted: &[&str], mut each: impl FnMut(&str, &[u8])) {
        if self.level == 0 && !self.in_string && self.read_whole(chunk, wanted, &mut each) {
            return;
        }
        // Where in the chunk the key or value begins that is being read.
        let mut from = 0;
        let mut at = 0;
        while at < chunk.len() {
            if self.in_string {
                at = self.pass_string(chunk, at, from);
                continue;
            }
            // Below the members, long stretches without a mark are numbers; each is tried at its beginning.
            if self.depth > self.level && chunk[at].is_ascii_digit() && (at == 0 || !chunk[at - 1].is_ascii_digit()) {
                at += plain_prefix(&chunk[at..]);
                if at == chunk.len() {
                    break;
                }
            }
            at += chunk[at..].iter().take_while(|byte| !IS_MARK[usize::from(**byte)]).count();
            let Some(mark) = chunk.get(at) else { break };
            match *mark {
                b'"' => {
                    self.in_string = true;
                    if self.place == Place::BeforeColon {
                        (self.place, from) = (Place::Key, at + 1);
                        self.key.clear();
                    }
                }
                b'{' | b'[' => self.open(*mark),
                b'}' | b']' => {
                    if self.depth == self.level {
                        self.end_value(&chunk[from..at], wanted, &mut each);
                        self.place = Place::Elsewhere;
                    }
                    self.depth = self.depth.saturating_sub(1);
                }
                // In front of the first bracket nothing is a member yet.
                b',' if self.depth == self.level && self.level > 0 => {
                    self.end_value(&chunk[from..at], wanted, &mut each);
                    self.place = Place::BeforeColon;
                }
                b':' if self.place == Place::BeforeColon => {
                    let is_wanted = wanted.iter().any(|name| name.as_bytes() == self.key);
                    (self.place, from) = (if is_wanted { Place::Value } else { Place::Elsewhere }, at + 1);
                }
                _ => {}
            }
            at += 1;
        }
        match self.place {
            Place::Key => self.keep_key(&chunk[from..]),
            Place::Value => self.keep_value(&chunk[from..]),
            Place::Elsewhere | Place::BeforeColon => {}
        }
    }

    /// Reads a whole object in one chunk, as most answers come, if it is one.
    fn read_whole(&mut self, chunk: &[u8], wanted: &[&str], each: &mut impl FnMut(&str, &[u8])) -> bool {
        let Ok(mut members) = Members::of(chunk) else { return false };
        let mut found = SmallVec::<[(&str, &[u8]); 4]>::new();
        loop {
            match members.next() {
                Ok(Some(Member { name, value })) if value.len() <= LONGEST_VALUE => {
                    let is_meant = |wanted: &&&str| wanted.as_bytes() == &name[1..name.len() - 1];
                    found.extend(wanted.iter().find(is_meant).map(|name| (*name, value)));
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return false,
            }
        }
        // As when its last bracket has been passed.
        self.level = 1;
        found.into_iter().for_each(|(name, value)| each(name, value));
        true
    }

    /// Goes to the end of a string or of the chunk.
    fn pass_string(&mut self, chunk: &[u8], mut at: usize, from: usize) -> usize {
        if std::mem::take(&mut self.escaped) {
            at += 1;
        }
        let Some(found) = chunk.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) else { return chunk.len() };
        at += found;
        if chunk[at] == b'\\' {
            self.escaped = true;
        } else {
            self.in_string = false;
            if self.place == Place::Key {
                self.keep_key(&chunk[from..at]);
                self.place = Place::BeforeColon;
            }
        }
        at + 1
    }

    fn open(&mut self, bracket: u8) {
        self.depth = self.depth.saturating_add(1);
        if self.level == 0 {
            self.level = if bracket == b'{' { 1 } else { 2 };
        }
        if bracket == b'{' && self.depth == self.level {
            self.place = Place::BeforeColon;
        }
    }

    fn keep_key(&mut self, part: &[u8]) {
        if self.key.len() + part.len() <= LONGEST_KEY {
            self.key.extend_from_slice(part);
        } else {
            self.key.clear();
            // Filled with what no key has, so that further parts do not make it a wanted one.
            self.key.resize(LONGEST_KEY, b'"');
        }
    }

    fn keep_value(&mut self, part: &[u8]) {
        self.value_too_long |= self.value.len() + part.len() > LONGEST_VALUE;
        if !self.value_too_long {
            self.value.extend_from_slice(part);
        }
    }

    fn end_value(&mut self, part: &[u8], wanted: &[&str], each: &mut impl FnMut(&str, &[u8])) {
        if self.place != Place::Value {
            return;
        }
        self.keep_value(part);
        let name = wanted.iter().find(|name| name.as_bytes() == self.key);
        if let Some(name) = name.filter(|_| !self.value_too_long) {
            each(name, self.value.trim_ascii());
        }
        self.value = Vec::new();
        self.value_too_long = false;
    }
}

/// How many bytes at the start are neither quotes nor brackets, in whole blocks: an embedding is megabytes of digits.
fn plain_prefix(bytes: &[u8]) -> usize {
    const BLOCK: usize = 32;
    // Without an early exit, so that a block is looked at as a whole. `[` and `{` differ in one bit, as do `]` and `}`.
    let marks = |block: &[u8]| block.iter().fold(false, |any, byte| any | matches!(byte | 0x20, b'"' | b'{' | b'}'));
    BLOCK * bytes.chunks_exact(BLOCK).take_while(|block| !marks(block)).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<(String, String)> {
        let mut scanner = DocumentScanner::default();
        let mut members = Vec::new();
        for chunk in chunks {
            scanner.read(chunk, &["usage", "error"], |name, value| {
                members.push((name.to_owned(), String::from_utf8_lossy(value).into_owned()));
            });
        }
        members
    }

    #[test]
    fn wanted_members_of_the_top_level_are_found() {
        let json = br#" {"a":[{"usage":1}], "usage" : {"x":"}\"","y":[1,2]} , "error":null,"b":"usage" } "#;
        let expected =
            [("usage".to_owned(), r#"{"x":"}\"","y":[1,2]}"#.to_owned()), ("error".to_owned(), "null".to_owned())];
        assert_eq!(members([&json[..]]), expected);
        for size in 1..json.len() {
            assert_eq!(members(json.chunks(size)), expected);
        }
    }

    #[test]
    fn each_object_of_an_array_is_a_document() {
        let json = br#"[{"usage":1,"c":[{"usage":0}]}, [{"usage":7}], "x", {"usage":2}]"#;
        let expected = [("usage".to_owned(), "1".to_owned()), ("usage".to_owned(), "2".to_owned())];
        assert_eq!(members([&json[..]]), expected);
    }

    #[test]
    fn nothing_in_front_of_the_first_bracket_is_a_member() {
        let nonsense = br#",[}"usage":}1"usage"{{:}"#;
        assert_eq!(members([&nonsense[..]]), []);
        assert_eq!(members(nonsense.chunks(1)), []);
    }

    #[test]
    fn a_long_value_is_passed_over() {
        let long = "x".repeat(LONGEST_VALUE);
        let json = format!(r#"{{"usage":"{long}","error":1,"{long}usage":5}}"#);
        let expected = [("error".to_owned(), "1".to_owned())];
        assert_eq!(members(json.as_bytes().chunks(999)), expected);
        assert_eq!(members([json.as_bytes()]), expected);
    }

    proptest! {
        #[test]
        fn borders_between_chunks_change_nothing(
            json in r#"(\{|\[|\}|\]|"usage"|"\\"|:|,|"|1| |\\){0,60}"#, size in 1usize..10
        ) {
            prop_assert_eq!(members(json.as_bytes().chunks(size)), members([json.as_bytes()]));
        }

        #[test]
        fn a_whole_object_says_the_same_in_pieces(
            json in r#"\{("usage"|"a"):(1|"\\\\"|"[}]"|\[\{"usage":0\}, 2\])( ?, ?("error"|"b"):(null|\{\}|"x"|\[\])){0,3} ?\}"#,
            size in 1usize..10,
        ) {
            prop_assert_eq!(members(json.as_bytes().chunks(size)), members([json.as_bytes()]));
        }

        #[test]
        fn what_begins_anew_in_a_string_is_in_it(size in 1usize..6) {
            let chunks = [&b" \""[..], b"{}", b"\"[", br#"{"usage":1}]"#];
            prop_assert_eq!(members(chunks), members([&chunks.concat()[..]]));
            prop_assert_eq!(members(chunks.concat().chunks(size)), members(chunks));
        }
    }
}
