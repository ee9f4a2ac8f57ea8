//! L3: an upstream closes a key, and everybody else goes on.

use std::time::Duration;

use cooldown_pacer::{
    Admission, Ask, Departure, Flow, Instant, Key, Lesson, Limit, Observation, Pacer, Permit, Settings, Spent,
    Teaching, Ticket,
};

use crate::upstream::{Counting, Loop, Telling};
use crate::world::{MILLI, SECOND, at, requests_per};

/// A pacer with a key that its upstream may close.
fn teaching(limits: Vec<Limit>) -> (Pacer, Key) {
    let mut pacer = Pacer::new(Settings::default());
    let key = Key::whole(pacer.add_teaching_limits(limits, Teaching::Bold));
    (pacer, key)
}

fn go(pacer: &mut Pacer, now: u64, flow: u64, key: Key) -> Permit {
    match pacer.admit(at(now), Ask::new(Flow(flow), [key])) {
        Admission::Go(permit) => permit,
        other => panic!("{other:?}"),
    }
}

fn wait(pacer: &mut Pacer, now: u64, ask: Ask) -> Ticket {
    match pacer.admit(at(now), ask) {
        Admission::Wait(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

fn due(pacer: &mut Pacer, now: u64) -> Vec<(Ticket, Permit)> {
    let mut departures = Vec::new();
    pacer.due(at(now), &mut departures);
    let granted = departures.into_iter().map(|departure| match departure {
        Departure::Go(ticket, permit) => (ticket, permit),
        Departure::Refuse(_, refusal) => panic!("{refusal:?}"),
    });
    granted.collect()
}

fn closed(key: Key, until: u64) -> Observation {
    Observation::Closed { key, until: Some(at(until)) }
}

fn refused(key: Key) -> Observation {
    Observation::Refused { key, unit: None, until: None }
}

#[test]
fn a_closed_key_opens_when_its_upstream_said_and_everybody_keeps_place_and_age() {
    let (mut pacer, key) = teaching(Vec::new());
    let mut permit = go(&mut pacer, 0, 1, key);
    let lesson = pacer.observe(at(MILLI), &mut permit, closed(key, 5 * SECOND));
    assert_eq!(lesson, Some(Lesson::Closed { key, until: at(5 * SECOND) }));
    assert_eq!(pacer.closed(at(MILLI), key.limits).len(), 1);
    pacer.settle(at(MILLI), permit, Spent::Nothing);
    let second = wait(&mut pacer, 2 * MILLI, Ask::new(Flow(1), [key]));
    let first = wait(&mut pacer, 3 * MILLI, Ask { since: Some(at(0)), ..Ask::new(Flow(1), [key]) });
    assert_eq!(pacer.next_due(), Some(at(3 * MILLI)), "it may have been passed");
    assert!(due(&mut pacer, 3 * MILLI).is_empty());
    assert_eq!(pacer.next_due(), Some(at(5 * SECOND)));
    assert!(due(&mut pacer, 5 * SECOND - 1).is_empty());
    let probe = due(&mut pacer, 5 * SECOND);
    assert_eq!(probe.iter().map(|&(ticket, _)| ticket).collect::<Vec<_>>(), [first], "one goes, the oldest");
    assert!(pacer.closed(at(5 * SECOND), key.limits).is_empty());
    for (_, mut permit) in probe {
        pacer.observe(at(5 * SECOND + 1), &mut permit, Observation::Accepted);
        pacer.settle(at(5 * SECOND + 1), permit, Spent::AsEstimated);
    }
    assert_eq!(due(&mut pacer, 5 * SECOND + 1)[0].0, second);
}

#[test]
fn a_closed_key_delays_only_its_own_requests() {
    let mut pacer = Pacer::new(Settings::default());
    let limits = pacer.add_teaching_limits(Vec::new(), Teaching::Bold);
    let shared = Key::whole(pacer.add_limits(vec![requests_per(1000, 1000).into()]));
    let [one, other] = [1, 2].map(|subject| Key { limits, subject });
    let mut permit = go(&mut pacer, 0, 1, one);
    pacer.observe(at(1), &mut permit, closed(one, 60 * SECOND));
    for nth in 0..10 {
        wait(&mut pacer, 2, Ask::new(Flow(nth), [shared, one]));
    }
    for nth in 0..100 {
        let now = 3 + nth * 10 * MILLI;
        let free = match pacer.admit(at(now), Ask::new(Flow(1), [shared, other])) {
            Admission::Go(permit) => permit,
            Admission::Wait(ticket) => {
                let mut granted = due(&mut pacer, now);
                assert_eq!(granted.iter().map(|&(ticket, _)| ticket).collect::<Vec<_>>(), [ticket]);
                granted.remove(0).1
            }
            Admission::Refuse(refusal) => panic!("{refusal:?}"),
        };
        pacer.settle(at(now), free, Spent::AsEstimated);
    }
    pacer.settle(at(SECOND), permit, Spent::AsEstimated);
}

#[test]
fn predictions_and_refusals_know_of_the_cooldown() {
    let (mut pacer, key) = teaching(vec![requests_per(1, 1000).with_burst(1).expect("valid").into()]);
    let mut permit = go(&mut pacer, 0, 1, key);
    pacer.observe(at(1), &mut permit, closed(key, 30 * SECOND));
    let near = |instant: Instant, seconds: u64| instant.since(at(seconds * SECOND)) < Duration::from_millis(100);
    let foreseen = pacer.foresee(at(1), &Ask::new(Flow(1), [key]));
    assert!(near(foreseen, 30) && foreseen >= at(30 * SECOND), "{foreseen:?}");
    let tickets: Vec<Ticket> = (0..3).map(|_| wait(&mut pacer, 1, Ask::new(Flow(1), [key]))).collect();
    let last = pacer.predict(at(1), tickets[2]).expect("it waits");
    assert!(near(last, 32) && last >= at(32 * SECOND), "{last:?}");
    let hurried = Ask { latest: Some(at(20 * SECOND)), ..Ask::new(Flow(2), [key]) };
    match pacer.admit(at(1), hurried) {
        Admission::Refuse(refusal) => assert!(refusal.retry_after >= Duration::from_secs(30), "{refusal:?}"),
        other => panic!("{other:?}"),
    }
    pacer.settle(at(2), permit, Spent::AsEstimated);
}

#[test]
fn many_refusals_of_one_round_trip_are_one_closing_and_one_back_off() {
    let (mut pacer, key) = teaching(Vec::new());
    let mut permits: Vec<Permit> = (0..50).map(|nth| go(&mut pacer, 0, nth, key)).collect();
    let lessons: Vec<Option<Lesson>> =
        permits.iter_mut().map(|permit| pacer.observe(at(30 * MILLI), permit, refused(key))).collect();
    assert_eq!(lessons.iter().flatten().count(), 1);
    assert_eq!(pacer.closed(at(30 * MILLI), key.limits)[0].until, at(80 * MILLI));
    permits.into_iter().for_each(|permit| pacer.settle(at(30 * MILLI), permit, Spent::Nothing));
}

#[test]
fn after_a_cooldown_one_goes_and_then_at_most_twice_as_many_with_every_round_trip() {
    let latency = 100 * MILLI;
    let shut = Counting::Shut { until: 10 * SECOND };
    let mut upstream = Loop::new(shut, Telling::Waits, Teaching::Bold).with_latency(latency).with_clients(30, 10);
    upstream.run_until(12 * SECOND);
    let opened = upstream.attempts.iter().find(|&&(at, accepted)| at > SECOND && accepted).expect("it opens").0;
    let before = upstream.attempts.iter().filter(|&&(at, _)| at > SECOND && at < opened).count();
    assert_eq!(before, 0, "nobody knocks before the upstream said");
    for trip in 0..6 {
        let (from, to) = (opened + trip * latency, opened + (trip + 1) * latency);
        let departures = upstream.attempts.iter().filter(|&&(at, _)| at >= from && at < to).count();
        assert!(departures >= 1 && departures <= 1 << trip, "{departures} in round trip {trip}");
    }
}

#[test]
fn slow_answers_do_not_hold_the_line_after_a_cooldown() {
    let shut = Counting::Shut { until: 2 * SECOND };
    let mut upstream = Loop::new(shut, Telling::Waits, Teaching::Bold).with_thinking(10 * SECOND).with_clients(30, 10);
    upstream.run_until(9 * SECOND);
    let after = upstream.attempts.iter().filter(|&&(at, _)| at >= 2 * SECOND).count();
    assert!(after >= 30, "{after} have left after 7 s");
}

#[test]
fn a_probe_that_is_given_back_lets_the_next_one_go_at_once() {
    let (mut pacer, key) = teaching(Vec::new());
    let mut permit = go(&mut pacer, 0, 1, key);
    pacer.observe(at(1), &mut permit, closed(key, SECOND));
    pacer.settle(at(1), permit, Spent::Nothing);
    let tickets = [1, 2].map(|flow| wait(&mut pacer, 2, Ask::new(Flow(flow), [key])));
    let (first, probe) = due(&mut pacer, SECOND).remove(0);
    assert_eq!(first, tickets[0]);
    assert!(due(&mut pacer, SECOND + 1).is_empty(), "one at a time");
    pacer.settle(at(SECOND + 2), probe, Spent::Nothing);
    assert_eq!(due(&mut pacer, SECOND + 2)[0].0, tickets[1]);
}

#[test]
fn an_unknown_upstream_is_met_by_a_few_at_first() {
    let open = Counting::Shut { until: 0 };
    let mut upstream = Loop::new(open, Telling::Nothing, Teaching::Cautious).with_latency(100 * MILLI);
    upstream = upstream.with_clients(30, 30);
    upstream.run_until(2 * SECOND);
    let until = |end: u64| upstream.attempts.iter().filter(|&&(at, _)| at < end).count();
    assert_eq!(until(100 * MILLI), 8);
    assert_eq!(until(200 * MILLI), 8 + 16);
    assert!(until(500 * MILLI) > 900, "and once that went well by everybody");
}
