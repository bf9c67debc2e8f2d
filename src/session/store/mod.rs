//! Where sessions live. Asked at login, refresh and logout, never to let a request through.

pub(super) mod memory;

use std::sync::Arc;

use crate::identity::{AppId, Identity, OpenId, UnionId};
use crate::secret::Secret;
use memory::Memory;

/// One session.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) sid: Arc<str>,
    pub(super) openid: OpenId,
    pub(super) appid: AppId,
    pub(super) unionid: Option<UnionId>,
    /// WeChat's key for this login; it leaves the gateway in no form.
    pub(super) session_key: Secret<String>,
    /// What the session may do beyond being logged in.
    pub(super) scope: Vec<String>,
    /// When no refresh can lengthen it any more, in Unix seconds.
    pub(super) ends_at: u64,
    /// When the last token that was made for it expires, in Unix seconds.
    pub(super) last_token_expires_at: u64,
}

/// A session that was just ended: its tokens must be refused until the last has expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) sid: Arc<str>,
    /// Unix seconds.
    pub(super) until: u64,
}

impl From<Record> for Ended {
    fn from(record: Record) -> Self {
        Self { sid: record.sid, until: record.last_token_expires_at }
    }
}

/// The store that was configured.
pub(super) enum Store {
    /// In this process; lost at restart.
    Memory(Memory),
}

impl Store {
    /// Keeps a new session.
    pub(super) async fn insert(&self, record: Record) {
        match self {
            Self::Memory(memory) => memory.insert(record),
        }
    }

    /// Notes that a token was made for the session that expires at `token_expires_at` or at the
    /// session's end if that is sooner, and gives the session back. In one step: a session that
    /// is being ended either knows of that token or is found no more. `None`: there is no such
    /// session at `now`. Times in Unix seconds.
    pub(super) async fn extend(
        &self,
        who: &Identity,
        token_expires_at: u64,
        now: u64,
    ) -> Option<Record> {
        match self {
            Self::Memory(memory) => memory.extend(who, token_expires_at, now),
        }
    }

    /// The session, if it is there and not over at `now` (Unix seconds).
    pub(super) async fn find(&self, who: &Identity, now: u64) -> Option<Record> {
        match self {
            Self::Memory(memory) => memory.find(who, now),
        }
    }

    /// Ends one session; `None` if there is none such.
    pub(super) async fn end(&self, who: &Identity) -> Option<Ended> {
        match self {
            Self::Memory(memory) => memory.end(who),
        }
    }

    /// Ends every session of this user of this app.
    pub(super) async fn end_all(&self, who: &Identity) -> Vec<Ended> {
        match self {
            Self::Memory(memory) => memory.end_all(who),
        }
    }

    /// Drops the sessions whose end has come at `now` (Unix seconds).
    pub(super) async fn sweep(&self, now: u64) {
        match self {
            Self::Memory(memory) => memory.sweep(now),
        }
    }
}
