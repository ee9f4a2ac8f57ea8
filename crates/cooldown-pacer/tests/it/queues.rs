//! R5–R7 between queues: requests whose limits differ share what they have in common.

use std::collections::BTreeMap;
use std::time::Duration;

use cooldown_pacer::{
    Admission, Ask, Departure, Flow, Instant, Key, Limit, LimitsId, Pacer, Settings, Spent, Ticket, Urgency, Weight,
};

use crate::world::{MILLI, Request, SECOND, World, at, pacer_with, request, requests_per, tokens_per, with_tokens};

fn deep() -> Settings {
    Settings { max_depth: 1_000_000, ..Settings::default() }
}

fn per_client(limits: LimitsId, own: LimitsId, client: u64) -> Ask {
    Ask::new(Flow(client), [Key::whole(limits), Key { limits: own, subject: client }])
}

/// How often each client was served in `rounds` departures: client 0 keeps `backlog` waiting, the others ask again a
/// moment after they were served.
fn serve(pacer: &mut Pacer, ask: &dyn Fn(u64) -> Ask, clients: u64, backlog: u64, rounds: usize) -> Vec<u32> {
    let mut served = vec![0; clients as usize];
    let mut owner = BTreeMap::new();
    let admit = |pacer: &mut Pacer, now: Instant, client: u64, owner: &mut BTreeMap<_, u64>| match pacer
        .admit(now, ask(client))
    {
        Admission::Go(permit) => pacer.settle(now, permit, Spent::AsEstimated),
        Admission::Wait(ticket) => drop(owner.insert(ticket, client)),
        Admission::Refuse(refusal) => panic!("{refusal:?}"),
    };
    for client in (0..clients).chain(std::iter::repeat_n(0, backlog as usize)).chain(0..clients) {
        admit(pacer, at(0), client, &mut owner);
    }
    for _ in 0..rounds {
        let now = pacer.next_due().expect("somebody waits");
        let mut out = Vec::new();
        pacer.due(now, &mut out);
        for departure in out {
            let Departure::Go(ticket, permit) = departure else { panic!("nobody has a budget") };
            let client = owner.remove(&ticket).expect("it waited");
            served[client as usize] += 1;
            pacer.settle(now, permit, Spent::AsEstimated);
            admit(pacer, now.after(Duration::from_millis(1)), client, &mut owner);
        }
    }
    served
}

#[test]
fn clients_with_limits_of_their_own_share_equally_however_long_their_backlog_is() {
    // All within one ageing interval: age is another rule.
    for backlog in [0, 50] {
        let shared = requests_per(10, 1000).with_burst(1).expect("a valid burst");
        let (mut pacer, limits) = pacer_with(deep(), &[shared.into()]);
        let own = pacer.add_limits(vec![requests_per(1000, 1000).into()]);
        let served = serve(&mut pacer, &|client| per_client(limits, own, client), 4, backlog, 150);
        let (least, most) = (served.iter().min().expect("four"), served.iter().max().expect("four"));
        assert!(most - least <= 4, "with a backlog of {backlog}: {served:?}");
    }
}

#[test]
fn small_requests_do_not_starve_a_big_one_behind_a_head_that_waits_for_something_else() {
    let tokens = tokens_per(1000, 1000).with_burst(1000).expect("a valid burst");
    let (mut pacer, limits) = pacer_with(deep(), &[tokens.into()]);
    let model = pacer.add_limits(vec![requests_per(1, 60_000).into()]);
    let free = pacer.add_limits(vec![requests_per(1000, 1000).into()]);
    let with_key = |mut request: Request, limits, subject| {
        request.ask.keys.push(Key { limits, subject });
        request
    };
    // A model whose minute is used up stands at the head of the line.
    let mut requests: Vec<Request> =
        (0..2).map(|nth| with_key(with_tokens(request(nth, 1, limits), 1), model, 1)).collect();
    requests.push(with_key(with_tokens(request(2, 2, limits), 200), free, 2));
    requests.push(with_key(with_tokens(request(3, 2, limits), 900), free, 2));
    requests.extend((0..600).map(|nth| with_key(with_tokens(request(4 + nth * 50 * MILLI, 3, limits), 100), free, 3)));
    let mut world = World::new(pacer, requests);
    world.run_until(30 * SECOND);
    let left = world.left_at(3);
    assert!(left.is_some_and(|left| left < 5 * SECOND), "{left:?}");
}

#[test]
fn age_that_changes_the_order_wakes_the_line() {
    let settings = Settings { ageing: Duration::from_secs(2), ..deep() };
    let tokens = tokens_per(1000, 60_000).with_burst(1000).expect("a valid burst");
    let (mut pacer, limits) = pacer_with(settings, &[tokens.into()]);
    let own = pacer.add_limits(vec![requests_per(1, 5_000).with_burst(1).expect("a valid burst").into()]);
    let urgent = |mut request: Request, level| {
        request.ask.urgency = Urgency::new(level).expect("a valid urgency");
        request
    };
    let with_own = |mut request: Request| {
        request.ask.keys.push(Key { limits: own, subject: 1 });
        request
    };
    // The third has to wait for its own limit until 5 s; then it stands behind the fourth, which it would delay, until it
    // has gained two levels on it.
    let requests = vec![
        with_tokens(request(0, 1, limits), 200),
        with_own(with_tokens(request(0, 2, limits), 1)),
        with_own(with_tokens(urgent(request(0, 2, limits), 3), 700)),
        with_tokens(urgent(request(5 * SECOND - 1, 3, limits), 1), 900),
    ];
    let mut world = World::new(pacer, requests);
    world.run();
    let left = world.left_at(2).expect("it leaves");
    assert!(left < 6 * SECOND + SECOND / 10, "{left}");
}

