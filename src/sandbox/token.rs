//! `/cgi-bin/token` and `/cgi-bin/stable_token`: the app's access_token.
//!
//! Each call of the first replaces the token, and the old one lives on for 5 minutes; the
//! second gives the same one until 5 minutes before its end. The two kinds do not touch each
//! other.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::Method;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::World;
use super::answer::{self, Params, Wrong, only, random};

const LIFE_MS: u64 = 7_200_000;
/// Both tokens live for this long after a renewal; a stable one is renewed this long before
/// its end.
const OVERLAP_MS: u64 = 300_000;
const FORCED_APART_MS: u64 = 30_000;
const FORCED_A_DAY: usize = 20;
const DAY_MS: u64 = 86_400_000;

/// The tokens of all apps.
#[derive(Default)]
pub(super) struct Tokens {
    plain: HashMap<String, Pair>,
    stable: HashMap<String, Pair>,
}

/// The present token of an app and the one before it.
#[derive(Default)]
struct Pair {
    present: Option<Token>,
    former: Option<Token>,
    /// When renewals were forced, within the last day.
    forced: Vec<u64>,
}

#[derive(Clone)]
struct Token {
    text: String,
    dies_at: u64,
}

impl Tokens {
    /// A new token; the one before it has 5 minutes left.
    fn renew_plain(&mut self, appid: &str, now: u64) -> Value {
        self.plain.entry(appid.to_owned()).or_default().renew(now)
    }

    /// The present token, or a new one where it ends within 5 minutes.
    fn stable(&mut self, appid: &str, force: Force, now: u64) -> Value {
        let pair = self.stable.entry(appid.to_owned()).or_default();
        let forced = matches!(force, Force::Yes) && pair.present.is_some() && pair.may_force(now);
        if forced {
            pair.forced.push(now);
            // What is forced is forced: the old token dies at once.
            pair.present = None;
        }
        match &pair.present {
            Some(token) if token.dies_at > now + OVERLAP_MS => token.shown(now),
            Some(_) | None => pair.renew(now),
        }
    }
}

impl Tokens {
    /// The app whose token this is.
    ///
    /// # Errors
    /// 40001 for one that is none, or was replaced; 42001 for one that has ended.
    pub(super) fn app_of(&self, token: &str, now: u64) -> Result<String, Wrong> {
        for (appid, pair) in self.plain.iter().chain(&self.stable) {
            for held in [&pair.present, &pair.former].into_iter().flatten() {
                if held.text == token {
                    let alive = now < held.dies_at;
                    return if alive { Ok(appid.clone()) } else { Err(Wrong::TOKEN_EXPIRED) };
                }
            }
        }
        Err(Wrong::CREDENTIAL)
    }
}

#[derive(Clone, Copy)]
enum Force {
    Yes,
    No,
}

impl Pair {
    fn renew(&mut self, now: u64) -> Value {
        let text = format!("99_{}", URL_SAFE_NO_PAD.encode(random::<96>()));
        let token = Token { text, dies_at: now + LIFE_MS };
        let shown = token.shown(now);
        self.former = self
            .present
            .replace(token)
            .map(|former| Token { dies_at: former.dies_at.min(now + OVERLAP_MS), ..former });
        shown
    }

    fn may_force(&mut self, now: u64) -> bool {
        self.forced.retain(|at| now < at + DAY_MS);
        self.forced.len() < FORCED_A_DAY
            && self.forced.last().is_none_or(|at| now >= at + FORCED_APART_MS)
    }
}

impl Token {
    fn shown(&self, now: u64) -> Value {
        let left = self.dies_at.saturating_sub(now) / 1000;
        json!({"access_token": self.text, "expires_in": left})
    }
}

pub(super) async fn token(
    State(world): State<Arc<World>>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Response {
    // Some clients post the parameters as a form; WeChat takes both.
    let form = String::from_utf8_lossy(&body);
    let joined = format!("{}&{form}", query.unwrap_or_default());
    answer::wechat(plain(&world, &Params::read(Some(&joined))))
}

fn plain(world: &World, params: &Params) -> Result<Value, Wrong> {
    if params.get("grant_type", Wrong::GRANT_TYPE)? != "client_credential" {
        return Err(Wrong::GRANT_TYPE);
    }
    let appid = world.apps.check(params)?;
    Ok(world.lock().tokens.renew_plain(appid, world.clock.unix_millis()))
}

#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    grant_type: String,
    #[serde(default)]
    appid: String,
    #[serde(default)]
    secret: String,
    #[serde(default)]
    force_refresh: bool,
}

