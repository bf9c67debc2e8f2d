//! Routes that no request reaches, or that two could claim alike.

use super::super::Route;
use super::super::problem::Key;
use super::Checker;
use super::paths::is_below;

/// Notes routes under `prefix` and routes of equal rank. `numbers` are the routes' places in the
/// file.
pub(super) fn overlap(routes: &[(usize, Route)], prefix: &str, checker: &mut Checker<'_>) {
    let list = Key::of("routes");
    for (position, (number, route)) in routes.iter().enumerate() {
        let key = list.item(*number).name("path");
        if is_below(&route.path, prefix) {
            let what = format!("is never reached: login.prefix is \"{prefix}\"");
            let hint = "nothing under it is forwarded: choose another path, or another prefix";
            checker.wrong(&key, what, hint);
        }
        let before = routes.iter().take(position);
        let mut equal = before.filter(|(_, other)| {
            other.host == route.host
                && other.path == route.path
                && methods_meet(&other.methods, &route.methods)
        });
        if let Some((other, _)) = equal.next() {
            let what = format!("has the same host, path and methods as {}", list.item(*other));
            let hint = "two routes of equal rank: tell them apart by host, path or methods";
            checker.wrong(&key, what, hint);
        }
    }
}

/// Whether one request's method could fit both lists; an empty one fits all, GET includes HEAD.
fn methods_meet(one: &[String], other: &[String]) -> bool {
    let fits = |method: &str, list: &[String]| {
        list.iter().any(|listed| listed == method || (listed == "GET" && method == "HEAD"))
    };
    one.is_empty()
        || other.is_empty()
        || one.iter().any(|method| fits(method, other))
        || other.iter().any(|method| fits(method, one))
}
