//! What must not be shown of a configuration: secrets, and what looks like one.

use std::ops::Range;

use super::node::{Node, Value};

/// What stands in place of a secret. It does not tell the length.
const MASK: &str = "***";

/// The field whose values are secrets, whatever they are called.
const HEADERS: &str = "headers";

/// The parts of a text that must not be shown.
pub(super) enum Hidden {
    /// The text was understood: the ranges of its secrets.
    Ranges(Vec<Range<usize>>),
    /// The text was not understood: each line is judged by its look, and rather hidden than shown.
    ByLook,
}

impl Hidden {
    /// The secrets of a configuration.
    pub(super) fn of(root: &Node, text: &str) -> Self {
        let mut ranges = Vec::new();
        for section in ["providers", "clients"] {
            if let Some(Value::Map(members)) = root.get(section).map(|node| &node.value) {
                // A key that was written where a section belongs: `openai: sk-…`.
                members.iter().for_each(|(_, member)| hide_texts(member, text, false, &mut ranges));
            }
        }
        if let Some(headers) = root.get("telemetry").and_then(|telemetry| telemetry.get(HEADERS)) {
            hide_texts(headers, text, true, &mut ranges);
        }
        hide_secrets(root, text, &mut ranges);
        Self::Ranges(ranges)
    }

    /// The line `line` of `text` with its secrets masked, and where `span` lies in it then.
    pub(super) fn excerpt(&self, text: &str, line: Range<usize>, span: Range<usize>) -> (String, Range<usize>) {
        let mut hidden: Vec<Range<usize>> = match self {
            Self::Ranges(ranges) => ranges.iter().map(|range| overlap(range, &line)).collect(),
            Self::ByLook => by_look(text, &line).into_iter().collect(),
        };
        hidden.extend(parts_of_urls(text, &line));
        let hidden = disjoint(hidden);

        let mut shown = String::new();
        let mut at = line.start;
        for range in &hidden {
            shown.push_str(&text[at..range.start]);
            shown.push_str(MASK);
            at = range.end;
        }
        shown.push_str(&text[at..line.end]);
        let start = moved(span.start, line.start, &hidden, 0);
        let end = moved(span.end, line.start, &hidden, MASK.len()).max(start);
        (shown, start..end)
    }
}

/// Whether a field of this name holds a secret, or was probably meant to.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let counts_tokens = matches!(name.as_str(), "tokens" | "input_tokens" | "output_tokens");
    let signs = ["key", "token", "secret", "passw", "auth", "cred"];
    !counts_tokens && signs.iter().any(|sign| name.contains(sign))
}

fn hide_secrets(node: &Node, text: &str, ranges: &mut Vec<Range<usize>>) {
    match &node.value {
        Value::Map(entries) => {
            for (key, value) in entries {
                if is_secret(&key.text) {
                    hide_texts(value, text, true, ranges);
                } else {
                    hide_secrets(value, text, ranges);
                }
            }
        }
        Value::List(items) => items.iter().for_each(|item| hide_secrets(item, text, ranges)),
        Value::Text(_) | Value::Null | Value::Broken => {}
    }
}

/// Hides every text in `node`; with `maps` those in maps too. The name of a variable is no secret.
fn hide_texts(node: &Node, text: &str, maps: bool, ranges: &mut Vec<Range<usize>>) {
    match &node.value {
        Value::Map(entries) if maps => {
            for (key, value) in entries {
                ranges.push(key.at.clone());
                hide_texts(value, text, maps, ranges);
            }
        }
        Value::List(items) => items.iter().for_each(|item| hide_texts(item, text, maps, ranges)),
        Value::Text(_) | Value::Broken if !names_a_variable(&text[node.at.clone()]) => ranges.push(node.at.clone()),
        _ => {}
    }
}

/// Whether this is `${NAME}` and nothing else, in quotes or not.
fn names_a_variable(written: &str) -> bool {
    let written = written.trim().trim_matches(['"', '\'']);
    let name = written.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

/// The hidden parts of a line in a text that is no YAML: what follows a name that is a secret's, and a line without a
/// name below such a one, as lists and long values have them.
fn by_look(text: &str, line: &Range<usize>) -> Option<Range<usize>> {
    let keys = keys_in(&text[line.clone()]);
    let is_hidden = |name: &str| is_secret(name) || name == HEADERS || is_below_headers(text, line);
    if let Some((_, colon)) = keys.iter().find(|(name, _)| is_hidden(name)) {
        let value = text[line.start + colon..line.end].trim_start();
        return Some(line.end - value.len()..line.end);
    }
    let mut before = text[..line.start].lines().rev().map(keys_in).filter(|keys| !keys.is_empty());
    let belongs_to_a_secret = |keys: Vec<(&str, usize)>| keys.last().is_some_and(|(name, _)| is_secret(name));
    (keys.is_empty() && before.next().is_some_and(belongs_to_a_secret)).then(|| line.clone())
}

/// Whether the nearest line before this one that stands further out is [`HEADERS`].
fn is_below_headers(text: &str, line: &Range<usize>) -> bool {
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let own = indentation(&text[line.clone()]);
    let mut before = text[..line.start].lines().rev().filter(|other| !other.trim().is_empty());
    let above = before.find(|other| indentation(other) < own).map(keys_in).unwrap_or_default();
    above.last().is_some_and(|(name, _)| *name == HEADERS)
}

/// The names in a line that a colon follows, and where each colon ends.
fn keys_in(line: &str) -> Vec<(&str, usize)> {
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '*');
    let colons = line.match_indices(':').map(|(colon, _)| {
        let before = line[..colon].trim_end().trim_end_matches(['"', '\'']);
        let start =
            before.rfind(|c| !is_name(c)).map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        (&before[start..], colon + 1)
    });
    colons.filter(|(name, _)| !name.is_empty()).collect()
}

