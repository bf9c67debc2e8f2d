//! Logins against the scripted WeChat.

use std::time::Instant;

use super::*;

#[tokio::test]
async fn a_login_sends_the_documented_query_and_reads_a_text_plain_answer() {
    let script = Script::start(good()).await;
    let gateway = before(&script);
    let session = gateway.login("0a1Bc_-").await.unwrap();
    assert_eq!(session.user.openid, "oGZUI0egBJY1zhBYw2KhdUfwVJJE");
    assert_eq!(session.session_key.expose(), "tiihtNczf5v6AKRyjwEUhQ==");
    let said = script.said();
    let request_line = said.lines().next().unwrap();
    assert_eq!(
        request_line,
        format!(
            "GET /sns/jscode2session?appid={APPID}&secret={SECRET}&js_code=0a1Bc_-\
             &grant_type=authorization_code HTTP/1.1"
        )
    );
    assert_eq!(gateway.counted("0"), 1);
    let duration = gateway.metrics.wechat_request_duration.with_label_values(&["jscode2session"]);
    assert_eq!(duration.get_sample_count(), 1);
}

#[tokio::test]
async fn a_bad_code_and_an_unknown_app_are_refused_without_asking() {
    let script = Script::start(good()).await;
    let gateway = before(&script);
    for code in ["", "a b", "x&appid=wx2", "\"", &"a".repeat(129)] {
        assert_eq!(gateway.login(code).await.map(|_| ()), Err(WechatError::InvalidCode));
    }
    let unknown = gateway.wechat.code2session("wxffffffffffffffff", "code").await;
    assert_eq!(unknown.map(|_| ()), Err(WechatError::UnknownApp));
    assert_eq!(script.asked(), 0);
}

#[tokio::test]
async fn every_errcode_becomes_its_error_as_number_and_as_string() {
    let script = Script::start(good()).await;
    let gateway = before(&script);
    for errcode in [-1, 40013, 40029, 40125, 40163, 40226, 41008, 45009, 45011, 50002, 48001] {
        for text in [errcode.to_string(), format!("\"{errcode}\"")] {
            script.now(json(&format!(
                r#"{{"errcode":{text},"errmsg":"changing, rid: 652d44d0-1d0af18b-5b069232"}}"#
            )));
            let code = format!("code{}", script.asked());
            let error = gateway.login(&code).await.map(|_| ()).unwrap_err();
            assert_eq!(error, errcode::error_of(errcode));
        }
        assert_eq!(gateway.counted(&errcode.to_string()), 2);
    }
}

