//! The headers that tell the upstream who is calling, and which client headers look like them.
//!
//! PHP turns `X-WX-OPENID`, `X_WX_OPENID` and `X.WX.OPENID` into the same variable and lets the
//! last one on the wire win (measured, PHP 8.2), so to remove the exact name is not enough: names
//! are compared folded. Remove first, on every route, then write; also where there is nothing to
//! write, since no header means that nobody is vouched for.

use crate::config;

use super::{Identity, Phone};

/// What `[identity]` says, ready for use on every request.
#[derive(Clone, Debug)]
pub struct HeaderRules {
    openid: String,
    appid: String,
    unionid: String,
    phone: Option<String>,
    session: Option<String>,
    /// The names above that no prefix covers, folded.
    reserved_names: Vec<String>,
    /// Folded.
    reserved_prefixes: Vec<String>,
}

impl HeaderRules {
    /// Prepares the names of the configuration.
    pub fn new(identity: &config::Identity) -> Self {
        let reserved_prefixes: Vec<String> =
            identity.reserved_prefixes.iter().map(|prefix| folded(prefix)).collect();
        let reserved_names = [&identity.openid, &identity.appid, &identity.unionid]
            .into_iter()
            .chain(&identity.phone)
            .chain(&identity.assertion)
            .chain(&identity.session)
            .map(|name| folded(name))
            .filter(|name| !reserved_prefixes.iter().any(|prefix| name.starts_with(prefix)))
            .collect();
        Self {
            openid: identity.openid.clone(),
            appid: identity.appid.clone(),
            unionid: identity.unionid.clone(),
            phone: identity.phone.clone(),
            session: identity.session.clone(),
            reserved_names,
            reserved_prefixes,
        }
    }

    /// Whether a client's header of this name must not reach the upstream: folded, it is a name
    /// of `[identity]` or begins with a reserved prefix. Holds for headers and trailers, on every
    /// route. Does not allocate.
    pub fn is_reserved(&self, name: &[u8]) -> bool {
        self.reserved_prefixes
            .iter()
            .any(|prefix| name.get(..prefix.len()).is_some_and(|start| folds_to(start, prefix)))
            || self.reserved_names.iter().any(|reserved| folds_to(name, reserved))
    }

    /// The headers to write after all reserved ones were removed, names as configured: none for
    /// a guest, each at most once for a caller.
    pub fn vouch<'a>(
        &'a self,
        who: Option<&'a Identity>,
    ) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        who.into_iter().flat_map(|who| {
            let unionid = who.unionid.as_ref().map(|id| (self.unionid.as_str(), id.as_str()));
            let session = self.session.as_deref().map(|name| (name, &*who.sid));
            let always = [
                (self.openid.as_str(), who.openid.as_str()),
                (self.appid.as_str(), who.appid.as_str()),
            ];
            always.into_iter().chain(unionid).chain(session)
        })
    }
}

impl HeaderRules {
    /// Whether the upstream is told phone numbers.
    pub const fn tells_phone(&self) -> bool {
        self.phone.is_some()
    }

    /// The header that tells a verified phone number, where it is named.
    pub fn vouch_phone<'a>(&'a self, phone: Option<&'a Phone>) -> Option<(&'a str, &'a str)> {
        Some((self.phone.as_deref()?, phone?.as_str()))
    }
}

/// Whether a header's name, folded, is `folded`: lower case, each byte outside `[a-z0-9]` read
/// as `-`. `folded` must be folded itself.
pub fn folds_to(name: &[u8], folded: &str) -> bool {
    name.iter().map(fold).eq(folded.bytes())
}

/// Whether a backend may take two header names for one: folded, they are the same.
pub fn fold_alike(one: &[u8], other: &[u8]) -> bool {
    one.iter().map(fold).eq(other.iter().map(fold))
}

