//! Operations that count what is stored, and that remove it.

use std::sync::Arc;
use std::time::Duration;

use hookgate::config::RetentionConfig;
use hookgate::domain::{Actor, ErasureSubject, Event};
use hookgate::store::{Result, Store};

use super::super::fixtures::{named_event, persist_events};
use super::World;

pub(super) async fn fold_deltas(_: &World, store: &Store) -> Result<()> {
    store.system().fold_deltas().await?;
    Ok(())
}

pub(super) async fn erase_accounts(world: &World, store: &Store) -> Result<()> {
    let now = world.now();
    for tenant in world.tenants().await {
        let event =
            Event { account_id: Some("gone".to_owned()), ..named_event(tenant.org, "x", now) };
        persist_events(store, &[Arc::new(event)], None, now).await?;
        let account = ErasureSubject::Account("gone".to_owned());
        store.insert_erasure(tenant.org, &account, &Actor::CLI, now).await?;
    }
    for _ in 0..9 {
        store.system().erase_step(now).await?;
    }
    Ok(())
}

pub(super) async fn enforce_retention(world: &World, store: &Store) -> Result<()> {
    let day = Some(Duration::from_hours(24));
    let config = RetentionConfig {
        payload_retention: day,
        dead_letter_retention: day,
        ..RetentionConfig::default()
    };
    let later = world.now().plus(Duration::from_hours(48));
    store.system().enforce_retention(&config, later).await.map_err(|failure| failure.error)?;
    Ok(())
}
