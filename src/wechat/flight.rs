//! One exchange per code: equal calls at the same time share it, and for a while after it a
//! repeat gets the same answer.
//!
//! A phone that lost the reply, a double tap and WeChat's own browser all show a code twice,
//! but WeChat takes it once.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::errcode::{Outage, WechatError};

/// What everybody who shows the same code gets.
pub(super) type Outcome<T> = Result<Arc<T>, WechatError>;

/// Codes remembered at once. Past it the oldest answered one is forgotten, and if all are still
/// under way the new one is refused.
const MOST: usize = 16 * 1024;

/// The app and the whole code: a hash of them could confuse two users.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    appid: Box<str>,
    code: Box<str>,
}

/// Exchanges under way and answered.
pub(super) struct Flights<T>(Arc<Shared<T>>);

struct Shared<T> {
    state: Mutex<State<T>>,
    most: usize,
}

struct State<T> {
    entries: HashMap<Key, Entry<T>>,
    /// The answered ones and when each is forgotten.
    answered: VecDeque<(Instant, Key)>,
    sweeping: bool,
}

struct Entry<T> {
    outcome: watch::Receiver<Option<Outcome<T>>>,
    /// `None` while under way.
    until: Option<Instant>,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self::holding(MOST)
    }
}

impl<T> Flights<T> {
    fn holding(most: usize) -> Self {
        let state = State { entries: HashMap::new(), answered: VecDeque::new(), sweeping: false };
        Self(Arc::new(Shared { state: Mutex::new(state), most }))
    }
}

impl<T: Send + Sync + 'static> Flights<T> {
    /// The outcome of exchanging this code: of the exchange that is under way, or that ended
    /// within `window`, else of `exchange`, which runs to its end even if every caller leaves.
    ///
    /// # Errors
    /// What the exchange failed with; `Unavailable` if too many are under way.
    pub(super) async fn join<F>(
        &self,
        appid: &str,
        code: &str,
        window: Duration,
        exchange: F,
    ) -> Outcome<T>
    where
        F: Future<Output = Result<T, WechatError>> + Send + 'static,
    {
        let key = Key { appid: appid.into(), code: code.into() };
        let mut seat = self.seat(key, window, exchange)?;
        // The sender goes away without an outcome only if the exchange panicked or the runtime
        // is going down.
        let Ok(outcome) = seat.wait_for(Option::is_some).await else {
            return Err(WechatError::unavailable(Outage::Stopping));
        };
        outcome.clone().unwrap_or(Err(WechatError::unavailable(Outage::Stopping)))
    }

    fn seat<F>(
        &self,
        key: Key,
        window: Duration,
        exchange: F,
    ) -> Result<watch::Receiver<Option<Outcome<T>>>, WechatError>
    where
        F: Future<Output = Result<T, WechatError>> + Send + 'static,
    {
        let mut state = self.0.lock();
        state.forget(Instant::now());
        if let Some(entry) = state.entries.get(&key) {
            return Ok(entry.outcome.clone());
        }
        if state.entries.len() >= self.0.most {
            let Some((_, oldest)) = state.answered.pop_front() else {
                return Err(WechatError::unavailable(Outage::Overloaded));
            };
            state.entries.remove(&oldest);
        }
        let (sender, outcome) = watch::channel(None);
        state.entries.insert(key.clone(), Entry { outcome: outcome.clone(), until: None });
        drop(state);
        let flight = Flight { shared: Arc::clone(&self.0), key: Some(key) };
        tokio::spawn(flight.fly(sender, window, exchange));
        Ok(outcome)
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets answers as their time comes, so that no session_key stays for longer, and ends
    /// when there is nothing left to forget.
    async fn sweep(&self) {
        loop {
            let next = {
                let mut state = self.lock();
                state.forget(Instant::now());
                let next = state.answered.front().map(|(until, _)| *until);
                state.sweeping = next.is_some();
                next
            };
            let Some(next) = next else { return };
            tokio::time::sleep_until(next).await;
        }
    }
}

