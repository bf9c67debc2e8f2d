//! Who holds a connection open for a session hears of its end: a kicked session's WebSocket is
//! closed, not only its next request refused.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

const SHARDS: usize = 64;

/// The sessions for which connections are open.
pub(super) struct Watches(Arc<Shards>);

struct Shards {
    /// A sender by sid: dropping it tells all that wait.
    shards: Vec<Mutex<HashMap<Arc<str>, watch::Sender<()>>>>,
    hasher: RandomState,
}

/// Held while a connection is open; dropping it forgets.
pub struct Watch {
    sid: Arc<str>,
    /// `None` only while it is dropped.
    end: Option<watch::Receiver<()>>,
    shards: Arc<Shards>,
}

impl Watches {
    /// Nobody watches.
    pub(super) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self(Arc::new(Shards { shards, hasher: RandomState::new() }))
    }

    /// Watches a session. Who asks looks afterwards whether it was ended before.
    pub(super) fn watch(&self, sid: &Arc<str>) -> Watch {
        let end = self.0.of(sid).map(|mut shard| {
            shard.entry(sid.clone()).or_insert_with(|| watch::Sender::new(())).subscribe()
        });
        Watch { sid: sid.clone(), end, shards: self.0.clone() }
    }

    /// Tells all that watch this session that it was ended.
    pub(super) fn end(&self, sid: &str) {
        drop(self.0.of(sid).and_then(|mut shard| shard.remove(sid)));
    }
}

impl Shards {
    fn of(&self, sid: &str) -> Option<MutexGuard<'_, HashMap<Arc<str>, watch::Sender<()>>>> {
        let index = usize::try_from(self.hasher.hash_one(sid) % SHARDS as u64).unwrap_or(0);
        Some(self.shards.get(index)?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Watch {
    /// Returns when the session was ended: by logout, a kick or a newer session, on any node. A
    /// token that merely expires ends nothing.
    pub async fn ended(&mut self) {
        if let Some(end) = &mut self.end {
            while end.changed().await.is_ok() {}
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(mut shard) = self.shards.of(&self.sid) else { return };
        // Of the session's present entry: this watch may be of one that was ended.
        let own = self.end.take();
        let last = shard.get(&self.sid).zip(own.as_ref()).is_some_and(|(entry, own)| {
            let present = entry.subscribe().same_channel(own);
            present && entry.receiver_count() == 1
        });
        if last {
            shard.remove(&self.sid);
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Watch").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_empty(watches: &Watches) -> bool {
        watches
            .0
            .shards
            .iter()
            .all(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).is_empty())
    }

    #[tokio::test]
    async fn all_that_watch_a_session_hear_of_its_end_and_nobody_else() {
        let watches = Watches::new();
        let (ann, bob) = (Arc::from("ann"), Arc::from("bob"));
        let (mut first, mut second) = (watches.watch(&ann), watches.watch(&ann));
        let mut other = watches.watch(&bob);
        watches.end("ann");
        first.ended().await;
        second.ended().await;
        tokio::select! {
            biased;
            () = other.ended() => unreachable!("bob was not ended"),
            () = tokio::task::yield_now() => {}
        }
    }

    #[tokio::test]
    async fn a_connection_that_closes_leaves_nothing_behind() {
        let watches = Watches::new();
        let sid = Arc::from("ann");
        let (first, second) = (watches.watch(&sid), watches.watch(&sid));
        drop(first);
        assert!(!is_empty(&watches));
        drop(second);
        assert!(is_empty(&watches));
        let ended = watches.watch(&sid);
        watches.end("ann");
        // One of the same session that is younger stays.
        let younger = watches.watch(&sid);
        drop(ended);
        assert!(!is_empty(&watches));
        drop(younger);
        assert!(is_empty(&watches));
    }
}
