//! Who has waited at an upstream, by name: the share that each client gets. Only requests that waited come here.

use foldhash::HashMap;
use parking_lot::Mutex;

/// How many clients of one upstream are told apart. Clients choose who they are, so their number is bounded.
const MOST_CALLERS: usize = 500;

/// Clients of one upstream, by the number of their flow.
#[derive(Debug, Default)]
pub(super) struct Callers(Mutex<HashMap<u64, Caller>>);

/// One client, as far as it has waited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// What a person calls it.
    pub name: Box<str>,
    /// How many of its requests left after waiting.
    pub served: u64,
    /// It was the nth to come.
    nth: u64,
}

impl Callers {
    /// A request of a client begins to wait.
    pub(super) fn waits(&self, flow: u64, name: impl FnOnce() -> Box<str>) {
        let mut callers = self.0.lock();
        if callers.contains_key(&flow) {
            return;
        }
        if callers.len() >= MOST_CALLERS {
            forget_half(&mut callers);
        }
        let nth = callers.values().map(|caller| caller.nth).max().unwrap_or(0) + 1;
        callers.insert(flow, Caller { name: name(), served: 0, nth });
    }

    /// A request of a client has waited and leaves.
    pub(super) fn served(&self, flow: u64) {
        if let Some(caller) = self.0.lock().get_mut(&flow) {
            caller.served += 1;
        }
    }

    /// Each client by the number of its flow.
    pub(super) fn all(&self) -> Vec<(u64, Caller)> {
        self.0.lock().iter().map(|(flow, caller)| (*flow, caller.clone())).collect()
    }
}

/// Forgets those who came first: amortized constant.
fn forget_half(callers: &mut HashMap<u64, Caller>) {
    let mut order: Vec<u64> = callers.values().map(|caller| caller.nth).collect();
    order.sort_unstable();
    let middle = order[order.len() / 2];
    callers.retain(|_, caller| caller.nth >= middle);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_counted_by_name_and_their_number_is_bounded() {
        let callers = Callers::default();
        for flow in 0..3 * MOST_CALLERS as u64 {
            callers.waits(flow, || flow.to_string().into());
            callers.served(flow);
            callers.waits(flow, || unreachable!("it is known"));
        }
        let all = callers.all();
        assert!(all.len() <= MOST_CALLERS);
        let last = 3 * MOST_CALLERS as u64 - 1;
        let (_, caller) = all.iter().find(|(flow, _)| *flow == last).expect("the last one is known");
        assert_eq!((&*caller.name, caller.served), (last.to_string().as_str(), 1));
    }
}
