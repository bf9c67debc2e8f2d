//! Sessions in a file: they survive a restart, a crash and kill -9. One machine.

mod schema;
mod writer;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::observe::IntGauge;
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use super::{Backend, Ended, Jar, Page, Query, Record, Sealed, StoreError, Tidings, Unknown};
use crate::identity::{AppId, OpenId, UnionId};
use writer::{Access, Writer};

/// How often another process' revocations are read, and what is over is taken out.
const TICK: Duration = Duration::from_millis(500);
/// Rows that one transaction of the sweep takes out.
const SWEPT_AT_ONCE: usize = 500;
/// How many ticks pass between two counts of all sessions.
const COUNTED_EVERY: u32 = 120;

const COLUMNS: &str = "sid, openid, appid, unionid, session_key, scope, created_at, ends_at, \
                       last_token_expires_at";

/// The sessions of one file.
pub(in crate::session) struct Sqlite {
    writer: Writer,
    /// The last revocation that was read; the next are those of another process.
    followed: AtomicI64,
    active: IntGauge,
}

impl Sqlite {
    /// Opens or makes the file, and reads the revocations that are not over at `now` (Unix
    /// seconds); `active` follows the number of sessions. Blocks: to be called at start.
    ///
    /// # Errors
    /// [`StoreError::Open`] and [`StoreError::Newer`].
    pub(in crate::session) fn open(
        path: &Path,
        active: IntGauge,
        now: u64,
    ) -> Result<(Self, Vec<Ended>), StoreError> {
        let failed = |reason: String| StoreError::Open { path: path.to_owned(), reason };
        let connection = schema::open(path)?;
        let read = || Ok::<_, StoreError>((revoked_after(&connection, 0)?, count(&connection)?));
        let ((last, mut revoked), sessions) = read().map_err(|error| failed(error.to_string()))?;
        revoked.retain(|ended| ended.until > now);
        active.set(sessions);
        let writer = Writer::start(connection).map_err(|error| failed(error.to_string()))?;
        Ok((Self { writer, followed: AtomicI64::new(last), active }, revoked))
    }

    /// One round of what has to be done from time to time; whether there is more to sweep.
    async fn tick(&self, tidings: &Tidings<'_>) -> Result<bool, StoreError> {
        let followed = self.followed.load(Ordering::Relaxed);
        let read = move |connection: &Connection| revoked_after(connection, followed);
        let (last, ended) = self.writer.call(Access::Read, read).await?;
        self.followed.fetch_max(last, Ordering::Relaxed);
        (tidings.ended)(ended);
        let now = seconds(tidings.clock.unix_seconds());
        let over = move |connection: &Connection| is_anything_over(connection, now);
        if self.writer.is_up() && !self.writer.call(Access::Read, over).await? {
            return Ok(false);
        }
        let active = self.active.clone();
        let is_up = self.writer.is_up();
        let work = move |connection: &Connection| {
            if !is_up {
                // Tried even with nothing to sweep: so it is known when it is up again.
                schema::rewrite_version(connection)?;
            }
            let swept = sweep(connection, now)?;
            left(&active, swept.0);
            Ok(swept)
        };
        let access = if is_up { Access::Write } else { Access::Probe };
        let swept = self.writer.call(access, work).await?;
        Ok(swept.0 == SWEPT_AT_ONCE || swept.1 == SWEPT_AT_ONCE)
    }
}

