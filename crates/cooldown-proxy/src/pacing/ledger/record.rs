//! One line of the ledger: a checksum, and JSON.

use std::time::Duration;

use cooldown_pacer::{Noted, Rate, Unit};
use serde::{Deserialize, Serialize};

use super::moment::Moment;

/// The version of the format.
const VERSION: u32 = 1;
/// What a file is asked to hash, to see that it means the same as when it was written.
const PROBE: &str = "cooldown";

/// What makes a file a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// The version of the format.
    pub cooldown_ledger: u32,
    /// What subjects are hashed with.
    pub seed: u64,
    /// What [`PROBE`] is hashed to.
    pub probe: u64,
}

/// Something that is known of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub at: Moment,
    /// What the list of limits is for.
    pub list: String,
    /// What the key is counted for: a hash.
    pub key: u64,
    pub what: What,
}

/// What is known. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    /// What left, and may leave from now on.
    Left {
        unit: UnitName,
        keep: u64,
        #[serde(default, skip_serializing_if = "is_default")]
        afresh: bool,
        #[serde(default, skip_serializing_if = "is_default")]
        more: u64,
        #[serde(default, skip_serializing_if = "is_default")]
        left: u64,
        #[serde(default, skip_serializing_if = "is_default")]
        less: u64,
        #[serde(default, skip_serializing_if = "is_default")]
        ago: u64,
    },
    /// The key is closed for so long.
    Closed { lasting: u64 },
    /// The key, one of ours, is left alone for so long.
    Rests { lasting: u64 },
    /// The upstream told of a limit.
    Told { unit: UnitName, amount: u64, period: u64 },
    /// So many requests a period were found by trying to be what the upstream bears.
    Found { amount: u64, period: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum UnitName {
    Requests,
    Tokens,
    InputTokens,
    OutputTokens,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Header {
    pub(super) fn new(seed: u64) -> Self {
        Self { cooldown_ledger: VERSION, seed, probe: probe(seed) }
    }

    /// Whether this program understands what comes with it.
    pub(super) fn is_known(&self) -> bool {
        self.cooldown_ledger == VERSION && self.probe == probe(self.seed)
    }
}

fn probe(seed: u64) -> u64 {
    super::super::hash(&super::super::hasher(seed), PROBE.as_bytes())
}

impl What {
    /// An entry of a pacer. How long ago something left is rounded up by more than what instants are rounded by, so that it
    /// is found again, and something older at the worst.
    pub(super) fn left(unit: Unit, noted: &Noted) -> Self {
        let Noted { keep, afresh, more, left, less, ago } = *noted;
        let millis = |span: Duration| (span.as_nanos().div_ceil(1_000_000)) as u64;
        Self::Left {
            unit: unit.into(),
            keep: millis(keep),
            afresh,
            more,
            left,
            less,
            ago: if less == 0 { 0 } else { millis(ago) + 3 },
        }
    }

    /// A limit that the upstream told of.
    pub(super) fn told(rate: Rate) -> Self {
        let period = rate.period().as_millis() as u64;
        Self::Told { unit: rate.unit().into(), amount: rate.amount(), period }
    }

    /// A rate that was found by trying.
    pub(super) fn found(rate: Rate) -> Self {
        Self::Found { amount: rate.amount(), period: rate.period().as_millis() as u64 }
    }
}

impl From<Unit> for UnitName {
    fn from(unit: Unit) -> Self {
        match unit {
            Unit::Requests => Self::Requests,
            Unit::Tokens => Self::Tokens,
            Unit::InputTokens => Self::InputTokens,
            Unit::OutputTokens => Self::OutputTokens,
        }
    }
}

impl From<UnitName> for Unit {
    fn from(unit: UnitName) -> Self {
        match unit {
            UnitName::Requests => Self::Requests,
            UnitName::Tokens => Self::Tokens,
            UnitName::InputTokens => Self::InputTokens,
            UnitName::OutputTokens => Self::OutputTokens,
        }
    }
}

/// Appends a line.
pub(super) fn write(what: &impl Serialize, out: &mut Vec<u8>) {
    // Nothing here has keys that are no text, so it can be written.
    let json = serde_json::to_vec(what).unwrap_or_default();
    out.extend_from_slice(format!("{:08x} ", crc32fast::hash(&json)).as_bytes());
    out.extend_from_slice(&json);
    out.push(b'\n');
}

/// What a line without its end says; `None` if it is not whole.
pub(super) fn read<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Option<T> {
    let (sum, json) = line.split_at_checked(9)?;
    let sum = std::str::from_utf8(sum.strip_suffix(b" ")?).ok()?;
    let is_whole = u32::from_str_radix(sum, 16).ok()? == crc32fast::hash(json);
    if is_whole { serde_json::from_slice(json).ok() } else { None }
}
