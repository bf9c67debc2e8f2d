//! A session from login to its end, on a clock that is set.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::config::{App, AppKind, SigningKey, TokenSource};

const START: u64 = 1_800_000_000;
const TTL: u64 = 7200;
const MAX_AGE: u64 = 10_000;

struct World {
    sessions: Sessions,
    clock: Clock,
    metrics: Arc<Metrics>,
}

fn config(keys: &[(&str, &Secret<String>)]) -> config::Session {
    config::Session {
        ttl: Duration::from_secs(TTL),
        max_age: Duration::from_secs(MAX_AGE),
        store: config::Store::Memory,
        token_from: vec![TokenSource::Authorization],
        signing_keys: keys
            .iter()
            .map(|(id, secret)| SigningKey { id: (*id).to_owned(), secret: (*secret).clone() })
            .collect(),
    }
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
        let clock = Clock::set_to(START * 1000);
        let metrics = Arc::new(Metrics::new().unwrap());
        let apps = apps(&["wxapp_1", "wxapp_2"]);
        let sessions = Sessions::new(&config(keys), &apps, clock.clone(), metrics.clone()).unwrap();
        Self { sessions, clock, metrics }
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
            session_key: Secret::new("tiihtNczf5v6AKRyjwEUhQ==".to_owned()),
        };
        self.sessions.open(new).await.unwrap()
    }

    fn verify(&self, issued: &Issued) -> Result<Arc<Verified>, TokenError> {
        self.sessions.verify(issued.access_token.expose())
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
    let key = world.sessions.session_key(&verified).await.unwrap();
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
