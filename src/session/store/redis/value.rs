//! How a session stands in Redis.
//!
//! `LAST(12 digits) END(12 digits) JSON`: the two times stand in front at fixed places, so that a
//! refresh writes twelve bytes and no script has to parse.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

use super::super::{Record, StoreError};
use crate::identity::{AppId, OpenId, UnionId};

/// Digits of a time.
pub(super) const DIGITS: usize = 12;

#[derive(Serialize, Deserialize)]
struct Rest<'a> {
    o: &'a str,
    a: &'a str,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    u: Option<&'a str>,
    k: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    s: String,
    c: u64,
}

pub(super) fn write(record: &Record) -> Result<String, StoreError> {
    let rest = rest(record)?;
    Ok(format!("{:012}{:012}{rest}", record.last_token_expires_at, record.ends_at))
}

/// What stands behind the times; it changes only when it is sealed anew.
pub(super) fn rest(record: &Record) -> Result<String, StoreError> {
    let rest = Rest {
        o: record.openid.as_str(),
        a: record.appid.as_str(),
        u: record.unionid.as_ref().map(UnionId::as_str),
        k: STANDARD_NO_PAD.encode(&record.session_key),
        s: record.scope.join(" "),
        c: record.created_at,
    };
    serde_json::to_string(&rest).map_err(|_| StoreError::Malformed)
}

pub(super) fn read(sid: &str, value: &str) -> Result<Record, StoreError> {
    parse(sid, value).ok_or(StoreError::Malformed)
}

fn parse(sid: &str, value: &str) -> Option<Record> {
    let (last, rest) = value.split_at_checked(DIGITS)?;
    let (end, rest) = rest.split_at_checked(DIGITS)?;
    let rest: Rest<'_> = serde_json::from_str(rest).ok()?;
    Some(Record {
        sid: Arc::from(sid),
        openid: OpenId::parse(rest.o).ok()?,
        appid: AppId::parse(rest.a).ok()?,
        unionid: rest.u.map(UnionId::parse).transpose().ok()?,
        session_key: STANDARD_NO_PAD.decode(rest.k).ok()?,
        scope: rest.s.split_whitespace().map(str::to_owned).collect(),
        created_at: rest.c,
        ends_at: end.parse().ok()?,
        last_token_expires_at: last.parse().ok()?,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::super::tests::record;
    use super::*;

    #[test]
    fn a_session_reads_as_it_was_written() {
        let mut session = record("openid_ann", "wxapp_1", "s1", 1_800_000_000);
        assert_eq!(read("s1", &write(&session).unwrap()).unwrap(), session);
        session.unionid = Some(UnionId::parse("union_ann").unwrap());
        session.scope = vec!["phone".to_owned(), "more".to_owned()];
        assert_eq!(read("s1", &write(&session).unwrap()).unwrap(), session);
    }

    #[test]
    fn what_is_no_session_is_an_error() {
        let good = write(&record("openid_ann", "wxapp_1", "s1", 9)).unwrap();
        for bad in [
            "",
            "0",
            good.split_at(30).0,
            &good.replace("openid_ann", "a"),
            &good.replace("000", "x"),
        ] {
            assert_eq!(read("s1", bad), Err(StoreError::Malformed), "{bad}");
        }
    }
}