#[test]
fn requests_that_were_turned_away_together_return_in_the_order_of_their_age() {
    let rate = requests_per(1, 1000).with_burst(1).expect("a valid burst");
    let (pacer, limits) = pacer_with(deep(), &[rate.into()]);
    let mut requests: Vec<Request> = (0..4).map(|nth| request(10 + nth, 1, limits)).collect();
    requests.extend((0..3).map(|nth| {
        let mut returning = request(500 * MILLI + nth, 1, limits);
        returning.ask.since = Some(at(1 + nth));
        returning
    }));
    let mut world = World::new(pacer, requests);
    world.run();
    assert_eq!(world.left, [0, 4, 5, 6, 1, 2, 3]);
}

#[test]
fn whoever_takes_nothing_of_what_the_head_waits_for_may_pass_at_any_instant() {
    for nth in 1..2000 {
        let tokens = tokens_per(977, 7001).with_burst(100).expect("a valid burst");
        let (pacer, limits) = pacer_with(deep(), &[tokens.into(), requests_per(1000, 1000).into()]);
        let when = 1 + nth * 7919;
        let requests = vec![
            with_tokens(request(0, 1, limits), 100),
            with_tokens(request(1, 2, limits), 100),
            with_tokens(request(when, 3, limits), 0),
        ];
        let mut world = World::new(pacer, requests);
        world.run();
        assert_eq!(world.left_at(2), Some(when));
    }
}

#[test]
fn a_slot_that_is_free_is_not_taken_from_a_head_that_waits_for_its_rate() {
    let slots = Limit::Concurrency(std::num::NonZeroU32::new(1).expect("not zero"));
    let (mut pacer, limits) = pacer_with(deep(), &[slots]);
    let rate = pacer.add_limits(vec![requests_per(1, 1000).into()]);
    let limited = |mut request: Request| {
        request.ask.keys.push(Key::whole(rate));
        request
    };
    let requests = vec![
        limited(request(0, 1, limits)),
        limited(request(1, 1, limits)),
        Request { takes: 3 * SECOND, ..request(900 * MILLI, 2, limits) },
    ];
    let mut world = World::new(pacer, requests);
    world.run();
    assert!(world.left_at(1) < Some(SECOND + 10 * MILLI), "{:?}", world.left_at(1));
}

#[test]
fn a_backlog_of_its_own_does_not_make_a_client_older_than_its_equals() {
    let settings = Settings { max_depth: 100_000, ..Settings::default() };
    let (mut pacer, shared) = pacer_with(settings, &[requests_per(10, 1000).with_burst(1).expect("valid").into()]);
    let own = pacer.add_limits(vec![requests_per(1000, 1000).into()]);
    let ask = |at_nanos, client: u64| {
        let mut request = request(at_nanos, client, shared);
        request.ask.keys.push(Key { limits: own, subject: client });
        request
    };
    let mut requests: Vec<Request> = (0..600).map(|_| ask(0, 1)).collect();
    requests.push(ask(45 * SECOND, 2));
    let mut world = World::new(pacer, requests);
    world.run();
    let left = world.left_at(600).expect("it leaves");
    assert!(left < 45 * SECOND + SECOND / 2, "an equal waits for a turn, not for a backlog: {left}");
}

#[test]
fn a_new_key_inherits_no_debt_from_one_that_was_forgotten() {
    let (mut pacer, shared) = pacer_with(deep(), &[requests_per(10, 1000).into()]);
    let own = pacer.add_limits(vec![requests_per(1, 10_000).into()]);
    let heavy = Weight::new(1000).expect("a valid weight");
    let ask = |client: u64| match client {
        0 => Ask { weight: heavy, ..Ask::new(Flow(0), [Key::whole(shared)]) },
        _ => per_client(shared, own, client),
    };
    // Client 1 waits once for its own limit, and is served ten seconds ahead of its equals by that. Client 2 comes later.
    let (mut tickets, mut out, mut now, mut asked) = (BTreeMap::new(), Vec::new(), at(0), None);
    let mut coming: Vec<u64> = [1, 1].into_iter().chain(std::iter::repeat_n(0, 300)).collect();
    let served = loop {
        for client in coming.drain(..) {
            match pacer.admit(now, ask(client)) {
                Admission::Go(permit) => pacer.settle(now, permit, Spent::AsEstimated),
                Admission::Wait(ticket) => drop(tickets.insert(ticket, client)),
                Admission::Refuse(refusal) => panic!("{refusal:?}"),
            }
        }
        now = now.max(pacer.next_due().expect("somebody waits"));
        pacer.due(now, &mut out);
        let left: Vec<u64> = out.drain(..).map(|departure| leave(&mut pacer, now, departure, &mut tickets)).collect();
        if left.contains(&2) {
            break now;
        }
        if asked.is_none() && now >= at(21 * SECOND) {
            assert_eq!(pacer.keys_in_use(now), 1, "client 1 is forgotten");
            (asked, coming) = (Some(now), vec![2]);
        }
    };
    let waited = served.since(asked.expect("it asked"));
    assert!(waited <= Duration::from_millis(300), "client 2 waited for {waited:?}");
}

/// Whose request left.
fn leave(pacer: &mut Pacer, now: Instant, departure: Departure, tickets: &mut BTreeMap<Ticket, u64>) -> u64 {
    let Departure::Go(ticket, permit) = departure else { panic!("nobody has a budget") };
    pacer.settle(now, permit, Spent::AsEstimated);
    tickets.remove(&ticket).expect("it waited")
}
