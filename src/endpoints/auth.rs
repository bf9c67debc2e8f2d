//! `POST auth`: the code of wx.login for a token of the gateway's own.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use super::refusal::{InputError, Refusal};
use super::{Answer, Endpoints, Request, Reveals, body, log_session_error};
use crate::config::Config;
use crate::identity::{AppId, OpenId, UnionId};
use crate::observe::{AuthResult, Metrics};
use crate::secret::Secret;
use crate::session::{Issued, NewSession};
use crate::wechat::{Flaw, User, WechatError, is_code};

/// Begins the Referer of every mini program; its appid follows.
const MINI_PROGRAM: &str = "https://servicewechat.com/";

/// The fields of the body that count; others are let pass.
#[derive(Default, Deserialize)]
struct Login {
    code: Option<String>,
    appid: Option<String>,
}

pub(super) async fn answer(endpoints: &Endpoints, request: Request<'_>) -> Answer {
    let mut app = None;
    let outcome = log_in(endpoints, &request, &mut app).await;
    conclude(endpoints, app, outcome, request.request_id)
}

/// Counts a login to this app, if one is known, and answers with what became of it.
pub(super) fn conclude(
    endpoints: &Endpoints,
    app: Option<&AppId>,
    outcome: Result<(OpenId, Answer), Refusal>,
    request_id: &str,
) -> Answer {
    let label = app.map_or(UNKNOWN, AppId::as_str);
    let result = outcome.as_ref().map_or_else(login_result, |_| "ok");
    endpoints.metrics.logins.with_label_values(&[label, result]).inc();
    match outcome {
        Ok((openid, answer)) => answer.for_caller(AuthResult::Public, Some(openid)),
        Err(refusal) => refusal.into_answer(request_id).for_caller(AuthResult::Public, None),
    }
}

/// The answer that carries a fresh token.
pub(super) fn issued_answer(endpoints: &Endpoints, issued: &Issued) -> Answer {
    #[derive(Serialize)]
    struct Body<'a> {
        access_token: &'a str,
        token_type: &'a str,
        expires_in: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        openid: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        unionid: Option<&'a str>,
    }
    let (openid, unionid) = endpoints.reveals.of(&issued.verified.identity);
    Answer::json(&Body {
        access_token: issued.token(),
        token_type: "Bearer",
        expires_in: issued.expires_in.as_secs(),
        openid,
        unionid,
    })
}

/// `app` is the app as soon as it is known, for the metric of what goes wrong later.
async fn log_in<'a>(
    endpoints: &'a Endpoints,
    request: &Request<'_>,
    app: &mut Option<&'a AppId>,
) -> Result<(OpenId, Answer), Refusal> {
    // Every request takes from the bucket, also one that is wrong; the app is looked for even so,
    // since the metric names it.
    let within_limit = endpoints.check_login_limit(request);
    let login = read(request).and_then(|login| {
        *app = Some(choose_app(&endpoints.apps, login.appid.as_deref(), request.referer)?);
        Ok(login)
    });
    within_limit?;
    let login = login?;
    let appid = app.ok_or(InputError::NoApp)?;
    let code = login.code.ok_or(InputError::NoCode)?;
    if !is_code(&code) {
        return Err(InputError::BadCode.into());
    }
    let wechat = endpoints.wechat.code2session(appid.as_str(), &code).await?;
    let session = new_session(appid, &wechat.user, Some(&wechat.session_key))?;
    let openid = session.openid.clone();
    let open = async || {
        let issued = endpoints.sessions.open(session).await.inspect_err(log_session_error)?;
        Ok::<_, Refusal>(issued_answer(endpoints, &issued).body)
    };
    let body = wechat.answered.get_or_try_init(open).await?;
    Ok((openid, Answer::with_json(body.clone())))
}

/// A session for whom WeChat named; a browser's login has no session_key.
pub(super) fn new_session(
    appid: &AppId,
    user: &User,
    session_key: Option<&Secret<String>>,
) -> Result<NewSession, WechatError> {
    // The room that asks WeChat has looked at these already; what becomes a header is looked at
    // by its type.
    let unlike = |field| move |_| WechatError::Malformed(Flaw::Field(field));
    let unionid = user.unionid.as_deref().map(UnionId::parse).transpose();
    Ok(NewSession {
        openid: OpenId::parse(&user.openid).map_err(unlike("openid"))?,
        appid: appid.clone(),
        unionid: unionid.map_err(unlike("unionid"))?,
        session_key: session_key.cloned(),
    })
}

fn read(request: &Request<'_>) -> Result<Login, InputError> {
    let essence = request.content_type.map(|value| value.split(';').next().unwrap_or_default());
    match essence.map(|essence| essence.trim().to_ascii_lowercase()).as_deref() {
        None | Some("" | "application/json") => body::object(request.body),
        Some("application/x-www-form-urlencoded") => read_form(request.body),
        Some(_) => Err(InputError::ContentType),
    }
}

