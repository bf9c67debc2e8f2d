//! One spelling for every path, before anything is decided by it.
//!
//! Gateway and backend must read a path alike: where `/public/..;/admin` is a public page to
//! one and the admin page to the other, nobody checks the token. So the path is brought into one
//! form, that form is routed and forwarded, and what backends are known to read differently is
//! refused.

use std::borrow::Cow;

/// A path in its one form. Neither spelling holds `//`, a dot segment, a backslash, a control
/// character or an escape of a letter, digit, `-`, `.`, `_` or `~`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a> {
    /// What the upstream gets: `;` parameters and all other escapes are as they came.
    pub forwarded: Cow<'a, str>,
    /// What rules are found by: without `;` parameters, and with one spelling for each byte, so
    /// that `/%e7%ae%a1/`, `/%E7%AE%A1/` and `/管/`, which a backend reads alike, fall under one
    /// rule. Compare it only with paths that went through [`normalise`] too.
    pub routed: Cow<'a, str>,
}

/// Why a path is refused. A caller's mistake or an attack: always a 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is empty, `*`, or a relative reference.
    #[error("the path does not begin with `/`")]
    NotAbsolute,
    /// `%2F`: some backends split there, others do not.
    #[error("the path holds an encoded slash")]
    EncodedSlash,
    /// `\` or `%5C`: some backends take it for a slash.
    #[error("the path holds a backslash")]
    Backslash,
    /// Bytes 0 to 31 and 127, raw or encoded.
    #[error("the path holds a control character")]
    Control,
    /// A raw space, `?` or `#`: the caller cut the request target wrongly, or the client sent
    /// what no path may hold.
    #[error("the path holds a space, `?` or `#`")]
    NotInPath,
    /// `%` without two hexadecimal digits.
    #[error("the path holds a `%` without two hexadecimal digits")]
    BadEscape,
    /// More `..` than there are segments before it.
    #[error("the path leads above the root")]
    AboveRoot,
    /// `/..;x/` or `/.;/`: Tomcat resolves it, others take it for a name.
    #[error("a dot segment of the path has parameters")]
    DotParameters,
}

/// Brings the path of a request, without its query, into its one form: escapes of unreserved
/// characters are decoded, repeated `/` folded, then `.` and `..` resolved.
///
/// Normalising [`NormalPath::forwarded`] again changes nothing. A path that is in its form
/// already costs one scan and no allocation. Control characters are those of ASCII.
///
/// # Errors
/// [`PathError`] for what gateways and backends are known to read differently.
pub fn normalise(path: &str) -> Result<NormalPath<'_>, PathError> {
    let work = scan(path)?;
    let forwarded = if work.decode || work.resolve {
        let resolved = if work.decode { resolve(&decode(path)?)? } else { resolve(path)? };
        // `/.well-known/` looked like work and was none.
        if resolved == path { Cow::Borrowed(path) } else { Cow::Owned(resolved) }
    } else {
        Cow::Borrowed(path)
    };
    let routed =
        if work.respell { Cow::Owned(routing_form(&forwarded)) } else { forwarded.clone() };
    Ok(NormalPath { forwarded, routed })
}

/// What is left of `forwarded` when the segments of `prefix` are taken off, `;` parameters of
/// these segments with them; at least `/`. A path that does not begin with these segments is
/// returned whole.
///
/// `forwarded` is a [`NormalPath::forwarded`], `prefix` a [`NormalPath::routed`] that does not
/// end in `/`.
pub fn below<'a>(forwarded: &'a str, prefix: &str) -> &'a str {
    let mut wanted = prefix.split('/').filter(|name| !name.is_empty()).peekable();
    let mut rest = forwarded;
    while let Some(name) = wanted.peek() {
        let Some(inner) = rest.strip_prefix('/') else { return forwarded };
        let end = inner.find('/').unwrap_or(inner.len());
        let Some((segment, tail)) = inner.split_at_checked(end) else { return forwarded };
        let found = without_parameters(segment);
        // Routing reads `/;x/api/` as `/api/`, so an empty name is passed over here too.
        if !found.is_empty() {
            let mut spelled = String::with_capacity(found.len());
            spell(found, &mut spelled);
            if spelled != *name {
                return forwarded;
            }
            wanted.next();
        }
        rest = tail;
    }
    if rest.is_empty() { "/" } else { rest }
}

