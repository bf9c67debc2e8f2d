//! An HTTP/1 connection from its first byte to its last: read a head, have it admitted, carry the
//! decision out, and begin again.

use std::sync::Arc;
use std::time::Duration;

use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::admit::{Decision, OwnRequest, admit};
use super::answering::{After, write_to_connection};
use super::chunked;
use super::client::{Peer, new_request_id};
use super::connection::{Connection, Window};
use super::drain::Drain;
use super::exchange::Exchange;
use super::fast;
use super::forward::Forward;
use super::gateway::Gateway;
use super::head::{NoHead, RequestHead, read_head, with_head};
use super::pace::Pace;
use super::passage::Admitted;
use super::rewrite;
use super::rules::Rules;
use super::spare;
use super::upgrade::Cut;
use crate::endpoints::{Answer, Refusal};

/// How a request left its connection.
enum Left {
    /// The next request may come.
    Ready(Box<Connection>),
    /// It is closed.
    Closed,
}

/// What of a head outlives its bytes.
struct Asked {
    method: String,
    expects_continue: bool,
    after: After,
}

/// Serves a connection until it is closed.
pub(super) async fn serve(gateway: Arc<Gateway>, mut connection: Box<Connection>) {
    let mut drain = Drain::listen(gateway.draining.clone());
    loop {
        let limits = gateway.rules.load().head_limits();
        let head = read_head(&mut connection, limits, &mut drain).await;
        // Settings may have changed while the connection stood idle.
        let rules = gateway.rules.load_full();
        match one_request(&gateway, &rules, connection, head).await {
            Left::Ready(next) => connection = next,
            Left::Closed => return,
        }
        connection.rest();
    }
}

async fn one_request(
    gateway: &Gateway,
    rules: &Arc<Rules>,
    mut connection: Box<Connection>,
    head: Result<usize, NoHead>,
) -> Left {
    let peer = connection.peer().clone();
    let (plan, length) = match head {
        Ok(length) => {
            let bytes = connection.ahead().get(..length).unwrap_or_default();
            let plan = with_head(bytes, |head, window| {
                let draining = *gateway.draining.borrow();
                Plan::of(rules, &head, (window, length), &peer, after(&head, draining))
            });
            (plan, length)
        }
        Err(NoHead::Closed) => {
            connection.say_goodbye().await;
            return Left::Closed;
        }
        Err(NoHead::Refused(refusal)) => (Err(refusal), 0),
    };
    match plan {
        Ok(Plan::Fast(order)) => match fast::carry(&mut connection, length, order).await {
            After::KeepAlive => Left::Ready(connection),
            After::Close => Left::Closed,
        },
        Ok(Plan::Full { expects_continue, came, mut admitted, written }) => {
            let fit = match check_chunks(connection.ahead(), came) {
                Ok(()) => admitted.forward.look_up().await,
                Err(refusal) => Err(refusal),
            };
            if let Err(refusal) = fit {
                connection.skip(length);
                connection.open(body_window(came, length));
                let method = admitted.forward.method.into_owned();
                let asked = Asked { method, expects_continue, after: admitted.after };
                let (exchange, refused) = (admitted.exchange, Decision::Refuse(refusal));
                return Box::pin(answer_ourselves(rules, connection, asked, exchange, refused))
                    .await;
            }
            if expects_continue && send_continue(&mut connection).await.is_err() {
                return Left::Closed;
            }
            connection.replace_head(length, &written.head);
            full_lane(gateway, rules, connection, admitted, written).await
        }
        Ok(Plan::Answer(asked, window, exchange, decision)) => {
            // The gateway answers itself, and so the head is read.
            connection.skip(length);
            connection.open(body_window(window, length));
            Box::pin(answer_ourselves(rules, connection, asked, exchange, decision)).await
        }
        Err(refusal) => Box::pin(refuse_unread(rules, connection, &peer, refusal)).await,
    }
}

/// How a decision is carried out.
enum Plan {
    Fast(Box<fast::Order>),
    Full {
        expects_continue: bool,
        /// The window of the head that came.
        came: Window,
        admitted: Admitted,
        written: Written,
    },
    Answer(Asked, Window, Box<Exchange>, Decision),
}

