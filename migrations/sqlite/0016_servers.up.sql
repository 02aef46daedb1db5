-- Servers that work with this database, each run with an id of its own, which its leases carry. directory tells where its
-- journal lies.
CREATE TABLE servers (
    id           INTEGER PRIMARY KEY,
    journal_id   INTEGER NOT NULL,
    directory    TEXT NOT NULL,
    host         TEXT NOT NULL,
    version      TEXT NOT NULL,
    started_at   INTEGER NOT NULL,
    heartbeat_at INTEGER NOT NULL
) STRICT;

-- How far this database has the records of each journal: every record below the position.
CREATE TABLE journals (
    id       INTEGER PRIMARY KEY,
    position INTEGER NOT NULL
) STRICT;
