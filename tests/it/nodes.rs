//! Two gateways and a Redis between them: what one does holds at the other, and what happens to
//! Redis is answered as promised, without a restart and without a request that hangs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::decrypt::{encrypted, profile};
use crate::harness::redis::{Redis, Sentinel, cluster};
use crate::harness::site::Settings;
use crate::harness::tls::Authority;
use crate::harness::token::decode;
use crate::harness::wechat::{APPID, openid_of, session_key_of};
use crate::harness::{Answer, Reply, Site, eventually, once_within, within};
use crate::phone;

/// No answer of a gateway whose Redis is gone takes longer.
const BOUND: Duration = Duration::from_secs(4);
/// Nor on a machine that stands still, where it cannot be asked the same again.
const BUSY: Duration = Duration::from_secs(10);

const ROUTES: &str = r#"
[[routes]]
name = "api"
path = "/api/"
upstream = "php"
auth = "required"

[[routes]]
name = "shop"
path = "/shop/"
upstream = "php"
auth = "required"
cookie_bridge = true
"#;

fn settings(store: &str) -> Settings {
    Site::with().routes(ROUTES).session(&format!("store = \"{store}\""))
}

fn is_ready(site: &Site) -> bool {
    site.admin("/readyz").send().status == 200
}

#[track_caller]
fn await_ready(site: &Site) {
    eventually("the node is ready", || is_ready(site));
    assert!(site.gateway.metric("wxgate_store_up", &[]) > 0.5);
}

fn two(settings: &Settings) -> (Site, Site) {
    let (one, other) = (settings.clone().start(), settings.clone().start());
    await_ready(&one);
    await_ready(&other);
    (one, other)
}

fn redis_of(server: &Redis) -> String {
    format!("redis://127.0.0.1:{}", server.port)
}

/// A request with a token; the answer comes within [`BOUND`], whatever is wrong.
#[track_caller]
fn get(site: &Site, path: &str, token: &str) -> Answer {
    once_within(BOUND, || site.get(path).bearer(token).send())
}

#[track_caller]
fn post(site: &Site, path: &str, token: &str) -> Answer {
    let asked = Instant::now();
    let answer = site.post(path).bearer(token).send();
    assert!(asked.elapsed() < BUSY, "{:?}", asked.elapsed());
    answer
}

fn is_refused(site: &Site, token: &str) -> bool {
    site.get("/api/").bearer(token).send().status == 401
}

fn kick(site: &Site, token: &str) -> u16 {
    let sid = decode(token).1["sid"].as_str().unwrap().to_owned();
    let admin = site.gateway.admin();
    let target = format!("/api/v1/sessions/{sid}");
    let request = crate::harness::client::Request::new(admin, "DELETE", &target);
    request.host("127.0.0.1").send().status
}

/// What holds whatever the layout of Redis is. Gives the times from a kick's 204 to the other
/// node's 401.
fn hold_together(one: &Site, other: &Site, kicks: usize) -> Vec<Duration> {
    let token = one.log_in("ann");
    assert_eq!(get(other, "/api/", &token).status, 200);
    // Refreshed here, its session_key there.
    let answer = post(one, "/wx/refresh", &token);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let fresh = answer.json()["access_token"].as_str().unwrap().to_owned();
    let body = encrypted("ann", &profile(APPID));
    let opened = other.post("/wx/decrypt").bearer(&fresh).json(&body).send();
    assert_eq!(opened.status, 200, "{}", opened.text());
    // A backend's cookie too.
    let cookie = Reply::with_body("200 OK", &["Set-Cookie: PHPSESSID=s1"], "");
    one.upstream.answers("/shop/in", cookie);
    assert_eq!(get(one, "/shop/in", &fresh).values("Set-Cookie").len(), 0);
    assert_eq!(get(other, "/shop/", &fresh).status, 200);
    assert_eq!(other.upstream.last().header("Cookie"), Some("PHPSESSID=s1"));
    lose_no_cookie(one, other, &fresh);
    // Ended there, all of the user's; refused here.
    let second = other.log_in("ann");
    let out = other.post("/wx/logout").bearer(&fresh).json(&json!({ "all": true })).send();
    assert_eq!(out.status, 204);
    eventually("both are refused", || is_refused(one, &token) && is_refused(one, &second));
    assert_eq!(post(one, "/wx/refresh", &fresh).status, 401);
    let mut times: Vec<_> = (0..kicks)
        .map(|number| {
            let token = one.log_in(&format!("user{number}"));
            assert_eq!(other.get("/api/").bearer(&token).send().status, 200);
            assert_eq!(kick(one, &token), 204);
            let kicked = Instant::now();
            while !is_refused(other, &token) {
                assert!(kicked.elapsed() < BUSY, "never refused");
            }
            kicked.elapsed()
        })
        .collect();
    times.sort();
    times
}

