//! What WeChat's error numbers mean: one table, from errcode to what the gateway answers.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::watermark::WatermarkError;

/// Why a call to WeChat gave no result. No variant holds a code, token, openid, secret or URL,
/// so that any of them may be logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WechatError {
    /// The code is not `[A-Za-z0-9_-]{1,128}`; WeChat was not asked.
    #[error("the code is not 1 to 128 letters, digits, `_` or `-`")]
    InvalidCode,
    /// No `[[apps]]` has this appid; WeChat was not asked.
    #[error("no configured app has this appid")]
    UnknownApp,
    /// WeChat does not take the code: expired, used, or of another app.
    #[error("WeChat refused the code: {}", say(*errcode))]
    CodeRefused {
        /// WeChat's number.
        errcode: i64,
    },
    /// WeChat does not let this user log in.
    #[error("WeChat refused the user: {}", say(*errcode))]
    UserRefused {
        /// WeChat's number.
        errcode: i64,
    },
    /// A virtual user, whom WeChat shows to a page that is a snapshot; nobody logged in.
    #[error("WeChat shows a virtual user of a snapshot page")]
    SnapshotUser,
    /// What WeChat vouches for is not marked as this app's.
    #[error(transparent)]
    Watermark(#[from] WatermarkError),
    /// WeChat no longer knows the session_key.
    #[error("WeChat refused the session_key: {}", say(*errcode))]
    SessionKeyInvalid {
        /// WeChat's number.
        errcode: i64,
    },
    /// WeChat asks to slow down.
    #[error("WeChat limits the rate: {}", say(*errcode))]
    RateLimited {
        /// WeChat's number.
        errcode: i64,
        /// When to come back.
        retry_after: Duration,
    },
    /// WeChat says that it is busy.
    #[error("WeChat is busy: {}", say(*errcode))]
    Busy {
        /// WeChat's number.
        errcode: i64,
        /// When to come back.
        retry_after: Duration,
    },
    /// WeChat gave no answer, or was not asked because it gives none lately.
    #[error("WeChat could not be asked: {why}")]
    Unavailable {
        /// What stood in the way.
        why: Outage,
        /// When to come back.
        retry_after: Duration,
    },
    /// WeChat's answer cannot be read, or lacks what it must hold.
    #[error("WeChat's answer could not be read: {0}")]
    Malformed(Flaw),
    /// An errcode that has no row in the table.
    #[error("WeChat answered with errcode {errcode}, which has no meaning here")]
    Unexpected {
        /// WeChat's number.
        errcode: i64,
    },
    /// The app's appid, secret or permissions are wrong: the operator must mend it.
    #[error("WeChat refuses this app: {}", say(*errcode))]
    Misconfigured {
        /// WeChat's number.
        errcode: i64,
    },
    /// The app's quota of the day is used up.
    #[error("the app's quota is used up: {}", say(*errcode))]
    QuotaExhausted {
        /// WeChat's number.
        errcode: i64,
    },
    /// The HTTPS client could not be made; only at start or reload.
    #[error("the HTTPS client for WeChat could not be set up: {0}")]
    Setup(String),
}

/// What stood between the gateway and WeChat's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Outage {
    /// No host of `wechat.api_base` took a connection; nothing was sent.
    #[error("no connection could be made")]
    Unreachable,
    /// No whole answer within `wechat.timeout`.
    #[error("no answer in time")]
    Timeout,
    /// The connection broke before the answer was whole.
    #[error("the connection broke")]
    Broken,
    /// An HTTP status of 500 or more.
    #[error("HTTP status {0}")]
    Status(u16),
    /// The last calls failed, so that none is made for a while; nothing was sent.
    #[error("the last calls failed, waiting before the next")]
    CircuitOpen,
    /// `wechat.max_concurrent` calls are under way and the queue is full or slow; nothing was
    /// sent.
    #[error("too many calls under way")]
    Overloaded,
    /// The process is ending.
    #[error("the gateway is stopping")]
    Stopping,
}

