//! Signing: time per webhook, by signature scheme and body size: `cargo bench --bench signing`.

#![expect(clippy::unwrap_used, reason = "a failure ends the run")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hookgate::delivery::sign;
use hookgate::domain::{EventId, SignatureScheme, SigningSecret, Timestamp};

const KB: usize = 1000;

fn signing(criterion: &mut Criterion) {
    let id = EventId::mint(Timestamp::from_micros(0)).to_string();
    for scheme in [SignatureScheme::HmacSha256, SignatureScheme::Ed25519] {
        let secret = SigningSecret::generate_for(scheme).unwrap();
        let mut group = criterion.benchmark_group(scheme.as_str());
        for kilobytes in [1, 10, 100] {
            let body = vec![b'x'; kilobytes * KB];
            group.throughput(Throughput::Bytes(body.len() as u64));
            group.bench_with_input(BenchmarkId::new("KB", kilobytes), &body, |bencher, body| {
                bencher.iter(|| sign(&secret, &id, "1700000000", black_box(body)));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, signing);
criterion_main!(benches);
