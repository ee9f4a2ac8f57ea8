//! The fuzz targets without a fuzzer: every file of their corpora, and a bounded number of random mutations of them.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;

#[allow(unreachable_pub, reason = "a crate of its own where the fuzzer runs")]
#[path = "../../../../fuzz/src/lib.rs"]
mod targets;

type Target = fn(&[u8]);

/// A change to a file, at places that are given in proportion.
#[derive(Debug, Clone)]
enum Mutation {
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    Overwrite(Index, u8),
    Insert(Index, Vec<u8>),
    /// The rest is that of another file.
    Splice(Index, Index, Index),
}

/// What parsers trip over.
const TRAPS: [&str; 36] = [
    "-1",
    "-0",
    "NaN",
    "inf",
    "1e30",
    "1e308",
    "1e-308",
    "18446744073709551615",
    "18446744073709551616",
    "0.000000001",
    "9999-12-31T23:59:59Z",
    "1970-01-01T00:00:00Z",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "99999999999999d",
    "null",
    "true",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "\0",
    "\r",
    "\n\n",
    "\r\n",
    ": ",
    ",",
    ";w=0",
    "\"usage\":null",
    "\"model\":",
    "${KEY}",
    "\u{1f980}",
];

/// What a target is given, as a text when it is shown.
struct Input(Vec<u8>);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).expect("a corpus").map(|file| file.expect("a file").path());
    let mut files: Vec<_> = files
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read(&path).expect("a readable file"))
        })
        .collect();
    files.sort();
    assert!(files.len() >= 10, "{target} has {} files", files.len());
    files
}

fn replay(name: &str, target: Target) {
    for (file, bytes) in corpus(name) {
        let outcome = std::panic::catch_unwind(|| target(&bytes));
        assert!(outcome.is_ok(), "{name}/{file}");
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let trap = prop::sample::select(&TRAPS[..]).prop_map(|trap| trap.as_bytes().to_vec());
    let inserted = prop_oneof![3 => trap, 1 => prop::collection::vec(any::<u8>(), 1..5)];
    prop_oneof![
        2 => (any::<Index>(), 1..40usize).prop_map(|(at, length)| Mutation::Remove(at, length)),
        2 => (any::<Index>(), 1..40usize, 1..4usize).prop_map(|(at, length, times)| Mutation::Repeat(at, length, times)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Overwrite(at, byte)),
        4 => (any::<Index>(), inserted).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        1 => any::<[Index; 3]>().prop_map(|[at, other, from]| Mutation::Splice(at, other, from)),
    ]
}

fn mutated(files: &[(String, Vec<u8>)], start: Index, mutations: Vec<Mutation>) -> Vec<u8> {
    let mut bytes = start.get(files).1.clone();
    for mutation in mutations {
        let length = bytes.len();
        let place = |at: Index| at.index(length + 1);
        match mutation {
            Mutation::Remove(at, count) => drop(bytes.drain(place(at)..(place(at) + count).min(length))),
            Mutation::Repeat(at, count, times) => {
                let (start, end) = (place(at), (place(at) + count).min(length));
                let repeated = bytes[start..end].repeat(times);
                bytes.splice(start..start, repeated);
            }
            Mutation::Overwrite(at, byte) => {
                if let Some(old) = bytes.get_mut(place(at)) {
                    *old = byte;
                }
            }
            Mutation::Insert(at, inserted) => drop(bytes.splice(place(at)..place(at), inserted)),
            Mutation::Splice(at, other, from) => {
                let other = &other.get(files).1;
                bytes.truncate(place(at));
                bytes.extend_from_slice(&other[from.index(other.len() + 1)..]);
            }
        }
    }
    bytes
}

/// How many mutations there are to a case of proptest's: of what people write ten thousand, of what goes over sockets few.
fn share_of(name: &str) -> u32 {
    match name {
        "configuration" => 40,
        "client_bytes" | "upstream_bytes" => 1,
        _ => 8,
    }
}

/// A few thousand of them in most targets; `PROPTEST_CASES` makes it more.
fn mutate(name: &str, target: Target) {
    let files = corpus(name);
    let strategy = (any::<Index>(), prop::collection::vec(mutation(), 1..6))
        .prop_map(|(start, mutations)| Input(mutated(&files, start, mutations)));
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let config = ProptestConfig { cases: config.cases * share_of(name), ..config };
    let outcome = proptest::test_runner::TestRunner::new(config).run(&strategy, |input| {
        target(&input.0);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{name}: {failure}");
    }
}

macro_rules! targets {
    ($($target:ident: $replays:ident, $mutations:ident;)*) => {$(
        #[test]
        fn $replays() {
            replay(stringify!($target), targets::$target::run);
        }

        #[test]
        fn $mutations() {
            mutate(stringify!($target), targets::$target::run);
        }
    )*};
}

targets! {
    limit_headers: no_field_of_the_corpus_is_believed_blindly, no_mutated_field_is_believed_blindly;
    refusal_bodies: no_refusal_of_the_corpus_is_believed_blindly, no_mutated_refusal_is_believed_blindly;
    usage_reader: chunks_of_the_corpus_may_end_anywhere, chunks_of_mutations_may_end_anywhere;
    model_peeker: a_body_of_the_corpus_stays_as_it_is, a_mutated_body_stays_as_it_is;
    client_bytes: no_client_of_the_corpus_leads_an_upstream_astray, no_mutated_client_leads_an_upstream_astray;
    upstream_bytes: no_answer_of_the_corpus_leads_a_client_astray, no_mutated_answer_leads_a_client_astray;
    ledger: a_ledger_of_the_corpus_is_read_as_far_as_it_goes, a_mutated_ledger_is_read_as_far_as_it_goes;
    configuration: a_file_of_the_corpus_has_a_meaning_or_faults, a_mutated_file_has_a_meaning_or_faults;
}

#[test]
fn a_prompt_of_thirty_megabytes_is_read() {
    let prompt = "words and \\\"escapes\\\" \\u00e9 ".repeat(30 << 20 >> 5);
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{prompt}"}}],"stream":true,"model":"m"}}"#);
    assert!(body.len() > 24 << 20);
    let seen = cooldown_proxy::provider::peek(body.as_bytes()).expect("a JSON object");
    assert_eq!(seen.model.expect("a model").name, "m");
    targets::model_peeker::run(&body.as_bytes()[..1 << 20]);
}
