//! Host names of upstream servers: looked up as the system would (`hosts`, `resolv.conf`), again
//! as their records expire, and never forgotten because a name server is down.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Hosts, TokioResolver, system_conf};

use super::Upstreams;
use super::server::Server;

/// A record may say that it lives for no time at all; the name server is still asked only once
/// a second.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);

/// A record may live for a day; a server that moved is found within a minute all the same.
const LONGEST_LIFE: Duration = Duration::from_secs(60);

/// How often the system's files are compared, and how soon a failed look-up is tried again.
const TICK: Duration = Duration::from_secs(1);

/// The longest look-up.
const DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error("{0}")]
    Refused(#[from] NetError),
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Slow,
    #[error("the name has no address")]
    Empty,
}

/// A server that was written as a host name.
#[derive(Clone, Debug)]
pub(super) struct Name {
    server: Arc<Server>,
    host: String,
    port: u16,
    /// The last look-up failed: the next failure is no news.
    failing: Arc<AtomicBool>,
}

impl Name {
    /// `None` if the server was written as an address.
    pub(super) fn of(server: &Arc<Server>) -> Option<Self> {
        let written = server.name();
        if written.parse::<SocketAddr>().is_ok() {
            return None;
        }
        let (host, port) = written.rsplit_once(':')?;
        let (host, port) = (host.to_owned(), port.parse().ok()?);
        Some(Self { server: Arc::clone(server), host, port, failing: Arc::default() })
    }

    pub(super) fn is_known(&self) -> bool {
        !self.server.addresses().is_empty()
    }

    /// Looks the name up and gives the server what was found. Tells how long to wait before the
    /// next look-up.
    pub(super) async fn look_up(&self, resolver: &Resolver) -> Duration {
        match resolver.look_up(&self.host, self.port).await {
            Ok((addresses, life)) => {
                let before = self.server.addresses();
                self.server.set_addresses(&addresses);
                if self.failing.swap(false, Ordering::Relaxed) || before != addresses {
                    log::info!("upstream server {}: {addresses:?}", self.server.name());
                }
                life.clamp(SHORTEST_LIFE, LONGEST_LIFE)
            }
            Err(error) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    let consequence = if self.is_known() {
                        "the last known addresses stay in use"
                    } else {
                        "the server is down until it is found"
                    };
                    let name = self.server.name();
                    log::warn!("upstream server {name} cannot be found: {error}; {consequence}");
                }
                TICK
            }
        }
    }
}

/// See [`Upstreams::watch`]. `names` is the number of names; each is watched on its own, so that
/// a slow one does not hold up the others.
pub(super) async fn watch(upstreams: Weak<Upstreams>, names: usize) {
    let watches = (0..names).map(|index| watch_name(upstreams.clone(), index));
    futures_util::future::join_all(watches).await;
}

async fn watch_name(upstreams: Weak<Upstreams>, index: usize) {
    let mut due = Instant::now();
    let mut seen = Fingerprint::default();
    loop {
        {
            // Held only while looking up: what nobody uses any more is not to be kept alive.
            let Some(upstreams) = upstreams.upgrade() else { return };
            let Some(name) = upstreams.names.get(index) else { return };
            let files = upstreams.resolver.files.fingerprint().await;
            if Instant::now() >= due || files != seen {
                due = Instant::now() + name.look_up(&upstreams.resolver).await;
                seen = files;
            }
        }
        let wait = due.saturating_duration_since(Instant::now()).min(TICK);
        tokio::time::sleep(wait).await;
    }
}

/// A stub resolver that follows the system's files.
#[derive(Debug)]
pub(super) struct Resolver {
    files: Files,
    /// 53; tests ask a name server of their own.
    port: u16,
    current: ArcSwapOption<(Fingerprint, TokioResolver)>,
}

impl Resolver {
    pub(super) fn of_the_system() -> Self {
        let hosts = PathBuf::from("/etc/hosts");
        let resolv_conf = PathBuf::from("/etc/resolv.conf");
        Self { files: Files { hosts, resolv_conf }, port: 53, current: ArcSwapOption::empty() }
    }

    async fn look_up(
        &self,
        host: &str,
        port: u16,
    ) -> Result<(Vec<SocketAddr>, Duration), LookupError> {
        let resolver = self.current().await?;
        let found = tokio::time::timeout(DEADLINE, resolver.1.lookup_ip(host))
            .await
            .map_err(|_| LookupError::Slow)??;
        let mut addresses: Vec<SocketAddr> =
            found.iter().map(|address| SocketAddr::new(address, port)).collect();
        // Name servers rotate their answers; sorted, an unchanged answer is seen as such. IPv4
        // comes first.
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(LookupError::Empty);
        }
        Ok((addresses, found.valid_until().saturating_duration_since(Instant::now())))
    }

    /// The resolver for the files as they are now.
    async fn current(&self) -> Result<Arc<(Fingerprint, TokioResolver)>, LookupError> {
        let fingerprint = self.files.fingerprint().await;
        if let Some(current) = self.current.load_full()
            && current.0 == fingerprint
        {
            return Ok(current);
        }
        let new = Arc::new((fingerprint, self.files.read(self.port).await?));
        self.current.store(Some(Arc::clone(&new)));
        Ok(new)
    }
}

