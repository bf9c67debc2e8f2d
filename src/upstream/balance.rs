//! How a server is chosen: in turn, by requests under way, or by a hash of the caller.
//!
//! Nothing here locks: turns are one atomic counter over a schedule made at start, hashes need
//! no state at all.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::PickKey;
use super::server::Server;
use crate::config;

/// The longest schedule. Weights that need more are scaled down, so that an odd weight in the
/// configuration cannot cost memory.
const LONGEST_SCHEDULE: u64 = 1024;

/// A server and its share.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) server: Arc<Server>,
    weight: u32,
    hash: u64,
}

impl Member {
    pub(super) fn new(server: Arc<Server>, weight: u32) -> Self {
        let hash = hash(server.name().as_bytes());
        Self { server, weight: weight.max(1), hash }
    }
}

/// The algorithm of one upstream.
#[derive(Debug)]
pub(super) enum Balancer {
    RoundRobin(Turns),
    LeastConn(Turns),
    HashOpenid,
    HashIp,
}

impl Balancer {
    pub(super) fn new(balance: config::Balance, members: &[Member]) -> Self {
        match balance {
            config::Balance::RoundRobin => Self::RoundRobin(Turns::new(members)),
            config::Balance::LeastConn => Self::LeastConn(Turns::new(members)),
            config::Balance::HashOpenid => Self::HashOpenid,
            config::Balance::HashIp => Self::HashIp,
        }
    }

    /// Chooses among the members that `fits` lets through.
    pub(super) fn choose(
        &self,
        members: &[Member],
        key: &PickKey<'_>,
        fits: impl Fn(usize, &Member) -> bool,
    ) -> Option<usize> {
        match self {
            Self::RoundRobin(turns) => turns.next(members, fits),
            Self::LeastConn(turns) => least_conn(members, turns.peek(), fits),
            Self::HashOpenid => {
                let key = key
                    .openid
                    .map_or_else(|| hash_address(key.client), |openid| hash(openid.as_bytes()));
                rendezvous(members, key, fits)
            }
            Self::HashIp => rendezvous(members, hash_address(key.client), fits),
        }
    }
}

/// Whose turn it is: a schedule in which each server stands as often as its weight says, spread
/// evenly (nginx's smooth weighted round robin, written out once).
#[derive(Debug)]
pub(super) struct Turns {
    schedule: Vec<usize>,
    next: AtomicUsize,
}

impl Turns {
    fn new(members: &[Member]) -> Self {
        let weights = schedule_weights(members);
        let total: u64 = weights.iter().sum();
        let mut credit = vec![0_i64; weights.len()];
        let mut schedule = Vec::new();
        for _ in 0..total {
            for (credit, weight) in credit.iter_mut().zip(&weights) {
                *credit += i64::try_from(*weight).unwrap_or(i64::MAX);
            }
            let mut best: Option<(usize, i64)> = None;
            for (index, credit) in credit.iter().enumerate() {
                if best.is_none_or(|(_, most)| *credit > most) {
                    best = Some((index, *credit));
                }
            }
            let Some((index, _)) = best else { break };
            if let Some(credit) = credit.get_mut(index) {
                *credit -= i64::try_from(total).unwrap_or(i64::MAX);
            }
            schedule.push(index);
        }
        Self { schedule, next: AtomicUsize::new(0) }
    }

    fn peek(&self) -> usize {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        turn.checked_rem(self.schedule.len())
            .and_then(|turn| self.schedule.get(turn))
            .copied()
            .unwrap_or(0)
    }

    /// Turns of servers that do not fit are passed over one by one rather than given to the
    /// neighbour, so that the rest keep their shares.
    fn next(&self, members: &[Member], fits: impl Fn(usize, &Member) -> bool) -> Option<usize> {
        let fitting = |index: usize| members.get(index).is_some_and(|member| fits(index, member));
        (0..self.schedule.len())
            .map(|_| self.peek())
            .find(|index| fitting(*index))
            // Other requests took turns meanwhile: the first that fits will do.
            .or_else(|| (0..members.len()).find(|index| fitting(*index)))
    }
}