/// What there is to do; all `false` for a path in its form.
#[derive(Default)]
struct Work {
    /// An escape of an unreserved character.
    decode: bool,
    /// `//`, or a segment that begins with a dot.
    resolve: bool,
    /// `;` parameters, or a byte that is not spelled as routing spells it.
    respell: bool,
}

fn scan(path: &str) -> Result<Work, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let mut work = Work::default();
    let mut bytes = path.bytes();
    let mut after_slash = false;
    while let Some(byte) = bytes.next() {
        let at_start = std::mem::replace(&mut after_slash, byte == b'/');
        match byte {
            b'/' | b'.' => work.resolve |= at_start,
            _ if has_no_escape(byte) => {}
            b'%' => {
                let escape = Escape::read(&mut bytes)?;
                work.decode |= is_unreserved(escape.byte);
                work.respell |= has_no_escape(escape.byte) || !escape.is_upper_case;
            }
            b'\\' => return Err(PathError::Backslash),
            0..=31 | 127 => return Err(PathError::Control),
            b' ' | b'?' | b'#' => return Err(PathError::NotInPath),
            // `;`, and what should have been encoded but is not: non-ASCII, `"`, `<`, `|` …
            _ => work.respell = true,
        }
    }
    Ok(work)
}

/// One `%XX` that may stand in a path.
struct Escape {
    byte: u8,
    is_upper_case: bool,
}

impl Escape {
    /// Reads the two digits after a `%`.
    fn read(digits: &mut impl Iterator<Item = u8>) -> Result<Self, PathError> {
        let mut is_upper_case = true;
        let mut digit = || {
            let digit = digits.next().ok_or(PathError::BadEscape)?;
            is_upper_case &= !digit.is_ascii_lowercase();
            let value = char::from(digit).to_digit(16).ok_or(PathError::BadEscape)?;
            u8::try_from(value).map_err(|_| PathError::BadEscape)
        };
        let byte = digit()? << 4 | digit()?;
        match byte {
            b'/' => Err(PathError::EncodedSlash),
            b'\\' => Err(PathError::Backslash),
            0..=31 | 127 => Err(PathError::Control),
            _ => Ok(Self { byte, is_upper_case }),
        }
    }
}

/// RFC 3986, section 2.3: encoded or not, these mean the same everywhere.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether routing spells the byte as itself: RFC 3986's `pchar` without `;`, which begins
/// parameters.
const fn has_no_escape(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
        )
}

/// Decodes escapes of unreserved characters, which are all ASCII.
fn decode(path: &str) -> Result<String, PathError> {
    let mut decoded = String::with_capacity(path.len());
    let mut pieces = path.split('%');
    decoded.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let escape = Escape::read(&mut piece.bytes())?;
        let after = piece.get(2..).ok_or(PathError::BadEscape)?;
        if is_unreserved(escape.byte) {
            decoded.push(char::from(escape.byte));
            decoded.push_str(after);
        } else {
            decoded.push('%');
            decoded.push_str(piece);
        }
    }
    Ok(decoded)
}

/// Folds repeated `/`, then resolves `.` and `..` as RFC 3986, section 5.2.4 does, but for `..`
/// above the root.
fn resolve(path: &str) -> Result<String, PathError> {
    let mut resolved = String::with_capacity(path.len());
    let mut ends_in_slash = false;
    for segment in path.split('/').skip(1) {
        // True only if it holds for the last segment.
        ends_in_slash = true;
        match segment {
            "" | "." => {}
            ".." => resolved.truncate(resolved.rfind('/').ok_or(PathError::AboveRoot)?),
            _ if is_dot_with_parameters(segment) => return Err(PathError::DotParameters),
            _ => {
                resolved.push('/');
                resolved.push_str(segment);
                ends_in_slash = false;
            }
        }
    }
    if ends_in_slash {
        resolved.push('/');
    }
    Ok(resolved)
}

