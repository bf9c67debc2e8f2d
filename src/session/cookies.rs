//! The cookies that a backend keeps in a session, for clients that keep none: sealed in the store,
//! and never lost between two answers that come at once.

use super::store::Jar;
use super::vault::{self, Field};
use super::{SessionError, Sessions, Verified};
use crate::secret::Secret;

/// The cookies that an upstream keeps in a session.
#[derive(Clone, Debug)]
pub struct Cookies {
    /// As they were kept, in whatever form; empty at first.
    pub text: Secret<Vec<u8>>,
    version: u64,
}

impl Sessions {
    /// The cookies that `upstream` keeps in the session of a good token.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn cookies(
        &self,
        verified: &Verified,
        upstream: &str,
    ) -> Result<Cookies, SessionError> {
        let sid = &verified.identity.sid;
        let Jar { sealed, version } = self.store.jar(sid, upstream).await?;
        let keys = &self.rules.load().keys;
        // What a key sealed that is no longer listed is lost: an empty jar takes its place.
        let text = vault::open(keys, sid, Field::Jar(upstream), &sealed);
        Ok(Cookies { text: text.unwrap_or_else(|| Secret::new(Vec::new())), version })
    }

    /// Keeps cookies that were made out of those that [`Sessions::cookies`] gave, for as long as
    /// the session lives. `false`: others were kept meanwhile; read them, and do it again.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn keep_cookies(
        &self,
        verified: &Verified,
        upstream: &str,
        cookies: &Cookies,
    ) -> Result<bool, SessionError> {
        let sid = &verified.identity.sid;
        let field = Field::Jar(upstream);
        let sealed = vault::seal(&self.rules.load().keys, sid, field, cookies.text.expose());
        let jar = Jar { sealed: sealed.ok_or(SessionError::Signing)?, version: cookies.version };
        Ok(self.store.keep_jar(sid, upstream, jar).await?)
    }
}