impl<T> State<T> {
    fn forget(&mut self, now: Instant) {
        while self.answered.front().is_some_and(|(until, _)| *until <= now) {
            let Some((until, key)) = self.answered.pop_front() else { return };
            if self.entries.get(&key).is_some_and(|entry| entry.until == Some(until)) {
                self.entries.remove(&key);
            }
        }
    }
}

/// Forgets its code when it is dropped unanswered: an exchange that panicked blocks nobody.
struct Flight<T> {
    shared: Arc<Shared<T>>,
    key: Option<Key>,
}

impl<T: Send + Sync + 'static> Flight<T> {
    async fn fly<F>(
        mut self,
        sender: watch::Sender<Option<Outcome<T>>>,
        window: Duration,
        exchange: F,
    ) where
        F: Future<Output = Result<T, WechatError>> + Send + 'static,
    {
        let outcome = exchange.await.map(Arc::new);
        let sweep = self.land(&outcome, window);
        sender.send_replace(Some(outcome));
        if sweep {
            self.shared.sweep().await;
        }
    }

    /// Keeps the outcome for the window, or forgets it; says whether a sweeper is wanted.
    fn land(&mut self, outcome: &Outcome<T>, window: Duration) -> bool {
        let Some(key) = self.key.take() else { return false };
        let mut state = self.shared.lock();
        // A code that WeChat never saw is as good as new.
        let unseen = outcome.as_ref().is_err_and(WechatError::nothing_was_sent);
        if unseen || window.is_zero() {
            state.entries.remove(&key);
            return false;
        }
        let until = Instant::now() + window;
        if let Some(entry) = state.entries.get_mut(&key) {
            entry.until = Some(until);
        }
        state.answered.push_back((until, key));
        !std::mem::replace(&mut state.sweeping, true)
    }
}

