//! What a ledger says as a whole: read at the start, and again for leaving out what matters no more.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use cooldown_pacer::{Instant, Key, Noted, Pacer, Past, Rate, Unit};
use foldhash::fast::RandomState;

use super::moment::Moment;
use super::record::{self, Header, Record, UnitName, What};

/// What an upstream told of its limits is believed again after this time at most.
const BELIEF: Duration = Duration::from_secs(7 * 24 * 3600);
/// A rate that was found by trying is what trying begins with again for this long. Should it be wrong by then, that is found
/// out as fast as without.
const BELIEF_IN_FOUND: Duration = Duration::from_secs(24 * 3600);

/// So often the header stands at the beginning: nothing can be understood without, and one damaged byte can take two lines.
const HEADERS: usize = 3;

/// What is known of the time before.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// By the name of the list, and the subject.
    pub keys: HashMap<(String, u64), Memory, RandomState>,
    /// How many lines could not be read.
    pub broken: usize,
}

/// What is known of one key.
#[derive(Debug, Default)]
pub(in super::super) struct Memory {
    pub pasts: Vec<(Unit, Past)>,
    pub limits: Vec<Rate>,
    /// What the upstream was found to bear.
    pub found: Option<Rate>,
    /// For how long it stays closed.
    pub closed: Option<Duration>,
    /// For how long it is left alone.
    pub rests: Option<Duration>,
}

impl Memory {
    /// Lets a key of a pacer start with it. What was told goes before what was found.
    pub(in super::super) fn give_to(&self, pacer: &mut Pacer, now: Instant, key: Key) {
        self.limits.iter().for_each(|rate| pacer.recall_limit(now, key, *rate));
        self.found.iter().for_each(|rate| pacer.recall_found(now, key, *rate));
        self.pasts.iter().for_each(|(unit, past)| pacer.recall(now, key, *unit, past));
        self.closed.into_iter().for_each(|lasting| pacer.close(now, key, now.after(lasting)));
    }
}

impl Book {
    /// Reads a ledger at a moment that the pacing clock calls `present`; `None` if it is none that this program knows.
    pub(super) fn read(bytes: &[u8], now: Moment, present: Instant) -> Option<Self> {
        header(bytes)?;
        let mut book = Self::default();
        for line in lines(bytes) {
            match record::read::<Record>(line) {
                Some(record) => book.note(record, now, present),
                None if record::read::<Header>(line).is_none() => book.broken += 1,
                None => {}
            }
        }
        Some(book)
    }

    fn note(&mut self, record: Record, now: Moment, present: Instant) {
        let age = record.at.age(now);
        let memory = self.keys.entry((record.list, record.key)).or_default();
        match record.what {
            What::Left { unit, keep, afresh, more, left, less, ago } => {
                let unit = Unit::from(unit);
                let at = Instant::from_nanos(present.as_nanos().saturating_sub(age.as_nanos() as u64));
                let (keep, ago) = (Duration::from_millis(keep), Duration::from_millis(ago));
                let noted = Noted { keep, afresh, more, left, less, ago };
                match memory.pasts.iter_mut().find(|(known, _)| *known == unit) {
                    Some((_, past)) => past.note(at, &noted),
                    None => {
                        let mut past = Past::default();
                        past.note(at, &noted);
                        memory.pasts.push((unit, past));
                    }
                }
            }
            What::Closed { lasting } => memory.closed = still(lasting, age),
            What::Rests { lasting } => memory.rests = still(lasting, age),
            What::Told { unit, amount, period } if age < BELIEF => {
                let Ok(rate) = Rate::new(unit.into(), amount, Duration::from_millis(period)) else { return };
                let is_other = |known: &Rate| (known.unit(), known.period()) != (rate.unit(), rate.period());
                memory.limits.retain(is_other);
                memory.limits.push(rate);
            }
            What::Told { .. } => {}
            What::Found { amount, period } => {
                let rate = Rate::new(Unit::Requests, amount, Duration::from_millis(period)).ok();
                memory.found = rate.filter(|_| age < BELIEF_IN_FOUND);
            }
        }
    }
}

/// What is left of so many milliseconds.
fn still(lasting: u64, age: Duration) -> Option<Duration> {
    Duration::from_millis(lasting).checked_sub(age).filter(|left| !left.is_zero())
}

/// What only the latest line of says anything: a closing, a rest, a limit, a rate.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Latest {
    Closing,
    Rest,
    Limit(UnitName, u64),
    Found,
}

