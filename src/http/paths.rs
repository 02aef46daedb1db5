//! The paths of posted events, which are handled apart from other routes.

/// The hot path. The middleware calls its handler directly; the router has the route too, so that it
/// is listed there and in the header `Allow`.
pub(super) const SINGLE_EVENTS: &str = "/api/events";
/// Batches of events.
pub(super) const BATCHES: &str = "/api/events/batch";
/// Raw bodies, and the other path of them.
pub(super) const RAW_EVENTS: [&str; 2] = ["/api/events/raw", "/api/v1/events"];

/// Whether a `POST` to this path is a single event.
pub(super) fn is_single_event(path: &str) -> bool {
    path == SINGLE_EVENTS || RAW_EVENTS.contains(&path)
}
