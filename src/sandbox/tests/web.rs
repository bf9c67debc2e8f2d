//! Web login: the pages, and what their codes give.

use super::*;

const BACK: &str = "http%3A%2F%2F127.0.0.1%3A8080%2Fwx%2Foauth%2Fcallback%3Fa%3Db";

fn asked(scope: &str) -> String {
    format!("appid={APP}&redirect_uri={BACK}&response_type=code&scope={scope}&state=s1")
}

impl Sandbox {
    /// Where a decision sends the browser.
    async fn decide(&self, scope: &str, decision: &str) -> url::Url {
        let path = format!("/sandbox/consent?{}&user=alice&decision={decision}", asked(scope));
        let answer = self.get(&path).await;
        assert_eq!(answer.status, 302, "{}", answer.body);
        url::Url::parse(answer.raw_header("location: ")).unwrap()
    }

    async fn web_token(&self, code: &str) -> Answer {
        let path = "/sns/oauth2/access_token";
        let query = format!("appid={APP}&secret=right&code={code}&grant_type=authorization_code");
        self.get(&format!("{path}?{query}")).await
    }
}

fn parameter(url: &url::Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

#[tokio::test]
async fn consent_gives_a_code_that_gives_the_user_once() {
    let sandbox = Sandbox::start().await;
    let page =
        sandbox.get(&format!("/connect/oauth2/authorize?{}", asked("snsapi_userinfo"))).await;
    assert!(page.body.contains("name=\"decision\" value=\"allow\""), "{}", page.body);
    let back = sandbox.decide("snsapi_userinfo", "allow").await;
    assert!(back.as_str().starts_with("http://127.0.0.1:8080/wx/oauth/callback?a=b&code="));
    assert_eq!(parameter(&back, "state").as_deref(), Some("s1"));
    let code = parameter(&back, "code").unwrap();
    let given = sandbox.web_token(&code).await.json();
    assert_eq!(given.get("expires_in"), Some(&json!(7200)));
    assert_eq!(text(&given, "scope"), "snsapi_userinfo");
    assert_eq!(text(&given, "unionid").len(), 28);
    assert!(given.get("is_snapshotuser").is_none());
    assert_eq!(sandbox.web_token(&code).await.errcode(), 40163);
    // The same person is the same openid by wx.login of that app.
    let login = sandbox.log_in(APP, "alice").await;
    assert_eq!(sandbox.exchange(&login).await.json().get("openid"), given.get("openid"));

    let (token, openid) = (text(&given, "access_token"), text(&given, "openid"));
    let who = format!("access_token={token}&openid={openid}");
    let person = sandbox.get(&format!("/sns/userinfo?{who}&lang=zh_CN")).await.json();
    assert_eq!(text(&person, "nickname"), "alice");
    assert_eq!(sandbox.get(&format!("/sns/auth?{who}")).await.errcode(), 0);
    for (query, errcode) in [
        (format!("openid={openid}"), 41001),
        (format!("access_token={token}"), 41009),
        (format!("access_token=no&openid={openid}"), 40001),
        (format!("access_token={token}&openid=oOther"), 40003),
    ] {
        assert_eq!(sandbox.get(&format!("/sns/auth?{query}")).await.errcode(), errcode, "{query}");
        let answer = sandbox.get(&format!("/sns/userinfo?{query}")).await;
        assert_eq!(answer.errcode(), errcode, "{query}");
    }
}

#[tokio::test]
async fn a_refresh_extends_a_living_token_and_replaces_a_dead_one() {
    let sandbox = Sandbox::start().await;
    let back = sandbox.decide("snsapi_userinfo", "allow").await;
    let given = sandbox.web_token(&parameter(&back, "code").unwrap()).await.json();
    let refresh = text(&given, "refresh_token");
    let path = format!(
        "/sns/oauth2/refresh_token?appid={APP}&grant_type=refresh_token&refresh_token={refresh}"
    );
    sandbox.clock.set_unix_millis(NOW + 7_199_999);
    let same = sandbox.get(&path).await.json();
    assert_eq!(same.get("access_token"), given.get("access_token"));
    sandbox.clock.set_unix_millis(NOW + 7_199_999 + 7_200_000);
    let fresh = sandbox.get(&path).await.json();
    assert_ne!(fresh.get("access_token"), given.get("access_token"));
    assert_eq!(fresh.get("openid"), given.get("openid"));
    sandbox.clock.set_unix_millis(NOW + 30 * 86_400_000);
    assert_eq!(sandbox.get(&path).await.errcode(), 42002);
    assert_eq!(sandbox.get(&path.replace(&refresh, "no")).await.errcode(), 40030);
    let foreign = path.replace(APP, OTHER);
    sandbox.clock.set_unix_millis(NOW);
    assert_eq!(sandbox.get(&foreign).await.errcode(), 40030);
}

#[tokio::test]
async fn a_silent_login_asks_once_who_it_is_and_learns_the_openid_only() {
    let sandbox = Sandbox::start().await;
    let path = format!("/connect/oauth2/authorize?{}", asked("snsapi_base"));
    assert_eq!(sandbox.get(&path).await.status, 200);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: h\r\nCookie: a=b; sandbox_user=%E5%B0%8F\r\n\
         Connection: close\r\n\r\n"
    );
    let answer = send(sandbox.address, &request).await;
    assert_eq!(answer.status, 302);
    let back = url::Url::parse(answer.raw_header("location: ")).unwrap();
    let given = sandbox.web_token(&parameter(&back, "code").unwrap()).await.json();
    assert!(given.get("unionid").is_none());
    let who =
        format!("access_token={}&openid={}", text(&given, "access_token"), text(&given, "openid"));
    assert_eq!(sandbox.get(&format!("/sns/userinfo?{who}")).await.errcode(), 48001);
}

