//! `wxgate explain`: the rooms of a configuration, put together to be asked about one request.
//! Nothing listens, nobody is connected to, no file is written.

use std::net::IpAddr;

use super::ServeError;
use super::build::{Built, Lasting};
use crate::config::{AccessFormat, Config, TokenSource};
use crate::identity::{AppId, OpenId};
use crate::proxy::{self, Explanation};
use crate::session::{self, Keys, NewSession};

/// The request that is asked about.
#[derive(Debug)]
pub struct Question {
    /// Its method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Path and query as the client writes them.
    pub target: String,
    /// Names and values, `Host` among them.
    pub headers: Vec<(String, String)>,
    /// Where it comes from.
    pub client: IpAddr,
    /// The user who sends it, logged in to this app or to the first one; their token is made here.
    pub user: Option<(String, Option<String>)>,
}

/// What a configuration says of a request.
#[derive(Debug)]
pub struct Explained {
    /// What would become of it.
    pub explanation: Explanation,
    /// Whether tokens of the running gateway can be told from others here.
    pub keys: Keys,
}

/// Asks `config` about a request.
///
/// # Errors
/// [`ServeError::Build`] for what would keep the gateway from starting, and for a user who is none.
pub fn explain(mut config: Config, question: Question) -> Result<Explained, ServeError> {
    let (session, keys) = session::offline(&config.session);
    config.session = session;
    config.log.access = AccessFormat::Off;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::system("a runtime"))?;
    runtime.block_on(async {
        let lasting = Lasting::build(&config)?;
        let (rules, _) = Built::assemble(config, &lasting, None)?;
        let mut question = question;
        if let Some((openid, appid)) = question.user.take() {
            let appid = appid.or_else(|| rules.config.apps.first().map(|app| app.appid.clone()));
            let token = log_in(&lasting, &openid, &appid.unwrap_or_default()).await?;
            let place = rules.config.session.token_from.first();
            question.show(&token, place.unwrap_or(&TokenSource::Authorization));
        }
        let (client, scheme) = (question.client, question.scheme);
        let explanation = proxy::explain(&rules, &question.head(), client, scheme).await;
        Ok(Explained { explanation, keys })
    })
}

async fn log_in(lasting: &Lasting, openid: &str, appid: &str) -> Result<String, ServeError> {
    let none = |error: &dyn std::fmt::Display| ServeError::Build(format!("the user: {error}"));
    let new = NewSession {
        openid: OpenId::parse(openid).map_err(|error| none(&error))?,
        appid: AppId::parse(appid).map_err(|error| none(&error))?,
        unionid: None,
        session_key: None,
    };
    let issued = lasting.sessions.open(new).await.map_err(|error| none(&error))?;
    Ok(issued.token().to_owned())
}

impl Question {
    /// Puts a token where the gateway looks for one first.
    fn show(&mut self, token: &str, place: &TokenSource) {
        let header = match place {
            TokenSource::Authorization => ("Authorization".to_owned(), format!("Bearer {token}")),
            TokenSource::Cookie(name) => ("Cookie".to_owned(), format!("{name}={token}")),
            TokenSource::Header(name) => (name.clone(), token.to_owned()),
            TokenSource::Query(name) => {
                let mark = if self.target.contains('?') { '&' } else { '?' };
                self.target = format!("{}{mark}{name}={token}", self.target);
                return;
            }
        };
        self.headers.push(header);
    }

    /// As it comes over the wire.
    fn head(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}
