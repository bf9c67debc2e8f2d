//! Login codes, tokens, faults, and the demo backend.

use std::time::{Duration, Instant};

use super::*;

#[tokio::test]
async fn a_login_code_gives_the_user_once_in_wechats_own_shape() {
    let sandbox = Sandbox::start().await;
    let code = sandbox.log_in(APP, "alice").await;
    let answer = sandbox.exchange(&code).await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain"), "{}", answer.head);
    let body = answer.json();
    let mut fields: Vec<&String> = body.as_object().unwrap().keys().collect();
    fields.sort();
    assert_eq!(fields, ["openid", "session_key", "unionid"]);
    assert_eq!(body.get("openid").unwrap().as_str().unwrap().len(), 28);

    let again = sandbox.exchange(&code).await;
    assert_eq!((again.status, again.errcode()), (200, 40163));
    let errmsg = again.json().get("errmsg").unwrap().as_str().unwrap().to_owned();
    assert!(errmsg.starts_with("code been used, rid: "), "{errmsg}");
    let other_rid = sandbox.exchange(&code).await.json();
    assert_ne!(other_rid.get("errmsg").unwrap().as_str().unwrap(), errmsg);
}

#[tokio::test]
async fn the_same_user_is_the_same_openid_with_a_new_session_key() {
    let sandbox = Sandbox::start().await;
    let mut answers = Vec::new();
    for user in ["alice", "alice", "小明"] {
        let code = sandbox.log_in(APP, user).await;
        answers.push(sandbox.exchange(&code).await.json());
    }
    let [first, second, third] = answers.try_into().unwrap();
    assert_eq!(first.get("openid"), second.get("openid"));
    assert_ne!(first.get("session_key"), second.get("session_key"));
    assert_ne!(first.get("openid"), third.get("openid"));
}

#[tokio::test]
async fn each_mistake_of_a_caller_has_wechats_errcode() {
    let sandbox = Sandbox::start().await;
    let code = sandbox.log_in(APP, "alice").await;
    let path = "/sns/jscode2session";
    for (query, errcode) in [
        ("secret=right&js_code=c&grant_type=authorization_code".to_owned(), 41002),
        (format!("appid={APP}&js_code=c&grant_type=authorization_code"), 41004),
        (format!("appid={APP}&secret=right&grant_type=authorization_code"), 41008),
        (format!("appid={APP}&secret=right&js_code=&grant_type=authorization_code"), 41008),
        (format!("appid={APP}&secret=right&js_code={code}"), 40002),
        (format!("appid=wxno&secret=right&js_code={code}&grant_type=authorization_code"), 40013),
        (format!("appid={APP}&secret=wrong&js_code={code}&grant_type=authorization_code"), 40125),
        (format!("appid={APP}&secret=right&js_code=no&grant_type=authorization_code"), 40029),
        (format!("appid={OTHER}&secret=other&js_code={code}&grant_type=authorization_code"), 40029),
    ] {
        let answer = sandbox.get(&format!("{path}?{query}")).await;
        assert_eq!((answer.status, answer.errcode()), (200, errcode), "{query}");
    }
    assert_eq!(sandbox.post(&exchange_path(APP, "right", &code), "").await.errcode(), 43001);
    assert_eq!(sandbox.get("/sns/nothing").await.errcode(), 40066);
    // None of them used the code up.
    assert!(sandbox.exchange(&code).await.json().get("openid").is_some());
}

#[tokio::test]
async fn a_code_is_dead_after_five_minutes() {
    let sandbox = Sandbox::start().await;
    let code = sandbox.log_in(APP, "alice").await;
    sandbox.clock.set_unix_millis(1_800_000_300_000);
    assert_eq!(sandbox.exchange(&code).await.errcode(), 40029);
}

