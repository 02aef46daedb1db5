-- Servers that work with this database, each run with an id of its own, which its leases carry. directory tells where its
-- journal lies.
CREATE TABLE servers (
    id           bigint PRIMARY KEY,
    journal_id   bigint NOT NULL,
    directory    text NOT NULL,
    host         text NOT NULL,
    version      text NOT NULL,
    started_at   timestamptz NOT NULL,
    heartbeat_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- How far this database has the records of each journal: every record below the position. It is updated several times
-- a second, in place.
CREATE TABLE journals (
    id       bigint PRIMARY KEY,
    position bigint NOT NULL
) WITH (fillfactor = 50);