impl Plan {
    fn of(
        rules: &Arc<Rules>,
        head: &RequestHead<'_>,
        (window, length): (Window, usize),
        peer: &Peer,
        after: After,
    ) -> Self {
        let (exchange, decision) = admit(rules, head, peer);
        let Decision::Forward(forward) = decision else {
            return Self::Answer(Asked::of(head, after), window, exchange, decision);
        };
        match fast::body_length(head, window, length) {
            Some(body)
                if rules.config.server.fast_lane
                    && forward.is_complete()
                    && !speaks_tls(rules, &forward) =>
            {
                Self::Fast(fast::Order::take(head, body, forward, exchange, after))
            }
            Some(_) | None => {
                let written = match Written::of(head, &forward, (window, length), after) {
                    Ok(written) => written,
                    Err(refusal) => {
                        let refused = Decision::Refuse(refusal);
                        return Self::Answer(Asked::of(head, after), window, exchange, refused);
                    }
                };
                let admitted = Admitted { forward, exchange, cut: Cut::default(), after };
                let expects_continue = expects_continue(head);
                Self::Full { expects_continue, came: window, admitted, written }
            }
        }
    }
}

/// A head as Pingora reads it in the place of the client's, and its window.
struct Written {
    head: Vec<u8>,
    window: Window,
}

impl Written {
    fn of(
        head: &RequestHead<'_>,
        forward: &Forward,
        came: (Window, usize),
        after: After,
    ) -> Result<Self, Refusal> {
        let mut out = spare::take_out();
        let window = rewrite::write_for_pingora(&mut out, head, forward, came, after)?;
        Ok(Self { head: out, window })
    }
}

/// Whether the client wants to go on after this request, and may.
fn after(head: &RequestHead<'_>, draining: bool) -> After {
    let keeps_alive = if head.version == http::Version::HTTP_10 {
        head.headers.lists("connection", "keep-alive")
    } else {
        !head.headers.lists("connection", "close")
    };
    if keeps_alive && !draining { After::KeepAlive } else { After::Close }
}

impl Asked {
    fn of(head: &RequestHead<'_>, after: After) -> Self {
        Self { method: head.method.to_owned(), expects_continue: expects_continue(head), after }
    }
}

fn expects_continue(head: &RequestHead<'_>) -> bool {
    head.version == http::Version::HTTP_11 && head.headers.lists("expect", "100-continue")
}

/// Whether the request goes to its backend within TLS, which only the full lane speaks.
fn speaks_tls(rules: &Rules, forward: &Forward) -> bool {
    rules
        .upstreams
        .get(forward.route.upstream)
        .is_some_and(|upstream| upstream.config.tls.is_some())
}

/// The window of what follows the head.
fn body_window(window: Window, length: usize) -> Window {
    match window {
        Window::Bytes(bytes) => Window::Bytes(bytes.saturating_sub(length as u64)),
        Window::Chunked(_, end) => Window::Chunked(0, end),
        // Whoever asks for a WebSocket and gets an answer sends no body.
        Window::Open => Window::Bytes(0),
    }
}

/// What came of a chunked body along with its head is looked at before a backend is: it would get
/// a head without an end.
fn check_chunks(ahead: &[u8], window: Window) -> Result<(), Refusal> {
    if let Window::Chunked(head, mut end) = window {
        let body = usize::try_from(head).ok().and_then(|head| ahead.get(head..));
        end.advance(body.unwrap_or_default())
            .map_err(|_| Refusal::Malformed("a body that is not framed as it says"))?;
    }
    Ok(())
}

async fn send_continue(connection: &mut Connection) -> std::io::Result<()> {
    connection.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    connection.flush().await
}

/// Hands the connection, at whose front `written` stands, to Pingora for one request, and takes it
/// back.
async fn full_lane(
    gateway: &Gateway,
    rules: &Rules,
    mut connection: Box<Connection>,
    admitted: Admitted,
    written: Written,
) -> Left {
    connection.open(written.window);
    connection.hold_to(Pace::of(rules.config.server.min_body_rate), &admitted.cut);
    let has_body = written.window != Window::Bytes(written.head.len() as u64);
    spare::give_out(written.head);
    let idle = rules.config.server.idle_timeout;
    let mut session = ServerSession::new_http1(connection);
    // The head is here.
    session.set_read_timeout(has_body.then_some(idle));
    session.set_write_timeout(Some(idle));
    session.set_total_drain_timeout(Some(Duration::from_secs(2)));
    let cut = admitted.cut.clone();
    session.set_connection_user_context(Some(Box::new(admitted)));
    let reused = tokio::select! {
        // In this order, so that no number need be drawn for each turn.
        biased;
        reused = gateway.full.process_new_http(session, &gateway.draining) => reused,
        // Both connections end with the future that holds them.
        () = cut.due() => None,
    };
    let Some(reused) = reused else {
        return Left::Closed;
    };
    let (stream, _) = reused.consume();
    match stream.into_any().downcast::<Connection>() {
        Ok(connection) if connection.is_at_boundary() => Left::Ready(connection),
        _ => Left::Closed,
    }
}

