//! `GET oauth/login` and `GET oauth/callback`: a browser logs in on WeChat's page and gets its
//! session in a cookie.
//!
//! `state` is random, and what it stands for is kept, sealed, by the browser in which the login
//! began: whoever gets another's browser to open a callback logs nobody in (RFC 6749 section
//! 10.12).

use std::borrow::Cow;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::{Url, form_urlencoded};

use super::auth::{conclude, new_session};
use super::refusal::{InputError, Refusal};
use super::{Answer, Endpoints, Request, log_session_error};
use crate::config::{AppKind, Config, TokenSource};
use crate::identity::{AppId, OpenId};
use crate::observe::AuthResult;
use crate::session::{Issued, Visit};
use crate::wechat::{WebPage, is_code, login_page};

/// Begins the name of the cookie that binds a login to its browser; the state follows, so that two
/// pages can log in at once.
const VISIT_COOKIE: &str = "wxgate_login_";
/// Logins that a browser may have under way. More cookies of up to 4 KiB each could make its
/// requests longer than is taken, and a page can begin logins without end.
const MOST_VISITS: usize = 6;
/// What WeChat's page for websites sends as code of a user who refuses.
const DECLINED: &str = "authdeny";
/// Longest `return_to`, in bytes as a browser writes it: it goes along, sealed and in base64, in a
/// cookie, of which browsers take 4 KiB.
const LONGEST_RETURN: usize = 2048;

/// The apps whose users log in with a browser.
pub(super) struct Web {
    apps: Vec<(AppId, AppKind)>,
    open_base: Url,
    /// The cookie that a session is kept in: the first that tokens are looked for in.
    cookie: Option<String>,
}

impl Web {
    pub(super) fn new(config: &Config) -> Self {
        let web = config.apps.iter().filter(|app| app.kind != AppKind::MiniProgram);
        let cookie = config.session.token_from.iter().find_map(|place| match place {
            TokenSource::Cookie(name) => Some(name.clone()),
            TokenSource::Authorization | TokenSource::Header(_) | TokenSource::Query(_) => None,
        });
        Self {
            apps: web.filter_map(|app| Some((AppId::parse(&app.appid).ok()?, app.kind))).collect(),
            open_base: config.wechat.open_base.clone(),
            cookie,
        }
    }

    fn choose(&self, named: Option<&str>) -> Result<&(AppId, AppKind), InputError> {
        match (named, self.apps.as_slice()) {
            (Some(appid), apps) => {
                let found = apps.iter().find(|(app, _)| app.as_str() == appid);
                found.ok_or(InputError::UnknownApp)
            }
            (None, [app]) => Ok(app),
            (None, _) => Err(InputError::NoApp),
        }
    }
}

pub(super) fn login(endpoints: &Endpoints, request: Request<'_>) -> Answer {
    let answer = begin(endpoints, &request);
    let answer = answer.unwrap_or_else(|refusal| refusal.into_answer(request.request_id));
    answer.for_caller(AuthResult::Public, None)
}

fn begin(endpoints: &Endpoints, request: &Request<'_>) -> Result<Answer, Refusal> {
    let browser = &request.browser;
    let [appid, return_to, scope] = parameters(browser.query, ["appid", "return_to", "scope"])?;
    let (appid, kind) = endpoints.web.choose(appid.as_deref())?;
    let page = match (kind, scope.as_deref()) {
        (AppKind::Website, _) => WebPage::QrCode,
        (_, Some("snsapi_userinfo")) => WebPage::Consent,
        (AppKind::OfficialAccount | AppKind::MiniProgram, _) => WebPage::Silent,
    };
    let return_to = check_return_to(return_to.as_deref().unwrap_or("/"))?;
    let path = format!("{}/oauth", endpoints.prefix);
    let back = browser.address(&format!("{path}/callback"));
    let back = back.ok_or(Refusal::Malformed("no Host to come back to"))?;
    let begun = endpoints.sessions.begin_visit(appid, &return_to);
    let (visit, kept) = begun.inspect_err(log_session_error)?;
    let name = format!("{VISIT_COOKIE}{}", visit.state);
    let cookie = browser.set_cookie(&name, &kept, &path, Visit::LIFE);
    let open_base = &endpoints.web.open_base;
    let location = login_page(open_base, page, appid.as_str(), &back, &visit.state);
    let mut answer = Answer::redirect(302, location.into()).saying("Set-Cookie", cookie);
    for spare in browser.cookies_named(VISIT_COOKIE).rev().skip(MOST_VISITS - 1).take(16) {
        answer = answer.saying("Set-Cookie", browser.set_cookie(spare, "", &path, Duration::ZERO));
    }
    Ok(answer)
}

pub(super) async fn callback(endpoints: &Endpoints, request: Request<'_>) -> Answer {
    let mut app = None;
    let outcome = come_back(endpoints, &request, &mut app).await;
    conclude(endpoints, app.as_ref(), outcome, request.request_id)
}

