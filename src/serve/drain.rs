//! Waiting for what is in flight, but not for ever.

use std::time::Duration;

use super::Ended;
use super::crowd::Crowd;

/// Waits until no connection is open, for at most `grace`.
pub(crate) async fn wait(crowd: &Crowd, grace: Duration) -> Ended {
    match tokio::time::timeout(grace, crowd.empty()).await {
        Ok(()) => Ended::Drained,
        Err(_) => {
            log::warn!("the grace of {grace:?} ran out; requests are cut off");
            Ended::CutOff
        }
    }
}
