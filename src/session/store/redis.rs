//! Sessions that many nodes share, in Redis or Valkey: one server, Sentinel or Cluster.
//!
//! Keys, all with a time to live: `wxgate:{SID}` the session, `wxgate:{SID}:jars` its cookies,
//! `wxgate:{APPID:OPENID}` the sessions of a user by end, `wxgate:{APPID:OPENID}:order` the same
//! in the order in which they were opened, and in 64 buckets `wxgate:{NN}:index` all sessions by
//! end, `wxgate:{NN}:revoked` the revocations by end. What the braces hold decides the slot in a
//! cluster, so that each script stays within one.

mod link;
mod listing;
mod subscription;
mod value;

use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::observe::IntGauge;
use async_trait::async_trait;
use redis::Cmd;

use super::{Backend, Ended, Jar, Page, Query, Record, Sealed, StoreError, Tidings, Unknown};
use crate::clock::Clock;
use crate::config;
use crate::identity::{AppId, OpenId};
use link::Link;

/// Adds a session to an ordered set and lets the set live as long as it. KEYS: the set. ARGV:
/// end, sid, seconds to live.
const ADD: &str = "redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2]) \
    if redis.call('TTL', KEYS[1]) < tonumber(ARGV[3]) then \
    redis.call('EXPIRE', KEYS[1], ARGV[3]) end";

/// [`ADD`] for the sets of a user, by end and, where their number is limited, in order; what is
/// over leaves both, and the oldest beyond the number are given back. The order is counted here,
/// since no clock is fine enough and the same on all nodes. Sessions without a place in it were
/// opened before there was a limit: they are older than all others. KEYS: the sets. ARGV further:
/// now, the number or 0.
const ADD_OF_USER: &str = "redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2]) \
    local sets, most, out = {KEYS[1]}, tonumber(ARGV[5]), {} \
    if most > 0 then \
    local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES') \
    redis.call('ZADD', KEYS[2], (tonumber(last[2]) or 0) + 1, ARGV[2]) \
    sets[2] = KEYS[2] end \
    for _, key in ipairs(sets) do \
    if redis.call('TTL', key) < tonumber(ARGV[3]) then \
    redis.call('EXPIRE', key, ARGV[3]) end end \
    for _, sid in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[4])) do \
    redis.call('ZREM', KEYS[1], sid) redis.call('ZREM', KEYS[2], sid) end \
    local excess = redis.call('ZCARD', KEYS[1]) - most \
    if most == 0 or excess <= 0 then return out end \
    for _, sid in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do \
    if #out < excess and not redis.call('ZSCORE', KEYS[2], sid) then out[#out + 1] = sid end end \
    for _, sid in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do \
    if not redis.call('ZSCORE', KEYS[1], sid) then redis.call('ZREM', KEYS[2], sid) \
    elseif #out < excess then out[#out + 1] = sid end end \
    return out";

/// Notes that a token was made, as far as the session's end, and gives the session back.
const EXTEND: &str = "local value = redis.call('GET', KEYS[1]) \
    if not value then return false end \
    local at = math.min(tonumber(ARGV[1]), tonumber(string.sub(value, 13, 24))) \
    if at > tonumber(string.sub(value, 1, 12)) then \
    local digits = string.format('%012d', at) \
    redis.call('SETRANGE', KEYS[1], 0, digits) \
    value = digits .. string.sub(value, 13) end \
    return value";

/// Replaces what stands behind the times if it is still ARGV[2].
const RESEAL: &str = "local value = redis.call('GET', KEYS[1]) \
    if not value or string.sub(value, 25) ~= ARGV[2] then return 0 end \
    redis.call('SET', KEYS[1], string.sub(value, 1, 24) .. ARGV[1], 'KEEPTTL') \
    return 1";

/// Keeps a jar if its version is still ARGV[2]. KEYS: session, jars. ARGV: upstream, version,
/// sealed.
const KEEP_JAR: &str = "local left = redis.call('TTL', KEYS[1]) \
    if left < 0 then return 1 end \
    local kept = redis.call('HGET', KEYS[2], ARGV[1]) \
    local version = kept and tonumber(string.sub(kept, 1, 12)) or 0 \
    if version ~= tonumber(ARGV[2]) then return 0 end \
    redis.call('HSET', KEYS[2], ARGV[1], string.format('%012d', version + 1) .. ARGV[3]) \
    redis.call('EXPIRE', KEYS[2], left) \
    return 1";

