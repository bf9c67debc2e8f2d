//! How one access-log line is written: as JSON, or in the NCSA combined format.
//!
//! What a client chose (host, path, user agent, referer) may hold quotes, line ends, terminal
//! escapes or bytes that are no text; none of them gets out of its field here.

use std::borrow::Cow;
use std::cell::Cell;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use super::route_metrics::AuthResult;
use super::user_hash::HashedUser;

/// One answered request. Nothing in it may be a token, a login code or an openid.
#[derive(Clone, Copy, Debug)]
pub struct AccessLine<'a> {
    /// When the answer was complete, in milliseconds since 1970-01-01T00:00:00Z.
    pub unix_millis: u64,
    /// The request's id, as the upstream and the client see it.
    pub request_id: &'a str,
    /// Who really called, behind any trusted proxy.
    pub client: IpAddr,
    /// The method as it came.
    pub method: &'a [u8],
    /// The Host header as it came.
    pub host: &'a [u8],
    /// The path as it came. A query is left out, also when it stands here.
    pub path: &'a [u8],
    /// `HTTP/1.1` and so on; in the combined format only.
    pub protocol: &'a str,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// From the first byte of the request to the last of the answer.
    pub duration: Duration,
    /// The name of the route, if one was found.
    pub route: Option<&'a str>,
    /// The name of the upstream, if the request was meant for one.
    pub upstream: Option<&'a str>,
    /// The server that answered, as it is written in the configuration.
    pub server: Option<&'a str>,
    /// What became of the request's authentication, if it came that far.
    pub auth: Option<AuthResult>,
    /// Who was logged in.
    pub user: Option<HashedUser>,
    /// The User-Agent header.
    pub user_agent: Option<&'a [u8]>,
    /// The Referer header. Its query and fragment are left out: codes and tokens stand there.
    pub referer: Option<&'a [u8]>,
}

/// Adds the line as one JSON object and a line end. A field that does not apply is `null`.
pub(super) fn append_json(line: &AccessLine<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"ts\":\"");
    append_second(out, line.unix_millis, Form::Rfc3339);
    out.push(b'.');
    append_thousandths(out, line.unix_millis % 1000);
    out.extend_from_slice(b"Z\"");
    json_field(out, b",\"request_id\":", Some(line.request_id.as_bytes()));
    out.extend_from_slice(b",\"client\":\"");
    append_address(out, line.client);
    out.push(b'"');
    json_field(out, b",\"method\":", Some(line.method));
    json_field(out, b",\"host\":", Some(line.host));
    json_field(out, b",\"path\":", Some(&without_tokens(before_query(line.path))));
    json_number(out, b",\"status\":", line.status.into());
    json_number(out, b",\"bytes_in\":", line.bytes_in);
    json_number(out, b",\"bytes_out\":", line.bytes_out);
    let micros = u64::try_from(line.duration.as_micros()).unwrap_or(u64::MAX);
    json_number(out, b",\"duration_ms\":", micros / 1000);
    out.push(b'.');
    append_thousandths(out, micros % 1000);
    json_field(out, b",\"route\":", line.route.map(str::as_bytes));
    json_field(out, b",\"upstream\":", line.upstream.map(str::as_bytes));
    json_field(out, b",\"server\":", line.server.map(str::as_bytes));
    json_field(out, b",\"auth\":", line.auth.map(|auth| auth.as_str().as_bytes()));
    json_field(out, b",\"user\":", line.user.as_ref().map(HashedUser::as_bytes));
    json_field(out, b",\"user_agent\":", line.user_agent.map(without_tokens).as_deref());
    let referer = line.referer.map(before_query).map(without_tokens);
    json_field(out, b",\"referer\":", referer.as_deref());
    out.extend_from_slice(b"}\n");
}

/// Adds the line as nginx and Apache write `combined`, with the user's hash as the user.
pub(super) fn append_combined(line: &AccessLine<'_>, out: &mut Vec<u8>) {
    append_address(out, line.client);
    out.extend_from_slice(b" - ");
    out.extend_from_slice(line.user.as_ref().map_or(b"-", HashedUser::as_bytes));
    out.extend_from_slice(b" [");
    append_second(out, line.unix_millis, Form::Combined);
    out.extend_from_slice(b" +0000] \"");
    append_quoted(out, line.method);
    out.push(b' ');
    append_quoted(out, &without_tokens(before_query(line.path)));
    out.push(b' ');
    append_quoted(out, line.protocol.as_bytes());
    out.extend_from_slice(b"\" ");
    append_decimal(out, line.status.into());
    out.push(b' ');
    append_decimal(out, line.bytes_out);
    out.extend_from_slice(b" \"");
    append_quoted(out, &without_tokens(line.referer.map_or(b"-", before_query)));
    out.extend_from_slice(b"\" \"");
    append_quoted(out, &without_tokens(line.user_agent.unwrap_or(b"-")));
    out.extend_from_slice(b"\"\n");
}

