//! What a token costs: made at a login, judged for the first time, judged again.

#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use wxgate::clock::Clock;
use wxgate::config::{self, App, AppKind, SigningKey};
use wxgate::identity::{AppId, OpenId, UnionId};
use wxgate::observe::Metrics;
use wxgate::secret::Secret;
use wxgate::session::{Algorithm, Issued, NewSession, Sessions, keygen};

fn config(algorithm: Algorithm) -> config::Session {
    config::Session {
        ttl: Duration::from_hours(2),
        max_age: Duration::from_hours(720),
        store: config::Store::Memory,
        on_store_error: config::OnStoreError::Deny,
        max_per_user: None,
        max_sessions: std::num::NonZeroUsize::MAX,
        token_from: Vec::new(),
        signing_keys: vec![SigningKey {
            id: "2026-11".to_owned(),
            secret: keygen(algorithm).unwrap(),
        }],
    }
}

fn apps() -> Vec<App> {
    vec![App {
        appid: "wx0123456789abcdef".to_owned(),
        secret: Secret::new("secret".to_owned()),
        kind: AppKind::MiniProgram,
    }]
}

fn login(sessions: &Sessions, runtime: &tokio::runtime::Runtime) -> Issued {
    let new = NewSession {
        openid: OpenId::parse("oGZUI0egBJY1zhBYw2KhdUfwVJJE").unwrap(),
        appid: AppId::parse("wx0123456789abcdef").unwrap(),
        unionid: Some(UnionId::parse("ocMvos6NjeKLIBqg5Mr9QjxrP1FA").unwrap()),
        session_key: Some(Secret::new("tiihtNczf5v6AKRyjwEUhQ==".to_owned())),
    };
    runtime.block_on(sessions.open(new)).unwrap()
}

fn token(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (name, algorithm) in [("HS256", Algorithm::Hs256), ("EdDSA", Algorithm::EdDsa)] {
        let (config, apps) = (config(algorithm), apps());
        let metrics = Arc::new(Metrics::new().unwrap());
        let sessions = Sessions::new(&config, &apps, Clock::system(), metrics).unwrap();
        let mut group = criterion.benchmark_group(name);
        group.bench_function("login", |bencher| {
            bencher.iter(|| black_box(login(&sessions, &runtime)));
        });
        group.bench_function("verify cold", |bencher| {
            bencher.iter_batched(
                || login(&sessions, &runtime),
                |issued| black_box(sessions.verify(issued.access_token.expose()).unwrap()),
                BatchSize::LargeInput,
            );
        });
        let issued = login(&sessions, &runtime);
        group.bench_function("verify again", |bencher| {
            bencher.iter(|| sessions.verify(black_box(issued.access_token.expose())).unwrap());
        });
        let forged = issued.access_token.expose().replacen('e', "f", 1);
        let forged = format!("{}A", forged.get(..forged.len() - 1).unwrap());
        group.bench_function("verify forged", |bencher| {
            bencher.iter(|| sessions.verify(black_box(&forged)).unwrap_err());
        });
        group.finish();
    }
}

criterion_group!(benches, token);
criterion_main!(benches);