/// The weights without their common factor, and scaled down to [`LONGEST_SCHEDULE`].
fn schedule_weights(members: &[Member]) -> Vec<u64> {
    let divisor = members.iter().map(|member| u64::from(member.weight)).reduce(gcd).unwrap_or(1);
    let mut weights: Vec<u64> =
        members.iter().map(|member| u64::from(member.weight) / divisor.max(1)).collect();
    let total: u64 = weights.iter().sum();
    if total > LONGEST_SCHEDULE {
        for weight in &mut weights {
            *weight = (*weight * LONGEST_SCHEDULE / total).max(1);
        }
    }
    weights
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The fewest requests under way for its weight; among equals the one whose turn it is, so that
/// an idle upstream shares its few requests too.
fn least_conn(
    members: &[Member],
    first: usize,
    fits: impl Fn(usize, &Member) -> bool,
) -> Option<usize> {
    let mut best: Option<(usize, u128, u128)> = None;
    let in_turn = members.iter().enumerate().cycle().skip(first).take(members.len());
    for (index, member) in in_turn {
        if !fits(index, member) {
            continue;
        }
        // With this request counted, so that a weight of 2 draws even an upstream that is idle.
        let load = member.server.in_flight() as u128 + 1;
        let weight = u128::from(member.weight);
        if best.is_none_or(|(_, least, its_weight)| load * its_weight < least * weight) {
            best = Some((index, load, weight));
        }
    }
    best.map(|(index, ..)| index)
}

/// Weighted rendezvous hashing: every server gets a score for the key and the best one wins, so
/// that a server that goes away moves only its own keys, and one that comes takes only its
/// share. The scores are the same on every node.
fn rendezvous(
    members: &[Member],
    key: u64,
    fits: impl Fn(usize, &Member) -> bool,
) -> Option<usize> {
    members
        .iter()
        .enumerate()
        .filter(|(index, member)| fits(*index, member))
        .map(|(index, member)| (index, score(key, member)))
        .min_by(|(_, one), (_, other)| one.total_cmp(other))
        .map(|(index, _)| index)
}

/// An exponential variate of rate `weight`: the least of several is of server i with
/// probability weight i / sum of weights.
fn score(key: u64, member: &Member) -> f64 {
    // 53 bits, moved off 0 by a half: the logarithm stays finite.
    let uniform = ((mix(key ^ member.hash) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln() / f64::from(member.weight)
}

fn hash_address(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => hash(&address.octets()),
        IpAddr::V6(address) => hash(&address.octets()),
    }
}

/// FNV-1a, then mixed. Written out because it must give the same on every node and version.
fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(fnv)
}

/// The finaliser of SplitMix64.
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::observe::Metrics;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));

    fn members(weights: &[u32]) -> Vec<Member> {
        let metrics = Arc::new(Metrics::new().unwrap());
        let member = |(index, weight): (usize, &u32)| {
            let name = format!("10.0.0.{index}:80");
            let server = Server::new("php", &name, &[name.parse().unwrap()], &metrics);
            Member::new(Arc::new(server), *weight)
        };
        weights.iter().enumerate().map(member).collect()
    }

    fn guest() -> PickKey<'static> {
        PickKey { openid: None, client: CLIENT }
    }

    fn shares(balance: config::Balance, weights: &[u32], picks: usize) -> Vec<usize> {
        let members = members(weights);
        let balancer = Balancer::new(balance, &members);
        let mut shares = vec![0; weights.len()];
        for number in 0..picks {
            let openid = format!("o{number:027}");
            let key = PickKey { openid: Some(&openid), client: CLIENT };
            shares[balancer.choose(&members, &key, |_, _| true).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn turns_are_spread_evenly_and_not_in_blocks() {
        let members = members(&[5, 1, 1]);
        let turns = Turns::new(&members);
        assert_eq!(turns.schedule, [0, 0, 1, 0, 2, 0, 0], "the order that nginx documents");
    }

    #[test]
    fn an_absurd_weight_costs_no_memory_and_starves_nobody() {
        let turns = Turns::new(&members(&[u32::MAX, 1, 7]));
        assert!(turns.schedule.len() as u64 <= LONGEST_SCHEDULE + 3);
        assert!(turns.schedule.contains(&1) && turns.schedule.contains(&2));
    }

    #[test]
    fn least_conn_prefers_the_fewest_requests_for_the_weight() {
        let members = members(&[1, 2]);
        let balancer = Balancer::new(config::Balance::LeastConn, &members);
        members[1].server.begin();
        members[1].server.begin();
        assert_eq!(balancer.choose(&members, &guest(), |_, _| true), Some(0));
        members[0].server.begin();
        members[0].server.begin();
        assert_eq!(balancer.choose(&members, &guest(), |_, _| true), Some(1));
    }

    #[test]
    fn least_conn_shares_an_idle_upstream() {
        assert_eq!(shares(config::Balance::LeastConn, &[1, 1, 1], 300), [100, 100, 100]);
    }

    #[test]
    fn hash_openid_follows_the_openid_and_guests_their_address() {
        let members = members(&[1, 1, 1, 1]);
        let balancer = Balancer::new(config::Balance::HashOpenid, &members);
        let choose = |openid: Option<&str>, client: &str| {
            let key = PickKey { openid, client: client.parse().unwrap() };
            balancer.choose(&members, &key, |_, _| true)
        };
        for number in 0..50 {
            let openid = format!("o{number:027}");
            let address = format!("198.51.100.{number}");
            assert_eq!(choose(Some(&openid), "1.1.1.1"), choose(Some(&openid), "2.2.2.2"));
            assert_eq!(choose(None, &address), choose(None, &format!("::ffff:{address}")));
        }
        let guests: std::collections::HashSet<_> =
            (0..50).map(|number| choose(None, &format!("198.51.100.{number}"))).collect();
        assert_eq!(guests.len(), 4, "guests are spread over all servers");
    }

    #[test]
    fn the_hash_is_the_same_in_every_version() {
        // FNV-1a's own test vector.
        assert_eq!(hash(b"a"), mix(0xaf63_dc4c_8601_ec8c));
        let members = members(&[1, 2, 3]);
        let balancer = Balancer::new(config::Balance::HashOpenid, &members);
        let chosen: Vec<usize> = (0..12)
            .map(|number| {
                let openid = format!("o{number:027}");
                let key = PickKey { openid: Some(&openid), client: CLIENT };
                balancer.choose(&members, &key, |_, _| true).unwrap()
            })
            .collect();
        let snapshot = [1, 2, 2, 2, 2, 0, 2, 1, 0, 1, 2, 0];
        assert_eq!(chosen, snapshot, "a change moves every user to another server");
    }

    proptest! {
        #[test]
        fn round_robin_gives_each_server_exactly_its_share(
            weights in prop::collection::vec(1_u32..20, 1..8),
            rounds in 1_usize..4,
        ) {
            let total: u32 = weights.iter().sum();
            let shares = shares(config::Balance::RoundRobin, &weights, total as usize * rounds);
            let expected: Vec<usize> = weights.iter().map(|w| *w as usize * rounds).collect();
            prop_assert_eq!(shares, expected);
        }

        #[test]
        fn round_robin_keeps_the_shares_of_those_that_are_left(
            weights in prop::collection::vec(1_u32..10, 2..6),
        ) {
            let members = members(&weights);
            let balancer = Balancer::new(config::Balance::RoundRobin, &members);
            let left: u32 = weights[1..].iter().sum();
            let mut shares = vec![0_u32; weights.len()];
            for _ in 0..left * 3 {
                let chosen = balancer.choose(&members, &guest(), |index, _| index != 0);
                shares[chosen.unwrap()] += 1;
            }
            for (share, weight) in shares.iter().zip(&weights).skip(1) {
                prop_assert!(share.abs_diff(weight * 3) <= *weight, "{shares:?} of {weights:?}");
            }
        }

        #[test]
        fn hashing_gives_each_server_about_its_share(
            weights in prop::collection::vec(1_u32..5, 2..5),
        ) {
            let picks = 4_000;
            let total: u32 = weights.iter().sum();
            let shares = shares(config::Balance::HashOpenid, &weights, picks);
            for (share, weight) in shares.iter().zip(&weights) {
                let expected = picks as f64 * f64::from(*weight) / f64::from(total);
                // Six standard deviations of a binomial.
                let slack = 6.0 * expected.sqrt();
                prop_assert!((*share as f64 - expected).abs() < slack, "{shares:?} {weights:?}");
            }
        }

        #[test]
        fn a_server_that_goes_away_moves_only_its_own_keys(
            weights in prop::collection::vec(1_u32..5, 2..6),
            openids in prop::collection::vec("[A-Za-z0-9_-]{6,64}", 1..50),
            gone in any::<prop::sample::Index>(),
        ) {
            let members = members(&weights);
            let balancer = Balancer::new(config::Balance::HashOpenid, &members);
            let gone = gone.index(weights.len());
            for openid in &openids {
                let key = PickKey { openid: Some(openid), client: CLIENT };
                let before = balancer.choose(&members, &key, |_, _| true).unwrap();
                let after = balancer.choose(&members, &key, |index, _| index != gone).unwrap();
                prop_assert!(before == gone || before == after);
                prop_assert_ne!(after, gone);
            }
        }
    }
}
