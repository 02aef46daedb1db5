//! Accounts and event types that were seen, and what an account has sent.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::analytics::check_window;
use super::reach::CallerReach;
use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use super::views::{
    AccountSample, AccountSummary, AccountView, EventTypePage, EventTypeView, TopUser,
};
use crate::domain::{
    LabelCursor, LabelPage, MinuteSpan, OrgId, Timestamp, Violation, minute_of, minute_start,
};
use crate::store::{CountedWindow, GroupPage, OTHER_TYPES, StoreError, TYPES_COUNTED_MAX};

/// Days in the window of a summary at most.
const DAYS_MAX: u32 = 31;

/// The window of a summary.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SummaryWindow {
    /// The last 24 hours.
    Last24Hours,
    /// The last seven days.
    Last7Days,
    /// From the first of these times until the second.
    Custom(MinuteSpan),
}

impl SummaryWindow {
    /// Users that are listed by default, and at most.
    pub const TOP_DEFAULT: u32 = 10;
    /// Users that are listed at most.
    pub const TOP_MAX: u32 = 100;

    /// The window between two times.
    ///
    /// # Errors
    /// When it has no length, or is too long.
    pub fn between(from: Timestamp, to: Timestamp) -> Result<Self, Violation> {
        check_window(from, to, DAYS_MAX)?;
        Ok(Self::Custom(MinuteSpan::covering(from, to)))
    }

    /// Its name in requests and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Last24Hours => "last_24h",
            Self::Last7Days => "last_7d",
            Self::Custom(_) => "custom",
        }
    }

    /// Its length, if it ends now.
    pub const fn length(self) -> Option<Duration> {
        match self {
            Self::Last24Hours => Some(Duration::from_hours(24)),
            Self::Last7Days => Some(Duration::from_hours(7 * 24)),
            Self::Custom(_) => None,
        }
    }

    /// Its minutes, and when it ends.
    fn at(self, now: Timestamp) -> (MinuteSpan, Timestamp) {
        match (self, self.length()) {
            (Self::Custom(span), _) => (span, minute_start(span.until)),
            (_, length) => {
                let from = minute_of(now.minus(length.unwrap_or_default()));
                (MinuteSpan { from, until: minute_of(now) + 1 }, now)
            }
        }
    }
}

/// What an account has sent in a window, with its most active users.
///
/// # Errors
/// When the account was never seen.
pub async fn summary(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    account_id: &str,
    window: SummaryWindow,
    top: u32,
) -> Result<AccountSummary, Refusal> {
    let reach = reach.into();
    let org = reach.org();
    if !reach.includes(Some(account_id)) {
        return Err(Refusal::NotFound(Missing::Account(org)));
    }
    let (span, to) = window.at(subsystems.clock.now());
    let counted = subsystems.store.account_window(org, account_id, span).await?;
    let Some(CountedWindow { counts, seen, is_behind, outcomes: _ }) = counted else {
        return Err(Refusal::NotFound(Missing::Account(org)));
    };
    let mut users: Vec<_> = counts.users.into_iter().collect();
    users.sort_by(|(one, events), (other, more)| more.cmp(events).then_with(|| one.cmp(other)));
    let top_user = |(user_id, events)| TopUser { user_id, events };
    let mut types: Vec<_> =
        counts.types.into_iter().map(|(name, count)| (count.events, name)).collect();
    types.sort_by(|one, other| other.cmp(one));
    let mut totals = std::collections::BTreeMap::new();
    for (number, (events, name)) in types.into_iter().enumerate() {
        let name = if number < TYPES_COUNTED_MAX { name } else { OTHER_TYPES.to_owned() };
        *totals.entry(name).or_default() += events;
    }
    Ok(AccountSummary {
        account_id: account_id.to_owned(),
        window: window.name(),
        from: span.start(),
        to,
        totals,
        top_users: users.into_iter().take(top as usize).map(top_user).collect(),
        first_seen: seen.map(|(first, _)| first),
        last_seen: seen.map(|(_, last)| last),
        approximate: is_behind || counts.other_users > 0,
    })
}

/// The refusal that several who asked for the same summary share.
pub fn shared(refusal: Arc<Refusal>) -> Refusal {
    Arc::try_unwrap(refusal).unwrap_or_else(|refusal| match &*refusal {
        Refusal::NotFound(missing) => Refusal::NotFound(*missing),
        Refusal::Store(StoreError::ReadTimedOut) => Refusal::Store(StoreError::ReadTimedOut),
        // The one who read it has the cause.
        _ => Refusal::Store(StoreError::no_answer()),
    })
}

/// A page of an organisation's accounts, those that were active last first.
///
/// # Errors
/// When the store fails.
pub async fn list(
    subsystems: &Subsystems,
    org: OrgId,
    after: Option<&LabelCursor>,
    limit: u32,
) -> Result<LabelPage<AccountView>, Refusal> {
    let page = subsystems.store.accounts(org, after, limit).await?;
    let data = page.data.into_iter().map(AccountView::from).collect();
    Ok(LabelPage { data, next_cursor: page.next_cursor })
}

/// Some accounts, at random among those that were active last.
///
/// # Errors
/// When the store fails.
pub async fn sample(
    subsystems: &Subsystems,
    org: OrgId,
    limit: u32,
) -> Result<AccountSample, Refusal> {
    let accounts = subsystems.store.recent_accounts(org).await?;
    let mut drawn: Vec<(u128, String)> =
        accounts.into_iter().map(|account| (Uuid::new_v4().as_u128(), account)).collect();
    drawn.sort_unstable();
    let account_ids = drawn.into_iter().take(limit as usize).map(|(_, account)| account).collect();
    Ok(AccountSample { account_ids })
}

/// A page of an organisation's event types, by name.
///
/// # Errors
/// When the store fails.
pub async fn event_types(
    subsystems: &Subsystems,
    org: OrgId,
    after: Option<&LabelCursor>,
    limit: u32,
) -> Result<EventTypePage, Refusal> {
    let after = after.map(|after| after.label.as_str());
    let GroupPage { page, is_behind } = subsystems.store.event_types(org, after, limit).await?;
    let data = page.data.into_iter().map(EventTypeView::from).collect();
    Ok(EventTypePage { data, next_cursor: page.next_cursor, approximate: is_behind })
}

/// The names of event types that were seen in reach, at most so many: of an account, those of its last week.
///
/// # Errors
/// When the store fails.
pub async fn types_seen(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    limit: u32,
) -> Result<Vec<String>, Refusal> {
    let reach = reach.into();
    let Some(account) = reach.account() else {
        let seen = event_types(subsystems, reach.org(), None, limit).await?;
        return Ok(seen.data.into_iter().map(|seen| seen.r#type).collect());
    };
    let window = SummaryWindow::Last7Days;
    match summary(subsystems, reach.clone(), account, window, 0).await {
        Ok(found) => {
            let named = found.totals.into_keys().filter(|name| name != OTHER_TYPES);
            Ok(named.take(limit as usize).collect())
        }
        Err(Refusal::NotFound(_)) => Ok(Vec::new()),
        Err(refusal) => Err(refusal),
    }
}