#[tokio::test]
async fn each_unreadable_answer_is_malformed() {
    let html = "<html><body>502 Bad Gateway</body></html>".to_owned();
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n";
    let lying = [length.as_bytes(), &vec![b' '; 200_000]].concat();
    let endless = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &vec![b' '; 200_000]].concat();
    let elsewhere = "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n";
    let cases = [
        (Act::Say("200 OK", "text/html", html), Flaw::NotJson),
        (json(r#"{"openid":"oGZUI0egBJY1zhBYw2Khd"#), Flaw::NotJson),
        (json(&"x".repeat(10 * 1024 * 1024)), Flaw::TooLong),
        (Act::Raw(lying), Flaw::TooLong),
        (Act::Raw(endless), Flaw::TooLong),
        (Act::Raw(elsewhere.into()), Flaw::Status(302)),
        (Act::Say("404 Not Found", "text/plain", GOOD.to_owned()), Flaw::Status(404)),
        (json(r#"{"session_key":"tiihtNczf5v6AKRyjwEUhQ=="}"#), Flaw::Field("openid")),
        (json(r#"{"openid":"oGZUI0egBJY1zhBYw2KhdUfwVJJE"}"#), Flaw::Field("session_key")),
        (json(r#"{"openid":"oGZUI0","session_key":"tiiht"}"#), Flaw::Field("session_key")),
        (json(r#"{"errcode":"soon"}"#), Flaw::Errcode),
    ];
    let script = Script::start(good()).await;
    let gateway = before(&script);
    for (number, (act, flaw)) in cases.into_iter().enumerate() {
        script.now(act);
        let error = gateway.login(&format!("code{number}")).await.map(|_| ()).unwrap_err();
        assert_eq!(error, WechatError::Malformed(flaw), "case {number}");
    }
    assert!(!script.said().contains("/elsewhere"));
    // Whoever answers is reachable: malformed answers do not open the circuit.
    script.now(good());
    assert!(gateway.login("good").await.is_ok());
    assert_eq!((gateway.counted("malformed"), gateway.counted("0")), (11, 1));
}

#[tokio::test]
async fn each_missing_answer_is_unavailable_and_asked_for_once() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"openid\":".to_vec();
    let broken_html = Act::Say("502 Bad Gateway", "text/html", "<html>".to_owned());
    let cases = [
        (Act::Say("500 Internal Server Error", "text/plain", GOOD.to_owned()), Outage::Status(500)),
        (broken_html, Outage::Status(502)),
        (Act::Raw(Vec::new()), Outage::Broken),
        (Act::Raw(half.clone()), Outage::Broken),
        (Act::Reset(half), Outage::Broken),
        (Act::Hang, Outage::Timeout),
        (Act::Drip, Outage::Timeout),
    ];
    for (number, (act, why)) in cases.into_iter().enumerate() {
        let script = Script::start(act).await;
        let hosts = vec![script.url()];
        let settings = if why == Outage::Timeout { hasty(hosts) } else { settings(hosts) };
        let gateway = gateway(&settings, Duration::from_secs(10));
        let started = Instant::now();
        // The second time the same code is shown it must not go out again.
        for _ in 0..2 {
            let error = gateway.login("code").await.map(|_| ()).unwrap_err();
            assert_eq!(error, unavailable(why), "case {number}");
            assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
        }
        // A whole answer would drip for 10 s.
        assert!(started.elapsed() < Duration::from_secs(5), "case {number}");
        assert_eq!(script.asked(), 1, "case {number}");
        let label = if why == Outage::Timeout { "timeout" } else { "transport" };
        assert_eq!(gateway.counted(label), 1, "case {number}");
    }
}

#[tokio::test]
async fn a_connection_that_went_stale_in_the_pool_is_not_an_outage() {
    let closing = [say("200 OK", "text/plain", GOOD)].concat();
    let script = Script::start(Act::Raw(closing)).await;
    let gateway = before(&script);
    for number in 0..5 {
        assert!(gateway.login(&format!("code{number}")).await.is_ok());
        // The closing of the connection is on its way to the pool.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(script.asked(), 5);
}

#[tokio::test]
async fn the_next_host_is_tried_where_the_first_takes_no_connection() {
    let script = Script::start(good()).await;
    let hosts = vec![refused_port(), script.url()];
    let gateway = gateway(&settings(hosts), Duration::from_secs(10));
    assert!(gateway.login("code").await.is_ok());
    assert_eq!(gateway.counted("0"), 1);
}

#[tokio::test]
async fn the_next_host_is_tried_where_the_first_is_a_black_hole() {
    // A listener whose queue is full drops further connection attempts without a word.
    let hole = tokio::net::TcpSocket::new_v4().unwrap();
    hole.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let hole = hole.listen(1).unwrap();
    let address = hole.local_addr().unwrap();
    let fill: Vec<_> = (0..8).map(|_| tokio::spawn(TcpStream::connect(address))).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let script = Script::start(good()).await;
    let hosts = vec![Url::parse(&format!("http://{address}")).unwrap(), script.url()];
    let gateway = gateway(
        &config::Wechat { timeout: Duration::from_secs(2), ..settings(hosts) },
        Duration::from_secs(10),
    );
    assert!(gateway.login("code").await.is_ok());
    drop(fill);
}

#[tokio::test]
async fn the_next_host_is_not_tried_once_bytes_went_out() {
    for act in [Act::Raw(Vec::new()), Act::Hang, Act::Reset(b"HTTP/1.1 2".to_vec())] {
        let (first, second) = (Script::start(act).await, Script::start(good()).await);
        let hosts = vec![first.url(), second.url()];
        let gateway = gateway(&hasty(hosts), Duration::from_secs(10));
        assert!(gateway.login("code").await.is_err());
        assert_eq!((first.asked(), second.asked()), (1, 0));
    }
}

#[tokio::test]
async fn a_code_that_was_never_sent_may_be_shown_again() {
    let gateway = gateway(&settings(vec![refused_port()]), Duration::from_secs(10));
    for _ in 0..2 {
        let error = gateway.login("code").await.map(|_| ()).unwrap_err();
        assert_eq!(error, unavailable(Outage::Unreachable));
    }
    assert_eq!(gateway.counted("transport"), 2);
}

#[tokio::test]
async fn five_failures_open_the_circuit_and_the_calls_stop() {
    let script = Script::start(Act::Raw(Vec::new())).await;
    let gateway = before(&script);
    for number in 0..5 {
        assert!(gateway.login(&format!("code{number}")).await.is_err());
    }
    script.now(good());
    let error = gateway.login("next").await.map(|_| ()).unwrap_err();
    assert!(
        matches!(error, WechatError::Unavailable { why: Outage::CircuitOpen, .. }),
        "{error:?}"
    );
    assert!(error.retry_after().unwrap() <= Duration::from_secs(2));
    assert_eq!(script.asked(), 5);
    tokio::time::sleep(error.retry_after().unwrap()).await;
    // The code was not sent, so it is still good.
    assert!(gateway.login("next").await.is_ok());
}

#[tokio::test]
async fn twenty_logins_with_one_code_ask_once_and_all_get_the_answer() {
    let wait = Arc::new(Notify::new());
    let script = Script::start(Act::Wait(Arc::clone(&wait))).await;
    let gateway = before(&script);
    let logins = futures_util::future::join_all((0..20).map(|_| gateway.login("code")));
    let release = async {
        while script.asked() == 0 {
            tokio::task::yield_now().await;
        }
        wait.notify_one();
    };
    let (sessions, ()) = tokio::join!(logins, release);
    let first = sessions.first().unwrap().clone().unwrap();
    for session in sessions {
        assert!(Arc::ptr_eq(&session.unwrap(), &first));
    }
    // A repeat within the window, also one after a reload, is not sent either.
    assert!(Arc::ptr_eq(&gateway.login("code").await.unwrap(), &first));
    let reloaded = Wechat::build(
        &settings(vec![script.url()]),
        &[app()],
        Duration::from_secs(10),
        Clock::system(),
        Arc::clone(&gateway.metrics),
        Arc::clone(&gateway.wechat.0.memory),
    );
    let repeat = reloaded.unwrap().code2session(APPID, "code").await.unwrap();
    assert!(Arc::ptr_eq(&repeat, &first));
    assert_eq!(script.asked(), 1);
}

#[tokio::test]
async fn past_the_places_logins_wait_their_turn_and_past_the_queue_they_are_refused() {
    let wait = Arc::new(Notify::new());
    let script = Script::start(Act::Wait(Arc::clone(&wait))).await;
    let mut settings = settings(vec![script.url()]);
    settings.max_concurrent = 1;
    settings.timeout = Duration::from_secs(5);
    let gateway = gateway(&settings, Duration::from_secs(10));
    let codes: Vec<String> = (0..6).map(|number| format!("code{number}")).collect();
    let logins = futures_util::future::join_all(codes.iter().map(|code| gateway.login(code)));
    let release = async {
        for done in 1..=5 {
            while script.asked() < done {
                tokio::task::yield_now().await;
            }
            assert_eq!(script.asked(), done, "more than one call was under way");
            wait.notify_one();
        }
    };
    let (outcomes, ()) = tokio::join!(logins, release);
    let refused: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused, [unavailable(Outage::Overloaded)]);
    let sent = script.requests.lock().unwrap();
    for (request, code) in sent.iter().zip(&codes) {
        assert!(request.contains(&format!("js_code={code}&")), "out of turn: {request}");
    }
}

#[tokio::test]
async fn a_login_that_waits_too_long_for_a_place_is_refused_and_not_sent() {
    let script = Script::start(Act::Hang).await;
    let mut settings = hasty(vec![script.url()]);
    settings.max_concurrent = 1;
    let gateway = gateway(&settings, Duration::from_secs(10));
    let outcomes = futures_util::future::join_all(["a", "b"].map(|code| gateway.login(code))).await;
    let errors: Vec<_> = outcomes.into_iter().map(|outcome| outcome.map(|_| ())).collect();
    // Both end at the same moment; the one that waited may just have got its place.
    assert!(errors.contains(&Err(unavailable(Outage::Timeout))));
    assert!(errors.iter().all(Result::is_err));
}

#[tokio::test]
async fn no_error_shows_the_secret_the_code_or_the_address() {
    let failures = [Act::Raw(Vec::new()), Act::Hang, json("<html>"), json(r#"{"errcode":40125}"#)];
    let mut shown = String::new();
    for act in failures {
        let script = Script::start(act).await;
        let gateway = gateway(&hasty(vec![script.url()]), Duration::ZERO);
        let error = gateway.login("TheCodeOfThisUser").await.map(|_| ()).unwrap_err();
        shown += &format!("{error} {error:?} {:?}", gateway.wechat);
    }
    let gateway = gateway(&settings(vec![refused_port()]), Duration::ZERO);
    let error = gateway.login("TheCodeOfThisUser").await.map(|_| ()).unwrap_err();
    shown += &format!("{error} {error:?}");
    for hidden in [SECRET, "TheCodeOfThisUser", "127.0.0.1", "jscode2session"] {
        assert!(!shown.contains(hidden), "{hidden} in {shown}");
    }
}
