//! Whatever WeChat does, or does not: a login is answered as promised, counted, its code sent once at
//! most, and a session that was opened before goes on working meanwhile.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::wechat::{
    FakeWechat, Play, SECRET, good_body, openid_of, session_key_of, unionid_of,
};
use crate::harness::{Answer, Refusing, Site, eventually, once_within};

/// `wechat.timeout` of these tests.
const TIMEOUT: &str = "timeout = \"1500ms\"";

/// What a client is told, and how it is counted.
#[derive(Clone, Copy, Debug)]
struct Told {
    status: u16,
    error: &'static str,
    /// `errcode` of `wxgate_wechat_requests_total`.
    errcode: &'static str,
    /// `result` of `wxgate_logins_total`.
    result: &'static str,
}

const fn told(
    status: u16,
    error: &'static str,
    errcode: &'static str,
    result: &'static str,
) -> Told {
    Told { status, error, errcode, result }
}

#[track_caller]
fn assert_retry_after(answer: &Answer) {
    let seconds: u64 = answer.header("Retry-After").expect("no Retry-After").parse().unwrap();
    assert!(seconds >= 1, "Retry-After: {seconds}");
}

const NO_ANSWER: Told = told(503, "temporarily_unavailable", "transport", "unavailable");
const LATE: Told = told(503, "temporarily_unavailable", "timeout", "unavailable");
const UNREADABLE: Told = told(502, "server_error", "malformed", "error");

/// The good answer with these fields instead; null takes one away.
fn but(fields: &Value) -> String {
    let mut body: Value = serde_json::from_str(&good_body("alice", None)).unwrap();
    for (name, value) in fields.as_object().unwrap() {
        if value.is_null() {
            body.as_object_mut().unwrap().remove(name);
        } else {
            body[name] = value.clone();
        }
    }
    body.to_string()
}

/// The good answer with this before its end.
fn with_more(more: &str) -> String {
    let body = good_body("alice", None);
    format!("{}{more}", body.strip_suffix('}').unwrap())
}

