//! The custom login state: who is logged in, the tokens that prove it, and their end.
//!
//! A request is judged by its token and the list of revoked sessions alone, in memory and
//! without waiting. Login, refresh and logout ask the store.

mod cookie_date;
mod cookies;
mod jar;
mod key_file;
mod keys;
mod list;
mod offline;
mod revoked;
mod secrets;
mod store;
mod token;
mod vault;
mod verified;
mod visit;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::OnceCell;

use crate::clock::Clock;
use crate::config::{self, OnStoreError};
use crate::identity::{AppId, Identity, InvalidIdentity, OpenId, UnionId};
use crate::observe::Metrics;
use crate::secret::Secret;

pub use cookies::Cookies;
pub use jar::CookieJar;
pub use keys::{Algorithm, KeyError, keygen};
pub use list::{Filter, Listed, Listing};
pub use offline::{Keys, offline};
pub use secrets::Keyed;
pub use store::StoreError;
pub use token::{TokenError, Verified};
pub use visit::Visit;
pub use watch::Watch;

use keys::KeySet;
use revoked::Revoked;
use secrets::Secrets;
use store::memory::Memory;
use store::redis::Redis;
use store::sqlite::Sqlite;
use store::{Backend, Ended, Record, Sealed, Store, Tidings, Unknown};
use token::Rules;
use verified::VerifiedTokens;
use visit::Visits;
use watch::Watches;

/// How often what is over is taken out of memory.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How much later than it was asked for a token may be made: no store is waited for longer.
const MAKING_TAKES: Duration = Duration::from_secs(10);

