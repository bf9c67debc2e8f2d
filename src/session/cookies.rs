//! The cookies that a backend keeps in a session, for clients that keep none: sealed in the store,
//! read anew for every request, so that each node knows what the others kept, and never lost
//! between two answers that come at once.

use std::time::Duration;

use tokio::time::timeout;

use super::jar::CookieJar;
use super::store::{Jar, StoreError};
use super::vault::{self, Field};
use super::{SessionError, Sessions, TokenError, Verified};
use crate::config::OnStoreError;

/// How long answers that come at once may wait for each other.
const KEEPING_TAKES: Duration = Duration::from_secs(5);

/// The cookies that an upstream keeps in a session, as they were when they were read.
#[derive(Clone, Debug, Default)]
pub struct Cookies {
    /// The cookies themselves; none at first.
    pub jar: CookieJar,
    version: u64,
}

impl Sessions {
    /// The cookies that `upstream` keeps in the session of a good token.
    ///
    /// # Errors
    /// [`TokenError::Unreadable`] if the store fails and `session.on_store_error` is deny; if it
    /// is allow, there are none.
    pub async fn cookies(
        &self,
        verified: &Verified,
        upstream: &str,
    ) -> Result<Cookies, TokenError> {
        match self.read_cookies(verified, upstream).await {
            Ok(cookies) => Ok(cookies),
            Err(error) => self.without_store(&error).map(|()| Cookies::default()),
        }
    }

    /// Keeps what `change` makes of the cookies of an upstream, for as long as the session lives;
    /// `cookies` are those that [`Sessions::cookies`] gave. Where others were kept meanwhile,
    /// those are changed: `change` may be called several times.
    ///
    /// # Errors
    /// [`TokenError::Unreadable`] if the store fails and `session.on_store_error` is deny; if it
    /// is allow, nothing is kept.
    pub async fn keep_cookies(
        &self,
        verified: &Verified,
        upstream: &str,
        cookies: Cookies,
        change: impl Fn(&mut CookieJar),
    ) -> Result<(), TokenError> {
        let keeping = self.change_cookies(verified, upstream, cookies, change);
        let kept = timeout(KEEPING_TAKES, keeping).await;
        match kept.unwrap_or(Err(StoreError::Busy.into())) {
            Ok(()) => Ok(()),
            Err(error) => self.without_store(&error),
        }
    }

    async fn read_cookies(
        &self,
        verified: &Verified,
        upstream: &str,
    ) -> Result<Cookies, SessionError> {
        let sid = &verified.identity.sid;
        let field = Field::Jar(upstream);
        let Jar { sealed, mut version } = self.store.jar(sid, upstream).await?;
        let keys = &self.rules.load_full().keys;
        // What a key sealed that is no longer listed is lost: an empty jar takes its place.
        let Some(written) = vault::open(keys, sid, field, &sealed) else {
            return Ok(Cookies { jar: CookieJar::default(), version });
        };
        if vault::is_of_older_key(keys, &sealed)
            && let Some(sealed) = vault::seal(keys, sid, field, written.expose())
            && self.store.keep_jar(sid, upstream, Jar { sealed, version }).await?
        {
            version += 1;
        }
        Ok(Cookies { jar: CookieJar::read(written.expose()), version })
    }

    /// One of those that want to change a jar at the same time always gets through, so that this
    /// ends after as many rounds as there are of them.
    async fn change_cookies(
        &self,
        verified: &Verified,
        upstream: &str,
        mut cookies: Cookies,
        change: impl Fn(&mut CookieJar),
    ) -> Result<(), SessionError> {
        let sid = &verified.identity.sid;
        loop {
            let before = cookies.jar.write();
            change(&mut cookies.jar);
            let written = cookies.jar.write();
            if written == before {
                return Ok(());
            }
            let written = written.ok_or(StoreError::Malformed)?;
            let keys = &self.rules.load_full().keys;
            let sealed = vault::seal(keys, sid, Field::Jar(upstream), &written);
            let sealed = sealed.ok_or(SessionError::Signing)?;
            let jar = Jar { sealed, version: cookies.version };
            if self.store.keep_jar(sid, upstream, jar).await? {
                return Ok(());
            }
            cookies = self.read_cookies(verified, upstream).await?;
        }
    }

    fn without_store(&self, error: &SessionError) -> Result<(), TokenError> {
        match self.rules.load().on_store_error {
            OnStoreError::Deny => Err(TokenError::Unreadable),
            OnStoreError::Allow => {
                log::warn!("a backend's cookies are left out: {error}");
                Ok(())
            }
        }
    }
}
