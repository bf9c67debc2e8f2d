//! What the phases of the full lane know of a request on its way through Pingora.

use std::sync::{Arc, Mutex, PoisonError};

use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorSource, ErrorType, ImmutStr, Result};

use super::answering::After;
use super::attempt::Attempt;
use super::exchange::Exchange;
use super::forward::Forward;
use super::pace::Pace;
use super::upgrade::{Cut, Watching};
use crate::endpoints::Refusal;
use crate::observe::Attempted;

/// An admitted request, handed to Pingora with the connection.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// What is to be forwarded.
    pub(crate) forward: Box<Forward>,
    /// Its account.
    pub(crate) exchange: Box<Exchange>,
    /// Closes its connection.
    pub(crate) cut: Cut,
    /// Whether its connection goes on after it.
    pub(crate) after: After,
}

/// An admitted request within its own head, on its way to Pingora: an HTTP/2 stream has no other
/// place for it. The head is cloned for each attempt, and so the request is taken out of it first.
#[derive(Clone)]
struct Within(Arc<Mutex<Option<Admitted>>>);

impl Admitted {
    /// Puts it into the head that Pingora will be given.
    pub(crate) fn hand_over(self, head: &mut RequestHeader) {
        head.extensions_mut().insert(Within(Arc::new(Mutex::new(Some(self)))));
    }

    pub(super) fn taken_out_of(head: &mut RequestHeader) -> Option<Self> {
        let Within(admitted) = head.extensions_mut().remove()?;
        let mut admitted = admitted.lock().unwrap_or_else(PoisonError::into_inner);
        admitted.take()
    }
}

/// Whether a request has a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Body {
    #[default]
    None,
    Some,
}

/// What the phases of one request share.
#[derive(Debug, Default)]
pub struct Passage {
    /// What is carried out.
    pub(super) admitted: Option<Admitted>,
    /// Servers that were tried, by position.
    pub(super) tried: Vec<usize>,
    pub(super) attempt: Option<Attempt>,
    /// Why the gateway itself ends the request.
    pub(super) refusal: Option<Refusal>,
    /// Whether it did; then the error that Pingora reports is ours.
    pub(super) refused: bool,
    pub(super) received: u64,
    /// Whether the client sends a body: what has begun to arrive at a server is not sent again.
    pub(super) body: Body,
    pub(super) sent: u64,
    /// Of the final answer, as soon as its head is here: it may not be written yet.
    pub(super) status: Option<u16>,
    /// How fast the body must come, where the connection does not see to it itself.
    pub(super) pace: Pace,
    pub(super) watching: Option<Watching>,
}

/// A request that came another way than through `admit`.
pub(super) fn not_admitted() -> Box<Error> {
    Error::explain(ErrorType::InternalError, ImmutStr::from("a request that was not admitted"))
}

impl Passage {
    pub(super) fn forward(&self) -> Result<&Forward> {
        self.admitted.as_ref().map(|admitted| &*admitted.forward).ok_or_else(not_admitted)
    }

    /// From now on the end of the caller's session ends this request too.
    pub(super) fn stays_open(&mut self, status: u16) {
        if let Some(admitted) = &mut self.admitted {
            // Whoever is cut off had an answer.
            admitted.exchange.status = status;
            self.watching = admitted.cut.when_ended(&admitted.forward);
        }
    }

    /// The answer is whole. Where the request is not, nobody wants the rest of it.
    pub(super) fn answered(&mut self, session: &mut ServerSession) {
        let (Some(admitted), Some(status)) = (&mut self.admitted, self.status) else { return };
        if session.is_body_done() || admitted.forward.websocket {
            return;
        }
        admitted.cut.answered();
        if session.is_http2() {
            // Nothing of this stream is read that would end it; what is left of the answer takes
            // one write at most.
            let exchange = &mut admitted.exchange;
            (exchange.status, exchange.bytes_in) = (status, self.received);
            exchange.bytes_out = self.sent;
            let patience = admitted.forward.rules.config.server.idle_timeout;
            self.watching = Some(admitted.cut.after(patience));
        }
    }

    /// Whether the answer was whole before the request.
    pub(super) fn is_answered(&self) -> bool {
        self.admitted.as_ref().is_some_and(|admitted| admitted.cut.is_answered())
    }

    /// Whether the client is to blame for the upstream's silence: it has not sent its request.
    pub(super) fn waits_for_client(&self, session: &mut ServerSession, error: &Error) -> bool {
        error.esource() == &ErrorSource::Upstream
            && matches!(error.etype(), ErrorType::ReadTimedout)
            && session.response_written().is_none()
            && !session.is_body_done()
            && self.forward().is_ok_and(|forward| !forward.websocket)
    }

    /// Counts how the attempt under way ended, once.
    pub(super) fn count_attempt(&mut self, how: Attempted) {
        if let Some(attempt) = &mut self.attempt {
            attempt.count(how);
        }
    }

    /// Ends the request with a refusal of the gateway's own.
    pub(super) fn refuse(&mut self, refusal: Refusal) -> Box<Error> {
        self.refusal = Some(refusal);
        self.refused = true;
        Error::explain(ErrorType::InternalError, ImmutStr::from("refused by the gateway"))
    }
}
