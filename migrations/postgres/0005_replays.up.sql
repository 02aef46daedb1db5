-- replay_of: the delivery that this one repeats.
ALTER TABLE deliveries ADD COLUMN replay_of uuid;

-- replayed_at: when it was last replayed; NULL while nobody has dealt with it.
ALTER TABLE dead_letters ADD COLUMN replayed_at timestamptz;
CREATE INDEX dead_letters_by_endpoint ON dead_letters (endpoint_id, created_at, id);

-- A replay of dead letters under way, or what became of it. endpoint_id to until: which ones.
-- cursor_at, cursor_id: the last one that was dealt with, from oldest to newest.
CREATE TABLE replays (
    id          uuid        NOT NULL PRIMARY KEY,
    org_id      uuid        NOT NULL REFERENCES orgs (id),
    endpoint_id uuid,
    reason      text,
    event_type  text,
    since       timestamptz,
    until       timestamptz NOT NULL,
    cursor_at   timestamptz NOT NULL,
    cursor_id   uuid        NOT NULL,
    total       bigint,
    done        bigint      NOT NULL DEFAULT 0,
    skipped     bigint      NOT NULL DEFAULT 0,
    status      text        NOT NULL DEFAULT 'running',
    detail      text,
    stepped_at  timestamptz NOT NULL,
    created_at  timestamptz NOT NULL,
    finished_at timestamptz
);
CREATE INDEX replays_by_org ON replays (org_id, created_at, id);
CREATE INDEX replays_running ON replays (stepped_at) WHERE status = 'running';
