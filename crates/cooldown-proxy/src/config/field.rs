//! Reading the tree: one field at a time, every fault noted, nothing overlooked.

use std::fmt::Write as _;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use super::fault::Report;
use super::node::{Key, Node, Value};
use super::quantity::{self, QuantityError};
use super::secret::Secret;

/// A value with the path that leads to it, such as `server.port`.
#[derive(Clone)]
pub(super) struct Field<'a> {
    node: &'a Node,
    path: String,
}

/// The entries of a map. Each is taken by its name; what nobody took is unknown.
pub(super) struct Fields<'a> {
    entries: &'a [(Key, Node)],
    at: Range<usize>,
    path: String,
    known: Vec<&'static str>,
}

/// An entry of a map whose names are chosen by the user.
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    /// Where the name stands.
    pub(super) at: &'a Range<usize>,
    /// The value; nothing may be in it.
    pub(super) field: Field<'a>,
}

impl<'a> Fields<'a> {
    /// The fields of a whole file.
    pub(super) fn of_file(root: &'a Node, report: &mut Report) -> Option<Self> {
        Field { node: root, path: String::new() }.fields(report)
    }

    /// Where the map stands.
    pub(super) fn at(&self) -> &Range<usize> {
        &self.at
    }

    /// The path that leads here.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The value of a field; `None` when it is absent or holds nothing.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Field<'a>> {
        self.known.push(name);
        let (_, node) = self.entries.iter().find(|(key, _)| key.text == name)?;
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        (!matches!(node.value, Value::Null)).then_some(Field { node, path })
    }

    /// Whether a field of this name is written, with a value or without.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(key, _)| key.text == name)
    }

    /// Reports the fields that nobody took.
    pub(super) fn close(self, report: &mut Report) {
        #[cfg(test)]
        asked::fields(&self.path, &self.known);
        for (key, _) in self.entries.iter().filter(|(key, _)| !self.known.contains(&key.text.as_str())) {
            let place = if self.path.is_empty() { String::new() } else { format!(" in `{}`", self.path) };
            let message = format!("unknown field `{}`{place}", key.text.escape_debug());
            report.fault(&key.at, message, suggestion(&key.text, &self.known));
        }
    }
}

impl<'a> Field<'a> {
    /// Where the value stands.
    pub(super) fn at(&self) -> &'a Range<usize> {
        &self.node.at
    }

    /// The path that leads here.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Notes a fault of this value; `message` follows the path.
    pub(super) fn fault(&self, report: &mut Report, message: impl std::fmt::Display, hint: impl Into<String>) {
        let message = if self.path.is_empty() { message.to_string() } else { format!("`{}`: {message}", self.path) };
        report.fault(&self.node.at, message, hint);
    }

    /// Whether this is a single text.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.node.value, Value::Text(_))
    }

    /// Whether this is a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    /// Whether this is a map.
    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    /// Whether nothing is written here.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.node.value, Value::Null)
    }

    /// Whether a fault of this value was reported already.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.node.value, Value::Broken)
    }

    /// Whether this is exactly `word`.
    pub(super) fn is(&self, word: &str) -> bool {
        matches!(&self.node.value, Value::Text(text) if text == word)
    }

    /// A map with fields that have names of ours.
    pub(super) fn fields(self, report: &mut Report) -> Option<Fields<'a>> {
        let entries: &[(Key, Node)] = match &self.node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            Value::Broken => return None,
            Value::Text(_) | Value::List(_) => {
                self.fault(report, "fields are expected", "write `name: value`, one a line");
                return None;
            }
        };
        Some(Fields { entries, at: self.node.at.clone(), path: self.path, known: Vec::new() })
    }

    /// A map whose names are the user's.
    pub(super) fn named(&self, report: &mut Report) -> Vec<Named<'a>> {
        let entries: &[(Key, Node)] = match &self.node.value {
            Value::Map(entries) => entries,
            Value::Null | Value::Broken => &[],
            Value::Text(_) | Value::List(_) => {
                self.fault(report, "names and their values are expected", "write `name: value`, one a line");
                &[]
            }
        };
        let named = entries.iter().map(|(key, node)| Named {
            name: &key.text,
            at: &key.at,
            field: Field { node, path: format!("{}.{}", self.path, key.text.escape_debug()) },
        });
        named.collect()
    }

    /// The items of a list; a single value counts as a list of one.
    pub(super) fn items(self) -> Vec<Self> {
        match &self.node.value {
            Value::List(items) => {
                let path = |index: usize| format!("{}[{index}]", self.path);
                items.iter().enumerate().map(|(index, node)| Field { node, path: path(index) }).collect()
            }
            _ => vec![self],
        }
    }

    /// The items of a list; anything else is a fault.
    pub(super) fn list(self, report: &mut Report) -> Vec<Self> {
        if matches!(self.node.value, Value::Text(_) | Value::Map(_)) {
            self.fault(report, "a list is expected", "start each entry with `- `");
            return Vec::new();
        }
        if matches!(self.node.value, Value::List(_)) { self.items() } else { Vec::new() }
    }

    /// A text, without the blanks around it.
    pub(super) fn text(&self, report: &mut Report) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) => Some(text.trim()),
            Value::Broken => None,
            Value::Null | Value::List(_) | Value::Map(_) => {
                self.fault(report, "a single value is expected", "write the value behind the colon");
                None
            }
        }
    }

    /// A value that must not be shown; `None` without a fault when it is empty.
    pub(super) fn secret(&self, report: &mut Report) -> Option<Secret> {
        let text = self.text(report).filter(|text| !text.is_empty())?;
        if text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Some(Secret::new(text.to_owned()));
        }
        self.fault(report, "this cannot be sent in a header field", "use visible ASCII characters without blanks");
        None
    }

    /// A whole number within bounds.
    pub(super) fn whole(&self, bounds: RangeInclusive<u64>, report: &mut Report) -> Option<u64> {
        #[cfg(test)]
        asked::bounds(&self.path, &bounds);
        let number = self.text(report)?.parse().ok().filter(|number| bounds.contains(number));
        if number.is_none() {
            let message = format!("a whole number from {} to {} is expected", bounds.start(), bounds.end());
            self.fault(report, message, "write it in digits, without a unit");
        }
        number
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, report: &mut Report) -> Option<bool> {
        self.choice(&[("true", true), ("false", false)], report)
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&'static str, T)], report: &mut Report) -> Option<T> {
        #[cfg(test)]
        asked::words(&self.path, choices.iter().map(|(word, _)| *word));
        let text = self.text(report)?;
        let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, chosen)| *chosen);
        if chosen.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            self.fault(report, "this is none of the known values", format!("write one of: {}", words.join(", ")));
        }
        chosen
    }

    /// A duration with its unit, within bounds.
    pub(super) fn duration(&self, bounds: RangeInclusive<Duration>, report: &mut Report) -> Option<Duration> {
        let duration = quantity::duration(self.text(report)?);
        self.bounded(duration, &bounds, report)
    }

    /// A duration with its unit, or a plain number of seconds.
    pub(super) fn seconds(&self, bounds: RangeInclusive<Duration>, report: &mut Report) -> Option<Duration> {
        let text = self.text(report)?;
        let duration = quantity::seconds(text).map_or_else(|| quantity::duration(text), Ok);
        self.bounded(duration, &bounds, report)
    }

    fn bounded(
        &self,
        duration: Result<Duration, QuantityError>,
        bounds: &RangeInclusive<Duration>,
        report: &mut Report,
    ) -> Option<Duration> {
        match duration {
            Ok(duration) if bounds.contains(&duration) => Some(duration),
            Ok(_) => {
                let message = format!(
                    "a duration from {} to {} is expected",
                    quantity::written(*bounds.start()),
                    quantity::written(*bounds.end())
                );
                self.fault(report, message, "choose one within these bounds");
                None
            }
            Err(why) => {
                self.fault(report, format!("this is no duration: {why}"), why.duration_hint());
                None
            }
        }
    }

    /// A size in bytes, within bounds.
    pub(super) fn size(&self, bounds: RangeInclusive<u64>, report: &mut Report) -> Option<u64> {
        match quantity::size(self.text(report)?) {
            Ok(size) if bounds.contains(&size) => Some(size),
            Ok(_) => {
                let message = format!("a size from {} to {} bytes is expected", bounds.start(), bounds.end());
                self.fault(report, message, "choose one within these bounds");
                None
            }
            Err(why) => {
                self.fault(report, format!("this is no size: {why}"), why.size_hint());
                None
            }
        }
    }
}

