//! The endpoints against a WeChat that answers by the code it is shown.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::{Query, State};
use serde_json::{Value, json};

use super::*;
use crate::clock::Clock;
use crate::observe::AuthResult;

const START: u64 = 1_800_000_000;
const ONE_APP: &str = "\n[[apps]]\nappid = \"wxapp0000000001\"\nsecret = \"one\"\n";
const TWO_APPS: &str = "\n[[apps]]\nappid = \"wxapp0000000001\"\nsecret = \"one\"\n\
                        \n[[apps]]\nappid = \"wxapp0000000002\"\nsecret = \"two\"\n";
const JSON: Option<&str> = Some("application/json");
const FORM: Option<&str> = Some("application/x-www-form-urlencoded");

struct World {
    endpoints: Endpoints,
    config: Config,
    clock: Clock,
    metrics: Arc<Metrics>,
    asked: Arc<AtomicUsize>,
}

/// `code=40029` is refused with that errcode, `code=garbage` answered with none of WeChat's
/// fields; every other one logs in the user of that name.
async fn jscode2session(
    State(asked): State<Arc<AtomicUsize>>,
    Query(query): Query<std::collections::HashMap<String, String>>,
) -> String {
    asked.fetch_add(1, Ordering::SeqCst);
    let code = query["js_code"].as_str();
    if code == "garbage" {
        return "{}".to_owned();
    }
    match code.trim_start_matches('e').parse::<i64>() {
        Ok(errcode) => json!({"errcode": errcode, "errmsg": "no"}).to_string(),
        Err(_) => json!({
            "openid": format!("o{}-{}", query["appid"], code),
            "session_key": "tiihtNczf5v6AKRyjwEUhQ==",
            "unionid": if code.contains("union") { json!("u-of-alice") } else { Value::Null },
        })
        .to_string(),
    }
}

