//! Who was answered how often, and how evenly.

/// Answers by client.
#[derive(Debug, Clone)]
pub struct Shares {
    answered: Vec<u64>,
    /// What each client had been answered when fairness began to count.
    head_start: Vec<u64>,
}

impl Shares {
    /// Nobody was answered yet.
    pub fn of(clients: usize) -> Self {
        Self { answered: vec![0; clients], head_start: vec![0; clients] }
    }

    /// A client was answered.
    pub fn answered(&mut self, client: usize) {
        self.answered[client] += 1;
    }

    /// From now on fairness counts: the first burst goes to whoever asks first.
    pub fn count_from_here(&mut self) {
        self.head_start.clone_from(&self.answered);
    }

    /// All answers, those of the head start included.
    pub fn total(&self) -> u64 {
        self.answered.iter().sum()
    }

    /// Answers since fairness counts.
    pub fn counted(&self) -> u64 {
        self.total() - self.head_start.iter().sum::<u64>()
    }

    /// Answers of each client, those of the head start included.
    pub fn by_client(&self) -> &[u64] {
        &self.answered
    }

    /// Jain's index since fairness counts.
    pub fn fairness(&self) -> f64 {
        let shares: Vec<u64> = self.answered.iter().zip(&self.head_start).map(|(all, before)| all - before).collect();
        jain(&shares)
    }
}

/// Jain's fairness index: `(Σx)² / (n · Σx²)`; 1 where nobody got anything.
pub fn jain(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|&share| share as f64).sum();
    let squares: f64 = shares.iter().map(|&share| (share as f64).powi(2)).sum();
    if squares == 0.0 { 1.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jain_is_one_for_equal_shares_and_one_nth_for_a_single_winner() {
        assert!((jain(&[7, 7, 7, 7]) - 1.0).abs() < 1e-9);
        assert!((jain(&[9, 0, 0, 0]) - 0.25).abs() < 1e-9);
        assert!((jain(&[0, 0]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_first_burst_does_not_count_for_fairness() {
        let mut shares = Shares::of(2);
        (0..20).for_each(|_| shares.answered(0));
        shares.count_from_here();
        (0..2).for_each(|client| shares.answered(client));
        assert!((shares.fairness() - 1.0).abs() < 1e-9);
        assert_eq!((shares.total(), shares.counted()), (22, 2));
    }
}
