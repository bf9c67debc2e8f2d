//! The only room that talks to WeChat.

mod answer;
mod circuit;
mod client;
mod code2session;
mod crypt;
mod errcode;
mod flight;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub use code2session::Code2Session;
pub use crypt::{DecryptError, decrypt, signature_fits};
pub use errcode::{Flaw, Outage, WechatError};

use client::{Client, Line};
use flight::Flights;

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
    jscode2session: Line,
    logins: Arc<Flights<Code2Session>>,
}

impl std::fmt::Debug for Wechat {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Wechat").finish_non_exhaustive()
    }
}

impl Wechat {
    /// Makes the client for the apps of a configuration; nothing is sent.
    ///
    /// # Errors
    /// `Setup` where HTTPS is wanted and the machine has no root certificates.
    pub fn new(config: &config::Config, metrics: Arc<Metrics>) -> Result<Self, WechatError> {
        let replay_window = config.login.replay_window;
        Self::build(&config.wechat, &config.apps, replay_window, metrics, Arc::new(Flights::new()))
    }

    /// The same for a new configuration. Codes that are being exchanged, or were within the
    /// replay window, stay known, so that a reload in between never sends one twice.
    ///
    /// # Errors
    /// As [`Wechat::new`].
    pub fn renewed(
        &self,
        config: &config::Config,
        metrics: Arc<Metrics>,
    ) -> Result<Self, WechatError> {
        let (replay_window, logins) = (config.login.replay_window, Arc::clone(&self.0.logins));
        Self::build(&config.wechat, &config.apps, replay_window, metrics, logins)
    }

    fn build(
        config: &config::Wechat,
        apps: &[config::App],
        replay_window: Duration,
        metrics: Arc<Metrics>,
        logins: Arc<Flights<Code2Session>>,
    ) -> Result<Self, WechatError> {
        let secrets = apps.iter().map(|app| (app.appid.clone(), app.secret.clone()));
        Ok(Self(Arc::new(Inner {
            client: Client::new(config, metrics)?,
            apps: secrets.collect(),
            replay_window,
            jscode2session: Line::to("/sns/jscode2session"),
            logins,
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
        if !code2session::is_code(code) {
            return Err(WechatError::InvalidCode);
        }
        if !self.0.apps.contains_key(appid) {
            return Err(WechatError::UnknownApp);
        }
        let inner = Arc::clone(&self.0);
        let (app, shown) = (appid.to_owned(), code.to_owned());
        let exchange = async move {
            let secret = inner.apps.get(&app).ok_or(WechatError::UnknownApp)?;
            let line = &inner.jscode2session;
            code2session::exchange(&inner.client, line, &app, secret, &shown).await
        };
        self.0.logins.join(appid, code, self.0.replay_window, exchange).await
    }
}
