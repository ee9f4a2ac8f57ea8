//! What a person may do to an upstream by hand. Where its limits are shared with other instances, it is done to it at all of
//! them.

use std::time::Duration;

use cooldown_pacer::Key;

use super::{Pacing, RouteLimits};

impl Pacing {
    /// Closes an upstream for this long, if it is not closed for longer.
    pub fn close(&self, route: usize, lasting: Duration) {
        let RouteLimits { line, lists, .. } = &self.routes[route];
        let key = Key::whole(lists.upstream);
        line.close(key, lasting);
        self.sharing.iter().for_each(|sharing| sharing.closed(key, lasting));
    }

    /// Opens an upstream, all its keys and all its models.
    pub fn open(&self, route: usize) {
        let RouteLimits { line, lists, .. } = &self.routes[route];
        let opened = line.open(&[lists.upstream, lists.key, lists.model, lists.pool]);
        self.sharing.iter().for_each(|sharing| opened.iter().for_each(|key| sharing.opened(*key)));
    }

    /// Pauses an upstream, so that whoever wants to go there waits; or lets it go on.
    pub fn set_paused(&self, route: usize, paused: bool) {
        let RouteLimits { line, lists, .. } = &self.routes[route];
        let key = Key::whole(lists.upstream);
        line.set_paused(key, paused);
        self.sharing.iter().for_each(|sharing| sharing.paused(key, paused));
    }

    /// Whether an upstream is paused.
    pub fn is_paused(&self, route: usize) -> bool {
        let RouteLimits { line, lists, .. } = &self.routes[route];
        line.is_paused(Key::whole(lists.upstream))
    }
}
