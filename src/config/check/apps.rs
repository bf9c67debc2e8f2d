//! Rules of `[wechat]`, `[[apps]]` and `[login]`.

use url::Url;

use super::super::file;
use super::super::problem::Key;
use super::super::value::Rate;
use super::super::{App, Login, RateKey, RateLimit, Wechat};
use super::Checker;
use super::paths;
use crate::secret::Secret;

/// Where WeChat's API is.
const API: &str = "https://api.weixin.qq.com";
/// Where its pages are.
const OPEN: &str = "https://open.weixin.qq.com";

/// `[wechat]`
pub(super) fn wechat(file: &file::Wechat, checker: &mut Checker<'_>) -> Option<Wechat> {
    let section = Key::of("wechat");
    let list = section.name("api_base");
    if file.api_base.0.is_empty() {
        checker.wrong(&list, "names no URL", "write \"https://api.weixin.qq.com\"");
    }
    let single = file.api_base.0.len() == 1;
    let mut api_base: Vec<Url> = Vec::new();
    for (index, text) in file.api_base.0.iter().enumerate() {
        let key = if single { list.clone() } else { list.item(index) };
        let Some(url) = base_url(text, API, &key, checker) else { continue };
        if api_base.contains(&url) {
            checker.wrong(&key, "is in the list already", "leave one of them out");
        }
        api_base.push(url);
    }
    if file.max_concurrent == 0 {
        let what = "must be at least 1, else nobody can log in";
        checker.wrong(&section.name("max_concurrent"), what, "write for example 256");
    }
    let open_base = base_url(&file.open_base, OPEN, &section.name("open_base"), checker)?;
    Some(Wechat {
        api_base,
        open_base,
        timeout: checker.timeout(&section.name("timeout"), file.timeout),
        max_concurrent: file.max_concurrent,
    })
}

/// A base URL: scheme, host and port. It is never quoted, since a password may stand in it.
fn base_url(text: &str, usual: &'static str, key: &Key, checker: &mut Checker<'_>) -> Option<Url> {
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
    });
    let Some(url) = url else {
        let what = "is not a URL of scheme, host and port only";
        checker.wrong(key, what, format!("write \"{usual}\""));
        return None;
    };
    let local = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if url.scheme() == "http" && !local {
        let what = "the app's secret crosses the network in clear text";
        checker.warn(key, what, "write https://");
    }
    Some(url)
}

/// `[[apps]]`
pub(super) fn apps(written: Vec<file::App>, checker: &mut Checker<'_>) -> Vec<App> {
    let list = Key::of("apps");
    if written.is_empty() {
        let hint = "add [[apps]] with appid = \"wx…\" and secret = { env = \"WX_SECRET\" }";
        checker.wrong(&list, "no app is configured, so nobody can log in", hint);
    }
    let mut apps: Vec<App> = Vec::new();
    for (index, app) in written.into_iter().enumerate() {
        let key = list.item(index);
        let name = key.name("appid");
        let appid = checker.required(&name, app.appid, "the id that WeChat's console shows");
        let appid = appid.and_then(|appid| {
            let good = is_appid(&appid);
            if !good {
                // Not quoted: it may be the secret, written at the wrong place.
                let what = "is not an appid: 6 to 64 letters, digits, `_` or `-`";
                checker.wrong(&name, what, "copy it from WeChat's console: \"wx…\"");
            }
            good.then_some(appid)
        });
        let whose =
            appid.as_ref().map_or_else(|| key.to_string(), |appid| format!("app `{appid}`"));
        let secret = key.name("secret");
        let source = checker.required(&secret, app.secret, "{ env = \"WX_SECRET\" }");
        let text = source.and_then(|source| checker.secret(&secret, &source, &whose));
        let Some(appid) = appid else { continue };
        if let Some(first) = apps.iter().position(|other| other.appid == appid) {
            let what = format!("`{appid}` is {} already", list.item(first));
            checker.wrong(&name, what, "leave one of them out");
        }
        // Kept without its secret too, so that routes may name it without a second complaint.
        let secret = Secret::new(text.map(|text| text.to_string()).unwrap_or_default());
        apps.push(App { appid, secret, kind: app.kind });
    }
    apps
}

/// The shape that `identity::is_identity` asks of an appid.
pub(super) fn is_appid(text: &str) -> bool {
    (6..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// `[login]`
pub(super) fn login(file: file::Login, checker: &mut Checker<'_>) -> Login {
    let section = Key::of("login");
    let key = section.name("prefix");
    if let Err((what, hint)) = paths::stem(&file.prefix) {
        checker.wrong(&key, what, hint);
    }
    let key = section.name("rate_limit");
    let rate_limit = file
        .rate_limit
        .per_ip
        .map(|rate| burst(rate, RateKey::Ip, file.rate_limit.burst, &key, checker));
    if rate_limit.is_none() {
        checker.wrong(&key, "names no rate", "write { per_ip = \"30/m\", burst = 30 }");
    }
    Login {
        prefix: file.prefix,
        rate_limit,
        expose_openid: file.expose_openid,
        verify: file.verify,
        replay_window: file.replay_window.0,
        // Judged once it is known where tokens stand.
        cors: None,
    }
}

/// `{ per_ip = "30/m", burst = 30 }`
pub(super) fn rate_limit(
    file: file::RateLimit,
    key: &Key,
    checker: &mut Checker<'_>,
) -> Option<RateLimit> {
    match (file.per_ip, file.per_openid) {
        (Some(rate), None) => Some(burst(rate, RateKey::Ip, file.burst, key, checker)),
        (None, Some(rate)) => Some(burst(rate, RateKey::OpenId, file.burst, key, checker)),
        (Some(_), Some(_)) | (None, None) => {
            let hint = "write { per_ip = \"30/m\", burst = 30 }";
            checker.wrong(key, "must name exactly one of `per_ip` and `per_openid`", hint);
            None
        }
    }
}

fn burst(
    rate: Rate,
    counted: RateKey,
    burst: Option<u32>,
    key: &Key,
    checker: &mut Checker<'_>,
) -> RateLimit {
    let burst = burst.unwrap_or(rate.count);
    if burst == 0 {
        let what = "must be at least 1, else nothing ever passes";
        checker.wrong(&key.name("burst"), what, "leave it out for the number of the rate");
    }
    RateLimit { key: counted, count: rate.count, period: rate.period, burst }
}
