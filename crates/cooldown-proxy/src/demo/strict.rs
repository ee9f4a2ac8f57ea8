//! A limiter as strict as the strictest upstream: it refuses every breach, to the microsecond, and counts it.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How an upstream counts requests against its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// At most the amount in every trailing period: an exact log of what was accepted.
    SlidingWindow,
    /// At most the amount in each period; the first request of a key starts the first one, and they follow each other
    /// without a gap.
    FixedWindow,
    /// A bucket that holds this many requests, starts full and is refilled evenly by the amount per period.
    TokenBucket(NonZeroU32),
}

/// What an upstream allows each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// How it counts.
    pub counting: Counting,
    /// How many requests a period allows.
    pub amount: NonZeroU32,
    /// The period; one below a microsecond counts as one.
    pub period: Duration,
}

/// What the limiter says about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Accepted; this many more would be accepted at the same instant.
    Within {
        /// What is left.
        left: u32,
    },
    /// A breach: refused, and not counted against the limit.
    Over {
        /// When one more request would be accepted, if nothing else came.
        retry_after: Duration,
    },
}

/// Enforces one [`Rule`] for each key by itself. Shared between threads.
///
/// The caller gives the arrival. Those that are told late, after later ones, still count for the window in which they
/// arrived; a token bucket takes them as simultaneous with the latest.
#[derive(Debug)]
pub struct Strict {
    rule: Rule,
    origin: Instant,
    keys: Mutex<HashMap<String, State>>,
    accepted: AtomicU64,
    breaches: AtomicU64,
}

/// What is remembered of one key. Times are microseconds since the limiter's origin.
#[derive(Debug)]
enum State {
    /// When each request of the last two periods was accepted, in order.
    Log(VecDeque<u64>),
    /// When the first request came, and what was accepted in the latest window and in the one before it.
    Windows { first: u64, latest: u64, count: u32, before: u32 },
    /// The level, where one request weighs as much as the period has microseconds: so it stays a whole number.
    Level { level: u128, at: u64 },
}

impl Strict {
    /// A limiter that has seen nothing yet.
    pub fn new(rule: Rule) -> Self {
        Self {
            rule,
            origin: Instant::now(),
            keys: Mutex::default(),
            accepted: AtomicU64::new(0),
            breaches: AtomicU64::new(0),
        }
    }

    /// What it enforces.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Judges a request of `key` that arrived at `arrival`.
    pub fn judge(&self, key: &str, arrival: Instant) -> Verdict {
        let arrival = micros(arrival.saturating_duration_since(self.origin));
        let verdict = {
            let mut keys = self.keys.lock();
            match keys.get_mut(key) {
                Some(state) => state.judge(self.rule, arrival),
                None => keys.entry(key.to_owned()).or_insert(State::new(self.rule, arrival)).judge(self.rule, arrival),
            }
        };
        let tally = if matches!(verdict, Verdict::Within { .. }) { &self.accepted } else { &self.breaches };
        tally.fetch_add(1, Ordering::Relaxed);
        verdict
    }

    /// How many requests it accepted, over all keys.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// How many requests it refused, over all keys.
    pub fn breaches(&self) -> u64 {
        self.breaches.load(Ordering::Relaxed)
    }
}

impl State {
    fn new(rule: Rule, now: u64) -> Self {
        match rule.counting {
            Counting::SlidingWindow => Self::Log(VecDeque::new()),
            Counting::FixedWindow => Self::Windows { first: now, latest: 0, count: 0, before: 0 },
            Counting::TokenBucket(size) => Self::Level { level: full(rule, size), at: now },
        }
    }

    fn judge(&mut self, rule: Rule, arrival: u64) -> Verdict {
        let period = period(rule);
        let amount = rule.amount.get();
        match self {
            Self::Log(log) => slide(log, arrival, amount as usize, period),
            Self::Windows { first, latest, count, before } => {
                let passed = arrival.saturating_sub(*first);
                let window = passed / period;
                if window > *latest {
                    *before = if window == *latest + 1 { *count } else { 0 };
                    (*latest, *count) = (window, 0);
                }
                fill(if window < *latest { before } else { count }, amount, period - passed % period)
            }
            Self::Level { level, at } => {
                let size = if let Counting::TokenBucket(size) = rule.counting { size } else { rule.amount };
                let refilled = u128::from(arrival.saturating_sub(*at)) * u128::from(amount);
                *level = level.saturating_add(refilled).min(full(rule, size));
                *at = arrival.max(*at);
                draw(level, amount, period)
            }
        }
    }
}

/// Sliding window: of any `amount` + 1 accepted requests that follow each other, the last comes at least a period after
/// the first.
fn slide(log: &mut VecDeque<u64>, arrival: u64, amount: usize, period: u64) -> Verdict {
    while log.front().is_some_and(|&at| arrival.saturating_sub(at) >= 2 * period) {
        log.pop_front();
    }
    let place = log.partition_point(|&at| at <= arrival);
    log.insert(place, arrival);
    let first_checked = place.saturating_sub(amount);
    let last_checked = (place + 1).min(log.len().saturating_sub(amount));
    if (first_checked..last_checked).any(|first| log[first + amount] - log[first] < period) {
        log.remove(place);
        let oldest = log[log.len() - amount];
        return Verdict::Over { retry_after: Duration::from_micros((oldest + period).saturating_sub(arrival)) };
    }
    let trailing = log.iter().rev().take_while(|&&at| arrival.saturating_sub(at) < period).count();
    Verdict::Within { left: u32::try_from(amount.saturating_sub(trailing)).unwrap_or(u32::MAX) }
}

