//! The fields of a head, as they lie in it.
//!
//! A proxy passes most fields on as they came. So a head keeps its text and notes where each field lies in it: no table of names
//! is filled, nothing is allocated for a field, and what is passed on is copied as it lies there, side by side (ADR 0023). To
//! look one up takes a walk past some twenty names, most of which differ in length already.

use std::fmt;
use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue};

mod kind;

pub use kind::{Kind, Kinds};

/// For how much more a copy has room, in lines and bytes: who copies fields has some to add.
const ROOM: (usize, usize) = (4, 256);

/// The fields of one head. Names are in lower case, and what is no name or value of RFC 9110 §5 is in none.
#[derive(Default)]
pub struct Fields {
    /// The head, and behind it the lines that were added.
    text: Vec<u8>,
    /// In the order of the fields.
    lines: Vec<Line>,
}

/// The value of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Value<'a>(&'a [u8]);

/// A value holds other characters than those of ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotText;

/// Where in a head its fields lie: they are found before it is cut off from what follows it.
pub(crate) struct Lines(Vec<Line>);

/// Where one field lies.
#[derive(Debug, Clone, Copy)]
struct Line {
    name: Part,
    value: Part,
    kind: Kind,
    /// HTTP/2 must not index it.
    sensitive: bool,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    start: u32,
    length: u32,
}

impl Fields {
    /// The fields that were found in this head.
    pub(crate) fn of_head(mut text: Vec<u8>, Lines(mut lines): Lines) -> Self {
        for line in &mut lines {
            let name = &mut text[line.name.range()];
            name.make_ascii_lowercase();
            line.kind = Kind::of(name);
        }
        Self { text, lines }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The first value of this name, which is in lower case, as all names here are.
    pub fn get(&self, name: impl AsRef<str>) -> Option<Value<'_>> {
        self.find(name.as_ref().as_bytes()).map(|index| self.value(&self.lines[index]))
    }

