//! Accounts that were seen, and what one has sent.

use url::form_urlencoded;

use crate::api::Subsystems;
use crate::api::accounts::{self, SummaryWindow};
use crate::api::views::AccountSummary;
use crate::domain::Scope;
use crate::http::console::failure::ConsoleError;
use crate::http::console::lists;
use crate::http::console::ui::{Cell, ConsolePage, DataTable, FactList, Html, bytes, escaped};
use crate::http::console::visitor::Visitor;
use crate::http::error::ApiError;

const PATH: &str = "/console/accounts";
/// Accounts on a page.
const SHOWN: u32 = 50;

/// A link to what an account has sent.
pub(super) fn link(account: &str) -> Cell {
    Cell::link(format!("{PATH}/summary?{}", query(account)), account)
}

fn query(account: &str) -> String {
    form_urlencoded::Serializer::new(String::new()).append_pair("account_id", account).finish()
}

/// `GET /console/accounts`.
pub(in crate::http::console) async fn list(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    let org = visitor.org(Scope::EventsRead)?;
    let list = lists::label_list(&visitor)?;
    let found = accounts::list(visitor.app.replica_reads(), org, list.after(), SHOWN).await?;
    let (first, next) = visitor.list_pages(&list, found.next_cursor);
    let rows = found.data.iter().map(|account| {
        vec![
            link(&account.account_id),
            Cell::number(account.events),
            Cell::Number(bytes(account.bytes)),
            Cell::time(account.first_seen),
            Cell::time(account.last_seen),
        ]
    });
    let table = DataTable::new(
        "Accounts",
        &["Account", "#Events", "#Payloads", "First event", "Last event"],
    )
    .rows(rows)
    .pages(first, next)
    .empty("No account yet", "Events that carry an account_id are counted by it.")
    .step("/console/samples", "How to post an event");
    Ok(visitor
        .page("Accounts")
        .lead("Those that were active last come first.")
        .section(table.html()))
}

/// `GET /console/accounts/summary`.
pub(in crate::http::console) async fn one(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    let org = visitor.org(Scope::EventsRead)?;
    let account = visitor.parameter("account_id").ok_or(ApiError::NotFound)?;
    let is_week = visitor.parameter("window").as_deref() == Some("last_7d");
    let (window, other) = if is_week {
        (SummaryWindow::Last7Days, ("", "Last 24 hours"))
    } else {
        (SummaryWindow::Last24Hours, ("&window=last_7d", "Last 7 days"))
    };
    let top = SummaryWindow::TOP_DEFAULT;
    let look = |subsystems: Subsystems| {
        let account = account.clone();
        async move { accounts::summary(&subsystems, org, &account, window, top).await }
    };
    let summary = visitor.app.look_up(look).await?;
    let AccountSummary { totals, top_users, first_seen, last_seen, from, approximate, .. } =
        &summary;
    let query = query(&account);
    let events = format!("/console/events?{query}");
    let link = format!(
        "<p><a href=\"{}\">{}</a></p>",
        escaped(&format!("{PATH}/summary?{query}{}", other.0)),
        other.1
    );
    let mut facts = FactList::new("")
        .with("Window begins", Cell::time(*from))
        .with("Events in it", Cell::number(totals.values().sum()))
        .with_some("First event ever", Cell::maybe_time(*first_seen))
        .with_some("Last event", Cell::maybe_time(*last_seen))
        .with("Events", Cell::link(events, "List them"));
    if *approximate {
        facts = facts.with("", Cell::text("The latest events may be missing."));
    }
    let types = totals.iter().map(|(name, events)| vec![Cell::code(name), Cell::number(*events)]);
    let types = DataTable::new("By type", &["Type", "#Events"]).rows(types);
    let users =
        top_users.iter().map(|user| vec![Cell::text(&*user.user_id), Cell::number(user.events)]);
    let users = DataTable::new("Most active users", &["User", "#Events"]).rows(users);
    let page =
        visitor.page(account).crumb(PATH, "Accounts").section(facts.extra(Html(link)).html());
    let none = "Nothing in this window";
    Ok(page.section(types.empty(none, "").html()).section(users.empty(none, "").html()))
}
