//! Picking over whole upstreams.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const GUEST: PickKey<'static> =
    PickKey { openid: None, client: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST) };

fn written(name: &str, servers: &[&str], balance: config::Balance) -> config::Upstream {
    let second = Duration::from_secs(1);
    let server = |address: &&str| config::UpstreamServer { address: (*address).into(), weight: 1 };
    config::Upstream {
        name: name.into(),
        servers: servers.iter().map(server).collect(),
        balance,
        connect_timeout: second,
        read_timeout: second,
        write_timeout: second,
        retries: 1,
        keepalive: 1,
        health_check: None,
        tls: None,
    }
}

fn upstream(servers: &[&str], balance: config::Balance) -> Upstream {
    let metrics = Arc::new(Metrics::new().unwrap());
    Upstream::build(written("php", servers, balance), None, &metrics).unwrap()
}

fn fail(upstream: &Upstream, index: usize, times: usize, now: Millis) {
    for _ in 0..times {
        let server = &upstream.members[index].server;
        let taken = server.take_least_recently_failed().unwrap();
        server.failed_to_connect(&taken, now);
    }
}

#[test]
fn a_resting_server_is_passed_over_while_another_takes_connections() {
    let upstream = upstream(&["127.0.0.1:1", "127.0.0.1:2"], config::Balance::RoundRobin);
    fail(&upstream, 0, 2, 10);
    for _ in 0..10 {
        assert_eq!(upstream.pick_at(&GUEST, &[], 11).unwrap().index, 1);
    }
}

#[test]
fn a_lone_server_that_refuses_connections_is_tried_by_every_request() {
    let upstream = upstream(&["127.0.0.1:1"], config::Balance::RoundRobin);
    fail(&upstream, 0, 5, 10);
    for now in 11..20 {
        assert!(upstream.pick_at(&GUEST, &[], now).is_ok());
    }
    let picked = upstream.pick_at(&GUEST, &[], 20).unwrap();
    picked.connected();
    assert!(upstream.members[0].server.is_available(20), "it is back at once");
}

#[test]
fn when_all_rest_the_one_that_failed_the_longest_time_ago_is_tried() {
    let upstream =
        upstream(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], config::Balance::RoundRobin);
    fail(&upstream, 0, 2, 30);
    fail(&upstream, 1, 2, 10);
    fail(&upstream, 2, 2, 20);
    assert_eq!(upstream.pick_at(&GUEST, &[], 31).unwrap().index, 1);
    assert_eq!(upstream.pick_at(&GUEST, &[1], 31).unwrap().index, 2);
    fail(&upstream, 1, 1, 31);
    assert_eq!(upstream.pick_at(&GUEST, &[], 32).unwrap().index, 2);
}

#[test]
fn a_retry_prefers_a_server_that_works_to_one_that_rests() {
    let upstream = upstream(&["127.0.0.1:1", "127.0.0.1:2"], config::Balance::RoundRobin);
    fail(&upstream, 0, 2, 10);
    assert_eq!(upstream.pick_at(&GUEST, &[1], 11).unwrap().index, 1);
}

#[test]
fn an_upstream_whose_names_are_unknown_has_no_server_and_is_down() {
    let upstream = upstream(&["nowhere.invalid:80"], config::Balance::LeastConn);
    assert_eq!(upstream.pick(GUEST, &[], std::time::Instant::now()).unwrap_err(), NoServer);
    assert!(!upstream.is_up());
}

#[test]
fn an_upstream_that_refuses_connections_counts_as_up() {
    let upstream = upstream(&["127.0.0.1:1"], config::Balance::RoundRobin);
    fail(&upstream, 0, 9, 10);
    assert!(upstream.is_up());
}

#[test]
fn a_request_counts_until_its_pick_is_dropped() {
    let upstream = upstream(&["127.0.0.1:1"], config::Balance::RoundRobin);
    let server = Arc::clone(&upstream.members[0].server);
    let picked = upstream.pick(GUEST, &[], std::time::Instant::now()).unwrap();
    assert_eq!(server.in_flight(), 1);
    drop(picked);
    assert_eq!(server.in_flight(), 0);
}

fn build(
    upstreams: Vec<config::Upstream>,
    previous: Option<&Upstreams>,
    metrics: &Arc<Metrics>,
) -> Upstreams {
    let list = upstreams
        .into_iter()
        .map(|upstream| Arc::new(Upstream::build(upstream, previous, metrics).unwrap()))
        .collect::<Vec<_>>();
    let servers = list.iter().flat_map(|upstream| &upstream.members);
    let names = servers.filter_map(|member| Name::of(&member.server)).collect();
    Upstreams { list, names, resolver: Resolver::of_the_system() }
}

#[test]
fn a_reload_keeps_what_is_known_of_servers_that_stay_and_forgets_the_others() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let round_robin = config::Balance::RoundRobin;
    let old =
        build(vec![written("php", &["127.0.0.1:1", "127.0.0.1:2"], round_robin)], None, &metrics);
    let in_flight = old.list[0].pick(GUEST, &[], std::time::Instant::now()).unwrap();
    fail(&old.list[0], 0, 2, 10);
    let new = build(
        vec![
            written("java", &["127.0.0.1:1"], round_robin),
            written("php", &["127.0.0.1:1", "127.0.0.1:3"], round_robin),
        ],
        Some(&old),
        &metrics,
    );
    drop(old);
    assert_eq!(new.list[1].members[0].server.in_flight(), 1, "the request is still under way");
    assert_eq!(new.list[1].pick_at(&GUEST, &[], 11).unwrap().index, 1, "its rest goes on");
    assert_eq!(new.list[0].pick_at(&GUEST, &[], 11).unwrap().index, 0, "java's has none");
    drop(in_flight);
    let report = metrics.render();
    assert!(!report.contains("127.0.0.1:2"), "{report}");
    assert!(report.contains("127.0.0.1:3"), "{report}");
}

#[tokio::test]
async fn the_watch_ends_with_its_upstreams() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let upstreams = Arc::new(build(
        vec![written("php", &["localhost:1"], config::Balance::RoundRobin)],
        None,
        &metrics,
    ));
    upstreams.resolve().await;
    assert!(upstreams.get(0).unwrap().is_up());
    let watch = tokio::spawn(upstreams.watch());
    drop(upstreams);
    tokio::time::timeout(Duration::from_secs(30), watch).await.unwrap().unwrap();
}

fn any_balance() -> impl Strategy<Value = config::Balance> {
    prop::sample::select(vec![
        config::Balance::RoundRobin,
        config::Balance::LeastConn,
        config::Balance::HashOpenid,
        config::Balance::HashIp,
    ])
}

proptest! {
    #[test]
    fn no_server_is_tried_twice_while_another_is_left(
        balance in any_balance(),
        servers in 1_usize..6,
        openid in "[A-Za-z0-9_-]{6,64}",
    ) {
        let servers: Vec<String> = (0..servers).map(|n| format!("127.0.0.1:{}", n + 1)).collect();
        let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
        let upstream = upstream(&servers, balance);
        let key = PickKey { openid: Some(&openid), ..GUEST };
        let mut tried = Vec::new();
        for _ in 0..servers.len() {
            let picked = upstream.pick(key, &tried, std::time::Instant::now()).unwrap();
            picked.failed_to_connect();
            tried.push(picked.index);
        }
        prop_assert_eq!(tried.iter().collect::<HashSet<_>>().len(), servers.len());
        prop_assert!(upstream.pick(key, &tried, std::time::Instant::now()).is_ok(), "then any is better than none");
    }
}
