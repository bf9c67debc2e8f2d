//! Health checks: every address of an upstream is asked again and again whether it is well, and
//! gets no requests while it is not.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Spoken, Upstream, Upstreams};
use crate::config::HealthCheck;

/// Why an address is not well.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ill {
    /// It did not answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Late(std::time::Duration),
    /// No connection, or no HTTP over it.
    #[error("{0}")]
    Broken(&'static str),
    /// It says so itself.
    #[error("status {0}")]
    Status(u16),
}

/// Checks every server that is to be checked, until nobody uses these upstreams any more.
pub(super) fn watch(upstreams: &Upstreams) -> impl Future<Output = ()> + Send + use<> {
    let checked = upstreams.iter().filter(|upstream| upstream.config.health_check.is_some());
    let servers = checked.flat_map(|upstream| {
        (0..upstream.members.len()).map(move |index| (Arc::downgrade(upstream), index))
    });
    let servers: Vec<_> = servers.collect();
    async move {
        if servers.is_empty() {
            return;
        }
        let connector = Connector::new(None);
        let watches =
            servers.into_iter().map(|(upstream, index)| watch_server(upstream, index, &connector));
        futures_util::future::join_all(watches).await;
    }
}

async fn watch_server(upstream: Weak<Upstream>, index: usize, connector: &Connector) {
    loop {
        let began = Instant::now();
        let interval = {
            // Held only while asking: what nobody uses any more is not to be kept alive.
            let Some(upstream) = upstream.upgrade() else { return };
            let Some(check) = &upstream.config.health_check else { return };
            let Some(member) = upstream.members.get(index) else { return };
            let addresses = member.server.addresses();
            let asked = addresses.iter().map(|address| async {
                let answer = ask(connector, &upstream, member.server.name(), *address, check).await;
                member.server.judge(*address, answer, check);
            });
            futures_util::future::join_all(asked).await;
            check.interval
        };
        sleep_until(began + interval).await;
    }
}

async fn ask(
    connector: &Connector,
    upstream: &Upstream,
    server: &str,
    address: SocketAddr,
    check: &HealthCheck,
) -> Result<(), Ill> {
    let broken = |error: Box<pingora::Error>| Ill::Broken(error.etype().as_str());
    let asking = async {
        let peer = upstream.peer(server, address, Spoken::Http1);
        let mut request =
            RequestHeader::build("GET", check.path.as_bytes(), None).map_err(broken)?;
        request.insert_header("Host", server).map_err(broken)?;
        request.insert_header("User-Agent", "wxgate-health-check").map_err(broken)?;
        request.insert_header("Connection", "close").map_err(broken)?;
        let (mut session, _) = connector.get_http_session(&peer).await.map_err(broken)?;
        session.write_request_header(Box::new(request)).await.map_err(broken)?;
        session.finish_request_body().await.map_err(broken)?;
        session.read_response_header().await.map_err(broken)?;
        let status = session.response_header().map_or(0, |head| head.status.as_u16());
        session.shutdown().await;
        if (200..400).contains(&status) { Ok(()) } else { Err(Ill::Status(status)) }
    };
    timeout(check.timeout, asking).await.unwrap_or(Err(Ill::Late(check.timeout)))
}
