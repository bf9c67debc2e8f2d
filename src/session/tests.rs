//! A session from login to its end, on a clock that is set.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use super::store::redis::tests::Server;
use super::store::tests::eventually;
use super::*;
use crate::config::{App, AppKind, SigningKey, TokenSource};

const START: u64 = 1_800_000_000;
const TTL: u64 = 7200;
const MAX_AGE: u64 = 10_000;

struct World {
    sessions: Arc<Sessions>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

fn config(keys: &[(&str, &Secret<String>)]) -> config::Session {
    config::Session {
        ttl: Duration::from_secs(TTL),
        max_age: Duration::from_secs(MAX_AGE),
        store: config::Store::Memory,
        on_store_error: OnStoreError::Deny,
        max_per_user: None,
        max_sessions: NonZeroUsize::MAX,
        token_from: vec![TokenSource::Authorization],
        signing_keys: keys
            .iter()
            .map(|(id, secret)| SigningKey { id: (*id).to_owned(), secret: (*secret).clone() })
            .collect(),
    }
}

fn backend() -> url::Url {
    url::Url::parse("https://shop.test/").unwrap()
}

fn apps(appids: &[&str]) -> Vec<App> {
    let app = |appid: &&str| App {
        appid: (*appid).to_owned(),
        secret: Secret::new("app".to_owned()),
        kind: AppKind::MiniProgram,
    };
    appids.iter().map(app).collect()
}

impl World {
    fn new(keys: &[(&str, &Secret<String>)]) -> Self {
        Self::with(&config(keys)).unwrap()
    }

    fn with(config: &config::Session) -> Result<Self, SessionError> {
        let clock = Clock::set_to(START * 1000);
        let metrics = Arc::new(Metrics::new().unwrap());
        let apps = apps(&["wxapp_1", "wxapp_2"]);
        let sessions = Sessions::new(config, &apps, clock.clone(), metrics.clone())?;
        Ok(Self { sessions: Arc::new(sessions), clock, metrics })
    }

    fn in_file(path: &Path, keys: &[(&str, &Secret<String>)]) -> Self {
        let store = config::Store::Sqlite(path.to_owned());
        Self::with(&config::Session { store, ..config(keys) }).unwrap()
    }

    /// One of several nodes, running and connected.
    async fn node(server: &Server, key: &Secret<String>) -> Self {
        let store = config::Store::Redis(server.config());
        let node = Self::with(&config::Session { store, ..config(&[("k1", key)]) }).unwrap();
        node.run();
        eventually("connected", async || node.sessions.store_is_up()).await;
        node
    }

    fn run(&self) {
        let sessions = self.sessions.clone();
        tokio::spawn(async move { sessions.run().await });
    }

    fn at(&self, seconds: u64) -> &Self {
        self.clock.set_unix_millis((START + seconds) * 1000);
        self
    }

    async fn login(&self, openid: &str, appid: &str) -> Issued {
        let new = NewSession {
            openid: OpenId::parse(openid).unwrap(),
            appid: AppId::parse(appid).unwrap(),
            unionid: None,
            session_key: Some(Secret::new("tiihtNczf5v6AKRyjwEUhQ==".to_owned())),
        };
        self.sessions.open(new).await.unwrap()
    }

    fn verify(&self, issued: &Issued) -> Result<Arc<Verified>, TokenError> {
        self.sessions.verify(issued.access_token.expose())
    }

    /// What an answer of the upstream `php` with this `Set-Cookie` does.
    async fn set_cookie(&self, issued: &Issued, line: &str) {
        let before = self.sessions.cookies(&issued.verified, "php").await.unwrap();
        let set = |jar: &mut CookieJar| jar.set(line.as_bytes(), &backend(), &[]);
        self.sessions.keep_cookies(&issued.verified, "php", before, set).await.unwrap();
    }

    /// The cookies of a request to the upstream `php`.
    async fn cookies(&self, issued: &Issued) -> Vec<String> {
        let cookies = self.sessions.cookies(&issued.verified, "php").await.unwrap();
        let pairs = cookies.jar.matching(&backend()).into_iter();
        pairs.map(|(name, value)| String::from_utf8([name, value].join(&b'=')).unwrap()).collect()
    }