#[tokio::test]
async fn a_refusal_comes_back_with_the_state_alone_and_a_snapshot_is_marked() {
    let sandbox = Sandbox::start().await;
    let back = sandbox.decide("snsapi_userinfo", "refuse").await;
    assert_eq!(
        (parameter(&back, "code"), parameter(&back, "state").as_deref()),
        (None, Some("s1"))
    );
    let back = sandbox.decide("snsapi_userinfo", "snapshot").await;
    let given = sandbox.web_token(&parameter(&back, "code").unwrap()).await.json();
    assert_eq!(given.get("is_snapshotuser"), Some(&json!(1)));
}

#[tokio::test]
async fn the_code_of_a_qr_login_lives_ten_minutes_and_of_the_other_page_five() {
    let sandbox = Sandbox::start().await;
    let page = sandbox.get(&format!("/connect/qrconnect?{}", asked("snsapi_login"))).await;
    assert!(page.body.contains("value=\"allow\""), "{}", page.body);
    let qr = parameter(&sandbox.decide("snsapi_login", "allow").await, "code").unwrap();
    let other = parameter(&sandbox.decide("snsapi_userinfo", "allow").await, "code").unwrap();
    sandbox.clock.set_unix_millis(NOW + 300_000);
    assert_eq!(sandbox.web_token(&other).await.errcode(), 40029);
    assert!(sandbox.web_token(&qr).await.json().get("unionid").is_some());
    // A code of wx.login is none of these.
    let login = sandbox.log_in(APP, "alice").await;
    assert_eq!(sandbox.web_token(&login).await.errcode(), 40029);
}

#[tokio::test]
async fn pages_refuse_what_wechat_refuses_and_show_nothing_unescaped() {
    let sandbox = Sandbox::start().await;
    let good = asked("snsapi_userinfo");
    for (query, says) in [
        (good.replace(APP, "wxno"), "AppID"),
        (good.replace(BACK, "javascript%3Aalert(1)"), "redirect_uri"),
        (good.replace("type=code", "type=token"), "response_type"),
        (good.replace("userinfo", "login"), "Scope"),
        (format!("state=s1&{good}"), "out of order"),
        (good.replace("s1", &"s".repeat(129)), "state"),
    ] {
        let page = sandbox.get(&format!("/connect/oauth2/authorize?{query}")).await;
        assert!(page.body.contains("id=\"error\"") && page.body.contains(says), "{}", page.body);
        // The buttons lead nowhere either; they serve all three scopes.
        let button = format!("/sandbox/consent?{query}&user=a&decision=allow");
        let sent_back = sandbox.get(&button).await.status == 302;
        assert_eq!(sent_back, says == "Scope", "{query}");
    }
    let evil = good.replace("s1", "%22%3E%3Cscript%3E");
    let page = sandbox.get(&format!("/connect/oauth2/authorize?{evil}")).await;
    assert!(!page.body.contains("<script>"), "{}", page.body);
    let page = sandbox.get(&format!("/sandbox/consent?{good}&user=%0A&decision=allow")).await;
    assert!(page.body.contains("id=\"error\""));
}
