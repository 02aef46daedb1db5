-- Days that events and deliveries, and that payloads are kept; NULL follows RETENTION and PAYLOAD_RETENTION.
ALTER TABLE orgs ADD COLUMN retention_days bigint;
ALTER TABLE orgs ADD COLUMN payload_retention_days bigint;
-- Until when an erasure of the organisation reaches: events that were accepted by then are looked up in erasure_tombstones
-- before they are stored. NULL while it has no tombstone.
ALTER TABLE orgs ADD COLUMN erased_until timestamptz;

-- How far the payloads of an organisation's events are removed: those accepted before `until`, but for those in
-- payloads_in_use, which pending deliveries needed then. A removed payload is empty; no event has an empty one otherwise.
CREATE TABLE payload_removals (
    org_id uuid        NOT NULL PRIMARY KEY,
    until  timestamptz NOT NULL
);
CREATE TABLE payloads_in_use (
    org_id      uuid        NOT NULL,
    received_at timestamptz NOT NULL,
    event_id    uuid        NOT NULL,
    PRIMARY KEY (org_id, received_at, event_id)
);

-- Events of days that were dropped, as long as pending deliveries need them. The columns are those of events.
CREATE TABLE held_events (
    id          uuid        NOT NULL,
    org_id      uuid        NOT NULL,
    event_type  text        NOT NULL,
    payload     bytea       NOT NULL,
    dedup_id    text,
    account_id  text,
    user_id     text,
    occurred_at timestamptz,
    received_at timestamptz NOT NULL,
    trace_id    uuid        NOT NULL,
    trace_text  text,
    PRIMARY KEY (id, received_at)
);
CREATE INDEX held_events_by_org ON held_events (org_id, received_at, id);

-- The days of events that redeliveries wait for.
CREATE INDEX pending_redelivered_by_day ON pending_deliveries (event_received_at)
    WHERE created_at > event_received_at;

CREATE INDEX api_keys_by_expiry ON api_keys (expires_at) WHERE expires_at IS NOT NULL;

-- A request to erase one event, or every event of an account that was accepted by `until`. stage: what is erased now;
-- cursor_at, cursor_id: how far.
CREATE TABLE erasures (
    id           uuid        NOT NULL PRIMARY KEY,
    org_id       uuid        NOT NULL REFERENCES orgs (id),
    event_id     uuid,
    account_id   text,
    until        timestamptz NOT NULL,
    status       text        NOT NULL DEFAULT 'running',
    stage        bigint      NOT NULL DEFAULT 0,
    cursor_at    timestamptz,
    cursor_id    uuid,
    events       bigint      NOT NULL DEFAULT 0,
    deliveries   bigint      NOT NULL DEFAULT 0,
    dead_letters bigint      NOT NULL DEFAULT 0,
    created_at   timestamptz NOT NULL,
    stepped_at   timestamptz NOT NULL,
    finished_at  timestamptz
);
CREATE INDEX erasures_by_org ON erasures (org_id, created_at, id);
CREATE INDEX erasures_running ON erasures (stepped_at) WHERE status = 'running';
CREATE INDEX erasures_finished ON erasures (finished_at) WHERE finished_at IS NOT NULL;

-- What is not stored if it comes out of a journal: subject is 'event:' and an id, or 'account:' and an account; until: events
-- that were accepted by then.
CREATE TABLE erasure_tombstones (
    org_id  uuid             NOT NULL,
    subject text COLLATE "C" NOT NULL,
    until   timestamptz      NOT NULL,
    PRIMARY KEY (org_id, subject)
);
CREATE INDEX erasure_tombstones_by_time ON erasure_tombstones (until);

-- As before, and for events of days that were dropped.
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
            SELECT e.event_type INTO NEW.event_type FROM held_events e
            WHERE e.id = NEW.event_id AND e.org_id = NEW.org_id
            ORDER BY e.received_at DESC LIMIT 1;
        END IF;
        IF NOT FOUND THEN
            SELECT e.event_type INTO NEW.event_type FROM events e
            WHERE e.id = NEW.event_id AND e.org_id = NEW.org_id
            ORDER BY e.received_at DESC LIMIT 1;
        END IF;
    END IF;
    RETURN NEW;
END
$$;

-- A day that is missing is made when a row comes. A default partition that holds rows stays until none is left in it.
DO $$
DECLARE
    part text;
    holds boolean;
BEGIN
    FOREACH part IN ARRAY ARRAY['events_default', 'deliveries_default', 'delivery_attempts_default'] LOOP
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', part);
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM %I)', part) INTO holds;
        IF NOT holds THEN
            EXECUTE format('DROP TABLE %I', part);
        END IF;
    END LOOP;
END
$$;
