//! Rules of `[server]`, `[admin]` and `[log]`.

use std::net::SocketAddr;
use std::num::NonZeroU64;

use ipnet::IpNet;

use super::super::file::{self, Level};
use super::super::problem::{Key, quote};
use super::super::{AccessFormat, Admin, Log, Server};
use super::{Checker, RELATIVE};
use crate::secret::Secret;

/// A request head of this size holds a token and little else.
const SMALLEST_HEAD: u64 = 1024;
/// Pingora's own limit.
const LARGEST_HEAD: u64 = 1024 * 1024;
/// More threads than any machine has cores.
const MOST_THREADS: usize = 1024;

/// `[server]`
pub(super) fn server(file: &file::Server, checker: &mut Checker<'_>) -> Server {
    let section = Key::of("server");
    let threads = file.threads.unwrap_or_else(cores);
    if !(1..=MOST_THREADS).contains(&threads) {
        let what = "must be from 1 to 1024";
        checker.wrong(&section.name("threads"), what, "leave it out for one per core");
    }
    let head = file.max_header_bytes.0;
    if !(SMALLEST_HEAD..=LARGEST_HEAD).contains(&head) {
        let what = format!("must be from 1KiB to 1MiB, not {}", file.max_header_bytes);
        checker.wrong(&section.name("max_header_bytes"), what, "write for example \"32KiB\"");
    }
    let key = section.name("listen");
    if file.listen.is_empty() {
        checker.wrong(&key, "names no address", "write [\"127.0.0.1:8080\"]");
    }
    let listen = addresses(&file.listen, &key, checker);
    let tls = file.tls.as_ref().and_then(|tls| super::tls::server(tls, checker));
    Server {
        listen,
        redirect_listen: redirect(file, checker),
        redirect_port: file.redirect_port,
        threads,
        trusted_proxies: trusted_proxies(&file.trusted_proxies, checker),
        max_header_bytes: usize::try_from(head).unwrap_or(usize::MAX),
        max_body_bytes: Some(file.max_body_bytes.0).filter(|bytes| *bytes != 0),
        header_timeout: checker.timeout(&section.name("header_timeout"), file.header_timeout),
        idle_timeout: checker.timeout(&section.name("idle_timeout"), file.idle_timeout),
        max_connections: Some(file.max_connections).filter(|most| *most != 0),
        max_connections_per_address: Some(file.max_connections_per_address)
            .filter(|most| *most != 0),
        min_body_rate: NonZeroU64::new(file.min_body_rate.0),
        shutdown_grace: file.shutdown_grace.0,
        fast_lane: file.fast_lane,
        tls,
    }
}

/// Addresses, each of which may stand there once.
fn addresses(written: &[String], key: &Key, checker: &mut Checker<'_>) -> Vec<SocketAddr> {
    // Port 0 is another one each time.
    let fixed = |text: &'_ String| if text.ends_with(":0") { String::new() } else { text.clone() };
    let fixed: Vec<String> = written.iter().map(fixed).collect();
    checker.distinct(key, fixed.iter().map(String::as_str));
    let numbered = written.iter().enumerate();
    numbered.filter_map(|(index, text)| address(text, &key.item(index), checker)).collect()
}

/// `redirect_listen` and `redirect_port`
fn redirect(file: &file::Server, checker: &mut Checker<'_>) -> Vec<SocketAddr> {
    let section = Key::of("server");
    let key = section.name("redirect_listen");
    if file.redirect_port == 0 {
        let what = "must be from 1 to 65535";
        checker.wrong(&section.name("redirect_port"), what, "write 443");
    }
    if !file.redirect_listen.is_empty() && file.tls.is_none() {
        let what = "sends clients to https, which this gateway does not speak";
        checker.warn(&key, what, "set server.tls, unless something in front speaks it");
    }
    addresses(&file.redirect_listen, &key, checker)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS)
}

fn trusted_proxies(written: &[String], checker: &mut Checker<'_>) -> Vec<IpNet> {
    let list = Key::of("server").name("trusted_proxies");
    let mut networks = Vec::new();
    for (index, text) in written.iter().enumerate() {
        let key = list.item(index);
        let network: Option<IpNet> = text
            .parse()
            .ok()
            .or_else(|| text.parse().ok().map(|address: std::net::IpAddr| address.into()));
        let Some(network) = network else {
            let what = format!("{} is neither an address nor a network", quote(text));
            checker.wrong(&key, what, "write \"10.0.0.7\" or \"10.0.0.0/8\"");
            continue;
        };
        if network.prefix_len() == 0 {
            let what = "everybody is trusted: any client can choose the address it is known by";
            checker.warn(&key, what, "name the proxies in front, and only those");
        } else if network != network.trunc() {
            let what = format!("is read as \"{}\"", network.trunc());
            checker.warn(&key, what, "bits after the prefix have no meaning");
        }
        networks.push(network.trunc());
    }
    networks
}

