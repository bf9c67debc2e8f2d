//! What it costs to find look-alikes of the identity headers and to write the real ones.

#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use wxgate::config;
use wxgate::identity::headers::HeaderRules;
use wxgate::identity::{AppId, Identity, OpenId, UnionId};

/// What `wx.request` sends from a phone, and one forged header.
const NAMES: [&str; 14] = [
    "host",
    "connection",
    "content-length",
    "authorization",
    "charset",
    "user-agent",
    "content-type",
    "accept-encoding",
    "referer",
    "accept",
    "x-requested-with",
    "x-forwarded-for",
    "x-request-id",
    "X_WX_OPENID",
];

fn scrub(criterion: &mut Criterion) {
    let rules = HeaderRules::new(&config::Identity {
        openid: "X-WX-OPENID".to_owned(),
        appid: "X-WX-APPID".to_owned(),
        unionid: "X-WX-UNIONID".to_owned(),
        phone: None,
        assertion: None,
        assertion_key: None,
        session: None,
        reserved_prefixes: vec!["X-WX-".to_owned()],
    });
    let who = Identity {
        openid: OpenId::parse("oABCD-0123456789_abcdefghij").unwrap(),
        appid: AppId::parse("wx0123456789abcdef").unwrap(),
        unionid: Some(UnionId::parse("uABCD-0123456789_abcdefghij").unwrap()),
        sid: "0123456789abcdefghijkl".into(),
    };
    criterion.bench_function("scrub 14 headers", |bencher| {
        bencher.iter(|| {
            let names = black_box(NAMES).into_iter();
            names.filter(|name| !rules.is_reserved(name.as_bytes())).count()
        });
    });
    let mut head = Vec::with_capacity(512);
    criterion.bench_function("inject", |bencher| {
        bencher.iter(|| {
            head.clear();
            for (name, value) in rules.vouch(black_box(Some(&who))) {
                for part in [name, ": ", value, "\r\n"] {
                    head.extend_from_slice(part.as_bytes());
                }
            }
            head.len()
        });
    });
}

criterion_group!(benches, scrub);
criterion_main!(benches);
