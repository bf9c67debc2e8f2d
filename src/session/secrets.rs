//! What a session keeps sealed as one: WeChat's session_key and the phone number. One envelope, so
//! that every store replaces them in one step.

use zeroize::Zeroizing;

use super::keys::KeySet;
use super::store::{Sealed, StoreError};
use super::token::{TokenError, Verified};
use super::vault::{self, Field};
use super::{Issued, SessionError, Sessions, issue, of};
use crate::config::OnStoreError;
use crate::identity::{AppId, OpenId, Phone};
use crate::secret::Secret;

/// The scope of a session whose phone number WeChat verified.
const PHONE: &str = "phone";

/// The secrets of one session, in clear.
pub(super) struct Secrets {
    /// Base64 as WeChat wrote it. `None`: a browser's login, or sealed under a key that is no
    /// longer listed.
    pub(super) session_key: Option<Secret<String>>,
    pub(super) phone: Option<Phone>,
}

impl Secrets {
    /// Seals them with the key that signs. `None` if the system gives no random bytes.
    pub(super) fn seal(&self, keys: &KeySet, sid: &str) -> Option<Vec<u8>> {
        let mut clear = Zeroizing::new(Vec::new());
        if let Some(key) = &self.session_key {
            clear.extend_from_slice(key.expose().as_bytes());
        }
        if let Some(phone) = &self.phone {
            // Neither base64 nor a number holds a line's end.
            clear.push(b'\n');
            clear.extend_from_slice(phone.as_str().as_bytes());
        }
        vault::seal(keys, sid, Field::SessionKey, &clear)
    }

    /// Opens an envelope. `None` if the key that sealed it is no longer listed.
    pub(super) fn open(keys: &KeySet, sid: &str, envelope: &[u8]) -> Option<Self> {
        let clear = vault::open(keys, sid, Field::SessionKey, envelope)?;
        let clear = std::str::from_utf8(clear.expose()).ok()?;
        let (key, phone) = clear.split_once('\n').unwrap_or((clear, ""));
        let session_key = (!key.is_empty()).then(|| Secret::new(key.to_owned()));
        Some(Self { session_key, phone: Phone::parse(phone).ok() })
    }
}

/// A session as WeChat knows it.
#[derive(Debug)]
pub struct Keyed {
    /// Its user.
    pub openid: OpenId,
    /// Its app.
    pub appid: AppId,
    /// WeChat's key of its login. `None`: a browser's login, or sealed under a signing key that
    /// is no longer listed.
    pub session_key: Option<Secret<String>>,
}

impl Sessions {
    /// Whose session this is, with WeChat's key. `None`: there is no open session of this id.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn keyed(&self, sid: &str) -> Result<Option<Keyed>, SessionError> {
        let found = self.store.find(sid, self.clock.unix_seconds()).await?;
        let keys = &self.rules.load().keys;
        Ok(found.map(|record| Keyed {
            session_key: Secrets::open(keys, sid, &record.session_key)
                .and_then(|kept| kept.session_key),
            openid: record.openid,
            appid: record.appid,
        }))
    }

    /// Keeps, sealed, the session_key that WeChat gave in place of the one before. `false`: the
    /// session ended meanwhile.
    ///
    /// # Errors
    /// [`SessionError::Store`]; [`SessionError::Signing`] if the system gives no random bytes.
    pub async fn keep_session_key(
        &self,
        sid: &str,
        session_key: &Secret<String>,
    ) -> Result<bool, SessionError> {
        let current = self.rules.load_full();
        // As in `keep_phone`.
        for _ in 0..3 {
            let found = self.store.find(sid, self.clock.unix_seconds()).await?;
            let Some(record) = found else { return Ok(false) };
            let opened = Secrets::open(&current.keys, sid, &record.session_key);
            let phone = opened.and_then(|kept| kept.phone);
            let kept = Secrets { session_key: Some(session_key.clone()), phone };
            let sealed = kept.seal(&current.keys, sid).ok_or(SessionError::Signing)?;
            let sealed = Sealed { session_key: sealed, scope: record.scope.clone() };
            if self.store.reseal(&record, &sealed).await? {
                return Ok(true);
            }
        }
        Err(StoreError::Busy.into())
    }

    /// Keeps, sealed, the phone number that WeChat verified for the user of a good token, and
    /// makes a token whose scope has `phone`. The old token lives to its own end.
    ///
    /// # Errors
    /// As [`Sessions::refresh`].
    pub async fn keep_phone(
        &self,
        verified: &Verified,
        phone: &Phone,
    ) -> Result<Issued, SessionError> {
        let current = self.rules.load_full();
        let sid = &verified.identity.sid;
        // Whoever else changes what is sealed does so once: a second try finds it done.
        for _ in 0..3 {
            let now = self.clock.unix_seconds();
            let expires_at = now.saturating_add(current.ttl.as_secs());
            let mut record = of(verified, self.store.extend(sid, expires_at, now).await?)?;
            let opened = Secrets::open(&current.keys, sid, &record.session_key);
            let mut kept = opened.unwrap_or(Secrets { session_key: None, phone: None });
            kept.phone = Some(phone.clone());
            let sealed = kept.seal(&current.keys, sid).ok_or(SessionError::Signing)?;
            let mut scope = record.scope.clone();
            if !scope.iter().any(|word| word == PHONE) {
                scope.push(PHONE.to_owned());
            }
            let sealed = Sealed { session_key: sealed, scope };
            if self.store.reseal(&record, &sealed).await? {
                record.scope = sealed.scope;
                return issue(&current, &record, expires_at.min(record.ends_at), now);
            }
        }
        Err(StoreError::Busy.into())
    }

    /// What [`Sessions::phone`] would say, if it can without waiting.
    pub fn known_phone(&self, verified: &Verified) -> Option<Option<Phone>> {
        if verified.scope.iter().any(|word| word == PHONE) {
            verified.phone.get().cloned()
        } else {
            Some(None)
        }
    }

    /// The phone number behind a good token, if one was verified. The store is asked once for a
    /// token while that token is in the cache; never, if its scope has no `phone`.
    ///
    /// # Errors
    /// [`TokenError::Unreadable`] if the store fails and `session.on_store_error` is deny.
    pub async fn phone(&self, verified: &Verified) -> Result<Option<Phone>, TokenError> {
        if !verified.scope.iter().any(|word| word == PHONE) {
            return Ok(None);
        }
        let sid = &verified.identity.sid;
        let read = async || {
            let found = self.store.find(sid, self.clock.unix_seconds()).await?;
            let keys = &self.rules.load().keys;
            let kept = found.and_then(|record| Secrets::open(keys, sid, &record.session_key));
            Ok::<_, StoreError>(kept.and_then(|kept| kept.phone))
        };
        match verified.phone.get_or_try_init(read).await {
            Ok(phone) => Ok(phone.clone()),
            Err(_) if self.rules.load().on_store_error == OnStoreError::Deny => {
                Err(TokenError::Unreadable)
            }
            Err(_) => Ok(None),
        }
    }
}
