//! Rules of `[[upstreams]]`.

use super::super::file;
use super::super::problem::{Key, quote};
use super::super::{HealthCheck, Upstream, UpstreamServer};
use super::Checker;

/// A larger share than this is a typing mistake.
const LARGEST_WEIGHT: u32 = 1000;
/// More attempts than this only make an outage worse.
const MOST_RETRIES: u32 = 10;

/// So many bad answers in a row are an outage that nobody was told of.
const MOST_ANSWERS: u32 = 100;

/// `[[upstreams]]`
pub(super) fn upstreams(written: Vec<file::Upstream>, checker: &mut Checker<'_>) -> Vec<Upstream> {
    let list = Key::of("upstreams");
    if written.is_empty() {
        let hint = "add [[upstreams]] with name = \"php\" and servers = [\"127.0.0.1:8081\"]";
        checker.wrong(&list, "no upstream is configured, so nothing can be forwarded", hint);
    }
    let mut upstreams: Vec<Upstream> = Vec::new();
    for (index, upstream) in written.into_iter().enumerate() {
        let key = list.item(index);
        let named = key.name("name");
        let name = checker.required(&named, upstream.name, "name = \"php\"").unwrap_or_default();
        if !name.is_empty() && !is_name(&name) {
            let what = format!("{} is not 1 to 64 letters, digits, `.`, `_` or `-`", quote(&name));
            checker.wrong(&named, what, "write for example \"php\"");
        }
        if let Some(first) =
            upstreams.iter().position(|other| !name.is_empty() && other.name == name)
        {
            let what = format!("`{name}` is {} already", list.item(first));
            checker.wrong(&named, what, "give each upstream a name of its own");
        }
        if upstream.retries > MOST_RETRIES {
            checker.wrong(&key.name("retries"), "must be at most 10", "1 or 2 is usual");
        }
        upstreams.push(Upstream {
            name,
            servers: servers(upstream.servers, &key.name("servers"), checker),
            balance: upstream.balance,
            connect_timeout: checker
                .timeout(&key.name("connect_timeout"), upstream.connect_timeout),
            read_timeout: checker.timeout(&key.name("read_timeout"), upstream.read_timeout),
            write_timeout: checker.timeout(&key.name("write_timeout"), upstream.write_timeout),
            retries: upstream.retries,
            keepalive: upstream.keepalive,
            health_check: upstream
                .health_check
                .and_then(|check| health_check(check, &key.name("health_check"), checker)),
            tls: upstream.tls.map(|tls| super::tls::upstream(tls, &key.name("tls"), checker)),
        });
    }
    upstreams
}

/// `health_check`
fn health_check(
    check: file::HealthCheck,
    section: &Key,
    checker: &mut Checker<'_>,
) -> Option<HealthCheck> {
    let key = section.name("path");
    let path = checker.required(&key, check.path, "path = \"/health\"")?;
    if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        let what = format!("{} is not a path", quote(&path));
        checker.wrong(&key, what, "begin it with a slash, without spaces: \"/health\"");
    }
    for (name, count) in [("healthy", check.healthy), ("unhealthy", check.unhealthy)] {
        if !(1..=MOST_ANSWERS).contains(&count) {
            checker.wrong(&section.name(name), "must be from 1 to 100", "1 to 3 is usual");
        }
    }
    Some(HealthCheck {
        path,
        interval: checker.timeout(&section.name("interval"), check.interval),
        timeout: checker.timeout(&section.name("timeout"), check.timeout),
        healthy: check.healthy,
        unhealthy: check.unhealthy,
    })
}

/// What stands in metrics and logs.
fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(fits)
}

fn servers(
    written: Vec<file::UpstreamServer>,
    list: &Key,
    checker: &mut Checker<'_>,
) -> Vec<UpstreamServer> {
    if written.is_empty() {
        checker.wrong(list, "names no server", "write [\"127.0.0.1:8081\"]");
    }
    let mut servers: Vec<UpstreamServer> = Vec::new();
    for (index, server) in written.into_iter().enumerate() {
        let mut key = list.item(index);
        let (address, weight) = match server {
            file::UpstreamServer::Address(address) => (Some(address), 1),
            file::UpstreamServer::Table(table) => {
                if !(1..=LARGEST_WEIGHT).contains(&table.weight) {
                    let hint = "leave the server out to send it nothing";
                    checker.wrong(&key.name("weight"), "must be from 1 to 1000", hint);
                }
                key = key.name("address");
                (table.address, table.weight)
            }
        };
        let Some(address) = checker.required(&key, address, "address = \"127.0.0.1:8081\"") else {
            continue;
        };
        if !is_address(&address) {
            let what = format!("{} is not HOST:PORT", quote(&address));
            let hint = if address.contains("://") {
                "leave the scheme and the path out: \"127.0.0.1:8081\""
            } else {
                "write \"127.0.0.1:8081\", \"backend.internal:8080\" or \"[::1]:8081\""
            };
            checker.wrong(&key, what, hint);
        }
        if servers.iter().any(|other| other.address.eq_ignore_ascii_case(&address)) {
            let hint = "for a larger share write { address = \"…\", weight = 2 }";
            checker.wrong(&key, "is in the list already", hint);
        }
        servers.push(UpstreamServer { address, weight });
    }
    servers
}

/// `HOST:PORT` with a port that can be connected to.
fn is_address(text: &str) -> bool {
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return address.port() != 0;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    port.parse::<u16>().is_ok_and(|port| port != 0) && is_host(host)
}

/// A host name of letters, digits, `-` and `_`, label by label; not all of it a number, which
/// resolvers read as an address.
pub(super) fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    text.len() <= 253
        && text.split('.').all(label)
        && (!text.rsplit('.').next().is_some_and(number)
            || text.parse::<std::net::Ipv4Addr>().is_ok())
}
