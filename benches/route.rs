//! What it costs to find the route of a request among few and many.

#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use wxgate::config::{Auth, HeaderChanges, HostPattern, Route};
use wxgate::route::list::Lists;
use wxgate::route::table::Table;

fn route(host: HostPattern, path: String) -> Route {
    Route {
        name: path.clone(),
        host,
        path,
        methods: Vec::new(),
        upstream: 0,
        auth: Auth::Required,
        allow: None,
        deny_openids_file: None,
        strip_prefix: None,
        max_body_bytes: None,
        rate_limit: None,
        cookie_bridge: false,
        connect_timeout: None,
        read_timeout: None,
        write_timeout: None,
        cors: None,
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
    }
}

/// As many trees for any host, and as many exact paths for wildcard hosts.
fn table(routes: usize) -> Table {
    let trees = (0..routes).map(|n| route(HostPattern::Any, format!("/service{n}/v1/")));
    let wildcards = (0..routes).map(|n| {
        route(HostPattern::Wildcard(format!(".shop{n}.example.com")), "/login".to_owned())
    });
    let routes: Vec<_> = trees.chain(wildcards).collect();
    Table::of_routes(&routes, &Lists::new()).unwrap()
}

fn find(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route find");
    let slashes = "/a".repeat(4000);
    for routes in [1, 1000] {
        let table = table(routes);
        for (name, host, path) in [
            ("tree", "api.example.com:8080", "/service0/v1/orders/42/items"),
            ("wildcard host", "eu.shop0.example.com", "/login"),
            ("nothing", "api.example.com", "/nothing/here"),
            ("nothing, 4000 slashes", "api.example.com", slashes.as_str()),
        ] {
            group.bench_function(format!("{name}, {routes}+{routes} routes"), |bencher| {
                bencher.iter(|| {
                    let found = table.find(black_box(host), black_box(path), "GET");
                    black_box(found);
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, find);
criterion_main!(benches);
