//! Connections of operators and scrapers, within bounds of their own, so that health is answered
//! however many clients there are.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections at once; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 128;
/// For a whole request head, which also ends connections that stand idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// For a whole connection. A scraper that kept it simply opens another.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(600);
/// Bytes of a request head.
const HEAD_BYTES: usize = 16 * 1024;
/// After an accept that failed, mostly for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts and answers for ever. Dropping the future ends every connection.
pub(super) async fn serve(listener: TcpListener, router: Router) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                connections.spawn(async move {
                    answer(stream, router).await;
                    drop(place);
                });
            }
            Err(error) => {
                log::warn!("an admin connection could not be accepted: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("an admin connection ended: {error}"),
        Err(_) => log::debug!("an admin connection was open for too long"),
    }
}