impl Outage {
    /// Whether it is certain that no byte of the call reached WeChat.
    pub(super) const fn nothing_was_sent(self) -> bool {
        match self {
            Self::Unreachable | Self::CircuitOpen | Self::Overloaded => true,
            Self::Timeout | Self::Broken | Self::Status(_) | Self::Stopping => false,
        }
    }
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A status below 500 that is not 200; redirects are not followed.
    #[error("HTTP status {0}")]
    Status(u16),
    /// More than 64 KiB.
    #[error("it is longer than 64 KiB")]
    TooLong,
    /// No JSON object.
    #[error("it is no JSON object")]
    NotJson,
    /// `errcode` is neither a whole number nor the text of one.
    #[error("its errcode is no number")]
    Errcode,
    /// A field that the call promises is missing or of another shape.
    #[error("its field `{0}` is missing or not as documented")]
    Field(&'static str),
}

impl WechatError {
    /// WeChat's own number, where it sent one.
    pub const fn errcode(&self) -> Option<i64> {
        match self {
            Self::CodeRefused { errcode }
            | Self::UserRefused { errcode }
            | Self::SessionKeyInvalid { errcode }
            | Self::RateLimited { errcode, .. }
            | Self::Busy { errcode, .. }
            | Self::Unexpected { errcode }
            | Self::Misconfigured { errcode }
            | Self::QuotaExhausted { errcode } => Some(*errcode),
            Self::InvalidCode
            | Self::UnknownApp
            | Self::SnapshotUser
            | Self::Watermark(_)
            | Self::Unavailable { .. }
            | Self::Malformed(_)
            | Self::Setup(_) => None,
        }
    }

    /// When the caller may try again, where waiting helps.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. }
            | Self::Busy { retry_after, .. }
            | Self::Unavailable { retry_after, .. } => Some(*retry_after),
            Self::InvalidCode
            | Self::UnknownApp
            | Self::CodeRefused { .. }
            | Self::UserRefused { .. }
            | Self::SnapshotUser
            | Self::Watermark(_)
            | Self::SessionKeyInvalid { .. }
            | Self::Malformed(_)
            | Self::Unexpected { .. }
            | Self::Misconfigured { .. }
            | Self::QuotaExhausted { .. }
            | Self::Setup(_) => None,
        }
    }

    /// Whether WeChat did not take the access_token: the call had no effect, and a new token
    /// may help.
    pub(super) const fn rejects_access_token(&self) -> bool {
        matches!(self, Self::Unexpected { errcode: 40001 | 40014 | 42001 })
    }

    /// A call that got no answer; the caller may try again in a second.
    pub(super) const fn unavailable(why: Outage) -> Self {
        Self::Unavailable { why, retry_after: SHORTLY }
    }

    /// Whether it is certain that WeChat never saw the call, so that the same code may be
    /// shown again.
    pub(super) const fn nothing_was_sent(&self) -> bool {
        match self {
            Self::InvalidCode | Self::UnknownApp | Self::Setup(_) => true,
            Self::Unavailable { why, .. } => why.nothing_was_sent(),
            Self::CodeRefused { .. }
            | Self::UserRefused { .. }
            | Self::SnapshotUser
            | Self::Watermark(_)
            | Self::SessionKeyInvalid { .. }
            | Self::RateLimited { .. }
            | Self::Busy { .. }
            | Self::Malformed(_)
            | Self::Unexpected { .. }
            | Self::Misconfigured { .. }
            | Self::QuotaExhausted { .. } => false,
        }
    }
}

const SHORTLY: Duration = Duration::from_secs(1);

/// WeChat counts by the minute.
const NEXT_MINUTE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
enum Meaning {
    Busy,
    Code,
    User,
    SessionKey,
    Rate,
    App,
    Quota,
}

/// Every errcode with a meaning of its own, ascending.
const TABLE: &[(i64, Meaning, &str)] = &[
    (-1, Meaning::Busy, "-1 system busy"),
    (40013, Meaning::App, "40013 invalid appid; check `appid` in gateway.toml"),
    (40029, Meaning::Code, "40029 invalid code: expired, or of another app or button"),
    (40125, Meaning::App, "40125 invalid secret; set the app's present one"),
    (40163, Meaning::Code, "40163 the code was used before"),
    (40164, Meaning::App, "40164 our address is not in the app's IP allow-list; add it there"),
    (40226, Meaning::User, "40226 the user is blocked as high-risk"),
    (40243, Meaning::App, "40243 the app's secret is frozen; unfreeze it in WeChat's console"),
    (41002, Meaning::App, "41002 appid missing; check `appid` in gateway.toml"),
    (41004, Meaning::App, "41004 secret missing; check `secret` in gateway.toml"),
    (41008, Meaning::Code, "41008 code missing"),
    (45009, Meaning::Quota, "45009 the day's quota is reached; clear or raise it with WeChat"),
    (45011, Meaning::Rate, "45011 the minute's quota is reached"),
    (50002, Meaning::User, "50002 the user is limited"),
    (61004, Meaning::App, "61004 our address is not registered with WeChat; add it there"),
    (87009, Meaning::SessionKey, "87009 the signature, so the session_key, is no longer valid"),
];