/// `IP:PORT`
fn address(text: &str, key: &Key, checker: &mut Checker<'_>) -> Option<SocketAddr> {
    let parsed = text.parse().ok();
    if parsed.is_none() {
        let what = format!("{} is not IP:PORT", quote(text));
        let port = text.rsplit(':').next().filter(|port| port.parse::<u16>().is_ok());
        let hint = match port {
            Some(port) => {
                format!("write \"127.0.0.1:{port}\", \"0.0.0.0:{port}\" or \"[::]:{port}\"")
            }
            None => "write \"127.0.0.1:8080\", \"0.0.0.0:8080\" or \"[::]:8080\"".to_owned(),
        };
        checker.wrong(key, what, hint);
    }
    parsed
}

/// `[admin]`
pub(super) fn admin(file: file::Admin, checker: &mut Checker<'_>) -> Option<Admin> {
    let section = Key::of("admin");
    let key = section.name("token");
    let named = file.token.is_some();
    let token = file.token.and_then(|source| checker.secret(&key, &source, "the admin listener"));
    if let Some(token) = &token {
        // It comes back in a header: RFC 6750's b64token is what fits there.
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let what = "holds a character that cannot stand in an Authorization header";
            checker.wrong(&key, what, "use letters and digits");
        } else if token.len() < 16 {
            checker.warn(&key, "is short enough to be guessed", "use 32 random letters and digits");
        }
    }
    let listen = address(&file.listen, &section.name("listen"), checker)?;
    if !named && !listen.ip().to_canonical().is_loopback() {
        let what = "is reachable from other machines, and no token is asked for";
        checker.wrong(
            &section.name("listen"),
            what,
            "set admin.token = { env = \"WXGATE_ADMIN_TOKEN\" }, or listen on 127.0.0.1",
        );
    }
    Some(Admin { listen, token: token.map(|token| Secret::new(token.to_string())) })
}

/// Addresses that the system would refuse to give out twice.
pub(super) fn listeners(file: &file::Server, admin: SocketAddr, checker: &mut Checker<'_>) {
    let section = Key::of("server");
    let parsed = |written: &[String], key: &Key| -> Vec<(Key, SocketAddr)> {
        let numbered = written.iter().enumerate();
        let numbered = numbered.map(|(index, text)| (key.item(index), text.parse().ok()));
        numbered.filter_map(|(key, address)| Some((key, address?))).collect()
    };
    let clients = parsed(&file.listen, &section.name("listen"));
    let redirects = parsed(&file.redirect_listen, &section.name("redirect_listen"));
    for (key, address) in clients.iter().chain(&redirects) {
        if collide(*address, admin) {
            let what = "is the address of admin.listen too";
            checker.wrong(key, what, "operators' and clients' listeners need ports of their own");
        }
    }
    for (key, address) in &redirects {
        if clients.iter().any(|(_, other)| collide(*address, *other)) {
            let what = "is an address of server.listen too";
            checker.wrong(key, what, "plain HTTP and https need ports of their own");
        }
    }
}

fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (ours, theirs) = (one.ip(), other.ip());
    let covers = ours.is_unspecified() || theirs.is_unspecified();
    let same = ours == theirs || (covers && ours.is_ipv4() == theirs.is_ipv4());
    one.port() != 0 && one.port() == other.port() && same
}

/// `[log]`
pub(super) fn log(file: file::Log, checker: &mut Checker<'_>) -> Log {
    let level = match file.level {
        Level::Error => log::LevelFilter::Error,
        Level::Warn => log::LevelFilter::Warn,
        Level::Info => log::LevelFilter::Info,
        Level::Debug => log::LevelFilter::Debug,
        Level::Trace => log::LevelFilter::Trace,
    };
    let key = Key::of("log").name("access_file");
    let access_file = file.access_file.map(|path| checker.folder.join(path));
    if let Some(path) = &access_file {
        // join gives "" for the folder of a bare name.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if path.is_dir() {
            checker.wrong(&key, "is a folder", "name a file");
        } else if folder.is_some_and(|folder| !folder.is_dir()) {
            checker.wrong(&key, "its folder does not exist", RELATIVE);
        } else if file.access == AccessFormat::Off {
            checker.warn(&key, "stays empty: log.access is \"off\"", "leave one of them out");
        }
    }
    Log { level, access: file.access, access_file }
}