fn read_form(body: &[u8]) -> Result<Login, InputError> {
    let mut login = Login::default();
    for (name, value) in form_urlencoded::parse(body) {
        let field = match name {
            Cow::Borrowed("code") => &mut login.code,
            Cow::Borrowed("appid") => &mut login.appid,
            Cow::Borrowed(_) => continue,
            // An escaped name is the same name.
            Cow::Owned(name) => match name.as_str() {
                "code" => &mut login.code,
                "appid" => &mut login.appid,
                _ => continue,
            },
        };
        if field.replace(value.into_owned()).is_some() {
            return Err(InputError::RepeatedField);
        }
    }
    Ok(login)
}

/// The app that the body names; else the one that the Referer names, if it is configured; else
/// the only one.
fn choose_app<'a>(
    apps: &'a [AppId],
    named: Option<&str>,
    referer: Option<&str>,
) -> Result<&'a AppId, InputError> {
    let find = |appid: &str| apps.iter().find(|app| app.as_str() == appid);
    if let Some(appid) = named {
        return find(appid).ok_or(InputError::UnknownApp);
    }
    let of_referer = referer
        .and_then(|referer| referer.strip_prefix(MINI_PROGRAM))
        .and_then(|rest| rest.split_once('/'))
        .and_then(|(appid, _)| find(appid));
    match (of_referer, apps) {
        (Some(app), _) | (None, [app]) => Ok(app),
        (None, _) => Err(InputError::NoApp),
    }
}

/// The `appid` of `wxgate_logins_total` where none is known.
const UNKNOWN: &str = "unknown";
/// Every `result` of `wxgate_logins_total`.
const RESULTS: [&str; 6] =
    ["ok", "invalid_grant", "denied", "rate_limited", "unavailable", "error"];

/// Reports the logins of every app before there is any, so that a first failure is an increase.
pub(super) fn announce(config: &Config, metrics: &Metrics) {
    let apps = config.apps.iter().map(|app| app.appid.as_str());
    for appid in apps.chain([UNKNOWN]) {
        for result in RESULTS {
            metrics.logins.with_label_values(&[appid, result]);
        }
    }
}

/// The `result` of `wxgate_logins_total` for a login that was refused so.
const fn login_result(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Wechat(error) => wechat_result(error),
        Refusal::SlowDown { .. } => "rate_limited",
        Refusal::StoreUnavailable => "unavailable",
        Refusal::AccessDenied
        | Refusal::InsufficientScope(_)
        | Refusal::Declined
        | Refusal::ForeignOrigin => "denied",
        Refusal::Malformed(_)
        | Refusal::Path(_)
        | Refusal::TwoCredentials
        | Refusal::Input(_)
        | Refusal::Decrypt(_)
        | Refusal::SignatureWrong
        | Refusal::SessionKeyLost
        | Refusal::Unauthorized
        | Refusal::TokenInvalid
        | Refusal::TokenExpired
        | Refusal::TokenRevoked
        | Refusal::NotFound
        | Refusal::MethodNotAllowed { .. }
        | Refusal::RequestTimeout
        | Refusal::ContentTooLarge
        | Refusal::UriTooLong
        | Refusal::HeaderFieldsTooLarge
        | Refusal::Internal
        | Refusal::BadGateway
        | Refusal::UpstreamUnavailable
        | Refusal::GatewayTimeout => "error",
    }
}

const fn wechat_result(error: &WechatError) -> &'static str {
    match error {
        WechatError::CodeRefused { .. } => "invalid_grant",
        WechatError::UserRefused { .. } | WechatError::SnapshotUser => "denied",
        WechatError::RateLimited { .. } => "rate_limited",
        WechatError::Busy { .. } | WechatError::Unavailable { .. } => "unavailable",
        WechatError::InvalidCode
        | WechatError::UnknownApp
        | WechatError::SessionKeyInvalid { .. }
        | WechatError::Watermark(_)
        | WechatError::Malformed(_)
        | WechatError::Unexpected { .. }
        | WechatError::Misconfigured { .. }
        | WechatError::QuotaExhausted { .. }
        | WechatError::Setup(_) => "error",
    }
}

impl Reveals {
    /// openid and unionid as the client may see them.
    pub(super) fn of(self, identity: &crate::identity::Identity) -> (Option<&str>, Option<&str>) {
        match self {
            Self::Identity => {
                let unionid = identity.unionid.as_ref().map(UnionId::as_str);
                (Some(identity.openid.as_str()), unionid)
            }
            Self::Nothing => (None, None),
        }
    }
}
