//! How fast a client must send its body (`server.min_body_rate`).
//!
//! Only the time counts in which the gateway waits for the client: a backend that takes its time
//! slows a client down, and that is not the client's fault.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

/// Waiting that is allowed whatever has come: mobile networks stall for as long, in a tunnel or
/// between two cells, and go on.
const GRACE: Duration = Duration::from_secs(30);

/// The pace of one body.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Bytes for each second of waiting; `None`: any.
    rate: Option<NonZeroU64>,
    received: u64,
    waited: Duration,
    since: Option<Instant>,
}

impl Pace {
    /// For a body that begins now.
    pub(crate) fn of(rate: Option<NonZeroU64>) -> Self {
        Self { rate, ..Self::default() }
    }

    /// The client is waited for; tells when that has to end.
    pub(crate) fn wait(&mut self) -> Option<Instant> {
        let rate = self.rate?;
        let since = *self.since.get_or_insert_with(Instant::now);
        let earned = Duration::from_secs(self.received / rate);
        Some(since + (GRACE + earned).saturating_sub(self.waited))
    }

    /// Bytes came, or there is something else to do than to wait.
    pub(crate) fn came(&mut self, bytes: u64) {
        self.received = self.received.saturating_add(bytes);
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
    }

    /// Whether the client was waited for too long, judged after [`Pace::came`].
    pub(crate) fn is_too_slow(&self) -> bool {
        self.rate.is_some_and(|rate| {
            self.waited > GRACE.saturating_add(Duration::from_secs(self.received / rate))
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use tokio::time::advance;

    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[tokio::test(start_paused = true)]
    async fn each_second_of_waiting_is_earned_by_bytes_after_a_grace() {
        let begin = Instant::now();
        let mut pace = Pace::of(NonZeroU64::new(100));
        assert_eq!(pace.wait(), Some(begin + seconds(30)));
        advance(seconds(4)).await;
        assert_eq!(pace.wait(), Some(begin + seconds(30)), "the wait goes on");
        pace.came(500);
        assert_eq!(pace.wait(), Some(begin + seconds(35)));
        advance(seconds(32)).await;
        pace.came(0);
        assert!(pace.is_too_slow(), "36 s for 500 bytes");
        pace.came(100);
        assert!(!pace.is_too_slow());
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_takes_its_time_is_not_the_clients_fault() {
        let mut pace = Pace::of(NonZeroU64::new(100));
        pace.wait().unwrap();
        pace.came(1);
        advance(seconds(3600)).await;
        let begin = Instant::now();
        assert_eq!(pace.wait(), Some(begin + seconds(30)));
        assert!(!pace.is_too_slow());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_there_is_no_end() {
        let mut pace = Pace::of(None);
        assert_eq!(pace.wait(), None);
        advance(seconds(3600)).await;
        pace.came(1);
        assert!(!pace.is_too_slow());
    }
}
