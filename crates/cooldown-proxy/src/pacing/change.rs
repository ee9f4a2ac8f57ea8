//! What a reload changes in one line, and what new limits there know of the time before. See ADR 0012.

use cooldown_pacer::{Heritage, Key, Limit, LimitsId, Teaching};

use super::carried::{Carried, ListName, Owner};
use super::ledger::Memory;
use super::shared::Sharer;

/// What changes in one line, all of it at one instant.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub statements: Vec<Statement>,
    /// Requests may be concerned by other lists than before: whoever waits asks again. The number of that configuration.
    pub regroups: Option<u32>,
    /// Lists of this line that are not there any more.
    pub gone: Vec<LimitsId>,
    /// Who must know at once when somebody waits for limits that other instances use too.
    pub sharer: Option<Sharer>,
}

/// A list of limits as it holds from now on.
#[derive(Debug)]
pub(super) struct Statement {
    pub id: LimitsId,
    pub limits: Vec<Limit>,
    pub teaching: Option<Teaching>,
    pub legacy: Legacy,
    /// What an earlier process wrote down of its keys, by their subjects, where the list is new in this one.
    pub recalled: Vec<(u64, Memory)>,
    /// Whether other instances use it too.
    pub shared: bool,
}

/// What left before a list of limits was there and counts for it nevertheless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Legacy {
    /// Nothing, or only what its keys know themselves.
    None,
    /// What left by these keys.
    Of(Vec<Heritage>),
    /// The same, once a limit of the line has gone, which may have moved here, or was all that held until this one knew
    /// its own window. A limit that only comes beside others holds from now on.
    OfMoved(Vec<Heritage>),
}

impl Carried {
    /// What a list inherits. Where the same requests were counted is known exactly within a route or provider; beyond
    /// that, by everything that reached the same upstream.
    pub(super) fn legacy(&self, name: &ListName, served_by: &[Owner]) -> Legacy {
        match name {
            ListName::Upstream(owner) | ListName::Key(owner) => Legacy::Of(self.reached(owner)),
            ListName::Glob(owner, _) => match self.list(&ListName::Model(owner.clone())) {
                Some((_, models)) => Legacy::Of(vec![Heritage::SameSubject(*models)]),
                None => Legacy::Of(self.reached(owner)),
            },
            ListName::Model(_) | ListName::Pool(_) => Legacy::None,
            ListName::Domain(..) | ListName::DefaultOf(_) | ListName::SharedDefault | ListName::Client(_) => {
                let mut all: Vec<Heritage> = Vec::new();
                for heritage in served_by.iter().flat_map(|owner| self.reached(owner)) {
                    if !all.contains(&heritage) {
                        all.push(heritage);
                    }
                }
                Legacy::OfMoved(all)
            }
        }
    }

    /// All that reached the upstream of a route or provider, by whatever route or provider, but for those that use other
    /// API keys.
    fn reached(&self, owner: &Owner) -> Vec<Heritage> {
        let before = self.owners().filter(|before| before.leads_where(owner) && !self.uses_other_keys(before, owner));
        let lists = before.filter_map(|before| self.list(&ListName::Upstream(before.clone())));
        lists.map(|(_, limits)| Heritage::Key(Key::whole(*limits))).collect()
    }
}
