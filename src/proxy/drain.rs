//! What a connection hears of it when the process begins to drain.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::watch;

/// Waits for the drain from the connection's first request to its last: to listen anew for each
/// request would cost more than the rest of the waiting.
pub(crate) struct Drain(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl fmt::Debug for Drain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Drain").field("begun", &self.0.is_none()).finish()
    }
}

impl Drain {
    /// Listens to what turns true when the process drains.
    pub(crate) fn listen(mut draining: watch::Receiver<bool>) -> Self {
        Self(Some(Box::pin(async move {
            if draining.wait_for(|draining| *draining).await.is_err() {
                log::debug!("the process ends without a drain");
            }
        })))
    }

    /// Ready from when the drain begins.
    pub(crate) fn poll_begun(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(waiting) = &mut self.0 {
            std::task::ready!(waiting.as_mut().poll(context));
            self.0 = None;
        }
        Poll::Ready(())
    }
}
