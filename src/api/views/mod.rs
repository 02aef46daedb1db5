//! Views: the resources as their owners and operators read them.
//!
//! Plain serialisable structs, one per answer. A resource that reads the same everywhere has no view
//! of its own: its domain type is serialised as it is.

mod analytics;
mod delivery;
mod endpoint;
mod event;
mod health;
mod inbox;
mod key;
mod org;
mod portal;
mod secret;
mod server;

pub use analytics::{
    AccountSample, AccountSummary, AccountView, DeliveryStats, EndpointStats, EventMetrics,
    EventTypePage, EventTypeView, MetricsRow, Percentiles, TopUser, UsageView,
};
pub use delivery::{
    AttemptView, CancelledDeliveries, DeadLetterReplay, DeliveryDetail, DeliveryView,
    EndpointAttemptView, ReplayedEvent, StoredEvent, TestEvent,
};
pub use endpoint::{EndpointDetail, EndpointView, NewEndpointView, PendingCount};
pub use event::{EventDetail, EventView};
pub use health::{
    DeliveryHealthView, DiskView, HealthReport, Liveness, QueueView, Readiness, ReadinessChecks,
    StageHealth, StoreView, StrictChecks, Totals,
};
pub use inbox::{InboxPage, ReceivedEventView, SettledEvents};
pub use key::{KeyView, NewKeyView};
pub use org::{OwnKeyView, OwnLimits, OwnOrgView, OwnQuotas, QuotaView};
pub use portal::{PortalLinkView, PortalView};
pub use secret::{EarlierSecretView, SecretView, SecretsView, text_for_receivers};
pub use server::{QuarantineEntryView, QuarantineView, ServerList, ServerView};
