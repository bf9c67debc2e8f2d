//! Health checks: who is ill gets no requests, and is back soon after it is well.

use std::time::Duration;

use crate::harness::site::Settings;
use crate::harness::{Refusing, Reply, Site, Upstream, eventually, mostly_within, within};

/// One interval of the checks is promised; a busy machine takes its time.
const BUSY: Duration = Duration::from_secs(5);

const CHECK: &str = "health_check = { path = \"/health?deep=1\", interval = \"200ms\", \
                     timeout = \"500ms\", healthy = 1, unhealthy = 2 }";

fn two(first: &Upstream, second: &Upstream) -> Settings {
    Site::with()
        .servers(&format!("[\"{}\", \"{}\"]", first.address(), second.address()))
        .upstream(CHECK)
}

fn ill() -> Reply {
    Reply::with_body("500 Broken", &[], "")
}

#[test]
fn a_server_that_says_it_is_ill_gets_no_requests_until_it_is_well() {
    let (first, second) = (Upstream::start(), Upstream::start());
    let site = two(&first, &second).start();
    let name = first.address().to_string();
    let up = || site.gateway.metric("wxgate_upstream_up", &[("server", &name)]);
    first.await_request_to("/health");
    assert_eq!(up(), 1.0);
    first.answers("/health", ill());
    eventually("it is down", || up() == 0.0);
    for _ in 0..10 {
        assert_eq!(site.get("/open/x").send().status, 200);
    }
    assert_eq!(first.requests_to("/open/x").len(), 0);
    assert_eq!(second.requests_to("/open/x").len(), 10);
    assert_eq!(site.admin("/readyz").send().status, 200, "one server is enough");
    first.answers("/health", Reply::ok("well"));
    within(BUSY, "it is up", || up() == 1.0);
    eventually("it gets requests", || {
        site.get("/open/x").send().status == 200 && !first.requests_to("/open/x").is_empty()
    });
    let probe = &first.requests_to("/health")[0];
    assert_eq!((&*probe.method, &*probe.target), ("GET", "/health?deep=1"));
    assert_eq!(probe.header("Host"), Some(&*name));
}

#[test]
fn while_all_are_ill_the_answer_is_503_at_once_and_the_gateway_is_not_ready() {
    let (first, second) = (Upstream::start(), Upstream::start());
    let site = two(&first, &second).start();
    for upstream in [&first, &second] {
        upstream.answers("/health", ill());
    }
    eventually("it is not ready", || site.admin("/readyz").send().status == 503);
    assert!(site.admin("/readyz").send().text().contains("php"));
    mostly_within(Duration::from_secs(1), || {
        site.get("/open/x").send().assert_refused(503, "upstream_unavailable");
    });
    second.answers("/health", Reply::ok("well"));
    within(BUSY, "it is ready", || site.admin("/readyz").send().status == 200);
    assert_eq!(site.get("/open/x").send().status, 200);
    assert!(first.requests_to("/open/x").is_empty());
}

#[test]
fn a_server_that_refuses_or_hangs_is_ill_and_back_within_an_interval() {
    let (refusing, hanging) = (Refusing::start(), Upstream::start());
    hanging.answers("/health", Reply::default().then_hang());
    let site = Site::with()
        .servers(&format!("[\"{}\", \"{}\"]", refusing.address(), hanging.address()))
        .upstream(CHECK)
        .start();
    eventually("both are ill", || site.admin("/readyz").send().status == 503);
    site.get("/open/x").send().assert_refused(503, "upstream_unavailable");
    eventually("it is logged", || site.gateway.stderr().contains("no answer within 500 ms"));
    let back = Upstream::on(refusing.into_listener());
    within(BUSY, "it is back", || site.get("/open/x").send().status == 200);
    assert_eq!(back.requests_to("/open/x").len(), 1);
}

#[test]
fn a_reload_that_takes_the_check_away_lets_the_server_count_as_well() {
    let upstream = Upstream::start();
    upstream.answers("/health", ill());
    let mut site = Site::with().upstream(CHECK).start_with(upstream);
    eventually("it is ill", || site.admin("/readyz").send().status == 503);
    assert!(site.reload(|settings| settings.upstream("connect_timeout = \"2s\"")));
    assert_eq!(site.admin("/readyz").send().status, 503, "a reload does not heal");
    assert!(site.reload(|settings| settings.replace_upstream("connect_timeout = \"2s\"")));
    assert_eq!(site.admin("/readyz").send().status, 200);
    assert_eq!(site.get("/open/x").send().status, 200);
}
