//! The ways that a request can take, each by one route and one key, and which of them it takes.

use std::sync::Arc;

use cooldown_pacer::{Ask, Cost, Instant, Unit};
use smallvec::SmallVec;

use super::arrival::Arrival;
use super::error::ProxyError;
use super::route::Matched;
use super::site::{Led, Route, Site};
use crate::pacing::{Concern, Credential, Keys, Line, Wanted};
use crate::provider::{Charge, Estimate, OutputReservation, TokenLimits, Usage};

/// A way to an upstream.
#[derive(Debug)]
pub(super) struct Way {
    /// The index of its route.
    pub route: usize,
    /// How many bytes at the start of the path are not the upstream's business.
    pub prefix: usize,
    /// Whether the request named no provider, and its model led here.
    pub by_model: bool,
    /// The index of the key among the route's own.
    pub key: Option<usize>,
    /// It turned this request away for good.
    pub gone: bool,
    /// The request has come to its upstream.
    pub tried: bool,
}

/// The ways that a request can take.
#[derive(Debug)]
pub(super) struct Ways {
    all: SmallVec<[Way; 1]>,
    /// The place of the one that its conversation prefers.
    preferred: usize,
    /// A way was closed to this request before, so that those of last resort are open.
    pub turned_away: bool,
}

/// What a request asks of its limits on one way.
#[derive(Debug)]
pub(super) struct Leg {
    /// The place of its way.
    pub way: usize,
    pub line: Arc<Line>,
    pub keys: Keys,
    /// The number of the configuration that they are from.
    pub configuration: u32,
    cost: Cost,
    /// The tokens that it will probably take, where they count.
    pub estimate: Option<Estimate>,
    /// Whether its way was shut when it was looked at.
    shut: Shut,
}

/// Why a way leads nowhere at present. Looked at before its wait is foreseen, so that a change in between is noticed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Shut {
    /// Its key is spent or refused.
    rests: bool,
    /// The upstream has closed something that concerns the request.
    closed: bool,
}

impl Ways {
    /// Finds all ways.
    ///
    /// # Errors
    /// When no route matches.
    pub(super) fn find(site: &Site, arrival: &Arrival) -> Result<Self, ProxyError> {
        let mut all = SmallVec::new();
        match arrival.led {
            Led::To(matched) => add(&mut all, site, matched, false),
            Led::ByModel { otherwise } => {
                let routes = arrival.model().map(|model| site.providers_of(model)).unwrap_or_default();
                for route in routes {
                    add(&mut all, site, Matched { route, prefix: 0 }, true);
                }
                match otherwise.filter(|_| all.is_empty()) {
                    Some(matched) => add(&mut all, site, matched, false),
                    None if all.is_empty() => return Err(no_route(arrival)),
                    None => {}
                }
            }
        }
        let conversation = arrival.call.as_ref().filter(|_| all.len() > 1).and_then(|call| call.conversation());
        let preferred = conversation.map_or(usize::MAX, |conversation| (conversation % all.len() as u64) as usize);
        Ok(Self { all, preferred, turned_away: false })
    }

    /// A way by its place.
    pub(super) fn get(&self, way: usize) -> &Way {
        &self.all[way]
    }

    /// Whether the request could take another way than the one that it is on.
    pub(super) fn are_several(&self) -> bool {
        self.all.len() > 1 && self.all.iter().filter(|way| !way.gone).count() > 1
    }

    /// Whether the request could take a way to another upstream than this route's.
    pub(super) fn lead_elsewhere(&self, route: usize) -> bool {
        self.all.iter().any(|way| way.route != route && !way.gone)
    }

    /// The request comes to an upstream; whether for the first time.
    pub(super) fn come_to(&mut self, route: usize) -> bool {
        let is_first = !self.all.iter().any(|way| way.route == route && way.tried);
        self.all.iter_mut().filter(|way| way.route == route).for_each(|way| way.tried = true);
        is_first
    }

