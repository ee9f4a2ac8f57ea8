//! Who waits for a key, for those who look on.

use crate::ask::{Flow, Key};
use crate::line::Place;
use crate::pacer::Pacer;
use crate::time::Instant;

/// All requests that wait for one key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backlog {
    /// How many.
    pub waiting: usize,
    /// When the one that waits longest arrived.
    pub oldest: Option<Instant>,
    /// When the last of the longest flow will probably leave.
    pub last_leaves: Option<Instant>,
    /// Whose they are: each flow once, the longest first.
    pub flows: Vec<FlowBacklog>,
}

/// The requests of one flow that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowBacklog {
    /// Whose.
    pub flow: Flow,
    /// How many.
    pub waiting: usize,
}

impl Pacer {
    /// Who waits for a key. Looks at every flow that waits.
    pub fn backlog(&self, now: Instant, key: Key) -> Backlog {
        let now = self.last_now().max(now.as_nanos());
        let Some(place) = self.keys.place(key) else { return Backlog::default() };
        let queues = self.line.queues.iter().map(|(_, queue)| queue).filter(|queue| queue.keys.contains(&place));
        let mut backlog = Backlog::default();
        let mut oldest = u64::MAX;
        let mut longest: Option<(u32, Place)> = None;
        for queue in queues {
            oldest = oldest.min(queue.oldest.first().map_or(u64::MAX, |&(arrived, _)| arrived));
            for &(.., flow) in &queue.order {
                let state = &queue.flows[flow as usize];
                backlog.flows.push(FlowBacklog { flow: state.flow, waiting: state.waiting as usize });
                longest = longest.max(Some((state.waiting, state.tail)));
            }
        }
        backlog.waiting = backlog.flows.iter().map(|flow| flow.waiting).sum();
        backlog.oldest = (oldest < u64::MAX).then(|| Instant::from_nanos(oldest));
        backlog.last_leaves = longest.map(|(_, last)| Instant::from_nanos(self.predicted(now, last)));
        // A client's requests of several kinds stand in several queues.
        backlog.flows.sort_unstable_by_key(|flow| flow.flow);
        backlog.flows.dedup_by(|other, flow| {
            let same = other.flow == flow.flow;
            flow.waiting += if same { other.waiting } else { 0 };
            same
        });
        backlog.flows.sort_by_key(|flow| std::cmp::Reverse(flow.waiting));
        backlog
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Admission, Ask, Rate, Settings, Unit, Urgency};

    #[test]
    fn it_tells_who_waits_since_when_and_until_when() {
        let mut pacer = Pacer::new(Settings::default());
        let second = Duration::from_secs(1);
        let rate = Rate::new(Unit::Requests, 1, second).expect("a rate");
        let key = Key::whole(pacer.add_limits(vec![rate.into()]));
        let other = Key::whole(pacer.add_limits(vec![rate.into()]));
        assert_eq!(pacer.backlog(Instant::START, key), Backlog::default());
        let start = Instant::START.after(second);
        let urgent = Urgency::new(1).expect("an urgency");
        let asks = [(Flow(1), Urgency::default()), (Flow(2), Urgency::default()), (Flow(2), urgent)];
        for (nth, (flow, urgency)) in [(Flow(9), Urgency::default())].into_iter().chain(asks).enumerate() {
            let now = start.after(Duration::from_millis(nth as u64));
            let admission = pacer.admit(now, Ask { urgency, ..Ask::new(flow, [key]) });
            assert_eq!(matches!(admission, Admission::Go(_)), nth == 0);
        }
        assert!(matches!(pacer.admit(start, Ask::new(Flow(3), [other])), Admission::Go(_)));
        let backlog = pacer.backlog(start, key);
        assert_eq!(backlog.waiting, 3);
        assert_eq!(backlog.oldest, Some(start.after(Duration::from_millis(1))));
        assert!(backlog.last_leaves.is_some_and(|last| last >= start.after(second)));
        let of = |flow, waiting| FlowBacklog { flow, waiting };
        assert_eq!(backlog.flows, [of(Flow(2), 2), of(Flow(1), 1)]);
        assert_eq!(pacer.backlog(start, other).waiting, 0);
    }
}
