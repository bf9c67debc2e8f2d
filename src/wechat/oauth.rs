//! Web login: the address of WeChat's page, to which a browser is sent.

use url::Url;

/// Which page of WeChat a browser is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebPage {
    /// Inside WeChat, for an official account; the user notices nothing and only the openid is
    /// learnt (`snsapi_base`).
    Silent,
    /// Inside WeChat, for an official account; the user is asked for consent
    /// (`snsapi_userinfo`).
    Consent,
    /// Any browser, for a website: a QR code that the user scans (`snsapi_login`).
    QrCode,
}

/// The address of WeChat's login page. `open_base` is the `https://open.weixin.qq.com` of the
/// configuration; `state` comes back unchanged, at most 128 letters and digits.
pub fn login_page(
    open_base: &Url,
    page: WebPage,
    appid: &str,
    redirect_uri: &Url,
    state: &str,
) -> Url {
    let (path, scope) = match page {
        WebPage::Silent => (["connect", "oauth2", "authorize"].as_slice(), "snsapi_base"),
        WebPage::Consent => (["connect", "oauth2", "authorize"].as_slice(), "snsapi_userinfo"),
        WebPage::QrCode => (["connect", "qrconnect"].as_slice(), "snsapi_login"),
    };
    let mut url = open_base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    // In any other order WeChat answers that the scope is wrong.
    url.query_pairs_mut()
        .clear()
        .append_pair("appid", appid)
        .append_pair("redirect_uri", redirect_uri.as_str())
        .append_pair("response_type", "code")
        .append_pair("scope", scope)
        .append_pair("state", state);
    url.set_fragment(Some("wechat_redirect"));
    url
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_stand_in_the_order_that_wechat_wants() {
        let base = Url::parse("https://open.weixin.qq.com").unwrap();
        let back = Url::parse("https://example.com/wx/oauth/callback?a=b&c").unwrap();
        let tail = "appid=wx0001&redirect_uri=https%3A%2F%2Fexample.com%2Fwx%2Foauth%2Fcallback\
                    %3Fa%3Db%26c&response_type=code";
        for (page, path, scope) in [
            (WebPage::Silent, "oauth2/authorize", "snsapi_base"),
            (WebPage::Consent, "oauth2/authorize", "snsapi_userinfo"),
            (WebPage::QrCode, "qrconnect", "snsapi_login"),
        ] {
            assert_eq!(
                login_page(&base, page, "wx0001", &back, "s1").as_str(),
                format!(
                    "https://open.weixin.qq.com/connect/{path}?{tail}&scope={scope}&state=s1\
                     #wechat_redirect"
                )
            );
        }
    }
}
