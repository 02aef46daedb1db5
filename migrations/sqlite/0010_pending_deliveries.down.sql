-- Version 1 would send to them, or send too much.
UPDATE endpoints SET disabled_reason = coalesce(disabled_reason, 'the endpoint needs a newer version of Hookgate')
WHERE kind <> 'webhook' OR account_id IS NOT NULL;

CREATE TABLE deliveries_v1 (
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
    finished_at       INTEGER,
    ordered           INTEGER NOT NULL DEFAULT 0,
    replay_of         BLOB
) STRICT, WITHOUT ROWID;

CREATE TABLE delivery_attempts_v1 (
    delivery_id       BLOB    NOT NULL,
    number            INTEGER NOT NULL,
    org_id            BLOB    NOT NULL,
    event_received_at INTEGER NOT NULL,
    started_at        INTEGER NOT NULL,
    duration_ms       INTEGER NOT NULL,
    status_code       INTEGER,
    error             TEXT,
    response_excerpt  TEXT,
    error_class       TEXT,
    PRIMARY KEY (delivery_id, number)
) STRICT, WITHOUT ROWID;

INSERT INTO delivery_attempts_v1
    (delivery_id, number, org_id, event_received_at, started_at, duration_ms, status_code, error, response_excerpt,
     error_class)
SELECT a.delivery_id, a.number, a.org_id, d.event_received_at, a.started_at, a.duration_ms, a.status_code, a.error,
       a.response_excerpt, a.error_class
FROM (SELECT org_id, created_at, id, event_received_at FROM deliveries
      UNION ALL SELECT org_id, created_at, id, event_received_at FROM pending_deliveries) d
JOIN delivery_attempts a ON a.delivery_id = d.id
UNION ALL
SELECT id, attempts, org_id, event_received_at, started_at, duration_ms, status_code, error, response_excerpt,
       error_class
FROM deliveries WHERE started_at IS NOT NULL;

INSERT INTO deliveries_v1
    (id, org_id, event_id, event_received_at, endpoint_id, status, attempts, created_at, finished_at, replay_of)
SELECT id, org_id, event_id, event_received_at, endpoint_id, status, attempts, created_at, finished_at, replay_of
FROM deliveries;

-- What is still to be cancelled is cancelled now, and what waits for a disabled endpoint has no due time.
INSERT INTO deliveries_v1
    (id, org_id, event_id, event_received_at, endpoint_id, status, attempts, due_at, lease_token, created_at,
     finished_at, ordered, replay_of)
SELECT d.id, d.org_id, d.event_id, d.event_received_at, d.endpoint_id, 'pending', d.attempts,
       CASE WHEN d.lease_token IS NOT NULL OR p.disabled_reason IS NULL THEN d.due_at END, d.lease_token, d.created_at,
       NULL, d.ordered, d.replay_of
FROM pending_deliveries d
JOIN endpoints p ON p.id = d.endpoint_id
WHERE p.removed_at IS NULL AND (p.cancel_before IS NULL OR p.cancel_before < d.created_at);

INSERT INTO deliveries_v1
    (id, org_id, event_id, event_received_at, endpoint_id, status, attempts, created_at, finished_at, ordered, replay_of)
SELECT d.id, d.org_id, d.event_id, d.event_received_at, d.endpoint_id, 'cancelled', d.attempts, d.created_at,
       coalesce(p.cancel_before, d.created_at), d.ordered, d.replay_of
FROM pending_deliveries d
LEFT JOIN endpoints p ON p.id = d.endpoint_id
WHERE p.id IS NULL OR p.removed_at IS NOT NULL OR p.cancel_before >= d.created_at;

DROP TABLE pending_deliveries;
DROP TABLE deliveries;
DROP TABLE delivery_attempts;
ALTER TABLE deliveries_v1 RENAME TO deliveries;
ALTER TABLE delivery_attempts_v1 RENAME TO delivery_attempts;

CREATE INDEX deliveries_by_org ON deliveries (org_id, created_at, id);
CREATE INDEX deliveries_by_event ON deliveries (event_id);
CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint_id, created_at, id);
CREATE INDEX deliveries_due ON deliveries (due_at, endpoint_id)
    WHERE status = 'pending' AND due_at IS NOT NULL AND ordered = 0;
CREATE INDEX deliveries_pending ON deliveries (endpoint_id, ordered, due_at) WHERE status = 'pending';
CREATE INDEX deliveries_ordered ON deliveries (endpoint_id, event_received_at, id)
    WHERE status = 'pending' AND ordered = 1;

DELETE FROM endpoints WHERE removed_at IS NOT NULL;
DROP TRIGGER endpoints_number_changed;
DROP TRIGGER endpoints_number_added;
DROP INDEX endpoints_by_change_number;
ALTER TABLE endpoints DROP COLUMN change_number;
DROP INDEX endpoints_cancelling;
ALTER TABLE endpoints DROP COLUMN last_failure_at;
ALTER TABLE endpoints DROP COLUMN last_success_at;
ALTER TABLE endpoints DROP COLUMN removed_at;
ALTER TABLE endpoints DROP COLUMN cancel_before;
ALTER TABLE endpoints DROP COLUMN account_id;
ALTER TABLE endpoints DROP COLUMN kind;
ALTER TABLE endpoints DROP COLUMN version;
ALTER TABLE orgs DROP COLUMN endpoints_version;
