//! What ends a request from outside: a WebSocket or an event stream whose session is ended is
//! closed, within moments and whoever holds it; an upload whose answer is whole already goes no
//! further.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pingora::http::ResponseHeader;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::forward::Forward;

/// Closes a connection from outside the request that holds it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cut(Arc<Ending>);

#[derive(Debug, Default)]
struct Ending {
    due: Notify,
    answered: AtomicBool,
    broken_off: AtomicBool,
}

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
        self.0.due.notified().await;
    }

    /// The answer is whole before the request is: nobody wants the rest of the upload.
    pub(crate) fn answered(&self) {
        self.0.answered.store(true, Ordering::Release);
    }

    /// Whether the answer was whole before the request.
    pub(crate) fn is_answered(&self) -> bool {
        self.0.answered.load(Ordering::Acquire)
    }

    /// The answer is not whole and its client can only see that by how the connection ends.
    pub(crate) fn broke_off(&self) {
        self.0.broken_off.store(true, Ordering::Release);
    }

    /// Whether the connection is to end as one that breaks.
    pub(crate) fn is_broken_off(&self) -> bool {
        self.0.broken_off.load(Ordering::Acquire)
    }

    /// Closes what is left after `patience`.
    pub(crate) fn after(&self, patience: Duration) -> Watching {
        let cut = Arc::clone(&self.0);
        let waiting = tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            cut.due.notify_one();
        });
        Watching(waiting.abort_handle())
    }

    /// Watches the session of whoever opened `forward`, if anybody did; a token that merely
    /// expires cuts nothing.
    pub(crate) fn when_ended(&self, forward: &Forward) -> Option<Watching> {
        let mut watch = forward.rules.sessions.watch(forward.caller.as_deref()?);
        let cut = Arc::clone(&self.0);
        let watching = tokio::spawn(async move {
            watch.ended().await;
            cut.due.notify_one();
        });
        Some(Watching(watching.abort_handle()))
    }
}

/// Whether an answer goes on for as long as both sides like.
pub(crate) fn stays_open(response: &ResponseHeader) -> bool {
    let content_type = response.headers.get(http::header::CONTENT_TYPE);
    response.status == http::StatusCode::SWITCHING_PROTOCOLS
        || content_type.is_some_and(|value| is_event_stream(value.as_bytes()))
}

/// Whether a `Content-Type` says that events come for as long as both sides like.
pub(crate) fn is_event_stream(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}