/// The same ledger without what matters no more, in the order in which it was written.
pub(super) fn compact(bytes: &[u8], seed: u64, now: Moment) -> Vec<u8> {
    let mut latest: HashSet<(String, u64, Latest), RandomState> = HashSet::default();
    let mut kept: Vec<&[u8]> = Vec::new();
    for Written { line, record: Record { list, key, what, .. }, age } in written(bytes, now).into_iter().rev() {
        let matters = match what {
            // What was written ahead leaves within `keep`, and matters for as long; and what comes back within that, comes
            // back from there.
            What::Left { keep, .. } => age.as_millis() <= 3 * u128::from(keep) + 1000,
            // One that is over says that those before it are.
            What::Closed { lasting } => latest.insert((list, key, Latest::Closing)) && still(lasting, age).is_some(),
            What::Rests { lasting } => latest.insert((list, key, Latest::Rest)) && still(lasting, age).is_some(),
            What::Told { unit, period, .. } => latest.insert((list, key, Latest::Limit(unit, period))) && age < BELIEF,
            What::Found { .. } => latest.insert((list, key, Latest::Found)) && age < BELIEF_IN_FOUND,
        };
        if matters {
            kept.push(line);
        }
    }
    let mut out = beginning(seed);
    for line in kept.into_iter().rev() {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out
}

/// A record with its line, and how long ago it was written.
struct Written<'a> {
    line: &'a [u8],
    record: Record,
    age: Duration,
}

/// What can be read. What left is no older than what was written before it, and all of it is kept for as long as any of it,
/// which is how [`Past`] reads it: a wall clock that was set back, or another period, must not part what left from what
/// says that it counts no more, nor forget what counts for longer since.
fn written(bytes: &[u8], now: Moment) -> Vec<Written<'_>> {
    let read = |line| record::read::<Record>(line).map(|record| Written { line, age: record.at.age(now), record });
    let mut all: Vec<Written<'_>> = lines(bytes).filter_map(read).collect();
    let mut extremes: HashMap<(String, u64, UnitName), (Duration, u64), RandomState> = HashMap::default();
    for Written { record: Record { list, key, what, .. }, age, .. } in &mut all {
        if let What::Left { unit, keep, .. } = what {
            let (youngest, longest) = extremes.entry((list.clone(), *key, *unit)).or_insert((*age, *keep));
            (*youngest, *longest) = (*age.min(youngest), *keep.max(longest));
            *age = *youngest;
        }
    }
    for Written { record: Record { list, key, what, .. }, .. } in &mut all {
        if let What::Left { unit, keep, .. } = what {
            *keep = extremes.get(&(list.clone(), *key, *unit)).map_or(*keep, |(_, longest)| *longest);
        }
    }
    all
}

/// What the subjects of a ledger are hashed with; `None` if it is none that this program knows.
pub(super) fn seed(bytes: &[u8]) -> Option<u64> {
    header(bytes).map(|header| header.seed)
}

/// How a ledger begins.
pub(super) fn beginning(seed: u64) -> Vec<u8> {
    let mut out = Vec::new();
    (0..HEADERS).for_each(|_| record::write(&Header::new(seed), &mut out));
    out
}

