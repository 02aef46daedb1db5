//! What one request passes on its way in: parsing, the key, the limit; and the channel that hands
//! leased deliveries over. `cargo bench --bench request_path`
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot set itself up has failed")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hookgate::app::Metrics;
use hookgate::auth::{Authenticator, hash_blocking, issue_key, verify_blocking};
use hookgate::config::{Config, defaults};
use hookgate::domain::{Actor, NewEventLimits, Org, OrgId, Role, Timestamp, parse_event};
use hookgate::limit::{Bucket, Limit, Rate, RateLimiter};
use hookgate::runtime::Clock;
use hookgate::store::Store;
use tokio::runtime::Runtime;

criterion_group!(benches, validation, argon2id, cached_auth, limit_check, channel_send);
criterion_main!(benches);

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn validation(criterion: &mut Criterion) {
    let limits = NewEventLimits { payload_bytes_max: 262_144, batch_events_max: 1000 };
    let mut group = criterion.benchmark_group("validation");
    for kilobytes in [1_usize, 10, 100] {
        let entry = |n| {
            format!(
                r#"{{"id":{:08},"name":"some text of a field, or a little more"}}"#,
                10_000_000 + n
            )
        };
        let payload = (0..kilobytes * 16).map(entry).collect::<Vec<_>>().join(",");
        let body = format!(r#"{{"type":"user.login","payload":[{payload}],"dedup_id":"d-1"}}"#);
        group.throughput(Throughput::Bytes(body.len() as u64));
        let id = BenchmarkId::from_parameter(format!("{kilobytes} KB"));
        group.bench_with_input(id, &body, |b, body| {
            b.iter(|| parse_event(black_box(body.as_bytes()), &limits).unwrap());
        });
    }
}

fn argon2id(criterion: &mut Criterion) {
    let hash = hash_blocking("secret").unwrap();
    let mut group = criterion.benchmark_group("argon2id");
    group.sample_size(20);
    group.bench_function("verify", |b| b.iter(|| verify_blocking(black_box("secret"), &hash)));
}

fn cached_auth(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (authenticator, key) = runtime.block_on(async {
        let metrics = Metrics::new().unwrap();
        let config = defaults::<Config>();
        let path = folder.path().join("bench.db");
        let store: Store =
            Store::open_sqlite(&path, &config.store, Arc::clone(&metrics.store)).await.unwrap();
        store.migrate_up().await.unwrap();
        let now = Clock::system().now();
        let name = "bench".to_owned();
        let org = Org::new(OrgId::mint(now), name, now);
        store.system().insert_org(&org, &Actor::CLI).await.unwrap();
        let issued = issue_key(Role::Tenant(org.id), "bench".to_owned(), now).await.unwrap();
        store.system().insert_key(&issued.record, &Actor::CLI).await.unwrap().unwrap();
        let authenticator = Authenticator::new(&config.auth, store, Clock::system(), metrics.auth);
        (authenticator, issued.key)
    });
    criterion.bench_function("auth/cached", |b| {
        b.to_async(&runtime).iter(|| async {
            authenticator.authenticate(black_box(key.reveal()), || CLIENT).await.unwrap()
        });
    });
}

fn limit_check(criterion: &mut Criterion) {
    let limiter = RateLimiter::new(&defaults::<Config>().limit);
    let org = OrgId::mint(Timestamp::from_micros(1));
    criterion.bench_function("limit/check", |b| {
        let rate = Rate::per_minute(100_000_000);
        b.iter(|| {
            let limit = Limit { bucket: Bucket::Events(black_box(org)), rate };
            limiter.check(&limit, NonZeroU32::MIN)
        });
    });
}

fn channel_send(criterion: &mut Criterion) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<u64>(4096);
    criterion.bench_function("channel/reserve, send, receive", |b| {
        b.iter(|| {
            for permit in sender.try_reserve_many(1).unwrap() {
                permit.send(black_box(7));
            }
            receiver.try_recv().unwrap()
        });
    });
}