/// Answers that come at once, at both nodes, each with a cookie of its own.
fn lose_no_cookie(one: &Site, other: &Site, token: &str) {
    let all: Vec<_> = (0..16).map(|number| format!("c{number:02}=1")).collect();
    std::thread::scope(|scope| {
        for (site, cookie) in [one, other].into_iter().cycle().zip(&all) {
            let path = format!("/shop/{cookie}");
            let set = format!("Set-Cookie: {cookie}; Path=/shop/kept");
            site.upstream.answers(&path, Reply::with_body("200 OK", &[&set], ""));
            scope.spawn(move || assert_eq!(get(site, &path, token).status, 200));
        }
    });
    assert_eq!(get(one, "/shop/kept", token).status, 200);
    let sent = one.upstream.last().header("Cookie").unwrap().to_owned();
    let mut kept: Vec<_> = sent.split("; ").filter(|it| it.starts_with('c')).collect();
    kept.sort_unstable();
    assert_eq!(kept, all);
}

#[test]
#[expect(clippy::print_stderr, reason = "a figure to look at")]
fn what_one_node_does_the_other_knows_within_a_second() {
    let server = Redis::start();
    let (one, other) = two(&settings(&redis_of(&server)));
    let times = hold_together(&one, &other, 200);
    let (middle, slow) = (times[100], times[197]);
    eprintln!("from a kick to the other node's refusal: p50 {middle:?}, p99 {slow:?} of 200");
    assert!(slow < Duration::from_secs(1), "{slow:?}");
}

#[test]
fn nothing_that_is_secret_stands_in_redis_or_in_the_file_in_clear() {
    let server = Redis::start();
    let stores = [redis_of(&server), "sqlite:wxgate.db".to_owned()];
    for store in stores {
        let site = settings(&store).start();
        await_ready(&site);
        site.wechat.answers(phone::API, phone::verified(APPID));
        let token = site.log_in("ann");
        let number = site.post("/wx/phone").bearer(&token).json(&json!({ "code": "p1" })).send();
        assert_eq!(number.status, 200, "{}", number.text());
        let cookie = "Set-Cookie: PHPSESSID=a-cookie-of-the-backend";
        site.upstream.answers("/shop/in", Reply::with_body("200 OK", &[cookie], ""));
        assert_eq!(get(&site, "/shop/in", &token).status, 200);
        let dumps = if store.starts_with("redis") {
            vec![server.dump()]
        } else {
            ["wxgate.db", "wxgate.db-wal"]
                .map(|file| site.gateway.file(file))
                .iter()
                .map(|file| std::fs::read(file).unwrap())
                .collect()
        };
        let holds = |clear: &str| {
            let clear = clear.as_bytes();
            dumps.iter().any(|dump| dump.windows(clear.len()).any(|window| window == clear))
        };
        // The session is there, as an operator may see it.
        assert!(holds(&openid_of("ann")), "{store}");
        let key = session_key_of("ann");
        let secrets = [&key, &key[..10], phone::NUMBER, "PHPSESSID", "a-cookie-of", &token];
        for secret in secrets.into_iter().chain([&token[token.len() - 20..]]) {
            assert!(!holds(secret), "{store}: {secret}");
        }
    }
}

/// Waits until the node says that it does not hear the others any more.
fn await_deaf(site: &Site, token: &str) {
    eventually("the node is deaf", || get(site, "/api/", token).status == 503);
    get(site, "/api/", token).assert_refused(503, "temporarily_unavailable");
    let ready = site.admin("/readyz").send();
    assert_eq!((ready.status, &ready.json()["store"]), (503, &json!("down")));
    assert!(site.gateway.metric("wxgate_store_up", &[]) < 0.5);
}

/// What both kinds of outage have in common. `gone` is called to begin with, `back` to end it.
fn outlast(one: &Site, other: &Site, allowing: &Site, gone: impl FnOnce(), back: impl FnOnce()) {
    let token = one.log_in("ann");
    let kicked = one.log_in("bob");
    assert_eq!(kick(one, &kicked), 204);
    for site in [other, allowing] {
        eventually("the kick is heard of", || is_refused(site, &kicked));
    }
    gone();
    // What needs the store fails soon, and says that it is worth another try.
    let login = one.auth(&one.wechat.code_of("carl"));
    login.assert_refused(503, "temporarily_unavailable");
    post(one, "/wx/refresh", &token).assert_refused(503, "temporarily_unavailable");
    get(one, "/shop/", &token).assert_refused(503, "temporarily_unavailable");
    assert_eq!(get(allowing, "/shop/", &token).status, 200);
    await_deaf(one, &token);
    await_deaf(other, &token);
    assert_eq!(get(allowing, "/api/", &token).status, 200);
    assert_eq!(get(allowing, "/api/", &kicked).status, 401);
    assert_eq!(allowing.admin("/readyz").send().status, 503);
    // Not even a logout that could not be noted leaves the token alive on its own node.
    let leaving = post(allowing, "/wx/logout", &token);
    leaving.assert_refused(503, "temporarily_unavailable");
    assert_eq!(get(allowing, "/api/", &token).status, 401);
    back();
    for site in [one, other, allowing] {
        await_ready(site);
        assert_eq!(get(site, "/api/", &kicked).status, 401);
    }
    let token = other.log_in("dora");
    assert_eq!(get(one, "/api/", &token).status, 200);
    assert_eq!(kick(one, &token), 204);
    eventually("kicks are heard of again", || is_refused(other, &token));
}