    /// Gives up a way; whether there is another one, without which it stays. Credentials of the caller's that did not lead
    /// anywhere on one way are not shown around on others.
    pub(super) fn give_up(&mut self, way: usize) -> bool {
        let is_callers = self.all[way].key.is_none();
        self.give_up_where(way, |place, other| place == way || (is_callers && other.key.is_none()))
    }

    /// Gives up all ways to the upstream that a way leads to; whether there is another one, without which that way stays.
    pub(super) fn give_up_upstream(&mut self, way: usize) -> bool {
        let route = self.all[way].route;
        self.give_up_where(way, |_, other| other.route == route)
    }

    fn give_up_where(&mut self, way: usize, is_meant: impl Fn(usize, &Way) -> bool) -> bool {
        self.turned_away = true;
        for (place, other) in self.all.iter_mut().enumerate() {
            other.gone |= is_meant(place, other);
        }
        let is_any_left = self.all.iter().any(|way| !way.gone);
        self.all[way].gone = is_any_left;
        is_any_left
    }

    /// The leg by the way that can be gone first. Between equals the one that the conversation was on decides (its prompt
    /// is in a cache there), then the order of the configuration.
    pub(super) fn choose(&self, site: &Site, arrival: &Arrival) -> Leg {
        if let [_] = self.all.as_slice() {
            return self.leg(site, arrival, 0);
        }
        let usable = self.usable(site, arrival).into_iter();
        let first = usable.map(|leg| (leg.line.foresee(&leg.ask(arrival)), leg.way != self.preferred, leg));
        let first = first.min_by_key(|(wait, apart, leg)| (*wait, *apart, leg.way));
        first.map_or_else(|| self.leg(site, arrival, 0), |(.., leg)| leg)
    }

    /// Legs by those ways that are worth a try: not spent or refused, not out of reach, not closed where another is open,
    /// not of last resort where another is left. If none is, whatever is left.
    fn usable(&self, site: &Site, arrival: &Arrival) -> SmallVec<[Leg; 2]> {
        let lost = self.out_of_reach(site, site.pacing.clock().now());
        let left = self.all.iter().enumerate().filter(|(_, way)| !way.gone);
        let mut legs: SmallVec<[Leg; 2]> = left.map(|(place, _)| self.leg(site, arrival, place)).collect();
        legs.iter_mut().for_each(|leg| leg.shut = self.shut(site, leg));
        let is_awake = |leg: &Leg| !leg.shut.rests && !lost.contains(&self.get(leg.way).route);
        if legs.iter().any(is_awake) {
            legs.retain(|leg| is_awake(leg));
        }
        let is_primary = |leg: &Leg| !site.routes[self.get(leg.way).route].is_fallback();
        if !self.turned_away && legs.iter().any(|leg| is_primary(leg) && is_awake(leg) && !leg.shut.closed) {
            legs.retain(|leg| is_primary(leg));
        }
        legs
    }

    /// Whether a leg's way was shut after it was looked at, while there are others.
    pub(super) fn has_shut(&self, site: &Site, leg: &Leg) -> bool {
        let is_new = |before: Shut, now: Shut| (now.rests && !before.rests) || (now.closed && !before.closed);
        self.are_several() && is_new(leg.shut, self.shut(site, leg))
    }

    fn shut(&self, site: &Site, leg: &Leg) -> Shut {
        let way = self.get(leg.way);
        let rests = site.routes[way.route].rests(way.key, site.pacing.clock().now());
        Shut { rests, closed: leg.line.is_closed(leg.keys.all()) }
    }

    /// The routes whose upstreams could not be reached lately. Each is asked once: who asks at the end of its time tries it.
    fn out_of_reach(&self, site: &Site, now: Instant) -> SmallVec<[usize; 2]> {
        let mut routes: SmallVec<[usize; 2]> = self.all.iter().filter(|way| !way.gone).map(|way| way.route).collect();
        routes.dedup();
        routes.retain(|route| site.routes[*route].reach.is_lost(now));
        routes
    }

