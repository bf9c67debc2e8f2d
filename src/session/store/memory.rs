//! Sessions in this process: nothing to install, lost at restart.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::observe::IntGauge;

use super::{Backend, Ended, Jar, Page, Query, Record, Sealed, StoreError, Tidings, Unknown};
use crate::identity::{AppId, OpenId};

const SHARDS: usize = 64;
/// How many sessions one visit of a shard may drop, so that no login waits for a sweep.
const SWEPT_AT_ONCE: usize = 256;
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The sessions of one process.
pub(in crate::session) struct Memory {
    /// By sid.
    shards: Vec<Mutex<Shard>>,
    /// By user. Locked after, or without, a shard of the sessions; a sid that stands here may be
    /// gone there already.
    users: Vec<Mutex<Users>>,
    /// Sessions that were opened so far. Their order is told by this, not by a clock: many are
    /// opened within one second.
    opened: AtomicU64,
    most: NonZeroUsize,
    hasher: RandomState,
    active: IntGauge,
}

type User = (AppId, OpenId);
/// In order, so that the sessions of a user stand side by side and cost no list of their own. To
/// each which one it was of all that were opened.
type Users = BTreeMap<(User, Arc<str>), u64>;

#[derive(Default)]
struct Shard {
    /// In order, so that a list can go on where it stopped.
    sessions: BTreeMap<Arc<str>, Record>,
    by_end: BTreeSet<(u64, Arc<str>)>,
    jars: HashMap<Arc<str>, BTreeMap<String, Jar>>,
}

impl Shard {
    fn remove(&mut self, sid: &str) -> Option<Record> {
        let record = self.sessions.remove(sid)?;
        self.by_end.remove(&(record.ends_at, record.sid.clone()));
        self.jars.remove(sid);
        Some(record)
    }

    /// Drops the session that ends first, if it does so by `now`.
    fn remove_first_by(&mut self, now: u64) -> Option<Record> {
        let (ends_at, sid) = self.by_end.first()?;
        if *ends_at > now {
            return None;
        }
        let sid = sid.clone();
        self.remove(&sid)
    }
}