fn before_query(target: &[u8]) -> &[u8] {
    target.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default()
}

/// How a JWT begins: `{"` in base64url.
const JWT: &[u8] = b"eyJ";

/// A client may write its token anywhere; what looks like a JWT, of whatever issuer, stands in no
/// line.
fn without_tokens(value: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = find_jwt(value) else { return Cow::Borrowed(value) };
    let (plain, mut rest) = value.split_at(first);
    let mut kept = plain.to_vec();
    loop {
        // Up to the end of the word; a path may hold its dots escaped.
        let is_of_it = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.%=".contains(byte);
        let length = rest.iter().position(|byte| !is_of_it(byte)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        kept.extend_from_slice(if dots(word) >= 2 { b"[token]" } else { word });
        let Some(next) = find_jwt(after) else {
            kept.extend_from_slice(after);
            return Cow::Owned(kept);
        };
        let (plain, others) = after.split_at(next);
        kept.extend_from_slice(plain);
        rest = others;
    }
}

/// By its last letter, which is rare where there is no token. A value may be long and chosen so
/// that everything begins like one: nothing here costs more than a look at each byte.
fn find_jwt(value: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'J', value)
        .filter_map(|at| at.checked_sub(JWT.len() - 1))
        .find(|start| value.get(*start..).is_some_and(|rest| rest.starts_with(JWT)))
}

fn dots(word: &[u8]) -> usize {
    let escaped = word.windows(3).filter(|three| three.eq_ignore_ascii_case(b"%2e"));
    memchr::memchr_iter(b'.', word).count() + escaped.count()
}

fn json_field(out: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    out.extend_from_slice(key);
    let Some(value) = value else { return out.extend_from_slice(b"null") };
    out.push(b'"');
    if all_plain(value) {
        out.extend_from_slice(value);
    } else {
        append_escaped(out, value);
    }
    out.push(b'"');
}

fn json_number(out: &mut Vec<u8>, key: &[u8], value: u64) {
    out.extend_from_slice(key);
    append_decimal(out, value);
}

/// Nearly every value is plain; the test has no early exit so that it runs on wide registers.
fn all_plain(value: &[u8]) -> bool {
    value.iter().fold(true, |plain, byte| plain & is_plain(*byte))
}

const fn is_plain(byte: u8) -> bool {
    (byte >= b' ') & (byte < 0x7f) & (byte != b'"') & (byte != b'\\')
}

/// JSON's own escapes, and besides every control character: C1 and DEL move a terminal's cursor,
/// U+2028 and U+2029 end a line for some readers. What is not UTF-8 becomes U+FFFD.
fn append_escaped(out: &mut Vec<u8>, value: &[u8]) {
    for chunk in value.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                control if control.is_control() || matches!(control, '\u{2028}' | '\u{2029}') => {
                    write!(out, "\\u{:04x}", u32::from(control)).unwrap_or_default();
                }
                plain => out.extend_from_slice(plain.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// As nginx escapes: `\xHH` for quotes, backslashes, and whatever is not printable ASCII.
fn append_quoted(out: &mut Vec<u8>, value: &[u8]) {
    if all_plain(value) {
        return out.extend_from_slice(value);
    }
    for byte in value {
        if is_plain(*byte) {
            out.push(*byte);
        } else {
            write!(out, "\\x{byte:02X}").unwrap_or_default();
        }
    }
}

fn append_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            append_decimal(out, first.into());
            for octet in rest {
                out.push(b'.');
                append_decimal(out, octet.into());
            }
        }
        IpAddr::V6(address) => write!(out, "{address}").unwrap_or_default(),
    }
}

fn append_decimal(out: &mut Vec<u8>, value: u64) {
    let start = out.len();
    let mut rest = value;
    loop {
        out.push(digit(rest));
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if let Some(digits) = out.get_mut(start..) {
        digits.reverse();
    }
}

fn append_thousandths(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&[digit(value / 100), digit(value / 10), digit(value)]);
}

const fn digit(value: u64) -> u8 {
    // The remainder is below 10, so nothing is cut off.
    b'0' + (value % 10) as u8
}

/// How a second is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `2026-11-21T09:08:07`
    Rfc3339,
    /// `21/Nov/2026:09:08:07`
    Combined,
}

