//! The only room that talks to WeChat.

mod access_token;
mod answer;
mod circuit;
mod client;
mod code2session;
mod crypt;
mod errcode;
mod flight;
mod json;
mod oauth;
mod phone;
mod session_key;
#[cfg(test)]
mod tests;
mod user;
mod watermark;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub use access_token::AccessToken;
pub use code2session::{Code2Session, is_code};
pub use crypt::{DecryptError, decrypt, signature_fits};
pub use errcode::{Flaw, Outage, WechatError};
pub use oauth::{WebPage, login_page};
pub use phone::Phone;
pub use user::User;
pub use watermark::WatermarkError;

use access_token::{Held, Tokens};
use answer::Answer;
use client::{Client, Line, Parcel};
use flight::Flights;

use crate::clock::Clock;
use crate::config;
use crate::observe::Metrics;
use crate::secret::Secret;

/// WeChat, as the gateway asks it. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Wechat(Arc<Inner>);

struct Inner {
    client: Client,
    apps: HashMap<String, Secret<String>>,
    replay_window: Duration,
    clock: Clock,
    metrics: Arc<Metrics>,
    lines: Lines,
    memory: Arc<Memory>,
}

/// One line for each API, so that one that fails does not stop the others: a login needs no
/// access_token.
struct Lines {
    jscode2session: Line,
    stable_token: Line,
    getuserphonenumber: Line,
    checksession: Line,
    resetusersessionkey: Line,
    oauth2_access_token: Line,
}

/// What outlives a reload.
#[derive(Default)]
struct Memory {
    logins: Flights<Code2Session>,
    phones: Flights<Phone>,
    visits: Flights<User>,
    fetches: Flights<Arc<Held>>,
    tokens: Tokens,
}

impl std::fmt::Debug for Wechat {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Wechat").finish_non_exhaustive()
    }
}

impl Lines {
    const fn all(&self) -> [&Line; 6] {
        // Named one by one, so that none is forgotten.
        let Self {
            jscode2session,
            stable_token,
            getuserphonenumber,
            checksession,
            resetusersessionkey,
            oauth2_access_token,
        } = self;
        [
            jscode2session,
            stable_token,
            getuserphonenumber,
            checksession,
            resetusersessionkey,
            oauth2_access_token,
        ]
    }
}