#[async_trait]
impl Backend for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    async fn insert(
        &self,
        record: &Record,
        most: Option<NonZeroUsize>,
    ) -> Result<Vec<Ended>, StoreError> {
        let (record, active) = (record.clone(), self.active.clone());
        let work = move |connection: &Connection| {
            insert(connection, &record)?;
            active.inc();
            let Some(most) = most else { return Ok(Vec::new()) };
            let ended = end_beyond(connection, &record, most)?;
            left(&active, ended.len());
            Ok(ended)
        };
        self.writer.call(Access::Write, work).await
    }

    async fn find(&self, sid: &str) -> Result<Option<Record>, StoreError> {
        let sid = sid.to_owned();
        self.writer.call(Access::Read, move |connection| find(connection, &sid)).await
    }

    async fn extend(&self, sid: &str, expires_at: u64) -> Result<Option<Record>, StoreError> {
        let sid = sid.to_owned();
        let work = move |connection: &Connection| {
            connection
                .prepare_cached(
                    "UPDATE sessions SET last_token_expires_at = \
                     max(last_token_expires_at, min(?2, ends_at)) WHERE sid = ?1",
                )?
                .execute(params![sid, seconds(expires_at)])?;
            find(connection, &sid)
        };
        self.writer.call(Access::Write, work).await
    }

    async fn reseal(&self, was: &Record, sealed: &Sealed) -> Result<bool, StoreError> {
        let (sid, old, sealed) = (was.sid.clone(), was.session_key.clone(), sealed.clone());
        let work = move |connection: &Connection| {
            let changed = connection
                .prepare_cached(
                    "UPDATE sessions SET session_key = ?3, scope = ?4 \
                     WHERE sid = ?1 AND session_key = ?2",
                )?
                .execute(params![sid, old, sealed.session_key, sealed.scope.join(" ")])?;
            Ok(changed == 1)
        };
        self.writer.call(Access::Write, work).await
    }

    async fn end(
        &self,
        sid: &str,
        until: u64,
        unknown: Unknown,
    ) -> Result<Option<Ended>, StoreError> {
        let (sid, active) = (Arc::<str>::from(sid), self.active.clone());
        let work = move |connection: &Connection| {
            let known = last_token(connection, &sid)?;
            if known.is_none() && unknown == Unknown::Pass {
                return Ok(None);
            }
            let ended = Ended { sid, until: known.unwrap_or(0).max(until) };
            end(connection, &ended)?;
            left(&active, usize::from(known.is_some()));
            Ok(Some(ended))
        };
        self.writer.call(Access::Write, work).await
    }

    async fn end_user(
        &self,
        openid: &OpenId,
        appids: &[AppId],
        until: u64,
    ) -> Result<Vec<Ended>, StoreError> {
        let (openid, appids, active) = (openid.clone(), appids.to_vec(), self.active.clone());
        let work = move |connection: &Connection| {
            let mut ended = Vec::new();
            for appid in appids {
                ended.extend(of_user(connection, &openid, &appid, until)?);
            }
            ended.iter().try_for_each(|ended| end(connection, ended))?;
            left(&active, ended.len());
            Ok(ended)
        };
        self.writer.call(Access::Write, work).await
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        let query = query.clone();
        self.writer.call(Access::Read, move |connection| list(connection, &query)).await
    }

    async fn jar(&self, sid: &str, upstream: &str) -> Result<Jar, StoreError> {
        let (sid, upstream) = (sid.to_owned(), upstream.to_owned());
        let work = move |connection: &Connection| {
            let found = connection
                .prepare_cached(
                    "SELECT sealed, version FROM jars WHERE sid = ?1 AND upstream = ?2",
                )?
                .query_row(params![sid, upstream], |row| {
                    Ok(Jar { sealed: row.get(0)?, version: unsigned(row.get(1)?) })
                })
                .optional()?;
            Ok(found.unwrap_or_default())
        };
        self.writer.call(Access::Read, work).await
    }

    async fn keep_jar(&self, sid: &str, upstream: &str, jar: Jar) -> Result<bool, StoreError> {
        let (sid, upstream) = (sid.to_owned(), upstream.to_owned());
        let work = move |connection: &Connection| keep_jar(connection, &sid, &upstream, &jar);
        self.writer.call(Access::Write, work).await
    }

    async fn run(&self, tidings: Tidings<'_>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for round in 0_u32.. {
            ticks.tick().await;
            // What fails here is logged by the thread, once, and tried again.
            while matches!(self.tick(&tidings).await, Ok(true)) {}
            if round % COUNTED_EVERY == COUNTED_EVERY - 1 {
                let active = self.active.clone();
                let count = move |connection: &Connection| {
                    active.set(count(connection)?);
                    Ok(())
                };
                // As above.
                drop(self.writer.call(Access::Read, count).await);
            }
        }
    }

    fn is_up(&self) -> bool {
        self.writer.is_up()
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        // SQLite's own words: they name tables and causes, never values.
        Self::Failed(error.to_string())
    }
}

