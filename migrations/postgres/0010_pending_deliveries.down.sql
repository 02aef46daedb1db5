-- Version 1 would send to them, or send too much.
UPDATE endpoints SET disabled_reason = coalesce(disabled_reason, 'the endpoint needs a newer version of Hookgate')
WHERE kind <> 'webhook' OR account_id IS NOT NULL;

ALTER TABLE deliveries RENAME TO deliveries_v2;
ALTER TABLE deliveries_default RENAME TO deliveries_v2_default;
ALTER TABLE delivery_attempts RENAME TO delivery_attempts_v2;
ALTER TABLE delivery_attempts_default RENAME TO delivery_attempts_v2_default;
ALTER INDEX deliveries_pkey RENAME TO deliveries_v2_pkey;
ALTER INDEX deliveries_default_pkey RENAME TO deliveries_v2_default_pkey;
ALTER INDEX delivery_attempts_pkey RENAME TO delivery_attempts_v2_pkey;
ALTER INDEX delivery_attempts_default_pkey RENAME TO delivery_attempts_v2_default_pkey;
DROP INDEX deliveries_by_endpoint, deliveries_redelivered;
DO $$
DECLARE
    child record;
BEGIN
    FOR child IN
        SELECT c.relname FROM pg_inherits i
        JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
        WHERE p.relname IN ('deliveries_v2', 'delivery_attempts_v2') AND c.relname ~ '_p[0-9]{8}$'
    LOOP
        EXECUTE format('ALTER TABLE %I RENAME TO %I', child.relname, 'v2_' || child.relname);
        EXECUTE format('ALTER INDEX %I RENAME TO %I', child.relname || '_pkey', 'v2_' || child.relname || '_pkey');
    END LOOP;
END
$$;

CREATE TABLE deliveries (
    id                uuid        NOT NULL,
    org_id            uuid        NOT NULL,
    event_id          uuid        NOT NULL,
    event_received_at timestamptz NOT NULL,
    endpoint_id       uuid        NOT NULL,
    status            text        NOT NULL DEFAULT 'pending',
    attempts          bigint      NOT NULL DEFAULT 0,
    due_at            timestamptz,
    lease_token       uuid,
    created_at        timestamptz NOT NULL,
    finished_at       timestamptz,
    ordered           boolean     NOT NULL DEFAULT false,
    replay_of         uuid,
    PRIMARY KEY (id, event_received_at)
) PARTITION BY RANGE (event_received_at);
CREATE TABLE deliveries_default PARTITION OF deliveries DEFAULT;

CREATE TABLE delivery_attempts (
    delivery_id       uuid        NOT NULL,
    number            bigint      NOT NULL,
    org_id            uuid        NOT NULL,
    event_received_at timestamptz NOT NULL,
    started_at        timestamptz NOT NULL,
    duration_ms       bigint      NOT NULL,
    status_code       bigint,
    error             text,
    response_excerpt  text,
    error_class       text,
    PRIMARY KEY (delivery_id, number, event_received_at)
) PARTITION BY RANGE (event_received_at);
CREATE TABLE delivery_attempts_default PARTITION OF delivery_attempts DEFAULT;

-- The days that the rows to be moved need, and the coming ones.
DO $$
DECLARE
    day date;
    part text;
BEGIN
    FOR day IN
        SELECT (event_received_at AT TIME ZONE 'UTC')::date FROM deliveries_v2
        UNION SELECT (event_received_at AT TIME ZONE 'UTC')::date FROM pending_deliveries
        UNION SELECT (now() AT TIME ZONE 'UTC')::date + n FROM generate_series(0, 7) n
    LOOP
        FOREACH part IN ARRAY ARRAY['deliveries', 'delivery_attempts'] LOOP
            EXECUTE format(
                'CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                part || '_p' || to_char(day, 'YYYYMMDD'), part,
                day || ' 00:00+00', (day + 1) || ' 00:00+00');
        END LOOP;
    END LOOP;
END
$$;

