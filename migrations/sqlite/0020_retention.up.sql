-- Days that events and deliveries, and that payloads are kept; NULL follows RETENTION and PAYLOAD_RETENTION.
ALTER TABLE orgs ADD COLUMN retention_days INTEGER;
ALTER TABLE orgs ADD COLUMN payload_retention_days INTEGER;
-- Until when an erasure of the organisation reaches: events that were accepted by then are looked up in erasure_tombstones
-- before they are stored. NULL while it has no tombstone.
ALTER TABLE orgs ADD COLUMN erased_until INTEGER;

-- How far the payloads of an organisation's events are removed: those accepted before `until`, but for those in
-- payloads_in_use, which pending deliveries needed then. A removed payload is empty; no event has an empty one otherwise.
CREATE TABLE payload_removals (
    org_id BLOB    NOT NULL PRIMARY KEY,
    until  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE payloads_in_use (
    org_id      BLOB    NOT NULL,
    received_at INTEGER NOT NULL,
    event_id    BLOB    NOT NULL,
    PRIMARY KEY (org_id, received_at, event_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX api_keys_by_expiry ON api_keys (expires_at) WHERE expires_at IS NOT NULL;

-- A request to erase one event, or every event of an account that was accepted by `until`. stage: what is erased now;
-- cursor_at, cursor_id: how far.
CREATE TABLE erasures (
    id           BLOB    NOT NULL PRIMARY KEY,
    org_id       BLOB    NOT NULL REFERENCES orgs (id),
    event_id     BLOB,
    account_id   TEXT,
    until        INTEGER NOT NULL,
    status       TEXT    NOT NULL DEFAULT 'running',
    stage        INTEGER NOT NULL DEFAULT 0,
    cursor_at    INTEGER,
    cursor_id    BLOB,
    events       INTEGER NOT NULL DEFAULT 0,
    deliveries   INTEGER NOT NULL DEFAULT 0,
    dead_letters INTEGER NOT NULL DEFAULT 0,
    created_at   INTEGER NOT NULL,
    stepped_at   INTEGER NOT NULL,
    finished_at  INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX erasures_by_org ON erasures (org_id, created_at, id);
CREATE INDEX erasures_running ON erasures (stepped_at) WHERE status = 'running';
CREATE INDEX erasures_finished ON erasures (finished_at) WHERE finished_at IS NOT NULL;

-- What is not stored if it comes out of a journal: subject is 'event:' and an id, or 'account:' and an account; until: events
-- that were accepted by then.
CREATE TABLE erasure_tombstones (
    org_id  BLOB    NOT NULL,
    subject TEXT    NOT NULL,
    until   INTEGER NOT NULL,
    PRIMARY KEY (org_id, subject)
) STRICT, WITHOUT ROWID;
CREATE INDEX erasure_tombstones_by_time ON erasure_tombstones (until);
