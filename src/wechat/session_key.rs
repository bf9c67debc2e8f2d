//! Ask WeChat whether a session_key still holds, or for a new one.

use std::sync::Arc;

use super::Inner;
use super::access_token::Held;
use super::answer::Answer;
use super::client::{Line, Parcel};
use super::code2session::session_key;
use super::crypt::sign;
use super::errcode::{Flaw, WechatError};
use crate::secret::Secret;

impl Inner {
    /// Whether this session_key is still the user's.
    ///
    /// # Errors
    /// Why there is no access_token, those of the call, and what its errcode stands for; the
    /// one that says no is not among them.
    pub(super) async fn holds(
        self: &Arc<Self>,
        appid: &str,
        openid: &str,
        key: &Secret<String>,
    ) -> Result<bool, WechatError> {
        let line = &self.lines.checksession;
        let asked = self.with_token(appid, async |token| {
            self.signed(line, &token, appid, openid, key, |_| Ok(())).await
        });
        match asked.await {
            Ok(()) => Ok(true),
            Err(WechatError::SessionKeyInvalid { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A new session_key for the user, valid as long as the old one was; the old one is void.
    ///
    /// # Errors
    /// Why there is no access_token, those of the call, and what its errcode stands for;
    /// `SessionKeyInvalid` if the old key is void already.
    pub(super) async fn reset(
        self: &Arc<Self>,
        appid: &str,
        openid: &str,
        key: &Secret<String>,
    ) -> Result<Secret<String>, WechatError> {
        let line = &self.lines.resetusersessionkey;
        let read = |answer: &Answer| {
            if answer.text("openid")? == openid {
                session_key(answer)
            } else {
                Err(WechatError::Malformed(Flaw::Field("openid")))
            }
        };
        self.with_token(appid, async |token| {
            self.signed(line, &token, appid, openid, key, read).await
        })
        .await
    }

    /// A GET that proves by a signature that we know the session_key.
    async fn signed<T>(
        &self,
        line: &Line,
        token: &Held,
        appid: &str,
        openid: &str,
        key: &Secret<String>,
        read: impl FnOnce(&Answer) -> Result<T, WechatError>,
    ) -> Result<T, WechatError> {
        let signature = sign(key, b"");
        let query = [
            ("access_token", token.text().as_str()),
            ("openid", openid),
            ("signature", &signature),
            ("sig_method", "hmac_sha256"),
        ];
        self.client.call(line, Parcel { appid, query: &query, body: None }, read).await
    }
}
