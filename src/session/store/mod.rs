//! Where sessions live. Asked at login, refresh, logout and decryption, never to let a request
//! through: what a request needs to know, the revocations, the store tells on its own.

mod backend;
pub(super) mod memory;
pub(super) mod redis;
pub(super) mod sqlite;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::token::is_sid;
use crate::identity::{AppId, OpenId, UnionId};
use crate::observe::Metrics;

pub(super) use backend::{Backend, Tidings};

/// Why the session store did not do what was asked. Holds no password and no session.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// The file cannot be opened, read or written, or is no store.
    #[error("the session store `{}` cannot be used: {reason}", path.display())]
    Open {
        /// The file as configured.
        path: PathBuf,
        /// What the system or SQLite said.
        reason: String,
    },
    /// The file was written by a newer wxgate.
    #[error(
        "the session store `{}` has version {found}; this wxgate knows versions up to {known}",
        path.display()
    )]
    Newer {
        /// The file as configured.
        path: PathBuf,
        /// The version that it has.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// More is waiting for the store than may wait.
    #[error("too much is waiting for the session store")]
    Busy,
    /// No answer in time.
    #[error("the session store did not answer in time")]
    Timeout,
    /// No connection at the moment; a new one is being tried.
    #[error("the session store is not connected")]
    Disconnected,
    /// The store refused or failed.
    #[error("the session store failed: {0}")]
    Failed(String),
    /// What the store holds is no session.
    #[error("the session store holds what cannot be read")]
    Malformed,
    /// A cursor that no list gave out.
    #[error("no such cursor")]
    Cursor,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) sid: Arc<str>,
    pub(super) openid: OpenId,
    pub(super) appid: AppId,
    pub(super) unionid: Option<UnionId>,
    /// WeChat's key for this login and the phone number, sealed; see `secrets.rs`.
    pub(super) session_key: Vec<u8>,
    /// What the session may do beyond being logged in.
    pub(super) scope: Vec<String>,
    /// Unix seconds.
    pub(super) created_at: u64,
    /// When no refresh can lengthen it any more, in Unix seconds.
    pub(super) ends_at: u64,
    /// When the last token that was made for it expires, in Unix seconds.
    pub(super) last_token_expires_at: u64,
}

/// What is sealed in a session from now on, and what it may do with it.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub(super) session_key: Vec<u8>,
    pub(super) scope: Vec<String>,
}

/// A session that was ended: its tokens must be refused until the last has expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) sid: Arc<str>,
    /// Unix seconds.
    pub(super) until: u64,
}

impl Ended {
    /// The end of a session of which a token may be made right now that expires at `until`.
    fn of(record: Record, until: u64) -> Self {
        Self { sid: record.sid, until: record.last_token_expires_at.max(until) }
    }
}

/// What to do about a session that the store does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// Nothing: there is no such session.
    Pass,
    /// Revoke it: there are tokens of it, as after a restart of the memory store.
    Revoke,
}

/// Which sessions a list is of.
#[derive(Clone, Debug)]
pub(super) struct Query {
    /// Only this user's.
    pub(super) openid: Option<OpenId>,
    /// Only this app's.
    pub(super) appid: Option<AppId>,
    /// The configured apps: where a user may have sessions.
    pub(super) appids: Vec<AppId>,
    pub(super) limit: usize,
    /// Where the last page ended, in the store's own words.
    pub(super) cursor: Option<String>,
    /// Unix seconds: what is over by then is left out.
    pub(super) now: u64,
}

/// Begins a cursor that names the last session of a page, so that a text that no list gave out
/// is not taken for one.
const AFTER: &str = "after.";

impl Query {
    /// The id of the session behind which the page begins; empty: at the first.
    fn after(&self) -> Result<&str, StoreError> {
        let Some(cursor) = &self.cursor else { return Ok("") };
        let sid = cursor.strip_prefix(AFTER).filter(|sid| is_sid(sid));
        sid.ok_or(StoreError::Cursor)
    }

    /// The cursor of the page that begins behind this session.
    fn cursor_after(sid: &str) -> String {
        format!("{AFTER}{sid}")
    }

    fn matches(&self, record: &Record) -> bool {
        self.now < record.ends_at
            && self.openid.as_ref().is_none_or(|openid| *openid == record.openid)
            && self.appid.as_ref().is_none_or(|appid| *appid == record.appid)
    }
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) records: Vec<Record>,
    /// Where the next page begins; `None`: this was the last.
    pub(super) next_cursor: Option<String>,
}