    /// All values of this name.
    pub fn get_all(&self, name: impl AsRef<str>) -> impl Iterator<Item = Value<'_>> {
        self.lines.iter().filter(move |line| self.name(line) == name.as_ref().as_bytes()).map(|line| self.value(line))
    }

    /// Whether there is one of this name.
    pub fn contains_key(&self, name: impl AsRef<str>) -> bool {
        self.find(name.as_ref().as_bytes()).is_some()
    }

    /// Which kinds of fields there are.
    pub fn kinds(&self) -> Kinds {
        self.lines.iter().fold(Kinds::default(), |kinds, line| kinds.and(line.kind))
    }

    /// Kinds and values.
    pub fn by_kind(&self) -> impl Iterator<Item = (Kind, Value<'_>)> {
        self.lines.iter().map(|line| (line.kind, self.value(line)))
    }

    /// Their names; one that is repeated comes as often.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().map(|line| self.name(line))
    }

    /// The values of this kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = Value<'_>> {
        self.by_kind().filter(move |(other, _)| *other == kind).map(|(_, value)| value)
    }

    /// The first value of this kind.
    pub fn first(&self, kind: Kind) -> Option<Value<'_>> {
        self.of_kind(kind).next()
    }

    /// Whether there is one of this kind.
    pub fn has(&self, kind: Kind) -> bool {
        self.lines.iter().any(|line| line.kind == kind)
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Value<'_>)> {
        self.lines.iter().map(|line| (self.name(line), self.value(line)))
    }

    /// The only field of this name from now on.
    pub fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        let line = self.write_behind(&name, &value);
        let Some(first) = self.find(name.as_str().as_bytes()) else { return self.lines.push(line) };
        self.lines[first] = line;
        let text = &self.text;
        let is_other = |other: &Line| text[other.name.range()] == *name.as_str().as_bytes();
        self.lines.retain(|other| other.name.start == line.name.start || !is_other(other));
    }

    /// One more field, behind the others.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        let line = self.write_behind(&name, &value);
        self.lines.push(line);
    }

    /// Takes all fields of this name away.
    pub fn remove(&mut self, name: impl AsRef<str>) {
        self.remove_where(|other| other == name.as_ref().as_bytes());
    }

    /// Takes all fields away whose name is meant.
    pub fn remove_where(&mut self, is_meant: impl Fn(&[u8]) -> bool) {
        let text = &self.text;
        self.lines.retain(|line| !is_meant(&text[line.name.range()]));
    }

    /// Takes all fields of these kinds away.
    pub fn remove_kinds(&mut self, kinds: Kinds) {
        self.lines.retain(|line| !kinds.has(line.kind));
    }

    /// Gives back what it has room for.
    pub(crate) fn compact(&mut self) {
        self.text.shrink_to_fit();
        self.lines.shrink_to_fit();
    }

    /// Writes those fields as lines that are wanted.
    pub(crate) fn write(&self, out: &mut Vec<u8>, mut wants: impl FnMut(Kind, Value<'_>) -> bool) {
        // What lies side by side is copied together.
        let mut run = 0..0;
        for line in &self.lines {
            if !wants(line.kind, self.value(line)) {
                continue;
            }
            match self.whole(line) {
                Some(whole) if whole.start == run.end => run.end = whole.end,
                whole => {
                    out.extend_from_slice(&self.text[run]);
                    run = whole.unwrap_or_else(|| {
                        write_line(self.name(line), self.value(line).0, out);
                        0..0
                    });
                }
            }
        }
        out.extend_from_slice(&self.text[run]);
    }

    /// The same as a map.
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.len());
        for line in &self.lines {
            let name = HeaderName::from_bytes(self.name(line));
            if let (Ok(name), Ok(mut value)) = (name, HeaderValue::from_bytes(self.value(line).0)) {
                value.set_sensitive(line.sensitive);
                map.append(name, value);
            }
        }
        map
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        debug_assert!(!name.iter().any(u8::is_ascii_uppercase), "no field has such a name");
        self.lines.iter().position(|line| self.name(line) == name)
    }

    fn name(&self, line: &Line) -> &[u8] {
        &self.text[line.name.range()]
    }

    fn value(&self, line: &Line) -> Value<'_> {
        Value(&self.text[line.value.range()])
    }

    /// Where a field lies as the line that it would be written as.
    fn whole(&self, line: &Line) -> Option<Range<usize>> {
        let (name, value) = (line.name.range(), line.value.range());
        let is_plain = self.text[name.end..value.start] == *b": " && self.text[value.end..].starts_with(b"\r\n");
        is_plain.then_some(name.start..value.end + 2)
    }

    fn write_behind(&mut self, name: &HeaderName, value: &HeaderValue) -> Line {
        let name_at = self.text.len();
        write_line(name.as_str().as_bytes(), value.as_bytes(), &mut self.text);
        let value_at = self.text.len() - 2 - value.len();
        Line {
            name: Part::of(name_at..name_at + name.as_str().len()),
            value: Part::of(value_at..value_at + value.len()),
            kind: Kind::of(name.as_str().as_bytes()),
            sensitive: value.is_sensitive(),
        }
    }
}

impl Lines {
    /// Where these fields lie within `head`, which they were read from.
    pub(crate) fn of(fields: &[httparse::Header<'_>], head: &[u8]) -> Self {
        let line = |field: &httparse::Header<'_>| Line {
            name: Part::of(within(head, field.name.as_bytes())),
            value: Part::of(within(head, field.value)),
            kind: Kind::Other,
            sensitive: false,
        };
        Self(fields.iter().map(line).collect())
    }
}

impl Part {
    fn of(range: Range<usize>) -> Self {
        Self { start: range.start as u32, length: range.len() as u32 }
    }

    fn range(self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.length as usize
    }
}

impl<'a> Value<'a> {
    /// As it came.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// As text.
    ///
    /// # Errors
    /// When it is not all ASCII.
    pub fn to_str(self) -> Result<&'a str, NotText> {
        // Of what is no visible character, values hold none but tabs.
        std::str::from_utf8(self.0).ok().filter(|text| text.is_ascii()).ok_or(NotText)
    }

    /// The same in memory of its own.
    pub fn to_value(self) -> Option<HeaderValue> {
        HeaderValue::from_bytes(self.0).ok()
    }
}