impl Form {
    const fn pattern(self) -> &'static str {
        match self {
            Self::Rfc3339 => "%Y-%m-%dT%H:%M:%S",
            Self::Combined => "%d/%b/%Y:%H:%M:%S",
        }
    }
}

/// The second that this thread wrote last: a busy thread writes the same one thousands of times.
#[derive(Clone, Copy)]
struct Second {
    unix: u64,
    form: Form,
    text: [u8; 20],
    length: usize,
}

thread_local! {
    static LAST: Cell<Option<Second>> = const { Cell::new(None) };
}

fn append_second(out: &mut Vec<u8>, unix_millis: u64, form: Form) {
    let unix = unix_millis / 1000;
    let second = match LAST.get() {
        Some(last) if last.unix == unix && last.form == form => last,
        Some(_) | None => {
            let fresh = Second::format(unix, form);
            LAST.set(Some(fresh));
            fresh
        }
    };
    out.extend_from_slice(second.text.get(..second.length).unwrap_or_default());
}

impl Second {
    fn format(unix: u64, form: Form) -> Self {
        let timestamp = i64::try_from(unix)
            .ok()
            .and_then(|unix| jiff::Timestamp::from_second(unix).ok())
            .unwrap_or(jiff::Timestamp::MAX);
        let written = timestamp.strftime(form.pattern()).to_string();
        let mut second = Self { unix, form, text: [0; 20], length: 0 };
        for (slot, byte) in second.text.iter_mut().zip(written.bytes()) {
            *slot = byte;
            second.length += 1;
        }
        second
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::super::user_hash::UserHash;
    use super::*;

    const LINE: AccessLine<'static> = AccessLine {
        unix_millis: 1_795_252_087_045,
        request_id: "r-1",
        client: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)),
        method: b"POST",
        host: b"api.example.com",
        path: b"/api/me",
        protocol: "HTTP/1.1",
        status: 201,
        bytes_in: 0,
        bytes_out: 18_446_744_073_709_551_615,
        duration: Duration::from_micros(12_034),
        route: Some("api"),
        upstream: Some("php"),
        server: Some("127.0.0.1:8081"),
        auth: Some(AuthResult::Ok),
        user: None,
        user_agent: Some(b"curl/8"),
        referer: Some(b"https://servicewechat.com/wx01/1/page-frame.html?code=SECRET#SECRET"),
    };

    fn json(line: &AccessLine<'_>) -> String {
        let mut out = Vec::new();
        append_json(line, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn combined(line: &AccessLine<'_>) -> String {
        let mut out = Vec::new();
        append_combined(line, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_json_line_holds_every_field_in_the_documented_order() {
        let user = UserHash::new(b"key").hash("oAlice-000000000000000000001");
        let hash = std::str::from_utf8(user.as_bytes()).unwrap();
        assert_eq!(
            json(&AccessLine { user: Some(user), ..LINE }),
            format!(
                "{{\"ts\":\"2026-11-21T09:08:07.045Z\",\"request_id\":\"r-1\",\
                 \"client\":\"192.0.2.7\",\"method\":\"POST\",\"host\":\"api.example.com\",\
                 \"path\":\"/api/me\",\"status\":201,\"bytes_in\":0,\
                 \"bytes_out\":18446744073709551615,\"duration_ms\":12.034,\"route\":\"api\",\
                 \"upstream\":\"php\",\"server\":\"127.0.0.1:8081\",\"auth\":\"ok\",\
                 \"user\":\"{hash}\",\"user_agent\":\"curl/8\",\
                 \"referer\":\"https://servicewechat.com/wx01/1/page-frame.html\"}}\n"
            )
        );
    }

    #[test]
    fn a_field_that_does_not_apply_is_null() {
        let line = AccessLine {
            route: None,
            upstream: None,
            server: None,
            auth: None,
            user_agent: None,
            referer: None,
            ..LINE
        };
        let value: serde_json::Value = serde_json::from_str(&json(&line)).unwrap();
        for field in ["route", "upstream", "server", "auth", "user", "user_agent", "referer"] {
            assert!(value[field].is_null(), "{field}");
        }
        assert_eq!(value.as_object().unwrap().len(), 17);
    }

    #[test]
    fn a_combined_line_is_what_nginx_readers_expect() {
        assert_eq!(
            combined(&LINE),
            "192.0.2.7 - - [21/Nov/2026:09:08:07 +0000] \"POST /api/me HTTP/1.1\" 201 \
             18446744073709551615 \"https://servicewechat.com/wx01/1/page-frame.html\" \"curl/8\"\n"
        );
        let bare = AccessLine { user_agent: None, referer: None, ..LINE };
        assert!(combined(&bare).ends_with(" \"-\" \"-\"\n"));
    }

    #[test]
    fn combined_escapes_what_could_end_a_field_or_a_line() {
        let line = AccessLine { user_agent: Some(b"a\"b\\c\nd\x1be\xff"), ..LINE };
        assert!(combined(&line).ends_with("\"a\\x22b\\x5Cc\\x0Ad\\x1Be\\xFF\"\n"));
    }

    #[test]
    fn a_query_stands_in_no_line_even_if_it_was_handed_over() {
        let line = AccessLine { path: b"/api/me?token=SECRET", ..LINE };
        assert!(json(&line).contains("\"path\":\"/api/me\""));
        assert!(!json(&line).contains("SECRET"), "{}", json(&line));
        assert!(!combined(&line).contains("SECRET"), "{}", combined(&line));
    }

    #[test]
    fn what_looks_like_a_token_stands_in_no_line() {
        for (written, logged) in [
            ("eyJh.eyJz.c2ln-_A", "[token]"),
            ("/x/eyJh.eyJz.c2ln/y", "/x/[token]/y"),
            ("app/1 (Token=eyJh.eyJz.c2ln; eyJh.e30.)", "app/1 (Token=[token]; [token])"),
            ("/x/eyJh%2EeyJz%2ec2ln", "/x/[token]"),
            ("Bearer%20eyJh.eyJz.c2ln", "Bearer%20[token]"),
            ("/js/eyJ.min/eyJh.eyJz", "/js/eyJ.min/eyJh.eyJz"),
            ("heyJude eyJ", "heyJude eyJ"),
        ] {
            assert_eq!(&*without_tokens(written.as_bytes()), logged.as_bytes());
            let bytes = written.as_bytes();
            for line in [
                AccessLine { path: bytes, ..LINE },
                AccessLine { user_agent: Some(bytes), ..LINE },
                AccessLine { referer: Some(bytes), ..LINE },
            ] {
                for text in [json(&line), combined(&line)] {
                    assert!(text.contains(logged), "{text}");
                    assert!(!text.contains("c2ln"), "{text}");
                }
            }
        }
    }

    #[test]
    fn control_characters_of_every_kind_are_escaped_in_json() {
        let agent = "\0\u{1b}[2J\u{7f}\u{9b}\u{2028}\u{2029}é汉\"\\".as_bytes();
        let line = json(&AccessLine { user_agent: Some(agent), ..LINE });
        let expected = "\\u0000\\u001b[2J\\u007f\\u009b\\u2028\\u2029é汉\\\"\\\\";
        assert!(line.contains(expected), "{line}");
    }

    #[test]
    fn the_same_thread_writes_both_forms_and_later_seconds_right() {
        let later = AccessLine { unix_millis: LINE.unix_millis + 1000, ..LINE };
        assert!(json(&LINE).contains("09:08:07.045Z"));
        assert!(combined(&LINE).contains("21/Nov/2026:09:08:07 +0000"));
        assert!(json(&later).contains("09:08:08.045Z"));
        assert!(json(&AccessLine { unix_millis: 7, ..LINE }).contains("1970-01-01T00:00:00.007Z"));
        assert!(json(&AccessLine { unix_millis: u64::MAX, ..LINE }).contains("\"ts\":\"9999-12"));
    }

    #[test]
    fn an_address_is_written_as_std_writes_it() {
        for text in ["0.0.0.0", "255.255.255.255", "10.0.200.9", "::1", "2001:db8::7"] {
            let mut out = Vec::new();
            append_address(&mut out, text.parse().unwrap());
            assert_eq!(out, text.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_a_json_line_is_one_line_and_reads_back(
            agent in proptest::collection::vec(any::<u8>(), 0..200),
            host in ".*",
        ) {
            let line = AccessLine { user_agent: Some(&agent), host: host.as_bytes(), ..LINE };
            let text = json(&line);
            prop_assert!(!text.trim_end_matches('\n').chars().any(char::is_control));
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(value["host"].as_str().unwrap(), host);
            let lossy = String::from_utf8_lossy(&agent);
            prop_assert_eq!(value["user_agent"].as_str().unwrap(), lossy.as_ref());
        }

        #[test]
        fn numbers_are_written_as_std_writes_them(value in any::<u64>()) {
            let mut out = Vec::new();
            append_decimal(&mut out, value);
            prop_assert_eq!(out, value.to_string().into_bytes());
        }
    }
}
