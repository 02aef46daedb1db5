//! Keys past their TTL, and floods of wrong ones.

use std::time::Duration;

use argon2::password_hash::PasswordHasher;
use argon2::{Algorithm, Argon2, Params, Version};
use hookgate::auth::{AuthError, IssueError, issue_key, refresh_stale_keys};
use hookgate::domain::{Actor, ApiKeyId, KeyHash, OrgChange, OrgId, OrgLimit, Role};
use hookgate::runtime::Lifecycle;
use tokio::task::JoinSet;

use super::{NO_TTL, START, World, client};
use crate::support::forged_key;
use crate::support::wait::until;

impl World {
    /// Keys are past their TTL at once, and used for an hour after they were read.
    async fn stale() -> Self {
        Self::with(|config| config.auth_cache_ttl = NO_TTL).await
    }

    /// Reads keys again until the returned lifecycle drains.
    fn refresh(&self) -> Lifecycle {
        let lifecycle = Lifecycle::new();
        let refreshing = refresh_stale_keys(self.authenticator.clone(), lifecycle.shutdown());
        lifecycle.spawn("key refresh", refreshing);
        lifecycle
    }
}

#[tokio::test]
async fn key_past_its_ttl_is_used_and_read_again_behind_it() {
    let world = World::stale().await;
    let (id, key) = world.key().await;
    for _ in 0..3 {
        world.ask(&key).await.unwrap();
    }
    assert_eq!(world.lookups(), (2, 1), "nobody reads it again");

    let refresh = world.refresh();
    let limit = OrgLimit::RatePerMinute;
    let change = OrgChange { limits: vec![(limit, Some(9))], ..OrgChange::default() };
    world.store.update_org(world.org, &change, &Actor::CLI, world.moment()).await.unwrap();
    // Nobody tells the authenticator: reading the rows is enough.
    until("the limit is read again", async || {
        world.ask(&key).await.unwrap().limits.get(limit) == Some(9)
    })
    .await;
    world.revoke(id).await;
    until("the revocation is read", async || world.ask(&key).await.is_err()).await;
    assert!(matches!(world.ask(&key).await, Err(AuthError::Expired)));
    assert_eq!(world.hashes(), 1);
    assert!(refresh.drain(Duration::from_secs(30)).await);
}

#[tokio::test]
async fn stale_key_is_used_while_the_store_is_away_and_its_revocation_ends_it() {
    let world = World::stale().await;
    let ((_, key), (other_id, other)) = (world.key().await, world.key().await);
    world.ask(&key).await.unwrap();
    world.ask(&other).await.unwrap();
    let refresh = world.refresh();
    world.store.close().await;
    let failures = || world.metrics.auth.hookgate_auth_refresh_failures_total.get();
    until("the rows cannot be read", async || {
        world.ask(&key).await.unwrap();
        world.ask(&other).await.unwrap();
        failures() > 0
    })
    .await;
    world.ask(&key).await.unwrap();
    world.authenticator.invalidate(other_id);
    assert!(matches!(world.ask(&other).await, Err(AuthError::Unavailable(_))));
    assert!(refresh.drain(Duration::from_secs(30)).await);
}

#[tokio::test]
async fn key_is_not_used_beyond_the_longest_stale_time() {
    let world = World::with_ttl(NO_TTL).await;
    let (_, key) = world.key().await;
    world.ask(&key).await.unwrap();
    world.store.close().await;
    assert!(matches!(world.ask(&key).await, Err(AuthError::Unavailable(_))));
}

#[tokio::test]
async fn wrong_secrets_for_a_cached_key_count_as_failed_keys() {
    let world = World::with(|config| config.failed_keys_per_minute = 3).await;
    let ((id, key), (_, unseen)) = (world.key().await, world.key().await);
    world.ask(&key).await.unwrap();
    for seed in [1, 1, 1, 2, 2, 3] {
        let refused = world.ask(&forged_key(id, seed)).await;
        assert!(matches!(refused, Err(AuthError::WrongSecret)), "{seed}: {refused:?}");
    }
    for refused in [forged_key(id, 4), forged_key(ApiKeyId::mint(START), 1), unseen] {
        let answer = world.ask(&refused).await;
        assert!(matches!(answer, Err(AuthError::Throttled { .. })), "{answer:?}");
    }
    world.ask(&key).await.unwrap();
}

/// Wrong secrets need a hash only if another program stored the hash, without a check of the secret in its
/// salt.
#[tokio::test]
async fn excess_checks_are_busy_and_known_keys_are_not_affected() {
    let world = World::start().await;
    let (_, known) = world.key().await;
    world.ask(&known).await.unwrap();

    let slow = Params::new(19 * 1024, 100, 1, None).unwrap();
    let slow = Argon2::new(Algorithm::Argon2id, Version::V0x13, slow);
    let hash = slow.hash_password_with_salt(b"another secret", &[1; 16]).unwrap();
    let role = Role::Tenant(world.org);
    let mut record = issue_key(role, "slow".to_owned(), START).await.unwrap().record;
    record.hash = KeyHash::new(hash.to_string());
    world.store.system().insert_key(&record, &Actor::CLI).await.unwrap().unwrap();

    let mut checks = JoinSet::new();
    for seed in 0..700 {
        let (authenticator, key) = (world.authenticator.clone(), forged_key(record.id, seed));
        checks.spawn(async move { authenticator.authenticate(&key, client).await });
    }
    let first = checks.join_next().await.unwrap().unwrap();
    assert!(matches!(first, Err(AuthError::Busy)), "{first:?}");
    world.ask(&known).await.unwrap();
    assert!(world.hashes() < 20, "few hash at once");
}

#[tokio::test]
async fn keys_are_issued_few_at_a_time_without_delaying_verifications() {
    let world = World::start().await;
    let (_, key) = world.key().await;
    let role = Role::Tenant(world.org);
    let mut making = JoinSet::new();
    for _ in 0..70 {
        let authenticator = world.authenticator.clone();
        // Each for another organisation: one alone has half of the queue.
        let asked_by = Role::Tenant(OrgId::mint(START));
        let name = "made".to_owned();
        making.spawn(async move { authenticator.issue_key(asked_by, role, name, START).await });
    }
    until("a key is hashed", async || world.hashes() > 0).await;
    world.ask(&key).await.unwrap();
    assert!(world.hashes() < 40, "verifications take turns with issues: {}", world.hashes());
    let made = making.join_all().await;
    let refused = made.iter().filter(|end| matches!(end, Err(IssueError::Busy))).count();
    let issued = made.iter().filter(|end| end.is_ok()).count();
    assert!(issued >= 64 && issued + refused == 70, "{issued} {refused}");
    assert_eq!(world.hashes(), issued as u64 + 1);
    let issued = made.into_iter().flatten().next().unwrap();
    world.store.system().insert_key(&issued.record, &Actor::CLI).await.unwrap().unwrap();
    world.ask(issued.key.reveal()).await.unwrap();
}
