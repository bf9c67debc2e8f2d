//! The one thread that speaks to SQLite. What waits is written in one transaction, so that a
//! hundred logins cost one flush to disk, and nobody is answered before that flush.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::super::StoreError;

/// Calls that may wait; more are refused, since a store that is so far behind answers nobody
/// in time.
const MOST_WAITING: usize = 1024;
/// Calls in one transaction.
const MOST_AT_ONCE: usize = 256;
/// How long a caller waits.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a call changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// It only reads, so that it works on a full disk too.
    Read,
    /// It writes: answered when it is on disk.
    Write,
    /// It writes, whatever the file holds. What changes nothing gets through on a full disk too,
    /// so that only this shows that the store is up again.
    Probe,
}

/// The way to the thread.
pub(super) struct Writer {
    calls: mpsc::Sender<Box<dyn Call>>,
    up: Arc<AtomicBool>,
}

/// Something to be done by the thread.
trait Call: Send {
    fn access(&self) -> Access;

    /// Does it; `false` if it failed and its changes are to be taken back.
    fn run(&mut self, connection: &Connection) -> bool;

    /// Answers. `failed`: the transaction did not get to the disk.
    fn finish(self: Box<Self>, failed: Option<StoreError>);
}

struct Asked<T, F> {
    access: Access,
    work: Option<F>,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Call for Asked<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, StoreError> + Send,
{
    fn access(&self) -> Access {
        self.access
    }

    fn run(&mut self, connection: &Connection) -> bool {
        self.result = self.work.take().map(|work| work(connection));
        matches!(self.result, Some(Ok(_)))
    }

    fn finish(self: Box<Self>, failed: Option<StoreError>) {
        let result = match (self.result, failed) {
            (Some(Err(error)), _) | (_, Some(error)) => Err(error),
            (Some(Ok(value)), None) => Ok(value),
            (None, None) => Err(StoreError::Disconnected),
        };
        // Who asked may have given up waiting.
        drop(self.reply.send(result));
    }
}

impl Writer {
    /// Starts the thread; it ends when this is dropped and all is done.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start(connection: Connection) -> std::io::Result<Self> {
        let (calls, waiting) = mpsc::channel(MOST_WAITING);
        let up = Arc::new(AtomicBool::new(true));
        let thread = Thread { connection, up: up.clone() };
        std::thread::Builder::new()
            .name("wxgate-store".to_owned())
            .spawn(move || thread.serve(waiting))?;
        Ok(Self { calls, up })
    }

    /// Has `work` done and waits for its answer, five seconds at most.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        access: Access,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let asked = Asked { access, work: Some(work), result: None, reply };
        self.calls.try_send(Box::new(asked)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => StoreError::Disconnected,
        })?;
        match tokio::time::timeout(TIMEOUT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(StoreError::Disconnected),
            Err(_) => Err(StoreError::Timeout),
        }
    }

    /// Whether the last transaction got to the disk.
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed) && !self.calls.is_closed()
    }
}

/// What of a transaction was written.
enum Done {
    All,
    /// Some calls failed and were taken back; the others are on disk.
    Some,
}

struct Thread {
    connection: Connection,
    up: Arc<AtomicBool>,
}

impl Thread {
    fn serve(self, mut waiting: mpsc::Receiver<Box<dyn Call>>) {
        let mut calls = Vec::with_capacity(MOST_AT_ONCE);
        while waiting.blocking_recv_many(&mut calls, MOST_AT_ONCE) > 0 {
            let (reads, writes): (Vec<_>, Vec<_>) =
                calls.drain(..).partition(|call| call.access() == Access::Read);
            for mut call in reads {
                call.run(&self.connection);
                call.finish(None);
            }
            if !writes.is_empty() {
                self.write(writes);
            }
        }
    }

    fn write(&self, mut calls: Vec<Box<dyn Call>>) {
        let transacted = self.transact(&mut calls);
        if !self.connection.is_autocommit() {
            // Nothing of a transaction that failed may linger in the next.
            drop(self.connection.execute_batch("ROLLBACK"));
        }
        let proves = calls.iter().any(|call| call.access() == Access::Probe);
        let up = matches!(transacted, Ok(Done::All)) && (proves || self.up.load(Ordering::Relaxed));
        let failed = transacted.err();
        if self.up.swap(up, Ordering::Relaxed) != up {
            match &failed {
                Some(error) => log::error!("the session store is down: {error}"),
                None if up => log::info!("the session store is up again"),
                None => log::error!("the session store is down: it cannot write all of it"),
            }
        }
        calls.into_iter().for_each(|call| call.finish(failed.clone()));
    }

    fn transact(&self, calls: &mut [Box<dyn Call>]) -> Result<Done, StoreError> {
        let mut done = Done::All;
        let execute = |sql: &str| -> Result<(), StoreError> {
            Ok(self.connection.prepare_cached(sql)?.execute([]).map(drop)?)
        };
        execute("BEGIN IMMEDIATE")?;
        for call in calls {
            execute("SAVEPOINT one")?;
            if !call.run(&self.connection) {
                if self.connection.is_autocommit() {
                    // A full disk and the like: SQLite took everything back on its own.
                    return Err(StoreError::Failed("the transaction was rolled back".to_owned()));
                }
                execute("ROLLBACK TO one")?;
                done = Done::Some;
            }
            execute("RELEASE one")?;
        }
        execute("COMMIT")?;
        Ok(done)
    }
}