fn row(errcode: i64) -> Option<&'static (i64, Meaning, &'static str)> {
    TABLE.iter().find(|(number, ..)| *number == errcode)
}

/// The number and what it says, for the operator.
fn say(errcode: i64) -> &'static str {
    row(errcode).map_or("an unnamed errcode", |(.., text)| text)
}

/// The error that an errcode other than 0 stands for.
pub(super) fn error_of(errcode: i64) -> WechatError {
    let Some((_, meaning, _)) = row(errcode) else {
        return WechatError::Unexpected { errcode };
    };
    match meaning {
        Meaning::Busy => WechatError::Busy { errcode, retry_after: SHORTLY },
        Meaning::Code => WechatError::CodeRefused { errcode },
        Meaning::User => WechatError::UserRefused { errcode },
        Meaning::SessionKey => WechatError::SessionKeyInvalid { errcode },
        Meaning::Rate => WechatError::RateLimited { errcode, retry_after: NEXT_MINUTE },
        Meaning::App => WechatError::Misconfigured { errcode },
        Meaning::Quota => WechatError::QuotaExhausted { errcode },
    }
}

/// The `errcode` label of metrics: the number itself, for a bounded number of numbers.
///
/// WeChat has some hundreds of them, but a wrong `api_base` could send any; past the bound a
/// number outside the table is `other`.
#[derive(Debug, Default)]
pub(super) struct Labels(Mutex<BTreeSet<i64>>);

/// Numbers outside the table that get a label of their own.
const STRANGERS: usize = 64;

impl Labels {
    pub(super) fn of(&self, errcode: i64) -> String {
        if errcode == 0 || row(errcode).is_some() {
            return errcode.to_string();
        }
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(&errcode) || (seen.len() < STRANGERS && seen.insert(errcode)) {
            errcode.to_string()
        } else {
            "other".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_ascending_and_says_its_own_number() {
        assert!(TABLE.is_sorted_by(|left, right| left.0 < right.0));
        for (number, _, text) in TABLE {
            assert!(text.starts_with(&format!("{number} ")), "{text}");
        }
    }

    #[test]
    fn each_errcode_of_the_contract_is_its_own_kind_of_error() {
        for errcode in [40029, 40163, 41008] {
            assert_eq!(error_of(errcode), WechatError::CodeRefused { errcode });
        }
        for errcode in [40226, 50002] {
            assert_eq!(error_of(errcode), WechatError::UserRefused { errcode });
        }
        for errcode in [40013, 40125, 41002, 41004, 40164, 61004, 40243] {
            assert_eq!(error_of(errcode), WechatError::Misconfigured { errcode });
        }
        assert_eq!(error_of(45009), WechatError::QuotaExhausted { errcode: 45009 });
        assert_eq!(error_of(87009), WechatError::SessionKeyInvalid { errcode: 87009 });
        assert_eq!(error_of(45011).retry_after(), Some(Duration::from_secs(60)));
        assert_eq!(error_of(-1).retry_after(), Some(Duration::from_secs(1)));
        assert_eq!(error_of(48001), WechatError::Unexpected { errcode: 48001 });
        assert_eq!(error_of(48001).errcode(), Some(48001));
    }

    #[test]
    fn labels_stay_bounded_whatever_numbers_come() {
        let labels = Labels::default();
        let all: BTreeSet<String> = (100_000..101_000).map(|number| labels.of(number)).collect();
        assert_eq!(all.len(), STRANGERS + 1);
        assert!(all.contains("other"));
        assert_eq!(labels.of(0), "0");
        assert_eq!(labels.of(40029), "40029");
        assert_eq!(labels.of(100_001), "100001");
    }
}
