//! Servers, and what their journals have set aside.

use schemars::JsonSchema;
use serde::Serialize;

use crate::domain::{InstanceId, Timestamp};
use crate::ingest::{QuarantineContents, QuarantineEntry};
use crate::store::RegisteredServer;

/// The servers that work with the store.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct ServerList {
    /// The servers, the newest first; at most 1000.
    pub data: Vec<ServerView>,
}

/// A server, as it has registered itself.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct ServerView {
    /// This run of it: a restart has another id.
    pub id: String,
    /// The name of its host.
    pub host: String,
    /// The version of the program.
    pub version: String,
    /// When it started, by its own clock.
    pub started_at: Timestamp,
    /// Its last heartbeat, every 5 seconds by the clock of the database; on SQLite its start.
    pub heartbeat_at: Timestamp,
    /// Whether it has shown a heartbeat in the last 30 seconds. One that has not is removed once none of its leases is left.
    pub alive: bool,
    /// Whether it is the one that answers.
    pub this: bool,
}

/// What the journal of one server has set aside, or reported as lost.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct QuarantineView {
    /// The server that answers: each has a journal of its own.
    pub server_id: Option<String>,
    /// Files in `damaged/` of its journal, which it takes at most 1000 of.
    pub files: u64,
    /// Their bytes, at most 256 MiB.
    pub bytes: u64,
    /// What they hold, by segment and offset.
    pub data: Vec<QuarantineEntryView>,
    /// Whether there is more than `data` shows.
    pub has_more: bool,
}

/// Bytes that were set aside, or could not be.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct QuarantineEntryView {
    /// The file in `damaged/`; `null` if there is none: no bytes could be read, or there was no room.
    pub file: Option<String>,
    /// The segment of the journal that they were in; `null` if that is not known.
    pub segment: Option<String>,
    /// Their offset in the segment.
    pub offset: Option<u64>,
    /// How many they are.
    pub bytes: u64,
    /// The number of the first record that is lost with them; `null` if none is, and for what an earlier run has set
    /// aside.
    pub first_seq: Option<u64>,
    /// The number of the last one.
    pub last_seq: Option<u64>,
    /// How many records are lost; `null` for what an earlier run has set aside.
    pub records: Option<u64>,
}

/// The id of a server as people read it, in logs too.
fn text(id: InstanceId) -> String {
    format!("{:016x}", id.get())
}

impl ServerView {
    /// Of a registered server; `this` answers.
    pub fn new(server: RegisteredServer, this: Option<InstanceId>) -> Self {
        let RegisteredServer { id, host, version, started_at, heartbeat_at, is_alive } = server;
        let (alive, this) = (is_alive, this == Some(id));
        Self { id: text(id), host, version, started_at, heartbeat_at, alive, this }
    }
}

impl QuarantineView {
    /// Of the journal of this server.
    pub fn new(contents: QuarantineContents, this: Option<InstanceId>) -> Self {
        let QuarantineContents { files, bytes, entries, has_more } = contents;
        let data = entries.into_iter().map(QuarantineEntryView::from).collect();
        Self { server_id: this.map(text), files, bytes, data, has_more }
    }
}

impl From<QuarantineEntry> for QuarantineEntryView {
    fn from(entry: QuarantineEntry) -> Self {
        let QuarantineEntry { file, segment, offset, bytes, seqs } = entry;
        let lost = seqs.clone().filter(|seqs| !seqs.is_empty());
        Self {
            file,
            segment,
            offset,
            bytes,
            first_seq: lost.as_ref().map(|seqs| seqs.start),
            last_seq: lost.as_ref().map(|seqs| seqs.end - 1),
            records: seqs.map(|seqs| seqs.end.saturating_sub(seqs.start)),
        }
    }
}
