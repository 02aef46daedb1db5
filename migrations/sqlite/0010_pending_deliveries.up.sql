-- Deliveries that wait or are in flight are rows of pending_deliveries, a narrow table.
-- A finished one is a row of deliveries, written once, with the attempt that finished it; earlier attempts are rows
-- of delivery_attempts. An id is in one of the two tables.

-- endpoints_version: counts the changes of the organisation's endpoints; version: its value at the last change of
-- this one. kind: webhook, or pull. account_id: only events of this account.
-- cancel_before: pending deliveries created until then are cancelled, in steps; removed_at: the row is kept until
-- nothing waits for it.
ALTER TABLE orgs ADD COLUMN endpoints_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE endpoints ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE endpoints ADD COLUMN kind TEXT NOT NULL DEFAULT 'webhook';
ALTER TABLE endpoints ADD COLUMN account_id TEXT;
ALTER TABLE endpoints ADD COLUMN cancel_before INTEGER;
ALTER TABLE endpoints ADD COLUMN removed_at INTEGER;
-- When an attempt last succeeded and failed, to the minute.
ALTER TABLE endpoints ADD COLUMN last_success_at INTEGER;
ALTER TABLE endpoints ADD COLUMN last_failure_at INTEGER;
CREATE INDEX endpoints_cancelling ON endpoints (id) WHERE cancel_before IS NOT NULL;

-- As for organisations and keys, see 0008.
ALTER TABLE endpoints ADD COLUMN change_number INTEGER NOT NULL DEFAULT 0;
CREATE INDEX endpoints_by_change_number ON endpoints (change_number);
CREATE TRIGGER endpoints_number_added AFTER INSERT ON endpoints BEGIN
    UPDATE change_counter SET number = number + 1;
    UPDATE endpoints SET change_number = (SELECT number FROM change_counter) WHERE id = NEW.id;
END;
CREATE TRIGGER endpoints_number_changed AFTER UPDATE OF version ON endpoints BEGIN
    UPDATE change_counter SET number = number + 1;
    UPDATE endpoints SET change_number = (SELECT number FROM change_counter) WHERE id = NEW.id;
END;

-- created_at: to the millisecond, the time in the id; that of the event's acceptance, or of a redelivery.
-- due_at: when it may be claimed by the retry schedule; the end of the lease while lease_token is set.
-- payload_bytes: the size of the event's payload.
CREATE TABLE pending_deliveries (
    org_id            BLOB    NOT NULL,
    created_at        INTEGER NOT NULL,
    id                BLOB    NOT NULL,
    event_id          BLOB    NOT NULL,
    event_received_at INTEGER NOT NULL,
    endpoint_id       BLOB    NOT NULL,
    replay_of         BLOB,
    attempts          INTEGER NOT NULL DEFAULT 0,
    ordered           INTEGER NOT NULL DEFAULT 0,
    payload_bytes     INTEGER NOT NULL,
    due_at            INTEGER NOT NULL,
    lease_token       BLOB,
    PRIMARY KEY (org_id, created_at, id)
) STRICT, WITHOUT ROWID;

INSERT INTO pending_deliveries
    (org_id, created_at, id, event_id, event_received_at, endpoint_id, replay_of, attempts, ordered, payload_bytes,
     due_at, lease_token)
SELECT d.org_id, d.created_at - d.created_at % 1000, d.id, d.event_id, d.event_received_at, d.endpoint_id, d.replay_of,
       d.attempts, d.ordered, octet_length(e.payload),
       coalesce(d.due_at, CAST(unixepoch('subsec') * 1000000 AS INTEGER)), d.lease_token
FROM deliveries d
JOIN events e ON e.id = d.event_id AND e.received_at = d.event_received_at
WHERE d.status = 'pending';

