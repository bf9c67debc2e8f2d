//! The listeners that send everybody to https: nothing that comes in there is ever forwarded, and
//! what is no well-formed request is refused as strictly as anywhere.

use std::sync::Arc;

use super::answering::{After, write_to_connection};
use super::client::{Client, Peer, new_request_id};
use super::connection::Connection;
use super::drain::Drain;
use super::exchange::Exchange;
use super::gateway::Gateway;
use super::head::{NoHead, RequestHead, read_head, with_head};
use super::rules::Rules;
use crate::endpoints::{Answer, Refusal};
use crate::route::path::normalise;

/// Answers the first request of a connection, and closes it: the next one comes by https.
pub(super) async fn serve(gateway: &Gateway, mut connection: Connection) {
    let mut drain = Drain::listen(gateway.draining.clone());
    let limits = gateway.rules.load().head_limits();
    let head = read_head(&mut connection, limits, &mut drain).await;
    let rules = gateway.rules.load_full();
    let peer = connection.peer().clone();
    let (mut exchange, method, answer) = match head {
        Ok(length) => {
            let bytes = connection.ahead().get(..length).unwrap_or_default();
            let decided = with_head(bytes, |head, _| {
                let client = Client::of(&head, &peer, rules.trusted_proxies());
                let mut exchange = Exchange::begin(&rules, &head, client.address);
                exchange.request_id = client.request_id;
                exchange.is_own();
                let answer = match location(&rules, &head) {
                    Ok(location) => exchange.told(Answer::redirect(308, location)),
                    Err(refusal) => exchange.refused(refusal),
                };
                (exchange, head.method.to_owned(), answer)
            });
            connection.skip(length);
            decided.unwrap_or_else(|refusal| unread(&rules, &peer, refusal))
        }
        Err(NoHead::Refused(refusal)) => unread(&rules, &peer, refusal),
        Err(NoHead::Closed) => return,
    };
    exchange.status = answer.status;
    match write_to_connection(&mut connection, &answer, &method, After::Close).await {
        Ok(bytes) => exchange.bytes_out = bytes,
        Err(_) => return,
    }
    drop(exchange);
    connection.linger().await;
}

fn unread(rules: &Arc<Rules>, peer: &Peer, refusal: Refusal) -> (Box<Exchange>, String, Answer) {
    let mut exchange = Exchange::unread(rules, peer.address, "HTTP/1.1");
    exchange.request_id = new_request_id();
    let answer = exchange.refused(refusal);
    (exchange, "GET".to_owned(), answer)
}

/// The same address by https. The host is the client's own, checked to be one; the path is as the
/// client wrote it, and is judged when it comes back.
fn location(rules: &Rules, head: &RequestHead<'_>) -> Result<String, Refusal> {
    if matches!(head.method, "CONNECT" | "TRACE") {
        let allow = super::admit::ALLOWED.to_owned();
        return Err(Refusal::MethodNotAllowed { allow });
    }
    let (path, _) = head.target.split_once('?').unwrap_or((head.target, ""));
    normalise(path)?;
    let host = match head.host.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        Some(_) | None => head.host,
    };
    if host.is_empty() {
        return Err(Refusal::Malformed("no Host"));
    }
    Ok(match rules.config.server.redirect_port {
        443 => format!("https://{host}{}", head.target),
        port => format!("https://{host}:{port}{}", head.target),
    })
}