/// The known name that is most like `unknown`, or all of them.
fn suggestion(unknown: &str, known: &[&str]) -> String {
    let near = known.iter().map(|name| (strsim::damerau_levenshtein(unknown, name), name)).min();
    match near {
        Some((distance, name)) if distance <= (name.len() / 3).max(1) => format!("did you mean `{name}`?"),
        _ => known.iter().fold("known here:".to_owned(), |mut list, name| {
            let _ = write!(list, " {name}");
            list
        }),
    }
}

/// What was asked for while a file was read, so that a test can hold the schema against it.
#[cfg(test)]
pub(super) mod asked {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::ops::RangeInclusive;

    /// By the path of the value.
    #[derive(Debug, Default, Clone)]
    pub(in crate::config) struct Asked {
        pub(in crate::config) fields: BTreeMap<String, Vec<&'static str>>,
        pub(in crate::config) words: BTreeMap<String, Vec<&'static str>>,
        pub(in crate::config) bounds: BTreeMap<String, RangeInclusive<u64>>,
    }

    thread_local! {
        static ASKED: RefCell<Asked> = RefCell::default();
    }

    pub(super) fn fields(path: &str, known: &[&'static str]) {
        ASKED.with_borrow_mut(|asked| asked.fields.insert(path.to_owned(), known.to_vec()));
    }

    pub(super) fn words(path: &str, words: impl Iterator<Item = &'static str>) {
        ASKED.with_borrow_mut(|asked| asked.words.insert(path.to_owned(), words.collect()));
    }

    pub(super) fn bounds(path: &str, bounds: &RangeInclusive<u64>) {
        ASKED.with_borrow_mut(|asked| asked.bounds.insert(path.to_owned(), bounds.clone()));
    }

    /// All that this thread asked for since the last call.
    pub(in crate::config) fn take() -> Asked {
        ASKED.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nearly_right_is_suggested() {
        let known = ["requests_per_second", "burst", "port"];
        assert_eq!(suggestion("request_per_second", &known), "did you mean `requests_per_second`?");
        assert_eq!(suggestion("prot", &known), "did you mean `port`?");
        assert_eq!(suggestion("colour", &known), "known here: requests_per_second burst port");
    }
}
