//! A browser's way to WeChat's login page and back: what it carries along, sealed, so that a login
//! ends in the browser in which it began, once.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;

use super::store::Unknown;
use super::vault::{self, Field};
use super::{Issued, SessionError, Sessions, random_id};
use crate::identity::AppId;

/// How long a user may stay at WeChat's page.
const LIFE: Duration = Duration::from_secs(600);
/// Logins that came back and are remembered; past it the oldest are forgotten, whose codes WeChat
/// takes no second time.
const MOST: u64 = 100_000;

/// A login that began in a browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// Random; names the login in WeChat's `state`, 22 letters of base64url.
    pub state: String,
    /// The app that the user logs in to.
    pub appid: AppId,
    /// Where the browser goes afterwards; safe.
    pub return_to: String,
}

impl Visit {
    /// How long it may take.
    pub const LIFE: Duration = LIFE;
}

#[derive(Serialize, Deserialize)]
struct Written<'a> {
    state: &'a str,
    appid: &'a str,
    return_to: std::borrow::Cow<'a, str>,
    until: u64,
}

/// Logins that came back.
pub(super) struct Visits(Cache<String, Arc<Return>>);

struct Return {
    /// SHA-256 of the code that it came back with.
    code: [u8; 32],
    issued: OnceCell<Arc<Issued>>,
}

impl Visits {
    pub(super) fn new() -> Self {
        Self(Cache::builder().max_capacity(MOST).time_to_live(LIFE).build())
    }
}

impl Sessions {
    /// Begins a login; gives it and what the browser is to keep of it.
    ///
    /// # Errors
    /// [`SessionError::Random`]; [`SessionError::Signing`] never, with keys that were read.
    pub fn begin_visit(
        &self,
        appid: &AppId,
        return_to: &str,
    ) -> Result<(Visit, String), SessionError> {
        let state = random_id()?;
        let until = self.clock.unix_seconds().saturating_add(LIFE.as_secs());
        let written =
            Written { state: &state, appid: appid.as_str(), return_to: return_to.into(), until };
        let clear = serde_json::to_vec(&written).map_err(|_| SessionError::Signing)?;
        let sealed = vault::seal(&self.rules.load().keys, &state, Field::Visit, &clear);
        let sealed = URL_SAFE_NO_PAD.encode(sealed.ok_or(SessionError::Signing)?);
        let return_to = return_to.to_owned();
        Ok((Visit { state, appid: appid.clone(), return_to }, sealed))
    }

    /// The login of this `state`, out of what the browser kept of it. `None` if that is not ours,
    /// of another login, or too old.
    pub fn find_visit(&self, state: &str, kept: &str) -> Option<Visit> {
        let envelope = URL_SAFE_NO_PAD.decode(kept).ok()?;
        let clear = vault::open(&self.rules.load().keys, state, Field::Visit, &envelope)?;
        let written: Written<'_> = serde_json::from_slice(clear.expose()).ok()?;
        if written.state != state || self.clock.unix_seconds() >= written.until {
            return None;
        }
        Some(Visit {
            state: state.to_owned(),
            appid: AppId::parse(written.appid).ok()?,
            return_to: written.return_to.into_owned(),
        })
    }

    /// Notes for every node that a login is complete, as an ended session is noted: its `state`
    /// takes no other code.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn spend_visit(&self, visit: &Visit) -> Result<(), SessionError> {
        let until = self.clock.unix_seconds().saturating_add(LIFE.as_secs());
        let spent = self.store.end(&visit.state, until, Unknown::Revoke).await?;
        self.revoke(spent);
        Ok(())
    }

    fn is_spent(&self, visit: &Visit) -> bool {
        self.revoked.contains(&visit.state)
    }

    /// Completes a login by what `log_in` makes of the code, once: the same code again gets the
    /// same token, since WeChat's own browser likes to open a page twice. `None`: it came back
    /// before, with another code.
    ///
    /// # Errors
    /// Those of `log_in`, which then may be tried again with this code.
    pub async fn complete_visit<E>(
        &self,
        visit: &Visit,
        code: &str,
        log_in: impl AsyncFnOnce() -> Result<Issued, E>,
    ) -> Result<Option<Arc<Issued>>, E> {
        // Complete already, at another node or before a restart.
        if !self.visits.0.contains_key(visit.state.as_str()) && self.is_spent(visit) {
            return Ok(None);
        }
        let code: [u8; 32] = Sha256::digest(code).into();
        let back = self.visits.0.get_with_by_ref(visit.state.as_str(), || {
            Arc::new(Return { code, issued: OnceCell::new() })
        });
        if back.code != code {
            return Ok(None);
        }
        let log_in = async || Ok::<_, E>(Arc::new(log_in().await?));
        let issued = back.issued.get_or_try_init(log_in).await.cloned();
        if issued.is_ok() {
            // Again, where another attempt with this code failed and took it away.
            self.visits.0.insert(visit.state.clone(), back);
        } else if !back.issued.initialized() {
            // Nobody is logged in: the user may come back with another code.
            self.visits.0.invalidate(visit.state.as_str());
        }
        issued.map(Some)
    }
}
