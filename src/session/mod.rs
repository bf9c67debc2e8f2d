//! The custom login state: who is logged in, the tokens that prove it, and their end.
//!
//! A request is judged by its token and the list of revoked sessions alone, in memory and
//! without waiting. Login, refresh and logout ask the store.

mod keys;
mod revoked;
mod store;
mod token;
mod verified;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::clock::Clock;
use crate::config;
use crate::identity::{AppId, Identity, InvalidIdentity, OpenId, UnionId};
use crate::observe::Metrics;
use crate::secret::Secret;

pub use keys::{Algorithm, KeyError, keygen};
pub use token::{TokenError, Verified};

use keys::KeySet;
use revoked::Revoked;
use store::memory::Memory;
use store::{Ended, Record, Store};
use token::Rules;
use verified::VerifiedTokens;

/// How often what is over is taken out of memory.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

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
    /// WeChat's key for this login, base64 as WeChat wrote it.
    pub session_key: Secret<String>,
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
        Ok(Self { keys, apps, ttl: config.ttl, max_age: config.max_age, cache })
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl Sessions {
    /// Builds the room for the configured store, without sessions. Without signing keys one is
    /// made, known to this process alone.
    ///
    /// # Errors
    /// [`SessionError::Key`] for a key that cannot be used, [`SessionError::App`] for an appid
    /// that is none.
    pub fn new(
        config: &config::Session,
        apps: &[config::App],
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, SessionError> {
        let keys = match KeySet::configured(&config.signing_keys)? {
            Some(keys) => keys,
            None => KeySet::random()?,
        };
        let store = match config.store {
            config::Store::Memory => Store::Memory(Memory::new(metrics.sessions_active.clone())),
        };
        let rules = Current::new(config, apps, Arc::new(keys), &metrics)?;
        let rules = ArcSwap::from_pointee(rules);
        Ok(Self { rules, store, revoked: Revoked::new(), clock, metrics })
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
    /// log in to.
    ///
    /// # Errors
    /// [`SessionError::Random`]; [`SessionError::Signing`] never, with keys that were read.
    pub async fn open(&self, new: NewSession) -> Result<Issued, SessionError> {
        let current = self.rules.load_full();
        let now = self.clock.unix_seconds();
        let ends_at = now.saturating_add(current.max_age.as_secs());
        let record = Record {
            sid: random_id()?.into(),
            openid: new.openid,
            appid: new.appid,
            unionid: new.unionid,
            session_key: new.session_key,
            scope: Vec::new(),
            ends_at,
            last_token_expires_at: now.saturating_add(current.ttl.as_secs()).min(ends_at),
        };
        let issued = issue(&current, &record, record.last_token_expires_at, now)?;
        self.store.insert(record).await;
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
        let record = self.store.extend(&verified.identity, expires_at, now).await;
        let record = record.ok_or(TokenError::Revoked)?;
        issue(&current, &record, expires_at.min(record.ends_at), now)
    }

    /// WeChat's key for the login behind a good token.
    ///
    /// # Errors
    /// [`TokenError::Revoked`] if the session is over, was ended or is unknown.
    pub async fn session_key(&self, verified: &Verified) -> Result<Secret<String>, SessionError> {
        let found = self.store.find(&verified.identity, self.clock.unix_seconds()).await;
        Ok(found.ok_or(TokenError::Revoked)?.session_key)
    }

    /// Ends the session of a good token: all its tokens are refused from now on.
    ///
    /// # Errors
    /// A store that could not note it; this node refuses the tokens all the same. The memory
    /// store always can.
    pub async fn end(&self, verified: &Verified) -> Result<(), SessionError> {
        let ended = self.store.end(&verified.identity).await;
        self.revoke(ended, verified);
        Ok(())
    }

    /// Ends every session that the user of a good token has with this app.
    ///
    /// # Errors
    /// As [`Sessions::end`].
    pub async fn end_all(&self, verified: &Verified) -> Result<(), SessionError> {
        let ended = self.store.end_all(&verified.identity).await;
        self.revoke(ended, verified);
        Ok(())
    }

    /// How long a good token is good from now on.
    pub fn expires_in(&self, verified: &Verified) -> Duration {
        Duration::from_secs(verified.expires_at.saturating_sub(self.clock.unix_seconds()))
    }

    /// The seconds left of a token within the last tenth of its life, when its client should
    /// refresh; `None` before that.
    pub fn expiry_hint(&self, verified: &Verified) -> Option<u64> {
        let life = verified.expires_at.saturating_sub(verified.issued_at);
        let left = self.expires_in(verified).as_secs();
        (left <= life / 10).then_some(left)
    }

    /// Whether `bearer` is, by its header, a token of ours, be it good or not; such a one is
    /// taken off before a request is forwarded.
    pub fn is_ours(&self, bearer: &str) -> bool {
        token::is_ours(bearer, &self.rules.load().keys)
    }

    /// Takes out what is over, every second, for ever. Without it nothing is accepted that
    /// should not be, but memory grows.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = self.clock.unix_seconds();
            self.revoked.sweep(now);
            self.store.sweep(now).await;
        }
    }

    /// Refuses the tokens of the sessions that were ended, that of `verified` among them even if
    /// the store did not know it, as after a restart: no token of it that was made before now
    /// outlives both this one and a life from now.
    fn revoke(&self, ended: impl IntoIterator<Item = Ended>, verified: &Verified) {
        let longest = self.clock.unix_seconds().saturating_add(self.rules.load().ttl.as_secs());
        self.revoked.insert(&verified.identity.sid, verified.expires_at.max(longest));
        for ended in ended {
            self.revoked.insert(&ended.sid, ended.until);
        }
    }
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
