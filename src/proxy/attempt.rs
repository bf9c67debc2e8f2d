//! One attempt to have a request answered by a server, counted however it ends.

use std::time::Instant;

use crate::observe::Attempted;
use crate::upstream::Picked;

/// A server that was picked, and since when.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The server.
    pub(crate) picked: Picked,
    begun: Instant,
    counted: bool,
}

impl Attempt {
    /// Begins with the choice of a server at `begun`.
    pub(crate) fn at(picked: Picked, begun: Instant) -> Self {
        Self { picked, begun, counted: false }
    }

    /// Counts how it ended; the first word counts.
    pub(crate) fn count(&mut self, how: Attempted) {
        if !std::mem::replace(&mut self.counted, true) {
            self.picked.server.counts().attempted(how, self.begun.elapsed());
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.count(Attempted::Aborted);
    }
}
