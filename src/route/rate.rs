//! How often a caller may ask: one token bucket for each address or openid.
//!
//! A client can make up addresses (whole IPv6 networks) faster than buckets empty, so the number
//! of buckets is bounded. When there is no room, the bucket that is nearest to being full is
//! given up. To refuse callers without a bucket would shut real users out while an attack lasts,
//! and to let them through unlimited would end the limit; this way a newcomer is counted at once,
//! and who is over the limit stays over it as long as a bucket that was used less is left.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::Quota;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;

use crate::config::{RateKey, RateLimit};

/// Locks over which the buckets are spread, so that callers do not wait for each other.
const SHARDS: usize = 256;

/// Buckets of one shard: as many as a hash map of 512 slots takes before it grows. In all 114,688
/// buckets and about 2 MiB for one limit.
const BUCKETS_PER_SHARD: usize = 448;

/// Whom a request counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateKeyValue<'a> {
    /// The client's address; IPv6 counts by /64, since one subscriber has all of it.
    Ip(IpAddr),
    /// The caller.
    OpenId(&'a str),
}

/// One rate limit with its buckets. `C` is the monotonic clock, which tests set.
pub struct RateLimiter<C: Clock = DefaultClock> {
    counts_by: RateKey,
    limiter: governor::RateLimiter<u64, Buckets, C, NoOpMiddleware<C::Instant>>,
    hasher: RandomState,
}

impl RateLimiter {
    /// A limit with all buckets full.
    pub fn new(limit: RateLimit) -> Self {
        Self::with_clock(limit, DefaultClock::default())
    }
}

impl<C: Clock> RateLimiter<C> {
    fn with_clock(limit: RateLimit, clock: C) -> Self {
        Self {
            counts_by: limit.key,
            limiter: governor::RateLimiter::new(quota(limit), Buckets::default(), clock),
            hasher: RandomState::new(),
        }
    }

    /// What the limit was written for: `per_ip` or `per_openid`.
    pub fn counts_by(&self) -> RateKey {
        self.counts_by
    }

    /// Takes one request out of the caller's bucket.
    ///
    /// # Errors
    /// The bucket is empty; how long until it holds one request again. Never zero.
    pub fn check(&self, key: RateKeyValue<'_>) -> Result<(), Duration> {
        let key = match key {
            RateKeyValue::Ip(address) => RateKeyValue::Ip(network(address)),
            RateKeyValue::OpenId(_) => key,
        };
        // Two callers whose keyed 64-bit hashes are equal would share a bucket; nobody can find
        // such a pair, and buckets of a fixed size are what bounds the memory.
        self.limiter.check_key(&self.hasher.hash_one(key)).map_err(|refusal| {
            let wait = refusal.wait_time_from(self.limiter.clock().now());
            wait.max(Duration::from_nanos(1))
        })
    }
}

impl<C: Clock> fmt::Debug for RateLimiter<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RateLimiter({:?})", self.counts_by)
    }
}

/// What governor can compute with: it multiplies interval and burst as nanoseconds in 64 bits,
/// unchecked, so that both are cut to what fits. (A bucket that takes longer than 70 years to
/// fill is cut.)
fn quota(limit: RateLimit) -> Quota {
    const LONGEST: u64 = u64::MAX / 8;
    let interval = limit.period.as_nanos() / u128::from(limit.count.max(1));
    let interval = u64::try_from(interval).unwrap_or(LONGEST).clamp(1, LONGEST);
    let burst = u64::from(limit.burst).min(LONGEST / interval);
    let burst = u32::try_from(burst).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
    // None only for an interval of zero.
    Quota::with_period(Duration::from_nanos(interval))
        .unwrap_or(Quota::per_second(NonZeroU32::MIN))
        .allow_burst(burst)
}

/// The network that counts as one caller: an IPv6 subscriber has a /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
    }
}

/// For each bucket when it will be full again: what governor calls its theoretical arrival time.
/// The smaller, the fuller.
#[derive(Debug)]
struct Buckets(Box<[Mutex<HashMap<u64, Nanos>>]>);

impl Default for Buckets {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl StateStore for Buckets {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        // The key is an even hash, so its low bits choose a shard evenly; the map hashes it again.
        let shard = usize::try_from(key % SHARDS as u64).ok().and_then(|at| self.0.get(at));
        let Some(shard) = shard else { return decide(None).map(|(decision, _)| decision) };
        let mut buckets = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(full_at) = buckets.get_mut(key) {
            let (decision, later) = decide(Some(*full_at))?;
            *full_at = later;
            return Ok(decision);
        }
        let (decision, full_at) = decide(None)?;
        if buckets.len() >= BUCKETS_PER_SHARD {
            let fullest = buckets.iter().min_by_key(|(_, full_at)| **full_at);
            if let Some(fullest) = fullest.map(|(key, _)| *key) {
                buckets.remove(&fullest);
            }
        }
        buckets.insert(*key, full_at);
        Ok(decision)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::RateKeyValue::{Ip, OpenId};
    use super::*;
    use governor::clock::FakeRelativeClock;