fn insert(connection: &Connection, record: &Record) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO sessions (sid, openid, appid, unionid, session_key, scope, created_at, \
             ends_at, last_token_expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            record.sid,
            record.openid.as_str(),
            record.appid.as_str(),
            record.unionid.as_ref().map(UnionId::as_str),
            record.session_key,
            record.scope.join(" "),
            seconds(record.created_at),
            seconds(record.ends_at),
            seconds(record.last_token_expires_at),
        ])?;
    Ok(())
}

fn find(connection: &Connection, sid: &str) -> Result<Option<Record>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM sessions WHERE sid = ?1");
    connection.prepare_cached(&sql)?.query_row([sid], |row| Ok(record(row))).optional()?.transpose()
}

fn record(row: &Row<'_>) -> Result<Record, StoreError> {
    let text = |index: usize| row.get_ref(index)?.as_str().map_err(rusqlite::Error::from);
    let unionid: Option<String> = row.get(3)?;
    let time = |index: usize| Ok::<_, StoreError>(unsigned(row.get(index)?));
    let malformed = |_| StoreError::Malformed;
    Ok(Record {
        sid: text(0)?.into(),
        openid: OpenId::parse(text(1)?).map_err(malformed)?,
        appid: AppId::parse(text(2)?).map_err(malformed)?,
        unionid: unionid.map(|text| UnionId::parse(&text)).transpose().map_err(malformed)?,
        session_key: row.get(4)?,
        scope: text(5)?.split_whitespace().map(str::to_owned).collect(),
        created_at: time(6)?,
        ends_at: time(7)?,
        last_token_expires_at: time(8)?,
    })
}

fn last_token(connection: &Connection, sid: &str) -> Result<Option<u64>, StoreError> {
    let found = connection
        .prepare_cached("SELECT last_token_expires_at FROM sessions WHERE sid = ?1")?
        .query_row([sid], |row| row.get(0))
        .optional()?;
    Ok(found.map(unsigned))
}

fn end(connection: &Connection, ended: &Ended) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT INTO revoked (sid, until) VALUES (?1, ?2)")?
        .execute(params![ended.sid, seconds(ended.until)])?;
    connection.prepare_cached("DELETE FROM sessions WHERE sid = ?1")?.execute([&ended.sid])?;
    Ok(())
}

fn of_user(
    connection: &Connection,
    openid: &OpenId,
    appid: &AppId,
    until: u64,
) -> Result<Vec<Ended>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT sid, max(last_token_expires_at, ?3) FROM sessions WHERE openid = ?1 AND appid = ?2 \
         ORDER BY created_at DESC, id DESC",
    )?;
    let rows =
        statement.query_map(params![openid.as_str(), appid.as_str(), seconds(until)], ended)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn ended(row: &Row<'_>) -> Result<Ended, rusqlite::Error> {
    Ok(Ended { sid: row.get(0)?, until: unsigned(row.get(1)?) })
}

/// Ends the oldest sessions of the user of `newest` until `most` are left, it among them.
fn end_beyond(
    connection: &Connection,
    newest: &Record,
    most: NonZeroUsize,
) -> Result<Vec<Ended>, StoreError> {
    let mut others =
        of_user(connection, &newest.openid, &newest.appid, newest.last_token_expires_at)?;
    others.retain(|other| other.sid != newest.sid);
    let excess = others.split_off(others.len().min(most.get() - 1));
    excess.iter().try_for_each(|ended| end(connection, ended))?;
    Ok(excess)
}

