//! The domain types: ids, events, endpoints, deliveries, keys and pages.
//!
//! Pure values. Nothing here reads a file, a socket or a clock, and nothing here imports another module of the
//! crate. Text from outside is parsed into these types once, at the edge; from then on a value is valid by
//! construction.

mod api_key;
mod attempt_position;
mod audit;
mod change;
mod client_network;
mod custom_headers;
mod dead_letter;
mod delivery;
mod delivery_policy;
mod endpoint;
mod endpoint_config;
mod endpoint_url;
mod erasure;
mod error_class;
mod event;
mod event_type;
mod event_type_filter;
mod event_type_rates;
mod failing_endpoint;
mod id;
mod idempotency_key;
mod inbox;
mod json_layout;
mod json_schema;
mod label_page;
mod media_type;
mod metrics_group;
mod minute_span;
mod near_names;
mod new_endpoint;
mod new_event;
mod operational_event;
mod org;
mod page;
mod portal;
mod replay;
mod revision;
mod scope;
mod secrets;
mod session;
mod signing_secret;
mod span;
mod timestamp;
mod trace;
mod trace_parent;
mod violation;
mod webhook_format;

pub use api_key::{ApiKey, KeyHash, KeyRotationRefusal, Role};
pub use attempt_position::{PartlyRead, attempt_position};
pub use audit::{Actor, ActorKind, AuditEntry};
pub use change::{ChangeCursor, ChangeCursorError, ChangeKind, ChangeKindError, LoggedChange};
pub use client_network::ClientNetwork;
pub use custom_headers::CustomHeaders;
pub use dead_letter::{
    DeadLetter, DeadLetterDeletion, DeadLetterFilter, DeadReason, DeadReasonError,
};
pub use delivery::{
    Attempt, Decision, Delivery, DeliveryFilter, DeliveryStatus, EndpointAttempt, HeldBy,
    InstanceId, LastAttempt, Lease, LeaseToken, LeasedDelivery, Outcome,
};
pub use delivery_policy::{DeliveryPolicy, DeliveryPolicyChange, RetrySchedule, parse_duration};
pub use endpoint::{
    Decrypted, DecryptionError, Endpoint, EndpointChange, EndpointKind, EndpointKindError,
    SecretRotationRefusal,
};
pub use endpoint_config::EndpointConfig;
pub use erasure::{Erasure, ErasureStatus, ErasureStatusError, ErasureSubject};
pub use error_class::ErrorClass;
pub use event::{Event, EventFilter, EventLabels, EventSummary};
pub use event_type::EventType;
pub use event_type_filter::{EventTypeFilter, EventTypeFilters};
pub use event_type_rates::{EventTypeRates, EventTypeRatesError};
pub use failing_endpoint::FailingEndpoint;
pub use id::{ApiKeyId, DeadLetterId, DeliveryId, EndpointId, ErasureId, EventId, OrgId, ReplayId};
pub use idempotency_key::IdempotencyKey;
pub use inbox::{
    INBOX_IDLE, Inbox, InboxSettings, InboxSettingsChange, ReceivedEvent, SettleStatus, Settled,
};
pub use json_layout::{JsonPiece, lay_out_json};
pub use label_page::{LabelCursor, LabelPage};
pub use media_type::MediaType;
pub use metrics_group::{MetricsGroup, MetricsGroupError};
pub use minute_span::{HOUR_MINUTES, MinuteSpan, minute_of, minute_start};
pub use near_names::{did_you_mean, nearest};
pub use new_endpoint::NewEndpoint;
pub use new_event::{
    CloudEventMode, HEADER_PREFIX, NewEvent, NewEventError, NewEventLimits, is_cloud_event,
    is_envelope, parse_batch, parse_binary_cloud_event, parse_cloud_event, parse_cloud_events,
    parse_event, parse_lines, parse_raw, raw_header_for, without_bom,
};
pub use operational_event::{
    DeliveriesExpired, DeliveryExhausted, EndpointDisabled, InboxPaused, TEST_EVENT_TYPE,
};
pub use org::{Org, OrgChange, OrgDeletion, OrgLimit, OrgLimits, OrgState};
pub use page::{
    Cursor, CursorError, ListCursor, ListOrder, ListPosition, ListTag, Page, PageRequest,
};
pub use portal::{
    FrameOrigin, PortalChange, PortalColour, PortalGrant, PortalLogo, PortalSettings, ReturnUrl,
};
pub use replay::{Replay, ReplayAction, ReplayStatus, ReplayTargets};
pub use revision::{Precondition, Revision};
pub use scope::{Scope, Scopes, UnknownScope};
pub use secrets::{EarlierSecret, SecretChoice, Secrets, TooManySecrets};
pub use session::{ConsoleSession, SessionGrants, SessionKind};
pub use signing_secret::{
    Ed25519Secret, HmacSecret, PublicKey, SignatureScheme, SigningSecret, SigningSecretError,
};
pub use span::SpanId;
pub use timestamp::{Month, MonthError, Timestamp, TimestampError};
pub use trace::{TraceFilter, TraceId};
pub use trace_parent::TraceParent;
pub use violation::Violation;
pub use webhook_format::{WebhookFormat, WebhookFormatError};
