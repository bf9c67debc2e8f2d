//! The cookies of one session and one upstream: what a backend's `Set-Cookie` does to them, and
//! which of them a request is sent with (RFC 6265, as `cookie_store` reads it).
//!
//! A backend that sets too many loses those that were set longest ago, as in a browser.

use std::fmt;

use cookie_store::Cookie;
use url::Url;
use zeroize::Zeroizing;

use super::cookie_date::with_plain_dates;

/// Most cookies of a jar.
const MOST_COOKIES: usize = 50;
/// Most bytes of all names and values of a jar.
const MOST_BYTES: usize = 16 * 1024;
/// Most bytes of the name and value of one cookie: what browsers take (RFC 6265bis section 5.7).
const MOST_BYTES_OF_ONE: usize = 4096;
/// Most bytes of one `Set-Cookie`, so that no attribute is kept that nobody needs.
const MOST_BYTES_OF_LINE: usize = MOST_BYTES_OF_ONE + 1024;

/// A jar. Cookies are text in which each character stands for one byte: what backends write need
/// not be UTF-8, and goes back as it came.
#[derive(Clone, Default)]
pub struct CookieJar(
    /// In the order in which they were set.
    Vec<Cookie<'static>>,
);

impl fmt::Debug for CookieJar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CookieJar").finish_non_exhaustive()
    }
}

impl CookieJar {
    /// Reads what [`CookieJar::write`] wrote; what it did not write is an empty jar.
    pub(super) fn read(written: &[u8]) -> Self {
        Self(serde_json::from_slice(written).unwrap_or_default())
    }

    /// `None`: a cookie holds a time that cannot be written.
    pub(super) fn write(&self) -> Option<Zeroizing<Vec<u8>>> {
        serde_json::to_vec(&self.0).ok().map(Zeroizing::new)
    }

    /// Names and values of the cookies that a request to `url` is sent with: those of longer
    /// paths first (RFC 6265 section 5.4), which is where PHP looks.
    pub fn matching(&self, url: &Url) -> Vec<(Vec<u8>, Vec<u8>)> {
        let fits = |cookie: &&Cookie<'_>| !cookie.is_expired() && cookie.matches(url);
        let mut cookies: Vec<_> = self.0.iter().filter(fits).collect();
        cookies.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        cookies.iter().map(|cookie| (bytes(cookie.name()), bytes(cookie.value()))).collect()
    }

    /// Does what a `Set-Cookie` in the answer of `url` says, unless it names one of `never`; what
    /// is malformed, too long or meant for another host is passed over.
    pub fn set(&mut self, line: &[u8], url: &Url, never: &[&str]) {
        if line.len() > MOST_BYTES_OF_LINE {
            return;
        }
        let text: String = line.iter().copied().map(char::from).collect();
        // The parser knows but a few ways to write a time, and how a backend deletes a cookie must
        // not be among those that it passes over.
        let text = with_plain_dates(&text);
        let Ok(cookie) = Cookie::parse(&*text, url) else { return };
        if never.contains(&cookie.name()) || size(&cookie) > MOST_BYTES_OF_ONE {
            return;
        }
        let is_same = |other: &Cookie<'_>| {
            other.name() == cookie.name()
                && other.path.as_ref() == cookie.path.as_ref()
                && other.domain.as_cow() == cookie.domain.as_cow()
        };
        self.0.retain(|other| !is_same(other) && !other.is_expired());
        if !cookie.is_expired() {
            self.0.push(cookie.into_owned());
        }
        let too_much = |jar: &[Cookie<'_>]| {
            jar.len() > MOST_COOKIES || jar.iter().map(size).sum::<usize>() > MOST_BYTES
        };
        let excess = (0..self.0.len()).find(|first| !too_much(self.0.get(*first..).unwrap_or(&[])));
        self.0.drain(..excess.unwrap_or(0));
    }
}

fn size(cookie: &Cookie<'_>) -> usize {
    cookie.name().chars().count() + cookie.value().chars().count()
}

