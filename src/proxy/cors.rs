//! Preflights: a browser asks, without the user's token, whether a page of another site may send
//! a request. The gateway answers by `cors` of the route that the request itself would take.

use super::exchange::Exchange;
use super::head::RequestHead;
use super::rules::Rules;
use crate::endpoints::Answer;
use crate::route::table::Found;

/// The answer to a preflight from a page that is permitted; `None` for every other request, which
/// then goes the way of all. `path` is the routed one.
pub(super) fn preflight(
    rules: &Rules,
    head: &RequestHead<'_>,
    path: &str,
    exchange: &mut Exchange,
) -> Option<Box<Answer>> {
    if head.method != "OPTIONS" {
        return None;
    }
    let (origin, method) = (origin(head)?, one(head, "access-control-request-method")?);
    if rules.endpoints.owns(path) {
        rules.endpoints.find(method, path).ok()?;
        let cors = rules.login_cors.as_ref().filter(|cors| cors.permits(origin))?;
        exchange.is_own();
        return Some(Box::new(Answer::preflight(cors.preflight_lines(origin))));
    }
    let Found::Route(route) = rules.table.find(head.host, path, method) else { return None };
    let cors = route.cors.as_ref().filter(|cors| cors.permits(origin))?;
    exchange.takes_route(route);
    Some(Box::new(Answer::preflight(cors.preflight_lines(origin))))
}

/// The page that sent a request; two of them are none.
pub(super) fn origin<'a>(head: &RequestHead<'a>) -> Option<&'a str> {
    one(head, "origin")
}

fn one<'a>(head: &RequestHead<'a>, name: &str) -> Option<&'a str> {
    let mut values = head.headers.get_all(name);
    match (values.next(), values.next()) {
        (Some(value), None) => std::str::from_utf8(value).ok(),
        (None, _) | (_, Some(_)) => None,
    }
}
