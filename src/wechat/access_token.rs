//! Hold each app's access_token: fetched when needed, renewed ahead of its end, shared by all.
//!
//! stable_token gives every node the same token, so that nodes need not agree on one, and asking
//! again never voids a token that somebody else is using. `force_refresh` would, and is never
//! sent.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::Inner;
use super::answer::Answer;
use super::client::Parcel;
use super::errcode::{Flaw, WechatError};
use crate::secret::Secret;

/// WeChat renews a stable token in its last 5 minutes, with both valid meanwhile.
const AHEAD_MS: u64 = 300_000;

/// A real one has up to 512 characters.
const LONGEST: usize = 2048;

/// An app's access_token, for backends that call WeChat themselves.
#[derive(Clone)]
pub struct AccessToken {
    /// What WeChat wants as `access_token`.
    pub token: Secret<String>,
    /// How long it will still be good.
    pub expires_in: Duration,
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AccessToken").field("expires_in", &self.expires_in).finish()
    }
}

/// A token as it is held.
pub(super) struct Held {
    token: Secret<String>,
    renew_at: u64,
    dies_at: u64,
}

impl Held {
    /// The token's text, for the query of a call.
    pub(super) const fn text(&self) -> &String {
        self.token.expose()
    }
}

/// The tokens of all apps; at most one each.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<String, Arc<Held>>>);

impl Tokens {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Held>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of a token that WeChat refused, unless another has taken its place.
    fn discard(&self, appid: &str, refused: &Arc<Held>) {
        let mut tokens = self.lock();
        if tokens.get(appid).is_some_and(|held| Arc::ptr_eq(held, refused)) {
            tokens.remove(appid);
        }
    }
}

impl Inner {
    /// The app's access_token and how long it is still good.
    ///
    /// # Errors
    /// As [`Inner::held_token`].
    pub(super) async fn access_token(
        self: &Arc<Self>,
        appid: &str,
    ) -> Result<AccessToken, WechatError> {
        let held = self.held_token(appid).await?;
        let left = held.dies_at.saturating_sub(self.clock.unix_millis());
        Ok(AccessToken { token: held.token.clone(), expires_in: Duration::from_millis(left) })
    }

    /// A token that is good now. Callers at the same time share one fetch. In its last
    /// 5 minutes the old one still serves if no new one can be had.
    ///
    /// # Errors
    /// `UnknownApp`, or why no token could be fetched.
    pub(super) async fn held_token(
        self: &Arc<Self>,
        appid: &str,
    ) -> Result<Arc<Held>, WechatError> {
        if !self.apps.contains_key(appid) {
            return Err(WechatError::UnknownApp);
        }
        let now = self.clock.unix_millis();
        let held = self.memory.tokens.lock().get(appid).cloned();
        if let Some(held) = held.as_ref().filter(|held| now < held.renew_at) {
            return Ok(Arc::clone(held));
        }
        let (inner, app) = (Arc::clone(self), appid.to_owned());
        let fetch = async move { inner.fetch_token(&app).await };
        let fetched = self.memory.fetches.join(appid, "", Duration::ZERO, fetch).await;
        match (fetched, held.filter(|held| now < held.dies_at)) {
            (Ok(fetched), _) => Ok(Arc::clone(&fetched)),
            (Err(_), Some(held)) => Ok(held),
            (Err(error), None) => Err(error),
        }
    }

    async fn fetch_token(&self, appid: &str) -> Result<Arc<Held>, WechatError> {
        let secret = self.apps.get(appid).ok_or(WechatError::UnknownApp)?;
        let body = json!({
            "grant_type": "client_credential",
            "appid": appid,
            "secret": secret.expose(),
        });
        let parcel = Parcel { appid, query: &[], body: Some(&body) };
        let asked_at = self.clock.unix_millis();
        let read = |answer: &Answer| read(answer, asked_at);
        let held = Arc::new(self.client.call(&self.lines.stable_token, parcel, read).await?);
        self.memory.tokens.lock().insert(appid.to_owned(), Arc::clone(&held));
        let gauge = self.metrics.wechat_access_token_timestamp.with_label_values(&[appid]);
        gauge.set(i64::try_from(asked_at / 1000).unwrap_or(i64::MAX));
        Ok(held)
    }

    /// Makes a call that needs the app's access_token, and once more with another token if
    /// WeChat did not take the first.
    ///
    /// # Errors
    /// Why there is no token, or those of the call.
    pub(super) async fn with_token<T, F, C>(
        self: &Arc<Self>,
        appid: &str,
        call: F,
    ) -> Result<T, WechatError>
    where
        F: Fn(Arc<Held>) -> C,
        C: Future<Output = Result<T, WechatError>>,
    {
        let held = self.held_token(appid).await?;
        match call(Arc::clone(&held)).await {
            Err(error) if error.rejects_access_token() => {
                self.memory.tokens.discard(appid, &held);
                call(self.held_token(appid).await?).await
            }
            settled => settled,
        }
    }
}

fn read(answer: &Answer, asked_at: u64) -> Result<Held, WechatError> {
    let token = answer.text("access_token")?;
    if token.len() > LONGEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(WechatError::Malformed(Flaw::Field("access_token")));
    }
    let seconds = answer.optional_number("expires_in")?.filter(|seconds| *seconds > 0);
    let seconds = seconds.ok_or(WechatError::Malformed(Flaw::Field("expires_in")))?;
    let life_ms = seconds.saturating_mul(1000);
    let dies_at = asked_at.saturating_add(life_ms);
    Ok(Held {
        token: Secret::new(token.to_owned()),
        // A token that lives shorter than WeChat promises must not be fetched at every call.
        renew_at: dies_at.saturating_sub(AHEAD_MS.min(life_ms / 2)),
        dies_at,
    })
}
