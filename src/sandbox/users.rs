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
    /// Which app.
    pub(super) appid: String,
    /// What they call themselves.
    pub(super) name: String,
    /// The same in all apps.
    pub(super) unionid: String,
    /// Text of 16 bytes in base64.
    pub(super) session_key: String,
    /// Keys of the encrypted channel, newest first, at most 3.
    pub(super) channel_keys: Vec<ChannelKey>,
}

/// A key with which the person's app encrypts what it sends.
#[derive(Clone)]
pub(super) struct ChannelKey {
    /// 16 bytes in base64.
    pub(super) encrypt_key: String,
    /// 16 plain characters.
    pub(super) iv: String,
    /// Counts up from 1.
    pub(super) version: u64,
    /// Unix seconds.
    pub(super) created_at: u64,
}

/// Life of a [`ChannelKey`], in seconds.
pub(super) const CHANNEL_KEY_LIFE: u64 = 3600;

impl User {
    /// A Chinese mobile number, the same each time the sandbox runs.
    pub(super) fn phone_number(&self) -> String {
        let hash = Sha256::digest(self.name.as_bytes());
        let digits = hash.iter().take(8).map(|byte| char::from(b'0' + byte % 10));
        "138".chars().chain(digits).collect()
    }

    /// The keys of the encrypted channel, with a fresh one if the last has ended.
    pub(super) fn channel_keys(&mut self, now: u64) -> &[ChannelKey] {
        let last = self.channel_keys.first();
        if last.is_none_or(|key| key.created_at + CHANNEL_KEY_LIFE <= now) {
            let fresh = ChannelKey {
                encrypt_key: STANDARD.encode(random::<16>()),
                iv: URL_SAFE_NO_PAD.encode(random::<12>()),
                version: last.map_or(1, |key| key.version + 1),
                created_at: now,
            };
            self.channel_keys.insert(0, fresh);
            self.channel_keys.truncate(3);
        }
        &self.channel_keys
    }
}

fn fresh_session_key() -> String {
    STANDARD.encode(random::<16>())
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

/// What a person may be called.
pub(super) const NAME_RULE: &str = "user must be 1 to 64 characters, none of them a control";

/// Whether `user` keeps to [`NAME_RULE`].
pub(super) fn is_name(user: &str) -> bool {
    (1..=64).contains(&user.chars().count()) && !user.chars().any(char::is_control)
}

/// The openid of a person in an app.
fn openid(appid: &str, user: &str) -> String {
    name(&["openid", appid, user])
}

fn unionid(user: &str) -> String {
    name(&["unionid", user])
}

impl Users {
    /// wx.login: the person gets a new session_key, the old one is void.
    pub(super) fn log_in(&mut self, appid: &str, user: &str) -> String {
        let openid = self.visit(appid, user);
        if let Some(user) = self.users.get_mut(&openid) {
            user.session_key = fresh_session_key();
        }
        openid
    }

    /// The person's openid; who was never here before is now.
    pub(super) fn visit(&mut self, appid: &str, user: &str) -> String {
        let openid = openid(appid, user);
        if self.users.contains_key(&openid) {
            return openid;
        }
        self.users.insert(
            openid.clone(),
            User {
                appid: appid.to_owned(),
                name: user.to_owned(),
                unionid: unionid(user),
                session_key: fresh_session_key(),
                channel_keys: Vec::new(),
            },
        );
        self.order.push_back(openid.clone());
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.users.remove(&oldest);
        }
        openid
    }

    /// The person with this openid, if they came by lately.
    pub(super) fn find(&mut self, openid: &str) -> Option<&mut User> {
        self.users.get_mut(openid)
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
        let mut unionid = |openid: &str| users.find(openid).unwrap().unionid.clone();
        assert_eq!(unionid(&here), unionid(&there));
        assert_ne!(unionid(&here), unionid(&bob));
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

    #[test]
    fn a_visit_leaves_the_session_key_and_a_phone_number_is_the_persons_own() {
        let mut users = Users::default();
        let openid = users.log_in("wx0001", "alice");
        let first = users.find(&openid).unwrap().clone();
        users.visit("wx0001", "alice");
        assert_eq!(users.find(&openid).unwrap().session_key, first.session_key);
        let number = first.phone_number();
        assert!(number.len() == 11 && number.bytes().all(|byte| byte.is_ascii_digit()));
        let bob = users.visit("wx0001", "bob");
        assert_ne!(users.find(&bob).unwrap().phone_number(), number);
    }

    #[test]
    fn the_encrypted_channel_keeps_the_last_three_keys() {
        let mut users = Users::default();
        let openid = users.visit("wx0001", "alice");
        let alice = users.find(&openid).unwrap();
        for hour in 0..5 {
            alice.channel_keys(hour * CHANNEL_KEY_LIFE);
            alice.channel_keys(hour * CHANNEL_KEY_LIFE + CHANNEL_KEY_LIFE - 1);
        }
        let versions: Vec<u64> = alice.channel_keys.iter().map(|key| key.version).collect();
        assert_eq!(versions, [5, 4, 3]);
        assert!(alice.channel_keys.iter().all(|key| key.iv.len() == 16));
    }
}