    fn lookups(&self, result: &str) -> u64 {
        self.metrics.token_cache.with_label_values(&[result]).get()
    }
}

fn is_revoked<T: std::fmt::Debug>(answer: Result<T, SessionError>) -> bool {
    matches!(answer.unwrap_err(), SessionError::Token(TokenError::Revoked))
}

#[tokio::test]
async fn a_login_gives_a_token_that_says_who_it_was() {
    let world = World::new(&[]);
    let issued = world.login("openid_ann", "wxapp_1").await;
    assert_eq!(issued.expires_in, Duration::from_secs(TTL));
    let verified = world.verify(&issued).unwrap();
    assert_eq!(verified, issued.verified);
    assert_eq!(verified.identity.openid.as_str(), "openid_ann");
    assert_eq!(verified.identity.appid.as_str(), "wxapp_1");
    assert_eq!((verified.issued_at, verified.expires_at), (START, START + TTL));
    let key = world.sessions.session_key(&verified).await.unwrap().unwrap();
    assert_eq!(key.expose(), "tiihtNczf5v6AKRyjwEUhQ==");
}

#[tokio::test]
async fn every_login_opens_a_session_of_its_own() {
    let world = World::new(&[]);
    let first = world.login("openid_ann", "wxapp_1").await;
    let second = world.login("openid_ann", "wxapp_1").await;
    let (first, second) = (&first.verified.identity.sid, &second.verified.identity.sid);
    assert_ne!(first, second);
    assert_eq!(first.len(), 22);
    assert_eq!(world.metrics.sessions_active.get(), 2);
}

#[tokio::test]
async fn an_expired_token_is_refused_from_the_cache_too() {
    let world = World::new(&[]);
    let issued = world.login("openid_ann", "wxapp_1").await;
    assert!(world.verify(&issued).is_ok());
    assert!(world.at(TTL - 1).verify(&issued).is_ok());
    assert_eq!((world.lookups("hit"), world.lookups("miss")), (1, 1));
    assert_eq!(world.at(TTL).verify(&issued), Err(TokenError::Expired));
}

#[tokio::test]
async fn a_refreshed_token_is_new_and_the_old_one_lives_to_its_own_end() {
    let world = World::new(&[]);
    let old = world.login("openid_ann", "wxapp_1").await;
    let new = world.at(1000).sessions.refresh(&old.verified).await.unwrap();
    assert_ne!(old.access_token.expose(), new.access_token.expose());
    assert_eq!(old.verified.identity, new.verified.identity);
    assert!(world.at(TTL - 1).verify(&old).is_ok());
    assert_eq!(world.at(TTL).verify(&old), Err(TokenError::Expired));
    assert!(world.verify(&new).is_ok());
}

#[tokio::test]
async fn no_refresh_reaches_past_max_age() {
    let world = World::new(&[]);
    let first = world.login("openid_ann", "wxapp_1").await;
    let second = world.at(5000).sessions.refresh(&first.verified).await.unwrap();
    assert_eq!(second.verified.expires_at, START + MAX_AGE);
    assert_eq!(second.expires_in, Duration::from_secs(5000));
    let third = world.at(MAX_AGE - 1).sessions.refresh(&second.verified).await.unwrap();
    assert_eq!(third.expires_in, Duration::from_secs(1));
    assert!(is_revoked(world.at(MAX_AGE).sessions.refresh(&third.verified).await));
    assert!(is_revoked(world.sessions.session_key(&third.verified).await));
}

#[tokio::test]
async fn logout_ends_every_token_of_the_session_at_once() {
    let world = World::new(&[]);
    let old = world.login("openid_ann", "wxapp_1").await;
    let new = world.at(1000).sessions.refresh(&old.verified).await.unwrap();
    let other = world.login("openid_ann", "wxapp_1").await;
    assert!(world.verify(&old).is_ok() && world.verify(&new).is_ok());
    world.sessions.end(&old.verified).await.unwrap();
    assert_eq!(world.verify(&old), Err(TokenError::Revoked));
    assert_eq!(world.verify(&new), Err(TokenError::Revoked));
    assert!(is_revoked(world.sessions.refresh(&new.verified).await));
    assert!(is_revoked(world.sessions.session_key(&new.verified).await));
    assert!(world.verify(&other).is_ok());
    assert_eq!(world.metrics.sessions_active.get(), 1);
    // A sweep while a token of it is in time frees nothing.
    world.at(TTL).sessions.revoked.sweep(START + TTL);
    assert_eq!(world.verify(&new), Err(TokenError::Revoked));
    assert_eq!(world.at(TTL + 1000).verify(&new), Err(TokenError::Expired));
}

#[tokio::test]
async fn logout_of_all_ends_every_session_of_this_user_of_this_app() {
    let world = World::new(&[]);
    let first = world.login("openid_ann", "wxapp_1").await;
    let second = world.login("openid_ann", "wxapp_1").await;
    let elsewhere = world.login("openid_ann", "wxapp_2").await;
    let bob = world.login("openid_bob", "wxapp_1").await;
    world.sessions.end_all(&first.verified).await.unwrap();
    assert_eq!(world.verify(&first), Err(TokenError::Revoked));
    assert_eq!(world.verify(&second), Err(TokenError::Revoked));
    assert!(world.verify(&elsewhere).is_ok());
    assert!(world.verify(&bob).is_ok());
}

#[tokio::test]
async fn a_session_that_the_store_lost_can_still_be_ended() {
    let key = keygen(Algorithm::Hs256).unwrap();
    let old = World::new(&[("k1", &key)]);
    let issued = old.login("openid_ann", "wxapp_1").await;
    let restarted = World::new(&[("k1", &key)]);
    let verified = restarted.verify(&issued).unwrap();
    assert!(is_revoked(restarted.sessions.refresh(&verified).await));
    restarted.sessions.end(&verified).await.unwrap();
    assert_eq!(restarted.verify(&issued), Err(TokenError::Revoked));
    let sibling = old.at(10).sessions.refresh(&issued.verified).await.unwrap();
    assert_eq!(restarted.at(10).verify(&sibling), Err(TokenError::Revoked));
}

#[tokio::test]
async fn keys_rotate_by_reload_without_a_logout() {
    let (first, second) = (keygen(Algorithm::Hs256).unwrap(), keygen(Algorithm::EdDsa).unwrap());
    let apps = apps(&["wxapp_1"]);
    let world = World::new(&[("k1", &first)]);
    let old = world.login("openid_ann", "wxapp_1").await;
    assert!(world.verify(&old).is_ok());
    let both = config(&[("k2", &second), ("k1", &first)]);
    world.sessions.reload(&both, &apps).unwrap();
    let new = world.sessions.refresh(&old.verified).await.unwrap();
    assert!(world.verify(&old).is_ok() && world.verify(&new).is_ok());
    assert!(world.sessions.is_ours(old.access_token.expose()));
    world.sessions.reload(&config(&[("k2", &second)]), &apps).unwrap();
    // Verified before, but by a key that is no longer listed.
    assert_eq!(world.verify(&old), Err(TokenError::Invalid));
    assert!(!world.sessions.is_ours(old.access_token.expose()));
    assert!(world.verify(&new).is_ok());
    world.sessions.end(&new.verified).await.unwrap();
    world.sessions.reload(&both, &apps).unwrap();
    assert_eq!(world.verify(&old), Err(TokenError::Revoked));
}

#[tokio::test]
async fn a_reload_without_keys_keeps_the_one_made_at_start() {
    let world = World::new(&[]);
    let issued = world.login("openid_ann", "wxapp_1").await;
    world.sessions.reload(&config(&[]), &apps(&["wxapp_1"])).unwrap();
    assert!(world.verify(&issued).is_ok());
    assert!(World::new(&[]).verify(&issued).is_err());
}

#[tokio::test]
async fn a_token_of_an_app_that_is_no_longer_configured_is_refused() {
    let world = World::new(&[]);
    let issued = world.login("openid_ann", "wxapp_2").await;
    assert!(world.verify(&issued).is_ok());
    world.sessions.reload(&config(&[]), &apps(&["wxapp_1"])).unwrap();
    assert_eq!(world.verify(&issued), Err(TokenError::Invalid));
}

#[tokio::test]
async fn a_reload_with_a_bad_key_changes_nothing() {
    let world = World::new(&[]);
    let issued = world.login("openid_ann", "wxapp_1").await;
    let bad = config(&[("k1", &Secret::new("short".to_owned()))]);
    assert!(matches!(
        world.sessions.reload(&bad, &apps(&["wxapp_1"])),
        Err(SessionError::Key(KeyError::Short { bytes: 5, .. }))
    ));
    assert!(world.verify(&issued).is_ok());
}

#[tokio::test]
async fn what_is_over_is_taken_out_without_a_request() {
    let world = World::new(&[]);
    let ann = world.login("openid_ann", "wxapp_1").await;
    world.login("openid_bob", "wxapp_1").await;
    world.sessions.end(&ann.verified).await.unwrap();
    world.at(MAX_AGE);
    tokio::select! {
        () = world.sessions.run() => {}
        () = async {
            while world.metrics.sessions_active.get() > 0 {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    let sid = &ann.verified.identity.sid;
    assert!(!world.sessions.revoked.contains(sid));
}

#[tokio::test]
async fn the_oldest_session_of_a_user_with_too_many_is_ended() {
    let max_per_user = NonZeroUsize::new(2);
    let world = World::with(&config::Session { max_per_user, ..config(&[]) }).unwrap();
    let first = world.login("openid_ann", "wxapp_1").await;
    let second = world.at(1).login("openid_ann", "wxapp_1").await;
    let elsewhere = world.at(2).login("openid_ann", "wxapp_2").await;
    let third = world.at(3).login("openid_ann", "wxapp_1").await;
    assert_eq!(world.verify(&first), Err(TokenError::Revoked));
    for open in [&second, &third, &elsewhere] {
        assert!(world.verify(open).is_ok());
    }
}

#[tokio::test]
async fn sessions_and_their_ends_outlive_a_restart_with_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wxgate.db");
    let before = World::in_file(&path, &[]);
    let open = before.login("openid_ann", "wxapp_1").await;
    let ended = before.login("openid_bob", "wxapp_1").await;
    before.sessions.end(&ended.verified).await.unwrap();
    // The old one is not even closed, as after kill -9.
    let after = World::in_file(&path, &[]);
    assert!(after.verify(&open).is_ok());
    assert_eq!(after.verify(&ended), Err(TokenError::Revoked));
    let refreshed = after.sessions.refresh(&open.verified).await.unwrap();
    assert!(after.verify(&refreshed).is_ok());
    let key = after.sessions.session_key(&open.verified).await.unwrap().unwrap();
    assert_eq!(key.expose(), "tiihtNczf5v6AKRyjwEUhQ==");
    assert_eq!(after.metrics.sessions_active.get(), 1);
}

#[tokio::test]
async fn two_processes_that_share_a_file_hear_each_others_logouts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wxgate.db");
    let (old, new) = (World::in_file(&path, &[]), World::in_file(&path, &[]));
    new.run();
    let issued = old.login("openid_ann", "wxapp_1").await;
    assert!(new.verify(&issued).is_ok());
    old.sessions.end(&issued.verified).await.unwrap();
    eventually("heard", async || new.verify(&issued) == Err(TokenError::Revoked)).await;
}

#[tokio::test]
async fn no_secret_stands_in_the_file_in_clear() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::in_file(&folder.path().join("wxgate.db"), &[]);
    let issued = world.login("openid_ann", "wxapp_1").await;
    world.set_cookie(&issued, "PHPSESSID=0123456789").await;
    for name in ["wxgate.db", "wxgate.db-wal"] {
        let bytes = std::fs::read(folder.path().join(name)).unwrap();
        for clear in ["tiihtNczf5v6", "PHPSESSID", "0123456789", "sid\":"] {
            assert!(!bytes.windows(clear.len()).any(|window| window == clear.as_bytes()));
        }
    }
    assert_eq!(world.cookies(&issued).await, ["PHPSESSID=0123456789"]);
}

#[tokio::test]
async fn answers_that_come_at_once_lose_no_cookie() {
    let world = Arc::new(World::new(&[]));
    let issued = Arc::new(world.login("openid_ann", "wxapp_1").await);
    let before = world.sessions.cookies(&issued.verified, "php").await.unwrap();
    let setting = (0..20).map(|number| {
        let (world, issued, before) = (world.clone(), issued.clone(), before.clone());
        tokio::spawn(async move {
            let line = format!("c{number:02}=1");
            let set = |jar: &mut CookieJar| jar.set(line.as_bytes(), &backend(), &[]);
            world.sessions.keep_cookies(&issued.verified, "php", before, set).await.unwrap();
        })
    });
    futures_util::future::join_all(setting).await;
    let mut kept = world.cookies(&issued).await;
    kept.sort();
    let all: Vec<_> = (0..20).map(|number| format!("c{number:02}=1")).collect();
    assert_eq!(kept, all);
}

#[tokio::test]
async fn a_jar_moves_to_the_key_that_signs_when_it_is_read() {
    let (first, second) = (keygen(Algorithm::Hs256).unwrap(), keygen(Algorithm::EdDsa).unwrap());
    let world = World::new(&[("k1", &first)]);
    let issued = world.login("openid_ann", "wxapp_1").await;
    world.set_cookie(&issued, "PHPSESSID=1").await;
    let apps = apps(&["wxapp_1"]);
    world.sessions.reload(&config(&[("k2", &second), ("k1", &first)]), &apps).unwrap();
    assert_eq!(world.cookies(&issued).await, ["PHPSESSID=1"]);
    world.sessions.reload(&config(&[("k2", &second)]), &apps).unwrap();
    assert_eq!(world.cookies(&issued).await, ["PHPSESSID=1"]);
    world.set_cookie(&issued, "lang=zh").await;
    assert_eq!(world.cookies(&issued).await, ["PHPSESSID=1", "lang=zh"]);
}

#[tokio::test]
async fn a_refresh_moves_a_sealed_session_key_to_the_key_that_signs() {
    let (first, second) = (keygen(Algorithm::Hs256).unwrap(), keygen(Algorithm::EdDsa).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let world = World::in_file(&folder.path().join("wxgate.db"), &[("k1", &first)]);
    let moved = world.login("openid_ann", "wxapp_1").await;
    let left = world.login("openid_bob", "wxapp_1").await;
    let apps = apps(&["wxapp_1"]);
    world.sessions.reload(&config(&[("k2", &second), ("k1", &first)]), &apps).unwrap();
    let moved = world.sessions.refresh(&moved.verified).await.unwrap();
    world.sessions.reload(&config(&[("k2", &second)]), &apps).unwrap();
    assert!(world.sessions.session_key(&moved.verified).await.unwrap().is_some());
    // Whoever never refreshed has to log in again, and is told so.
    assert!(world.sessions.session_key(&left.verified).await.unwrap().is_none());
    assert_eq!(world.verify(&left), Err(TokenError::Invalid));
}

#[tokio::test]
async fn nodes_share_sessions_and_a_kick_on_one_reaches_the_other() {
    let server = Server::start().await;
    let key = keygen(Algorithm::Hs256).unwrap();
    let (one, other) = (World::node(&server, &key).await, World::node(&server, &key).await);
    let issued = one.login("openid_ann", "wxapp_1").await;
    assert!(other.verify(&issued).is_ok());
    let refreshed = other.sessions.refresh(&issued.verified).await.unwrap();
    assert!(one.verify(&refreshed).is_ok());
    let session_key = other.sessions.session_key(&issued.verified).await.unwrap().unwrap();
    assert_eq!(session_key.expose(), "tiihtNczf5v6AKRyjwEUhQ==");
    let mut times = Vec::new();
    for another in
        [one.login("openid_bob", "wxapp_1").await, one.login("openid_cid", "wxapp_1").await]
    {
        times.push(kicked(&one, &other, &another).await);
    }
    times.push(kicked(&one, &other, &issued).await);
    // A machine may stand still in one of them.
    let kept = times.iter().filter(|took| **took < Duration::from_secs(1)).count();
    assert!(kept >= 2, "{times:?}");
    assert_eq!(other.verify(&issued), Err(TokenError::Revoked));
    assert_eq!(other.verify(&refreshed), Err(TokenError::Revoked));
    assert!(is_revoked(other.sessions.refresh(&issued.verified).await));
    assert!(!one.sessions.kick(&issued.verified.identity.sid).await.unwrap());
}

/// How long it takes until a node knows that another has ended a session.
async fn kicked(one: &World, other: &World, issued: &Issued) -> Duration {
    let mut watch = other.sessions.watch(&issued.verified);
    let begin = std::time::Instant::now();
    assert!(one.sessions.kick(&issued.verified.identity.sid).await.unwrap());
    assert_eq!(one.verify(issued), Err(TokenError::Revoked));
    tokio::time::timeout(Duration::from_secs(30), watch.ended()).await.unwrap();
    begin.elapsed()
}

#[tokio::test]
async fn a_node_that_cannot_hear_obeys_on_store_error() {
    let server = Server::start().await;
    let key = keygen(Algorithm::Hs256).unwrap();
    let issued = World::node(&server, &key).await.login("openid_ann", "wxapp_1").await;
    for (on_store_error, judged) in
        [(OnStoreError::Deny, Some(TokenError::Unreadable)), (OnStoreError::Allow, None)]
    {
        let store = config::Store::Redis(server.config());
        let config = config::Session { store, on_store_error, ..config(&[("k1", &key)]) };
        // Not run: it never connects.
        let deaf = World::with(&config).unwrap();
        assert!(!deaf.sessions.store_is_up());
        assert_eq!(deaf.verify(&issued).err(), judged);
        assert_eq!(deaf.sessions.verify("a.b.c").err(), Some(TokenError::Invalid));
        let refreshed = deaf.sessions.refresh(&issued.verified).await;
        assert!(matches!(refreshed, Err(SessionError::Store(StoreError::Disconnected))));
        let errors = deaf.metrics.store_errors.with_label_values(&["redis", "extend"]);
        assert_eq!(errors.get(), 1);
    }
}

#[tokio::test]
async fn redis_without_a_configured_key_is_an_error() {
    let server = Server::start().await;
    let store = config::Store::Redis(server.config());
    let made = World::with(&config::Session { store, ..config(&[]) });
    assert!(matches!(made, Err(SessionError::Key(KeyError::Needed))));
}

#[tokio::test]
async fn an_operator_lists_finds_and_throws_out() {
    let world = World::new(&[]);
    let ann = world.login("openid_ann", "wxapp_1").await;
    let too = world.login("openid_ann", "wxapp_2").await;
    let bob = world.login("openid_bob", "wxapp_1").await;
    let filter = Filter { openid: None, appid: None, limit: 2, cursor: None };
    let first = world.sessions.list(filter.clone()).await.unwrap();
    let cursor = first.next_cursor.clone();
    let second = world.sessions.list(Filter { cursor, ..filter.clone() }).await.unwrap();
    assert_eq!((first.sessions.len(), second.sessions.len()), (2, 1));
    assert!(second.next_cursor.is_none());
    let sid = &bob.verified.identity.sid;
    let shown = world.sessions.get(sid).await.unwrap().unwrap();
    assert_eq!(shown.openid.as_str(), "openid_bob");
    assert_eq!((shown.created_at, shown.expires_at), (START, START + MAX_AGE));
    let user = OpenId::parse("openid_ann").unwrap();
    assert_eq!(world.sessions.kick_user(&user).await.unwrap(), 2);
    assert_eq!(world.verify(&ann), Err(TokenError::Revoked));
    assert_eq!(world.verify(&too), Err(TokenError::Revoked));
    assert!(world.verify(&bob).is_ok());
    let filter = Filter { openid: Some(user), ..filter };
    assert!(world.sessions.list(filter).await.unwrap().sessions.is_empty());
    assert!(world.at(MAX_AGE).sessions.get(sid).await.unwrap().is_none());
}

#[tokio::test]
async fn whoever_watches_a_session_that_was_ended_before_hears_it_at_once() {
    let world = World::new(&[]);
    let issued = world.login("openid_ann", "wxapp_1").await;
    world.sessions.end(&issued.verified).await.unwrap();
    world.sessions.watch(&issued.verified).ended().await;
}
