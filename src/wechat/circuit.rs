//! Stop asking an API of WeChat that keeps failing, and probe it with one call at a time.
//!
//! Without this each login would wait for the whole time-out while WeChat is away, and the
//! places for calls would fill up with calls that cannot succeed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the circuit.
const FAILURES: u32 = 5;

/// From the last failure to the next probe. Short, because a login that is refused meanwhile
/// may have worked, and one probe in this time burdens nobody.
const PAUSE: Duration = Duration::from_secs(2);

/// Counts failures of one API. Only calls without an answer count: whoever answers, be it with
/// an errcode, is reachable.
#[derive(Debug, Default)]
pub(super) struct Circuit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// When the next probe may go; only read once `failures` is at the limit.
    probe_at: Option<Instant>,
}

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// An answer came, good or bad.
    Yes,
    /// None came.
    No,
}

/// What a result did to the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It was closed before.
    Opened,
    /// Nothing that the operator need hear of.
    Stayed,
}

impl Circuit {
    /// Asks for leave to make a call.
    ///
    /// # Errors
    /// The circuit is open; the value is how long until the next probe, never zero.
    pub(super) fn admit(&self) -> Result<(), Duration> {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failures < FAILURES {
            return Ok(());
        }
        match state.probe_at {
            Some(at) if now < at => Err(at - now),
            Some(_) | None => {
                // This call is the probe. Should it vanish without a result (its caller went
                // away), the next one goes after another pause.
                state.probe_at = Some(now + PAUSE);
                Ok(())
            }
        }
    }

    /// Tells what became of an admitted call.
    pub(super) fn settle(&self, reached: Reached) -> Turn {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match reached {
            Reached::Yes => state.failures = 0,
            Reached::No => {
                state.failures = state.failures.saturating_add(1);
                state.probe_at = Some(Instant::now() + PAUSE);
            }
        }
        if state.failures == FAILURES { Turn::Opened } else { Turn::Stayed }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn open() -> Circuit {
        let circuit = Circuit::default();
        let mut turns = Vec::new();
        for _ in 0..FAILURES {
            circuit.admit().unwrap();
            turns.push(circuit.settle(Reached::No));
        }
        assert_eq!(turns.iter().position(|turn| *turn == Turn::Opened), Some(4));
        circuit
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_five_failures_in_a_row_and_says_for_how_long() {
        let circuit = open();
        assert_eq!(circuit.admit(), Err(PAUSE));
        tokio::time::advance(Duration::from_millis(1500)).await;
        assert_eq!(circuit.admit(), Err(Duration::from_millis(500)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_between_failures_keeps_it_closed() {
        let circuit = Circuit::default();
        for _ in 0..20 {
            for _ in 1..FAILURES {
                circuit.settle(Reached::No);
            }
            circuit.settle(Reached::Yes);
        }
        assert_eq!(circuit.admit(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_goes_and_its_success_closes_the_circuit() {
        let circuit = open();
        tokio::time::advance(PAUSE).await;
        assert_eq!(circuit.admit(), Ok(()));
        assert!(circuit.admit().is_err(), "a second call went along with the probe");
        circuit.settle(Reached::Yes);
        assert_eq!(circuit.admit(), Ok(()));
        assert_eq!(circuit.admit(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_or_vanished_probe_is_followed_by_another_after_the_pause() {
        let circuit = open();
        tokio::time::advance(PAUSE).await;
        circuit.admit().unwrap();
        circuit.settle(Reached::No);
        assert_eq!(circuit.admit(), Err(PAUSE));
        tokio::time::advance(PAUSE).await;
        circuit.admit().unwrap();
        assert!(circuit.admit().is_err());
        tokio::time::advance(PAUSE).await;
        assert_eq!(circuit.admit(), Ok(()));
    }
}
