//! How much room the limits have that a person could name.

use std::sync::Arc;

use cooldown_pacer::Key;

use super::Pacing;
use super::line::Line;
use crate::telemetry::{RoomFigure, Scope};

/// A key with a name.
#[derive(Debug)]
pub(super) struct Named {
    pub scope: Scope,
    pub name: String,
    pub line: Arc<Line>,
    pub key: Key,
}

impl Pacing {
    /// What is left now of every limit whose key is known beforehand: those of routes, domains and clients. Limits per
    /// credentials, and per host behind a wildcard, have keys that only requests know.
    pub fn room(&self) -> Vec<RoomFigure> {
        self.named.iter().flat_map(Named::room).collect()
    }
}

impl Named {
    fn room(&self) -> impl Iterator<Item = RoomFigure> + '_ {
        self.line.room(self.key).into_iter().map(|room| RoomFigure {
            scope: self.scope,
            name: self.name.clone(),
            limit: room.limit.to_string(),
            room: room.left,
        })
    }
}
