//! Exchange the code of wx.login for the user and the session_key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use tokio::sync::OnceCell;

use super::answer::Answer;
use super::errcode::{Flaw, WechatError};
use super::user::{self, User};
use crate::secret::Secret;

/// What WeChat gives for a code.
#[derive(Clone)]
pub struct Code2Session {
    /// Who logged in.
    pub user: User,
    /// 16 bytes in standard base64, as WeChat wrote it: signatures are made with this text.
    pub session_key: Secret<String>,
    /// What the client was answered, so that whoever shows the same code within the replay
    /// window is told the same, and a double tap opens one session and not two.
    pub answered: OnceCell<Vec<u8>>,
}

impl fmt::Debug for Code2Session {
    // An openid may stand in no log.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Code2Session").finish_non_exhaustive()
    }
}

/// Whether `code` may be sent to WeChat, which is not asked with anything else:
/// `[A-Za-z0-9_-]{1,128}`.
pub fn is_code(code: &str) -> bool {
    (1..=128).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// What a good answer gives.
///
/// # Errors
/// `SnapshotUser` for a user who is none, `Malformed` for what is shaped otherwise.
pub(super) fn read(answer: &Answer) -> Result<Code2Session, WechatError> {
    let user = user::read(answer)?;
    let session_key = session_key(answer)?;
    Ok(Code2Session { user, session_key, answered: OnceCell::new() })
}

/// The session_key of an answer, if it is 16 bytes in base64. One of 24 or 32 bytes would
/// silently select another cipher later.
///
/// # Errors
/// `Malformed` for anything else.
pub(super) fn session_key(answer: &Answer) -> Result<Secret<String>, WechatError> {
    let text = Secret::new(answer.text("session_key")?.to_owned());
    match STANDARD.decode(text.expose()).map(Secret::new) {
        Ok(bytes) if bytes.expose().len() == 16 => Ok(text),
        Ok(_) | Err(_) => Err(WechatError::Malformed(Flaw::Field("session_key"))),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::json;

    use super::super::answer::parse;
    use super::*;

    const OPENID: &str = "oGZUI0egBJY1zhBYw2KhdUfwVJJE";
    const KEY: &str = "tiihtNczf5v6AKRyjwEUhQ==";

    fn read_json(body: &serde_json::Value) -> Result<Code2Session, WechatError> {
        read(&parse(body.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn an_openid_and_a_session_key_are_enough_and_unknown_fields_do_not_matter() {
        let got = read_json(&json!({"openid": OPENID, "session_key": KEY, "expires_in": 7200}));
        let got = got.unwrap();
        assert_eq!((got.user.openid.as_str(), got.session_key.expose().as_str()), (OPENID, KEY));
        assert_eq!(got.user.unionid, None);
    }

    #[test]
    fn what_is_shaped_otherwise_is_malformed_and_names_the_field() {
        for (body, field) in [
            (json!({"session_key": KEY}), "openid"),
            (json!({"openid": OPENID}), "session_key"),
            (json!({"openid": OPENID, "session_key": "AAAAAAAAAAAAAAAAAAAA"}), "session_key"),
            (json!({"openid": OPENID, "session_key": "tiihtNczf5v6AKRyjwEUhQ"}), "session_key"),
            (json!({"openid": OPENID, "session_key": "not base64!"}), "session_key"),
        ] {
            let error = read_json(&body).map(|_| ()).unwrap_err();
            assert_eq!(error, WechatError::Malformed(Flaw::Field(field)), "{body}");
        }
        let aes192 = STANDARD.encode([7; 24]);
        assert!(read_json(&json!({"openid": OPENID, "session_key": aes192})).is_err());
    }

    #[test]
    fn a_code_is_1_to_128_plain_characters() {
        assert!(is_code("0a1Bc_-"));
        assert!(is_code(&"a".repeat(128)));
        for bad in ["", "a b", "x&appid=wx2", "ü", "a\"", "a\n", "a%20"] {
            assert!(!is_code(bad), "{bad:?}");
        }
        assert!(!is_code(&"a".repeat(129)));
    }

    #[test]
    fn debug_shows_neither_the_user_nor_the_key() {
        let got = read_json(&json!({"openid": OPENID, "session_key": KEY, "unionid": OPENID}));
        let shown = format!("{:?}", got.unwrap());
        assert!(!shown.contains(OPENID) && !shown.contains(KEY), "{shown}");
    }
}