impl<T> Drop for Flight<T> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.shared.lock().entries.remove(&key);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    /// Counts exchanges; each takes a second and gives its own number.
    #[derive(Clone, Default)]
    struct Wechat(Arc<AtomicUsize>);

    impl Wechat {
        fn exchange(&self) -> impl Future<Output = Result<usize, WechatError>> + use<> {
            let asked = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(asked)
            }
        }

        fn fail(
            &self,
            error: WechatError,
        ) -> impl Future<Output = Result<usize, WechatError>> + use<> {
            self.0.fetch_add(1, Ordering::SeqCst);
            async move { Err(error) }
        }
    }

    /// Joins, asking `wechat` only if the exchange is really run.
    async fn join(flights: &Flights<usize>, code: &str, wechat: &Wechat) -> Outcome<usize> {
        let wechat = wechat.clone();
        flights.join("wx0001", code, WINDOW, async move { wechat.exchange().await }).await
    }

    #[tokio::test(start_paused = true)]
    async fn twenty_equal_calls_at_once_ask_once() {
        let (flights, wechat) = (Flights::default(), Wechat::default());
        let calls = (0..20).map(|_| join(&flights, "code", &wechat));
        let outcomes = futures_util::future::join_all(calls).await;
        assert!(outcomes.iter().all(|outcome| **outcome.as_ref().unwrap() == 1));
        assert_eq!(wechat.0.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn another_code_or_app_is_another_exchange() {
        let (flights, wechat) = (Flights::default(), Wechat::default());
        assert_eq!(*join(&flights, "a", &wechat).await.unwrap(), 1);
        assert_eq!(*join(&flights, "b", &wechat).await.unwrap(), 2);
        let other = wechat.exchange();
        assert_eq!(*flights.join("wx0002", "a", WINDOW, other).await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeat_within_the_window_gets_the_same_answer_and_after_it_a_new_one() {
        let (flights, wechat) = (Flights::default(), Wechat::default());
        assert_eq!(*join(&flights, "code", &wechat).await.unwrap(), 1);
        tokio::time::advance(WINDOW - Duration::from_millis(2)).await;
        assert_eq!(*join(&flights, "code", &wechat).await.unwrap(), 1);
        tokio::time::advance(Duration::from_millis(2)).await;
        assert_eq!(*join(&flights, "code", &wechat).await.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_and_time_outs_are_repeated_but_not_what_was_never_sent() {
        let (flights, wechat) = (Flights::default(), Wechat::default());
        let errors = [
            (WechatError::CodeRefused { errcode: 40163 }, 1),
            (WechatError::unavailable(Outage::Timeout), 1),
            (WechatError::unavailable(Outage::Broken), 1),
            (WechatError::unavailable(Outage::Unreachable), 2),
            (WechatError::unavailable(Outage::CircuitOpen), 2),
        ];
        for (number, (error, asked)) in errors.into_iter().enumerate() {
            let before = wechat.0.load(Ordering::SeqCst);
            for _ in 0..2 {
                let (wechat, failing) = (wechat.clone(), error.clone());
                let exchange = async move { wechat.fail(failing).await };
                let code = number.to_string();
                assert_eq!(
                    flights.join("wx0001", &code, WINDOW, exchange).await,
                    Err(error.clone())
                );
            }
            assert_eq!(wechat.0.load(Ordering::SeqCst) - before, asked, "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_window_only_calls_at_the_same_time_share() {
        let (flights, wechat) = (Flights::default(), Wechat::default());
        for asked in 1..=2 {
            let calls = (0..3).map(|_| {
                let wechat = wechat.clone();
                let exchange = async move { wechat.exchange().await };
                flights.join("wx0001", "code", Duration::ZERO, exchange)
            });
            for outcome in futures_util::future::join_all(calls).await {
                assert_eq!(*outcome.unwrap(), asked);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_leaves_does_not_take_the_answer_along() {
        let (flights, wechat) = (Arc::new(Flights::default()), Wechat::default());
        let leader = {
            let (flights, wechat) = (Arc::clone(&flights), wechat.clone());
            tokio::spawn(async move { join(&flights, "code", &wechat).await })
        };
        while wechat.0.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        leader.abort();
        assert!(leader.await.unwrap_err().is_cancelled());
        assert_eq!(*join(&flights, "code", &wechat).await.unwrap(), 1);
        assert_eq!(wechat.0.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_exchange_that_panics_frees_its_code() {
        let (flights, wechat) = (Flights::default(), Wechat::default());
        let broken = flights.join("wx0001", "code", WINDOW, async { panic!("on purpose") }).await;
        assert_eq!(broken, Err(WechatError::unavailable(Outage::Stopping)));
        assert_eq!(*join(&flights, "code", &wechat).await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_forgotten_in_time_without_anybody_asking() {
        let (flights, wechat) = (Flights::default(), Wechat::default());
        let kept = join(&flights, "code", &wechat).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        drop(join(&flights, "later", &wechat).await.unwrap());
        tokio::time::sleep(WINDOW).await;
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&kept), 1, "the answer is still held");
        assert!(flights.0.lock().entries.is_empty());
        assert!(flights.0.lock().answered.is_empty());
        assert!(!flights.0.lock().sweeping);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_the_oldest_answer_goes_first() {
        let (flights, wechat) = (Flights::holding(2), Wechat::default());
        for code in ["a", "b", "c"] {
            join(&flights, code, &wechat).await.unwrap();
        }
        assert_eq!(flights.0.lock().entries.len(), 2);
        assert_eq!(*join(&flights, "b", &wechat).await.unwrap(), 2, "b was forgotten");
        let under_way = ["x", "y"].map(|code| join(&flights, code, &wechat));
        let refused = async {
            tokio::task::yield_now().await;
            join(&flights, "z", &wechat).await
        };
        let (_, refused) = tokio::join!(futures_util::future::join_all(under_way), refused);
        assert_eq!(refused, Err(WechatError::unavailable(Outage::Overloaded)));
    }
}
