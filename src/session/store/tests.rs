//! What every store promises, asked of every store.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::observe::IntGauge;
use tokio::task::JoinHandle;

use super::memory::Memory;
use super::redis::Redis;
use super::redis::tests::Server;
use super::sqlite::Sqlite;
use super::*;
use crate::clock::Clock;
use crate::config;

pub(in crate::session) const NOW: u64 = 1_800_000_000;

pub(super) fn gauge() -> IntGauge {
    IntGauge::new("active", "active").unwrap()
}

pub(super) fn record(openid: &str, appid: &str, sid: &str, ends_at: u64) -> Record {
    Record {
        sid: sid.into(),
        openid: OpenId::parse(openid).unwrap(),
        appid: AppId::parse(appid).unwrap(),
        unionid: None,
        session_key: vec![0, 1, 2, 255],
        scope: Vec::new(),
        created_at: ends_at.saturating_sub(1000),
        ends_at,
        last_token_expires_at: 10,
    }
}

/// A session of one user that ends a thousand seconds from now.
fn session(sid: &str) -> Record {
    record("openid_ann", "wxapp_1", sid, NOW + 1000)
}

/// A running store and what it told.
pub(super) struct Running {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) told: Arc<Mutex<BTreeSet<String>>>,
    pub(super) active: IntGauge,
    pub(super) clock: Clock,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    pub(super) fn start(backend: Arc<dyn Backend>, active: IntGauge, clock: Clock) -> Self {
        let told = Arc::new(Mutex::new(BTreeSet::new()));
        let (running, heard, time) = (backend.clone(), told.clone(), clock.clone());
        let task = tokio::spawn(async move {
            let ended = |ended: Vec<Ended>| {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.extend(ended.into_iter().map(|ended| ended.sid.to_string()));
            };
            let known = || {
                let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.iter().map(|sid| Ended { sid: (**sid).into(), until: NOW + 500 }).collect()
            };
            running.run(Tidings { clock: &time, ended: &ended, known: &known }).await;
        });
        Self { backend, told, active, clock, task }
    }

    pub(super) fn redis(config: config::Redis) -> Self {
        let (active, clock) = (gauge(), Clock::set_to(NOW * 1000));
        let redis = Redis::new(config, clock.clone(), active.clone());
        Self::start(Arc::new(redis), active, clock)
    }

    pub(super) fn sqlite(path: &std::path::Path) -> Self {
        let (active, clock) = (gauge(), Clock::set_to(NOW * 1000));
        let (sqlite, _) = Sqlite::open(path, active.clone(), NOW).unwrap();
        Self::start(Arc::new(sqlite), active, clock)
    }

    fn memory() -> Self {
        let (active, clock) = (gauge(), Clock::set_to(NOW * 1000));
        Self::start(Arc::new(Memory::new(NonZeroUsize::MAX, active.clone())), active, clock)
    }

    async fn counts(&self, sessions: i64) {
        eventually("the gauge follows", async || self.active.get() == sessions).await;
    }

    pub(super) fn was_told(&self, sid: &str) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).contains(sid)
    }

    async fn list(&self, limit: usize, openid: Option<&str>, appid: Option<&str>) -> Vec<String> {
        let mut query = Query {
            openid: openid.map(|text| OpenId::parse(text).unwrap()),
            appid: appid.map(|text| AppId::parse(text).unwrap()),
            appids: ["wxapp_1", "wxapp_2"].map(|text| AppId::parse(text).unwrap()).to_vec(),
            limit,
            cursor: None,
            now: NOW,
        };
        let mut sids = Vec::new();
        loop {
            let page = self.backend.list(&query).await.unwrap();
            assert!(page.records.len() <= limit);
            sids.extend(page.records.iter().map(|record| record.sid.to_string()));
            query.cursor = page.next_cursor;
            if query.cursor.is_none() {
                return sids;
            }
        }
    }
}