/// The user of a browser that came back from WeChat's page, and where it goes now.
async fn come_back(
    endpoints: &Endpoints,
    request: &Request<'_>,
    app: &mut Option<AppId>,
) -> Result<(OpenId, Answer), Refusal> {
    endpoints.check_login_limit(request)?;
    let browser = &request.browser;
    let [code, state] = parameters(browser.query, ["code", "state"])?;
    let state = state.ok_or(InputError::ForeignState)?;
    let kept = browser.cookie(&format!("{VISIT_COOKIE}{state}"));
    let visit = kept.and_then(|kept| endpoints.sessions.find_visit(&state, kept));
    let visit = visit.ok_or(InputError::ForeignState)?;
    // An app that was taken off the configuration meanwhile logs nobody in.
    endpoints.web.choose(Some(visit.appid.as_str()))?;
    *app = Some(visit.appid.clone());
    let code = code.filter(|code| code != DECLINED).ok_or(Refusal::Declined)?;
    if !is_code(&code) {
        return Err(InputError::BadCode.into());
    }
    let log_in = async || log_in(endpoints, &visit, &code).await;
    let issued = endpoints.sessions.complete_visit(&visit, &code, log_in).await?;
    // A login is complete by its first code. Another one, after the back button or of a page that
    // somebody prepared, is not even shown to WeChat.
    let issued = issued.ok_or(InputError::UsedState)?;
    let name = endpoints.web.cookie.as_deref().ok_or(Refusal::Internal)?;
    let life = endpoints.sessions.expires_in(&issued.verified);
    let cookie = browser.set_cookie(name, issued.token(), "/", life);
    let openid = issued.verified.identity.openid.clone();
    let answer = Answer::redirect(302, visit.return_to);
    Ok((openid, answer.saying("Set-Cookie", cookie)))
}

async fn log_in(endpoints: &Endpoints, visit: &Visit, code: &str) -> Result<Issued, Refusal> {
    let user = endpoints.wechat.web_user(visit.appid.as_str(), &visit.state, code).await?;
    let session = new_session(&visit.appid, &user, None)?;
    let issued = endpoints.sessions.open(session).await.inspect_err(log_session_error)?;
    endpoints.sessions.spend_visit(visit).await.inspect_err(log_session_error)?;
    Ok(issued)
}

/// The values of these parameters; empty ones are none.
fn parameters<const N: usize>(
    query: &str,
    names: [&str; N],
) -> Result<[Option<String>; N], InputError> {
    let mut values = [const { None }; N];
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let place = names.iter().position(|known| *known == name);
        if let Some(place) = place.and_then(|place| values.get_mut(place))
            && place.replace(value.into_owned()).is_some()
        {
            return Err(InputError::RepeatedParameter);
        }
    }
    Ok(values.map(|value: Option<String>| value.filter(|value| !value.is_empty())))
}

/// A path of this site, query and fragment included, as a browser reads it. Decoded as often as
/// anything on the way might, it must still be one.
pub(crate) fn check_return_to(written: &str) -> Result<String, InputError> {
    let mut decoded = Cow::Borrowed(written);
    for _ in 0..5 {
        let path = decoded.split(['?', '#']).next().unwrap_or_default();
        let odd = |letter: char| letter == '\\' || letter.is_control();
        if written.len() > LONGEST_RETURN
            || !path.starts_with('/')
            || path.contains("//")
            || decoded.contains(odd)
        {
            return Err(InputError::ForeignReturn);
        }
        let next = percent_decode_str(&decoded).decode_utf8();
        let next = next.map_err(|_| InputError::ForeignReturn)?.into_owned();
        if next == *decoded {
            let base = Url::parse("https://site.invalid").map_err(|_| InputError::ForeignReturn)?;
            let url = base.join(written).map_err(|_| InputError::ForeignReturn)?;
            let here = url.as_str().strip_prefix("https://site.invalid");
            let here = here.filter(|rest| rest.starts_with('/') && !rest.starts_with("//"));
            // Some letters are longer as a browser writes them.
            let here = here.filter(|rest| rest.len() <= LONGEST_RETURN);
            return here.map(str::to_owned).ok_or(InputError::ForeignReturn);
        }
        decoded = Cow::Owned(next);
    }
    // Encoded over and over: nobody means well.
    Err(InputError::ForeignReturn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_this_site_are_returned_to() {
        for good in ["/", "/a/b?c=d&e=https://x.test//y#f", "/%E9%A1%B5", "/a%20b", "/@user:1"] {
            assert_eq!(check_return_to(good).as_deref(), Ok(good));
        }
        assert_eq!(check_return_to("/页").as_deref(), Ok("/%E9%A1%B5"));
        assert!(check_return_to(&format!("/{}", "页".repeat(200))).is_ok());
        for evil in [
            "",
            "a",
            "//evil.test",
            "///evil.test",
            "/\\evil.test",
            "\\\\evil.test",
            "https://evil.test",
            "javascript:alert(1)",
            "user@evil.test",
            "/%2Fevil.test",
            "/%252Fevil.test",
            "%2F%2Fevil.test",
            "/%5Cevil.test",
            "/%255Cevil.test",
            "/a//evil.test",
            "/.//evil.test",
            "/x/..//evil.test",
            "/\t/evil.test",
            "/%09/evil.test",
            "/\r\nSet-Cookie: a=b",
            "/%0d%0aSet-Cookie:a=b",
            "/%00",
            "/%FF",
            "/%25252525252525252F",
            &format!("/{}", "页".repeat(300)),
            &format!("/{}", "a".repeat(2048)),
        ] {
            assert_eq!(check_return_to(evil), Err(InputError::ForeignReturn), "{evil:?}");
        }
    }
}