/// Why a session could not be opened or refreshed, or the room not be built.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The token, or the session behind it, is not good any more.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A signing key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A configured appid is none.
    #[error("an appid of [[apps]]: {0}")]
    App(#[from] InvalidIdentity),
    /// The system gave no random bytes for a session's id.
    #[error("the system gave no random bytes: {0}")]
    Random(getrandom::Error),
    /// The first signing key does not sign.
    #[error("the signing key does not sign")]
    Signing,
    /// The session store did not do what was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A login that WeChat confirmed.
#[derive(Debug)]
pub struct NewSession {
    /// The user.
    pub openid: OpenId,
    /// The app that the user logged in to; a configured one.
    pub appid: AppId,
    /// The user over all apps, where WeChat gave one.
    pub unionid: Option<UnionId>,
    /// WeChat's key for this login, base64 as WeChat wrote it; a browser's login has none.
    pub session_key: Option<Secret<String>>,
}

/// A token that was just made.
#[derive(Debug)]
pub struct Issued {
    /// The token itself.
    pub access_token: Secret<String>,
    /// How long it is good from now on.
    pub expires_in: Duration,
    /// What it says.
    pub verified: Arc<Verified>,
}

impl Issued {
    /// The token's text, for the one answer that hands it to its client.
    pub fn token(&self) -> &str {
        self.access_token.expose()
    }
}

/// The sessions and tokens of one gateway. One per process: a reload changes it in place.
pub struct Sessions {
    rules: ArcSwap<Current>,
    store: Store,
    revoked: Revoked,
    watches: Watches,
    visits: Visits,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// What a reload replaces, as one.
struct Current {
    keys: Arc<KeySet>,
    /// The configured apps by appid.
    apps: HashMap<String, AppId>,
    ttl: Duration,
    max_age: Duration,
    max_per_user: Option<NonZeroUsize>,
    on_store_error: OnStoreError,
    /// Belongs to the keys and apps by which its entries were judged.
    cache: VerifiedTokens,
}

impl Current {
    fn new(
        config: &config::Session,
        apps: &[config::App],
        keys: Arc<KeySet>,
        metrics: &Metrics,
    ) -> Result<Self, SessionError> {
        let apps = apps
            .iter()
            .map(|app| Ok((app.appid.clone(), AppId::parse(&app.appid)?)))
            .collect::<Result<_, InvalidIdentity>>()?;
        let cache = VerifiedTokens::new(metrics);
        Ok(Self {
            keys,
            apps,
            ttl: config.ttl,
            max_age: config.max_age,
            max_per_user: config.max_per_user,
            on_store_error: config.on_store_error,
            cache,
        })
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl Sessions {
    /// Builds the room and opens the configured store; a Redis is connected when
    /// [`Sessions::run`] runs. Without signing keys, one is made: beside a file store for good,
    /// with the memory store for this process. Blocks on the file: to be called at start.
    ///
    /// # Errors
    /// [`SessionError::Key`] for a key that cannot be used, or none with Redis;
    /// [`SessionError::App`] for an appid that is none; [`SessionError::Store`] for a file that
    /// cannot be used.
    pub fn new(
        config: &config::Session,
        apps: &[config::App],
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, SessionError> {
        let keys = match (KeySet::configured(&config.signing_keys)?, &config.store) {
            (Some(keys), _) => keys,
            (None, config::Store::Memory) => KeySet::random()?,
            (None, config::Store::Sqlite(path)) => key_file::beside(path)?,
            (None, config::Store::Redis(_)) => return Err(KeyError::Needed.into()),
        };
        let rules = Current::new(config, apps, Arc::new(keys), &metrics)?;
        let revoked = Revoked::new();
        let active = metrics.sessions_active.clone();
        let backend: Arc<dyn Backend> = match &config.store {
            config::Store::Memory => Arc::new(Memory::new(config.max_sessions, active)),
            config::Store::Sqlite(path) => {
                let (sqlite, known) = Sqlite::open(path, active, clock.unix_seconds())?;
                known.iter().for_each(|ended| revoked.insert(&ended.sid, ended.until));
                Arc::new(sqlite)
            }
            config::Store::Redis(redis) => {
                Arc::new(Redis::new(redis.clone(), clock.clone(), active))
            }
        };
        Ok(Self {
            rules: ArcSwap::from_pointee(rules),
            store: Store::new(backend, metrics.clone()),
            revoked,
            watches: Watches::new(),
            visits: Visits::new(),
            clock,
            metrics,
        })
    }

    /// Takes over new keys, apps and lives at once. Sessions and revocations stay; verified
    /// tokens are judged anew. Where no key is configured, neither before nor now, the one that
    /// was made at start stays.
    ///
    /// # Errors
    /// As [`Sessions::new`]; all stays as it was.
    pub fn reload(
        &self,
        config: &config::Session,
        apps: &[config::App],
    ) -> Result<(), SessionError> {
        let keys = match KeySet::configured(&config.signing_keys)? {
            Some(keys) => Arc::new(keys),
            None => self.rules.load().keys.clone(),
        };
        self.rules.store(Arc::new(Current::new(config, apps, keys, &self.metrics)?));
        Ok(())
    }

    /// Opens a session, always a new one, so that nobody can prepare a session for another to
    /// log in to. A user's oldest sessions beyond `max_per_user` end.
    ///
    /// # Errors
    /// [`SessionError::Store`]; [`SessionError::Random`]; [`SessionError::Signing`] never, with
    /// keys that were read.
    pub async fn open(&self, new: NewSession) -> Result<Issued, SessionError> {
        let current = self.rules.load_full();
        let now = self.clock.unix_seconds();
        let ends_at = now.saturating_add(current.max_age.as_secs());
        let sid = random_id()?;
        let kept = Secrets { session_key: new.session_key, phone: None };
        let session_key = kept.seal(&current.keys, &sid);
        let record = Record {
            sid: sid.into(),
            openid: new.openid,
            appid: new.appid,
            unionid: new.unionid,
            session_key: session_key.ok_or(SessionError::Signing)?,
            scope: Vec::new(),
            created_at: now,
            ends_at,
            last_token_expires_at: now.saturating_add(current.ttl.as_secs()).min(ends_at),
        };
        let issued = issue(&current, &record, record.last_token_expires_at, now)?;
        self.revoke(self.store.insert(&record, current.max_per_user).await?);
        Ok(issued)
    }

    /// Judges the token of a request: signature or cache, claims, revocation. Waits for nothing.
    ///
    /// # Errors
    /// [`TokenError`], by what is wrong with it.
    pub fn verify(&self, token: &str) -> Result<Arc<Verified>, TokenError> {
        let current = self.rules.load();
        let now = self.clock.unix_seconds();
        let cached = current.cache.get(token, now);
        let verified = match &cached {
            Some(verified) => verified.clone(),
            None => Arc::new(token::verify(token, &rules(&current, now))?),
        };
        if current.on_store_error == OnStoreError::Deny && self.store.backend().is_deaf() {
            return Err(TokenError::Unreadable);
        }
        if self.revoked.contains(&verified.identity.sid) {
            if cached.is_some() {
                current.cache.forget(token);
            }
            return Err(TokenError::Revoked);
        }
        if cached.is_none() {
            current.cache.keep(token, verified.clone());
        }
        Ok(verified)
    }

    /// Makes a new token for the session of a good one; the old one lives to its own end. The
    /// new one expires with the session at the latest.
    ///
    /// # Errors
    /// [`TokenError::Revoked`] if the session is over, was ended or is unknown.
    pub async fn refresh(&self, verified: &Verified) -> Result<Issued, SessionError> {
        let current = self.rules.load_full();
        let now = self.clock.unix_seconds();
        let expires_at = now.saturating_add(current.ttl.as_secs());
        let sid = &verified.identity.sid;
        let record = self.store.extend(sid, expires_at, now).await?;
        let record = of(verified, record)?;
        if vault::is_of_older_key(&current.keys, &record.session_key)
            && let Some(kept) = Secrets::open(&current.keys, sid, &record.session_key)
            && let Some(sealed) = kept.seal(&current.keys, sid)
        {
            let sealed = Sealed { session_key: sealed, scope: record.scope.clone() };
            // Where another was quicker, that one sealed it anew.
            self.store.reseal(&record, &sealed).await?;
        }
        issue(&current, &record, expires_at.min(record.ends_at), now)
    }

    /// WeChat's key for the login behind a good token. `None`: the signing key under which it
    /// was sealed is no longer listed, so that the user has to log in again.
    ///
    /// # Errors
    /// [`TokenError::Revoked`] if the session is over, was ended or is unknown;
    /// [`SessionError::Store`].
    pub async fn session_key(
        &self,
        verified: &Verified,
    ) -> Result<Option<Secret<String>>, SessionError> {
        let sid = &verified.identity.sid;
        let found = self.store.find(sid, self.clock.unix_seconds()).await?;
        let record = of(verified, found)?;
        let keys = &self.rules.load().keys;
        let kept = Secrets::open(keys, sid, &record.session_key);
        Ok(kept.and_then(|kept| kept.session_key))
    }

    /// Ends the session of a good token: all its tokens are refused from now on.
    ///
    /// # Errors
    /// [`SessionError::Store`] if the store could not note it; this node refuses the tokens all
    /// the same.
    pub async fn end(&self, verified: &Verified) -> Result<(), SessionError> {
        let own = self.own(verified);
        let ended = self.store.end(&own.sid, own.until, Unknown::Revoke).await;
        self.revoke([own]);
        self.revoke(ended?);
        Ok(())
    }

    /// Ends every session that the user of a good token has with this app.
    ///
    /// # Errors
    /// As [`Sessions::end`].
    pub async fn end_all(&self, verified: &Verified) -> Result<(), SessionError> {
        self.end(verified).await?;
        let Identity { openid, appid, .. } = &verified.identity;
        let until = self.own(verified).until;
        self.revoke(self.store.end_user(openid, std::slice::from_ref(appid), until).await?);
        Ok(())
    }

    /// To be told when the session of an open connection is ended.
    pub fn watch(&self, verified: &Verified) -> Watch {
        let sid = &verified.identity.sid;
        let watch = self.watches.watch(sid);
        if self.revoked.contains(sid) {
            self.watches.end(sid);
        }
        watch
    }

    /// Whether the store serves logins and tells what other nodes revoke.
    pub fn store_is_up(&self) -> bool {
        self.store.backend().is_up()
    }

    /// How long a good token is good from now on.
    pub fn expires_in(&self, verified: &Verified) -> Duration {
        Duration::from_secs(verified.expires_at.saturating_sub(self.clock.unix_seconds()))
    }

    /// The seconds left of a token within the last tenth of its life, at least 1, when its client
    /// should refresh; `None` before that.
    pub fn expiry_hint(&self, verified: &Verified) -> Option<u64> {
        let millis = |seconds: u64| seconds.saturating_mul(1000);
        let life = millis(verified.expires_at.saturating_sub(verified.issued_at));
        let left = millis(verified.expires_at).saturating_sub(self.clock.unix_millis());
        // In milliseconds, since a tenth of a short life is no whole second.
        (left <= life / 10).then(|| left.div_ceil(1000).max(1))
    }

    /// Whether `bearer` is, by its header, a token of ours, be it good or not; such a one is
    /// taken off before a request is forwarded.
    pub fn is_ours(&self, bearer: &str) -> bool {
        token::is_ours(bearer, &self.rules.load().keys)
    }

    /// Keeps the store connected, hears what other nodes revoke and takes out what is over, for
    /// ever.
    pub async fn run(&self) {
        let known = || self.revoked.all();
        let ended = |ended: Vec<Ended>| self.revoke(ended);
        let tidings = Tidings { clock: &self.clock, ended: &ended, known: &known };
        tokio::join!(self.store.backend().run(tidings), self.sweep());
    }

    async fn sweep(&self) {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.revoked.sweep(self.clock.unix_seconds());
        }
    }

    /// The end of the session of a token. No token of it that was made before now, or is being
    /// made now, outlives this.
    fn own(&self, verified: &Verified) -> Ended {
        let until = verified.expires_at.max(self.last_token_until());
        Ended { sid: verified.identity.sid.clone(), until }
    }

    /// When a token expires that another call is just making.
    fn last_token_until(&self) -> u64 {
        let longest = self.rules.load().ttl + MAKING_TAKES;
        self.clock.unix_seconds().saturating_add(longest.as_secs())
    }

    fn revoke(&self, ended: impl IntoIterator<Item = Ended>) {
        for Ended { sid, until } in ended {
            self.revoked.insert(&sid, until);
            self.watches.end(&sid);
        }
    }
}

/// The session of a token, if it is there and of the user that the token names.
fn of(verified: &Verified, record: Option<Record>) -> Result<Record, TokenError> {
    let Identity { openid, appid, .. } = &verified.identity;
    record
        .filter(|record| record.openid == *openid && record.appid == *appid)
        .ok_or(TokenError::Revoked)
}

fn rules(current: &Current, now: u64) -> Rules<'_> {
    Rules { keys: &current.keys, apps: &current.apps, most_lifetime: current.max_age, now }
}

fn issue(
    current: &Current,
    record: &Record,
    expires_at: u64,
    now: u64,
) -> Result<Issued, SessionError> {
    let verified = Verified {
        identity: Identity {
            openid: record.openid.clone(),
            appid: record.appid.clone(),
            unionid: record.unionid.clone(),
            sid: record.sid.clone(),
        },
        scope: record.scope.clone(),
        issued_at: now,
        expires_at,
        phone: OnceCell::new(),
        hashed: std::sync::OnceLock::new(),
    };
    let access_token = token::sign(current.keys.signer(), &verified, &random_id()?)
        .ok_or(SessionError::Signing)?;
    let expires_in = Duration::from_secs(expires_at.saturating_sub(now));
    Ok(Issued { access_token, expires_in, verified: Arc::new(verified) })
}

/// 16 random bytes in base64url, 22 letters.
fn random_id() -> Result<String, SessionError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(SessionError::Random)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests;
