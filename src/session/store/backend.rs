//! What a store must be able to do; the promises stand at [`super::Store`].

use std::num::NonZeroUsize;

use async_trait::async_trait;

use super::{Ended, Jar, Page, Query, Record, Sealed, StoreError, Unknown};
use crate::clock::Clock;
use crate::identity::{AppId, OpenId};

/// What a store tells while it runs.
pub(in crate::session) struct Tidings<'a> {
    pub(in crate::session) clock: &'a Clock,
    /// Sessions that were ended, by this node or another.
    pub(in crate::session) ended: &'a (dyn Fn(Vec<Ended>) + Send + Sync),
    /// All revocations that this node knows and that are not over, for a store that lost them.
    pub(in crate::session) known: &'a (dyn Fn() -> Vec<Ended> + Send + Sync),
}

#[async_trait]
pub(in crate::session) trait Backend: Send + Sync {
    /// Its name in metrics.
    fn name(&self) -> &'static str;

    async fn insert(
        &self,
        record: &Record,
        most: Option<NonZeroUsize>,
    ) -> Result<Vec<Ended>, StoreError>;

    async fn find(&self, sid: &str) -> Result<Option<Record>, StoreError>;

    async fn extend(&self, sid: &str, expires_at: u64) -> Result<Option<Record>, StoreError>;

    async fn reseal(&self, was: &Record, sealed: &Sealed) -> Result<bool, StoreError>;

    async fn end(
        &self,
        sid: &str,
        until: u64,
        unknown: Unknown,
    ) -> Result<Option<Ended>, StoreError>;

    async fn end_user(
        &self,
        openid: &OpenId,
        appids: &[AppId],
        until: u64,
    ) -> Result<Vec<Ended>, StoreError>;

    async fn list(&self, query: &Query) -> Result<Page, StoreError>;

    async fn jar(&self, sid: &str, upstream: &str) -> Result<Jar, StoreError>;

    async fn keep_jar(&self, sid: &str, upstream: &str, jar: Jar) -> Result<bool, StoreError>;

    /// Takes out what is over, tells what other nodes did and keeps connected, for ever.
    async fn run(&self, tidings: Tidings<'_>);

    /// Whether logins can be served.
    fn is_up(&self) -> bool;

    /// Whether revocations of other nodes may have been missed. Asked on every request.
    fn is_deaf(&self) -> bool {
        false
    }
}
