//! Dead letters, and bulk replays of them.

use crate::http::openapi::operation::{Operation, Tag, operations};
use crate::http::problem;

operations! { DeadLetters:
    /// List dead letters
    LIST_DEAD_LETTERS "listDeadLetters" [];
    /// Start a bulk replay
    ///
    /// Of the dead letters that the body selects, in the background; of all of them without one.
    REPLAY_DEAD_LETTERS "replayDeadLetters" [ENDPOINT_DISABLED] r#"{"reason": "exhausted"}"#;
    /// Start to delete many
    DISCARD_DEAD_LETTERS "discardDeadLetters" [] r#"{"reason": "gone"}"#;
    /// Stream dead letters
    ///
    /// Every dead letter that the filters select, as newline-delimited JSON, however many.
    EXPORT_DEAD_LETTERS "exportDeadLetters" [TOO_MANY_STREAMS, STREAMS_EXHAUSTED];
    /// Show a dead letter
    GET_DEAD_LETTER "getDeadLetter" [];
    /// Delete a dead letter
    ///
    /// Its delivery stays dead.
    DELETE_DEAD_LETTER "deleteDeadLetter" [];
    /// Replay a dead letter
    ///
    /// As a new delivery; an event that the store had rejected is stored now.
    REPLAY_DEAD_LETTER "replayDeadLetter" [
        ENDPOINT_DISABLED, ENDPOINT_REMOVED, EVENT_REMOVED, EVENT_UNSTORABLE, IN_PROGRESS
    ];
    /// List bulk replays
    LIST_REPLAYS "listReplays" [];
    /// Show the progress of a bulk replay
    GET_REPLAY "getReplay" [];
    /// Stop a bulk replay
    ///
    /// Deliveries that it has created stay.
    CANCEL_REPLAY "cancelReplay" [];
}