/// A backend's cookies of one session, sealed, and the count of changes to them so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Jar {
    pub(super) sealed: Vec<u8>,
    pub(super) version: u64,
}

/// What a store is asked for, as metrics name it.
const OPERATIONS: [&str; 9] =
    ["insert", "find", "extend", "reseal", "end", "end_user", "list", "jar", "keep_jar"];

/// The store that was configured; every call is timed and its failure counted.
pub(super) struct Store {
    backend: Arc<dyn Backend>,
    metrics: Arc<Metrics>,
}

impl Store {
    pub(super) fn new(backend: Arc<dyn Backend>, metrics: Arc<Metrics>) -> Self {
        // Reported before the first call, so that a first failure is an increase.
        for operation in OPERATIONS {
            let labels = [backend.name(), operation];
            metrics.store_errors.with_label_values(&labels);
            metrics.store_request_duration.with_label_values(&labels);
        }
        Self { backend, metrics }
    }

    /// What is told, not asked: revocations of other nodes, and whether they can be heard.
    pub(super) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Keeps a new session. Of a user with more than `most` sessions of this app the oldest end.
    pub(super) async fn insert(
        &self,
        record: &Record,
        most: Option<NonZeroUsize>,
    ) -> Result<Vec<Ended>, StoreError> {
        self.timed("insert", self.backend.insert(record, most)).await
    }

    /// The session, if it is there and not over at `now` (Unix seconds).
    pub(super) async fn find(&self, sid: &str, now: u64) -> Result<Option<Record>, StoreError> {
        let found = self.timed("find", self.backend.find(sid)).await?;
        Ok(found.filter(|record| now < record.ends_at))
    }

    /// Notes that a token was made for the session that expires at `token_expires_at` or at the
    /// session's end if that is sooner, and gives the session back. In one step: a session that
    /// is being ended either knows of that token or is found no more. Times in Unix seconds.
    pub(super) async fn extend(
        &self,
        sid: &str,
        token_expires_at: u64,
        now: u64,
    ) -> Result<Option<Record>, StoreError> {
        let found = self.timed("extend", self.backend.extend(sid, token_expires_at)).await?;
        Ok(found.filter(|record| now < record.ends_at))
    }

    /// Replaces what is sealed in a session, and its scope, if what is sealed is still what it
    /// `was`; else says `false` and leaves it.
    pub(super) async fn reseal(&self, was: &Record, sealed: &Sealed) -> Result<bool, StoreError> {
        self.timed("reseal", self.backend.reseal(was, sealed)).await
    }

    /// Ends one session. When this returns, the revocation outlives the process as far as the
    /// store does. It lasts until `until` at least (Unix seconds), when a token that is made
    /// right now expires. `None`: there is none such, and nothing was noted.
    pub(super) async fn end(
        &self,
        sid: &str,
        until: u64,
        unknown: Unknown,
    ) -> Result<Option<Ended>, StoreError> {
        self.timed("end", self.backend.end(sid, until, unknown)).await
    }

    /// Ends every session of this user of these apps, as [`Store::end`] does.
    pub(super) async fn end_user(
        &self,
        openid: &OpenId,
        appids: &[AppId],
        until: u64,
    ) -> Result<Vec<Ended>, StoreError> {
        self.timed("end_user", self.backend.end_user(openid, appids, until)).await
    }

    /// One page of sessions.
    pub(super) async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        self.timed("list", self.backend.list(query)).await
    }

    /// The cookies that an upstream set in a session; empty at first.
    pub(super) async fn jar(&self, sid: &str, upstream: &str) -> Result<Jar, StoreError> {
        self.timed("jar", self.backend.jar(sid, upstream)).await
    }

    /// Keeps a jar, if nobody changed it since `jar.version` was read; else says `false` and
    /// leaves it. A session that is over keeps nothing.
    pub(super) async fn keep_jar(
        &self,
        sid: &str,
        upstream: &str,
        jar: Jar,
    ) -> Result<bool, StoreError> {
        self.timed("keep_jar", self.backend.keep_jar(sid, upstream, jar)).await
    }

    async fn timed<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let labels = [self.backend.name(), operation];
        let started = Instant::now();
        let result = work.await;
        let seconds = started.elapsed().as_secs_f64();
        self.metrics.store_request_duration.with_label_values(&labels).observe(seconds);
        // A cursor of no list is the asker's mistake.
        if result.as_ref().is_err_and(|error| *error != StoreError::Cursor) {
            self.metrics.store_errors.with_label_values(&labels).inc();
        }
        result
    }
}

#[cfg(test)]
pub(super) mod tests;