impl PartialEq<&str> for Value<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

/// Where a part of `head` lies in it.
pub(crate) fn within(head: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - head.as_ptr() as usize;
    start..start + part.len()
}

/// Writes a field as a line.
pub(crate) fn write_field(name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
    write_line(name.as_str().as_bytes(), value.as_bytes(), out);
}

fn write_line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

impl Clone for Fields {
    fn clone(&self) -> Self {
        let mut lines = Vec::with_capacity(self.lines.len() + ROOM.0);
        let mut text = Vec::with_capacity(self.text.len() + ROOM.1);
        lines.extend_from_slice(&self.lines);
        text.extend_from_slice(&self.text);
        Self { text, lines }
    }
}

/// HTTP/2 lets a quotation mark pass in a name, which is none then (RFC 9110 §5.6.2): such a field is left out.
impl From<&HeaderMap> for Fields {
    fn from(map: &HeaderMap) -> Self {
        let named = map.iter().filter(|(name, _)| !name.as_str().contains('"'));
        named.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Fields {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: I) -> Self {
        let mut all = Self::default();
        fields.into_iter().for_each(|(name, value)| all.append(name, value));
        all
    }
}

/// The same fields in the same order.
impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// Values may be secret.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names().map(String::from_utf8_lossy)).finish()
    }
}

#[cfg(test)]
impl Fields {
    /// The fields of a head without its first line.
    pub(crate) fn read(head: &str) -> Self {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        match httparse::parse_headers(head.as_bytes(), &mut fields).expect("fields") {
            httparse::Status::Complete((_, found)) => {
                Self::of_head(head.as_bytes().to_vec(), Lines::of(found, head.as_bytes()))
            }
            httparse::Status::Partial => panic!("they do not end: {head:?}"),
        }
    }
}