fn list(connection: &Connection, query: &Query) -> Result<Page, StoreError> {
    // Written out by filter, so that each finds its index.
    let mut sql = format!("SELECT {COLUMNS} FROM sessions WHERE sid > :after AND ends_at > :now");
    let after = query.after()?;
    let now = seconds(query.now);
    let openid = query.openid.as_ref().map(OpenId::as_str);
    let appid = query.appid.as_ref().map(AppId::as_str);
    let limit = i64::try_from(query.limit + 1).unwrap_or(i64::MAX);
    let mut values: Vec<(&str, &dyn ToSql)> =
        vec![(":after", &after), (":now", &now), (":limit", &limit)];
    if openid.is_some() {
        sql.push_str(" AND openid = :openid");
        values.push((":openid", &openid));
    }
    if appid.is_some() {
        sql.push_str(" AND appid = :appid");
        values.push((":appid", &appid));
    }
    sql.push_str(" ORDER BY sid LIMIT :limit");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(&*values, |row| Ok(record(row)))?;
    let mut records = rows.collect::<Result<Result<Vec<_>, _>, _>>()??;
    let more = records.len() > query.limit;
    records.truncate(query.limit);
    let last = records.last().filter(|_| more);
    Ok(Page { next_cursor: last.map(|record| Query::cursor_after(&record.sid)), records })
}

fn keep_jar(
    connection: &Connection,
    sid: &str,
    upstream: &str,
    jar: &Jar,
) -> Result<bool, StoreError> {
    if last_token(connection, sid)?.is_none() {
        return Ok(true);
    }
    let version = seconds(jar.version);
    let changed = connection
        .prepare_cached(
            "INSERT INTO jars (sid, upstream, version, sealed) SELECT ?1, ?2, 1, ?4 WHERE ?3 = 0 \
             OR EXISTS (SELECT 1 FROM jars WHERE sid = ?1 AND upstream = ?2) \
             ON CONFLICT DO UPDATE SET version = version + 1, sealed = excluded.sealed \
             WHERE version = ?3",
        )?
        .execute(params![sid, upstream, version, jar.sealed])?;
    Ok(changed == 1)
}

/// The revocations after the one of this number, and the number of the last.
fn revoked_after(connection: &Connection, seq: i64) -> Result<(i64, Vec<Ended>), StoreError> {
    let mut last = seq;
    let mut statement =
        connection.prepare_cached("SELECT sid, until, seq FROM revoked WHERE seq > ?1")?;
    let rows = statement.query_map([seq], |row| {
        last = last.max(row.get(2)?);
        ended(row)
    })?;
    let revoked = rows.collect::<Result<_, _>>()?;
    Ok((last, revoked))
}

/// Follows the number of sessions, on the thread that also counts them. What a transaction that
/// failed takes back is put right by the next count.
fn left(active: &IntGauge, sessions: usize) {
    active.sub(i64::try_from(sessions).unwrap_or(i64::MAX));
}

fn count(connection: &Connection) -> Result<i64, StoreError> {
    Ok(connection
        .prepare_cached("SELECT count(*) FROM sessions")?
        .query_row([], |row| row.get(0))?)
}

fn is_anything_over(connection: &Connection, now: i64) -> Result<bool, StoreError> {
    Ok(connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM sessions WHERE ends_at <= ?1) \
             OR EXISTS (SELECT 1 FROM revoked WHERE until <= ?1)",
        )?
        .query_row([now], |row| row.get(0))?)
}

/// Takes out some of the sessions and revocations that are over; how many of each.
fn sweep(connection: &Connection, now: i64) -> Result<(usize, usize), StoreError> {
    let most = i64::try_from(SWEPT_AT_ONCE).unwrap_or(i64::MAX);
    let sessions = connection
        .prepare_cached(
            "DELETE FROM sessions WHERE id IN \
             (SELECT id FROM sessions WHERE ends_at <= ?1 LIMIT ?2)",
        )?
        .execute([now, most])?;
    let revoked = connection
        .prepare_cached(
            "DELETE FROM revoked WHERE seq IN (SELECT seq FROM revoked WHERE until <= ?1 LIMIT ?2)",
        )?
        .execute([now, most])?;
    Ok((sessions, revoked))
}

/// SQLite's integers are signed; times past its reach are as good as never.
fn seconds(unsigned: u64) -> i64 {
    i64::try_from(unsigned).unwrap_or(i64::MAX)
}