INSERT INTO delivery_attempts
    (delivery_id, number, org_id, event_received_at, started_at, duration_ms, status_code, error, response_excerpt,
     error_class)
SELECT a.delivery_id, a.number, a.org_id, d.event_received_at, a.started_at, a.duration_ms, a.status_code, a.error,
       a.response_excerpt, a.error_class
FROM (SELECT created_at, id, event_received_at FROM deliveries_v2
      UNION ALL SELECT created_at, id, event_received_at FROM pending_deliveries) d
JOIN delivery_attempts_v2 a ON a.delivery_id = d.id AND a.delivery_created_at = d.created_at
UNION ALL
SELECT id, attempts, org_id, event_received_at, started_at, duration_ms, status_code, error, response_excerpt,
       error_class
FROM deliveries_v2 WHERE started_at IS NOT NULL;

INSERT INTO deliveries
    (id, org_id, event_id, event_received_at, endpoint_id, status, attempts, created_at, finished_at, replay_of)
SELECT id, org_id, event_id, event_received_at, endpoint_id, status, attempts, created_at, finished_at, replay_of
FROM deliveries_v2;

-- What is still to be cancelled is cancelled now, and what waits for a disabled endpoint has no due time.
INSERT INTO deliveries
    (id, org_id, event_id, event_received_at, endpoint_id, status, attempts, due_at, lease_token, created_at,
     finished_at, ordered, replay_of)
SELECT d.id, d.org_id, d.event_id, d.event_received_at, d.endpoint_id, 'pending', d.attempts,
       CASE WHEN d.lease_token IS NOT NULL OR p.disabled_reason IS NULL THEN d.due_at END, d.lease_token, d.created_at,
       NULL, d.ordered, d.replay_of
FROM pending_deliveries d
JOIN endpoints p ON p.id = d.endpoint_id
WHERE p.removed_at IS NULL AND (p.cancel_before IS NULL OR p.cancel_before < d.created_at);

INSERT INTO deliveries
    (id, org_id, event_id, event_received_at, endpoint_id, status, attempts, created_at, finished_at, ordered, replay_of)
SELECT d.id, d.org_id, d.event_id, d.event_received_at, d.endpoint_id, 'cancelled', d.attempts, d.created_at,
       coalesce(p.cancel_before, d.created_at), d.ordered, d.replay_of
FROM pending_deliveries d
LEFT JOIN endpoints p ON p.id = d.endpoint_id
WHERE p.id IS NULL OR p.removed_at IS NOT NULL OR p.cancel_before >= d.created_at;

DROP TABLE pending_deliveries, deliveries_v2, delivery_attempts_v2;

CREATE INDEX deliveries_by_org ON deliveries (org_id, created_at, id);
CREATE INDEX deliveries_by_event ON deliveries (event_id);
CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint_id, created_at, id);
CREATE INDEX deliveries_due ON deliveries (due_at, endpoint_id)
    WHERE finished_at IS NULL AND due_at IS NOT NULL AND NOT ordered;
CREATE INDEX deliveries_pending ON deliveries (endpoint_id, ordered, due_at) WHERE status = 'pending';
CREATE INDEX deliveries_ordered ON deliveries (endpoint_id, event_received_at, id)
    WHERE finished_at IS NULL AND ordered;
ANALYZE deliveries, delivery_attempts;

DELETE FROM endpoints WHERE removed_at IS NOT NULL;
DROP TRIGGER endpoints_hint ON endpoints;
DROP TRIGGER endpoints_number ON endpoints;
DROP INDEX endpoints_by_change_number;
DROP INDEX endpoints_cancelling;
ALTER TABLE endpoints
    DROP COLUMN change_number, DROP COLUMN last_failure_at, DROP COLUMN last_success_at, DROP COLUMN removed_at,
    DROP COLUMN cancel_before, DROP COLUMN account_id, DROP COLUMN kind, DROP COLUMN version;
ALTER TABLE orgs DROP COLUMN endpoints_version;
