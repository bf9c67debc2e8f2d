//! Pages of sessions out of the buckets: bucket by bucket, by end, then by id.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::super::token::is_sid;
use super::super::{Page, Query, Record, StoreError};
use super::{BUCKETS, Redis, command, index_key, user_keys};
use crate::identity::{AppId, OpenId};

/// Reads of a bucket for one page: past it the page is handed out short, with a cursor, so that
/// a filter that fits hardly any session cannot keep Redis busy.
const MOST_READS: usize = 256;

/// A place in the order of all sessions: what stands at or before it was handed out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    bucket: usize,
    end: u64,
    sid: String,
}

impl Place {
    fn parse(cursor: &str) -> Option<Self> {
        let mut parts = cursor.splitn(3, '.');
        let bucket = parts.next()?.parse().ok().filter(|bucket| *bucket < BUCKETS)?;
        let end = parts.next()?.parse().ok()?;
        let sid = parts.next().filter(|sid| sid.is_empty() || is_sid(sid))?;
        Some(Self { bucket, end, sid: sid.to_owned() })
    }

    fn write(&self) -> String {
        format!("{}.{}.{}", self.bucket, self.end, self.sid)
    }
}

impl Redis {
    pub(super) async fn list_all(&self, query: &Query) -> Result<Page, StoreError> {
        let mut place = match &query.cursor {
            Some(cursor) => Place::parse(cursor).ok_or(StoreError::Cursor)?,
            None => Place::default(),
        };
        let mut records: Vec<Record> = Vec::new();
        for _ in 0..MOST_READS {
            let wanted = query.limit - records.len();
            let next = self.after(&place, wanted, query.now).await?;
            match next.last() {
                Some((sid, end)) => {
                    place.end = *end;
                    place.sid = sid.to_string();
                }
                None if place.bucket + 1 == BUCKETS => {
                    return Ok(Page { records, next_cursor: None });
                }
                None => place = Place { bucket: place.bucket + 1, ..Place::default() },
            }
            let sids: Vec<_> = next.into_iter().map(|(sid, _)| sid).collect();
            let found = self.get(&sids).await?;
            records.extend(found.into_iter().filter(|record| query.matches(record)));
            if records.len() == query.limit {
                break;
            }
        }
        Ok(Page { records, next_cursor: Some(place.write()) })
    }

    /// Up to `wanted` sessions of a bucket that follow a place and are not over.
    async fn after(
        &self,
        place: &Place,
        wanted: usize,
        now: u64,
    ) -> Result<Vec<(Arc<str>, u64)>, StoreError> {
        let mut passed = 0;
        loop {
            // Several end in the same second; those that were handed out are passed over.
            let count = wanted + 16;
            let mut range = command("ZRANGEBYSCORE", &index_key(place.bucket));
            range.arg(place.end.max(now.saturating_add(1))).arg("+inf").arg("WITHSCORES");
            range.arg("LIMIT").arg(passed).arg(count);
            let read: Vec<(String, u64)> = self.link.one(range).await?;
            let is_last = read.len() < count;
            passed += read.len();
            let next: Vec<_> = read
                .into_iter()
                .filter(|(sid, end)| (*end, sid) > (place.end, &place.sid))
                .take(wanted)
                .map(|(sid, end)| (Arc::from(sid), end))
                .collect();
            if is_last || !next.is_empty() {
                return Ok(next);
            }
        }
    }

    pub(super) async fn list_of_user(
        &self,
        query: &Query,
        openid: &OpenId,
    ) -> Result<Page, StoreError> {
        let after = query.after()?;
        let appids = query.appid.as_ref().map_or(&*query.appids, std::slice::from_ref);
        let sids = self.sids_of(openid, appids).await?;
        let mut sids: Vec<_> = sids.into_iter().filter(|sid| **sid > *after).collect();
        let more = sids.len() > query.limit;
        sids.truncate(query.limit);
        let next_cursor = sids.last().filter(|_| more).map(|sid| Query::cursor_after(sid));
        let mut records = self.get(&sids).await?;
        records.retain(|record| query.matches(record));
        Ok(Page { records, next_cursor })
    }

    /// The ids of a user's sessions with these apps, in order.
    pub(super) async fn sids_of(
        &self,
        openid: &OpenId,
        appids: &[AppId],
    ) -> Result<Vec<Arc<str>>, StoreError> {
        let range = |appid: &AppId| {
            let (by_end, _) = user_keys(appid, openid);
            let mut range = command("ZRANGE", &by_end);
            range.arg(0).arg(-1);
            range
        };
        let sids: Vec<Vec<String>> = self.link.all(appids.iter().map(range).collect()).await?;
        let sids: BTreeSet<String> = sids.into_iter().flatten().collect();
        Ok(sids.into_iter().map(Arc::from).collect())
    }
}
