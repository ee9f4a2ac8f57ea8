//! What a person may do to an upstream by hand.

use std::time::Duration;

use cooldown_pacer::Key;

use super::{Pacing, RouteLimits};

impl Pacing {
    /// Closes an upstream for this long, if it is not closed for longer.
    pub fn close(&self, route: usize, lasting: Duration) {
        let RouteLimits { line, lists, .. } = &self.routes[route];
        line.close(Key::whole(lists.upstream), lasting);
    }

    /// Opens an upstream, all its keys and all its models.
    pub fn open(&self, route: usize) {
        let RouteLimits { line, lists, .. } = &self.routes[route];
        line.open(&[lists.upstream, lists.key, lists.model, lists.pool]);
    }

    /// Pauses an upstream, so that whoever wants to go there waits; or lets it go on.
    pub fn set_paused(&self, route: usize, paused: bool) {
        let RouteLimits { line, lists, .. } = &self.routes[route];
        line.set_paused(Key::whole(lists.upstream), paused);
    }

    /// Whether an upstream is paused.
    pub fn is_paused(&self, route: usize) -> bool {
        let RouteLimits { line, lists, .. } = &self.routes[route];
        line.is_paused(Key::whole(lists.upstream))
    }
}