impl World {
    async fn new(rest: &str) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wechat = Router::new()
            .route("/sns/jscode2session", axum::routing::get(jscode2session))
            .with_state(Arc::clone(&asked));
        tokio::spawn(async move { axum::serve(listener, wechat).await });
        let text = format!(
            "{rest}\n[wechat]\napi_base = \"http://{address}\"\n\
             [[upstreams]]\nname = \"php\"\nservers = [\"127.0.0.1:1\"]\n\
             [[routes]]\npath = \"/\"\nupstream = \"php\"\nauth = \"required\"\n"
        );
        let loaded = crate::config::parse(Path::new("gateway.toml"), &text, &|_| None);
        let mut config = loaded.map_err(|problems| problems.to_string()).unwrap().config;
        config.session.store = crate::config::Store::Memory;
        let clock = Clock::set_to(START * 1000);
        let metrics = Arc::new(Metrics::new().unwrap());
        let sessions =
            Sessions::new(&config.session, &config.apps, clock.clone(), Arc::clone(&metrics));
        let endpoints = Endpoints::new(
            &config,
            None,
            Arc::new(sessions.unwrap()),
            Wechat::new(&config, clock.clone(), Arc::clone(&metrics)).unwrap(),
            Arc::clone(&metrics),
            None,
        );
        Self { endpoints, config, clock, metrics, asked }
    }

    async fn one_app() -> Self {
        Self::new(ONE_APP).await
    }

    async fn ask(&self, endpoint: Endpoint, token: Option<&str>, body: &str) -> Answer {
        self.endpoints.answer(endpoint, Request { token, ..request(JSON, body) }).await
    }

    async fn auth(&self, content_type: Option<&str>, body: &str) -> Answer {
        self.endpoints.answer(Endpoint::Auth, request(content_type, body)).await
    }

    async fn token(&self, code: &str) -> String {
        let answer = self.auth(JSON, &json!({ "code": code }).to_string()).await;
        body(&answer)["access_token"].as_str().unwrap().to_owned()
    }

    fn logins(&self, appid: &str, result: &str) -> u64 {
        self.metrics.logins.with_label_values(&[appid, result]).get()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn request<'a>(content_type: Option<&'a str>, body: &'a str) -> Request<'a> {
    Request {
        content_type,
        referer: None,
        token: None,
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        body: body.as_bytes(),
        request_id: "r-1",
        browser: Browser::default(),
    }
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    let mut found = answer.headers.iter().filter(|(candidate, _)| *candidate == name);
    let value = found.next().map(|(_, value)| value.as_str());
    assert!(found.next().is_none(), "{name} stands there twice");
    value
}

fn error(answer: &Answer) -> (u16, String) {
    (answer.status, body(answer)["error"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_code_becomes_a_token_that_verifies() {
    let world = World::one_app().await;
    let answer = world.auth(JSON, r#"{"code":"alice-union"}"#).await;
    assert_eq!(answer.status, 200);
    assert_eq!(header(&answer, "Cache-Control"), Some("no-store"));
    assert_eq!(header(&answer, "Content-Type"), Some("application/json; charset=utf-8"));
    let body = body(&answer);
    let token = body["access_token"].as_str().unwrap();
    let expected = json!({
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": 7200,
        "openid": "owxapp0000000001-alice-union",
        "unionid": "u-of-alice",
    });
    assert_eq!(body, expected);
    let verified = world.endpoints.sessions.verify(token).unwrap();
    assert_eq!(verified.identity.openid.as_str(), "owxapp0000000001-alice-union");
    assert_eq!(verified.identity.appid.as_str(), "wxapp0000000001");
    assert_eq!(answer.openid, Some(verified.identity.openid.clone()));
    assert_eq!(world.logins("wxapp0000000001", "ok"), 1);
}

#[tokio::test]
async fn without_expose_openid_no_answer_names_the_user() {
    let world = World::new(&format!("[login]\nexpose_openid = false\n{ONE_APP}")).await;
    let login = world.auth(JSON, r#"{"code":"alice-union"}"#).await;
    let token = body(&login)["access_token"].as_str().unwrap().to_owned();
    let refreshed = world.ask(Endpoint::Refresh, Some(&token), "").await;
    let session = world.ask(Endpoint::Session, Some(&token), "").await;
    for answer in [login, refreshed, session] {
        assert_eq!(answer.status, 200);
        let body = body(&answer);
        assert!(body.get("openid").is_none() && body.get("unionid").is_none(), "{body}");
    }
}

#[tokio::test]
async fn the_body_may_be_json_or_a_form_and_nothing_else() {
    let world = World::one_app().await;
    for (content_type, body) in [
        (JSON, r#" { "code": "a1", "extra": [1, {"x": null}] } "#),
        (JSON, r#"{"code":"a2","appid":null}"#),
        (Some("Application/JSON; charset=UTF-8"), r#"{"code":"a3"}"#),
        (None, r#"{"code":"a4"}"#),
        (FORM, "code=a5"),
        (FORM, "x=1&c%6Fde=a6&appid=wxapp0000000001"),
        (Some("application/x-www-form-urlencoded;charset=utf-8"), "code=a7"),
    ] {
        let answer = world.auth(content_type, body).await;
        assert_eq!(answer.status, 200, "{content_type:?} {body}");
    }
    let asked = world.asked();
    for (content_type, body) in [
        (JSON, ""),
        (JSON, "code=a"),
        (JSON, r#"["a", "wxapp0000000001"]"#),
        (JSON, r#""a""#),
        (JSON, r#"{"code":"a""#),
        (JSON, r#"{"code":"a"} x"#),
        (JSON, r#"{"code":"a","code":"a"}"#),
        (JSON, r#"{"code":"a","appid":"wxapp0000000001","appid":"wxapp0000000001"}"#),
        (JSON, r#"{"code":7}"#),
        (JSON, "{\"code\":\"a\u{0}\"}"),
        (None, "code=a"),
        (FORM, r#"{"code":"a"}"#),
        (FORM, "code=a&code=a"),
        (FORM, "code=a&%63ode=b"),
        (FORM, "appid=wxapp0000000001&code=a&appid=wxapp0000000001"),
        (Some("text/plain"), r#"{"code":"a"}"#),
        (Some("multipart/form-data; boundary=x"), "code=a"),
    ] {
        let answer = world.auth(content_type, body).await;
        assert_eq!(error(&answer), (400, "invalid_request".to_owned()), "{content_type:?} {body}");
    }
    assert_eq!(world.asked(), asked, "WeChat was asked for a bad body");
}

#[tokio::test]
async fn what_is_no_code_is_refused_without_asking_wechat() {
    let world = World::one_app().await;
    let long = "a".repeat(129);
    for code in ["", " ", "a b", "a&appid=x", "a%20", "ä", "a\n", "a\"", &long] {
        let answer = world.auth(JSON, &json!({ "code": code }).to_string()).await;
        assert_eq!(error(&answer), (400, "invalid_request".to_owned()), "{code:?}");
    }
    let missing = world.auth(JSON, "{}").await;
    assert_eq!(body(&missing)["error_description"], "the field `code` is missing");
    assert_eq!(world.asked(), 0);
    assert_eq!(world.logins("wxapp0000000001", "error"), 10);
    world.auth(JSON, &json!({ "code": "a".repeat(128) }).to_string()).await;
    assert_eq!(world.asked(), 1, "128 letters are a code");
}

#[tokio::test]
async fn the_app_is_the_named_one_else_the_referers_else_the_only_one() {
    let one = World::one_app().await;
    let two = World::new(TWO_APPS).await;
    let page = |appid: &str| format!("https://servicewechat.com/{appid}/devtools/page-frame.html");
    let cases = [
        (&one, None, None, Some("wxapp0000000001")),
        (&one, None, Some(page("wxstranger000000")), Some("wxapp0000000001")),
        (&one, Some("wxstranger000000"), None, None),
        (&one, Some(""), None, None),
        (&two, None, None, None),
        (&two, Some("wxapp0000000002"), None, Some("wxapp0000000002")),
        (&two, None, Some(page("wxapp0000000002")), Some("wxapp0000000002")),
        (&two, Some("wxapp0000000001"), Some(page("wxapp0000000002")), Some("wxapp0000000001")),
        (&two, None, Some(page("wxstranger000000")), None),
        (&two, None, Some("https://servicewechat.com/wxapp0000000002".to_owned()), None),
        (&two, None, Some("http://servicewechat.com/wxapp0000000002/1/".to_owned()), None),
        (&two, None, Some("https://evil.example/wxapp0000000002/1/".to_owned()), None),
    ];
    for (number, (world, appid, referer, expected)) in cases.into_iter().enumerate() {
        let body = json!({ "code": format!("user{number}"), "appid": appid }).to_string();
        let request = Request { referer: referer.as_deref(), ..request(JSON, &body) };
        let answer = world.endpoints.answer(Endpoint::Auth, request).await;
        let Some(expected) = expected else {
            assert_eq!(error(&answer), (400, "invalid_request".to_owned()), "case {number}");
            continue;
        };
        let openid = format!("o{expected}-user{number}");
        assert_eq!(super::tests::body(&answer)["openid"], openid, "case {number}");
    }
    assert_eq!(two.logins("unknown", "error"), 5);
    assert_eq!(one.logins("unknown", "error"), 2);
}

#[tokio::test]
async fn what_wechat_refuses_is_answered_as_the_table_says() {
    let world = World::one_app().await;
    for (code, status, error, result) in [
        ("40029", 400, "invalid_grant", "invalid_grant"),
        ("40163", 400, "invalid_grant", "invalid_grant"),
        ("41008", 400, "invalid_grant", "invalid_grant"),
        ("40226", 403, "access_denied", "denied"),
        ("50002", 403, "access_denied", "denied"),
        ("45011", 429, "slow_down", "rate_limited"),
        ("-1", 503, "temporarily_unavailable", "unavailable"),
        ("48001", 502, "server_error", "error"),
        ("40013", 500, "server_error", "error"),
        ("45009", 500, "server_error", "error"),
    ] {
        let before = world.logins("wxapp0000000001", result);
        let answer = world.auth(JSON, &json!({ "code": code }).to_string()).await;
        assert_eq!(super::tests::error(&answer), (status, error.to_owned()), "{code}");
        let body = body(&answer);
        assert_eq!(body["errcode"], code.parse::<i64>().unwrap());
        assert_eq!(body["request_id"], "r-1");
        assert_eq!(body.as_object().unwrap().len(), 4, "{body}");
        let waits = matches!(status, 429 | 503);
        assert_eq!(header(&answer, "Retry-After").is_some(), waits, "{code}");
        assert_eq!(world.logins("wxapp0000000001", result), before + 1, "{code}");
    }
    let garbage = world.auth(JSON, r#"{"code":"garbage"}"#).await;
    assert_eq!(error(&garbage), (502, "server_error".to_owned()));
    assert!(body(&garbage).get("errcode").is_none());
}

#[tokio::test]
async fn past_the_rate_limit_wechat_is_not_asked_and_other_addresses_are() {
    let limit = "[login]\nrate_limit = { per_ip = \"1/h\", burst = 4 }\n";
    let world = World::new(&format!("{limit}{ONE_APP}")).await;
    // What would not reach WeChat anyhow takes from the bucket too.
    assert_eq!(world.auth(JSON, r#"{"code":"not a code"}"#).await.status, 400);
    assert_eq!(world.auth(JSON, "[]").await.status, 400);
    assert_eq!(world.auth(JSON, r#"{"code":"alice"}"#).await.status, 200);
    assert_eq!(world.auth(JSON, r#"{"code":"40029"}"#).await.status, 400);
    let refused = world.auth(JSON, r#"{"code":"bob"}"#).await;
    assert_eq!(error(&refused), (429, "slow_down".to_owned()));
    let wait: u64 = header(&refused, "Retry-After").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&wait), "{wait}");
    assert_eq!(world.asked(), 2);
    assert_eq!(world.logins("wxapp0000000001", "rate_limited"), 1);
    let other =
        Request { client: "192.0.2.9".parse().unwrap(), ..request(JSON, r#"{"code":"b"}"#) };
    assert_eq!(world.endpoints.answer(Endpoint::Auth, other).await.status, 200);
}

#[tokio::test]
async fn a_reload_keeps_an_unchanged_rate_limits_buckets() {
    let limit = "[login]\nrate_limit = { per_ip = \"1/h\", burst = 1 }\n";
    let world = World::new(&format!("{limit}{ONE_APP}")).await;
    assert_eq!(world.auth(JSON, r#"{"code":"alice"}"#).await.status, 200);
    let reloaded = |config: &Config| {
        Endpoints::new(
            config,
            None,
            Arc::clone(&world.endpoints.sessions),
            world.endpoints.wechat.clone(),
            Arc::clone(&world.metrics),
            Some(&world.endpoints),
        )
    };
    let same = reloaded(&world.config);
    assert_eq!(same.answer(Endpoint::Auth, request(JSON, r#"{"code":"b"}"#)).await.status, 429);
    let mut config = world.config.clone();
    config.login.rate_limit.as_mut().unwrap().burst = 2;
    let changed = reloaded(&config);
    assert_eq!(changed.answer(Endpoint::Auth, request(JSON, r#"{"code":"b"}"#)).await.status, 200);
}

#[tokio::test]
async fn a_refresh_gives_a_later_token_of_the_same_session() {
    let world = World::one_app().await;
    let first = world.token("alice").await;
    world.clock.set_unix_millis((START + 3600) * 1000);
    let answer = world.ask(Endpoint::Refresh, Some(&first), "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(body(&answer)["expires_in"], 7200);
    assert_eq!(body(&answer)["openid"], "owxapp0000000001-alice");
    let second = body(&answer)["access_token"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    let sessions = &world.endpoints.sessions;
    let (old, new) = (sessions.verify(&first).unwrap(), sessions.verify(&second).unwrap());
    assert_eq!(old.identity.sid, new.identity.sid);
    assert_eq!((old.expires_at, new.expires_at), (START + 7200, START + 10_800));
}

#[tokio::test]
async fn a_logout_ends_this_session_or_with_all_every_one_of_the_user() {
    let world = World::new(&format!("[login]\nreplay_window = \"0s\"\n{ONE_APP}")).await;
    let tokens = [world.token("alice").await, world.token("alice").await];
    let bob = world.token("bob").await;
    let alive = |token: &str| world.endpoints.sessions.verify(token).is_ok();

    let one = world.ask(Endpoint::Logout, Some(&tokens[0]), "").await;
    assert_eq!((one.status, one.body.len()), (204, 0));
    assert_eq!(header(&one, "Cache-Control"), Some("no-store"));
    assert!(!alive(&tokens[0]) && alive(&tokens[1]) && alive(&bob));

    let third = world.token("alice").await;
    let all = world.ask(Endpoint::Logout, Some(&third), r#"{"all": true}"#).await;
    assert_eq!(all.status, 204);
    assert!(!alive(&tokens[1]) && !alive(&third) && alive(&bob));

    let not_all = world.ask(Endpoint::Logout, Some(&bob), " {\"all\":false} ").await;
    assert_eq!(not_all.status, 204);
    assert!(!alive(&bob));
}

#[tokio::test]
async fn a_logout_whose_body_cannot_be_read_ends_nothing() {
    let world = World::one_app().await;
    let token = world.token("alice").await;
    for body in [
        "all=true",
        "[true]",
        "true",
        r#"{"all":"true"}"#,
        r#"{"all":1}"#,
        r#"{"all":null}"#,
        r#"{"all":true"#,
        r#"{"all":false,"all":true}"#,
    ] {
        let answer = world.ask(Endpoint::Logout, Some(&token), body).await;
        assert_eq!(error(&answer), (400, "invalid_request".to_owned()), "{body}");
    }
    assert!(world.endpoints.sessions.verify(&token).is_ok());
}

#[tokio::test]
async fn session_says_what_the_token_says() {
    let world = World::one_app().await;
    let token = world.token("alice").await;
    world.clock.set_unix_millis((START + 200) * 1000);
    let answer = world.ask(Endpoint::Session, Some(&token), "").await;
    assert_eq!(answer.status, 200);
    let expected = json!({
        "active": true,
        "openid": "owxapp0000000001-alice",
        "appid": "wxapp0000000001",
        "scope": "",
        "iat": START,
        "exp": START + 7200,
        "expires_in": 7000,
    });
    assert_eq!(body(&answer), expected);
}

#[tokio::test]
async fn without_a_good_token_the_answer_says_what_is_wrong_with_it() {
    let world = World::one_app().await;
    let ended = world.token("alice").await;
    world.ask(Endpoint::Logout, Some(&ended), "").await;
    let forged = format!("{}x", world.token("alice").await);
    let old = world.token("alice").await;
    for endpoint in [Endpoint::Refresh, Endpoint::Logout, Endpoint::Session] {
        world.clock.set_unix_millis(START * 1000);
        let missing = world.ask(endpoint, None, "").await;
        assert_eq!(error(&missing), (401, "unauthorized".to_owned()));
        let challenge = r#"Bearer realm="wxgate""#;
        assert_eq!(header(&missing, "WWW-Authenticate"), Some(challenge));
        assert_eq!(missing.auth, Some(AuthResult::Missing));
        for (token, word, auth, now) in [
            (&ended, "revoked", AuthResult::Revoked, START),
            (&forged, "invalid", AuthResult::Invalid, START),
            (&old, "expired", AuthResult::Expired, START + 7200),
        ] {
            world.clock.set_unix_millis(now * 1000);
            let answer = world.ask(endpoint, Some(token), "").await;
            assert_eq!(error(&answer), (401, "invalid_token".to_owned()), "{word}");
            let challenge = r#"Bearer realm="wxgate", error="invalid_token""#;
            assert_eq!(header(&answer, "WWW-Authenticate"), Some(challenge));
            assert_eq!(answer.auth, Some(auth));
            let description = body(&answer)["error_description"].as_str().unwrap().to_owned();
            for other in ["expired", "revoked", "invalid"] {
                assert_eq!(description.contains(other), other == word, "{description}");
            }
        }
    }
}

#[tokio::test]
async fn the_prefix_and_all_below_it_are_owned_and_only_the_endpoints_found() {
    let world = World::new(&format!("[login]\nprefix = \"/wx/v1\"\n{ONE_APP}")).await;
    let endpoints = &world.endpoints;
    for owned in ["/wx/v1", "/wx/v1/", "/wx/v1/auth", "/wx/v1/auth/x", "/wx/v1/nothing"] {
        assert!(endpoints.owns(owned), "{owned}");
    }
    for other in ["/", "/wx", "/wx/", "/wx/v10", "/wx/v1x/auth", "/WX/V1/auth", "/x/wx/v1/auth"] {
        assert!(!endpoints.owns(other), "{other}");
    }
    for (method, path, expected) in [
        ("POST", "/wx/v1/auth", Endpoint::Auth),
        ("POST", "/wx/v1/refresh", Endpoint::Refresh),
        ("POST", "/wx/v1/logout", Endpoint::Logout),
        ("GET", "/wx/v1/session", Endpoint::Session),
        ("HEAD", "/wx/v1/session", Endpoint::Session),
    ] {
        assert_eq!(endpoints.find(method, path), Ok(expected), "{method} {path}");
        assert_eq!(expected.body_limit(), 16_384);
    }
    for path in ["/wx/v1", "/wx/v1/", "/wx/v1/auth/", "/wx/v1//auth", "/wx/v1/Auth", "/wx/v1/x"] {
        assert_eq!(endpoints.find("POST", path), Err(Refusal::NotFound), "{path}");
    }
    for (method, path, allow) in [
        ("GET", "/wx/v1/auth", "POST"),
        ("OPTIONS", "/wx/v1/refresh", "POST"),
        ("post", "/wx/v1/logout", "POST"),
        ("POST", "/wx/v1/session", "GET, HEAD"),
        ("GET, HEAD", "/wx/v1/session", "GET, HEAD"),
    ] {
        let refusal = endpoints.find(method, path).unwrap_err();
        let answer = refusal.into_answer("r-1");
        assert_eq!(error(&answer), (405, "method_not_allowed".to_owned()), "{method} {path}");
        assert_eq!(header(&answer, "Allow"), Some(allow), "{method} {path}");
    }
}