/// Waits until something holds; not for ever. A Sentinel whose machine stood still for two seconds
/// does nothing for half a minute after that (its TILT mode).
pub(in crate::session) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(90), waiting).await.is_ok(), "{what}");
}

/// Runs a test on each store, empty and running.
async fn on_each(test: impl AsyncFn(&Running)) {
    test(&Running::memory()).await;
    let folder = tempfile::tempdir().unwrap();
    test(&Running::sqlite(&folder.path().join("wxgate.db"))).await;
    let server = Server::start().await;
    let redis = Running::redis(server.config());
    eventually("connected", async || redis.backend.is_up()).await;
    test(&redis).await;
}

async fn keep(store: &Running, records: &[Record]) {
    for record in records {
        assert_eq!(store.backend.insert(record, None).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_session_is_found_as_it_was_kept() {
    on_each(async |store| {
        let mut kept = session("s1");
        kept.unionid = Some(UnionId::parse("union_ann").unwrap());
        kept.scope = vec!["phone".to_owned(), "more".to_owned()];
        keep(store, &[kept.clone(), session("s2")]).await;
        assert_eq!(store.backend.find("s1").await.unwrap(), Some(kept.clone()));
        assert_eq!(store.backend.find("s3").await.unwrap(), None);
        store.counts(2).await;
        let anew = Sealed { session_key: vec![9; 300], scope: vec!["phone".to_owned()] };
        let sealed =
            Record { scope: anew.scope.clone(), session_key: vec![9; 300], ..kept.clone() };
        assert!(store.backend.reseal(&kept, &anew).await.unwrap());
        assert_eq!(store.backend.find("s1").await.unwrap(), Some(sealed.clone()));
        assert!(!store.backend.reseal(&kept, &anew).await.unwrap(), "changed meanwhile");
        assert!(!store.backend.reseal(&session("s3"), &anew).await.unwrap());
        assert_eq!(store.backend.find("s1").await.unwrap(), Some(sealed));
        assert_eq!(store.backend.find("s3").await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_refresh_never_reaches_past_the_sessions_end_and_never_shortens() {
    on_each(async |store| {
        keep(store, &[session("s1")]).await;
        for (asked, noted) in [(NOW + 50, 50), (NOW + 40, 50), (NOW + 5000, 1000)] {
            let record = store.backend.extend("s1", asked).await.unwrap().unwrap();
            assert_eq!(record.last_token_expires_at, NOW + noted);
            assert_eq!(store.backend.find("s1").await.unwrap(), Some(record));
        }
        assert_eq!(store.backend.extend("s2", NOW + 50).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn an_ended_session_is_gone_and_revoked_until_its_last_token_is_over() {
    on_each(async |store| {
        keep(store, &[session("s1"), session("s2")]).await;
        store.backend.extend("s1", NOW + 700).await.unwrap();
        let ended = store.backend.end("s1", NOW + 100, Unknown::Revoke).await.unwrap().unwrap();
        assert_eq!(ended, Ended { sid: "s1".into(), until: NOW + 700 });
        let ended = store.backend.end("s2", NOW + 100, Unknown::Pass).await.unwrap().unwrap();
        assert_eq!(ended, Ended { sid: "s2".into(), until: NOW + 100 });
        for sid in ["s1", "s2", "s3"] {
            assert_eq!(store.backend.find(sid).await.unwrap(), None);
            assert_eq!(store.backend.extend(sid, NOW + 50).await.unwrap(), None);
            assert_eq!(store.backend.end(sid, NOW + 100, Unknown::Pass).await.unwrap(), None);
        }
        let lost = store.backend.end("s3", NOW + 100, Unknown::Revoke).await.unwrap();
        assert_eq!(lost, Some(Ended { sid: "s3".into(), until: NOW + 100 }));
        store.counts(0).await;
    })
    .await;
}

#[tokio::test]
async fn ending_all_spares_other_users_and_other_apps() {
    on_each(async |store| {
        keep(
            store,
            &[
                record("openid_ann", "wxapp_1", "s1", NOW + 1000),
                record("openid_ann", "wxapp_1", "s2", NOW + 1000),
                record("openid_ann", "wxapp_2", "s3", NOW + 1000),
                record("openid_bob", "wxapp_1", "s4", NOW + 1000),
            ],
        )
        .await;
        let ann = OpenId::parse("openid_ann").unwrap();
        let apps = ["wxapp_1", "wxapp_2"].map(|text| AppId::parse(text).unwrap());
        let [first, _] = &apps;
        let end = async |apps: &[AppId]| {
            let ended = store.backend.end_user(&ann, apps, NOW + 5).await.unwrap();
            let mut sids: Vec<_> = ended.iter().map(|ended| ended.sid.to_string()).collect();
            sids.sort();
            sids
        };
        assert_eq!(end(std::slice::from_ref(first)).await, ["s1", "s2"]);
        assert_eq!(end(&apps).await, ["s3"]);
        assert_eq!(end(&apps).await, [""; 0]);
        assert_eq!(store.list(10, None, None).await, ["s4"]);
        store.counts(1).await;
    })
    .await;
}

#[tokio::test]
async fn of_too_many_sessions_of_a_user_the_oldest_end() {
    on_each(async |store| {
        let most = NonZeroUsize::new(2);
        let at = |sid: &str, seconds| Record {
            created_at: NOW,
            ..record("openid_ann", "wxapp_1", sid, NOW + 500 + seconds)
        };
        let other = record("openid_ann", "wxapp_2", "other", NOW + 1000);
        store.backend.insert(&other, most).await.unwrap();
        // Neither their ids nor their ends say which came first: all began in one second, and a
        // reload that shortens max_age makes later ones end earlier.
        for (kept, oldest) in [
            (at("z", 10), None),
            (at("m", 10), None),
            (at("a", 10), Some("z")),
            (at("y", 10), Some("m")),
            (at("b", 5), Some("a")),
            (at("x", 4), Some("y")),
        ] {
            let ended = store.backend.insert(&kept, most).await.unwrap();
            let ended: Vec<_> = ended.iter().map(|ended| &*ended.sid).collect();
            assert_eq!(ended, Vec::from_iter(oldest), "{}", kept.sid);
        }
        store.counts(3).await;
        let most = NonZeroUsize::new(1);
        assert_eq!(store.backend.insert(&at("c", 20), most).await.unwrap().len(), 2);
        assert_eq!(store.list(10, Some("openid_ann"), Some("wxapp_1")).await, ["c"]);
    })
    .await;
}

#[tokio::test]
async fn a_list_names_every_session_once_whatever_the_page() {
    on_each(async |store| {
        let mut all = BTreeSet::new();
        for number in 0..150_u64 {
            let user = ["openid_ann", "openid_bob", "openid_eve"]
                .into_iter()
                .nth(usize::try_from(number % 3).unwrap())
                .unwrap();
            let app = if number % 2 == 0 { "wxapp_1" } else { "wxapp_2" };
            let sid = format!("s{number}");
            keep(store, &[record(user, app, &sid, NOW + 1000 + number / 50)]).await;
            all.insert(sid);
        }
        for limit in [1, 7, 150, 1000] {
            let listed = store.list(limit, None, None).await;
            assert_eq!(listed.len(), 150);
            assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), all);
        }
        let fits = |divisor, rest| {
            all.iter().filter(move |sid| {
                sid.trim_start_matches('s').parse::<u64>().unwrap() % divisor == rest
            })
        };
        let of_app: BTreeSet<_> = store.list(4, None, Some("wxapp_2")).await.into_iter().collect();
        assert!(of_app.iter().eq(fits(2, 1)));
        let of_user: BTreeSet<_> =
            store.list(4, Some("openid_bob"), None).await.into_iter().collect();
        assert!(of_user.iter().eq(fits(3, 1)));
        let both: BTreeSet<_> =
            store.list(4, Some("openid_bob"), Some("wxapp_2")).await.into_iter().collect();
        assert!(both.iter().eq(fits(6, 1)));
        assert_eq!(store.list(4, Some("openid_nobody"), None).await, [""; 0]);
        for cursor in ["garbage", "s1", "after.", "after.a b", "1", "64.0.", "-1.0.", "0.x.s1"] {
            for openid in [None, Some(OpenId::parse("openid_bob").unwrap())] {
                let query = Query {
                    openid,
                    appid: None,
                    appids: vec![AppId::parse("wxapp_1").unwrap()],
                    limit: 4,
                    cursor: Some(cursor.to_owned()),
                    now: NOW,
                };
                let page = store.backend.list(&query).await;
                assert_eq!(page, Err(StoreError::Cursor), "{cursor}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_jar_is_changed_by_whoever_read_it_last_and_leaves_with_its_session() {
    on_each(async |store| {
        keep(store, &[session("s1"), session("s2")]).await;
        let jar = async |sid: &str, upstream: &str| store.backend.jar(sid, upstream).await.unwrap();
        let put = async |sid: &str, sealed: &[u8], version| {
            let jar = Jar { sealed: sealed.to_vec(), version };
            store.backend.keep_jar(sid, "php", jar).await.unwrap()
        };
        assert_eq!(jar("s1", "php").await, Jar::default());
        assert!(put("s1", b"one", 0).await);
        assert!(!put("s1", b"late", 0).await);
        assert_eq!(jar("s1", "php").await, Jar { sealed: b"one".to_vec(), version: 1 });
        assert!(put("s1", b"\x00\xff", 1).await);
        assert!(!put("s1", b"later", 1).await);
        assert!(!put("s2", b"never read", 7).await);
        assert_eq!(jar("s1", "php").await, Jar { sealed: b"\x00\xff".to_vec(), version: 2 });
        assert_eq!(jar("s1", "java").await, Jar::default());
        assert_eq!(jar("s2", "php").await, Jar::default());
        store.backend.end("s1", NOW + 1, Unknown::Pass).await.unwrap();
        assert_eq!(jar("s1", "php").await, Jar::default());
        // A session that is over keeps nothing, and nobody has to try again.
        assert!(put("s1", b"late", 0).await);
        assert_eq!(jar("s1", "php").await, Jar::default());
    })
    .await;
}

#[tokio::test]
async fn parallel_writers_of_a_jar_lose_nothing() {
    on_each(async |store| {
        keep(store, &[session("s1")]).await;
        let add = |letter: u8| {
            let backend = store.backend.clone();
            async move {
                loop {
                    let mut jar = backend.jar("s1", "php").await.unwrap();
                    jar.sealed.push(letter);
                    if backend.keep_jar("s1", "php", jar).await.unwrap() {
                        break;
                    }
                }
            }
        };
        let tasks: Vec<_> = (b'a'..=b'z').map(|letter| tokio::spawn(add(letter))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        let mut letters = store.backend.jar("s1", "php").await.unwrap().sealed;
        letters.sort_unstable();
        assert!(letters.into_iter().eq(b'a'..=b'z'));
    })
    .await;
}

#[tokio::test]
async fn parallel_logins_and_ends_leave_exactly_what_was_not_ended() {
    on_each(async |store| {
        let one = |number: u32| {
            let backend = store.backend.clone();
            async move {
                let sid = format!("s{number}");
                backend.insert(&session(&sid), None).await.unwrap();
                if number.is_multiple_of(2) {
                    backend.end(&sid, NOW + 10, Unknown::Pass).await.unwrap().unwrap();
                }
            }
        };
        let tasks: Vec<_> = (0..100).map(|number| tokio::spawn(one(number))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(store.list(1000, None, None).await.len(), 50);
        store.counts(50).await;
    })
    .await;
}