fn three(server: &Redis) -> (Site, Site, Site) {
    let settings = settings(&redis_of(server));
    let (one, other) = two(&settings);
    let allowing = settings.session("on_store_error = \"allow\"").start();
    await_ready(&allowing);
    (one, other, allowing)
}

#[test]
fn a_redis_that_stops_and_comes_back_empty_is_outlasted() {
    let mut server = Redis::start();
    let (one, other, allowing) = three(&server);
    let before = one.log_in("eve");
    let server = std::cell::RefCell::new(&mut server);
    outlast(
        &one,
        &other,
        &allowing,
        || server.borrow_mut().stop(),
        || server.borrow_mut().start_again(),
    );
    // Tokens stay what they are; the session behind them is lost, which a refresh is told.
    assert_eq!(get(&one, "/api/", &before).status, 200);
    post(&one, "/wx/refresh", &before).assert_refused(401, "invalid_token");
    // A node that starts now learns what the others knew.
    let late = settings(&redis_of(server.into_inner())).start();
    await_ready(&late);
    assert_eq!(get(&late, "/api/", &before).status, 200);
}

#[test]
fn a_redis_that_freezes_is_outlasted() {
    let server = Redis::start();
    let (one, other, allowing) = three(&server);
    let before = one.log_in("eve");
    outlast(&one, &other, &allowing, || server.freeze(), || server.thaw());
    assert_eq!(post(&one, "/wx/refresh", &before).status, 200);
}

#[test]
fn a_failover_by_sentinel_is_followed() {
    let mut master = Redis::start();
    let replica = Redis::replica_of(&master);
    let sentinel = Sentinel::over(&master, &replica);
    let store = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port);
    let (one, other) = two(&settings(&store));
    hold_together(&one, &other, 5);
    let (kept, kicked) = (one.log_in("kept"), one.log_in("kicked"));
    assert_eq!(kick(&one, &kicked), 204);
    let offsets = || {
        let replication = master.ask(&["INFO", "replication"]);
        let of = |name: &str| {
            let (_, rest) = replication.split_once(name)?;
            rest.split(['\r', ',']).next().map(ToOwned::to_owned)
        };
        (of("master_repl_offset:"), of(",offset="))
    };
    eventually("replicated", || matches!(offsets(), (Some(at), Some(there)) if at == there));
    master.stop();
    // A Sentinel whose machine stood still for two seconds does nothing for half a minute after
    // that (its TILT mode).
    within(Duration::from_secs(90), "logins work again", || {
        let asked = Instant::now();
        let login = one.auth(&one.wechat.code_of("ann"));
        assert!(asked.elapsed() < BUSY, "{:?}", asked.elapsed());
        assert!(matches!(login.status, 200 | 503), "{}", login.status);
        login.status == 200
    });
    for site in [&one, &other] {
        await_ready(site);
        assert_eq!(get(site, "/api/", &kicked).status, 401);
    }
    assert_eq!(post(&other, "/wx/refresh", &kept).status, 200);
    hold_together(&one, &other, 5);
}

#[test]
fn a_cluster_of_six_is_as_good_as_one_and_survives_the_loss_of_a_master() {
    let mut servers = cluster();
    let ports: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    let (one, other) = two(&settings(&format!("redis://{}", ports[..3].join(","))));
    let times = hold_together(&one, &other, 50);
    assert!(times[49] < Duration::from_secs(1), "{:?}", times[49]);
    servers[0].stop();
    let round = AtomicUsize::new(0);
    eventually("logins of all slots work again", || {
        let round = round.fetch_add(1, Ordering::Relaxed);
        (0..8).all(|slot| {
            let asked = Instant::now();
            let user = format!("after{round}_{slot}");
            let login = one.auth(&one.wechat.code_of(&user));
            assert!(asked.elapsed() < BUSY, "{:?}", asked.elapsed());
            login.status == 200
        })
    });
    eventually("both nodes are ready", || is_ready(&one) && is_ready(&other));
    hold_together(&one, &other, 10);
}

#[test]
fn a_redis_within_tls_is_trusted_if_its_authority_is() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("authorities.pem");
    let authority = Authority::new();
    std::fs::write(&bundle, authority.pem()).unwrap();
    let server = Redis::within_tls(&authority.issue_for(&["localhost"], 2099), &bundle);
    let settings = settings(&format!("rediss://localhost:{}", server.port));
    let trusting = settings.clone().environment("SSL_CERT_FILE", &bundle.display().to_string());
    let (one, other) = two(&trusting);
    let times = hold_together(&one, &other, 5);
    assert_eq!(times.len(), 5);
    // Whoever does not trust it does not speak to it.
    let stranger = folder.path().join("others.pem");
    std::fs::write(&stranger, Authority::new().pem()).unwrap();
    let wary = settings.environment("SSL_CERT_FILE", &stranger.display().to_string()).start();
    eventually("it says so", || wary.gateway.stderr().contains("the session store is down"));
    assert!(!is_ready(&wary));
    wary.auth(&wary.wechat.code_of("ann")).assert_refused(503, "temporarily_unavailable");
}
