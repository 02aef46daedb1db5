//! The pages, one file per resource.

pub(super) mod accounts;
pub(super) mod audit;
pub(super) mod dead_letters;
pub(super) mod deliveries;
pub(super) mod endpoint_changes;
pub(super) mod endpoint_form;
pub(super) mod endpoints;
pub(super) mod events;
pub(super) mod failing_endpoints;
pub(super) mod hours;
pub(super) mod keys;
pub(super) mod live;
pub(super) mod operator_keys;
pub(super) mod org_changes;
pub(super) mod orgs;
pub(super) mod overview;
pub(super) mod portal;
pub(super) mod replays;
pub(super) mod samples;
pub(super) mod server;
pub(super) mod session;
pub(super) mod sign_in;