impl Memory {
    /// No sessions; `active` follows their number. Past `most` the one that would end first makes
    /// room: its tokens stay good to their own end, but cannot be refreshed, so that its user logs
    /// in again.
    pub(in crate::session) fn new(most: NonZeroUsize, active: IntGauge) -> Self {
        active.set(0);
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            users: (0..SHARDS).map(|_| Mutex::default()).collect(),
            opened: AtomicU64::new(0),
            most,
            hasher: RandomState::new(),
            active,
        }
    }

    /// Drops what is over at `now` (Unix seconds).
    pub(super) fn sweep(&self, now: u64) {
        for shard in &self.shards {
            while self.sweep_some(shard, now) == SWEPT_AT_ONCE {}
        }
    }

    fn sweep_some(&self, shard: &Mutex<Shard>, now: u64) -> usize {
        let mut shard = lock(shard);
        let mut swept = 0;
        while swept < SWEPT_AT_ONCE
            && let Some(record) = shard.remove_first_by(now)
        {
            self.left(&record);
            swept += 1;
        }
        swept
    }

    /// Drops sessions until there is room for another.
    fn make_room(&self) {
        let most = i64::try_from(self.most.get()).unwrap_or(i64::MAX);
        while self.active.get() >= most {
            let first = |shard: &Mutex<Shard>| lock(shard).by_end.first().map(|(at, _)| *at);
            let ends = self.shards.iter().filter_map(|shard| Some((first(shard)?, shard)));
            let Some((_, shard)) = ends.min_by_key(|(ends_at, _)| *ends_at) else { return };
            if let Some(record) = lock(shard).remove_first_by(u64::MAX) {
                self.left(&record);
            }
        }
    }

    fn remove(&self, sid: &str) -> Option<Record> {
        let record = self.shard(sid)?.remove(sid)?;
        self.left(&record);
        Some(record)
    }

    /// Strikes a session that is gone from the list of its user.
    fn left(&self, record: &Record) {
        self.active.dec();
        if let Some(mut users) = self.users_of(&record.openid) {
            let user = (record.appid.clone(), record.openid.clone());
            users.remove(&(user, record.sid.clone()));
        }
    }

    /// The sessions of a user, each behind which one it was of all that were opened.
    fn numbered(&self, appid: &AppId, openid: &OpenId) -> Vec<(u64, Arc<str>)> {
        let Some(users) = self.users_of(openid) else { return Vec::new() };
        let user = (appid.clone(), openid.clone());
        let first = (user.clone(), Arc::from(""));
        let of_user = users.range(first..).take_while(|((other, _), _)| *other == user);
        of_user.map(|((_, sid), number)| (*number, sid.clone())).collect()
    }

    fn sids_of(&self, appid: &AppId, openid: &OpenId) -> impl Iterator<Item = Arc<str>> {
        self.numbered(appid, openid).into_iter().map(|(_, sid)| sid)
    }

    /// Ends the oldest sessions of the user of `newest` until `most` are left.
    fn end_beyond(&self, most: NonZeroUsize, newest: &Record) -> Vec<Ended> {
        let mut by_age = self.numbered(&newest.appid, &newest.openid);
        let excess = by_age.len().saturating_sub(most.get());
        by_age.sort();
        by_age
            .into_iter()
            .take(excess)
            .filter_map(|(_, sid)| self.remove(&sid))
            .map(|record| Ended::of(record, newest.last_token_expires_at))
            .collect()
    }

    /// The ids in all shards that fit and follow `after`: as many as are asked for and one, the
    /// first of all among them.
    fn follow(&self, query: &Query, after: &str) -> Vec<Arc<str>> {
        let mut sids = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            let rest = shard.sessions.range(Arc::from(after)..).map(|(_, record)| record);
            let rest = rest.filter(|record| *record.sid > *after && query.matches(record));
            sids.extend(rest.take(query.limit + 1).map(|record| record.sid.clone()));
        }
        sids
    }

    fn of_user(&self, query: &Query, openid: &OpenId, after: &str) -> Vec<Arc<str>> {
        let appids = query.appids.iter();
        let sids = appids.flat_map(|appid| self.sids_of(appid, openid));
        let fits = |sid: &Arc<str>| {
            let shard = self.shard(sid);
            shard.is_some_and(|shard| {
                shard.sessions.get(sid).is_some_and(|record| query.matches(record))
            })
        };
        sids.filter(|sid| **sid > *after).filter(fits).collect()
    }

    fn shard(&self, sid: &str) -> Option<MutexGuard<'_, Shard>> {
        self.shards.get(self.index(sid)).map(lock)
    }

    fn users_of(&self, openid: &OpenId) -> Option<MutexGuard<'_, Users>> {
        self.users.get(self.index(openid)).map(lock)
    }

    fn index(&self, key: impl Hash) -> usize {
        usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0)
    }
}

