//! The people who use the sandbox's mini programs.

use std::collections::{HashMap, VecDeque};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use super::answer::random;

/// People remembered at once; past it the one who came first is forgotten.
const MOST: usize = 100_000;

/// People by their openid.
#[derive(Default)]
pub(super) struct Users {
    users: HashMap<String, User>,
    order: VecDeque<String>,
}

/// One person in one app.
#[derive(Clone)]
pub(super) struct User {
    /// The same in all apps.
    pub(super) unionid: String,
    /// Text of 16 bytes in base64.
    pub(super) session_key: String,
}

/// 28 characters that begin with `o`, as WeChat's do; the same each time the sandbox runs.
fn name(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let text = URL_SAFE_NO_PAD.encode(hash.finalize());
    let mut name = String::with_capacity(28);
    name.push('o');
    name.extend(text.chars().take(27));
    name
}

/// The openid of a person in an app.
pub(super) fn openid(appid: &str, user: &str) -> String {
    name(&["openid", appid, user])
}

fn unionid(user: &str) -> String {
    name(&["unionid", user])
}

impl Users {
    /// wx.login: the person gets a new session_key, the old one is void.
    pub(super) fn log_in(&mut self, appid: &str, user: &str) -> String {
        let openid = openid(appid, user);
        let session_key = STANDARD.encode(random::<16>());
        let known = self.users.insert(openid.clone(), User { unionid: unionid(user), session_key });
        if known.is_none() {
            self.order.push_back(openid.clone());
        }
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.users.remove(&oldest);
        }
        openid
    }

    /// The person with this openid, if they came by lately.
    pub(super) fn find(&self, openid: &str) -> Option<&User> {
        self.users.get(openid)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn an_openid_is_per_person_and_app_and_a_unionid_per_person() {
        let mut users = Users::default();
        let here = users.log_in("wx0001", "alice");
        let there = users.log_in("wx0002", "alice");
        let bob = users.log_in("wx0001", "bob");
        assert!(here != there && here != bob);
        assert_eq!((here.len(), here.get(..1)), (28, Some("o")));
        assert_eq!(users.find(&here).unwrap().unionid, users.find(&there).unwrap().unionid);
        assert_ne!(users.find(&here).unwrap().unionid, users.find(&bob).unwrap().unionid);
        assert_eq!(here, Users::default().log_in("wx0001", "alice"));
    }

    #[test]
    fn each_login_replaces_the_session_key() {
        let mut users = Users::default();
        let openid = users.log_in("wx0001", "alice");
        let first = users.find(&openid).unwrap().session_key.clone();
        users.log_in("wx0001", "alice");
        let second = &users.find(&openid).unwrap().session_key;
        assert_ne!(&first, second);
        assert_eq!(STANDARD.decode(second).unwrap().len(), 16);
        assert_eq!(users.order.len(), 1);
    }
}