/// Answers a request that could not even be read; what follows it has no known beginning.
async fn refuse_unread(
    rules: &Arc<Rules>,
    mut connection: Box<Connection>,
    peer: &Peer,
    refusal: Refusal,
) -> Left {
    let mut exchange = Exchange::unread(rules, peer.address, "HTTP/1.1");
    exchange.request_id = new_request_id();
    let answer = exchange.refused(refusal);
    exchange.status = answer.status;
    match write_to_connection(&mut connection, &answer, "GET", After::Close).await {
        Ok(bytes) => exchange.bytes_out = bytes,
        Err(_) => return Left::Closed,
    }
    drop(exchange);
    connection.linger().await;
    Left::Closed
}

async fn answer_ourselves(
    rules: &Arc<Rules>,
    mut connection: Box<Connection>,
    asked: Asked,
    mut exchange: Box<Exchange>,
    decision: Decision,
) -> Left {
    let answer = if let Decision::Own(own) = decision {
        own_answer(rules, &mut connection, &asked, &mut exchange, *own).await
    } else {
        decision.into_answer(rules, &exchange).await
    };
    // A body that nobody read is drained if it is small and sure to come, else cut off.
    let small = connection.is_at_boundary()
        || (!asked.expects_continue && connection.remaining().is_some_and(|left| left <= 65_536));
    let after = if small && !answer.closes { asked.after } else { After::Close };
    exchange.status = answer.status;
    match write_to_connection(&mut connection, &answer, &asked.method, after).await {
        Ok(bytes) => exchange.bytes_out = bytes,
        Err(_) => return Left::Closed,
    }
    drop(exchange);
    if after == After::Close {
        connection.linger().await;
        return Left::Closed;
    }
    if read_away(&mut connection).await { Left::Ready(connection) } else { Left::Closed }
}

/// Reads what is left of a small body, so that the next request begins where it should.
async fn read_away(connection: &mut Connection) -> bool {
    let reading = async {
        let mut buffer = [0; 4096];
        while !connection.is_at_boundary() {
            if !matches!(connection.read(&mut buffer).await, Ok(1..)) {
                return false;
            }
        }
        true
    };
    timeout(Duration::from_secs(2), reading).await == Ok(true)
}

async fn own_answer(
    rules: &Arc<Rules>,
    connection: &mut Connection,
    asked: &Asked,
    exchange: &mut Exchange,
    own: OwnRequest,
) -> Answer {
    let reading = timeout(rules.config.server.header_timeout, async {
        if asked.expects_continue && !connection.is_at_boundary() {
            send_continue(connection).await.map_err(|_| Refusal::RequestTimeout)?;
        }
        read_body(connection, own.endpoint.body_limit()).await
    });
    let body = match reading.await.unwrap_or(Err(Refusal::RequestTimeout)) {
        Ok(body) => body,
        Err(refusal) => return exchange.refused(refusal),
    };
    own.answer(rules, exchange, &body).await
}

/// Reads a small body whole.
async fn read_body(connection: &mut Connection, limit: u64) -> Result<Vec<u8>, Refusal> {
    let chunked = connection.is_chunked();
    // A chunk's size line costs a few bytes for each byte of body at worst.
    let most = if chunked { limit.saturating_mul(8) } else { limit };
    let mut body = Vec::new();
    let mut buffer = [0; 4096];
    while !connection.is_at_boundary() {
        let count = match connection.read(&mut buffer).await {
            Ok(0) => return Err(Refusal::Malformed("a body that ends early")),
            Ok(count) => count,
            Err(_) => return Err(Refusal::Malformed("a body that is not framed as it says")),
        };
        body.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if body.len() as u64 > most {
            return Err(Refusal::ContentTooLarge);
        }
    }
    if chunked {
        body = chunked::decode(&body);
    }
    if body.len() as u64 > limit { Err(Refusal::ContentTooLarge) } else { Ok(body) }
}
