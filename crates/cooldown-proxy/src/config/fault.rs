//! What is wrong with a configuration, where, and what to write instead.

use std::fmt;
use std::io::IsTerminal;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::mask;

/// Everything that is wrong with one configuration, by line. No secret is in it: lines are kept masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    name: String,
    list: Vec<Fault>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// Where; absent when the fault is not in the text of a file.
    pub place: Option<Place>,
}

/// A place in a file, with the line that it lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The line as it may be shown: secrets are replaced by `***`.
    pub excerpt: String,
    /// The bytes of `excerpt` that are meant.
    pub span: Range<usize>,
}

/// Collects faults while a configuration is read.
#[derive(Default)]
pub(super) struct Report {
    pending: Vec<Pending>,
}

/// A fault whose place is still a range of bytes.
pub(super) struct Pending {
    pub(super) at: Range<usize>,
    pub(super) message: String,
    pub(super) hint: String,
}

impl Report {
    /// Notes that the bytes `at` are wrong.
    pub(super) fn fault(&mut self, at: &Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        self.pending.push(Pending { at: at.clone(), message: message.into(), hint: hint.into() });
    }

    /// Whether nothing was wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// How many things were wrong so far.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Finds the line of every fault in `text`, and hides what `hidden` covers.
    pub(super) fn into_faults(mut self, name: &str, text: &str, hidden: &mask::Hidden) -> Faults {
        self.pending.sort_by_key(|pending| pending.at.start);
        let list = self.pending.into_iter().map(|pending| Fault {
            place: Some(Place::of(text, &pending.at, hidden)),
            message: pending.message,
            hint: pending.hint,
        });
        Faults { name: name.to_owned(), list: list.collect() }
    }
}

impl Place {
    fn of(text: &str, at: &Range<usize>, hidden: &mask::Hidden) -> Self {
        let from = text.floor_char_boundary(at.start);
        let start = text[..from].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[from..].find('\n').map_or(text.len(), |length| from + length);
        let end = start + text[start..end].trim_end_matches('\r').len();
        let from = from.min(end);
        let to = text.floor_char_boundary(at.end).clamp(from, end);
        let (excerpt, span) = hidden.excerpt(text, start..end, from..to);
        Self {
            line: text[..start].matches('\n').count() + 1,
            column: text[start..from].trim_start_matches('\u{feff}').chars().count() + 1,
            excerpt,
            span,
        }
    }
}

impl Faults {
    /// Faults of something that has no lines: the command line, a file that cannot be read, a reload that fails.
    pub(crate) fn without_place(name: &str, faults: Vec<(String, String)>) -> Self {
        let list = faults.into_iter().map(|(message, hint)| Fault { message, hint, place: None });
        Self { name: name.to_owned(), list: list.collect() }
    }

    /// The faults, by line.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.list.iter()
    }

    /// Prints them to standard error, in colour where that is a terminal and `NO_COLOR` is not set.
    pub fn print(&self) {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let styled = std::io::stderr().is_terminal() && !plain;
        eprintln!("{}", self.render(&if styled { Renderer::styled() } else { Renderer::plain() }));
    }

    fn render(&self, renderer: &Renderer) -> String {
        let mut text = String::new();
        for fault in &self.list {
            text.push_str(&fault.render(&self.name, renderer));
            text.push_str("\n\n");
        }
        let count = self.list.len();
        text.push_str(&format!("{}: {count} {}", self.name, if count == 1 { "fault" } else { "faults" }));
        text
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Fault {
    fn render(&self, name: &str, renderer: &Renderer) -> String {
        let title = Level::ERROR.primary_title(self.message.as_str());
        let hint = Level::HELP.message(self.hint.as_str());
        let Some(place) = &self.place else {
            return renderer.render(&[Group::with_title(title).element(Origin::path(name)).element(hint)]);
        };
        let snippet = Snippet::source(place.excerpt.as_str())
            .path(name)
            .line_start(place.line)
            .annotation(AnnotationKind::Primary.span(place.span.clone()));
        let text = renderer.render(&[Group::with_title(title).element(snippet).element(hint)]);
        // The renderer counts columns in the masked line; people look for them in their file.
        let shown = place.excerpt[..place.span.start].chars().count() + 1;
        let (line, column) = (place.line, place.column);
        text.replacen(&format!("{name}:{line}:{shown}"), &format!("{name}:{line}:{column}"), 1)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&Renderer::plain()))
    }
}

impl std::error::Error for Faults {}
