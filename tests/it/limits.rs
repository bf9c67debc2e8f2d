//! How much clients may ask of the gateway: connections in all and from one address, and bodies
//! that come too slowly.

use std::time::{Duration, Instant};

use crate::harness::http2::Http2;
use crate::harness::tls::Authority;
use crate::harness::{Connection, DEADLINE, Reply, Site, eventually, for_as_long_as};
use crate::tls;

/// Connections that were not let in, by the limit that was full.
fn refused(site: &Site, limit: &str) -> f64 {
    site.gateway.metric("wxgate_connections_refused_total", &[("limit", limit)])
}

fn open(site: &Site) -> f64 {
    site.gateway.metric("wxgate_connections_open", &[])
}

#[test]
fn connections_past_the_total_are_closed_at_once_and_others_come_in_when_one_ends() {
    let site = Site::with().server("max_connections = 3").start();
    let mut connections: Vec<Connection> = (0..3).map(|_| site.connect()).collect();
    for connection in &mut connections {
        assert_eq!(site.get("/open/x").send_on(connection).status, 200);
    }
    for _ in 0..5 {
        assert!(site.connect().is_closed_by_gateway());
    }
    assert_eq!((refused(&site, "total"), open(&site)), (5.0, 3.0));
    for connection in &mut connections {
        assert_eq!(site.get("/open/x").send_on(connection).status, 200, "they are not disturbed");
    }
    drop(connections.pop());
    eventually("a place is free", || open(&site) < 3.0);
    assert_eq!(site.get("/open/x").send_on(&mut site.connect()).status, 200);
    let told = site.gateway.stderr().matches("server.max_connections").count();
    assert_eq!(told, 1, "the log tells of it once in a while, not each time");
}

#[test]
fn connections_of_one_address_are_limited_and_others_come_in() {
    let site = Site::with()
        .server("listen = [\"127.0.0.1:0\", \"[::1]:0\"]\nmax_connections_per_address = 2")
        .start();
    let first: Vec<Connection> = (0..2).map(|_| site.connect()).collect();
    eventually("both are in", || open(&site) == 2.0);
    assert!(site.connect().is_closed_by_gateway());
    assert_eq!((refused(&site, "address"), refused(&site, "total")), (1.0, 0.0));
    let mut other = Connection::open(site.gateway.listeners()[1]);
    assert_eq!(site.get("/open/x").send_on(&mut other).status, 200, "another address");
    drop(first);
    eventually("the places are free", || open(&site) == 1.0);
    assert_eq!(site.get("/open/x").send_on(&mut site.connect()).status, 200);
}

#[test]
fn a_trusted_proxy_may_open_more_and_a_reload_changes_the_limits() {
    let mut site = Site::with()
        .server("max_connections_per_address = 1\ntrusted_proxies = [\"127.0.0.0/8\"]")
        .start();
    let mut kept: Vec<Connection> = (0..5).map(|_| site.connect()).collect();
    for connection in &mut kept {
        assert_eq!(site.get("/open/x").send_on(connection).status, 200);
    }
    assert!(site.reload(|settings| settings.replace_server("max_connections_per_address = 1")));
    // Those that were let in as a proxy's stay, and do not count.
    let mut counted = site.connect();
    assert_eq!(site.get("/open/x").send_on(&mut counted).status, 200);
    assert!(site.connect().is_closed_by_gateway());
    assert!(site.reload(|settings| settings.replace_server("max_connections_per_address = 0")));
    let mut more: Vec<Connection> = (0..5).map(|_| site.connect()).collect();
    for connection in more.iter_mut().chain(&mut kept) {
        assert_eq!(site.get("/open/x").send_on(connection).status, 200);
    }
}

/// Sends one byte of a body now and then; tells after how long the gateway had enough.
fn drip(connection: &mut Connection, every: Duration, byte: &[u8]) -> Duration {
    let begin = Instant::now();
    let stream = connection.stream();
    stream.set_read_timeout(Some(every)).unwrap();
    let mut first = [0];
    loop {
        if std::io::Write::write_all(stream, byte).is_err() {
            return begin.elapsed();
        }
        if stream.peek(&mut first).is_ok() {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            return begin.elapsed();
        }
        assert!(begin.elapsed() < 2 * DEADLINE, "it goes on for ever");
    }
}

// Together, since each takes as long as a client may stand still.
#[test]
fn a_body_that_drips_is_408_and_a_backend_that_takes_its_time_is_not_the_clients_fault() {
    std::thread::scope(|scope| {
        scope.spawn(a_body_that_drips_is_408_in_any_framing_and_over_either_protocol);
        scope.spawn(a_backend_that_takes_its_time_is_not_the_clients_fault);
    });
}

