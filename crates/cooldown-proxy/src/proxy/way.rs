//! The ways that a request can take, each by one route and one key, and which of them it takes.

use std::sync::Arc;

use cooldown_pacer::{Ask, Cost, Unit};
use smallvec::SmallVec;

use super::arrival::Arrival;
use super::error::ProxyError;
use super::route::Matched;
use super::site::{Led, Route, Site};
use crate::pacing::{Credential, Keys, Line};
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
    cost: Cost,
    /// The tokens that it will probably take, where they count.
    pub estimate: Option<Estimate>,
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
        let conversation = arrival.call.as_ref().and_then(|call| call.conversation);
        let preferred = conversation.map_or(usize::MAX, |conversation| (conversation % all.len() as u64) as usize);
        Ok(Self { all, preferred, turned_away: false })
    }

    /// A way by its place.
    pub(super) fn get(&self, way: usize) -> &Way {
        &self.all[way]
    }

    /// Gives up a way; whether there is another one, without which it stays. Credentials of the caller's that did not lead
    /// anywhere on one way are not shown around on others.
    pub(super) fn give_up(&mut self, way: usize) -> bool {
        self.turned_away = true;
        let is_callers = self.all[way].key.is_none();
        let is_meant = |(place, other): &(usize, &mut Way)| *place == way || (is_callers && other.key.is_none());
        self.all.iter_mut().enumerate().filter(is_meant).for_each(|(_, way)| way.gone = true);
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
        let legs: SmallVec<[Leg; 2]> = self.usable(site, arrival);
        let first = legs.into_iter().map(|leg| (leg.line.foresee(&leg.ask(arrival)), leg.way != self.preferred, leg));
        let first = first.min_by_key(|(wait, apart, leg)| (*wait, *apart, leg.way));
        first.map_or_else(|| self.leg(site, arrival, 0), |(.., leg)| leg)
    }

    /// Legs by those ways that are worth a try: not spent or refused, not closed where another is open, not of last resort
    /// where another is left. If none is, whatever is left.
    fn usable(&self, site: &Site, arrival: &Arrival) -> SmallVec<[Leg; 2]> {
        let left = || self.all.iter().enumerate().filter(|(_, way)| !way.gone);
        let now = site.pacing.clock().now();
        let awake = |way: &Way| !site.routes[way.route].rests(way.key, now);
        let legs = |wanted: &dyn Fn(&Way) -> bool| -> SmallVec<[Leg; 2]> {
            let wanted = left().filter(|(_, way)| wanted(way));
            wanted.map(|(place, _)| self.leg(site, arrival, place)).collect()
        };
        let is_primary = |way: &Way| !site.routes[way.route].is_fallback();
        let primaries = legs(&|way: &Way| awake(way) && is_primary(way));
        let has_fallback = left().any(|(_, way)| !is_primary(way));
        let is_open = |leg: &Leg| !leg.line.is_closed(leg.keys.all());
        if !primaries.is_empty() && (!has_fallback || (!self.turned_away && primaries.iter().any(is_open))) {
            return primaries;
        }
        let awake = legs(&awake);
        if awake.is_empty() { legs(&|_| true) } else { awake }
    }

    /// What the request asks for on a way.
    fn leg(&self, site: &Site, arrival: &Arrival, way: usize) -> Leg {
        let Way { route: index, key, .. } = self.all[way];
        let route = &site.routes[index];
        let model = arrival.model().map(|model| route.own_name(model));
        let by = match key {
            Some(key) => Credential::Ours(key),
            None => arrival.credentials.map_or(Credential::None, Credential::Callers),
        };
        let keys = site.pacing.keys(index, by, model, arrival.head.uri.path(), &arrival.common);
        let estimate = estimate(route, arrival, model);
        let cost = estimate.map_or(Cost::ONE_REQUEST, |estimate| route.reserved(&estimate));
        Leg { way, line: Arc::clone(site.pacing.line(index)), keys, cost, estimate }
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
    let way = |key| Way { route, prefix, by_model, key, gone: false };
    match site.routes[route].keys() {
        0 => all.push(way(None)),
        keys => all.extend((0..keys).map(|key| way(Some(key)))),
    }
}

fn no_route(arrival: &Arrival) -> ProxyError {
    ProxyError::NoRoute {
        host: arrival.host().to_owned(),
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
pub(super) fn reserved(charge: &Charge, estimate: &Estimate) -> Cost {
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
pub(super) fn spent(charge: &Charge, usage: &Usage) -> Cost {
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
