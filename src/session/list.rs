//! What an operator sees of sessions, and how one is thrown out.

use std::sync::Arc;

use super::store::{Query, Record, Unknown};
use super::{SessionError, Sessions};
use crate::identity::{AppId, OpenId, UnionId};

/// The most sessions that one page holds.
const MOST_PER_PAGE: usize = 1000;

/// Which sessions to list.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Only this user's.
    pub openid: Option<OpenId>,
    /// Only this app's.
    pub appid: Option<AppId>,
    /// How many at most; 1 to 1000, else the nearest of them.
    pub limit: usize,
    /// [`Listing::next_cursor`] of the page before; none, or an empty one: the first page.
    pub cursor: Option<String>,
}

/// A part of a list of sessions. One that holds fewer than asked for, or none, need not be the
/// last.
#[derive(Clone, Debug)]
pub struct Listing {
    /// In no order that means anything, but always the same.
    pub sessions: Vec<Listed>,
    /// What to ask for the next page with; `None`: there is none.
    pub next_cursor: Option<String>,
}

/// A session, without what is secret in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub sid: Arc<str>,
    /// Whose it is.
    pub openid: OpenId,
    /// The app that the user logged in to.
    pub appid: AppId,
    /// The user over all apps, where WeChat gave one.
    pub unionid: Option<UnionId>,
    /// What it may do beyond being logged in.
    pub scope: Vec<String>,
    /// When its user logged in, in Unix seconds.
    pub created_at: u64,
    /// When it ends, whatever is refreshed, in Unix seconds.
    pub expires_at: u64,
}

impl From<Record> for Listed {
    fn from(record: Record) -> Self {
        Self {
            sid: record.sid,
            openid: record.openid,
            appid: record.appid,
            unionid: record.unionid,
            scope: record.scope,
            created_at: record.created_at,
            expires_at: record.ends_at,
        }
    }
}

impl Sessions {
    /// A page of the open sessions.
    ///
    /// # Errors
    /// [`SessionError::Store`], with [`super::StoreError::Cursor`] for a cursor of no list.
    pub async fn list(&self, filter: Filter) -> Result<Listing, SessionError> {
        let query = Query {
            openid: filter.openid,
            appid: filter.appid,
            appids: self.appids(),
            limit: filter.limit.clamp(1, MOST_PER_PAGE),
            cursor: filter.cursor.filter(|cursor| !cursor.is_empty()),
            now: self.clock.unix_seconds(),
        };
        let page = self.store.list(&query).await?;
        let sessions = page.records.into_iter().map(Listed::from).collect();
        Ok(Listing { sessions, next_cursor: page.next_cursor })
    }

    /// An open session.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn get(&self, sid: &str) -> Result<Option<Listed>, SessionError> {
        let found = self.store.find(sid, self.clock.unix_seconds()).await?;
        Ok(found.map(Listed::from))
    }

    /// Throws a session out: its tokens are refused and its open connections closed, on every
    /// node. `false`: there is none such.
    ///
    /// # Errors
    /// [`SessionError::Store`]: it may not be ended.
    pub async fn kick(&self, sid: &str) -> Result<bool, SessionError> {
        let ended = self.store.end(sid, self.last_token_until(), Unknown::Pass).await?;
        let found = ended.is_some();
        self.revoke(ended);
        Ok(found)
    }

    /// Throws out every session of a user, with every app; how many there were.
    ///
    /// # Errors
    /// As [`Sessions::kick`].
    pub async fn kick_user(&self, openid: &OpenId) -> Result<usize, SessionError> {
        let until = self.last_token_until();
        let ended = self.store.end_user(openid, &self.appids(), until).await?;
        let count = ended.len();
        self.revoke(ended);
        Ok(count)
    }

    fn appids(&self) -> Vec<AppId> {
        self.rules.load().apps.values().cloned().collect()
    }
}