/// The table: what WeChat does, and what comes of it.
fn table() -> Vec<(&'static str, Play, Told)> {
    let good = good_body("alice", None);
    let text = |text: &str| Play::Body(text.to_owned());
    let raw = |head: &str| Play::Raw(format!("HTTP/1.1 {head}\r\n\r\n").into_bytes());
    let key_of = |length: usize| {
        use base64::Engine as _;
        Play::Body(but(
            &json!({ "session_key": base64::prelude::BASE64_STANDARD.encode(vec![7; length]) }),
        ))
    };
    let mut rows = vec![
        ("nothing comes", Play::Hang, LATE),
        ("a byte now and then", Play::Drip("alice".to_owned()), LATE),
        ("a reset at once", Play::Reset, NO_ANSWER),
        ("a reset within the body", Play::Torn("alice".to_owned()), NO_ANSWER),
        ("the end within the body", Play::Half("alice".to_owned()), NO_ANSWER),
        ("no HTTP", Play::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), NO_ANSWER),
        ("500", Play::Status(500, good.clone()), NO_ANSWER),
        ("502 in HTML", Play::Status(502, "<html>busy</html>".to_owned()), NO_ANSWER),
        ("503", Play::Status(503, "{}".to_owned()), NO_ANSWER),
        ("404", Play::Status(404, good.clone()), UNREADABLE),
        (
            "a redirect",
            raw("302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0"),
            UNREADABLE,
        ),
        ("10 MiB", Play::Huge(10 * 1024 * 1024), UNREADABLE),
        ("80 KiB", Play::Huge(80 * 1024), UNREADABLE),
        ("half of the JSON", Play::Body(good[..good.len() / 2].to_owned()), UNREADABLE),
        ("more than the JSON", Play::Body(format!("{good}x")), UNREADABLE),
        ("the JSON twice", Play::Body(format!("{good}{good}")), UNREADABLE),
        ("HTML", text("<html>busy</html>"), UNREADABLE),
        ("nothing", text(""), UNREADABLE),
        ("null", text("null"), UNREADABLE),
        ("a list", Play::Body(format!("[{good}]")), UNREADABLE),
        ("no fields", text("{}"), UNREADABLE),
        ("errcode 0 alone", text(r#"{"errcode":0,"errmsg":"ok"}"#), UNREADABLE),
        ("an errcode of words", text(r#"{"errcode":"many"}"#), UNREADABLE),
        ("no openid", Play::Body(but(&json!({ "openid": null }))), UNREADABLE),
        ("an openid of numbers", Play::Body(but(&json!({ "openid": 7 }))), UNREADABLE),
        ("an openid too short", Play::Body(but(&json!({ "openid": "short" }))), UNREADABLE),
        ("an openid too long", Play::Body(but(&json!({ "openid": "o".repeat(65) }))), UNREADABLE),
        (
            "an openid with a header",
            Play::Body(but(&json!({ "openid": "o r\r\nX-WX-OPENID: evil" }))),
            UNREADABLE,
        ),
        (
            "an openid that is no ASCII",
            Play::Body(but(&json!({ "openid": "oé____________________" }))),
            UNREADABLE,
        ),
        ("an odd unionid", Play::Body(but(&json!({ "unionid": "x\ny" }))), UNREADABLE),
        ("no session_key", Play::Body(but(&json!({ "session_key": null }))), UNREADABLE),
        ("an empty session_key", Play::Body(but(&json!({ "session_key": "" }))), UNREADABLE),
        ("a session_key of 15 bytes", key_of(15), UNREADABLE),
        ("a session_key of 17 bytes", key_of(17), UNREADABLE),
        ("a session_key of 24 bytes", key_of(24), UNREADABLE),
        ("a session_key of 32 bytes", key_of(32), UNREADABLE),
        (
            "a session_key that is no base64",
            Play::Body(but(&json!({ "session_key": "!!not base64 at all!!!!!" }))),
            UNREADABLE,
        ),
        (
            "two openids",
            Play::Body(with_more(&format!(",\"openid\":\"{}\"}}", openid_of("mallory")))),
            UNREADABLE,
        ),
        (
            "two session_keys",
            Play::Body(with_more(&format!(",\"session_key\":\"{}\"}}", session_key_of("bob")))),
            UNREADABLE,
        ),
        ("two errcodes", Play::Body(with_more(r#","errcode":40029,"errcode":0}"#)), UNREADABLE),
    ];
    let errcodes = [
        ("-1", told(503, "temporarily_unavailable", "-1", "unavailable")),
        ("40029", told(400, "invalid_grant", "40029", "invalid_grant")),
        ("45011", told(429, "slow_down", "45011", "rate_limited")),
        ("40226", told(403, "access_denied", "40226", "denied")),
        ("40125", told(500, "server_error", "40125", "error")),
    ];
    for (errcode, told) in errcodes {
        let number = format!(r#"{{"errcode":{errcode},"errmsg":"no, rid: 1-2"}}"#);
        rows.push(("errcode as a number", Play::Body(number), told));
        let string = format!(r#"{{"errcode":"{errcode}","errmsg":"no, rid: 1-2"}}"#);
        rows.push(("errcode as a string", Play::Body(string), told));
    }
    rows
}

/// What was counted so far of a login that comes out so.
fn counted(site: &Site, told: Told) -> (f64, f64) {
    let calls = [("api", "jscode2session"), ("errcode", told.errcode)];
    let logins = [("result", told.result)];
    (
        site.gateway.metric("wxgate_wechat_requests_total", &calls),
        site.gateway.metric("wxgate_logins_total", &logins),
    )
}

/// A login with this code comes out so, while a session that was opened before goes on.
#[track_caller]
fn assert_told(site: &Site, what: &str, session: &str, code: &str, told: Told) -> Duration {
    let (calls, logins) = counted(site, told);
    let begin = Instant::now();
    let answer = std::thread::scope(|scope| {
        let login = scope.spawn(|| site.auth(code));
        let passed = site.get("/api/me").bearer(session).send();
        assert_eq!(passed.status, 200, "{what}: {}", passed.text());
        login.join().unwrap()
    });
    let took = begin.elapsed();
    assert_eq!(answer.status, told.status, "{what}: {}", answer.text());
    answer.assert_refused(told.status, told.error);
    let wait = answer.header("Retry-After").map(|wait| wait.parse::<u64>().unwrap());
    match told.status {
        429 => assert!(wait.is_some_and(|wait| (1..=60).contains(&wait)), "{what}: {wait:?}"),
        503 => assert!(wait.is_some_and(|wait| (1..=10).contains(&wait)), "{what}: {wait:?}"),
        _ => assert_eq!(wait, None, "{what}"),
    }
    let leaked = [SECRET, code, &openid_of("alice"), &session_key_of("alice"), "127.0.0.1"];
    assert!(!leaked.iter().any(|secret| answer.text().contains(secret)), "{what}");
    assert_eq!(counted(site, told), (calls + 1.0, logins + 1.0), "{what}");
    took
}

#[test]
fn every_fault_of_wechat_is_answered_as_promised_and_touches_no_session() {
    let site = Site::with().wechat(TIMEOUT).start();
    let session = site.log_in("carol");
    for (what, play, told) in table() {
        let code = site.wechat.code_that(play);
        let took = assert_told(&site, what, &session, &code, told);
        assert!(took < Duration::from_secs(8), "{what}: {took:?}");
        assert_eq!(site.wechat.calls_with(&code), 1, "{what}: a code goes out once");
        // WeChat is well again, and the circuit closed.
        site.log_in("bob");
    }
    let log = site.gateway.stderr();
    for secret in [SECRET, &session_key_of("alice"), &openid_of("alice"), &unionid_of("alice")] {
        assert!(!log.contains(secret), "in the log");
    }
}

#[test]
fn a_wechat_that_refuses_connections_is_503_at_once() {
    let nobody = Refusing::start();
    let site = Site::with().wechat(&format!("api_base = \"http://{}\"", nobody.address())).start();
    let session = crate::harness::token::Forge::of("carol").token();
    let mut number = 0;
    once_within(Duration::from_secs(3), || {
        number += 1;
        assert_told(&site, "refused", &session, &format!("some-code-{number}"), NO_ANSWER);
    });
}

#[test]
fn five_failures_open_the_circuit_and_a_probe_closes_it() {
    let site = Site::with().wechat(TIMEOUT).start();
    let session = site.log_in("carol");
    let failing = || site.wechat.code_that(Play::Reset);
    for number in 1..=5 {
        assert_told(&site, &format!("failure {number}"), &session, &failing(), NO_ANSWER);
    }
    let asked = site.wechat.calls().len();
    let unavailable = || site.gateway.metric("wxgate_logins_total", &[("result", "unavailable")]);
    let before = unavailable();
    let answer = site.auth(&site.wechat.code_of("bob"));
    answer.assert_refused(503, "temporarily_unavailable");
    assert_eq!(unavailable(), before + 1.0);
    assert!(answer.header("Retry-After").is_some_and(|wait| ["1", "2"].contains(&wait)));
    assert_eq!(site.wechat.calls().len(), asked, "WeChat is left in peace");
    assert_eq!(site.get("/api/me").bearer(&session).send().status, 200);
    eventually("the log tells it", || site.gateway.stderr().contains("pausing"));
    // A failing probe keeps it open, a good one closes it.
    let probe = failing();
    eventually("a probe goes out", || {
        site.auth(&probe).assert_refused(503, "temporarily_unavailable");
        site.wechat.calls_with(&probe) == 1
    });
    let code = site.wechat.code_of("bob");
    site.auth(&code).assert_refused(503, "temporarily_unavailable");
    assert_eq!(site.wechat.calls_with(&code), 0);
    eventually("logins work again", || site.auth(&code).status == 200);
    site.log_in("alice");
}

#[test]
fn who_waits_for_a_place_gets_one() {
    // Half a second is all that they wait, and a busy machine may take longer than that.
    assert!((0..5).any(|_| all_who_wait_get_a_place()));
}

fn all_who_wait_get_a_place() -> bool {
    let site = Site::with().wechat("max_concurrent = 1\ntimeout = \"20s\"").start();
    let first = site.wechat.code_that(Play::Held("alice".to_owned()));
    let codes: Vec<String> = (0..2).map(|_| site.wechat.code_of("bob")).collect();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let slow = scope.spawn(|| site.auth(&first));
        eventually("WeChat is asked", || site.wechat.calls_with(&first) == 1);
        let waiting: Vec<_> = codes.iter().map(|code| scope.spawn(|| site.auth(code))).collect();
        // Or have waited long enough.
        eventually("they wait", || {
            site.gateway.metric("wxgate_http_requests_in_flight", &[]) == 3.0
                || waiting.iter().any(|login| login.is_finished())
        });
        site.wechat.release();
        waiting.into_iter().chain([slow]).map(|login| login.join().unwrap().status).collect()
    });
    if statuses.contains(&503) {
        return false;
    }
    assert_eq!(statuses, [200; 3]);
    let calls = site.wechat.calls();
    let mut served: Vec<&str> = calls.iter().filter_map(|call| call.parameter("js_code")).collect();
    assert_eq!(served.remove(0), first);
    served.sort_unstable();
    assert_eq!(served, codes.iter().map(String::as_str).collect::<Vec<_>>(), "each once");
    true
}

#[test]
fn who_waits_for_a_slow_wechat_is_told_soon_and_not_sent() {
    let site = Site::with().wechat("max_concurrent = 1\ntimeout = \"20s\"").start();
    let held = site.wechat.code_that(Play::Held("alice".to_owned()));
    let code = site.wechat.code_of("bob");
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| site.auth(&held));
        eventually("WeChat is asked", || site.wechat.calls_with(&held) == 1);
        // The first is still being waited for when the second is told.
        let asked = Instant::now();
        let told = site.auth(&code);
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        told.assert_refused(503, "temporarily_unavailable");
        assert_retry_after(&told);
        assert_eq!(site.wechat.calls_with(&code), 0);
        site.wechat.release();
        assert_eq!(slow.join().unwrap().status, 200);
    });
    assert_eq!(site.auth(&code).status, 200, "the code was never shown to WeChat");
}

#[test]
fn the_next_host_of_wechat_is_tried_where_no_connection_could_be_made() {
    let nobody = Refusing::start();
    let wechat = FakeWechat::start();
    let bases = format!("api_base = [\"http://{}\", \"{}\"]", nobody.address(), wechat.url());
    let site = Site::with().wechat(&bases).start();
    let session = crate::harness::token::Forge::of("carol").token();
    let good = told(200, "", "0", "ok");
    let before = counted(&site, good);
    let answer = site.auth(&wechat.code_of("alice"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(counted(&site, good), (before.0 + 1.0, before.1 + 1.0));
    assert_eq!(site.get("/api/me").bearer(&session).send().status, 200);
}

#[test]
fn the_next_host_of_wechat_is_not_tried_after_bytes_were_sent() {
    let second = FakeWechat::start();
    let first = FakeWechat::start();
    let bases = format!("api_base = [\"{}\", \"{}\"]", first.url(), second.url());
    let site = Site::with().wechat(&bases).start();
    let session = crate::harness::token::Forge::of("carol").token();
    let code = first.code_that(Play::Reset);
    assert_told(&site, "the first host breaks off", &session, &code, NO_ANSWER);
    assert!(second.calls().is_empty());
}

#[test]
fn past_max_concurrent_logins_are_503_with_retry_after_and_wechat_is_not_asked() {
    let site = Site::with().wechat("max_concurrent = 1\ntimeout = \"20s\"").start();
    let session = crate::harness::token::Forge::of("carol").token();
    let held = site.wechat.code_that(Play::Held("alice".to_owned()));
    let refused = AtomicUsize::new(0);
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| site.auth(&held));
        eventually("WeChat is asked", || site.wechat.calls_with(&held) == 1);
        // A few may wait for the place; an avalanche may not.
        let others: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(|| {
                    let answer = site.auth(&site.wechat.code_of("bob"));
                    refused.fetch_add(1, Ordering::SeqCst);
                    answer
                })
            })
            .collect();
        eventually("some are answered at once", || refused.load(Ordering::SeqCst) >= 10);
        assert_eq!(site.wechat.calls().len(), 1, "one call is under way");
        assert_eq!(site.get("/api/me").bearer(&session).send().status, 200);
        site.wechat.release();
        assert_eq!(waiting.join().unwrap().status, 200);
        others.into_iter().map(|other| other.join().unwrap()).collect()
    });
    let refused: Vec<&Answer> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!(refused.len() >= 10, "{} refused", refused.len());
    let counted = site.gateway.metric("wxgate_logins_total", &[("result", "unavailable")]);
    assert_eq!(counted, refused.len() as f64);
    for answer in refused {
        answer.assert_refused(503, "temporarily_unavailable");
        assert_retry_after(answer);
    }
    assert_eq!(site.auth(&site.wechat.code_of("bob")).status, 200);
}