/// Buckets of what is not of one session: enough that a cluster's servers share the load.
const BUCKETS: usize = 64;

/// The sessions of all nodes.
pub(in crate::session) struct Redis {
    link: Link,
    clock: Clock,
    /// The sessions of all nodes, as they were counted last.
    active: IntGauge,
}

impl Redis {
    /// Connects when it runs; until then nothing can be asked.
    pub(in crate::session) fn new(config: config::Redis, clock: Clock, active: IntGauge) -> Self {
        Self { link: Link::new(config), clock, active }
    }

    fn now(&self) -> u64 {
        self.clock.unix_seconds()
    }

    /// The sessions of these that are there.
    async fn get(&self, sids: &[Arc<str>]) -> Result<Vec<Record>, StoreError> {
        let commands = sids.iter().map(|sid| command("GET", &session_key(sid))).collect();
        let values: Vec<Option<String>> = self.link.all(commands).await?;
        let found = sids.iter().zip(&values);
        found.filter_map(|(sid, value)| Some(value::read(sid, value.as_deref()?))).collect()
    }

    /// Revokes first, so that a failure half way leaves a session that cannot be used and is
    /// still found, never one that is gone with its tokens alive.
    async fn end_one(
        &self,
        sid: &str,
        record: Option<&Record>,
        until: u64,
    ) -> Result<Ended, StoreError> {
        let until = record.map_or(until, |record| record.last_token_expires_at.max(until));
        let ended = Ended { sid: sid.into(), until };
        self.link.all::<()>(revoke(&ended, self.now())).await?;
        let mut rest = vec![command("ZREM", &index_key(bucket(sid))).arg(sid).to_owned()];
        if let Some(record) = record {
            let (by_end, in_order) = user_keys(&record.appid, &record.openid);
            rest.push(command("ZREM", &by_end).arg(sid).to_owned());
            rest.push(command("ZREM", &in_order).arg(sid).to_owned());
        }
        rest.push(command("DEL", &session_key(sid)).arg(jars_key(sid)).to_owned());
        self.link.all::<()>(rest).await?;
        Ok(ended)
    }
}