#[async_trait]
impl Backend for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn insert(
        &self,
        record: &Record,
        most: Option<NonZeroUsize>,
    ) -> Result<Vec<Ended>, StoreError> {
        self.make_room();
        {
            let Some(mut shard) = self.shard(&record.sid) else { return Err(StoreError::Busy) };
            shard.by_end.insert((record.ends_at, record.sid.clone()));
            shard.sessions.insert(record.sid.clone(), record.clone());
        }
        self.active.inc();
        if let Some(mut users) = self.users_of(&record.openid) {
            let user = (record.appid.clone(), record.openid.clone());
            let number = self.opened.fetch_add(1, Ordering::Relaxed);
            users.insert((user, record.sid.clone()), number);
        }
        Ok(most.map_or_else(Vec::new, |most| self.end_beyond(most, record)))
    }

    async fn find(&self, sid: &str) -> Result<Option<Record>, StoreError> {
        Ok(self.shard(sid).and_then(|shard| shard.sessions.get(sid).cloned()))
    }

    async fn extend(&self, sid: &str, expires_at: u64) -> Result<Option<Record>, StoreError> {
        let Some(mut shard) = self.shard(sid) else { return Ok(None) };
        let Some(record) = shard.sessions.get_mut(sid) else { return Ok(None) };
        let expires_at = expires_at.min(record.ends_at);
        record.last_token_expires_at = record.last_token_expires_at.max(expires_at);
        Ok(Some(record.clone()))
    }

    async fn reseal(&self, was: &Record, sealed: &Sealed) -> Result<bool, StoreError> {
        let Some(mut shard) = self.shard(&was.sid) else { return Ok(false) };
        let Some(record) = shard.sessions.get_mut(&was.sid) else { return Ok(false) };
        let unchanged = record.session_key == was.session_key;
        if unchanged {
            record.session_key.clone_from(&sealed.session_key);
            record.scope.clone_from(&sealed.scope);
        }
        Ok(unchanged)
    }

    async fn end(
        &self,
        sid: &str,
        until: u64,
        unknown: Unknown,
    ) -> Result<Option<Ended>, StoreError> {
        let revoke = || (unknown == Unknown::Revoke).then(|| Ended { sid: sid.into(), until });
        Ok(self.remove(sid).map(|record| Ended::of(record, until)).or_else(revoke))
    }

    async fn end_user(
        &self,
        openid: &OpenId,
        appids: &[AppId],
        until: u64,
    ) -> Result<Vec<Ended>, StoreError> {
        let sids = appids.iter().flat_map(|appid| self.sids_of(appid, openid));
        let removed = sids.filter_map(|sid| self.remove(&sid));
        Ok(removed.map(|record| Ended::of(record, until)).collect())
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        let after = query.after()?;
        let mut sids = match &query.openid {
            Some(openid) => self.of_user(query, openid, after),
            None => self.follow(query, after),
        };
        sids.sort();
        let more = sids.len() > query.limit;
        sids.truncate(query.limit);
        let next_cursor = sids.last().filter(|_| more).map(|sid| Query::cursor_after(sid));
        let found = |sid: &Arc<str>| self.shard(sid)?.sessions.get(sid).cloned();
        Ok(Page { records: sids.iter().filter_map(found).collect(), next_cursor })
    }

    async fn jar(&self, sid: &str, upstream: &str) -> Result<Jar, StoreError> {
        let shard = self.shard(sid);
        let jar = shard.and_then(|shard| shard.jars.get(sid)?.get(upstream).cloned());
        Ok(jar.unwrap_or_default())
    }

    async fn keep_jar(&self, sid: &str, upstream: &str, jar: Jar) -> Result<bool, StoreError> {
        let Some(mut shard) = self.shard(sid) else { return Ok(true) };
        let Some(sid) = shard.sessions.get(sid).map(|record| record.sid.clone()) else {
            return Ok(true);
        };
        let kept = shard.jars.entry(sid).or_default().entry(upstream.to_owned()).or_default();
        if kept.version != jar.version {
            return Ok(false);
        }
        *kept = Jar { version: jar.version + 1, ..jar };
        Ok(true)
    }

    async fn run(&self, tidings: Tidings<'_>) {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.sweep(tidings.clock.unix_seconds());
        }
    }

    fn is_up(&self) -> bool {
        true
    }
}

/// A shard is whole after each statement that could panic, so that poison means nothing.
fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::tests::{gauge, record};
    use super::*;

    #[tokio::test]
    async fn sessions_leave_at_their_end_and_the_gauge_follows() {
        let active = gauge();
        let memory = Memory::new(NonZeroUsize::MAX, active.clone());
        for number in 0..1000 {
            let record = record("openid_ann", "wxapp_1", &format!("s{number}"), number);
            memory.insert(&record, None).await.unwrap();
        }
        assert_eq!(active.get(), 1000);
        memory.sweep(499);
        assert_eq!(active.get(), 500);
        memory.sweep(u64::MAX);
        assert_eq!(active.get(), 0);
        assert!(memory.shards.iter().all(|shard| lock(shard).by_end.is_empty()));
        assert!(memory.users.iter().all(|users| lock(users).is_empty()));
    }

    #[tokio::test]
    async fn a_full_store_drops_sessions_that_would_end_first_and_stays_within_its_bound() {
        let active = gauge();
        let memory = Memory::new(NonZeroUsize::new(100).unwrap(), active.clone());
        // Whoever came first ends last.
        for number in 0..1000 {
            let sid = format!("s{number}");
            let record = record("openid_ann", "wxapp_1", &sid, 5000 - number);
            memory.insert(&record, None).await.unwrap();
        }
        assert_eq!(active.get(), 100);
        let users: usize = memory.users.iter().map(|users| lock(users).len()).sum();
        assert_eq!(users, 100);
        for number in (0..99).chain([999]) {
            assert!(memory.find(&format!("s{number}")).await.unwrap().is_some(), "{number}");
        }
    }
}
