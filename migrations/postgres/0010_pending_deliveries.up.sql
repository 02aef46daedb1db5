-- Deliveries that wait or are in flight are rows of pending_deliveries, a narrow table without partitions.
-- A finished one is a row of deliveries, written once, with the attempt that finished it; earlier attempts are rows
-- of delivery_attempts. An id is in one of the two tables.

-- endpoints_version: counts the changes of the organisation's endpoints; version: its value at the last change of
-- this one. kind: webhook, or pull. account_id: only events of this account.
-- cancel_before: pending deliveries created until then are cancelled, in steps; removed_at: the row is kept until
-- nothing waits for it.
ALTER TABLE orgs ADD COLUMN endpoints_version bigint NOT NULL DEFAULT 0;
ALTER TABLE endpoints ADD COLUMN version bigint NOT NULL DEFAULT 0;
ALTER TABLE endpoints ADD COLUMN kind text NOT NULL DEFAULT 'webhook';
ALTER TABLE endpoints ADD COLUMN account_id text;
ALTER TABLE endpoints ADD COLUMN cancel_before timestamptz;
ALTER TABLE endpoints ADD COLUMN removed_at timestamptz;
-- When an attempt last succeeded and failed, to the minute.
ALTER TABLE endpoints ADD COLUMN last_success_at timestamptz;
ALTER TABLE endpoints ADD COLUMN last_failure_at timestamptz;
CREATE INDEX endpoints_cancelling ON endpoints (id) WHERE cancel_before IS NOT NULL;

-- As for organisations and keys, see 0006 and 0008.
ALTER TABLE endpoints ADD COLUMN change_number bigint NOT NULL DEFAULT 0;
CREATE INDEX endpoints_by_change_number ON endpoints (change_number);
CREATE TRIGGER endpoints_number BEFORE INSERT OR UPDATE OF version ON endpoints
    FOR EACH ROW EXECUTE FUNCTION hookgate_number_change();
CREATE TRIGGER endpoints_hint AFTER INSERT OR UPDATE OF version ON endpoints
    FOR EACH STATEMENT EXECUTE FUNCTION hookgate_hint();