#[tokio::test]
async fn tokens_are_given_by_both_calls_and_wrong_secrets_refused() {
    let sandbox = Sandbox::start().await;
    let query = format!("grant_type=client_credential&appid={APP}&secret=right");
    for answer in [
        sandbox.get(&format!("/cgi-bin/token?{query}")).await,
        sandbox.post(&format!("/cgi-bin/token?{query}"), "").await,
        sandbox.post("/cgi-bin/token", &query).await,
    ] {
        assert_eq!(answer.json().get("expires_in"), Some(&json!(7200)));
    }
    let wanted =
        |secret| json!({"grant_type": "client_credential", "appid": APP, "secret": secret});
    let stable = "/cgi-bin/stable_token";
    let first = sandbox.post(stable, &wanted("right").to_string()).await.json();
    let second = sandbox.post(stable, &wanted("right").to_string()).await.json();
    assert_eq!(first, second);
    assert!(first.get("access_token").unwrap().as_str().unwrap().len() > 64);
    assert_eq!(sandbox.post(stable, &wanted("wrong").to_string()).await.errcode(), 40125);
    assert_eq!(sandbox.post(stable, &wanted("").to_string()).await.errcode(), 41004);
    assert_eq!(sandbox.post(stable, "{}").await.errcode(), 40002);
    assert_eq!(sandbox.post(stable, &query).await.errcode(), 47001);
    assert_eq!(sandbox.get(stable).await.errcode(), 43002);
    let wrong = format!("/cgi-bin/token?grant_type=client_credential&appid={APP}&secret=x");
    assert_eq!(sandbox.get(&wrong).await.errcode(), 40125);
}

#[tokio::test]
async fn the_next_calls_fail_as_ordered_and_then_no_more() {
    let sandbox = Sandbox::start().await;
    let code = sandbox.log_in(APP, "alice").await;
    let order = json!({"api": "jscode2session", "errcode": 45011, "times": 2});
    assert_eq!(sandbox.fault(order).await.status, 200);
    for _ in 0..2 {
        assert_eq!(sandbox.exchange(&code).await.errcode(), 45011);
    }
    // By its whole path, as by its last part.
    let order = json!({"api": "/sns/jscode2session", "status": 502, "body": "<html>", "times": 1});
    sandbox.fault(order).await;
    let answer = sandbox.exchange(&code).await;
    assert_eq!((answer.status, answer.body.as_str()), (502, "<html>"));
    // A delayed call takes effect all the same.
    sandbox.fault(json!({"api": "jscode2session", "delay_ms": 50, "times": 1})).await;
    let started = Instant::now();
    assert!(sandbox.exchange(&code).await.json().get("openid").is_some());
    assert!(started.elapsed() >= Duration::from_millis(50));
    assert_eq!(sandbox.exchange(&code).await.errcode(), 40163);
}

#[tokio::test]
async fn orders_that_cannot_be_understood_say_why() {
    let sandbox = Sandbox::start().await;
    for (path, order, says) in [
        ("login", json!({"appid": APP}), "missing field `user`"),
        ("login", json!({"appid": "wxno", "user": "a"}), "not of this sandbox"),
        ("login", json!({"appid": APP, "user": ""}), "1 to 64 characters"),
        ("login", json!({"appid": APP, "user": "a\n"}), "1 to 64 characters"),
        ("login", json!({"appid": APP, "user": "a", "openid": "o"}), "unknown field `openid`"),
        ("fault", json!({"api": "jscode2session", "errcode": 1}), "missing field `times`"),
        ("fault", json!({"api": "other", "errcode": 1, "times": 1}), "api must be one of"),
        ("fault", json!({"api": "/cgi-bin/auth", "errcode": 1, "times": 1}), "api must be one of"),
        ("fault", json!({"api": "token", "times": 1}), "at least one of"),
        ("fault", json!({"api": "token", "status": 99, "times": 1}), "status must be"),
        ("fault", json!({"api": "token", "delay_ms": 600_001, "times": 1}), "delay_ms must be"),
    ] {
        let answer = sandbox.post(&format!("/sandbox/{path}"), &order.to_string()).await;
        assert_eq!(answer.status, 400, "{order}");
        let error = answer.json().get("error").unwrap().as_str().unwrap().to_owned();
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test]
async fn the_demo_backend_shows_what_it_was_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(backend::serve(listener));
    let request = "PUT /a/b?c=d HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nX-One: 2\r\n\
                   Connection: close\r\nContent-Length: 5\r\n\r\nhello";
    let answer = send(address, request).await;
    assert!(answer.head.contains("content-type: application/json"));
    let shown = answer.json();
    assert_eq!(shown.get("method"), Some(&json!("PUT")));
    assert_eq!(shown.get("path"), Some(&json!("/a/b?c=d")));
    assert_eq!(shown.get("body"), Some(&json!("hello")));
    assert_eq!(shown.pointer("/headers/x-one"), Some(&json!("1, 2")));
    let list = shown.get("header_list").unwrap().as_array().unwrap();
    assert_eq!(list.iter().filter(|pair| pair.get(0) == Some(&json!("x-one"))).count(), 2);
}
