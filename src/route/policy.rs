//! Who may pass a route once their token is proven good: `allow` and `deny`.

use std::sync::Arc;

use crate::config;

use super::RouteError;
use super::list::{Lists, OpenIds};

/// Who asks, as a verified token says.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// The user.
    pub openid: &'a str,
    /// The app that the user logged in to.
    pub appid: &'a str,
    /// What the session has been granted.
    pub scope: &'a [String],
}

/// What a route says to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Through.
    Allowed,
    /// Refused; nothing that the caller can do with this session changes it.
    AccessDenied,
    /// The session lacks scope. Holds every scope that the route asks for, joined by spaces:
    /// the `scope` of RFC 6750, section 3.
    InsufficientScope(&'a str),
}

/// `allow` and `deny` of one route. The default lets everybody through.
#[derive(Debug, Default)]
pub(super) struct Policy {
    /// Empty: any.
    appids: Vec<String>,
    openids: Option<Arc<OpenIds>>,
    scope: Vec<String>,
    /// `scope` joined by spaces.
    scope_text: String,
    denied: Option<Arc<OpenIds>>,
}

impl Policy {
    /// Reads the openid lists that the route names.
    pub(super) fn load(route: &config::Route, lists: &Lists) -> Result<Self, RouteError> {
        let open = |path: &Option<_>| path.as_deref().map(|path| lists.open(path)).transpose();
        let denied = open(&route.deny_openids_file)?;
        let Some(allow) = &route.allow else { return Ok(Self { denied, ..Self::default() }) };
        Ok(Self {
            appids: allow.appids.clone(),
            openids: open(&allow.openids_file)?,
            scope: allow.scope.clone(),
            scope_text: allow.scope.join(" "),
            denied,
        })
    }

    /// `deny` first, then every condition of `allow`. Scope comes last: who is told to get more
    /// of it must then be let through.
    pub(super) fn judge(&self, caller: Caller<'_>) -> Verdict<'_> {
        let is_denied = self.denied.as_ref().is_some_and(|list| list.contains(caller.openid));
        let is_app = self.appids.is_empty() || self.appids.iter().any(|id| id == caller.appid);
        let is_listed = self.openids.as_ref().is_none_or(|list| list.contains(caller.openid));
        if is_denied || !is_app || !is_listed {
            Verdict::AccessDenied
        } else if self.scope.iter().all(|wanted| caller.scope.contains(wanted)) {
            Verdict::Allowed
        } else {
            Verdict::InsufficientScope(&self.scope_text)
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::table::tests::written;
    use super::Verdict::{AccessDenied, Allowed, InsufficientScope};
    use super::*;

    fn policy(allow: Option<config::Allow>, deny: Option<&str>) -> Policy {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let allow = allow.map(|mut allow| {
            allow.openids_file = allow.openids_file.map(|text| write("a", text.to_str().unwrap()));
            allow
        });
        let mut route = written("/");
        route.allow = allow;
        route.deny_openids_file = deny.map(|text| write("d", text));
        Policy::load(&route, &Lists::new()).unwrap()
    }

    /// `openids` is the text of the file.
    fn allow(appids: &[&str], openids: Option<&str>, scope: &[&str]) -> Option<config::Allow> {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Some(config::Allow {
            appids: owned(appids),
            openids_file: openids.map(Into::into),
            scope: owned(scope),
        })
    }

    #[test]
    fn a_caller_passes_only_if_all_of_allow_holds_and_none_of_deny() {
        let whole = || allow(&["wxaaaaaa", "wxbbbbbb"], Some("oAlice\noBob01"), &["phone"]);
        let two = || allow(&[], None, &["phone", "email"]);
        for (rule, deny, openid, appid, scope, verdict) in [
            (None, None, "oAlice", "wxaaaaaa", "", Allowed),
            (None, Some("oAlice"), "oAlice", "wxaaaaaa", "phone", AccessDenied),
            (None, Some("oAlice"), "oBob01", "wxaaaaaa", "", Allowed),
            (allow(&[], None, &[]), None, "oAlice", "wxaaaaaa", "", Allowed),
            (allow(&["wxaaaaaa"], None, &[]), None, "oAlice", "wxaaaaaa", "", Allowed),
            (allow(&["wxaaaaaa"], None, &[]), None, "oAlice", "wxcccccc", "", AccessDenied),
            (allow(&["wxaaaaaa"], None, &[]), None, "oAlice", "WXAAAAAA", "", AccessDenied),
            (allow(&[], Some("oAlice"), &[]), None, "oAlice", "wxaaaaaa", "", Allowed),
            (allow(&[], Some("oAlice"), &[]), None, "oalice", "wxaaaaaa", "", AccessDenied),
            (allow(&[], Some(""), &[]), None, "oAlice", "wxaaaaaa", "", AccessDenied),
            (whole(), None, "oAlice", "wxbbbbbb", "phone", Allowed),
            (whole(), None, "oBob01", "wxaaaaaa", "phone", Allowed),
            (whole(), None, "oCarol", "wxaaaaaa", "phone", AccessDenied),
            (whole(), None, "oAlice", "wxcccccc", "phone", AccessDenied),
            (whole(), None, "oAlice", "wxaaaaaa", "", InsufficientScope("phone")),
            (whole(), None, "oCarol", "wxaaaaaa", "", AccessDenied),
            (whole(), Some("oBob01"), "oBob01", "wxaaaaaa", "phone", AccessDenied),
            (two(), None, "oAlice", "wxaaaaaa", "phone", InsufficientScope("phone email")),
            (two(), None, "oAlice", "wxaaaaaa", "email other phone", Allowed),
        ] {
            let policy = policy(rule, deny);
            let scope: Vec<_> = scope.split_whitespace().map(str::to_owned).collect();
            let caller = Caller { openid, appid, scope: &scope };
            assert_eq!(policy.judge(caller), verdict, "{openid} {appid} {scope:?} on {policy:?}");
        }
    }
}