/// The system's files that say how a name is found.
#[derive(Debug)]
struct Files {
    hosts: PathBuf,
    resolv_conf: PathBuf,
}

/// When the files were written and how long they are; `None`: not there.
type Fingerprint = [Option<(SystemTime, u64)>; 2];

impl Files {
    async fn fingerprint(&self) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        for (path, slot) in [&self.hosts, &self.resolv_conf].into_iter().zip(&mut fingerprint) {
            if let Ok(metadata) = tokio::fs::metadata(path).await {
                *slot = metadata.modified().ok().map(|modified| (modified, metadata.len()));
            }
        }
        fingerprint
    }

    /// A resolver for the files as they are. Without a readable `resolv.conf`, or with one that
    /// names no server, there are still the names of `hosts`.
    async fn read(&self, port: u16) -> Result<TokioResolver, LookupError> {
        let resolv_conf = tokio::fs::read(&self.resolv_conf).await.unwrap_or_default();
        let (mut config, mut options) = system_conf::parse_resolv_conf(resolv_conf)
            .unwrap_or_else(|_| (ResolverConfig::default(), ResolverOpts::default()));
        if port != 53 {
            config = with_port(&config, port);
        }
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // What is looked up is to be news: lives are counted here, not in a cache.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let mut resolver = builder.build()?;
        let mut hosts = Hosts::default();
        let written = tokio::fs::read(&self.hosts).await.unwrap_or_default();
        if let Err(error) = hosts.read_hosts_conf(written.as_slice()) {
            log::warn!("{} cannot be read: {error}", self.hosts.display());
        }
        resolver.set_hosts(Arc::new(hosts));
        Ok(resolver)
    }
}

