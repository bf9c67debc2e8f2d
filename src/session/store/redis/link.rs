//! The connections to Redis: made, watched and made again.
//!
//! A node trusts what it has heard only as long as it hears itself: every second it publishes a
//! beat through the connection for commands and expects it back through the subscription. So a
//! frozen server, a half-open connection and a subscription to a master that was demoted are all
//! found out by the same means.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use futures_util::future::try_join_all;
use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, TlsMode, Value,
};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::super::StoreError;
use crate::config::{self, RedisLayout, RedisTransport};

/// How long one call may take, and one attempt to connect.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// After so long without a beat revocations may have been missed.
const DEAF_AFTER: Duration = Duration::from_secs(5);

/// A connection for commands; clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// What is connected, and when it last proved itself.
pub(super) struct Link {
    config: config::Redis,
    current: ArcSwapOption<Connection>,
    broken: Notify,
    started: Instant,
    /// Milliseconds from `started` to the last beat that came back, plus one; 0: none ever did.
    heard: AtomicU64,
}

impl Link {
    pub(super) fn new(config: config::Redis) -> Self {
        Self {
            config,
            current: ArcSwapOption::empty(),
            broken: Notify::new(),
            started: Instant::now(),
            heard: AtomicU64::new(0),
        }
    }

    /// Sends commands at once and reads all answers, each in a second at most.
    pub(super) async fn all<T: FromRedisValue>(
        &self,
        commands: Vec<Cmd>,
    ) -> Result<Vec<T>, StoreError> {
        let current = self.current.load_full().ok_or(StoreError::Disconnected)?;
        let result = current.all(commands).await;
        if let (Err(_), Connection::One(_)) = (&result, &*current) {
            // The connection, or the master behind it. A cluster mends its own.
            self.broken.notify_one();
        }
        result?.into_iter().map(read).collect()
    }

    /// Sends one command.
    pub(super) async fn one<T: FromRedisValue>(&self, command: Cmd) -> Result<T, StoreError> {
        self.all(vec![command]).await?.pop().ok_or(StoreError::Malformed)
    }

    /// Opens a connection for commands and a subscription.
    pub(super) async fn connect(&self, round: usize) -> Result<(Connection, PubSub), StoreError> {
        let connect = async {
            match &self.config.layout {
                RedisLayout::Single => {
                    let info = self.address(0)?.into_connection_info().map_err(failed)?;
                    let info = info.set_redis_settings(self.settings());
                    self.open(&Client::open(info).map_err(failed)?).await
                }
                RedisLayout::Sentinel { master } => {
                    let mut sentinels = self.sentinels(master)?.build().map_err(failed)?;
                    self.open(&sentinels.async_get_client().await.map_err(failed)?).await
                }
                RedisLayout::Cluster => self.open_cluster(round).await,
            }
        };
        timeout(CONNECT_TIMEOUT, connect).await.map_err(|_| StoreError::Timeout)?
    }

    async fn open(&self, client: &Client) -> Result<(Connection, PubSub), StoreError> {
        let connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
        let subscription = client.get_async_pubsub().await.map_err(failed)?;
        Ok((Connection::One(connection), subscription))
    }

    async fn open_cluster(&self, round: usize) -> Result<(Connection, PubSub), StoreError> {
        let addresses = (0..self.config.servers.len()).map(|index| self.address(index));
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        let mut builder = ClusterClientBuilder::new(addresses)
            .connection_timeout(ANSWER_TIMEOUT)
            .response_timeout(ANSWER_TIMEOUT)
            .overall_response_timeout(Some(ANSWER_TIMEOUT))
            .retries(3);
        if let Some(password) = &self.config.password {
            builder = builder.password(password.expose());
        }
        if let Some(username) = &self.config.username {
            builder = builder.username(username);
        }
        if self.config.transport == RedisTransport::Tls {
            builder = builder.tls(TlsMode::Secure);
        }
        let cluster = builder.build().map_err(failed)?;
        let connection = cluster.get_async_connection().await.map_err(failed)?;
        // What is published reaches every node of a cluster, so that any will do; another one in
        // each round, since this one may be what is down.
        let info = self.address(round)?.into_connection_info().map_err(failed)?;
        let client = Client::open(info.set_redis_settings(self.settings())).map_err(failed)?;
        let subscription = client.get_async_pubsub().await.map_err(failed)?;
        Ok((Connection::Cluster(connection), subscription))
    }

