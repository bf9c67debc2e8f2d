//! `/sns/oauth2/*`, `/sns/userinfo`, `/sns/auth`: what a web login gets for its code.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::Method;
use axum::response::Response;
use serde_json::{Value, json};

use super::World;
use super::answer::{self, Params, Wrong, ok, only};
use super::tickets::{Dead, FIVE_MINUTES, Tickets};
use super::users::User;

const TEN_MINUTES: Duration = Duration::from_secs(600);
const TWO_HOURS: Duration = Duration::from_secs(7200);
const THIRTY_DAYS: Duration = Duration::from_secs(30 * 86400);

/// Who consented to what.
#[derive(Clone)]
pub(super) struct Consent {
    pub(super) appid: String,
    pub(super) openid: String,
    pub(super) scope: &'static str,
    pub(super) person: Person,
}

/// Whether anybody is really there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Person {
    /// A user.
    Real,
    /// Nobody: WeChat shows a snapshot of the page to a virtual user.
    Virtual,
}

/// Codes and tokens of web logins.
pub(super) struct Web {
    /// Of the page inside WeChat.
    pub(super) codes: Tickets<Consent>,
    /// Of the QR code.
    pub(super) qr_codes: Tickets<Consent>,
    tokens: Tickets<Consent>,
    refresh_tokens: Tickets<(Consent, String)>,
}

impl Default for Web {
    fn default() -> Self {
        Self {
            codes: Tickets::living(FIVE_MINUTES),
            qr_codes: Tickets::living(TEN_MINUTES),
            tokens: Tickets::living(TWO_HOURS),
            refresh_tokens: Tickets::living(THIRTY_DAYS),
        }
    }
}

impl Web {
    fn redeem(&mut self, code: &str, appid: &str, now: u64) -> Result<Consent, Wrong> {
        let same_app = |consent: &Consent| {
            if consent.appid == appid { Ok(()) } else { Err(Wrong::CODE) }
        };
        match self.codes.redeem(code, now, same_app) {
            Err(Wrong::CODE) => self.qr_codes.redeem(code, now, same_app),
            settled => settled,
        }
    }

    /// Whose token this is, if it is of this user.
    fn consent(&mut self, token: &str, openid: &str, now: u64) -> Result<Consent, Wrong> {
        match self.tokens.find(token, now) {
            None => Err(Wrong::CREDENTIAL),
            Some(Err(Dead)) => Err(Wrong::TOKEN_EXPIRED),
            Some(Ok(consent)) if consent.openid == openid => Ok(consent.clone()),
            Some(Ok(_)) => Err(Wrong::OPENID),
        }
    }

    /// The same access_token with a whole life, or a new one if it has ended.
    fn refresh(&mut self, refresh_token: &str, appid: &str, now: u64) -> Result<Value, Wrong> {
        let (consent, token) = match self.refresh_tokens.find(refresh_token, now) {
            None => return Err(Wrong::REFRESH_TOKEN),
            Some(Err(Dead)) => return Err(Wrong::REFRESH_TOKEN_EXPIRED),
            Some(Ok((consent, _))) if consent.appid != appid => return Err(Wrong::REFRESH_TOKEN),
            Some(Ok((consent, token))) => (consent.clone(), token),
        };
        if !self.tokens.extend(token, now) {
            *token = self.tokens.issue(consent.clone(), now);
        }
        Ok(shown(&consent, token, refresh_token))
    }
}

fn shown(consent: &Consent, token: &str, refresh_token: &str) -> Value {
    json!({
        "access_token": token,
        "expires_in": TWO_HOURS.as_secs(),
        "refresh_token": refresh_token,
        "openid": consent.openid,
        "scope": consent.scope,
    })
}

pub(super) async fn access_token(
    State(world): State<Arc<World>>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    answer::wechat(exchange(&world, &method, &Params::read(query.as_deref())))
}

fn exchange(world: &World, method: &Method, params: &Params) -> Result<Value, Wrong> {
    let (appid, code) = world.apps.exchange(method, params, "code")?;
    let now = world.clock.unix_millis();
    let mut state = world.lock();
    let consent = state.web.redeem(code, appid, now)?;
    let token = state.web.tokens.issue(consent.clone(), now);
    let refresh_token = state.web.refresh_tokens.issue((consent.clone(), token.clone()), now);
    let mut body = shown(&consent, &token, &refresh_token);
    let unionid = state.users.find(&consent.openid).map(|user| user.unionid.clone());
    if let Some(body) = body.as_object_mut() {
        if consent.person == Person::Virtual {
            body.insert("is_snapshotuser".to_owned(), 1.into());
        }
        // A silent login learns the openid only.
        if let (true, Some(unionid)) = (consent.scope != "snsapi_base", unionid) {
            body.insert("unionid".to_owned(), unionid.into());
        }
    }
    Ok(body)
}

pub(super) async fn refresh_token(
    State(world): State<Arc<World>>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    answer::wechat(refresh(&world, &method, &Params::read(query.as_deref())))
}

fn refresh(world: &World, method: &Method, params: &Params) -> Result<Value, Wrong> {
    only(method, &Method::GET)?;
    let appid = params.get("appid", Wrong::NO_APPID)?;
    if !world.apps.knows(appid) {
        return Err(Wrong::APPID);
    }
    if params.or_empty("grant_type") != "refresh_token" {
        return Err(Wrong::GRANT_TYPE);
    }
    let token = params.get("refresh_token", Wrong::NO_REFRESH_TOKEN)?;
    world.lock().web.refresh(token, appid, world.clock.unix_millis())
}

pub(super) async fn userinfo(
    State(world): State<Arc<World>>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    let params = Params::read(query.as_deref());
    answer::wechat(with_consent(&world, &method, &params, |consent, user| {
        if consent.scope == "snsapi_base" {
            return Err(Wrong::UNAUTHORIZED);
        }
        Ok(json!({
            "openid": consent.openid,
            "nickname": user.name,
            "sex": 0,
            "language": "",
            "city": "",
            "province": "",
            "country": "",
            "headimgurl": "https://thirdwx.qlogo.cn/mmopen/vi_32/sandbox/132",
            "privilege": [],
            "unionid": user.unionid,
        }))
    }))
}

pub(super) async fn auth(
    State(world): State<Arc<World>>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    let params = Params::read(query.as_deref());
    answer::wechat(with_consent(&world, &method, &params, |_, _| Ok(ok())))
}

fn with_consent(
    world: &World,
    method: &Method,
    params: &Params,
    act: impl FnOnce(&Consent, &User) -> Result<Value, Wrong>,
) -> Result<Value, Wrong> {
    only(method, &Method::GET)?;
    let token = params.get("access_token", Wrong::NO_TOKEN)?;
    let openid = params.get("openid", Wrong::NO_OPENID)?;
    let mut state = world.lock();
    let consent = state.web.consent(token, openid, world.clock.unix_millis())?;
    let user = state.users.find(openid).ok_or(Wrong::OPENID)?;
    act(&consent, user)
}
