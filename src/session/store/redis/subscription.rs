//! What Redis tells: revocations of all nodes, as they are made and in full at each connection.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt;
use redis::aio::{PubSub, PubSubStream};
use redis::{Cmd, FromRedisValue, Msg, Value};

use super::super::{Ended, StoreError, Tidings};
use super::link::{Connection, failed};
use super::{BUCKETS, Redis, command, index_key, revoke, revoked_key};

/// Where revocations are published: `SID UNTIL`.
pub(super) const ENDED: &str = "wxgate:ended";
const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// After so long without its own beat a node connects anew, before it counts as deaf.
const MOST_SILENCE: Duration = Duration::from_secs(3);
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Pauses between attempts to connect: from the first to the last, doubling.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// Revocations in one read or write.
const PAGE: usize = 1000;

impl Redis {
    /// Connects, listens, and connects anew, for ever.
    pub(super) async fn stay_connected(&self, tidings: &Tidings<'_>) {
        let mut pause = FIRST_PAUSE;
        let mut told = false;
        for round in 0_usize.. {
            let started = Instant::now();
            let error = match self.listen(round, tidings, &mut told).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            self.link.is_closed();
            if !told {
                // Once for each time that it goes down.
                log::error!("the session store is down: {error}");
                told = true;
            }
            // A connection that held for a while was no failed attempt.
            if started.elapsed() > LAST_PAUSE * 5 {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// One connection, from its making to its end.
    async fn listen(
        &self,
        round: usize,
        tidings: &Tidings<'_>,
        told: &mut bool,
    ) -> Result<std::convert::Infallible, StoreError> {
        let (connection, mut subscription) = self.link.connect(round).await?;
        let beats = beat_channel()?;
        let since = Instant::now();
        subscribe(&mut subscription, &beats).await?;
        // After the subscription, so that nothing falls between the two.
        self.read_all(&connection, tidings).await?;
        self.link.is_open(connection.clone(), since);
        if std::mem::take(told) {
            log::info!("the session store is up again");
        }
        tokio::select! {
            error = self.hear(subscription.into_on_message(), tidings, since) => Err(error),
            error = self.beat(&connection, &beats, since) => Err(error),
            never = self.sweep(&connection, tidings) => match never {},
            () = self.link.found_broken() => Err(StoreError::Disconnected),
        }
    }

    /// Reads all revocations that are not over, and writes those that this node knows and Redis
    /// lost.
    async fn read_all(
        &self,
        connection: &Connection,
        tidings: &Tidings<'_>,
    ) -> Result<(), StoreError> {
        let now = tidings.clock.unix_seconds();
        let mut present = HashSet::new();
        for bucket in 0..BUCKETS {
            for page in 0_usize.. {
                let mut range = command("ZRANGEBYSCORE", &revoked_key(bucket));
                range.arg(format!("({now}")).arg("+inf").arg("WITHSCORES");
                range.arg("LIMIT").arg(page * PAGE).arg(PAGE);
                let revoked: Vec<(String, u64)> = one(connection, range).await?;
                let is_last = revoked.len() < PAGE;
                let revoked = revoked
                    .into_iter()
                    .map(|(sid, until)| Ended { sid: Arc::from(sid), until })
                    .collect::<Vec<_>>();
                present.extend(revoked.iter().map(|ended| ended.sid.clone()));
                (tidings.ended)(revoked);
                if is_last {
                    break;
                }
            }
        }
        let mut lost = (tidings.known)();
        lost.retain(|ended| ended.until > now && !present.contains(&ended.sid));
        for some in lost.chunks(PAGE) {
            connection.all(some.iter().flat_map(|ended| revoke(ended, now)).collect()).await?;
        }
        Ok(())
    }

    /// Takes in what is published, until the subscription ends.
    async fn hear(
        &self,
        mut messages: PubSubStream,
        tidings: &Tidings<'_>,
        since: Instant,
    ) -> StoreError {
        while let Some(message) = messages.next().await {
            if message.get_channel_name() == ENDED {
                (tidings.ended)(ended(&message).into_iter().collect());
            } else if let Some(sent) = millis(&message) {
                self.link.hears(since + Duration::from_millis(sent));
            }
        }
        StoreError::Disconnected
    }

    /// Publishes beats, until none came back for a while.
    async fn beat(&self, connection: &Connection, beats: &str, since: Instant) -> StoreError {
        let mut ticks = tokio::time::interval(BEAT_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut beat = command("PUBLISH", beats);
            beat.arg(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
            // A failed one is one that does not come back.
            drop(connection.all(vec![beat]).await);
            if self.link.silent_for().is_none_or(|silence| silence > MOST_SILENCE) {
                return StoreError::Timeout;
            }
        }
    }

    /// Takes out of the buckets what is over, and counts the sessions.
    async fn sweep(
        &self,
        connection: &Connection,
        tidings: &Tidings<'_>,
    ) -> std::convert::Infallible {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = tidings.clock.unix_seconds();
            let mut commands = Vec::with_capacity(BUCKETS * 3);
            for bucket in 0..BUCKETS {
                for key in [index_key(bucket), revoked_key(bucket)] {
                    let mut remove = command("ZREMRANGEBYSCORE", &key);
                    remove.arg("-inf").arg(now);
                    commands.push(remove);
                }
                commands.push(command("ZCARD", &index_key(bucket)));
            }
            let Ok(answers) = connection.all(commands).await else { continue };
            let counts = answers.chunks(3).filter_map(<[Value]>::last);
            self.active.set(counts.filter_map(|count| i64::from_redis_value_ref(count).ok()).sum());
        }
    }
}

async fn subscribe(subscription: &mut PubSub, beats: &str) -> Result<(), StoreError> {
    let channels = [ENDED, beats];
    let subscribed = subscription.subscribe(&channels);
    tokio::time::timeout(MOST_SILENCE, subscribed)
        .await
        .map_err(|_| StoreError::Timeout)?
        .map_err(failed)
}

async fn one<T: FromRedisValue>(connection: &Connection, command: Cmd) -> Result<T, StoreError> {
    let value = connection.all(vec![command]).await?.pop().ok_or(StoreError::Malformed)?;
    T::from_redis_value(value).map_err(|_| StoreError::Malformed)
}

fn ended(message: &Msg) -> Option<Ended> {
    let text: String = message.get_payload().ok()?;
    let (sid, until) = text.split_once(' ')?;
    Some(Ended { sid: Arc::from(sid), until: until.parse().ok()? })
}

fn millis(message: &Msg) -> Option<u64> {
    message.get_payload::<String>().ok()?.parse().ok()
}

/// A channel that only this connection listens to.
fn beat_channel() -> Result<String, StoreError> {
    let mut name = [0_u8; 12];
    getrandom::fill(&mut name).map_err(|error| StoreError::Failed(error.to_string()))?;
    Ok(format!("wxgate:beat:{}", URL_SAFE_NO_PAD.encode(name)))
}

/// Between half of a pause and all of it, so that nodes do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0_u8; 1];
    // Without random bytes it is half of the pause.
    getrandom::fill(&mut byte).ok();
    pause / 2 + pause / 2 * u32::from(u8::from_ne_bytes(byte)) / 255
}
