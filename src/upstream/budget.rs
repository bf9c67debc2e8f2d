//! How many of an upstream's requests may be retries.
//!
//! An upstream that answers nothing any more would otherwise get a multiple of its load just when
//! it can bear none of it.

use std::sync::atomic::{AtomicU32, Ordering};

/// Requests that earn one retry: retries are a fifth more at most.
const REQUESTS_A_RETRY: u32 = 5;
/// Retries that are saved up at most, and that there are at first, so that an upstream with few
/// requests can retry too.
const MOST_SAVED: u32 = 10;

/// The retries that an upstream has left.
#[derive(Debug)]
pub(super) struct Budget {
    /// In requests.
    saved: AtomicU32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { saved: AtomicU32::new(MOST_SAVED * REQUESTS_A_RETRY) }
    }
}

impl Budget {
    /// A request came. While nothing fails this only reads, so that cores do not fight over it.
    pub(super) fn earn(&self) {
        // Two at once may save one more than the most: that is near enough.
        if self.saved.load(Ordering::Relaxed) < MOST_SAVED * REQUESTS_A_RETRY {
            self.saved.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes a retry, if there is one left.
    pub(super) fn spend(&self) -> bool {
        let take = |saved: u32| saved.checked_sub(REQUESTS_A_RETRY);
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_retries_are_there_at_first_and_a_fifth_of_the_requests_after_that() {
        let budget = Budget::default();
        let spend = |requests: u32| {
            let retries = (0..requests).filter(|_| {
                budget.earn();
                budget.spend()
            });
            retries.count()
        };
        // Each earns a fifth of the next while the ten are spent.
        assert_eq!(spend(12), 12);
        assert_eq!(spend(1_000), 200);
    }

    #[test]
    fn no_more_than_ten_are_saved_up() {
        let budget = Budget::default();
        (0..1_000).for_each(|_| budget.earn());
        assert_eq!((0..1_000).filter(|_| budget.spend()).count(), 10);
    }
}