-- created_at: to the millisecond, the time in the id; that of the event's acceptance, or of a redelivery.
-- due_at: when it may be claimed by the retry schedule; the end of the lease while lease_token is set.
-- payload_bytes: the size of the event's payload.
CREATE TABLE pending_deliveries (
    org_id            uuid        NOT NULL,
    created_at        timestamptz NOT NULL,
    id                uuid        NOT NULL,
    event_id          uuid        NOT NULL,
    event_received_at timestamptz NOT NULL,
    endpoint_id       uuid        NOT NULL,
    replay_of         uuid,
    attempts          bigint      NOT NULL DEFAULT 0,
    ordered           boolean     NOT NULL DEFAULT false,
    payload_bytes     bigint      NOT NULL,
    due_at            timestamptz NOT NULL,
    lease_token       uuid,
    PRIMARY KEY (org_id, created_at, id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);

-- Partitioned by the day of created_at, which the id tells.
ALTER TABLE deliveries RENAME TO deliveries_v1;
ALTER TABLE deliveries_default RENAME TO deliveries_v1_default;
ALTER TABLE delivery_attempts RENAME TO delivery_attempts_v1;
ALTER TABLE delivery_attempts_default RENAME TO delivery_attempts_v1_default;
ALTER INDEX deliveries_pkey RENAME TO deliveries_v1_pkey;
ALTER INDEX deliveries_default_pkey RENAME TO deliveries_v1_default_pkey;
ALTER INDEX delivery_attempts_pkey RENAME TO delivery_attempts_v1_pkey;
ALTER INDEX delivery_attempts_default_pkey RENAME TO delivery_attempts_v1_default_pkey;
DROP INDEX deliveries_by_org, deliveries_by_event, deliveries_by_endpoint, deliveries_due, deliveries_pending,
    deliveries_ordered;
DO $$
DECLARE
    child record;
BEGIN
    FOR child IN
        SELECT c.relname FROM pg_inherits i
        JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
        WHERE p.relname IN ('deliveries_v1', 'delivery_attempts_v1') AND c.relname ~ '_p[0-9]{8}$'
    LOOP
        EXECUTE format('ALTER TABLE %I RENAME TO %I', child.relname, 'v1_' || child.relname);
        EXECUTE format('ALTER INDEX %I RENAME TO %I', child.relname || '_pkey', 'v1_' || child.relname || '_pkey');
    END LOOP;
END
$$;

CREATE TABLE deliveries (
    org_id            uuid        NOT NULL,
    created_at        timestamptz NOT NULL,
    id                uuid        NOT NULL,
    event_id          uuid        NOT NULL,
    event_received_at timestamptz NOT NULL,
    endpoint_id       uuid        NOT NULL,
    replay_of         uuid,
    status            text        NOT NULL,
    attempts          bigint      NOT NULL,
    finished_at       timestamptz NOT NULL,
    -- The attempt that finished it, number `attempts`; NULL where none did.
    started_at        timestamptz,
    duration_ms       bigint,
    status_code       bigint,
    error_class       text,
    error             text,
    response_excerpt  text,
    PRIMARY KEY (org_id, created_at, id)
) PARTITION BY RANGE (created_at);
CREATE TABLE deliveries_default PARTITION OF deliveries DEFAULT;

-- Every attempt but the one that finished a delivery, with the delivery's created_at.
CREATE TABLE delivery_attempts (
    delivery_id         uuid        NOT NULL,
    delivery_created_at timestamptz NOT NULL,
    number              bigint      NOT NULL,
    org_id              uuid        NOT NULL,
    started_at          timestamptz NOT NULL,
    duration_ms         bigint      NOT NULL,
    status_code         bigint,
    error_class         text,
    error               text,
    response_excerpt    text,
    PRIMARY KEY (delivery_id, number, delivery_created_at)
) PARTITION BY RANGE (delivery_created_at);
CREATE TABLE delivery_attempts_default PARTITION OF delivery_attempts DEFAULT;

-- The days that the rows to be moved need, and the coming ones.
DO $$
DECLARE
    day date;
    part text;
BEGIN
    FOR day IN
        SELECT DISTINCT (created_at AT TIME ZONE 'UTC')::date FROM deliveries_v1
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

INSERT INTO pending_deliveries
    (org_id, created_at, id, event_id, event_received_at, endpoint_id, replay_of, attempts, ordered, payload_bytes,
     due_at, lease_token)
SELECT d.org_id, date_trunc('milliseconds', d.created_at), d.id, d.event_id, d.event_received_at, d.endpoint_id,
       d.replay_of, d.attempts, d.ordered, octet_length(e.payload), coalesce(d.due_at, now()), d.lease_token
FROM deliveries_v1 d
JOIN events e ON e.id = d.event_id AND e.received_at = d.event_received_at
WHERE d.status = 'pending';

INSERT INTO deliveries
    (org_id, created_at, id, event_id, event_received_at, endpoint_id, replay_of, status, attempts, finished_at,
     started_at, duration_ms, status_code, error_class, error, response_excerpt)
SELECT d.org_id, date_trunc('milliseconds', d.created_at), d.id, d.event_id, d.event_received_at, d.endpoint_id,
       d.replay_of, d.status, d.attempts, coalesce(d.finished_at, d.created_at),
       a.started_at, a.duration_ms, a.status_code, a.error_class, a.error, a.response_excerpt
FROM deliveries_v1 d
LEFT JOIN delivery_attempts_v1 a
    ON a.delivery_id = d.id AND a.number = d.attempts AND a.event_received_at = d.event_received_at
WHERE d.status <> 'pending';

INSERT INTO delivery_attempts
    (delivery_id, delivery_created_at, number, org_id, started_at, duration_ms, status_code, error_class, error,
     response_excerpt)
SELECT a.delivery_id, date_trunc('milliseconds', d.created_at), a.number, a.org_id, a.started_at, a.duration_ms,
       a.status_code, a.error_class, a.error, a.response_excerpt
FROM delivery_attempts_v1 a
JOIN deliveries_v1 d ON d.id = a.delivery_id AND d.event_received_at = a.event_received_at
WHERE d.status = 'pending' OR a.number <> d.attempts;

DROP TABLE deliveries_v1, delivery_attempts_v1;

-- Deliveries of an event have its received_at as created_at, so the primary key finds them; redeliveries, and what
-- version 1 planned, are in an index of their own.
CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint_id, created_at, id);
CREATE INDEX deliveries_redelivered ON deliveries (event_id) WHERE created_at > event_received_at;

CREATE INDEX pending_by_endpoint ON pending_deliveries (endpoint_id, created_at, id);
CREATE INDEX pending_redelivered ON pending_deliveries (event_id) WHERE created_at > event_received_at;
-- The endpoints with something due, the longest due first, and endpoint by endpoint. A delivery that is leased when it is
-- planned is in neither.
CREATE INDEX pending_due ON pending_deliveries (due_at, endpoint_id) WHERE lease_token IS NULL AND NOT ordered;
CREATE INDEX pending_claims ON pending_deliveries (endpoint_id, ordered, due_at) WHERE lease_token IS NULL;
-- The heads of the ordered endpoints.
CREATE INDEX pending_ordered ON pending_deliveries (endpoint_id, event_received_at, id) WHERE ordered;
CREATE INDEX pending_leases ON pending_deliveries (lease_token, due_at) WHERE lease_token IS NOT NULL;
-- The ordered endpoints with something in flight.
CREATE INDEX pending_ordered_leases ON pending_deliveries (endpoint_id) WHERE ordered AND lease_token IS NOT NULL;
ANALYZE pending_deliveries, deliveries, delivery_attempts;
