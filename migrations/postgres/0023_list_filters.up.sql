-- trace_text is empty where the digits of trace_id are a caller's. It is NULL for an id that the server minted for the
-- event: that begins with the time, so its event is found by the time of its acceptance. Both indexes cost nothing
-- where senders give no trace id.
CREATE INDEX events_by_trace ON events (org_id, trace_id, received_at, id) WHERE trace_text IS NOT NULL;
CREATE INDEX events_by_trace_text ON events (org_id, trace_text COLLATE "C", received_at, id) WHERE trace_text <> '';

-- type_key: a hash of organisation and event type; NULL in rows from before this step, which a list by type leaves out.
-- error, error_class, status_code: of the last attempt; also of a delivery that was cancelled after it.
ALTER TABLE pending_deliveries
    ADD COLUMN type_key bigint, ADD COLUMN error text, ADD COLUMN error_class text, ADD COLUMN status_code bigint;
ALTER TABLE deliveries ADD COLUMN type_key bigint;
CREATE INDEX deliveries_by_type ON deliveries (type_key, created_at, id) WHERE type_key IS NOT NULL;
-- Of what failed only: these cost nothing for a delivery that succeeds.
CREATE INDEX deliveries_by_error_class ON deliveries (org_id, error_class, created_at, id) WHERE error_class IS NOT NULL;
CREATE INDEX deliveries_by_status_code ON deliveries (org_id, status_code, created_at, id) WHERE error_class IS NOT NULL;
-- Of what waits: what is leased when it is planned, and then delivered, is never in it.
CREATE INDEX pending_by_type ON pending_deliveries (type_key, created_at, id) WHERE lease_token IS NULL;
CREATE INDEX pending_by_error_class ON pending_deliveries (org_id, error_class, created_at, id)
    WHERE error_class IS NOT NULL;
CREATE INDEX pending_by_status_code ON pending_deliveries (org_id, status_code, created_at, id)
    WHERE error_class IS NOT NULL;

-- Of the last attempt.
ALTER TABLE dead_letters
    ADD COLUMN error_class text, ADD COLUMN status_code bigint, ADD COLUMN attempts bigint;
UPDATE dead_letters l SET error_class = d.error_class, status_code = d.status_code, attempts = d.attempts
FROM deliveries d WHERE d.id = l.id AND d.org_id = l.org_id AND d.status <> 'delivered' AND d.status = 'dead';
CREATE INDEX dead_letters_by_error_class ON dead_letters (org_id, error_class, created_at, id)
    WHERE error_class IS NOT NULL;
CREATE INDEX dead_letters_by_status_code ON dead_letters (org_id, status_code, created_at, id)
    WHERE error_class IS NOT NULL;

-- action: what becomes of the dead letters, replay or discard.
ALTER TABLE replays
    ADD COLUMN action text NOT NULL DEFAULT 'replay', ADD COLUMN error_class text, ADD COLUMN status_code bigint;