#[cfg(test)]
impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(head: &str) -> Fields {
        Fields::read(head)
    }

    fn written(fields: &Fields) -> String {
        let mut out = Vec::new();
        fields.write(&mut out, |_, _| true);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn fields_are_found_by_their_names_in_lower_case() {
        let fields = read("Host: a\r\nX-One: 1\r\nx-one:2\r\n\r\n");
        assert_eq!(fields.get("host"), Some(Value(b"a")));
        assert_eq!(fields.get_all("x-one").collect::<Vec<_>>(), ["1", "2"]);
        assert!(fields.contains_key(http::header::HOST) && !fields.contains_key("x"));
        assert_eq!(written(&fields), "host: a\r\nx-one: 1\r\nx-one: 2\r\n");
    }

    #[test]
    fn an_inserted_field_is_the_only_one_of_its_name() {
        let mut fields = read("a: 1\r\nb: 2\r\na: 3\r\nc: 4\r\na: 5\r\n\r\n");
        fields.insert(HeaderName::from_static("a"), HeaderValue::from_static("6"));
        fields.insert(HeaderName::from_static("d"), HeaderValue::from_static("7"));
        assert_eq!(written(&fields), "a: 6\r\nb: 2\r\nc: 4\r\nd: 7\r\n");
        fields.append(HeaderName::from_static("c"), HeaderValue::from_static("8"));
        fields.remove("c");
        assert_eq!((written(&fields).as_str(), fields.len()), ("a: 6\r\nb: 2\r\nd: 7\r\n", 3));
    }

    #[test]
    fn what_is_not_wanted_is_left_out_of_what_is_written() {
        let mut out = Vec::new();
        read("a: 1\r\ndate: 2\r\nc: 3\r\n\r\n").write(&mut out, |kind, _| kind != Kind::Date);
        assert_eq!(out, b"a: 1\r\nc: 3\r\n");
    }

    #[test]
    fn odd_lines_are_written_in_order() {
        let fields = read("a:1\r\nb: 2\nc: 3 \r\nd:\r\ne: \t5\r\nf: 6\r\n\r\n");
        assert_eq!(written(&fields), "a: 1\r\nb: 2\r\nc: 3\r\nd: \r\ne: 5\r\nf: 6\r\n");
    }

    #[test]
    fn values_are_not_shown() {
        let shown = format!("{:?}", read("authorization: Bearer secret\r\n\r\n"));
        assert_eq!(shown, "[\"authorization\"]");
    }

    #[test]
    fn what_is_sensitive_stays_so() {
        let mut map = HeaderMap::new();
        let mut secret = HeaderValue::from_static("Bearer x");
        secret.set_sensitive(true);
        map.insert(http::header::AUTHORIZATION, secret);
        let fields = Fields::from(&map);
        for fields in [fields.clone(), fields] {
            assert!(fields.to_map()["authorization"].is_sensitive(), "HTTP/2 must not index it");
        }
    }

    #[test]
    fn what_only_http2_takes_for_a_name_is_left_out() {
        let mut map = HeaderMap::new();
        map.insert(HeaderName::from_lowercase(b"a\"b").expect("a name"), HeaderValue::from_static("1"));
        map.insert("c", HeaderValue::from_static("2"));
        assert_eq!(written(&Fields::from(&map)), "c: 2\r\n");
    }

    #[test]
    fn what_waits_has_no_room_to_spare() {
        let fields = read("a: 1\r\n\r\n");
        let mut waits = fields.clone();
        waits.compact();
        assert_eq!(waits, fields);
        assert!(waits.text.capacity() < ROOM.1 && waits.lines.capacity() < ROOM.0);
    }

    #[test]
    fn a_value_is_text_if_it_is_ascii() {
        let mut fields = Fields::default();
        fields.append(HeaderName::from_static("a"), HeaderValue::from_bytes(b"caf\xc3\xa9").expect("a value"));
        assert_eq!(fields.get("a").map(Value::to_str), Some(Err(NotText)));
    }

    /// A head of lines that are written in odd ways.
    fn any_head() -> impl Strategy<Value = String> {
        let name = prop::sample::select(&["a", "B", "Content-Length", "x-Cooldown-a", "Te", "!#$%&'*+-.^_`|~9"][..]);
        let end = prop::sample::select(&["\r\n", "\n"][..]);
        let line = (name, "[ \t]{0,2}", "[!-~]([ -~\t]{0,6}[!-~])?|", "[ \t]{0,2}", end)
            .prop_map(|(name, before, value, after, end)| format!("{name}:{before}{value}{after}{end}"));
        prop::collection::vec(line, 0..8).prop_map(|lines| format!("{}\r\n", lines.concat()))
    }

    fn any_field() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
        let name = prop::sample::select(&["a", "b", "x-a", "content-length"][..]).prop_map(HeaderName::from_static);
        (name, "[ -~]{0,5}".prop_map(|value| HeaderValue::try_from(value.trim()).expect("a value")))
    }

    proptest! {
        /// What httparse has read needs no second look: `http` takes it, and it is read again as it is written.
        #[test]
        fn what_was_read_is_valid_and_is_written_as_it_is_read(head in any_head()) {
            let fields = read(&head);
            prop_assert_eq!(fields.to_map().len(), fields.len());
            prop_assert_eq!(&read(&format!("{}\r\n", written(&fields))), &fields);
            prop_assert_eq!(&Fields::from(&fields.to_map()).to_map(), &fields.to_map());
        }

        /// A map says what should be there.
        #[test]
        fn what_is_done_to_fields_is_what_a_map_does(
            steps in prop::collection::vec((0..4_u8, any_field()), 0..30),
        ) {
            let (mut fields, mut map) = (Fields::default(), HeaderMap::new());
            for (step, (name, value)) in steps {
                match step {
                    0 => {
                        fields.insert(name.clone(), value.clone());
                        map.insert(name, value);
                    }
                    1 => {
                        fields.remove(&name);
                        map.remove(name);
                    }
                    _ => {
                        fields.append(name.clone(), value.clone());
                        map.append(name, value);
                    }
                }
                prop_assert_eq!(&fields.to_map(), &map);
                prop_assert_eq!(&read(&format!("{}\r\n", written(&fields))), &fields);
                prop_assert_eq!(&fields.clone(), &fields);
            }
        }
    }
}