pub(super) async fn stable_token(
    State(world): State<Arc<World>>,
    method: Method,
    body: Bytes,
) -> Response {
    answer::wechat(stable(&world, &method, &body))
}

fn stable(world: &World, method: &Method, body: &Bytes) -> Result<Value, Wrong> {
    only(method, &Method::POST)?;
    let wanted: Wanted = serde_json::from_slice(body).map_err(|_| Wrong::BODY)?;
    if wanted.grant_type != "client_credential" {
        return Err(Wrong::GRANT_TYPE);
    }
    if wanted.appid.is_empty() {
        return Err(Wrong::NO_APPID);
    }
    if wanted.secret.is_empty() {
        return Err(Wrong::NO_SECRET);
    }
    world.apps.check_pair(&wanted.appid, &wanted.secret)?;
    let force = if wanted.force_refresh { Force::Yes } else { Force::No };
    Ok(world.lock().tokens.stable(&wanted.appid, force, world.clock.unix_millis()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const APP: &str = "wx0001";

    #[test]
    fn a_stable_token_stays_until_five_minutes_before_its_end() {
        let mut tokens = Tokens::default();
        let first = tokens.stable(APP, Force::No, 0);
        assert_eq!(first.get("expires_in"), Some(&json!(7200)));
        let later = tokens.stable(APP, Force::No, 6_899_000);
        assert_eq!(later.get("access_token"), first.get("access_token"));
        assert_eq!(later.get("expires_in"), Some(&json!(301)));
        let renewed = tokens.stable(APP, Force::No, 6_900_000);
        assert_ne!(renewed.get("access_token"), first.get("access_token"));
        assert_eq!(renewed.get("expires_in"), Some(&json!(7200)));
    }

    #[test]
    fn the_token_before_lives_five_minutes_on_and_is_then_expired() {
        let mut tokens = Tokens::default();
        let text = |shown: Value| shown.get("access_token").unwrap().as_str().unwrap().to_owned();
        let first = text(tokens.renew_plain(APP, 0));
        let second = text(tokens.renew_plain(APP, 1000));
        assert_eq!(tokens.app_of(&first, 300_999), Ok(APP.to_owned()));
        assert_eq!(tokens.app_of(&first, 301_000), Err(Wrong::TOKEN_EXPIRED));
        assert_eq!(tokens.app_of(&second, 7_200_999), Ok(APP.to_owned()));
        assert_eq!(tokens.app_of(&second, 7_201_000), Err(Wrong::TOKEN_EXPIRED));
        assert_eq!(tokens.app_of("other", 0), Err(Wrong::CREDENTIAL));
        let stable = text(tokens.stable(APP, Force::No, 0));
        let forced = text(tokens.stable(APP, Force::Yes, 1));
        assert_eq!(tokens.app_of(&stable, 1), Err(Wrong::CREDENTIAL), "what is forced is forced");
        assert_eq!(tokens.app_of(&forced, 1), Ok(APP.to_owned()));
    }

    #[test]
    fn force_refresh_works_30_s_apart_and_20_times_a_day() {
        let mut tokens = Tokens::default();
        let mut now = 0;
        let mut last = tokens.stable(APP, Force::Yes, now);
        assert_ne!(tokens.stable(APP, Force::Yes, now), last, "the first one may be forced");
        for forced in 2..=FORCED_A_DAY {
            last = tokens.stable(APP, Force::Yes, now + 29_999);
            now += 30_000;
            let next = tokens.stable(APP, Force::Yes, now);
            assert_ne!(next.get("access_token"), last.get("access_token"), "{forced}");
            last = next;
        }
        let refused = tokens.stable(APP, Force::Yes, now + 60_000);
        assert_eq!(refused.get("access_token"), last.get("access_token"));
    }

    #[test]
    fn the_plain_kind_is_another_each_time_and_leaves_the_stable_kind_alone() {
        let mut tokens = Tokens::default();
        let stable = tokens.stable(APP, Force::No, 0);
        assert_ne!(tokens.renew_plain(APP, 0), tokens.renew_plain(APP, 0));
        assert_eq!(tokens.stable(APP, Force::No, 0), stable);
    }
}