fn fold(byte: &u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

fn folded(name: &str) -> String {
    name.as_bytes().iter().map(|byte| char::from(fold(byte))).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::{AppId, OpenId, UnionId};
    use super::*;
    use proptest::prelude::*;

    fn rules(openid: &str, session: Option<&str>, prefixes: &[&str]) -> HeaderRules {
        HeaderRules::new(&config::Identity {
            openid: openid.to_owned(),
            appid: "X-WX-APPID".to_owned(),
            unionid: "X-WX-UNIONID".to_owned(),
            phone: None,
            assertion: None,
            assertion_key: None,
            session: session.map(str::to_owned),
            reserved_prefixes: prefixes.iter().map(|&prefix| prefix.to_owned()).collect(),
        })
    }

    fn identity(unionid: Option<&str>) -> Identity {
        Identity {
            openid: OpenId::parse("oGOOD1").unwrap(),
            appid: AppId::parse("wxGOOD2").unwrap(),
            unionid: unionid.map(|unionid| UnionId::parse(unionid).unwrap()),
            sid: "sid-of-22-characters-x".into(),
        }
    }

    #[test]
    fn look_alikes_of_our_names_are_reserved_and_others_pass() {
        let rules = rules("X-User.Id", Some("Sid"), &["X-WX-", "my_Corp"]);
        for name in [
            "X-WX-OPENID",
            "x-wx-openid",
            "X_WX_OPENID",
            "X.WX.OPENID",
            "X-WX_OPENID",
            "X_WX.OPENID",
            "X WX OPENID",
            "x~wx!openid",
            "X-WX-",
            "X-WX-ANYTHING",
            "X-WX--",
            "X-User-Id",
            "x_user_id",
            "X.USER.ID",
            "sid",
            "SID",
            "My-Corp",
            "MY.CORPORATION",
            "my-corp-x",
        ] {
            assert!(rules.is_reserved(name.as_bytes()), "{name}");
        }
        assert!(rules.is_reserved(b"X\xE9WX\xFFOPENID"), "any byte");
        for name in [
            "",
            "X-WX",
            "X-W-X",
            "XWX-OPENID",
            "XX-WX-OPENID",
            "-X-WX-OPENID",
            "X--WX-OPENID",
            "X-User-Id-",
            "X-User-Ids",
            "X-UserId",
            "side",
            "my-cor",
            "Host",
            "Cookie",
        ] {
            assert!(!rules.is_reserved(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_name_folds_to_lower_case_and_dashes() {
        for (name, folded, holds) in [
            ("Content-Length", "content-length", true),
            ("content_length", "content-length", true),
            ("CONTENT.LENGTH", "content-length", true),
            ("Content-Lengt", "content-length", false),
            ("Content-Lengthy", "content-length", false),
            ("ContentLength", "content-length", false),
            ("", "", true),
        ] {
            assert_eq!(folds_to(name.as_bytes(), folded), holds, "{name}");
        }
    }

    #[test]
    fn a_caller_is_vouched_for_once_by_each_name_and_a_guest_by_none() {
        let rules = rules("X-WX-OPENID", None, &["X-WX-"]);
        assert_eq!(rules.vouch(None).count(), 0);
        let who = identity(None);
        let written: Vec<_> = rules.vouch(Some(&who)).collect();
        assert_eq!(written, [("X-WX-OPENID", "oGOOD1"), ("X-WX-APPID", "wxGOOD2")]);
        let rules = self::rules("Openid", Some("X-Sid"), &[]);
        let who = identity(Some("uGOOD3"));
        let written: Vec<_> = rules.vouch(Some(&who)).collect();
        let expected = [
            ("Openid", "oGOOD1"),
            ("X-WX-APPID", "wxGOOD2"),
            ("X-WX-UNIONID", "uGOOD3"),
            ("X-Sid", "sid-of-22-characters-x"),
        ];
        assert_eq!(written, expected);
    }

    /// The key under which PHP puts a header into `$_SERVER`.
    fn php_key(name: &[u8]) -> String {
        let letters = name.iter().map(|&byte| match byte {
            b'a'..=b'z' => char::from(byte - 32),
            b'A'..=b'Z' | b'0'..=b'9' => char::from(byte),
            _ => '_',
        });
        std::iter::once("HTTP_".to_owned()).chain(letters.map(String::from)).collect()
    }

    /// Names near ours, with every kind of byte between the words.
    fn header_name() -> impl Strategy<Value = Vec<u8>> {
        let word = prop::sample::select(vec![
            "X", "x", "WX", "wx", "Wx", "OPENID", "openid", "OpenId", "appid", "unionid", "Sid",
            "User", "Foo", "",
        ]);
        let separator = prop_oneof![
            4 => Just(b'-'), 4 => Just(b'_'), 2 => Just(b'.'), 2 => Just(b' '), 1 => any::<u8>(),
        ];
        prop::collection::vec((word, separator), 0..5).prop_map(|words| {
            let mut name: Vec<u8> = words
                .into_iter()
                .flat_map(|(word, separator)| [word.as_bytes(), &[separator]].concat())
                .collect();
            name.pop();
            name
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn php_reads_our_values_and_no_others(
            names in prop::collection::vec(header_name(), 0..20),
            unionid in prop::option::of(Just("uGOOD3")),
            is_guest in any::<bool>(),
        ) {
            let rules = rules("X-User-Id", Some("X-WX-Sid"), &["X-WX-"]);
            let who = identity(unionid);
            let who = if is_guest { None } else { Some(&who) };
            let kept = names.iter().filter(|name| !rules.is_reserved(name));
            let mut seen: Vec<(String, &str)> =
                kept.clone().map(|name| (php_key(name), "EVIL")).collect();
            let is_ours = |key: &str| key == "HTTP_X_USER_ID" || key.starts_with("HTTP_X_WX_");
            let others = names.iter().filter(|name| !is_ours(&php_key(name)));
            prop_assert!(kept.eq(others), "every other header passes");
            seen.extend(rules.vouch(who).map(|(name, value)| (php_key(name.as_bytes()), value)));
            seen.retain(|(key, _)| is_ours(key));
            let mut expected: Vec<(String, &str)> = Vec::new();
            if who.is_some() {
                expected.push(("HTTP_X_USER_ID".to_owned(), "oGOOD1"));
                expected.push(("HTTP_X_WX_APPID".to_owned(), "wxGOOD2"));
                expected.extend(unionid.map(|id| ("HTTP_X_WX_UNIONID".to_owned(), id)));
                expected.push(("HTTP_X_WX_SID".to_owned(), "sid-of-22-characters-x"));
            }
            prop_assert_eq!(seen, expected);
        }
    }
}
