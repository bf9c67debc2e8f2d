//! The user that a login code stands for, as both kinds of login tell it.

use std::fmt;

use super::answer::Answer;
use super::errcode::{Flaw, WechatError};

/// Who logged in.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// The user of this app, `[A-Za-z0-9_-]{6,64}`.
    pub openid: String,
    /// The user over all apps of one Open Platform account, `[A-Za-z0-9_-]{6,64}`, where the app
    /// is bound to one; a web login tells it only where the user was asked for consent.
    pub unionid: Option<String>,
}

impl fmt::Debug for User {
    // An openid may stand in no log.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("User").finish_non_exhaustive()
    }
}

/// The user of a good answer.
///
/// # Errors
/// `SnapshotUser` for a user who is none, `Malformed` for what is shaped otherwise.
pub(super) fn read(answer: &Answer) -> Result<User, WechatError> {
    if answer.optional_number("is_snapshotuser")?.unwrap_or_default() != 0 {
        return Err(WechatError::SnapshotUser);
    }
    let openid = plain(answer.text("openid")?, "openid")?;
    let unionid = answer.optional_text("unionid")?;
    Ok(User { openid, unionid: unionid.map(|text| plain(text, "unionid")).transpose()? })
}

fn plain(text: &str, field: &'static str) -> Result<String, WechatError> {
    if is_plain(text) {
        Ok(text.to_owned())
    } else {
        Err(WechatError::Malformed(Flaw::Field(field)))
    }
}

/// Whether `text` is shaped like WeChat's names for users.
fn is_plain(text: &str) -> bool {
    (6..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::{Value, json};

    use super::super::answer::parse;
    use super::*;

    const OPENID: &str = "oGZUI0egBJY1zhBYw2KhdUfwVJJE";

    fn read_json(body: &Value) -> Result<User, WechatError> {
        read(&parse(body.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn users_are_6_to_64_plain_characters() {
        assert!(is_plain(OPENID) && is_plain("abc_-1"));
        for bad in ["short", "openid\r\nX: y", "öpenid12", "a b c d e", &"a".repeat(65)] {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_virtual_user_of_a_snapshot_page_is_nobody() {
        for snapshot in [json!(1), json!("1")] {
            let body = json!({"openid": OPENID, "is_snapshotuser": snapshot});
            assert_eq!(read_json(&body), Err(WechatError::SnapshotUser));
        }
        for snapshot in [json!(0), json!(null)] {
            let body = json!({"openid": OPENID, "is_snapshotuser": snapshot});
            assert_eq!(read_json(&body).unwrap().openid, OPENID);
        }
        let odd = json!({"openid": OPENID, "is_snapshotuser": "yes"});
        let flaw = Flaw::Field("is_snapshotuser");
        assert_eq!(read_json(&odd), Err(WechatError::Malformed(flaw)));
    }

    #[test]
    fn a_unionid_is_taken_where_there_is_one_and_debug_shows_nobody() {
        let unionid = "ocMvos6NjeKLIBqg5Mr9QjxrP1FA";
        let user = read_json(&json!({"openid": OPENID, "unionid": unionid})).unwrap();
        assert_eq!(user.unionid.as_deref(), Some(unionid));
        let shown = format!("{user:?}");
        assert!(!shown.contains(OPENID) && !shown.contains(unionid), "{shown}");
        for none in [json!(""), json!(null)] {
            assert_eq!(
                read_json(&json!({"openid": OPENID, "unionid": none})).unwrap().unionid,
                None
            );
        }
    }

    #[test]
    fn what_is_shaped_otherwise_is_malformed_and_names_the_field() {
        for (body, field) in [
            (json!({}), "openid"),
            (json!({"openid": ""}), "openid"),
            (json!({"openid": 12_345_678}), "openid"),
            (json!({"openid": "o\r\nX-WX-OPENID: z"}), "openid"),
            (json!({"openid": OPENID, "unionid": "a b"}), "unionid"),
            (json!({"openid": OPENID, "unionid": {}}), "unionid"),
        ] {
            assert_eq!(read_json(&body), Err(WechatError::Malformed(Flaw::Field(field))), "{body}");
        }
    }
}
