//! What every command on the store takes, and how it opens and closes the store.

use clap::Args;

use super::CliError;
use super::output::Output;
use crate::api::{Refusal, Subsystems, orgs};
use crate::app::admin;
use crate::config::StoreConfig;
use crate::domain::{OrgId, Page, PageRequest};

/// What every command on the store takes.
#[derive(Args, Debug)]
pub(super) struct Common {
    /// How the answer is written
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
    // Last, since its help heading holds for what comes after it.
    #[command(flatten)]
    pub(super) store: StoreConfig,
}

impl Common {
    /// Works with a store that is created and migrated if need be.
    pub(super) async fn set_up<T>(
        &self,
        work: impl AsyncFnOnce(&Subsystems) -> Result<T, Refusal>,
    ) -> Result<T, CliError> {
        closing(admin::open(&self.store).await?, work).await
    }

    /// Works with a store that exists.
    pub(super) async fn existing<T>(
        &self,
        work: impl AsyncFnOnce(&Subsystems) -> Result<T, Refusal>,
    ) -> Result<T, CliError> {
        closing(admin::open_existing(&self.store).await?, work).await
    }

    /// The newest rows of an organisation that exists.
    pub(super) async fn newest_of<T>(
        &self,
        org: OrgId,
        list: impl AsyncFnOnce(&Subsystems, PageRequest) -> Result<Page<T>, Refusal>,
    ) -> Result<Vec<T>, CliError> {
        let read = async |s: &Subsystems| {
            orgs::existing(s, org).await?;
            list(s, PageRequest::first(PageRequest::LIMIT_MAX)).await
        };
        Ok(self.existing(read).await?.data)
    }

    /// Works with a store that exists and whose secrets can all be read.
    pub(super) async fn with_keys<T>(
        &self,
        work: impl AsyncFnOnce(&Subsystems) -> Result<T, Refusal>,
    ) -> Result<T, CliError> {
        closing(admin::open_with_keys(&self.store).await?, work).await
    }
}

/// Every row of a list, page by page.
pub(super) async fn all<T>(
    page_of: impl AsyncFn(PageRequest) -> Result<Page<T>, Refusal>,
) -> Result<Vec<T>, Refusal> {
    let mut request = PageRequest::first(PageRequest::LIMIT_MAX);
    let mut rows = Vec::new();
    loop {
        let page = page_of(request).await?;
        rows.extend(page.data);
        if page.next_cursor.is_none() {
            return Ok(rows);
        }
        request.after = page.next_cursor;
    }
}

/// Closes the store, however the work ends, so that SQLite folds its WAL into the file.
async fn closing<T>(
    subsystems: Subsystems,
    work: impl AsyncFnOnce(&Subsystems) -> Result<T, Refusal>,
) -> Result<T, CliError> {
    let result = work(&subsystems).await;
    subsystems.store.close().await;
    Ok(result?)
}
