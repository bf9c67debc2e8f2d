//! What is known of an address from its health check: so many answers in a row turn the verdict.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

const UNKNOWN: u8 = 0;
const WELL: u8 = 1;
const ILL: u8 = 2;

/// The verdict on one address. Only one health check writes it; requests read one atomic.
#[derive(Debug, Default)]
pub(super) struct Health {
    verdict: AtomicU8,
    /// Answers in a row that speak against the verdict.
    against: AtomicU32,
}

/// Whether an answer turned the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It did.
    Turned,
    /// All is as before.
    Same,
}

impl Health {
    /// Whether requests are to be kept away. Who was never asked counts as well.
    pub(super) fn is_ill(&self) -> bool {
        self.verdict.load(Ordering::Relaxed) == ILL
    }

    /// A good answer; `needed` in a row make it well.
    pub(super) fn good(&self, needed: u32) -> Turn {
        self.answer(WELL, needed)
    }

    /// A bad answer; `needed` in a row make it ill.
    pub(super) fn bad(&self, needed: u32) -> Turn {
        self.answer(ILL, needed)
    }

    /// Nobody asks any more.
    pub(super) fn forget(&self) {
        self.verdict.store(UNKNOWN, Ordering::Relaxed);
        self.against.store(0, Ordering::Relaxed);
    }

    fn answer(&self, says: u8, needed: u32) -> Turn {
        let verdict = self.verdict.load(Ordering::Relaxed);
        if verdict == says {
            self.against.store(0, Ordering::Relaxed);
            return Turn::Same;
        }
        let against = self.against.load(Ordering::Relaxed).saturating_add(1);
        if verdict != UNKNOWN && against < needed {
            self.against.store(against, Ordering::Relaxed);
            return Turn::Same;
        }
        self.verdict.store(says, Ordering::Relaxed);
        self.against.store(0, Ordering::Relaxed);
        // Who is well from the beginning is no news.
        if verdict == UNKNOWN && says == WELL { Turn::Same } else { Turn::Turned }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_decides_alone_and_then_it_takes_as_many_as_were_asked_for() {
        let health = Health::default();
        assert!(!health.is_ill());
        assert_eq!(health.bad(3), Turn::Turned);
        assert!(health.is_ill());
        assert_eq!(health.good(2), Turn::Same);
        assert!(health.is_ill());
        assert_eq!(health.good(2), Turn::Turned);
        assert!(!health.is_ill());
        assert_eq!([health.bad(3), health.bad(3)], [Turn::Same; 2]);
        assert_eq!(health.good(2), Turn::Same, "one good answer begins the count anew");
        assert_eq!([health.bad(3), health.bad(3)], [Turn::Same; 2]);
        assert!(!health.is_ill());
        assert_eq!(health.bad(3), Turn::Turned);
        health.forget();
        assert!(!health.is_ill());
    }
}
