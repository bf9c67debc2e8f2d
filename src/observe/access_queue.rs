//! Lines on their way from the threads that answer requests to the one that writes them down.
//!
//! Each thread gathers its lines in a place of its own, so that a line costs its formatting and
//! nothing else: no allocation, no memory that another thread frees, nobody to rouse. The writer
//! takes what has gathered, many lines at once. Its hold of a place is the exchange of two
//! pointers; nobody else but the thread that owns the place ever asks for it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What waits is at most about this much for each thread, and as much again while it is written.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// Larger places are given back to the system once they are empty.
const MOST_KEPT: usize = 512 * 1024;

/// The lines of one thread.
#[derive(Default)]
struct Place(Mutex<Vec<u8>>);

impl Place {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    /// This thread's place in each queue that it has written to, by the queue's number.
    static MINE: RefCell<Vec<(u64, Arc<Place>)>> = const { RefCell::new(Vec::new()) };
}

/// What the writer is asked to do besides writing, and whether it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) reopen: bool,
    pub(super) close: bool,
}

#[derive(Default)]
struct State {
    wishes: Wishes,
    roused: bool,
    ended: bool,
}

/// Lines that wait for the writer.
pub(super) struct Queue {
    number: u64,
    places: Mutex<Vec<Arc<Place>>>,
    /// Whether the writer waits for a line.
    idle: AtomicBool,
    closed: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    pub(super) fn new() -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            places: Mutex::default(),
            idle: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Adds what `format` writes; `false`: there was no room, or nobody writes any more.
    pub(super) fn push(&self, format: impl FnOnce(&mut Vec<u8>)) -> bool {
        let pushed = MINE.with_borrow_mut(|mine| {
            let known = mine.iter().position(|(number, _)| *number == self.number);
            let place = match known.and_then(|at| mine.get(at)) {
                Some((_, place)) => place,
                None => {
                    // Those of queues that are gone are in nobody else's hands.
                    mine.retain(|(_, place)| Arc::strong_count(place) > 1);
                    mine.push((self.number, self.new_place()));
                    match mine.last() {
                        Some((_, place)) => place,
                        None => return false,
                    }
                }
            };
            let mut lines = place.lock();
            // Asked within the lock: what is added now is taken by the writer's last round.
            if lines.len() > MOST_BYTES || self.closed.load(Ordering::Relaxed) {
                return false;
            }
            format(&mut lines);
            true
        });
        // The writer says that it is idle before it looks into the places for the last time, and
        // this looks after it has left its place, so that one of the two sees the other.
        if pushed && self.idle.load(Ordering::SeqCst) && self.idle.swap(false, Ordering::SeqCst) {
            self.rouse();
        }
        pushed
    }

    fn new_place(&self) -> Arc<Place> {
        let place = Arc::new(Place::default());
        lock(&self.places).push(Arc::clone(&place));
        place
    }

    fn rouse(&self) {
        lock(&self.state).roused = true;
        self.changed.notify_all();
    }

    /// Asks the writer for something.
    pub(super) fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        let mut state = lock(&self.state);
        change(&mut state.wishes);
        state.roused = true;
        drop(state);
        self.changed.notify_all();
    }

    /// Whether the writer has ended within `longest`.
    pub(super) fn wait_for_end(&self, longest: Duration) -> bool {
        let deadline = Instant::now() + longest;
        let mut state = lock(&self.state);
        while !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// The writer's side: waits until there is a line, or something is asked for.
    pub(super) fn wait(&self) {
        self.idle.store(true, Ordering::SeqCst);
        if lock(&self.places).iter().all(|place| place.lock().is_empty()) {
            let mut state = lock(&self.state);
            while !state.roused {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        self.idle.store(false, Ordering::SeqCst);
        lock(&self.state).roused = false;
    }

    /// The writer's side: lets lines gather for so long, unless something is asked for.
    pub(super) fn gather(&self, time: Duration) {
        let unasked = |state: &mut State| state.wishes == Wishes::default();
        drop(self.changed.wait_timeout_while(lock(&self.state), time, unasked));
    }

    /// The writer's side: what it is asked for; to be asked once.
    pub(super) fn take_wishes(&self) -> Wishes {
        std::mem::take(&mut lock(&self.state).wishes)
    }

    /// The writer's side: hands over what has gathered, one thread's lines after the other's.
    /// `spare` changes places with each of them, so that none grows anew.
    pub(super) fn take(&self, spare: &mut Vec<u8>, mut write: impl FnMut(&[u8])) {
        let mut at = 0;
        loop {
            let place = match lock(&self.places).get(at) {
                Some(place) => Arc::clone(place),
                None => break,
            };
            at += 1;
            std::mem::swap(&mut *place.lock(), spare);
            if !spare.is_empty() {
                write(spare);
                spare.clear();
                spare.shrink_to(MOST_KEPT);
            }
        }
        // Held here alone: its thread has ended.
        lock(&self.places).retain(|place| Arc::strong_count(place) > 1 || !place.lock().is_empty());
    }

    /// The writer's side: takes no more lines. Those that stand are still to be taken.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        // Whoever has its place in hand now has looked before; after this round none has.
        for place in lock(&self.places).iter() {
            drop(place.lock());
        }
    }

    /// The writer's side: it ends.
    pub(super) fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }
}