fn bytes(text: &str) -> Vec<u8> {
    text.chars().filter_map(|character| u8::try_from(character).ok()).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn url(path: &str) -> Url {
        Url::parse("https://shop.test").unwrap().join(path).unwrap()
    }

    /// A jar after these lines, each in an answer to the path before it.
    fn jar(lines: &[(&str, &str)]) -> CookieJar {
        let mut jar = CookieJar::default();
        for (path, line) in lines {
            jar.set(line.as_bytes(), &url(path), &["wxgate_session"]);
            jar = CookieJar::read(&jar.write().unwrap());
        }
        jar
    }

    fn sent(jar: &CookieJar, path: &str) -> String {
        let pairs = jar.matching(&url(path));
        let pairs = pairs.into_iter().map(|(name, value)| [name, value].join(&b'='));
        String::from_utf8(pairs.collect::<Vec<_>>().join(&b"; "[..])).unwrap()
    }

    #[test]
    fn a_cookie_goes_where_its_path_says() {
        let jar = jar(&[
            ("/shop/cart", "default=1"),
            ("/shop/cart", "root=2; Path=/"),
            ("/shop/cart", "else=3; path=/admin"),
            ("/shop/cart", "bad=4; Path=admin"),
        ]);
        assert_eq!(sent(&jar, "/shop"), "default=1; bad=4; root=2");
        assert_eq!(sent(&jar, "/shop/x/y"), "default=1; bad=4; root=2");
        assert_eq!(sent(&jar, "/shopping"), "root=2");
        assert_eq!(sent(&jar, "/admin/?a=/shop/"), "else=3; root=2");
        assert_eq!(sent(&jar, "/"), "root=2");
    }

    #[test]
    fn a_cookie_is_replaced_and_deleted_by_name_path_and_domain() {
        let jar = jar(&[
            ("/", "a=1"),
            ("/", "b=1; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"),
            ("/x/", "a=other; Path=/x"),
            ("/", "a=2"),
            ("/", "c=1"),
            ("/", "c=; expires=Thu, 01 Jan 1970 00:00:00 GMT"),
            ("/", "b=gone; Max-Age=0; Path=/x"),
        ]);
        assert_eq!(sent(&jar, "/"), "b=1; a=2");
        assert_eq!(sent(&jar, "/x"), "a=other; b=1; a=2");
    }

    #[test]
    fn a_cookie_is_deleted_however_its_backend_writes_the_past() {
        for past in [
            "Thu, 1 Jan 1970 00:00:00 GMT",
            "Thu Jan 1 00:00:00 1970",
            "thu, 01 jan 1970 00:00:00 gmt",
            "01 Jan 1970 00:00:00",
            "Thu, 01 Jan 1970 00:00:00 UTC",
            "Thu, 01 Jan 1970 00:00:00 +0000",
            "Thursday, 01 January 1970 00:00:00 GMT",
        ] {
            let deleted = format!("a=; expires={past}; Path=/");
            assert_eq!(sent(&jar(&[("/", "a=1; Path=/"), ("/", &deleted)]), "/"), "", "{past}");
        }
        let kept = jar(&[
            ("/", "a=1; expires=Thu, 1 Jan 1970 00:00:00 GMT; Max-Age=60"),
            ("/", "b=1; expires=Fri Jan 1 00:00:00 2100"),
            ("/", "c=1; expires=never"),
        ]);
        assert_eq!(sent(&kept, "/"), "a=1; b=1; c=1");
    }

    #[test]
    fn a_cookie_is_for_its_host_or_the_domain_that_it_names() {
        let jar = jar(&[
            ("/", "own=1"),
            ("/", "wide=1; Domain=shop.test"),
            ("/", "above=1; Domain=.test"),
            ("/", "foreign=1; Domain=evil.test"),
            ("/", "longer=1; Domain=x.shop.test"),
        ]);
        assert_eq!(sent(&jar, "/"), "own=1; wide=1; above=1");
        let elsewhere = |host: &str| {
            let url = Url::parse(&format!("https://{host}/")).unwrap();
            jar.matching(&url).len()
        };
        assert_eq!(elsewhere("x.shop.test"), 2);
        assert_eq!(elsewhere("evil.test"), 1);
        assert_eq!(elsewhere("xshop.test"), 1);
        assert_eq!(elsewhere("shop.test:8443"), 3);
    }

    #[test]
    fn a_cookie_past_its_time_is_not_sent_and_leaves_with_the_next_change() {
        let soon = "a=1; Max-Age=1";
        let mut jar = jar(&[("/", soon), ("/", "b=1")]);
        assert_eq!(sent(&jar, "/"), "a=1; b=1");
        std::thread::park_timeout(std::time::Duration::from_millis(1100));
        assert_eq!(sent(&jar, "/"), "b=1");
        jar.set(b"c=1", &url("/"), &[]);
        assert_eq!(jar.0.len(), 2);
    }

    #[test]
    fn bytes_that_are_no_text_go_back_as_they_came() {
        let mut jar = CookieJar::default();
        jar.set(b"name=\xd0\xd5\xc3\xfb; Path=/", &url("/"), &[]);
        jar.set(b"quoted=\"a b, c\"", &url("/"), &[]);
        let jar = CookieJar::read(&jar.write().unwrap());
        let expected = [
            (b"name".to_vec(), b"\xd0\xd5\xc3\xfb".to_vec()),
            (b"quoted".to_vec(), b"\"a b, c\"".to_vec()),
        ];
        assert_eq!(jar.matching(&url("/")), expected);
    }

    #[test]
    fn what_is_no_cookie_or_ours_is_passed_over() {
        let huge = format!("huge={}", "x".repeat(MOST_BYTES_OF_ONE));
        let long = format!("long=1; Comment={}", "x".repeat(MOST_BYTES_OF_LINE));
        let jar = jar(&[
            ("/", ""),
            ("/", ";"),
            ("/", "no-value"),
            ("/", "=nameless"),
            ("/", "wxgate_session=stolen"),
            ("/", &huge),
            ("/", &long),
            ("/", "kept=1"),
        ]);
        assert_eq!(sent(&jar, "/"), "kept=1");
    }

    #[test]
    fn a_jar_is_bounded_and_keeps_what_was_set_last() {
        let mut jar = CookieJar::default();
        for number in 0..60 {
            jar.set(format!("c{number}=1").as_bytes(), &url("/"), &[]);
        }
        jar.set(b"c10=again", &url("/"), &[]);
        let text = sent(&jar, "/");
        assert_eq!(jar.0.len(), MOST_COOKIES);
        assert!(text.starts_with("c11=1; ") && text.ends_with("; c59=1; c10=again"), "{text}");
        for number in 0..5 {
            let line = format!("big{number}={}", "x".repeat(4000));
            jar.set(line.as_bytes(), &url("/"), &[]);
        }
        let names = jar.0.iter().map(|cookie| cookie.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(names, ["big1", "big2", "big3", "big4"]);
    }

    #[test]
    fn what_was_not_written_here_is_an_empty_jar() {
        for written in [&b""[..], b"[", b"{}", b"[{}]", b"\xff"] {
            assert!(CookieJar::read(written).0.is_empty());
        }
    }
}
