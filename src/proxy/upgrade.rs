//! What stays open after its request: a WebSocket, an event stream. When the session behind it is
//! ended, it is closed, within moments and whoever holds it.

use std::sync::Arc;

use pingora::http::ResponseHeader;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::forward::Forward;

/// Closes a connection from outside the request that holds it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cut(Arc<Notify>);

/// Watches for as long as the open request lives.
#[derive(Debug)]
pub(crate) struct Watching(AbortHandle);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Cut {
    /// Until the connection is to be closed.
    pub(crate) async fn due(&self) {
        self.0.notified().await;
    }

    /// Watches the session of whoever opened `forward`, if anybody did; a token that merely
    /// expires cuts nothing.
    pub(crate) fn when_ended(&self, forward: &Forward) -> Option<Watching> {
        let mut watch = forward.rules.sessions.watch(forward.caller.as_deref()?);
        let cut = Arc::clone(&self.0);
        let watching = tokio::spawn(async move {
            watch.ended().await;
            cut.notify_one();
        });
        Some(Watching(watching.abort_handle()))
    }
}

/// Whether an answer goes on for as long as both sides like.
pub(crate) fn stays_open(response: &ResponseHeader) -> bool {
    let content_type = response.headers.get("content-type");
    response.status == http::StatusCode::SWITCHING_PROTOCOLS
        || content_type.is_some_and(|value| is_event_stream(value.as_bytes()))
}

/// Whether a `Content-Type` says that events come for as long as both sides like.
pub(crate) fn is_event_stream(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}