#[async_trait]
impl Backend for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn insert(
        &self,
        record: &Record,
        most: Option<NonZeroUsize>,
    ) -> Result<Vec<Ended>, StoreError> {
        let now = self.now();
        let life = record.ends_at.saturating_sub(now).max(1);
        let (sid, end) = (&*record.sid, record.ends_at);
        let mut set = command("SET", &session_key(sid));
        set.arg(value::write(record)?).arg("EX").arg(life);
        let mut index = script(ADD, &[index_key(bucket(sid))]);
        index.arg(end).arg(sid).arg(life);
        self.link.all::<()>(vec![set, index]).await?;
        let (by_end, in_order) = user_keys(&record.appid, &record.openid);
        let mut user = script(ADD_OF_USER, &[by_end, in_order]);
        user.arg(end).arg(sid).arg(life).arg(now);
        user.arg(most.map_or(0, |most| most.get() as u64));
        let mut ended = Vec::new();
        for oldest in self.link.one::<Vec<String>>(user).await? {
            let known = self.find(&oldest).await?;
            ended.push(self.end_one(&oldest, known.as_ref(), record.last_token_expires_at).await?);
        }
        Ok(ended)
    }

    async fn find(&self, sid: &str) -> Result<Option<Record>, StoreError> {
        Ok(self.get(&[sid.into()]).await?.pop())
    }

    async fn extend(&self, sid: &str, expires_at: u64) -> Result<Option<Record>, StoreError> {
        let mut extend = script(EXTEND, &[session_key(sid)]);
        extend.arg(expires_at);
        let value: Option<String> = self.link.one(extend).await?;
        value.map(|value| value::read(sid, &value)).transpose()
    }

    async fn reseal(&self, was: &Record, sealed: &Sealed) -> Result<bool, StoreError> {
        let Sealed { session_key: key, scope } = sealed.clone();
        let now = Record { session_key: key, scope, ..was.clone() };
        let mut reseal = script(RESEAL, &[session_key(&was.sid)]);
        reseal.arg(value::rest(&now)?).arg(value::rest(was)?);
        let replaced: u8 = self.link.one(reseal).await?;
        Ok(replaced == 1)
    }

    async fn end(
        &self,
        sid: &str,
        until: u64,
        unknown: Unknown,
    ) -> Result<Option<Ended>, StoreError> {
        let known = self.find(sid).await?;
        if known.is_none() && unknown == Unknown::Pass {
            return Ok(None);
        }
        let ended = self.end_one(sid, known.as_ref(), until).await?;
        Ok(Some(ended))
    }

    async fn end_user(
        &self,
        openid: &OpenId,
        appids: &[AppId],
        until: u64,
    ) -> Result<Vec<Ended>, StoreError> {
        let mut ended = Vec::new();
        for record in self.get(&self.sids_of(openid, appids).await?).await? {
            ended.push(self.end_one(&record.sid, Some(&record), until).await?);
        }
        Ok(ended)
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        match &query.openid {
            Some(openid) => self.list_of_user(query, openid).await,
            None => self.list_all(query).await,
        }
    }

    async fn jar(&self, sid: &str, upstream: &str) -> Result<Jar, StoreError> {
        let mut get = command("HGET", &jars_key(sid));
        get.arg(upstream);
        let Some(kept) = self.link.one::<Option<Vec<u8>>>(get).await? else {
            return Ok(Jar::default());
        };
        let (version, sealed) =
            kept.split_at_checked(value::DIGITS).ok_or(StoreError::Malformed)?;
        let version = std::str::from_utf8(version).ok().and_then(|digits| digits.parse().ok());
        Ok(Jar { sealed: sealed.to_vec(), version: version.ok_or(StoreError::Malformed)? })
    }

    async fn keep_jar(&self, sid: &str, upstream: &str, jar: Jar) -> Result<bool, StoreError> {
        let mut keep = script(KEEP_JAR, &[session_key(sid), jars_key(sid)]);
        keep.arg(upstream).arg(jar.version).arg(jar.sealed);
        self.link.one(keep).await
    }

    async fn run(&self, tidings: Tidings<'_>) {
        self.stay_connected(&tidings).await;
    }

    fn is_up(&self) -> bool {
        self.link.is_up()
    }

    fn is_deaf(&self) -> bool {
        self.link.is_deaf()
    }
}

/// What makes a revocation known: kept until it is over, and told to every node.
fn revoke(ended: &Ended, now: u64) -> Vec<Cmd> {
    let mut keep = script(ADD, &[revoked_key(bucket(&ended.sid))]);
    keep.arg(ended.until).arg(&*ended.sid).arg(ended.until.saturating_sub(now).max(1));
    let mut tell = command("PUBLISH", subscription::ENDED);
    tell.arg(format!("{} {}", ended.sid, ended.until));
    vec![keep, tell]
}

fn command(name: &str, key: &str) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(key);
    command
}

fn script(text: &str, keys: &[String]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(keys.len()).arg(keys);
    command
}

fn session_key(sid: &str) -> String {
    format!("wxgate:{{{sid}}}")
}

fn jars_key(sid: &str) -> String {
    format!("wxgate:{{{sid}}}:jars")
}

/// The sessions of a user by end, and in the order in which they were opened.
fn user_keys(appid: &AppId, openid: &OpenId) -> (String, String) {
    let by_end = format!("wxgate:{{{}:{}}}", appid.as_str(), openid.as_str());
    let in_order = format!("{by_end}:order");
    (by_end, in_order)
}

fn index_key(bucket: usize) -> String {
    format!("wxgate:{{{bucket:02}}}:index")
}

fn revoked_key(bucket: usize) -> String {
    format!("wxgate:{{{bucket:02}}}:revoked")
}

/// The same on every node and in every version: FNV-1a of the sid.
fn bucket(sid: &str) -> usize {
    let hash = sid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    usize::try_from(hash % BUCKETS as u64).unwrap_or(0)
}

#[cfg(test)]
pub(in crate::session) mod tests;