fn a_body_that_drips_is_408_in_any_framing_and_over_either_protocol() {
    let authority = Authority::new();
    let site = tls::with(&authority.issue()).start();
    let plain = Site::start();
    std::thread::scope(|scope| {
        for (framing, byte) in
            [("Content-Length: 100000", "x"), ("Transfer-Encoding: chunked", "1\r\nx\r\n")]
        {
            let plain = &plain;
            scope.spawn(move || {
                let mut connection = plain.connect();
                connection.send(format!(
                    "POST /open/slow HTTP/1.1\r\nHost: shop.test\r\n{framing}\r\n\r\n"
                ));
                let lasted = drip(&mut connection, Duration::from_millis(200), byte.as_bytes());
                connection.answer().assert_refused(408, "request_timeout");
                assert!(connection.is_closed_by_gateway(), "{framing}");
                assert!(lasted > Duration::from_secs(28), "{framing}: {lasted:?}");
                assert!(lasted < Duration::from_secs(45), "{framing}: {lasted:?}");
            });
        }
        let (site, authority) = (&site, &authority);
        scope.spawn(move || {
            let http2 = Http2::open(site.gateway.address(), &authority.client(&["h2"]));
            let answer = http2.drip("/open/slow", b"x", Duration::from_millis(200)).unwrap();
            assert_eq!(answer.status, 408, "{}", answer.text());
        });
    });
    eventually("the backend is free", || {
        plain.upstream.open_connections() + site.upstream.open_connections() == 0
    });
    assert!(plain.upstream.requests().iter().all(|seen| !seen.complete));
}

fn a_backend_that_takes_its_time_is_not_the_clients_fault() {
    let site = Site::with()
        .server("min_body_rate = \"1GiB\"")
        .upstream("write_timeout = \"60s\"\nread_timeout = \"60s\"")
        .start();
    // It reads nothing until it is told to.
    site.upstream.answers("/open/late", Reply::ok("late").reads_when_released());
    let upload = |framing: &str, begin: &str| {
        let mut connection = site.connect();
        connection.send(format!(
            "POST /open/late HTTP/1.1\r\nHost: shop.test\r\n{framing}\r\n\r\n{begin}"
        ));
        let mut writer = connection.stream().try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            let sent = std::io::Write::write_all(&mut writer, &vec![b'x'; SIZE]);
            sent.and_then(|()| std::io::Write::write_all(&mut writer, b"\r\n0\r\n\r\n"))
        });
        (connection, sending)
    };
    // More than all buffers between hold.
    const SIZE: usize = 64 << 20;
    let uploads = [
        upload(&format!("Content-Length: {}", SIZE + 7), ""),
        upload("Transfer-Encoding: chunked", &format!("{SIZE:x}\r\n")),
    ];
    for_as_long_as(Duration::from_secs(31), "both uploads stand still", || {
        uploads.iter().all(|(_, sending)| !sending.is_finished())
    });
    site.upstream.release();
    for (mut connection, sending) in uploads {
        assert_eq!(connection.answer().status, 200);
        sending.join().unwrap().unwrap();
    }
}

#[test]
fn a_stalled_upload_is_408_even_where_the_backend_would_be_given_up_first() {
    let site =
        Site::with().server("idle_timeout = \"2s\"").upstream("read_timeout = \"1s\"").start();
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut connection = site.connect();
        connection.send(format!(
            "POST /open/stalls HTTP/1.1\r\nHost: shop.test\r\n{framing}\r\n\r\n4\r\nhalf\r\n"
        ));
        connection.answer().assert_refused(408, "request_timeout");
        assert!(connection.is_closed_by_gateway());
    }
    let timeouts = site.gateway.metric("wxgate_upstream_requests_total", &[("code", "timeout")]);
    assert_eq!(timeouts, 0.0, "the backend is not to blame");
    site.upstream.answers("/open/hangs", Reply::default().then_hang());
    let answer = site.post("/open/hangs").body("whole").send();
    answer.assert_refused(504, "gateway_timeout");
}

#[test]
fn http_2_over_a_stalled_upload_is_408_too() {
    let authority = Authority::new();
    let site = tls::with(&authority.issue()).upstream("read_timeout = \"1s\"").start();
    let http2 = Http2::open(site.gateway.address(), &authority.client(&["h2"]));
    let answer = http2.drip("/open/stalls", b"half", Duration::from_secs(60)).unwrap();
    assert_eq!(answer.status, 408, "{}", answer.text());
}
