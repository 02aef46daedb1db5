//! What operators see of the servers, and of endpoints that fail.

use super::refusal::Refusal;
use super::subsystems::Subsystems;
use super::views::{ServerList, ServerView};
use crate::domain::{FailingEndpoint, Page, PageRequest};

/// The servers that work with the store.
///
/// # Errors
/// When the store fails.
pub async fn list(subsystems: &Subsystems) -> Result<ServerList, Refusal> {
    let this = subsystems.server.as_ref().map(|server| server.id);
    let servers = subsystems.store.system().servers().await?;
    let view = |server| ServerView::new(server, this);
    Ok(ServerList { data: servers.into_iter().map(view).collect() })
}

/// A page of the endpoints that fail, of all organisations, by the time since when they do.
///
/// # Errors
/// When the store fails.
pub async fn failing_endpoints(
    subsystems: &Subsystems,
    page: PageRequest,
) -> Result<Page<FailingEndpoint>, Refusal> {
    Ok(subsystems.store.system().failing_endpoints(page).await?)
}
