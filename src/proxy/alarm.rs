//! One timer per connection, set at every wait and wound up anew only when it rings.
//!
//! Nearly every wait ends long before its limit. To arm and disarm a timer for each would cost
//! more than the wait itself, so an early ring is slept off: it finds a later deadline and is set
//! to that.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The timer of a connection.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `deadline` is over; until then the task is woken at it, or earlier.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(context).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

/// The end of several waits together, which begins with the first of them: what comes at once needs
/// no clock.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Deadline {
    /// Nothing was waited for yet.
    After(Duration),
    /// The end.
    At(Instant),
}

impl Deadline {
    /// So long after the first wait begins.
    pub(crate) fn after(limit: Duration) -> Self {
        Self::After(limit)
    }

    /// The end; from now on it stands.
    pub(crate) fn get(&mut self) -> Instant {
        match *self {
            Self::At(end) => end,
            Self::After(limit) => {
                let end = Instant::now() + limit;
                *self = Self::At(end);
                end
            }
        }
    }

    /// So long from now at the latest.
    pub(crate) fn bring_forward(&mut self, limit: Duration) {
        *self = Self::At(self.get().min(Instant::now() + limit));
    }
}

/// A limit on one wait. The clock is read only when there is something to wait for.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    ends: Option<Instant>,
}

impl Patience {
    /// Begins with the first [`Patience::poll_over`].
    pub(crate) fn of(limit: Duration) -> Self {
        Self { limit, ends: None }
    }

    /// Something happened: the wait begins anew, with this limit.
    pub(crate) fn renew(&mut self, limit: Duration) {
        (self.limit, self.ends) = (limit, None);
    }

    /// Ready once the limit has been waited for, or at `deadline` if that is earlier.
    pub(crate) fn poll_over(
        &mut self,
        alarm: &mut Alarm,
        context: &mut Context<'_>,
        deadline: Option<Instant>,
    ) -> Poll<()> {
        let ends = *self.ends.get_or_insert_with(|| Instant::now() + self.limit);
        alarm.poll(context, deadline.map_or(ends, |deadline| deadline.min(ends)))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[tokio::test]
    async fn it_rings_at_the_deadline_whether_that_moved_back_or_forth() {
        let mut alarm = Alarm::default();
        let begin = Instant::now();
        for early in [5_000, 20, 60_000, 40] {
            let deadline = begin + millis(early);
            let poll = poll_fn(|context| Poll::Ready(alarm.poll(context, deadline))).await;
            assert!(poll.is_pending(), "{early}");
        }
        poll_fn(|context| alarm.poll(context, begin + millis(100))).await;
        assert!(begin.elapsed() >= millis(100), "{:?}", begin.elapsed());
        assert!(poll_fn(|context| Poll::Ready(alarm.poll(context, begin))).await.is_ready());
        let later = begin + Duration::from_secs(60);
        assert!(poll_fn(|context| Poll::Ready(alarm.poll(context, later))).await.is_pending());
    }

    #[tokio::test]
    async fn patience_begins_when_there_is_something_to_wait_for() {
        let mut alarm = Alarm::default();
        let mut patience = Patience::of(millis(20));
        tokio::time::sleep(millis(30)).await;
        let begin = Instant::now();
        poll_fn(|context| patience.poll_over(&mut alarm, context, None)).await;
        assert!(begin.elapsed() >= millis(20));
        patience.renew(millis(30));
        poll_fn(|context| patience.poll_over(&mut alarm, context, None)).await;
        assert!(begin.elapsed() >= millis(50));
    }
}