    /// What the request asks for on a way.
    fn leg(&self, site: &Site, arrival: &Arrival, way: usize) -> Leg {
        let Way { route: index, prefix, key, .. } = self.all[way];
        let route = &site.routes[index];
        let model = arrival.model().map(|model| route.own_name(model));
        let by = match key {
            Some(key) => Credential::Ours(key),
            None => arrival.credentials.map_or(Credential::None, Credential::Callers),
        };
        let wanted = Wanted { route: index, by, model, path: arrival.path_behind(prefix), common: &arrival.common };
        let Concern { keys, line, configuration } = site.pacing.concern(wanted, || arrival.asked());
        let estimate = estimate(route, arrival, model);
        let cost = estimate.map_or(Cost::ONE_REQUEST, |estimate| route.reserved(&estimate));
        Leg { way, line, keys, configuration, cost, estimate, shut: Shut::default() }
    }
}

impl Leg {
    /// What its line is asked.
    pub(super) fn ask(&self, arrival: &Arrival) -> Ask {
        Ask {
            keys: self.keys.all().into(),
            flow: arrival.caller.flow,
            weight: arrival.caller.weight,
            urgency: arrival.urgency,
            cost: self.cost,
            latest: Some(arrival.latest),
            since: arrival.returns.then_some(arrival.since),
        }
    }
}

fn add(all: &mut SmallVec<[Way; 1]>, site: &Site, matched: Matched, by_model: bool) {
    let Matched { route, prefix } = matched;
    let way = |key| Way { route, prefix, by_model, key, gone: false, tried: false };
    match site.routes[route].keys() {
        0 => all.push(way(None)),
        keys => all.extend((0..keys).map(|key| way(Some(key)))),
    }
}

fn no_route(arrival: &Arrival) -> ProxyError {
    ProxyError::NoRoute {
        host: String::from_utf8_lossy(arrival.head.host()).into_owned(),
        path: arrival.head.uri.path().to_owned(),
        model: arrival.model().map(str::to_owned),
    }
}

fn estimate(route: &Route, arrival: &Arrival, model: Option<&str>) -> Option<Estimate> {
    let (api, model) = (route.api.as_ref()?, model.unwrap_or_default());
    let reserve = arrival.call.as_ref()?.reserve(model, api.tokenizer(model))?;
    Some(api.estimator.estimate(&reserve))
}

/// A prompt is taken to be larger than its estimate by this part, and by so many tokens: what was too much returns when
/// the response tells, what was too little would have broken the limit by then.
const MARGIN: u64 = 16;
const LEAST_MARGIN: u64 = 8;

/// What a request takes until its response tells the truth: what its provider reserves, and at least what it will probably
/// be.
pub(crate) fn reserved(charge: &Charge, estimate: &Estimate) -> Cost {
    let Estimate { input, output, most_output } = *estimate;
    let input = input + input / MARGIN + LEAST_MARGIN;
    match charge.output {
        OutputReservation::MaxTokensOrModelMaximum | OutputReservation::MaxTokens => {
            charged(charge, input, most_output.unwrap_or(output))
        }
        OutputReservation::LargerOfMaxTokensAndInput => {
            let tokens = input.saturating_add(output).max(most_output.unwrap_or(0));
            cost(input, output).with(Unit::Tokens, tokens)
        }
        OutputReservation::AsProduced => charged(charge, input, output),
        OutputReservation::None => charged(charge, input, 0),
    }
}

/// What a response really took.
pub(crate) fn spent(charge: &Charge, usage: &Usage) -> Cost {
    let cached = if charge.counts_cached { 0 } else { usage.cached_input };
    charged(charge, usage.input.saturating_sub(cached), usage.output)
}

fn charged(charge: &Charge, input: u64, output: u64) -> Cost {
    match charge.tokens {
        TokenLimits::InputOnly => cost(input, output).with(Unit::Tokens, input),
        TokenLimits::Together | TokenLimits::Apart => cost(input, output),
    }
}

fn cost(input: u64, output: u64) -> Cost {
    let cost = Cost::ONE_REQUEST.with(Unit::InputTokens, input).with(Unit::OutputTokens, output);
    cost.with(Unit::Tokens, input.saturating_add(output))
}