/// Fixed window: `rest` of it is left.
fn fill(count: &mut u32, amount: u32, rest: u64) -> Verdict {
    if *count >= amount {
        return Verdict::Over { retry_after: Duration::from_micros(rest) };
    }
    *count += 1;
    Verdict::Within { left: amount - *count }
}

/// Token bucket: one request takes one period's worth of level, which refills by the amount each microsecond.
fn draw(level: &mut u128, amount: u32, period: u64) -> Verdict {
    let one = u128::from(period);
    if *level < one {
        let missing = (one - *level).div_ceil(u128::from(amount));
        return Verdict::Over { retry_after: Duration::from_micros(u64::try_from(missing).unwrap_or(u64::MAX)) };
    }
    *level -= one;
    Verdict::Within { left: u32::try_from(*level / one).unwrap_or(u32::MAX) }
}

fn full(rule: Rule, size: NonZeroU32) -> u128 {
    u128::from(size.get()) * u128::from(period(rule))
}

fn period(rule: Rule) -> u64 {
    micros(rule.period).max(1)
}

/// Whole microseconds.
fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn strict(counting: Counting, amount: u32) -> Strict {
        Strict::new(Rule { counting, amount: NonZeroU32::new(amount).expect("not zero"), period: SECOND })
    }

    fn accepts(strict: &Strict, at: Duration) -> bool {
        matches!(strict.judge("key", strict.origin + at), Verdict::Within { .. })
    }

    #[test]
    fn a_sliding_window_forgets_a_request_after_exactly_one_period() {
        let strict = strict(Counting::SlidingWindow, 2);
        assert!(accepts(&strict, Duration::ZERO));
        assert!(accepts(&strict, SECOND / 2));
        assert_eq!(
            strict.judge("key", strict.origin + SECOND - MICROSECOND),
            Verdict::Over { retry_after: MICROSECOND },
            "one microsecond early is a breach"
        );
        assert!(accepts(&strict, SECOND));
        assert!(!accepts(&strict, SECOND + SECOND / 2 - MICROSECOND));
        assert_eq!((strict.accepted(), strict.breaches()), (3, 2));
    }

    #[test]
    fn a_refused_request_does_not_count_against_the_limit() {
        let strict = strict(Counting::SlidingWindow, 1);
        assert!(accepts(&strict, Duration::ZERO));
        assert!((1..100).all(|ms| !accepts(&strict, Duration::from_millis(ms))));
        assert!(accepts(&strict, SECOND));
    }

    #[test]
    fn a_fixed_window_starts_with_the_first_request_and_keeps_its_phase() {
        let strict = strict(Counting::FixedWindow, 2);
        let first = Duration::from_millis(300);
        assert!(accepts(&strict, first));
        assert!(accepts(&strict, first + SECOND - MICROSECOND * 2));
        assert!(!accepts(&strict, first + SECOND - MICROSECOND));
        assert!(accepts(&strict, first + SECOND), "the next window has room for two");
        assert!(accepts(&strict, first + SECOND));
        assert!(!accepts(&strict, first + SECOND));
        assert!(accepts(&strict, first + SECOND * 5 - MICROSECOND));
        assert!(accepts(&strict, first + SECOND * 5), "idle windows do not move the phase");
    }

    #[test]
    fn a_token_bucket_holds_its_size_and_refills_evenly() {
        let strict = strict(Counting::TokenBucket(NonZeroU32::new(3).expect("not zero")), 10);
        assert!((0..3).all(|_| accepts(&strict, Duration::ZERO)));
        assert_eq!(
            strict.judge("key", strict.origin + Duration::from_millis(40)),
            Verdict::Over { retry_after: Duration::from_millis(60) }
        );
        assert!(!accepts(&strict, Duration::from_millis(100) - MICROSECOND));
        assert!(accepts(&strict, Duration::from_millis(100)));
        assert!((0..3).all(|_| accepts(&strict, SECOND * 60)), "it never holds more than its size");
        assert!(!accepts(&strict, SECOND * 60));
    }

    #[test]
    fn each_key_has_a_limit_of_its_own() {
        let strict = strict(Counting::SlidingWindow, 1);
        assert_eq!(strict.judge("a", strict.origin), Verdict::Within { left: 0 });
        assert_eq!(strict.judge("b", strict.origin), Verdict::Within { left: 0 });
        assert!(matches!(strict.judge("a", strict.origin), Verdict::Over { .. }));
    }

    #[test]
    fn an_arrival_that_is_told_late_counts_where_it_belongs() {
        let sliding = strict(Counting::SlidingWindow, 2);
        assert!(accepts(&sliding, SECOND));
        assert!(accepts(&sliding, SECOND / 2), "told late, but there was room");
        assert!(!accepts(&sliding, SECOND * 3 / 4), "it would be the third within a second");
        assert!(accepts(&sliding, SECOND * 3 / 2), "the one that was told late leaves the window in its own time");

        let fixed = strict(Counting::FixedWindow, 2);
        assert!(accepts(&fixed, Duration::ZERO));
        assert!(accepts(&fixed, SECOND));
        assert!(accepts(&fixed, SECOND - MICROSECOND), "the window before had room for one more");
        assert!(!accepts(&fixed, SECOND - MICROSECOND));
        assert!(accepts(&fixed, SECOND));
        assert!(!accepts(&fixed, SECOND));

        let bucket = strict(Counting::TokenBucket(NonZeroU32::MIN), 1);
        assert!(accepts(&bucket, SECOND));
        assert!(!accepts(&bucket, SECOND / 2));
    }

    #[test]
    fn threads_share_one_limit() {
        let strict = strict(Counting::SlidingWindow, 50);
        let at = strict.origin + SECOND;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        strict.judge("key", at);
                    }
                });
            }
        });
        assert_eq!((strict.accepted(), strict.breaches()), (50, 150));
    }
}
