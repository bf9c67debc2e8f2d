//! Tokens that were verified lately, so that a costly signature is checked once and not on every
//! request.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::observe::IntCounter;
use moka::Equivalent;
use moka::sync::Cache;

use super::token::Verified;
use crate::observe::Metrics;

/// What the cache may hold, in bytes: some 60,000 tokens.
const MOST_BYTES: u64 = 64 * 1024 * 1024;
/// What an entry takes beside its token: the identity, its allocations, the cache's own.
const ENTRY_BYTES: usize = 600;
/// How much of a token's end is hashed: the whole MAC, or half of an Ed25519 signature. Tokens
/// are equal only if all their bytes are.
const HASHED_BYTES: usize = 43;

/// The key of an entry: the whole token.
struct Token(Box<str>);

/// A token that is looked for, borrowed from the request.
#[derive(PartialEq, Eq)]
struct Shown<'a>(&'a str);

impl Hash for Shown<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Only verified tokens enter, so that nobody can choose ends that collide.
        self.0.as_bytes().rchunks(HASHED_BYTES).next().hash(state);
    }
}

impl Hash for Token {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Shown(&self.0).hash(state);
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Token {}

impl Equivalent<Token> for Shown<'_> {
    fn equivalent(&self, key: &Token) -> bool {
        *self.0 == *key.0
    }
}

/// The cache of verified tokens: bounded in bytes, the least used go first. Who asks must still
/// ask whether the session was revoked.
pub(super) struct VerifiedTokens {
    entries: Cache<Token, Arc<Verified>>,
    hits: IntCounter,
    misses: IntCounter,
}

impl VerifiedTokens {
    /// An empty cache.
    pub(super) fn new(metrics: &Metrics) -> Self {
        let weight = |token: &Token, _: &Arc<Verified>| {
            u32::try_from(token.0.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        Self {
            entries: Cache::builder().max_capacity(MOST_BYTES).weigher(weight).build(),
            hits: metrics.token_cache.with_label_values(&["hit"]),
            misses: metrics.token_cache.with_label_values(&["miss"]),
        }
    }

    /// What the token says, if it was verified before and is not past its time at `now` (Unix
    /// seconds); an entry past it is thrown away.
    pub(super) fn get(&self, token: &str, now: u64) -> Option<Arc<Verified>> {
        let found = self.entries.get(&Shown(token));
        let good = found.as_ref().is_some_and(|verified| now < verified.expires_at);
        if good {
            self.hits.inc();
            return found;
        }
        if found.is_some() {
            self.forget(token);
        }
        self.misses.inc();
        None
    }

    /// Keeps a token that was just verified.
    pub(super) fn keep(&self, token: &str, verified: Arc<Verified>) {
        self.entries.insert(Token(token.into()), verified);
    }

    /// Throws a token away: its session was ended.
    pub(super) fn forget(&self, token: &str) {
        self.entries.invalidate(&Shown(token));
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::identity::{AppId, Identity, OpenId};

    fn verified(expires_at: u64) -> Arc<Verified> {
        let identity = Identity {
            openid: OpenId::parse("oUser_1").unwrap(),
            appid: AppId::parse("wxapp_1").unwrap(),
            unionid: None,
            sid: "s".into(),
        };
        Arc::new(Verified {
            identity,
            scope: Vec::new(),
            issued_at: 1,
            expires_at,
            phone: tokio::sync::OnceCell::new(),
            hashed: std::sync::OnceLock::new(),
        })
    }

    #[test]
    fn tokens_that_end_alike_are_not_mistaken_for_each_other() {
        let metrics = Metrics::new().unwrap();
        let cache = VerifiedTokens::new(&metrics);
        let signature = "s".repeat(86);
        cache.keep(&format!("a.b.{signature}"), verified(100));
        assert!(cache.get(&format!("a.c.{signature}"), 1).is_none());
        assert!(cache.get(&signature, 1).is_none());
        assert!(cache.get("", 1).is_none());
        assert!(cache.get(&format!("a.b.{signature}"), 1).is_some());
        assert_eq!((cache.hits.get(), cache.misses.get()), (1, 3));
    }

    #[test]
    fn an_entry_dies_with_its_token() {
        let metrics = Metrics::new().unwrap();
        let cache = VerifiedTokens::new(&metrics);
        cache.keep("a.b.c", verified(100));
        assert!(cache.get("a.b.c", 99).is_some());
        assert!(cache.get("a.b.c", 100).is_none());
        // Thrown away: not even a clock that goes back finds it again.
        assert!(cache.get("a.b.c", 99).is_none());
    }

    #[test]
    fn the_cache_is_bounded_in_bytes() {
        let metrics = Metrics::new().unwrap();
        let cache = VerifiedTokens::new(&metrics);
        let filler = "x".repeat(300_000);
        for number in 0..400 {
            cache.keep(&format!("{filler}.{number:043}"), verified(100));
        }
        cache.entries.run_pending_tasks();
        assert!(cache.entries.weighted_size() <= MOST_BYTES);
    }
}
