//! What was written: a tree of texts, each with its place in the file.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, NonFiniteFloatPolicy, Options, Spanned, UserMessageFormatter};

use super::fault::Report;

/// A value and the bytes that it stands in. It may hold secrets, so it has no `Debug`.
pub(super) struct Node {
    pub(super) value: Value,
    /// The bytes of a text; for anything else those of the key, or of the first part.
    pub(super) at: Range<usize>,
}

/// What a value is. Numbers and booleans are texts until a field asks for one.
pub(super) enum Value {
    /// Nothing, `null` or `~`.
    Null,
    /// A scalar.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Key, Node)>),
    /// Something whose fault was reported already.
    Broken,
}

/// The name of an entry.
pub(super) struct Key {
    pub(super) text: String,
    pub(super) at: Range<usize>,
}

impl Node {
    /// The value under `name`, when this is a map that has one.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| node),
            _ => None,
        }
    }
}

/// Reads YAML; what is no YAML is reported, and gives `None`.
pub(super) fn read(text: &str, report: &mut Report) -> Option<Node> {
    match serde_saphyr::from_str_with_options::<Spanned<Written>>(text, options()) {
        Ok(written) => {
            let root = node(written, text, None);
            report_duplicates(&root, report);
            Some(root)
        }
        Err(error) => {
            report_syntax(text, &error, report);
            None
        }
    }
}

/// No section is nested deeper than half of this. Each level takes tens of kilobytes of stack while it is read.
const MOST_DEPTH: usize = 16;
/// How much aliases may stand for, in parts of the tree: a few lines of them can mean billions.
const MOST_ALIASED: usize = 100_000;

fn options() -> Options {
    let mut options = Options::default();
    if let Some(budget) = &mut options.budget {
        budget.max_depth = MOST_DEPTH;
    }
    options.alias_limits.max_total_replayed_events = MOST_ALIASED;
    options.with_snippet = false;
    options.strict_booleans = true;
    // Reported below, all of them at once.
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    options.non_finite_float_policy = NonFiniteFloatPolicy::PassThrough;
    options
}

fn report_syntax(text: &str, error: &serde_saphyr::Error, report: &mut Report) {
    let rendered = error.without_snippet().render_with_formatter(&UserMessageFormatter);
    let message = rendered.rsplit_once(" at line ").map_or(rendered.as_str(), |(message, _)| message);
    let at = error.location().map_or(0, |location| {
        let line_start =
            text.split_inclusive('\n').take(location.line().saturating_sub(1) as usize).map(str::len).sum();
        let line = &text[line_start..];
        let column = location.column().saturating_sub(1) as usize;
        line_start + line.char_indices().nth(column).map_or(line.len(), |(at, _)| at)
    });
    let at = if text[at..].trim().is_empty() { text.trim_end().len().saturating_sub(1)..at } else { at..at + 1 };
    report.fault(&at, format!("this is no YAML: {message}"), syntax_hint(text, at.start));
}

/// What most probably went wrong.
fn syntax_hint(text: &str, at: usize) -> &'static str {
    let at = text.floor_char_boundary(at);
    let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[line..].lines().next().unwrap_or_default();
    let near = &text[at..];
    let after = near.find('\n').map_or("", |newline| &near[newline + 1..]);
    let tab = |line: &str| line.trim_start_matches(' ').starts_with('\t');
    if tab(line) || tab(after) {
        "indent with spaces; YAML does not allow tabs"
    } else if line.contains("{") && line.contains("${") {
        "inside `{ }` and `[ ]`, put quotes around a value that contains `${...}`"
    } else {
        "check the indentation, the quotes and the brackets here and in the line above"
    }
}

fn report_duplicates(node: &Node, report: &mut Report) {
    match &node.value {
        Value::Map(entries) => {
            for (index, (key, value)) in entries.iter().enumerate() {
                if entries[..index].iter().any(|(earlier, _)| earlier.text == key.text) {
                    report.fault(&key.at, "this is given twice", "keep one of them");
                }
                report_duplicates(value, report);
            }
        }
        Value::List(items) => items.iter().for_each(|item| report_duplicates(item, report)),
        Value::Null | Value::Text(_) | Value::Broken => {}
    }
}

