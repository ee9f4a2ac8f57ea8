//! Who should hold how much of what there is: fair shares, where who wants less leaves the rest to the others.

/// What one instance wants of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    pub(super) want: u64,
    /// Less than this is of no use.
    pub(super) need: u64,
    pub(super) weight: u64,
}

/// What each should hold of `capacity`. What cannot be divided goes round by turns; who needs more than its share at once
/// gets it by turns too. When nobody is short, the rest is divided as well, up to `spare` for each.
pub(super) fn divide(capacity: u64, claims: &[Claim], spare: u64, turn: u64) -> Vec<u64> {
    let shares = fill(capacity, claims, turn, None);
    let short = |&nth: &usize| shares[nth] < claims[nth].need.min(claims[nth].want);
    if let Some(saver) = in_turn(claims.len(), turn).find(short) {
        return fill(capacity, claims, turn, Some(saver));
    }
    let wanted: u64 = claims.iter().map(|claim| claim.want).sum();
    if wanted > capacity || claims.is_empty() {
        return shares;
    }
    let more = ((capacity - wanted) / claims.len() as u64).min(spare);
    shares.into_iter().map(|share| share + more).collect()
}

/// Fair shares; `first` gets what it needs before anybody else gets anything.
fn fill(capacity: u64, claims: &[Claim], turn: u64, first: Option<usize>) -> Vec<u64> {
    let mut shares = vec![0; claims.len()];
    let mut open = vec![true; claims.len()];
    let mut rest = capacity;
    if let Some(first) = first {
        shares[first] = claims[first].need.min(rest);
        rest -= shares[first];
        open[first] = false;
    }
    while let Some(given) = satisfy(rest, claims, &mut open, &mut shares) {
        rest -= given;
    }
    let weights = open_weights(claims, &open);
    let mut left = rest;
    for nth in (0..claims.len()).filter(|&nth| open[nth]) {
        shares[nth] = rest * claims[nth].weight / weights;
        left -= shares[nth];
    }
    for nth in in_turn(claims.len(), turn).filter(|&nth| open[nth]) {
        let more = left.min(1);
        shares[nth] += more;
        left -= more;
    }
    shares
}

/// Gives all who want no more than their fair share what they want; how much that was, `None` if there is nobody.
fn satisfy(rest: u64, claims: &[Claim], open: &mut [bool], shares: &mut [u64]) -> Option<u64> {
    let weights = open_weights(claims, open);
    let modest = |nth: &usize| open[*nth] && claims[*nth].want * weights <= rest * claims[*nth].weight;
    let modest: Vec<usize> = (0..claims.len()).filter(modest).collect();
    for &nth in &modest {
        shares[nth] = claims[nth].want;
        open[nth] = false;
    }
    (!modest.is_empty()).then(|| modest.iter().map(|&nth| claims[nth].want).sum())
}

fn open_weights(claims: &[Claim], open: &[bool]) -> u64 {
    claims.iter().zip(open).filter(|(_, open)| **open).map(|(claim, _)| claim.weight).sum()
}

/// Everybody, from the one whose turn it is.
fn in_turn(count: usize, turn: u64) -> impl Iterator<Item = usize> {
    let first = turn.checked_rem(count as u64).unwrap_or(0) as usize;
    (0..count).map(move |nth| (first + nth) % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(want: u64, need: u64, weight: u64) -> Claim {
        Claim { want, need, weight }
    }

    #[test]
    fn who_wants_less_leaves_the_rest_to_the_others() {
        assert_eq!(divide(60, &[claim(5, 1, 1), claim(90, 1, 1), claim(90, 1, 1)], 60, 0), [5, 28, 27]);
        assert_eq!(divide(60, &[claim(90, 1, 9), claim(90, 1, 1)], 60, 0), [54, 6]);
    }

    #[test]
    fn what_nobody_wants_is_divided_evenly() {
        assert_eq!(divide(60, &[claim(0, 0, 1), claim(30, 1, 1)], 60, 0), [15, 45]);
        assert_eq!(divide(60, &[claim(0, 0, 1), claim(30, 1, 1)], 2, 0), [2, 32]);
        assert!(divide(60, &[], 60, 3).is_empty());
    }

    #[test]
    fn what_cannot_be_divided_goes_round() {
        let crowd = [claim(90, 1, 1); 3];
        let turns: Vec<_> = (0..3).map(|turn| divide(4, &crowd, 4, turn)).collect();
        assert_eq!(turns, [[2, 1, 1], [1, 2, 1], [1, 1, 2]]);
        let large = [claim(90, 50, 1); 3];
        let turns: Vec<_> = (0..3).map(|turn| divide(60, &large, 60, turn)).collect();
        assert_eq!(turns, [[50, 5, 5], [5, 50, 5], [5, 5, 50]]);
    }
}
