//! The navigation, what it says after a change, and the banner of an operator who looks into an organisation.

use super::ui::{Button, Html, NavItem, escaped};
use crate::domain::{OrgId, Scope};

/// The pages of an organisation, with the scope that each needs.
const TENANT: [(&str, &str, Scope); 10] = [
    ("/console", "Overview", Scope::EventsRead),
    ("/console/events", "Events", Scope::EventsRead),
    ("/console/live", "Live", Scope::EventsRead),
    ("/console/endpoints", "Endpoints", Scope::EndpointsRead),
    ("/console/deliveries", "Deliveries", Scope::EventsRead),
    ("/console/dead-letters", "Dead letters", Scope::EventsRead),
    ("/console/accounts", "Accounts", Scope::EventsRead),
    ("/console/keys", "Keys", Scope::KeysRead),
    ("/console/audit", "Audit log", Scope::KeysRead),
    ("/console/samples", "Code samples", Scope::EventsRead),
];

/// The pages of operators.
const OPERATOR: [(&str, &str, Scope); 6] = [
    ("/console", "Overview", Scope::OperatorRead),
    ("/console/orgs", "Organisations", Scope::OperatorRead),
    ("/console/failing-endpoints", "Failing endpoints", Scope::OperatorRead),
    ("/console/operator-keys", "Keys", Scope::OperatorRead),
    ("/console/operator-audit", "Audit log", Scope::OperatorRead),
    ("/console/server", "Servers", Scope::OperatorRead),
];

/// The pages of the portal.
const PORTAL: [(&str, &str, Scope); 5] = [
    ("/console", "Overview", Scope::EventsRead),
    ("/console/events", "Events", Scope::EventsRead),
    ("/console/endpoints", "Endpoints", Scope::EndpointsRead),
    ("/console/deliveries", "Deliveries", Scope::EventsRead),
    ("/console/dead-letters", "Dead letters", Scope::EventsRead),
];

/// The navigation of a session of the portal.
pub(super) fn portal(path: &str, may: impl Fn(Scope) -> bool) -> Vec<NavItem> {
    listed(&PORTAL, path, may)
}

/// The navigation of an organisation's session, or of an operator's; `path` is the page that is shown, and `may` tells
/// which scopes the session has.
pub(super) fn items(path: &str, is_tenant: bool, may: impl Fn(Scope) -> bool) -> Vec<NavItem> {
    listed(if is_tenant { &TENANT } else { &OPERATOR }, path, may)
}

fn listed(
    all: &[(&'static str, &'static str, Scope)],
    path: &str,
    may: impl Fn(Scope) -> bool,
) -> Vec<NavItem> {
    let is_current = |href: &str| {
        let below = path.strip_prefix(href);
        below.is_some_and(|rest| rest.is_empty() || (href != "/console" && rest.starts_with('/')))
    };
    let mut items: Vec<NavItem> = all
        .iter()
        .filter(|(_, _, scope)| may(*scope))
        .map(|(href, label, _)| NavItem {
            href: (*href).to_owned(),
            label,
            is_current: is_current(href),
        })
        .collect();
    let href = "/console/session";
    items.push(NavItem { href: href.to_owned(), label: "Session", is_current: path == href });
    items
}

/// What tells an operator that they look into an organisation.
pub(super) fn viewing(org: OrgId, csrf: &str) -> Html {
    let leave = Button::new("Leave", "/console/leave", csrf).html();
    let text = format!(
        "You look into organisation {org} as an operator, only reading. The audit log records it."
    );
    Html(format!(
        "<div class=\"viewing\" role=\"status\"><span>{}</span>{leave}</div>",
        escaped(&text)
    ))
}

/// What is said after a change. The code comes from the query; another one says nothing.
pub(super) fn flash(code: &str) -> Option<&'static str> {
    Some(match code {
        "saved" => "Saved.",
        "created" => "Created.",
        "deleted" => "Deleted.",
        "enabled" => "Enabled. What was due meanwhile is sent now.",
        "disabled" => "Disabled. Nothing is sent until it is enabled again.",
        "retried" => "The delivery is attempted now.",
        "replayed" => "Sent again.",
        "cancelled" => "Cancelled.",
        "discarded" => "Discarded.",
        "revoked" => "Revoked. The key works no longer.",
        "suspended" => "Suspended. Its keys are refused and its deliveries wait.",
        "resumed" => "Resumed.",
        "deleting" => "The deletion has begun.",
        "signed-out" => "Every other session of this key has ended.",
        _ => return None,
    })
}