fn unsigned(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{NOW, Running, eventually, gauge, record};
    use super::*;
    use crate::clock::Clock;

    /// Lets the file grow to this many pages: what a full disk does, and an emptied one.
    async fn limit(sqlite: &Sqlite, pages: u32) {
        let work = move |connection: &Connection| {
            Ok(connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?)
        };
        sqlite.writer.call(Access::Read, work).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_refuses_what_it_cannot_keep_and_loses_nothing_it_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wxgate.db");
        let (sqlite, _) = Sqlite::open(&path, gauge(), NOW).unwrap();
        let sqlite = Arc::new(sqlite);
        let running = Running::start(sqlite.clone(), gauge(), Clock::set_to(NOW * 1000));
        limit(&sqlite, 40).await;
        let (mut kept, mut ended) = (Vec::new(), Vec::new());
        for number in 0.. {
            let sid = format!("s{number}");
            let session = record("openid_ann", "wxapp_1", &sid, NOW + 1000);
            if sqlite.insert(&session, None).await.is_err() {
                break;
            }
            if number % 3 == 0
                && sqlite.end(&sid, NOW + 500, Unknown::Pass).await.is_ok_and(|end| end.is_some())
            {
                ended.push(sid);
            } else {
                kept.push(sid);
            }
        }
        assert!(kept.len() > 20 && ended.len() > 10, "{} {}", kept.len(), ended.len());
        eventually("known to be down", async || !running.backend.is_up()).await;
        // What only reads goes on.
        assert!(sqlite.find(kept.first().unwrap()).await.unwrap().is_some());
        let (again, revoked) = Sqlite::open(&path, gauge(), NOW).unwrap();
        assert!(ended.iter().all(|sid| revoked.iter().any(|ended| *ended.sid == **sid)));
        for sid in &kept {
            assert!(again.find(sid).await.unwrap().is_some(), "{sid}");
        }
        limit(&sqlite, 4000).await;
        eventually("up again by itself", async || running.backend.is_up()).await;
        let session = record("openid_ann", "wxapp_1", "after", NOW + 1000);
        sqlite.insert(&session, None).await.unwrap();
    }

    #[tokio::test]
    async fn a_damaged_file_is_an_error_and_no_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wxgate.db");
        let (sqlite, _) = Sqlite::open(&path, gauge(), NOW).unwrap();
        for number in 0..500 {
            let sid = format!("s{number}");
            let session = record("openid_ann", "wxapp_1", &sid, NOW + 1000);
            sqlite.insert(&session, None).await.unwrap();
        }
        let checkpoint = |connection: &Connection| {
            Ok(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
        };
        sqlite.writer.call(Access::Read, checkpoint).await.unwrap();
        drop(sqlite);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.get_mut(8192..).unwrap().fill(0xa5);
        std::fs::write(&path, bytes).unwrap();
        match Sqlite::open(&path, gauge(), NOW) {
            Err(error) => assert!(matches!(error, StoreError::Open { .. }), "{error}"),
            Ok((sqlite, _)) => {
                assert!(matches!(sqlite.find("s1").await, Err(StoreError::Failed(_))));
            }
        }
    }

    #[tokio::test]
    async fn what_is_over_is_swept_and_its_jars_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let running = Running::sqlite(&folder.path().join("wxgate.db"));
        for number in 0..1200 {
            let ends_at = if number < 1100 { NOW + 10 } else { NOW + 1000 };
            let session = record("openid_ann", "wxapp_1", &format!("s{number}"), ends_at);
            running.backend.insert(&session, None).await.unwrap();
        }
        let jar = Jar { sealed: b"sealed".to_vec(), version: 0 };
        assert!(running.backend.keep_jar("s1", "php", jar).await.unwrap());
        running.clock.set_unix_millis((NOW + 10) * 1000);
        eventually("swept", async || running.active.get() == 100).await;
        assert_eq!(running.backend.find("s1").await.unwrap(), None);
        assert_eq!(running.backend.jar("s1", "php").await.unwrap(), Jar::default());
        assert!(running.backend.find("s1150").await.unwrap().is_some());
    }
}