impl Wechat {
    /// Makes the client for the apps of a configuration; nothing is sent.
    ///
    /// # Errors
    /// `Setup` where HTTPS is wanted and the machine has no root certificates.
    pub fn new(
        config: &config::Config,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, WechatError> {
        let replay_window = config.login.replay_window;
        Self::build(&config.wechat, &config.apps, replay_window, clock, metrics, Arc::default())
    }

    /// The same for a new configuration. Codes that are being exchanged, or were within the
    /// replay window, stay known, so that a reload in between never sends one twice; so do
    /// access_tokens.
    ///
    /// # Errors
    /// As [`Wechat::new`].
    pub fn renewed(&self, config: &config::Config) -> Result<Self, WechatError> {
        Self::build(
            &config.wechat,
            &config.apps,
            config.login.replay_window,
            self.0.clock.clone(),
            Arc::clone(&self.0.metrics),
            Arc::clone(&self.0.memory),
        )
    }

    fn build(
        config: &config::Wechat,
        apps: &[config::App],
        replay_window: Duration,
        clock: Clock,
        metrics: Arc<Metrics>,
        memory: Arc<Memory>,
    ) -> Result<Self, WechatError> {
        let secrets = apps.iter().map(|app| (app.appid.clone(), app.secret.clone()));
        let client = Client::new(config, Arc::clone(&metrics))?;
        let lines = Lines {
            jscode2session: Line::to("/sns/jscode2session"),
            stable_token: Line::to("/cgi-bin/stable_token"),
            getuserphonenumber: Line::to("/wxa/business/getuserphonenumber"),
            checksession: Line::to("/wxa/checksession"),
            resetusersessionkey: Line::to("/wxa/resetusersessionkey"),
            oauth2_access_token: Line::to("/sns/oauth2/access_token"),
        };
        lines.all().iter().for_each(|line| client.announce(line));
        Ok(Self(Arc::new(Inner {
            client,
            apps: secrets.collect(),
            replay_window,
            clock,
            metrics,
            lines,
            memory,
        })))
    }

    /// Exchanges the code of wx.login. Equal calls at the same time, and repeats within
    /// `login.replay_window`, share one exchange and its outcome; it runs to its end even if
    /// the caller goes away.
    ///
    /// # Errors
    /// `InvalidCode` and `UnknownApp` without asking WeChat; else what became of the call.
    pub async fn code2session(
        &self,
        appid: &str,
        code: &str,
    ) -> Result<Arc<Code2Session>, WechatError> {
        let (inner, app, shown) = self.admit(appid, code)?;
        let exchange = async move {
            let (line, code) = (&inner.lines.jscode2session, ("js_code", shown.as_str()));
            inner.exchange_code(line, &app, code, code2session::read).await
        };
        self.0.memory.logins.join(appid, code, self.0.replay_window, exchange).await
    }

    /// Exchanges the code of the getPhoneNumber button for the number of this user, who must
    /// be the one that pressed it. Shared and repeated as [`Wechat::code2session`], for the
    /// same user only.
    ///
    /// # Errors
    /// `InvalidCode` and `UnknownApp` without asking WeChat; else what became of the call.
    pub async fn phone(
        &self,
        appid: &str,
        openid: &str,
        code: &str,
    ) -> Result<Arc<Phone>, WechatError> {
        let (inner, app, shown) = self.admit(appid, code)?;
        // Before the code takes part: where no token can be had it stays unused, and a repeat
        // must not be given that failure.
        inner.held_token(appid).await?;
        // No openid and no code holds a space, so that no two pairs look alike.
        let whose = format!("{openid} {code}");
        let user = openid.to_owned();
        let exchange = async move { inner.exchange_phone(&app, &user, &shown).await };
        self.0.memory.phones.join(appid, &whose, self.0.replay_window, exchange).await
    }

    /// Exchanges the code that WeChat's login page sent back with a browser. Shared and
    /// repeated as [`Wechat::code2session`], since WeChat's own browser likes to open a page
    /// twice, but only within the login that has this `state`: a code that leaked opens no other.
    ///
    /// # Errors
    /// `InvalidCode` and `UnknownApp` without asking WeChat, `SnapshotUser` for a user who is
    /// none; else what became of the call.
    pub async fn web_user(
        &self,
        appid: &str,
        state: &str,
        code: &str,
    ) -> Result<Arc<User>, WechatError> {
        let (inner, app, shown) = self.admit(appid, code)?;
        let exchange = async move {
            let (line, code) = (&inner.lines.oauth2_access_token, ("code", shown.as_str()));
            inner.exchange_code(line, &app, code, user::read).await
        };
        // No code holds a space, so that no two pairs look alike.
        let whose = format!("{state} {code}");
        self.0.memory.visits.join(appid, &whose, self.0.replay_window, exchange).await
    }

    /// Asks WeChat whether this session_key is still the user's.
    ///
    /// # Errors
    /// `UnknownApp`, why there is no access_token, or what became of the call.
    pub async fn session_key_holds(
        &self,
        appid: &str,
        openid: &str,
        session_key: &Secret<String>,
    ) -> Result<bool, WechatError> {
        self.0.holds(appid, openid, session_key).await
    }

    /// Asks WeChat for a new session_key of the user; the old one is void from then on, and the
    /// new one lives as long as the old one would have.
    ///
    /// # Errors
    /// `UnknownApp`, why there is no access_token, or what became of the call;
    /// `SessionKeyInvalid` if the old key is void already.
    pub async fn reset_session_key(
        &self,
        appid: &str,
        openid: &str,
        session_key: &Secret<String>,
    ) -> Result<Secret<String>, WechatError> {
        self.0.reset(appid, openid, session_key).await
    }

    /// The app's access_token, renewed ahead of its end.
    ///
    /// # Errors
    /// `UnknownApp`, or why none could be fetched.
    pub async fn access_token(&self, appid: &str) -> Result<AccessToken, WechatError> {
        self.0.access_token(appid).await
    }

    /// What must hold before WeChat is asked about a code.
    fn admit(&self, appid: &str, code: &str) -> Result<(Arc<Inner>, String, String), WechatError> {
        if !is_code(code) {
            return Err(WechatError::InvalidCode);
        }
        if !self.0.apps.contains_key(appid) {
            return Err(WechatError::UnknownApp);
        }
        Ok((Arc::clone(&self.0), appid.to_owned(), code.to_owned()))
    }
}

impl Inner {
    /// Sends a login code, the parameter and its value, with the app's secret; once.
    ///
    /// # Errors
    /// Those of the call, and what its errcode stands for.
    async fn exchange_code<T>(
        &self,
        line: &Line,
        appid: &str,
        code: (&str, &str),
        read: impl FnOnce(&Answer) -> Result<T, WechatError>,
    ) -> Result<T, WechatError> {
        let secret = self.apps.get(appid).ok_or(WechatError::UnknownApp)?;
        let query = [
            ("appid", appid),
            ("secret", secret.expose()),
            code,
            ("grant_type", "authorization_code"),
        ];
        self.client.call(line, Parcel { appid, query: &query, body: None }, read).await
    }
}