    fn sentinels(&self, master: &str) -> Result<SentinelClientBuilder, StoreError> {
        let addresses = (0..self.config.servers.len()).map(|index| self.address(index));
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        let kind = SentinelServerType::Master;
        let mut builder = SentinelClientBuilder::new(addresses, master, kind).map_err(failed)?;
        builder = builder.set_client_to_redis_db(self.config.database);
        if let Some(password) = &self.config.password {
            builder = builder.set_client_to_redis_password(password.expose());
        }
        if let Some(username) = &self.config.username {
            builder = builder.set_client_to_redis_username(username);
        }
        if self.config.transport == RedisTransport::Tls {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        }
        Ok(builder)
    }

    fn address(&self, index: usize) -> Result<ConnectionAddr, StoreError> {
        let servers = self.config.servers.iter().cycle();
        let (host, port) = servers.take(1024).nth(index % 1024).ok_or(StoreError::Disconnected)?;
        Ok(match self.config.transport {
            RedisTransport::Plain => ConnectionAddr::Tcp(host.clone(), *port),
            RedisTransport::Tls => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
        })
    }

    fn settings(&self) -> RedisConnectionInfo {
        let mut settings = RedisConnectionInfo::default().set_db(self.config.database);
        if let Some(username) = &self.config.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.config.password {
            settings = settings.set_password(password.expose());
        }
        settings
    }

    /// From now on commands go through `connection`; its state was read in full at `since`.
    pub(super) fn is_open(&self, connection: Connection, since: Instant) {
        self.hears(since);
        self.current.store(Some(Arc::new(connection)));
    }

    /// Commands fail at once until there is a new connection.
    pub(super) fn is_closed(&self) {
        self.current.store(None);
    }

    /// Returns when a command found the connection broken.
    pub(super) async fn found_broken(&self) {
        self.broken.notified().await;
    }

    /// All that was published until `at` was heard.
    pub(super) fn hears(&self, at: Instant) {
        let millis = at.saturating_duration_since(self.started).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX).saturating_add(1);
        self.heard.fetch_max(millis, Ordering::Relaxed);
    }

    /// How long nothing was heard; `None`: nothing ever was.
    pub(super) fn silent_for(&self) -> Option<Duration> {
        let heard = self.heard.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.started.elapsed().saturating_sub(Duration::from_millis(heard)))
    }

    pub(super) fn is_up(&self) -> bool {
        self.current.load().is_some() && !self.is_deaf()
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.silent_for().is_none_or(|silence| silence > DEAF_AFTER)
    }
}

impl Connection {
    /// Sends commands at once and reads all answers, in a second at most.
    pub(super) async fn all(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, StoreError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let work = async {
            match self {
                Self::One(connection) => {
                    let mut pipeline = redis::Pipeline::with_capacity(commands.len());
                    for command in commands {
                        pipeline.add_command(command);
                    }
                    pipeline.query_async(&mut connection.clone()).await
                }
                // A pipeline would have to stay within one slot.
                Self::Cluster(connection) => {
                    try_join_all(commands.iter().map(|command| {
                        let mut connection = connection.clone();
                        async move { connection.req_packed_command(command).await?.extract_error() }
                    }))
                    .await
                }
            }
        };
        timeout(ANSWER_TIMEOUT, work).await.map_err(|_| StoreError::Timeout)?.map_err(failed)
    }
}

fn read<T: FromRedisValue>(value: Value) -> Result<T, StoreError> {
    T::from_redis_value(value).map_err(|_| StoreError::Malformed)
}

/// Redis' own words: they name hosts and causes, never values or passwords.
pub(super) fn failed(error: RedisError) -> StoreError {
    StoreError::Failed(error.to_string())
}
