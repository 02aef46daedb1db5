//! Counts, and erasures.

use crate::http::openapi::operation::{Operation, Tag, operations};

operations! { Analytics:
    /// List accounts, most recently active first
    LIST_ACCOUNTS "listAccounts" [];
    /// Show some accounts
    SAMPLE_ACCOUNTS "sampleAccounts" [];
    /// Summarise what an account has sent, by type and user
    ///
    /// At most a minute old.
    GET_ACCOUNT_SUMMARY "getAccountSummary" [];
    /// List event types with counts
    LIST_EVENT_TYPES "listEventTypes" [];
    /// Count events and deliveries in a window
    GET_EVENT_METRICS "getEventMetrics" [];
}

operations! { Erasures:
    /// Erase an event
    ERASE_EVENT "eraseEvent" [];
    /// Erase every event of an account until now
    ERASE_ACCOUNT "eraseAccount" [];
    /// List erasures
    LIST_ERASURES "listErasures" [];
    /// Show the progress of an erasure
    GET_ERASURE "getErasure" [];
}
