//! Which pages of other sites a browser lets read an answer: the Fetch standard's CORS protocol.
//!
//! It keeps nobody out: a browser obeys it, a program does not. So it never stands in place of a
//! token, and a preflight that is answered opens nothing.

use crate::config::{self, Origin};

/// What pages may always read besides the harmless headers.
const EXPOSED: &str = "X-Session-Expires-In, X-Request-Id, Retry-After";

/// `cors` of a route or of `[login]`, ready for use.
#[derive(Clone, Debug)]
pub struct Cors {
    origins: Vec<Origin>,
    methods: String,
    headers: String,
    exposed: String,
    credentials: bool,
    max_age: String,
}

/// A header of an answer.
pub type Line = (&'static str, String);

impl Cors {
    /// Prepares what is written.
    pub fn new(cors: &config::Cors) -> Self {
        let exposed = std::iter::once(EXPOSED).chain(cors.expose.iter().map(String::as_str));
        Self {
            origins: cors.origins.clone(),
            methods: cors.methods.join(", "),
            headers: cors.headers.join(", "),
            exposed: exposed.collect::<Vec<_>>().join(", "),
            credentials: cors.credentials,
            max_age: cors.max_age.as_secs().to_string(),
        }
    }

    /// Whether pages of this origin, as the Origin header has it, may read answers.
    pub fn permits(&self, origin: &str) -> bool {
        self.origins.iter().any(|permitted| match permitted {
            Origin::Any => true,
            Origin::Exact(exact) => exact == origin,
            Origin::Below { scheme, suffix } => origin
                .strip_prefix(scheme.as_str())
                .and_then(|rest| rest.strip_suffix(suffix.as_str()))
                .is_some_and(is_labels),
        })
    }

    /// The headers of an answer to a request that a page of this origin sent, or that no page sent.
    pub fn lines(&self, origin: Option<&str>) -> Vec<Line> {
        let permission = self.permission(origin);
        let exposed = (!permission.is_empty())
            .then(|| ("Access-Control-Expose-Headers", self.exposed.clone()));
        self.varying("Origin").into_iter().chain(permission).chain(exposed).collect()
    }

    /// The headers of the answer to a preflight from a page of this origin, which is permitted.
    pub fn preflight_lines(&self, origin: &str) -> Vec<Line> {
        const ASKED: &str = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
        let mut lines: Vec<Line> = self.varying(ASKED).into_iter().collect();
        lines.extend(self.permission(Some(origin)));
        lines.push(("Access-Control-Allow-Methods", self.methods.clone()));
        if !self.headers.is_empty() {
            lines.push(("Access-Control-Allow-Headers", self.headers.clone()));
        }
        lines.push(("Access-Control-Max-Age", self.max_age.clone()));
        lines
    }

    /// An answer that names one origin must not be kept for another, nor one that names none.
    fn varying(&self, by: &str) -> Option<Line> {
        (!self.permits_all()).then(|| ("Vary", by.to_owned()))
    }

    fn permission(&self, origin: Option<&str>) -> Vec<Line> {
        const ALLOW: &str = "Access-Control-Allow-Origin";
        if self.permits_all() {
            return vec![(ALLOW, "*".to_owned())];
        }
        let Some(origin) = origin.filter(|origin| self.permits(origin)) else { return Vec::new() };
        let mut lines = vec![(ALLOW, origin.to_owned())];
        if self.credentials {
            lines.push(("Access-Control-Allow-Credentials", "true".to_owned()));
        }
        lines
    }

    fn permits_all(&self) -> bool {
        self.origins.contains(&Origin::Any)
    }
}

/// One or more labels of a host as browsers write it, with dots between them.
fn is_labels(text: &str) -> bool {
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    text.split('.').all(|label| !label.is_empty() && label.bytes().all(fits))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cors(origins: Vec<Origin>, credentials: bool) -> Cors {
        Cors::new(&config::Cors {
            origins,
            methods: vec!["GET".to_owned(), "PUT".to_owned()],
            headers: vec!["Authorization".to_owned()],
            expose: vec!["X-Total".to_owned()],
            credentials,
            max_age: Duration::from_mins(10),
        })
    }

    #[test]
    fn origins_are_compared_to_the_letter_and_wildcards_stand_for_whole_labels() {
        let exact = Origin::Exact("https://h5.example.com".to_owned());
        let (scheme, suffix) = ("https://".to_owned(), ".shop.test:8443".to_owned());
        let cors = cors(vec![exact, Origin::Below { scheme, suffix }], true);
        for origin in
            ["https://h5.example.com", "https://a.shop.test:8443", "https://a.b-1.shop.test:8443"]
        {
            assert!(cors.permits(origin), "{origin}");
        }
        for origin in [
            "",
            "null",
            "*",
            "http://h5.example.com",
            "https://h5.example.com:443",
            "https://h5.example.com.evil.test",
            "https://H5.example.com",
            "https://evil.test/https://h5.example.com",
            "https://shop.test:8443",
            "https://.shop.test:8443",
            "https://a..shop.test:8443",
            "https://evil.test/a.shop.test:8443",
            "https://evil.test#.shop.test:8443",
            "https://user@a.shop.test:8443",
            "https://a.shop.test",
            "https://a.shop.test:84430",
            "http://a.shop.test:8443",
        ] {
            assert!(!cors.permits(origin), "{origin}");
        }
    }

    #[test]
    fn an_answer_for_one_origin_is_for_no_other() {
        let cors = cors(vec![Origin::Exact("https://a.test".to_owned())], true);
        let vary = ("Vary", "Origin".to_owned());
        assert_eq!(cors.lines(None), std::slice::from_ref(&vary));
        assert_eq!(cors.lines(Some("https://b.test")), std::slice::from_ref(&vary));
        let exposed = "X-Session-Expires-In, X-Request-Id, Retry-After, X-Total".to_owned();
        let expected = [
            vary,
            ("Access-Control-Allow-Origin", "https://a.test".to_owned()),
            ("Access-Control-Allow-Credentials", "true".to_owned()),
            ("Access-Control-Expose-Headers", exposed),
        ];
        assert_eq!(cors.lines(Some("https://a.test")), expected);
    }

    #[test]
    fn an_answer_for_everybody_does_not_vary() {
        let cors = cors(vec![Origin::Any], false);
        assert!(cors.permits("https://anybody.test"));
        let names = |lines: Vec<Line>| lines.into_iter().map(|line| line.0).collect::<Vec<_>>();
        let expected = ["Access-Control-Allow-Origin", "Access-Control-Expose-Headers"];
        assert_eq!(names(cors.lines(None)), expected);
        let expected = [
            "Access-Control-Allow-Origin",
            "Access-Control-Allow-Methods",
            "Access-Control-Allow-Headers",
            "Access-Control-Max-Age",
        ];
        assert_eq!(names(cors.preflight_lines("https://anybody.test")), expected);
    }
}
