//! Paths in gateway.toml stand in the one form that requests are brought into before routing, so
//! that what is written is what is compared. A problem here is what is wrong, and the mend.

/// What is wrong, and how to mend it.
pub(super) type Fault = (String, String);

/// Whether `path` can be met by a request: absolute, normal, without query and parameters.
pub(super) fn route(path: &str) -> Result<(), Fault> {
    let fault = |what: &str, hint: &str| Err((what.to_owned(), hint.to_owned()));
    if !path.starts_with('/') {
        return fault("must begin with `/`", "write \"/api/\" for a tree, \"/api\" for one path");
    }
    if path.contains(['?', '#']) {
        return fault("holds a query or a fragment", "only the path takes part in routing");
    }
    if path.contains(';') {
        return fault("holds `;`", "`;` parameters are left out when routing: leave them out here");
    }
    if path.contains('*') {
        return fault("holds `*`", "a path that ends in `/` is its whole tree: write \"/api/\"");
    }
    if path.contains("//") {
        return fault("holds `//`", "repeated `/` are folded before routing: write one");
    }
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return fault(
            "holds a `.` or `..` segment",
            "they are resolved before routing: write the result",
        );
    }
    let mut rest = path.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let Some(([high, low], after)) = rest
                .split_at_checked(2)
                .and_then(|(hex, after)| Some((<[u8; 2]>::try_from(hex).ok()?, after)))
            else {
                return fault("ends within a percent-encoding", "write `%` and two hex digits");
            };
            escape(high, low)?;
            rest = after;
        } else if *byte != b'/' && !is_plain(*byte) {
            return fault(
                "holds a character that no request path holds",
                "percent-encode it: a space is %20, 中 is %E4%B8%AD",
            );
        }
    }
    Ok(())
}

/// What routing never spells as an escape: RFC 3986's `pchar` without `;`, which begins parameters.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte)
}

/// One percent-encoding, of the two hex digits `high` and `low`.
fn escape(high: u8, low: u8) -> Result<(), Fault> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let Some((high, low)) = digit(high).zip(digit(low)) else {
        let what = "holds a `%` without two hex digits in upper case".to_owned();
        return Err((what, "write for example %E4".to_owned()));
    };
    let byte = high * 16 + low;
    if is_plain(byte) {
        let plain = char::from(byte);
        let what = format!("holds `%{byte:02X}`, which is routed as `{plain}`");
        return Err((what, format!("write `{plain}`: it stands for both spellings")));
    }
    if byte.is_ascii_control() || byte == b'/' || byte == b'\\' {
        let what = format!("holds `%{byte:02X}`, which no request may hold");
        let hint = "requests with an encoded slash, backslash or control character get 400";
        return Err((what, hint.to_owned()));
    }
    Ok(())
}

/// Whether `path` can stand before other paths: it may be a route's path, and does not end in `/`.
pub(super) fn stem(path: &str) -> Result<(), Fault> {
    route(path)?;
    if path.ends_with('/') {
        let what = "must not end in `/`".to_owned();
        let stem = path.trim_end_matches('/');
        let hint = if stem.is_empty() {
            "name a path below the root".to_owned()
        } else {
            format!("write \"{stem}\"")
        };
        return Err((what, hint));
    }
    Ok(())
}

/// Whether `path` is `stem` or lies below it.
pub(super) fn is_below(path: &str, stem: &str) -> bool {
    path.strip_prefix(stem).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_normal_form_are_accepted() {
        for path in ["/", "/api", "/api/", "/a.b/~c/-_", "/v1:run", "/%E4%B8%AD", "/a%20b", "/..."]
        {
            assert_eq!(route(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn what_a_request_never_looks_like_is_refused() {
        for path in [
            "", "api", "//", "/a//b", "/a/../b", "/.", "/a/..", "/a?b", "/a#b", "/a;b", "/a b",
            "/中", "/a\\b", "/%61", "/%21", "/%2F", "/%5C", "/%00", "/%7F", "/%e4", "/%", "/%4",
            "/%zz", "/a/*", "/{id}",
        ] {
            assert!(route(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        assert!(is_below("/wx", "/wx") && is_below("/wx/auth", "/wx"));
        assert!(!is_below("/wxy", "/wx") && !is_below("/w", "/wx"));
        assert!(stem("/wx").is_ok() && stem("/a/b").is_ok());
        assert!(stem("/").is_err() && stem("/wx/").is_err());
    }
}