fn with_port(config: &ResolverConfig, port: u16) -> ResolverConfig {
    let on_port = |server: &NameServerConfig| {
        let mut server = server.clone();
        server.connections.iter_mut().for_each(|connection| connection.port = port);
        server
    };
    let servers = config.name_servers().iter().map(on_port).collect();
    ResolverConfig::from_parts(config.domain().cloned(), config.search().to_vec(), servers)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use std::net::IpAddr;
    use std::sync::Mutex;

    use tokio::net::UdpSocket;

    use super::*;
    use crate::observe::Metrics;

    /// A name server that answers every question for A with these addresses, or not at all.
    struct NameServer {
        answer: Arc<Mutex<Answer>>,
        port: u16,
    }

    #[derive(Clone)]
    enum Answer {
        Addresses(Vec<[u8; 4]>, u32),
        Failure(u8),
    }

    impl NameServer {
        async fn start(answer: Answer) -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let port = socket.local_addr().unwrap().port();
            let answer = Arc::new(Mutex::new(answer));
            let script = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut question = [0; 512];
                while let Ok((length, peer)) = socket.recv_from(&mut question).await {
                    let reply = reply(&question[..length], &script.lock().unwrap().clone());
                    socket.send_to(&reply, peer).await.unwrap();
                }
            });
            Self { answer, port }
        }

        fn now_answers(&self, answer: Answer) {
            *self.answer.lock().unwrap() = answer;
        }
    }

    /// RFC 1035: the header with our flags and counts, the question as it came, the records.
    fn reply(question: &[u8], answer: &Answer) -> Vec<u8> {
        let name_length = question[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
        let end = 12 + name_length + 4;
        let is_a = question[end - 4..end - 2] == [0, 1];
        let (code, records, ttl) = match answer {
            Answer::Addresses(addresses, ttl) if is_a => (0, addresses.clone(), *ttl),
            Answer::Addresses(..) => (0, vec![], 0),
            Answer::Failure(code) => (*code, vec![], 0),
        };
        let mut reply = question[..2].to_vec();
        reply.extend([0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
        reply.extend(&question[12..end]);
        for record in records {
            reply.extend([0xc0, 12, 0, 1, 0, 1]);
            reply.extend(ttl.to_be_bytes());
            reply.extend([0, 4]);
            reply.extend(record);
        }
        reply
    }

    fn files(directory: &tempfile::TempDir, hosts: &str, resolv_conf: &str) -> Files {
        let files = Files {
            hosts: directory.path().join("hosts"),
            resolv_conf: directory.path().join("resolv.conf"),
        };
        std::fs::write(&files.hosts, hosts).unwrap();
        std::fs::write(&files.resolv_conf, resolv_conf).unwrap();
        files
    }

    fn resolver(directory: &tempfile::TempDir, hosts: &str, name_server: &NameServer) -> Resolver {
        let files = files(directory, hosts, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
        Resolver { files, port: name_server.port, current: ArcSwapOption::empty() }
    }

    fn name(written: &str) -> Name {
        let metrics = Arc::new(Metrics::new().unwrap());
        Name::of(&Arc::new(Server::new("php", written, &[], &metrics))).unwrap()
    }

    fn found(name: &Name) -> Vec<String> {
        name.server.addresses().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_is_no_name() {
        for written in ["127.0.0.1:80", "[::1]:80"] {
            let metrics = Arc::new(Metrics::new().unwrap());
            let server = Arc::new(Server::new("php", written, &[], &metrics));
            assert!(Name::of(&server).is_none(), "{written}");
        }
    }

    #[tokio::test]
    async fn a_name_is_asked_again_as_its_records_expire() {
        let name_server =
            NameServer::start(Answer::Addresses(vec![[127, 0, 0, 2], [127, 0, 0, 1]], 7)).await;
        let directory = tempfile::tempdir().unwrap();
        let resolver = resolver(&directory, "", &name_server);
        let name = name("backend.test:8081");
        let wait = name.look_up(&resolver).await;
        assert_eq!(found(&name), ["127.0.0.1:8081", "127.0.0.2:8081"]);
        assert!(wait > Duration::from_secs(5) && wait <= Duration::from_secs(7), "{wait:?}");

        name_server.now_answers(Answer::Addresses(vec![[127, 0, 0, 3]], 0));
        let wait = name.look_up(&resolver).await;
        assert_eq!(found(&name), ["127.0.0.3:8081"]);
        assert_eq!(wait, SHORTEST_LIFE);
    }

    #[tokio::test]
    async fn the_last_good_addresses_stay_when_the_name_server_fails() {
        let name_server = NameServer::start(Answer::Addresses(vec![[127, 0, 0, 1]], 1)).await;
        let directory = tempfile::tempdir().unwrap();
        let resolver = resolver(&directory, "", &name_server);
        let name = name("backend.test:8081");
        name.look_up(&resolver).await;
        for failure in [Answer::Failure(2), Answer::Failure(3), Answer::Addresses(vec![], 1)] {
            name_server.now_answers(failure);
            assert_eq!(name.look_up(&resolver).await, TICK);
            assert_eq!(found(&name), ["127.0.0.1:8081"]);
        }
    }

    #[tokio::test]
    async fn a_name_that_was_never_found_leaves_its_server_without_address() {
        let name_server = NameServer::start(Answer::Failure(3)).await;
        let directory = tempfile::tempdir().unwrap();
        let name = name("nowhere.test:8081");
        let wait = name.look_up(&resolver(&directory, "", &name_server)).await;
        assert!(!name.is_known());
        assert_eq!(wait, TICK);
    }

    #[tokio::test]
    async fn the_hosts_file_comes_first_and_a_change_of_it_is_seen() {
        let name_server = NameServer::start(Answer::Addresses(vec![[127, 0, 0, 9]], 60)).await;
        let directory = tempfile::tempdir().unwrap();
        let resolver = resolver(&directory, "127.0.0.1 backend.test\n", &name_server);
        let name = name("backend.test:8081");
        name.look_up(&resolver).await;
        assert_eq!(found(&name), ["127.0.0.1:8081"]);
        std::fs::write(&resolver.files.hosts, "127.0.0.200 backend.test\n").unwrap();
        name.look_up(&resolver).await;
        assert_eq!(found(&name), ["127.0.0.200:8081"]);
    }

    #[tokio::test]
    async fn without_name_servers_the_hosts_file_still_works() {
        let directory = tempfile::tempdir().unwrap();
        for resolv_conf in ["", "nonsense\n"] {
            let files = files(&directory, "127.0.0.1 backend.test\n", resolv_conf);
            let resolver = Resolver { files, port: 53, current: ArcSwapOption::empty() };
            let name = name("backend.test:8081");
            name.look_up(&resolver).await;
            assert_eq!(found(&name), ["127.0.0.1:8081"]);
        }
    }

    #[tokio::test]
    async fn localhost_is_found_without_asking_anybody() {
        let directory = tempfile::tempdir().unwrap();
        let resolver = Resolver {
            files: files(&directory, "", ""),
            port: 53,
            current: ArcSwapOption::empty(),
        };
        let name = name("localhost:8081");
        name.look_up(&resolver).await;
        let loopback = |address: &SocketAddr| matches!(address.ip(), ip if ip.is_loopback());
        assert!(name.is_known() && name.server.addresses().iter().all(loopback));
        assert!(name.server.addresses().iter().any(|a| matches!(a.ip(), IpAddr::V4(_))));
    }
}