    fn limit(count: u32, period: Duration, burst: u32) -> RateLimit {
        RateLimit { key: RateKey::Ip, count, period, burst }
    }

    /// A limit, and the clock that it runs by.
    fn limiter(limit: RateLimit) -> (RateLimiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (RateLimiter::with_clock(limit, clock.clone()), clock)
    }

    fn ip(text: &str) -> RateKeyValue<'static> {
        Ip(text.parse().unwrap())
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_burst_passes_and_then_the_average() {
        let (limiter, clock) = limiter(limit(30, MINUTE, 3));
        for _ in 0..3 {
            assert_eq!(limiter.check(OpenId("oAlice")), Ok(()));
        }
        assert_eq!(limiter.check(OpenId("oAlice")), Err(Duration::from_secs(2)));
        clock.advance(Duration::from_millis(500));
        assert_eq!(limiter.check(OpenId("oAlice")), Err(Duration::from_millis(1500)));
        clock.advance(Duration::from_millis(1500));
        assert_eq!(limiter.check(OpenId("oAlice")), Ok(()));
        assert_eq!(limiter.check(OpenId("oAlice")), Err(Duration::from_secs(2)));
        // A full minute fills three, not thirty.
        clock.advance(MINUTE);
        let passed = (0..10).filter(|_| limiter.check(OpenId("oAlice")).is_ok()).count();
        assert_eq!(passed, 3);
    }

    #[test]
    fn each_caller_has_a_bucket() {
        let (limiter, _clock) = limiter(limit(1, MINUTE, 1));
        for key in [
            OpenId("oAlice"),
            OpenId("oBob01"),
            OpenId("1.2.3.4"),
            ip("1.2.3.4"),
            ip("1.2.3.5"),
            ip("2001:db8:0:1::1"),
            ip("2001:db8:0:2::1"),
        ] {
            assert_eq!(limiter.check(key), Ok(()), "{key:?}");
            assert_eq!(limiter.check(key), Err(MINUTE), "{key:?}");
        }
    }

    #[test]
    fn one_network_is_one_caller() {
        let (limiter, _clock) = limiter(limit(1, MINUTE, 1));
        assert_eq!(limiter.check(ip("2001:db8:0:1::1")), Ok(()));
        assert_eq!(limiter.check(ip("2001:db8:0:1:ffff:ffff:ffff:ffff")), Err(MINUTE));
        assert_eq!(limiter.check(ip("192.0.2.1")), Ok(()));
        assert_eq!(limiter.check(ip("::ffff:192.0.2.1")), Err(MINUTE), "mapped IPv4");
    }

    #[test]
    fn made_up_callers_neither_fill_memory_nor_shut_out_others_nor_free_who_is_over() {
        let (limiter, clock) = limiter(limit(1, MINUTE, 3));
        let exhaust = |openid| while limiter.check(OpenId(openid)).is_ok() {};
        exhaust("oAlice");
        for number in 0..150_000_u64 {
            let address = Ipv6Addr::from_bits(u128::from(number) << 64);
            assert_eq!(limiter.check(Ip(address.into())), Ok(()), "number {number}");
        }
        assert!(limiter.check(OpenId("oAlice")).is_err(), "others were used less");
        assert_eq!(limiter.check(OpenId("oBob01")), Ok(()), "a newcomer");
        clock.advance(MINUTE);
        assert_eq!(limiter.check(OpenId("oAlice")), Ok(()));
        let buckets = limiter.limiter.into_state_store();
        let held: usize = buckets.0.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!(held <= SHARDS * BUCKETS_PER_SHARD, "{held}");
        assert!(held > 100_000, "{held}");
    }

    #[test]
    fn extreme_limits_are_computed_without_overflow() {
        let year = Duration::from_secs(365 * 24 * 3600);
        for limit in [
            limit(u32::MAX, Duration::from_nanos(1), u32::MAX),
            limit(1, Duration::MAX, u32::MAX),
            limit(1, year, u32::MAX),
            limit(1, year * 1000, 1),
            limit(0, MINUTE, 0),
        ] {
            let (limiter, clock) = limiter(limit);
            assert_eq!(limiter.check(OpenId("oAlice")), Ok(()), "{limit:?}");
            clock.advance(MINUTE);
            // Passes or waits: overflow would panic here, as tests check arithmetic.
            if let Err(wait) = limiter.check(OpenId("oAlice")) {
                assert!(wait > Duration::ZERO, "{limit:?}");
            }
        }
    }

    #[test]
    fn the_machines_own_clock_runs_the_limit() {
        let limiter = RateLimiter::new(limit(1, MINUTE, 1));
        assert_eq!(limiter.counts_by(), RateKey::Ip);
        assert_eq!(limiter.check(OpenId("oAlice")), Ok(()));
        let wait = limiter.check(OpenId("oAlice")).unwrap_err();
        assert!(wait > Duration::from_secs(30) && wait <= MINUTE, "{wait:?}");
    }
}
