CREATE TABLE IF NOT EXISTS events_default PARTITION OF events DEFAULT;
CREATE TABLE IF NOT EXISTS deliveries_default PARTITION OF deliveries DEFAULT;
CREATE TABLE IF NOT EXISTS delivery_attempts_default PARTITION OF delivery_attempts DEFAULT;

CREATE OR REPLACE FUNCTION hookgate_dead_letter_type() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    created timestamptz;
BEGIN
    IF NEW.event_type IS NULL AND NEW.delivery_id IS NOT NULL THEN
        created := timestamptz 'epoch' + interval '1 millisecond'
            * ('x' || left(replace(NEW.delivery_id::text, '-', ''), 12))::bit(48)::bigint;
        SELECT e.event_type INTO NEW.event_type FROM events e
        WHERE e.id = NEW.event_id AND e.org_id = NEW.org_id
          AND e.received_at >= created AND e.received_at < created + interval '1 millisecond';
        IF NOT FOUND THEN
            SELECT e.event_type INTO NEW.event_type FROM events e
            WHERE e.id = NEW.event_id AND e.org_id = NEW.org_id
            ORDER BY e.received_at DESC LIMIT 1;
        END IF;
    END IF;
    RETURN NEW;
END
$$;

DROP TABLE erasure_tombstones;
DROP TABLE erasures;
DROP INDEX api_keys_by_expiry;
DROP INDEX pending_redelivered_by_day;
INSERT INTO events (id, org_id, event_type, payload, dedup_id, account_id, user_id, occurred_at, received_at, trace_id,
                    trace_text)
SELECT id, org_id, event_type, payload, dedup_id, account_id, user_id, occurred_at, received_at, trace_id, trace_text
FROM held_events;
DROP TABLE held_events;
DROP TABLE payloads_in_use;
DROP TABLE payload_removals;
-- The version before knows no empty payload.
UPDATE events SET payload = 'null' WHERE octet_length(payload) = 0;
ALTER TABLE orgs DROP COLUMN erased_until;
ALTER TABLE orgs DROP COLUMN payload_retention_days;
ALTER TABLE orgs DROP COLUMN retention_days;
