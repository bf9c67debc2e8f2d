//! Who the caller is, and how the upstream is told.

pub mod assertion;
pub mod headers;

use std::fmt;
use std::sync::Arc;

/// A value from WeChat or a token is not shaped like an identity.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("not 6 to 64 letters, digits, `_` or `-`, or no phone number")]
pub struct InvalidIdentity;

/// Whether `text` is an openid, unionid or appid: `[A-Za-z0-9_-]{6,64}`.
///
/// These values become header values, log keys and cache keys, so that nothing else may pass.
pub fn is_identity(text: &str) -> bool {
    (6..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text if it is `[A-Za-z0-9_-]{6,64}`.
            ///
            /// # Errors
            /// [`InvalidIdentity`] for anything else.
            pub fn parse(text: &str) -> Result<Self, InvalidIdentity> {
                if is_identity(text) { Ok(Self(text.into())) } else { Err(InvalidIdentity) }
            }

            /// The text as WeChat wrote it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            // An openid may stand in no log at any level; who needs the value asks for it.
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(concat!("[", stringify!($name), "]"))
            }
        }
    };
}

identity!(
    /// A user of one app, as WeChat names them.
    OpenId
);
identity!(
    /// A mini program, official account or website, as WeChat names it.
    AppId
);
identity!(
    /// A user over all apps of one Open Platform account.
    UnionId
);

/// A phone number that WeChat verified for the caller: digits, `+`, `-` and spaces, at most 32.
#[derive(Clone, PartialEq, Eq)]
pub struct Phone(Arc<str>);

impl Phone {
    /// Takes the text if it is shaped so; it becomes a header.
    ///
    /// # Errors
    /// [`InvalidIdentity`] for anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidIdentity> {
        let plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b' ');
        let ends = text.starts_with(' ') || text.ends_with(' ');
        if (1..=32).contains(&text.len()) && text.bytes().all(plain) && !ends {
            Ok(Self(text.into()))
        } else {
            Err(InvalidIdentity)
        }
    }

    /// The number as WeChat wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Phone {
    // It may stand in no log at any level.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[Phone]")
    }
}

/// Who is calling, proven by a token: what `identity::headers` tells the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub openid: OpenId,
    /// The app that the user logged in to.
    pub appid: AppId,
    /// The user over all apps, where WeChat gave one.
    pub unionid: Option<UnionId>,
    /// The session's id, `[A-Za-z0-9_-]{22}`.
    pub sid: Arc<str>,
}
