//! What browsers say about themselves and the page that sent a request, and the cookie in which
//! they keep their session.

use std::fmt;
use std::time::Duration;

use url::Url;

use super::Answer;

/// Where a request's token stood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shown<'a> {
    /// Nowhere, or at a place that only a program fills.
    #[default]
    Deliberately,
    /// In the cookie of this name, which a browser sends whoever made the page.
    InCookie(&'a str),
}

/// What a browser says, and what is known of the way to it.
#[derive(Clone, Copy, Default)]
pub struct Browser<'a> {
    /// The query, without its `?`.
    pub query: &'a str,
    /// The Cookie headers, joined by `; `.
    pub cookies: &'a str,
    /// `http` or `https`, as the client speaks it.
    pub scheme: &'a str,
    /// Host and port, as the client asked for them.
    pub host: &'a str,
    /// The Origin header.
    pub origin: Option<&'a str>,
    /// Where the token stood.
    pub shown: Shown<'a>,
}

impl fmt::Debug for Browser<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Codes and tokens stand in queries and cookies.
        formatter.debug_struct("Browser").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

impl<'a> Browser<'a> {
    /// Whether a page of another site made the browser show the user's cookie. Browsers send
    /// Origin with every POST; a program that sends none is led by nobody.
    pub(super) fn is_led_by_another_site(&self) -> bool {
        match (self.shown, self.origin) {
            (Shown::InCookie(_), Some(origin)) => !self.is_own(origin),
            (Shown::InCookie(_), None) | (Shown::Deliberately, _) => false,
        }
    }

    /// By host and port alone: TLS may end in front of us, at a proxy that does not say so.
    fn is_own(&self, origin: &str) -> bool {
        let Ok(origin) = Url::parse(origin) else { return false };
        let Ok(own) = Url::parse(&format!("{}://{}", origin.scheme(), self.host)) else {
            return false;
        };
        matches!(origin.scheme(), "http" | "https") && origin.origin() == own.origin()
    }

    /// The value of a cookie, the first of its name.
    pub(super) fn cookie(&self, name: &str) -> Option<&'a str> {
        let mut pairs = self.cookies.split(';').filter_map(|pair| pair.split_once('='));
        pairs.find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim())
    }

    /// The names of the cookies that begin so and are plain, the oldest first, as browsers send
    /// those of one path (RFC 6265 section 5.4).
    pub(super) fn cookies_named(
        &self,
        beginning: &'static str,
    ) -> impl DoubleEndedIterator<Item = &'a str> {
        let names = self.cookies.split(';').filter_map(|pair| pair.split_once('='));
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        names
            .map(|(name, _)| name.trim())
            .filter(move |name| name.starts_with(beginning) && name.bytes().all(is_plain))
    }

    /// The address of a page of this site; `path` begins with a slash.
    pub(super) fn address(&self, path: &str) -> Option<Url> {
        Url::parse(&format!("{}://{}{path}", self.scheme, self.host)).ok()
    }

    /// `Set-Cookie` for a cookie that no script can read and no other site's page can use.
    pub(super) fn set_cookie(&self, name: &str, value: &str, path: &str, life: Duration) -> String {
        let secure = if self.is_plain_loopback() { "" } else { "; Secure" };
        let age = life.as_secs();
        format!("{name}={value}; Path={path}; Max-Age={age}; HttpOnly{secure}; SameSite=Lax")
    }

    /// An answer after which a browser that showed a cookie has none.
    pub(super) fn forget(&self, answer: Answer) -> Answer {
        self.keep(answer, "", Duration::ZERO)
    }

    /// An answer after which a browser that showed a token in a cookie has this one in it.
    pub(super) fn keep(&self, answer: Answer, token: &str, life: Duration) -> Answer {
        match self.shown {
            Shown::InCookie(name) => {
                answer.saying("Set-Cookie", self.set_cookie(name, token, "/", life))
            }
            Shown::Deliberately => answer,
        }
    }

    /// Plain http to the machine itself: where a developer sits, and nobody can listen.
    fn is_plain_loopback(&self) -> bool {
        let own = self.address("/");
        self.scheme == "http"
            && match own.as_ref().and_then(Url::host) {
                Some(url::Host::Domain(name)) => name == "localhost",
                Some(url::Host::Ipv4(address)) => address.is_loopback(),
                Some(url::Host::Ipv6(address)) => address.is_loopback(),
                None => false,
            }
    }
}
