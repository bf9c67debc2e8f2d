//! What it costs to normalise the path of a request.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use wxgate::route::path::normalise;

const PATHS: [(&str, &str); 6] = [
    ("in its form", "/api/v1/orders/20261121000042/items"),
    ("in its form, escapes", "/api/%E5%95%86%E5%93%81/%E8%AE%A2%E5%8D%95"),
    ("parameters", "/api/orders;jsessionid=0123456789ABCDEF/items"),
    ("to decode", "/api/%6Frders/%34%32/items"),
    ("to resolve", "//api/./v1/../v1//orders/42"),
    ("refused", "/api/v1/orders/..%2F..%2Fadmin"),
];

fn path(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("path");
    for (name, path) in PATHS {
        group.bench_function(name, |bencher| bencher.iter(|| normalise(black_box(path))));
    }
    group.finish();
}

criterion_group!(benches, path);
criterion_main!(benches);