/// A value as the YAML reader gives it.
enum Written {
    Null,
    Text(String),
    /// A number or boolean: what counts is how it was written (`0.5`, not the nearest binary fraction).
    Literal,
    List(Vec<Spanned<Written>>),
    Map(Vec<(Spanned<String>, Spanned<Written>)>),
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Written, E> {
        Ok(Written::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Written, E> {
        Ok(Written::Literal)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Written, E> {
        Ok(Written::Literal)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Written, E> {
        Ok(Written::Literal)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Written, E> {
        Ok(Written::Literal)
    }

    fn visit_str<E>(self, text: &str) -> Result<Written, E> {
        Ok(Written::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Written, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Written::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Written, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Written::Map(map))
    }
}

/// The node of a value that stands under `key`.
fn node(written: Spanned<Written>, text: &str, key: Option<&Range<usize>>) -> Node {
    let own = bytes(&written, text);
    let beside = key.cloned().unwrap_or_else(|| own.clone());
    match written.value {
        Written::Null => Node { value: Value::Null, at: beside },
        Written::Text(scalar) => Node { value: Value::Text(scalar), at: own },
        Written::Literal => Node { value: Value::Text(text[own.clone()].to_owned()), at: own },
        Written::List(items) => {
            let items: Vec<Node> = items.into_iter().map(|item| node(item, text, None)).collect();
            let at = key.cloned().or_else(|| items.first().map(|item| item.at.clone())).unwrap_or(own);
            Node { value: Value::List(items), at }
        }
        Written::Map(entries) => {
            let entries: Vec<(Key, Node)> = entries.into_iter().map(|(key, value)| entry(key, value, text)).collect();
            let at = key.cloned().or_else(|| entries.first().map(|(key, _)| key.at.clone())).unwrap_or(own);
            Node { value: Value::Map(entries), at }
        }
    }
}

fn entry(key: Spanned<String>, value: Spanned<Written>, text: &str) -> (Key, Node) {
    let at = bytes(&key, text);
    let value = node(value, text, Some(&at));
    (Key { text: key.value, at }, value)
}

/// Where a value was defined, as bytes that lie in `text`.
fn bytes<T>(spanned: &Spanned<T>, text: &str) -> Range<usize> {
    let span = spanned.defined.span();
    let (start, length) = span.byte_offset().zip(span.byte_len()).unwrap_or((0, 0));
    let start = text.floor_char_boundary(start as usize);
    start..text.floor_char_boundary(start + length as usize).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_well(text: &str) -> Node {
        let mut report = Report::default();
        let root = read(text, &mut report).expect("valid YAML");
        assert!(report.is_empty());
        root
    }

    fn text_of<'a>(root: &'a Node, name: &str) -> &'a str {
        match root.get(name).map(|node| &node.value) {
            Some(Value::Text(text)) => text,
            _ => panic!("{name} is no text"),
        }
    }

    #[test]
    fn numbers_and_booleans_stay_as_they_were_written() {
        let root = read_well("a: 0.50\nb: 012\nc: off\nd: true\ne: .nan\nf: 18446744073709551616\n8080: 1e3\n");
        for (name, text) in [
            ("a", "0.50"),
            ("b", "012"),
            ("c", "off"),
            ("d", "true"),
            ("e", ".nan"),
            ("f", "18446744073709551616"),
            ("8080", "1e3"),
        ] {
            assert_eq!(text_of(&root, name), text);
        }
    }

    #[test]
    fn every_kind_of_text_knows_all_of_its_place() {
        let text = "é: \"a\\tb\"\nb: 'it''s'\nc: |\n  one\n  two\nd: \"x\n  y\"\n";
        let root = read_well(text);
        let place = |name: &str| &text[root.get(name).expect(name).at.clone()];
        assert_eq!((text_of(&root, "é"), place("é")), ("a\tb", "\"a\\tb\""));
        assert_eq!((text_of(&root, "b"), place("b")), ("it's", "'it''s'"));
        assert!(place("c").contains("one\n  two"), "{:?}", place("c"));
        assert!(place("d").contains("x\n  y"), "{:?}", place("d"));
    }

    #[test]
    fn anchors_and_merges_are_understood() {
        let root = read_well("a: &a {p: 1, q: 2}\nb:\n  <<: *a\n  p: 3\n");
        let merged = root.get("b").expect("b");
        assert_eq!((text_of(merged, "p"), text_of(merged, "q")), ("3", "2"));
    }

    #[test]
    fn deep_nesting_is_a_fault() {
        let nested = |open: &str, close: &str| format!("a: {}1{}\n", open.repeat(1000), close.repeat(1000));
        for text in [nested("{a: ", "}"), nested("[", "]"), nested("- ", ""), "{a: ".repeat(1000)] {
            let mut report = Report::default();
            assert!(read(&text, &mut report).is_none());
            assert_eq!(report.len(), 1);
        }
        assert!(read(&format!("a: {}1{}", "[".repeat(12), "]".repeat(12)), &mut Report::default()).is_some());
    }

    #[test]
    fn aliases_of_aliases_are_a_fault_when_they_mean_too_much() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let aliases = [format!("*a{}", level - 1).as_str(); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        let mut report = Report::default();
        assert!(read(&text, &mut report).is_none());
        assert_eq!(report.len(), 1);
    }

    #[test]
    fn a_fault_of_syntax_has_a_place() {
        for (text, place) in [
            ("a: 1\n\tb: 2\n", (1, 4)),
            ("a: [1, 2\nb: 3\n", (2, 2)),
            ("server:\n  host: x\n port: 1\n", (3, 2)),
            ("a: \"open\n", (1, 4)),
            ("a: 1\na: 2\n", (2, 1)),
            ("a: *nobody\n", (1, 4)),
            ("a: 1\n---\nb: 2\n", (3, 1)),
        ] {
            let mut report = Report::default();
            read(text, &mut report);
            let faults = report.into_faults("x.yaml", text, &super::super::mask::Hidden::ByLook);
            let found = faults.iter().next().and_then(|fault| fault.place.clone()).expect(text);
            assert_eq!((found.line, found.column), place, "{text:?}");
        }
    }
}
