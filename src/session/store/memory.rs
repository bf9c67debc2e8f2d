//! Sessions in this process: nothing to install, lost at restart.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::observe::IntGauge;

use super::{Ended, Record};
use crate::identity::{AppId, Identity, OpenId};

const SHARDS: usize = 64;
/// Sessions in all. Past it the one that would end first makes room: its tokens stay good to
/// their own end, but cannot be refreshed, so that its user logs in again.
const MOST_SESSIONS: usize = 1_000_000;
/// How many sessions one visit of a shard may drop, so that no login waits for a sweep.
const SWEPT_AT_ONCE: usize = 256;

/// The sessions of one process, by user: all sessions of a user are in one shard.
pub(in crate::session) struct Memory {
    shards: Vec<Mutex<Shard>>,
    most_per_shard: usize,
    hasher: RandomState,
    active: IntGauge,
}

type User = (AppId, OpenId);

#[derive(Default)]
struct Shard {
    sessions: HashMap<Arc<str>, Record>,
    /// In order, so that the sessions of a user stand side by side and cost no list of their own.
    by_user: BTreeSet<(User, Arc<str>)>,
    by_end: BTreeSet<(u64, Arc<str>)>,
}

impl Shard {
    fn insert(&mut self, record: Record) {
        let user = (record.appid.clone(), record.openid.clone());
        self.by_user.insert((user, record.sid.clone()));
        self.by_end.insert((record.ends_at, record.sid.clone()));
        self.sessions.insert(record.sid.clone(), record);
    }

    fn remove(&mut self, sid: &str) -> Option<Record> {
        let record = self.sessions.remove(sid)?;
        self.by_end.remove(&(record.ends_at, record.sid.clone()));
        let user = (record.appid.clone(), record.openid.clone());
        self.by_user.remove(&(user, record.sid.clone()));
        Some(record)
    }

    fn of_user(&self, appid: &AppId, openid: &OpenId) -> Vec<Arc<str>> {
        let user = (appid.clone(), openid.clone());
        let first = (user.clone(), Arc::from(""));
        let of_user = self.by_user.range(first..).take_while(|(other, _)| *other == user);
        of_user.map(|(_, sid)| sid.clone()).collect()
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
    /// No sessions; `active` follows their number.
    pub(in crate::session) fn new(active: IntGauge) -> Self {
        Self::with_capacity(MOST_SESSIONS, active)
    }

    fn with_capacity(most: usize, active: IntGauge) -> Self {
        active.set(0);
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            most_per_shard: most.div_ceil(SHARDS).max(1),
            hasher: RandomState::new(),
            active,
        }
    }

    pub(super) fn insert(&self, record: Record) {
        let Some(mut shard) = self.shard(&record.openid) else { return };
        if shard.sessions.len() >= self.most_per_shard && shard.remove_first_by(u64::MAX).is_some()
        {
            self.active.dec();
        }
        shard.insert(record);
        self.active.inc();
    }

    pub(super) fn find(&self, who: &Identity, now: u64) -> Option<Record> {
        let shard = self.shard(&who.openid)?;
        let record = shard.sessions.get(&who.sid)?;
        (is_of(record, who) && now < record.ends_at).then(|| record.clone())
    }

    pub(super) fn extend(&self, who: &Identity, expires_at: u64, now: u64) -> Option<Record> {
        let mut shard = self.shard(&who.openid)?;
        let record = shard.sessions.get_mut(&who.sid)?;
        if !is_of(record, who) || now >= record.ends_at {
            return None;
        }
        let expires_at = expires_at.min(record.ends_at);
        record.last_token_expires_at = record.last_token_expires_at.max(expires_at);
        Some(record.clone())
    }

    pub(super) fn end(&self, who: &Identity) -> Option<Ended> {
        let mut shard = self.shard(&who.openid)?;
        shard.sessions.get(&who.sid).filter(|record| is_of(record, who))?;
        let record = shard.remove(&who.sid)?;
        self.active.dec();
        Some(record.into())
    }

    pub(super) fn end_all(&self, who: &Identity) -> Vec<Ended> {
        let Some(mut shard) = self.shard(&who.openid) else { return Vec::new() };
        let ended: Vec<_> = shard
            .of_user(&who.appid, &who.openid)
            .iter()
            .filter_map(|sid| shard.remove(sid))
            .map(Ended::from)
            .collect();
        self.active.sub(ended.len().try_into().unwrap_or(i64::MAX));
        ended
    }

    pub(super) fn sweep(&self, now: u64) {
        for shard in &self.shards {
            while self.sweep_some(shard, now) == SWEPT_AT_ONCE {}
        }
    }

    fn sweep_some(&self, shard: &Mutex<Shard>, now: u64) -> usize {
        let mut shard = lock(shard);
        let mut swept = 0;
        while swept < SWEPT_AT_ONCE && shard.remove_first_by(now).is_some() {
            swept += 1;
            self.active.dec();
        }
        swept
    }

