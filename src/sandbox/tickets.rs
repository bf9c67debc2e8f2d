//! Codes and tokens: random text that stands for something and lives for a while.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::answer::{Wrong, random};

/// Life of the codes that a mini program gets.
pub(super) const FIVE_MINUTES: Duration = Duration::from_secs(300);

/// Codes remembered at once; past it the oldest is forgotten.
const MOST: usize = 100_000;

/// The token was good once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dead;

/// Codes or tokens of one kind, each standing for a `T`.
pub(super) struct Tickets<T> {
    life_ms: u64,
    tickets: HashMap<String, Ticket<T>>,
    /// Oldest first, which is also the first to die.
    order: VecDeque<String>,
}

struct Ticket<T> {
    dies_at: u64,
    stands_for: Option<T>,
}

impl<T> Tickets<T> {
    pub(super) fn living(life: Duration) -> Self {
        let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        Self { life_ms, tickets: HashMap::new(), order: VecDeque::new() }
    }

    /// Makes a code of 32 letters, digits, `-` and `_`.
    pub(super) fn issue(&mut self, stands_for: T, now_ms: u64) -> String {
        let code = URL_SAFE_NO_PAD.encode(random::<24>());
        while self.order.front().is_some_and(|oldest| self.is_spare(oldest, now_ms)) {
            if let Some(oldest) = self.order.pop_front() {
                self.tickets.remove(&oldest);
            }
        }
        let dies_at = now_ms.saturating_add(self.life_ms);
        self.tickets.insert(code.clone(), Ticket { dies_at, stands_for: Some(stands_for) });
        self.order.push_back(code.clone());
        code
    }

    fn is_spare(&self, code: &str, now_ms: u64) -> bool {
        self.order.len() >= MOST
            || self.tickets.get(code).is_none_or(|ticket| ticket.dies_at <= now_ms)
    }

    /// What a token stands for; `None` for one that is unknown, `Err` for a dead one.
    pub(super) fn find(&mut self, token: &str, now_ms: u64) -> Option<Result<&mut T, Dead>> {
        let ticket = self.tickets.get_mut(token)?;
        let stands_for = ticket.stands_for.as_mut()?;
        Some(if ticket.dies_at <= now_ms { Err(Dead) } else { Ok(stands_for) })
    }

    /// Gives a token its whole life again; false for one that is unknown or dead.
    pub(super) fn extend(&mut self, token: &str, now_ms: u64) -> bool {
        match self.tickets.get_mut(token) {
            Some(ticket) if ticket.dies_at > now_ms => {
                ticket.dies_at = now_ms.saturating_add(self.life_ms);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Uses a code up, if it is for this caller.
    ///
    /// # Errors
    /// 40029 for one that is unknown, dead or for another, 40163 for one used before.
    pub(super) fn redeem(
        &mut self,
        code: &str,
        now_ms: u64,
        is_for: impl FnOnce(&T) -> Result<(), Wrong>,
    ) -> Result<T, Wrong> {
        let ticket = self.tickets.get_mut(code).ok_or(Wrong::CODE)?;
        if ticket.dies_at <= now_ms {
            return Err(Wrong::CODE);
        }
        is_for(ticket.stands_for.as_ref().ok_or(Wrong::CODE_USED)?)?;
        ticket.stands_for.take().ok_or(Wrong::CODE_USED)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_code_works_once_and_only_while_it_lives() {
        let mut tickets = Tickets::living(FIVE_MINUTES);
        let (code, other) = (tickets.issue("a", 1000), tickets.issue("b", 1000));
        assert_eq!(tickets.redeem(&code, 300_999, |_| Ok(())), Ok("a"));
        assert_eq!(tickets.redeem(&code, 300_999, |_| Ok(())), Err(Wrong::CODE_USED));
        assert_eq!(tickets.redeem(&other, 301_000, |_| Ok(())), Err(Wrong::CODE));
        assert_eq!(tickets.redeem("unknown", 1000, |_| Ok(())), Err(Wrong::CODE));
    }

    #[test]
    fn a_code_shown_by_the_wrong_caller_is_not_used_up() {
        let mut tickets = Tickets::living(FIVE_MINUTES);
        let code = tickets.issue("a", 0);
        assert_eq!(tickets.redeem(&code, 1, |_| Err(Wrong::CODE)), Err(Wrong::CODE));
        assert_eq!(tickets.redeem(&code, 1, |_| Ok(())), Ok("a"));
    }

    #[test]
    fn codes_are_bounded_and_dead_ones_are_let_go() {
        let mut tickets = Tickets::living(FIVE_MINUTES);
        let first = tickets.issue(0, 0);
        for number in 1..=MOST {
            tickets.issue(number, 0);
        }
        assert_eq!((tickets.tickets.len(), tickets.order.len()), (MOST, MOST));
        assert_eq!(tickets.redeem(&first, 1, |_| Ok(())), Err(Wrong::CODE));
        let code = tickets.issue(7, 300_000);
        assert_eq!(tickets.tickets.len(), 1);
        assert_eq!(tickets.redeem(&code, 300_000, |_| Ok(())).unwrap(), 7);
    }
}
