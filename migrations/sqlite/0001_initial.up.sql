-- Times are microseconds since the Unix epoch, ids are the 16 bytes of a UUID.

CREATE TABLE orgs (
    id                    BLOB    NOT NULL PRIMARY KEY,
    name                  TEXT    NOT NULL,
    rate_limit_per_minute INTEGER,
    created_at            INTEGER NOT NULL,
    changed_at            INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX orgs_by_time ON orgs (created_at, id);
CREATE INDEX orgs_by_change ON orgs (changed_at);

CREATE TABLE api_keys (
    id         BLOB    NOT NULL PRIMARY KEY,
    org_id     BLOB    REFERENCES orgs (id), -- NULL for an operator's
    name       TEXT    NOT NULL,
    hash       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    changed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX api_keys_by_time ON api_keys (created_at, id);
CREATE INDEX api_keys_by_org ON api_keys (org_id, created_at, id);
CREATE INDEX api_keys_by_change ON api_keys (changed_at);

CREATE TABLE endpoints (
    id              BLOB    NOT NULL PRIMARY KEY,
    org_id          BLOB    NOT NULL REFERENCES orgs (id),
    url             TEXT    NOT NULL,
    event_types     TEXT    NOT NULL,
    description     TEXT,
    secret          TEXT    NOT NULL,
    disabled_reason TEXT,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX endpoints_by_org ON endpoints (org_id, created_at, id);

-- With a rowid: rows of any size are appended, and the rowids of one insert are consecutive, which
-- is how persist tells new rows from old ones.
CREATE TABLE events (
    id          BLOB    NOT NULL,
    org_id      BLOB    NOT NULL,
    event_type  TEXT    NOT NULL,
    payload     BLOB    NOT NULL,
    dedup_id    TEXT,
    account_id  TEXT,
    user_id     TEXT,
    occurred_at INTEGER,
    received_at INTEGER NOT NULL,
    trace_id    BLOB    NOT NULL,
    PRIMARY KEY (id, received_at)
) STRICT;
CREATE INDEX events_by_org ON events (org_id, received_at, id);

-- Which event holds a dedup id: event_id is a hash of the organisation and the dedup id.
CREATE TABLE dedup_keys (
    org_id      BLOB    NOT NULL,
    event_id    BLOB    NOT NULL,
    received_at INTEGER NOT NULL,
    PRIMARY KEY (org_id, event_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX dedup_keys_by_time ON dedup_keys (received_at);

-- due_at: when the row may next be claimed. The end of the lease while lease_token is set, NULL
-- while the endpoint is disabled and once the status is final.
CREATE TABLE deliveries (
    id                BLOB    NOT NULL PRIMARY KEY,
    org_id            BLOB    NOT NULL,
    event_id          BLOB    NOT NULL,
    event_received_at INTEGER NOT NULL,
    endpoint_id       BLOB    NOT NULL,
    status            TEXT    NOT NULL DEFAULT 'pending',
    attempts          INTEGER NOT NULL DEFAULT 0,
    due_at            INTEGER,
    lease_token       BLOB,
    created_at        INTEGER NOT NULL,
    finished_at       INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_by_org ON deliveries (org_id, created_at, id);
CREATE INDEX deliveries_by_event ON deliveries (event_id);
CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint_id, created_at, id);
-- The endpoint is in it so that a claim passes over the endpoints it must leave out without reading their rows.
CREATE INDEX deliveries_due ON deliveries (due_at, endpoint_id)
    WHERE status = 'pending' AND due_at IS NOT NULL;
CREATE INDEX deliveries_pending ON deliveries (endpoint_id) WHERE status = 'pending';

CREATE TABLE delivery_attempts (
    delivery_id       BLOB    NOT NULL,
    number            INTEGER NOT NULL,
    org_id            BLOB    NOT NULL,
    event_received_at INTEGER NOT NULL,
    started_at        INTEGER NOT NULL,
    duration_ms       INTEGER NOT NULL,
    status_code       INTEGER,
    error             TEXT,
    response_excerpt  TEXT,
    PRIMARY KEY (delivery_id, number)
) STRICT, WITHOUT ROWID;

-- id: the delivery's, or the event's where the store refused the event; record is then the event
-- as the journal wrote it.
CREATE TABLE dead_letters (
    id          BLOB    NOT NULL PRIMARY KEY,
    org_id      BLOB    NOT NULL,
    event_id    BLOB    NOT NULL,
    delivery_id BLOB,
    endpoint_id BLOB,
    reason      TEXT    NOT NULL,
    detail      TEXT,
    record      BLOB,
    created_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX dead_letters_by_org ON dead_letters (org_id, created_at, id);
