//! Sessions that were ended while tokens of theirs are still in time. Asked on every request,
//! after the signature or the cache, and never overruled.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use super::store::Ended;

/// Enough that two cores seldom meet in one.
const SHARDS: usize = 64;
/// How many entries one visit of a shard may take out, so that no request waits for a sweep.
const SWEPT_AT_ONCE: usize = 256;

/// The revoked sessions, each until the last token of it has expired: that bounds them, nothing
/// else may take one out.
pub(super) struct Revoked {
    shards: Vec<RwLock<Shard>>,
    hasher: RandomState,
    /// How many there are over all shards: while there is none, asking costs one load.
    count: AtomicUsize,
}

#[derive(Default)]
struct Shard {
    until: HashMap<Arc<str>, u64>,
    /// The same by time, so that a sweep touches only what it takes out.
    order: BTreeSet<(u64, Arc<str>)>,
}

impl Revoked {
    /// None is revoked.
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
        }
    }

    /// Revokes a session until `until` (Unix seconds), from when on no token of it is in time. A
    /// later time that is known already stays.
    pub(super) fn insert(&self, sid: &str, until: u64) {
        let Some(mut shard) = self.shard(sid).map(write) else { return };
        let known = shard.until.get_key_value(sid).map(|(sid, until)| (sid.clone(), *until));
        let sid = match known {
            Some((_, known)) if known >= until => return,
            Some((sid, known)) => {
                shard.order.remove(&(known, sid.clone()));
                sid
            }
            None => {
                self.count.fetch_add(1, Ordering::Release);
                Arc::from(sid)
            }
        };
        shard.order.insert((until, sid.clone()));
        shard.until.insert(sid, until);
    }

    /// Whether the session was revoked.
    pub(super) fn contains(&self, sid: &str) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        self.shard(sid).is_some_and(|shard| {
            shard.read().unwrap_or_else(PoisonError::into_inner).until.contains_key(sid)
        })
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Ended> {
        let mut all = Vec::with_capacity(self.count.load(Ordering::Acquire));
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            let ended = |(sid, until): (&Arc<str>, &u64)| Ended { sid: sid.clone(), until: *until };
            all.extend(shard.until.iter().map(ended));
        }
        all
    }

    /// Takes out what no token in time at `now` (Unix seconds) can belong to.
    pub(super) fn sweep(&self, now: u64) {
        for shard in &self.shards {
            while self.sweep_some(shard, now) == SWEPT_AT_ONCE {}
        }
    }

    fn sweep_some(&self, shard: &RwLock<Shard>, now: u64) -> usize {
        let mut shard = write(shard);
        let mut swept = 0;
        while swept < SWEPT_AT_ONCE && shard.order.first().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, sid)) = shard.order.pop_first() {
                shard.until.remove(&sid);
            }
            swept += 1;
        }
        self.count.fetch_sub(swept, Ordering::Release);
        swept
    }

    fn shard(&self, sid: &str) -> Option<&RwLock<Shard>> {
        let hash = usize::try_from(self.hasher.hash_one(sid) % SHARDS as u64).unwrap_or(0);
        self.shards.get(hash)
    }
}

/// A shard is whole after each statement that could panic, so that poison means nothing.
fn write(shard: &RwLock<Shard>) -> RwLockWriteGuard<'_, Shard> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_revoked_until_its_last_token_has_expired() {
        let revoked = Revoked::new();
        assert!(!revoked.contains("s1"));
        revoked.insert("s1", 100);
        revoked.sweep(99);
        assert!(revoked.contains("s1"));
        assert!(!revoked.contains("s2"));
        revoked.sweep(100);
        assert!(!revoked.contains("s1"));
        assert_eq!(revoked.count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn revoking_again_never_shortens_it() {
        let revoked = Revoked::new();
        revoked.insert("s1", 100);
        revoked.insert("s1", 50);
        revoked.sweep(99);
        assert!(revoked.contains("s1"));
        revoked.insert("s1", 200);
        revoked.sweep(199);
        assert!(revoked.contains("s1"));
        revoked.sweep(200);
        assert!(!revoked.contains("s1"));
        assert_eq!(revoked.count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_sweep_takes_out_all_that_is_over_and_nothing_else() {
        let revoked = Revoked::new();
        for number in 0..40_000_u64 {
            revoked.insert(&format!("s{number}"), number % 10);
        }
        revoked.sweep(5);
        assert_eq!(revoked.count.load(Ordering::Relaxed), 16_000);
        assert!(!revoked.contains("s5"));
        assert!(revoked.contains("s6"));
    }
}
