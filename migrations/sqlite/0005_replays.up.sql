-- replay_of: the delivery that this one repeats.
ALTER TABLE deliveries ADD COLUMN replay_of BLOB;

-- replayed_at: when it was last replayed; NULL while nobody has dealt with it.
ALTER TABLE dead_letters ADD COLUMN replayed_at INTEGER;
CREATE INDEX dead_letters_by_endpoint ON dead_letters (endpoint_id, created_at, id);

-- A replay of dead letters under way, or what became of it. endpoint_id to until: which ones.
-- cursor_at, cursor_id: the last one that was dealt with, from oldest to newest.
CREATE TABLE replays (
    id          BLOB    NOT NULL PRIMARY KEY,
    org_id      BLOB    NOT NULL REFERENCES orgs (id),
    endpoint_id BLOB,
    reason      TEXT,
    event_type  TEXT,
    since       INTEGER,
    until       INTEGER NOT NULL,
    cursor_at   INTEGER NOT NULL,
    cursor_id   BLOB    NOT NULL,
    total       INTEGER,
    done        INTEGER NOT NULL DEFAULT 0,
    skipped     INTEGER NOT NULL DEFAULT 0,
    status      TEXT    NOT NULL DEFAULT 'running',
    detail      TEXT,
    stepped_at  INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    finished_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX replays_by_org ON replays (org_id, created_at, id);
CREATE INDEX replays_running ON replays (stepped_at) WHERE status = 'running';