/// `..;x`, `.;`, and these with the `;` encoded, since frameworks are known to decode first and
/// cut parameters after (Shiro, CVE-2020-13933).
fn is_dot_with_parameters(segment: &str) -> bool {
    ["..", "."].iter().filter_map(|dots| segment.strip_prefix(dots)).any(|rest| {
        rest.starts_with(';') || rest.get(..3).is_some_and(|rest| rest.eq_ignore_ascii_case("%3B"))
    })
}

fn without_parameters(segment: &str) -> &str {
    segment.split_once(';').map_or(segment, |(name, _)| name)
}

/// Leaves `;` parameters out, folds the empty segments that this makes (Tomcat reads
/// `/;x/admin` as `/admin`), and spells every byte in one way.
fn routing_form(forwarded: &str) -> String {
    let mut routed = String::with_capacity(forwarded.len());
    let mut ends_in_slash = false;
    for segment in forwarded.split('/').skip(1) {
        let name = without_parameters(segment);
        ends_in_slash = name.is_empty();
        if !name.is_empty() {
            routed.push('/');
            spell(name, &mut routed);
        }
    }
    if ends_in_slash {
        routed.push('/');
    }
    routed
}

/// Appends a segment's name, each byte in the spelling that routing uses.
fn spell(name: &str, spelled: &mut String) {
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            // Escapes that cannot be read were refused before.
            b'%' => Escape::read(&mut bytes).map_or(b'%', |escape| escape.byte),
            _ => byte,
        };
        if has_no_escape(byte) {
            spelled.push(char::from(byte));
        } else {
            spelled.push('%');
            for digit in [byte >> 4, byte & 15] {
                let digit = char::from_digit(digit.into(), 16).unwrap_or_default();
                spelled.push(digit.to_ascii_uppercase());
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::PathError::*;
    use super::*;
    use proptest::prelude::*;

    /// Path as sent, as forwarded, as routed.
    const TAKEN: &[(&str, &str, &str)] = &[
        // In its form already.
        ("/", "/", "/"),
        ("/a", "/a", "/a"),
        ("/a/", "/a/", "/a/"),
        ("/a/b.php/c-d_e~f", "/a/b.php/c-d_e~f", "/a/b.php/c-d_e~f"),
        ("/a!$&'()*+,=:@", "/a!$&'()*+,=:@", "/a!$&'()*+,=:@"),
        ("/.well-known/x", "/.well-known/x", "/.well-known/x"),
        ("/...", "/...", "/..."),
        ("/..a/.b/c./d..", "/..a/.b/c./d..", "/..a/.b/c./d.."),
        // Escapes of unreserved characters.
        ("/%61%41%30%2D%2d%5F%7E", "/aA0--_~", "/aA0--_~"),
        ("/adm%69n", "/admin", "/admin"),
        ("/%2ewell-known", "/.well-known", "/.well-known"),
        // Other escapes stay as they came; routing reads every spelling alike.
        ("/a%20b", "/a%20b", "/a%20b"),
        ("/%E7%AE%A1", "/%E7%AE%A1", "/%E7%AE%A1"),
        ("/%e7%ae%a1", "/%e7%ae%a1", "/%E7%AE%A1"),
        ("/管", "/管", "/%E7%AE%A1"),
        ("/%c4%e3", "/%c4%e3", "/%C4%E3"),
        ("/a%40b", "/a%40b", "/a@b"),
        ("/a@b", "/a@b", "/a@b"),
        ("/a|\"<>^`{}[]", "/a|\"<>^`{}[]", "/a%7C%22%3C%3E%5E%60%7B%7D%5B%5D"),
        ("/a%3Fb%23c", "/a%3Fb%23c", "/a%3Fb%23c"),
        ("/%252e%252E/%252F", "/%252e%252E/%252F", "/%252e%252E/%252F"),
        ("/%25%32%65", "/%252e", "/%252e"),
        // Folding, then dots.
        ("//", "/", "/"),
        ("//a///b//", "/a/b/", "/a/b/"),
        ("/a/.", "/a/", "/a/"),
        ("/a/./b", "/a/b", "/a/b"),
        ("/./a", "/a", "/a"),
        ("/.", "/", "/"),
        ("/a/..", "/", "/"),
        ("/a/../", "/", "/"),
        ("/a/../b", "/b", "/b"),
        ("/a/b/..", "/a/", "/a/"),
        ("/a/b/../../c", "/c", "/c"),
        ("/a//../b", "/b", "/b"),
        ("/a/%2e%2E/b", "/b", "/b"),
        ("/a/.%2e/b/%2e", "/b/", "/b/"),
        ("/a//.//../b", "/b", "/b"),
        // Parameters are forwarded and not routed.
        ("/a;x=1/b;y", "/a;x=1/b;y", "/a/b"),
        ("/a;jsessionid=%41", "/a;jsessionid=A", "/a"),
        ("/;x/admin", "/;x/admin", "/admin"),
        ("/a/;x", "/a/;x", "/a/"),
        ("/;", "/;", "/"),
        ("/;a/;b/", "/;a/;b/", "/"),
        ("/a;x/../b", "/b", "/b"),
        ("/a/;x/../b", "/a/b", "/a/b"),
        ("/a%3Bx", "/a%3Bx", "/a%3Bx"),
        ("/a%3bx;y", "/a%3bx;y", "/a%3Bx"),
        ("/...;x", "/...;x", "/..."),
        ("/a;..", "/a;..", "/a"),
        ("/a;/../b", "/b", "/b"),
    ];

    const REFUSED: &[(&str, PathError)] = &[
        ("", NotAbsolute),
        ("*", NotAbsolute),
        ("a/b", NotAbsolute),
        ("%2Fa", NotAbsolute),
        ("http://host/a", NotAbsolute),
        ("/a%2Fb", EncodedSlash),
        ("/a%2fb", EncodedSlash),
        ("/a;x=%2f", EncodedSlash),
        ("/a\\b", Backslash),
        ("/a%5Cb", Backslash),
        ("/a%5cb", Backslash),
        ("/a;\\", Backslash),
        ("/a\0", Control),
        ("/a%00", Control),
        ("/a%0d%0a", Control),
        ("/a%1F", Control),
        ("/a%7f", Control),
        ("/a\u{7f}", Control),
        ("/a\tb", Control),
        ("/a\r\nb", Control),
        ("/a b", NotInPath),
        ("/a?b", NotInPath),
        ("/a#b", NotInPath),
        ("/%", BadEscape),
        ("/%4", BadEscape),
        ("/%4/", BadEscape),
        ("/%zz", BadEscape),
        ("/%4g", BadEscape),
        ("/%%34%31", BadEscape),
        ("/%+4", BadEscape),
        ("/%你", BadEscape),
        ("/%u002e", BadEscape),
        ("/..", AboveRoot),
        ("/../", AboveRoot),
        ("/../a", AboveRoot),
        ("/a/../../b", AboveRoot),
        ("/a//../../b", AboveRoot),
        ("/%2e%2e/a", AboveRoot),
        ("/./..", AboveRoot),
        ("/a/..;/b", DotParameters),
        ("/a/..;x=1/b", DotParameters),
        ("/a/.;/b", DotParameters),
        ("/a/%2e%2e;x/b", DotParameters),
        ("/a/.%2E;", DotParameters),
        ("/..;", DotParameters),
        ("/a/..%3B/b", DotParameters),
        ("/a/%2e%3bx", DotParameters),
    ];

    #[test]
    fn a_path_is_forwarded_and_routed_in_its_one_form() {
        for (path, forwarded, routed) in TAKEN {
            let normal = normalise(path).unwrap();
            assert_eq!(normal.forwarded, *forwarded, "{path:?} as forwarded");
            assert_eq!(normal.routed, *routed, "{path:?} as routed");
        }
    }

    #[test]
    fn what_backends_read_differently_is_refused() {
        for (path, error) in REFUSED {
            assert_eq!(normalise(path), Err(*error), "{path:?}");
        }
    }

    #[test]
    fn a_path_in_its_form_is_borrowed() {
        for path in ["/", "/api/users/42", "/.well-known/x", "/%E7%AE%A1/", "/a%20b"] {
            let normal = normalise(path).unwrap();
            assert!(matches!(normal.forwarded, Cow::Borrowed(_)), "{path}");
            assert!(matches!(normal.routed, Cow::Borrowed(_)), "{path}");
        }
    }

    #[test]
    fn a_prefix_is_taken_off_with_the_parameters_of_its_segments() {
        for (path, prefix, left) in [
            ("/api/users", "/api", "/users"),
            ("/api/", "/api", "/"),
            ("/api", "/api", "/"),
            ("/api;v=1/users;x", "/api", "/users;x"),
            ("/;a/api/users", "/api", "/users"),
            ("/api/;a/users", "/api", "/;a/users"),
            ("/apix/users", "/api", "/apix/users"),
            ("/a", "/a/b", "/a"),
            ("/a/b/c", "/a/b", "/c"),
            ("/%e7%ae%a1/c", "/%E7%AE%A1", "/c"),
        ] {
            assert_eq!(below(path, prefix), left, "{path} below {prefix}");
        }
    }

    /// One byte of a path, as a backend reads it.
    struct Character {
        byte: u8,
        /// As it is forwarded.
        spelling: Vec<u8>,
        is_escaped: bool,
    }

    /// Decodes unreserved characters; none if a byte or an escape may not be in a path.
    fn characters(path: &str) -> Option<Vec<Character>> {
        let mut characters = Vec::new();
        let mut rest = path.as_bytes();
        while let [first, after @ ..] = rest {
            if *first == b'%' {
                let [high, low, after @ ..] = after else { return None };
                let digits = [*high, *low];
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                let byte = u8::from_str_radix(str::from_utf8(&digits).unwrap(), 16).unwrap();
                if byte == b'/' || byte == b'\\' || byte.is_ascii_control() {
                    return None;
                }
                let is_escaped = !byte.is_ascii_alphanumeric() && !b"-._~".contains(&byte);
                let spelling = if is_escaped { vec![b'%', *high, *low] } else { vec![byte] };
                characters.push(Character { byte, spelling, is_escaped });
                rest = after;
            } else {
                if b"\\ ?#".contains(first) || first.is_ascii_control() {
                    return None;
                }
                let spelling = vec![*first];
                characters.push(Character { byte: *first, spelling, is_escaped: false });
                rest = after;
            }
        }
        Some(characters)
    }

    /// The contract's sentence, done slowly, segment by segment: the path as forwarded and as
    /// routed; none where it is refused.
    fn slowly(path: &str) -> Option<(String, String)> {
        let characters = characters(path)?;
        let mut segments: Vec<(Vec<u8>, &[Character])> = characters
            .split(|character| character.byte == b'/')
            .map(|segment| (segment.iter().map(|character| character.byte).collect(), segment))
            .collect();
        if segments.len() < 2 || !segments.remove(0).0.is_empty() {
            return None;
        }
        let is_directory = [&b""[..], b".", b".."].contains(&&*segments.last()?.0);
        let mut kept: Vec<&[Character]> = Vec::new();
        for (bytes, segment) in segments {
            let name = bytes.split(|byte| *byte == b';').next()?;
            if [&b"."[..], b".."].contains(&name) && bytes.len() > name.len() {
                return None;
            } else if bytes == b".." {
                kept.pop()?;
            } else if bytes != b"." && !bytes.is_empty() {
                kept.push(segment);
            }
        }
        let mut forwarded = Vec::new();
        let mut names: Vec<String> = Vec::new();
        for segment in &kept {
            forwarded.push(b'/');
            forwarded.extend(segment.iter().flat_map(|character| &character.spelling));
            let is_name = |character: &&Character| character.byte != b';' || character.is_escaped;
            names.push(segment.iter().take_while(is_name).map(routed_spelling).collect());
        }
        if is_directory {
            forwarded.push(b'/');
        }
        let ends_in_slash = is_directory || names.last()?.is_empty();
        names.retain(|name| !name.is_empty());
        let mut routed: String = names.iter().map(|name| format!("/{name}")).collect();
        if ends_in_slash {
            routed.push('/');
        }
        Some((String::from_utf8(forwarded).unwrap(), routed))
    }

    fn routed_spelling(character: &Character) -> String {
        match character.byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(character.byte).to_string(),
            byte if b"-._~!$&'()*+,=:@".contains(&byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        }
    }

    /// Paths made of what matters to a normaliser, most of them not refused.
    fn odd_path() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            8 => Just("/"),
            6 => prop::sample::select(vec!["a", "b", "admin", "%61", "%2d", "你", "%E4", "%e4%bd"]),
            4 => prop::sample::select(vec![".", "..", "%2e", "%2E", "/../", "/./", "/%2e%2e/"]),
            3 => prop::sample::select(vec![";", ";x", ";x=1", "/;", "%3B", "%3b", "/a;x/"]),
            3 => prop::sample::select(vec!["@", "%40", "%25", "%252e", "%20", "|", "[", "%5B"]),
            1 => prop::sample::select(vec!["%2F", "\\", "%5c", "%00", "%7f", " ", "#", "?", "%", "%4"]),
        ];
        prop::collection::vec(piece, 0..10).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn the_normaliser_agrees_with_the_slow_one(path in odd_path()) {
            let fast = normalise(&path).ok();
            let fast = fast.map(|path| (path.forwarded.into_owned(), path.routed.into_owned()));
            prop_assert_eq!(fast, slowly(&path));
        }

        #[test]
        fn the_normaliser_agrees_with_the_slow_one_on_any_text(path in "/?\\PC{0,20}") {
            let fast = normalise(&path).ok();
            let fast = fast.map(|path| (path.forwarded.into_owned(), path.routed.into_owned()));
            prop_assert_eq!(fast, slowly(&path));
        }

        #[test]
        fn normalising_twice_is_normalising_once(path in odd_path()) {
            if let Ok(once) = normalise(&path) {
                let twice = normalise(&once.forwarded).unwrap();
                prop_assert_eq!(&twice, &once, "what is forwarded has the same route");
                let routed = normalise(&once.routed).unwrap();
                prop_assert_eq!(&routed.routed, &once.routed);
                prop_assert_eq!(&routed.forwarded, &once.routed);
            }
        }

        #[test]
        fn nothing_ambiguous_is_left(path in odd_path()) {
            if let Ok(normal) = normalise(&path) {
                for text in [&normal.forwarded, &normal.routed] {
                    let closed = format!("{text}/").replace("%2E", ".").replace("%2e", ".");
                    prop_assert!(text.starts_with('/'));
                    prop_assert!(!text.contains("//"), "{}", text);
                    prop_assert!(!closed.contains("/./") && !closed.contains("/../"), "{}", text);
                    prop_assert!(!text.contains('\\') && !text.to_lowercase().contains("%5c"));
                    prop_assert!(!text.to_lowercase().contains("%2f"));
                }
                prop_assert!(!normal.routed.contains(';'));
                prop_assert!(normal.routed.is_ascii());
            }
        }

        #[test]
        fn a_prefix_comes_off_exactly_where_routing_sees_it(path in odd_path()) {
            if let Ok(normal) = normalise(&path) {
                let left = below(&normal.forwarded, "/admin");
                let left = normalise(left).unwrap().routed.into_owned();
                let routed = format!("{}/", normal.routed);
                match routed.strip_prefix("/admin/") {
                    None => prop_assert_eq!(left, normal.routed),
                    Some(inner) => {
                        let inner = inner.strip_suffix('/').unwrap_or(inner);
                        prop_assert_eq!(left, format!("/{inner}"));
                    }
                }
            }
        }
    }
}