/// User names, passwords and queries of the URLs in a line.
fn parts_of_urls(text: &str, line: &Range<usize>) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    for (at, slashes) in text[line.clone()].match_indices("//") {
        let start = line.start + at + slashes.len();
        let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',');
        let url = &text[start..text[start..line.end].find(ends).map_or(line.end, |length| start + length)];
        let authority = url.find(['/', '?', '#']).unwrap_or(url.len());
        if let Some(end) = url[..authority].rfind('@') {
            parts.push(start..start + end);
        }
        if let Some(query) = url.find('?') {
            parts.push(start + query + 1..start + url.len());
        }
    }
    parts
}

fn overlap(range: &Range<usize>, line: &Range<usize>) -> Range<usize> {
    range.start.clamp(line.start, line.end)..range.end.clamp(line.start, line.end)
}

/// The ranges in order, those that touch joined, empty ones left out.
fn disjoint(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// Where the byte `at` of the text stands in the masked line; one in a masked part stands `inside` bytes into the mask.
fn moved(at: usize, line_start: usize, hidden: &[Range<usize>], inside: usize) -> usize {
    let (mut taken, mut masks) = (line_start, 0);
    for range in hidden.iter().filter(|range| range.start < at) {
        if at < range.end {
            return range.start - taken + masks + inside;
        }
        taken += range.len();
        masks += MASK.len();
    }
    at - taken + masks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line of `text` that holds `mark`, as it is shown, with the part that stands for `mark`.
    fn shown(hidden: &Hidden, text: &str, mark: &str) -> (String, String) {
        let at = text.find(mark).expect("the mark is in the text");
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[at..].find('\n').map_or(text.len(), |length| at + length);
        let (line, span) = hidden.excerpt(text, start..end, at..at + mark.len());
        (line.clone(), line[span].to_owned())
    }

    #[test]
    fn a_masked_line_still_points_at_what_is_meant() {
        let text = "alice: {token: hunter2, weight: heavy, key: 'x y', urgency: 9}";
        let hidden = Hidden::Ranges(vec![15..22, 44..49]);
        let line = "alice: {token: ***, weight: heavy, key: ***, urgency: 9}";
        assert_eq!(shown(&hidden, text, "heavy"), (line.into(), "heavy".into()));
        assert_eq!(shown(&hidden, text, "9"), (line.into(), "9".into()));
        assert_eq!(shown(&hidden, text, "unter"), (line.into(), "***".into()));
        assert_eq!(shown(&hidden, text, "alice"), (line.into(), "alice".into()));
    }

    #[test]
    fn a_text_that_is_no_yaml_hides_what_may_be_a_secret() {
        let text = "a: 1\napi_keys: [\n  sk-one,\nsk-two: ]\n- \"Token\" : sk-three\nhost: x\n  more\n";
        for (mark, line) in [
            ("a: 1", "a: 1"),
            ("sk-one", "***"),
            ("sk-three", "- \"Token\" : ***"),
            ("host", "host: x"),
            ("more", "  more"),
        ] {
            assert_eq!(shown(&Hidden::ByLook, text, mark).0, line);
        }
        let text = "telemetry:\n  headers:\n    x-team: hunter2\n  sample: 1\n  headers: {x-team: hunter3}\n";
        for (mark, line) in [("hunter2", "    x-team: ***"), ("hunter3", "  headers: ***"), ("sample", "  sample: 1")] {
            assert_eq!(shown(&Hidden::ByLook, text, mark).0, line);
        }
    }

    #[test]
    fn passwords_and_queries_of_urls_are_hidden() {
        let hidden = Hidden::Ranges(Vec::new());
        let text = "a: \"https://me:pw@api.example.com/x?key=abc\", b: 1";
        assert_eq!(shown(&hidden, text, "b: 1").0, "a: \"https://***@api.example.com/x?***\", b: 1");
    }

    #[test]
    fn counts_of_tokens_are_no_secrets() {
        assert!(is_secret("api_key") && is_secret("Token") && is_secret("apikeys") && is_secret("password"));
        assert!(!is_secret("tokens") && !is_secret("input_tokens") && !is_secret("keepalive") && !is_secret("host"));
    }
}