CREATE TABLE deliveries_v2 (
    org_id            BLOB    NOT NULL,
    created_at        INTEGER NOT NULL,
    id                BLOB    NOT NULL,
    event_id          BLOB    NOT NULL,
    event_received_at INTEGER NOT NULL,
    endpoint_id       BLOB    NOT NULL,
    replay_of         BLOB,
    status            TEXT    NOT NULL,
    attempts          INTEGER NOT NULL,
    finished_at       INTEGER NOT NULL,
    -- The attempt that finished it, number `attempts`; NULL where none did.
    started_at        INTEGER,
    duration_ms       INTEGER,
    status_code       INTEGER,
    error_class       TEXT,
    error             TEXT,
    response_excerpt  TEXT,
    PRIMARY KEY (org_id, created_at, id)
) STRICT, WITHOUT ROWID;

INSERT INTO deliveries_v2
    (org_id, created_at, id, event_id, event_received_at, endpoint_id, replay_of, status, attempts, finished_at,
     started_at, duration_ms, status_code, error_class, error, response_excerpt)
SELECT d.org_id, d.created_at - d.created_at % 1000, d.id, d.event_id, d.event_received_at, d.endpoint_id, d.replay_of,
       d.status, d.attempts, coalesce(d.finished_at, d.created_at),
       a.started_at, a.duration_ms, a.status_code, a.error_class, a.error, a.response_excerpt
FROM deliveries d
LEFT JOIN delivery_attempts a ON a.delivery_id = d.id AND a.number = d.attempts
WHERE d.status <> 'pending';

-- Every attempt but the one that finished a delivery, with the delivery's created_at.
CREATE TABLE delivery_attempts_v2 (
    delivery_id         BLOB    NOT NULL,
    delivery_created_at INTEGER NOT NULL,
    number              INTEGER NOT NULL,
    org_id              BLOB    NOT NULL,
    started_at          INTEGER NOT NULL,
    duration_ms         INTEGER NOT NULL,
    status_code         INTEGER,
    error_class         TEXT,
    error               TEXT,
    response_excerpt    TEXT,
    PRIMARY KEY (delivery_id, number)
) STRICT, WITHOUT ROWID;

INSERT INTO delivery_attempts_v2
    (delivery_id, delivery_created_at, number, org_id, started_at, duration_ms, status_code, error_class, error,
     response_excerpt)
SELECT a.delivery_id, d.created_at - d.created_at % 1000, a.number, a.org_id, a.started_at, a.duration_ms,
       a.status_code, a.error_class, a.error, a.response_excerpt
FROM delivery_attempts a
JOIN deliveries d ON d.id = a.delivery_id
WHERE d.status = 'pending' OR a.number <> d.attempts;

DROP TABLE deliveries;
DROP TABLE delivery_attempts;
ALTER TABLE deliveries_v2 RENAME TO deliveries;
ALTER TABLE delivery_attempts_v2 RENAME TO delivery_attempts;

-- Deliveries of an event have its received_at as created_at, so the primary key finds them; redeliveries, and what
-- version 1 planned, are in an index of their own.
CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint_id, created_at, id);
CREATE INDEX deliveries_redelivered ON deliveries (event_id) WHERE created_at > event_received_at;

CREATE INDEX pending_by_endpoint ON pending_deliveries (endpoint_id, created_at, id);
CREATE INDEX pending_redelivered ON pending_deliveries (event_id) WHERE created_at > event_received_at;
-- The endpoints with something due, the longest due first, and endpoint by endpoint. A delivery that is leased when it is
-- planned is in neither.
CREATE INDEX pending_due ON pending_deliveries (due_at, endpoint_id) WHERE lease_token IS NULL AND ordered = 0;
CREATE INDEX pending_claims ON pending_deliveries (endpoint_id, ordered, due_at) WHERE lease_token IS NULL;
-- The heads of the ordered endpoints.
CREATE INDEX pending_ordered ON pending_deliveries (endpoint_id, event_received_at, id) WHERE ordered = 1;
CREATE INDEX pending_leases ON pending_deliveries (lease_token, due_at) WHERE lease_token IS NOT NULL;
-- The ordered endpoints with something in flight.
CREATE INDEX pending_ordered_leases ON pending_deliveries (endpoint_id) WHERE ordered = 1 AND lease_token IS NOT NULL;
