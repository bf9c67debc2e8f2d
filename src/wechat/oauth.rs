//! Web login: the address of WeChat's page, and the exchange of the code it sends back.

use std::fmt;

use url::Url;

use super::answer::{Answer, user};
use super::client::{Client, Line, Parcel};
use super::errcode::WechatError;
use crate::secret::Secret;

/// Who came back from WeChat's page.
#[derive(Clone, PartialEq, Eq)]
pub struct WebUser {
    /// The user of this app, `[A-Za-z0-9_-]{6,64}`.
    pub openid: String,
    /// The user over all apps of one Open Platform account, `[A-Za-z0-9_-]{6,64}`; WeChat gives
    /// it only where the user was asked for consent and the app is bound to an account.
    pub unionid: Option<String>,
}

impl fmt::Debug for WebUser {
    // An openid may stand in no log.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WebUser").finish_non_exhaustive()
    }
}

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

/// Sends the code, once.
///
/// # Errors
/// `SnapshotUser` for a user who is none; those of the call, and what its errcode stands for.
pub(super) async fn exchange(
    client: &Client,
    line: &Line,
    appid: &str,
    secret: &Secret<String>,
    code: &str,
) -> Result<WebUser, WechatError> {
    let query = [
        ("appid", appid),
        ("secret", secret.expose()),
        ("code", code),
        ("grant_type", "authorization_code"),
    ];
    client.call(line, Parcel { appid, query: &query, body: None }, read).await
}

fn read(answer: &Answer) -> Result<WebUser, WechatError> {
    if answer.optional_number("is_snapshotuser")?.unwrap_or_default() != 0 {
        return Err(WechatError::SnapshotUser);
    }
    let openid = user(answer.text("openid")?, "openid")?;
    let unionid = match answer.optional_text("unionid")? {
        Some(unionid) => Some(user(unionid, "unionid")?),
        None => None,
    };
    Ok(WebUser { openid, unionid })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::{Value, json};

    use super::super::answer::parse;
    use super::super::errcode::Flaw;
    use super::*;

    fn read_json(body: &Value) -> Result<WebUser, WechatError> {
        read(&parse(body.to_string().as_bytes()).unwrap())
    }

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

    #[test]
    fn a_virtual_user_of_a_snapshot_page_is_nobody() {
        let openid = "oGZUI0egBJY1zhBYw2KhdUfwVJJE";
        for snapshot in [json!(1), json!("1")] {
            let body = json!({"openid": openid, "is_snapshotuser": snapshot});
            assert_eq!(read_json(&body), Err(WechatError::SnapshotUser));
        }
        for snapshot in [json!(0), json!(null)] {
            let body = json!({"openid": openid, "is_snapshotuser": snapshot});
            assert_eq!(read_json(&body).unwrap().openid, openid);
        }
        let odd = json!({"openid": openid, "is_snapshotuser": "yes"});
        let flaw = Flaw::Field("is_snapshotuser");
        assert_eq!(read_json(&odd), Err(WechatError::Malformed(flaw)));
    }

    #[test]
    fn a_unionid_is_taken_where_there_is_one_and_debug_shows_nobody() {
        let openid = "oGZUI0egBJY1zhBYw2KhdUfwVJJE";
        let body = json!({"openid": openid, "unionid": "ocMvos6NjeKLIBqg5Mr9QjxrP1FA"});
        let user = read_json(&body).unwrap();
        assert_eq!(user.unionid.as_deref(), Some("ocMvos6NjeKLIBqg5Mr9QjxrP1FA"));
        assert!(!format!("{user:?}").contains("oc"));
        assert!(read_json(&json!({"openid": "a b c d e"})).is_err());
    }
}