    fn shard(&self, openid: &OpenId) -> Option<MutexGuard<'_, Shard>> {
        let index = usize::try_from(self.hasher.hash_one(openid) % SHARDS as u64).unwrap_or(0);
        self.shards.get(index).map(lock)
    }
}

/// A session is looked up by an id from a token, and answers only to the user in that token.
fn is_of(record: &Record, who: &Identity) -> bool {
    record.openid == who.openid && record.appid == who.appid
}

/// A shard is whole after each statement that could panic, so that poison means nothing.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn gauge() -> IntGauge {
        IntGauge::new("active", "active").unwrap()
    }

    fn who(openid: &str, appid: &str, sid: &str) -> Identity {
        Identity {
            openid: OpenId::parse(openid).unwrap(),
            appid: AppId::parse(appid).unwrap(),
            unionid: None,
            sid: sid.into(),
        }
    }

    fn record(who: &Identity, ends_at: u64) -> Record {
        Record {
            sid: who.sid.clone(),
            openid: who.openid.clone(),
            appid: who.appid.clone(),
            unionid: None,
            session_key: Secret::new("key".to_owned()),
            scope: Vec::new(),
            ends_at,
            last_token_expires_at: 10,
        }
    }

    #[test]
    fn a_session_answers_only_to_its_own_user_and_app() {
        let memory = Memory::new(gauge());
        let ann = who("openid_ann", "wxapp_1", "s1");
        memory.insert(record(&ann, 100));
        for other in [who("openid_bob", "wxapp_1", "s1"), who("openid_ann", "wxapp_2", "s1")] {
            assert!(memory.extend(&other, 20, 1).is_none());
            assert!(memory.end(&other).is_none());
        }
        assert!(memory.extend(&ann, 20, 1).is_some());
    }

    #[test]
    fn a_refresh_never_reaches_past_the_sessions_end() {
        let memory = Memory::new(gauge());
        let ann = who("openid_ann", "wxapp_1", "s1");
        memory.insert(record(&ann, 100));
        assert_eq!(memory.extend(&ann, 50, 1).unwrap().last_token_expires_at, 50);
        assert_eq!(memory.extend(&ann, 40, 1).unwrap().last_token_expires_at, 50);
        assert_eq!(memory.extend(&ann, 500, 99).unwrap().last_token_expires_at, 100);
        assert!(memory.extend(&ann, 500, 100).is_none());
    }

    #[test]
    fn ending_all_spares_other_users_and_other_apps() {
        let active = gauge();
        let memory = Memory::new(active.clone());
        for (openid, appid, sid) in [
            ("openid_ann", "wxapp_1", "s1"),
            ("openid_ann", "wxapp_1", "s2"),
            ("openid_ann", "wxapp_2", "s3"),
            ("openid_bob", "wxapp_1", "s4"),
        ] {
            memory.insert(record(&who(openid, appid, sid), 100));
        }
        let ended = memory.end_all(&who("openid_ann", "wxapp_1", "s1"));
        assert_eq!(
            ended,
            [Ended { sid: "s1".into(), until: 10 }, Ended { sid: "s2".into(), until: 10 }]
        );
        assert_eq!(active.get(), 2);
        assert!(memory.end(&who("openid_ann", "wxapp_2", "s3")).is_some());
        assert!(memory.end(&who("openid_bob", "wxapp_1", "s4")).is_some());
        assert!(memory.shards.iter().all(|shard| lock(shard).by_user.is_empty()));
    }

    #[test]
    fn sessions_leave_at_their_end_and_the_gauge_follows() {
        let active = gauge();
        let memory = Memory::new(active.clone());
        for number in 0..1000 {
            let sid = format!("s{number}");
            memory.insert(record(&who(&format!("openid_{number}"), "wxapp_1", &sid), number));
        }
        assert_eq!(active.get(), 1000);
        memory.sweep(499);
        assert_eq!(active.get(), 500);
        memory.sweep(u64::MAX);
        assert_eq!(active.get(), 0);
        assert!(memory.shards.iter().all(|shard| lock(shard).by_end.is_empty()));
    }

    #[test]
    fn a_full_store_drops_the_session_that_would_end_first() {
        let active = gauge();
        let memory = Memory::with_capacity(SHARDS * 2, active.clone());
        for (sid, ends_at) in [("s1", 300), ("s2", 200), ("s3", 100)] {
            memory.insert(record(&who("openid_ann", "wxapp_1", sid), ends_at));
        }
        assert_eq!(active.get(), 2);
        assert!(memory.end(&who("openid_ann", "wxapp_1", "s2")).is_none());
        assert!(memory.end(&who("openid_ann", "wxapp_1", "s3")).is_some());
    }
}
