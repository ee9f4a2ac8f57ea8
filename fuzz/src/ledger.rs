//! The state file: lines that somebody has changed are read or left out, and leaving out what matters no more changes
//! nothing.

use cooldown_proxy::pacing::{LedgerLook, look_into_ledger};

/// What every ledger of this version begins with, for some seed.
const HEADER: &[u8] = include_bytes!("../corpus/ledger/nothing");

/// Reads a file as it is, and as lines whose checksums were right.
pub fn run(data: &[u8]) {
    check(data);
    let mut whole = HEADER.to_vec();
    for line in data.split(|byte| *byte == b'\n') {
        // Lines may bring a sum, which is as good as none after a change.
        let json = line.split_at_checked(9).filter(|(sum, _)| sum.ends_with(b" ")).map_or(line, |(_, json)| json);
        whole.extend_from_slice(format!("{:08x} ", crc32fast::hash(json)).as_bytes());
        whole.extend_from_slice(json);
        whole.push(b'\n');
    }
    check(&whole);
}

fn check(bytes: &[u8]) {
    let Some(LedgerLook { keys, broken, used, limited, shorter }) = look_into_ledger(bytes) else { return };
    assert!(keys <= bytes.len() && broken <= bytes.len());
    assert_eq!(limited, 2 * keys, "limits hold whatever was written");
    let again = look_into_ledger(&shorter).expect("what is left of a ledger is one");
    assert_eq!(again.broken, 0, "what is broken is left out");
    assert!(again.keys <= keys);
    // A moment passes between the two looks, in which something may have become too old to matter.
    assert!(again.used <= used, "{} is used, not {used}", again.used);
}
