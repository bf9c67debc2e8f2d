//! Wall time as a value, so that tests can set it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the program reads the wall time. Deadlines and time-outs do not use it: they run on
/// the monotonic clock of tokio.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Set(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's own clock.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `unix_millis` until [`Clock::set_unix_millis`] moves it.
    pub fn set_to(unix_millis: u64) -> Self {
        Self(Source::Set(Arc::new(AtomicU64::new(unix_millis))))
    }

    /// Moves a clock made by [`Clock::set_to`], and every clone of it; the system's clock is
    /// left alone.
    pub fn set_unix_millis(&self, unix_millis: u64) {
        if let Source::Set(now) = &self.0 {
            now.store(unix_millis, Ordering::Relaxed);
        }
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub fn unix_millis(&self) -> u64 {
        match &self.0 {
            Source::System => system_unix_millis(),
            Source::Set(now) => now.load(Ordering::Relaxed),
        }
    }

    /// Seconds since 1970-01-01T00:00:00Z, rounded down: the unit of a JWT's NumericDate.
    pub fn unix_seconds(&self) -> u64 {
        self.unix_millis() / 1000
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z by the machine's clock, for who has no [`Clock`].
pub fn system_unix_millis() -> u64 {
    system_unix_time().as_millis().try_into().unwrap_or(u64::MAX)
}

/// Now, as HTTP writes it (RFC 9110 section 5.6.7).
pub fn http_date() -> String {
    let now = i64::try_from(system_unix_time().as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(now)
        .map(|now| now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
        .unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall time")]
fn system_unix_time() -> Duration {
    // A machine whose clock stands before 1970 gets 0: every token is then refused as not yet
    // issued, which is the closed side.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