fn header(bytes: &[u8]) -> Option<Header> {
    lines(bytes).take(HEADERS).filter_map(record::read::<Header>).find(Header::is_known)
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop_assert, proptest};

    use super::super::moment::Watch;
    use super::*;

    const PRESENT: Instant = Instant::from_nanos(1 << 60);
    const KEEP: u64 = 60_000;

    fn left(list: &str, more: u64) -> Record {
        let (unit, what) = (UnitName::Requests, (more, 0));
        let what = What::Left { unit, keep: KEEP, afresh: false, more: what.0, left: what.1, less: 0, ago: 0 };
        Record { at: Watch::new().now(), list: list.to_owned(), key: 9, what }
    }

    fn ledger(records: &[Record]) -> Vec<u8> {
        let mut out = beginning(5);
        records.iter().for_each(|record| record::write(record, &mut out));
        out
    }

    fn read(bytes: &[u8]) -> Option<Book> {
        Book::read(bytes, Watch::new().now(), PRESENT)
    }

    fn used(book: &Book, list: &str) -> u64 {
        let memory = book.keys.get(&(list.to_owned(), 9));
        memory.map_or(0, |memory| memory.pasts.iter().map(|(_, past)| past.used(PRESENT)).sum())
    }

    fn several() -> Vec<Record> {
        let mut all: Vec<Record> = (1..=10).map(|nth| left(&format!("list {nth}"), nth)).collect();
        let told = What::Told { unit: UnitName::Tokens, amount: 1000, period: KEEP };
        all.push(Record { what: told, ..left("list 3", 0) });
        all.push(Record { what: What::Closed { lasting: 90_000 }, ..left("list 3", 0) });
        all
    }

    #[test]
    fn what_was_written_is_read() {
        let book = read(&ledger(&several())).expect("a ledger");
        assert_eq!((seed(&ledger(&several())), book.broken, used(&book, "list 7")), (Some(5), 0, 7));
        let memory = &book.keys[&("list 3".to_owned(), 9)];
        assert_eq!((memory.limits[0].amount(), memory.pasts.len()), (1000, 1));
        assert!(memory.closed.expect("closed") > Duration::from_secs(80));
    }

    #[test]
    fn leaving_out_what_matters_no_more_changes_nothing() {
        let mut records = several();
        records.extend(several());
        let text = ledger(&records);
        let (now, long) = (Watch::new().now(), compact(&text, 5, Watch::new().now()));
        let (before, after) = (Book::read(&text, now, PRESENT), Book::read(&long, now, PRESENT));
        let (before, after) = (before.expect("a ledger"), after.expect("a ledger"));
        assert!((1..=10).all(|nth| {
            let list = format!("list {nth}");
            used(&before, &list) == 2 * nth && used(&after, &list) == 2 * nth
        }));
        assert!(long.len() < text.len(), "one closing and one limit are enough");
    }

    #[test]
    fn what_counts_no_more_is_left_out_with_what_says_so_whatever_the_wall_clock_was_set_to_or_the_period() {
        let at = |wall: u64| serde_json::from_value(serde_json::json!([wall, 0, 0])).expect("a moment");
        let afresh = |keep| {
            let unit = UnitName::Requests;
            What::Left { unit, keep, afresh: true, more: 3, left: 0, less: 0, ago: 0 }
        };
        let (now, before, after) = (at(1_000_000), at(970_000), at(2_000_000));
        let set_back =
            [Record { at: after, ..left("list", 9) }, Record { at: at(1), what: afresh(KEEP), ..left("list", 0) }];
        let shortened =
            [Record { at: before, ..left("list", 9) }, Record { at: before, what: afresh(100), ..left("list", 0) }];
        for records in [set_back, shortened] {
            let text = ledger(&records);
            let before = Book::read(&text, now, PRESENT).expect("a ledger");
            let after = Book::read(&compact(&text, 5, now), now, PRESENT).expect("a ledger");
            assert_eq!((used(&before, "list"), used(&after, "list")), (3, 3), "{records:?}");
        }
    }

    #[test]
    fn what_counts_for_longer_since_is_not_left_out() {
        let at = |wall: u64| serde_json::from_value(serde_json::json!([wall, 0, 0])).expect("a moment");
        let unit = UnitName::Requests;
        let longer = What::Left { unit, keep: 60 * KEEP, afresh: false, more: 1, left: 0, less: 0, ago: 0 };
        let text = ledger(&[
            Record { at: at(1_000_000), ..left("list", 9) },
            Record { at: at(1_050_000), what: longer, ..left("list", 0) },
        ]);
        let now = at(1_000_000 + 10 * KEEP);
        let used = |text: &[u8]| used(&Book::read(text, now, PRESENT).expect("a ledger"), "list");
        assert_eq!((used(&text), used(&compact(&text, 5, now))), (10, 10));
    }

    #[test]
    fn a_ledger_of_another_version_is_none() {
        let mut out = Vec::new();
        record::write(&Header { cooldown_ledger: 2, ..Header::new(5) }, &mut out);
        assert!(read(&out).is_none());
        assert!(read(b"").is_none() && read(b"# a text\n").is_none() && read(&[0; 4096]).is_none());
    }

    #[test]
    fn cut_off_anywhere_what_is_whole_is_read() {
        let text = ledger(&several());
        let begins = lines(&text).next().expect("a line").len();
        for length in 0..text.len() {
            let book = read(&text[..length]);
            assert_eq!(book.is_some(), length >= begins, "cut off after {length}");
            if let Some(book) = book {
                assert!(book.broken <= 1, "only the last line is torn");
                let whole = text[..length].iter().filter(|byte| **byte == b'\n').count().saturating_sub(HEADERS);
                assert!(book.keys.len() >= whole.min(10));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn nothing_that_the_file_holds_is_fatal_or_read_wrongly(
            at in any::<proptest::sample::Index>(), flip in 1..=255u8, noise in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut text = ledger(&several());
            let at = at.index(text.len());
            text[at] ^= flip;
            let book = read(&text).expect("one of the headers is whole");
            for nth in 1..=10 {
                let used = used(&book, &format!("list {nth}"));
                prop_assert!(used == nth || used == 0, "list {nth} is said to have used {used}");
            }
            prop_assert!(book.keys.len() >= 8, "one byte costs two lines at most");
            text.splice(at..at, noise);
            let now = Watch::new().now();
            prop_assert!(Book::read(&compact(&text, 5, now), now, PRESENT).is_some());
            read(&text);
        }
    }
}
